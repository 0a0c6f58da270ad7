"""Control: what has a price, what it acts on, what it learns from, and when it moves."""

from types import SimpleNamespace

import pytest
import torch

from commlib.agents.till import Books, Use
from commlib.budget import Budgets, Network
from commlib.experiments.control import MOST_REHEARSALS, WINDOW, Control
from commlib.experiments.model import Calibration, Rung
from commlib.ledger import Ledger
from commlib.message import Edge
from commlib.rationing import Rationing, Scope, Tariff, Toll

N_AGENTS, EVERYTHING = 2, 400.0
NETWORK = Network(1_000_000, 100)


def demand(weight):
    """Bits that both agents want in an episode at a price of a bit."""
    return EVERYTHING / (1 + 10 * weight)


LADDER = Calibration(
    tuple(Rung(w, None, 0.0, 0.0, demand(w) / N_AGENTS) for w in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)), chosen=2
)


def books_of(text, **settings):
    budgets = Budgets.parse(text).for_team(N_AGENTS, [Edge(0, 1), Edge(1, 0)])
    return Books(Ledger(budget=budgets.main), budgets, **settings)


def control_of(text, calibration=LADDER, n_parallel=64, **settings):
    return Control.of(books_of(text, **settings), calibration, N_AGENTS, n_parallel)


def wants(n_worlds, **amounts):
    """What a batch wanted, by account."""
    return {name: Use(wanted=round(amount * n_worlds)) for name, amount in amounts.items()}


@pytest.mark.parametrize("text", ["unlimited", "50 bit/step", "50 bit/round", "50 bit/second", "3 rounds/episode"])
def test_where_nothing_has_a_price_the_rung_in_use_stays(text):
    control = control_of(text)
    assert not control
    assert control.tariff == Tariff(0.1)
    control.aim({}, 10)
    control.learn({"bits": Use(wanted=10**6)}, 64)
    assert control.tariff == Tariff(0.1)


@pytest.mark.parametrize("calibration", [Calibration(), Calibration(LADDER.rungs[:1])])
def test_without_a_price_knob_the_cap_alone_holds(calibration):
    assert not control_of("50 bit/episode", calibration)


@pytest.mark.parametrize("allowed", [30.0, 100.0, 300.0])
@pytest.mark.parametrize("off", [0.5, 1.0, 2.0])
def test_the_price_of_bits_is_the_rate_weight_and_meets_the_budget(allowed, off):
    """Also where calibration is off by a factor."""
    control = control_of(f"{allowed:.0f} bit/episode")
    for _ in range(8):
        control.aim({}, 1000)
        wanted = off * demand(control.tariff.rate_weight)
        control.learn(wants(64, bits=wanted), 64)
    assert 0.95 * min(allowed, off * EVERYTHING) <= wanted <= allowed
    assert control.tariff.tolls == ()
    assert control.is_settled


def test_a_budget_with_room_for_everything_costs_nothing():
    control = control_of("500 bit/episode")
    control.aim({}, 1000)
    assert control.tariff == Tariff(0.0)


def test_a_run_is_aimed_at_what_is_left_of_it():
    control = control_of("10000 bit")
    control.aim({}, 100)
    early = control.tariff.rate_weight
    control.learn(wants(64, bits=demand(early)), 64)
    control.aim({"bits": 400}, 50)
    assert control.prices.controllers["bits"].allowed == 8
    assert control.tariff.rate_weight > 5 * early


def test_messages_are_free_until_too_many_are_wanted():
    control = control_of("3 messages/episode")
    control.aim({}, 1000)
    assert control.tariff == Tariff(0.1), "bits cost what calibration says, and messages nothing yet"
    control.learn(wants(64, bits=60.0, **{"messages/episode": 2.5}), 64)
    assert control.is_settled
    control.aim({}, 1000)
    assert control.tariff == Tariff(0.1)
    control.learn(wants(64, bits=100.0, **{"messages/episode": 6.0}), 64)
    assert not control.is_settled
    control.aim({}, 1000)
    ((currency, weight, scope),) = control.tariff.tolls
    assert (currency, scope) == ("messages", Scope())
    assert weight > 0


