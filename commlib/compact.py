"""Compaction: rows that are closed and reconciled are added up, and their space is given back.

The bookkeeper's year end: the slips go to the shredder, and the first line of the new book reads "carried forward". Not
an archive: what was compacted can no longer be looked up row by row (`commlib.export` writes it down before), nor be
repeated: a retry of a lease, grant or receipt that is gone is refused, since it cannot be told from a new one.
"""

from collections import defaultdict
from typing import Final, NamedTuple

from commlib.audit import audit, rounds, scope_of
from commlib.errors import JournalError
from commlib.journal import MAIN, Journal
from commlib.message import Edge

_MAY_BE_LATE: Final = (
    "(state = 'expired' AND epoch = (SELECT COALESCE(MAX(epoch), 0) FROM fences f WHERE f.holder = leases.holder))"
)
_PENDING: Final = f"(state = 'open' OR {_MAY_BE_LATE})"
_CLOSED: Final = f"NOT {_PENDING} AND sequence < ?"
_END: Final = 2**62
"""More than any sequence."""
_HIGHEST: Final = "ON CONFLICT DO UPDATE SET sequence = MAX(sequence, excluded.sequence)"
_ADD_EDGE: Final = """
INSERT INTO carried_edges VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    debited_messages = debited_messages + excluded.debited_messages, debited_bits = debited_bits + excluded.debited_bits,
    recovered_messages = recovered_messages + excluded.recovered_messages,
    recovered_bits = recovered_bits + excluded.recovered_bits,
    received_messages = received_messages + excluded.received_messages,
    received_bits = received_bits + excluded.received_bits
"""
_ADD_ACCOUNT: Final = """
INSERT INTO carried_accounts VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET granted = granted + excluded.granted,
    spent = spent + excluded.spent, unaccounted = unaccounted + excluded.unaccounted,
    recomputed = recomputed + excluded.recomputed, n_entries = n_entries + excluded.n_entries
"""


class Compaction(NamedTuple):
    """How many rows were put together, and the size of the file before and after."""

    n_leases: int
    n_entries: int
    n_receipts: int
    n_allowances: int
    bytes_before: int
    bytes_after: int


def compact(journal: Journal) -> Compaction:
    """Replace closed leases, their entries and receipts, and all allowances by their sums, in one commit.

    Statements, the audit's figures and the digest stay as they are. What is not closed yet stays, row by row: open
    leases, and those that have expired and may still be settled late, since their holders were not fenced. Where the
    sequences of the books are their rounds, so does everything from the round of the oldest such lease on.

    What is gone cannot be retried, so compact between two runs, or when a round is over; not while a host may have to
    repeat one. The space goes back to the disk when nobody else has the file open.

    Raises:
        JournalError: the books do not reconcile; or the receipts for a lease that is open or may be settled late cannot
            be told from the others.
    """
    bytes_before = _n_bytes(journal)
    with journal.round():
        report = audit(journal)
        if n := len(report.differences):
            raise JournalError(
                f"the books in {journal.path} have {n} difference{'s' * (n != 1)} and stay as they are; the first: "
                f"{report.differences[0]}. Compact when everybody has settled; `commlib audit` shows the others"
            )
        digest = journal.digest()
        carried = journal.carried()
        recovered_before = carried.bits_recovered if carried else 0
        end = _end(journal, has_orphans=report.bits_recovered > recovered_before)
        _carry_slips(journal, end)
        _carry_accounts(journal, end)
        _carry_sequences(journal, end)
        counts = _delete(journal, end)
        journal.execute("UPDATE carried SET digest = ?, rest = ?", (digest, journal.digest_of_rows()))
        journal.reload()
    journal.shrink()
    return Compaction(*counts, bytes_before, _n_bytes(journal))


def _end(journal: Journal, *, has_orphans: bool) -> int:
    """The sequence from which on everything stays."""
    pending = list(journal.rows(f"SELECT sequence, state FROM leases WHERE {_PENDING}"))
    carried = journal.carried()
    is_by_round = carried is None or carried.is_by_round
    for table in ("entries", "receipts"):
        is_by_round = is_by_round and not any(journal.rows(f"SELECT 1 FROM {table} WHERE round <> sequence LIMIT 1"))
    if carried is None:
        journal.execute("INSERT INTO carried VALUES ('', '', 1, 0, 0, 0, 0)")
    journal.execute("UPDATE carried SET is_by_round = ?", (int(is_by_round),))
    if is_by_round:
        return min((sequence for sequence, _ in pending), default=_END)
    n_late = sum(state == "expired" for _, state in pending)
    if n_late:
        raise JournalError(
            f"{n_late} leases in {journal.path} have expired and may still be settled late, so what was heard of them "
            f"must stay; fence their holders, then compact"
        )
    if pending and has_orphans:
        raise JournalError(
            f"{len(pending)} leases in {journal.path} are open, and receipts without a debit may be of them or of a dead "
            f"holder; settle these leases or fence their holders, then compact"
        )
    return _END


