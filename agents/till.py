"""The till of a play: what every budget grants, what each round may spend of it, and what its frames cost each account.

A shop with several cash boxes: a purchase is rung up once and paid from every box whose rule it falls under. The till
hands each host its allowance before it speaks, and books what the frames weighed before they are carried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress, repeat
from typing import NamedTuple, cast

import numpy as np

from commlib.budget import Budget, Budgets, Network
from commlib.errors import BudgetError, ConfigError
from commlib.exchange import Bill, Sent
from commlib.frame import shares
from commlib.journal import MAIN, Entry, Lease, Receipt
from commlib.ledger import Ledger
from commlib.plan import Plan, incoming
from commlib.rationing import Allowance, Cap, Claims, Part, Rationing, Scope, divide_over_hosts

ALLOWANCE_STEP = 2
"""Allowance numbers in a round: one for the grant, one for what is withdrawn at its end."""
EVERYBODY = "everybody"
"""The holder of what a round costs as a whole: of the currencies rounds and latency."""
NOBODY = Claims(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
"""Nothing is claimed."""


@dataclass(frozen=True)
class Books:
    """Where play is charged.

    Attributes:
        ledger: the accounts; `open_books` opens those of the budgets.
        budgets: what feeds them; for this team (`Budgets.for_team`).
        rationing: who goes first when a pool is too small; desks are furnished with the same.
        network: how long frames take, for budgets of latency.
        first_round: the number of the next round.
        left: what the accounts of a run have left, by name; the allowance of a whole run where it is not there.
        clock: seconds since 1970, for budgets per second: several plays of one second share its allowance.
    """

    ledger: Ledger
    budgets: Budgets = Budgets()  # noqa: RUF009 (frozen)
    rationing: Rationing = Rationing()  # noqa: RUF009 (frozen)
    network: Network | None = None
    first_round: int = 0
    left: dict[str, int] = field(default_factory=dict)
    clock: Callable[[], float] = time.time


def open_books(ledger: Ledger, budgets: Budgets, network: Network | None = None) -> None:
    """Open the accounts of all budgets, and grant those of the run.

    Raises:
        ConfigError: a budget of latency, and nothing is known of the network.
    """
    with ledger.round():
        for account, budget in budgets.accounts().items():
            if budget.currency == "latency" and network is None:
                raise ConfigError(
                    f"the budget {str(budget)!r} needs to know the network; say how fast it is, such as "
                    f"--network '1 Mbit/s + 2 ms'"
                )
            if account != MAIN:
                ledger.open_account(account, budget.terms)
            if budget.per == "run" and budget.amount is not None:
                ledger.grant(budget.amount, 0, account=account)


@dataclass
class Use:
    """What an account was used for in a play.

    Attributes:
        granted: what could be spent. Of a run, and of an account without a cap: what was.
        spent: what was charged.
        wanted: what would have been charged if no allowance had been too small.
        n_full: rounds in which the account, or somebody's part of it, was too little for what was wanted.
        least_wanted: the least that a host wanted in a round, or of rounds and latency a round as a whole; 0 if nothing ever.
        most_held: the most that one which wanted anything could have.
    """

    granted: int = 0
    spent: int = 0
    wanted: int = 0
    n_full: int = 0
    least_wanted: int = 0
    most_held: int = 0

    def meet(self, wanted: int, held: int) -> None:
        """Told what a host (or a round) wanted at once, and could have."""
        if wanted:
            self.wanted += wanted
            self.least_wanted = min(wanted, self.least_wanted or wanted)
            self.most_held = max(held, self.most_held)


class Missed(NamedTuple):
    """A frame that a host did not hear: whose, its sender's bill, and who signs for it (`LOST` or `UNREAD`)."""

    host: int
    bill: Bill
    signed: str


