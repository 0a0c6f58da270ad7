"""The benches of Ray, small: what they measure is there, and the books of what they play are sound."""

import pytest

from commlib.experiments.bench import draw, run_bench


def silent(text):
    """Nobody listens."""


def test_rounds_over_ray_beside_a_call_per_message():
    outcome = run_bench("ray", 3, "commlib bench ray", silent, quick=True)
    rows, summary = outcome.record["rows"], outcome.record["summary"]
    assert summary["audit_differences"] == 0
    assert summary["vs_naive"] > 1
    ours, one_world, here = (
        next(row for row in rows if row.get("way") == way) for way in ("ours", "ours, one world", "in process")
    )
    assert ours["wire_bits_per_agent"] == pytest.approx(here["wire_bits_per_agent"], rel=0.03), "the same traffic"
    assert (ours["n_worlds"], one_world["n_worlds"]) == (16, 1)
    said = [row["said_per_second"] * row["wall_seconds_per_round"] for row in (ours, one_world)]
    assert said[0] == pytest.approx(16 * said[1], rel=0.1)
    assert 0.3 * 64 * 63 < said[1] < 0.6 * 64 * 63, "half of the messages are new, and only these count"
    assert summary["socket_bytes_per_frame"] > summary["bytes_per_frame"] > 10
    assert draw(outcome.record).axes


def test_a_town_that_grows_over_ray():
    outcome = run_bench("scale-ray", 3, "commlib bench scale --runtime ray", silent, quick=True)
    rows = outcome.record["rows"]
    assert [row["n_agents"] for row in rows] == [64, 256, 1024]
    assert outcome.record["summary"]["audit_differences"] == 0
    assert all(row["n_hosts"] == 2 and row["runtime"] == "ray" for row in rows)
    assert draw(outcome.record).axes


def test_a_training_run_on_nodes_that_die():
    outcome = run_bench("cluster", 3, "commlib bench cluster", silent, quick=True)
    peace, blows = outcome.record["rows"]
    assert blows["journal_digest"] == peace["journal_digest"]
    assert [event["blow"] for event in blows["events"]] == ["node killed", "host stopped", "driver killed"]
    assert all(is_reached for _, is_reached in outcome.verdicts)
    assert draw(outcome.record).axes
