"""Agents that see what is left of the budget: the same number in a play, in training and in a run folder that is replayed."""

import copy
from typing import ClassVar

import numpy as np
import pytest
import torch

import commlib
from commlib.agents.practice import FASTEST, Pool, Practice
from commlib.agents.runtime import LocalRuntime
from commlib.agents.training import collect
from commlib.budget import Budgets
from commlib.config import RunConfig, make_config, read_yaml, replay_config
from commlib.errors import ConfigError
from commlib.experiments.books import audit_run, verify_run
from commlib.experiments.compose import complete, world_of
from commlib.experiments.evaluate import evaluate
from commlib.experiments.memory import Remembering
from commlib.experiments.model import learned_team, network_of
from commlib.experiments.progress import Quiet
from commlib.experiments.run import load
from commlib.experiments.train import Training, check_names, make_folder, phase_of, run_training, stages_of
from commlib.experiments.world_guide import Guide
from commlib.experiments.world_predator_prey import predator_prey_easy
from commlib.journal import Journal
from commlib.records import RunFolder
from commlib.testing import check_world
from commlib.world import BudgetSeen, for_evaluation

TINY = {
    "steps": 2000,
    "episodes": 32,
    "parallel_worlds": 16,
    "codebook_size": 16,
    "learning": {"n_worlds": 32, "hidden": 16},
    "stages": {"calibrate_worlds": 8, "calibrate_rounds": 1, "rungs": 2},
}
BUDGET = "60 bit/episode"


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def budgets(text):
    return Budgets.parse(text).all


# --- the world


def test_a_world_with_its_budget_seen_is_the_same_world_with_one_observation_more():
    bare, seen = Guide(), BudgetSeen(Guide())
    assert seen.spec.name == bare.spec.name
    assert seen.spec.observation_width == bare.spec.observation_width + 1
    one, other = bare.reset(4, source()), seen.reset(4, source())
    for _ in range(3):
        assert torch.equal(other.observation[..., :-1], one.observation)
        assert (other.observation[..., -1] == 1).all(), "full, until somebody says otherwise"
        other.observation[..., -1] = 0.5  # as a play does
        action = torch.randint(5, (4, 3), generator=source(1))
        one, other = bare.step(action), seen.step(action)
    assert torch.equal(seen.success(), bare.success())
    check_world(BudgetSeen(predator_prey_easy()))


def test_it_is_seen_outermost_whatever_else_agents_see():
    world = world_of(RunConfig(world="guide", memory="traces", show_budget=True, budget=BUDGET))
    assert isinstance(world, BudgetSeen)
    assert world.spec.observation_width == 2 * Guide().spec.observation_width + 1, "the budget leaves no trace"
    assert isinstance(for_evaluation(world), BudgetSeen)
    assert isinstance(world_of(RunConfig(world="guide", memory="traces")), Remembering)


# --- play money


@pytest.mark.parametrize(
    ("text", "pools", "is_whole"),
    [
        ("60 bit/episode", (Pool(60.0, 1),), False),
        ("3 kbit", (Pool(3000 / 16, 3),), False),
        ("64 bit/step, 9 bit/round", (), True),
        ("64 bit/step, 60 bit/episode, 2 messages/episode", (Pool(60.0, 1),), False),
        ("agent 1: 60 bit/episode", (), False),
        ("3 messages/episode", (), False),
        ("1 kbit/s", (), False),
    ],
)
def test_what_can_be_worked_out_while_learning(text, pools, is_whole):
    assert Practice.of(budgets(text), 40, 16) == Practice(pools, is_whole)


def test_a_purse_empties_as_bits_are_said_and_never_below_nothing():
    money = Practice.of(budgets(BUDGET), 32, 16).open(4, is_coded=True, generator=source())
    seen: ClassVar[list[float]] = []
    for bits in (0.0, 60.0, 120.0, 100.0):
        money.pay(bits)
        seen.append(money.left(0.5).tolist())
    assert seen == [[share] * 4 for share in (1.0, 0.75, 0.25, 0.0)], "240 bits for four worlds, whatever the time"


def test_the_scarcest_of_several_is_seen():
    practice = Practice.of(budgets("60 bit/episode, 320 bit"), 16, 16)
    money = practice.open(16, is_coded=True, generator=source())
    money.pay(32.0)
    assert torch.allclose(money.left(0.0), torch.full((16,), 0.9)), "of the run a tenth, of the episodes a thirtieth"


def test_the_batches_that_share_a_run_are_all_met():
    practice = Practice.of(budgets("3 kbit"), 40, 16)
    dice = source()
    starts = {round(float(practice.open(2, is_coded=True, generator=dice).left(0.0)[0]), 3) for _ in range(60)}
    assert starts == {1.0, 0.667, 0.333}


@pytest.mark.parametrize("text", [BUDGET, "3 messages/episode"])
def test_before_messages_have_a_rate_every_world_draws_a_pace(text):
    money = Practice.of(budgets(text), 32, 16).open(1000, is_coded=False, generator=source())
    money.pay(1e9)
    assert (money.left(0.0) == 1).all()
    left = money.left(1.0)
    assert float(left.min()) == 0
    assert 0.4 < float((left == 0).float().mean()) < 0.6, f"paces are even in 0..{FASTEST}"
    assert float(left.max()) > 0.99


