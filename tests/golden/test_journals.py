"""Books of every schema that commlib ever wrote are read, audited and continued.

`journal-vN.sqlite` was written by the first commlib of schema N and never changes. A new schema adds the file of its own,
made by

    COMMLIB_GOLDEN=add python -m pytest tests/golden/test_journals.py

with one of everything that the schema can hold in it (`play` below), and its figures here in `FILES`.
"""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from commlib.audit import audit
from commlib.compact import compact
from commlib.errors import JournalError, LeaseError
from commlib.journal import MAIN, SCHEMA_VERSION, Entry, Journal, Lease, Receipt, Statement, Terms
from commlib.ledger import Budget, Ledger
from commlib.schema import STEPS

FOLDER = Path(__file__).parent
VERSION_1 = FOLDER / "journal-v1.sqlite"
DIGESTS = {
    1: "0b04e3779040080fe29b32306f269c825e0a290f5e83c2d02fa03b6258c62de1",
    2: "4ae165bb87cda3b1b3e320d077774e0575fd15694211573c2b0bbd3580aa3eb7",
}


def golden(version):
    return FOLDER / f"journal-v{version}.sqlite"


def play(path):
    """Books with one of everything: compacted, settled, released, fenced, expired, late and open leases, in four accounts."""
    now = [0.0]
    with Ledger(Journal(path), budget=Budget(200, "step"), clock=lambda: now[0]) as ledger:
        ledger.journal.set_meta("charging_rule", "broadcast")
        ledger.open_account("messages/step", Terms("messages", "step", 20))
        ledger.open_account("bits/run of agents 2 and 3", Terms("bits", "run", 400, agents=(2, 3)))
        ledger.open_account("bits/run on 0->1", Terms("bits", "run", None, edge=(0, 1)))
        ledger.grant(400, 0, account="bits/run of agents 2 and 3")
        for number in range(6):
            play_round(ledger, number)
            if number % 2:
                ledger.note("dropped", number, 10 * number, number)
                ledger.note("degraded", 1, 5, number)
                ledger.note("deferred", 2, 7, number)
                ledger.note_price(MAIN, number / 7, number)
            if number == 2:
                compact(ledger.journal)
        ledger.grant(500, 100)
        ledger.lease("host-1", 60, 100)
        ledger.fence("host-1")
        ledger.receive([Receipt("host-0", 0, 100, 100, 2, 0, 4, 40)])
        slow = ledger.lease("host-0", 50, 101, seconds=2)
        ledger.lease("host-2", 40, 101, seconds=3)
        now[0] = 4.0
        assert len(ledger.expire()) == 2
        ledger.settle(slow, [Entry(0, 101, 101, 0, (1,), 1, 20, 10, "host-0")])
        ledger.receive([Receipt("host-0", 0, 101, 101, 0, 1, 1, 20)])
        ledger.grant(20, 200, account="messages/step")
        close(ledger, "host-0", 20, 101, "messages/step", 1)
        close(ledger, "host-0", 20, 101, "bits/run on 0->1", 20)
        ledger.lease("host-0", 10, 102)
        ledger.release(ledger.lease("host-0", 20, 103))


def play_round(ledger, number):
    ledger.grant(200, 2 * number)
    ledger.grant(20, 2 * number, account="messages/step")
    with ledger.round():
        for h in range(2):
            lease = ledger.lease(f"host-{h}", 100, number)
            receivers = tuple(sorted({0, 1, 2, 3} - {2 * h}))
            rows = [Entry(0, number, number, 2 * h, receivers, 4, 30 + number, 20, lease.holder)]
            ledger.settle(lease, rows)
            ledger.receive(Receipt(f"host-{r // 2}", 0, number, number, 2 * h, r, 4, 30 + number) for r in receivers)
            close(ledger, f"host-{h}", 10, number, "messages/step", 4)
        close(ledger, "host-1", 60, number, "bits/run of agents 2 and 3", 30 + number)
        close(ledger, "host-0", 60, number, "bits/run on 0->1", 30 + number)
    ledger.withdraw(200, 2 * number + 1)
    ledger.withdraw(20, 2 * number + 1, account="messages/step")


def close(ledger, holder, held, number, account, amount):
    ledger.settle_at(ledger.lease(holder, held, number, account=account), amount)


def test_there_are_golden_books_of_every_schema():
    if os.environ.get("COMMLIB_GOLDEN") == "add" and not golden(SCHEMA_VERSION).exists():
        play(golden(SCHEMA_VERSION))
    versions = range(1, SCHEMA_VERSION + 1)
    assert sorted(FOLDER.glob("journal-v*.sqlite")) == [golden(version) for version in versions]
    assert sorted(DIGESTS) == list(versions)
    assert sorted(STEPS) == list(versions)[:-1], "each schema has a step to the next one"


