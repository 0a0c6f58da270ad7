"""What a round costs over Ray as agents grow many: `commlib bench scale --runtime ray`.

The towns of the bench of scale, each agent heard by its four nearest, on two hosts in processes of their own: everybody
says a vector, half of them a new one; frames are paid for and carried by the driver, and receipts come back to its journal.
One world. Time is by the clock, from the vectors of a round to its last receipt, and memory is that of the driver and of the
hosts, less what they take with a town of a few agents.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from commlib.agents.recovery import Recovering
from commlib.experiments.bench import Measured, Row, Say, Target, race, slope, table
from commlib.experiments.town import Town

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES, N_HOSTS, N_LAPS = (625, 1_250, 2_500, 5_000, 10_000, 20_000), 2, 9
NAMED = 10_000
FEW = 64
TARGETS = {
    "messages_per_second": Target(at_least=200_000),
    "slope": Target(at_most=1.1),
    "audit_differences": Target(at_most=0),
}


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """One size after the other, each on hosts of its own."""
    from commlib.agents.ray_runtime import OnRay

    sizes, n_laps = ((64, 256, 1024), 2) if quick else (SIZES, N_LAPS)
    with OnRay(N_HOSTS):
        empty = _played(FEW, seed, n_laps, say)["bytes"]
        rows = [_played(n, seed, n_laps, say) for n in sizes]
    for row in rows:
        row["bytes_per_agent"] = max(0, row["bytes"] - empty) / row["n_agents"]
    return Measured(rows, _summary(rows), [_table(rows)])


def _played(n_agents: int, seed: int, n_laps: int, say: Say) -> Row:
    """Rounds of a town, and the memory that it takes."""
    from commlib.agents.ray_runtime import RayRuntime

    say(f"{n_agents:,} agents on {N_HOSTS} hosts")
    gc.collect()
    hosts = RayRuntime(N_HOSTS)
    with TemporaryDirectory() as folder:
        town = Town("knn", n_agents, seed, n_laps, Path(folder), Recovering(hosts))
        try:
            town.round(0)
            laps = race({"ray": town.round_after_greeting}, n_calls=1, n_laps=n_laps, clock=time.perf_counter)
            return {**town.row(laps["ray"]), "bytes": sum(map(_resident_bytes, (os.getpid(), *hosts.pids)))}
        finally:
            town.close()


def _resident_bytes(pid: int) -> int:
    """What a process has in memory."""
    return os.sysconf("SC_PAGE_SIZE") * int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])


def _summary(rows: Sequence[Row]) -> Row:
    named = min(rows, key=lambda row: abs(row["n_agents"] - NAMED))
    return {
        "messages_per_second": named["messages_per_second"],
        "said_per_second": named["said_per_second"],
        "slope": slope(rows, "n_edges", "wall_seconds_per_round"),
        "milliseconds_per_round": 1000 * named["wall_seconds_per_round"],
        "n_agents": named["n_agents"],
        "bytes_per_agent": named["bytes_per_agent"],
        "booking_share": named["booking_share"],
        "audit_differences": sum(row["audit_differences"] for row in rows),
    }


def _table(rows: Sequence[Row]) -> Any:  # noqa: ANN401 (a rich table)
    columns = {
        "n_agents": "agents",
        "n_edges": "open edges",
        "milliseconds": "ms per round",
        "messages_per_second": "messages/s",
        "said_per_second": "of them news/s",
        "booking_share": "of it booking",
        "bytes_per_agent": "bytes per agent",
    }
    shown = [{**row, "milliseconds": 1000 * row["wall_seconds_per_round"]} for row in rows]
    return table(f"each agent hears its four nearest, {N_HOSTS} hosts", columns, shown)


def draw(rows: Sequence[Row]) -> Figure:
    """Time of a round over open edges."""
    from commlib.experiments.bench_figures import Line, lines

    measured = [(row["n_edges"], 1000 * row["wall_seconds_per_round"]) for row in rows]
    per_edge = measured[-1][1] / measured[-1][0]
    linear = Line("linear", [(n, per_edge * n) for n, _ in (measured[0], measured[-1])], is_bound=True)
    return lines(
        {"a round": [linear, Line("two hosts", measured)]}, "open edges", "milliseconds", log_x=True, log_y=True
    )
