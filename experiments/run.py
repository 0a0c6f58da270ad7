"""`commlib.run`: your own agents, our codec, graph, budget and books; and `commlib.load`: a trained team back from disk.

A user's agents were never trained with a codec. So they first play some episodes over a lossless one, the codec is fitted
to what they said, prior and price-aware encoder are calibrated on how they play through it, and then it counts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from commlib.agent import Agent, Soloists, checked_reply
from commlib.agents.play import play
from commlib.agents.runtime import LocalRuntime, Runtime
from commlib.agents.till import Books
from commlib.budget import Budget
from commlib.codecs.floats import Float32Codec
from commlib.config import RunConfig, make_config, read_yaml, replay_config
from commlib.errors import AgentError, ConfigError
from commlib.experiments.calibrate import Knowledge, calibrate
from commlib.experiments.compose import (
    check_budget_is_there,
    codec_of,
    complete,
    n_hosts,
    open_meter,
    open_runtime,
    world_of,
)
from commlib.experiments.evaluate import evaluate
from commlib.experiments.model import Model, furnish
from commlib.experiments.progress import Quiet, make_display
from commlib.experiments.train import load_model
from commlib.experiments.worlds import make_world
from commlib.journal import Journal
from commlib.ledger import Ledger
from commlib.message import Edge
from commlib.plan import make_plan
from commlib.rationing import Tariff
from commlib.records import Result, RunFolder
from commlib.topology import make_topology
from commlib.world import World, WorldSpec

FIT_EPISODES = 64


def run(
    world: Any,  # noqa: ANN401 (a name, a world, an environment or a factory)
    agent: Callable[[int], Agent],
    codec: str = "vq",
    topology: str = "full",
    budget: str | None = None,
    runtime: str = "local",
    *,
    quiet: bool = True,
    **settings: Any,  # noqa: ANN401
) -> Result:
    """Let your own agents play and talk through a codec, over charged frames, under a budget.

    Args:
        world: a name, a live world, a PettingZoo `ParallelEnv` or a factory of one.
        agent: called with an agent id; anything with ``act(observation, inbox) -> (action, message)``.
        codec: vq, int8, float32 or ``package.module:Class``.
        topology: a name from `commlib list topologies`.
        budget: shared by all agents, such as ``"64 bit/step"``; None caps nothing.
        runtime: local or ray.
        quiet: show no progress.
        settings: any other setting of `commlib.config.RunConfig`, such as ``episodes=128`` or ``seed=3``.

    Raises:
        AgentError: an agent's reply is wrong; the sentence says how.
    """
    if "method" in settings:
        raise ConfigError("a method is trained, and agents of your own are not; leave it out, or use commlib.train")
    made = make_world(world, settings.get("agents"))
    spec = made.spec
    config = make_config(
        ("run", {"episodes": 64}),
        ("run", {**settings, "world": spec.name, "method": "custom", "codec": codec, "topology": topology}),
        ("run", {"budget": budget, "runtime": runtime}),
    )
    check_budget_is_there(config)
    config = complete(config, spec)
    edges = graph_of(config, made)
    made = world_of(config, made)
    display = Quiet() if quiet else make_display()
    opened: Runtime | None = None
    try:
        width = settings.get("message_width") or probe_width(agent, made, config.seed)
        model = fit_to_agents(agent, made, config, edges, width)
        opened = open_runtime(config, n_hosts(config, spec.n_agents))
        with Journal.in_memory() as journal, closing(open_meter(config, opened)) as meter:
            return evaluate(model, config, made, opened, journal, display, meter=meter)
    finally:
        if opened is not None:
            opened.close()
        display.close()
        made.close()


def graph_of(config: RunConfig, world: World) -> tuple[Edge, ...]:
    """Who may talk to whom, as configured, for agents of somebody's own.

    Raises:
        ConfigError: a setting asks for what only agents that are trained here can do.
    """
    plain = RunConfig()
    names = ("rounds", "memory", "ids", "aggregation", "gate", "router")
    asked = [name for name in names if getattr(config, name) != getattr(plain, name)]
    asked += ["stages.priced"] * (config.stages.priced > 0) + ["the topology topk"] * (config.topology == "topk")
    if asked:
        raise ConfigError(
            f"agents of your own say one message in a step, and listen, remember and learn as they like; leave out "
            f"{', '.join(asked)}"
        )
    return make_topology(config.topology, world.spec.n_agents, config.density, config.graph_seed).edges()


def lossless_team(factory: Callable[[int], Agent], world: World, edges: tuple[Edge, ...], width: int) -> Model:
    """The user's agents over a channel that loses nothing."""
    return Model(partial(soloists, factory, world.spec, width), Float32Codec(width).freeze(), edges)


