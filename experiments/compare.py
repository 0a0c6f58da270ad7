"""`commlib compare`: two sides over the same worlds, in score, in wire bits, and in bits at the same score.

Two scales and one pair of eyes. What was charged is compared as it was charged, in wire bits; what a team could have saved
is read off the frontier of its calibration, whose bits are estimates, and is never called wire. Every figure is over runs,
each of which counts once, and has an interval by drawing runs again. Not a verdict: whether five seeds are enough is for
the reader, who is told how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import numpy as np

from commlib.errors import ConfigError
from commlib.experiments.curves import BdRate, Point, bd_rate_over_runs, frontier
from commlib.experiments.intervals import ENOUGH_SEEDS, OverSeeds, over_seeds
from commlib.experiments.sides import ALIKE, Found, Side, told_apart
from commlib.experiments.strata import Figure, iqm_over_tasks, probability_of_improvement, ratio_of_iqms
from commlib.records import Result

MUST_AGREE: Final = {
    "charging_rule": "what one rule charges is no measure of the other",
    "parallel_worlds": "worlds that share a frame share its header, so that wire bits do not compare",
    "hosts": "each sending host pays for frames of its own, so that wire bits do not compare",
    "channel": "what is lost or late on one line is not on the other",
    "steps": "one side had more time to learn",
}
"""What the sides should have in common, and what follows where they do not."""
ESTIMATES: Final = "estimates from the frontiers of calibration, not wire"
_SEED: Final = 0


class SideFigures(NamedTuple):
    """One side in one world: its runs' figures, averaged over seeds. `score` is what the sides are compared by.

    `settings` are those that all runs of the side have in common, by their names in a result.
    """

    method: str
    settings: dict[str, Any]
    seeds: list[int]
    score: OverSeeds
    success: OverSeeds
    return_: OverSeeds
    wire_bits_per_agent_step: OverSeeds
    wire_bits_per_agent_episode: OverSeeds


class WorldRow(NamedTuple):
    """One world: both sides, and how A stands beside B.

    Attributes:
        world: its name.
        score: `success`, or `return` where some run has no success.
        a, b: the sides.
        wire_ratio_per_step, wire_ratio_per_episode: A's wire bits by B's; None where B sends none.
        probability_a_is_better: that a run of A scores more than one of B, ties counting half.
        floor: the score from which on bits are compared; None where none was given.
        bd_rate: A's bits by B's at the same score, less 1, by estimates; None, for the reason in `why_no_bd_rate`.
    """

    world: str
    score: str
    a: SideFigures
    b: SideFigures
    wire_ratio_per_step: Figure | None
    wire_ratio_per_episode: Figure | None
    probability_a_is_better: Figure
    floor: float | None
    bd_rate: BdRate | None
    why_no_bd_rate: str


class Overall(NamedTuple):
    """All worlds together.

    `probability_a_is_better` is over every world; the interquartile means of success are over those worlds only in which
    every run has a success (`success_worlds`), because returns of two worlds have no common unit.
    """

    worlds: list[str]
    probability_a_is_better: Figure
    success_worlds: list[str]
    success_a: Figure | None
    success_b: Figure | None


class Comparison(NamedTuple):
    """Two sides, world by world and together; `warnings` say what does not compare, `notes` what else to know."""

    a: Side
    b: Side
    floor: Side | None
    rows: list[WorldRow]
    overall: Overall
    warnings: list[str]
    notes: list[str]


def compare(a: Side, b: Side, floor: Side | None = None) -> Comparison:
    """Two sides in every world that they have in common; the same runs always give the same figures.

    The runs of `floor`, those of a team that sends nothing, say which scores need no bits: below them none are compared.

    Raises:
        ConfigError: they have no world in common, or a run has no score.
    """
    common = [world for world in a.worlds if world in b.worlds]
    if not common:
        raise ConfigError(
            f"the sides have no world in common: A has {', '.join(a.worlds)}, B has {', '.join(b.worlds)}; compare runs of the "
            f"same world"
        )
    silent = floor.worlds if floor else {}
    rows = [_row(world, a.worlds[world], b.worlds[world], silent.get(world, [])) for world in common]
    warnings = [warning for world in common for warning in _warnings(world, a.worlds[world], b.worlds[world])]
    return Comparison(a, b, floor, rows, _overall(rows, a, b), warnings, _notes(rows, a, b, floor))


def _row(world: str, a: list[Found], b: list[Found], silent: list[Found]) -> WorldRow:
    score = _score_of([*a, *b])
    ours, theirs = _side(a, score), _side(b, score)
    floor = over_seeds(_scores(silent, score)).iqm
    curves, rivals = ([frontier(run.result, score) for run in side] for side in (a, b))
    least = -np.inf if floor is None else floor
    bd_rate = bd_rate_over_runs(curves, rivals, least=least, generator=_dice())
    return WorldRow(
        world,
        score,
        ours,
        theirs,
        _ratio(a, b, _wire_per_step),
        _ratio(a, b, _wire_per_episode),
        probability_of_improvement([_scores(a, score)], [_scores(b, score)], generator=_dice()),
        floor,
        bd_rate,
        "" if bd_rate else _why_no_bd_rate(curves, rivals, score if floor is None else f"{score} above the floor"),
    )


def _dice() -> np.random.Generator:
    """Anew for every figure, so that none depends on which others there are."""
    return np.random.default_rng(_SEED)


def _score_of(runs: Iterable[Found]) -> str:
    return "return" if any(run.result.success.mean is None for run in runs) else "success"


def _scores(runs: Iterable[Found], score: str) -> list[float]:
    found = []
    for run in runs:
        value = (run.result.success if score == "success" else run.result.return_).mean
        if value is None:
            raise ConfigError(f"{run.path} has no {score}, for no episode ended; evaluate it with more --episodes")
        found.append(value)
    return found


def _wire_per_step(result: Result) -> float:
    return result.bits.per_agent_step.wire


def _wire_per_episode(result: Result) -> float:
    return result.bits.per_agent_episode.wire


def _ratio(a: list[Found], b: list[Found], bits: Callable[[Result], float]) -> Figure | None:
    return ratio_of_iqms([bits(run.result) for run in a], [bits(run.result) for run in b], generator=_dice())


def _side(runs: list[Found], score: str) -> SideFigures:
    results = [run.result for run in runs]
    return SideFigures(
        results[0].method,
        {name: getattr(results[0], name) for name in ALIKE},
        [result.seed for result in results],
        over_seeds(_scores(runs, score)),
        over_seeds([result.success.mean for result in results]),
        over_seeds([result.return_.mean for result in results]),
        over_seeds([_wire_per_step(result) for result in results]),
        over_seeds([_wire_per_episode(result) for result in results]),
    )


def _why_no_bd_rate(curves: list[list[Point]], rivals: list[list[Point]], score: str) -> str:
    short = [name for name, side in (("A", curves), ("B", rivals)) if max(map(len, side)) < 2]
    if short:
        return f"{' and '.join(short)} {'has' if len(short) == 1 else 'have'} no frontier of two points or more"
    return f"no frontier of A has a stretch of {score} in common with one of B"


def _overall(rows: list[WorldRow], a: Side, b: Side) -> Overall:
    tasks = [[_scores(side.worlds[row.world], row.score) for row in rows] for side in (a, b)]
    known = [row.world for row in rows if row.score == "success"]
    means = [
        iqm_over_tasks([_scores(side.worlds[world], "success") for world in known], generator=_dice())
        if known
        else None
        for side in (a, b)
    ]
    return Overall(
        [row.world for row in rows], probability_of_improvement(*tasks, generator=_dice()), known, means[0], means[1]
    )


def _warnings(world: str, a: list[Found], b: list[Found]) -> list[str]:
    """What the sides were not told alike; within a side all runs were."""
    pairs = {field: [getattr(runs[0].result, field) for runs in (a, b)] for field in MUST_AGREE}
    return [
        f"{world}: A and B differ in {field.replace('_', ' ')} ({told_apart(pairs[field])}): {what}"
        for field, what in MUST_AGREE.items()
        if pairs[field][0] != pairs[field][1]
    ]


def _notes(rows: list[WorldRow], a: Side, b: Side, floor: Side | None) -> list[str]:
    notes = [f"The floor without a run: {sentence}" for sentence in floor.unread] if floor else []
    for name, side, other in (("A", a, b), ("B", b, a)):
        if alone := [world for world in side.worlds if world not in other.worlds]:
            notes.append(f"Only {name} has runs of {', '.join(alone)}: not compared.")
        notes += [f"{name} without a run: {sentence}" for sentence in side.unread]
    if unbounded := [row.world for row in rows if row.bd_rate is not None and row.floor is None]:
        notes.append(
            f"Bits at equal score: in {', '.join(unbounded)} also at scores that a team may reach without messages; --floor "
            f"leaves them out."
        )
    few = [row.world for row in rows if min(len(row.a.seeds), len(row.b.seeds)) < ENOUGH_SEEDS]
    if few:
        notes.append(f"Fewer than {ENOUGH_SEEDS} seeds on a side in {', '.join(few)}: no claim can rest on it.")
    if any(row.probability_a_is_better.ci95 in ((0.0, 0.0), (1.0, 1.0)) for row in rows):
        notes.append(
            "Where every run of one side beats every run of the other, the interval of that probability has no width, which "
            "so few runs do not justify."
        )
    return notes
