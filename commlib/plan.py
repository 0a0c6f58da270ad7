"""The plan: who sits on which host, which messages share a frame, and what is done about loss; computed alike by all.

A bus timetable: it says which passengers ride together from where to where, and nothing of what they talk about. A
*trunk* is a standing line: the routes that leave one host together. Under the charging rule `broadcast` a trunk holds
one route per sender and is heard by every host with an open edge from it: one frame, paid once. Under `link` there is a
trunk, a frame and a bill for each pair of hosts.

What follows from a plan for each edge is worked out once, as columns (`incoming`, `senders_of`), so that a round costs
by the open edge and not by the pair of agents.

Shapes: E edges, m edges that one trunk brings to one host, n agents of a host, K slots of an inbox.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from commlib.message import Edge

Index = NDArray[np.int64]

CHARGING_RULES = {
    "broadcast": "one frame per sending host and round, heard by all open edges, paid once",
    "link": "one frame per pair of hosts and round, paid for each pair",
}
ABSENCE_RULE = "a frame that would only say what is expected is not sent and is free: rounds are numbered"


class Route(NamedTuple):
    """One sender and those who hear it through one trunk."""

    sender: int
    receivers: tuple[int, ...]


class Trunk(NamedTuple):
    """The routes that share a frame: from one host to all hosts in `targets`."""

    source: int
    targets: tuple[int, ...]
    routes: tuple[Route, ...]


class Plan(NamedTuple):
    """Who sits where, who may talk to whom, and how a lost frame is lived with.

    Attributes:
        host_of: the host of each agent.
        trunks: all lines.
        refresh_every: every so many rounds all links start afresh, at both ends, by the clock; 0: never.
        is_lossy: frames may get lost: a receiver who notices goes on as well as it can, instead of raising.
    """

    host_of: tuple[int, ...]
    trunks: tuple[Trunk, ...]
    refresh_every: int = 0
    is_lossy: bool = False

    def agents_of(self, host: int) -> list[int]:
        """The agents that live on a host, ascending."""
        return [agent for agent, home in enumerate(self.host_of) if home == host]


def partition(n_agents: int, n_hosts: int) -> tuple[int, ...]:
    """The host of each agent: blocks as equal as possible, in order."""
    return tuple(agent * n_hosts // n_agents for agent in range(n_agents))


def make_plan(edges: tuple[Edge, ...], host_of: tuple[int, ...], charging: str) -> Plan:
    """The trunks of a graph under a charging rule."""
    leaving: defaultdict[int, list[Edge]] = defaultdict(list)
    for edge in sorted(edges):
        leaving[host_of[edge.sender]].append(edge)
    make = _broadcast if charging == "broadcast" else _links
    return Plan(host_of, tuple(trunk for source in sorted(leaving) for trunk in make(source, leaving[source], host_of)))


def _broadcast(source: int, leaving: list[Edge], host_of: tuple[int, ...]) -> list[Trunk]:
    """One trunk to everybody who hears somebody of this host."""
    heard = groupby(leaving, key=lambda edge: edge.sender)
    routes = tuple(Route(sender, tuple(edge.receiver for edge in group)) for sender, group in heard)
    return [Trunk(source, tuple(sorted({host_of[edge.receiver] for edge in leaving})), routes)]


def _links(source: int, leaving: list[Edge], host_of: tuple[int, ...]) -> list[Trunk]:
    """A trunk to each host with somebody who hears, and a route for each edge."""
    routes: defaultdict[int, list[Route]] = defaultdict(list)
    for sender, receiver in leaving:
        routes[host_of[receiver]].append(Route(sender, (receiver,)))
    return [Trunk(source, (target,), tuple(routes[target])) for target in sorted(routes)]


class Incoming(NamedTuple):
    """The edges that a trunk brings to one host, as columns [m], by sender and then receiver.

    Attributes:
        route: which route of the trunk.
        sender, receiver: the agents.
        seat: the receiver's place among the agents of its host.
        slot: the sender's place among those whom the receiver hears.
    """

    route: Index
    sender: Index
    receiver: Index
    seat: Index
    slot: Index


def incoming(plan: Plan, host: int) -> dict[int, Incoming]:
    """What each trunk that leads to a host brings it."""
    trunk, columns = _edge_columns(plan)
    here = np.flatnonzero(np.array(plan.host_of)[columns.receiver] == host)
    parts = np.split(here, np.flatnonzero(np.diff(trunk[here])) + 1)
    return {int(trunk[part[0]]): Incoming(*(column[part] for column in columns)) for part in parts if len(part)}


def senders_of(plan: Plan, host: int) -> Index:
    """Whom each agent of a host hears, int64 [n, K]: the sender of each slot of its inbox, ascending; -1 for none.

    K is the greatest number of senders that any agent of the plan has, and at least 1.

    >>> senders_of(make_plan((Edge(0, 1), Edge(2, 1), Edge(1, 2)), (0, 0, 0), "broadcast"), host=0).tolist()
    [[-1, -1], [0, 2], [1, -1]]
    """
    _, columns = _edge_columns(plan)
    here = np.array(plan.host_of)[columns.receiver] == host
    n_slots = int(columns.slot.max(initial=0)) + 1
    senders = np.full((plan.host_of.count(host), n_slots), -1, np.int64)
    senders[columns.seat[here], columns.slot[here]] = columns.sender[here]
    return senders


@lru_cache(maxsize=8)
def _edge_columns(plan: Plan) -> tuple[Index, Incoming]:
    """The trunk of each edge, [E], and all columns, trunk by trunk; every host of a process shares them."""
    flat = np.array(
        [
            (index, row, route.sender, receiver)
            for index, trunk in enumerate(plan.trunks)
            for row, route in enumerate(trunk.routes)
            for receiver in route.receivers
        ],
        np.int64,
    ).reshape(-1, 4)
    trunk, row, sender, receiver = flat.T
    seats = np.zeros(len(plan.host_of), np.int64)
    taken: defaultdict[int, int] = defaultdict(int)
    for agent, home in enumerate(plan.host_of):
        seats[agent] = taken[home]
        taken[home] += 1
    order = np.lexsort((sender, receiver))
    slot = np.empty(len(flat), np.int64)
    slot[order] = np.arange(len(flat)) - np.searchsorted(receiver[order], receiver[order])
    return trunk, Incoming(row, sender, receiver, seats[receiver], slot)
