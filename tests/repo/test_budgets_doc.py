"""docs/budgets.md tells the truth: its Python blocks and its commands run, and its tables have every choice that there is."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from commlib.budget import Budgets
from commlib.rationing import ALLOCATIONS, WhenOut
from commlib.units import Per

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "budgets.md"

QUICK = [
    "--steps", "1500", "--episodes", "8", "--parallel-worlds", "8", "--codebook-size", "8", "--learning.n-worlds", "16",
    "--learning.hidden", "8", "--stages.calibrate-worlds", "8", "--stages.calibrate-rounds", "1", "--stages.rungs", "2",
]  # fmt: skip
"""What makes the commands of the page, which train in earnest, quick."""


def commands(page: str) -> list[list[str]]:
    """The command lines of the page, in order."""
    return [shlex.split(line) for line in re.findall(r"^    (commlib .*)$", page, re.MULTILINE)]


def blocks(page: str) -> str:
    """The page's Python blocks, one after the other."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))


def run(words: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_the_python_blocks_run(tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text(blocks(PAGE.read_text()))
    done = run(["page.py"], tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_commands_run_in_order(tmp_path: Path) -> None:
    found = commands(PAGE.read_text())
    assert {words[1] for words in found} == {"train", "evaluate", "top"}
    for words in found:
        done = run(["-m", *words, *(QUICK if words[1] == "train" else [])], tmp_path)
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
    assert (tmp_path / "top.json").is_file()


@pytest.mark.parametrize("choice", [*ALLOCATIONS, *get_args(WhenOut)])
def test_every_choice_has_a_line(choice: str) -> None:
    assert re.search(rf"^\| `{choice}`[ |(]", PAGE.read_text(), re.MULTILINE)


def test_every_span_is_named() -> None:
    (row,) = re.findall(r"^\| per \|(.*?)\|", PAGE.read_text(), re.MULTILINE)
    assert set(get_args(Per)) <= set(re.findall(r"`(\w+)`", row))


def test_the_example_of_several_budgets_reads_back() -> None:
    (line,) = re.findall(r"^    (64 bit/step, agent 2.*)$", PAGE.read_text(), re.MULTILINE)
    assert str(Budgets.parse(line)) == line
