"""Calibration: the prior counted on the agents' own runs, the encoder made price-aware, round and round; then the ladder.

Like tuning a guitar: each string is tightened against the others until all hold. At every rung of a ladder of rate
weights the agents play, the prior is counted from what they said, and they play again, because a price-aware encoder
says other things than it did before (entropy-constrained VQ: Chou, Lookabaugh & Gray 1989, IEEE Trans. ASSP 37(1)).
The rung in use is the cheapest whose success stays within the margin of the best, measured on episodes of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from commlib.agents.play import Tally, Watcher, play
from commlib.agents.runtime import LocalRuntime
from commlib.agents.till import Books
from commlib.budget import Budget
from commlib.codec import Codes, FrozenCodec
from commlib.codecs.frozen import TableCodec
from commlib.codecs.prior import best_prior
from commlib.config import RunConfig, StagesConfig
from commlib.experiments.model import Calibration, Model, Rung, furnish
from commlib.experiments.school import School
from commlib.ledger import Ledger
from commlib.objective import holds, merit
from commlib.plan import Plan, make_plan
from commlib.rationing import Tariff
from commlib.world import World

FIRST_RUNG, LAST_RUNG = 2.0**-11, 2.0**-1
"""The gentlest and the hardest rate weight to try, as shares of the messages' variance per bit."""
USUAL_RUNG = 2.0**-6
"""Where a router is taught if the ladder says that bits are not worth saving."""
ENOUGH = 1.01
"""The gentlest rate weight within 1 % of the fewest bits is taken: a harder one only risks success."""


Records = Sequence[tuple[Codes, Codes]]
"""Contexts [n, P + 1] and codes [n, P] of recorded messages, for each round of a step."""
Show = Callable[[float, Mapping[str, str]], None]
"""Shown how far a calibration is, 0..1, and what the last rung came to."""
CLIMBED = 0.8
"""How far a calibration is when all rungs are tuned; then each is played once more."""


@dataclass
class Rehearsal:
    """Plays of a model in this process, charged to a ledger that is thrown away: training traffic, not use."""

    world: World
    charging: str
    n_worlds: int
    generator: torch.Generator
    show: Show | None = None

    def __post_init__(self) -> None:
        self.n_steps = 0
        self._same_seed = int(torch.randint(2**31, (1,), generator=self.generator))

    def measure(self, model: Model, rate_weight: float) -> Rung:
        """What a rate weight comes to, always on the same episodes, so that rungs differ by the weight alone."""
        same = Rehearsal(self.world, self.charging, self.n_worlds, torch.Generator().manual_seed(self._same_seed))
        tally = same.play(model, rate_weight)[0]
        self.n_steps += same.n_steps
        return self.rung(tally, rate_weight)

    def plan(self, model: Model) -> Plan:
        """All agents in one place."""
        return make_plan(model.edges, (0,) * self.world.spec.n_agents, self.charging)

    def play(self, model: Model, rate_weight: float, watcher: Watcher | None = None) -> tuple[Tally, Records]:
        """One batch of episodes; its tally, and all that was said."""
        plan = self.plan(model)
        runtime = LocalRuntime(1)
        furnish(runtime, plan, model)
        runtime.each("desk.record", [()])
        tally = play(
            runtime,
            plan,
            self.world,
            Books(Ledger(budget=Budget(None))),
            n_worlds=self.n_worlds,
            tariff=Tariff(rate_weight),
            generator=self.generator,
            n_rounds=len(model.codecs),
            watcher=watcher,
        )
        self.n_steps += int(sum(tally.lengths))
        return tally, runtime.each("desk.recorded", [()])[0]

    def told(self, share: float, rung: Rung) -> None:
        """Show how far the ladder is."""
        if self.show is not None:
            score = {"return": f"{rung.return_:.3f}"} if rung.success is None else {"success": f"{rung.success:.1%}"}
            self.show(share, score | {"bits/agent/step": f"{rung.bits_per_agent_step:.2f}"})

    def rung(self, tally: Tally, rate_weight: float) -> Rung:
        """What a tally says of a rate weight."""
        n_agents = self.world.spec.n_agents
        return Rung(
            rate_weight,
            float(np.mean(tally.success)) if self.world.spec.success else None,
            float(np.mean(tally.returns)),
            tally.estimate_bits / max(1, tally.n_slots),
            tally.estimate_bits / (n_agents * len(tally.returns)),
        )


