"""Who may talk to whom: a topology is sampled in training and read off as a list of edges in use.

A topology is a street map. In training it can be drawn in pencil (a straight-through sample, so that gradients move the
streets); in use it is ink: a list of edges that every host knows. Not a gate: a gate decides *when* an open edge carries
something.

Shapes: S senders, R receivers; adjacency is indexed [S, R], sender first, zero diagonal.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from commlib.config import PRUNABLE
from commlib.errors import ConfigError
from commlib.message import Edge


class Topology(Protocol):
    """What every topology offers; `commlib.testing.check_topology` holds the laws."""

    n_agents: int

    def sample(self, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """A 0/1 adjacency [S, R] for one update, differentiable where the topology is learned; at temperature 0 it is `edges`."""
        ...

    def edges(self) -> tuple[Edge, ...]:
        """The open edges in use, sorted."""
        ...


def adjacency_of(edges: tuple[Edge, ...], n_agents: int) -> Tensor:
    """Edges as a 0/1 float matrix [S, R]."""
    adjacency_SR = torch.zeros(n_agents, n_agents)
    senders, receivers = torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).T
    adjacency_SR[senders, receivers] = 1.0
    return adjacency_SR


def edges_of(adjacency_SR: Tensor) -> tuple[Edge, ...]:
    """A 0/1 matrix [S, R] as sorted edges."""
    return tuple(Edge(int(s), int(r)) for s, r in adjacency_SR.nonzero().tolist())


def senders_kept(n_agents: int, density: float) -> int:
    """How many senders each receiver keeps at a density: max(int(n_agents x density), 1), and never more than there are.

    Raises:
        ConfigError: the density is none.
    """
    if not 0.0 < density <= 1.0:
        raise ConfigError(f"density must be in (0, 1], not {density}; it is the share of senders that a receiver keeps")
    return min(max(int(n_agents * density), 1), n_agents - 1)


class FixedTopology(nn.Module):
    """A graph that is given, not learned."""

    def __init__(self, edges: tuple[Edge, ...], n_agents: int) -> None:
        super().__init__()
        for edge in edges:
            if edge.sender == edge.receiver or not (0 <= edge.sender < n_agents and 0 <= edge.receiver < n_agents):
                raise ConfigError(f"edge {edge} is not one between two of the {n_agents} agents 0..{n_agents - 1}")
        self.n_agents = n_agents
        self._edges = tuple(sorted(set(edges)))

    def sample(self, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Always the same graph."""
        return adjacency_of(self._edges, self.n_agents)

    def edges(self) -> tuple[Edge, ...]:
        """The graph."""
        return self._edges


def none(n_agents: int) -> FixedTopology:
    """Nobody talks."""
    return FixedTopology((), n_agents)


def full(n_agents: int) -> FixedTopology:
    """Everybody talks to everybody else."""
    return FixedTopology(tuple(Edge(s, r) for s in range(n_agents) for r in range(n_agents) if s != r), n_agents)


def ring(n_agents: int) -> FixedTopology:
    """Agent i talks to agent i + 1, the last one to the first."""
    return FixedTopology(tuple(Edge(s, (s + 1) % n_agents) for s in range(n_agents) if n_agents > 1), n_agents)


def chain(n_agents: int) -> FixedTopology:
    """Agent i talks to agent i + 1, the last one to nobody; of two agents, the first talks and the second listens."""
    return FixedTopology(tuple(Edge(s, s + 1) for s in range(n_agents - 1)), n_agents)


