"""A sweep whose runs are tasks of a Ray cluster: the same results, also after a worker was killed in the middle."""

import contextlib
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import psutil
import pytest

from commlib.experiments import cli, remote
from commlib.experiments.remote import Parcel, packed, unpack
from commlib.experiments.sweep_plan import Axes, plan_sweep
from tests.integration.test_sweep_command import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
OF_THE_PLACE = {"seconds", "throughput", "run", "command"}


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys):
    """`sweep("a", ...)` runs the sweep into the folder a: exit code, JSON, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(out, *more, world="guide"):
        code = cli.main(["sweep", world, *SETTINGS, "--jobs", "2", "--out", out, "--json", "-", *more])
        told, err = capsys.readouterr()
        return code, json.loads(told) if told else None, err

    return run


def results(folder):
    """What each run came to, but for how long it took and where."""
    return {
        str(path.parent.relative_to(folder)): {
            name: value for name, value in json.loads(path.read_text()).items() if name not in OF_THE_PLACE
        }
        for path in sorted(folder.rglob("result.json"))
    }


def kill_a_worker(is_over, killed):
    """SIGKILL for the first process that fills a run folder."""
    while not is_over.wait(0.05):
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if "fill_folder" in " ".join(process.cmdline()):
                    time.sleep(0.5)  # it has begun by then
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    return


def test_runs_on_a_cluster_come_back_as_they_would_have_been_here(sweep, tmp_path):
    is_over, killed = threading.Event(), []
    killer = threading.Thread(target=kill_a_worker, args=(is_over, killed))
    killer.start()
    try:
        code, told, err = sweep("there", "--cluster", "--config", str(_settings(tmp_path)))
    finally:
        is_over.set()
        killer.join()
    assert code == 0, err
    assert killed
    assert sweep("here", "--config", str(tmp_path / "mine.yaml"))[0] == 0
    there, here = results(tmp_path / "there"), results(tmp_path / "here")
    assert len(there) == 4
    assert there == here
    command = json.loads((tmp_path / "there" / "guide-ours-0" / "result.json").read_text())["command"]
    assert command.startswith("commlib train guide")
    assert not list((tmp_path / "there").glob(".arriving*"))
    assert json.loads(json.dumps(told))["rows"]
    code, _, err = sweep("there", "--cluster", "--config", str(tmp_path / "mine.yaml"))  # nothing is left to do
    assert code == 0


def _settings(folder):
    path = folder / "mine.yaml"
    path.write_text("learning:\n  gamma: 0.9\n")
    return path


def test_what_fails_over_there_is_told_here(sweep, tmp_path, monkeypatch):
    """A world of one's own that breaks only once it is stepped."""
    (tmp_path / "broken_world.py").write_text(
        "from commlib.experiments.world_guide import Guide\n\n\n"
        "class Broken(Guide):\n    def step(self, action):\n        raise RuntimeError('the floor gave way')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")
    code, told, err = sweep("there", "--cluster", "--seeds", "1", world="broken_world:Broken")
    assert code == 1, err
    errors = [run["error"] for run in told["runs"]]
    assert len(errors) == 2
    assert "the floor gave way" in errors[0]
    assert "was not begun" in errors[1]


def test_a_sweep_of_runs_on_ray_is_no_sweep_on_a_cluster(sweep):
    code, _, err = sweep("there", "--cluster", "--runtime", "ray")
    assert code == 2
    assert "leave --runtime out" in err


def test_a_folder_arrives_whole_in_place_of_the_old_one(tmp_path):
    source, target = tmp_path / "source", tmp_path / "a" / "target"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "file").write_text("new")
    target.mkdir(parents=True)
    (target / "old").write_text("old")
    unpack(packed(source), target)
    assert [str(path.relative_to(target)) for path in sorted(target.rglob("*"))] == ["deep", "deep/file"]
    assert packed(tmp_path / "nothing") == b""
    unpack(b"", target)
    assert (target / "deep" / "file").read_text() == "new"


class Answered:
    """A task that has ended, well or not."""

    def __init__(self, answer):
        self.given = answer

    def is_over(self, seconds=0.0):
        return True

    def answer(self):
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (ModuleNotFoundError("No module named 'mpe2'"), "No module named 'mpe2'"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (Parcel(0, "", b"no archive"), "is damaged"),
        (Parcel(1, "commlib: the loss is not finite\n", b""), "the loss is not finite"),
    ],
    ids=["no module", "full disk", "damaged", "failed"],
)
def test_whatever_befalls_one_run_ends_no_other(tmp_path, monkeypatch, answer, words):
    monkeypatch.setattr(remote, "begin_task", lambda *arguments: Answered(answer))
    plan = plan_sweep(Axes(["guide"], ["dense"], [0]), {}, None, tmp_path)
    (task,) = plan.trainings
    run = remote.RemoteRun(plan, task, task.words, None)
    assert run.poll() == 1
    assert words in run.complaint()


def test_where_nobody_answers_is_told_at_once(sweep, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    code, _, err = sweep("there", "--cluster")
    assert code == 1
    assert f"nobody answers at RAY_ADDRESS=127.0.0.1:{port}" in err
