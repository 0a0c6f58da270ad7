"""The books on disk: every grant, lease, debit and receipt is a row that is written once and never changed afterwards.

A ship's log in ink: what was written stays, writing the same line again changes nothing, and a different line with the
same number is refused. That is what makes a resumed run exact: it replays rounds that are in the log already, and they
agree. Not a metrics file: only what moves bits stands here, and no time of day but the deadlines that a user asked for:
same seed, same rows.

On the last page stand the running totals of each account, brought up to date in the commit of the rows that moved them,
so that whoever opens the books, or comes back to them after another process wrote, need not add them up.
"""

import hashlib
import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar, get_args

from commlib.errors import JournalError
from commlib.schema import COLUMNS, SCHEMA_VERSION, create, migrate
from commlib.units import Bits

__all__ = [
    "FREE",
    "KINDS",
    "MAIN",
    "SCHEMA_VERSION",
    "Carried",
    "CarriedAccount",
    "CarriedEdge",
    "Currency",
    "Entry",
    "Journal",
    "Json",
    "Key",
    "Kind",
    "Lease",
    "LeaseRecord",
    "Price",
    "Receipt",
    "State",
    "Statement",
    "Terms",
]

MAIN: Final = "bits"
"""The account that always exists: the one whose settlements carry entries."""

LOST: Final = "lost"
UNREAD: Final = "unread"
"""Who signs for messages that got lost on the way, or could not be read; no holder of leases is called so."""

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Key: TypeAlias = tuple[str, int, int]
"""(holder, epoch, sequence): what makes a retry of a lease or a settlement recognisable within its account."""
State: TypeAlias = Literal["open", "settled", "released", "fenced", "overspent", "expired", "late"]
"""How a lease ended; "late" is settled after it had expired."""
Currency: TypeAlias = Literal["bits", "messages", "rounds", "latency"]
"""What an account counts; latency in whole microseconds."""
Kind: TypeAlias = Literal["dropped", "degraded", "deferred"]
"""What may befall a message when the budget is out."""
KINDS: Final = get_args(Kind)
_Value: TypeAlias = str | int | float | None
_Row: TypeAlias = tuple[_Value, ...]
_Slot: TypeAlias = tuple[str, str, int, int]
_Carried: TypeAlias = tuple[str, str, str, int]
_Slip = TypeVar("_Slip")


class Entry(NamedTuple):
    """One debit: all messages of one sender to these receivers in one round, summed over parallel worlds.

    `bits` are the charged wire bits, `payload_bits` those of the payload stream alone; `receivers` has each agent once.
    """

    epoch: int
    sequence: int
    round: int
    sender: int
    receivers: tuple[int, ...]
    n_messages: int
    bits: Bits
    payload_bits: Bits
    holder: str


class Receipt(NamedTuple):
    """What a receiving host (`holder`) heard on one edge in one round, summed over parallel worlds.

    What got lost on the way has a receipt, too, by whoever carried it: of `LOST` it never arrived, of `UNREAD` nobody could
    read it, because something that it builds on was lost.
    """

    holder: str
    epoch: int
    sequence: int
    round: int
    sender: int
    receiver: int
    n_messages: int
    bits: Bits


class Terms(NamedTuple):
    """What an account is for.

    Attributes:
        currency: what it counts.
        per: what one allowance lasts for; "" when amounts are granted freely, and then the audit does not compare what
            was settled here with the entries of the main account.
        amount: what one allowance is, for people and for the report; None: no cap.
        agents: the senders whose spending counts here; None: everybody.
        edge: the one edge (sender, receiver) that counts here; None: all of them.
    """

    currency: Currency
    per: str
    amount: int | None
    agents: tuple[int, ...] | None = None
    edge: tuple[int, int] | None = None


FREE: Final = Terms("bits", "", 0)
"""The terms of the main account until a budget is noted: capped, and fed by grants alone."""


class Lease(NamedTuple):
    """An amount set aside for one holder, until it settles at the true size or releases it.

    `id` is its own for as long as the books last; `bits` is the amount held, in the units of the account; `deadline` is in
    milliseconds of the ledger's clock.
    """

    id: int
    holder: str
    epoch: int
    sequence: int
    bits: Bits
    account: str = MAIN
    deadline: int | None = None

    @property
    def key(self) -> Key:
        """What a retry has in common with the first attempt."""
        return self.holder, self.epoch, self.sequence


class Statement(NamedTuple):
    """An account at one moment, in its units; `spent + leased + available == granted` always holds.

    Messages that were dropped, degraded or deferred are counted in the statement of the main account.
    """

    granted: Bits
    spent: Bits
    leased: Bits
    available: Bits
    dropped_messages: int = 0
    dropped_bits: Bits = 0
    n_entries: int = 0
    degraded_messages: int = 0
    deferred_messages: int = 0


class LeaseRecord(NamedTuple):
    """A lease as it stands in the books: how it ended, what it was charged, and the sum of its entries."""

    lease: Lease
    state: State
    spent: Bits
    entered: Bits


class Price(NamedTuple):
    """What a unit of an account cost from this round on, in squared distortion (or harm)."""

    account: str
    sequence: int
    price: float


class Carried(NamedTuple):
    """What compactions have put together of all accounts.

    Attributes:
        digest: that of the books before the last compaction.
        rest: that of the rows which it left, to tell whether something was booked since.
        is_by_round: whether the sequence of every entry and receipt was its round.
        n_receipts, bits_debited, bits_received, bits_recovered: as the audit counts them.
    """

    digest: str
    rest: str
    is_by_round: bool
    n_receipts: int
    bits_debited: Bits
    bits_received: Bits
    bits_recovered: Bits


