"""A purse spends locally, never more than it leased, and tells the ledger everything once, whatever happens on the way."""

import threading

import numpy as np
import pytest

from commlib.audit import audit
from commlib.budget import Budget
from commlib.errors import BudgetError, HostError, JournalError, LeaseError, OverBudget
from commlib.ledger import Ledger
from commlib.purse import Purse, Tally


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Line:
    """A way to a ledger that counts calls, and breaks where it is told to: before the call arrives, or before its answer."""

    def __init__(self, ledger):
        self.ledger = ledger
        self.calls = []
        self.breaks = {}

    def __getattr__(self, name):
        def call(*arguments, **named):
            self.calls.append((name, arguments, named))
            when = self.breaks.pop(name, None)
            if when == "before":
                raise HostError("the ledger's process died")
            answer = getattr(self.ledger, name)(*arguments, **named)
            if when == "after":
                raise HostError("the ledger's process died")
            return answer

        return call

    def names(self):
        names, self.calls = [name for name, _, _ in self.calls], []
        return names


@pytest.fixture
def ledger():
    ledger = Ledger()
    ledger.grant(10**6, 0)
    return ledger


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def line(ledger):
    return Line(ledger)


@pytest.fixture
def purse(line, clock):
    purse = Purse(line, "a", clock=clock, settle_seconds=1.0)
    line.names()
    return purse


def warm_up(purse, clock):
    """Spend until the leases are as large as the demand."""
    for _ in range(200):
        purse.charge(0, (1,), 8)
        clock.now += 0.01


def test_charges_are_summed_by_edge_and_booked_once(purse, ledger, clock):
    purse.charge(0, (1, 2), 100, 64)
    purse.settle()
    purse.charge(0, (1, 2), 50, 32, 3)
    purse.charge(1, (0,), 7)
    purse.charge(0, (2, 1), 50)
    purse.close()
    rows = sorted((e.sender, e.receivers, e.n_messages, e.bits, e.payload_bits) for e in ledger.journal.entries())
    assert ledger.statement().spent == 207
    assert ledger.statement().leased == 0
    assert sum(row[3] for row in rows) == 207
    assert all(row[1] in {(1, 2), (0,)} for row in rows), "receivers are in order, whatever order they came in"
    assert sum(row[2] for row in rows) == 6


def test_a_lease_grows_with_demand_and_calls_become_rare(purse, line, ledger, clock):
    warm_up(purse, clock)
    line.names()
    for _ in range(1000):
        purse.charge(0, (1,), 8)
        clock.now += 0.001
    assert len(line.names()) <= 20, "a second of spending is a settlement or two, after a few that grow"
    for _ in range(10):
        purse.charge(0, (1,), 8)
        clock.now += 10.0
    (lease,) = ledger.journal.open_leases()
    assert lease.bits == 8, "who spends little leases little"


def test_all_purses_together_hold_a_hundredth_of_the_budget(ledger, clock):
    purses = [Purse(ledger, f"host-{n}", clock=clock, settle_seconds=1.0) for n in range(7)]
    most = n_charges = 0
    with pytest.raises(OverBudget, match="0 are left"):
        while True:
            for n, purse in enumerate(purses):
                purse.charge(n, (n + 1,), 10)
                n_charges += 1
                most = max(most, ledger.statement().leased)
    assert 4_000 < most <= 10_000
    assert ledger.statement().spent + ledger.statement().leased == 10**6, "the last ones are leased charge by charge"
    for purse in purses:
        purse.close()
    assert sum(e.bits for e in ledger.journal.entries()) == 10**6 == 10 * n_charges
    n_settlements = sum(1 for _ in ledger.journal.leases())
    assert n_settlements < n_charges / 50


def in_hand_at_full_speed(purse, ledger):
    """What a purse leases when nothing but the budget bounds it."""
    purse.settle()
    purse._demand = 1e12
    purse.charge(0, (1,), 8)
    return ledger.statement().leased