def test_an_allowance_that_is_new_in_every_step_is_always_whole():
    dice = source()
    before = dice.get_state()
    money = Practice.of(budgets("64 bit/step"), 32, 16).open(8, is_coded=False, generator=dice)
    assert (money.left(1.0) == 1).all()
    assert torch.equal(dice.get_state(), before), "no dice for what is known"


# --- learning


def training(tmp_path, **settings):
    config = make_config(("test", {"world": "guide", "show_budget": True, "budget": BUDGET, **TINY, **settings}))
    world = world_of(config)
    config = complete(config, world.spec)
    folder = RunFolder(tmp_path / "run")
    make_folder(folder, config)
    return Training(config, world, LocalRuntime(1), folder, Quiet())


def rollout_of(run, stage):
    named = next(s for s in stages_of(run.config) if s.name == stage)
    phase = phase_of(run.config, named, named.start, 0.0)
    return phase, collect(run.team, run.world, phase, run.learning, run.generator)


def test_in_training_the_share_falls_as_bits_are_said(tmp_path):
    run = training(tmp_path)
    run.fit()
    phase, rollout = rollout_of(run, "fine-tune")
    assert phase.heeds_budget
    spent = torch.cat([torch.zeros(1), rollout.bits.sum((1, 2)).cumsum(0)])[:-1]
    left = (1 - spent / (60 * 32)).clamp_min(0)
    assert torch.allclose(rollout.observation[..., -1], left[:, None, None].expand(-1, 32, 3), atol=1e-5)
    assert left[0] == 1
    assert (left[1:5].diff() < 0).all()


def test_nobody_is_heard_who_sees_an_empty_purse(tmp_path):
    run = training(tmp_path, budget="12 bit/episode")
    run.fit()
    _, rollout = rollout_of(run, "fine-tune")
    left = rollout.observation[:, 0, 0, -1]
    first = int((left == 0).nonzero()[0])
    assert 0 < first < 9
    assert is_silent(run, rollout)[first:].all()
    assert not is_silent(run, rollout)[:first].all(1).any()
    rich = training(tmp_path / "rich", budget="1 Mbit/episode")
    rich.fit()
    _, spoken = rollout_of(rich, "fine-tune")
    assert torch.equal(spoken.context[0][:2], rollout.context[0][:2]), "in the first step both see a full purse"
    assert not is_silent(rich, spoken)[first:].all()


def is_silent(run, rollout):
    """Where agents said what was expected of them, [T - 1, B x N]."""
    past = rollout.context[0]
    expected = run.frozen()[0].expected(past[:-1].flatten(0, 2).numpy())
    return (past[1:, ..., :-1].flatten(0, 2).numpy() == expected).all(-1).reshape(len(past) - 1, -1)


def test_the_update_hears_what_the_rollout_heard(tmp_path):
    """Messages that nobody heard have no gradient: not of the policy, and not of the bits."""
    run = training(tmp_path, budget="12 bit/episode")
    run.fit()
    stage = next(s for s in stages_of(run.config) if s.name == "fine-tune")
    phase = phase_of(run.config, stage, stage.start, 0.0)
    learner = run.runtime._hosts[0].learner
    observation = torch.rand(6, 3, run.world.spec.observation_width, generator=source())
    observation[:3, :, -1] = 0
    context = torch.ones(6, 3, 2, dtype=torch.int64)
    said = learner.say(phase, observation, torch.zeros(6), context, None)
    frozen = learner._frozen[0]
    expected = frozen.expected(context[0].numpy())
    assert (said.codes[:3].numpy() == expected).all()
    free = learner.say(phase._replace(heeds_budget=False), observation, torch.zeros(6), context, None)
    assert torch.equal(said.z[3:], free.z[3:])
    assert torch.equal(said.bits[3:], free.bits[3:])
    assert not torch.equal(said.z[:3], free.z[:3])
    assert torch.equal(said.talk, free.talk), "what the gate drew is what is learned from"


def test_what_is_paid_is_about_what_it_will_cost(tmp_path):
    """Without a prior every code would cost the same, 4 bits of 16 codes, and nothing would be said for less."""
    run = training(tmp_path, budget="1 Mbit/episode")
    run.fit()
    _, rollout = rollout_of(run, "fine-tune")
    assert run.frozen()[0].prior.kind != "none"
    assert float(rollout.bits.mean()) < 3.9
    assert float(rollout.bits.std()) > 0.1


# --- playing


class Seen:
    """Keeps the last observation of every step."""

    def __init__(self):
        self.left, self.spent = [], []

    def __call__(self, step):
        assert len(np.unique(step.observation[..., -1])) == 1, "alike for all"
        self.left.append(float(step.observation[0, 0, -1]))
        self.spent.append(sum(bill.bits for carried in step.rounds for sent in carried.sent for bill in sent.bills))


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    commlib.train("guide", out=out, quiet=True, budget=BUDGET, show_budget=True, **copy.deepcopy(TINY))
    return out