def random(n_agents: int, n_senders: int, generator: torch.Generator) -> FixedTopology:
    """Every agent hears `n_senders` others (all, if there are fewer), drawn without replacement; in O(edges)."""
    n_others = n_agents - 1
    n_drawn = min(n_senders, n_others)
    n_kept = min(n_drawn, n_others - n_drawn)  # where most are heard, draw those that are not
    if n_drawn <= 0:
        return none(n_agents)
    drawn_RK = torch.randint(n_others, (n_agents, n_kept), generator=generator).sort(1).values
    while (is_again := drawn_RK.diff(dim=1) == 0).any():  # draws that are there already are drawn again
        again = is_again.nonzero()
        drawn_RK[again[:, 0], again[:, 1] + 1] = torch.randint(n_others, (len(again),), generator=generator)
        drawn_RK = drawn_RK.sort(1).values
    if n_kept < n_drawn:
        is_heard_RS = torch.ones(n_agents, n_others, dtype=torch.bool).scatter_(1, drawn_RK, value=False)
        drawn_RK = is_heard_RS.nonzero()[:, 1].reshape(n_agents, n_drawn)
    receivers_R1 = torch.arange(n_agents)[:, None]
    return _heard_by(drawn_RK + (drawn_RK >= receivers_R1), receivers_R1.expand(-1, n_drawn), n_agents)


def grid(n_agents: int) -> FixedTopology:
    """Agents on a square grid, row by row; each hears those beside, above and below it: two to four where it is full."""
    side = math.isqrt(max(n_agents - 1, 0)) + 1
    agent, right = torch.arange(n_agents), torch.arange(n_agents) % side
    pairs = [(agent[right > 0] - 1, agent[right > 0]), (agent[agent >= side] - side, agent[agent >= side])]
    senders = torch.cat([near for pair in pairs for near in pair])
    receivers = torch.cat([near for pair in pairs for near in reversed(pair)])
    return _heard_by(senders, receivers, n_agents)


def knn(n_agents: int, n_senders: int) -> FixedTopology:
    """Agents on a square grid, row by row; each hears its `n_senders` nearest, of equally near ones the first; in O(edges)."""
    side = math.isqrt(max(n_agents - 1, 0)) + 1
    n_heard, reach = min(n_senders, n_agents - 1), 1
    if n_heard <= 0:
        return none(n_agents)
    while True:  # a disc that holds enough for everybody, those in the corners too, holds the nearest of everybody
        down, right = torch.cartesian_prod(*[torch.arange(-reach, reach + 1)] * 2).T
        far = down**2 + right**2
        near = far.argsort(stable=True)[1 : int((far <= reach**2).sum())]
        row_R1, column_R1 = torch.arange(n_agents)[:, None] // side, torch.arange(n_agents)[:, None] % side
        row_RM, column_RM = row_R1 + down[near], column_R1 + right[near]
        sender_RM = row_RM * side + column_RM
        is_there_RM = (row_RM >= 0) & (column_RM >= 0) & (column_RM < side) & (sender_RM < n_agents)
        if is_there_RM.sum(1).min() >= n_heard:
            break
        reach *= 2
    receiver, which = (is_there_RM & (is_there_RM.cumsum(1) <= n_heard)).nonzero().T
    return _heard_by(sender_RM[receiver, which], receiver, n_agents)


def _heard_by(senders: Tensor, receivers: Tensor, n_agents: int) -> FixedTopology:
    pairs = zip(senders.flatten().tolist(), receivers.flatten().tolist(), strict=True)
    return FixedTopology(tuple(map(Edge._make, pairs)), n_agents)


