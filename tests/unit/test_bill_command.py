"""`commlib bill`: readers of what papers state, runs, results and files on one axis; wrong usage is exit 2 in a sentence."""

import json
from pathlib import Path

import pytest

from commlib.bill import BillRecord, bill_of_run, schema
from commlib.experiments.bills import filled
from commlib.experiments.cli import FAILED, GOOD, WRONG_USAGE
from commlib.journal import Journal
from commlib.records import RunFolder

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
VECTORS = json.loads((ROOT / "docs" / "accounting" / "vectors.json").read_text())
STATED = ["bill", "--mask-rate", "0.4", "--floats", "64", "--agents", "5", "--steps", "20"]


def flags(told):
    return [
        word for name, value in told.items() if value is not None for word in ("--" + name.replace("_", "-"), value)
    ]


def near(value):
    if isinstance(value, dict):
        return {name: near(item) for name, item in value.items()}
    return None if value is None else pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(
    "case",
    [case for case in VECTORS["cases"] if case["kind"] in ("mask_rate", "float_count", "tokens")],
    ids=lambda case: case["name"],
)
def test_the_command_makes_the_bill_of_a_vector(command, case):
    code, out, _ = command("bill", *flags(case["input"]), "--json", "-")
    assert code == GOOD
    (bill,), (divided,) = json.loads(out)["bills"], json.loads(out)["figures"]
    for name, value in case["expected"].items():
        found = divided[name] if name in divided else bill[name] if name in bill else bill["counts"][name]
        assert found == near(value)


def test_a_bill_holds_the_command_that_makes_it(command):
    code, out, _ = command(
        *STATED, "--title", "a team", "--source", "a paper", "--place", "table 3", "--json", "one.json"
    )
    assert code == GOOD
    assert "a team" in out
    assert "payload: 81,920 bits, assumed: 0.4 x 5 agents x 20 steps x 64 floats x 32 bits" in out
    bill = json.loads(Path("one.json").read_text())["bills"][0]
    assert bill["source"] == {
        "work": "a paper",
        "place": "table 3",
        "command": "commlib bill --mask-rate 0.4 --floats 64 --agents 5 --steps 20 --title 'a team' --source 'a paper' "
        "--place 'table 3'",
    }


def test_runs_results_and_files_stand_side_by_side(command, run_copy):
    command(*STATED, "--json", "stated.json")
    stated = json.loads(Path("stated.json").read_text())["bills"][0]
    Path("bare.json").write_text(json.dumps(stated))
    code, out, err = command(*STATED, "stated.json", "bare.json", run_copy, RESULTS / "demo-ours.json", "--json", "-")
    assert code == GOOD
    bills = json.loads(out)["bills"]
    assert bills[0] == bills[1] == bills[2] == stated
    assert bills[3] == bill_of_run(RunFolder(run_copy).read_result()).to_json()
    assert [bill["wire_bits"] for bill in bills[3:]] == [
        8 * json.loads(path.read_text())["wire_bytes"]
        for path in (RunFolder(run_copy).result, RESULTS / "demo-ours.json")
    ]
    assert err.count("mask rate 0.4  ") == 3
    assert (
        err.count("mask rate 0.4: payload: 81,920 bits, assumed: 0.4 x 5 agents x 20 steps x 64 floats x 32 bits") == 3
    )
    assert "guide_v1, ours, seed 0" in err
    Path("all.json").write_text(out)
    code, again, _ = command("bill", "all.json", "--json", "-")
    assert (code, json.loads(again)) == (GOOD, json.loads(out))


def test_a_runs_bill_is_what_its_journal_says(run_copy):
    folder = RunFolder(run_copy)
    bill = bill_of_run(folder.read_result())
    with Journal.reader(folder.journal) as journal:
        entries = list(journal.entries())
    assert bill.wire_bits == sum(entry.bits for entry in entries)
    assert bill.payload_bits == sum(entry.payload_bits for entry in entries)
    assert bill.counts.messages == sum(entry.n_messages for entry in entries)


