"""Every world that can be named goes from its name to a full result."""

import json

import pytest

from commlib.experiments.books import audit_run
from commlib.experiments.run import run
from commlib.experiments.train import train
from commlib.experiments.world_guide import Guide
from commlib.experiments.worlds import list_worlds, make_world
from commlib.records import Result, RunFolder

QUICK = {"codebook_size": 8, "message_width": 4, "rate_aware": False, "quiet": True}


def full_result(out, result, n_episodes=4):
    """The result is whole, on disk as returned, and its books reconcile."""
    folder = RunFolder(out)
    assert folder.read_result() == result
    plain = json.loads(folder.result.read_text())
    assert plain.keys() == {"return" if name == "return_" else name for name in Result.model_fields}
    assert result.return_.mean is not None
    assert result.return_.n == n_episodes
    report, differences = audit_run(out)
    assert differences == []
    assert report["spent"] == 8 * result.wire_bytes
    for path in (folder.config, folder.metrics, folder.journal, folder.codec / "codec.json", folder.checkpoint):
        assert path.exists()


@pytest.mark.parametrize("name", ["mpe2:simple_speaker_listener_v4", "pettingzoo:sisl/pursuit-v5"])
def test_a_pettingzoo_world_from_its_name_to_a_result(name, tmp_path):
    spec = make_world(name).spec
    result = train(
        name, out=tmp_path / "run", steps=300, episodes=2, parallel_worlds=1, budget="500 bit/step", **QUICK,
        learning={"n_worlds": 1, "hidden": 8, "n_epochs": 1, "n_minibatches": 1}, stages={"calibrate_worlds": 2},
    )  # fmt: skip
    full_result(tmp_path / "run", result, n_episodes=2)
    assert result.success.mean is None
    assert result.ledger.spent <= 500 * 2 * spec.n_steps
    assert len(result.edges) == spec.n_agents * (spec.n_agents - 1)


@pytest.mark.parametrize("spec", list_worlds(), ids=lambda spec: spec.name)
def test_a_built_in_world_trains_for_two_iterations(spec, tmp_path):
    steps = 2 * 8 * spec.n_steps
    result = train(
        spec.name, out=tmp_path / "run", steps=steps, episodes=4, **QUICK,
        learning={"n_worlds": 8, "hidden": 8, "n_epochs": 1, "n_minibatches": 1},
        stages={"calibrate_worlds": 4, "fine_tune": 0.5},
    )  # fmt: skip
    full_result(tmp_path / "run", result)
    rows = RunFolder(tmp_path / "run").read_metrics()
    assert rows[0]["stage"] == "dense"
    assert rows[-1]["stage"] == "fine-tune"
    if spec.success:
        assert 0 <= result.success.mean <= 1
    else:
        assert result.success.mean is None


class Parted(Guide):
    """Guide in two editions, which write down when they are played."""

    def __init__(self, name="training", played=None):
        super().__init__()
        self.name, self.played = name, [] if played is None else played

    def held_out(self):
        return Parted("held out", self.played)

    def reset(self, n_worlds, generator):
        self.played.append(self.name)
        return super().reset(n_worlds, generator)


def test_only_the_evaluation_and_its_floor_play_what_is_held_out(tmp_path):
    world = Parted()
    train(
        world, out=tmp_path / "run", steps=160, episodes=4, quiet=True, message_width=4, codebook_size=8,
        learning={"n_worlds": 8, "hidden": 8, "n_epochs": 1, "n_minibatches": 1},
        stages={"calibrate_worlds": 4, "fine_tune": 0.5, "rungs": 2},
    )  # fmt: skip
    assert world.played[-2:] == ["held out"] * 2
    assert set(world.played[:-2]) == {"training"}
    assert len(world.played) > 8  # two rollouts, two to fit the codec, the plays of calibration


class Talker:
    def __init__(self, me):
        pass

    def act(self, observation, inbox):
        return 0, observation[:2]


def test_agents_of_your_own_are_judged_on_what_is_held_out():
    world = Parted()
    run(world, Talker, codec="int8", episodes=4, stages={"calibrate_worlds": 4, "rungs": 2})
    assert world.played[-1] == "held out"
    assert set(world.played[:-1]) == {"training"}
