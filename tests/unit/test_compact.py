import shutil
import sqlite3

import pytest

from commlib.audit import audit
from commlib.compact import compact
from commlib.errors import JournalError, LeaseError
from commlib.journal import MAIN, Entry, Journal, Receipt, Terms
from commlib.ledger import Budget, Ledger

COUNTED, PAIR = "messages/step", "bits of agent 2"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.sqlite"


@pytest.fixture
def ledger(path):
    with Ledger(Journal(path), budget=Budget(100, "step"), clock=Clock()) as ledger:
        ledger.open_account(COUNTED, Terms("messages", "step", 8))
        ledger.open_account(PAIR, Terms("bits", "run", None, agents=(2,)))
        for number in range(20):
            play_round(ledger, number)
        yield ledger


def play_round(ledger, number, *, shift=0):
    """Agent 0 on host a tells 1 and 2, agent 2 on host b tells 0; sequences are rounds unless they are shifted."""
    sequence = number + shift
    with ledger.round():
        ledger.grant(100, 2 * sequence)
        ledger.grant(8, 2 * sequence, account=COUNTED)
        for holder, sender, receivers, bits in (("a", 0, (1, 2), 30), ("b", 2, (0,), 12 + number % 20)):
            lease = ledger.lease(holder, 40, sequence)
            ledger.settle(lease, [Entry(0, sequence, number, sender, receivers, 4, bits, 8, holder)])
            ledger.settle_at(ledger.lease(holder, 4, sequence, account=COUNTED), 4)
        ledger.settle_at(ledger.lease("b", 40, sequence, account=PAIR), 12 + number % 20)
        ledger.receive([Receipt("a", 0, sequence, number, 2, 0, 4, 12 + number % 20)])
        ledger.receive([Receipt("b", 0, sequence, number, 0, receiver, 4, 30) for receiver in (1, 2)])
        ledger.withdraw(100, 2 * sequence + 1)
    ledger.note("dropped", 1, 5, number)
    ledger.note_price(MAIN, number / 3, number)


def what_stays(ledger):
    report = audit(ledger.journal)
    assert report.differences == []
    totals = {name: total for name, (_, total) in ledger.journal.accounts().items()}
    assert report.accounts == ledger.statements() == totals
    return (*report[:-1], ledger.journal.digest(), ledger.journal.last_price(MAIN), ledger.epoch("a"))


def n_rows(journal, table):
    return next(iter(journal.rows(f"SELECT COUNT(*) FROM {table}")))[0]


def test_everything_that_was_told_is_told_as_before(ledger, path):
    before = what_stays(ledger)
    done = compact(ledger.journal)
    assert (done.n_leases, done.n_entries, done.n_receipts, done.n_allowances) == (100, 40, 60, 60)
    assert what_stays(ledger) == before
    assert [n_rows(ledger.journal, table) for table in ("leases", "entries", "receipts", "allowances")] == [0] * 4
    assert audit(ledger.journal).explanations == [
        "40 entries and their receipts were compacted: of these only the sums can be reconciled"
    ]
    ledger.close()
    with Ledger(Journal(path)) as reopened:
        assert what_stays(reopened) == before


def test_no_lease_has_the_id_of_one_that_is_gone(ledger, path):
    ids = {record.lease.id for account in (MAIN, COUNTED, PAIR) for record in ledger.journal.leases(account)}
    for number in (20, 21):
        compact(ledger.journal)
        play_round(ledger, number)
        new = {record.lease.id for account in (MAIN, COUNTED, PAIR) for record in ledger.journal.leases(account)}
        assert len(new) == 5
        assert min(new) > max(ids)
        ids |= new
    compact(ledger.journal)
    ledger.close()
    with Ledger(Journal(path)) as reopened:
        assert reopened.lease("a", 0, 22).id == max(ids) + 1
    with Journal(path) as journal:
        compact(journal)
        assert journal.open_leases()[0].id == max(ids) + 1


def test_the_file_shrinks(path):
    with Ledger(Journal(path)) as ledger:
        ledger.open_account(COUNTED, Terms("messages", "step", 8))
        ledger.open_account(PAIR, Terms("bits", "run", None, agents=(2,)))
        for number in range(400):
            play_round(ledger, number)
        done = compact(ledger.journal)
        assert done.bytes_after == path.stat().st_size < done.bytes_before / 2


def test_the_books_go_on_after_it_with_a_digest_of_their_own(ledger):
    before = ledger.journal.digest()
    compact(ledger.journal)
    play_round(ledger, 20)
    after = ledger.journal.digest()
    assert after != before
    audited = what_stays(ledger)
    compact(ledger.journal)
    assert ledger.journal.digest() == after
    assert what_stays(ledger) == audited
    compact(ledger.journal)
    assert what_stays(ledger) == audited, "a second time, there is nothing to do"


