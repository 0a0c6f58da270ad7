"""Playing for real: episodes in which every message is leased, framed, carried, receipted and booked.

The driver is the postmaster: it steps the world, hands each host its observations and a lease, carries the frames to the
hosts that may hear them, throws the dice, and writes the books. It opens no letter. One round is two calls per host:

    observations, lease --> [desk.speak] --> frames --settle--> carry --> [desk.act] --> actions, receipts --> world.step

Shapes: W worlds side by side, N agents, n agents of a host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from commlib.agents.runtime import Runtime
from commlib.errors import BudgetError
from commlib.exchange import Heard, Sent
from commlib.journal import Entry, Lease, Receipt
from commlib.ledger import Budget, Ledger
from commlib.plan import Plan
from commlib.world import World

ALLOWANCE_STEP = 2
"""Allowance numbers in a round: one for the grant, one for what is withdrawn at its end."""


@dataclass
class Tally:
    """What a number of episodes came to; all counts are over live worlds only.

    Attributes:
        success: of each episode, 0..1.
        returns: of each episode, the mean over agents of the summed reward.
        lengths: of each episode, in steps.
        estimate_bits, payload_bits, wire_bits: of all agents and episodes, kept apart.
        n_open: messages whose agent chose to talk.
        n_messages: messages that said something (not the expected code).
        n_slots: agent-steps in which an agent could have spoken.
        n_frames, n_rounds: frames sent, and rounds in which some could have been.
        n_dropped: messages silenced because the budget was out.
        left_bits: what a run's budget has left afterwards.
    """

    success: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    estimate_bits: float = 0.0
    payload_bits: int = 0
    wire_bits: int = 0
    n_open: int = 0
    n_messages: int = 0
    n_slots: int = 0
    n_frames: int = 0
    n_rounds: int = 0
    n_dropped: int = 0
    left_bits: int = 0


@dataclass(frozen=True)
class Books:
    """Where play is charged: the ledger, the budget that feeds it, the next round, and what a run's budget has left."""

    ledger: Ledger
    budget: Budget
    first_round: int = 0
    left_bits: int = 0


class Round(NamedTuple):
    """One round as a watcher sees it: its number, step of the episode, live worlds [W], observations [W, N, O] and dealt
    uniform numbers [W, N], frames by trunk, actions [W, N], bills.
    """

    number: int
    step: int
    alive: NDArray[np.bool_]
    observation: NDArray[np.float32]
    uniform: NDArray[np.float32]
    frames: dict[int, bytes]
    action: NDArray[np.int64]
    sent: list[Sent]


Watcher = Callable[[Round], None]
"""Sees every round of a play; `commlib.experiments.verify` compares two plays with it."""


def play(
    runtime: Runtime,
    plan: Plan,
    world: World,
    books: Books,
    *,
    n_worlds: int,
    rate_weight: float,
    generator: torch.Generator,
    watcher: Watcher | None = None,
) -> Tally:
    """Play one batch of `n_worlds` episodes over the hosts of a runtime whose desks are furnished.

    The budget is shared by all agents; with W worlds side by side a "per step" or "per episode" budget is W times one
    world's, pooled. Hosts share a round's allowance equally.
    """
    n_hosts = runtime.n_hosts
    blocks = [plan.agents_of(host) for host in range(n_hosts)]
    runtime.each("desk.reset", [(n_worlds, rate_weight)] * n_hosts)
    purse = _Purse(books, n_hosts)
    tally = Tally()
    dice = torch.Generator().manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
    total, length = np.zeros(n_worlds), np.zeros(n_worlds, np.int64)
    step = world.reset(n_worlds, generator)
    purse.open(n_worlds)
    for t in range(world.spec.n_steps):
        alive = (~step.done).numpy()
        if not alive.any():
            break
        number = books.first_round + t
        observation = step.observation.numpy()
        allowances = purse.lease(number, int(alive.sum()))
        sent: list[Sent] = runtime.each(
            "desk.speak",
            [
                (number, observation[:, block], t / world.spec.n_steps, alive, allowance)
                for block, allowance in zip(blocks, allowances, strict=True)
            ],
        )
        check_bills(plan, sent)
        purse.settle(number, sent)
        uniform = torch.rand(n_worlds, len(plan.host_of), generator=dice).numpy()
        frames = {index: data for s in sent for index, data in s.frames.items()}
        acted = runtime.each(
            "desk.act",
            [
                (number, {i: f for i, f in frames.items() if host in plan.trunks[i].targets}, alive, uniform[:, block])
                for host, block in enumerate(blocks)
            ],
        )
        purse.book_receipts(number, [a.heard for a in acted])
        action = np.concatenate([a.action for a in acted], 1)
        step = world.step(torch.from_numpy(action))
        total += step.reward.mean(1).numpy() * alive
        length += alive
        _add_up(tally, sent, n_slots=int(alive.sum()) * len(plan.host_of))
        if watcher is not None:
            watcher(Round(number, t, alive, observation, uniform, frames, action, sent))
    tally.left_bits = purse.close()
    tally.success = world.success().float().tolist()
    tally.returns, tally.lengths = total.tolist(), length.tolist()
    return tally