def test_the_hundredth_is_of_all_that_was_granted_for_a_run(clock):
    ledger = Ledger(budget=Budget(50_000, "run"))
    ledger.grant(50_000, 0)
    purse = Purse(ledger, "a", clock=clock)
    for sequence in range(1, 4):
        assert in_hand_at_full_speed(purse, ledger) == int(0.75 * 0.01 * 50_000 * sequence / 2)
        ledger.grant(50_000, sequence)
        purse.settle()


def test_the_hundredth_is_of_the_allowance_that_came_last_where_it_is_renewed(clock):
    ledger = Ledger(budget=Budget(20_000, "step"))
    purse = Purse(ledger, "a", clock=clock, most_share=0.1)
    for sequence, allowance in enumerate((20_000, 1_000, 40_000)):
        purse.settle()
        ledger.withdraw(10**9, sequence)
        ledger.grant(allowance, sequence)
        purse.charge(0, (1,), 8)
        assert in_hand_at_full_speed(purse, ledger) == pytest.approx(0.75 * 0.1 * allowance / 2, rel=0.03)


def test_leases_of_the_dead_do_not_starve_the_others(ledger, clock):
    for sequence in range(5):
        ledger.lease("dead", 2_000, sequence)
    purse = Purse(ledger, "a", clock=clock)
    assert in_hand_at_full_speed(purse, ledger) == 10_000 + 10**4 // 128


def test_a_charge_that_does_not_fit_debits_nothing_and_a_smaller_one_goes_on(clock):
    ledger = Ledger()
    ledger.grant(100, 0)
    purse = Purse(ledger, "a", clock=clock)
    purse.charge(0, (1,), 90)
    with pytest.raises(OverBudget, match="a asked for 11 bits in its lease 1, 10 are left"):
        purse.charge(0, (1,), 11)
    purse.charge(0, (1,), 10)
    purse.charge(0, (1,), 0)
    purse.close()
    assert ledger.statement().spent == 100


def test_an_old_lease_is_settled_at_the_next_charge_or_tick(purse, line, clock):
    purse.charge(0, (1,), 8)
    clock.now += 0.5
    purse.tick()
    assert line.names() == ["lease"]
    clock.now += 0.6
    purse.tick()
    assert line.names() == ["settle"]
    purse.tick()
    assert line.names() == []
    purse.charge(0, (1,), 8)
    assert line.names() == ["lease"]
    clock.now += 1.1
    purse.charge(0, (1,), 8)
    assert line.names() == ["settle", "lease"]


def test_what_is_not_used_goes_back(purse, ledger, clock):
    warm_up(purse, clock)
    statement = purse.settle()
    assert statement == purse.statement == ledger.statement()
    assert statement.leased == 0
    assert statement.spent == 1600


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["lease", "settle"])
def test_when_the_ledger_dies_nothing_is_sent_and_nothing_is_lost(purse, line, ledger, clock, method, when):
    warm_up(purse, clock)
    clock.now += 1.1
    line.breaks[method] = when
    with pytest.raises(HostError):
        purse.charge(0, (1,), 8)
    purse.charge(0, (1,), 8)
    purse.close()
    assert ledger.statement().spent == 201 * 8
    assert ledger.statement().leased == 0
    assert sum(e.n_messages for e in ledger.journal.entries()) == 201


def test_a_lease_of_which_one_never_heard_is_given_back(purse, line, ledger):
    line.breaks["lease"] = "after"
    with pytest.raises(HostError):
        purse.charge(0, (1,), 8)
    assert ledger.statement().leased == 8
    purse.charge(0, (1,), 50)
    assert ledger.statement().leased == 50, "the lease of 8 was found, was too small, and went back"
    line.breaks["lease"] = "after"
    with pytest.raises(HostError):
        purse.charge(0, (1,), 999)
    purse.close()
    assert ledger.statement().spent == 50
    assert ledger.statement().leased == 0


def test_a_lease_of_which_one_never_heard_is_used_if_it_is_large_enough(purse, line, ledger):
    line.breaks["lease"] = "after"
    with pytest.raises(HostError):
        purse.charge(0, (1,), 50)
    line.names()
    purse.charge(0, (1,), 8)
    assert line.names() == ["lease"]
    assert ledger.statement().leased == 50


