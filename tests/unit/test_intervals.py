import doctest

import numpy as np
import pytest

from commlib.errors import RunError
from commlib.experiments import intervals
from commlib.experiments.intervals import bootstrap_ci, estimate, iqm, over_seeds, wilson_ci


def generator():
    return np.random.default_rng(0)


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(intervals).failed == 0
    assert doctest.testmod(intervals).attempted > 0


def test_the_bootstrap_agrees_with_the_normal_interval_where_that_is_right():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=2000)
    low, high = bootstrap_ci(values, generator=generator())
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    draws = np.random.default_rng(2).exponential(1.0, size=(200, 60))
    hits = sum(
        low <= 1.0 <= high for low, high in (bootstrap_ci(row, n_resamples=400, generator=generator()) for row in draws)
    )
    assert 0.88 <= hits / 200 <= 0.99


def test_more_confidence_is_wider_and_more_data_is_narrower():
    values = list(np.random.default_rng(3).random(50))
    low, high = bootstrap_ci(values, generator=generator())
    lower, higher = bootstrap_ci(values, confidence=0.99, generator=generator())
    assert lower < low < high < higher
    less, more = bootstrap_ci(values * 20, generator=generator())
    assert more - less < (high - low) / 3


def test_drawing_in_chunks_changes_the_memory_only(monkeypatch):
    values = np.random.default_rng(4).random(30)
    at_once = bootstrap_ci(values, generator=generator())
    monkeypatch.setattr(intervals, "_DRAWN_AT_ONCE", 700)
    assert bootstrap_ci(values, generator=generator()) == at_once


def test_another_statistic_has_its_own_interval():
    values = [0.0, 0.0, 0.98, 0.99, 1.0, 1.0, 1.0, 1.0]
    low, high = bootstrap_ci(values, generator=generator(), statistic=iqm)
    assert low <= iqm(values) <= high
    assert high <= 1.0


def test_iqm_is_what_scipy_calls_a_trimmed_mean():
    from scipy.stats import trim_mean

    for n in range(1, 14):
        values = np.random.default_rng(n).random(n)
        assert float(iqm(values)) == pytest.approx(float(trim_mean(values, 0.25)))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_successes_that_all_came_out_alike_are_not_certain(value):
    told = estimate([value] * 100)
    assert told.mean == value
    assert told.ci95 is not None
    low, high = told.ci95
    assert high - low == pytest.approx(0.037, abs=0.001)
    assert value in (low, high)


def test_successes_and_failures_get_wilsons_interval():
    assert estimate([1, 0, 1, 1]).ci95 == wilson_ci(3, 4)


def test_shares_get_the_bootstrap_and_always_the_same_one():
    values = [1.0, 2 / 3, 1.0, 1 / 3, 1.0, 1.0]
    told = estimate(values)
    assert told == estimate(values)
    assert told.n == 6
    assert told.ci95 is not None
    assert told.ci95[0] < told.mean < told.ci95[1]


def test_equal_values_that_are_no_successes_have_no_width():
    assert estimate([2.5, 2.5, 2.5]).ci95 == (2.5, 2.5)


def test_no_values_and_one_value():
    assert (estimate([]).mean, estimate([]).ci95, estimate([]).n) == (None, None, 0)
    assert (estimate([-3.5]).mean, estimate([-3.5]).ci95) == (-3.5, None)


@pytest.mark.parametrize("values", [[1.0, float("nan")], [float("inf"), 0.0]])
def test_a_diverged_value_is_refused_with_a_count(values):
    with pytest.raises(RunError, match="1 of 2 values"):
        estimate(values)


def test_nothing_has_no_interval():
    with pytest.raises(RunError, match="no values"):
        bootstrap_ci([], generator=generator())
    with pytest.raises(RunError, match="no values"):
        iqm([])


def test_over_seeds_each_run_counts_once_and_one_without_a_figure_does_not():
    told = over_seeds([0.0, 0.9, None, 0.9, 1.0, 1.0])
    assert told.iqm == pytest.approx(2.8 / 3)
    assert told.n == 5
    assert told.ci95 == bootstrap_ci([0.0, 0.9, 0.9, 1.0, 1.0], generator=generator(), statistic=iqm)
