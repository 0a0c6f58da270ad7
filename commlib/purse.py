"""The purse: a holder spends out of its own pocket, and goes to the ledger only when the pocket is empty or old.

A purse leases bits in bulk, debits each charge from the lease *before* the message is sent, and settles the sums at once,
so that a charge costs a fraction of a microsecond and a call to the ledger is shared by thousands of them. Not a second
budget: nothing it spends can exceed its lease, and what it does not spend goes back. When its process dies, what it
leased and had not settled counts as spent; that is at most one lease.

A receiver keeps a `Tally` of what it heard, so that the audit can hold debits against receipts.
"""

import operator
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Final, NamedTuple, Protocol

from commlib.errors import BudgetError, LeaseError, OverBudget
from commlib.journal import MAIN, Entry, Lease, Receipt, Statement, Terms
from commlib.units import MOST_BITS, Bits

__all__ = ["Lender", "Listener", "Purse", "Tally"]

SETTLE_SECONDS: Final = 0.02
"""How long a lease lasts at the speed of late: what a holder has in hand when it dies, and how old an unsettled charge gets."""
MOST_SHARE: Final = 0.01
"""The leases of up to 32 purses hold at most this share of a budget, so this much of it can strand at its end."""
_LAST_SHARE: Final = 4
"""... and at most a fourth of what is left, so that the last leases shrink to single charges."""
_COMMON_SHARE: Final = 3 / 4
_OWN_SHARE: Final = 1 / 128
"""What one purse may have in any case, so that up to 32 of them keep within the whole."""
_GROWTH: Final = 4
_ROUNDS_OF_AN_EPOCH: Final = 2**32
_NEVER: Final = float("-inf")
_NOTHING: Final = Statement(0, 0, 0, 0)


class Lender(Protocol):
    """Who gives leases: a `Ledger`, or something that passes the calls on to one."""

    def fence(self, holder: str) -> int:
        """Shut out whoever spent under this name before; gives the epoch that follows."""
        ...

    def lease(
        self, holder: str, bits: Bits, sequence: int, *, epoch: int | None = None, seconds: float | None = None
    ) -> Lease:
        """Set bits aside; the same call again gives the same lease."""
        ...

    def settle(self, lease: Lease, entries: Iterable[Entry]) -> Statement:
        """Close a lease at what was sent; the same call again changes nothing."""
        ...

    def release(self, lease: Lease) -> Statement:
        """Close a lease of which nothing was sent; the same call again changes nothing."""
        ...

    def statement(self) -> Statement:
        """Give the sums of this moment."""
        ...

    def accounts(self) -> dict[str, Terms]:
        """Give the accounts; the main one tells whether there is a cap at all."""
        ...


class _Asking(NamedTuple):
    """A lease that was asked for: kept until the ledger has answered, and asked for again in the same words."""

    bits: Bits
    at: float


class _Closing(NamedTuple):
    """A lease and what is to be booked of it: kept until the ledger has answered, and told again word by word."""

    lease: Lease
    entries: list[Entry]


