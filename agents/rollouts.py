"""Where a learner's rollouts come from: from the hosts of its agents, or from hosts that each play a share of the worlds.

Two ways to spread training over hosts. In a *relay* each host has some of the agents, in all worlds, and messages travel:
right for many agents, or for agents that must stay where they are. With *shards* each host has all agents, and worlds of
its own: right where the world is what takes time. The learner stays with the driver then, and hosts follow its weights.

Shards are like exam rooms: a batch is so many papers, each with a seed of its own; whoever is free takes the next, and it does
not matter who, so any number of hosts gives the same batch. While all wait for the slowest, the batch is the learner's own
(`staleness` 0). Else hosts go on with the weights that they have, and what comes back was played some updates ago; how many
is counted, and PPO corrects for it (`commlib.agents.training.reconsidered`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from commlib.agents.learner import Learner, Phase
from commlib.agents.runtime import Errand, LocalRuntime, Runtime
from commlib.agents.training import Learning, Rollout, Team, collect
from commlib.errors import CommlibError, WorldError
from commlib.plan import make_plan
from commlib.world import World

AHEAD = 2
"""Errands of a host that is not waited for: one under way, and one so that it need not wait. Else it has one, so that what is
left of a batch goes to whoever is free."""


class Rollouts(Protocol):
    """Where rollouts come from."""

    def gather(self, phase: Phase, progress: float, *, is_record: bool = False) -> Rollout:
        """The next batch of whole episodes, at this progress (0..1) of a curriculum.

        An update follows, unless `is_record`: then it is by the learner as it is now, over no channel, to be looked at.
        """
        ...

    def close(self) -> None:
        """Wait for what is under way: nobody needs it any more. A second call does nothing."""
        ...


class Relay:
    """Rollouts of agents on their hosts, in the driver's worlds."""

    def __init__(self, team: Team, world: World, learning: Learning, generator: torch.Generator) -> None:
        self._team, self._world, self._learning, self._generator = team, world, learning, generator

    def gather(self, phase: Phase, progress: float, *, is_record: bool = False) -> Rollout:
        """Play all worlds side by side."""
        self._world.set_progress(progress)
        learning = replace(self._learning, channel=None) if is_record else self._learning
        return collect(self._team, self._world, phase, learning, self._generator)

    def close(self) -> None:
        """Nothing is under way."""


class Player:
    """A whole team and worlds of its own, on one host."""

    def __init__(self, team: Team, world: World, learning: Learning) -> None:
        self._team, self._world, self._learning = team, world, learning

    def play(
        self, replica: dict[str, Tensor], phase: Phase, progress: float, n_worlds: int, seed: int, is_record: bool
    ) -> Rollout:
        """A batch of episodes of the team as this replica has it; it follows from the arguments alone."""
        self._team.each("learner.follow", replica)
        self._world.set_progress(progress)
        channel = None if is_record else self._learning.channel
        learning = replace(self._learning, n_worlds=n_worlds, channel=channel)
        return collect(self._team, self._world, phase, learning, torch.Generator().manual_seed(seed))

    def close(self) -> None:
        """Close the worlds."""
        self._world.close()


def nobody() -> None:
    """An empty room."""


class _Kind(NamedTuple):
    """What a part must be like to be of use."""

    phase: Phase
    is_record: bool


@dataclass
class _Shard:
    """A part of a batch that a host plays: its number, the learner's version, and what it is of use for."""

    number: int
    version: int
    kind: _Kind
    errand: Errand


