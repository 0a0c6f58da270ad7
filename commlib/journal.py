"""The books on disk: every grant, lease, debit and receipt is a row that is written once and never changed afterwards.

A ship's log in ink: what was written stays, writing the same line again changes nothing, and a different line with the
same number is refused. That is what makes a resumed run exact: it replays rounds that are in the log already, and they
agree. Not a metrics file: only what moves bits stands here, and no row holds a time of day: same seed, same rows.
"""

import hashlib
import json
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

from commlib.errors import JournalError
from commlib.units import Bits

SCHEMA_VERSION: Final = 1

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Key: TypeAlias = tuple[str, int, int]
"""(holder, epoch, sequence): what makes a retry of a lease or a settlement recognisable."""
State: TypeAlias = Literal["open", "settled", "released", "fenced", "overspent"]
_Row: TypeAlias = tuple[str | int, ...]
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
    """What a receiving host (`holder`) heard on one edge in one round, summed over parallel worlds."""

    holder: str
    epoch: int
    sequence: int
    round: int
    sender: int
    receiver: int
    n_messages: int
    bits: Bits


class Lease(NamedTuple):
    """Bits set aside for one holder, until it settles at the true size or releases them."""

    id: int
    holder: str
    epoch: int
    sequence: int
    bits: Bits

    @property
    def key(self) -> Key:
        """What a retry has in common with the first attempt."""
        return self.holder, self.epoch, self.sequence


class Statement(NamedTuple):
    """The jar at one moment; `spent + leased + available == granted` always holds, in bits."""

    granted: Bits
    spent: Bits
    leased: Bits
    available: Bits
    dropped_messages: int
    dropped_bits: Bits
    n_entries: int


class LeaseRecord(NamedTuple):
    """A lease as it stands in the books: how it ended, what it was charged, and the sum of its entries, in bits."""

    lease: Lease
    state: State
    spent: Bits
    entered: Bits


_SCHEMA: Final = """
CREATE TABLE schema_version (version INTEGER NOT NULL) STRICT;
CREATE TABLE meta (key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (key)) STRICT, WITHOUT ROWID;
CREATE TABLE allowances (kind TEXT NOT NULL, sequence INTEGER NOT NULL, bits INTEGER NOT NULL, taken INTEGER NOT NULL,
    PRIMARY KEY (kind, sequence)) STRICT, WITHOUT ROWID;
CREATE TABLE leases (id INTEGER PRIMARY KEY, holder TEXT NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL,
    bits INTEGER NOT NULL, minted INTEGER NOT NULL, state TEXT NOT NULL, spent INTEGER NOT NULL,
    UNIQUE (holder, epoch, sequence)) STRICT;
CREATE INDEX open_leases ON leases (id) WHERE state = 'open';
CREATE TABLE entries (holder TEXT NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, sender INTEGER NOT NULL,
    receivers TEXT NOT NULL, round INTEGER NOT NULL, n_messages INTEGER NOT NULL, bits INTEGER NOT NULL,
    payload_bits INTEGER NOT NULL, PRIMARY KEY (holder, epoch, sequence, sender, receivers)) STRICT, WITHOUT ROWID;
CREATE TABLE receipts (holder TEXT NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, sender INTEGER NOT NULL,
    receiver INTEGER NOT NULL, round INTEGER NOT NULL, n_messages INTEGER NOT NULL, bits INTEGER NOT NULL,
    PRIMARY KEY (holder, epoch, sequence, sender, receiver)) STRICT, WITHOUT ROWID;
CREATE TABLE drops (sequence INTEGER NOT NULL, n_messages INTEGER NOT NULL, bits INTEGER NOT NULL,
    PRIMARY KEY (sequence)) STRICT, WITHOUT ROWID;
CREATE TABLE fences (holder TEXT NOT NULL, epoch INTEGER NOT NULL, PRIMARY KEY (holder, epoch)) STRICT, WITHOUT ROWID;
"""
# The columns of each table in writing order, the key first, and how many of them are the key.
_COLUMNS: Final[dict[str, tuple[int, tuple[str, ...]]]] = {
    "meta": (1, ("key", "value")),
    "allowances": (2, ("kind", "sequence", "bits", "taken")),
    "leases": (3, ("holder", "epoch", "sequence", "bits", "minted", "state", "spent")),
    "entries": (
        5,
        ("holder", "epoch", "sequence", "sender", "receivers", "round", "n_messages", "bits", "payload_bits"),
    ),
    "receipts": (5, ("holder", "epoch", "sequence", "sender", "receiver", "round", "n_messages", "bits")),
    "drops": (1, ("sequence", "n_messages", "bits")),
    "fences": (2, ("holder", "epoch")),
}


def _places(columns: tuple[str, ...]) -> str:
    return f"({', '.join('?' * len(columns))})"