def test_a_lease_that_can_expire_is_not_spent_from_after_its_deadline(line, ledger, clock):
    ledger._clock = clock
    purse = Purse(line, "a", clock=clock, settle_seconds=60.0, lease_seconds=5.0)
    purse._demand = 800.0
    purse.charge(0, (1,), 8)
    clock.now += 4.9
    purse.charge(0, (1,), 8)
    assert ledger.expire() == []
    clock.now += 0.1
    (expired,) = ledger.expire()
    assert ledger.statement().spent == expired.bits == 800
    purse.charge(0, (1,), 8)
    assert ledger.statement().spent == 16, "settled late, the rest came back"
    purse.close()
    assert ledger.statement().spent == 24


def test_a_lease_of_which_one_heard_only_after_its_deadline_is_given_back(line, ledger, clock):
    ledger._clock = clock
    purse = Purse(line, "a", clock=clock, settle_seconds=60.0, lease_seconds=5.0)
    line.breaks["lease"] = "after"
    with pytest.raises(HostError):
        purse.charge(0, (1,), 50)
    clock.now += 6
    assert len(ledger.expire()) == 1
    purse.charge(0, (1,), 8)
    assert (ledger.statement().spent, ledger.statement().leased) == (0, 8)


def test_without_a_cap_leases_follow_the_demand_alone(clock):
    ledger = Ledger(budget=Budget(None))
    line = Line(ledger)
    purse = Purse(line, "a", clock=clock, settle_seconds=1.0)
    warm_up(purse, clock)
    line.names()
    for _ in range(200):
        purse.charge(0, (1,), 8)
        clock.now += 0.01
    assert len(line.names()) <= 8
    purse.close()
    assert ledger.statement().spent == 3200


def test_a_full_jar_elsewhere_is_found_out_only_by_asking(ledger, clock):
    """The ledger refuses what demand suggests, since another one took it meanwhile: then exactly the charge is leased."""
    purse = Purse(ledger, "a", clock=clock, settle_seconds=1.0, most_share=2.0)
    warm_up(purse, clock)
    line = Line(ledger)
    taken = []

    def settle(lease, entries):
        statement = ledger.settle(lease, entries)
        taken.append(ledger.lease("b", statement.available - 8, 0))
        return statement

    line.settle = settle
    purse._lender = line
    clock.now += 1.1
    purse.charge(0, (1,), 8)
    assert [name for name, _, _ in line.calls] == ["lease", "lease"]
    assert ledger.statement().available == 0


def test_a_journal_that_cannot_write_stops_spending_until_it_can(tmp_path, clock, monkeypatch):
    from commlib.journal import Journal

    ledger = Ledger(Journal(tmp_path / "journal.sqlite"))
    ledger.grant(1000, 0)
    purse = Purse(ledger, "a", clock=clock)
    purse.charge(0, (1,), 8)
    commit = Journal._commit

    def fail(self):
        raise JournalError("disk full")

    monkeypatch.setattr(Journal, "_commit", fail)
    clock.now += 1
    for _ in range(3):
        with pytest.raises(JournalError):
            purse.charge(0, (1,), 8)
    monkeypatch.setattr(Journal, "_commit", commit)
    purse.charge(0, (1,), 8)
    purse.close()
    assert ledger.statement().spent == 16
    ledger.close()


def test_a_purse_that_opens_shuts_out_its_predecessor(line, ledger, clock):
    first = Purse(line, "a", clock=clock)
    first.charge(0, (1,), 8)
    second = Purse(line, "a", clock=clock)
    assert second.epoch == first.epoch + 1
    assert ledger.statement().spent == 8, "what the first had leased counts as spent"
    clock.now += 1
    for _ in range(2):
        with pytest.raises(LeaseError):
            first.charge(0, (1,), 8)
    with pytest.raises(LeaseError):
        first.settle()
    second.charge(0, (1,), 8)
    second.close()
    assert ledger.statement().spent == 16


def test_a_fenced_purse_without_a_lease_is_shut_out_when_it_asks_for_one(ledger, clock):
    purse = Purse(ledger, "a", clock=clock)
    ledger.fence("a")
    with pytest.raises(LeaseError, match="speaks for epoch"):
        purse.charge(0, (1,), 8)


