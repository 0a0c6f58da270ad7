"""Which edges are worth keeping: cut those that are acted upon least, let the team get used to it, look again.

A gardener's rule: cut what bears least, wait, and stop before the harvest falls. Each edge is valued by how far its
listener's actions move when it falls silent (`Learner.influence`). The least valued go, a lot at a time; the team trains
on with what is left, because listeners who never met silence are thrown by it; and the fewest edges that keep success
(or return) within twice the margin of the best stay.

Shapes: T steps, B worlds, N agents, L live samples.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from commlib.agents.learner import Phase
from commlib.agents.training import Learning, Rollout, Team, collect
from commlib.message import Edge
from commlib.world import World

KEPT = 0.75
"""The share of the edges that a cut leaves."""
N_ROLLOUTS, SLACK = 2, 2
"""Rollouts that a graph is judged by, and how many margins it may fall behind: so few episodes tell no less."""


class Judged(NamedTuple):
    """Success (0..1; None where the world defines none) and return of a team on its graph, and a rollout of it."""

    success: float | None
    return_: float
    rollout: Rollout


def judge(team: Team, world: World, phase: Phase, learning: Learning, seed: int) -> Judged:
    """How the team does with the graph as it stands, always on the same episodes for a seed."""
    dice = torch.Generator().manual_seed(seed)
    rollouts = [collect(team, world, phase, learning, dice) for _ in range(N_ROLLOUTS)]
    success = float(torch.cat([r.success.float() for r in rollouts]).mean()) if world.spec.success else None
    return Judged(success, float(torch.cat([r.reward.sum(0).mean(-1) for r in rollouts]).mean()), rollouts[-1])


def cut(team: Team, phase: Phase, rollout: Rollout, edges: tuple[Edge, ...]) -> tuple[Edge, ...]:
    """The share `KEPT` of the edges whose silence would change most; set on every host."""
    alive = rollout.alive
    moved_RS = torch.cat(
        team.each(
            "learner.influence",
            phase,
            team.split(rollout.observation[alive], 1),
            rollout.elapsed.expand(alive.shape)[alive],
            tuple(team.heard(z[alive], age[alive]) for z, age in zip(rollout.z, rollout.age, strict=True)),
            team.split(rollout.active[alive], 1),
        )
    )
    ranked = sorted(edges, key=lambda edge: -float(moved_RS[edge.receiver, edge.sender]))
    kept = tuple(sorted(ranked[: min(len(edges) - 1, int(KEPT * len(edges)))]))
    team.each("learner.keep_edges", kept)
    return kept
