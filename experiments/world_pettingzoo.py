"""The two bridges between PettingZoo's parallel environments and ours.

Think of an interpreter who works both ways, and who stops the meeting when somebody breaks the house rules:
`PettingZooWorld` runs B copies of any `ParallelEnv` as one of our worlds and checks what each returns;
`as_parallel_env` shows one pitch of one of our worlds as a `ParallelEnv`. Not fast: the loop over copies is Python's,
and a step costs what the environment's step costs, times B.

Shapes: B worlds, N agents, O observation width.
"""

import copy
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from pettingzoo import ParallelEnv
from torch import Tensor

from commlib.errors import WorldError
from commlib.experiments.world_guide import check_action
from commlib.world import World, WorldSpec, WorldStep

Env: TypeAlias = ParallelEnv[Any, Any, Any]

N_STEPS_UNKNOWN = 200
"""Where we cut an episode off when the environment does not say how long it lasts."""


class PettingZooWorld:
    """B copies of one PettingZoo environment, stepped one after the other.

        world = PettingZooWorld(lambda: simple_spread_v3.parallel_env(N=5))

    The agents are `possible_agents`, in that order. Observations (Box, Discrete, MultiBinary, MultiDiscrete, Dict,
    Tuple) are flattened to float32 by `gymnasium.spaces.flatten` and padded with zeros; an agent that is not in
    `agents` is inactive and, unless the environment returns a last observation for it, sees zeros. Action masks are
    shown, not enforced. Each copy is seeded at each reset by an integer drawn from the generator.

    Args:
        factory: makes one environment; called once here, for the facts, and then once per further copy.
        n_steps: where to cut episodes off; by default the environment's own `max_cycles` (or `max_steps`), else 200.
        name: the name in reports; by default the environment's own.

    Raises:
        WorldError: here, in `reset` or in `step`: the environment breaks PettingZoo's contract, or ours.
    """

    def __init__(self, factory: Callable[[], Env], *, n_steps: int | None = None, name: str = "") -> None:
        self._factory = factory
        env = factory()
        self._envs = [env]
        self._name = name or str(env)
        self._agents: list[Any] = list(getattr(env, "possible_agents", None) or [])
        if not self._agents:
            raise WorldError(
                f"{self._name} names no possible_agents, and commlib needs a fixed set of agents; "
                "set possible_agents in the environment's __init__"
            )
        self._spaces = [env.observation_space(agent) for agent in self._agents]
        self._widths = [self._width(agent, space) for agent, space in zip(self._agents, self._spaces, strict=True)]
        actions = [self._actions(agent, env.action_space(agent)) for agent in self._agents]
        self._first_action = [int(space.start) for space in actions]
        self._spec = WorldSpec(
            name=self._name,
            n_agents=len(self._agents),
            observation_width=max(self._widths),
            action_counts=tuple(int(space.n) for space in actions),
            n_steps=n_steps or _episode_limit(env),
            source=type(env.unwrapped).__module__,
            is_batched=False,
        )
        self._clock = 0
        self._observation = np.zeros((0, len(self._agents), max(self._widths)), dtype=np.float32)
        self._is_active = np.zeros((0, len(self._agents)), dtype=bool)
        self._device = torch.device("cpu")

    @property
    def spec(self) -> WorldSpec:
        """The fixed facts of this world."""
        return self._spec

    def reset(self, n_worlds: int, generator: torch.Generator) -> WorldStep:
        """Reset the first `n_worlds` copies, each with a seed of its own, and make those that are missing."""
        while len(self._envs) < n_worlds:
            self._envs.append(self._factory())
        self._device = generator.device
        seeds = torch.randint(2**31 - 1, (n_worlds,), generator=generator, device=self._device).tolist()
        self._clock = 0
        self._observation = np.zeros((n_worlds, *self._observation.shape[1:]), dtype=np.float32)
        self._is_active = np.zeros((n_worlds, len(self._agents)), dtype=bool)
        for b, (env, seed) in enumerate(zip(self._envs, seeds, strict=False)):
            result = self._guarded(b, partial(env.reset, seed=seed))
            observations, _ = self._dicts(b, "reset", result, ("observations", "infos"))
            self._look(b, env, observations)
            if not self._is_active[b].any():
                raise self._broken(b, "no agents are there after reset; fill `agents` in reset")
        return self._out(np.zeros((n_worlds, len(self._agents)), dtype=np.float32))

    def step(self, action: Tensor) -> WorldStep:
        """Step every copy whose episode still runs."""
        check_action(action, self._spec, len(self._is_active))
        reward = np.zeros(self._is_active.shape, dtype=np.float32)
        if self._clock < self._spec.n_steps:
            self._clock += 1
            for b, row in enumerate(action.tolist()):
                if self._is_active[b].any():
                    self._step_one(b, row, reward[b])
        return self._out(reward)

    def success(self) -> Tensor:
        """Return zeros, float32 [B]: PettingZoo knows no success, and `spec.success` is empty."""
        return torch.zeros(len(self._is_active), device=self._device)

    def set_progress(self, progress: float) -> None:
        """Nothing to do: a curriculum is not part of PettingZoo's contract."""

    def close(self) -> None:
        """Close all copies."""
        while self._envs:
            self._envs.pop().close()

    def _step_one(self, b: int, row: list[int], reward: NDArray[np.float32]) -> None:
        """Step copy `b`, write its rewards [N], and check what it returned."""
        env = self._envs[b]
        acted = [i for i in range(len(self._agents)) if self._is_active[b, i]]
        joint = {}
        for i in acted:
            if row[i] >= self._spec.action_counts[i]:
                raise self._broken(b, f"action {row[i]} was chosen of {self._spec.action_counts[i]}", self._agents[i])
            joint[self._agents[i]] = row[i] + self._first_action[i]
        result = self._guarded(b, partial(env.step, joint))
        kinds = ("observations", "rewards", "terminations", "truncations", "infos")
        observations, rewards, terminations, truncations, _ = self._dicts(b, "step", result, kinds)
        self._look(b, env, observations)
        for i in acted:
            agent = self._agents[i]
            for kind, values in (("reward", rewards), ("termination", terminations), ("truncation", truncations)):
                if agent not in values:
                    raise self._broken(b, f"it acted but got no {kind}; return one for each agent that acted", agent)
            reward[i] = rewards[agent]
            if not np.isfinite(reward[i]):
                raise self._broken(b, f"its reward is {rewards[agent]}; return finite rewards", agent)
            has_ended = bool(terminations[agent] or truncations[agent])
            if has_ended and self._is_active[b, i]:
                raise self._broken(
                    b, "it has ended but is still in `agents`; take it out, so that `agents` ends empty", agent
                )
            if not has_ended and not self._is_active[b, i]:
                raise self._broken(b, "it left `agents` without a termination or truncation; set one of them", agent)

    def _look(self, b: int, env: Env, observations: dict[Any, Any]) -> None:
        """Take over the observations of copy `b` and who is in play."""
        strangers = [agent for agent in env.agents if agent not in self._agents]
        if strangers:
            raise self._broken(b, f"agents {strangers} are not in possible_agents; list them there")
        for i, agent in enumerate(self._agents):
            self._is_active[b, i] = agent in env.agents
            self._observation[b, i] = 0.0
            if agent in observations:
                self._observation[b, i, : self._widths[i]] = self._flat(b, i, observations[agent])
            elif self._is_active[b, i]:
                raise self._broken(b, "it is in `agents` but got no observation; return one for each live agent", agent)

    def _flat(self, b: int, i: int, observation: object) -> NDArray[np.float32]:
        space, agent = self._spaces[i], self._agents[i]
        try:
            shape = np.asarray(observation).shape if isinstance(space, spaces.Box) else space.shape
            flat = np.asarray(spaces.flatten(space, observation), dtype=np.float32)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise self._broken(b, f"its observation does not fit its space {space} ({error!r})", agent) from error
        if shape != space.shape or flat.shape != (self._widths[i],):
            raise self._broken(b, f"its observation has shape {shape}, its space is {space}; make them agree", agent)
        if not np.isfinite(flat).all():
            raise self._broken(b, "its observation has NaN or infinite entries; return finite ones", agent)
        return flat

    def _width(self, agent: object, space: spaces.Space[Any]) -> int:
        try:
            return int(spaces.flatdim(space))
        except (NotImplementedError, ValueError) as error:
            raise WorldError(
                f"{self._name}: agent {agent!r} has the observation space {space}, which has no fixed width; "
                "use Box, Discrete, MultiBinary, MultiDiscrete, or a Dict or Tuple of them"
            ) from error

    def _actions(self, agent: object, space: spaces.Space[Any]) -> "spaces.Discrete[Any]":
        if isinstance(space, spaces.Discrete):
            return space
        raise WorldError(
            f"{self._name}: agent {agent!r} has the action space {space}, and commlib's agents choose among numbered "
            "actions; use Discrete, or wrap the environment"
        )

    def _guarded(self, b: int, call: Callable[[], object]) -> object:
        """Run the environment's own code; what it raises is told with the place where it happened."""
        try:
            return call()
        except Exception as error:
            raise self._broken(b, f"the environment raised {error!r}") from error

    def _dicts(self, b: int, method: str, result: object, names: Collection[str]) -> tuple[dict[Any, Any], ...]:
        is_right = isinstance(result, tuple) and len(result) == len(names) and all(isinstance(d, dict) for d in result)
        if not is_right:
            raise self._broken(b, f"{method} must return the {len(names)} dicts ({', '.join(names)})")
        return result  # type: ignore[return-value]

    def _broken(self, b: int, what: str, agent: object = None) -> WorldError:
        who = "" if agent is None else f", agent {agent!r}"
        return WorldError(f"{self._name}, copy {b}, step {self._clock}{who}: {what}")

    def _out(self, reward: NDArray[np.float32]) -> WorldStep:
        if self._clock == self._spec.n_steps:
            self._is_active[:] = False
        return WorldStep(
            torch.tensor(self._observation, device=self._device),
            torch.tensor(reward, device=self._device),
            torch.tensor(~self._is_active.any(axis=1), device=self._device),
            torch.tensor(self._is_active, device=self._device),
        )


