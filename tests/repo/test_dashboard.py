"""docs/grafana.json and docs/metrics.md name the metrics that are exported, all of them and no others."""

import json
import re
from pathlib import Path

import pytest

from commlib.agents.meters import METRICS

ROOT = Path(__file__).resolve().parents[2]
BOARD = ROOT / "docs" / "grafana.json"
SERIES = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
"""What is written after the name of a metric where its samples are exported."""


def asked(board):
    """Metrics that the panels of a dashboard ask for; the variable stands for how names begin, as each exporter writes it."""
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return {name for text in expressions for name in re.findall(r"\$\{source\}(\w+)", text)}


def exported():
    return {m.name: {m.name.removeprefix("commlib") + end for end in SERIES[m.kind]} for m in METRICS}


def check(board):
    names = asked(board)
    unknown = names - set().union(*exported().values())
    missing = [name for name, series in exported().items() if not series & names]
    assert not unknown, f"the dashboard asks for {unknown}, which nobody exports"
    assert not missing, f"the dashboard has no panel for {missing}"


def test_every_metric_has_a_panel_and_every_panel_a_metric():
    check(json.loads(BOARD.read_text()))


@pytest.mark.parametrize("wrong", ["_wire_bytes_total", "_step_seconds"])
def test_a_metric_that_is_not_exported_is_found(wrong):
    board = json.loads(BOARD.read_text())
    board["panels"][0]["targets"][0]["expr"] += " + ${source}" + wrong
    with pytest.raises(AssertionError, match="which nobody exports"):
        check(board)


def test_a_metric_without_a_panel_is_found():
    board = json.loads(BOARD.read_text())
    board["panels"] = board["panels"][1:]
    with pytest.raises(AssertionError, match="no panel for"):
        check(board)


def test_panels_do_not_share_a_place_or_an_id():
    panels = json.loads(BOARD.read_text())["panels"]
    places = {(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels}
    assert len(places) == len({p["id"] for p in panels}) == len(panels)


def test_both_ways_of_export_can_be_chosen():
    variables = {one["name"]: one for one in json.loads(BOARD.read_text())["templating"]["list"]}
    assert {one["value"] for one in variables["source"]["options"]} == {"commlib", "ray_commlib"}


def test_the_page_lists_every_metric():
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"^\| `(commlib_\w+)`", page, re.MULTILINE)) == {metric.name for metric in METRICS}
