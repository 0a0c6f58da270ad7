"""The published results: each file is a result, no machine's paths are in it, and the tables are made from the files."""

import json
from pathlib import Path

import pytest

from commlib.errors import ConfigError
from commlib.experiments.tables import filled
from commlib.records import Result

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
FILES = sorted(RESULTS.rglob("*.json"))
RUNS = [path for path in FILES if not path.name.startswith(("bench-", "fuzz"))]


def test_there_are_results():
    assert len(RUNS) >= 20


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_published_run_is_a_result_with_its_command(path):
    result = Result.from_json(json.loads(path.read_text()))
    assert result.command.startswith("commlib ")
    assert result.bits.per_agent_step.wire >= 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_published_file_holds_a_path_of_a_machine(path):
    text = path.read_text()
    assert not any(place in text for place in ("/tmp", "/home", "/root", "/work"))


def test_the_tables_are_those_of_the_files():
    page = (ROOT / "docs" / "results.md").read_text()
    assert filled(page, RESULTS) == page, "run python -m commlib.experiments.tables docs/results.md"
    assert page.count("<!-- table:") >= 5
    with pytest.raises(ConfigError, match="no file nothing"):
        filled("<!-- table: nothing -->\n<!-- end -->", RESULTS)


def test_a_row_over_seeds_is_of_runs_that_differ_by_nothing_else():
    def row(patterns):
        return filled(f"<!-- seeds: {patterns} -->\n<!-- end -->", RESULTS).splitlines()[3]

    assert row("guide-ours-[0-9]*").startswith("| guide-ours-[0-9]* | 5 | 99.7 (")
    with pytest.raises(ConfigError, match=r"differ in method \(none, ours\)"):
        row("predator_prey_easy-*-0-ray")
    with pytest.raises(ConfigError, match=r"holds seed 0 of predator_prey_easy_v1 \d times"):
        row("predator_prey_easy-ours-rate-*")


def test_areas_are_ranked_against_a_team_without_messages():
    patterns = [f"predator_prey_easy-{method}-?" for method in ("none", "ours", "int8", "dense")]
    rows = filled(f"<!-- areas: {' '.join(patterns)} -->\n<!-- end -->", RESULTS).splitlines()[3:7]
    names, areas = zip(*((row.split(" | ")[0], float(row.split(" | ")[2].split()[0])) for row in rows), strict=True)
    assert [name.split("-")[1] for name in names] == ["ours", "int8", "none", "dense"]
    assert 1 > areas[0] > areas[1] > areas[2] > areas[3], "the axis of bits ends where dense is"
    assert float(rows[0].split(" | ")[3]) == pytest.approx(areas[0] / areas[1], abs=0.01)
    with pytest.raises(ConfigError, match="need what a team without messages comes to"):
        filled(f"<!-- areas: {patterns[1]} -->\n<!-- end -->", RESULTS)
    patterns = [f"speaker_listener-{method}-?" for method in ("none", "ours", "dense")]
    rows = filled(f"<!-- areas: {' '.join(patterns)} -->\n<!-- end -->", RESULTS).splitlines()[3:6]
    assert rows[0].startswith("| speaker_listener-ours-? | 5 | 0.9"), "by the return, where a world has no success"
