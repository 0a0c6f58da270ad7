"""A sweep that really trains: interrupted, continued past a damaged run, and healed; what is done stays done."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commlib.experiments import cli
from commlib.experiments.children import locked

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    "--seeds", "2", "--steps", "3200", "--episodes", "8", "--learning.n-worlds", "16", "--learning.hidden", "16",
    "--codebook-size", "8", "--stages.calibrate-worlds", "8", "--stages.calibrate-rounds", "1", "--stages.rungs", "2",
    "--budgets", "none,8 bit/step",
]  # fmt: skip
DEADLINE_SECONDS = 120


def heeds_interrupts():
    """A job in the background of a script inherits that interrupts are ignored; a child of this test heeds them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupt_when(process, reached):
    """Ctrl-C as soon as `reached()`."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not reached():
        assert process.poll() is None, f"the sweep ended before it could be interrupted: {process.stderr.read()}"
        assert time.monotonic() < deadline, "the sweep never got so far"
        time.sleep(0.002)  # between two looks; nothing depends on how long it is
    process.send_signal(signal.SIGINT)


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys):
    """`sweep()` runs the sweep in this process: exit code, JSON, stderr. Its trainings are processes of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(*more):
        code = cli.main(["sweep", "guide", *SETTINGS, "--jobs", "2", "--out", "sweep", "--json", "-", *more])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return run


def test_a_sweep_goes_on_after_an_interrupt_and_past_a_damaged_run(sweep, tmp_path):
    first, second = tmp_path / "sweep" / "guide-ours-0", tmp_path / "sweep" / "guide-ours-1"
    process = subprocess.Popen(
        [sys.executable, "-m", "commlib", "sweep", "guide", *SETTINGS, "--jobs", "1", "--out", "sweep"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeds_interrupts,
    )
    interrupt_when(process, (first / "metrics.jsonl").is_file)
    _, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == cli.INTERRUPTED, err
    assert "interrupted with 0 of 4 runs done; the same command goes on from there" in err
    with locked(tmp_path / "sweep"):
        pass  # nobody was left behind
    assert not (first / "result.json").exists()
    assert not second.exists()

    checkpoint = first / "checkpoint" / "state.safetensors"
    checkpoint.parent.mkdir(exist_ok=True)  # the interrupt may have come before the first checkpoint
    checkpoint.write_bytes(b"damaged")
    code, record, err = sweep()
    assert code == cli.FAILED
    runs = {run["path"]: run for run in record["runs"]}
    assert [name for name, run in runs.items() if run["result"]] == [
        "guide-ours-1",
        "guide-ours-1/at-budget-8-bit-step",
    ]
    assert runs["guide-ours-0"]["error"].startswith(
        "the checkpoint guide-ours-0/checkpoint/state.safetensors is damaged"
    )
    assert "failed  guide-ours-0: the checkpoint" in err
    assert [(row["seeds"], row["n_failed"], row["n_planned"]) for row in record["rows"]] == [([1], 1, 2)] * 2

    checkpoint.unlink()
    before = {path: path.read_bytes() for path in second.rglob("*") if path.is_file()}
    code, record, err = sweep()
    assert code == cli.GOOD, err
    assert [row["seeds"] for row in record["rows"]] == [[0, 1], [0, 1]]
    assert {path: path.read_bytes() for path in second.rglob("*") if path.is_file()} == before
    assert not list((tmp_path / "sweep").rglob("*.log"))
    assert "4 of 4" in err

    assert sweep("--learning.gamma", "0.5")[0] == cli.WRONG_USAGE