def test_the_schema(command):
    code, out, err = command("bill", "--schema")
    assert (code, json.loads(out), err) == (GOOD, schema(), "")
    assert command("bill", "--schema", "--json", "schema.json")[:2] == (GOOD, "")
    assert json.loads(Path("schema.json").read_text()) == schema()


WRONG = {
    "nothing": ([], "nothing to bill: give a run, a file, --mask-rate, --float-count or --tokens"),
    "two at a time": (
        ["--mask-rate", "0.4", "--tokens", "3"],
        "--mask-rate and --tokens are two bills; give one of them at a time",
    ),
    "no bill for a flag": (["--agents", "3"], "--agents says nothing here; it goes with --mask-rate or --float-count"),
    "a flag of another": (
        ["--tokens", "3", "--vocabulary", "4", "--floats", "2"],
        "--floats says nothing here; it goes with --mask-rate",
    ),
    "rate": ([*STATED[1:], "--mask-rate", "40"], "a mask rate of 40.0 is no share"),
    "rate not a number": ([*STATED[1:], "--mask-rate", "nan"], "a mask rate of nan is no share"),
    "rate above 100 %": ([*STATED[1:], "--mask-rate", "140 %"], "a mask rate of 1.4 is no share"),
    "rate in words": (
        [*STATED[1:], "--mask-rate", "often"],
        "argument --mask-rate: 'often' is no share; write it like 0.4 or 40%",
    ),
    "no width": (["--mask-rate", "0.4", "--agents", "2", "--steps", "3"], "say how many numbers one has (--floats)"),
    "no agents": (["--mask-rate", "0.4", "--floats", "2"], "say how many of both there are (--agents, --steps)"),
    "agents below 0": ([*STATED[1:], "--agents", "-5"], "-5 agents are impossible"),
    "endless": ([*STATED[1:], "--steps", "inf"], "inf steps are impossible"),
    "edges": ([*STATED[1:], "--edges", "4"], "4 edges make no difference where a message is paid once for all"),
    "rule": ([*STATED[1:], "--charging", "free"], "argument --charging: invalid choice: 'free'"),
    "tokens": (["--tokens", "3"], "tokens have no size by themselves; say --vocabulary or --bytes-per-token"),
    "header": (["--float-count", "3", "--header-bits", "8"], "say how many messages an episode has (--messages)"),
    "unknown flag": (["--masc-rate", "1"], "unrecognized arguments: --masc-rate"),
    "nowhere to write": ([*STATED[1:], "--json", "no/bill.json"], "the folder of no/bill.json does not exist"),
}