class Shards:
    """Rollouts of hosts that share out the worlds; `build(*arguments)` makes the `Player` of each.

    Args:
        runtime: the hosts.
        team: the learner, with the driver.
        learning: how it learns.
        n_shards: into how many parts a batch is cut, whatever the number of hosts.
        staleness: by how many updates the policy that played may be behind; 0: hosts wait for the learner.
        generator: of the seeds.
        build: makes a player.
        arguments: of it.

    Attributes:
        n_begun: parts that hosts were asked to play.
        n_discarded: parts that were too old when they came back, or of another stage, and were thrown away.
    """

    def __init__(
        self,
        runtime: Runtime,
        team: Team,
        learning: Learning,
        n_shards: int,
        staleness: int,
        generator: torch.Generator,
        build: Any,  # noqa: ANN401 (any picklable recipe)
        *arguments: object,
    ) -> None:
        self._runtime, self._team, self._staleness, self._generator = runtime, team, staleness, generator
        n_shards = min(n_shards, learning.n_worlds)
        even, more = divmod(learning.n_worlds, n_shards)
        self._sizes = [even + (nth < more) for nth in range(n_shards)]
        self._version, self.n_begun, self.n_discarded = 0, 0, 0
        self._is_closed = False
        self._out: list[_Shard] = []
        self._back: list[_Shard] = []
        runtime.each("set_player", [(build, *arguments)] * runtime.n_hosts)

    def gather(self, phase: Phase, progress: float, *, is_record: bool = False) -> Rollout:
        """Play what is missing of a batch; without staleness, all of it by the learner as it is now."""
        kind, n_shards = _Kind(_lasting(phase), is_record), len(self._sizes)
        n_ahead = 0 if is_record else n_shards * self._staleness
        replica: dict[str, Tensor] = self._team.each("learner.replica")[0]

        def keep_busy(n_most: int) -> None:
            while len(self._out) + len(self._back) < n_most and (host := self._free_host()) is not None:
                self._begin(host, replica, phase, progress, kind)

        self._drop_old(kind)
        while len(self._back) < n_shards:
            keep_busy(n_shards + n_ahead)
            self._take_back()
            self._drop_old(kind)
        self._back.sort(key=lambda shard: shard.number)
        batch, self._back = self._back[:n_shards], self._back[n_shards:]
        keep_busy(n_ahead)
        parts = [
            shard.errand.answer._replace(
                behind=torch.full_like(shard.errand.answer.behind, self._version - shard.version)
            )
            for shard in batch
        ]
        self._version += not is_record
        return joined(parts)

    def close(self) -> None:
        """Wait for the hosts to come back, and have them close their worlds."""
        while self._out:
            self._take_back()
        self._back.clear()
        if not self._is_closed:
            self._runtime.each("player.close", [()] * self._runtime.n_hosts)
            self._runtime.each("set_player", [(nobody,)] * self._runtime.n_hosts)
        self._is_closed = True

    def _free_host(self) -> int | None:
        """The host with the least to do, unless it has enough."""
        loads = [sum(shard.errand.host == host for shard in self._out) for host in range(self._runtime.n_hosts)]
        host = min(range(len(loads)), key=loads.__getitem__)
        return host if loads[host] < (AHEAD if self._staleness else 1) else None

    def _begin(self, host: int, replica: dict[str, Tensor], phase: Phase, progress: float, kind: _Kind) -> None:
        seed = int(torch.randint(2**62, (1,), generator=self._generator))
        n_worlds = self._sizes[self.n_begun % len(self._sizes)]
        errand = Errand(host, "player.play", (replica, phase, progress, n_worlds, seed, kind.is_record))
        self._out.append(_Shard(self.n_begun, self._version, kind, errand))
        self.n_begun += 1
        self._runtime.begin(errand)

    def _take_back(self) -> None:
        """Wait for a part."""
        errand = self._runtime.first([shard.errand for shard in self._out])
        shard = next(shard for shard in self._out if shard.errand is errand)
        self._out.remove(shard)
        self._back.append(shard)

    def _drop_old(self, kind: _Kind) -> None:
        """Throw away what came back too late."""
        good = [s for s in self._back if s.kind == kind and self._version - s.version <= self._staleness]
        self.n_discarded += len(self._back) - len(good)
        self._back = good


def _lasting(phase: Phase) -> Phase:
    """The phase without what only updates read, and what changes by and by."""
    fixed = replace(phase.objective, bit_price=0.0)
    return phase._replace(
        learning_rate=0.0, edge_learning_rate=0.0, entropy_weight=0.0, floor=0.0, imitation=0.0, objective=fixed
    )


def joined(parts: list[Rollout]) -> Rollout:
    """Parts of a batch side by side; those that were over sooner are padded with worlds that are over."""
    n_steps = max(len(part.alive) for part in parts)

    def long(tensor: Tensor) -> Tensor:
        return pad(tensor, (0, 0) * (tensor.dim() - 1) + (0, n_steps - len(tensor)))

    def side_by_side(column: tuple[Any, ...]) -> Any:  # noqa: ANN401 (a tensor, or a tuple of them)
        if isinstance(column[0], tuple):
            return tuple(side_by_side(inner) for inner in zip(*column, strict=True))
        return torch.cat([long(tensor) for tensor in column], 1)

    by_step: dict[str, Any] = {
        name: side_by_side(tuple(getattr(part, name) for part in parts))
        for name in Rollout._fields
        if name not in ("success", "behind", "part", "delay")
    }
    by_world: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts]) for name in ("success", "behind", "part")
    }
    return Rollout(**by_step, **by_world, delay=parts[0].delay)


def make_player(
    make_world: Callable[[], World],
    build_learner: Callable[[], Learner],
    widths: Sequence[int],
    n_positions: Sequence[int],
    has_ages: bool,
    learning: Learning,
) -> Player:
    """A player on this host; `make_world()` and `build_learner()` run here, so that neither worlds nor modules travel."""
    try:
        world, alone = make_world(), LocalRuntime(1)
    except CommlibError as error:
        raise WorldError(
            f"a host cannot make the world: {error}; bring its module to all nodes (PYTHONPATH, or ray job submit "
            f"--working-dir), or take --spread agents"
        ) from error
    plan = make_plan((), (0,) * world.spec.n_agents, "broadcast")
    team = Team(alone, plan, widths, n_positions, has_ages=has_ages)
    team.each("set_learner", build_learner)
    return Player(team, world, learning)