def rehearse(
    model: Model,
    lossless: Model,
    world: World,
    config: RunConfig,
    rate_weights: list[float],
    chosen: float,
    generator: torch.Generator,
) -> tuple[Rung, list[Rung], Codes, Codes]:
    """What a lossless team and the model at each rate weight come to on the same new episodes, and what was said.

    Contexts and codes are those at the chosen rate weight.
    """
    rehearsal = Rehearsal(world, config.charging, config.stages.calibrate_worlds or 512, generator)
    rungs = [rehearsal.measure(model, weight) for weight in rate_weights]
    _, records = rehearsal.play(model, chosen)
    return rehearsal.measure(lossless, 0.0), rungs, *records[-1]


class Knowledge(NamedTuple):
    """What the prior may know: a kind of `commlib.codecs.rows.KINDS`, "natural" or "best", and so many ages."""

    prior: str = "natural"
    ages: int = 1

    def ways(self, codec: TableCodec) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The kinds and the numbers of ages to choose from."""
        if self.prior == "best":
            natural, ages = codec.prior.kind, (1,) if self.ages == 1 else (1, self.ages)
            return tuple(dict.fromkeys((natural, "none", "held"))) if codec.prior.knows_past else (natural,), ages
        return (codec.prior.kind if self.prior == "natural" else self.prior,), (self.ages,)


def refit(model: Model, records: Records, knowledge: Knowledge | None = None) -> Model:
    """The model with priors counted from recorded messages; unchanged where a codec is not one of tables."""
    told = zip(model.codecs, records, strict=True)
    return model.with_codecs([_refitted(codec, contexts, codes, knowledge) for codec, (contexts, codes) in told])


def _refitted(codec: FrozenCodec, contexts: Codes, codes: Codes, knowledge: Knowledge | None) -> FrozenCodec:
    if not isinstance(codec, TableCodec) or len(codes) < 2:
        return codec
    kinds, ages = knowledge.ways(codec) if knowledge else ((codec.prior.kind,), (codec.prior.n_ages,))
    return replace(codec, prior=best_prior(codes, contexts, codec.prior.alphabet, kinds, ages))


def calibrate(
    model: Model,
    world: World,
    charging: str,
    stages: StagesConfig,
    generator: torch.Generator,
    *,
    rate_aware: bool,
    knowledge: Knowledge | None = None,
    is_event_gated: bool = False,
    school: School | None = None,
    show: Show | None = None,
) -> Model:
    """The model with its prior counted and, if `rate_aware`, its price knob calibrated, and a router if a school is there.

    What the prior knows is settled on the first messages, and kept.
    """
    rehearsal = Rehearsal(world, charging, stages.calibrate_worlds or 512, generator, show)
    _, records = rehearsal.play(model, 0.0)
    model = refit(model, records, knowledge)
    contexts, codes = records[-1]
    if is_event_gated and len(codes):
        model = _gated_by_events(model, rehearsal, contexts, codes, stages)
    codec = model.codec
    if not rate_aware or not isinstance(codec, TableCodec) or len(codes) < 2 or not codec.quantiser.is_searchable:
        return replace(model, calibration=Calibration(n_steps=rehearsal.n_steps))
    variance = float(codec.embed(codes, contexts).var(0).sum())
    even = _priced(model, rehearsal, stages, variance)
    if school is None or not codec.silence_is_coded:
        return even
    return _routed(model, even, school, rehearsal, stages, variance)


def _routed(
    model: Model, even: Model, school: School, rehearsal: Rehearsal, stages: StagesConfig, variance: float
) -> Model:
    """The team with a router, if that saves bits at no more than the margin; else `even`, as the ladder left it.

    Both ladders begin with the same prior, and which is better is decided on episodes that neither has seen.
    """
    weight = even.calibration.rungs[even.calibration.chosen].rate_weight
    taught = go_to_school(even, school, rehearsal, max(weight, USUAL_RUNG * variance))
    routed = _priced(replace(taught, codec=model.codec), rehearsal, stages, variance)
    judge = Rehearsal(rehearsal.world, rehearsal.charging, rehearsal.n_worlds, rehearsal.generator)
    plain, found = (
        judge.measure(one, one.calibration.rungs[one.calibration.chosen].rate_weight) for one in (even, routed)
    )
    saves = ENOUGH * found.bits_per_agent_episode <= plain.bits_per_agent_episode
    pays = saves and holds(found, plain, stages.margin)
    school.say(
        f"{'route':>10}  {_told(found)} with the router, {_told(plain)} without; it is {'kept' if pays else 'dropped'}"
    )
    chosen = routed if pays else even
    n_steps = rehearsal.n_steps + judge.n_steps
    return replace(chosen, calibration=replace(chosen.calibration, n_steps=n_steps))


def _told(rung: Rung) -> str:
    score = f"return {rung.return_:.3f}" if rung.success is None else f"{rung.success:.1%}"
    return f"{score} at {rung.bits_per_agent_step:.3f} bits per agent and step"


def go_to_school(model: Model, school: School, rehearsal: Rehearsal, rate_weight: float) -> Model:
    """The model with a router, taught on plays of its own at about this rate weight.

    In lectures all listeners of a sender hear the same, whatever the charging rule: one context for each sender. So where
    links are paid one by one, what a router does to a single edge is not in its lessons.
    """
    lectures = Rehearsal(rehearsal.world, "broadcast", rehearsal.n_worlds, rehearsal.generator)

    def play(team: Model, weight: float, watcher: Watcher) -> None:
        lectures.play(team, weight, watcher)

    taught = school.graduate(model, play, lectures.plan(model), rate_weight, rehearsal.generator)
    rehearsal.n_steps += lectures.n_steps
    return taught


def _priced(model: Model, rehearsal: Rehearsal, stages: StagesConfig, variance: float) -> Model:
    """The model at the cheapest rung of the ladder that holds, with a prior refitted there."""
    weights = [0.0, *(share * variance for share in ladder(stages))]
    tuned = climb(model, rehearsal, stages, weights)
    chosen, model = cheapest(tuned, stages.margin)
    rungs = []
    for nth, weight in enumerate(weights, start=1):
        rungs.append(rehearsal.measure(model, weight))
        rehearsal.told(CLIMBED + (1 - CLIMBED) * nth / len(weights), rungs[-1])
    return replace(model, calibration=Calibration(tuple(rungs), weights.index(chosen.rate_weight), rehearsal.n_steps))


def cheapest(tuned: list[tuple[Rung, Model]], margin: float) -> tuple[Rung, Model]:
    """The gentlest of the rungs that take about the fewest bits, of those within the margin of the best."""
    best = max((rung for rung, _ in tuned), key=merit)
    kept = [pair for pair in tuned if holds(pair[0], best, margin)]
    fewest = min(rung.bits_per_agent_episode for rung, _ in kept)
    return next(pair for pair in kept if pair[0].bits_per_agent_episode <= ENOUGH * fewest)


def ladder(stages: StagesConfig) -> list[float]:
    """The rate weights to try, as shares of the messages' variance per bit."""
    return np.geomspace(FIRST_RUNG, LAST_RUNG, stages.rungs or 11).tolist() if stages.rungs != 1 else [FIRST_RUNG * 8]


