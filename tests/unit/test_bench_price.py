"""The bench of prices: what is of use, what is followed, and when a figure says that something fell short."""

import pytest

from commlib.experiments.bench_price import PARALLEL, Point, smallest_useful, summary

CURVE = [Point(100.0, 9.0, 1.0), Point(20.0, 3.0, 0.7), Point(10.0, 2.0, 0.3), Point(0.0, 0.0, 0.1)]


def budget(times, success, share=0.98, overspend=0, seed=0):
    return {
        "kind": "budget",
        "seed": seed,
        "times": times,
        "bits_per_episode": 10 * times,
        "success": success,
        "success_ci95": [success - 0.01, success + 0.01],
        "spent_share": share,
        "spent_share_of_batches": [share - 0.01, min(1.0, share + 0.01)],
        "overspend_bits": overspend,
    }


def change(batch, since, share, seed=0):
    return {
        "kind": "change", "seed": seed, "batch": batch, "since_change": since, "spent_share": share,
        "wanted_share": share if share < 1 else 1.2, "overspend_bits": 0,
    }  # fmt: skip


def conflict(meant, binding, overspend=0):
    return {"kind": "conflict", "seed": 0, "meant": meant, "binding": binding, "overspend": {"bits": overspend}}


def shares(*segments):
    return [change(n, since, share) for n, segment in enumerate(segments) for since, share in enumerate(segment)]


GOOD = [budget(1, 0.5), budget(2, 0.9), budget(4, 0.895), *shares([0.98, 0.98], [0.99, 0.97]), conflict("bits", "bits")]


def test_half_of_what_can_be_gained_is_of_use():
    assert smallest_useful(CURVE) == pytest.approx(10 + 10 * (0.55 - 0.3) / 0.4)


def test_a_dip_in_the_curve_is_passed_over():
    assert smallest_useful([*CURVE, Point(60.0, 5.0, 0.2)]) == smallest_useful(CURVE)
    assert smallest_useful([Point(9.0, 1.0, 0.5)]) == 9.0, "nothing to gain: what is spent anyhow"


def test_a_bench_in_which_all_is_well():
    found = summary(GOOD)
    assert (found["spent_share_min"], found["spent_share_max"]) == (0.98, 0.98)
    assert (found["overspend_bits"], found["n_falls"], found["episodes_to_follow"]) == (0, 0, 0)
    assert found["share_named"] == 1.0
    assert found["success_2x"] == 0.9


def test_what_was_wanted_beyond_the_cap_is_told_apart():
    """A batch that wanted 1.2 times its budget, and was cut off at all of it, spent as it should."""
    found = summary([*GOOD[:3], *shares([0.98, 0.98], [1.0, 0.97, 0.97]), conflict("bits", "bits")])
    assert (found["episodes_to_follow"], found["episodes_to_follow_wanted"]) == (0, 512)


def test_success_that_surely_falls_is_counted():
    assert summary([*GOOD, budget(8, 0.85), budget(16, 0.99)])["n_falls"] == 1
    assert summary([*GOOD, budget(1, 0.99, seed=1)])["n_falls"] == 0, "another seed is another curve"


@pytest.mark.parametrize(
    ("after", "batches"), [([0.98, 0.97, 0.9], 0), ([0.9, 0.96], 1), ([1.0, 0.9, 0.96, 0.99], 2), ([0.5, 1.01, 0.8], 3)]
)
def test_a_change_is_followed_when_spending_is_just_below_the_new_budget(after, batches):
    rows = [row for row in GOOD if row["kind"] != "change"]
    assert summary([*rows, *shares([0.5], after)])["episodes_to_follow"] == batches * PARALLEL


def test_bits_beyond_a_budget_and_a_wrong_name_are_told():
    found = summary([*GOOD, budget(8, 0.9, overspend=3), conflict("messages", "bits"), conflict("bits", "bits", 1)])
    assert found["overspend_bits"] == 3
    assert found["share_named"] == pytest.approx(1 / 3)
