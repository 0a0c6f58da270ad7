import contextlib
import threading

import numpy as np
import pytest

from commlib.budget import Budget
from commlib.compact import compact
from commlib.errors import BudgetError, ConfigError, JournalError, LeaseError, OverBudget
from commlib.journal import MAIN, Journal
from commlib.ledger import Entry, Lease, Ledger, Receipt, Statement, Terms


def entry(lease, bits, *, sender=0, receivers=(1,), round=0, n_messages=1):
    return Entry(lease.epoch, lease.sequence, round, sender, receivers, n_messages, bits, bits // 2, lease.holder)


def receipt(bits=10, *, holder="b", epoch=0, sequence=0, round=0, sender=0, receiver=1):
    return Receipt(holder, epoch, sequence, round, sender, receiver, 1, bits)


def sums(ledger, account=MAIN):
    now = ledger.statement(account)
    assert now.spent + now.leased + now.available == now.granted
    assert min(now) >= 0
    assert now == ledger.journal.statement(account)
    assert ledger.statements() == {name: totals for name, (_, totals) in ledger.journal.accounts().items()}
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
        lambda: ledger.note("dropped", 1, bits, sequence=0),
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
        assert ledger.note("dropped", 2, 30, sequence=0) == Statement(90, 0, 0, 90, 2, 30, 0)
    for call in (
        lambda: ledger.grant(99, sequence=0),
        lambda: ledger.withdraw(11, sequence=0),
        lambda: ledger.note("dropped", 1, 30, sequence=0),
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


def test_a_grant_that_differs_says_what_to_do_without_any_run(ledger):
    with pytest.raises(
        JournalError, match="a row never changes: count the sequence up for what is new; a run is resumed"
    ):
        ledger.grant(101, sequence=0)
    assert ledger.grant(1, sequence=1).granted == 101


def test_where_nothing_was_granted_the_file_may_be_the_wrong_one(tmp_path):
    path = tmp_path / "boks.sqlite"
    with Ledger(Journal(path)) as ledger:
        with pytest.raises(OverBudget) as caught:
            ledger.lease("a", 5, sequence=0)
        assert str(caught.value) == (
            f"a asked for 5 bits in its lease 0, 0 are left: nothing was granted yet in {path}; grant first, or name the "
            f"right file"
        )
        ledger.grant(4, sequence=0)
        ledger.withdraw(4, sequence=0)
        with pytest.raises(OverBudget, match="0 are left; raise the budget, or send less"):
            ledger.lease("a", 5, sequence=0)
        compact(ledger.journal)
        with pytest.raises(OverBudget, match="0 are left; raise the budget, or send less"):
            ledger.lease("a", 5, sequence=0)


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
        ledger.note("dropped", 1, 1, sequence=0)
        ledger.lease("b", 1000, sequence=0)
    assert (sums(ledger), ledger.journal.digest(), ledger.epoch("a")) == before
    ledger.settle(kept, [entry(kept, 3)])
    assert sums(ledger) == (100, 3, 0, 97)


def test_being_over_budget_can_be_handled_within_a_round(ledger):
    with ledger.round():
        lease = ledger.lease("a", 100, sequence=0)
        with pytest.raises(OverBudget):
            ledger.lease("b", 1, sequence=0)
        ledger.note("dropped", 1, 1, sequence=0)
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
        ledger.note("dropped", 3, 90, sequence=0)
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


# --- other accounts

MESSAGES = Terms("messages", "episode", 50)


@pytest.fixture
def accounts(ledger):
    ledger.open_account("messages", MESSAGES)
    ledger.open_account("latency", Terms("latency", "step", None, agents=(3, 1)))
    ledger.grant(50, 0, account="messages")
    return ledger


def test_each_account_is_a_jar_of_its_own(accounts):
    lease = accounts.lease("a", 20, 0, account="messages")
    bits = accounts.lease("a", 60, 0)
    assert (sums(accounts, "messages"), sums(accounts)) == ((50, 0, 20, 30), (100, 0, 60, 40))
    accounts.settle_at(lease, 15)
    accounts.settle(bits, [entry(bits, 7)])
    assert accounts.withdraw(99, 0, account="messages") == 35
    assert accounts.withdraw(99, 0, account="messages") == 35, "a retry"
    assert (sums(accounts, "messages"), sums(accounts)) == ((15, 15, 0, 0), (100, 7, 0, 93))
    with pytest.raises(OverBudget, match="a asked for 1 messages in its lease 1, 0 are left of 'messages'"):
        accounts.lease("a", 1, 1, account="messages")


def test_an_account_without_a_cap_grows_by_what_a_lease_lacks(accounts):
    accounts.settle_at(accounts.lease("a", 60, 0, account="latency"), 20)
    accounts.lease("a", 50, 1, account="latency")
    assert sums(accounts, "latency") == (70, 20, 50, 0)


def test_an_account_is_opened_once_under_its_terms(accounts, tmp_path):
    accounts.open_account("messages", MESSAGES)
    assert accounts.accounts() == {
        MAIN: Terms("bits", "", 0),
        "latency": Terms("latency", "step", None, agents=(1, 3)),
        "messages": MESSAGES,
    }
    with pytest.raises(JournalError, match="a row never changes"):
        accounts.open_account("messages", MESSAGES._replace(amount=51))
    assert sums(accounts, "messages") == (50, 0, 0, 50)


def test_the_terms_of_the_main_account_are_its_budget():
    with Ledger(budget=Budget(64, "step")) as ledger:
        assert ledger.accounts() == {MAIN: Terms("bits", "step", 64)}
        ledger.open_account(MAIN, Terms("bits", "step", 64))
        with pytest.raises(JournalError, match="a row never changes"):
            ledger.open_account(MAIN, Terms("bits", "step", 65))


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        (Terms("tokens", "step", 1), "an account holds bits, messages, rounds, latency"),
        (Terms("bits", "week", 1), "there are '', 'round', 'step'"),
        (Terms("bits", "step", -1), "out of range"),
        (Terms("bits", "step", 1, agents=()), "no agent at all"),
        (Terms("bits", "step", 1, agents=(1,), edge=(1, 2)), "name one of the two"),
        (Terms("bits", "step", 1, edge=(1, -2)), "out of range"),
    ],
)
def test_terms_that_make_no_sense_are_refused(ledger, terms, said):
    with pytest.raises(BudgetError, match=said):
        ledger.open_account("x", terms)
    with pytest.raises(BudgetError, match="name it in words"):
        ledger.open_account("", MESSAGES)
    assert list(ledger.accounts()) == [MAIN]