_INSERT: Final = {
    table: f"INSERT INTO {table} ({', '.join(columns)}) VALUES {_places(columns)} ON CONFLICT DO NOTHING"
    for table, (_, columns) in _COLUMNS.items()
}
_BLOCK: Final = 128
"""Rows that one statement inserts where there are many: half the time of as many statements."""
_INSERT_BLOCK: Final = {
    table: _INSERT[table].replace(_places(columns), ", ".join([_places(columns)] * _BLOCK))
    for table, (_, columns) in _COLUMNS.items()
}
_FIND: Final = {
    table: f"SELECT {', '.join(columns)} FROM {table} WHERE {' AND '.join(f'{name} = ?' for name in columns[:n_key])}"
    for table, (n_key, columns) in _COLUMNS.items()
}
_STATEMENT: Final = """
WITH sums AS (SELECT
    (SELECT COALESCE(SUM(CASE kind WHEN 'grant' THEN taken ELSE -taken END), 0) FROM allowances)
        + (SELECT COALESCE(SUM(minted), 0) FROM leases) AS granted,
    (SELECT COALESCE(SUM(spent), 0) FROM leases) AS spent,
    (SELECT COALESCE(SUM(bits), 0) FROM leases WHERE state = 'open') AS leased)
SELECT granted, spent, leased, granted - spent - leased, (SELECT COALESCE(SUM(n_messages), 0) FROM drops),
    (SELECT COALESCE(SUM(bits), 0) FROM drops), (SELECT COUNT(*) FROM entries) FROM sums
"""
_LEASES: Final = """
SELECT id, holder, epoch, sequence, bits, state, spent, (SELECT COALESCE(SUM(e.bits), 0) FROM entries e
    WHERE (e.holder, e.epoch, e.sequence) = (l.holder, l.epoch, l.sequence)) FROM leases l
"""
_SENTENCES: Final = {
    "locked": "is locked by another process, nothing was booked; end the other one, then resume",
    "full": "cannot grow because its disk is full, nothing was booked; free some space, then resume",
    "readonly": "is read-only, nothing was booked; give write permission to the file and its folder",
    "closed": "is closed, nothing was booked; open it again",
    "unable to open": "cannot be opened; check that its folder exists and that you may write there",
    "I/O error": "could not reach its disk, nothing was booked; check the disk, then resume",
}


