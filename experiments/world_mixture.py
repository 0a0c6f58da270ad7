"""Several worlds side by side, for one team that has to do well in all of them.

A training ground with several courses: a batch is cut into equal blocks, each block plays one of the worlds, and the team is
told on which it is. Not a curriculum, which makes one world harder by and by; which world counts how much in learning is
decided elsewhere (`commlib.agents.balance`).

Shapes: B worlds in all, N agents, K parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import pad

from commlib.errors import ConfigError
from commlib.world import World, WorldSpec, WorldStep, expert_of, for_evaluation, part_of


class Mixture:
    """K worlds of as many agents and the same actions; of B copies each part gets B / K, the first ones one more.

    Observation: that of the part, padded with zeros to the widest, and the part one-hot. Success, reward and length of an
    episode are the part's own.

    Raises:
        ConfigError: the worlds differ in agents or actions, only some of them define success, or one is there twice.
    """

    def __init__(self, worlds: Sequence[World]) -> None:
        self._worlds = list(worlds)
        specs = [world.spec for world in worlds]
        first, names = specs[0], [spec.name for spec in specs]
        if len(set(names)) < len(names):
            raise ConfigError(f"{' + '.join(names)} has a world twice; name each once")
        for spec in specs[1:]:
            if spec.action_counts != first.action_counts:
                raise ConfigError(
                    f"{first.name} has {_crew(first)} and {spec.name} has {_crew(spec)}: one team cannot play in both; mix "
                    f"worlds with the same agents and actions"
                )
            if bool(spec.success) != bool(first.success):
                one, other = (first, spec) if first.success else (spec, first)
                raise ConfigError(f"{one.name} defines success and {other.name} does not; mix worlds of one kind")
        self._width = max(spec.observation_width for spec in specs)
        self._spec = WorldSpec(
            name="+".join(spec.name for spec in specs),
            n_agents=first.n_agents,
            observation_width=self._width + len(specs),
            action_counts=first.action_counts,
            n_steps=max(spec.n_steps for spec in specs),
            success=_each(specs, "success"),
            must_say=_each(specs, "must_say"),
            source=_each(specs, "source"),
            is_batched=all(spec.is_batched for spec in specs),
            has_expert=all(spec.has_expert for spec in specs),
            parts=tuple(spec.name for spec in specs),
        )
        self._sizes: list[int] = []

    @property
    def spec(self) -> WorldSpec:
        """The fixed facts of this world."""
        return self._spec

    def reset(self, n_worlds: int, generator: torch.Generator) -> WorldStep:
        """Start `n_worlds` fresh episodes in equal blocks; where there are fewer than parts, the last parts get none."""
        n_parts = len(self._worlds)
        self._sizes = part_of(n_worlds, n_parts).bincount(minlength=n_parts).tolist()
        return self._side_by_side([world.reset(size, generator) for world, size in self._played()])

    def step(self, action: Tensor) -> WorldStep:
        """Play one joint action in every block."""
        cuts = list(accumulate(size for _, size in self._played()))[:-1]
        blocks = action.tensor_split(cuts)
        return self._side_by_side([world.step(block) for (world, _), block in zip(self._played(), blocks, strict=True)])

    def success(self) -> Tensor:
        """How far each world's episode has succeeded, as its part sees it, float32 [B]."""
        return torch.cat([world.success().float() for world, _ in self._played()])

    def set_progress(self, progress: float) -> None:
        """Tell every part how far training is."""
        for world in self._worlds:
            world.set_progress(progress)

    def held_out(self) -> Mixture:
        """The worlds in which a trained team is judged."""
        return Mixture([for_evaluation(world) for world in self._worlds])

    def expert(self) -> Tensor:
        """What the experts of all parts would have agents do."""
        return torch.cat([expert_of(world) for world, _ in self._played()])

    def close(self) -> None:
        """Close every part."""
        for world in self._worlds:
            world.close()

    def _played(self) -> list[tuple[World, int]]:
        return [(world, size) for world, size in zip(self._worlds, self._sizes, strict=True) if size]

    def _side_by_side(self, steps: list[WorldStep]) -> WorldStep:
        label = torch.eye(len(self._worlds))
        shown = []
        for nth, step in enumerate(steps):
            B, N, width = step.observation.shape
            shown.append(torch.cat([pad(step.observation, (0, self._width - width)), label[nth].expand(B, N, -1)], -1))
        rest = [torch.cat(column) for column in list(zip(*steps, strict=True))[1:]]
        return WorldStep(torch.cat(shown), *rest)


def _crew(spec: WorldSpec) -> str:
    counts = sorted(set(spec.action_counts))
    return f"{spec.n_agents} agents with {' or '.join(map(str, counts))} actions"


def _each(specs: Sequence[WorldSpec], field: str) -> str:
    """What the parts say of themselves, once where all say the same."""
    return "; ".join(dict.fromkeys(getattr(spec, field) for spec in specs if getattr(spec, field)))