@pytest.mark.parametrize("version", DIGESTS)
def test_they_are_what_they_are_called(version):
    connection = sqlite3.connect(f"{golden(version).as_uri()}?mode=ro&immutable=1", uri=True)
    assert connection.execute("SELECT version FROM schema_version").fetchone() == (version,)
    connection.close()


@pytest.mark.parametrize("version", DIGESTS)
def test_they_are_audited_as_they_are(version):
    before = golden(version).read_bytes()
    with Journal.reader(golden(version)) as journal:
        assert audit(journal).differences == []
        assert journal.digest() == DIGESTS[version]
        with pytest.raises(JournalError, match="is read-only"):
            Ledger(journal).grant(1, 1000)
    assert golden(version).read_bytes() == before
    assert [file.name for file in FOLDER.glob("journal-*") if file.suffix != ".sqlite"] == []


@pytest.mark.parametrize("version", DIGESTS)
def test_they_are_continued(version, tmp_path):
    path = shutil.copy(golden(version), tmp_path / "journal.sqlite")
    with Ledger(Journal(path)) as ledger:
        assert ledger.journal.digest() == DIGESTS[version]
        before = ledger.statement()
        assert before == ledger.journal.statement()
        lease = ledger.lease("host-0", 5, 1000)
        ledger.settle(lease, [])
        assert ledger.statement() == before
        assert ledger.lease("host-0", 100, 4).sequence == 4, "a retry finds what was booked then"
    with Journal.reader(path) as journal:
        assert audit(journal).differences == []


def test_what_schema_1_held_is_what_is_read():
    with Journal.reader(VERSION_1) as journal:
        report = audit(journal)
        assert report.statement == Statement(1094, 654, 40, 400, 9, 90, 18)
        assert (report.n_entries, report.bits_unaccounted, report.bits_recovered) == (18, 60, 40)
        assert journal.accounts() == {MAIN: (Terms("bits", "step", 200), report.statement)}
        assert journal.epochs() == {"host-1": 1}
        assert [(lease.holder, lease.epoch, lease.sequence, lease.bits) for lease in journal.open_leases()] == [
            ("host-0", 0, 100, 10),
            ("host-1", 1, 101, 30),
        ]
        assert journal.meta("charging_rule") == "broadcast"


@pytest.mark.parametrize(
    ("meta", "terms"),
    [
        ('UPDATE meta SET value = \'{"bits": null, "per": "run"}\' WHERE key = \'budget\'', Terms("bits", "run", None)),
        ("DELETE FROM meta WHERE key = 'budget'", Terms("bits", "", 0)),
    ],
)
def test_the_budget_of_schema_1_becomes_the_terms_of_the_main_account(meta, terms, tmp_path):
    path = shutil.copy(VERSION_1, tmp_path / "journal.sqlite")
    connection = sqlite3.connect(path)
    connection.execute(meta)
    connection.commit()
    connection.close()
    with Ledger(Journal(path)) as ledger:
        assert ledger.accounts() == {MAIN: terms}


class Crash(Exception):
    """The power is gone."""


def test_a_crash_anywhere_in_a_migration_leaves_schema_1_whole(tmp_path, monkeypatch):
    n_statements, connect = 0, sqlite3.connect

    class Connection(sqlite3.Connection):
        left = 10**9

        def execute(self, sql, *parameters):
            nonlocal n_statements
            if not sql.startswith(("PRAGMA", "SELECT", "BEGIN")):
                n_statements += 1
                if n_statements == self.left:
                    self.close()
                    raise Crash
            return super().execute(sql, *parameters)

    monkeypatch.setattr(sqlite3, "connect", lambda *args, **kwargs: connect(*args, **kwargs, factory=Connection))
    Journal(shutil.copy(VERSION_1, tmp_path / "journal.sqlite")).close()
    n_needed = n_statements
    assert n_needed > 20
    for Connection.left in range(1, n_needed + 1):
        n_statements = 0
        path = Path(shutil.copy(VERSION_1, tmp_path / f"{Connection.left}.sqlite"))
        with pytest.raises(Crash):
            Journal(path)
        plain = connect(path)
        assert plain.execute("SELECT version FROM schema_version").fetchone() == (1,)
        assert plain.execute("SELECT COUNT(*) FROM drops").fetchone() == (3,)
        assert plain.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'accounts'").fetchone() == (0,)
        plain.close()
        with Journal.reader(path) as journal:
            assert journal.digest() == DIGESTS[1]


def test_a_lease_of_schema_1_is_a_lease_of_the_main_account_without_a_deadline(tmp_path):
    with Ledger(Journal(shutil.copy(VERSION_1, tmp_path / "journal.sqlite")), clock=lambda: 1e12) as ledger:
        assert ledger.expire() == []
        lease = Lease(0, "host-0", 0, 100, 10)
        assert ledger.release(lease).leased == 30
        with pytest.raises(LeaseError, match="already settled"):
            ledger.release(Lease(0, "host-0", 0, 0, 100))