@pytest.mark.parametrize(("words", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_wrong_usage_is_exit_2_and_one_sentence(command, tmp_path, words, sentence):
    code, out, err = command("bill", *words)
    assert (code, out, err.count("\n")) == (WRONG_USAGE, "", 1)
    assert err.startswith("commlib: ")
    assert sentence in err
    assert list(tmp_path.iterdir()) == []


EXAMPLE = VECTORS["example"]
FILES = {
    "no JSON": ("{", "mine.json is no JSON"),
    "a list": ("[1]", "mine.json: this is no bill of version 1"),
    "no bills": ('{"bills": []}', "mine.json: its list of bills is empty"),
    "half a result": ('{"wire_bytes": 3}', "mine.json: this is no result of this version of commlib"),
    "another version": (
        json.dumps({**EXAMPLE, "bill": 2}),
        "mine.json: this is no bill of version 1: its field `bill`",
    ),
    "wrong sums": (
        json.dumps({**EXAMPLE, "wire_bits": 8, "items": []}),
        "a payload of 16 bits is more than the 8 bits",
    ),
    "not a number": (json.dumps({**EXAMPLE, "estimate_bits": float("nan")}), "Input should be a finite number"),
    "a wrong one among others": (json.dumps({"bills": [EXAMPLE, {}]}), "this is no bill of version 1"),
}


@pytest.mark.parametrize(("content", "sentence"), FILES.values(), ids=FILES.keys())
def test_a_wrong_file_is_exit_2_and_named(command, content, sentence):
    Path("mine.json").write_text(content)
    code, out, err = command("bill", "mine.json", "--json", "-")
    assert (code, out, err.count("\n")) == (WRONG_USAGE, "", 1)
    assert err.startswith("commlib: mine.json")
    assert sentence in err


@pytest.mark.parametrize(("name", "sentence"), [("", "holds no run"), ("no.json", "no.json does not exist")])
def test_a_run_that_is_not_there_is_exit_1_as_in_other_commands(command, tmp_path, name, sentence):
    code, out, err = command("bill", tmp_path / name)
    assert (code, out, err.count("\n")) == (FAILED, "", 1)
    assert sentence in err


def test_a_journal_is_no_bill_and_the_command_that_reads_it_is_named(command):
    Journal("tokens.sqlite").close()
    code, out, err = command("bill", "tokens.sqlite")
    assert (code, out, err.count("\n")) == (WRONG_USAGE, "", 1)
    assert "tokens.sqlite is a journal, which holds no bill; bill its run folder" in err
    assert "commlib journal tokens.sqlite" in err


@pytest.mark.parametrize(("percent", "share"), [("40%", 0.4), ("33.3 %", 0.333), ("7%", 0.07), ("100 %", 1.0)])
def test_a_mask_rate_may_be_in_per_cent(command, percent, share):
    command(*STATED[:1], "--mask-rate", percent, *STATED[3:], "--json", "percent.json")
    command(*STATED[:1], "--mask-rate", share, *STATED[3:], "--json", "share.json")
    assert Path("percent.json").read_bytes() == Path("share.json").read_bytes()


def test_evaluations_of_one_run_are_told_apart_by_their_folders(command, run_copy):
    result = json.loads(RunFolder(run_copy).result.read_text())
    for nth in (1, 2):
        Path(f"{nth}.json").write_text(json.dumps({**result, "run": f"runs/one/evaluation-{nth}"}))
    _, out, _ = command("bill", "1.json", "2.json")
    assert all(f"seed {result['seed']} (runs/one/evaluation-{nth})" in out for nth in (1, 2))
    assert "evaluation" not in command("bill", "1.json")[1].splitlines()[4]


def test_an_estimate_per_episode_is_shown_without_any_steps(command):
    code, out, err = command("bill", "--tokens", "200", "--vocabulary", "16")
    assert (code, err) == (GOOD, "")
    assert out.splitlines()[4].split("broadcast (a)")[1].split() == ["-", "-", "-", "800", "a", "800", "d", "-"]
    assert "warning" not in out


def test_a_vocabulary_of_one_is_warned_of(command):
    code, out, _ = command("bill", "--tokens", "200", "--vocabulary", "1")
    assert code == GOOD
    assert "warning: with a vocabulary of 1 all tokens are alike, so that each is of 0 bits" in out


def test_titles_are_shown_as_they_are(command):
    code, out, _ = command(*STATED, "--title", "[red]x[/red] | y")
    assert code == GOOD
    assert "[red]x[/red] | y" in out


def test_a_page_is_filled_from_its_files(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(EXAMPLE))
    page = filled("before\n<!-- bills: one.json -->\nold\n<!-- end -->\nafter\n", tmp_path)
    assert page.splitlines()[:2] == ["before", "<!-- bills: one.json -->"]
    assert page.splitlines()[4] == (
        "| [an example](one.json) | broadcast | 1.058 m | 2.667 m | 30.67 m | 6.35 m | 16 m | 184 m |"
    )
    assert page.splitlines()[5:] == ["<!-- end -->", "after"]
    assert filled(page, tmp_path) == page
    with pytest.raises(ValueError, match=r"no file two\.json"):
        filled("<!-- bills: two.json -->\n<!-- end -->", tmp_path)


def test_the_example_is_a_bill():
    assert BillRecord.from_json(EXAMPLE).header_bits == 168
