"""What verification must catch: another code, another action, another bill, and agents that hear what is not for them."""

from functools import partial

import numpy as np
import pytest
import torch

from commlib.agents.desk import LearnedTeam
from commlib.agents.play import Step, play
from commlib.agents.runtime import LocalRuntime
from commlib.agents.till import Books
from commlib.budget import Budget
from commlib.config import make_config, read_yaml
from commlib.experiments.model import furnish
from commlib.experiments.progress import Quiet
from commlib.experiments.train import load_model
from commlib.experiments.verify import Eavesdropper, Heard, compare, compare_codecs, verify
from commlib.experiments.worlds import make_world
from commlib.ledger import Ledger
from commlib.plan import make_plan, partition
from commlib.rationing import Tariff
from commlib.records import RunFolder


def heard(n_rounds=4):
    numbers = np.random.default_rng(0)
    return [
        Heard(numbers.integers(0, 8, (3, 5, 1)), numbers.integers(0, 5, (5, 3)), float(numbers.random()) * 50)
        for _ in range(n_rounds)
    ]


def changed(plays, number, **fields):
    return [play._replace(**fields) if i == number else play for i, play in enumerate(plays)]


def test_equal_plays_have_no_difference():
    assert compare(heard(), heard()) == []
    assert compare([], []) == []


def test_one_changed_code_is_found():
    codes = heard()[2].codes.copy()
    codes[1, 3, 0] += 1
    assert compare(changed(heard(), 2, codes=codes), heard()) == [
        "round 2: 1 of 15 codes differ between hosts and learner"
    ]


def test_one_changed_action_is_found():
    action = heard()[1].action.copy()
    action[4, 2] += 1
    assert compare(heard(), changed(heard(), 1, action=action)) == ["round 1: 1 of 15 actions differ"]


@pytest.mark.parametrize("change", [1e-3, -1e-3])
def test_a_changed_estimate_is_found(change):
    other = changed(heard(), 3, estimate_bits=heard()[3].estimate_bits + change)
    (difference,) = compare(other, heard())
    assert difference.startswith("round 3: the hosts estimate ")
    assert compare(changed(heard(), 3, estimate_bits=heard()[3].estimate_bits * (1 + 1e-12)), heard()) == []


def test_a_missing_round_and_another_number_of_worlds_are_found():
    assert compare(heard(4), heard(4)[:3]) == ["the hosts played 4 rounds, the learner 3"]
    small = changed(heard(), 0, codes=heard()[0].codes[:, :2], action=heard()[0].action[:2])
    assert compare(small, heard()) == ["round 0: 2 worlds against 5"]


# --- on a trained team


@pytest.fixture(scope="module")
def team(tiny_run):
    folder = RunFolder(tiny_run)
    config = make_config(("run", read_yaml(folder.config)), ("test", {"episodes": 16}))
    world = make_world("guide")
    return load_model(folder, world), config, world, folder


@pytest.mark.parametrize("n_hosts", [1, 2, 3])
def test_a_trained_team_computes_the_same_on_any_number_of_hosts(team, n_hosts):
    model, config, world, folder = team
    verdict = verify(model, config, world, LocalRuntime(n_hosts), folder, Quiet())
    assert verdict.differences == []
    n_speakers = len({edge.sender for edge in model.edges})
    assert (verdict.n_steps, verdict.n_codes) == (10, 10 * 16 * (3 + n_speakers))
    assert verdict.n_actions == 2 * 10 * 16 * 3
    assert verdict.n_probes > 1000
    assert verdict.n_ties < 0.01 * verdict.n_probes


def test_the_budget_of_the_run_does_not_hide_differences(team):
    model, config, world, folder = team
    poor = config.model_copy(update={"budget": "1 bit/step"})
    verdict = verify(model, poor, world, LocalRuntime(3), folder, Quiet())
    assert verdict.differences == []


class Peeking(LearnedTeam):
    """Every agent also reads what its neighbours in the same house got: a hidden channel."""

    def act(self, inbox, uniform):
        return super().act(np.broadcast_to(inbox.sum(1, keepdims=True), inbox.shape).copy(), uniform)


