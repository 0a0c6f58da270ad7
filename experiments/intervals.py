"""How sure a figure is: intervals for means over episodes and over seeds.

A figure without an interval is a rumour. Over episodes the mean is asked for, over seeds the interquartile mean; the
interval comes from drawing the same data again with replacement. Not a test of significance: it says how far the figure
would move with other episodes or seeds, and nothing about which method is better.

Shapes: R resamples, n values.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from commlib.errors import RunError
from commlib.records import Estimate

Floats: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[[Floats], "Floats | np.float64"]
"""Reduces the last axis: [..., n] -> [...]."""

CONFIDENCE: Final = 0.95
ENOUGH_SEEDS: Final = 5
"""With fewer runs, no claim can rest on a figure over seeds."""
_SEED: Final = 20_210_813
_DRAWN_AT_ONCE: Final = 2_000_000
"""Values drawn in one go, so that the memory stays small whatever n is."""


def iqm(values: ArrayLike) -> Any:  # noqa: ANN401 (a number, or an array where more than one axis came in)
    """Interquartile mean over the last axis: the mean without the lowest and the highest quarter.

    As in Agarwal et al. 2021, arXiv:2108.13264, sec. 4.3: `int(n / 4)` values are left out at each end.

    >>> float(iqm([0.0, 0.9, 0.9, 1.0, 1.0]))
    0.9333333333333332

    Raises:
        RunError: there are no values, or one is not finite.
    """
    sorted_values = np.sort(finite(values), axis=-1)
    n = sorted_values.shape[-1]
    return sorted_values[..., n // 4 : n - n // 4].mean(axis=-1)


def mean(values: Floats) -> Floats | np.float64:
    """Mean over the last axis."""
    means: Floats | np.float64 = np.mean(values, axis=-1)
    return means


def bootstrap_ci(
    values: Sequence[float] | Floats,
    *,
    n_resamples: int = 2000,
    confidence: float = CONFIDENCE,
    generator: np.random.Generator,
    statistic: Statistic = mean,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean, or of another statistic such as `iqm`.

    >>> bootstrap_ci([1.0, 2.0, 3.0, 4.0], generator=np.random.default_rng(0))
    (1.5, 3.5)

    n equal values give an interval of no width, which for successes and failures is too sure of itself: `estimate`
    uses Wilson's interval for those.

    Raises:
        RunError: there are no values, or one is not finite.
    """
    values_n = finite(values)
    n = len(values_n)
    per_chunk = max(1, _DRAWN_AT_ONCE // n)
    drawn = [
        statistic(values_n[generator.integers(n, size=(min(per_chunk, n_resamples - start), n))])
        for start in range(0, n_resamples, per_chunk)
    ]
    return middle(np.concatenate(drawn), confidence)


def middle(drawn: Floats, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The ends of the middle 95 % of what was drawn, or of another share.

    >>> middle(np.arange(101.0), 0.5)
    (25.0, 75.0)
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def wilson_ci(n_successes: int, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a share: as wide as it should be even when all n came out alike.

    >>> low, high = wilson_ci(20, 20)
    >>> round(low, 2), high
    (0.84, 1.0)
    """
    from scipy.stats import binomtest

    interval = binomtest(n_successes, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def estimate(values: Sequence[float] | Floats) -> Estimate:
    """Mean over episodes with its 95 % interval; the same values always give the same interval.

    Wilson's interval when every value is 0 or 1, the percentile bootstrap otherwise. One value alone, if it is neither
    0 nor 1, has no interval; no values have no mean either.

    >>> estimate([1.0] * 20).mean, estimate([]).mean
    (1.0, None)

    Raises:
        RunError: a value is not finite.
    """
    if len(values) == 0:
        return Estimate(mean=None, ci95=None, n=0)
    values_n = finite(values)
    n = len(values_n)
    ci95: tuple[float, float] | None
    if np.isin(values_n, (0.0, 1.0)).all():
        ci95 = wilson_ci(int(values_n.sum()), n)
    elif n == 1:
        ci95 = None
    else:
        ci95 = bootstrap_ci(values_n, generator=np.random.default_rng(_SEED))
    return Estimate(mean=float(values_n.mean()), ci95=ci95, n=n)


class OverSeeds(NamedTuple):
    """A figure over n runs that differ only in their seed: the interquartile mean of the runs' own figures.

    `ci95` is the bootstrap interval over runs; None of one run alone. `iqm` is None where no run has such a figure.
    """

    iqm: float | None
    ci95: tuple[float, float] | None
    n: int


def over_seeds(values: Sequence[float | None]) -> OverSeeds:
    """The interquartile mean over runs, each of which counts once, as its mean over episodes.

    Not over episodes: they are no independent trainings, and the middle half of successes that are 0 or 1 is 1 from three
    quarters on. A run without such a figure is left out.

    >>> over_seeds([0.5]), over_seeds([None]).iqm
    (OverSeeds(iqm=0.5, ci95=None, n=1), None)

    Raises:
        RunError: a value is not finite.
    """
    there = [value for value in values if value is not None]
    if not there:
        return OverSeeds(None, None, 0)
    middle = float(iqm(there))
    if len(there) == 1:
        return OverSeeds(middle, None, 1)
    return OverSeeds(middle, bootstrap_ci(there, generator=np.random.default_rng(0), statistic=iqm), len(there))


def with_interval(figure: OverSeeds, digits: int, scale: float = 1.0) -> str:
    """A figure over seeds as the pages write it; a dash where there is none.

    >>> with_interval(OverSeeds(0.5, (0.25, 0.75), 5), 1, 100)
    '50.0 (25.0-75.0)'
    """
    if figure.iqm is None:
        return "-"
    ends = None if figure.ci95 is None else "-".join(f"{scale * end:.{digits}f}" for end in figure.ci95)
    return f"{scale * figure.iqm:.{digits}f}" + ("" if ends is None else f" ({ends})")


def finite(values: ArrayLike) -> Floats:
    """The values as an array of float64.

    Raises:
        RunError: there are no values, or one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise RunError("there are no values to take a mean of; let at least one episode end")
    n_wrong = array.size - int(np.isfinite(array).sum())
    if n_wrong:
        raise RunError(f"{n_wrong} of {array.size} values are NaN or infinite; look for what diverged in metrics.jsonl")
    return array
