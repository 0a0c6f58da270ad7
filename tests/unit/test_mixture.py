"""Several worlds for one team: blocks of a batch, what is refused, which world counts how much, and a training of one."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from commlib.agents.balance import Balance
from commlib.errors import ConfigError
from commlib.experiments.cli import main
from commlib.experiments.compose import complete, resolve
from commlib.experiments.world_guide import Guide
from commlib.experiments.worlds import known_spec, make_world
from commlib.records import Result
from commlib.testing import check_world
from commlib.world import part_of

PAIR = "predator_prey_easy+predator_prey_easy_vision_1"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.integers(0, 40), st.integers(1, 7))
def test_blocks_are_equal_but_for_one(n_worlds, n_parts):
    part = part_of(n_worlds, n_parts)
    sizes = part.bincount(minlength=n_parts)
    assert len(part) == n_worlds
    assert part.tolist() == sorted(part.tolist())
    assert sizes.max() - sizes.min() <= 1


def test_the_spec_is_that_of_all():
    spec = make_world(PAIR).spec
    assert spec.name == "predator_prey_easy_v1+predator_prey_easy_vision_1_v1"
    assert spec.parts == ("predator_prey_easy_v1", "predator_prey_easy_vision_1_v1")
    assert (spec.n_agents, spec.observation_width, spec.n_steps, spec.is_batched) == (3, 52 + 2, 20, True)
    assert spec.success == "all predators are on the prey by the last step"  # both say the same
    longer = make_world("guide+guide_recall").spec
    assert longer.success.count(";") == (make_world("guide").spec.success != make_world("guide_recall").spec.success)


def test_a_report_knows_a_mixture_of_what_it_knows():
    name = make_world(PAIR).spec.name
    assert known_spec(name) == make_world(PAIR).spec
    assert known_spec("guide_v1+mine") is None


def test_it_keeps_the_contract():
    check_world(make_world(PAIR))


def test_each_block_plays_as_its_world_alone():
    mixed, alone = make_world(PAIR), [make_world(name) for name in PAIR.split("+")]
    source, twin = generator(), generator()
    together = mixed.reset(5, source)
    apart = [alone[0].reset(3, twin), alone[1].reset(2, twin)]
    for number in range(21):
        for block, step, width, label in (
            (slice(0, 3), apart[0], 28, [1.0, 0.0]),
            (slice(3, 5), apart[1], 52, [0.0, 1.0]),
        ):
            assert together.observation[block, :, :width].equal(step.observation)
            assert not together.observation[block, :, width:52].any()
            assert (together.observation[block, :, 52:] == torch.tensor(label)).all()
            for name in ("reward", "done", "active"):
                assert getattr(together, name)[block].equal(getattr(step, name))
        action = torch.randint(5, (5, 3), generator=generator(number))
        together = mixed.step(action)
        apart = [alone[0].step(action[:3]), alone[1].step(action[3:])]
    assert mixed.success().equal(torch.cat([world.success() for world in alone]))


def test_a_single_world_is_of_the_first_part():
    step = make_world(PAIR).reset(1, generator())
    assert step.observation.shape == (1, 3, 54)
    assert (step.observation[0, :, 52:] == torch.tensor([1.0, 0.0])).all()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("guide+predator_prey_medium", "guide_v1 has 3 agents with 5 actions and predator_prey_medium_v1 has 5 agents"),
        ("guide+giude", "there is no world 'giude'"),
        ("guide+", r"guide\+ is no mixture: a world's name goes on both sides of each \+"),
        ("guide+guide", r"guide_v1 \+ guide_v1 has a world twice"),
        ("guide+guide_v1", "has a world twice"),
    ],
)
def test_what_cannot_be_mixed_is_refused(name, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make_world(name)


def test_a_mixture_needs_as_many_worlds_as_parts():
    spec = make_world(PAIR).spec
    with pytest.raises(
        ConfigError, match="a mixture of 2 worlds needs at least as many side by side, and there would be 1"
    ):
        complete(resolve(PAIR, overrides={"parallel_worlds": 1}), spec)
    shards = {"spread": "worlds", "learning": {"n_worlds": 4}}
    with pytest.raises(ConfigError, match=r"there would be 1; raise .*, or lower learning.shards"):
        complete(resolve(PAIR, overrides=shards), spec)
    with pytest.raises(ConfigError, match="12 worlds in 4 shards have no equal blocks of 2 worlds; .* that 8 divides"):
        complete(resolve(PAIR, overrides={"spread": "worlds", "learning": {"n_worlds": 12}}), spec)
    complete(resolve(PAIR, overrides={"spread": "worlds", "learning": {"n_worlds": 16}}), spec)
    complete(resolve("guide", overrides={"parallel_worlds": 1}), Guide().spec)


def test_the_recipe_is_that_of_the_first_world():
    assert resolve("traffic_junction_easy+guide").learning == resolve("traffic_junction_easy").learning


def test_who_is_weak_counts_more_and_who_improves_less():
    even = Balance(3)
    assert even.weights.tolist() == pytest.approx([1.0, 1.0, 1.0])
    weak = Balance(2)
    for _ in range(200):
        weak.learn(torch.tensor([0.1, 0.7]))
    low, high = weak.weights.tolist()
    assert low / high == pytest.approx(torch.tensor(0.6 / 0.3).exp().item(), rel=0.01)
    one = Balance(2)
    one.load({"now": [0.5, 0.5], "before": [0.3, 0.5]})  # alike by now, and the first one has got better
    assert one.weights[1] / one.weights[0] == pytest.approx(torch.tensor(0.2 / 0.3).exp().item())
    one.load({"now": [0.5, 0.5], "before": [0.5, 0.7]})  # alike, and the second one has got worse
    assert one.weights[1] > one.weights[0]


def test_a_balance_goes_on_from_its_state():
    one, other = Balance(2), Balance(2)
    one.learn(torch.tensor([0.2, 0.9]))
    other.load(json.loads(json.dumps(one.state())))
    for balance in (one, other):
        balance.learn(torch.tensor([0.5, 0.4]))
    assert one.weights.equal(other.weights)


SETTINGS = ["--steps", "3000", "--learning.n-worlds", "30", "--episodes", "32", "--stages.rungs", "2", "--quiet"]


def test_a_team_is_trained_for_both(tmp_path):
    runs = {"worst": [], "even": ["--learning.balance", "even"], "again": []}
    for name, words in runs.items():
        assert main(["train", "guide+guide_recall", *SETTINGS, *words, "--out", str(tmp_path / name)]) == 0
    result = json.loads((tmp_path / "worst" / "result.json").read_text())
    by_world = result["success_by_world"]
    assert list(by_world) == ["guide_v1", "guide_recall_v1"]
    assert [one["n"] for one in by_world.values()] == [16, 16]
    mean = sum(one["mean"] for one in by_world.values()) / 2
    assert mean == pytest.approx(result["success"]["mean"])
    rows = {
        name: [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in runs
    }
    assert all(sum(row["weights"].values()) == pytest.approx(2, abs=1e-5) for row in rows["worst"])
    assert rows["worst"][-1]["weights"] != rows["worst"][0]["weights"]
    assert "weights" not in rows["even"][0]
    assert (result["balance"], Result.from_json(result).variant) == ("worst", "")
    even = Result.from_json(json.loads((tmp_path / "even" / "result.json").read_text()))
    assert even.variant == "all worlds alike"
    losses = {name: [row["loss_policy"] for row in some] for name, some in rows.items()}
    assert losses["worst"] == losses["again"]
    assert losses["worst"] != losses["even"]