def _carry_slips(journal: Journal, end: int) -> None:
    """Add up entries and receipts, for each edge and for each account whose scope they are in."""
    edges: dict[Edge, list[int]] = defaultdict(lambda: [0] * 6)
    scopes = {account: scope_of(terms) for account, (terms, _) in journal.accounts().items()}
    recomputed = dict.fromkeys(scopes, 0)
    n_entries = n_receipts = debited = received = recovered = 0
    for lot in rounds(journal):
        if lot.number >= end:
            break
        n_entries += len(lot.entries)
        n_receipts += lot.n_receipts
        recovered += sum(lot.orphans().values())
        for entry in lot.entries:
            debited += entry.bits
            for account, uses in scopes.items():
                recomputed[account] += uses(entry)
        for edge, debit in lot.debits.items():
            edges[edge][0] += debit.n_messages
            edges[edge][1] += debit.bits
        for edge, heard in lot.receipts.items():
            for n_messages, bits in heard:
                received += bits
                edges[edge][4] += n_messages
                edges[edge][5] += bits
                if edge not in lot.debits:
                    edges[edge][2] += n_messages
                    edges[edge][3] += bits
    journal.execute_many(_ADD_EDGE, ((*edge, *sums) for edge, sums in sorted(edges.items())))
    for account, used in recomputed.items():
        journal.execute(_ADD_ACCOUNT, (account, 0, 0, 0, used, n_entries if account == MAIN else 0))
    journal.execute(
        """UPDATE carried SET n_receipts = n_receipts + ?, bits_debited = bits_debited + ?,
            bits_received = bits_received + ?, bits_recovered = bits_recovered + ?""",
        (n_receipts, debited, received, recovered),
    )


def _carry_accounts(journal: Journal, end: int) -> None:
    """Add up allowances and closed leases."""
    sums = f"""SELECT COALESCE(SUM(minted), 0), COALESCE(SUM(spent), 0),
        COALESCE(SUM(CASE WHEN state IN ('fenced', 'expired') THEN spent ELSE 0 END), 0)
        FROM leases WHERE account = ? AND {_CLOSED}"""
    allowed = """SELECT COALESCE(SUM(CASE kind WHEN 'grant' THEN taken ELSE -taken END), 0) FROM allowances
        WHERE account = ?"""
    for account in journal.accounts():
        ((granted,),) = journal.rows(allowed, (account,))
        ((minted, spent, unaccounted),) = journal.rows(sums, (account, end))
        journal.execute(_ADD_ACCOUNT, (account, granted + minted, spent, unaccounted, 0, 0))


def _carry_sequences(journal: Journal, end: int) -> None:
    """Remember how far each counter had come."""
    journal.execute(
        f"""INSERT INTO carried_sequences SELECT 'lease', account, holder, epoch, MAX(sequence) FROM leases
            WHERE {_CLOSED} GROUP BY account, holder, epoch {_HIGHEST}""",
        (end,),
    )
    journal.execute(
        f"""INSERT INTO carried_sequences SELECT 'receipt', '', holder, epoch, MAX(sequence) FROM receipts
            WHERE sequence < ? GROUP BY holder, epoch {_HIGHEST}""",
        (end,),
    )
    journal.execute(
        f"""INSERT INTO carried_sequences SELECT kind, account, '', 0, MAX(sequence) FROM allowances
            WHERE true GROUP BY kind, account {_HIGHEST}"""
    )
    journal.execute(
        f"""INSERT INTO carried_sequences SELECT 'id', '', '', 0, id FROM leases
            WHERE id = (SELECT MAX(id) FROM leases) {_HIGHEST}"""
    )


def _delete(journal: Journal, end: int) -> tuple[int, int, int, int]:
    n_leases = journal.execute(f"DELETE FROM leases WHERE {_CLOSED}", (end,))
    n_entries = journal.execute("DELETE FROM entries WHERE sequence < ?", (end,))
    n_receipts = journal.execute("DELETE FROM receipts WHERE sequence < ?", (end,))
    return n_leases, n_entries, n_receipts, journal.execute("DELETE FROM allowances")


def _n_bytes(journal: Journal) -> int:
    files = (journal.path, journal.path.with_name(journal.path.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.is_file())
