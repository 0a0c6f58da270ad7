"""Budgets at the command line: what a run says of them, `commlib top`, and wrong usage in one sentence."""

import json
from io import StringIO

import pytest
from rich.console import Console

from commlib.experiments import cli
from commlib.experiments.cli import FAILED, GOOD, WRONG_USAGE
from commlib.records import RunFolder

TINY = [
    "--steps", "1500", "--episodes", "8", "--parallel-worlds", "8", "--codebook-size", "8", "--learning.n-worlds", "16",
    "--learning.hidden", "8", "--stages.calibrate-worlds", "8", "--stages.calibrate-rounds", "1", "--stages.rungs", "2",
]  # fmt: skip


WRONG = {
    "shown, and none": (
        ["train", "guide", "--show-budget"],
        "show_budget has nothing to show, since there is no budget",
    ),
    "shown, and unlimited": (["train", "guide", "--show-budget", "--budget", "unlimited"], "nothing to show"),
    "swept, and none": (["sweep", "guide", "--show-budget"], "show_budget has nothing to show"),
    "top of nothing": (["top"], "the following arguments are required: RUN"),
    "top for ever and once": (["top", "run", "--once", "--follow"], "--once ends at once and --follow never does"),
    "top with a setting": (["top", "run", "--seed", "1"], "unrecognized arguments: --seed 1"),
    "top into no folder": (["top", "run", "--json", "no/top.json"], "the folder of no/top.json does not exist"),
}


@pytest.mark.parametrize(("words", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_wrong_usage_is_exit_2_and_one_sentence(command, tmp_path, words, sentence):
    code, out, err = command(*words)
    assert (code, out, err.count("\n")) == (WRONG_USAGE, "", 1)
    assert sentence in err
    assert list(tmp_path.iterdir()) == [], "nothing is written before the usage is right"


def test_a_run_that_is_not_there_or_has_no_books_is_exit_1(command, tmp_path):
    code, out, err = command("top", "none")
    assert (code, out, err.count("\n")) == (FAILED, "", 1)
    assert err.startswith("commlib: none holds no run")
    (tmp_path / "config.yaml").touch()
    code, out, err = command("top", ".")
    assert (code, out, err.count("\n")) == (FAILED, "", 1)
    assert "has no books yet: they begin with the evaluation" in err


def test_from_training_to_top(command, tmp_path):
    """What the run says, what stands in its result, and what `top` shows agree."""
    budgets = "30 bit/episode, agent 1: 3 bit/episode, 99 messages/episode"
    code, out, err = command(
        "train", "guide", *TINY, "--budget", budgets, "--show-budget", "--out", "run", "--quiet", "--json", "run.json"
    )
    assert (code, err) == (GOOD, "")
    result = json.loads((tmp_path / "run.json").read_text())
    assert result["show_budget"] is True
    binding = next(one for one in result["budgets"] if one["is_binding"])
    line = next(line for line in out.splitlines() if line.startswith(f"budget {binding['budget']}: "))
    assert f"{binding['spent'] / binding['granted']:.1%} of {binding['granted']:,} used" in line
    assert line.endswith("; it binds")
    assert f"{binding['n_full']:,} rounds were short" in line
    assert sum("; it binds" in line for line in out.splitlines()) == 1
    assert f"messages for want of budget: {result['ledger']['dropped']:,} dropped" in out
    code, out, err = command("top", "run", "--json", "-")
    assert code == GOOD
    found = json.loads(out)
    assert "finished" in err
    assert found["is_finished"] is True
    accounts = {line["account"]: line for line in found["accounts"]}
    for one in result["budgets"]:
        there = accounts[one["account"]]
        assert (there["budget"], there["granted"], there["spent"]) == (one["budget"], one["granted"], one["spent"])
        assert there["is_binding"] == one["is_binding"]
    assert found["dropped"] == result["ledger"]["dropped"]
    assert sum(line["bits"] for line in found["agents"]) == result["ledger"]["spent"]


def test_an_evaluation_that_goes_on_is_what_top_shows(command, tiny_run):
    code, out, _ = command("top", tiny_run)
    assert code == GOOD
    assert "64 bit/step" in out
    assert "finished" in out


def said(result):
    console = Console(file=StringIO(), width=200, color_system=None)
    cli._say_bill(console, result)
    return console.file.getvalue().splitlines()


def test_what_is_said_without_a_budget(tiny_run):
    result = RunFolder(tiny_run).read_result()
    assert said(result.model_copy(update={"budget": None, "budgets": []})) == [
        f"budget not capped, bit price {result.bit_price:.3g} reward per bit"
    ]


def test_what_is_said_of_a_price(tiny_run):
    result = RunFolder(tiny_run).read_result()
    for price, words in ((0.125, ", price 0.125 in squared distortion (or harm) per unit"), (0.0, "")):
        priced = result.budgets[0].model_copy(update={"price": price, "is_binding": False, "n_full": 0})
        assert said(result.model_copy(update={"budgets": [priced]}))[0].endswith(f" used{words}")


def test_a_budget_under_which_nothing_can_be_said_is_warned_of(command, tiny_run, tmp_path):
    settings = ["--budget", "8 bit/step, 99 messages/step", "--parallel-worlds", 1, "--episodes", 8]
    code, out, err = command(
        "evaluate", tiny_run, *settings, "--out", tmp_path / "dear", "--json", tmp_path / "dear.json"
    )
    assert (code, err) == (GOOD, "")
    (hint, other) = [one["hint"] for one in json.loads((tmp_path / "dear.json").read_text())["budgets"]]
    assert hint.startswith("nothing can be said under 8 bit/step: the smallest frame")
    assert other == ""
    assert f"; it binds warning: {hint} budget 99 messages/step: " in " ".join(out.split())
    assert out.count("warning: ") == 1


def test_what_is_said_of_fates(tiny_run):
    result = RunFolder(tiny_run).read_result()
    ledger = result.ledger.model_copy(update={"dropped": 1200, "degraded": 0, "deferred": 7})
    assert said(result.model_copy(update={"ledger": ledger}))[-1].endswith(
        "; messages for want of budget: 1,200 dropped, 7 deferred"
    )