class CarriedAccount(NamedTuple):
    """What compactions have put together of one account, in its units.

    Attributes:
        granted: less what was withdrawn, and with what leases brought in.
        spent: of which `unaccounted` in leases that were fenced or expired.
        unaccounted: see above.
        recomputed: what the entries in the account's scope came to.
        n_entries: how many entries, in the main account.
    """

    granted: int = 0
    spent: int = 0
    unaccounted: int = 0
    recomputed: int = 0
    n_entries: int = 0


class CarriedEdge(NamedTuple):
    """What compactions have put together of one edge; received is debited and recovered, or the books are wrong."""

    sender: int
    receiver: int
    debited_messages: int
    debited_bits: Bits
    recovered_messages: int
    recovered_bits: Bits
    received_messages: int
    received_bits: Bits


def _places(columns: tuple[str, ...]) -> str:
    return f"({', '.join('?' * len(columns))})"


_INSERT: Final = {
    table: f"INSERT INTO {table} ({', '.join(columns)}) VALUES {_places(columns)} ON CONFLICT DO NOTHING"
    for table, (_, columns) in COLUMNS.items()
}
_BLOCK: Final = 128
"""Rows that one statement inserts where there are many: half the time of as many statements."""
_INSERT_BLOCK: Final = {
    table: _INSERT[table].replace(_places(columns), ", ".join([_places(columns)] * _BLOCK))
    for table, (_, columns) in COLUMNS.items()
}
_INSERT_LEASE: Final = f"""INSERT INTO leases (id, {", ".join(COLUMNS["leases"][1])})
VALUES (MAX(?, (SELECT COALESCE(MAX(id), 0) FROM leases)) + 1, {", ".join("?" * len(COLUMNS["leases"][1]))})
ON CONFLICT DO NOTHING"""
"""With an id above all others, and above those of the leases that were compacted."""
_FIND: Final = {
    table: f"SELECT {', '.join(columns)} FROM {table} WHERE {' AND '.join(f'{name} = ?' for name in columns[:n_key])}"
    for table, (n_key, columns) in COLUMNS.items()
    if n_key
}
_STATEMENT: Final = """
WITH sums AS (SELECT
    (SELECT COALESCE(SUM(CASE kind WHEN 'grant' THEN taken ELSE -taken END), 0) FROM allowances WHERE account = :account)
        + (SELECT COALESCE(SUM(minted), 0) FROM leases WHERE account = :account)
        + (SELECT COALESCE(SUM(granted), 0) FROM carried_accounts WHERE account = :account) AS granted,
    (SELECT COALESCE(SUM(spent), 0) FROM leases WHERE account = :account)
        + (SELECT COALESCE(SUM(spent), 0) FROM carried_accounts WHERE account = :account) AS spent,
    (SELECT COALESCE(SUM(bits), 0) FROM leases WHERE account = :account AND state = 'open') AS leased)
SELECT granted, spent, leased, granted - spent - leased FROM sums
"""
_NOTES: Final = """
SELECT COALESCE(SUM(CASE kind WHEN 'dropped' THEN n_messages END), 0),
    COALESCE(SUM(CASE kind WHEN 'dropped' THEN bits END), 0),
    (SELECT COUNT(*) FROM entries) + (SELECT COALESCE(SUM(n_entries), 0) FROM carried_accounts),
    COALESCE(SUM(CASE kind WHEN 'degraded' THEN n_messages END), 0),
    COALESCE(SUM(CASE kind WHEN 'deferred' THEN n_messages END), 0) FROM notes
"""
_LEASE: Final = "id, holder, epoch, sequence, bits, account, deadline"
_LEASES: Final = f"""
SELECT {_LEASE}, state, spent, CASE account WHEN '{MAIN}' THEN (SELECT COALESCE(SUM(e.bits), 0) FROM entries e
    WHERE (e.holder, e.epoch, e.sequence) = (l.holder, l.epoch, l.sequence)) ELSE 0 END FROM leases l
"""
_PUT_TOTALS: Final = """
UPDATE accounts SET granted = ?, spent = ?, leased = ?, n_entries = ?, dropped_messages = ?, dropped_bits = ?,
    degraded_messages = ?, deferred_messages = ? WHERE account = ?
"""
_LAST_ID: Final = ("id", "", "", 0)
"""The counter of the ids of leases."""
_CARRIED: Final = "SELECT kind, account, holder, epoch, sequence FROM carried_sequences"
# What the digest is taken of, in this order. What schema 1 could hold comes as schema 1 wrote it: no account in the rows
# of the main one, and dropped messages as "drops".
_DIGESTED: Final = (
    (
        "allowances",
        f"SELECT kind, sequence, bits, taken FROM allowances WHERE account = '{MAIN}' ORDER BY kind, sequence",
    ),
    (
        "leases",
        f"""SELECT holder, epoch, sequence, bits, minted, CASE state WHEN 'late' THEN 'settled' ELSE state END, spent
        FROM leases WHERE account = '{MAIN}' ORDER BY holder, epoch, sequence""",
    ),
    (
        "entries",
        """SELECT holder, epoch, sequence, sender, receivers, round, n_messages, bits, payload_bits
        FROM entries ORDER BY holder, epoch, sequence, sender, receivers""",
    ),
    (
        "receipts",
        """SELECT holder, epoch, sequence, sender, receiver, round, n_messages, bits
        FROM receipts ORDER BY holder, epoch, sequence, sender, receiver""",
    ),
    ("drops", "SELECT sequence, n_messages, bits FROM notes WHERE kind = 'dropped' ORDER BY sequence"),
    ("fences", "SELECT holder, epoch FROM fences ORDER BY holder, epoch"),
    (
        "accounts",
        f"""SELECT account, currency, per, amount, agents, edge FROM accounts WHERE account <> '{MAIN}'
        ORDER BY account""",
    ),
    (
        "allowances",
        f"""SELECT kind, sequence, bits, taken, account FROM allowances WHERE account <> '{MAIN}'
        ORDER BY account, kind, sequence""",
    ),
    (
        "leases",
        f"""SELECT holder, epoch, sequence, bits, minted, CASE state WHEN 'late' THEN 'settled' ELSE state END, spent,
        account FROM leases WHERE account <> '{MAIN}' ORDER BY account, holder, epoch, sequence""",
    ),
    ("notes", "SELECT kind, sequence, n_messages, bits FROM notes WHERE kind <> 'dropped' ORDER BY kind, sequence"),
    ("prices", "SELECT account, sequence, price FROM prices ORDER BY account, sequence"),
)
_SENTENCES: Final = {
    "locked": "was locked by another process for too long, nothing was booked; try again, or end the process that holds it",
    "full": "cannot grow because its disk is full, nothing was booked; free some space, then resume",
    "readonly": "is read-only, nothing was booked; give write permission to the file and its folder",
    "closed": "is closed, nothing was booked; open it again",
    "unable to open": "cannot be opened; check that its folder exists and that you may write there",
    "I/O error": "could not reach its disk, nothing was booked; check the disk, then resume",
}
_RETRY_SECONDS: Final = 0.005


