"""The plan: who sits on which host, which messages share a frame, and what is done about loss; computed alike by all.

A bus timetable: it says which passengers ride together from where to where, and nothing of what they talk about. A
*trunk* is a standing line: the routes that leave one host together. Under the charging rule `broadcast` a trunk holds
one route per sender and is heard by every host with an open edge from it: one frame, paid once. Under `link` there is a
trunk, a frame and a bill for each pair of hosts.
"""

from __future__ import annotations

from typing import NamedTuple

from commlib.message import Edge

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
    trunks = []
    for source in range(max(host_of) + 1):
        leaving = [edge for edge in sorted(edges) if host_of[edge.sender] == source]
        if charging == "broadcast":
            heard = {e.sender: tuple(o.receiver for o in leaving if o.sender == e.sender) for e in leaving}
            targets = tuple(sorted({host_of[edge.receiver] for edge in leaving}))
            if heard:
                trunks.append(Trunk(source, targets, tuple(Route(*item) for item in heard.items())))
        else:
            for target in sorted({host_of[edge.receiver] for edge in leaving}):
                routes = tuple(Route(e.sender, (e.receiver,)) for e in leaving if host_of[e.receiver] == target)
                trunks.append(Trunk(source, (target,), routes))
    return Plan(host_of, tuple(trunks))