def test_the_same_goes_for_sequences_that_are_no_rounds(path):
    with Ledger(Journal(path)) as ledger:
        ledger.open_account(COUNTED, Terms("messages", "step", 8))
        ledger.open_account(PAIR, Terms("bits", "run", None, agents=(2,)))
        ledger.grant(100, 0)
        ledger.lease("c", 7, 3)
        waiting = ledger.lease("c", 9, 3, account=PAIR)
        for number in range(1, 6):
            play_round(ledger, number, shift=7)
        before = what_stays(ledger)
        assert compact(ledger.journal).n_entries == 10
        assert what_stays(ledger) == before
        assert not ledger.journal.carried().is_by_round
        ledger.settle_at(waiting, 0)
        play_round(ledger, 6, shift=7)
        compact(ledger.journal)
        assert what_stays(ledger)[0] == []


def test_what_is_open_stays_with_its_round_and_all_after_it(ledger):
    ledger.grant(100, 1000)
    lease = ledger.lease("c", 20, 12)
    counted = ledger.lease("c", 3, 15, account=PAIR)
    before = what_stays(ledger)
    assert compact(ledger.journal).n_entries == 24
    assert what_stays(ledger) == before
    assert n_rows(ledger.journal, "entries") == 16
    assert ledger.journal.held() == [lease, counted]
    ledger.release(counted)
    ledger.settle(lease, [Entry(0, 12, 12, 5, (1,), 1, 9, 5, "c")])
    ledger.grant(1, 1000, account=COUNTED)
    ledger.settle_at(ledger.lease("c", 1, 12, account=COUNTED), 1)
    ledger.receive([Receipt("b", 0, 12, 12, 5, 1, 1, 9)])
    assert what_stays(ledger)[0] == []
    assert compact(ledger.journal).n_entries == 17


def test_what_may_be_settled_late_stays_until_its_holder_is_fenced(ledger):
    ledger.grant(100, 1000)
    lease = ledger.lease("c", 20, 18, seconds=1)
    ledger._clock.now += 2
    assert ledger.expire() == [lease]
    compact(ledger.journal)
    ledger.settle(lease, [])
    assert ledger.statement().spent == 20 * 30 + 20 * 12 + sum(range(20))
    dead = ledger.lease("c", 20, 30, seconds=1)
    ledger._clock.now += 2
    ledger.expire()
    ledger.fence("c")
    before = what_stays(ledger)
    compact(ledger.journal)
    assert n_rows(ledger.journal, "leases") == 0
    assert what_stays(ledger) == before
    assert before[5] == 20, "unaccounted"
    with pytest.raises(LeaseError, match="is among what was compacted"):
        ledger.settle(dead, [])


def test_where_sequences_are_no_rounds_nothing_may_be_pending_late(path):
    with Ledger(Journal(path), clock=Clock()) as ledger:
        ledger.grant(100, 0)
        ledger.settle(ledger.lease("a", 9, 0), [Entry(0, 0, 5, 0, (1,), 1, 9, 5, "a")])
        ledger.receive([Receipt("b", 0, 0, 5, 0, 1, 1, 9)])
        ledger.lease("c", 20, 1, seconds=0)
        ledger.expire()
        before = what_stays(ledger)
        with pytest.raises(JournalError, match="1 leases in .* have expired and may still be settled late"):
            compact(ledger.journal)
        assert what_stays(ledger) == before
        assert ledger.journal.carried() is None


def test_a_receipt_that_may_be_of_an_open_lease_or_of_a_dead_holder_must_stay(path):
    with Ledger(Journal(path)) as ledger:
        ledger.grant(100, 0)
        ledger.lease("b", 40, 0)
        ledger.fence("b")
        lease = ledger.lease("a", 30, 0)
        ledger.receive([Receipt("c", 0, 0, 77, 0, 1, 1, 9)])
        assert audit(ledger.journal).differences == [], "b may have spent it"
        with pytest.raises(JournalError, match="1 leases in .* are open, and receipts without a debit may be of them"):
            compact(ledger.journal)
        ledger.settle(lease, [Entry(0, 0, 77, 0, (1,), 1, 9, 5, "a")])
        compact(ledger.journal)
        assert audit(ledger.journal).differences == []


def test_what_a_dead_sender_spent_is_carried_as_recovered(ledger):
    ledger.grant(100, 1000)
    ledger.lease("a", 40, 20)
    ledger.fence("a")
    ledger.receive([Receipt("b", 0, 20, 20, 0, 1, 1, 25), Receipt("b", 0, 20, 20, 0, 2, 1, 25)])
    before = what_stays(ledger)
    assert before[5:7] == (40, 25)
    compact(ledger.journal)
    assert what_stays(ledger) == before


