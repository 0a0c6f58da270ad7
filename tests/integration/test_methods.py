"""Every method is one command: it trains, plays over real frames, and hosts and learner agree on every code and action."""

import json

import pytest

from commlib.experiments.cli import main
from commlib.experiments.compose import methods

SETTINGS = [
    "--steps", "6000", "--episodes", "16", "--learning.n-worlds", "64", "--learning.hidden", "16",
    "--stages.rungs", "2", "--stages.calibrate-worlds", "16", "--stages.calibrate-rounds", "1",
]  # fmt: skip
SILENT = ("none",)


@pytest.mark.parametrize("method", sorted(methods()))
def test_a_method_trains_is_charged_and_is_verified(method, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["train", "guide", "--method", method, "--out", str(run), *SETTINGS]
    assert main([*words, "--quiet", "--json", str(tmp_path / "r.json")]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["method"] == method
    bits = result["bits"]["per_agent_step"]
    assert (bits["wire"] == 0) == (method in SILENT)
    assert bits["wire"] >= bits["payload"]
    for check in ("verify", "audit"):
        assert main([check, str(run), "--quiet", "--json", str(tmp_path / "checked.json")]) == 0, (
            capsys.readouterr().err
        )