def soloists(
    factory: Callable[[int], Agent], spec: WorldSpec, width: int, agents: list[int], senders: NDArray[np.int64]
) -> Soloists:
    """The user's agents of one host as a team."""
    return Soloists(factory, agents, senders, width, [spec.action_counts[agent] for agent in agents])


def probe_width(factory: Callable[[int], Agent], world: World, seed: int) -> int:
    """How wide the agents' messages are: what they declare as `message_width`, or what they first say in an episode."""
    spec = world.spec
    try:
        agents = [factory(agent_id) for agent_id in range(spec.n_agents)]
    except TypeError as error:
        raise AgentError(
            f"the agent cannot be made from an id alone ({error}); pass a factory: lambda i: ..."
        ) from error
    for agent in agents:
        if not callable(getattr(agent, "act", None)):
            raise AgentError(f"a {type(agent).__name__} is no agent: it has no method act(observation, inbox)")
        if isinstance(declared := getattr(agent, "message_width", None), int):
            return declared
    step = world.reset(1, torch.Generator().manual_seed(seed))
    for _ in range(spec.n_steps):
        actions = []
        for i, agent in enumerate(agents):
            try:
                reply = agent.act(step.observation[0, i].numpy().copy(), {})
            except Exception as error:  # a user's code can fail in any way
                raise AgentError(f"agent {i} failed in act: {type(error).__name__}: {error}") from error
            message = reply[1] if isinstance(reply, tuple) and len(reply) == 2 else None
            size = np.asarray(message).size if message is not None else 0
            actions.append(checked_reply(reply, i, spec.action_counts[i], size)[0])
            if size:
                return size
        step = world.step(torch.tensor([actions]))
        if bool(step.done.all()):
            break
    return 1  # they say nothing: any width will do


def fit_to_agents(
    factory: Callable[[int], Agent], world: World, config: RunConfig, edges: tuple[Edge, ...], width: int
) -> Model:
    """Post-training compression: a codec fitted and calibrated to agents that never knew one."""
    generator = torch.Generator().manual_seed(config.seed + 1)
    codec = codec_of(config.model_copy(update={"message_width": width}))
    lossless = lossless_team(factory, world, edges, width)
    n_worlds = min(FIT_EPISODES, config.stages.calibrate_worlds or FIT_EPISODES)
    runtime = LocalRuntime(1)
    plan = make_plan(edges, (0,) * world.spec.n_agents, config.charging)
    furnish(runtime, plan, lossless)
    runtime.each("desk.record", [()])
    books = Books(Ledger(budget=Budget(None)))
    play(runtime, plan, world, books, n_worlds=n_worlds, tariff=Tariff(), generator=generator)
    _, codes = runtime.each("desk.recorded", [()])[0][-1]
    if len(codes):
        messages = torch.from_numpy(lossless.codec.embed(codes).copy())
        codec.fit(messages, generator)
    stages = config.stages.model_copy(update={"calibrate_worlds": n_worlds, "margin": max(config.stages.margin, 0.01)})
    model = Model(lossless.build_team, codec.freeze(), edges)
    knowledge = Knowledge(config.prior, config.ages)
    return calibrate(
        model, world, config.charging, stages, generator, rate_aware=config.rate_aware, knowledge=knowledge
    )


@dataclass(frozen=True)
class Trained:
    """A trained team from a run folder, ready to play again."""

    folder: RunFolder
    config: RunConfig
    model: Model

    @property
    def result(self) -> Result:
        """The figures of the run."""
        return self.folder.read_result()

    def evaluate(self, **settings: Any) -> Result:  # noqa: ANN401
        """Play again with other settings, such as ``budget="64 bit/step"``; nothing is written."""
        config = replay_config(self.config, ("evaluate", settings))
        world = world_of(config)
        config = complete(config, world.spec)
        model = self.model if config.agents == self.config.agents else load_model(self.folder, world)
        opened = open_runtime(config, n_hosts(config, world.spec.n_agents))
        try:
            with Journal.in_memory() as journal, closing(open_meter(config, opened)) as meter:
                return evaluate(model, config, world, opened, journal, Quiet(), meter=meter)
        finally:
            opened.close()
            world.close()


def load(path: str | Path) -> Trained:
    """A trained team back from its run folder.

    Raises:
        RunError: there is no finished run.
    """
    folder = RunFolder.existing(Path(path))
    config = make_config((str(folder.config), read_yaml(folder.config)))
    world = world_of(config)
    try:
        return Trained(folder, config, load_model(folder, world))
    finally:
        world.close()


__all__ = ["Trained", "load", "run"]
