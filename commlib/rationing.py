"""Rationing: which messages go when not all can, and what becomes of the others.

A lifeboat drill: who boards is settled by one rule before anybody moves, and the same rule holds for the crew of one ship
and for the fleet that shares the boats. Not the ledger, which only says how many seats there are (`commlib.ledger`).

Rules of allocation:

    value         most value per bit (per message, of a budget of messages) first: the greedy knapsack (Dantzig 1957,
                  Oper. Res. 5(2), sec. 2)
    first         first come, first served: in the order of the plan, hosts and their agents ascending
    equal         every agent has an equal share, and spends it by value per bit
    proportional  every agent has a share by what it wants to spend
    priority      groups in order, each with a guaranteed share of the pool; within a group by value per bit

Shapes: m messages that want to be sent, n agents.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from commlib.budget import numbered, parse_agents
from commlib.errors import ConfigError
from commlib.message import Edge
from commlib.plan import Index, Route
from commlib.units import Currency

Allocation = Literal["value", "first", "equal", "proportional", "priority"]
WhenOut = Literal["drop", "degrade", "defer", "raise"]

ALLOCATIONS: Final[tuple[str, ...]] = get_args(Allocation)
LEAST_BITS: Final = 2.0**-6
"""What a message counts as at the least, where value is divided by bits."""


class Group(NamedTuple):
    """Some agents, and the share of every pool that is theirs if they want it."""

    agents: tuple[int, ...]
    share: float


@dataclass(frozen=True)
class Rationing:
    """How a pool that is too small is shared out, and what becomes of a message that finds no room.

    Attributes:
        allocation: see the module.
        groups: of `priority`, the most important first; agents in none of them come last.
        when_out: drop: it is silenced; degrade: messages are told more coarsely, until they fit or say nothing; defer: it
            is said later, when its agent has no news; raise: the run ends with OverBudget.
        defer_rounds: after how many rounds a deferred message is given up.
    """

    allocation: Allocation = "value"
    groups: tuple[Group, ...] = ()
    when_out: WhenOut = "drop"
    defer_rounds: int = 2

    def for_team(self, n_agents: int) -> Rationing:
        """The same; raises ConfigError when a group is of agents that the team does not have."""
        strangers = [agent for group in self.groups for agent in group.agents if agent >= n_agents]
        if strangers:
            raise ConfigError(
                f"a group of the allocation priority is for agent {strangers[0]}, but the agents are {numbered(n_agents)}"
            )
        return self

    @property
    def needs_claims(self) -> bool:
        """Whether hosts must say what they want before a pool can be shared out over them."""
        return self.allocation != "equal"

    @property
    def divides(self) -> bool:
        """Whether each agent has a part of a pool of its own."""
        return self.allocation in ("equal", "proportional")


class Scope(NamedTuple):
    """Whose messages count: those of some agents, or what goes over one edge; everybody's, if both are None."""

    agents: tuple[int, ...] | None = None
    edge: Edge | None = None

    @property
    def is_everybodys(self) -> bool:
        """Whether it is all that a host sends."""
        return self.agents is None and self.edge is None

    def has(self, agent: int) -> bool:
        """Whether what this agent sends can count."""
        return agent == self.edge.sender if self.edge is not None else self.agents is None or agent in self.agents

    def covers(self, route: Route) -> bool:
        """Whether what goes this way counts."""
        if self.edge is not None:
            return route.sender == self.edge.sender and self.edge.receiver in route.receivers
        return self.agents is None or route.sender in self.agents


EVERYBODY: Final = Scope()


class Cap(NamedTuple):
    """The most, in bits or messages, that a host may spend in a round, over all worlds, on what is in the scope.

    `guaranteed` is, for each group of `priority`, the part of it that is theirs if they want it.
    """

    currency: Currency
    amount: int
    scope: Scope = EVERYBODY
    guaranteed: tuple[int, ...] = ()


class Toll(NamedTuple):
    """The price of a currency on what is in the scope, in squared distortion (or harm) per unit.

    Of the currency rounds it is what a round costs, for each world, in which a host sends a frame.
    """

    currency: Currency
    weight: float
    scope: Scope = EVERYBODY


