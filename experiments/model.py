"""A trained team as it is deployed: policy weights, frozen codec, graph, and the calibration of its price knob.

This is what `commlib.load` reads from a run folder, and all that a host needs to play.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from commlib.agent import BatchedTeam
from commlib.agents.desk import Desk, LearnedTeam
from commlib.agents.policy import PolicySpec
from commlib.agents.runtime import Runtime
from commlib.codec import FrozenCodec
from commlib.gate import Gate
from commlib.message import Edge
from commlib.plan import Plan, senders_of

TeamBuilder = Callable[[list[int], NDArray[np.int64]], BatchedTeam]


@dataclass(frozen=True)
class Rung:
    """One rung of the ladder of rate weights, measured on episodes of its own.

    Attributes:
        rate_weight: the encoder's Lagrangian, in squared distortion per bit.
        success: 0..1; None where the world defines none.
        return_: mean over agents and episodes of the summed reward.
        bits_per_agent_step, bits_per_agent_episode: estimates.
    """

    rate_weight: float
    success: float | None
    return_: float
    bits_per_agent_step: float
    bits_per_agent_episode: float


@dataclass(frozen=True)
class Calibration:
    """How reward falls as the encoder is told to save bits, which rung is used unless a price is given, and the
    world steps that were played to find out.
    """

    rungs: tuple[Rung, ...] = ()
    chosen: int = 0
    n_steps: int = 0

    def rate_weight(self, bit_price: float | None) -> float:
        """The rate weight for a price in reward per bit: the rung with the largest return - price x bits."""
        if not self.rungs:
            return 0.0
        if bit_price is None:
            return self.rungs[self.chosen].rate_weight
        return max(self.rungs, key=lambda r: r.return_ - bit_price * r.bits_per_agent_episode).rate_weight

    def bit_price(self, rate_weight: float) -> float:
        """The price of a rate weight in reward per bit.

        Of a rung it is the least price at which it is worth more than every rung that spends more bits; between two rungs,
        what the last bit brings: the slope, there, of the concave hull of returns over bits.
        """
        here = next((r for r in self.rungs if r.rate_weight == rate_weight), None)
        if here is not None:
            return max(0.0, self._most_per_bit(here, here.bits_per_agent_episode + 1e-9))
        if not self.rungs:
            return 0.0
        weights, bits = zip(*sorted((r.rate_weight, r.bits_per_agent_episode) for r in self.rungs), strict=True)
        spent = max(float(np.interp(rate_weight, weights, bits)), min(bits) + 1e-6)
        least = (
            spent - 1e-9
        )  # a weight may lie a rounding beside a rung's: that rung counts as dearer, and never as both
        fewer = [r for r in self.rungs if r.bits_per_agent_episode <= least]
        # Chords that span these bits: from each rung the steepest, and of those the flattest is the side of the hull.
        return max(0.0, min(self._most_per_bit(rung, least) for rung in fewer))

    def _most_per_bit(self, rung: Rung, bits: float) -> float:
        """The most return for a bit that any rung which spends more than these bits adds to a rung that spends no more."""
        dearer = [r for r in self.rungs if r.bits_per_agent_episode > bits]
        saved = [r.bits_per_agent_episode - rung.bits_per_agent_episode for r in dearer]
        return max([(r.return_ - rung.return_) / n for r, n in zip(dearer, saved, strict=True)], default=0.0)

    def to_json(self) -> dict[str, Any]:
        """As a plain object."""
        return {"rungs": [vars(r) for r in self.rungs], "chosen": self.chosen, "n_steps": self.n_steps}

    @classmethod
    def from_json(cls, data: dict[str, Any] | None) -> Calibration:
        """Back from the plain object."""
        return (
            cls()
            if data is None
            else cls(tuple(Rung(**r) for r in data["rungs"]), int(data["chosen"]), int(data["n_steps"]))
        )


@dataclass(frozen=True)
class Model:
    """Everything that plays: build desks from it with `furnish`.

    Attributes:
        build_team: makes the team of the given local agents, told whom they hear (`commlib.plan.senders_of`); called on
            their host, so it must survive pickling.
        codec: what both ends of every link carry.
        edges: who may talk to whom.
        calibration: how the price knob was calibrated; empty if it was not.
        gate: the rule that keeps messages back.
        earlier: the codecs of the rounds of a step before the last one, which `codec` is for.
    """

    build_team: TeamBuilder
    codec: FrozenCodec
    edges: tuple[Edge, ...]
    calibration: Calibration = field(default_factory=Calibration)
    gate: Gate = Gate()  # noqa: RUF009 (frozen)
    earlier: tuple[FrozenCodec, ...] = ()

    @property
    def codecs(self) -> tuple[FrozenCodec, ...]:
        """One for each round of a step."""
        return (*self.earlier, self.codec)

    def with_codecs(self, codecs: Sequence[FrozenCodec]) -> Model:
        """The same agents with other codecs."""
        return replace(self, codec=codecs[-1], earlier=tuple(codecs[:-1]))


def learned_team(
    spec: PolicySpec, weights: dict[str, Tensor], agents: list[int], senders: NDArray[np.int64]
) -> BatchedTeam:
    """The trained agents of one host."""
    return LearnedTeam(spec, weights, agents, senders)


def network_of(model: Model) -> tuple[PolicySpec, dict[str, Tensor]] | None:
    """The network of a trained team, and its tensors; None for agents of another kind."""
    if not isinstance(model.build_team, partial) or model.build_team.func is not learned_team:
        return None
    spec, weights = model.build_team.args
    return spec, weights


def has_router(model: Model) -> bool:
    """Whether these agents choose how to tell a message by the harm that they foresee."""
    network = network_of(model)
    return network is not None and network[0].has_router


def n_signals(model: Model) -> int:
    """How many rounds of a step are signals, before any words."""
    network = network_of(model)
    return int(network is not None and network[0].signal != "none")


def furnish(runtime: Runtime, plan: Plan, model: Model) -> None:
    """Put the model's agents behind the desks of a runtime's hosts."""
    runtime.each("set_desk", [(_desk, host, plan, model) for host in range(runtime.n_hosts)])


def _desk(host: int, plan: Plan, model: Model) -> Desk:
    team = model.build_team(plan.agents_of(host), senders_of(plan, host))
    return Desk(host, plan, model.codecs, team, model.gate)
