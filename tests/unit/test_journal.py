import gc
import sqlite3
import threading

import pytest

from commlib.errors import JournalError, OverBudget
from commlib.journal import SCHEMA_VERSION, Entry, Journal, Price, Receipt, Statement, Terms
from commlib.ledger import Ledger


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.sqlite"


def play(ledger, n_rounds=3):
    for r in range(n_rounds):
        with ledger.round():
            ledger.grant(100, r)
            lease = ledger.lease("a", 80, r)
            ledger.settle(lease, [Entry(0, r, r, 0, (1, 2), 2, 30, 20, "a"), Entry(0, r, r, 1, (2,), 1, 9, 5, "a")])
            ledger.receive([Receipt("b", 0, r, r, 0, receiver, 2, 30) for receiver in (1, 2)])
            ledger.withdraw(100, r)


def test_a_closed_journal_is_a_single_file(path):
    with Ledger(Journal(path)) as ledger:
        play(ledger)
        ledger.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_entries_and_receipts_come_back_by_round(path):
    with Ledger(Journal(path)) as ledger:
        play(ledger, 2)
    with Journal.reader(path) as journal:
        assert list(journal.entries()) == [
            Entry(0, r, r, sender, receivers, n, bits, payload, "a")
            for r in range(2)
            for sender, receivers, n, bits, payload in ((0, (1, 2), 2, 30, 20), (1, (2,), 1, 9, 5))
        ]
        assert [e.round for e in journal.entries(("a", 0, 1))] == [1, 1]
        assert len(list(journal.receipts())) == 4


def test_the_same_play_gives_the_same_digest_and_another_one_does_not(path):
    with Ledger(Journal(path)) as on_disk, Ledger() as in_memory, Ledger() as longer:
        on_disk.journal.set_meta("run", "one")
        in_memory.journal.set_meta("run", "two")
        play(on_disk)
        play(in_memory)
        play(longer, 4)
        assert on_disk.journal.digest() == in_memory.journal.digest() != longer.journal.digest()
        in_memory.receive([Receipt("b", 0, 9, 9, 0, 1, 1, 1)])
        assert on_disk.journal.digest() != in_memory.journal.digest()


def test_the_digest_does_not_depend_on_the_order_of_calls():
    digests = set()
    for holders in ("ab", "ba"):
        with Ledger() as ledger:
            ledger.grant(100, 0)
            for holder in holders:
                ledger.lease(holder, 10, 0)
            digests.add(ledger.journal.digest())
    assert len(digests) == 1


def test_a_fact_is_noted_once(path):
    with Journal(path) as journal:
        journal.set_meta("charging_rule", {"per": "link", "header": True})
    with Journal(path) as journal:
        journal.set_meta("charging_rule", {"header": True, "per": "link"})
        assert journal.meta("charging_rule") == {"per": "link", "header": True}
        assert journal.meta("other") is None
        with pytest.raises(JournalError, match="a row never changes"):
            journal.set_meta("charging_rule", "per broadcast")


def test_a_killed_run_keeps_what_was_committed_and_only_that(path):
    ledger = Ledger(Journal(path))
    play(ledger, 2)
    digest = ledger.journal.digest()
    with pytest.raises(JournalError, match="is closed"), ledger.round():
        ledger.grant(7, 100)
        ledger.journal._connection.close()  # the process is gone: no rollback, no checkpoint
    assert ledger.statement().granted == 78
    with Ledger(Journal(path)) as reopened:
        assert reopened.journal.digest() == digest
        assert reopened.statement() == ledger.statement()


def test_a_closed_journal_says_so(path):
    with Ledger(Journal(path)) as ledger:
        play(ledger)
    before = ledger.statement()
    for call in (lambda: ledger.grant(1, 50), ledger.journal.digest, lambda: list(ledger.journal.entries())):
        with pytest.raises(JournalError, match="is closed"):
            call()
    assert ledger.statement() == before


def test_a_locked_file_stops_the_booking_and_moves_no_bits(path):
    with Ledger(Journal(path, busy_seconds=0.0)) as ledger:
        play(ledger)
        before = ledger.statement()
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match="was locked by another process"):
            ledger.grant(5, 50)
        assert ledger.statement() == before
        other.execute("ROLLBACK")
        other.close()
        assert ledger.grant(5, 50).granted == before.granted + 5


