"""What every test shares: one thread per process, and the command line as a user meets it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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
