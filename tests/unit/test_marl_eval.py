"""The file for marl-eval has the layout that its README asks for, and says what keeps it from being read whole."""

import json
from pathlib import Path

import pytest

from commlib.experiments.marl_eval import exported, unevenness
from commlib.experiments.sides import Side, read_side

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
METRICS = ["return", "success", "wire_bits_per_agent_episode"]


def side(pattern):
    return read_side(f"{RESULTS}/{pattern}.json")


def test_the_layout():
    a, b = side("predator_prey_*[my]-ours-[0-9]"), side("predator_prey_*-dense-[0-9]")
    made = json.loads(json.dumps(exported(a, b)))
    assert list(made) == ["commlib"]
    tasks = made["commlib"]
    assert sorted(tasks) == ["predator_prey_easy_v1", "predator_prey_medium_v1"]
    for algorithms in tasks.values():
        assert list(algorithms) == ["ours", "dense"]
        for runs in algorithms.values():
            assert list(runs) == [f"seed_{seed}" for seed in range(5)]
            for steps in runs.values():
                assert list(steps) == ["step_0", "absolute_metrics"]  # marl-eval takes the last for the absolute one
                assert sorted(steps["step_0"]) == sorted([*METRICS, "step_count"])
                assert sorted(steps["absolute_metrics"]) == METRICS
                assert all(len(steps["absolute_metrics"][metric]) == 1 for metric in METRICS)
    assert unevenness(made) == []


def test_the_figures_are_those_of_the_results():
    a = side("predator_prey_easy-ours-3")
    result = a.runs[0].result
    run = exported(a, a)["commlib"]["predator_prey_easy_v1"]["ours_a"]["seed_3"]
    metrics = {
        "return": [result.return_.mean],
        "success": [result.success.mean],
        "wire_bits_per_agent_episode": [result.bits.per_agent_episode.wire],
    }
    assert run == {"step_0": {"step_count": result.steps, **metrics}, "absolute_metrics": metrics}


def test_sides_of_the_same_method_are_told_apart():
    made = exported(side("predator_prey_easy-ours-?"), side("predator_prey_easy-ours-rate-?"))
    assert list(made["commlib"]["predator_prey_easy_v1"]) == ["ours_a", "ours_b"]


def test_worlds_without_a_success_are_an_environment_of_their_own():
    both = exported(side("speaker_listener-ours-?"), side("speaker_listener-dense-?"))
    assert list(both) == ["commlib_without_success"]
    steps = both["commlib_without_success"]["speaker_listener_v1"]["dense"]["seed_0"]
    assert sorted(steps["absolute_metrics"]) == ["return", "wire_bits_per_agent_episode"]


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        ("predator_prey_easy-ours-?", "predator_prey_easy-dense-[0-3]", ["the same seeds"]),
        ("predator_prey_*-ours-[0-9]", "predator_prey_easy-dense-?", ["every method has runs in every world"]),
        ("predator_prey_*-ours-[0-9]", "predator_prey_easy-dense-0", ["every method has runs", "the same seeds"]),
    ],
)
def test_what_is_missing_is_said(a, b, told):
    sentences = unevenness(exported(side(a), side(b)))
    assert len(sentences) == len(told)
    assert all(words in sentence for words, sentence in zip(told, sentences, strict=True))


def test_names_are_in_lower_case():
    found = side("guide-ours-0")
    world = {
        "my.worlds:Coin": [
            run._replace(result=run.result.model_copy(update={"world": "my.worlds:Coin"})) for run in found.runs
        ]
    }
    made = exported(Side("x", world, ()), found)
    assert sorted(made["commlib"]) == ["guide_v1", "my.worlds:coin"]
