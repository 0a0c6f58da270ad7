"""What every test shares: one thread per process, and the command line as a user meets it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Before anything imports torch, and for every process that a test starts: the same arithmetic whatever the machine.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

RunCli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_cli(tmp_path: Path) -> RunCli:
    """`run_cli("list", "worlds")` is `commlib list worlds` in a process of its own, in the test's own folder."""

    def run(*args: str, cwd: Path = tmp_path, timeout: float = 280) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "commlib", *args],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


Command = Callable[..., tuple[int | str | None, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`command("list", "worlds")` is `commlib list worlds` in this process, in the test's own folder.

    Gives the exit code, stdout and stderr.
    """
    from commlib.experiments import cli

    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int | str | None, str, str]:
        try:
            code: int | str | None = cli.main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
        return (code, *capsys.readouterr())

    return run


TINY = {
    "steps": 2000,
    "episodes": 32,
    "parallel_worlds": 16,
    "codebook_size": 16,
    "learning": {"n_worlds": 32, "hidden": 16},
    "stages": {"calibrate_worlds": 8, "calibrate_rounds": 1},
}


@pytest.fixture(scope="session")
def tiny_settings() -> dict[str, Any]:
    """Settings with which a whole run on guide takes a second or two."""
    return deepcopy(TINY)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on guide, for reading only: whoever changes a run copies it first."""
    from commlib.experiments.train import train

    out = tmp_path_factory.mktemp("runs") / "tiny"
    train("guide", out=out, quiet=True, budget="64 bit/step", **deepcopy(TINY))
    return out


@pytest.fixture
def run_copy(tiny_run: Path, tmp_path: Path) -> Path:
    """The same run, to be changed at will."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))
