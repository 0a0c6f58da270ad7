"""Figures whose books are gone are shown with a warning: on stderr, a line for each run."""

import json

import pytest

from commlib.records import RunFolder

DAMAGES = {
    "gone": (lambda journal: journal.unlink(), "journal.sqlite is missing, so "),
    "empty": (lambda journal: journal.write_bytes(b""), "journal.sqlite cannot be read ("),
    "truncated": (lambda journal: journal.write_bytes(journal.read_bytes()[:3000]), "journal.sqlite cannot be read ("),
    "cut in the middle": (
        lambda journal: journal.write_bytes(journal.read_bytes()[: journal.stat().st_size // 2]),
        "journal.sqlite cannot be read (",
    ),
}


@pytest.mark.parametrize("name", ["bill", "report"])
def test_whole_runs_have_no_warning(name, run_copy, command):
    code, _, err = command(name, run_copy)
    assert (code, err) == (0, "")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["bill", "report"])
def test_a_run_without_its_books_is_shown_with_a_warning(name, damage, run_copy, command):
    do, said = DAMAGES[damage]
    do(RunFolder(run_copy).journal)
    code, out, err = command(name, run_copy, "--json", run_copy / "out.json")
    assert (code, err.count("\n")) == (0, 1)
    assert out
    assert err.startswith(f"commlib: warning: {run_copy}: {said}")
    assert json.loads((run_copy / "out.json").read_text())
    if name == "report":
        assert said in (run_copy / "report.html").read_text()


def test_books_of_another_evaluation_are_warned_of_by_the_bill(run_copy, command):
    result = json.loads((run_copy / "result.json").read_text())
    (run_copy / "result.json").write_text(json.dumps({**result, "journal_digest": "0" * 64}))
    code, _, err = command("bill", run_copy)
    assert code == 0
    assert "result.json names 000000000000: the books were written by another evaluation" in err
