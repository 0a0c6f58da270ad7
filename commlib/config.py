"""A run's configuration: frozen records, checked on entry, with one name per setting everywhere.

The same names are used in YAML files, on the command line and in `config.yaml` of a run folder. A YAML file is a diff: it
holds only what differs from the defaults, with the reason beside it. World recipes and methods are such diffs too
(`experiments/recipes/*.yaml`); they are laid over each other in the order defaults, world, method, file, command line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from commlib.budget import Budgets, Network
from commlib.channel import Channel
from commlib.errors import ConfigError
from commlib.rationing import Allocation, Rationing, WhenOut, parse_groups
from commlib.records import write_whole
from commlib.units import Placement


def _channel(text: str | None) -> str | None:
    """The channel as it is always written; raises ConfigError where there is none in it."""
    return None if text is None else str(Channel.parse(text))


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LearningConfig(_Frozen):
    """How the task is learned (PPO); see `agents/training.py` for the loop that reads it."""

    n_worlds: int | None = Field(
        None, ge=1, description="worlds side by side in a rollout; default: what suits the world"
    )
    n_epochs: int = Field(4, ge=1, description="passes over each rollout")
    n_minibatches: int = Field(12, ge=1, description="updates per pass")
    learning_rate: float = Field(1.5e-3, gt=0, description="Adam; falls to 5 % over each stage")
    schedule: Literal["linear", "rex"] = Field(
        "linear", description="how the learning rate falls: evenly, or slowly at first and fast in the end (REX)"
    )
    edge_learning_rate: float = Field(0.02, gt=0, description="Adam, of a learned graph")
    edges_every: int = Field(5, ge=2, description="a learned graph is updated in every n-th epoch, alone")
    warm_up: float = Field(0.2, ge=0, le=1, description="share of the dense stage with every edge open")
    gamma: float = Field(0.95, gt=0, le=1, description="discount")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="of generalised advantage estimation")
    clip: float = Field(0.2, gt=0, description="PPO's clip range")
    value_weight: float = Field(0.5, ge=0, description="weight of the critic's error")
    entropy_weight: float = Field(0.01, ge=0, description="reward per nat; falls linearly to 0")
    floor: float = Field(0.0, ge=0, lt=1, description="share of uniform actions; falls to 0 at 70 % of the dense stage")
    imitation: float = Field(
        0.0,
        ge=0,
        description="weight of doing what the world's expert would do, where the world has one; falls to 0",
    )
    imitation_until: float = Field(0.5, gt=0, le=1, description="share of all steps after which it is 0")
    foresight: float = Field(
        0.0,
        ge=0,
        description="weight of a guess that each agent makes of its return from what it knows and hears; 0: it makes none",
    )
    noise: float = Field(0.0, ge=0, description="standard deviation of noise on continuous messages")
    hidden: int = Field(64, ge=4, description="units per hidden layer")
    channel: str | None = Field(
        None,
        description='what messages go through in training, such as "loss=8.2%, delay=1": agents learn to live with it',
    )
    balance: Literal["worst", "even"] = Field(
        "worst",
        description="in a mixture of worlds: those count more in which the team is weak and not getting better, or all alike",
    )
    shards: int = Field(
        4, ge=1, description="parts of a rollout, where hosts share out worlds; no more hosts have work"
    )
    staleness: int = Field(
        0,
        ge=0,
        description="updates by which hosts that share out worlds may be behind the learner; 0: they wait for it, and a run "
        "can be repeated",
    )

    _is_a_channel = field_validator("channel")(_channel)

    @field_validator("channel")
    @classmethod
    def _weighs_nothing(cls, text: str | None) -> str | None:
        if text is not None and Channel.parse(text).rate is not None:
            raise ValueError(
                "nothing is framed in training, so no rate can be kept there; leave the rate out, and evaluate with "
                "--channel"
            )
        return text


class StagesConfig(_Frozen):
    """How the steps are spent: dense, then through the codec, then optionally under the price."""

    prune: float = Field(0.3, ge=0, lt=1, description="share of the steps in which a pruned graph is cut back")
    fine_tune: float = Field(0.2, ge=0, lt=1, description="share of the steps trained through the codec")
    fine_tune_speech: bool = Field(
        True, description="whether what agents say is tuned there, too, or only what they make of what they hear"
    )
    fine_tune_rate: float = Field(0.3, gt=0, description="learning rate there, as a share of the first one")
    priced: float = Field(0.0, ge=0, lt=1, description="share of the steps trained under the bit price (optional)")
    price: float | None = Field(
        None,
        ge=0,
        description="reward per bit in the priced stage, not in play; default: bit_price, or what the margin allows",
    )
    calibrate_worlds: int | None = Field(
        None, ge=2, description="episodes per play of calibration; default: what suits"
    )
    rungs: int | None = Field(None, ge=1, le=11, description="rate weights to try; default: what suits the world")
    calibrate_rounds: int = Field(2, ge=1, description="encode-and-refit rounds at each rung of the ladder")
    margin: float = Field(0.006, ge=0, description="success (or share of return) that the price may cost")


class RayConfig(_Frozen):
    """How hosts live on Ray; what they compute does not depend on it."""

    placement: Placement = Field(
        "pack", description="few nodes of the cluster (pack), or as many as there are (spread)"
    )
    max_restarts: int = Field(100, ge=0, description="how often hosts that died are brought back; 0: the run ends")
    call_seconds: float = Field(
        120.0, gt=0, description="a host that takes longer to answer is killed and brought back, from where it was"
    )


class RunConfig(_Frozen):
    """Everything that determines a run; the same configuration gives the same books."""

    world: str = Field("guide", description="built-in name, pettingzoo:..., mpe2:... or package.module:Class")
    method: str = Field("ours", description="a recipe from `commlib list methods`")
    codec: str = Field("vq", description="one of `commlib list codecs`, or package.module:Class")
    codebook_size: int = Field(64, ge=2, le=4096, description="codes of vq, or of each stage of rvq")
    codec_stages: int | None = Field(
        None, ge=1, le=16, description="of rvq: how many tiers a message has, 2 unless given"
    )
    codec_weight: float | None = Field(
        None, ge=0, description="of the codec's own cost of information (dither, vq-vib); default: the codec's"
    )
    prior: Literal["natural", "best", "none", "previous", "staged", "held"] = Field(
        "natural",
        description="what both ends know before a code is said; best: whatever saves most on held-out messages",
    )
    ages: int = Field(1, ge=1, le=1024, description="rounds since the episode began that the prior tells apart")
    message_width: int = Field(16, ge=1, le=1024, description="floats per message")
    topology: str = Field(
        "full", description="none, full, ring, chain, commformer, pruned, dynamic, topk, random, grid or knn"
    )
    density: float = Field(
        0.4,
        gt=0,
        le=1,
        description="share of senders that a receiver of commformer, random or knn hears; of agents that topk lets speak",
    )
    rounds: int = Field(1, ge=1, le=8, description="rounds of messages in a step; later ones answer what was heard")
    graph_seed: int = Field(0, ge=0, lt=2**31, description="of the graph that random draws; not changed by --seed")
    aggregation: Literal["slots", "mean", "set", "relation", "attention", "aged", "signature"] = Field(
        "slots",
        description="how an agent listens: a slot per sender, the mean, a set, a set read by what it knows itself (relation), "
        "attention by sender, by sender and age, by signature",
    )
    ids: Literal["onehot", "none", "role"] = Field(
        "onehot",
        description="what an agent is known by: its number; nothing, so that any number can play; a role that is learned",
    )
    agents: int | None = Field(
        None, ge=1, description="how many agents, where the world allows another number; default: the world's own"
    )
    memory: Literal["none", "traces", "echoes", "both"] = Field(
        "none",
        description="what agents remember of earlier steps: nothing, traces of what they saw, echoes of what they heard, both",
    )
    gate: Literal["none", "talk", "sampled", "listen", "random", "event"] = Field(
        "none",
        description="who may be silent; talk, sampled: learned; listen: whom nobody wants to hear; random: by dice; "
        "event: who has no news",
    )
    gate_rate: float = Field(0.5, gt=0, le=1, description="of a random gate: the share of messages that go")
    router: Literal["none", "learned"] = Field(
        "none",
        description="learned: bits go where a message matters to its receivers; takes minutes, dropped if it saves nothing",
    )
    rate_aware: bool = Field(True, description="calibrate a price-aware encoder; False sends the nearest code")
    charging: Literal["broadcast", "link"] = Field("broadcast", description="who pays for a frame that several hear")
    runtime: Literal["local", "ray"] = Field("local", description="hosts in this process or as Ray actors")
    hosts: int | None = Field(None, ge=1, description="agent hosts; default: one for all when local, one each on Ray")
    spread: Literal["agents", "worlds"] | None = Field(
        None,
        description="what hosts share out in training: agents, or worlds, of which each plays some with all agents; default: "
        "worlds where copies step one by one",
    )
    ray: RayConfig = RayConfig()
    budget: str | None = Field(
        None,
        description='shared by all agents, such as "64 bit/step"; several with commas: "agent 2: 1 kbit/episode, '
        '3 messages/step"; default: no cap',
    )
    allocation: Allocation = Field(
        "value", description="who goes first when a budget is too small: most value per bit, ..., see docs/budgets.md"
    )
    priority: str | None = Field(
        None, description='groups and their guaranteed shares of a pool: "agents 0-1: 50 %, agent 2"; for priority'
    )
    when_out: WhenOut = Field("drop", description="what becomes of a message that finds no room in the budget")
    defer_rounds: int = Field(2, ge=1, le=1024, description="rounds after which a deferred message is given up")
    network: str | None = Field(
        None, description='rate and delay, such as "1 Mbit/s + 2 ms": how long frames take, for budgets of latency'
    )
    channel: str | None = Field(
        None,
        description='what frames between hosts go through in evaluation, such as "loss=8.2%, delay=1, rate=256": lost in '
        "bursts, so many steps late, at most so many bits per step; all are charged",
    )
    show_budget: bool = Field(False, description="agents see what is left of the budget, as one more observation")
    bit_price: float | None = Field(None, ge=0, description="reward per bit; default: what the margin allows")
    seed: int = Field(0, ge=0, lt=2**31, description="of everything random")
    steps: int = Field(200_000, ge=1, description="environment steps of training")
    episodes: int | None = Field(
        None, ge=1, description="episodes of the final evaluation; default: what suits the world"
    )
    parallel_worlds: int | None = Field(
        None, ge=1, description="worlds that share a frame in evaluation; 1 hides no header"
    )
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="show bits, messages, prices and seconds of each step to Prometheus, at this port of 127.0.0.1",
    )
    learning: LearningConfig = LearningConfig()
    stages: StagesConfig = StagesConfig()

    @field_validator("budget")
    @classmethod
    def _is_a_budget(cls, text: str | None) -> str | None:
        return text if Budgets.parse(text) else None

    @field_validator("network")
    @classmethod
    def _is_a_network(cls, text: str | None) -> str | None:
        if text is not None:
            Network.parse(text)
        return text

    _is_a_channel = field_validator("channel")(_channel)

    @field_validator("priority")
    @classmethod
    def _are_groups(cls, text: str | None) -> str | None:
        parse_groups(text)
        return text

    @model_validator(mode="after")
    def _rationing_is_whole(self) -> RunConfig:
        if (self.allocation == "priority") != (self.priority is not None):
            raise ValueError(
                "the allocation priority needs groups, and groups need it: --allocation priority --priority "
                "'agents 0-1: 50 %, agent 2: 20 %'"
            )
        if self.network is None and any(budget.currency == "latency" for budget in self.budgets.all):
            raise ValueError("a budget of latency needs to know the network, such as --network '1 Mbit/s + 2 ms'")
        return self

    @model_validator(mode="after")
    def _dynamic_edges_are_paid_one_by_one(self) -> RunConfig:
        if self.topology == "dynamic" and (self.router, self.charging) != ("learned", "link"):
            raise ValueError(
                "the topology dynamic opens each edge by itself, so it needs --router learned and --charging link; leave "
                "both out, and they are set"
            )
        return self

    @model_validator(mode="after")
    def _who_is_known_by_nothing_has_no_place(self) -> RunConfig:
        if self.ids == "none" and self.aggregation == "slots":
            raise ValueError(
                "with ids none no sender is told from another, and slots are told apart; take --aggregation mean, "
                "set, relation, attention, aged or signature"
            )
        if self.aggregation == "aged" and self.router == "learned":
            raise ValueError(
                "a router is taught on what is said, not on how old it is; take --aggregation attention, or leave it out"
            )
        if self.ids == "none" and self.router == "learned":
            asked = "the topology dynamic, whose edges a router opens," if self.topology == "dynamic" else "a router"
            raise ValueError(f"{asked} must know its receivers apart, and with ids none it cannot; take --ids onehot")
        return self

    @model_validator(mode="after")
    def _what_stays_can_stay(self) -> RunConfig:
        if self.rounds > 1 and not self.stages.fine_tune_speech:
            raise ValueError(
                "what is said in a second round depends on what was made of the first, which goes on being learned; leave "
                "stages.fine_tune_speech true, or take one round"
            )
        if self.topology == "pruned" and self.memory in ("echoes", "both"):
            raise ValueError(
                "a graph is pruned by what changes when a sender falls silent, and an echo outlasts that; take another "
                "topology, or leave echoes out"
            )
        return self

    @model_validator(mode="after")
    def _one_thing_decides_who_speaks(self) -> RunConfig:
        if self.topology == "topk" and self.gate != "none":
            raise ValueError(
                f"the topology topk decides who speaks, and so does the gate {self.gate}; take one of them"
            )
        if self.gate == "listen" and self.topology != "full":
            raise ValueError("the gate listen asks every listener, so it needs the topology full")
        if self.rounds > 1 and self.topology == "none":
            raise ValueError(
                f"nobody hears anybody with the topology none, so {self.rounds} rounds say nothing; leave them out"
            )
        return self

    @model_validator(mode="after")
    def _who_is_behind_plays_worlds(self) -> RunConfig:
        if self.learning.staleness and self.spread == "agents":
            raise ValueError(
                "hosts that share out agents are never behind the learner; take --spread worlds, or leave "
                "--learning.staleness out"
            )
        if self.learning.staleness and self.gate == "sampled":
            raise ValueError("what a sampled gate drew is not corrected for its age; leave --learning.staleness out")
        return self

    @model_validator(mode="after")
    def _late_messages_need_no_answer(self) -> RunConfig:
        learned, played = (
            Channel() if text is None else Channel.parse(text) for text in (self.learning.channel, self.channel)
        )
        if learned.delay and (self.rounds > 1 or self.signal != "none"):
            raise ValueError(
                "agents learn with late messages only where a step has one round of them; leave delay out of "
                "--learning.channel, or --rounds, topk and listen"
            )
        if played.delay and self.signal != "none":
            raise ValueError(
                "with topk or listen agents must agree who speaks, and with late signals they cannot; leave delay out of "
                "--channel"
            )
        return self

    @model_validator(mode="after")
    def _gates_need_a_price(self) -> RunConfig:
        if self.gate in ("talk", "sampled", "listen") and self.stages.priced == 0:
            raise ValueError(
                f"the {self.gate} gate is learned in the priced stage; give it steps, such as --stages.priced 0.2"
            )
        if self.stages.price is not None and self.stages.priced == 0:
            raise ValueError(
                f"stages.price = {self.stages.price:g} is for a stage without steps; give it some, such as --stages.priced 0.2"
            )
        prune = self.stages.prune if self.topology in PRUNABLE else 0.0
        if self.stages.fine_tune + self.stages.priced + prune >= 1:
            raise ValueError(
                "stages.fine_tune, stages.priced and stages.prune must leave steps for the dense stage: less than 1 "
                "together"
            )
        return self

    @property
    def signal(self) -> str:
        """What signals of a first round decide (`commlib.agents.policy.SIGNALS`); none: there is no such round."""
        return "topk" if self.topology == "topk" else "listen" if self.gate == "listen" else "none"

    @property
    def budgets(self) -> Budgets:
        """The budgets as the till wants them."""
        return Budgets.parse(self.budget)

    @property
    def rationing(self) -> Rationing:
        """What happens when one of them is too small."""
        return Rationing(self.allocation, parse_groups(self.priority), self.when_out, self.defer_rounds)


PRUNABLE = ("pruned", "dynamic")
"""The topologies that are cut back to what listeners act upon."""

LEARNED_GRAPHS = ("commformer", *PRUNABLE)
"""The topologies that training decides upon; they are for the agents that were there."""

DYNAMIC = {"router": "learned", "charging": "link"}
"""What goes with the topology `dynamic`: edges that open step by step are decided by a router and paid one by one."""


def make_config(*layers: tuple[str, Mapping[str, Any]]) -> RunConfig:
    """Lay named settings over each other, later ones on top.

    Args:
        layers: (where it comes from, settings) pairs; nested mappings are merged.

    Raises:
        ConfigError: an unknown key (with its nearest neighbour) or a value out of range, and in which layer.
    """
    merged: dict[str, Any] = {}
    for origin, settings in layers:
        _check_keys(settings, RunConfig, origin)
        merged = _merge(merged, settings)
        try:
            RunConfig.model_validate(_with_implied(merged))
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            reason = first["msg"].removeprefix("Value error, ")
            if first["type"] == "literal_error":
                choices = re.findall(r"'([^']*)'", first["ctx"]["expected"])
                near = difflib.get_close_matches(str(first["input"]), choices, n=1, cutoff=0.75)
                reason = f"there are {', '.join(choices)}" + (f"; did you mean {near[0]!r}?" if near else "")
            value = f"{name} = {first['input']!r:.60}: " if name else ""
            raise ConfigError(f"{origin}: {value}{reason}") from error
    return RunConfig.model_validate(_with_implied(merged))


def _with_implied(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, and what goes with them where nothing else is said."""
    return {**(DYNAMIC if settings.get("topology") == "dynamic" else {}), **settings}