class Account:
    """One budget in a play: what is left of its allowance, whom it concerns, and where in the books it stands."""

    def __init__(self, name: str, budget: Budget, books: Books, plan: Plan, n_hosts: int, n_rounds: int) -> None:
        self.name, self.budget, self.use = name, budget, Use()
        self.scope = Scope(budget.agents, budget.edge)
        blocks = [plan.agents_of(host) for host in range(n_hosts)]
        n_agents = [sum(map(self.scope.has, block)) for block in blocks]
        self.hosts = [host for host, n in enumerate(n_agents) if n or self.scope.is_everybodys]
        """The hosts that can have spending in its scope."""
        self.n_agents = [n_agents[host] for host in self.hosts]
        self.routes = [[nth for nth, r in enumerate(t.routes) if self.scope.covers(r)] for t in plan.trunks]
        """Which routes of each trunk are in its scope."""
        self.allowance = 0
        self.left = books.left.get(name, budget.amount or 0) if budget.per == "run" else 0
        self.leases: list[Lease] = []
        """Of the round that is going on: one of each host that is in the scope, or one of everybody."""
        self._ledger, self._first, self._n_rounds, self._clock = books.ledger, books.first_round, n_rounds, books.clock
        self._window: int | None = None

    @property
    def is_capped(self) -> bool:
        """Whether it can run out."""
        return self.budget.amount is not None

    @property
    def is_shared_by_rounds(self) -> bool:
        """Whether it is a round as a whole that pays, not its messages."""
        return self.budget.currency in ("rounds", "latency")

    def open(self, n_worlds: int) -> None:
        """An episode begins."""
        if self.budget.per == "episode":
            self._grant(n_worlds, ALLOWANCE_STEP * self._first)
        if self.budget.per == "run":
            self.allowance = self.budget.amount or 0

    def begin(self, number: int, n_alive: int) -> None:
        """A round begins."""
        nth = (number - self._first) % self._n_rounds
        if self.budget.per == "round" or (self.budget.per == "step" and nth == 0):
            self._grant(n_alive, ALLOWANCE_STEP * number)
        elif self.budget.per == "second":
            self._tick()

    def _grant(self, n_worlds: int, sequence: int) -> None:
        if self.is_capped:
            self.left = self.allowance = self.budget.allowance(n_worlds)
            self.use.granted += self.allowance
            self._ledger.grant(self.allowance, sequence, account=self.name)

    def _tick(self) -> None:
        """Look at the clock: what earlier seconds left is gone, and this one has an allowance, if it was not granted yet.

        The second goes on when a play is over, so what is left is asked of the ledger.
        """
        window = int(self._clock())
        if self._window is None or window > self._window:  # a clock that is put back brings nothing
            self._window, self.allowance = window, self.budget.amount or 0
            self._ledger.withdraw(self.allowance, window, account=self.name)
            before = self._ledger.statement(self.name).granted
            self.use.granted += self._ledger.grant(self.allowance, window, account=self.name).granted - before
        self.left = self._ledger.statement(self.name).available

    def lease(self, holder: str, amount: int, number: int) -> Lease:
        """Hold an amount for a round; of a second, what was held in this round when it was played before."""
        if self.budget.per == "second":
            known = self._ledger.journal.lease((holder, self._ledger.epoch(holder), number), self.name)
            amount = amount if known is None else known.lease.bits
        return self._ledger.lease(holder, amount, number, account=self.name)

    def expire(self, sequence: int) -> None:
        """What was not used of the allowance is gone."""
        if self.is_capped and self.allowance:
            self._ledger.withdraw(self.left, sequence, account=self.name)
            self.left = self.allowance = 0

    def end(self, number: int) -> None:
        """A round is over."""
        is_last = (number - self._first) % self._n_rounds == self._n_rounds - 1
        if self.budget.per == "round" or (self.budget.per == "step" and is_last):
            self.expire(ALLOWANCE_STEP * number + 1)

    def close(self) -> None:
        """The episode is over."""
        if self.budget.per == "episode":
            self.expire(ALLOWANCE_STEP * self._first + 1)
        if self.budget.per == "run" or not self.is_capped:
            self.use.granted = self.use.spent

    def share_of(self, number: int) -> int:
        """What a round may spend: an equal part of what is left for those of its step, so that none starves the others."""
        nth = (number - self._first) % self._n_rounds
        return self.left // (self._n_rounds - nth if self.budget.per != "round" else 1)