def climb(
    model: Model, rehearsal: Rehearsal, stages: StagesConfig, weights: Sequence[float]
) -> list[tuple[Rung, Model]]:
    """What the model comes to at each rate weight, with a prior refitted there, until it falls far behind the first."""
    tuned: list[tuple[Rung, Model]] = [(rehearsal.measure(model, weights[0]), model)]
    for nth, weight in enumerate(weights[1:], start=1):
        rehearsal.told(CLIMBED * nth / len(weights), tuned[-1][0])
        for _ in range(stages.calibrate_rounds):
            model = refit(model, rehearsal.play(model, weight)[1])
        tuned.append((rehearsal.measure(model, weight), model))
        if not holds(tuned[-1][0], tuned[0][0], 8 * stages.margin):
            break
    return tuned


def _gated_by_events(model: Model, rehearsal: Rehearsal, contexts: Codes, codes: Codes, stages: StagesConfig) -> Model:
    """The model with the highest threshold of the event gate that stays within the margin of none at all."""
    variance = float(model.codec.embed(codes, contexts).var(0).sum())
    model = replace(model, gate=replace(model.gate, rule="event", level=0.0))
    always = rehearsal.measure(model, 0.0)
    chosen = model
    for share in np.geomspace(FIRST_RUNG, 4.0, stages.rungs or 11):
        model = replace(model, gate=replace(model.gate, level=share * variance))
        model = refit(model, rehearsal.play(model, 0.0)[1])
        if not holds(rehearsal.measure(model, 0.0), always, stages.margin):
            break
        chosen = model
    return chosen