def config_of(run, **settings):
    folder = RunFolder(run)
    return replay_config(make_config(("run", read_yaml(folder.config))), ("command line", settings))


def watched(team, **settings):
    config = config_of(team, **settings)
    world = world_of(config)
    config, seen, runtime = complete(config, world.spec), Seen(), LocalRuntime(1)
    with Journal.in_memory() as journal:
        evaluate(load(team).model, config, world, runtime, journal, Quiet(), watcher=seen)
    return seen


def test_in_play_it_is_what_the_till_has_left(team):
    seen = watched(team, episodes=16, budget="30 bit/episode")
    before = np.concatenate([[0], np.cumsum(seen.spent)[:-1]])
    assert np.allclose(seen.left, 1 - before / (30 * 16), atol=1e-6)
    assert seen.left[-1] < 1


def test_a_run_that_is_short_goes_on_with_what_is_left(team):
    seen = watched(team, episodes=32, budget="2 kbit")
    before = np.concatenate([[0], np.cumsum(seen.spent)[:-1]])
    assert np.allclose(seen.left, 1 - before / 2000, atol=1e-6)


def test_without_a_budget_it_is_full_and_the_network_is_the_same(team):
    assert set(watched(team, budget=None).left) == {1.0}
    assert set(watched(team, budget="1 kbit/step").left) == {1.0}
    spec, _ = network_of(load(team).model)
    assert spec.observation_width == Guide().spec.observation_width + 1
    assert load(team).model.build_team.func is learned_team


def test_the_result_says_so_and_the_world_keeps_its_name(team):
    result = RunFolder(team).read_result()
    assert (result.world, result.show_budget, result.variant) == ("guide_v1", True, "sees its budget")
    assert audit_run(team)[1] == []


def test_hosts_and_learner_agree(team):
    verdict = verify_run(team, config_of(team), Quiet())
    assert verdict.differences == []
    assert verdict.n_actions > 0


def test_it_plays_again_to_the_same_books(team, tmp_path):
    again = load(team).evaluate()
    assert again.journal_digest == RunFolder(team).read_result().journal_digest


def test_a_run_that_was_cut_off_goes_on_to_the_same_result(team, tmp_path, monkeypatch):
    out = tmp_path / "run"
    config = config_of(team)
    note, n_noted = Training.note, []

    def cut_off(self, stage, *rest):
        n_noted.append(stage.name)
        if stage.name == "fine-tune":
            raise KeyboardInterrupt
        note(self, stage, *rest)

    monkeypatch.setattr(Training, "note", cut_off)
    with pytest.raises(KeyboardInterrupt):
        run_training(config, out, display=Quiet())
    monkeypatch.setattr(Training, "note", note)
    again = run_training(config, out, display=Quiet(), resume=True)
    first = RunFolder(team).read_result()
    assert again.journal_digest == first.journal_digest
    assert (again.success, again.return_, again.bits) == (first.success, first.return_, first.bits)


def test_what_was_shown_in_training_cannot_change_afterwards(team):
    with pytest.raises(ConfigError, match="show_budget was settled in training"):
        config_of(team, show_budget=False)


# --- wrong usage


@pytest.mark.parametrize("budget", [None, "unlimited"])
def test_without_a_budget_there_is_nothing_to_show(budget, tmp_path):
    sentence = "show_budget has nothing to show, since there is no budget; give one, such as --budget"
    config = make_config(("test", {"world": "guide", "show_budget": True, "budget": budget}))
    with pytest.raises(ConfigError, match=sentence):
        check_names(config, Guide().spec)
    with pytest.raises(ConfigError, match=sentence):
        commlib.train("guide", out=tmp_path / "run", quiet=True, show_budget=True, budget=budget)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=sentence):
        commlib.run("guide", lambda agent: None, show_budget=True, budget=budget)


def test_a_budget_that_is_always_whole_is_said_to_be(tmp_path):
    run = training(tmp_path, budget="64 bit/step")
    said = []
    run.display.say = said.append
    run.say_what_is_shown()
    assert said == [
        "    budget  64 bit/step is whole whenever agents look, so they always see 1; one per episode or run would tell them "
        "something"
    ]


# --- agents of one's own


class Thrifty:
    """Talks as long as more than half of the budget is left, and keeps what it saw of it."""

    message_width = 2
    seen: ClassVar[list[float]] = []

    def __init__(self, agent):
        self.agent = agent

    def act(self, observation, inbox):
        left = float(observation[-1])
        if self.agent == 0:
            Thrifty.seen.append(left)
        return 0, np.full(2, self.agent + left, np.float32) if left > 0.5 else None


def test_agents_of_ones_own_see_it_too():
    Thrifty.seen.clear()
    result = commlib.run(
        "guide", Thrifty, codec="int8", budget="400 bit/episode", show_budget=True, episodes=4, parallel_worlds=1
    )
    assert result.show_budget
    assert 0.3 < min(Thrifty.seen) <= 0.5, "they stop at half, and no message is as large as that"
    assert result.ledger.dropped == 0
    assert 0 < result.ledger.spent < 4 * 400
