"""The tables of the two claims: figures by hand on made-up runs, and what is refused."""

import json
from pathlib import Path

import pytest

from commlib.errors import ConfigError
from commlib.experiments.claims import rate_rows, rival_rows
from commlib.experiments.tables import filled

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
TEMPLATE = json.loads((RESULTS / "predator_prey_easy-ours-0.json").read_text())


def write(folder, name, seed=0, success=0.9, wire=2.0, steps=10, messages=0.25, **changes):
    """A run of 64 codes whose agents have `steps` live steps in an episode."""

    def bits(n):
        return {"estimate": n, "payload": n, "wire": n}

    rung = {"bit_price": 0.0, "rate_weight": 0.0, "success": 0.8, "return": -1.0, "bits_per_agent_step": 6.0}
    run = TEMPLATE | {
        "seed": seed,
        "success": {"mean": success, "ci95": None, "n": 8},
        "bits": {"per_agent_step": bits(wire), "per_agent_episode": bits(steps * wire), "per_message": bits(wire)},
        "messages_per_agent_step": messages,
        "episode_steps": {"mean": steps, "ci95": None, "n": 8},
        "codec_health": {"used_codes": 60, "dead_codes": 4, "perplexity": 20.0},
        "frontier": [rung],
    }
    path = folder / f"{name}-{seed}.json"
    path.write_text(json.dumps(run | changes))
    return path


def cells(row):
    return [cell.strip() for cell in row.strip("| ").split("|")]


def test_messages_by_the_rule_of_log2_k(tmp_path):
    paths = [write(tmp_path, "ours", seed, messages=messages) for seed, messages in ((0, 0.2), (1, 0.3))]
    (row,) = rate_rows({"ours-?": paths})
    # 6 bits x 10 steps x 0.2 and 0.3 messages, of 60 bits; a quarter of the messages on average
    assert cells(row)[:4] == ["ours-?", "2", "90.0 (90.0-90.0)", "80.0 (80.0-80.0)"]
    assert cells(row)[4:] == ["15.0 (12.0-18.0)", "60.0", "75.00 (70.00-80.00)"]


def test_rivals_by_the_wire(tmp_path):
    ours, rival = write(tmp_path, "ours", wire=2.0), write(tmp_path, "int8", wire=8.0, success=0.6, method="int8")
    head, row = rival_rows({"ours-?": [ours], "int8-?": [rival]})
    assert cells(head)[:3] == ["ours-?", "1", "90.0"]
    assert cells(row) == ["int8-?", "1", "60.0", "150.0", "80.0", "75.00"]
    (turned,) = rival_rows({"int8-?": [rival], "ours-?": [ours]})[1:]
    assert cells(turned)[-1] == "-300.00"  # more, not fewer


def test_what_no_claim_can_rest_on_is_refused(tmp_path):
    for number, (change, sentence) in enumerate(
        (
            ({"codec": "int8"}, "with the codec int8, whose messages are not one code each"),
            ({"rounds": 2}, "with 2 rounds in a step"),
            ({"gate": "random"}, "with the gate random"),
            ({"frontier": []}, "without success at rate weight 0"),
        )
    ):
        path = write(tmp_path, "odd", number, **change)
        with pytest.raises(ConfigError, match=f"x holds a run {sentence}; the rule of log2 K does not apply"):
            rate_rows({"x": [path]})
    (silent,) = rate_rows({"x": [write(tmp_path, "mute", wire=0.0, messages=0.0)]})
    assert cells(silent)[4:] == ["0.0", "60.0", "100.00"]
    with pytest.raises(ConfigError, match="x holds a run without success"):
        rival_rows({"x": [write(tmp_path, "silent", success=None)]})
    with pytest.raises(ConfigError, match="x holds runs of guide_v1, predator_prey_easy_v1; narrow it"):
        rival_rows({"x": [write(tmp_path, "ours"), write(tmp_path, "guide", seed=1, world="guide_v1")]})
    with pytest.raises(ConfigError, match="x holds runs of .* that differ in method"):
        rival_rows({"x": [write(tmp_path, "ours"), write(tmp_path, "int8", seed=1, method="int8")]})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"world": "guide_v1"}, "world"),
        ({"parallel_worlds": 1}, "parallel worlds"),
        ({"budget": "8 bit/step"}, "budget"),
    ],
)
def test_rivals_that_were_not_played_alike_are_refused(tmp_path, change, word):
    ours, rival = write(tmp_path, "ours"), write(tmp_path, "int8", wire=8.0, method="int8", **change)
    with pytest.raises(ConfigError, match=f"ours, int8 differ in {word} .* so their bits do not compare"):
        rival_rows({"ours": [ours], "int8": [rival]})


def test_a_page_asks_for_them(tmp_path):
    write(tmp_path, "ours"), write(tmp_path, "int8", wire=8.0, method="int8")
    page = filled("<!-- rates: ours-? -->\n<!-- end -->\n<!-- rivals: ours-? int8-? -->\nold\n<!-- end -->", tmp_path)
    assert "| ours-? | 1 | 90.0 | 80.0 | 15.0 | 60.0 | 75.00 |" in page
    assert "| int8-? | 1 | 90.0 | 100.0 | 80.0 | 75.00 |" in page
    assert "old" not in page
