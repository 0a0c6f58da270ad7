"""docs/ledger.md holds for a program that has nothing but commlib's lower half: no torch, no ray, no package at all."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from commlib.experiments.cli import GOOD, main
from commlib.journal import Journal
from commlib.ledger import Ledger
from commlib.purse import Purse, Tally

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "ledger.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [line.split("  ")[0].split() for line in re.findall(r"^    (commlib .*)$", PAGE, re.MULTILINE)]

# In the folder of the program, so that processes that it starts have it, too.
ALONE = """
import sys

class _Alone:
    def find_spec(self, name, path=None, target=None):
        head = name.partition(".")[0]
        if head not in sys.stdlib_module_names | {"commlib", "__mp_main__", "usercustomize", "sitecustomize"}:
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, _Alone())
"""


def run_alone(tmp_path: Path, program: str) -> "subprocess.CompletedProcess[str]":
    (tmp_path / "site").mkdir(exist_ok=True)
    (tmp_path / "site" / "sitecustomize.py").write_text(ALONE)
    (tmp_path / "program.py").write_text(program)
    return subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("nth", range(len(BLOCKS)))
def test_every_block_runs_without_any_other_package_and_may_be_run_again(tmp_path: Path, nth: int) -> None:
    for _ in range(2):
        done = run_alone(tmp_path, BLOCKS[nth])
        assert done.returncode == 0, done.stderr


def test_the_page_has_the_examples_that_it_speaks_of() -> None:
    assert len(BLOCKS) == 4
    assert any("multiprocessing" in block for block in BLOCKS)
    assert {words[1] for words in COMMANDS} == {"journal", "audit", "top"}


def test_every_command_runs_on_books_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with Ledger(Journal("books.sqlite")) as ledger:
        ledger.grant(100, sequence=0)
        with Tally(ledger, "ears", epoch=ledger.fence("ears")) as heard, Purse(ledger, "mouth") as purse:
            heard.hear(purse.charge(0, (1,), 60), 0, 1, 60)
    for words in COMMANDS:
        assert main(words[1:]) == GOOD, capsys.readouterr().err
    assert (tmp_path / "books.jsonl").is_file()
    assert (tmp_path / "books" / "leases.csv").is_file()


@pytest.mark.parametrize("package", ["numpy", "torch", "ray"])
def test_the_check_would_see_a_package(tmp_path: Path, package: str) -> None:
    done = run_alone(tmp_path, f"import {package}\n")
    assert f"{package} is not there" in done.stderr


def test_ledger_purse_and_audit_load_no_other_package(tmp_path: Path) -> None:
    modules = (
        "commlib.audit, commlib.budget, commlib.journal, commlib.ledger, commlib.purse, commlib.agents.ledger_host"
    )
    done = run_alone(tmp_path, f"import {modules}\n")
    assert done.returncode == 0, done.stderr
