"""Several processes, each with a purse on one journal file and nothing else between them: no Ray, no server."""

import multiprocessing
from pathlib import Path

from commlib.audit import audit
from commlib.errors import OverBudget
from commlib.journal import Journal
from commlib.ledger import Ledger
from commlib.purse import Purse, Tally

N_PROCESSES, BUDGET, BITS = 4, 1_000_000, 10


def spend(path: Path, number: int) -> dict[int, int]:
    """Send until the budget is out; how many messages of each round were sent, as their receiver counts them."""
    sent: dict[int, int] = {}
    with Ledger(Journal(path, busy_seconds=60.0)) as ledger, Purse(ledger, f"host-{number}") as purse:
        while True:
            try:
                round_ = purse.charge(number, (9,), BITS, BITS - 2)
            except OverBudget:
                return sent
            sent[round_] = sent.get(round_, 0) + 1


def test_processes_with_purses_spend_all_of_a_budget_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with Ledger(Journal(path)) as ledger:
        ledger.grant(BUDGET, 0)
        with multiprocessing.get_context("spawn").Pool(N_PROCESSES) as pool:
            told = pool.starmap(spend, [(path, number) for number in range(N_PROCESSES)], chunksize=1)
        with Tally(ledger, "host-9", epoch=0) as tally:
            for number, sent in enumerate(told):
                for round_, n_messages in sent.items():
                    tally.hear(round_, number, 9, n_messages * BITS, n_messages)
        report = audit(ledger.journal)
    assert report.differences == []
    assert sum(n for sent in told for n in sent.values()) * BITS == BUDGET == report.statement.spent
    assert report.bits_received == report.bits_debited == BUDGET
    assert report.n_entries < BUDGET / BITS / 10, "settled in batches until the jar is nearly empty"
