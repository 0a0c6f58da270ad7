"""One number for a curve of bits and score: where it lies beside another one, and how much of the ground below it is covered.

A yardstick. A team that can be told what a bit is worth has not one point but a curve; these are the ways to say in one figure
how good it is, old and new. Not a judge of the points: whether their bits are estimates or wire is for the caller to say.

Scores: the more, the better. Bits: the fewer, the better, never below 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from commlib.errors import ConfigError
from commlib.experiments.intervals import middle
from commlib.experiments.strata import N_RESAMPLES, means_of_pairs
from commlib.records import Result


class Point(NamedTuple):
    """What a team scores at so many bits."""

    bits: float
    score: float


def frontier(result: Result, score: str) -> list[Point]:
    """A run's score at every price that its encoder was asked, at bits per agent and step, estimates.

    Args:
        result: of the run.
        score: `success` or `return`; prices at which no episode had one are left out.
    """
    asked = [
        (rung.bits_per_agent_step, rung.success if score == "success" else rung.return_) for rung in result.frontier
    ]
    return [Point(bits, value) for bits, value in asked if value is not None]


def pareto_front(points: Iterable[Point]) -> list[Point]:
    """The points that no other one beats, from the fewest bits on: with the bits the score rises, strictly.

    A point is beaten by one with no more bits and no lower score, unless they are equal; of equal ones, one stays.

    >>> pareto_front([Point(4, 0.9), Point(1, 0.5), Point(2, 0.4)])
    [Point(bits=1, score=0.5), Point(bits=4, score=0.9)]
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.bits, -point.score)):
        if not front or point.score > front[-1].score:
            front.append(point)
    return front


def hypervolume(points: Iterable[Point], reference: Point) -> float:
    """The area that is beaten by some point and beats the reference, in bits times score (Zitzler, Thiele 1999).

    The reference is the worst that counts: the most bits, and the lowest score. A point that is not better in both adds
    nothing. The figure means nothing without its reference.

    >>> hypervolume([Point(1, 0.5), Point(3, 1.0)], Point(4, 0.0))
    2.0
    """
    inside = [point for point in pareto_front(points) if point.bits < reference.bits and point.score > reference.score]
    return float(
        sum((after.bits - at.bits) * (at.score - reference.score) for at, after in pairwise([*inside, reference]))
    )


def anytime_area(points: Iterable[Point], *, bits: tuple[float, float], scores: tuple[float, float]) -> float:
    """The area below the best score so far, as bits grow, on axes that both go from 0 to 1.

    Bits `b` stand at log2(b / low) / log2(high / low) for `bits` = (low, high), which all methods of a world must share;
    what needs fewer than low stands at 0, what needs more than high is beyond the end. A score `s` stands at
    (s - none) / (best - none) for `scores` = (none, best): what a team comes to without messages, and 1 or the best there
    is; lower ones stand at 0, higher ones at 1. Before the first point the area has nothing. It is the hypervolume on these
    axes with the reference (1, 0), as for programs that improve while they run (Lopez-Ibanez, Stuetzle 2014).

    >>> anytime_area([Point(2.0, 0.75), Point(8.0, 1.0)], bits=(1.0, 16.0), scores=(0.5, 1.0))
    0.5

    Raises:
        ConfigError: the ends of an axis are not in order, or bits begin at 0.
    """
    (low, high), (none, best) = bits, scores
    if not 0 < low < high:
        raise ConfigError(f"bits from {low:g} to {high:g} make no axis of log2; begin above 0 and end higher")
    if not none < best:
        raise ConfigError(
            f"scores from {none:g} to {best:g} make no axis; the best must be above what no message reaches"
        )
    width = math.log2(high / low)
    shown = [
        Point(math.log2(max(point.bits, low) / low) / width, min(1.0, (point.score - none) / (best - none)))
        for point in points
    ]
    return hypervolume(shown, Point(1.0, 0.0))


def area_by_bandwidth(points: Iterable[Point]) -> float:
    """The seed paper's area under a curve: score (0 to 1) by the trapezoid rule over bits divided by the most bits used.

    As Farooq and Iqbal 2026, arXiv:2602.02035 have it: sum of (u' - u)(s + s') / 2 over neighbours, u = bits / most bits.
    To the left of the least bits nothing is added, so that a method which is cheap at every point, and spends little more
    at its dearest, gains nothing by it; and each method is measured in its own bits. For comparison with that paper alone:
    `anytime_area` has one axis for all.

    >>> area_by_bandwidth([Point(0.0, 0.0), Point(5.0, 0.5), Point(10.0, 0.5)])
    0.375
    """
    row = sorted(points)
    most = max((point.bits for point in row), default=0.0)
    if most == 0:
        return 0.0
    steps = [(after.bits - before.bits) * (before.score + after.score) / 2 for before, after in pairwise(row)]
    return float(sum(steps) / most)