def test_messages_that_are_too_many_at_once_have_a_price_after_one_batch():
    control = control_of("3 messages/episode")
    for _ in range(8):
        control.aim({}, 1000)
        toll = sum(toll.weight for toll in control.tariff.tolls)
        wanted = 12 / (1 + toll)
        control.learn(wants(64, bits=100.0, **{"messages/episode": wanted}), 64)
    assert 0.93 * 3 <= wanted <= 3.0


def test_bits_of_one_agent_are_a_toll_for_it_on_top_of_what_all_pay():
    control = control_of("agent 1: 5 bit/episode")
    for bits in (50.0, 20.0):
        control.learn(wants(64, bits=100.0, **{"bits/episode of agent 1": bits}), 64)
        control.aim({}, 1000)
    assert control.tariff.rate_weight == 0.1
    assert [(toll.currency, toll.scope) for toll in control.tariff.tolls] == [("bits", Scope((1,)))]


def test_two_budgets_of_all_bits_add_up_to_one_rate_weight():
    control = control_of("50 bit/episode, 1000 bit/run")
    control.aim({}, 10)
    control.learn(wants(64, bits=200.0, **{"bits/run": 200.0}), 64)
    control.aim({}, 10)
    assert control.tariff.tolls == ()
    assert control.tariff.rate_weight == sum(control.prices.price(name) for name in ("bits", "bits/run"))
    assert control.prices.binding == ("bits",), "a thousand bits of a run of ten episodes are looser than fifty of each"


def test_an_agent_that_is_thrifty_at_the_price_of_all_pays_no_more():
    """The bits of one agent are bits of everybody: a price of theirs takes care of its own budget at once."""
    control = control_of("50 bit/episode, agent 1: 30 bit/episode")
    for _ in range(6):
        control.aim({}, 1000)
        wanted = 1.5 * demand(control.tariff.rate_weight)
        control.learn(wants(64, bits=wanted, **{"bits/episode of agent 1": wanted / 2}), 64)
    assert control.prices.binding == ("bits",)
    assert control.tariff.tolls == ()
    assert control.is_settled


def test_an_agent_with_less_than_its_part_pays_what_the_price_of_all_leaves():
    control, own = control_of("200 bit/episode, agent 1: 20 bit/episode"), 0.0
    for _ in range(10):
        control.aim({}, 1000)
        own = sum(toll.weight for toll in control.tariff.tolls)
        parts = [demand(control.tariff.rate_weight) / 2, demand(control.tariff.rate_weight + own) / 2]
        control.learn(wants(64, bits=sum(parts), **{"bits/episode of agent 1": parts[1]}), 64)
    assert 0.95 * 20 < parts[1] <= 20
    assert 0.95 * 200 < sum(parts) <= 200
    assert own > 0


def test_rounds_and_latency_have_a_price_where_a_world_has_its_frames_to_itself():
    text = "3 rounds/episode, 5 ms/episode"
    assert not control_of(text, network=NETWORK)
    control = control_of(text, n_parallel=1, network=NETWORK)
    control.learn(wants(64, bits=100.0, **{"rounds/episode": 9.0, "latency/episode": 20_000.0}), 64)
    control.aim({}, 10)
    rounds, latency = (control.prices.price(name) for name in ("rounds/episode", "latency/episode"))
    assert min(rounds, latency) > 0
    assert control.tariff.tolls == (
        Toll("rounds", rounds),
        Toll("bits", latency),  # at 1 Mbit/s a bit takes a microsecond
        Toll("rounds", 100 * latency),
    )


def test_of_a_few_episodes_nothing_is_concluded():
    control = control_of("50 bit/episode", n_parallel=1)
    control.aim({}, 1000)
    price = control.price_of_a_bit
    for _ in range(WINDOW - 1):
        control.learn(wants(1, bits=400), 1)
        control.aim({}, 1000)
        assert control.price_of_a_bit == price
    control.learn(wants(1, bits=400), 1)
    control.aim({}, 1000)
    assert control.price_of_a_bit > price