class Tariff(NamedTuple):
    """All prices of a play: that of a bit for everybody (the rate weight), and tolls on whatever else is paid for."""

    rate_weight: float = 0.0
    tolls: tuple[Toll, ...] = ()


class Allowance(NamedTuple):
    """What a host may spend in one round: all caps hold.

    Attributes:
        caps: limits on bits and messages.
        frame_bits: the most that a frame may weigh, because of the time that it takes; 0: no frame may go; None: no limit.
    """

    caps: tuple[Cap, ...] = ()
    frame_bits: int | None = None


class Claims(NamedTuple):
    """The messages that want to be sent, as columns [m], in the order of the plan.

    Attributes:
        sender: the agents.
        bits: what each adds to its frame, -log2 q, estimated.
        value: what is lost if it is not said, in units that all agents share.
        overhead_bits: what frames weigh beside their messages.
    """

    sender: Index
    bits: NDArray[np.float64]
    value: NDArray[np.float64]
    overhead_bits: int = 0

    def of(self, which: Index | NDArray[np.bool_]) -> Claims:
        """Some of the messages, without overhead."""
        return Claims(self.sender[which], self.bits[which], self.value[which])

    def costs(self, currency: Currency) -> NDArray[np.float64]:
        """What each message costs in this currency, [m]."""
        return self.bits if currency == "bits" else np.ones(len(self.bits))

    def density(self, currency: Currency) -> NDArray[np.float64]:
        """Value per unit of this currency, [m]."""
        density: NDArray[np.float64] = self.value / np.maximum(self.costs(currency), LEAST_BITS)
        return density


class Part(NamedTuple):
    """What a host may spend of a pool, and of that, for each group of `priority`, what is set aside for it."""

    amount: int
    guaranteed: tuple[int, ...] = ()


def order(claims: Claims, rationing: Rationing, currency: Currency, guaranteed: Sequence[float]) -> Index:
    """The messages, those that are to be served first from a pool of this currency at the front.

    Under `priority`, each group is first served up to what it is guaranteed, then all of the first group, and so on. Where
    each agent has a part of its own, whoever has used least of it comes first.
    """
    if rationing.allocation == "first":
        return np.arange(len(claims.bits))
    if rationing.divides:
        return np.argsort(_used(claims, rationing.allocation, currency), kind="stable")
    by_value = np.argsort(-claims.density(currency), kind="stable")
    if rationing.allocation != "priority":
        return by_value
    rank, is_late = _ranked(claims, rationing.groups, currency, guaranteed, by_value)
    return by_value[np.lexsort((rank[by_value], is_late[by_value]))]


def _used(claims: Claims, allocation: Allocation, currency: Currency) -> NDArray[np.float64]:
    """How much of its part an agent will have used once each message is sent, [m], most value first."""
    used, costs, density = np.zeros(len(claims.bits)), claims.costs(currency), claims.density(currency)
    for agent in np.unique(claims.sender):
        mine = np.flatnonzero(claims.sender == agent)
        queue = mine[np.argsort(-density[mine], kind="stable")]
        wanted = float(costs[mine].sum()) if allocation == "proportional" else 1.0
        used[queue] = np.cumsum(costs[queue]) / max(wanted, LEAST_BITS)
    return used


def _ranked(
    claims: Claims, groups: Sequence[Group], currency: Currency, guaranteed: Sequence[float], by_value: Index
) -> tuple[Index, NDArray[np.bool_]]:
    """The group of each message, [m], and whether it goes beyond what that is guaranteed; agents in none come last."""
    rank, is_late = np.full(len(by_value), len(groups)), np.ones(len(by_value), bool)
    for nth, group in reversed(list(enumerate(groups))):  # who is in two groups is in the first
        rank[np.isin(claims.sender, group.agents)] = nth
    costs = claims.costs(currency)
    for nth, most in enumerate(guaranteed):
        queue = by_value[rank[by_value] == nth]
        is_late[queue] = np.cumsum(costs[queue]) > most
    return rank, is_late


