"""`commlib audit` of books at which somebody works: what it shows can be read, and JSON has all."""

import json

import pytest

from commlib.compact import compact
from commlib.errors import JournalError
from commlib.journal import Journal
from commlib.ledger import Entry, Ledger, Receipt

N_ROUNDS = 30


@pytest.fixture
def books(tmp_path):
    """Agent 0 tells 1 and 2 something in thirty rounds; 2 has booked nothing, 1 only the first round."""
    path = tmp_path / "live.sqlite"
    with Ledger(Journal(path)) as ledger:
        ledger.grant(10_000, 0)
        for r in range(N_ROUNDS):
            ledger.settle(ledger.lease("a", 64, r), [Entry(0, r, r, 0, (1, 2), 1, 64, 50, "a")])
        ledger.receive([Receipt("b", 0, 0, 0, 0, 1, 1, 64)])
    return path


def test_a_receiver_that_has_booked_nothing_takes_one_line_and_of_the_others_the_first_are_shown(books, command):
    code, out, err = command("audit", books)
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[0] == (
        "agent 2 has booked no receipt so far, and 30 debits are for it; audit again when its host has settled, or look why "
        "it books nothing"
    )
    assert [line.split(",")[0] for line in lines[1:-2]] == [f"round {r}" for r in range(1, 21)]
    assert all("edge 0->1" in line for line in lines[1:-2])
    assert lines[-2] == "and 9 more differences; --json FILE writes all"
    assert lines[-1].startswith("59 differences: 30 debits of 1920 bits, 1 receipts")


def test_json_has_all_of_them(books, command):
    _, out, _ = command("audit", books, "--json", "-")
    found = json.loads(out)
    assert len(found["differences"]) == 59
    assert len(found["summary"]) == 22


def test_compaction_says_when_it_can_be_done(books):
    with (
        Journal(books) as journal,
        pytest.raises(JournalError, match="Compact when everybody has settled; `commlib audit`"),
    ):
        compact(journal)