class CommFormerTopology(nn.Module):
    """CommFormer's learned static graph (Hu et al. 2024, arXiv:2405.08550): every receiver keeps its best k senders.

    One parameter per ordered pair, not conditioned on observations; k = max(int(n_agents x density), 1) senders per
    receiver, so in use each receiver only needs to know its own column. Training draws a straight-through Gumbel top-k;
    use takes the exact top-k. Density is the share of senders *kept* (the paper's released code calls it sparsity). Unlike
    there, an agent never keeps itself: its own state needs no edge.
    """

    def __init__(self, n_agents: int, density: float = 0.4) -> None:
        super().__init__()
        self.n_agents = n_agents
        self.n_kept = senders_kept(n_agents, density)
        self.logits = nn.Parameter(torch.zeros(n_agents, n_agents))

    def _scores(self) -> Tensor:
        return self.logits.masked_fill(torch.eye(self.n_agents, dtype=torch.bool), -torch.inf)

    def _top(self, scores_SR: Tensor) -> Tensor:
        hard_SR = torch.zeros_like(scores_SR)
        hard_SR.scatter_(0, scores_SR.topk(self.n_kept, dim=0).indices, 1.0)
        return hard_SR

    def sample(self, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Straight-through Gumbel top-k over the senders of each receiver; temperature 0 draws no noise."""
        scores_SR = self._scores()
        if temperature > 0:
            uniform = torch.rand(scores_SR.shape, generator=generator).clamp_min(1e-12)
            scores_SR = (scores_SR - (-uniform.log()).log()) / temperature
        hard_SR, soft_SR = self._top(scores_SR.detach()), scores_SR.softmax(dim=0)
        return soft_SR + (hard_SR - soft_SR).detach()

    def edges(self) -> tuple[Edge, ...]:
        """The exact top-k of every receiver."""
        return edges_of(self._top(self._scores().detach()))


MISSING = 0.1
"""The share of a pruned graph's edges that is missing from a draw."""


class PrunedTopology(nn.Module):
    """A graph that starts full and is cut back to the edges that are worth their price.

    Like clearing a switchboard: unplug one cord after the other, those first whose silence would change least of what
    listeners do, and stop before anybody is missed. What an edge is worth is measured by the learner: how far the
    listener's actions move when the sender's message is taken away (the causal effect of I2C: Ding et al. 2020,
    arXiv:2006.06455, eq. 2). In training some edges are missing from each draw, so that listeners get used to silence.
    """

    adjacency_SR: Tensor

    def __init__(self, n_agents: int) -> None:
        super().__init__()
        self.n_agents = n_agents
        self.register_buffer("adjacency_SR", full(n_agents).sample(torch.Generator()))

    def keep(self, edges: tuple[Edge, ...]) -> None:
        """Only these edges stay open."""
        self.adjacency_SR.copy_(adjacency_of(edges, self.n_agents))

    def sample(self, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """The graph as it stands, without a few edges that are drawn anew each time; at temperature 0 all of it."""
        if temperature == 0:
            return self.adjacency_SR.clone()
        return self.adjacency_SR * (torch.rand(self.adjacency_SR.shape, generator=generator) >= MISSING)

    def edges(self) -> tuple[Edge, ...]:
        """The graph as it stands."""
        return edges_of(self.adjacency_SR)


TOPOLOGIES = {
    "none": "nobody talks",
    "full": "everybody to everybody",
    "ring": "agent i to agent i + 1, the last one to the first",
    "chain": "agent i to agent i + 1, the last one to nobody",
    "commformer": "learned static graph, k senders per receiver (arXiv:2405.08550)",
    "pruned": "full at first, then only the edges that listeners act upon (after arXiv:2006.06455)",
    "dynamic": "pruned, and each edge open only in the steps in which its sender expects it to be worth its bits",
    "topk": "in each step the k agents with the largest signals speak, the density's share (arXiv:1902.01554)",
    "random": "drawn once: each receiver hears k senders, the density's share",
    "grid": "agents on a square grid, each hears those beside, above and below it",
    "knn": "agents on a square grid, each hears its k nearest, the density's share",
}


def make_topology(
    name: str, n_agents: int, density: float = 0.4, seed: int = 0
) -> FixedTopology | CommFormerTopology | PrunedTopology:
    """A built-in topology by name; `seed` is that of a graph that is drawn (`random`)."""
    if name == "commformer":
        return CommFormerTopology(n_agents, density) if n_agents > 1 else none(n_agents)
    if name in PRUNABLE:
        return PrunedTopology(n_agents)
    if name == "random":
        return random(n_agents, senders_kept(n_agents, density), torch.Generator().manual_seed(seed))
    if name == "knn":
        return knn(n_agents, senders_kept(n_agents, density))
    makers = {"none": none, "full": full, "topk": full, "ring": ring, "chain": chain, "grid": grid}
    if name not in makers:
        raise ConfigError(f"no topology is called {name!r}; there are {', '.join(TOPOLOGIES)}")
    return makers[name](n_agents)
