"""Rationing: which messages go when not all can, and what becomes of the others.

A lifeboat drill: who boards is settled by one rule before anybody moves, and the same rule holds for the crew of one ship
and for the fleet that shares the boats. Not the ledger, which only says how many seats there are (`commlib.ledger`).

Rules of allocation:

    value         most value per bit first (greedy knapsack: Dantzig 1957, Oper. Res. 5(2), sec. 2)
    first         first come, first served: in the order of the plan, hosts and their agents ascending
    equal         every agent has an equal share, and spends it by value per bit
    proportional  every agent has a share by what it wants to spend
    priority      groups in order, each with a guaranteed share of the pool; within a group by value per bit

Shapes: m messages that want to be sent, n agents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from commlib.budget import parse_agents
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

    @property
    def needs_claims(self) -> bool:
        """Whether hosts must say what they want before a pool can be shared out over them."""
        return self.allocation != "equal"


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
    """The most, in bits or messages, that a host may spend in a round, over all worlds, on what is in the scope."""

    currency: Currency
    amount: int
    scope: Scope = EVERYBODY


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

    @property
    def density(self) -> NDArray[np.float64]:
        """Value per bit."""
        density: NDArray[np.float64] = self.value / np.maximum(self.bits, LEAST_BITS)
        return density


def order(claims: Claims, rationing: Rationing, pool_bits: float) -> Index:
    """The messages, those that are to be served first at the front.

    Under `priority`, each group is first served up to its share of the pool, then all of the first group, and so on.
    """
    by_value = np.argsort(-claims.density, kind="stable")
    if rationing.allocation == "first":
        return np.arange(len(by_value))
    if rationing.allocation != "priority":
        return by_value
    rank = np.full(len(by_value), len(rationing.groups))
    is_late = np.ones(len(by_value), bool)
    for nth, group in reversed(list(enumerate(rationing.groups))):  # who is in two groups is in the first
        mine = np.isin(claims.sender, group.agents)
        rank[mine] = nth
    for nth, group in enumerate(rationing.groups):
        queue = by_value[rank[by_value] == nth]
        is_late[queue] = np.cumsum(claims.bits[queue]) > group.share * pool_bits
    return by_value[np.lexsort((rank[by_value], is_late[by_value]))]


def shares_of(claims: Claims, allocation: Allocation, agents: Sequence[int], amount: int) -> list[int]:
    """What each of these agents may have of an amount, in whole units that add up; all of it, where no rule divides it.

    >>> some = Claims(np.array([0, 0, 2]), np.array([6.0, 6.0, 4.0]), np.ones(3))
    >>> shares_of(some, "equal", [0, 1, 2], 100), shares_of(some, "proportional", [0, 1, 2], 100)
    ([34, 33, 33], [75, 0, 25])
    """
    if allocation == "equal":
        least, n_odd = divmod(amount, len(agents))
        return [least + (nth < n_odd) for nth in range(len(agents))]
    if allocation == "proportional":
        wanted = np.array([claims.bits[claims.sender == agent].sum() for agent in agents])
        return divided(amount, wanted)
    return [amount] * len(agents)


def divided(amount: int, weights: NDArray[np.float64]) -> list[int]:
    """A whole amount divided by weights, in whole units that add up to it; evenly, where all weights are 0."""
    total = float(weights.sum())
    running = np.arange(1, len(weights) + 1) / len(weights) if total <= 0 else np.cumsum(weights) / total
    marks = [min(amount, int(amount * share + 1e-9)) for share in running[:-1].tolist()] + [amount]
    return [mark - before for mark, before in zip(marks, [0, *marks], strict=False)]


def divide_over_hosts(
    claims: Sequence[Claims], rationing: Rationing, amount: int, currency: Currency, n_agents: Sequence[int]
) -> list[int]:
    """What each host may spend of a pool, in whole units that add up to it.

    Args:
        claims: what each host wants to send; only the messages that this pool pays for.
        rationing: the rule.
        amount: what is left in the pool for this round.
        currency: bits or messages.
        n_agents: how many agents of each host it is for.
    """
    if rationing.allocation == "equal" or not sum(len(one.sender) for one in claims):
        return divided(amount, np.array(n_agents, np.float64))
    costs = [one.bits if currency == "bits" else np.ones(len(one.bits)) for one in claims]
    overhead = np.array([one.overhead_bits if currency == "bits" else 0 for one in claims], np.float64)
    if rationing.allocation == "proportional":
        return divided(amount, np.array([cost.sum() for cost in costs]) + overhead)
    host = np.repeat(np.arange(len(claims)), [len(one.sender) for one in claims])
    everything = Claims(*(np.concatenate([one[nth] for one in claims]) for nth in range(3)))
    cost = np.concatenate(costs)
    served = order(everything, rationing, amount)
    is_first = np.zeros(len(served), bool)
    is_first[np.unique(host[served], return_index=True)[1]] = True  # the first message of a host pays for its frames
    spent = cost[served] + is_first * overhead[host[served]]
    fits = np.cumsum(spent) <= amount
    granted = np.bincount(host[served][fits], spent[fits], len(claims))
    if not fits.any():  # not even one: whoever comes first may try
        granted[host[served[0]]] = 1
    floor = np.floor(granted * amount / max(amount, float(granted.sum())))
    left = amount - int(floor.sum())
    # What is over goes to hosts that got something: their frames may weigh a little more than was estimated.
    extra = divided(left, (granted > 0).astype(np.float64))
    return [int(part) + more for part, more in zip(floor.tolist(), extra, strict=True)]


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
        if word not in ("agent", "agents") or agents is None or not _is_share(share):
            raise ConfigError(f"cannot read the group {part.strip()!r}; write it like 'agents 0-2: 50 %' or 'agent 3'")
        groups.append(Group(agents, float(share.strip().removesuffix("%") or 0) / 100))
    total = sum(group.share for group in groups)
    if total > 1:
        raise ConfigError(f"the groups {text!r} are guaranteed {total:.0%} together; at most 100 % is there")
    return tuple(groups)


def _is_share(text: str) -> bool:
    number = text.strip().removesuffix("%").strip()
    if not text.strip():
        return True
    try:
        return text.strip().endswith("%") and 0 <= float(number) <= 100
    except ValueError:
        return False


def rank_within(chosen: NDArray[np.bool_], served: Index) -> NDArray[np.int64]:
    """The place of each message [m] in the queue of those that are chosen; it means nothing for the others."""
    rank: NDArray[np.int64] = np.empty(len(served), np.int64)
    rank[served] = np.cumsum(chosen[served]) - 1
    return rank


__all__: list[Any] = [
    "ALLOCATIONS", "EVERYBODY", "Allocation", "Allowance", "Cap", "Claims", "Group", "Rationing", "Scope", "Tariff", "Toll",
    "WhenOut",     "divide_over_hosts", "divided", "order", "parse_groups", "rank_within", "shares_of",
]  # fmt: skip
