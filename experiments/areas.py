"""How much of the ground below its curve of bits and score each method covers, on axes that all methods of a world share.

A run's curve is its own figures and its frontier, bits being estimates per agent and step, since a frontier has no others. The
axis of bits goes, by its logarithm, from the fewest of any run to the most; that of success from what the runs of the method
`none` come to, which must be among them, to 1; in a world without success that of the return, to the best there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from commlib.errors import ConfigError
from commlib.experiments.curves import (
    Point,
    anytime_area,
    area_by_bandwidth,
    frontier,
    hypervolume,
    squared_reward_per_bit,
)
from commlib.experiments.intervals import OverSeeds, over_seeds
from commlib.records import Result


class Area(NamedTuple):
    """One method in one world, over its runs.

    Attributes:
        name: of the method, or of what else the runs have in common.
        area: normalised, 0..1.
        times: the area by that of the best other method; None where that is 0.
        volume: the hypervolume, 0..1: the same with bits as they are, from 0 to the most of any run.
        by_bandwidth: the seed paper's area, success over bits by the most bits of the run itself; none where there is no success,
            or one point.
        squared: success^2 per wire bit (E3 of Plan-and-Budget); none where there is no success, or nothing is sent.
    """

    name: str
    area: OverSeeds
    times: float | None
    volume: OverSeeds
    by_bandwidth: OverSeeds
    squared: OverSeeds


def areas(groups: Mapping[str, Sequence[Result]]) -> list[Area]:
    """The area of each group of runs of one world, the largest first.

    Raises:
        ConfigError: `why_no_areas` has a reason.
    """
    axes = _axes(groups)
    if isinstance(axes, str):
        raise ConfigError(axes)
    has_success, ends, (none, best) = axes
    curves = {name: [_curve(run, has_success) for run in runs] for name, runs in groups.items()}
    worst, ground = Point(ends[1], none), ends[1] * (best - none)

    def area(name: str) -> OverSeeds:
        return over_seeds([anytime_area(one, bits=ends, scores=(none, best)) for one in curves[name]])

    found = {name: area(name) for name in curves}
    return [
        Area(
            name,
            found[name],
            _times(name, found),
            over_seeds([hypervolume(one, worst) / ground for one in curves[name]]),
            over_seeds([_by_bandwidth(one) if has_success else None for one in curves[name]]),
            over_seeds([_squared(run) for run in groups[name]]),
        )
        for name in sorted(found, key=lambda name: -(found[name].iqm or 0.0))
    ]


def _by_bandwidth(points: Sequence[Point]) -> float | None:
    """The seed paper's area; None of one point, whose area would be 0 wherever it lies."""
    return area_by_bandwidth(points) if len({point.bits for point in points}) > 1 else None


def why_no_areas(groups: Mapping[str, Sequence[Result]]) -> str | None:
    """Why these runs of one world have no axes in common; None if they have."""
    axes = _axes(groups)
    return axes if isinstance(axes, str) else None


class _Axes(NamedTuple):
    """Whether scores are success, else returns; the fewest and the most bits; the score of silence, and the best."""

    has_success: bool
    bits: tuple[float, float]
    scores: tuple[float, float]


def _axes(groups: Mapping[str, Sequence[Result]]) -> _Axes | str:
    """The axes that all runs share, or why there are none."""
    runs = [run for some in groups.values() for run in some]
    has_success = all(run.success.mean is not None for run in runs)
    none = over_seeds([_curve(run, has_success)[0].score for run in runs if _is_silent(run)]).iqm
    if none is None:
        return f"areas need what a team without messages comes to; add runs of none to {', '.join(groups)}"
    points = [point for run in runs for point in _curve(run, has_success)]
    bits = {point.bits for point in points if point.bits > 0}
    if len(bits) < 2:
        return f"nothing is said in any run of {', '.join(groups)}, or the same; there is no axis of bits"
    best = 1.0 if has_success else max(point.score for point in points)
    if none >= best:
        return f"nothing in {', '.join(groups)} is better than saying nothing; there is no axis of scores"
    return _Axes(has_success, (min(bits), max(bits)), (none, best))


def _times(name: str, found: Mapping[str, OverSeeds]) -> float | None:
    rival = max((area.iqm or 0.0 for other, area in found.items() if other != name), default=0.0)
    return None if rival == 0 else (found[name].iqm or 0.0) / rival


def _curve(run: Result, has_success: bool) -> list[Point]:
    score, at = ("success", run.success.mean) if has_success else ("return", run.return_.mean)
    return [Point(run.bits.per_agent_step.estimate, at or 0.0), *frontier(run, score)]


def _is_silent(run: Result) -> bool:
    return run.method == "none" and run.bits.per_agent_step.wire == 0


def _squared(run: Result) -> float | None:
    success = run.success.mean
    return None if success is None else squared_reward_per_bit(success, run.bits.per_agent_step.wire)
