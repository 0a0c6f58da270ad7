"""Playing for real: episodes in which every message is leased, framed, carried, receipted and booked.

The driver is the postmaster: it steps the world, hands each host its observations and a lease, carries the frames to the
hosts that may hear them, throws the dice, and writes the books. It opens no letter. A step is two calls per host:

    observations, lease --> [desk.speak] --> frames --settle--> carry --> [desk.act] --> actions, receipts --> world.step

Where a step has several rounds, `desk.reply` comes between: frames in, and paid frames of the next round out.

Shapes: W worlds side by side, N agents, n agents of a host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from commlib.agents.runtime import Runtime
from commlib.budget import Budget
from commlib.errors import BudgetError
from commlib.exchange import Bill, Sent, shares
from commlib.journal import Entry, Lease, Receipt
from commlib.ledger import Ledger
from commlib.plan import Plan, incoming
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
        n_open: messages whose agent chose to talk; signals are no messages, but their bits are in all sums.
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


class Carried(NamedTuple):
    """One round that is over: what each host sent, and the frames by trunk."""

    sent: list[Sent]
    frames: dict[int, bytes]


class Step(NamedTuple):
    """One step as a watcher sees it: the number of its first round, step of the episode, live worlds [W], who can still
    act [W, N], observations [W, N, O] and dealt uniform numbers [W, N], what was carried in each round, actions [W, N].
    """

    number: int
    step: int
    alive: NDArray[np.bool_]
    active: NDArray[np.bool_]
    observation: NDArray[np.float32]
    uniform: NDArray[np.float32]
    rounds: list[Carried]
    action: NDArray[np.int64]


Watcher = Callable[[Step], None]
"""Sees every step of a play; `commlib.experiments.verify` compares two plays with it."""


def play(
    runtime: Runtime,
    plan: Plan,
    world: World,
    books: Books,
    *,
    n_worlds: int,
    rate_weight: float,
    generator: torch.Generator,
    n_rounds: int = 1,
    n_signals: int = 0,
    watcher: Watcher | None = None,
) -> Tally:
    """Play one batch of `n_worlds` episodes over the hosts of a runtime whose desks are furnished.

    A step has `n_rounds` rounds of messages, each with a number of its own; the first `n_signals` of them are charged as
    all are, but not counted as messages.

    The budget is shared by all agents; with W worlds side by side a "per step" or "per episode" budget is W times one
    world's, pooled. Hosts share a round's allowance equally.
    """
    n_hosts = runtime.n_hosts
    runtime.each("desk.reset", [(n_worlds, rate_weight)] * n_hosts)
    post = PostOffice(runtime, plan, books, n_rounds)
    tally = Tally()
    dice = torch.Generator().manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
    total, length = np.zeros(n_worlds), np.zeros(n_worlds, np.int64)
    step = world.reset(n_worlds, generator)
    post.purse.open(n_worlds)
    for t in range(world.spec.n_steps):
        alive = (~step.done).numpy()
        if not alive.any():
            break
        number = books.first_round + t * n_rounds
        observation, active = step.observation.numpy(), step.active.numpy()
        uniform = torch.rand(n_worlds, len(plan.host_of), generator=dice).numpy()
        rounds, action = post.step(number, observation, t / world.spec.n_steps, alive, uniform)
        step = world.step(torch.from_numpy(action))
        total += step.reward.mean(1).numpy() * alive
        length += alive
        tally.n_slots += int(alive.sum()) * len(plan.host_of)
        for nth, carried in enumerate(rounds):
            _add_up(tally, carried.sent, is_signal=nth < n_signals)
        if watcher is not None:
            watcher(Step(number, t, alive, active, observation, uniform, rounds, action))
    tally.left_bits = post.purse.close()
    tally.success = world.success().float().tolist()
    tally.returns, tally.lengths = total.tolist(), length.tolist()
    return tally


class PostOffice:
    """Rounds between the desks of a runtime: every bit is leased, weighed, settled, carried and receipted here."""

    def __init__(self, runtime: Runtime, plan: Plan, books: Books, n_rounds: int = 1) -> None:
        self._runtime, self._plan, self._n_rounds = runtime, plan, n_rounds
        self._blocks = [plan.agents_of(host) for host in range(runtime.n_hosts)]
        self.purse = Purse(books, plan, runtime.n_hosts, n_rounds)

    def step(
        self,
        number: int,
        observation: NDArray[np.float32],
        elapsed: float,
        alive: NDArray[np.bool_],
        uniform: NDArray[np.float32],
    ) -> tuple[list[Carried], NDArray[np.int64]]:
        """One step: observations [W, N, O] and uniform numbers [W, N] in, what was carried and actions [W, N] out.

        `number` is that of its first round.
        """
        allowances = self.purse.lease(number, int(alive.sum()))
        sent: list[Sent] = self._runtime.each(
            "desk.speak",
            [
                (number, observation[:, block], elapsed, alive, allowance)
                for block, allowance in zip(self._blocks, allowances, strict=True)
            ],
        )
        carried = [self._carried(number, sent)]
        for later in range(number + 1, number + self._n_rounds):
            allowances = self.purse.lease(later, int(alive.sum()))
            replied = self._runtime.each(
                "desk.reply",
                [
                    (later, bag, alive, allowance)
                    for bag, allowance in zip(self._bags(carried[-1].frames), allowances, strict=True)
                ],
            )
            self.purse.book_receipts(later - 1, [r.heard for r in replied])
            carried.append(self._carried(later, [r.sent for r in replied]))
        last = number + self._n_rounds - 1
        bags = self._bags(carried[-1].frames)
        acted = self._runtime.each(
            "desk.act",
            [(last, bag, alive, uniform[:, block]) for bag, block in zip(bags, self._blocks, strict=True)],
        )
        self.purse.book_receipts(last, [a.heard for a in acted])
        return carried, np.concatenate([a.action for a in acted], 1)

    def _carried(self, number: int, sent: list[Sent]) -> Carried:
        """Pay for what hosts hand over."""
        check_bills(self._plan, sent)
        self.purse.settle(number, sent)
        return Carried(sent, {index: data for s in sent for index, data in s.frames.items()})

    def _bags(self, frames: dict[int, bytes]) -> list[dict[int, bytes]]:
        """The frames that each host may hear."""
        bags: list[dict[int, bytes]] = [{} for _ in self._blocks]
        for index, data in frames.items():
            for host in self._plan.trunks[index].targets:
                bags[host][index] = data
        return bags


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
        weighed = {index: 8 * len(frame) for index, frame in s.frames.items()}
        if {bill.trunk: bill.bits for bill in s.bills} != weighed:
            raise BudgetError(
                f"host {host} billed {sum(bill.bits for bill in s.bills)} bits for frames of {sum(weighed.values())} bits, "
                f"or one frame at the price of another; nothing is sent"
            )


def _add_up(tally: Tally, sent: list[Sent], *, is_signal: bool) -> None:
    tally.n_rounds += 1
    for s in sent:
        tally.estimate_bits += s.estimate_bits
        tally.payload_bits += sum(bill.payload_bits for bill in s.bills)
        tally.wire_bits += sum(8 * len(frame) for frame in s.frames.values())
        if not is_signal:
            tally.n_open += s.n_open
            tally.n_messages += s.n_spoken
        tally.n_frames += len(s.frames)
        tally.n_dropped += s.n_dropped


class Purse:
    """A play's dealings with the ledger, round by round; the shares of a frame's bill are worked out here.

    What a budget allows per step is granted for its first round, and what its last leaves expires. No round may spend more
    than an equal share of what is left for those of its step, so that the first does not starve the others.
    """

    def __init__(self, books: Books, plan: Plan, n_hosts: int, n_rounds: int = 1) -> None:
        self.ledger, self.budget, self.n_hosts, self._n_rounds = books.ledger, books.budget, n_hosts, n_rounds
        self._routes = [trunk.routes for trunk in plan.trunks]
        self._edges = [
            {
                trunk: list(zip(*(column.tolist() for column in edges[:3]), strict=True))
                for trunk, edges in incoming(plan, host).items()
            }
            for host in range(n_hosts)
        ]
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
            if self.budget.per == "step" and self._nth(number) == 0:
                self._left = self.budget.allowance(n_alive)
                self.ledger.grant(self._left, ALLOWANCE_STEP * number)
            share = self._left // (self.n_hosts * (self._n_rounds - self._nth(number)))
            self._leases = [self.ledger.lease(f"host-{h}", share, number) for h in range(self.n_hosts)]
        return [share] * self.n_hosts

    def settle(self, number: int, sent: list[Sent]) -> None:
        """Pay for the frames before they are carried; one commit."""
        spent = [sum(bill.bits for bill in s.bills) for s in sent]
        with self.ledger.round():
            if self.budget.bits is None:
                self._leases = [self.ledger.lease(f"host-{h}", bits, number) for h, bits in enumerate(spent)]
            for lease, s in zip(self._leases, sent, strict=True):
                self.ledger.settle(lease, [entry for bill in s.bills for entry in self._entries(lease, number, bill)])
            self._left -= sum(spent)
            n_dropped = sum(s.n_dropped for s in sent)
            if n_dropped:
                self.ledger.note("dropped", n_dropped, sum(s.dropped_bits for s in sent), number)
            is_last = self._nth(number) == self._n_rounds - 1
            if self.budget.per == "step" and self.budget.bits is not None and is_last:
                self.ledger.withdraw(self._left, ALLOWANCE_STEP * number + 1)

    def _nth(self, number: int) -> int:
        """Which round of its step it is."""
        return (number - self._first) % self._n_rounds

    def _entries(self, lease: Lease, number: int, bill: Bill) -> Iterator[Entry]:
        """A debit for each route of a frame."""
        routes = self._routes[bill.trunk]
        parts = zip(routes, shares(bill.bits, len(routes)), shares(bill.payload_bits, len(routes)), strict=True)
        for (sender, receivers), bits, payload_bits in parts:
            yield Entry(
                lease.epoch, number, number, sender, receivers, bill.n_messages, bits, payload_bits, lease.holder
            )

    def book_receipts(self, number: int, heard_by_host: list[list[Bill]]) -> None:
        """Write down what was heard."""
        self.ledger.receive(
            receipt
            for host, bills in enumerate(heard_by_host)
            for bill in bills
            for receipt in self._receipts(host, number, bill)
        )

    def _receipts(self, host: int, number: int, bill: Bill) -> Iterator[Receipt]:
        """A receipt for each edge to an agent of the host that heard a frame."""
        if bill.trunk not in self._edges[host]:
            raise BudgetError(f"host {host} says it heard trunk {bill.trunk}, which does not lead to it")
        bits = shares(bill.bits, len(self._routes[bill.trunk]))
        holder = f"host-{host}"
        epoch = self.ledger.epoch(holder)
        for route, sender, receiver in self._edges[host][bill.trunk]:
            yield Receipt(holder, epoch, number, number, sender, receiver, bill.n_messages, bits[route])

    def close(self) -> int:
        """What an episode's allowance did not use expires; what is left for the next play is the answer."""
        if self.budget.per == "episode" and self.budget.bits is not None:
            self.ledger.withdraw(self._left, ALLOWANCE_STEP * self._first + 1)
        return self._left
