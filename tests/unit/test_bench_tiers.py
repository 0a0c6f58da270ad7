"""The bench of tiers: curves, what they reach, and the two figures that sum them up."""

import pytest

from commlib.experiments.bench_tiers import MARGIN, NEVER, bits_for, frontier, reached, summary


def rows(tier, *points):
    return [{"tier": tier, "bits_per_agent_step": bits, "success": success} for bits, success in points]


def test_a_curve_keeps_what_nothing_beats():
    assert frontier(rows("a", (2.0, 0.9), (1.0, 0.5), (1.5, 0.4), (3.0, 0.9))) == [(1.0, 0.5), (2.0, 0.9)]


def test_a_curve_is_read_both_ways():
    curve = [(1.0, 0.5), (2.0, 0.9)]
    assert [reached(curve, bits) for bits in (0.1, 1.0, 1.5, 9.0)] == pytest.approx([0.5, 0.5, 0.7, 0.9])
    assert [bits_for(curve, success) for success in (0.1, 0.7, 0.9, 0.95)] == pytest.approx([1.0, 1.5, 2.0, NEVER])


OTHERS = [
    *rows("stage 1", (0.5, 0.5), (1.0, 0.6)),
    *rows("stages 1 to 2", (0.001, 0.59), (1.0, 0.7), (2.0, 0.9), (4.0, 1.0)),
    *rows("vq", (1.0, 0.95), (2.0, 1.0)),
]


def test_a_better_curve_gains_everywhere_and_saves():
    found = summary([*OTHERS, *rows("router", (0.4, 0.55), (1.0, 0.9), (2.0, 1.0))])
    assert found["least_gain"] == pytest.approx(0.0), "at 4 bits both are perfect; below 71 % nothing is compared"
    assert found["bits_at_95"] == pytest.approx(1.5 / 3.0)
    assert found["bits_at_margin"] == pytest.approx((2 - MARGIN / 0.1) / (4 - MARGIN / 0.05))
    assert found["least_gain_vq"] == pytest.approx(0.9 - 0.95)
    assert found["bits_at_95_vq"] == pytest.approx(1.5 / 1.0)


def test_one_rung_above_the_curve_is_a_loss():
    found = summary([*OTHERS, *rows("router", (0.4, 0.45), (1.0, 0.65), (2.0, 0.99))])
    assert found["least_gain"] == pytest.approx(0.99 - 1.0)
    assert found["bits_at_margin"] == NEVER / (4 - MARGIN / 0.05), "it never gets there"
