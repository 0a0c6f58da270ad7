"""The command line: wrong usage is one sentence and exit 2, JSON stays alone on stdout, and help is quick."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from commlib import __version__
from commlib.config import PLAY_SETTINGS
from commlib.experiments import cli
from commlib.experiments.cli import COMMANDS, FAILED, GOOD, WRONG_USAGE
from commlib.journal import Journal, Receipt
from commlib.ledger import Ledger
from commlib.purse import Purse
from commlib.records import RunFolder

ROOT = Path(__file__).resolve().parents[2]


WRONG = {
    "unknown command": (["trian", "guide"], "no command is called 'trian'; did you mean 'train'?"),
    "unknown command, nothing near": (["xyzzy"], "no command is called 'xyzzy'; there are demo, train"),
    "unknown flag": (["train", "guide", "--sede", "1"], "unknown flag --sede; did you mean --seed?"),
    "unknown nested flag": (["train", "guide", "--learning.gama=1"], "did you mean --learning.gamma?"),
    "unknown flag before the world": (["train", "--sede", "1", "guide"], "unknown flag --sede"),
    "unknown flag, nothing near": (["train", "guide", "--zzzzz"], "see `commlib train --help`"),
    "short form of a flag": (["train", "guide", "--resu"], "unknown flag --resu"),
    "unexpected word": (["train", "guide", "again"], "unexpected 'again'"),
    "no world": (["train"], "which world?"),
    "no world, with a setting": (["train", "--steps", "10"], "which world?"),
    "unknown world": (["train", "gudie"], "there is no world 'gudie'; did you mean guide_v1"),
    "unknown method": (["train", "guide", "--method", "our"], "no method is called 'our'; did you mean 'ours'?"),
    "unknown codec": (["train", "guide", "--codec", "vqq"], "no codec is called 'vqq'; did you mean 'vq'?"),
    "unknown topology": (["train", "guide", "--topology", "rings"], "no topology is called 'rings'"),
    "unknown runtime": (["train", "guide", "--runtime", "gpu"], "runtime = 'gpu': there are local, ray"),
    "missing value": (["train", "guide", "--seed"], "--seed needs a value"),
    "missing value before a flag": (["train", "guide", "--seed", "--quiet"], "--seed needs a value"),
    "missing value of a word": (["train", "guide", "--out"], "argument --out: expected one argument"),
    "no number": (["train", "guide", "--seed", "many"], "seed = 'many': Input should be a valid integer"),
    "negative budget": (["train", "guide", "--budget", "-5 bit/step"], "is negative"),
    "budget without unit": (["train", "guide", "--budget=64"], "the budget '64' has no unit"),
    "no steps": (["train", "guide", "--steps", "0"], "steps = '0': Input should be greater than or equal to 1"),
    "too many hosts": (["train", "guide", "--hosts", "7"], "7 hosts are more than the 3 agents of guide"),
    "missing file": (["train", "guide", "--config", "no.yaml"], "cannot read no.yaml: No such file or directory"),
    "module not there": (["train", "nowhere.at_all:World"], "there is no module 'nowhere'"),
    "gate without its stage": (["train", "guide", "--gate", "talk"], "give it steps, such as --stages.priced 0.2"),
    "no ids, and slots": (
        ["train", "guide", "--ids", "none"],
        "take --aggregation mean, set, relation, attention, aged or signature",
    ),
    "another number of agents": (["train", "secret", "--agents", "4"], "secret_v1 has 5 agents and allows no other"),
    "too many agents": (["train", "predator_prey_easy", "--agents", "25"], "take 1 to 24"),
    "a port that is none": (["train", "guide", "--metrics-port", "70000"], "less than or equal to 65535"),
    "a sweep on one port": (["sweep", "guide", "--metrics-port", "9400"], "one port is for one of them; leave"),
    "evaluate nothing": (["evaluate"], "the following arguments are required: RUN"),
    "audit nothing": (["audit"], "the following arguments are required: RUN"),
    "journal nothing": (["journal"], "the following arguments are required: RUN"),
    "export into what": (
        ["journal", "x", "--export", "out.txt"],
        "out.txt may be a file or a folder; name a file .jsonl",
    ),
    "export into no folder": (["journal", "x", "--export", "no/books.jsonl"], "the folder of no/books.jsonl does not"),
    "report nothing": (["report"], "the following arguments are required: RUN"),
    "audit two": (["audit", "a", "b"], "unrecognized arguments: b"),
    "list nothing": (["list"], "the following arguments are required: what"),
    "list unknown": (["list", "things"], "invalid choice: 'things'"),
    "bench nothing": (["bench"], "the following arguments are required: NAME"),
    "unknown bench": (["bench", "shanon"], "no bench is called 'shanon'; did you mean 'shannon'?"),
    "unknown bench, nothing near": (
        ["bench", "xyzzy"],
        "no bench is called 'xyzzy'; there are codec, wire, collapse, shannon, search, extract, tiers",
    ),
    "figure of another kind": (["bench", "wire", "--plot", "wire.pdf"], "wire.pdf is no .png file"),
    "figure in no folder": (["bench", "wire", "--plot", "no/wire.png"], "the folder of no/wire.png does not exist"),
    "sweep nothing": (["sweep"], "the following arguments are required: WORLD"),
    "sweep an unknown world": (["sweep", "guide", "gudie"], "there is no world 'gudie'; did you mean guide_v1"),
    "sweep an unknown method": (
        ["sweep", "guide", "--methods", "our"],
        "no method is called 'our'; did you mean 'ours'?",
    ),
    "sweep no seeds": (["sweep", "guide", "--seeds", "few"], "--seeds 'few' means no seeds"),
    "sweep one seed": (["sweep", "guide", "--seed", "3"], "a sweep takes --seeds, not --seed"),
    "sweep with a wrong budget": (["sweep", "guide", "--budgets", "none,64"], "the budget '64' has no unit"),
    "sweep with a wrong setting": (["sweep", "guide", "--steps", "0"], "steps = '0'"),
    "sweep with no process": (["sweep", "guide", "--jobs", "0"], "--jobs 0 would never end"),
    "demo on something else": (["demo", "--runtime", "gpu"], "invalid choice: 'gpu'"),
}


@pytest.mark.parametrize(("words", "sentence"), WRONG.values(), ids=WRONG.keys())
def test_wrong_usage_is_exit_2_and_one_sentence(command, tmp_path, words, sentence):
    code, out, err = command(*words)
    assert code == WRONG_USAGE
    assert err.startswith("commlib: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == [], "nothing is written before the usage is right"


@pytest.mark.parametrize("content", ["sede: 3\n", "learning: {gama: 0.5}\n", "- a list\n", "a: [1\n", "seed: many\n"])
def test_a_wrong_file_is_exit_2_and_names_the_file(command, tmp_path, content):
    (tmp_path / "mine.yaml").write_text(content)
    code, out, err = command("train", "guide", "--config", "mine.yaml")
    assert (code, out, err.count("\n")) == (WRONG_USAGE, "", 1)
    assert err.startswith("commlib: mine.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize("name", ["evaluate", "verify", "audit", "journal", "report"])
def test_a_missing_run_is_named(command, name):
    code, out, err = command(name, "runs/none")
    assert (code, out, err.count("\n")) == (FAILED, "", 1)
    assert err.startswith("commlib: runs/none holds no run")


def test_a_run_to_resume_that_is_not_there(command, tmp_path):
    code, out, err = command("train", "guide", "--out", "here", "--resume")
    assert (code, out, err.count("\n")) == (FAILED, "", 1)
    assert "here holds no run to resume; start it without --resume" in err
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback_of_a_wrong_usage_as_well(command):
    code, _, err = command("train", "guide", "--seed", "many", "--debug")
    assert code == WRONG_USAGE
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("commlib: ")


def test_no_command_shows_the_help_and_is_wrong(command):
    code, out, _ = command()
    assert code == WRONG_USAGE
    assert out.startswith("usage: commlib COMMAND")


def test_the_version(command):
    assert command("--version") == (GOOD, f"commlib {__version__}\n", "")


# --- help


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_explains_itself(command, name, flag):
    code, out, err = command(name, flag)
    assert (code, err) == (GOOD, "")
    assert f"commlib {name}" in out
    assert "--json" in out


def test_the_help_of_train_lists_every_setting(command):
    _, out, _ = command("train", "--help")
    for setting in cli._setting_names(cli.RunConfig):
        assert "--" + setting.replace("_", "-") in out


@pytest.mark.parametrize("name", ["evaluate", "verify"])
def test_the_help_of_a_trained_team_lists_only_what_may_change(command, name):
    _, out, _ = command(name, "--help")
    flags = set(re.findall(r"--[a-z][a-z._-]*", out))
    settings = {setting: "--" + setting.replace("_", "-") for setting in cli._setting_names(cli.RunConfig)}
    listed = {setting.split(".")[0] for setting, flag in settings.items() if flag in flags}
    assert listed == set(PLAY_SETTINGS)


def test_the_overview_names_every_command(command):
    code, out, _ = command("--help")
    assert code == GOOD
    assert all(f"  {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["audit", "--help"], ["trian"], ["--version"]])
def test_help_and_wrong_usage_load_neither_torch_nor_ray(words):
    script = (
        "import sys\nfrom commlib.experiments import cli\n"
        "try:\n    cli.main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'ray', 'pettingzoo', 'scipy'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_the_module_is_the_command(run_cli):
    done = run_cli("list", "things")
    assert (done.returncode, done.stdout) == (WRONG_USAGE, "")
    assert done.stderr.startswith("commlib: argument what: invalid choice")
    assert run_cli("list", "methods").returncode == GOOD


# --- JSON


def only_json(out):
    value = json.loads(out)
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("what", ["worlds", "codecs", "topologies", "methods", "runs"])
def test_lists_as_json(command, what):
    code, out, _ = command("list", what, "--json", "-")
    assert code == GOOD
    rows = only_json(out)[what]
    assert rows or what == "runs"
    assert all("name" in row for row in rows)


def test_a_doctor_names_extras_in_brackets(command, monkeypatch):
    from commlib.experiments import doctor

    monkeypatch.setattr(doctor, "_extras", lambda: [doctor.Finding("extra", True, "pip install 'commlib[metrics]'")])
    assert "pip install 'commlib[metrics]'" in command("doctor")[1]


def test_a_doctors_findings_as_json(command):
    code, out, _ = command("doctor", "nowhere:Thing", "--json", "-")
    assert code == FAILED
    assert only_json(out)["findings"][0]["is_good"] is False


def test_json_into_a_file(command, tmp_path):
    code, out, _ = command("list", "codecs", "--json", "codecs.json")
    assert (code, bool(out)) == (GOOD, True)
    assert only_json((tmp_path / "codecs.json").read_text())["codecs"]
    code, _, err = command("list", "codecs", "--json", "nowhere/codecs.json")
    assert (code, err.count("\n")) == (WRONG_USAGE, 1)


def test_audit_verify_evaluate_and_report_as_json(command, run_copy):
    result = RunFolder(run_copy).read_result()
    code, out, _ = command("audit", run_copy, "--json", "-")
    assert code == GOOD
    audited = only_json(out)
    assert (audited["differences"], audited["spent"]) == ([], result.ledger.spent)
    code, out, _ = command("verify", run_copy, "--quiet", "--json", "-", "--hosts", "3")
    assert (code, only_json(out)["differences"]) == (GOOD, [])
    code, out, _ = command("report", run_copy, "--json", "-")
    assert code == GOOD
    assert Path(only_json(out)["page"]).is_file()
    code, out, _ = command("evaluate", "--episodes", "8", run_copy, "--quiet", "--json", "-", "--budget=1 kbit/step")
    assert code == GOOD
    evaluated = only_json(out)
    assert (evaluated["return"]["n"], evaluated["budget"]) == (8, "1 kbit/step")
    assert RunFolder(run_copy).read_result() == result, "the run stays as it is"
    beside = RunFolder(run_copy / "evaluation-1")
    assert beside.read_result().to_json() == evaluated
    assert command("audit", run_copy)[0] == command("audit", beside.path)[0] == GOOD


def test_a_report_of_a_folder_of_runs_lies_beside_them(command, run_copy, tmp_path, monkeypatch):
    sweep = tmp_path / "sweep"
    for name in ("a", "b", "unfinished"):
        shutil.copytree(run_copy, sweep / name)
    (sweep / "unfinished" / "result.json").unlink()
    pairs = [sweep / "a", sweep / "b"]
    for runs in ([sweep], pairs, [sweep, sweep / "a"], [sweep]):  # in the end with page and figures beside the runs
        (sweep / "report.html").unlink(missing_ok=True)
        code, out, err = command("report", *runs, "--json", "-")
        assert (code, len(only_json(out)["results"])) == (GOOD, 2)
        page = Path(only_json(out)["page"])
        assert page.resolve() == (sweep / "report.html").resolve()
        assert ("unfinished" in page.read_text()) == ("unfinished" in err) == (runs != pairs), (
            "nothing is left out unsaid"
        )
    assert not (sweep / "a" / "report.html").exists()
    monkeypatch.chdir(sweep / "a")
    code, out, _ = command("report", Path("../b"), Path(), "--json", "-")
    assert Path(only_json(out)["page"]).resolve() == (sweep / "report.html").resolve()
    code, out, _ = command("report", sweep / "a", run_copy, "--json", "-")
    assert Path(only_json(out)["page"]) == sweep / "a" / "report.html", "they have nothing in common"


def test_what_is_no_folder_of_runs_is_refused(command, run_copy, tmp_path):
    code, _, err = command("report", tmp_path / "nothing")
    assert (code, "holds no run" in err) == (FAILED, True)
    shutil.copytree(run_copy, run_copy / "evaluation-1")
    (run_copy / "config.yaml").unlink()  # a damaged run with an evaluation in it is no sweep
    code, _, err = command("report", run_copy)
    assert (code, "holds no run" in err) == (FAILED, True)


def test_train_as_json_with_settings_before_and_after_the_world(command, tmp_path):
    code, out, _ = command(
        "train", "--steps", "640", "--no-rate-aware", "guide", "--episodes=8", "--learning.n-worlds", "32",
        "--stages.calibrate_worlds", "8", "--codebook-size", "8", "--quiet", "--json", "-", "--out", "run",
    )  # fmt: skip
    assert code == GOOD
    result = only_json(out)
    assert (result["world"], result["steps"], result["return"]["n"], result["frontier"]) == ("guide_v1", 640, 8, [])
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result


# --- what a trained team can no longer change


@pytest.mark.parametrize("name", ["evaluate", "verify"])
@pytest.mark.parametrize(
    "words",
    [
        ("--codec", "int8"),
        ("--message-width", "4"),
        ("--topology=full",),
        ("--steps", "5"),
        ("--learning.gamma", "0.1"),
    ],
)
def test_what_training_settled_cannot_be_changed_afterwards(command, run_copy, name, words):
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    code, out, err = command(name, run_copy, "--quiet", *words)
    assert (code, out, err.count("\n")) == (WRONG_USAGE, "", 1)
    assert "was settled in training" in err
    assert {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()} == before


def test_what_training_settled_may_be_repeated(command, run_copy):
    assert command("evaluate", run_copy, "--quiet", "--codec", "vq", "--episodes", "8")[0] == GOOD


def test_a_failed_audit_is_exit_1(command, run_copy):
    result = json.loads((run_copy / "result.json").read_text())
    result["ledger"]["spent"] += 8
    (run_copy / "result.json").write_text(json.dumps(result))
    code, out, _ = command("audit", run_copy)
    assert code == FAILED
    assert "1 differences" in out


def test_books_are_shown_exported_and_compacted_and_the_run_is_as_before(command, run_copy, tmp_path):
    ledger = RunFolder(run_copy).read_result().ledger
    journal = RunFolder(run_copy).journal
    before, size = journal.read_bytes(), journal.stat().st_size
    code, out, _ = command("journal", run_copy, "--export", "books.jsonl", "--json", "-")
    shown = only_json(out)
    assert (code, shown["exported"]["to"], shown["open_leases"]) == (GOOD, "books.jsonl", 0)
    assert (shown["accounts"]["bits"]["spent"], shown["accounts"]["bits"]["per"]) == (ledger.spent, "step")
    assert len((tmp_path / "books.jsonl").read_text().splitlines()) == shown["exported"]["rows"] + 1
    assert command("journal", run_copy, "--export", "books")[0] == GOOD
    assert (tmp_path / "books" / "leases.csv").is_file()
    assert journal.read_bytes() == before, "it is only read"
    code, out, _ = command("journal", journal, "--compact", "--json", "-")
    assert code == GOOD
    assert only_json(out)["accounts"] == shown["accounts"]
    assert only_json(out)["compacted"]["bytes_after"] == journal.stat().st_size <= size
    for check in ("audit", "report"):
        code, out, err = command(check, run_copy)
        assert code == GOOD, err
    code, out, _ = command("audit", journal)
    assert "entries and their receipts were compacted" in out
    assert "the books reconcile" in out


def test_books_are_shown_for_people_to_read(command):
    with Journal("tokens.sqlite") as journal, Ledger(journal) as ledger:
        ledger.grant(7_000_000, sequence=0)
        ledger.lease("r-1", 1_234_567, sequence=0)
        ledger.fence("r-1")
        with Purse(ledger, "r-0") as purse:
            purse.charge(7, (1, 2), 500_000)
    lines = [
        "bits: 1,734,567 spent, 0 leased, 5,265,433 available of 7,000,000 granted",
        "senders: 1 (7)",
        "holders: 2 (r-0, r-1)",
        "entries: 1 debit, 0 receipts, 0 open leases",
        "fences: 2 (r-0 1 time, r-1 1 time)",
    ]
    assert command("journal", "tokens.sqlite")[1].splitlines() == lines
    with Journal("tokens.sqlite") as journal, Ledger(journal) as ledger:
        ledger.receive(
            [Receipt("ears", 0, 0, entry.round, 7, n, 1, 500_000) for entry in journal.entries() for n in (1, 2)]
        )
    lines[3] = "entries: 1 debit, 2 receipts, 0 open leases"
    out = command("journal", "tokens.sqlite", "--export", "all/", "--compact")[1].splitlines()
    assert out[:5] == lines
    assert out[5] == "exported: 9 rows to all"
    assert out[6].startswith("compacted: 2 leases, 1 debit, 2 receipts and 1 allowance; ")
    assert command("journal", "tokens.sqlite")[1].splitlines() == lines, "whoever was compacted is still named"


def test_of_many_names_the_first_are_shown():
    assert cli._listed(list(range(9))) == "9 (0, 1, 2, 3, 4, 5, 6, 7, and 1 more)"
    assert cli._listed([]) == "0"


def test_books_that_cannot_be_read_or_exported_are_told_in_one_sentence(command, run_copy, tmp_path):
    Path("books.jsonl").touch()
    for words, said in (
        (("journal", run_copy, "--export", run_copy), "is not empty; name a new folder"),
        (("journal", run_copy, "--export", "books.jsonl"), "books.jsonl is there already; name a new file"),
        (("journal", RunFolder(run_copy).config), "is damaged or is no journal"),
        (("audit", RunFolder(run_copy).config), "is damaged or is no journal"),
    ):
        code, out, err = command(*words)
        assert (code, out, err.count("\n")) == (FAILED, "", 1)
        assert said in err
    RunFolder(run_copy).journal.unlink()
    assert "the run has no books yet" in command("journal", run_copy)[2]


def test_what_is_unexpected_is_one_sentence_too(command, monkeypatch):
    def broken(_):
        raise ZeroDivisionError("a long\nstory")

    monkeypatch.setitem(COMMANDS, "audit", ("", broken))
    code, out, err = command("audit", "x")
    assert (code, out, err.count("\n")) == (FAILED, "", 1)
    assert "unexpected ZeroDivisionError: a long story; run again with --debug" in err
    with pytest.raises(ZeroDivisionError):
        command("audit", "x", "--debug")
