import contextlib
import threading

import numpy as np
import pytest

from commlib.budget import Budget
from commlib.errors import BudgetError, ConfigError, JournalError, LeaseError, OverBudget
from commlib.journal import Journal
from commlib.ledger import Entry, Lease, Ledger, Receipt, Statement


def entry(lease, bits, *, sender=0, receivers=(1,), round=0, n_messages=1):
    return Entry(lease.epoch, lease.sequence, round, sender, receivers, n_messages, bits, bits // 2, lease.holder)


def receipt(bits=10, *, holder="b", epoch=0, sequence=0, round=0, sender=0, receiver=1):
    return Receipt(holder, epoch, sequence, round, sender, receiver, 1, bits)


def sums(ledger):
    now = ledger.statement()
    assert now.spent + now.leased + now.available == now.granted
    assert min(now) >= 0
    assert now == ledger.journal.statement()
    return now.granted, now.spent, now.leased, now.available


@pytest.fixture
def ledger():
    with Ledger() as ledger:
        ledger.grant(100, sequence=0)
        yield ledger


class TestBudget:
    def test_it_gives_its_text_back(self):
        for text in ("64 bit/step", "2 kB/episode", "300 bit", "unlimited"):
            assert str(Budget.parse(text)) == text
            assert Budget.parse(str(Budget.parse(text))) == Budget.parse(text)

    def test_two_texts_of_one_size_are_one_budget(self):
        assert Budget.parse("1 kB/step") == Budget.parse("8 kbit/step") == Budget(8000, "step")
        assert str(Budget(8000, "step")) == "8000 bit/step"

    def test_its_allowance_grows_with_the_worlds_but_not_for_a_run(self):
        assert Budget.parse("64 bit/step").allowance(8) == 512
        assert Budget.parse("64 bit/episode").allowance(8) == 512
        assert Budget.parse("64 bit/run").allowance(8) == 64
        assert Budget(None).allowance(8) == 0

    def test_nonsense_is_refused(self):
        with pytest.raises(ConfigError):
            Budget.parse("much")


def test_the_difference_returns_when_a_lease_is_settled(ledger):
    lease = ledger.lease("a", 60, sequence=0)
    assert sums(ledger) == (100, 0, 60, 40)
    assert ledger.settle(lease, [entry(lease, 25), entry(lease, 10, sender=1)]) == Statement(100, 35, 0, 65, 0, 0, 2)
    assert sums(ledger) == (100, 35, 0, 65)


def test_more_than_available_is_refused_with_both_numbers(ledger):
    ledger.lease("a", 60, sequence=0)
    with pytest.raises(OverBudget, match="a asked for 41 bits in its lease 1, 40 are left; raise the budget"):
        ledger.lease("a", 41, sequence=1)
    assert sums(ledger) == (100, 0, 60, 40)
    ledger.lease("a", 40, sequence=1)
    assert sums(ledger) == (100, 0, 100, 0)


def test_the_same_lease_again_is_the_same_lease_even_when_the_jar_is_empty(ledger):
    first = ledger.lease("a", 100, sequence=0)
    assert ledger.lease("a", 100, sequence=0) == first
    ledger.settle(first, [entry(first, 100)])
    assert ledger.lease("a", 100, sequence=0) == first
    assert sums(ledger) == (100, 100, 0, 0)


@pytest.mark.parametrize("settled", [False, True])
def test_the_same_key_with_other_bits_is_refused(ledger, settled):
    lease = ledger.lease("a", 10, sequence=0)
    if settled:
        ledger.settle(lease, [])
    with pytest.raises(LeaseError, match="was for 10 bits, now it is to be for 11"):
        ledger.lease("a", 11, sequence=0)


def test_a_settlement_is_booked_once(ledger):
    lease = ledger.lease("a", 60, sequence=0)
    entries = [entry(lease, 25, receivers=(2, 1)), entry(lease, 10, sender=1)]
    ledger.settle(lease, entries)
    before = sums(ledger), ledger.journal.digest()
    ledger.settle(lease, reversed(entries))
    assert (sums(ledger), ledger.journal.digest()) == before
    for other in ([], entries[:1], [entry(lease, 26, receivers=(1, 2)), entries[1]]):
        with pytest.raises(LeaseError, match="already settled at 35 bits"):
            ledger.settle(lease, other)
    with pytest.raises(LeaseError, match="already settled"):
        ledger.release(lease)
    assert (sums(ledger), ledger.journal.digest()) == before


def test_an_overspent_lease_counts_as_spent_and_no_further(ledger):
    lease = ledger.lease("a", 60, sequence=0)
    with pytest.raises(LeaseError, match="holds 60 bits, but 61 were sent"):
        ledger.settle(lease, [entry(lease, 61)])
    assert sums(ledger) == (100, 60, 0, 40)
    with pytest.raises(LeaseError, match="already overspent"):
        ledger.settle(lease, [entry(lease, 50)])
    assert sums(ledger) == (100, 60, 0, 40)


def test_a_released_lease_returns_whole(ledger):
    lease = ledger.lease("a", 60, sequence=0)
    ledger.release(lease)
    ledger.release(lease)
    assert sums(ledger) == (100, 0, 0, 100)
    with pytest.raises(LeaseError, match="already released"):
        ledger.settle(lease, [])


def test_a_lease_that_was_never_given_cannot_be_closed(ledger):
    lease = ledger.lease("a", 10, sequence=0)
    for forged in (lease._replace(bits=1000), lease._replace(sequence=5), Lease(1, "b", 0, 0, 10)):
        with pytest.raises(LeaseError, match="was never given"):
            ledger.settle(forged, [])
        with pytest.raises(LeaseError, match="was never given"):
            ledger.release(forged)
    assert sums(ledger) == (100, 0, 10, 90)


def test_entries_must_be_of_the_lease_and_name_their_receivers_once(ledger):
    lease, other = ledger.lease("a", 10, sequence=0), ledger.lease("a", 10, sequence=1)
    for wrong in (
        [entry(other, 1)],
        [entry(lease, 1)._replace(holder="b")],
        [entry(lease, 1), entry(lease, 1)],
        [entry(lease, 1, receivers=())],
        [entry(lease, 1, receivers=(1, 1))],
    ):
        with pytest.raises(LeaseError):
            ledger.settle(lease, wrong)
    assert sums(ledger) == (100, 0, 20, 80)


@pytest.mark.parametrize("bits", [-1, 1.5, 2**62, float("nan"), "7"])
def test_only_whole_bits_in_range_are_taken(ledger, bits):
    lease = ledger.lease("a", 10, sequence=0)
    for call in (
        lambda: ledger.grant(bits, sequence=1),
        lambda: ledger.withdraw(bits, sequence=1),
        lambda: ledger.lease("b", bits, sequence=0),
        lambda: ledger.note_dropped(1, bits, sequence=0),
        lambda: ledger.receive([receipt(bits)]),
        lambda: ledger.settle(lease, [entry(lease, 4)._replace(bits=bits)]),
    ):
        with pytest.raises(BudgetError, match=r"whole number|out of range"):
            call()
    assert sums(ledger) == (100, 0, 10, 90)


def test_the_integers_of_numpy_are_welcome(ledger):
    one = np.int64(1)
    lease = ledger.lease("a", np.int32(10), sequence=one)
    ledger.settle(lease, [Entry(0, one, one, one, (np.int64(2),), one, np.int64(5), one, "a")])
    ledger.receive([Receipt("b", 0, one, one, one, np.int64(2), one, np.int64(5))])
    ledger.withdraw(np.int64(5), sequence=one)
    assert sums(ledger) == (95, 5, 0, 90)


def test_a_jar_cannot_be_filled_beyond_the_integers_of_the_journal(ledger):
    ledger.grant(2**62 - 101, sequence=1)
    with pytest.raises(BudgetError, match="grant less"):
        ledger.grant(1, sequence=2)
    assert sums(ledger)[0] == 2**62 - 1


def test_what_is_left_of_an_allowance_expires(ledger):
    ledger.lease("a", 30, sequence=0)
    assert ledger.withdraw(100, sequence=0) == 70
    assert sums(ledger) == (30, 0, 30, 0)
    assert ledger.withdraw(100, sequence=0) == 70  # a retry
    assert sums(ledger) == (30, 0, 30, 0)


def test_grants_withdrawals_and_drops_are_booked_once_by_sequence(ledger):
    ledger.grant(100, sequence=0)
    ledger.withdraw(10, sequence=0)
    for _ in range(2):
        assert ledger.note_dropped(2, 30, sequence=0) == Statement(90, 0, 0, 90, 2, 30, 0)
    for call in (
        lambda: ledger.grant(99, sequence=0),
        lambda: ledger.withdraw(11, sequence=0),
        lambda: ledger.note_dropped(1, 30, sequence=0),
    ):
        with pytest.raises(JournalError, match="a row never changes"):
            call()
    assert sums(ledger) == (90, 0, 0, 90)


def test_a_fenced_holder_has_spent_its_lease_and_is_heard_no_more(ledger):
    closed = ledger.lease("a", 10, sequence=0)
    ledger.settle(closed, [entry(closed, 7)])
    lease = ledger.lease("a", 60, sequence=1)
    of_another = ledger.lease("b", 5, sequence=0)
    assert ledger.fence("a") == 1
    assert sums(ledger) == (100, 67, 5, 28)
    for zombie in (
        lambda: ledger.settle(lease, [entry(lease, 1)]),
        lambda: ledger.release(lease),
        lambda: ledger.lease("a", 1, sequence=2, epoch=0),
        lambda: ledger.lease("a", 1, sequence=2, epoch=2),
        lambda: ledger.receive([receipt(holder="a")]),
    ):
        with pytest.raises(LeaseError):
            zombie()
    successor = ledger.lease("a", 8, sequence=1)
    assert successor.epoch == ledger.epoch("a") == 1
    ledger.settle(successor, [entry(successor, 8)])
    ledger.settle(of_another, [])
    assert sums(ledger) == (100, 75, 0, 25)


def test_a_fence_can_be_retried(ledger):
    assert ledger.fence("a", epoch=0) == 1
    assert ledger.fence("a", epoch=0) == 1
    assert ledger.fence("a") == 2
    with pytest.raises(LeaseError, match="is in epoch 2"):
        ledger.fence("a", epoch=3)


def test_what_was_recorded_before_a_fence_can_be_replayed_after_it(ledger):
    lease = ledger.lease("a", 10, sequence=0)
    ledger.settle(lease, [entry(lease, 7)])
    ledger.receive([receipt(7, holder="a")])
    ledger.fence("a", epoch=0)
    before = sums(ledger), ledger.journal.digest()
    again = ledger.lease("a", 10, sequence=0, epoch=0)
    ledger.settle(again, [entry(again, 7)])
    ledger.receive([receipt(7, holder="a")])
    assert again == lease
    assert (sums(ledger), ledger.journal.digest()) == before


def test_receipts_move_no_bits_and_are_booked_once(ledger):
    for _ in range(2):
        ledger.receive([receipt(), receipt(receiver=2)])
    with pytest.raises(JournalError, match="a row never changes"):
        ledger.receive([receipt(receiver=3), receipt(11)])
    assert list(ledger.journal.receipts()) == [receipt(), receipt(receiver=2)]
    assert sums(ledger) == (100, 0, 0, 100)


def test_an_unlimited_jar_grows_by_what_a_lease_lacks():
    with Ledger(budget=Budget(None)) as ledger:
        lease = ledger.lease("a", 60, sequence=0)
        assert sums(ledger) == (60, 0, 60, 0)
        ledger.settle(lease, [entry(lease, 20)])
        assert sums(ledger) == (60, 20, 0, 40)
        ledger.lease("a", 50, sequence=1)
        assert ledger.lease("a", 60, sequence=0) == lease
        assert sums(ledger) == (70, 20, 50, 0)


def test_a_round_that_fails_leaves_nothing_behind(ledger):
    kept = ledger.lease("a", 10, sequence=0)
    before = sums(ledger), ledger.journal.digest(), ledger.epoch("a")
    with pytest.raises(OverBudget), ledger.round():
        ledger.grant(5, sequence=1)
        ledger.settle(kept, [entry(kept, 3)])
        ledger.fence("a")
        ledger.note_dropped(1, 1, sequence=0)
        ledger.lease("b", 1000, sequence=0)
    assert (sums(ledger), ledger.journal.digest(), ledger.epoch("a")) == before
    ledger.settle(kept, [entry(kept, 3)])
    assert sums(ledger) == (100, 3, 0, 97)


def test_being_over_budget_can_be_handled_within_a_round(ledger):
    with ledger.round():
        lease = ledger.lease("a", 100, sequence=0)
        with pytest.raises(OverBudget):
            ledger.lease("b", 1, sequence=0)
        ledger.note_dropped(1, 1, sequence=0)
    assert sums(ledger) == (100, 0, 100, 0)
    assert ledger.statement().dropped_messages == 1
    assert ledger.journal.open_leases() == [lease]


def test_a_ledger_continues_from_its_journal_and_a_replay_changes_nothing(tmp_path):
    def play(ledger):
        with ledger.round():
            ledger.grant(100, sequence=0)
            lease = ledger.lease("a", 60, sequence=0)
        ledger.settle(lease, [entry(lease, 25)])
        ledger.receive([receipt(25)])
        ledger.release(ledger.lease("b", 5, sequence=0))
        ledger.note_dropped(3, 90, sequence=0)
        ledger.withdraw(20, sequence=0)
        ledger.fence("c", epoch=0)
        return ledger.lease("a", 10, sequence=1), sums(ledger), ledger.statement(), ledger.epoch("c")

    with Ledger(Journal(tmp_path / "journal.sqlite")) as ledger:
        first = play(ledger)
        digest = ledger.journal.digest()
    with Ledger(Journal(tmp_path / "journal.sqlite")) as ledger:
        assert (ledger.statement(), ledger.epoch("c")) == first[2:]
        assert play(ledger) == first
        assert ledger.journal.digest() == digest
        ledger.settle(first[0], [entry(first[0], 10)])
        assert sums(ledger) == (80, 35, 0, 45)


def test_the_budget_is_remembered_and_cannot_be_changed_under_a_journal(tmp_path):
    with Ledger(Journal(tmp_path / "j"), budget=Budget(None)) as ledger:
        ledger.lease("a", 5, sequence=0)
    with Ledger(Journal(tmp_path / "j")) as ledger:
        ledger.lease("a", 6, sequence=1)
        assert sums(ledger) == (11, 0, 11, 0)
        with pytest.raises(JournalError, match="a row never changes"):
            Ledger(ledger.journal, budget=Budget(5, "step"))


def test_threads_never_lease_more_than_there_is(ledger):
    given = []

    def work(holder):
        with contextlib.suppress(OverBudget):
            given.extend(ledger.lease(holder, 2, sequence) for sequence in range(20))

    threads = [threading.Thread(target=work, args=(f"host-{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given) == 50
    assert sums(ledger) == (100, 0, 100, 0)