def squared_reward_per_bit(reward: float, bits: float) -> float | None:
    """E3: reward^2 / bits; None of a reward below 0, whose square would call the worse the better, and of no bits.

    Reported here and there under that name; we know of no paper that derives it. The unit of the reward stands in it
    squared, so that figures of two worlds must not be compared.

    >>> squared_reward_per_bit(0.5, 2.0)
    0.125
    """
    return reward**2 / bits if reward >= 0 and bits > 0 else None


class _Curve(NamedTuple):
    """log2 of bits over score, from the lowest score to the highest; `area` is its integral from the lowest on."""

    low: float
    high: float
    area: Callable[[float], float]


def bd_rate(curve: Iterable[Point], rival: Iterable[Point], *, least: float = -math.inf) -> float | None:
    """The mean relative difference of bits at the same score: -0.5 where a curve needs half of its rival's bits.

    2^d - 1, where d is the mean of log2 b(s) - log2 b_rival(s) over the scores s that both curves reach (Bjontegaard 2001,
    VCEG-M33). Each curve is its Pareto front, between whose points log2 of bits over score is a monotone cubic (Fritsch,
    Carlson 1980, scipy's PCHIP); Bjontegaard's polynomial of third order takes four points and may swing. Points of 0 bits
    have no logarithm and are left out. Scores below `least` do not count: what is reached without messages needs no bits.
    None where a curve has fewer than two points, or no scores are common.

    >>> bd_rate([Point(1, 0.5), Point(2, 1.0)], [Point(2, 0.5), Point(4, 1.0)])
    -0.5
    """
    ours, theirs = _curve(curve), _curve(rival)
    difference = None if ours is None or theirs is None else _log2_difference(ours, theirs, least)
    return None if difference is None else _relative(difference)


class BdRate(NamedTuple):
    """The BD-rate of two sides of several runs, over the pairs of runs whose curves have scores in common.

    `scores` are the lowest and the highest score at which any pair was compared.
    """

    value: float
    ci95: tuple[float, float] | None
    n_pairs: int
    scores: tuple[float, float]


def bd_rate_over_runs(
    curves: Sequence[Iterable[Point]],
    rivals: Sequence[Iterable[Point]],
    *,
    least: float = -math.inf,
    n_resamples: int = N_RESAMPLES,
    generator: np.random.Generator,
) -> BdRate | None:
    """`bd_rate` over runs: the mean of log2 differences over all pairs of a curve and a rival, made a ratio again.

    Not the front of all runs' points together, which would take the luckiest seed at every score, and more of it the more
    seeds there are. Both sides are drawn again for the interval; there is none where a side has one run. None where no pair
    can be compared.
    """
    ours, theirs = [_curve(points) for points in curves], [_curve(points) for points in rivals]
    pairs = [[None if a is None or b is None else (a, b) for b in theirs] for a in ours]
    ends = [there for row in pairs for pair in row if pair is not None and (there := _common(*pair, least)) is not None]
    if not ends:
        return None
    table_nm = np.array(
        [[np.nan if pair is None else _log2_difference(*pair, least) for pair in row] for row in pairs], float
    )
    ci95 = None
    if min(table_nm.shape) > 1:
        drawn = means_of_pairs(table_nm, n_resamples, generator)
        low, high = middle(drawn[np.isfinite(drawn)])
        ci95 = _relative(low), _relative(high)
    scores = min(low for low, _ in ends), max(high for _, high in ends)
    return BdRate(_relative(float(np.nanmean(table_nm))), ci95, len(ends), scores)


def _curve(points: Iterable[Point]) -> _Curve | None:
    front = pareto_front(point for point in points if point.bits > 0)
    if len(front) < 2:
        return None
    from scipy.interpolate import PchipInterpolator

    scores = [point.score for point in front]
    area = PchipInterpolator(scores, [math.log2(point.bits) for point in front]).antiderivative()
    return _Curve(scores[0], scores[-1], lambda score: float(area(score)))


def _common(curve: _Curve, rival: _Curve, least: float) -> tuple[float, float] | None:
    """The scores that both reach and that count, from the lowest to the highest; None if that is not a stretch."""
    low, high = max(curve.low, rival.low, least), min(curve.high, rival.high)
    return (low, high) if low < high else None


def _log2_difference(curve: _Curve, rival: _Curve, least: float) -> float | None:
    """The mean difference of log2 bits over the scores that both reach and that count."""
    if (ends := _common(curve, rival, least)) is None:
        return None
    low, high = ends
    return ((curve.area(high) - curve.area(low)) - (rival.area(high) - rival.area(low))) / (high - low)


def _relative(log2_ratio: float) -> float:
    return math.expm1(log2_ratio * math.log(2))
