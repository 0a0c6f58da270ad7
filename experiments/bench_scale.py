"""What a round costs as agents grow many: from vectors to inboxes, with ledger, journal and audit on, in one process.

Agents sit on a grid and hear their four nearest, so open edges grow with agents and pairs with their square. A round is
one of real play (`commlib.agents.play.PostOffice`): everybody says a vector, half of them a new one; codes are chosen,
coded and framed; bits are leased, weighed, settled and receipted in a journal on disk; the hosts read what they hear. The
figure is the slope of time against open edges on logarithmic axes: 1 is linear, 2 would be pairs. Beside it the full
graph, where everybody hears everybody, at sizes that still allow it.

Shapes: W worlds side by side (one), N agents, n agents of a host, K slots of an inbox, D message width.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from commlib.agents.runtime import LocalRuntime
from commlib.experiments.bench import Measured, Row, Say, Target, race, slope, table
from commlib.experiments.town import Town

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

TARGETS = {
    "slope": Target(at_most=1.1),
    "slope_from_1024_agents": Target(at_most=1.1),
    "memory_slope": Target(at_most=1.1),
    "audit_differences": Target(at_most=0),
}
SIZES, FULL_SIZES, N_LAPS = (64, 128, 256, 512, 1024, 2048, 4096, 8192), (16, 32, 64, 128), 9
MANY = 1024
"""From so many agents on, what a round costs by itself no longer hides how it grows."""


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """Rounds of all sizes in turn, lap by lap; then memory, size by size."""
    sizes, full_sizes, n_laps = ((64, 256, 1024), (16, 64), 2) if quick else (SIZES, FULL_SIZES, N_LAPS)
    places = [("knn", n) for n in sizes] + [("full", n) for n in full_sizes]
    with TemporaryDirectory() as folder:
        towns = {}
        for graph, n in places:
            say(f"{n} agents, {graph}")
            towns[f"{graph} {n}"] = Town(graph, n, seed, n_laps, Path(folder), LocalRuntime(1))
        try:
            for town in towns.values():
                town.round(0)  # greetings, and rooms that are entered for the first time
            say("rounds")
            laps = race({name: town.round_after_greeting for name, town in towns.items()}, n_calls=1, n_laps=n_laps)
            rows = [town.row(laps[name]) for name, town in towns.items()]
        finally:
            for town in towns.values():
                town.close()
    for row in rows:
        say(f"memory of {row['n_agents']} agents, {row['graph']}")
        row["bytes"] = _peak_bytes(row["graph"], row["n_agents"], seed)
        row["bytes_per_agent"] = row["bytes"] / row["n_agents"]
    sparse = [row for row in rows if row["graph"] == "knn"]
    large = [row for row in sparse if quick or row["n_agents"] >= MANY]
    summary = {
        "slope": slope(sparse, "n_edges", "seconds_per_round"),
        "slope_from_1024_agents": slope(large, "n_edges", "seconds_per_round"),
        "memory_slope": slope(large, "n_agents", "bytes"),
        "audit_differences": sum(row["audit_differences"] for row in rows),
        "messages_per_second": sparse[-1]["messages_per_second"],
        "bytes_per_agent": sparse[-1]["bytes_per_agent"],
        "milliseconds_per_round": 1000 * sparse[-1]["seconds_per_round"],
        "largest_n_agents": sparse[-1]["n_agents"],
    }
    return Measured(rows, summary, _tables(rows))


def _tables(rows: list[Row]) -> list[Table]:
    columns = {
        "n_agents": "agents",
        "n_edges": "open edges",
        "milliseconds": "ms per round",
        "microseconds_per_edge": "us per edge",
        "booking_share": "of it booking",
        "messages_per_second": "messages/s",
        "wire_bits_per_agent": "wire bits per agent",
        "audit_milliseconds": "audit, ms per round",
        "bytes_per_agent": "bytes per agent",
    }
    shown = [
        {
            **row,
            "milliseconds": 1000 * row["seconds_per_round"],
            "microseconds_per_edge": 1e6 * row["seconds_per_round"] / row["n_edges"],
            "audit_milliseconds": 1000 * row["audit_seconds_per_round"],
        }
        for row in rows
    ]
    return [
        table("each agent hears its four nearest", columns, [row for row in shown if row["graph"] == "knn"]),
        table("everybody hears everybody", columns, [row for row in shown if row["graph"] == "full"]),
    ]


def _peak_bytes(graph: str, n_agents: int, seed: int) -> int:
    """The most memory that a town takes while it is built and plays two rounds: Python's and numpy's, not SQLite's."""
    with TemporaryDirectory() as folder:
        tracemalloc.start()
        try:
            town = Town(graph, n_agents, seed, 2, Path(folder), LocalRuntime(1))
            try:
                for number in range(2):
                    town.round(number)
                return tracemalloc.get_traced_memory()[1]
            finally:
                town.close()
        finally:
            tracemalloc.stop()


def draw(rows: Sequence[Row]) -> Figure:
    """Time of a round over open edges, and over agents; and the bytes that an agent takes."""
    from commlib.experiments.bench_figures import Line, lines

    def curve(label: str, graph: str, x: str, y: str, scale: float = 1.0) -> Line:
        mine = [row for row in rows if row["graph"] == graph]
        return Line(label, [(row[x], scale * row[y]) for row in mine])

    names = {"knn": "four nearest", "full": "full graph"}
    least = min((row for row in rows if row["graph"] == "knn"), key=lambda row: row["n_edges"])
    most = max(row["n_edges"] for row in rows)
    per_edge = 1000 * least["seconds_per_round"] / least["n_edges"]
    linear = Line("linear", [(n, per_edge * n) for n in (least["n_edges"], most)], is_bound=True)
    panels = {
        "a round, by open edges": [
            linear,
            *(curve(name, graph, "n_edges", "seconds_per_round", 1000) for graph, name in names.items()),
        ],
        "a round, by agents": [
            curve(name, graph, "n_agents", "seconds_per_round", 1000) for graph, name in names.items()
        ],
    }
    return lines(panels, "open edges (left), agents (right)", "milliseconds per round", log_x=True, log_y=True)