def test_a_closed_purse_says_so(purse):
    purse.close()
    purse.close()
    with pytest.raises(BudgetError, match="the purse of a is closed"):
        purse.charge(0, (1,), 8)
    with pytest.raises(BudgetError, match="the purse of a is closed"):
        purse.charge(0, (1,), 0)


@pytest.mark.parametrize(
    ("charge", "sentence"),
    [
        ((0, (1,), -1), "-1 is out of range"),
        ((0, (1,), 1.5), "1.5 is not a whole number"),
        ((0, (1,), 2**62), "is out of range"),
        ((0, (1,), 8, -1), "-1 is out of range"),
        ((0, (1,), 8, 0, 0.5), "0.5 is not a whole number"),
        ((-1, (1,), 8), "-1 is out of range"),
        ((0, (), 8), "name each agent that hears it once"),
        ((0, (1, 1), 8), "name each agent that hears it once"),
        ((0, ("alice",), 8), "the receiver 'alice' is not a whole number; agents go by number, so give each name one"),
        (("bob", (1,), 8), "the sender 'bob' is not a whole number; agents go by number, so give each name one"),
        ((0, 1, 8), "the charge of sender 0 has the receivers 1; give a tuple of agents"),
        ((0, "12", 8), "the charge of sender 0 has the receivers '12'; give a tuple of agents"),
        ((0, None, 8), "has the receivers None; give a tuple of agents"),
    ],
)
@pytest.mark.parametrize("is_warm", [False, True])
def test_a_charge_that_makes_no_sense_debits_nothing(purse, ledger, charge, sentence, is_warm):
    if is_warm:
        purse.charge(0, (1,), 100)
        purse.settle()
        purse.charge(0, (1,), 100)
    with pytest.raises(BudgetError, match=sentence):
        purse.charge(*charge)
    purse.close()
    assert ledger.statement().spent == 200 * is_warm


def test_integers_of_numpy_are_welcome(purse, ledger):
    purse.charge(np.int64(0), (np.int64(1),), np.int64(8), np.uint8(4), np.int64(2))
    purse.close()
    (entry,) = ledger.journal.entries()
    assert entry == (1, 0, 2**32, 0, (1,), 2, 8, 4, "a")


def test_threads_share_a_purse_and_nothing_is_lost(ledger):
    purse = Purse(ledger, "a")
    start, n_charges = threading.Barrier(4), 3000

    def spend(sender):
        start.wait()
        for _ in range(n_charges):
            purse.charge(sender, (9,), 3)

    threads = [threading.Thread(target=spend, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    purse.close()
    by_sender = dict.fromkeys(range(4), 0)
    for entry in ledger.journal.entries():
        by_sender[entry.sender] += entry.n_messages
    assert by_sender == dict.fromkeys(range(4), n_charges)
    assert ledger.statement().spent == 4 * n_charges * 3


def test_debits_and_receipts_reconcile_over_rounds_deaths_and_successors(ledger, clock):
    tally = Tally(ledger, "b", ledger.epoch("b"))
    for _ in range(3):
        purse = Purse(ledger, "a", clock=clock, settle_seconds=1.0)
        for _ in range(500):
            tally.hear(purse.charge(0, (1,), 8, 5), 0, 1, 8)
            clock.now += 0.01
        tally.book()  # this purse is never closed: its process dies here
    purse = Purse(ledger, "a", clock=clock)
    tally.hear(purse.charge(0, (1,), 8, n_messages=2), 0, 1, 8, n_messages=2)
    purse.close()
    tally.close()
    report = audit(ledger.journal)
    assert report.differences == []
    assert report.bits_received == 8 * 1501
    assert 0 < report.bits_recovered <= report.bits_unaccounted


def test_receipts_that_could_not_be_booked_are_booked_later(line, ledger):
    tally = Tally(line, "b", 0)
    tally.hear(1, 0, 1, 8)
    tally.hear(2, 0, 1, 9)
    line.breaks["receive"] = "after"
    with pytest.raises(HostError):
        tally.book()
    tally.close()
    assert [(r.round, r.bits) for r in ledger.journal.receipts()] == [(1, 8), (2, 9)]