def shares_of(
    claims: Claims, allocation: Allocation, agents: Sequence[int], amount: int, currency: Currency
) -> list[int]:
    """What each of these agents may have of an amount, in whole units that add up; all of it, where no rule divides it.

    >>> some = Claims(np.array([0, 0, 2]), np.array([6.0, 6.0, 4.0]), np.ones(3))
    >>> shares_of(some, "equal", [0, 1, 2], 100, "bits"), shares_of(some, "proportional", [0, 1, 2], 100, "bits")
    ([34, 33, 33], [75, 0, 25])
    """
    if allocation == "equal":
        least, n_odd = divmod(amount, len(agents))
        return [least + (nth < n_odd) for nth in range(len(agents))]
    if allocation == "proportional":
        costs = claims.costs(currency)
        return divided(amount, np.array([costs[claims.sender == agent].sum() for agent in agents]))
    return [amount] * len(agents)


def within_shares(
    claims: Claims, allocation: Allocation, agents: Sequence[int], amount: int, currency: Currency
) -> NDArray[np.bool_]:
    """For which messages [m] the share of their agent is enough, most value first; of bits, when frames are paid for.

    >>> some = Claims(np.array([0, 0, 2]), np.array([6.0, 6.0, 4.0]), np.array([1.0, 2.0, 1.0]), overhead_bits=24)
    >>> within_shares(some, "equal", [0, 1, 2], 48, "bits").tolist()
    [False, True, True]
    """
    left = max(0, amount - (claims.overhead_bits if currency == "bits" else 0))
    used, fits = _used(claims, "equal", currency), np.zeros(len(claims.bits), bool)
    for agent, share in zip(agents, shares_of(claims, allocation, agents, left, currency), strict=True):
        mine = claims.sender == agent
        fits[mine] = used[mine] <= share
    return fits


def divided(amount: int, weights: NDArray[np.float64]) -> list[int]:
    """A whole amount divided by weights, in whole units that add up to it; evenly, where all weights are 0.

    >>> divided(10, np.array([1.0, 0.0, 2.0])), divided(10, np.zeros(3))
    ([3, 0, 7], [3, 3, 4])
    """
    total = float(weights.sum())
    running = np.arange(1, len(weights) + 1) / len(weights) if total <= 0 else np.cumsum(weights) / total
    marks = [min(amount, int(amount * share + 1e-9)) for share in running[:-1].tolist()] + [amount]
    return [mark - before for mark, before in zip(marks, [0, *marks], strict=False)]


def divide_over_hosts(
    claims: Sequence[Claims], rationing: Rationing, amount: int, currency: Currency, n_agents: Sequence[int]
) -> list[Part]:
    """What each host may spend of a pool, in whole units that add up to it.

    Args:
        claims: what each host wants to send; only the messages that this pool pays for.
        rationing: the rule.
        amount: what is left in the pool for this round.
        currency: bits or messages.
        n_agents: how many agents of each host it is for.
    """
    guaranteed = guaranteed_of(rationing, amount)
    if len(claims) == 1:
        return [Part(amount, guaranteed)]
    if rationing.allocation == "equal" or not any(len(one.sender) for one in claims):
        return [Part(part, guaranteed_of(rationing, part)) for part in divided(amount, np.array(n_agents, np.float64))]
    overhead = np.array([one.overhead_bits if currency == "bits" else 0 for one in claims], np.float64)
    if rationing.allocation == "proportional":
        weights = np.array([one.costs(currency).sum() for one in claims]) + overhead
        return [Part(part) for part in divided(amount, weights)]
    host = np.repeat(np.arange(len(claims)), [len(one.sender) for one in claims])
    everything = Claims(
        np.concatenate([one.sender for one in claims]),
        np.concatenate([one.bits for one in claims]),
        np.concatenate([one.value for one in claims]),
    )
    queues = [order(everything, rationing, currency, guaranteed)]
    if rationing.allocation == "value":  # whose frames are worth their overhead is not seen message by message
        queues.append(order(_bearing(everything, host, overhead), rationing, currency, guaranteed))
        queues.append(_host_by_host(everything, host, overhead, currency))
    filled = [_filled(queue, everything.costs(currency), host, overhead, amount) for queue in queues]
    served, costs, fits = max(filled, key=lambda one: float(everything.value[one.served[one.fits]].sum()))
    granted = np.bincount(host[served][fits], costs[fits], len(claims))
    if not fits.any():  # not even one: whoever comes first may try
        granted[host[served[0]]] = 1.0
    # What is over goes to hosts that got something: their frames may weigh a little more than was estimated.
    amounts = divided(amount, granted.astype(np.float64))
    if rationing.allocation != "priority":
        return [Part(part) for part in amounts]
    aside = _set_aside(everything, host, served[fits], rationing, currency, guaranteed, len(claims))
    return [Part(part, mine) for part, mine in zip(amounts, aside, strict=True)]


