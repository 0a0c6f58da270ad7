"""Agents that remember: what each of them saw fades slowly instead of being gone in the next step.

A memory without parameters, like the afterglow on a screen: beside each number that an agent sees stands its trace, the
number itself while it is seen, and less and less of it afterwards. So the policy reads what was seen and roughly how long
ago, and still trains on steps in any order: no unrolling through time. (After memory traces: Eberhard, Muehlebach & Vernade
2025, arXiv:2503.15200; theirs are averages, a trace of ours is a fading maximum.) Not for what was *heard*:
listeners keep each sender's last message anyway, and may keep echoes (`commlib.agents.policy.Policy.echo`).

Shapes: B worlds, N agents, O observation width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from commlib.world import World, WorldSpec, WorldStep, expert_of, for_evaluation

LEFT = 0.1
"""What is left at the end of the longest episode of something seen in its first step."""


def fade(n_steps: int) -> float:
    """What is left of a memory after a step, where an episode has at most so many."""
    return float(LEFT ** (1 / max(1, n_steps - 1)))


class Remembering:
    """A world as agents with traces see it: observations [B, N, 2 O], what is seen and then its trace.

    The trace of a number x is x itself where |x| is at least |faded trace|, else the faded trace.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._fade = fade(world.spec.n_steps)
        self._trace = torch.zeros(0)

    @property
    def spec(self) -> WorldSpec:
        """The world's, with twice the observation."""
        spec = self._world.spec
        return replace(spec, observation_width=2 * spec.observation_width)

    def reset(self, n_worlds: int, generator: torch.Generator) -> WorldStep:
        """Start fresh episodes; nothing is remembered."""
        step = self._world.reset(n_worlds, generator)
        self._trace = step.observation
        return self._with_trace(step)

    def step(self, action: Tensor) -> WorldStep:
        """Play one joint action, int64 [B, N]; older memories fade."""
        step = self._world.step(action)
        faded = self._fade * self._trace
        self._trace = torch.where(step.observation.abs() >= faded.abs(), step.observation, faded)
        return self._with_trace(step)

    def _with_trace(self, step: WorldStep) -> WorldStep:
        return step._replace(observation=torch.cat([step.observation, self._trace], -1))

    def success(self) -> Tensor:
        """As the world says."""
        return self._world.success()

    def set_progress(self, progress: float) -> None:
        """Passed on."""
        self._world.set_progress(progress)

    def held_out(self) -> World:
        """The world in which a team is judged, remembered alike."""
        return Remembering(for_evaluation(self._world))

    def expert(self) -> Tensor:
        """As the world says."""
        return expert_of(self._world)

    def close(self) -> None:
        """Passed on."""
        self._world.close()