class Whispering(LearnedTeam):
    """Agents tell each other their observations in the house, without a message."""

    def speak(self, observation, elapsed):
        return super().speak(np.broadcast_to(observation.mean(1, keepdims=True), observation.shape).copy(), elapsed)


@pytest.mark.parametrize(("cheat", "word"), [(Peeking, "actions differ"), (Whispering, "codes differ")])
def test_a_team_with_a_hidden_channel_is_caught(team, cheat, word):
    model, config, world, folder = team
    loud = {name: 3 * weight for name, weight in model.build_team.args[1].items()}
    cheater = partial(cheat, model.build_team.args[0], loud)
    verdict = verify(type(model)(cheater, model.codec, model.edges), config, world, LocalRuntime(3), folder, Quiet())
    assert any(word in difference for difference in verdict.differences)


def test_a_hidden_channel_within_one_host_is_caught_too(team):
    model, config, world, folder = team
    loud = {name: 3 * weight for name, weight in model.build_team.args[1].items()}
    whispering = type(model)(partial(Whispering, model.build_team.args[0], loud), model.codec, model.edges)
    verdict = verify(whispering, config, world, LocalRuntime(1), folder, Quiet())
    assert any("codes differ" in difference for difference in verdict.differences)


def test_a_team_that_is_not_the_learner_of_the_run_is_caught(team):
    """Alike on any number of hosts, and still not what was trained."""
    model, config, world, folder = team
    spec, weights = model.build_team.args
    other = partial(LearnedTeam, spec, {name: weight.flip(0) for name, weight in weights.items()})
    verdict = verify(type(model)(other, model.codec, model.edges), config, world, LocalRuntime(3), folder, Quiet())
    assert any("the learner would do otherwise" in difference for difference in verdict.differences)
    assert any("would say otherwise" in difference for difference in verdict.differences)


def test_a_trainable_codec_that_says_something_else_is_found(team, tmp_path):
    model, config, _, folder = team
    assert compare_codecs(model, config, folder)[1] == []
    book = model.codec.quantiser.codebook
    for wrong_book in (np.roll(book, 1, axis=0).copy(), 1.1 * book, book[::-1] - 0.2):
        moved = type(model.codec.quantiser)(wrong_book)
        other = type(model)(model.build_team, type(model.codec)("vq", moved, model.codec.prior), model.edges)
        (sentence,) = compare_codecs(other, config, folder)[1]
        assert "the trainable and the frozen codec disagree on " in sentence
    (missing,) = compare_codecs(model, config, RunFolder(tmp_path))[1]
    assert "holds no checkpoint" in missing


def test_the_eavesdropper_decodes_what_the_receivers_decode(team):
    """What it takes down is what the senders chose, for silent ones too, and for worlds that are over."""
    model, _, world, _ = team
    plan, runtime = make_plan(model.edges, partition(3, 3), "broadcast"), LocalRuntime(3)
    furnish(runtime, plan, model)
    runtime.each("desk.record", [()] * 3)
    ear, rounds = Eavesdropper(model, plan), []

    def watch(seen: Step):
        ear(seen)
        rounds.append(seen)

    books = Books(Ledger(budget=Budget(None)))
    generator = torch.Generator().manual_seed(0)
    play(runtime, plan, world, books, n_worlds=6, tariff=Tariff(), generator=generator, watcher=watch)
    senders = [route.sender for trunk in plan.trunks for route in trunk.routes]
    recorded = [codes for ((_, codes),) in runtime.each("desk.recorded", [()] * 3)]
    told = np.stack([ear.by_sender(heard.codes)[senders] for heard in ear.rounds])
    at = 0
    for trunk, codes in zip(plan.trunks, (c for c in recorded if len(c)), strict=True):
        n = len(trunk.routes)
        assert np.array_equal(told[:, at : at + n].reshape(codes.shape), codes)
        at += n
    assert sum(heard.estimate_bits for heard in ear.rounds) == pytest.approx(
        sum(s.estimate_bits for seen in rounds for s in seen.rounds[0].sent)
    )
