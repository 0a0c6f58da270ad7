"""The ledger as a process: `LedgerHost` keeps one, `RemoteLedger` is the way to it from any other process.

A bank counter and the telephone on the customer's side. All that the counter knows stands in the journal, so it may die
at any moment and another one opens at the same file; a caller who got no answer calls again in the same words, and since
every call carries its key, what was booked the first time is not booked twice. Not a cache: each answer comes from the
ledger. Neither torch nor Ray is loaded here; `commlib.agents.ray_runtime.Process` is the line between the two.
"""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, Protocol, cast

from commlib.budget import Budget
from commlib.errors import HostError
from commlib.journal import MAIN, Entry, Journal, Lease, Receipt, Statement, Terms
from commlib.ledger import Ledger
from commlib.units import Bits

PATIENCE_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 0.05


class LedgerHost:
    """A ledger on the journal at `path`, which is opened at the first call; a plain class."""

    def __init__(self, path: str, budget: Budget | None = None) -> None:
        self._path = path
        self._budget = budget
        self._ledger: Ledger | None = None

    def ledger(self) -> Ledger:
        """The ledger; a journal that cannot be opened fails this call, and the next one tries again."""
        if self._ledger is None:
            self._ledger = Ledger(Journal(self._path), budget=self._budget)
        return self._ledger

    def call(self, method: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:  # noqa: ANN401
        """Call a method of the ledger."""
        return getattr(self.ledger(), method)(*arguments, **named)

    def pid(self) -> int:
        """Its process."""
        return os.getpid()

    def close(self) -> None:
        """Close the journal."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None


class Caller(Protocol):
    """A line to a plain object in another process."""

    def call(self, method: str, *arguments: Any) -> Any:  # noqa: ANN401
        """Call a method there; raises HostError when no answer came, and what the method raises as it is."""
        ...


class RemoteLedger:
    """A ledger that lives in another process: what a `Purse` or a `Tally` needs of it, and allowances.

    A call without an answer is repeated until `patience_seconds` are over; then its HostError is raised, and the caller
    may still repeat it later. An error that is raised over there, whatever it is, is an answer and comes through at once.
    """

    def __init__(
        self,
        process: Caller,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._process = process
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._pause = pause

    def grant(self, bits: Bits, sequence: int, *, account: str = MAIN) -> Statement:
        """As `Ledger.grant`."""
        return cast("Statement", self._call("grant", bits, sequence, account=account))

    def withdraw(self, bits: Bits, sequence: int, *, account: str = MAIN) -> Bits:
        """As `Ledger.withdraw`."""
        return cast("Bits", self._call("withdraw", bits, sequence, account=account))

    def epoch(self, holder: str) -> int:
        """As `Ledger.epoch`."""
        return cast("int", self._call("epoch", holder))

    def fence(self, holder: str, *, epoch: int | None = None) -> int:
        """As `Ledger.fence`; when an answer was lost, without `epoch`, the epoch may go up by more than one."""
        return cast("int", self._call("fence", holder, epoch=epoch))

    def lease(
        self,
        holder: str,
        bits: Bits,
        sequence: int,
        *,
        epoch: int | None = None,
        account: str = MAIN,
        seconds: float | None = None,
    ) -> Lease:
        """As `Ledger.lease`."""
        return cast("Lease", self._call("lease", holder, bits, sequence, epoch=epoch, account=account, seconds=seconds))

    def settle(self, lease: Lease, entries: Iterable[Entry]) -> Statement:
        """As `Ledger.settle`."""
        return cast("Statement", self._call("settle", lease, list(entries)))

    def settle_at(self, lease: Lease, amount: int) -> Statement:
        """As `Ledger.settle_at`."""
        return cast("Statement", self._call("settle_at", lease, amount))

    def release(self, lease: Lease) -> Statement:
        """As `Ledger.release`."""
        return cast("Statement", self._call("release", lease))

    def expire(self) -> list[Lease]:
        """As `Ledger.expire`; when an answer was lost, those that it named are not named again."""
        return cast("list[Lease]", self._call("expire"))

    def receive(self, receipts: Iterable[Receipt]) -> None:
        """As `Ledger.receive`."""
        self._call("receive", list(receipts))

    def statement(self, account: str = MAIN) -> Statement:
        """As `Ledger.statement`."""
        return cast("Statement", self._call("statement", account))

    def accounts(self) -> dict[str, Terms]:
        """As `Ledger.accounts`."""
        return cast("dict[str, Terms]", self._call("accounts"))

    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        give_up_at = self._clock() + self._patience_seconds
        while self._clock() < give_up_at:
            with suppress(HostError):
                return self._process.call("call", method, arguments, named)
            self._pause(PAUSE_SECONDS)
        return self._process.call("call", method, arguments, named)
