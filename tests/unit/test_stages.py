"""The stages of a training: how the learning rate falls over each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commlib.config import make_config
from commlib.experiments.compose import resolve
from commlib.experiments.train import fallen, phase_of, stages_of

SHARES = st.floats(0, 1)


@given(SHARES)
def test_rex_keeps_the_rate_longer_and_ends_where_the_line_does(share):
    assert fallen("rex", share) >= fallen("linear", share) - 1e-12
    for schedule in ("linear", "rex"):
        assert fallen(schedule, 0.0) == 1.0
        assert fallen(schedule, 1.0) == pytest.approx(0.05)


@given(SHARES, SHARES)
def test_the_rate_never_rises(one, other):
    for schedule in ("linear", "rex"):
        assert fallen(schedule, max(one, other)) <= fallen(schedule, min(one, other))


def test_rex_by_hand():
    assert fallen("rex", 0.5) == pytest.approx(0.05 + 0.95 * 0.5 / 0.75)


def test_each_stage_falls_by_the_schedule_that_is_asked_for():
    config = resolve("guide", "ours", None)
    rex = config.model_copy(update={"learning": config.learning.model_copy(update={"schedule": "rex"})})
    for stage in stages_of(config):
        middle = (stage.start + stage.stop) // 2
        straight, bent = (phase_of(one, stage, middle, 0.0).learning_rate for one in (config, rex))
        assert bent / straight == pytest.approx(fallen("rex", 0.5) / fallen("linear", 0.5))
        assert (
            phase_of(rex, stage, stage.start, 0.0).learning_rate
            == phase_of(config, stage, stage.start, 0.0).learning_rate
        )


def test_imitation_ends_after_its_share_of_all_steps_in_whatever_stage_that_is():
    config = make_config(("test", {"steps": 1000, "learning": {"imitation": 2.0, "imitation_until": 0.9}}))
    dense, fine_tune = stages_of(config)
    found = [
        phase_of(config, dense, 0, 0.0),
        phase_of(config, fine_tune, 810, 0.0),
        phase_of(config, fine_tune, 950, 0.0),
    ]
    assert [phase.imitation for phase in found] == pytest.approx([2.0, 0.2, 0.0])
    assert phase_of(make_config(), dense, 0, 0.0).imitation == 0
