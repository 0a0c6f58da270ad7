"""A fork copies the memory of a process, and with it a purse; money must not be copied."""

import os

import pytest

from commlib.errors import BudgetError, JournalError
from commlib.journal import Journal
from commlib.ledger import Ledger
from commlib.purse import Purse, Tally

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def in_a_child(task) -> int:
    """What a task gives in a forked process, as its exit code."""
    child = os.fork()
    if child == 0:
        os._exit(task())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_cannot_spend_the_lease_of_its_parent(tmp_path):
    with Ledger(Journal(tmp_path / "journal.sqlite")) as ledger:
        ledger.grant(10_000, sequence=0)
        purse, tally = Purse(ledger, "parent"), Tally(ledger, "listener", epoch=0)
        number = purse.charge(0, (1,), 100)
        tally.hear(number, 0, 1, 100)

        def spends():
            try:
                purse.charge(0, (1,), 100)
            except BudgetError as error:
                return 7 if "forked" in str(error) else 1
            return 0

        def reads():
            try:
                ledger.grant(5, sequence=1)
            except JournalError as error:
                return 8 if "forked" in str(error) else 1
            return 0

        def books():
            tally.close()
            return 9

        assert [in_a_child(task) for task in (spends, reads, books)] == [7, 8, 9]
        purse.charge(0, (1,), 100)
        purse.close()
        assert ledger.statement().spent == 200
