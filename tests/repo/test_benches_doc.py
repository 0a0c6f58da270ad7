"""docs/benches.md tells what the committed records say: the command, and every figure of the summary that has a target."""

import json
import re
from importlib import import_module
from pathlib import Path

import pytest

from commlib.experiments.bench import BENCHES

ROOT = Path(__file__).resolve().parents[2]
WORDS = {"chaos": "ledger --chaos", "scale-ray": "scale --runtime ray", "train-ray": "train --runtime ray"}
PAGE = ROOT / "docs" / "benches.md"


@pytest.mark.parametrize("name", BENCHES)
def test_the_page_tells_what_the_record_says(name: str) -> None:
    text = (ROOT / "docs" / "results" / f"bench-{name}.json").read_text()
    record = json.loads(text)
    assert list(record) == ["name", "command", "seed", "versions", "rows", "summary"]
    assert record["name"] == name
    assert record["command"].startswith(f"commlib bench {WORDS.get(name, name)} ")
    assert not re.search(r'"/|/tmp|/home|/root|/work', text), "no paths of a machine"
    page = PAGE.read_text()
    assert f"    {record['command']}\n" in page
    for figure in import_module(BENCHES[name][0]).TARGETS:
        value = record["summary"][figure]
        shown = ("yes" if value else "no") if isinstance(value, bool) else f"{value:.4g}"
        assert f"| `{figure}` | {shown} |" in page