class Till:
    """A play's dealings with the ledger, round by round; the shares of a frame's bill are worked out here."""

    def __init__(self, books: Books, plan: Plan, n_hosts: int, n_rounds: int = 1) -> None:
        self.ledger, self.n_hosts = books.ledger, n_hosts
        budgets = books.budgets.accounts().items()
        self.accounts = [Account(name, budget, books, plan, n_hosts, n_rounds) for name, budget in budgets]
        self._main, self._rationing, self._network = self.accounts[0], books.rationing, books.network
        self._capped = [account for account in self.accounts if account.is_capped]
        self._pools = [a for a in self._capped if not a.is_shared_by_rounds and len(a.hosts) > 1]
        self.scopes = [account.scope for account in self._pools]
        """The scopes of the pools that several hosts share, for their claims."""
        self.needs_claims = bool(self._pools) and books.rationing.needs_claims
        """Whether hosts must say what they want before they are given their allowance."""
        self._routes = [trunk.routes for trunk in plan.trunks]
        self._edges = [
            {trunk: [column.tolist() for column in edges[:3]] for trunk, edges in incoming(plan, host).items()}
            for host in range(n_hosts)
        ]
        """By host and trunk, of each edge that it hears: route, sender and receiver, as columns."""
        self._holders = [f"host-{host}" for host in range(n_hosts)]
        self._n_alive = 0

    @property
    def is_capped(self) -> bool:
        """Whether anything is."""
        return bool(self._capped)

    @property
    def left_share(self) -> float:
        """What is left of the scarcest allowance, 0..1; 1 where nothing is capped."""
        return min((a.left / a.allowance for a in self._capped if a.allowance), default=1.0)

    def left(self) -> dict[str, int]:
        """What the accounts of the run have left."""
        return {account.name: account.left for account in self._capped if account.budget.per == "run"}

    def open(self, n_worlds: int) -> None:
        """An episode begins: its allowances are granted."""
        with self.ledger.round():
            for account in self.accounts:
                account.open(n_worlds)

    def begin(self, number: int, n_alive: int) -> None:
        """A round begins: its allowances are granted."""
        self._n_alive = n_alive
        if self._capped:
            with self.ledger.round():
                for account in self._capped:
                    account.begin(number, n_alive)

    def lease(self, number: int, claims: Sequence[Sequence[Claims]] | None = None) -> list[Allowance | None]:
        """Each host's allowance for this round, leased; None where nothing is capped.

        `claims` has what each host wants of each pool (`scopes`); without them, pools are divided by agents.
        """
        if not self._capped:
            return [None] * self.n_hosts
        caps: list[list[Cap]] = [[] for _ in range(self.n_hosts)]
        frame_bits: int | None = None
        with self.ledger.round():
            for account in self._capped:
                if account.is_shared_by_rounds:
                    most = self._lease_round(account, number)
                    frame_bits = most if frame_bits is None or (most is not None and most < frame_bits) else frame_bits
                    continue
                parts = self._divided(account, number, claims)
                account.leases = []
                for host, part in zip(account.hosts, parts, strict=True):
                    held = account.lease(self._holders[host], part.amount, number)
                    account.leases.append(held)
                    caps[host].append(Cap(account.budget.currency, held.bits, account.scope, part.guaranteed))
        return [Allowance(tuple(some), frame_bits) for some in caps]

    def release(self) -> None:
        """The round was called off before anything was sent."""
        with self.ledger.round():
            for account in self._capped:
                for lease in account.leases:
                    self.ledger.release(lease)

    def _lease_round(self, account: Account, number: int) -> int | None:
        """Lease what the round costs as a whole; the longest frame that this allows, in bits."""
        share = account.share_of(number)
        if account.budget.currency == "rounds":
            share = self._n_alive if account.left >= self._n_alive else 0
        held = account.lease(EVERYBODY, share, number)
        account.leases = [held]
        if account.budget.currency == "rounds":
            return None if held.bits else 0
        assert self._network is not None  # `open_books` asks for it
        return self._network.frame_bits(held.bits, self._n_alive)

    def _divided(self, account: Account, number: int, claims: Sequence[Sequence[Claims]] | None) -> list[Part]:
        """What each host of an account may spend of it."""
        wanted = [NOBODY] * len(account.hosts)
        if claims is not None and account in self._pools:
            nth = self._pools.index(account)
            wanted = [claims[host][nth] for host in account.hosts]
        share = account.share_of(number)
        return divide_over_hosts(wanted, self._rationing, share, account.budget.currency, account.n_agents)

    def settle(self, number: int, sent: Sequence[Sent]) -> None:
        """Pay for the frames before they are carried; one commit."""
        with self.ledger.round():
            spent = [sum(bill.bits for bill in s.bills) for s in sent]
            if not self._main.is_capped:
                self._main.leases = [
                    self.ledger.lease(holder, bits, number) for holder, bits in zip(self._holders, spent, strict=True)
                ]
            for lease, s in zip(self._main.leases, sent, strict=True):
                self.ledger.settle(lease, [entry for bill in s.bills for entry in self._entries(lease, number, bill)])
            self._count(self._main, sum(spent))
            if len(self.accounts) > 1:
                self._settle_others(sent)
            self._count_wanted(sent)
            for kind in ("dropped", "degraded", "deferred"):
                n_messages = sum(getattr(s, f"n_{kind}") for s in sent)
                if n_messages:
                    bits = sum(s.dropped_bits for s in sent) if kind == "dropped" else 0
                    self.ledger.note(kind, n_messages, bits, number)
            for account in self._capped:
                account.end(number)

    def _settle_others(self, sent: Sequence[Sent]) -> None:
        """Charge a round to the accounts whose entries stand in the main one."""
        longest = max((8 * len(frame) for s in sent for frame in s.frames.values()), default=0)
        shared = [[(bill, shares(bill.bits, bill.messages)) for bill in s.bills] for s in sent]
        for account in self._capped:
            if account is self._main:
                continue
            if account.is_shared_by_rounds:
                costs = [self._cost_of_round(account, longest)]
            elif account.budget.currency == "bits":
                costs = [
                    sum(paid[r] for bill, paid in shared[h] for r in account.routes[bill.trunk]) for h in account.hosts
                ]
            else:
                costs = [
                    sum(b.messages[r] for b, _ in shared[h] for r in account.routes[b.trunk]) for h in account.hosts
                ]
            for lease, cost in zip(account.leases, costs, strict=True):
                self.ledger.settle_at(lease, cost)
                self._count(account, cost)

    def _cost_of_round(self, account: Account, longest_frame_bits: int) -> int:
        """What a round costs as a whole, whose longest frame is of this size."""
        if not longest_frame_bits:
            return 0
        if account.budget.currency == "rounds" or self._network is None:
            return self._n_alive
        return self._network.round_us(self._n_alive, longest_frame_bits)

    def _count(self, account: Account, cost: int) -> None:
        account.left -= cost
        account.use.spent += cost

    def _count_wanted(self, sent: Sequence[Sent]) -> None:
        """Add what each account would have been charged without caps."""
        if not self._main.is_capped:
            self._main.use.wanted = self._main.use.spent
        longest = max((s.longest_wanted_bits for s in sent), default=0)
        taken = [0] * self.n_hosts
        for account in self._capped:
            asked = []
            if account.is_shared_by_rounds:
                asked.append(self._cost_of_round(account, longest))
            else:
                for host in account.hosts:
                    asked.append(
                        sent[host].wanted[taken[host]]
                    )  # the caps of a host stand in the order of the accounts
                    taken[host] += 1
            held = [lease.bits for lease in account.leases]
            for wanted, most in zip(asked, held, strict=True):
                account.use.meet(wanted, most)
            account.use.n_full += any(wanted > most for wanted, most in zip(asked, held, strict=True))

    def _entries(self, lease: Lease, number: int, bill: Bill) -> Iterator[Entry]:
        """A debit for each route of a frame that said something."""
        routes = self._routes[bill.trunk]
        bits, payload_bits = shares(bill.bits, bill.messages), shares(bill.payload_bits, bill.messages)
        for (sender, receivers), n, cost, payload in zip(routes, bill.messages, bits, payload_bits, strict=True):
            if n:
                yield Entry(lease.epoch, number, number, sender, receivers, n, cost, payload, lease.holder)

    def book_receipts(
        self, number: int, heard_by_host: Sequence[Sequence[Bill]], missed: Sequence[Missed] = ()
    ) -> None:
        """Write down what was heard, and what was not."""
        rows = [
            self._receipts(host, number, bill, self._holders[host])
            for host, bills in enumerate(heard_by_host)
            for bill in bills
        ]
        rows += [self._receipts(host, number, bill, signed) for host, bill, signed in missed]
        self.ledger.receive(chain.from_iterable(rows))

    def _receipts(self, host: int, number: int, bill: Bill, holder: str) -> Iterator[Receipt]:
        """A receipt for each edge to an agent of the host on which something was said; by columns, since there are many."""
        if bill.trunk not in self._edges[host]:
            raise BudgetError(f"host {host} says it heard trunk {bill.trunk}, which does not lead to it")
        routes, senders, receivers = self._edges[host][bill.trunk]
        bits = shares(bill.bits, bill.messages)
        said = [bill.messages[route] for route in routes]
        rows = zip(
            repeat(holder),
            repeat(self.ledger.epoch(holder)),
            repeat(number),
            repeat(number),
            senders,
            receivers,
            said,
            [bits[route] for route in routes],
            strict=False,
        )
        return cast("Iterator[Receipt]", compress(rows, said))

    def close(self, number: int, n_put_off: int = 0) -> dict[str, Use]:
        """The episode is over: what its allowances did not use expires. What each account was used for.

        `number` is that of the round after its last: there it is noted that `n_put_off` messages were never said. If that
        is the first round of the next episode, nothing is dropped in it, since whatever is put off there is new.
        """
        with self.ledger.round():
            if n_put_off:
                self.ledger.note("dropped", n_put_off, 0, number)
            for account in self.accounts:
                account.close()
        return {account.name: account.use for account in self.accounts}
