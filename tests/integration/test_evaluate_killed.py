"""An evaluation that is killed leaves a folder that says so, and repeating it gives what it would have given."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commlib.audit import audit
from commlib.experiments import control, evaluate
from commlib.experiments.cli import main
from commlib.journal import Journal
from commlib.records import RunFolder

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ["--budget", "300 bit/episode", "--parallel-worlds", "1", "--quiet"]
DEADLINE_SECONDS = 120


@pytest.fixture(scope="module")
def killed(tiny_run, tmp_path_factory):
    """A folder with a budget of its own in which nobody evaluates any more."""
    out = tmp_path_factory.mktemp("killed") / "run"
    words = ["evaluate", str(tiny_run), *SETTINGS, "--episodes", "100000", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "commlib", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    books = out / "journal.sqlite.partial-wal"
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (books.is_file() and books.stat().st_size > 20_000):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)  # between two looks; nothing depends on how long it is
    if sys.platform == "linux":
        assert main([*words[:-1], str(out)]) == 1, "somebody is at work there"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return out


@pytest.mark.parametrize(
    "words",
    [
        ["audit"],
        ["journal"],
        ["report"],
        ["bill"],
        ["verify"],
        ["evaluate"],
        ["train", "--resume", "--out"],
        ["train", "guide", "--resume", "--out"],
        ["train", "guide", "--out"],
    ],
)
def test_every_command_says_that_it_is_no_run(words, killed, command):
    before = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    code, out, err = command(*words, killed)
    assert (code, out) == (1, "")
    assert err == (
        f"commlib: {killed} holds an evaluation that was cut off, or is still at work; repeat its commlib evaluate with "
        f"--out {killed}, which replaces what is left of it\n"
    )
    assert {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()} == before


def test_repeating_it_gives_what_an_evaluation_that_was_not_killed_gives(tiny_run, killed, tmp_path, command):
    found = {}
    for out in (killed, tmp_path / "whole"):
        code, _, err = command("evaluate", tiny_run, *SETTINGS, "--episodes", "8", "--out", out)
        assert code == 0, err
        found[out] = json.loads((out / "result.json").read_text())
        with Journal.reader(out / "journal.sqlite") as journal:
            assert audit(journal).differences == []
    assert found[killed]["journal_digest"] == found[tmp_path / "whole"]["journal_digest"]
    assert found[killed]["budget"] == "300 bit/episode"
    names = [{path.name for path in out.iterdir()} for out in found]
    assert names[0] == names[1]
    assert not list(killed.rglob("*.partial*"))


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_ctrl_c_leaves_nothing_and_says_what_to_do(tiny_run, tmp_path, command, monkeypatch):
    monkeypatch.setattr(control, "play", interrupted)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("my own")
    for out in (tmp_path / "new", tmp_path / "mine"):
        code, _, err = command("evaluate", tiny_run, *SETTINGS, "--out", out)
        assert (code, err) == (
            130,
            "\ncommlib: interrupted; nothing of this evaluation was kept, so repeat the command\n",
        )
    assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_the_configuration_comes_last(tiny_run, tmp_path, command, monkeypatch):
    """Whenever it is killed, the folder is an evaluation that was cut off until it is a whole run."""
    out, seen, original = tmp_path / "new", [], Path.replace

    def replace(path, target):
        if path.name in ("journal.sqlite.partial", "result.json", "config.yaml"):
            seen.append((path.name, RunFolder(out).is_cut_off))
        return original(path, target)

    monkeypatch.setattr(evaluate.Path, "replace", replace)
    assert command("evaluate", tiny_run, *SETTINGS, "--episodes", "8", "--out", out)[0] == 0
    assert seen == [("journal.sqlite.partial", True), ("result.json", True), ("config.yaml", True)]
    assert not RunFolder(out).is_cut_off


def test_a_run_is_not_evaluated_into_itself(run_copy, command):
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    code, _, err = command("evaluate", run_copy, *SETTINGS, "--out", run_copy)
    assert (code, err) == (1, f"commlib: {run_copy} holds a run already; choose another --out\n")
    assert {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()} == before


def test_a_folder_with_a_codec_of_its_own_is_left_alone(tiny_run, tmp_path, command):
    (tmp_path / "mine" / "codec").mkdir(parents=True)
    code, _, err = command("evaluate", tiny_run, *SETTINGS, "--out", tmp_path / "mine")
    assert (code, err) == (
        1,
        f"commlib: {tmp_path / 'mine'} is no run and has a codec of its own; choose another --out\n",
    )
    assert [path.name for path in tmp_path.joinpath("mine").rglob("*")] == ["codec"]
