"""A training run on a cluster of three nodes, while a node is killed, a host is stopped, and the driver is killed and resumed.

First the run in peace, in one process; then the same command on the cluster. The nodes are raylets on this machine, each
with its own workers. When a quarter of the steps is done, a node is killed (SIGKILL, with the host that lives there); at the
half, a host is stopped (SIGSTOP: alive, and never answers); at three quarters the driver itself is killed, and the command
is given again with `--resume`. What came out is compared with the run in peace: success, books, and what was overspent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from commlib.errors import RunError
from commlib.experiments.bench import Measured, Row, Say, Target, table
from commlib.experiments.books import audit_run
from commlib.experiments.children import ONE_THREAD
from commlib.records import Result, RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from commlib.agents.ray_runtime import LocalCluster

WORLD, BUDGET, N_HOSTS, N_NODES = "guide", "64 bit/step", 3, 3
STEPS, QUICK_STEPS = 800_000, 16_000
CALL_SECONDS = 20.0
"""After so long without an answer a host is killed and brought back."""
PATIENCE_SECONDS = 3600.0
BLOWS = {"node killed": 0.25, "host stopped": 0.5, "driver killed": 0.75}
"""At which share of the steps."""
TARGETS = {
    "is_within_interval": Target(at_least=1),
    "has_same_books": Target(at_least=1),
    "overspend_bits": Target(at_most=0),
    "audit_differences": Target(at_most=0),
    "blows": Target(at_least=len(BLOWS)),
}


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """The run in peace, and the run under blows."""
    from commlib.agents.ray_runtime import LocalCluster

    steps = QUICK_STEPS if quick else STEPS
    with TemporaryDirectory() as scratch:
        peace, blows = Path(scratch) / "peace", Path(scratch) / "blows"
        say(f"{steps:,} steps in peace")
        started = time.perf_counter()
        _finish(_begin(_command(seed, steps, peace), peace.parent / "peace.log", {}))
        rows = [_row("peace", peace, time.perf_counter() - started)]
        say(f"the same on {N_NODES} nodes")
        cluster = LocalCluster(N_NODES, cpus_per_node=2)
        try:
            started = time.perf_counter()
            events = _under_blows(_command(seed, steps, blows), blows, steps, cluster, say)
            rows.append({**_row("blows", blows, time.perf_counter() - started), "events": events})
        finally:
            cluster.close()
    return Measured(rows, _summary(rows), [_table(rows)])


def _command(seed: int, steps: int, out: Path) -> list[str]:
    words = ["train", WORLD, "--hosts", str(N_HOSTS), "--budget", BUDGET, "--seed", str(seed), "--steps", str(steps)]
    return [*words, "--ray.placement", "spread", "--ray.call-seconds", str(CALL_SECONDS), "--out", str(out)]


def _begin(words: Sequence[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A command in a process of its own."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "commlib", *words],
            env={**os.environ, **ONE_THREAD, **environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def _finish(driver: subprocess.Popen[bytes]) -> None:
    try:
        code = driver.wait(PATIENCE_SECONDS)
    except BaseException:
        driver.kill()
        raise
    if code:
        raise RunError(f"the run ended with exit code {code}; run the bench again with --debug")


def _under_blows(words: list[str], out: Path, steps: int, cluster: LocalCluster, say: Say) -> list[Row]:
    """The run, with a blow at each appointed share of its steps; what was done, and when."""
    words = [*words, "--runtime", "ray"]
    log = out.parent / "blows.log"
    driver = _begin(words, log, cluster.environment)
    events: list[Row] = []
    started = time.perf_counter()
    try:
        for blow, share in BLOWS.items():
            _wait_for(out, share * steps, driver, log)
            say(blow)
            if blow == "node killed":
                cluster.kill(0)
            elif blow == "host stopped":
                os.kill(_a_host(cluster), signal.SIGSTOP)
            else:
                os.kill(driver.pid, signal.SIGKILL)
                driver.wait()
                driver = _begin([*words, "--resume"], log, cluster.environment)
            events.append({"blow": blow, "at_step": _steps_done(out), "seconds": time.perf_counter() - started})
    except BaseException:
        driver.kill()
        raise
    _finish(driver)
    return events


def _wait_for(out: Path, steps: float, driver: subprocess.Popen[bytes], log: Path) -> None:
    """Until so many steps are done."""
    while _steps_done(out) < steps:
        if driver.poll() is not None:
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise RunError(f"the run ended early, with exit code {driver.returncode}: {' '.join(last)[:300]}")
        time.sleep(0.2)


def _steps_done(out: Path) -> int:
    try:
        lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return int(json.loads(lines[-1])["steps"])
    except (FileNotFoundError, IndexError, json.JSONDecodeError, KeyError):
        return 0


def _a_host(cluster: LocalCluster) -> int:
    """The process of an agent host on one of the cluster's nodes.

    Raises:
        RunError: none lives there.
    """
    raylets = set(cluster.raylets)
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            title = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        if parent in raylets and title.startswith(b"ray::HostProcess"):
            return int(folder.name)
    raise RunError("no agent host lives on a node that is left but the head; nothing could be stopped")


def _row(name: str, out: Path, seconds: float) -> Row:
    result = RunFolder(out).read_result()
    _, differences = audit_run(out)
    return {
        "run": name,
        "seconds": seconds,
        "success": result.success.mean,
        "success_ci95": result.success.ci95,
        "wire_bytes": result.wire_bytes,
        "journal_digest": result.journal_digest,
        "restarts": result.restarts,
        "overspend_bits": _overspent(result),
        "audit_differences": len(differences),
    }


def _overspent(result: Result) -> int:
    return sum(max(0, one.spent - one.granted) for one in result.budgets)


def _summary(rows: Sequence[Row]) -> Row:
    peace, blows = rows
    low, high = peace["success_ci95"] or (0.0, 1.0)
    return {
        "is_within_interval": int(low <= blows["success"] <= high),
        "has_same_books": int(blows["journal_digest"] == peace["journal_digest"]),
        "success": blows["success"],
        "success_in_peace": peace["success"],
        "overspend_bits": blows["overspend_bits"],
        "audit_differences": blows["audit_differences"],
        "blows": len(blows["events"]),
        "restarts": blows["restarts"],
        "seconds": blows["seconds"],
    }


def _table(rows: Sequence[Row]) -> Any:  # noqa: ANN401 (a rich table)
    columns = {
        "run": "",
        "seconds": "seconds",
        "success": "success",
        "wire_bytes": "wire bytes",
        "restarts": "restarts",
        "overspend_bits": "bits overspent",
        "audit_differences": "audit differences",
    }
    return table("the same run in peace, and under blows", columns, rows)


def draw(rows: Sequence[Row]) -> Figure:
    """When the blows fell, in steps done over time."""
    from commlib.experiments.bench_figures import Line, lines

    events = next(row["events"] for row in rows if row["run"] == "blows")
    line = Line("blows", [(event["seconds"], event["at_step"]) for event in events])
    return lines({"steps done": [line]}, "seconds", "environment steps")
