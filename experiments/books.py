"""Checks on a run folder: `audit` reconciles its books with themselves and with its result, `verify` replays it.

Books that no run wrote, the file of a program that uses the ledger alone, are audited, exported and compacted as well.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Final

from commlib.audit import AuditReport, audit
from commlib.compact import compact
from commlib.config import RunConfig
from commlib.errors import RunError
from commlib.experiments.compose import n_hosts, open_runtime, world_of
from commlib.experiments.progress import Display
from commlib.experiments.train import load_model
from commlib.experiments.verify import Verdict, verify
from commlib.export import export_csv, export_jsonl
from commlib.journal import Journal, Statement
from commlib.records import RunFolder

MOST_DIFFERENCES: Final = 20
"""So many are shown in the terminal; JSON has all."""


def audit_run(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The audit's figures and every difference in words: within the journal, and between it and `result.json`.

    The figure `summary` is what people are shown of the differences: all that is said of a receiver that has booked nothing
    in one sentence, and of the others the first ones.
    """
    with Journal.reader(journal_file(path)) as journal:
        report = audit(journal)
        digest = journal.digest()
    differences = [str(difference) for difference in report.differences]
    folder = RunFolder(path)
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
        "bits_unaccounted": report.bits_unaccounted,
        "bits_recovered": report.bits_recovered,
        "accounts": {account: _sums(statement) for account, statement in report.accounts.items()},
        "explanations": report.explanations,
        "summary": _summary(report, differences),
        "journal_digest": digest,
    }
    return figures, differences


def _summary(report: AuditReport, differences: list[str]) -> list[str]:
    unheard = [one for one in report.differences if one.edge is not None and one.edge.receiver in report.silent]
    counts = Counter(one.edge.receiver for one in unheard if one.edge is not None)
    shown = [
        f"agent {receiver} has booked no receipt so far, and {n:,} debits are for it; audit again when its host has settled, or "
        f"look why it books nothing"
        for receiver, n in sorted(counts.items())
    ]
    told = set(map(str, unheard))
    others = [sentence for sentence in differences if sentence not in told]
    shown += others[:MOST_DIFFERENCES]
    if len(others) > MOST_DIFFERENCES:
        shown.append(f"and {len(others) - MOST_DIFFERENCES:,} more differences; --json FILE writes all")
    return shown


def journal_file(path: Path) -> Path:
    """The books of a run folder; or the file itself, where one is named."""
    if path.is_file():
        return path
    file = RunFolder.existing(path).journal
    if not file.is_file():
        raise RunError(f"{file} is missing: the run has no books yet; finish it with --resume")
    return file


def keep_books(path: Path, export: Path | None, *, is_compacted: bool) -> dict[str, Any]:
    """What stands in the books; on demand they are exported first, then compacted.

    Args:
        path: a run folder, or a journal.
        export: a file `*.jsonl`, or a folder for CSV files; None: nothing is exported.
        is_compacted: whether to compact.
    """
    file = journal_file(path)
    figures: dict[str, Any] = {}
    with Journal.reader(file) as journal:
        if export is not None:
            n_rows = export_jsonl(journal, export) if export.suffix == ".jsonl" else export_csv(journal, export)
            figures["exported"] = {"to": str(export), "rows": n_rows}
    if is_compacted:
        with Journal(file) as journal:
            figures["compacted"] = compact(journal)._asdict()
    with Journal.reader(file) as journal, journal.reading():
        accounts = {
            account: {**terms._asdict(), **_sums(journal.statement(account)), "price": journal.last_price(account)}
            for account, (terms, _) in journal.accounts().items()
        }
        carried = journal.carried()
        ((n_receipts,),) = journal.rows("SELECT COUNT(*) FROM receipts")
        kept = {
            "journal_digest": journal.digest(),
            "open_leases": len(journal.open_leases()),
            "accounts": accounts,
            "senders": journal.senders(),
            "holders": journal.holders(),
            "entries": journal.now().n_entries,
            "receipts": n_receipts + (carried.n_receipts if carried else 0),
            "fences": journal.epochs(),
        }
    return {"journal": str(file), **kept, **figures}


def _sums(statement: Statement) -> dict[str, int]:
    return statement._asdict()


def verify_run(path: Path, config: RunConfig, display: Display) -> Verdict:
    """Replay a run's evaluation on its hosts and in one batch, and compare."""
    folder = RunFolder.existing(path)
    world = world_of(config)
    model = load_model(folder, world)
    runtime = open_runtime(config, n_hosts(config, world.spec.n_agents), display.say)
    try:
        return verify(model, config, world, runtime, folder, display)
    finally:
        runtime.close()
        world.close()
