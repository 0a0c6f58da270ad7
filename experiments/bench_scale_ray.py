"""How far two hosts on one machine carry: agents on a grid, each hears its four nearest, over Ray; and what more would take.

The same town as `commlib bench scale`, but its hosts are Ray actors: the driver carries frames between them, charges them to
a ledger and writes a journal. Figures are by the wall clock, from the vectors of a round to its last receipt. Half of the
messages are new in every round, in one row all of them. Memory is what driver and hosts have in it after the rounds (resident
set), less what they have with 64 agents; processor time is that of the driver's process, all its threads, and of its hosts.

The model (`docs/scale.md`) is fitted to the processor times: what a driver has to do in a round grows with edges and with
hosts, what a host has to do with its own edges. On machines of their own hosts work side by side, so a round takes the
driver's time and the longest host's. It is tried on sizes that it was not fitted to.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from commlib.agents.recovery import Recovering
from commlib.experiments.bench import Measured, Row, Say, Target, race, slope, table
from commlib.experiments.town import HOLD, Town

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES, N_HOSTS, N_LAPS = (625, 1250, 2500, 5000, 10_000, 20_000), 2, 9
OTHER_HOSTS = (1, 4, 8)
FEW = 64
NAMED = 10_000
LARGE = {"n_agents": 1_000_000, "n_edges": 4_000_000, "n_hosts": 100}
TARGETS = {
    "messages_per_second": Target(at_least=200_000),
    "all_new_per_second": Target(at_least=200_000),
    "slope": Target(at_most=1.1),
    "audit_differences": Target(at_most=0),
}


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """One size after the other, each on hosts of its own; then other numbers of hosts, and everybody with news."""
    from commlib.agents.ray_runtime import OnRay

    sizes, named, n_laps = ((64, 256, 1024), 1024, 2) if quick else (SIZES, NAMED, N_LAPS)
    with OnRay(max(OTHER_HOSTS)):
        empty = _played(FEW, N_HOSTS, seed, n_laps, say)
        rows = [_played(n, N_HOSTS, seed, n_laps, say) for n in sizes]
        rows += [_played(named, n_hosts, seed, n_laps, say) for n_hosts in OTHER_HOSTS]
        rows.append(_played(named, N_HOSTS, seed, n_laps, say, hold=0.0))
    for row in rows[: len(sizes)]:  # of as many hosts as the empty town
        for whose in ("driver", "hosts"):
            row[f"{whose}_bytes_per_agent"] = max(0, row[f"{whose}_bytes"] - empty[f"{whose}_bytes"]) / row["n_agents"]
    return Measured(rows, _summary(rows), [_table(rows)])


def _played(n_agents: int, n_hosts: int, seed: int, n_laps: int, say: Say, hold: float = HOLD) -> Row:
    """Rounds of a town, and the memory and processor time that they take."""
    from commlib.agents.ray_runtime import RayRuntime

    say(f"{n_agents:,} agents on {n_hosts} hosts")
    gc.collect()
    hosts = RayRuntime(n_hosts)
    with TemporaryDirectory() as folder:
        town = Town("knn", n_agents, seed, n_laps, Path(folder), Recovering(hosts), hold=hold)
        try:
            town.round(0)
            books = _size(folder)
            before = time.process_time(), [_processor_seconds(pid) for pid in hosts.pids]
            laps = race({"ray": town.round_after_greeting}, n_calls=1, n_laps=n_laps, clock=time.perf_counter)
            after = time.process_time(), [_processor_seconds(pid) for pid in hosts.pids]
            return {
                **town.row(laps["ray"]),
                "hold": hold,
                "driver_processor_seconds": (after[0] - before[0]) / n_laps,
                "host_processor_seconds": max(b - a for a, b in zip(before[1], after[1], strict=True)) / n_laps,
                "journal_bytes_per_round": (_size(folder) - books) / n_laps,
                "driver_bytes": _resident_bytes(os.getpid()),
                "hosts_bytes": sum(map(_resident_bytes, hosts.pids)),
            }
        finally:
            town.close()


def _size(folder: str) -> int:
    """Bytes of the journal, with what is not yet folded into it."""
    return sum(path.stat().st_size for path in Path(folder).iterdir())


def _resident_bytes(pid: int) -> int:
    """What a process has in memory."""
    return os.sysconf("SC_PAGE_SIZE") * int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])


def _processor_seconds(pid: int) -> float:
    """Processor time of a process since it began."""
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


# --- the model ----------------------------------------------------------------------------------------------------------


def fitted(rows: Sequence[Row]) -> Row:
    """Processor seconds of a round: driver = base + edges x per edge + hosts x per host; host = base + its edges x per edge.

    Least squares of relative errors, no coefficient below zero.
    """
    from scipy.optimize import nnls

    edges, hosts = (np.array([row[key] for row in rows], float) for key in ("n_edges", "n_hosts"))
    driver, host = (
        np.array([row[f"{who}_processor_seconds"] for row in rows], float).clip(1e-4) for who in ("driver", "host")
    )
    ones = np.ones(len(rows))
    of_driver = nnls(np.stack([ones, edges, hosts], 1) / driver[:, None], ones)[0]
    of_host = nnls(np.stack([ones, edges / hosts], 1) / host[:, None], ones)[0]
    names = ("driver_base", "driver_per_edge", "driver_per_host", "host_base", "host_per_edge")
    return dict(zip(names, map(float, (*of_driver, *of_host)), strict=True))


def predicted(model: Row, n_edges: int, n_hosts: int) -> tuple[float, float]:
    """Processor seconds of the driver and of a host in a round."""
    driver = model["driver_base"] + model["driver_per_edge"] * n_edges + model["driver_per_host"] * n_hosts
    return driver, model["host_base"] + model["host_per_edge"] * n_edges / n_hosts


def _summary(rows: Sequence[Row]) -> Row:
    usual = [row for row in rows if row["hold"] == HOLD]
    grown = [row for row in usual if row["n_hosts"] == N_HOSTS]
    named, largest = min(grown, key=lambda row: abs(row["n_agents"] - NAMED)), grown[-1]
    model = fitted([row for row in usual if row is not largest])
    driver, host = predicted(model, LARGE["n_edges"], LARGE["n_hosts"])
    known = predicted(model, largest["n_edges"], largest["n_hosts"])
    measured = largest["driver_processor_seconds"] + largest["host_processor_seconds"]
    per_said = [
        row["journal_bytes_per_round"] / (row["said_per_second"] * row["wall_seconds_per_round"]) for row in usual
    ]
    return {
        "messages_per_second": named["messages_per_second"],
        "said_per_second": named["said_per_second"],
        "all_new_per_second": rows[-1]["said_per_second"],
        "slope": slope(grown, "n_edges", "wall_seconds_per_round"),
        "milliseconds_per_round": 1000 * named["wall_seconds_per_round"],
        "n_agents": named["n_agents"],
        "driver_bytes_per_agent": named["driver_bytes_per_agent"],
        "hosts_bytes_per_agent": named["hosts_bytes_per_agent"],
        "journal_bytes_per_message": float(np.median(per_said)),
        "booking_share": named["booking_share"],
        "audit_differences": sum(row["audit_differences"] for row in rows),
        **{f"model_{name}": value for name, value in model.items()},
        "model_error_at_the_largest": sum(known) / measured - 1,
        "model_over_wall_at_the_largest": sum(known) / largest["wall_seconds_per_round"] - 1,
        "bytes_of_a_host": named["hosts_bytes"] / named["n_hosts"],
        "large_driver_seconds": driver,
        "large_host_seconds": host,
        "large_round_seconds": driver + host,
    }


def _table(rows: Sequence[Row]) -> Any:  # noqa: ANN401 (a rich table)
    columns = {
        "n_agents": "agents",
        "n_hosts": "hosts",
        "hold": "say nothing new",
        "n_edges": "open edges",
        "milliseconds": "ms per round",
        "messages_per_second": "messages/s",
        "said_per_second": "of them news/s",
        "booking_share": "of it booking",
        "driver_processor_seconds": "driver, processor s",
        "host_processor_seconds": "a host, processor s",
    }
    shown = [{**row, "milliseconds": 1000 * row["wall_seconds_per_round"]} for row in rows]
    return table("each agent hears its four nearest", columns, shown)


def draw(rows: Sequence[Row]) -> Figure:
    """Time of a round over open edges."""
    from commlib.experiments.bench_figures import Line, lines

    grown = [row for row in rows if row["n_hosts"] == N_HOSTS and row["hold"] == HOLD]
    measured = [(row["n_edges"], 1000 * row["wall_seconds_per_round"]) for row in grown]
    per_edge = measured[-1][1] / measured[-1][0]
    linear = Line("linear", [(n, per_edge * n) for n, _ in (measured[0], measured[-1])], is_bound=True)
    return lines(
        {"a round": [linear, Line("two hosts", measured)]}, "open edges", "milliseconds", log_x=True, log_y=True
    )
