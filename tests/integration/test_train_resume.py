"""A run that is killed and continued ends as one that was not: same figures, same books."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commlib.audit import audit
from commlib.experiments.checkpoint import read_checkpoint
from commlib.experiments.cli import main
from commlib.journal import Journal
from commlib.records import RunFolder

ROOT = Path(__file__).resolve().parents[2]
OF_THIS_PROCESS = {"seconds", "throughput", "command", "run", "git"}
SETTINGS = [
    "--steps", "9600", "--episodes", "32", "--parallel-worlds", "16", "--learning.n-worlds", "16",
    "--learning.hidden", "16", "--codebook-size", "16", "--budget", "48 bit/step", "--stages.calibrate-worlds", "8",
    "--stages.calibrate-rounds", "1", "--stages.rungs", "3", "--stages.priced", "0.4", "--gate", "talk",
    "--bit-price", "0",
]  # fmt: skip
"""60 iterations, a checkpoint after every 20th and every stage; the gate, and a price of 0, which is not looked for twice."""
DEADLINE_SECONDS = 120


def start(out, *more):
    return subprocess.Popen(
        [sys.executable, "-m", "commlib", "train", "guide", *SETTINGS, "--out", str(out), "--quiet", *more],
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def iterations(out):
    try:
        return (out / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def kill_when(process, reached):
    """SIGKILL as soon as `reached()`; it must be before the run ends by itself."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not reached():
        assert process.poll() is None, f"the run ended before it could be killed: {process.stderr.read()}"
        assert time.monotonic() < deadline, "the run never got so far"
        time.sleep(0.002)  # between two looks; nothing depends on how long it is
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def figures(out):
    result = json.loads((out / "result.json").read_text())
    return {name: value for name, value in result.items() if name not in OF_THIS_PROCESS}


def curve(out):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in RunFolder(out).read_metrics()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody killed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    process = start(out)
    _, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, err
    return out


def is_booking(out):
    """The evaluation has begun: the journal is there and has grown."""
    path = out / "journal.sqlite-wal"
    return path.is_file() and path.stat().st_size > 20_000


KILLS = {
    "before the first checkpoint, then in the priced stage": [
        lambda out: iterations(out) >= 5,
        lambda out: iterations(out) >= 48,
    ],
    "in the evaluation": [is_booking],
}


@pytest.mark.parametrize("kills", KILLS.values(), ids=KILLS.keys())
def test_a_killed_run_ends_with_the_result_and_the_books_of_a_whole_one(kills, whole, tmp_path, run_cli):
    out = tmp_path / "run"
    for number, reached in enumerate(kills):
        process = start(out, *(["--resume"] if number else []))
        kill_when(process, lambda reached=reached: reached(out))
        assert not (out / "result.json").exists()
    done = run_cli("train", "guide", *SETTINGS, "--out", str(out), "--quiet", "--resume")
    assert done.returncode == 0, done.stderr
    assert figures(out) == figures(whole)
    assert curve(out) == curve(whole)
    for folder in (out, whole):
        with Journal.reader(folder / "journal.sqlite") as journal:
            assert audit(journal).differences == []
            assert journal.digest() == figures(out)["journal_digest"]
    states = [read_checkpoint(RunFolder(folder).checkpoint).tensors for folder in (out, whole)]
    assert all((value == states[1][name]).all() for name, value in states[0].items())
    assert not list(out.rglob("*.partial"))


def test_the_run_went_through_every_stage(whole):
    stages = [row["stage"] for row in curve(whole)]
    assert list(dict.fromkeys(stages)) == ["dense", "fine-tune", "priced"]
    assert len(stages) == 60
    assert {row["bit_price"] for row in curve(whole)} == {0.0}


def test_a_finished_run_is_resumed_to_its_result(whole, capsys):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert main(["train", "guide", *SETTINGS, "--out", str(whole), "--resume", "--json", "-", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads((whole / "result.json").read_text())
    assert "which was finished already: nothing was trained or played again" in " ".join(err.split())
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (
            [*SETTINGS, "--resume", "--seed", "1"],
            2,
            "holds a run with other settings: seed is 0 there, 1 here",
        ),
        ([*SETTINGS, "--resume", "--method", "int8"], 2, "holds a run with other settings"),
        (SETTINGS, 1, "holds a run already; choose another --out, or continue it with --resume"),
    ],
)
def test_a_run_is_not_overwritten(whole, capsys, words, code, sentence):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert main(["train", "guide", *words, "--out", str(whole), "--quiet"]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert sentence in err
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before
