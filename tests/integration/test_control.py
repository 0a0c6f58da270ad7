"""Evaluations under budgets that have a price: they meet it, never cross it, and are the same every time."""

from functools import cache

import pytest
import torch

from commlib.agents.runtime import LocalRuntime
from commlib.audit import audit
from commlib.budget import Budget
from commlib.codecs.int8 import Int8Codec
from commlib.config import make_config
from commlib.experiments.calibrate import calibrate
from commlib.experiments.compose import complete
from commlib.experiments.evaluate import evaluate
from commlib.experiments.model import Model
from commlib.experiments.progress import Quiet
from commlib.experiments.world_guide import Guide
from commlib.journal import Journal
from commlib.topology import full
from tests.unit.test_play import Talkers

N_EPISODES, PARALLEL = 512, 128


@cache
def model():
    """Agents that always have something new to say, in numbers, and a codec that knows what bits cost."""
    codec, config = Int8Codec(2), config_of()
    team = Model(Talkers, codec.freeze(), full(3).edges())
    return calibrate(team, Guide(), "broadcast", config.stages, torch.Generator().manual_seed(1), rate_aware=True)


def config_of(budget=None, **settings):
    stages = {"calibrate_worlds": 64, "calibrate_rounds": 1, "rungs": 8, "margin": 1.0}
    layer = {"world": "guide_v1", "budget": budget, "episodes": N_EPISODES, "parallel_worlds": PARALLEL}
    return complete(make_config(("test", {**layer, "stages": stages, **settings})), Guide().spec)


def played(budget=None, journal=None, n_hosts=1, **settings):
    with Journal.in_memory() as own:
        books = journal or own
        result = evaluate(model(), config_of(budget, **settings), Guide(), LocalRuntime(n_hosts), books, Quiet())
        assert audit(books).differences == []
        prices = [price.price for price in books.prices("bits")]
    return result, prices


@cache
def everything():
    """Bits per episode of all agents, if nobody minds."""
    return played(bit_price=0.0)[0].ledger.spent / N_EPISODES


@pytest.mark.parametrize("share", [0.3, 0.6])
@pytest.mark.parametrize("span", ["episode", "run"])
def test_spending_meets_a_budget_and_never_crosses_it(share, span):
    bits = int(share * everything())
    budget = f"{bits} bit/episode" if span == "episode" else f"{bits * N_EPISODES} bit"
    result, prices = played(budget)
    (figures,) = result.budgets
    assert 0.94 * figures.granted <= figures.spent <= figures.granted == bits * N_EPISODES
    assert result.binding == budget
    assert figures.price == prices[-1] > 0
    assert len(prices) == N_EPISODES // PARALLEL
    assert min(prices) <= result.rate_weight <= max(prices)


def test_the_same_seed_gives_the_same_books():
    budget = f"{int(0.4 * everything())} bit/episode, 20 messages/episode"
    (one, prices), (other, again) = played(budget), played(budget)
    assert one.journal_digest == other.journal_digest
    assert prices == again


def test_an_evaluation_that_was_cut_off_can_be_repeated_on_its_journal(tmp_path):
    budget = f"{int(0.4 * everything())} bit/episode"
    whole, _ = played(budget)
    with Journal(tmp_path / "journal.sqlite") as journal:
        played(budget, journal, episodes=2 * PARALLEL)
        again, _ = played(budget, journal)
    assert again.journal_digest == whole.journal_digest


def test_a_given_price_is_not_moved_and_the_cap_holds():
    bits = int(0.4 * everything())
    result, prices = played(f"{bits} bit/episode", bit_price=0.0)
    (figures,) = result.budgets
    assert prices == []
    assert (figures.price, result.rate_weight) == (0.0, 0.0)
    assert figures.n_full > 0
    assert figures.spent <= figures.granted


def test_of_two_budgets_the_one_that_binds_is_named():
    free = played(bit_price=0.0)[0]
    messages = free.messages_per_agent_step * 30
    tight, loose = f"{int(0.3 * everything())} bit/episode", f"{int(2 * everything())} bit/episode"
    few, many = f"{int(0.3 * messages)} messages/episode", f"{int(2 * messages)} messages/episode"
    by_bits, _ = played(f"{tight}, {many}")
    by_messages, _ = played(f"{loose}, {few}")
    assert (by_bits.binding, by_messages.binding) == (tight, few)
    for result in (by_bits, by_messages):
        assert all(figures.spent <= figures.granted for figures in result.budgets)
        binding, other = sorted(result.budgets, key=lambda figures: not figures.is_binding)
        assert binding.spent >= 0.9 * binding.granted
        assert binding.price > other.price == 0


def test_figures_of_use_are_without_rehearsals():
    result, _ = played(f"{int(0.4 * everything())} bit/episode")
    assert result.ledger.granted == result.ledger.spent == 8 * result.wire_bytes
    assert result.return_.n == N_EPISODES
    assert set(result.seconds) == {"evaluation", "rehearsal"}
    assert Budget.parse(result.budget).amount == int(0.4 * everything())
