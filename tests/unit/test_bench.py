"""Benches are fair races with honest records; what they measure is tested, how fast this machine is never."""

import gc
import json

import pytest

from commlib.errors import ConfigError
from commlib.experiments import cli
from commlib.experiments.bench import BENCHES, Laps, Target, draw, find, race, run_bench, table

APART = {"ledger", "chaos", "ray", "scale-ray", "cluster", "routes", "train-ray", "train", "search", "extract"}
"""Those with a test of their own."""
"""tests/integration/test_ledger_on_ray.py, tests/integration/test_benches_on_ray.py"""
KEYS = ["name", "command", "seed", "versions", "rows", "summary"]


def silent(text):
    """Nobody listens."""


def test_a_race_mixes_the_turns_with_new_inputs_and_without_the_garbage_collector():
    calls, ticks = [], iter(range(1000))
    runners = {name: lambda number, name=name: calls.append((name, number, gc.isenabled())) for name in "ab"}
    laps = race(runners, n_calls=2, n_laps=8, clock=lambda: next(ticks))
    turns = ["".join(name for name, _, _ in calls[lap : lap + 4]) for lap in range(0, 32, 4)]
    assert set(turns) == {"aabb", "bbaa"}
    assert [number for name, number, _ in calls if name == "a"] == [*range(16)]
    assert not any(was_on for _, _, was_on in calls)
    assert gc.isenabled()
    assert laps == {name: Laps((0.5,) * 8) for name in "ab"}


def test_the_garbage_collector_is_on_again_after_a_runner_failed():
    with pytest.raises(ZeroDivisionError):
        race({"a": lambda number: 1 / number}, 1, 1)
    assert gc.isenabled()


def test_medians_are_of_laps_and_of_their_ratios():
    ours, theirs = Laps((1.0, 2.0, 10.0)), Laps((4.0, 6.0, 10.0))
    assert ours.median == 2.0
    assert ours.speedup(theirs) == 3.0, "the middle of 4, 3 and 1; not 6 / 2"
    assert ours.speedup(ours) == 1.0


@pytest.mark.parametrize(
    ("target", "good", "bad"),
    [(Target(at_least=3), 3.0, 2.9), (Target(at_most=0.02), 0.02, 0.03), (Target(at_least=1), True, False)],
)
def test_a_target_is_reached_or_missed(target, good, bad):
    assert target.holds(good)
    assert not target.holds(bad)


def test_an_unknown_bench_names_its_nearest_neighbour():
    with pytest.raises(ConfigError, match="no bench is called 'codek'; did you mean 'codec'?"):
        find("codek")
    with pytest.raises(ConfigError, match="there are codec, wire, collapse, shannon"):
        find("xyzzy")


@pytest.mark.parametrize("name", sorted(BENCHES.keys() - APART))
def test_a_quick_bench_has_all_that_a_record_needs(name):
    outcome = run_bench(name, 3, "commlib bench it", silent, quick=True)
    record = outcome.record
    assert list(record) == KEYS
    assert (record["name"], record["command"], record["seed"]) == (name, "commlib bench it", 3)
    assert {"python", "numpy", "torch"} <= set(record["versions"])
    assert record["rows"]
    assert all(type(row) is dict for row in record["rows"])
    json.dumps(record, allow_nan=False)
    assert len(outcome.verdicts) >= 2
    assert all(text.split(" = ")[0] in record["summary"] for text, _ in outcome.verdicts)
    figure = draw(record)
    assert figure.axes


@pytest.mark.parametrize("name", ["wire", "shannon"])
def test_the_same_seed_measures_the_same(name):
    one, two = (run_bench(name, 5, "", silent, quick=True).record for _ in range(2))
    assert one == two


def test_the_command_writes_json_and_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["bench", "wire", "--quick", "--quiet", "--json", "-", "--plot", "wire.png"]
    assert cli.main(words) == cli.GOOD
    out, err = capsys.readouterr()
    assert json.loads(out)["name"] == "wire"
    assert "rate_gap" in err
    assert (tmp_path / "wire.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_shows_what_there_is():
    shown = table("t", {"a": "A", "b": "B"}, [{"a": "x", "b": 1234567.0}, {"a": None, "b": True}])
    assert shown.columns[0]._cells == ["x", "-"]
    assert shown.columns[1]._cells == ["1,234,567", "yes"]