class _Filled(NamedTuple):
    """A queue of messages, what each costs in it, and which of them a pool pays for."""

    served: Index
    costs: NDArray[np.float64]
    fits: NDArray[np.bool_]


def _filled(
    served: Index, costs: NDArray[np.float64], host: Index, overhead: NDArray[np.float64], amount: int
) -> _Filled:
    """Serve a queue until the pool is empty; the first message of a host pays for its frames."""
    paid = costs[served]
    speaking, first = np.unique(host[served], return_index=True)
    paid[first] += overhead[speaking]
    return _Filled(served, paid, np.cumsum(paid) <= amount)


def _bearing(claims: Claims, host: Index, overhead: NDArray[np.float64]) -> Claims:
    """The messages, each with its part of its host's frames: a host with little to say is dear to serve."""
    n_messages = np.bincount(host, minlength=len(overhead))
    return claims._replace(bits=claims.bits + (overhead / np.maximum(n_messages, 1))[host])


def _host_by_host(claims: Claims, host: Index, overhead: NDArray[np.float64], currency: Currency) -> Index:
    """A queue in which a host is served whole before the next one: the other greedy filling, where frames are dear."""
    worth, cost = (np.bincount(host, column, len(overhead)) for column in (claims.value, claims.costs(currency)))
    per_host = worth / np.maximum(cost + overhead, LEAST_BITS)
    return np.lexsort((-claims.density(currency), -per_host[host]))


def _set_aside(
    claims: Claims,
    host: Index,
    served: Index,
    rationing: Rationing,
    currency: Currency,
    guaranteed: Sequence[float],
    n_hosts: int,
) -> list[tuple[int, ...]]:
    """What each host must set aside for each group: what those of its messages cost that go on the group's guarantee."""
    by_value = np.argsort(-claims.density(currency), kind="stable")
    rank, is_late = _ranked(claims, rationing.groups, currency, guaranteed, by_value)
    early = served[~is_late[served]]
    aside = np.zeros((n_hosts, len(guaranteed)))
    np.add.at(aside, (host[early], rank[early]), claims.costs(currency)[early])
    return [tuple(math.ceil(bits) for bits in mine) for mine in aside.tolist()]


def guaranteed_of(rationing: Rationing, amount: int) -> tuple[int, ...]:
    """What is set aside of an amount for each group."""
    return tuple(int(group.share * amount) for group in rationing.groups)


def parse_groups(text: str | None) -> tuple[Group, ...]:
    """Read groups in order of their importance, with the share that is theirs: "agents 0+2: 50 %, agent 1: 20 %".

    >>> parse_groups("agents 0-1: 50 %, agent 3")
    (Group(agents=(0, 1), share=0.5), Group(agents=(3,), share=0.0))

    Raises ConfigError when they cannot be read, or more than all is guaranteed.
    """
    groups: list[Group] = []
    for part in (text or "").split(",") if text else []:
        who, _, share = part.partition(":")
        word, _, listed = who.strip().partition(" ")
        agents = parse_agents(listed)
        percent = _percent(share)
        if word not in ("agent", "agents") or agents is None or percent is None:
            raise ConfigError(f"cannot read the group {part.strip()!r}; write it like 'agents 0-2: 50 %' or 'agent 3'")
        if not 0 <= percent <= 100:
            raise ConfigError(f"the group {part.strip()!r} is guaranteed {percent:g} %; a share is from 0 % to 100 %")
        groups.append(Group(agents, percent / 100))
    total = sum(group.share for group in groups)
    if total > 1 + 1e-9:
        raise ConfigError(f"the groups {text!r} are guaranteed {total:.0%} together; at most 100 % is there")
    return tuple(groups)


def _percent(text: str) -> float | None:
    """A share in per cent, 0 where none is given; None if it cannot be read."""
    if not text.strip():
        return 0.0
    match = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*%\s*", text, re.ASCII)
    return None if match is None else float(match[1])