def test_an_account_must_be_opened_before_it_is_used(ledger):
    for call in (
        lambda: ledger.grant(1, 0, account="x"),
        lambda: ledger.withdraw(1, 0, account="x"),
        lambda: ledger.lease("a", 1, 0, account="x"),
        lambda: ledger.statement("x"),
        lambda: ledger.note_price("x", 1.0, 0),
        lambda: ledger.settle_at(Lease(0, "a", 0, 0, 1, "x"), 1),
    ):
        with pytest.raises(BudgetError, match="there is no account 'x'; open it"):
            call()


def test_a_settlement_at_an_amount_is_booked_once(accounts):
    lease = accounts.lease("a", 20, 0, account="messages")
    for _ in range(2):
        assert accounts.settle_at(lease, 15).spent == 15
    for other in (14, 21):
        with pytest.raises(LeaseError, match="lease 0 of a .epoch 0. of 'messages' is already settled at 15 units"):
            accounts.settle_at(lease, other)
    with pytest.raises(LeaseError, match="already settled"):
        accounts.release(lease)
    over = accounts.lease("a", 5, 1, account="messages")
    with pytest.raises(LeaseError, match="holds 5 messages, but 6 were sent"):
        accounts.settle_at(over, 6)
    assert sums(accounts, "messages") == (50, 20, 0, 30)


def test_entries_go_to_the_main_account_and_amounts_to_the_others(accounts):
    bits, messages = accounts.lease("a", 5, 0), accounts.lease("a", 5, 0, account="messages")
    with pytest.raises(LeaseError, match="takes no entries; settle it with ledger.settle_at"):
        accounts.settle(messages, [])
    with pytest.raises(LeaseError, match="is settled with its entries"):
        accounts.settle_at(bits, 0)
    with pytest.raises(LeaseError, match="was never given"):
        accounts.settle_at(messages._replace(account="latency"), 1)
    accounts.release(messages)
    accounts.release(bits)
    assert sums(accounts, "messages") == (50, 0, 0, 50)


def test_a_fence_covers_all_accounts_of_a_holder(accounts):
    accounts.lease("a", 5, 0)
    dead = accounts.lease("a", 6, 0, account="messages")
    accounts.lease("b", 7, 0, account="messages")
    accounts.fence("a")
    assert (sums(accounts), sums(accounts, "messages")) == ((100, 5, 0, 95), (50, 6, 7, 37))
    with pytest.raises(LeaseError, match="already fenced"):
        accounts.settle_at(dead, 1)
    with pytest.raises(LeaseError, match="speaks for epoch 0"):
        accounts.lease("a", 1, 1, epoch=0, account="messages")


def test_a_round_is_one_commit_for_all_accounts(accounts):
    with pytest.raises(OverBudget), accounts.round():
        accounts.lease("a", 5, 0)
        accounts.open_account("more", MESSAGES)
        accounts.grant(9, 0, account="more")
        accounts.note_price("more", 1.0, 0)
        accounts.lease("a", 51, 0, account="messages")
    assert (sums(accounts), sums(accounts, "messages")) == ((100, 0, 0, 100), (50, 0, 0, 50))
    assert "more" not in accounts.accounts()
    assert list(accounts.journal.prices()) == []


