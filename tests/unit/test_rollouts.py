"""Hosts that share out worlds: any number of them plays the same batch; who need not wait is never too far behind."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from commlib.agents.learner import Phase
from commlib.agents.rollouts import Shards, joined, make_player
from commlib.agents.training import Learning, Rollout, collect, update
from commlib.channel import Channel
from commlib.config import RunConfig
from commlib.errors import ConfigError, WorldError
from commlib.experiments.checkpoint import read_checkpoint
from commlib.experiments.compose import complete, resolve
from commlib.experiments.progress import Quiet
from commlib.experiments.train import run_training
from commlib.experiments.worlds import make_world
from commlib.objective import Objective
from commlib.records import RunFolder
from tests.unit.test_learner import LEARNING as BIG
from tests.unit.test_learner import PHASES, guide_team, source

LEARNING = Learning(
    n_worlds=10, n_epochs=1, n_minibatches=1, gamma=0.9, gae_lambda=0.9, edges_every=0, has_learned_graph=False
)
PHASE = Phase(1e-3, 0.0, 0.01, 0.1, 0.0, False, False, False, Objective())


def rollout(n_steps, n_worlds, mark=0.0):
    """A rollout of two agents that is over after so many steps; `mark` is what everybody saw."""
    grid = (n_steps, n_worlds)
    alive, each = torch.ones(grid, dtype=torch.bool), torch.full((*grid, 2), mark)
    wide = each[..., None]
    none = torch.zeros(n_worlds)
    return Rollout(
        wide, each[..., 0], (wide,), (each,), (wide,), (), each, each, each, each, alive[..., None] | (each > 0), alive, each,
        each, each, each, none, none.long(), none.long(),
    )  # fmt: skip


def test_parts_that_were_over_sooner_wait_for_the_others():
    one = joined([rollout(3, 2, 1.0), rollout(5, 1, 2.0)])
    assert one.observation.shape == (5, 3, 2, 1)
    assert one.alive.tolist() == [[True] * 3] * 3 + [[False, False, True]] * 2
    assert one.z[0][:, :, 0, 0].tolist() == [[1.0, 1.0, 2.0]] * 3 + [[0.0, 0.0, 2.0]] * 2
    assert one.n_steps == 11
    assert len(one.success) == len(one.behind) == len(one.part) == 3


def test_parts_of_a_real_batch_side_by_side_are_updated_as_they_are():
    """With noise and a channel, of episodes of different length: what is joined is each part, and an update takes it."""
    learning = replace(BIG, channel=Channel(0.2, refresh=3))
    team, world = guide_team(1, n_rounds=2)
    parts = [collect(team, world, PHASES["noisy"], learning, source(seed)) for seed in (0, 1)]
    short = parts[1]._replace(**{name: _cut(getattr(parts[1], name), 7) for name in Rollout._fields[:-4]})
    short = short._replace(missed=_cut(short.missed, 7))
    one = joined([parts[0], short])
    assert one.n_steps == parts[0].n_steps + short.n_steps
    assert not one.alive[7:, BIG.n_worlds :].any()
    for nth in range(2):
        assert torch.equal(one.z[nth][:7, BIG.n_worlds :], short.z[nth])
        assert torch.equal(one.missed[nth][:, : BIG.n_worlds], parts[0].missed[nth])
        assert torch.equal(one.noise[nth][:7, BIG.n_worlds :], short.noise[nth])
    terms = update(team, one, PHASES["noisy"], learning, source(1), iteration=0)
    assert torch.isfinite(terms.total)


def _cut(value, n_steps):
    """The first steps of a field of a rollout."""
    return tuple(_cut(one, n_steps) for one in value) if isinstance(value, tuple) else value[:n_steps]


class Players:
    """Hosts that come back in any order, each with its own errands one after the other."""

    def __init__(self, n_hosts, data):
        self.n_hosts, self.data, self.seen = n_hosts, data, []

    def each(self, method, arguments):
        assert method in ("set_player", "player.close")

    def begin(self, errand):
        replica, _, _, n_worlds, seed, _ = errand.arguments
        self.seen.append(seed)
        errand.answer = rollout(2, n_worlds, replica["version"])

    def first(self, errands):
        return self.data.draw(
            st.sampled_from([next(e for e in errands if e.host == h) for h in {e.host for e in errands}])
        )


class Learner:
    """A learner whose weights are the number of its updates."""

    version = 0

    def each(self, method):
        assert method == "learner.replica"
        return [{"version": float(self.version)}]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 3), st.data())
def test_nobody_is_further_behind_than_allowed_and_the_figure_is_true(n_hosts, n_shards, staleness, data):
    players, learner = Players(n_hosts, data), Learner()
    shards = Shards(players, learner, LEARNING, n_shards, staleness, torch.Generator().manual_seed(0), None)
    for _ in range(6):
        batch = shards.gather(PHASE, 1.0)
        was_played_by = batch.observation[0, :, 0, 0]
        assert torch.equal(batch.behind.float(), learner.version - was_played_by)
        assert batch.behind.min() >= 0 and batch.behind.max() <= staleness
        assert abs(batch.alive.shape[1] - LEARNING.n_worlds) <= (n_shards if staleness else 0)
        learner.version += 1
    shards.close()
    assert len(set(players.seen)) == len(players.seen) == shards.n_begun
    assert shards.n_begun - shards.n_discarded - 6 * min(n_shards, 10) <= staleness * n_shards
    if staleness == 0:
        assert shards.n_begun == 6 * n_shards


def test_what_was_played_before_a_stage_is_of_no_use_in_the_next():
    class InOrder(Players):
        def first(self, errands):
            return errands[0]

    learner = Learner()
    shards = Shards(InOrder(2, None), learner, LEARNING, 4, 1, torch.Generator().manual_seed(0), None)
    shards.gather(PHASE, 0.5)
    learner.version += 1
    batch = shards.gather(PHASE._replace(use_codec=True), 1.0)
    assert batch.behind.max() == 0
    assert shards.n_discarded == 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_settings):
    """The same training with the worlds on one, two and three hosts."""
    folder = tmp_path_factory.mktemp("spread")
    chosen = {**tiny_settings, "steps": 2000, "spread": "worlds"}
    for n_hosts in (1, 2, 3):
        config = resolve("guide", None, None, {**chosen, "hosts": n_hosts})
        run_training(config, folder / str(n_hosts), display=Quiet())
    return folder


def curve(folder):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in RunFolder(folder).read_metrics()]


def test_any_number_of_hosts_learns_the_same(trained):
    assert curve(trained / "1") == curve(trained / "2") == curve(trained / "3")
    one, two, three = (read_checkpoint(trained / n / "policy").tensors for n in "123")
    assert one.keys() == two.keys() == three.keys()
    assert all(torch.equal(one[name], two[name]) and torch.equal(one[name], three[name]) for name in one)


def test_a_run_of_worlds_on_hosts_goes_on_where_it_was_cut_off(trained, tmp_path, tiny_settings, monkeypatch):
    from commlib.experiments.train import Training

    config = resolve("guide", None, None, {**tiny_settings, "steps": 2000, "spread": "worlds", "hosts": 2})
    save = Training.save

    def save_and_die(self):
        save(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        run_training(config, tmp_path / "cut", display=Quiet())
    monkeypatch.undo()
    run_training(config, tmp_path / "cut", display=Quiet(), resume=True)
    assert curve(tmp_path / "cut") == curve(trained / "2")


def test_asynchronous_training_says_how_far_behind_it_was(tmp_path, tiny_settings):
    chosen = {
        **tiny_settings,
        "spread": "worlds",
        "hosts": 2,
        "steps": 2000,
        "learning": {"staleness": 1, "n_worlds": 32},
    }
    run_training(resolve("guide", None, None, chosen), tmp_path / "run", display=Quiet())
    behind = [row["behind"] for row in RunFolder(tmp_path / "run").read_metrics()]
    assert behind[0] == 0
    assert max(behind) == 1


def test_copies_that_step_one_by_one_are_shared_out_unless_the_world_has_no_name():
    config, guide = RunConfig(), make_world("guide").spec
    slow = replace(guide, is_batched=False)
    assert complete(config, guide).spread == "agents"
    assert complete(config, slow).spread == "worlds"
    assert complete(config, slow, has_name=False).spread == "agents"
    assert complete(config.model_copy(update={"world": "__main__:Mine"}), slow).spread == "agents"


def test_a_world_that_hosts_cannot_make_is_told_with_what_to_do():
    def nothing():
        raise ConfigError("there is no module 'mine'")

    with pytest.raises(WorldError, match=r"a host cannot make the world: there is no module 'mine'; bring its module"):
        make_player(nothing, None, [], [], False, LEARNING)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"spread": "agents", "learning": {"staleness": 1}}, "--spread worlds"),
        ({"gate": "sampled", "stages": {"priced": 0.2}, "learning": {"staleness": 1}}, "sampled gate"),
    ],
)
def test_what_cannot_be_late_is_refused(chosen, words):
    with pytest.raises(ConfigError, match=words):
        resolve("guide", None, None, chosen)


def test_a_world_without_a_name_cannot_be_shared_out():
    config = resolve("guide", None, None, {"spread": "worlds"})
    with pytest.raises(ConfigError, match="needs a name"):
        complete(config, make_world("guide").spec, has_name=False)
    late = resolve("guide", None, None, {"learning": {"staleness": 2}})
    with pytest.raises(ConfigError, match="staleness is for hosts"):
        complete(late, make_world("guide").spec)


def test_a_channel_that_nothing_passes_is_told_before_anything_is_trained(tmp_path, tiny_settings):
    config = resolve("guide", None, None, {**tiny_settings, "channel": "loss=8.2%"})
    with pytest.raises(ConfigError, match=r"nothing passes through the channel.*--learning.channel"):
        run_training(config, tmp_path / "run", display=Quiet())
    assert not (tmp_path / "run").exists()