def test_a_budget_that_changes_moves_the_price_at_once():
    control = control_of("200 bit/episode")
    control.aim({}, 1000)
    before = control.price_of_a_bit
    control.budgets = control_of("50 bit/episode").budgets
    control.aim({}, 1000)
    assert demand(control.price_of_a_bit) == pytest.approx(50, rel=0.1)
    assert control.price_of_a_bit > before


class Rehearsed:
    """A stage on which a fixed factor more is wanted than calibration says, and the books it was given.

    What episodes return: `returned` of the price of a bit, a little more or less.
    """

    def __init__(self, factor=1.0, floor=0.0, returned=lambda weight: 0.0):
        self.factor, self.floor, self.returned, self.books, self.prices = factor, floor, returned, [], []

    def play(self, books, n_worlds, tariff, generator):
        self.books.append(books)
        self.prices.append(tariff.rate_weight)
        wanted = max(self.floor, self.factor * demand(tariff.rate_weight))
        returns = [self.returned(tariff.rate_weight) + 0.1 * (k % 2) for k in range(n_worlds)]
        return SimpleNamespace(use=wants(n_worlds, bits=wanted), returns=returns)


def rehearse(control, stage, books, n_parallel=64):
    control.rehearse(stage, books, n_parallel, 1000, torch.Generator())
    return control.n_rehearsed


@pytest.mark.parametrize(("factor", "at_most"), [(1.0, 2), (1.5, 6), (0.5, 6)])
def test_rehearsals_end_when_the_price_is_right(factor, at_most):
    control, stage = control_of("50 bit/episode"), Rehearsed(factor)
    assert rehearse(control, stage, books_of("50 bit/episode")) == 64 * len(stage.books)
    assert 1 <= len(stage.books) <= at_most
    control.aim({}, 1000)
    assert 45 < factor * demand(control.price_of_a_bit) < 50


def test_rehearsals_end_where_no_price_helps():
    stage = Rehearsed(floor=100.0)
    rehearse(control_of("50 bit/episode"), stage, books_of("50 bit/episode"))
    assert len(stage.books) == MOST_REHEARSALS + 1


def test_the_last_rehearsal_is_at_the_calibrated_price_and_changes_nothing_where_it_returns_as_much():
    control, stage = control_of("50 bit/episode"), Rehearsed()
    rehearse(control, stage, books_of("50 bit/episode"))
    assert stage.prices[-1] == 0.1
    assert control
    assert control.verdict == ""


def test_no_price_follows_a_budget_where_the_cap_alone_returns_more():
    """Who is silenced by the price fails, and goes on at length."""
    control, stage = control_of("50 bit/episode"), Rehearsed(returned=lambda weight: -weight)
    rehearse(control, stage, books_of("50 bit/episode"))
    assert not control
    assert control.tariff == Tariff(0.1)
    assert "the cap alone holds the budget" in control.verdict


def test_a_budget_with_room_for_everything_is_not_rehearsed_twice():
    control, stage = control_of("500 bit/episode"), Rehearsed(returned=lambda weight: weight)
    assert rehearse(control, stage, books_of("500 bit/episode")) == 64
    assert stage.prices == [0.0]


def test_rehearsals_are_not_in_the_books_and_do_not_raise():
    books, stage = books_of("50 bit/episode", rationing=Rationing(when_out="raise")), Rehearsed()
    rehearse(control_of("50 bit/episode"), stage, books)
    for own in stage.books:
        assert own.ledger is not books.ledger
        assert own.rationing.when_out == "drop"
        assert own.budgets == books.budgets


def test_a_window_of_rehearsals_is_filled_by_small_batches():
    stage = Rehearsed()
    assert rehearse(control_of("50 bit/episode", n_parallel=8), stage, books_of("50 bit/episode"), 8) == 2 * WINDOW
    assert len(stage.books) == 2 * WINDOW // 8


def test_who_has_no_budget_does_not_rehearse():
    stage = Rehearsed()
    assert rehearse(control_of("unlimited"), stage, books_of("unlimited")) == 0
    assert stage.books == []
