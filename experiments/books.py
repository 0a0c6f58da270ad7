"""Checks on a run folder: `audit` reconciles its books with themselves and with its result, `verify` replays it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from commlib.audit import audit
from commlib.config import RunConfig
from commlib.errors import RunError
from commlib.experiments.compose import n_hosts, open_runtime, world_of
from commlib.experiments.progress import Display
from commlib.experiments.train import load_model
from commlib.experiments.verify import Verdict, verify
from commlib.journal import Journal
from commlib.records import RunFolder


def audit_run(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The audit's figures and every difference in words: within the journal, and between it and `result.json`."""
    folder = RunFolder.existing(path)
    if not folder.journal.is_file():
        raise RunError(f"{folder.journal} is missing: the run has no books yet; finish it with --resume")
    with Journal.reader(folder.journal) as journal:
        report = audit(journal)
        digest = journal.digest()
    differences = [str(difference) for difference in report.differences]
    if folder.result.is_file():
        result = folder.read_result()
        if result.journal_digest != digest:
            differences.append(
                f"result.json was made from other books (digest {result.journal_digest[:12]}, the journal has {digest[:12]})"
            )
        if result.ledger.spent != report.statement.spent or 8 * result.wire_bytes != report.statement.spent:
            differences.append(
                f"result.json says {result.ledger.spent} bits spent and {8 * result.wire_bytes} bits of frames, the "
                f"journal {report.statement.spent}"
            )
    figures = {
        "entries": report.n_entries,
        "receipts": report.n_receipts,
        "bits_debited": report.bits_debited,
        "bits_received": report.bits_received,
        "spent": report.statement.spent,
        "granted": report.statement.granted,
        "available": report.statement.available,
        "leased": report.statement.leased,
        "journal_digest": digest,
    }
    return figures, differences


def verify_run(path: Path, config: RunConfig, display: Display) -> Verdict:
    """Replay a run's evaluation on its hosts and in one batch, and compare."""
    folder = RunFolder.existing(path)
    world = world_of(config)
    model = load_model(folder, world)
    runtime = open_runtime(config, n_hosts(config, world.spec.n_agents))
    try:
        return verify(model, config, world, runtime, folder, display)
    finally:
        runtime.close()
        world.close()
