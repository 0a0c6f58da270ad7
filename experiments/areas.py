"""How much of the ground below its curve of bits and score each method covers, on axes that all methods of a world share.

A run's curve is its own figures and its frontier, bits being estimates per agent and step, since a frontier has no others. The
axis of bits goes, by its logarithm, from the fewest of any run to the most; that of success from what the runs of the method
`none` come to, which must be among them, to 1; in a world without success that of the return, to the best there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from commlib.errors import ConfigError
from commlib.experiments.curves import Point, anytime_area, frontier, squared_reward_per_bit
from commlib.experiments.intervals import OverSeeds, over_seeds
from commlib.records import Result


class Area(NamedTuple):
    """One method in one world, over its runs.

    Attributes:
        name: of the method, or of what else the runs have in common.
        area: normalised, 0..1.
        times: the area by that of the best other method; None where that is 0.
        squared: success^2 per wire bit (E3 of Plan-and-Budget); none where there is no success, or nothing is sent.
    """

    name: str
    area: OverSeeds
    times: float | None
    squared: OverSeeds


def areas(groups: Mapping[str, Sequence[Result]]) -> list[Area]:
    """The area of each group of runs of one world, the largest first.

    Raises:
        ConfigError: no run is of the method `none`, or no run says anything.
    """
    has_success = all(run.success.mean is not None for runs in groups.values() for run in runs)
    curves = {name: [_curve(run, has_success) for run in runs] for name, runs in groups.items()}
    silent = [_curve(run, has_success)[0].score for runs in groups.values() for run in runs if _is_silent(run)]
    none = over_seeds(silent).iqm
    if none is None:
        raise ConfigError(f"areas need what a team without messages comes to; add runs of none to {', '.join(groups)}")
    points = [point for some in curves.values() for one in some for point in one]
    spoken = [point.bits for point in points if point.bits > 0]
    if not spoken:
        raise ConfigError(f"nothing is said in any run of {', '.join(groups)}; there is no axis of bits")
    ends, best = (min(spoken), max(spoken)), 1.0 if has_success else max(point.score for point in points)
    found = {
        name: over_seeds([anytime_area(one, bits=ends, scores=(none, best)) for one in some])
        for name, some in curves.items()
    }
    return [
        Area(name, found[name], _times(name, found), over_seeds([_squared(run) for run in groups[name]]))
        for name in sorted(found, key=lambda name: -(found[name].iqm or 0.0))
    ]


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