def test_what_a_dead_holder_cost_is_still_said(ledger):
    ledger.grant(100, 1000)
    ledger.lease("a", 40, 20)
    ledger.fence("a")
    assert (
        "account 'bits': 1 lease of a shut out by a fence: all 40 bits count as spent"
        in audit(ledger.journal).explanations
    )
    compact(ledger.journal)
    assert audit(ledger.journal).explanations[0] == (
        "account 'bits': leases that were fenced or had expired were compacted: all 40 bits that they held count as spent"
    )


def test_books_that_do_not_reconcile_stay_as_they_are(ledger):
    ledger.receive([Receipt("b", 0, 50, 50, 0, 1, 1, 9)])
    digest = ledger.journal.digest()
    with pytest.raises(JournalError, match="have 1 difference and stay as they are; the first: round 50, edge 0->1"):
        compact(ledger.journal)
    assert (ledger.journal.digest(), n_rows(ledger.journal, "entries")) == (digest, 40)


def test_a_retry_of_what_is_gone_is_refused_and_moves_nothing(ledger):
    lease = ledger.lease("a", 40, 19)
    counted = ledger.lease("a", 4, 19, account=COUNTED)
    compact(ledger.journal)
    before = what_stays(ledger)
    for kind, call in (
        (LeaseError, lambda: ledger.lease("a", 40, 19)),
        (LeaseError, lambda: ledger.lease("a", 0, 3)),
        (LeaseError, lambda: ledger.settle(lease, [])),
        (LeaseError, lambda: ledger.release(lease)),
        (LeaseError, lambda: ledger.settle_at(counted, 4)),
        (JournalError, lambda: ledger.grant(100, 38)),
        (JournalError, lambda: ledger.grant(8, 2, account=COUNTED)),
        (JournalError, lambda: ledger.withdraw(100, 39)),
        (JournalError, lambda: ledger.receive([Receipt("b", 0, 19, 19, 0, 1, 4, 30)])),
    ):
        with pytest.raises(kind, match="compact"):
            call()
        assert what_stays(ledger) == before
    ledger.note("dropped", 1, 5, 3)
    ledger.note_price(MAIN, 1.0, 3)
    assert what_stays(ledger) == before, "notes and prices are not compacted"


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE carried_edges SET received_bits = received_bits + 1 WHERE receiver = 1", "edge 0->1, before the"),
        ("UPDATE carried_accounts SET spent = spent - 1 WHERE account = 'bits'", "entries were lost or added"),
        ("UPDATE carried_accounts SET granted = granted + 1", "its running total of granted"),
        ("UPDATE carried SET bits_debited = bits_debited + 1", "entries were lost or added"),
        ("UPDATE carried_accounts SET account = 'x' WHERE account = 'bits of agent 2'", "never opened"),
    ],
)
def test_sums_that_were_changed_are_found(ledger, sql, said):
    compact(ledger.journal)
    assert ledger.journal.execute(sql) >= 1
    assert any(said in str(difference) for difference in audit(ledger.journal).differences)


def test_a_reader_cannot_compact(ledger, path):
    with Journal.reader(path) as reader, pytest.raises(JournalError, match="is read-only"):
        compact(reader)


class Crash(Exception):
    """The power is gone."""


def test_a_crash_anywhere_leaves_the_books_as_they_were(ledger, path, tmp_path, monkeypatch):
    before = what_stays(ledger)
    ledger.close()
    n_statements, connect = 0, sqlite3.connect

    class Connection(sqlite3.Connection):
        left = 10**9

        def strike(self, sql):
            nonlocal n_statements
            if not sql.lstrip().startswith(("PRAGMA", "SELECT", "BEGIN", "WITH")):
                n_statements += 1
                if n_statements == self.left:
                    self.close()
                    raise Crash

        def execute(self, sql, *parameters):
            self.strike(sql)
            return super().execute(sql, *parameters)

        def executemany(self, sql, rows):
            self.strike(sql)
            return super().executemany(sql, rows)

    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, **kwargs, factory=Connection))
    with Journal(shutil.copy(path, tmp_path / "whole.sqlite")) as journal:
        compact(journal)
    n_needed = n_statements
    assert n_needed > 10
    for Connection.left in range(2, n_needed + 1):  # the first one is the commit of opening the file
        n_statements = 0
        crashed = shutil.copy(path, tmp_path / f"{Connection.left}.sqlite")
        with pytest.raises(Crash), Journal(crashed) as journal:
            compact(journal)
        with Ledger(Journal(crashed)) as ledger:
            assert what_stays(ledger) == before
            is_shrinking = Connection.left == n_needed
            assert n_rows(ledger.journal, "entries") == (0 if is_shrinking else 40), Connection.left
