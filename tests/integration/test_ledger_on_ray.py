"""The ledger as an actor, hosts as actors, and SIGKILL for any of them: the books hold, and witnesses say so."""

import os
import signal
from contextlib import suppress

import pytest
import ray

from commlib.agents.ledger_host import LedgerHost, RemoteLedger
from commlib.agents.ray_runtime import Process
from commlib.audit import audit
from commlib.errors import HostError, OverBudget
from commlib.experiments.bench import draw, run_bench
from commlib.experiments.bench_chaos import chaos
from commlib.journal import Journal
from commlib.purse import Purse, Tally


@pytest.fixture(scope="module", autouse=True)
def on_ray():
    """A Ray that is running already."""
    ray.init(address="local", num_cpus=16, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    assert ray.is_initialized(), "we joined it, so it is not ours to end"
    ray.shutdown()


def silent(text):
    """Nobody listens."""


def test_a_ledger_that_is_killed_comes_back_with_its_books(tmp_path):
    process = Process(LedgerHost, str(tmp_path / "journal.sqlite"), cpu_share=0.1)
    remote = RemoteLedger(process)
    remote.grant(10_000, 0)
    with Tally(remote, "b", 0) as tally, Purse(remote, "a", settle_seconds=60.0) as purse:
        for nth in range(6):
            for _ in range(20):
                tally.hear(purse.charge(0, (1,), 16), 0, 1, 16)
            if nth % 2:
                purse.settle()
            if nth in {1, 2}:
                os.kill(pid_of(process), signal.SIGKILL)
    assert remote.statement().spent == 120 * 16
    process.call("close")
    with Journal.reader(tmp_path / "journal.sqlite") as journal:
        report = audit(journal)
    assert report.differences == []
    assert (report.bits_debited, report.statement.leased) == (120 * 16, 0)
    process.end()


def pid_of(process):
    while True:
        with suppress(HostError):  # it may be on its way back from the last time
            return process.call("pid")


def test_errors_of_the_ledger_arrive_as_they_are(tmp_path):
    process = Process(LedgerHost, str(tmp_path / "journal.sqlite"), cpu_share=0.1)
    with pytest.raises(OverBudget, match="0 are left"):
        RemoteLedger(process).lease("a", 1, 0)
    with pytest.raises(AttributeError, match="no such method"):
        process.call("call", "no such method", (), {})
    process.end()


def test_an_error_that_is_not_ours_is_no_reason_to_ask_again(tmp_path):
    process = Process(LedgerHost, str(tmp_path / "journal.sqlite"), cpu_share=0.1)
    remote = RemoteLedger(
        process, pause=lambda seconds: pytest.fail("it was answered, so there is nothing to wait for")
    )
    assert remote.grant(100, 0).granted == 100
    with pytest.raises(TypeError, match="unhashable") as caught:
        remote.epoch([])
    assert type(caught.value) is TypeError, "the error itself, not what Ray makes of it"
    assert remote.statement().granted == 100
    process.end()


def test_hosts_and_the_ledger_are_killed_and_nothing_is_overspent_or_lost(tmp_path):
    row = chaos(tmp_path, seed=1, n_kills=4, n_ledger_kills=1, say=silent, bits_per_kill=200_000)
    assert row["kills"] >= 4
    assert row["ledger_kills"] == 1
    assert row["n_fenced"] >= 1
    assert row["overspend_bits"] == row["lost_charges"] == row["wrong_settlements"] == 0
    assert row["first_differences"] == []
    assert 0 <= row["stranded_share"] == pytest.approx(row["fenced_unsent_share"], abs=200 / row["granted"])
    assert draw({"name": "chaos", "rows": [{"killed": "all", **row}]}).axes


def test_the_bench_of_the_ledger_has_all_that_a_record_needs():
    outcome = run_bench("ledger", 3, "commlib bench ledger", silent, quick=True)
    summary = outcome.record["summary"]
    assert summary["audit_differences"] == 0
    assert summary["stranded_share"] <= 0.01
    assert summary["lease_vs_sync"] > 1
    assert len(outcome.verdicts) == 3
    assert draw(outcome.record).axes