class Journal:
    """The books of one run in one SQLite file; what is committed has reached the disk.

    >>> with Journal.in_memory() as journal:
    ...     journal.set_meta("charging_rule", "per link")
    ...     journal.meta("charging_rule")
    'per link'

    Everything booked within `with journal.round():` is one commit, or nothing. Raises JournalError when the file is
    locked, damaged, read-only, of another schema, or the disk is full; nothing of the round is booked then.
    """

    _in_round: bool
    _failure: str | None

    def __init__(self, path: Path | str, *, busy_seconds: float = 5.0) -> None:
        """Open the file at `path`, or create it; wait at most `busy_seconds` for another process to let go of it."""
        self._attach(path, str(path), busy_seconds)
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    @classmethod
    def in_memory(cls) -> "Journal":
        """Keep the same books without a file: for tests, and for runs that need no record."""
        return cls(":memory:")

    @classmethod
    def reader(cls, path: Path | str) -> "Journal":
        """Open an existing journal to read only; a run that is writing to it is not disturbed."""
        if not Path(path).is_file():
            raise JournalError(f"there is no journal at {path}; name the folder of a run that has one")
        journal = cls.__new__(cls)
        journal._attach(path, Path(path).absolute().as_uri() + "?mode=ro", 5.0)
        try:
            journal._check_schema()
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
        """Close the books and leave a single file; a second call does nothing."""
        with self._lock, suppress(sqlite3.Error):
            if self._may_write:  # out of WAL mode, so that the file can be read from a read-only medium, too
                self._connection.execute("PRAGMA busy_timeout = 0")
                self._connection.execute("PRAGMA journal_mode = DELETE")
        self._connection.close()

    @contextmanager
    def round(self) -> Iterator[None]:
        """Make everything booked inside one commit: all of it reaches the disk, or none, in memory as well.

        Rounds nest: an inner one joins the outer one. Other threads wait until the outer one has ended.
        """
        with self._lock:
            if self._in_round:
                yield
                return
            undo: list[Callable[[], None]] = []
            self._in_round = True
            self._failure = None
            try:
                self._begin()
                undo = [snapshot() for snapshot in self._snapshots]
                yield
                self._commit()
            except BaseException:
                if self._roll_back():
                    for restore in undo:
                        restore()
                raise
            finally:
                self._in_round = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """See the books of one moment inside, whatever a running ledger commits meanwhile; write nothing here."""
        with self._lock:
            if self._in_round:
                yield
                return
            self._execute("BEGIN")
            try:
                yield
            finally:
                self._roll_back()

    def remember(self, snapshot: Callable[[], Callable[[], None]]) -> None:
        """Call `snapshot()` as each round begins, and what it returned if that round is taken back."""
        self._snapshots.append(snapshot)

    # What is written.

    def set_meta(self, key: str, value: Json) -> None:
        """Note a fact about the run (the charging rule, its id, the budget); a fact is noted once and stays."""
        with self.round():
            self._insert("meta", [(key, json.dumps(value, sort_keys=True))], _as_it_is)

    def add_allowance(
        self, kind: Literal["grant", "withdrawal"], sequence: int, bits: Bits, taken: Bits
    ) -> Bits | None:
        """Book a grant or withdrawal; None if it is new, what was taken the first time if it is a retry."""
        if self._execute(_INSERT["allowances"], (kind, sequence, bits, taken)).rowcount:
            return None
        _, _, recorded_bits, recorded_taken = self._execute(_FIND["allowances"], (kind, sequence)).fetchone()
        if recorded_bits != bits:
            raise self._conflict("allowances", (kind, sequence, bits), (kind, sequence, recorded_bits))
        return int(recorded_taken)

    def add_lease(self, key: Key, bits: Bits, minted: Bits) -> Lease | None:
        """Book an open lease that brings `minted` new bits into the jar; None if the key is taken."""
        cursor = self._execute(_INSERT["leases"], (*key, bits, minted, "open", 0))
        return Lease(cursor.lastrowid or 0, *key, bits) if cursor.rowcount else None

    def end_lease(self, lease: Lease, state: State, spent: Bits) -> None:
        """Book how an open lease ended."""
        where = "WHERE holder = ? AND epoch = ? AND sequence = ? AND state = 'open'"
        if self._execute(f"UPDATE leases SET state = ?, spent = ? {where}", (state, spent, *lease.key)).rowcount != 1:
            raise self._fail(f"lease {lease.key} is not open in the journal {self.path}; reopen the ledger from it")

    def add_entries(self, entries: Sequence[Entry]) -> None:
        """Book the debits of a lease."""
        self._insert("entries", entries, _entry_row)

    def add_receipts(self, receipts: Sequence[Receipt]) -> None:
        """Book what receivers heard; those that stand here already change nothing."""
        self._insert("receipts", receipts, _receipt_row)

    def add_drop(self, sequence: int, n_messages: int, bits: Bits) -> bool:
        """Book messages that were not sent for want of bits; False if that is a retry."""
        return self._insert("drops", [(sequence, n_messages, bits)], _as_it_is) == 1

    def add_fence(self, holder: str, epoch: int) -> None:
        """Book that `holder` continues under `epoch`."""
        self._insert("fences", [(holder, epoch)], _as_it_is)

    # What is read.

    def meta(self, key: str) -> Json:
        """Give a noted fact, or None."""
        row = self._execute(_FIND["meta"], (key,)).fetchone()
        value: Json = None if row is None else json.loads(row[1])
        return value

    def statement(self) -> Statement:
        """Add up the books from their rows."""
        return Statement(*self._execute(_STATEMENT).fetchone())

    def epochs(self) -> dict[str, int]:
        """Give the current epoch of every holder that was ever fenced."""
        return dict(self._rows("SELECT holder, MAX(epoch) FROM fences GROUP BY holder"))

    def open_leases(self) -> list[Lease]:
        """Give the leases that are neither settled nor released, oldest first."""
        sql = "SELECT id, holder, epoch, sequence, bits FROM leases WHERE state = 'open' ORDER BY id"
        return [Lease(*row) for row in self._rows(sql)]

    def lease(self, key: Key) -> LeaseRecord | None:
        """Give the lease with this key, or None."""
        row = self._execute(_LEASES + " WHERE holder = ? AND epoch = ? AND sequence = ?", key).fetchone()
        return None if row is None else LeaseRecord(Lease(*row[:5]), *row[5:])

    def leases(self) -> Iterator[LeaseRecord]:
        """Give all leases by key."""
        for row in self._rows(_LEASES + " ORDER BY holder, epoch, sequence"):
            yield LeaseRecord(Lease(*row[:5]), *row[5:])

    def has_receipt(self, receipt: Receipt) -> bool:
        """Tell whether exactly this receipt stands here."""
        row = _receipt_row(receipt)
        recorded: _Row | None = self._execute(_FIND["receipts"], row[: _COLUMNS["receipts"][0]]).fetchone()
        return recorded == row

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

    def digest(self) -> str:
        """Give the SHA-256 of all rows in key order, as hex: same seed, same digest.

        Facts about the run (`meta`) and the ids of leases, which number calls and not bits, are left out.
        """
        sha = hashlib.sha256()
        for table, (n_key, columns) in _COLUMNS.items():
            if table != "meta":
                sql = f"SELECT {', '.join(columns)} FROM {table} ORDER BY {', '.join(columns[:n_key])}"
                for row in self._rows(sql):
                    sha.update(json.dumps([table, *row]).encode())
        return sha.hexdigest()

    # How it is done.

    def _attach(self, path: Path | str, target: str, busy_seconds: float) -> None:
        if sqlite3.sqlite_version_info < (3, 37):
            raise JournalError(f"SQLite {sqlite3.sqlite_version} is too old, 3.37 is needed; use a newer Python build")
        self.path = Path(path)
        self._lock = threading.RLock()
        self._snapshots: list[Callable[[], Callable[[], None]]] = []
        self._in_round = False
        self._failure = None
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

    def _prepare(self) -> None:
        self._execute("PRAGMA journal_mode = WAL")
        self._execute("PRAGMA synchronous = FULL")
        self._version_seen = self._data_version()
        with self.round():
            if self._execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0:
                for statement in _SCHEMA.split(";"):
                    self._execute(statement)
                self._execute("INSERT INTO schema_version VALUES (?)", (SCHEMA_VERSION,))
        self._check_schema()

    def _check_schema(self) -> None:
        if not self._execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").fetchone():
            raise JournalError(f"{self.path} is not a journal of commlib; choose another path or move that file away")
        (version,) = self._execute("SELECT version FROM schema_version").fetchone()
        if version != SCHEMA_VERSION:
            raise JournalError(
                f"the journal {self.path} has schema {version}, this commlib reads schema {SCHEMA_VERSION}; "
                f"use the version of commlib that wrote it"
            )
        self._version_seen = self._data_version()

    def _data_version(self) -> int:
        """Give a number that changes when another connection commits."""
        return int(self._execute("PRAGMA data_version").fetchone()[0])

    def _begin(self) -> None:
        self._execute("BEGIN IMMEDIATE")
        if self._data_version() != self._version_seen:
            raise self._fail(
                f"another process has written to the journal {self.path} since it was opened here; "
                f"end one of the two, then resume"
            )

    def _commit(self) -> None:
        if self._failure is not None:
            raise JournalError(f"nothing of this round was booked, since one booking failed: {self._failure}")
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

    def _insert(self, table: str, slips: Sequence[_Slip], row_of: Callable[[_Slip], _Row]) -> int:
        """Insert rows and count the new ones; one that differs from a recorded row with its key is a conflict."""
        n_key, columns = _COLUMNS[table]
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

    def _execute(self, sql: str, parameters: _Row = ()) -> sqlite3.Cursor:
        try:
            return self._connection.execute(sql, parameters)
        except sqlite3.Error as error:
            raise self._fail_with(error) from error

    def _execute_many(self, sql: str, rows: Iterable[Sequence[str | int]]) -> sqlite3.Cursor:
        try:
            return self._connection.executemany(sql, rows)
        except sqlite3.Error as error:
            raise self._fail_with(error) from error

    def _rows(self, sql: str, parameters: _Row = ()) -> Iterator[Any]:
        rows = self._execute(sql, parameters)
        try:
            yield from rows
        except sqlite3.Error as error:
            raise self._fail_with(error) from error

    def _conflict(self, table: str, row: _Row, recorded: _Row) -> JournalError:
        return self._fail(
            f"the journal {self.path} has {recorded} in {table}, now it was to be {row}; "
            f"a row never changes: resume with the same seed, config and checkpoint, or start a new run folder"
        )

    def _fail(self, sentence: str) -> JournalError:
        self._failure = sentence
        return JournalError(sentence)

    def _fail_with(self, error: sqlite3.Error) -> JournalError:
        for sign, sentence in _SENTENCES.items():
            if sign in str(error):
                return self._fail(f"the journal {self.path} {sentence}")
        return self._fail(f"the journal {self.path} is damaged or is no journal ({error}); restore it from a copy")


def _entry_row(entry: Entry) -> _Row:
    epoch, sequence, round_, sender, receivers, n_messages, bits, payload_bits, holder = entry
    return holder, epoch, sequence, sender, _listed(receivers), round_, n_messages, bits, payload_bits


def _as_it_is(row: _Row) -> _Row:
    return row


@lru_cache(maxsize=1 << 14)
def _listed(receivers: tuple[int, ...]) -> str:
    """Receivers in a column; a plan has the same ones in every round."""
    return ",".join(map(str, receivers))


_receipt_row: Final[Callable[[Receipt], _Row]] = itemgetter(
    *(Receipt._fields.index(column) for column in _COLUMNS["receipts"][1])
)