def _episode_limit(env: Env) -> int:
    """Return the environment's own step limit, where it has one: PettingZoo fixes no name for it."""
    for holder in (env.unwrapped, getattr(env.unwrapped, "env", None)):
        for attribute in ("max_cycles", "max_steps"):
            limit = getattr(holder, attribute, None)
            if isinstance(limit, int) and limit > 0:
                return limit
    return N_STEPS_UNKNOWN


class CopiesOf:
    """A factory that hands out deep copies of a live environment, which itself stays untouched.

    An environment that cannot be copied (an open window, a socket) is handed out itself, once.
    """

    def __init__(self, env: Env) -> None:
        self._env = env
        self._is_out = False

    def __call__(self) -> Env:
        """Return the next copy.

        Raises:
            WorldError: it cannot be copied, and it is out already.
        """
        try:
            return copy.deepcopy(self._env)
        except Exception as error:  # deepcopy runs the environment's own code, which may raise anything
            if self._is_out:
                raise WorldError(
                    f"{self._env} cannot be copied ({error!r}), so it runs as one world only; "
                    "give a function that makes one instead of the live environment, or ask for 1 world"
                ) from error
            self._is_out = True
            return self._env


def as_parallel_env(world: World) -> Env:
    """Show one pitch of `world` as a PettingZoo `ParallelEnv` with agents "agent_0", "agent_1", and so on.

    Actions are Discrete, observations Box. All agents stay until the episode is over: truncated when it lasted
    `n_steps`, else terminated. An agent whose action changes nothing (arrived, absent) has `infos[agent]["active"]`
    False; `infos[agent]["success"]` is the world's.
    """
    return _Pitch(world)


