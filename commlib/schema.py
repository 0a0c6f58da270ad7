"""The journal's tables, of today and of every schema before it, and the steps that lead from each to the next.

A map room: the newest map hangs on the wall, the old ones lie in the drawer, each with a note of what has changed since.
Not the journal (`commlib.journal`): nothing here knows what a lease is, only how its row is written.

A schema is never changed once it was shipped. A new one is a new version here, a step from the version before it, and a
golden file of it in tests/golden.
"""

import json
import sqlite3
from collections.abc import Callable
from typing import Any, Final

SCHEMA_VERSION: Final = 2

_SCHEMA_2: Final = """
CREATE TABLE schema_version (version INTEGER NOT NULL) STRICT;
CREATE TABLE meta (key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (key)) STRICT, WITHOUT ROWID;
CREATE TABLE accounts (account TEXT NOT NULL, currency TEXT NOT NULL, per TEXT NOT NULL, amount INTEGER, agents TEXT,
    edge TEXT, granted INTEGER NOT NULL, spent INTEGER NOT NULL, leased INTEGER NOT NULL, n_entries INTEGER NOT NULL,
    dropped_messages INTEGER NOT NULL, dropped_bits INTEGER NOT NULL, degraded_messages INTEGER NOT NULL,
    deferred_messages INTEGER NOT NULL, PRIMARY KEY (account)) STRICT, WITHOUT ROWID;
CREATE TABLE allowances (account TEXT NOT NULL, kind TEXT NOT NULL, sequence INTEGER NOT NULL, bits INTEGER NOT NULL,
    taken INTEGER NOT NULL, PRIMARY KEY (account, kind, sequence)) STRICT, WITHOUT ROWID;
CREATE TABLE leases (id INTEGER PRIMARY KEY, account TEXT NOT NULL, holder TEXT NOT NULL, epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL, bits INTEGER NOT NULL, minted INTEGER NOT NULL, state TEXT NOT NULL,
    spent INTEGER NOT NULL, deadline INTEGER, UNIQUE (account, holder, epoch, sequence)) STRICT;
CREATE INDEX open_leases ON leases (id) WHERE state = 'open';
CREATE TABLE entries (holder TEXT NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, sender INTEGER NOT NULL,
    receivers TEXT NOT NULL, round INTEGER NOT NULL, n_messages INTEGER NOT NULL, bits INTEGER NOT NULL,
    payload_bits INTEGER NOT NULL, PRIMARY KEY (holder, epoch, sequence, sender, receivers)) STRICT, WITHOUT ROWID;
CREATE TABLE receipts (holder TEXT NOT NULL, epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, sender INTEGER NOT NULL,
    receiver INTEGER NOT NULL, round INTEGER NOT NULL, n_messages INTEGER NOT NULL, bits INTEGER NOT NULL,
    PRIMARY KEY (holder, epoch, sequence, sender, receiver)) STRICT, WITHOUT ROWID;
CREATE TABLE notes (kind TEXT NOT NULL, sequence INTEGER NOT NULL, n_messages INTEGER NOT NULL, bits INTEGER NOT NULL,
    PRIMARY KEY (kind, sequence)) STRICT, WITHOUT ROWID;
CREATE TABLE prices (account TEXT NOT NULL, sequence INTEGER NOT NULL, price REAL NOT NULL,
    PRIMARY KEY (account, sequence)) STRICT, WITHOUT ROWID;
CREATE TABLE fences (holder TEXT NOT NULL, epoch INTEGER NOT NULL, PRIMARY KEY (holder, epoch)) STRICT, WITHOUT ROWID;
CREATE TABLE carried (digest TEXT NOT NULL, rest TEXT NOT NULL, is_by_round INTEGER NOT NULL,
    n_receipts INTEGER NOT NULL, bits_debited INTEGER NOT NULL, bits_received INTEGER NOT NULL,
    bits_recovered INTEGER NOT NULL) STRICT;
CREATE TABLE carried_accounts (account TEXT NOT NULL, granted INTEGER NOT NULL, spent INTEGER NOT NULL,
    unaccounted INTEGER NOT NULL, recomputed INTEGER NOT NULL, n_entries INTEGER NOT NULL,
    PRIMARY KEY (account)) STRICT, WITHOUT ROWID;
CREATE TABLE carried_edges (sender INTEGER NOT NULL, receiver INTEGER NOT NULL, debited_messages INTEGER NOT NULL,
    debited_bits INTEGER NOT NULL, recovered_messages INTEGER NOT NULL, recovered_bits INTEGER NOT NULL,
    received_messages INTEGER NOT NULL, received_bits INTEGER NOT NULL,
    PRIMARY KEY (sender, receiver)) STRICT, WITHOUT ROWID;
CREATE TABLE carried_sequences (kind TEXT NOT NULL, account TEXT NOT NULL, holder TEXT NOT NULL, epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL, PRIMARY KEY (kind, account, holder, epoch)) STRICT, WITHOUT ROWID;
"""
SCHEMA: Final = _SCHEMA_2
"""What a new journal is made of."""