PLAY_SETTINGS = (
    "agents", "rate_aware", "charging", "runtime", "hosts", "budget", "allocation", "priority", "when_out", "defer_rounds",
    "network", "channel", "ray", "bit_price", "seed", "episodes", "parallel_worlds",
    "metrics_port",
)  # fmt: skip
"""What may change when a trained team plays again; all else was settled in its training. Another number of agents takes a
team that was trained with ids none (`commlib.experiments.train.load_model`)."""


def replay_config(config: RunConfig, layer: tuple[str, Mapping[str, Any]]) -> RunConfig:
    """The configuration of a trained team, to play again with other settings.

    Raises:
        ConfigError: an unknown setting, a value out of range, or a setting that only training can change.
    """
    origin, settings = layer
    changed = make_config((origin, config.model_dump()), layer)
    for name in settings:
        if name not in PLAY_SETTINGS and getattr(changed, name) != getattr(config, name):
            raise ConfigError(
                f"{origin}: {name} was settled in training and cannot change afterwards; train again, or change one of "
                f"{', '.join(PLAY_SETTINGS)}"
            )
    return changed


def _check_keys(settings: object, model: type[BaseModel], origin: str, prefix: str = "") -> None:
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{origin}: {prefix or 'the file'} must hold `name: value` lines, not {settings!r:.60}")
    for key, value in settings.items():
        if key not in model.model_fields:
            near = difflib.get_close_matches(str(key), model.model_fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(model.model_fields)}"
            raise ConfigError(f"{origin}: unknown setting {prefix + str(key)!r}; {hint}")
        inner = model.model_fields[key].annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            _check_keys(value, inner, origin, f"{key}.")


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file.

    Raises:
        ConfigError: it is missing, unreadable, not YAML, or not a mapping.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} must hold `name: value` lines")
    return settings


def write_yaml(config: RunConfig, path: Path) -> None:
    """Write the whole resolved configuration."""
    write_whole(path, yaml.safe_dump(config.model_dump(), sort_keys=False).encode())