def test_what_befell_messages_is_counted_by_kind(ledger):
    for _ in range(2):
        ledger.note("dropped", 2, 30, 0)
        ledger.note("degraded", 3, 10, 0)
        ledger.note("deferred", 4, 0, 0)
    ledger.note("degraded", 1, 1, 1)
    now = ledger.statement()
    assert (now.dropped_messages, now.dropped_bits, now.degraded_messages, now.deferred_messages) == (2, 30, 4, 4)
    assert now == ledger.journal.statement()
    with pytest.raises(BudgetError, match="'lost' is unknown; there are dropped, degraded, deferred"):
        ledger.note("lost", 1, 1, 0)


@pytest.mark.parametrize("price", [-0.1, float("nan"), float("inf")])
def test_a_price_is_a_number_of_at_least_0(ledger, price):
    with pytest.raises(BudgetError, match="a price of"):
        ledger.note_price(MAIN, price, 0)


# --- deadlines


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def timed(clock):
    with Ledger(clock=clock) as ledger:
        ledger.open_account("messages", MESSAGES)
        ledger.grant(100, 0)
        ledger.grant(50, 0, account="messages")
        yield ledger


def test_a_lease_past_its_deadline_counts_as_spent(timed, clock):
    soon, later = timed.lease("a", 10, 0, seconds=2), timed.lease("a", 20, 1, seconds=2.5)
    timed.lease("a", 30, 2)
    counted = timed.lease("b", 5, 0, account="messages", seconds=2)
    assert (soon.deadline, later.deadline) == (1_002_000, 1_002_500)
    clock.now += 1.999
    assert timed.expire() == []
    clock.now += 0.001
    assert timed.expire() == [soon, counted]
    assert timed.expire() == []
    assert (sums(timed), sums(timed, "messages")) == ((100, 10, 50, 40), (50, 5, 0, 45))


def test_a_lease_past_its_deadline_can_still_be_settled_until_somebody_ends_it(timed, clock):
    lease = timed.lease("a", 10, 0, seconds=0)
    clock.now += 99
    timed.settle(lease, [entry(lease, 4)])
    assert timed.expire() == []
    assert sums(timed) == (100, 4, 0, 96)


def test_a_late_settlement_closes_an_expired_lease_once_and_truthfully(timed, clock):
    lease = timed.lease("a", 10, 0, seconds=1)
    counted = timed.lease("a", 5, 0, account="messages", seconds=1)
    clock.now += 1
    timed.expire()
    for _ in range(2):
        timed.settle(lease, [entry(lease, 4)])
        timed.settle_at(counted, 2)
    assert (sums(timed), sums(timed, "messages")) == ((100, 4, 0, 96), (50, 2, 0, 48))
    with pytest.raises(LeaseError, match="already late at 4 bits"):
        timed.settle(lease, [entry(lease, 5)])
    with pytest.raises(LeaseError, match="already late at 2 units"):
        timed.release(counted)
    assert timed.lease("a", 10, 0) == lease, "a retry of the lease itself"


def test_a_late_holder_may_have_sent_nothing_or_too_much(timed, clock):
    unused, over = timed.lease("a", 10, 0, seconds=1), timed.lease("a", 20, 1, seconds=1)
    clock.now += 1
    timed.expire()
    for _ in range(2):
        timed.release(unused)
    with pytest.raises(LeaseError, match="holds 20 bits, but 21 were sent"):
        timed.settle(over, [entry(over, 21)])
    assert sums(timed) == (100, 20, 0, 80)
    with pytest.raises(LeaseError, match="already overspent"):
        timed.settle(over, [entry(over, 20)])


def test_a_late_report_of_a_fenced_holder_is_refused(timed, clock):
    lease = timed.lease("a", 10, 0, seconds=1)
    clock.now += 1
    timed.expire()
    timed.fence("a")
    for call in (lambda: timed.settle(lease, [entry(lease, 4)]), lambda: timed.release(lease)):
        with pytest.raises(LeaseError, match="speaks for epoch 0"):
            call()
    assert sums(timed) == (100, 10, 0, 90)


def test_a_retry_of_a_lease_keeps_its_first_deadline(timed, clock, tmp_path):
    lease = timed.lease("a", 10, 0, seconds=1)
    assert timed.lease("a", 10, 0, seconds=50) == timed.lease("a", 10, 0) == lease
    for seconds in (-1, float("nan")):
        with pytest.raises(BudgetError, match="makes no sense"):
            timed.lease("a", 10, 1, seconds=seconds)


def test_another_process_may_end_what_has_expired(tmp_path, clock):
    with Ledger(Journal(tmp_path / "j"), clock=clock) as first, Ledger(Journal(tmp_path / "j"), clock=clock) as second:
        first.grant(10, 0)
        lease = first.lease("a", 10, 0, seconds=1)
        clock.now += 1
        assert second.expire() == [lease]
        assert sums(first) == (10, 10, 0, 0)
        first.release(lease)
        assert sums(second) == (10, 0, 0, 10)
