"""What a world is: B copies of one multi-agent episode, stepped together as torch tensors.

Think of a stadium with B identical pitches and one whistle: every pitch starts at the same moment, runs for at most
`n_steps`, and a pitch whose game is over waits, paying no reward, until the last one ends. Not a PettingZoo
environment, which is one pitch; `commlib.experiments.world_pettingzoo` turns either into the other.

Shapes: B worlds, N agents, O observation width.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from commlib.errors import WorldError


@dataclass(frozen=True)
class WorldSpec:
    """What an agent, a learner and a report need to know of a world before it starts.

    Attributes:
        name: the name on the command line, with its version where there is one.
        n_agents: number of agents N; agent ids are 0..N-1.
        observation_width: O, floats per agent; shorter observations are padded with zeros.
        action_counts: number of discrete actions of each agent, length N.
        n_steps: the longest episode, in steps.
        success: what counts as success, in words; empty when the world defines none.
        must_say: what has to be communicated, in words.
        bound_bits: least bits per agent per episode that a perfect team must send, where known.
        source: the paper or package that the settings come from.
        licence: of the source's own environment, or of its material, where known; empty where not.
        is_batched: whether many worlds step as fast as one; False for copies that step one by one.
        has_expert: whether there is somebody to learn from (`HasExpert`).
        parts: the worlds that it is made of, where a batch is cut into equal blocks of several (`part_of`).
    """

    name: str
    n_agents: int
    observation_width: int
    action_counts: tuple[int, ...]
    n_steps: int
    success: str = ""
    must_say: str = ""
    bound_bits: float | None = None
    source: str = ""
    licence: str = ""
    is_batched: bool = True
    has_expert: bool = False
    parts: tuple[str, ...] = ()

    @property
    def n_actions(self) -> int:
        """The largest action count of any agent; the width of the policy's output."""
        return max(self.action_counts)


def part_of(n_worlds: int, n_parts: int) -> Tensor:
    """Which part each of a batch's worlds belongs to, int64 [B]: blocks in order, the first ones larger by one.

    >>> part_of(5, 2).tolist()
    [0, 0, 0, 1, 1]
    """
    small, rest = divmod(n_worlds, n_parts)
    return torch.arange(n_parts).repeat_interleave(torch.tensor([small + (k < rest) for k in range(n_parts)]))


class WorldStep(NamedTuple):
    """What comes out of a reset or a step.

    Attributes:
        observation: float32 [B, N, O].
        reward: float32 [B, N]; zero after a reset and in worlds that were already over.
        done: bool [B]; the episode is over (stays true until the next reset).
        active: bool [B, N]; the agent's next action can change something. False for arrived, absent or finished agents;
            the learner leaves these out of the policy loss.
    """

    observation: Tensor
    reward: Tensor
    done: Tensor
    active: Tensor


class World(Protocol):
    """B copies of one episode, stepped together. Randomness comes only from the generator given to `reset`."""

    @property
    def spec(self) -> WorldSpec:
        """The fixed facts of this world."""
        ...

    def reset(self, n_worlds: int, generator: torch.Generator) -> WorldStep:
        """Start `n_worlds` fresh episodes. The generator is kept and drives all randomness until the next reset."""
        ...

    def step(self, action: Tensor) -> WorldStep:
        """Play one joint action, int64 [B, N]. Actions of finished worlds and inactive agents are ignored."""
        ...

    def success(self) -> Tensor:
        """How far each world's episode has succeeded, float32 [B] in 0..1; read it when all are done.

        0 or 1 where success is all or nothing; a share where `spec.success` says so.
        """
        ...

    def set_progress(self, progress: float) -> None:
        """Tell a world with a curriculum how far training is, 0..1; 1 is the full task, and the default."""
        ...

    def close(self) -> None:
        """Free what the world holds (sub-processes, windows); a second call does nothing."""
        ...


class BudgetSeen:
    """A world whose agents see what is left of the scarcest allowance: a last observation, 0..1, alike for all.

    While a team plays for real its till says what is left (`commlib.agents.play`); in training, whoever trains.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.spec = replace(world.spec, observation_width=world.spec.observation_width + 1)

    def reset(self, n_worlds: int, generator: torch.Generator) -> WorldStep:
        """Start `n_worlds` fresh episodes with a full purse."""
        return self._shown(self._world.reset(n_worlds, generator))

    def step(self, action: Tensor) -> WorldStep:
        """Play one joint action, int64 [B, N]."""
        return self._shown(self._world.step(action))

    def _shown(self, step: WorldStep) -> WorldStep:
        full = torch.ones(*step.observation.shape[:2], 1)
        return step._replace(observation=torch.cat([step.observation, full], -1))

    def success(self) -> Tensor:
        """How far each world's episode has succeeded, float32 [B]."""
        return self._world.success()

    def set_progress(self, progress: float) -> None:
        """Tell a world with a curriculum how far training is."""
        self._world.set_progress(progress)

    def held_out(self) -> World:
        """The world in which a trained team is judged; it sees its budget there, too."""
        return BudgetSeen(for_evaluation(self._world))

    def expert(self) -> Tensor:
        """What the world's expert would have agents do."""
        return expert_of(self._world)

    def close(self) -> None:
        """Free what the world holds."""
        self._world.close()


@runtime_checkable
class HoldsOut(Protocol):
    """What a world offers besides that keeps some of its material from training; no other world needs it."""

    def held_out(self) -> World:
        """A world of the same `spec` whose episodes are made of what this one never shows."""
        ...


class HasExpert(World, Protocol):
    """A world in which somebody knows what to do, and whose `spec` says so: `--learning.imitation` learns from it."""

    def expert(self) -> Tensor:
        """What an expert would have the agents do now, int64 [B, N]. It may know more than any of them is shown.

        It is asked before each step, also while some copies are over, and changes nothing in the world. Randomness comes from
        the generator given to `reset`.
        """
        ...


def expert_of(world: World) -> Tensor:
    """What the world's expert would have the agents do now, int64 [B, N].

    Raises:
        WorldError: the world has none, or what it says are no actions of these agents.
    """
    if not world.spec.has_expert:
        raise WorldError(f"{world.spec.name} has no expert to learn from")
    advice, most = cast("HasExpert", world).expert(), torch.tensor(world.spec.action_counts)
    if advice.dtype != torch.int64 or advice.ndim != 2 or advice.shape[1] != len(most):
        raise WorldError(
            f"the expert of {world.spec.name} gave {advice.dtype} of shape {tuple(advice.shape)}; it must be int64 of shape "
            f"[worlds, {len(most)}]"
        )
    if not bool(((advice >= 0) & (advice < most)).all()):
        raise WorldError(f"the expert of {world.spec.name} would have agents take actions that they do not have")
    return advice


def for_evaluation(world: World) -> World:
    """The world in which a trained team is judged: the held-out one where there is one, else the world itself."""
    return world.held_out() if isinstance(world, HoldsOut) else world
