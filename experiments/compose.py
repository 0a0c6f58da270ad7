"""From names to a configuration, and from a configuration to the things it names.

Recipes are YAML diffs beside this file: one per world (what its task needs), one per method (what is compared). They are
laid over the defaults in the order world, method, configuration file, command line.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from commlib.agents.meters import Meter, Silent, ray_exports, serve
from commlib.agents.recovery import Recovering
from commlib.agents.runtime import LocalRuntime, Runtime
from commlib.channel import Channel
from commlib.codecs.build import make_codec
from commlib.codecs.frozen import TableCodec
from commlib.config import RunConfig, make_config, read_yaml
from commlib.errors import ConfigError
from commlib.experiments.memory import Remembering
from commlib.experiments.worlds import built_in_name, make_world, without_version
from commlib.world import BudgetSeen, World, WorldSpec

_METHOD = "method-"


def _recipes() -> dict[str, dict[str, Any]]:
    folder = files("commlib.experiments.recipes")
    return {
        entry.name.removesuffix(".yaml"): yaml.safe_load(entry.read_text(encoding="utf-8"))
        for entry in sorted(folder.iterdir(), key=lambda item: item.name)
        if entry.name.endswith(".yaml")
    }


def methods() -> dict[str, str]:
    """Every method and the first line of its recipe."""
    folder = files("commlib.experiments.recipes")
    return {
        name.removeprefix(_METHOD): (folder / f"{name}.yaml")
        .read_text("utf-8")
        .splitlines()[0]
        .lstrip("# ")
        .split(": ", 1)[1]
        for name in _recipes()
        if name.startswith(_METHOD)
    }


def resolve(
    world: str, method: str | None = None, file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> RunConfig:
    """The configuration of one run.

    Raises:
        ConfigError: an unknown method, setting or value, with the layer in which it stands.
    """
    recipes = _recipes()
    from_file = read_yaml(file) if file else {}
    method = method or str(from_file.get("method", "ours"))
    if _METHOD + method not in recipes:
        known = list(methods())
        near = difflib.get_close_matches(method, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise ConfigError(f"no method is called {method!r}; {hint}")
    base = _learned_as(world, recipes)
    return make_config(
        (f"recipe {base}", recipes.get(base, {})),
        (f"recipe {_METHOD}{method}", recipes[_METHOD + method]),
        (str(file) if file else "no file", {k: v for k, v in from_file.items() if k != "method"}),
        ("command line", {**(overrides or {}), "world": world, "method": method}),
    )


def _learned_as(world: str, recipes: Mapping[str, Any]) -> str:
    """The recipe for a world: its own; of a built-in one without, that of the world whose name it extends; of a mixture, that
    of its first one.
    """
    name = without_version(world.partition("+")[0].strip())
    if name in recipes or built_in_name(name) is None:
        return name
    return max((recipe for recipe in recipes if name.startswith(f"{recipe}_")), key=len, default=name)


def complete(config: RunConfig, spec: WorldSpec, *, has_name: bool = True) -> RunConfig:
    """The configuration with what is open filled in: large sizes for batched worlds, what the steps allow for slow ones.

    Hosts share out slow worlds, if these have a name by which other processes find them; one in `__main__` has none.

    Raises:
        ConfigError: hosts are to share out worlds, and this one has no name by which they could make it; a team called none
            would talk; a mixture has too few worlds side by side.
    """
    if config.method == "none" and config.topology != "none":
        raise ConfigError(
            f"method none is a team without messages, and with topology {config.topology} it would have some; add --topology "
            f"none, or take another method; in a sweep with a topology, sweep none by itself"
        )
    if config.spread == "worlds" and not has_name:
        raise ConfigError(
            "with --spread worlds each host makes worlds of its own, so the world needs a name, such as package.module:Class"
        )
    is_shared_out = has_name and not spec.is_batched and not config.world.startswith("__main__:")
    spread = config.spread or ("worlds" if is_shared_out else "agents")
    if config.learning.staleness and spread == "agents":
        raise ConfigError(
            "learning.staleness is for hosts that share out worlds; add --spread worlds, or leave --learning.staleness out"
        )

    def episodes_in(share: int) -> int:
        return 512 if spec.is_batched else min(64, max(2, config.steps // (share * spec.n_steps)))

    learning, stages = config.learning, config.stages
    n_episodes = config.episodes or (512 if spec.is_batched else max(8, episodes_in(10)))
    completed = config.model_copy(
        update={
            "spread": spread,
            "episodes": n_episodes,
            "parallel_worlds": config.parallel_worlds or min(n_episodes, 512),
            "learning": learning.model_copy(
                update={"n_worlds": learning.n_worlds or (256 if spec.is_batched else episodes_in(60))}
            ),
            "stages": stages.model_copy(
                update={
                    "calibrate_worlds": stages.calibrate_worlds or episodes_in(20),
                    "rungs": stages.rungs or (11 if spec.is_batched else 2),
                }
            ),
        }
    )
    if spec.parts:
        _check_blocks(completed, len(spec.parts))
    return completed


def _check_blocks(config: RunConfig, n_parts: int) -> None:
    """Refuse a mixture whose worlds would not all be played, or not alike.

    Raises:
        ConfigError: fewer worlds are side by side than the mixture has, or shards of a rollout have blocks of different size.
    """
    n_worlds, shards = config.learning.n_worlds or 0, config.learning.shards if config.spread == "worlds" else 1
    at_once = min(config.episodes or 0, config.parallel_worlds or 0, n_worlds // shards)
    if at_once < n_parts:
        raise ConfigError(
            f"a mixture of {n_parts} worlds needs at least as many side by side, and there would be {at_once}; raise episodes, "
            f"parallel_worlds or learning.n_worlds" + (", or lower learning.shards" if shards > 1 else "")
        )
    if shards > 1 and n_worlds % (shards * n_parts):
        raise ConfigError(
            f"{n_worlds} worlds in {shards} shards have no equal blocks of {n_parts} worlds; take a learning.n_worlds that "
            f"{shards * n_parts} divides"
        )


def world_of(config: RunConfig, world: World | None = None) -> World:
    """The world that a configuration names, or a live one, as its agents see it."""
    made = world or make_world(config.world, config.agents)
    seen = Remembering(made) if config.memory in ("traces", "both") else made
    return BudgetSeen(seen) if config.show_budget else seen  # outermost: whoever plays writes the last observation


def check_budget_is_there(config: RunConfig) -> None:
    """Refuse to show agents a budget that there is not. A trained team may play without: it sees a full purse then.

    Raises:
        ConfigError: there is none.
    """
    if config.show_budget and not config.budgets:
        raise ConfigError(
            "show_budget has nothing to show, since there is no budget; give one, such as --budget '1 kbit/episode', or "
            "leave --show-budget out"
        )


def check_channel_is_crossed(config: RunConfig, spec: WorldSpec) -> None:
    """Refuse a channel that no frame would pass through.

    Raises:
        ConfigError: all agents are on one host, or whatever is said comes too late.
    """
    check_delay(config, spec)
    if config.channel is not None and n_hosts(config, spec.n_agents) == 1:
        raise ConfigError(
            "nothing passes through the channel, since all agents are on one host; give each its own (--hosts), or, to learn "
            "over a channel, take --learning.channel"
        )


def check_delay(config: RunConfig, spec: WorldSpec) -> None:
    """Refuse a channel whose delay outlasts an episode.

    Raises:
        ConfigError: it does.
    """
    for text in filter(None, (config.channel, config.learning.channel)):
        if Channel.parse(text).delay >= spec.n_steps:
            raise ConfigError(
                f"an episode has at most {spec.n_steps} steps, so nothing would ever be heard through the channel {text!r}; "
                f"give it a shorter delay"
            )


def codec_of(config: RunConfig) -> Any:  # noqa: ANN401 (an nn.Module that is also a Codec)
    """The trainable codec that a configuration asks for."""
    return make_codec(
        config.codec, config.message_width, config.codebook_size, config.codec_weight, config.codec_stages
    )


def codecs_of(config: RunConfig) -> list[Any]:
    """The trainable codecs of the rounds of a step; signals are numbers of 8 bits."""
    signals = [make_codec("int8", 1, 0)] if config.signal != "none" else []
    return signals + [codec_of(config) for _ in range(config.rounds)]


def has_priced_encoder(config: RunConfig) -> bool:
    """Whether calibration makes an encoder that weighs distortion against bits, on which a price or a router can act."""
    codec = codec_of(config).freeze()
    return config.rate_aware and isinstance(codec, TableCodec) and codec.quantiser.is_searchable


def why_no_router(config: RunConfig, n_agents: int) -> str | None:
    """What is missing for a router to have anything to decide, and what to do; None: nothing."""
    if n_agents < 2 or config.topology == "none":
        return f"nobody hears anybody in {config.world} with --topology {config.topology}; leave --router out"
    if config.rounds > 1 or config.signal != "none":
        return "it decides about one round of messages per step; leave out --router, or --rounds, topk and listen"
    if config.memory in ("echoes", "both"):
        return (
            f"a router does not know what its receivers remember of what they heard; leave --memory {config.memory} out"
        )
    if not config.rate_aware:
        return "--no-rate-aware makes an encoder without a price; leave it out"
    if not has_priced_encoder(config):
        return f"the codec {config.codec} cannot trade bits for distortion; take vq, rvq, fsq, trellis or int8"
    if config.prior == "none" or not codec_of(config).freeze().silence_is_coded:
        return f"with --codec {config.codec} --prior {config.prior} silence is no word that could be chosen; take vq or rvq"
    return None


def n_hosts(config: RunConfig, n_agents: int) -> int:
    """Hosts of a run: as configured, else one for all agents when local, and one for each (up to 8) on Ray."""
    if config.hosts is not None:
        if config.hosts > n_agents:
            raise ConfigError(f"{config.hosts} hosts are more than the {n_agents} agents of {config.world}; use fewer")
        return config.hosts
    return 1 if config.runtime == "local" else min(n_agents, 8)


def open_runtime(config: RunConfig, hosts: int, say: Callable[[str], None] = lambda line: None) -> Runtime:
    """The configured runtime, started; close it when done. On Ray `say` is told when a host died and came back."""
    if config.runtime == "local":
        return LocalRuntime(hosts)
    say(f"{'hosts':>10}  starting {hosts} on Ray")
    from commlib.agents.ray_runtime import RayRuntime  # ray is loaded only where it is used

    settings = config.ray
    runtime = RayRuntime(hosts, call_seconds=settings.call_seconds, placement=settings.placement)
    return Recovering(runtime, max_restarts=settings.max_restarts, say=say)


def open_meter(config: RunConfig, runtime: Runtime) -> Meter:
    """The meter of a run on these hosts; close it when done.

    On a cluster that was joined, Ray's nodes export already, and our metrics go along. A Ray that a run started for itself
    would open its port on every network of the machine, so the run has an endpoint of its own then, as without Ray.

    Raises:
        ConfigError: there is a port, and what is needed to listen there is not installed, or the port is taken.
    """
    if config.metrics_port is None:
        return Silent()
    if runtime.name == "ray" and os.environ.get("RAY_ADDRESS") and ray_exports():
        from commlib.agents.ray_runtime import meter_of_cluster

        return meter_of_cluster()
    return serve(config.metrics_port)