class _Standing:
    """What the rows come to at this moment, kept in memory: what every call looks at, and each booking moves.

    Terms, epochs and counters change seldom: there, a change puts a new dictionary in the place of the old one.
    """

    def __init__(
        self,
        terms: dict[str, Terms],
        statements: dict[str, Statement],
        leases: dict[_Slot, Lease],
        epochs: dict[str, int],
        carried: dict[_Carried, int],
    ) -> None:
        self.terms, self.statements, self.open, self.epochs, self.carried = terms, statements, leases, epochs, carried
        self.moved: set[str] = set()

    def copy(self) -> "_Standing":
        return _Standing(self.terms, dict(self.statements), dict(self.open), self.epochs, self.carried)


class Journal:
    """The books of one run in one SQLite file; what is committed has reached the disk.

    >>> with Journal.in_memory() as journal:
    ...     journal.set_meta("charging_rule", "per link")
    ...     journal.meta("charging_rule")
    'per link'

    Everything booked within `with journal.round():` is one commit, or nothing. Raises JournalError when the file is
    locked, damaged, read-only, of a later schema, or the disk is full; nothing of the round is booked then. A file of an
    earlier schema is brought to that of today, in one commit.

    Threads share one journal: who reads waits until the round of another thread has ended, and sees what was committed.
    Rows are fetched at once, and within `reading` one by one. Processes open the file each for itself. A round waits for
    that of another process to end, at most `busy_seconds`, and begins with what the other one wrote.
    """

    _depth: int
    _is_reading: bool
    _failure: str | None
    _standing: _Standing | None
    _kept: _Standing | None

    def __init__(self, path: Path | str, *, busy_seconds: float = 5.0) -> None:
        """Open the file at `path`, or create it; wait at most `busy_seconds` for another process to let go of it."""
        self._attach(path, str(path), busy_seconds)
        try:
            self._prepare(busy_seconds)
        except BaseException:
            self._connection.close()
            raise

    @classmethod
    def in_memory(cls) -> "Journal":
        """Keep the same books without a file: for tests, and for runs that need no record."""
        return cls(":memory:")

    @classmethod
    def reader(cls, path: Path | str) -> "Journal":
        """Open an existing journal to read only; a run that is writing to it is not disturbed.

        A file of an earlier schema is read through a copy in memory, and stays as it is.
        """
        if not Path(path).is_file():
            raise JournalError(f"there is no journal at {path}; name the folder of a run that has one")
        journal = cls.__new__(cls)
        journal._attach(path, Path(path).absolute().as_uri() + "?mode=ro", 5.0)
        try:
            version = journal._known_version()
            if version < SCHEMA_VERSION:
                journal._move_to_memory(version)
            journal._version_seen = journal._data_version()
        except BaseException:
            journal._connection.close()
            raise
        journal._may_write = False
        return journal

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the books and leave a single file, if nobody else has it open; a second call does nothing."""
        with self._lock, suppress(sqlite3.Error):
            if self._may_write:  # out of WAL mode, so that the file can be read from a read-only medium, too
                # Everything into the file itself first: who still reads keeps the file beside it, and that may be left
                # behind when the books are moved.
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._connection.execute("PRAGMA busy_timeout = 0")
                self._connection.execute("PRAGMA journal_mode = DELETE")
        with self._lock:
            self._connection.close()

    def round(self) -> "_Round":
        """Make everything booked inside one commit: all of it reaches the disk, or none, in memory as well.

        Rounds nest: an inner one joins the outer one. Other threads and processes wait until the outer one has ended.
        """
        return self._round

    @contextmanager
    def reading(self) -> Iterator[None]:
        """See the books of one moment inside, whatever a running ledger commits meanwhile; write nothing here."""
        with self._lock:
            if self._depth or self._is_reading:
                yield
                return
            self._execute("BEGIN")
            self._is_reading = True
            try:
                yield
            finally:
                self._is_reading = False
                self._roll_back()

    # What is written.

    def set_meta(self, key: str, value: Json) -> None:
        """Note a fact about the run (the charging rule, its id); a fact is noted once and stays."""
        with self.round():
            self._insert("meta", [(key, json.dumps(value, sort_keys=True))], _as_it_is)

    def add_account(self, account: str, terms: Terms) -> None:
        """Open an account, or note the terms of the main one; a second time, they must be the same."""
        with self.round():
            now = self._now()
            known = now.terms.get(account)
            if known == terms:
                return
            row = _terms_row(account, terms)
            if known is None:
                self._insert("accounts", [(*row, 0, 0, 0, 0, 0, 0, 0, 0)], _as_it_is)
                now.statements[account] = Statement(0, 0, 0, 0)
            elif account == MAIN and known == FREE:
                sql = "UPDATE accounts SET currency = ?, per = ?, amount = ?, agents = ?, edge = ? WHERE account = ?"
                self._execute(sql, (*row[1:], account))
            else:
                raise self._conflict("accounts", row, _terms_row(account, known))
            now.terms = {**now.terms, account: terms}

    def add_allowance(
        self, kind: Literal["grant", "withdrawal"], sequence: int, bits: Bits, taken: Bits, account: str = MAIN
    ) -> Bits | None:
        """Book a grant or withdrawal; None if it is new, what was taken the first time if it is a retry."""
        with self.round():
            if self._now().carried:
                self._check_not_carried((kind, account, "", 0), sequence, f"{kind} {sequence} of {account!r}")
            if self._execute(_INSERT["allowances"], (account, kind, sequence, bits, taken)).rowcount:
                self._move(account, granted=taken if kind == "grant" else -taken)
                return None
            *_, recorded_bits, recorded_taken = self._execute(_FIND["allowances"], (account, kind, sequence)).fetchone()
            if recorded_bits != bits:
                key = (account, kind, sequence)
                raise self._conflict("allowances", (*key, bits), (*key, recorded_bits))
            return int(recorded_taken)

    def add_lease(
        self, key: Key, bits: Bits, minted: Bits, account: str = MAIN, deadline: int | None = None
    ) -> Lease | None:
        """Book an open lease that brings `minted` new units into the jar; None if the key is taken."""
        with self.round():
            last_id = self._now().carried.get(_LAST_ID, 0)
            cursor = self._execute(_INSERT_LEASE, (last_id, account, *key, bits, minted, "open", 0, deadline))
            if not cursor.rowcount:
                return None
            lease = Lease(cursor.lastrowid or 0, *key, bits, account, deadline)
            self._now().open[(account, *key)] = lease
            self._move(account, granted=minted, leased=bits)
            return lease

    def end_lease(self, lease: Lease, state: State, spent: Bits) -> None:
        """Book how a lease ended that is open, or has expired and is settled late."""
        with self.round():
            was_open = self._now().open.pop((lease.account, *lease.key), None) is not None
            sql = f"""UPDATE leases SET state = ?, spent = ? WHERE account = ? AND holder = ? AND epoch = ?
                AND sequence = ? AND state = '{"open" if was_open else "expired"}'"""
            if self._execute(sql, (state, spent, lease.account, *lease.key)).rowcount != 1:
                raise self._fail(f"lease {lease.key} is not open in the journal {self.path}; reopen the ledger from it")
            if was_open:
                self._move(lease.account, spent=spent, leased=-lease.bits)
            else:
                self._move(lease.account, spent=spent - lease.bits)

    def add_entries(self, entries: Sequence[Entry]) -> None:
        """Book the debits of a lease of the main account."""
        with self.round():
            n_new = self._insert("entries", entries, _entry_row)
            self._move(MAIN, n_entries=n_new)

    def add_receipts(self, receipts: Sequence[Receipt]) -> None:
        """Book what receivers heard; those that stand here already change nothing."""
        with self.round():
            if self._now().carried:
                for holder, epoch, sequence, *_ in receipts:
                    what = f"receipt {sequence} of {holder} (epoch {epoch})"
                    self._check_not_carried(("receipt", "", holder, epoch), sequence, what)
            self._insert("receipts", receipts, _receipt_row)

    def add_note(self, kind: Kind, sequence: int, n_messages: int, bits: Bits) -> bool:
        """Book messages that were not sent as they were meant, for want of budget; False if that is a retry."""
        with self.round():
            if not self._insert("notes", [(kind, sequence, n_messages, bits)], _as_it_is):
                return False
            statements = self._now().statements
            now = statements[MAIN]
            self._now().moved.add(MAIN)
            if kind == "dropped":
                statements[MAIN] = now._replace(
                    dropped_messages=now.dropped_messages + n_messages, dropped_bits=now.dropped_bits + bits
                )
            elif kind == "degraded":
                statements[MAIN] = now._replace(degraded_messages=now.degraded_messages + n_messages)
            else:
                statements[MAIN] = now._replace(deferred_messages=now.deferred_messages + n_messages)
            return True

    def add_price(self, account: str, sequence: int, price: float) -> bool:
        """Book what a unit of an account costs from this round on, in squared distortion (or harm); False if that is a retry."""
        with self.round():
            return self._insert("prices", [(account, sequence, price)], _as_it_is) == 1

    def add_fence(self, holder: str, epoch: int) -> None:
        """Book that `holder` continues under `epoch`."""
        with self.round():
            self._insert("fences", [(holder, epoch)], _as_it_is)
            now = self._now()
            now.epochs = {**now.epochs, holder: max(epoch, now.epochs.get(holder, 0))}

    # What stands in memory, as of the last commit by anybody, or of this moment of the round that is under way.

    def now(self, account: str = MAIN) -> Statement:
        """Give the running totals of an account; KeyError if there is none."""
        with self._lock:
            return self._refreshed().statements[account]

    def statements(self) -> dict[str, Statement]:
        """Give the running totals of all accounts, of one moment."""
        with self._lock:
            return dict(self._refreshed().statements)

    def terms(self) -> dict[str, Terms]:
        """Give what each account is for."""
        with self._lock:
            return dict(self._refreshed().terms)

    def terms_of(self, account: str) -> Terms | None:
        """Give what an account is for, or None if there is none of that name."""
        with self._lock:
            return self._refreshed().terms.get(account)

    def epoch(self, holder: str) -> int:
        """Give the epoch of a holder; 0 for one that was never fenced."""
        with self._lock:
            return self._refreshed().epochs.get(holder, 0)

    def open_lease(self, account: str, key: Key) -> Lease | None:
        """Give the open lease with this key, or None."""
        with self._lock:
            return self._refreshed().open.get((account, *key))

    def held(self) -> list[Lease]:
        """Give all open leases, of all accounts."""
        with self._lock:
            return list(self._refreshed().open.values())

    def is_carried(self, account: str, key: Key) -> bool:
        """Tell whether a lease with this key may be among those that a compaction has put together."""
        with self._lock:
            carried = self._refreshed().carried
            return bool(carried) and key[2] <= carried.get(("lease", account, *key[:2]), -1)

    # What is read.

    def meta(self, key: str) -> Json:
        """Give a noted fact, or None."""
        row = self._row(_FIND["meta"], (key,))
        value: Json = None if row is None else json.loads(row[1])
        return value

    def accounts(self) -> dict[str, tuple[Terms, Statement]]:
        """Give all accounts by name, the main one first: what each is for, and its running totals."""
        sql = f"SELECT {', '.join(COLUMNS['accounts'][1])} FROM accounts ORDER BY account <> ?, account"
        return {row[0]: (_terms_of(*row[1:6]), _totals_of(*row[6:])) for row in self._rows(sql, (MAIN,))}

    def statement(self, account: str = MAIN) -> Statement:
        """Add up the books of an account from their rows."""
        with self.reading():
            sums, notes = self._row(_STATEMENT, {"account": account}), self._row(_NOTES) if account == MAIN else ()
        return Statement(*sums, *notes)

    def was_granted(self, account: str = MAIN) -> bool:
        """Tell whether anything was ever granted to an account, be it withdrawn since or compacted."""
        sql = """SELECT EXISTS (SELECT 1 FROM allowances WHERE account = ? AND kind = 'grant')
            OR EXISTS (SELECT 1 FROM carried_sequences WHERE account = ? AND kind = 'grant')"""
        return bool(self._row(sql, (account, account))[0])

    def senders(self) -> list[int]:
        """Give the agents that ever sent anything."""
        sql = "SELECT sender FROM entries UNION SELECT sender FROM carried_edges ORDER BY sender"
        return [row[0] for row in self._rows(sql)]

    def holders(self) -> list[str]:
        """Give the names under which anything was ever leased or fenced."""
        sql = """SELECT holder FROM leases UNION SELECT holder FROM fences
            UNION SELECT holder FROM carried_sequences WHERE kind = 'lease' ORDER BY holder"""
        return [row[0] for row in self._rows(sql)]

    def epochs(self) -> dict[str, int]:
        """Give the current epoch of every holder that was ever fenced."""
        return dict(self._rows("SELECT holder, MAX(epoch) FROM fences GROUP BY holder"))

    def open_leases(self) -> list[Lease]:
        """Give the leases of all accounts that are neither settled nor released, oldest first."""
        return [Lease(*row) for row in self._rows(f"SELECT {_LEASE} FROM leases WHERE state = 'open' ORDER BY id")]

    def lease(self, key: Key, account: str = MAIN) -> LeaseRecord | None:
        """Give the lease of an account with this key, or None."""
        sql = _LEASES + " WHERE account = ? AND holder = ? AND epoch = ? AND sequence = ?"
        row = self._row(sql, (account, *key))
        return None if row is None else LeaseRecord(Lease(*row[:7]), *row[7:])

    def leases(self, account: str = MAIN) -> Iterator[LeaseRecord]:
        """Give all leases of an account by key."""
        for row in self._rows(_LEASES + " WHERE account = ? ORDER BY holder, epoch, sequence", (account,)):
            yield LeaseRecord(Lease(*row[:7]), *row[7:])

    def has_receipt(self, receipt: Receipt) -> bool:
        """Tell whether exactly this receipt stands here."""
        row = _receipt_row(receipt)
        return bool(self._row(_FIND["receipts"], row[: COLUMNS["receipts"][0]]) == row)

    def entries(self, key: Key | None = None) -> Iterator[Entry]:
        """Give the debits by round and sender: all, or those of one lease."""
        where = "" if key is None else "WHERE holder = ? AND epoch = ? AND sequence = ?"
        sql = f"""SELECT epoch, sequence, round, sender, receivers, n_messages, bits, payload_bits, holder
            FROM entries {where} ORDER BY round, sender, receivers, holder, epoch, sequence"""
        for row in self._rows(sql, key or ()):
            epoch, sequence, round_, sender, receivers, *rest = row
            yield Entry(epoch, sequence, round_, sender, tuple(map(int, receivers.split(","))), *rest)

    def receipts(self) -> Iterator[Receipt]:
        """Give the receipts by round, sender and receiver."""
        sql = """SELECT holder, epoch, sequence, round, sender, receiver, n_messages, bits
            FROM receipts ORDER BY round, sender, receiver, holder, epoch, sequence"""
        return (Receipt(*row) for row in self._rows(sql))

    def prices(self, account: str | None = None) -> Iterator[Price]:
        """Give the prices in order of their rounds, of one account or by account."""
        where = "" if account is None else "WHERE account = ?"
        sql = f"SELECT account, sequence, price FROM prices {where} ORDER BY account, sequence"
        return (Price(*row) for row in self._rows(sql, () if account is None else (account,)))

    def last_price(self, account: str) -> float | None:
        """Give the price of the latest round; None before the first."""
        sql = "SELECT price FROM prices WHERE account = ? ORDER BY sequence DESC LIMIT 1"
        row = self._row(sql, (account,))
        return None if row is None else float(row[0])

    def stray_accounts(self) -> list[str]:
        """Give the names under which something was booked without an account of that name."""
        sql = """SELECT account FROM (SELECT account FROM allowances UNION SELECT account FROM leases
            UNION SELECT account FROM prices UNION SELECT account FROM carried_accounts)
            WHERE account NOT IN (SELECT account FROM accounts) ORDER BY account"""
        return [row[0] for row in self._rows(sql)]

    def carried(self) -> Carried | None:
        """Give what compactions have put together; None if there was none."""
        row = self._row(f"SELECT {', '.join(COLUMNS['carried'][1])} FROM carried")
        if row is None:
            return None
        digest, rest, is_by_round, *sums = row
        return Carried(digest, rest, bool(is_by_round), *sums)

    def carried_accounts(self) -> dict[str, CarriedAccount]:
        """Give what compactions have put together of each account."""
        sql = f"SELECT {', '.join(COLUMNS['carried_accounts'][1])} FROM carried_accounts ORDER BY account"
        return {row[0]: CarriedAccount(*row[1:]) for row in self._rows(sql)}

    def carried_edges(self) -> Iterator[CarriedEdge]:
        """Give what compactions have put together of each edge."""
        sql = f"SELECT {', '.join(COLUMNS['carried_edges'][1])} FROM carried_edges ORDER BY sender, receiver"
        return (CarriedEdge(*row) for row in self._rows(sql))

    def digest(self) -> str:
        """Give the SHA-256 of all rows in key order, as hex: same seed, same digest.

        Facts about the run (`meta`), the ids of leases, which number calls and not bits, and times of day (deadlines,
        and whether a lease was settled before or after its own) are left out. After a compaction it is the digest that
        the books had before, until something is booked.
        """
        with self.reading():
            rows, carried = self.digest_of_rows(), self.carried()
        if carried is None:
            return rows
        return (
            carried.digest if rows == carried.rest else hashlib.sha256(f"{carried.digest} {rows}".encode()).hexdigest()
        )

    def digest_of_rows(self) -> str:
        """Give the digest of what stands here row by row, without what compactions have put together."""
        sha = hashlib.sha256()
        with self.reading():
            for name, sql in _DIGESTED:
                for row in self._rows(sql):
                    sha.update(json.dumps([name, *row]).encode())
        return sha.hexdigest()

    # For the bookkeepers beside this module (`commlib.compact`, `commlib.export`).

    def execute(self, sql: str, parameters: Sequence[_Value] = ()) -> int:
        """Run a statement that changes rows, within a round; gives how many."""
        return self._execute(sql, tuple(parameters)).rowcount

    def execute_many(self, sql: str, rows: Iterable[Sequence[_Value]]) -> None:
        """Run a statement that changes rows for each of these parameters, within a round."""
        self._execute_many(sql, rows)

    def rows(self, sql: str, parameters: Sequence[_Value] = ()) -> Iterator[Any]:
        """Run a query."""
        return self._rows(sql, tuple(parameters))

    def reload(self) -> None:
        """Look at everything anew, within a round that has changed rows past this class."""
        self._standing = self._load()

    def shrink(self) -> None:
        """Give the space of rows that are gone back to the disk, unless somebody else is at the file: next time, then."""
        with self._lock, suppress(sqlite3.OperationalError):
            self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # How it is done.

    def _attach(self, path: Path | str, target: str, busy_seconds: float) -> None:
        if sqlite3.sqlite_version_info < (3, 37):
            raise JournalError(f"SQLite {sqlite3.sqlite_version} is too old, 3.37 is needed; use a newer Python build")
        self.path = Path(path)
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._round = _Round(self)
        self._depth = 0
        self._is_reading = False
        self._failure = None
        self._standing = self._kept = None
        self._may_write = True
        try:
            self._connection = sqlite3.connect(
                target,
                timeout=busy_seconds,
                isolation_level=None,
                check_same_thread=False,
                uri=target.startswith("file:"),
            )
        except sqlite3.Error as error:
            raise self._fail_with(error) from error
        weakref.finalize(self, self._connection.close)  # a forgotten journal frees its file without a warning

    def _prepare(self, busy_seconds: float) -> None:
        if not self._is_empty():
            self._known_version()  # before anything is changed in a file that may be somebody else's
        self._switch_to_wal(busy_seconds)
        self._execute("PRAGMA synchronous = FULL")
        self._execute("BEGIN IMMEDIATE")
        try:
            if self._is_empty():
                create(self._connection)
            else:
                migrate(self._connection, self._known_version())
            self._execute("COMMIT")
        except sqlite3.Error as error:
            raise self._fail_with(error) from error
        finally:
            self._roll_back()
        self._version_seen = self._data_version()

    def _switch_to_wal(self, busy_seconds: float) -> None:
        """For this one statement SQLite does not wait by itself while another process opens or closes the file."""
        until = time.monotonic() + busy_seconds
        while True:
            try:
                self._execute("PRAGMA journal_mode = WAL")
                return
            except JournalError:  # noqa: PERF203 (to try again is what the loop is for)
                if "locked by" not in str(self._failure) or time.monotonic() > until:
                    raise
                time.sleep(_RETRY_SECONDS)

    def _is_empty(self) -> bool:
        return bool(self._execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0)

    def _known_version(self) -> int:
        """Give the schema of the file, which we can read or migrate."""
        if not self._execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").fetchone():
            raise JournalError(f"{self.path} is not a journal of commlib; choose another path or move that file away")
        (version,) = self._execute("SELECT version FROM schema_version").fetchone()
        if not 1 <= version <= SCHEMA_VERSION:
            raise JournalError(
                f"the journal {self.path} has schema {version}, this commlib reads schemas 1 to {SCHEMA_VERSION}; "
                f"use the version of commlib that wrote it"
            )
        return int(version)

    def _move_to_memory(self, version: int) -> None:
        memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, memory.close)
        try:
            self._connection.backup(memory)
            self._connection.close()
            self._connection = memory
            migrate(memory, version)
        except sqlite3.Error as error:
            raise self._fail_with(error) from error
        self._execute("PRAGMA query_only = ON")

    def _data_version(self) -> int:
        """Give a number that changes when another connection commits."""
        return int(self._execute("PRAGMA data_version").fetchone()[0])

    def _enter(self) -> None:
        self._lock.acquire()
        self._depth += 1
        if self._depth > 1:
            return
        self._failure = self._kept = None
        try:
            self._kept = self._begin().copy()
        except BaseException:
            self._take_back()
            self._let_go()
            raise

    def _leave(self, *, is_good: bool) -> None:
        try:
            if self._depth > 1:
                return
            if not is_good:
                self._take_back()
                return
            try:
                self._commit()
            except BaseException:
                self._take_back()
                raise
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._depth -= 1
        self._lock.release()

    def _take_back(self) -> None:
        if self._roll_back() and self._kept is not None:
            self._standing = self._kept

    def _begin(self) -> _Standing:
        """Begin a commit, with what other processes wrote before it."""
        self._execute("BEGIN IMMEDIATE")
        version = self._data_version()
        if self._standing is None or version != self._version_seen:
            self._standing = self._load()
            self._version_seen = version
        return self._standing

    def _refreshed(self) -> _Standing:
        """Look what other processes wrote meanwhile; without a connection, what was known last."""
        if self._depth and self._standing is not None:
            return self._standing
        try:
            version = self._data_version()
            if self._standing is None or version != self._version_seen:
                with self.reading():
                    self._standing, self._version_seen = self._load(), self._data_version()
        except JournalError:
            if self._standing is None:
                raise
        return self._standing

    def _now(self) -> _Standing:
        """What a booking moves, inside a round."""
        assert self._standing is not None
        return self._standing

    def _load(self) -> _Standing:
        accounts = self.accounts()
        return _Standing(
            {account: terms for account, (terms, _) in accounts.items()},
            {account: totals for account, (_, totals) in accounts.items()},
            {(lease.account, *lease.key): lease for lease in self.open_leases()},
            self.epochs(),
            {(kind, *key): highest for kind, *key, highest in self._rows(_CARRIED)},
        )

    def _commit(self) -> None:
        if self._failure is not None:
            raise JournalError(f"nothing of this round was booked, since one booking failed: {self._failure}")
        now = self._now()
        for account in sorted(now.moved):
            granted, spent, leased, _, dropped, dropped_bits, n_entries, degraded, deferred = now.statements[account]
            totals = (granted, spent, leased, n_entries, dropped, dropped_bits, degraded, deferred)
            self._execute(_PUT_TOTALS, (*totals, account))
        now.moved.clear()
        self._execute("COMMIT")

    def _roll_back(self) -> bool:
        """Take the round back; False if its commit had already reached the disk (say, Ctrl-C came just after it)."""
        try:
            if not self._connection.in_transaction:
                return self._failure is not None
            self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # a closed or broken connection: SQLite takes the round back when the file is next opened
        return True

    def _move(self, account: str, granted: int = 0, spent: int = 0, leased: int = 0, n_entries: int = 0) -> None:
        standing = self._now()
        now = standing.statements[account]
        standing.statements[account] = Statement(
            now.granted + granted,
            now.spent + spent,
            now.leased + leased,
            now.available + granted - spent - leased,
            now.dropped_messages,
            now.dropped_bits,
            now.n_entries + n_entries,
            now.degraded_messages,
            now.deferred_messages,
        )
        standing.moved.add(account)

    def _check_not_carried(self, counter: _Carried, sequence: int, what: str) -> None:
        highest = self._now().carried.get(counter, -1)
        if sequence <= highest:
            raise self._fail(
                f"{what} is among what was compacted in the journal {self.path}, up to {highest}: it cannot be compared "
                f"with what was booked then; count the sequence up for what is new, or resume from a later checkpoint"
            )

    def _insert(self, table: str, slips: Sequence[_Slip], row_of: Callable[[_Slip], _Row]) -> int:
        """Insert rows and count the new ones; one that differs from a recorded row with its key is a conflict."""
        n_key, columns = COLUMNS[table]
        n_whole, size = len(slips) // _BLOCK * _BLOCK, _BLOCK * len(columns)
        fields = list(chain.from_iterable(map(row_of, slips[:n_whole])))
        blocks = (fields[start : start + size] for start in range(0, len(fields), size))
        n_new = self._execute_many(_INSERT_BLOCK[table], blocks).rowcount if n_whole else 0
        n_new += self._execute_many(_INSERT[table], map(row_of, slips[n_whole:])).rowcount
        if n_new < len(slips):
            for row in map(row_of, slips):
                recorded = self._execute(_FIND[table], row[:n_key]).fetchone()
                if recorded != row:
                    raise self._conflict(table, row, recorded)
        return n_new

    def _execute(self, sql: str, parameters: _Row | dict[str, _Value] = ()) -> sqlite3.Cursor:
        self._check_process()
        try:
            return self._connection.execute(sql, parameters)
        except sqlite3.Error as error:
            raise self._fail_with(error) from error

    def _execute_many(self, sql: str, rows: Iterable[Sequence[_Value]]) -> sqlite3.Cursor:
        self._check_process()
        try:
            return self._connection.executemany(sql, rows)
        except sqlite3.Error as error:
            raise self._fail_with(error) from error

    def _check_process(self) -> None:
        """A connection must not be carried over a fork (https://sqlite.org/howtocorrupt.html, sec. 2.6)."""
        if os.getpid() != self._process:
            raise JournalError(
                f"the journal {self.path} was opened before this process was forked off; open it again in this process"
            )

    def _row(self, sql: str, parameters: _Row | dict[str, _Value] = ()) -> Any:  # noqa: ANN401
        """The first row that a query gives, or None."""
        with self._lock:
            return self._execute(sql, parameters).fetchone()

    def _rows(self, sql: str, parameters: _Row = ()) -> Iterator[Any]:
        """The rows of a query; none but those that are committed, unless they are of the caller's own round."""
        rows: Iterable[Any]
        try:
            with self._lock:
                rows = self._execute(sql, parameters)
                if not (self._depth or self._is_reading):  # else the caller has the lock, for as long as it reads
                    rows = rows.fetchall()
            yield from rows
        except sqlite3.Error as error:
            raise self._fail_with(error) from error

    def _conflict(self, table: str, row: _Row, recorded: _Row) -> JournalError:
        return self._fail(
            f"the journal {self.path} has {recorded} in {table}, now it was to be {row}; "
            f"a row never changes: count the sequence up for what is new; a run is resumed with the same seed, config and "
            f"checkpoint, or starts in a new folder"
        )

    def _fail(self, sentence: str) -> JournalError:
        self._failure = sentence
        return JournalError(sentence)

    def _fail_with(self, error: sqlite3.Error) -> JournalError:
        for sign, sentence in _SENTENCES.items():
            if sign in str(error):
                return self._fail(f"the journal {self.path} {sentence}")
        return self._fail(f"the journal {self.path} is damaged or is no journal ({error}); restore it from a copy")


class _Round:
    """A commit of a journal, or a part of one: what `Journal.round` is entered by. A generator would take thrice as long."""

    __slots__ = ("_journal",)

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __enter__(self) -> None:
        self._journal._enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal._leave(is_good=kind is None)


def _entry_row(entry: Entry) -> _Row:
    epoch, sequence, round_, sender, receivers, n_messages, bits, payload_bits, holder = entry
    return holder, epoch, sequence, sender, _listed(receivers), round_, n_messages, bits, payload_bits


def _terms_row(account: str, terms: Terms) -> _Row:
    currency, per, amount, agents, edge = terms
    return account, currency, per, amount, json.dumps(agents) if agents else None, json.dumps(edge) if edge else None


def _terms_of(currency: Currency, per: str, amount: int | None, agents: str | None, edge: str | None) -> Terms:
    sender, receiver = json.loads(edge) if edge else (0, 0)
    scope = tuple(json.loads(agents)) if agents else None
    return Terms(currency, per, amount, scope, (sender, receiver) if edge else None)


def _totals_of(granted: int, spent: int, leased: int, n_entries: int, *notes: int) -> Statement:
    dropped, dropped_bits, degraded, deferred = notes
    available = granted - spent - leased
    return Statement(granted, spent, leased, available, dropped, dropped_bits, n_entries, degraded, deferred)


def _as_it_is(row: _Row) -> _Row:
    return row


@lru_cache(maxsize=1 << 14)
def _listed(receivers: tuple[int, ...]) -> str:
    """Receivers in a column; a plan has the same ones in every round."""
    return ",".join(map(str, receivers))


_receipt_row: Final[Callable[[Receipt], _Row]] = itemgetter(
    *(Receipt._fields.index(column) for column in COLUMNS["receipts"][1])
)
