"""A ledger in another process, which may die between any two calls: here the process is an object that is thrown away."""

import pytest

from commlib.agents.ledger_host import LedgerHost, RemoteLedger
from commlib.audit import audit
from commlib.budget import Budget
from commlib.errors import HostError, JournalError, OverBudget
from commlib.journal import Journal
from commlib.purse import Purse, Tally


class Mortal:
    """A line to a ledger's process that dies before or after the calls with these numbers, and comes back at once."""

    def __init__(self, path, deaths):
        self.path, self.deaths, self.n_calls = path, deaths, 0
        self.host = LedgerHost(str(path), Budget(10_000))

    def call(self, method, *arguments):
        self.n_calls += 1
        when = self.deaths.get(self.n_calls)
        if when == "before":
            self.die()
        answer = getattr(self.host, method)(*arguments)
        if when == "after":
            self.die()
        return answer

    def die(self):
        self.host.close()
        self.host = LedgerHost(str(self.path), Budget(10_000))
        raise HostError("the process died")


def never(seconds):
    pytest.fail("nothing failed, so there is nothing to wait for")


@pytest.mark.parametrize("when", ["before", "after"])
def test_whatever_call_the_process_dies_at_the_books_are_the_same(tmp_path, when):
    for nth in range(1, 15):
        path = tmp_path / f"{nth}.sqlite"
        process = Mortal(path, {nth: when})
        pauses = []
        remote = RemoteLedger(process, pause=pauses.append)
        remote.grant(10_000, 0)
        assert remote.epoch("b") == 0
        with Tally(remote, "b", 0) as tally, Purse(remote, "a", clock=lambda: 0.0) as purse:
            for _ in range(200):
                tally.hear(purse.charge(0, (1,), 16), 0, 1, 16)
        assert remote.withdraw(5, 0) == 5
        assert remote.statement().spent == 3200
        assert len(pauses) == 1
        process.host.close()
        with Journal.reader(path) as journal:
            report = audit(journal)
        assert report.differences == []
        assert (report.bits_debited, report.statement.leased, report.statement.granted) == (3200, 0, 9995)


def test_patience_ends_and_the_error_is_the_last_one(tmp_path):
    now = [0.0]

    def pause(seconds):
        now[0] += seconds

    process = Mortal(tmp_path / "j.sqlite", dict.fromkeys(range(1, 1000), "before"))
    remote = RemoteLedger(process, patience_seconds=1.0, clock=lambda: now[0], pause=pause)
    with pytest.raises(HostError, match="died"):
        remote.statement()
    assert 15 <= process.n_calls <= 25


def test_an_error_of_the_ledger_is_an_answer(tmp_path):
    process = Mortal(tmp_path / "j.sqlite", {})
    remote = RemoteLedger(process, pause=never)
    remote.grant(100, 0)
    with pytest.raises(OverBudget):
        remote.lease("a", 101, 0)
    lease = remote.lease("a", 100, 0)
    assert remote.release(lease).available == 100
    assert remote.fence("a", epoch=0) == 1
    process.host.close()


def test_a_journal_that_cannot_be_opened_fails_each_call_until_it_can(tmp_path):
    host = LedgerHost(str(tmp_path / "folder" / "j.sqlite"))
    remote = RemoteLedger(Direct(host), pause=never)
    for _ in range(2):
        with pytest.raises(JournalError, match="cannot be opened"):
            remote.statement()
    (tmp_path / "folder").mkdir()
    assert remote.statement().granted == 0
    host.close()


class Direct:
    def __init__(self, host):
        self.host = host

    def call(self, method, *arguments):
        return getattr(self.host, method)(*arguments)