class _Pitch(ParallelEnv[str, NDArray[np.float32], int]):  # type: ignore[misc]
    """One world of a batch of one, in PettingZoo's words."""

    render_mode = None

    def __init__(self, world: World) -> None:
        self._world = world
        spec = world.spec
        self.metadata = {"name": spec.name, "render_modes": [], "is_parallelizable": True}
        self.possible_agents = [f"agent_{i}" for i in range(spec.n_agents)]
        self.agents: list[str] = []
        box = (-np.inf, np.inf, (spec.observation_width,), np.float32)
        self.observation_spaces = {agent: spaces.Box(*box) for agent in self.possible_agents}
        self.action_spaces = {
            agent: spaces.Discrete(count) for agent, count in zip(self.possible_agents, spec.action_counts, strict=True)
        }
        self._generator = torch.Generator()
        self._generator.seed()
        self._clock = 0
        self.max_cycles = spec.n_steps

    def observation_space(self, agent: str) -> spaces.Box:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> "spaces.Discrete[Any]":
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, dict[str, Any]]]:
        """Start an episode; without a seed the random numbers go on where they were."""
        if seed is not None:
            self._generator.manual_seed(seed)
        self.agents = self.possible_agents[:]
        self._clock = 0
        start = self._world.reset(1, self._generator)
        return self._observations(start), self._infos(start)

    def step(
        self, actions: dict[str, int]
    ) -> tuple[
        dict[str, NDArray[np.float32]], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]
    ]:
        """Play one joint action.

        Raises:
            WorldError: the episode is over, or an agent has no action.
        """
        if not self.agents:
            raise WorldError(f"{self._world.spec.name}: the episode is over; call reset() before step()")
        missing = [agent for agent in self.agents if agent not in actions]
        if missing:
            raise WorldError(
                f"{self._world.spec.name}: no action for {', '.join(missing)}; give one for each live agent"
            )
        self._clock += 1
        out = self._world.step(torch.tensor([[int(actions[agent]) for agent in self.possible_agents]]))
        is_over = bool(out.done[0])
        is_cut = is_over and self._clock == self._world.spec.n_steps
        rewards = dict(zip(self.agents, out.reward[0].tolist(), strict=True))
        terminations = dict.fromkeys(self.agents, is_over and not is_cut)
        truncations = dict.fromkeys(self.agents, is_cut)
        observations, infos = self._observations(out), self._infos(out)
        if is_over:
            self.agents = []
        return observations, rewards, terminations, truncations, infos

    def render(self) -> None:
        """Draw nothing."""

    def close(self) -> None:
        self._world.close()

    def _observations(self, out: WorldStep) -> dict[str, NDArray[np.float32]]:
        rows = out.observation[0].cpu().numpy()
        return {agent: rows[i].copy() for i, agent in enumerate(self.possible_agents)}

    def _infos(self, out: WorldStep) -> dict[str, dict[str, Any]]:
        success = float(self._world.success()[0])
        return {
            agent: {"active": bool(out.active[0, i]), "success": success}
            for i, agent in enumerate(self.possible_agents)
        }