COLUMNS: Final[dict[str, tuple[int, tuple[str, ...]]]] = {
    "meta": (1, ("key", "value")),
    "accounts": (
        1,
        (
            *("account", "currency", "per", "amount", "agents", "edge", "granted", "spent", "leased", "n_entries"),
            *("dropped_messages", "dropped_bits", "degraded_messages", "deferred_messages"),
        ),
    ),
    "allowances": (3, ("account", "kind", "sequence", "bits", "taken")),
    "leases": (4, ("account", "holder", "epoch", "sequence", "bits", "minted", "state", "spent", "deadline")),
    "entries": (
        5,
        ("holder", "epoch", "sequence", "sender", "receivers", "round", "n_messages", "bits", "payload_bits"),
    ),
    "receipts": (5, ("holder", "epoch", "sequence", "sender", "receiver", "round", "n_messages", "bits")),
    "notes": (2, ("kind", "sequence", "n_messages", "bits")),
    "prices": (2, ("account", "sequence", "price")),
    "fences": (2, ("holder", "epoch")),
    "carried": (
        0,
        ("digest", "rest", "is_by_round", "n_receipts", "bits_debited", "bits_received", "bits_recovered"),
    ),
    "carried_accounts": (1, ("account", "granted", "spent", "unaccounted", "recomputed", "n_entries")),
    "carried_edges": (
        2,
        (
            *("sender", "receiver", "debited_messages", "debited_bits", "recovered_messages", "recovered_bits"),
            *("received_messages", "received_bits"),
        ),
    ),
    "carried_sequences": (4, ("kind", "account", "holder", "epoch", "sequence")),
}
"""The columns of each table in writing order, the key first, and how many of them are the key."""


def create(connection: sqlite3.Connection) -> None:
    """Make the tables of today in an empty database, within the caller's transaction."""
    _run(connection, SCHEMA)
    connection.execute("INSERT INTO schema_version VALUES (?)", (SCHEMA_VERSION,))
    _open_main(connection, "", 0)


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the tables of an older version to those of today, within the caller's transaction."""
    for step in range(version, SCHEMA_VERSION):
        STEPS[step](connection)
        connection.execute("UPDATE schema_version SET version = ?", (step + 1,))


def _from_1(connection: sqlite3.Connection) -> None:
    """Accounts: until then there was one, whose terms were a fact under the key "budget"; drops are a kind of note."""
    old = ("allowances", "leases")
    kept = ("schema_version", "meta", "entries", "receipts", "fences")
    connection.execute("DROP INDEX open_leases")
    for table in old:
        connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    _run(
        connection,
        ";".join(text for text in _SCHEMA_2.split(";") if not any(f"TABLE {name} (" in text for name in kept)),
    )
    connection.execute("INSERT INTO allowances SELECT 'bits', kind, sequence, bits, taken FROM old_allowances")
    connection.execute(
        """INSERT INTO leases SELECT id, 'bits', holder, epoch, sequence, bits, minted, state, spent, NULL
            FROM old_leases ORDER BY id"""
    )
    connection.execute("INSERT INTO notes SELECT 'dropped', sequence, n_messages, bits FROM drops")
    for table in (*(f"old_{name}" for name in old), "drops"):
        connection.execute(f"DROP TABLE {table}")
    row = connection.execute("SELECT value FROM meta WHERE key = 'budget'").fetchone()
    budget: dict[str, Any] = {"bits": 0, "per": ""} if row is None else json.loads(row[0])
    _open_main(connection, budget["per"], budget["bits"])
    connection.execute(
        """UPDATE accounts SET
            granted = (SELECT COALESCE(SUM(CASE kind WHEN 'grant' THEN taken ELSE -taken END), 0) FROM allowances)
                + (SELECT COALESCE(SUM(minted), 0) FROM leases),
            spent = (SELECT COALESCE(SUM(spent), 0) FROM leases),
            leased = (SELECT COALESCE(SUM(bits), 0) FROM leases WHERE state = 'open'),
            n_entries = (SELECT COUNT(*) FROM entries),
            dropped_messages = (SELECT COALESCE(SUM(n_messages), 0) FROM notes),
            dropped_bits = (SELECT COALESCE(SUM(bits), 0) FROM notes)"""
    )


STEPS: Final[dict[int, Callable[[sqlite3.Connection], None]]] = {1: _from_1}
"""From each version to the next one."""


def _open_main(connection: sqlite3.Connection, per: str, amount: int | None) -> None:
    connection.execute(
        "INSERT INTO accounts VALUES ('bits', 'bits', ?, ?, NULL, NULL, 0, 0, 0, 0, 0, 0, 0, 0)", (per, amount)
    )


def _run(connection: sqlite3.Connection, script: str) -> None:
    for statement in script.split(";"):  # `executescript` would commit the caller's transaction first
        if statement.strip():
            connection.execute(statement)