class Purse:
    """What one holder may spend, debited locally and settled in batches.

    >>> from commlib.ledger import Ledger
    >>> ledger = Ledger()
    >>> _ = ledger.grant(1000, sequence=0)
    >>> with Purse(ledger, "host-0") as purse:
    ...     for _ in range(10):
    ...         _ = purse.charge(0, (1, 2), 64)
    >>> ledger.statement().spent, ledger.statement().available
    (640, 360)

    A purse that opens shuts out whoever spent under its name before, so a process that was restarted simply opens its
    purse again. All methods may be called from any thread. When the ledger does not answer, or cannot write, charges
    raise its error and nothing is debited; once it is back, the purse goes on where it was.
    """

    def __init__(
        self,
        lender: Lender,
        holder: str,
        *,
        settle_seconds: float = SETTLE_SECONDS,
        most_share: float = MOST_SHARE,
        lease_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the purse of `holder`.

        Args:
            lender: The ledger, or a way to it.
            holder: A name that no other purse in use has.
            settle_seconds: Lease about as much as was spent in such a time lately, and settle when it is over.
            most_share: The share of a budget that all purses together may have leased, if they are 32 or fewer.
            lease_seconds: How long the ledger holds a lease before it may expire; None: until this holder is fenced.
            clock: Seconds that only go up.
        """
        self.holder = holder
        self.epoch = lender.fence(holder)
        self._lender = lender
        self._settle_seconds = settle_seconds
        self._most_share = most_share
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._lock = threading.Lock()
        terms = lender.accounts()[MAIN]
        self._is_capped = terms.amount is not None
        self._is_renewed = terms.per not in {"", "run"}
        self._budget: Bits = 0
        self._statement = _NOTHING
        self._heard(lender.statement())
        self._lease: Lease | None = None
        self._closing: _Closing | None = None
        self._asking: _Asking | None = None
        self._sequence = 0
        self._round = 0
        self._left: Bits = 0
        self._until = _NEVER
        self._opened_at = _NEVER
        self._slips: dict[tuple[int, ...], dict[int, list[int]]] = {}  # messages, bits, payload bits, by edge
        self._demand = 0.0
        self._shut: BudgetError | None = None
        _IN_USE.add(self)

    def __enter__(self) -> "Purse":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def statement(self) -> Statement:
        """The ledger's sums as this purse heard them last."""
        return self._statement

    def charge(
        self, sender: int, receivers: tuple[int, ...], bits: Bits, payload_bits: Bits = 0, n_messages: int = 1
    ) -> int:
        """Debit what is about to be sent; send it only after this has returned.

        Gives the round under which it will stand in the books; receivers that keep a `Tally` need to be told.

        Raises:
            OverBudget: The budget is out. Nothing was debited; a smaller charge may still fit.
            LeaseError: Another purse has taken this one's place; this process must not send any more.
        """
        with self._lock:
            try:
                every = bits | payload_bits | n_messages  # negative if one is, and a plain int only if all are
                if bits > self._left or every < 0 or type(every) is not int or self._clock() >= self._until:
                    raise KeyError
                slip = self._slips[receivers][sender]
            except (KeyError, TypeError):
                sender, receivers, bits, payload_bits, n_messages = _checked(
                    sender, receivers, bits, payload_bits, n_messages
                )
                if bits > self._left or self._clock() >= self._until:
                    self._make_room(bits)
                slip = self._slips.setdefault(receivers, {}).setdefault(sender, [0, 0, 0])
            self._left -= bits
            slip[0] += n_messages
            slip[1] += bits
            slip[2] += payload_bits
            return self._round

    def settle(self) -> Statement:
        """Book what was charged and return the rest; when this has returned, every charge so far is in the journal."""
        with self._lock:
            return self._settle()

    def tick(self) -> None:
        """Settle if the lease is old: to be called now and then by a holder that may fall silent with bits in hand."""
        with self._lock:
            if self._closing is not None or (self._lease is not None and self._clock() >= self._until):
                self._settle()

    def close(self) -> None:
        """Settle, and charge nothing any more; a second call does nothing."""
        with self._lock:
            if self._shut is None:
                self._settle()
                self._shut = BudgetError(f"the purse of {self.holder} is closed; open a new one to go on spending")

    def forget(self) -> None:
        """Leave everything to the process that this one was forked from: the lease is its own, and spent once."""
        self._lock = threading.Lock()
        self._lease = self._closing = self._asking = None
        self._left, self._until, self._slips = 0, _NEVER, {}
        self._shut = BudgetError(
            f"the purse of {self.holder} belongs to the process that this one was forked from; open a journal and a "
            f"purse here, under another name"
        )

    # With the lock held.

    def _make_room(self, bits: Bits) -> None:
        self._put_away(refused=bits)
        self._report()
        self._lease, expires_at = self._lease_for(bits)
        self._left = self._lease.bits
        self._round = self._lease.epoch * _ROUNDS_OF_AN_EPOCH + self._lease.sequence
        self._opened_at = self._clock()
        self._until = min(self._opened_at + self._settle_seconds, expires_at)

    def _settle(self) -> Statement:
        self._put_away()
        self._report()
        if self._asking is not None:  # the ledger may have given a lease of which we never heard
            with suppress(OverBudget):
                self._give_back(self._ask(self._asking)[0])
        return self._statement

    def _put_away(self, refused: Bits = 0) -> None:
        """End spending from the open lease, and note what is to be booked of it."""
        if self._shut is not None:
            raise self._shut
        if self._lease is None:
            return
        lease, slips = self._lease, self._slips
        seconds = self._clock() - self._opened_at
        self._learn(lease.bits - self._left + refused, seconds)
        entries = [
            Entry(lease.epoch, lease.sequence, self._round, sender, receivers, n, bits, payload_bits, self.holder)
            for receivers, by_sender in slips.items()
            for sender, (n, bits, payload_bits) in by_sender.items()
        ]
        self._closing = _Closing(lease, entries)
        self._lease, self._slips, self._left, self._until = None, {}, 0, _NEVER

    def _learn(self, bits: Bits, seconds: float) -> None:
        """Follow the demand: over a full settling time it is what was spent; a shorter one counts for less.

        A lease that was used up early says only that more is wanted, so the next one is larger by a bound: it may have
        been a burst.
        """
        weight = min(1.0, seconds / self._settle_seconds)
        demand = bits * self._settle_seconds / max(seconds, 1e-9)
        if weight < 1.0:
            demand = min(demand, _GROWTH * bits)
        self._demand += (demand - self._demand) * (1.0 if demand > self._demand else weight)

    def _report(self) -> None:
        if self._closing is None:
            return
        lease, entries = self._closing
        try:
            self._heard(self._lender.settle(lease, entries) if entries else self._lender.release(lease))
        except LeaseError as error:
            self._shut = error
            raise
        self._closing = None

    def _lease_for(self, bits: Bits) -> tuple[Lease, float]:
        """Lease at least so many bits: what the demand is, or else exactly these, or else the budget is out.

        Gives also when the lease expires, by our clock.
        """
        if self._asking is not None:
            with suppress(OverBudget):
                lease, expires_at = self._ask(self._asking)
                if lease.bits >= bits and self._clock() < expires_at:
                    return lease, expires_at
                self._give_back(lease)
        size = self._size(bits)
        if size > bits:
            with suppress(OverBudget):
                return self._ask(_Asking(size, self._clock()))
        return self._ask(_Asking(bits, self._clock()))

    def _ask(self, asking: _Asking) -> tuple[Lease, float]:
        self._asking = asking
        try:
            lease = self._lender.lease(
                self.holder, asking.bits, self._sequence, epoch=self.epoch, seconds=self._lease_seconds
            )
        except BudgetError as error:  # an answer; any other error leaves open whether the lease was given
            self._asking = None
            self._shut = error if isinstance(error, LeaseError) else None
            raise
        self._asking = None
        self._sequence += 1
        # The ledger counts from when it gave the lease, which was after we asked: so we stop before it does.
        return lease, float("inf") if self._lease_seconds is None else asking.at + self._lease_seconds

    def _give_back(self, lease: Lease) -> None:
        self._closing = _Closing(lease, [])
        self._report()

    def _size(self, bits: Bits) -> Bits:
        """How much to lease for a charge of so many bits: what is needed soon, within what all may have in hand.

        Half of what the others leave of that, as switches divide a buffer among ports that they cannot count (dynamic
        thresholds, Choudhury and Hahne 1998): equal shares for all, however many they are. And never less than a small
        part, so that leases of the idle and the dead do not starve the others.
        """
        if not self._is_capped:
            return max(bits, int(self._demand))
        now = self._statement
        room = min(self._most_share * self._budget, now.available / _LAST_SHARE)
        most = max((_COMMON_SHARE * room - now.leased) / 2, _OWN_SHARE * room)
        return max(bits, int(min(self._demand, most)))

    def _heard(self, statement: Statement) -> None:
        """Note the sums, and how large the budget is: all that was granted, or the allowance that came last.

        Of an allowance we know what was there when we first saw that it had come.
        """
        there = statement.available + statement.leased
        if not self._is_renewed:
            self._budget = statement.granted
        elif statement.granted != self._statement.granted:
            self._budget = there
        else:
            self._budget = max(self._budget, there)
        self._statement = statement


class Listener(Protocol):
    """Who books receipts: a `Ledger`, or something that passes the call on to one."""

    def receive(self, receipts: Iterable[Receipt]) -> None:
        """Book what was heard; the same receipts again change nothing."""
        ...


class Tally:
    """What a receiver heard, added up by round and edge, and booked as receipts when a round is over.

    A round of a sender is over when a later one of it is heard, or when the tally is closed; so hear the messages of a
    sender in the order in which they were sent, and close after the last one.

    >>> from commlib.audit import audit
    >>> from commlib.ledger import Ledger
    >>> ledger = Ledger()
    >>> _ = ledger.grant(1000, sequence=0)
    >>> with Tally(ledger, "host-1", epoch=0) as tally, Purse(ledger, "host-0") as purse:
    ...     for _ in range(10):
    ...         number = purse.charge(0, (1,), 64)
    ...         tally.hear(number, 0, 1, 64)
    >>> audit(ledger.journal).differences
    []
    """

    def __init__(self, listener: Listener, holder: str, epoch: int) -> None:
        """Start with nothing heard; a holder that has a purse, too, gives that one's epoch."""
        self.holder = holder
        self.epoch = epoch
        self._listener = listener
        self._lock = threading.Lock()
        self._open: dict[tuple[int, int], list[int]] = {}
        self._over: list[Receipt] = []
        self._sequence = 0
        _IN_USE.add(self)

    def __enter__(self) -> "Tally":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def hear(self, round: int, sender: int, receiver: int, bits: Bits, n_messages: int = 1) -> None:
        """Count messages that arrived, under the round that the sender's `charge` gave."""
        with self._lock:
            heard = self._open.get((sender, receiver))
            if heard is None or heard[0] != round:
                if heard is not None:
                    self._end((sender, receiver))
                heard = self._open[sender, receiver] = [round, 0, 0]
            heard[1] += n_messages
            heard[2] += bits

    def book(self) -> None:
        """Book the rounds that are over; what could not be booked is kept for the next time."""
        with self._lock:
            self._book()

    def forget(self) -> None:
        """Leave what was heard to the process that this one was forked from."""
        self._lock = threading.Lock()
        self._open, self._over = {}, []

    def close(self) -> None:
        """Book everything: no sender has anything more to say."""
        with self._lock:
            for edge in list(self._open):
                self._end(edge)
            self._book()

    def _end(self, edge: tuple[int, int]) -> None:
        round_, n_messages, bits = self._open.pop(edge)
        self._over.append(Receipt(self.holder, self.epoch, self._sequence, round_, *edge, n_messages, bits))
        self._sequence += 1

    def _book(self) -> None:
        if self._over:
            self._listener.receive(self._over)
            self._over = []


def _checked(
    sender: int, receivers: tuple[int, ...], bits: Bits, payload_bits: Bits, n_messages: int
) -> tuple[int, tuple[int, ...], Bits, Bits, int]:
    sender = _agent("sender", sender)
    if isinstance(receivers, str) or not isinstance(receivers, Iterable):
        raise BudgetError(
            f"the charge of sender {sender} has the receivers {receivers!r}; give a tuple of agents, such as (1,) or (1, 2)"
        )
    heard_by = tuple(sorted({_agent("receiver", receiver) for receiver in receivers}))
    if not heard_by or len(heard_by) != len(receivers):
        raise BudgetError(
            f"the charge of sender {sender} has the receivers {receivers}; name each agent that hears it once"
        )
    return sender, heard_by, _whole(bits), _whole(payload_bits), _whole(n_messages)


def _agent(what: str, number: int) -> int:
    try:
        return _whole(operator.index(number))
    except TypeError:
        raise BudgetError(
            f"the {what} {number!r} is not a whole number; agents go by number, so give each name one"
        ) from None


def _whole(number: int) -> int:
    try:
        whole = operator.index(number)  # numpy's integers are welcome, floats are not
    except TypeError:
        raise BudgetError(f"{number!r} is not a whole number; round it up, bits are charged whole") from None
    if not 0 <= whole < MOST_BITS:
        raise BudgetError(f"{whole} is out of range for a charge; it must be at least 0 and below 2^62")
    return whole


_IN_USE: "weakref.WeakSet[Purse | Tally]" = weakref.WeakSet()


def _after_fork() -> None:
    for one in list(_IN_USE):
        one.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
