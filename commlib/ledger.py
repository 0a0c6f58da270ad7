"""The shared budget: no message crosses an edge unless its bits were leased and settled here.

A ledger is a jar of whole bits. Before sending, a host *leases* from the jar; afterwards it *settles* at the true size
and the difference returns. Not a token bucket: bits never refill by time, only a new allowance brings more, and what is
left of an allowance expires (`withdraw`). Always `spent + leased + available == granted`, and none is ever negative.

Every call that moves bits carries a `sequence` that the caller counts up. The same call again, as after a resume from a
checkpoint, gives back what was recorded the first time and changes nothing.
"""

import operator
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from types import TracebackType
from typing import Any, Final, TypeVar, cast

from commlib.budget import Budget
from commlib.errors import BudgetError, LeaseError, OverBudget
from commlib.journal import Entry, Journal, Key, Lease, Receipt, State, Statement
from commlib.units import MOST_BITS, Bits

__all__ = ["Entry", "Lease", "Ledger", "Receipt", "Statement"]

_ADVICE: Final = "raise the budget, or let the topology open fewer edges"
_Record = TypeVar("_Record", Entry, Receipt)


class Ledger:
    """The jar that all hosts share, kept in a journal; give the same journal again and it continues exactly.

    >>> with Ledger() as ledger:
    ...     _ = ledger.grant(100, sequence=0)
    ...     lease = ledger.lease("host-0", 60, sequence=0)
    ...     entry = Entry(0, 0, 0, sender=0, receivers=(1,), n_messages=1, bits=40, payload_bits=16, holder="host-0")
    ...     ledger.settle(lease, [entry]).available
    60

    Use one ledger per journal. All methods may be called from any thread; several within `with ledger.round():` are one
    commit. When a call raises, its bits have not moved, in memory or on disk; the one exception is an overspent lease.
    """

    def __init__(self, journal: Journal | None = None, *, budget: Budget | None = None) -> None:
        """Continue from `journal`; without one, keep the books in memory.

        Under an unlimited `budget` the jar grows by what a lease lacks; a capped one is fed by `grant` alone. The
        budget is noted in the journal, and read from there when it is left out here.
        """
        self.journal = journal or Journal.in_memory()
        if budget is not None:
            self.journal.set_meta("budget", {"bits": budget.amount, "per": budget.per})
        noted = self.journal.meta("budget")
        self._is_capped = not (isinstance(noted, dict) and noted["bits"] is None)
        self._statement = self.journal.statement()
        self._open: dict[Key, Lease] = {lease.key: lease for lease in self.journal.open_leases()}
        self._epochs = self.journal.epochs()
        self.round = self.journal.round
        self.journal.remember(self._snapshot)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the journal; open leases stay open in it."""
        self.journal.close()

    def statement(self) -> Statement:
        """Give the sums of this moment, in bits."""
        return self._statement

    def epoch(self, holder: str) -> int:
        """Give the epoch under which `holder` may lease and report; it starts at 0 and each fence adds 1."""
        return self._epochs.get(holder, 0)

    def grant(self, bits: Bits, sequence: int) -> Statement:
        """Put an allowance into the jar."""
        bits, sequence = _whole("a grant", bits), _whole("a sequence", sequence)
        if self._statement.granted + bits >= MOST_BITS:
            raise BudgetError(f"a grant of {bits} bits would bring the jar to 2^62 bits or more; grant less")
        with self.round():
            if self.journal.add_allowance("grant", sequence, bits, bits) is None:
                self._move(granted=bits)
            return self._statement

    def withdraw(self, bits: Bits, sequence: int) -> Bits:
        """Let an allowance expire: take `bits` out of the jar, at most what is available; gives what was taken."""
        bits, sequence = _whole("a withdrawal", bits), _whole("a sequence", sequence)
        with self.round():
            taken = min(bits, self._statement.available)
            recorded = self.journal.add_allowance("withdrawal", sequence, bits, taken)
            if recorded is not None:
                return recorded
            self._move(granted=-taken)
            return taken

    def lease(self, holder: str, bits: Bits, sequence: int, *, epoch: int | None = None) -> Lease:
        """Set bits aside for `holder`, before it sends.

        Args:
            holder: The host that is to send.
            bits: The most it may spend under this lease.
            sequence: Counted up by the caller for each holder.
            epoch: That of the holder as the caller knows it; left out, the current one.

        Raises:
            OverBudget: More than available, under a capped budget.
            LeaseError: The key was leased with other bits before, or `holder` was fenced and `epoch` is over.
        """
        bits, sequence = _whole("a lease", bits), _whole("a sequence", sequence)
        with self.round():
            current = self.epoch(holder)
            key = (holder, current if epoch is None else _whole("an epoch", epoch), sequence)
            now = self._statement
            minted = 0 if self._is_capped else max(0, bits - now.available)
            fits = bits <= now.available + minted and now.granted + minted < MOST_BITS
            known = self._open.get(key)
            if known is None and fits and key[1] == current:
                new = self.journal.add_lease(key, bits, minted)
                if new is not None:
                    self._open[key] = new
                    self._move(granted=minted, leased=bits)
                    return new
            if known is None:
                record = self.journal.lease(key)
                if record is None:
                    self._check_epoch(holder, key[1])
                    raise OverBudget(
                        f"{holder} asked for {bits} bits in its lease {sequence}, {now.available} are left; {_ADVICE}"
                    )
                known = record.lease
            if known.bits != bits:
                raise LeaseError(
                    f"{_named(key)} was for {known.bits} bits, now it is to be for {bits}; "
                    f"count the sequence up for each new lease"
                )
            return known

    def settle(self, lease: Lease, entries: Iterable[Entry]) -> Statement:
        """Close a lease at what was really sent; the rest of it returns to the jar.

        Raises:
            LeaseError: The entries are not of this lease; or it was closed in another way before; or they cost more
                than it holds, and then the whole lease counts as spent and the entries are not booked.
        """
        rows = list(entries)
        if not _are_sound(rows, lease):
            rows = [_checked_entry(entry, lease) for entry in rows]
        if len({(row.sender, row.receivers) for row in rows}) != len(rows):
            raise LeaseError(f"{_named(lease.key)} has two entries of one sender to the same receivers; add them up")
        bits = sum(row.bits for row in rows)
        with self.round():
            if not self._is_open(lease):
                self._check_same_ending(lease, rows)
                return self._statement
            if bits <= lease.bits:
                self.journal.add_entries(rows)
                self._end(lease, "settled", bits, n_entries=len(rows))
            else:
                self._end(lease, "overspent", lease.bits)
        if bits > lease.bits:
            raise LeaseError(
                f"{_named(lease.key)} holds {lease.bits} bits, but {bits} were sent, so all of it counts as spent; "
                f"lease the largest size that a frame can have before sending it"
            )
        return self._statement

    def release(self, lease: Lease) -> Statement:
        """Close a lease of which nothing was sent."""
        with self.round():
            if self._is_open(lease):
                self._end(lease, "released", 0)
            else:
                self._check_same_ending(lease, None)
            return self._statement

    def fence(self, holder: str, *, epoch: int | None = None) -> int:
        """Shut out a dead holder: what it still leased counts as spent, and nothing new is taken under its epoch.

        Gives the epoch under which its successor continues. With `epoch`, a retry for one that is over changes nothing.
        """
        with self.round():
            current = self.epoch(holder)
            if epoch is not None and epoch < current:
                return current
            if epoch is not None and epoch > current:
                raise LeaseError(
                    f"{holder} is in epoch {current}, so epoch {epoch} cannot be fenced; use ledger.epoch()"
                )
            for lease in [lease for lease in self._open.values() if lease.holder == holder]:
                self._end(lease, "fenced", lease.bits)
            self.journal.add_fence(holder, current + 1)
            self._epochs[holder] = current + 1
            return current + 1

    def receive(self, receipts: Iterable[Receipt]) -> None:
        """Book what receiving hosts heard, for the audit; it moves no bits.

        Raises LeaseError for news from a fenced holder, JournalError for a receipt that differs from its first version.
        """
        # Plain tuples: the garbage collector forgets them, while it would walk through thousands of receipts in each round.
        rows = cast("list[Receipt]", list(map(tuple, receipts)))
        if not all(map(_are_whole, _columns(rows, len(Receipt._fields))[1:])):
            rows = [_checked_receipt(receipt) for receipt in rows]
        with self.round():
            is_current = {named: named[1] == self.epoch(named[0]) for named in {row[:2] for row in rows}}
            for row in () if all(is_current.values()) else rows:
                if not is_current[row[:2]] and not self.journal.has_receipt(row):
                    self._check_epoch(*row[:2])
            self.journal.add_receipts(rows)

    def note_dropped(self, n_messages: int, bits: Bits, sequence: int) -> Statement:
        """Count messages that were not sent for want of bits, and what they would have cost."""
        n_messages, bits = _whole("a count of messages", n_messages), _whole("a drop", bits)
        with self.round():
            if self.journal.add_drop(_whole("a sequence", sequence), n_messages, bits):
                now = self._statement
                self._statement = now._replace(
                    dropped_messages=now.dropped_messages + n_messages, dropped_bits=now.dropped_bits + bits
                )
            return self._statement

    def _move(self, granted: int = 0, spent: int = 0, leased: int = 0, n_entries: int = 0) -> None:
        now = self._statement
        self._statement = Statement(
            granted=now.granted + granted,
            spent=now.spent + spent,
            leased=now.leased + leased,
            available=now.available + granted - spent - leased,
            dropped_messages=now.dropped_messages,
            dropped_bits=now.dropped_bits,
            n_entries=now.n_entries + n_entries,
        )

    def _end(self, lease: Lease, state: State, spent: Bits, n_entries: int = 0) -> None:
        self.journal.end_lease(lease, state, spent)
        del self._open[lease.key]
        self._move(spent=spent, leased=-lease.bits, n_entries=n_entries)

    def _is_open(self, lease: Lease) -> bool:
        known = self._open.get(lease.key)
        return known is not None and known.bits == lease.bits

    def _check_same_ending(self, lease: Lease, rows: list[Entry] | None) -> None:
        """Pass if this lease was settled with these rows before, or released if they are None."""
        record = self.journal.lease(lease.key)
        if record is None or record.lease.bits != lease.bits:
            raise LeaseError(f"{_named(lease.key)} for {lease.bits} bits was never given; lease before you settle")
        if record.state == "released" and rows is None:
            return
        if record.state == "settled" and rows is not None and sorted(rows) == sorted(self.journal.entries(lease.key)):
            return
        raise LeaseError(
            f"{_named(lease.key)} is already {record.state} at {record.spent} bits; a lease is closed once, "
            f"and a retry must repeat the first report exactly"
        )

    def _check_epoch(self, holder: str, epoch: int) -> None:
        if epoch != self.epoch(holder):
            raise LeaseError(
                f"{holder} speaks for epoch {epoch}, but it is in epoch {self.epoch(holder)}; "
                f"stop that process: another one has taken its place, or it skipped a fence"
            )

    def _snapshot(self) -> Callable[[], None]:
        statement, open_leases, epochs = self._statement, dict(self._open), dict(self._epochs)

        def restore() -> None:
            self._statement, self._open, self._epochs = statement, open_leases, epochs

        return restore


def _whole(what: str, n: int) -> int:
    if type(n) is int and 0 <= n < MOST_BITS:
        return n
    try:
        whole = operator.index(n)  # numpy's integers are welcome, floats are not
    except TypeError:
        raise BudgetError(f"{what} of {n!r} is not a whole number; round it up, bits are charged whole") from None
    if not 0 <= whole < MOST_BITS:
        raise BudgetError(f"{what} of {whole} is out of range; it must be at least 0 and below 2^62")
    return whole


def _columns(slips: Sequence[tuple[Any, ...]], n_fields: int) -> list[list[Any]]:
    """The fields of many slips, field by field; `zip(*slips)` would leave the garbage collector an iterator for each."""
    fields = list(chain.from_iterable(slips))
    return [fields[nth::n_fields] for nth in range(n_fields)]


def _are_whole(numbers: Collection[object]) -> bool:
    """Whether all are plain whole numbers in range: looked at as a column, in a fraction of the time of one by one."""
    return set(map(type, numbers)) == {int} and all(0 <= n < MOST_BITS for n in cast("set[int]", set(numbers)))


def _are_sound(entries: Sequence[Entry], lease: Lease) -> bool:
    """Whether there is nothing to mend or to refuse in any entry; if there is, `_checked_entry` finds it."""
    if not entries:
        return True
    columns = _columns(entries, len(Entry._fields))
    epochs, sequences, rounds, senders, receivers, n_messages, bits, payload_bits, holders = columns
    heard_by = list(chain.from_iterable(receivers))
    numbers = (epochs, sequences, rounds, senders, n_messages, bits, payload_bits, heard_by)
    return (
        set(zip(holders, epochs, sequences, strict=True)) == {lease.key}
        and all(map(_are_whole, numbers))
        and all(listed and tuple(sorted(set(listed))) == listed for listed in receivers)
    )


def _checked_entry(entry: Entry, lease: Lease) -> Entry:
    epoch, sequence, round_, sender, receivers, n_messages, bits, payload_bits, holder = entry
    if (holder, epoch, sequence) != lease.key:
        raise LeaseError(f"an entry of {_named((holder, epoch, sequence))} cannot settle {_named(lease.key)}")
    heard_by = tuple(sorted({_whole("a receiver", receiver) for receiver in receivers}))
    if not heard_by or len(heard_by) != len(receivers):
        raise LeaseError(
            f"the entry of sender {sender} has the receivers {receivers}; name each agent that hears it once"
        )
    return Entry(
        lease.epoch,
        lease.sequence,
        _whole("a round", round_),
        _whole("a sender", sender),
        heard_by,
        _whole("a count of messages", n_messages),
        _whole("an entry's bits", bits),
        _whole("an entry's payload bits", payload_bits),
        holder,
    )


def _checked_receipt(receipt: Receipt) -> Receipt:
    holder, *numbers = receipt
    return Receipt(holder, *[_whole("a receipt's number", number) for number in numbers])


def _named(key: Key) -> str:
    holder, epoch, sequence = key
    return f"lease {sequence} of {holder} (epoch {epoch})"
