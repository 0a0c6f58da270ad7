"""Listeners meet the price-aware encoder at a price of its own in each rollout, and a killed run goes on alike."""

import math

import pytest

from commlib.agents.training import collect
from commlib.experiments import train as training
from commlib.experiments.compose import resolve
from commlib.experiments.progress import Quiet
from commlib.experiments.train import ADAPT_OCTAVES, run_training

SETTINGS = {
    "steps": 12_000, "episodes": 32, "learning": {"n_worlds": 64},
    "stages": {"fine_tune": 0.1, "adapt": 0.4, "rungs": 2, "calibrate_worlds": 32, "calibrate_rounds": 1},
}  # fmt: skip


def figures(result):
    of_the_place = {"seconds", "throughput", "run", "command"}
    return {name: value for name, value in result.to_json().items() if name not in of_the_place}


def test_every_rollout_has_a_price_of_its_own_and_a_killed_run_goes_on_alike(tmp_path, monkeypatch):
    weights = []

    def watched(team, world, phase, *rest):
        weights.append(phase.rate_weight)
        return collect(team, world, phase, *rest)

    monkeypatch.setattr(training, "collect", watched)
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    config = resolve("guide", None, None, SETTINGS)
    whole = run_training(config, tmp_path / "whole", display=Quiet())
    drawn = [weight for weight in weights if weight]
    assert len(drawn) >= 5
    assert len(set(drawn)) == len(drawn)
    assert math.log2(max(drawn) / min(drawn)) <= 2 * ADAPT_OCTAVES
    assert weights[: len(weights) - len(drawn)] == [0.0] * (len(weights) - len(drawn)), "at the end, and only there"

    first = list(weights)
    weights.clear()

    def dies(*given):
        if sum(map(bool, weights)) == 3:
            raise KeyboardInterrupt
        return watched(*given)

    monkeypatch.setattr(training, "collect", dies)
    with pytest.raises(KeyboardInterrupt):
        run_training(config, tmp_path / "killed", display=Quiet())
    monkeypatch.setattr(training, "collect", watched)
    weights.clear()
    again = run_training(config, tmp_path / "killed", display=Quiet(), resume=True)
    assert weights == first[-len(weights) :]
    assert figures(again) == figures(whole)
