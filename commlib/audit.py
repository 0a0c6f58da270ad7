"""The audit: what senders were charged against what receivers heard, edge by edge and bit by bit.

Two shoeboxes of slips, one kept by those who paid and one by those who got the goods: every slip in one must have its
twin in the other. Not a check of the ledger while it runs (that is its invariant), but of books that anyone hands over.
"""

from collections import defaultdict
from collections.abc import Iterator
from heapq import merge
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from commlib.journal import Entry, Journal, LeaseRecord, Receipt, Statement
from commlib.message import Edge
from commlib.units import Bits


class Difference(NamedTuple):
    """One thing in the books that does not add up; `round` and `edge` are None where it is not about one edge."""

    round: int | None
    edge: Edge | None
    explanation: str

    def __str__(self) -> str:
        return self.explanation


class AuditReport(NamedTuple):
    """What the audit found; the books agree when `differences` is empty. All sizes are in bits.

    `bits_received` counts a broadcast once for each that heard it. `bits_unaccounted` is what fenced holders had leased
    and nobody debited; `bits_recovered` is the part of it that receivers heard.
    """

    differences: list[Difference]
    n_entries: int
    n_receipts: int
    bits_debited: Bits
    bits_received: Bits
    bits_unaccounted: Bits
    bits_recovered: Bits
    statement: Statement


class _Heard(NamedTuple):
    n_messages: int
    bits: Bits


def audit(journal: Journal) -> AuditReport:
    """Reconcile the books: every debit with its receipts, every lease with its entries, the sums with the statement.

    A receipt without a debit is a difference, unless a fenced holder's lease can have paid for it: a dead sender does
    not report what it sent, and its receivers are the only witnesses.
    """
    with journal.reading():
        return _audit(journal)


def _audit(journal: Journal) -> AuditReport:
    differences: list[Difference] = []
    unaccounted = overspent = spent = 0
    for record in journal.leases():
        spent += record.spent
        unaccounted += record.spent if record.state in {"fenced", "expired"} else 0
        overspent += record.spent if record.state == "overspent" else 0
        differences += [Difference(None, None, text) for text in _lease_differences(record)]

    n_entries = n_receipts = bits_debited = bits_received = recovered = 0
    by_round = attrgetter("round")
    slips: Iterator[Entry | Receipt] = merge(journal.entries(), journal.receipts(), key=by_round)
    for round_, group in groupby(slips, key=by_round):
        debits: dict[Edge, _Heard] = defaultdict(lambda: _Heard(0, 0))
        receipts: dict[Edge, list[_Heard]] = defaultdict(list)
        for slip in group:
            if isinstance(slip, Entry):
                n_entries, bits_debited = n_entries + 1, bits_debited + slip.bits
                for receiver in slip.receivers:
                    edge = Edge(slip.sender, receiver)
                    n, bits = debits[edge]
                    debits[edge] = _Heard(n + slip.n_messages, bits + slip.bits)
            else:
                n_receipts, bits_received = n_receipts + 1, bits_received + slip.bits
                receipts[Edge(slip.sender, slip.receiver)].append(_Heard(slip.n_messages, slip.bits))
        orphans: dict[int, Bits] = defaultdict(int)
        every = debits.keys() | receipts.keys()
        for edge in sorted(edge for edge in every if receipts.get(edge) != [debits.get(edge)]):
            heard = receipts.get(edge, [])
            if edge not in debits and len(heard) == 1:
                # A broadcast is heard by many and paid once; the dearest copy is what its sender spent at the least.
                orphans[edge.sender] = max(orphans[edge.sender], heard[0].bits)
            else:
                differences.append(Difference(round_, edge, _explain(round_, edge, debits.get(edge), heard)))
        for sender, bits in orphans.items():
            if recovered + bits <= unaccounted:
                recovered += bits
                continue
            for edge in sorted(edge for edge in receipts if edge.sender == sender and edge not in debits):
                differences.append(Difference(round_, edge, _explain(round_, edge, None, receipts[edge])))

    statement = journal.statement()
    if bits_debited + unaccounted + overspent != statement.spent:
        differences.append(
            Difference(
                None,
                None,
                f"the entries add up to {bits_debited} bits, fenced and overspent leases to {unaccounted + overspent}, "
                f"but {statement.spent} bits count as spent: entries were lost or added after the run",
            )
        )
    if statement.available < 0:
        differences.append(
            Difference(
                None,
                None,
                f"{statement.granted} bits were granted and not withdrawn, but {statement.spent} are spent and "
                f"{statement.leased} leased: {-statement.available} bits came from nowhere",
            )
        )
    return AuditReport(
        differences, n_entries, n_receipts, bits_debited, bits_received, unaccounted, recovered, statement
    )


def _lease_differences(record: LeaseRecord) -> Iterator[str]:
    lease, state, spent, entered = record
    name = f"lease {lease.sequence} of {lease.holder} (epoch {lease.epoch})"
    if state == "overspent":
        yield f"{name} held {lease.bits} bits and its holder sent more: what went beyond was never paid"
    if state in {"settled", "late"} and entered != spent:
        yield f"{name} was settled at {spent} bits, but its entries add up to {entered}"
    if state not in {"settled", "late"} and entered:
        yield f"{name} is {state}, yet it has entries of {entered} bits"
    if spent > lease.bits:
        yield f"{name} held {lease.bits} bits, but {spent} count as spent"


def _explain(round_: int, edge: Edge, debit: _Heard | None, heard: list[_Heard]) -> str:
    where = f"round {round_}, edge {edge}: "
    if debit is None:
        what = " and ".join(map(_sized, heard))
        return where + f"the receiver heard {what}, but the sender was never charged"
    paid = f"the sender was charged for {_sized(debit)}, "
    if not heard:
        return where + paid + "but the receiver heard nothing: the frame was lost, or its receipt was"
    if len(heard) > 1:
        return where + paid + f"but the receiver has {len(heard)} receipts: " + " and ".join(map(_sized, heard))
    return where + paid + f"but the receiver heard {_sized(heard[0])}"


def _sized(heard: _Heard) -> str:
    return f"{heard.n_messages} message{'' if heard.n_messages == 1 else 's'} of {heard.bits} bits"
