"""Several processes spend from one file: never more than was granted, and nothing that was settled is lost."""

import multiprocessing
from pathlib import Path

from commlib.audit import audit
from commlib.errors import OverBudget
from commlib.journal import MAIN, Entry, Journal, Receipt, Terms
from commlib.ledger import Ledger

N_PROCESSES, N_LEASES, BUDGET = 4, 200, 6000
MESSAGES = N_PROCESSES * (N_LEASES + 3)


def spend(path: Path, number: int) -> tuple[int, int, int]:
    """Lease and settle until this process has done its share; what it settled, and how often it was refused."""
    holder, spent, n_messages, n_refused = f"host-{number}", 0, 0, 0
    with Ledger(Journal(path, busy_seconds=120.0)) as ledger:
        for sequence in range(N_LEASES):
            asked, used = 5 + (sequence + number) % 11, (sequence * 7 + number) % 6
            try:
                with ledger.round():
                    lease = ledger.lease(holder, asked, sequence)
                    counted = ledger.lease(holder, 3, sequence, account="messages")
            except OverBudget:
                n_refused += 1
                continue
            round_ = sequence * N_PROCESSES + number
            with ledger.round():
                ledger.settle(lease, [Entry(0, sequence, round_, number, (9,), 1, used, 0, holder)])
                ledger.settle_at(counted, 1)
                ledger.receive([Receipt(holder, 0, sequence, round_, number, 9, 1, used)])
            spent, n_messages = spent + used, n_messages + 1
            assert ledger.statement().available >= 0
    return spent, n_messages, n_refused


def test_processes_that_share_a_file_never_overspend(tmp_path: Path) -> None:
    for budget, is_enough in ((BUDGET, True), (700, False)):
        path = tmp_path / f"{budget}.sqlite"
        with Ledger(Journal(path)) as ledger:
            ledger.open_account("messages", Terms("messages", "run", MESSAGES))
            ledger.grant(budget, 0)
            ledger.grant(MESSAGES, 0, account="messages")
        with multiprocessing.get_context("spawn").Pool(N_PROCESSES) as pool:
            told = pool.starmap(spend, [(path, number) for number in range(N_PROCESSES)])
        spent, n_messages, n_refused = map(sum, zip(*told, strict=True))
        assert (n_refused == 0) == is_enough
        with Journal.reader(path) as journal:
            now, counted = journal.statement(), journal.statement("messages")
            assert (now.granted, now.spent, now.leased) == (budget, spent, 0)
            assert spent <= budget
            assert (counted.spent, counted.leased) == (n_messages, 0)
            assert now.n_entries == n_messages == N_PROCESSES * N_LEASES - n_refused
            assert journal.accounts()[MAIN][1] == now
            assert audit(journal).differences == []


def open_and_grant(path: Path, number: int) -> int:
    with Ledger(Journal(path, busy_seconds=60.0)) as ledger:
        return ledger.grant(1, number).granted


def test_processes_may_create_and_open_a_file_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with multiprocessing.get_context("spawn").Pool(N_PROCESSES) as pool:
        granted = pool.starmap(open_and_grant, [(path, number) for number in range(40)], chunksize=1)
    assert sorted(granted) == list(range(1, 41))