def check_bills(plan: Plan, sent: list[Sent]) -> None:
    """Carry nothing that was not billed: a host's word is checked against the bytes that it hands over.

    Raises:
        BudgetError: a frame that is not the host's own, or bills that do not add up to the frames.
    """
    for host, s in enumerate(sent):
        strange = [index for index in s.frames if plan.trunks[index].source != host]
        if strange:
            raise BudgetError(
                f"host {host} handed over a frame of trunk {strange[0]}, which is not its own; nothing is sent"
            )
        weighed, billed = sum(8 * len(frame) for frame in s.frames.values()), sum(debit.bits for debit in s.debits)
        if weighed != billed:
            raise BudgetError(f"host {host} billed {billed} bits for frames of {weighed} bits; nothing is sent")


def _add_up(tally: Tally, sent: list[Sent], *, n_slots: int) -> None:
    tally.n_slots += n_slots
    tally.n_rounds += 1
    for s in sent:
        tally.estimate_bits += s.estimate_bits
        tally.payload_bits += sum(d.payload_bits for d in s.debits)
        tally.wire_bits += sum(8 * len(frame) for frame in s.frames.values())
        tally.n_open += s.n_open
        tally.n_messages += s.n_spoken
        tally.n_frames += len(s.frames)
        tally.n_dropped += s.n_dropped


class _Purse:
    """A play's dealings with the ledger, round by round."""

    def __init__(self, books: Books, n_hosts: int) -> None:
        self.ledger, self.budget, self.n_hosts = books.ledger, books.budget, n_hosts
        self._first = books.first_round
        self._leases: list[Lease] = []
        # Counted here, not asked of the ledger: a play that is repeated after a crash must lease what it leased before.
        self._left = books.left_bits

    def open(self, n_worlds: int) -> None:
        """Grant an episode's allowance."""
        if self.budget.per == "episode" and self.budget.bits is not None:
            self._left = self.budget.allowance(n_worlds)
            self.ledger.grant(self._left, ALLOWANCE_STEP * self._first)

    def lease(self, number: int, n_alive: int) -> list[int | None]:
        """Each host's allowance for this round, leased; None where the budget has no limit."""
        if self.budget.bits is None:
            return [None] * self.n_hosts
        with self.ledger.round():
            if self.budget.per == "step":
                self._left = self.budget.allowance(n_alive)
                self.ledger.grant(self._left, ALLOWANCE_STEP * number)
            share = self._left // self.n_hosts
            self._leases = [self.ledger.lease(f"host-{h}", share, number) for h in range(self.n_hosts)]
        return [share] * self.n_hosts

    def settle(self, number: int, sent: list[Sent]) -> None:
        """Pay for the frames before they are carried; one commit."""
        bills = [sum(d.bits for d in s.debits) for s in sent]
        with self.ledger.round():
            if self.budget.bits is None:
                self._leases = [self.ledger.lease(f"host-{h}", bill, number) for h, bill in enumerate(bills)]
            for lease, s in zip(self._leases, sent, strict=True):
                self.ledger.settle(
                    lease,
                    [
                        Entry(
                            lease.epoch, number, number, d.route.sender, d.route.receivers, d.n_messages, d.bits,
                            d.payload_bits, lease.holder,
                        )
                        for d in s.debits
                    ],
                )  # fmt: skip
            self._left -= sum(bills)
            n_dropped = sum(s.n_dropped for s in sent)
            if n_dropped:
                self.ledger.note_dropped(n_dropped, sum(s.dropped_bits for s in sent), number)
            if self.budget.per == "step" and self.budget.bits is not None:
                self.ledger.withdraw(self._left, ALLOWANCE_STEP * number + 1)

    def book_receipts(self, number: int, heard_by_host: list[list[Heard]]) -> None:
        """Write down what was heard."""
        self.ledger.receive(
            [
                Receipt(
                    f"host-{h}",
                    self.ledger.epoch(f"host-{h}"),
                    number,
                    number,
                    *heard.edge,
                    heard.n_messages,
                    heard.bits,
                )
                for h, heard_list in enumerate(heard_by_host)
                for heard in heard_list
            ]
        )

    def close(self) -> int:
        """What an episode's allowance did not use expires; what is left for the next play is the answer."""
        if self.budget.per == "episode" and self.budget.bits is not None:
            self.ledger.withdraw(self._left, ALLOWANCE_STEP * self._first + 1)
        return self._left
