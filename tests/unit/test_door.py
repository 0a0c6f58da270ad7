"""The door from the shell, where commlib was installed without its dependencies."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WITHOUT = "import sys; sys.modules[sys.argv.pop(1)] = None; from commlib.__main__ import main; main()"


def without(package, *words):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, package, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("package", "words"), [("rich", ["--help"]), ("yaml", ["list", "worlds"]), ("torch", ["audit", "x"])]
)
def test_what_is_missing_is_named_in_one_sentence(package, words):
    done = without(package, *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"commlib: the command line needs the package {package!r}, which is not installed (as after pip install --no-deps); "
        f"install commlib with its dependencies: pip install .\n"
    )


def test_a_part_of_our_own_that_is_missing_is_not_blamed_on_the_installation():
    assert "Traceback" in without("commlib.records", "list", "runs").stderr


def test_the_traceback_is_there_on_request():
    assert "Traceback" in without("rich", "list", "worlds", "--debug").stderr