def test_a_full_disk_stops_the_booking_and_takes_the_whole_round_back(path):
    with Ledger(Journal(path)) as ledger:
        play(ledger)
        before, digest = ledger.statement(), ledger.journal.digest()
        (n_pages,) = ledger.journal._connection.execute("PRAGMA page_count").fetchone()
        ledger.journal._connection.execute(f"PRAGMA max_page_count = {n_pages}")
        with pytest.raises(JournalError, match="its disk is full"), ledger.round():
            ledger.grant(5, 50)
            ledger.receive(Receipt("b", 0, r, r, 0, 1, 1, 1) for r in range(100, 2000))
        assert (ledger.statement(), ledger.journal.digest()) == (before, digest)
        ledger.journal._connection.execute("PRAGMA max_page_count = 100000")
        assert ledger.grant(5, 50).granted == before.granted + 5


def test_a_round_in_which_a_booking_failed_cannot_be_committed_by_swallowing_the_error(path):
    with Ledger(Journal(path)) as ledger:
        play(ledger)
        before, digest = ledger.statement(), ledger.journal.digest()
        with pytest.raises(JournalError, match="one booking failed"), ledger.round():
            ledger.grant(5, 50)
            with pytest.raises(JournalError, match="a row never changes"):
                ledger.grant(99, 0)
        assert (ledger.statement(), ledger.journal.digest()) == (before, digest)


def test_an_interrupt_just_after_the_commit_leaves_memory_as_the_disk(path):
    with Ledger(Journal(path)) as ledger:
        commit = ledger.journal._commit

        def commit_and_interrupt():
            commit()
            raise KeyboardInterrupt

        ledger.journal._commit = commit_and_interrupt
        with pytest.raises(KeyboardInterrupt):
            ledger.grant(5, 0)
        assert ledger.statement() == ledger.journal.statement()
        assert ledger.statement().granted == 5


def test_two_writers_begin_each_round_with_what_the_other_wrote(path):
    with Ledger(Journal(path)) as first, Ledger(Journal(path)) as second:
        first.grant(100, 0)
        lease = second.lease("a", 70, 0)
        assert first.statement() == second.statement() == Statement(100, 0, 70, 30)
        with pytest.raises(OverBudget, match="30 are left"):
            first.lease("b", 31, 0)
        first.settle(lease, [Entry(0, 0, 0, 0, (1,), 1, 50, 20, "a")])
        assert second.lease("b", 50, 0).bits == 50
        assert second.fence("b") == 1 == first.epoch("b")
        first.open_account("messages", Terms("messages", "step", 5))
        assert second.grant(5, 0, account="messages").available == 5
        for ledger in (first, second):
            assert ledger.statement() == ledger.journal.statement() == Statement(100, 100, 0, 0, 0, 0, 1)
            assert ledger.journal.open_leases() == ledger.journal.held() == []


def test_the_same_run_played_twice_into_one_file_books_nothing_twice(path):
    with Ledger(Journal(path)) as first, Ledger(Journal(path)) as second:
        play(first, 2)
        play(second, 3)
        play(first, 3)
        with Ledger() as alone:
            play(alone, 3)
            assert first.journal.digest() == second.journal.digest() == alone.journal.digest()
        with pytest.raises(JournalError, match="a row never changes"):
            second.grant(101, 2)


def test_two_ledgers_of_one_journal_see_one_jar(path):
    with Journal(path) as journal:
        first, second = Ledger(journal), Ledger(journal)
        first.grant(10, 0)
        lease = second.lease("a", 10, 0)
        first.release(lease)
        assert first.statement() == second.statement() == journal.statement() == Statement(10, 0, 0, 10)


def test_a_reader_sees_a_running_journal_changes_nothing_and_does_not_disturb(path):
    with Ledger(Journal(path)) as ledger:
        play(ledger, 1)
        with Journal.reader(path) as reader, reader.reading():
            digest = reader.digest()
            ledger.grant(1, 50)
            assert reader.digest() == digest != ledger.journal.digest()
        with Journal.reader(path) as reader:
            assert reader.digest() == ledger.journal.digest()
            with pytest.raises(JournalError, match="is read-only"):
                Ledger(reader).grant(1, 51)
        ledger.grant(1, 51)


