"""Figures over several worlds: how sure a mean, a share or a comparison is when runs are drawn again within each world.

A jury that hears every run of every world (task) once, and is drawn again within each world, so that a world with noisy runs
cannot lend its luck to another. Not a test of significance: an interval says how far a figure would move with other runs.

Scores: the more, the better. A task is the scores of its runs, in any order; two sides name their tasks in the same order.
Where a task has one run, nothing says how much runs differ: there is no interval.

Shapes: R resamples, n runs of one side and m of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from commlib.errors import ConfigError
from commlib.experiments.intervals import Floats, finite, iqm, middle

Tasks: TypeAlias = "Sequence[Sequence[float] | Floats] | Floats"
"""Of each task the scores of its runs."""
N_RESAMPLES: Final = 2000


class Figure(NamedTuple):
    """A figure over runs with its 95 % bootstrap interval; None where there is one run to draw from."""

    value: float
    ci95: tuple[float, float] | None


def iqm_over_tasks(tasks: Tasks, *, n_resamples: int = N_RESAMPLES, generator: np.random.Generator) -> Figure:
    """The interquartile mean of the runs of all tasks together, with a stratified bootstrap interval.

    All runs are pooled, and `int(N / 4)` of the N are left out at each end; each resample draws as many runs as there are
    from every task by itself (Agarwal et al. 2021, arXiv:2108.13264, sec. 4). Scores must mean the same in every task, as
    success does and return does not; a task counts by its number of runs.

    >>> iqm_over_tasks([[0.0, 0.5], [0.7, 1.0]], generator=np.random.default_rng(0)).value
    0.6

    Raises:
        RunError: a task has no runs, or a score is not finite.
        ConfigError: there are no tasks.
    """
    values = _tasks(tasks)
    drawn = np.concatenate(_drawn_again(values, n_resamples, generator), axis=-1)
    return Figure(float(iqm(np.concatenate(values))), middle(iqm(drawn)) if _has_spread(values) else None)


def probability_of_improvement(
    x: Tasks, y: Tasks, *, n_resamples: int = N_RESAMPLES, generator: np.random.Generator
) -> Figure:
    """How probable it is that a run of `x` scores more than a run of `y`, on a task drawn at random; ties count half.

    The mean over tasks of `U / (n m)`, where U is the statistic of Mann and Whitney: pairs that x wins, and half of those
    that are equal (Agarwal et al. 2021, arXiv:2108.13264, sec. 4.3). The interval draws the runs of each task and side
    again. Where one side wins every pair it has no width, which a few runs do not justify.

    >>> probability_of_improvement([[1.0, 2.0]], [[0.0, 2.0]], generator=np.random.default_rng(0)).value
    0.625

    Raises:
        RunError: a task has no runs, or a score is not finite.
        ConfigError: the sides differ in their number of tasks, or have none.
    """
    ours, theirs = _tasks(x), _tasks(y)
    if len(ours) != len(theirs):
        raise ConfigError(f"{len(ours)} tasks stand beside {len(theirs)}; give both sides the same tasks in one order")
    won = [0.5 + 0.5 * np.sign(a[:, None] - b[None, :]) for a, b in zip(ours, theirs, strict=True)]
    value = float(np.mean([table.mean() for table in won]))
    if not (_has_spread(ours) and _has_spread(theirs)):
        return Figure(value, None)
    drawn = [means_of_pairs(table, n_resamples, generator) for table in won]
    return Figure(value, middle(np.mean(drawn, axis=0)))


class Profile(NamedTuple):
    """A performance profile: at each `tau` the share of runs that score more, with the ends of its interval.

    `low` and `high` are None where a task has one run.
    """

    taus: list[float]
    shares: list[float]
    low: list[float] | None
    high: list[float] | None


def performance_profile(
    tasks: Tasks, taus: Sequence[float], *, n_resamples: int = N_RESAMPLES, generator: np.random.Generator
) -> Profile:
    """Of each threshold the share of runs that score more than it, each task counting once.

    F(tau) = mean over tasks of the share of its runs with a score > tau (Agarwal et al. 2021, arXiv:2108.13264, sec. 4.2);
    intervals are those of each threshold by itself, by drawing runs again within each task.

    >>> performance_profile([[0.2, 0.8], [1.0]], [0.0, 0.5, 1.0], generator=np.random.default_rng(0)).shares
    [1.0, 0.75, 0.0]

    Raises:
        RunError: a task has no runs, or a score or threshold is not finite.
        ConfigError: there are no tasks.
    """
    values, grid = _tasks(tasks), [float(tau) for tau in finite(taus)]
    shares = [float(np.mean([(scores > tau).mean() for scores in values])) for tau in grid]
    if not _has_spread(values):
        return Profile(grid, shares, None, None)
    drawn = _drawn_again(values, n_resamples, generator)
    ends = [middle(np.mean([(scores > tau).mean(axis=-1) for scores in drawn], axis=0)) for tau in grid]
    return Profile(grid, shares, [low for low, _ in ends], [high for _, high in ends])


def ratio_of_iqms(
    x: Sequence[float] | Floats,
    y: Sequence[float] | Floats,
    *,
    n_resamples: int = N_RESAMPLES,
    generator: np.random.Generator,
) -> Figure | None:
    """The interquartile mean of `x` over that of `y`, both sides drawn again for its interval; None where y's is 0.

    Where so many runs of y are 0 that a resample has nothing to divide by, there is no interval.

    >>> ratio_of_iqms([1.0, 3.0], [4.0, 4.0], generator=np.random.default_rng(0))
    Figure(value=0.5, ci95=(0.25, 0.75))

    Raises:
        RunError: a side has no runs, or a value is not finite.
    """
    sides = _tasks([x, y])
    above, below = (float(iqm(values)) for values in sides)
    if below == 0:
        return None
    tops, bottoms = (iqm(values) for values in _drawn_again(sides, n_resamples, generator))
    has_interval = _has_spread(sides) and bool((bottoms != 0).all())
    return Figure(above / below, middle(tops / bottoms) if has_interval else None)


def _tasks(tasks: Tasks) -> list[Floats]:
    if len(tasks) == 0:
        raise ConfigError("there are no tasks to look at; give at least one with its runs")
    return [finite(scores) for scores in tasks]


def _has_spread(tasks: Iterable[Floats]) -> bool:
    return all(len(scores) > 1 for scores in tasks)


def _drawn_again(tasks: Iterable[Floats], n_resamples: int, generator: np.random.Generator) -> list[Floats]:
    """Of each task as many runs as it has, with replacement, R times: [R, n]."""
    return [scores[generator.integers(len(scores), size=(n_resamples, len(scores)))] for scores in tasks]


def _counts(n: int, n_resamples: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """How often each of n runs is drawn in each resample: [R, n]."""
    return generator.multinomial(n, np.full(n, 1 / n), size=n_resamples)


def means_of_pairs(table_nm: Floats, n_resamples: int, generator: np.random.Generator) -> Floats:
    """The mean over pairs of a run of one side and a run of the other, both sides drawn again: [R]. NaN pairs are left out.

    A resample without any pair is NaN.
    """
    rows, columns = (_counts(n, n_resamples, generator) for n in table_nm.shape)
    is_there = np.isfinite(table_nm)
    sums: Floats = ((rows @ np.where(is_there, table_nm, 0.0)) * columns).sum(axis=-1)
    n_pairs: Floats = ((rows @ is_there.astype(np.float64)) * columns).sum(axis=-1)
    means: Floats = np.divide(sums, n_pairs, out=np.full(n_resamples, np.nan), where=n_pairs > 0)
    return means
