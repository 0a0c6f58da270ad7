"""Areas of several methods on axes that they share: figures by hand on made-up runs, and what has no axes."""

import json
from pathlib import Path

import pytest

from commlib.errors import ConfigError
from commlib.experiments.areas import areas, why_no_areas
from commlib.records import Result

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
TEMPLATE = json.loads((RESULTS / "predator_prey_easy-ours-0.json").read_text())


def run(method, bits, success, frontier=(), return_=-1.0):
    def same(n):
        return {"estimate": n, "payload": n, "wire": n}

    rungs = [
        {"bit_price": 0.0, "rate_weight": 0.0, "success": score, "return": -1.0, "bits_per_agent_step": asked}
        for asked, score in frontier
    ]
    return Result.from_json(
        TEMPLATE
        | {
            "method": method,
            "success": {"mean": success, "ci95": None, "n": 8},
            "return": {"mean": return_, "ci95": None, "n": 8},
            "bits": {key: same(bits) for key in ("per_agent_step", "per_agent_episode", "per_message")},
            "frontier": rungs,
        }
    )


NONE = run("none", 0.0, 0.5)


def test_areas_by_hand():
    ours, dense = run("ours", 2.0, 1.0, frontier=[(1.0, 0.75)]), run("dense", 16.0, 1.0)
    first, second, third = areas({"dense": [dense], "ours": [ours], "none": [NONE]})
    assert [one.name for one in (first, second, third)] == ["ours", "dense", "none"]
    # by log2: half the height for a quarter of the way from 1 to 16, then all of it
    assert first.area.iqm == pytest.approx(0.25 * 0.5 + 0.75)
    assert (second.area.iqm, second.times) == (0.0, 0.0)
    assert first.times is None, "there is nothing to be so many times as large as"
    # as they are: nothing up to 1 of 16, half of the height up to 2, then all of it
    assert first.volume.iqm == pytest.approx((1 * 0.5 + 14) / 16)
    assert second.volume.iqm == 0.0
    assert second.by_bandwidth.iqm is None, "one point has no area, wherever it lies"
    # the paper's: from 1 to 2 of 2 at most
    assert first.by_bandwidth.iqm == pytest.approx(0.5 * (0.75 + 1.0) / 2)
    assert first.squared.iqm == pytest.approx(0.5)
    assert third.squared.iqm is None


def test_a_dear_rival_hardly_shrinks_the_hypervolume():
    cheap, dear = run("cheap", 1.0, 0.9), run("dear", 2.0, 0.9)
    far = run("far", 1024.0, 0.9)
    first, second, *_ = areas({"cheap": [cheap], "dear": [dear], "far": [far], "none": [NONE]})
    assert second.area.iqm / first.area.iqm == pytest.approx(0.9)
    assert second.volume.iqm / first.volume.iqm == pytest.approx(1022 / 1023)


def test_a_world_without_success_goes_by_its_return():
    ours, dense = run("ours", 2.0, None, return_=-1.0), run("dense", 8.0, None, return_=-1.0)
    first, second, _ = areas({"ours": [ours], "dense": [dense], "none": [run("none", 0.0, None, return_=-3.0)]})
    assert (first.area.iqm, second.area.iqm) == (1.0, 0.0)
    assert first.by_bandwidth.iqm is None
    assert first.squared.iqm is None


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        ([run("ours", 2.0, 1.0), run("dense", 8.0, 1.0)], "add runs of none"),
        ([NONE], "nothing is said"),
        ([NONE, run("ours", 2.0, 1.0)], "no axis of bits"),
        ([run("none", 0.0, 1.0), run("ours", 2.0, 1.0), run("dense", 8.0, 1.0)], "better than saying nothing"),
    ],
)
def test_what_has_no_axes_is_told_why(runs, reason):
    groups = {one.method: [one] for one in runs}
    assert reason in (why_no_areas(groups) or "")
    with pytest.raises(ConfigError, match=reason):
        areas(groups)