def test_there_must_be_something_to_read(path):
    with pytest.raises(JournalError, match="there is no journal"):
        Journal.reader(path)


def test_a_missing_folder_is_named(path):
    with pytest.raises(JournalError, match="check that its folder exists"):
        Journal(path.parent / "nowhere" / "journal.sqlite")


def test_a_file_of_another_kind_is_refused(path):
    path.write_text("this is no database, but it is long enough to look like one " * 20)
    for open_it in (Journal, Journal.reader):
        with pytest.raises(JournalError, match="is damaged or is no journal"):
            open_it(path)


def test_a_truncated_file_is_refused(path):
    with Ledger(Journal(path)) as ledger:
        play(ledger, 200)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 // 4096 * 4096])
    with pytest.raises(JournalError, match="damaged"), Journal(path) as journal:
        journal.digest()


def test_another_database_or_schema_is_refused(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE cats (name TEXT)")
    connection.close()
    with pytest.raises(JournalError, match="is not a journal of commlib"):
        Journal(path)
    newer = path.with_name("newer.sqlite")
    Journal(newer).close()
    connection = sqlite3.connect(newer)
    connection.execute(f"UPDATE schema_version SET version = {SCHEMA_VERSION + 1}")
    connection.commit()
    connection.close()
    for open_it in (Journal, Journal.reader):
        with pytest.raises(JournalError, match=f"has schema {SCHEMA_VERSION + 1}, this commlib reads schemas 1 to"):
            open_it(newer)


def test_a_database_that_is_not_ours_stays_as_it_is(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE cats (name TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(JournalError, match="is not a journal of commlib"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_forgotten_journal_frees_its_file_without_a_warning(path):
    Ledger(Journal(path)).grant(5, 0)
    gc.collect()
    with Ledger(Journal(path)) as ledger:
        assert ledger.statement().granted == 5


@pytest.mark.parametrize("n", [0, 1, 127, 128, 129, 300])
def test_many_receipts_at_once_are_the_rows_of_as_many_calls(n):
    receipts = [Receipt("a", 0, 0, 0, s, s + 1, 1, s) for s in range(n)]
    at_once, one_by_one = Journal.in_memory(), Journal.in_memory()
    at_once.add_receipts(receipts)
    for receipt in receipts:
        one_by_one.add_receipts([receipt])
    assert list(at_once.receipts()) == receipts
    assert at_once.digest() == one_by_one.digest()
    at_once.add_receipts(receipts)
    assert list(at_once.receipts()) == receipts, "a retry changes nothing"
    for which in {0, n // 2, n - 1} if n else ():
        other = [*receipts[:which], receipts[which]._replace(bits=10**6), *receipts[which + 1 :]]
        with pytest.raises(JournalError, match="a row never changes"):
            at_once.add_receipts(other)


def test_prices_are_noted_once_and_the_last_one_is_for_a_warm_start(path):
    with Ledger(Journal(path)) as ledger:
        assert ledger.journal.last_price("bits") is None
        for _ in range(2):
            ledger.note_price("bits", 0.1 + 0.2, 3)
            ledger.note_price("bits", 0.5, 12)
        with pytest.raises(JournalError, match="a row never changes"):
            ledger.note_price("bits", 0.4, 12)
    with Ledger(Journal(path)) as ledger:
        assert ledger.journal.last_price("bits") == 0.5
        assert list(ledger.journal.prices()) == [Price("bits", 3, 0.1 + 0.2), Price("bits", 12, 0.5)]
        assert list(ledger.journal.prices("other")) == []


def test_accounts_notes_and_prices_change_the_digest_but_deadlines_do_not():
    def digest(*calls):
        with Ledger(clock=lambda: 50.0) as ledger:
            ledger.grant(10, 0)
            for call in calls:
                call(ledger)
            return ledger.journal.digest()

    terms = Terms("messages", "step", 3)
    digests = [
        digest(),
        digest(lambda ledger: ledger.open_account("m", terms)),
        digest(lambda ledger: ledger.open_account("m", terms), lambda ledger: ledger.grant(1, 0, account="m")),
        digest(lambda ledger: ledger.note_price("bits", 1, 0)),
        *(digest(lambda ledger, kind=kind: ledger.note(kind, 1, 1, 0)) for kind in ("dropped", "degraded", "deferred")),
        digest(lambda ledger: ledger.lease("a", 5, 0)),
    ]
    assert len(set(digests)) == len(digests)
    assert digest(lambda ledger: ledger.lease("a", 5, 0, seconds=9)) == digests[-1]


class Crash(Exception):
    """The power is gone."""


def test_a_crash_anywhere_while_a_journal_is_made_leaves_a_file_that_can_be_opened(path, monkeypatch):
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        left = 0

        def execute(self, sql, *parameters):
            if not sql.startswith(("PRAGMA", "SELECT", "BEGIN")):
                Connection.left -= 1
                if Connection.left == 0:
                    self.close()
                    raise Crash
            return super().execute(sql, *parameters)

    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, **kwargs, factory=Connection))
    Journal(path.with_name("whole.sqlite")).close()
    n_needed = -Connection.left
    assert n_needed > 10
    for nth in range(1, n_needed + 1):
        crashed = path.with_name(f"{nth}.sqlite")
        Connection.left = nth
        with pytest.raises(Crash):
            Journal(crashed)
        with Ledger(Journal(crashed)) as ledger:
            assert ledger.grant(1, 0).granted == 1


# --- reads from other threads

RECEIPT = Receipt("b", 0, 9, 9, 0, 1, 1, 7)
READS = {
    "meta": lambda journal: journal.meta("fact"),
    "accounts": lambda journal: journal.accounts(),
    "statement": lambda journal: journal.statement(),
    "statements": lambda journal: journal.statements(),
    "epochs": lambda journal: journal.epochs(),
    "open leases": lambda journal: journal.open_leases(),
    "lease": lambda journal: journal.lease(("a", 1, 9)),
    "leases": lambda journal: list(journal.leases()),
    "receipt": lambda journal: journal.has_receipt(RECEIPT),
    "entries": lambda journal: list(journal.entries()),
    "receipts": lambda journal: list(journal.receipts()),
    "prices": lambda journal: list(journal.prices()),
    "last price": lambda journal: journal.last_price("bits"),
    "carried": lambda journal: journal.carried(),
    "digest": lambda journal: journal.digest(),
    "rows": lambda journal: list(journal.rows("SELECT * FROM notes")),
}


def book_everything(ledger):
    """Something that each of the reads would see."""
    ledger.journal.set_meta("fact", 1)
    ledger.open_account("m", Terms("messages", "step", 3))
    ledger.grant(1000, 9)
    ledger.fence("a")
    lease = ledger.lease("a", 80, 8)
    ledger.settle(lease, [Entry(1, 8, 8, 0, (1,), 1, 30, 20, "a")])
    ledger.lease("a", 5, 9)
    ledger.receive([RECEIPT])
    ledger.note("dropped", 1, 2, 9)
    ledger.note_price("bits", 0.5, 9)
    ledger.journal.execute("INSERT INTO carried VALUES ('', '', 1, 0, 0, 0, 0)")


def test_other_threads_read_nothing_of_a_round_that_is_under_way(path):
    with Ledger(Journal(path)) as ledger:
        play(ledger)
        before = {name: read(ledger.journal) for name, read in READS.items()}
        seen = {}

        def look(name, read):
            seen[name] = read(ledger.journal)

        threads = [threading.Thread(target=look, args=item) for item in READS.items()]
        with pytest.raises(ZeroDivisionError), ledger.round():
            book_everything(ledger)
            inside = {name: read(ledger.journal) for name, read in READS.items()}
            assert [name for name in READS if inside[name] == before[name]] == [], "one's own round is seen"
            for thread in threads:
                thread.start()
            threads[0].join(0.2)
            assert seen == {}, "they wait"
            _ = 1 / 0
        for thread in threads:
            thread.join()
        assert seen == before


def test_what_a_thread_iterates_over_is_of_one_moment_and_stands_in_nobodys_way(path):
    with Ledger(Journal(path)) as ledger:
        play(ledger)
        entries = ledger.journal.entries()
        first = next(entries)
        thread = threading.Thread(target=play, args=(ledger, 6))
        thread.start()
        thread.join()
        assert len([first, *entries]) == 6
        assert len(list(ledger.journal.entries())) == 12
