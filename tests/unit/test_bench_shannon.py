"""The rate tuning, the real rates and the equal distortions of the shannon bench."""

import numpy as np
import pytest

from commlib.experiments.bench_shannon import (
    _QUICK,
    ALPHABET,
    Ours,
    _discrete,
    _memory,
    _next_weight,
    discrete_sources,
    is_beaten,
)
from commlib.experiments.sources import NumberSource


def test_a_frame_of_a_memoryless_source_is_close_to_its_entropy():
    for name, source, kind in discrete_sources()[:2]:
        row = _discrete(name, source, kind, _QUICK, 0)
        assert abs(row["gap_to_self_information"]) < 0.01
        assert row["entropy_rate"] <= np.log2(ALPHABET)


def test_ours_comes_close_to_the_rate_that_is_asked_for():
    source, generator = NumberSource("Gaussian"), np.random.default_rng(0)
    size = _QUICK._replace(n_sweep=400)
    train, test = source.draw(1500, 8, generator), source.draw(500, 8, generator)
    ours = Ours(source.curve, train, test, size, 0)
    reached = ours.at(0.8)
    assert reached.rate == pytest.approx(0.8, rel=0.12), "within what so few vectors allow"
    assert 0 < reached.gap_db < 6
    assert ours.at(0.8) == reached


@pytest.mark.parametrize(
    ("rate", "distortion", "gap_db", "beaten"),
    [
        (1.01, 0.3, 1.0, True),
        (1.01, 0.3, 1.5, False),
        (0.9, 0.35, 1.0, True),
        (0.9, 0.45, 1.0, False),
        (1.2, 0.1, 0.1, False),
    ],
)
def test_a_rival_is_beaten_at_its_own_rate_or_below_it_in_both(rate, distortion, gap_db, beaten):
    row = {"rate": 1.0, "distortion": 0.4, "gap_db": 1.2}
    assert is_beaten({**row, "ours_rate": rate, "ours_distortion": distortion, "ours_gap_db": gap_db}) == beaten


def test_a_weight_follows_the_rate():
    assert _next_weight(0.4, found=1.2, rate=1.0, before=None) > 0.4
    assert _next_weight(0.4, found=0.8, rate=1.0, before=None) < 0.4
    exact = _next_weight(0.4, found=1.2, rate=1.0, before=(0.2, 1.2 + 0.5 * np.log(2)))
    assert exact == pytest.approx(0.4 * np.exp(0.2 / 0.5)), "the secant of two fits"


def test_context_is_judged_at_equal_distortion():
    plain, informed = _memory(8, _QUICK, 0)
    assert plain["distortion"] == informed["distortion"]
    assert informed["rate"] < 0.65 * plain["rate"]
    assert informed["saving"] == pytest.approx(1 - informed["rate"] / plain["rate"])
