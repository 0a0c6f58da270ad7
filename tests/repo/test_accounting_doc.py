"""docs/accounting.md tells the truth: schema, vectors, commands and tables are those of the code and of the files."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from commlib.bill import schema
from commlib.experiments import cli
from commlib.experiments.bills import filled, read_bills

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "accounting.md"
FOLDER = ROOT / "docs" / "accounting"
PUBLISHED = sorted((FOLDER / "published").glob("*.json"))
VECTORS = json.loads((FOLDER / "vectors.json").read_text())


def commands(page: str) -> list[str]:
    """The indented lines that are commands."""
    return re.findall(r"^    (commlib bill .*)$", page, re.MULTILINE)


def test_the_schema_is_the_models() -> None:
    committed = json.loads((FOLDER / "bill.schema.json").read_text())
    assert committed == schema(), "run commlib bill --schema --json docs/accounting/bill.schema.json"
    jsonschema.Draft202012Validator.check_schema(committed)
    jsonschema.validate(VECTORS["example"], committed)


def test_the_tables_are_those_of_the_files() -> None:
    page = PAGE.read_text()
    assert filled(page, PAGE.parent) == page, "run python -m commlib.experiments.bills docs/accounting.md"
    assert page.count("<!-- bills:") == 2


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_published_figure_is_made_by_the_command_on_the_page(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bill,) = read_bills(path)
    assert bill.source.command in commands(PAGE.read_text())
    assert "measured" not in {bill.basis.estimate.kind, bill.basis.payload.kind, bill.basis.wire.kind}
    program, *words = shlex.split(bill.source.command)
    assert program == "commlib"
    assert cli.main([*words, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(path.read_text())


def test_every_command_on_the_page_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    shown = commands(PAGE.read_text())
    assert len(shown) == len(PUBLISHED) + 2
    for command in shown:
        words = shlex.split(command)[1:]
        if "--schema" in words:
            words = words[:2]  # and not into the file
        assert cli.main(words) == 0, capsys.readouterr().err
    capsys.readouterr()


def test_every_vector_is_worked_out_by_hand_in_the_order_of_the_file() -> None:
    table = PAGE.read_text().split("| case | arithmetic |\n|---|---|\n")[1].split("\n\n")[0]
    named = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()]
    assert named == [case["name"] for case in VECTORS["cases"] if case["kind"] != "bill"]


def test_the_page_says_what_every_word_of_a_bill_means() -> None:
    page, text = PAGE.read_text(), json.dumps(schema())
    words = {word for words in re.findall(r'"enum": \[(.*?)\]', text) for word in re.findall(r'"(.*?)"', words)}
    assert {"broadcast", "numbered", "derived", "left out"} <= words
    assert [word for word in sorted(words) if f"`{word}`" not in page and f"**{word}**" not in page] == []
    fields = re.findall(r"^\| `(?:counts\.)?(\w+)` \|", page.split("| in the bill |")[1], re.MULTILINE)
    assert len(fields) == 6
    assert [field for field in fields if f'"{field}": {{' not in text] == []


def test_the_example_prints_what_the_page_says() -> None:
    page = PAGE.read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (printed,) = re.findall(r"It prints:\n\n    (.*\n)", page)
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == printed
