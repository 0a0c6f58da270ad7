"""What a round costs as agents grow many: from vectors to inboxes, with ledger, journal and audit on, in one process.

Agents sit on a grid and hear their four nearest, so open edges grow with agents and pairs with their square. A round is
one of real play (`commlib.agents.play.PostOffice`): everybody says a vector, half of them a new one; codes are chosen,
coded and framed; bits are leased, weighed, settled and receipted in a journal on disk; the hosts read what they hear. The
figure is the slope of time against open edges on logarithmic axes: 1 is linear, 2 would be pairs. Beside it the full
graph, where everybody hears everybody, at sizes that still allow it.

Shapes: W worlds side by side (one), N agents, n agents of a host, K slots of an inbox, D message width.
"""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from commlib.agent import Spoken
from commlib.agents.play import PostOffice
from commlib.agents.runtime import LocalRuntime, Runtime
from commlib.agents.till import Books, Till
from commlib.audit import audit
from commlib.budget import Budget
from commlib.codec import Codes, Vectors, fresh_context, next_context
from commlib.codecs.frozen import CodebookQuantiser, TableCodec
from commlib.codecs.prior import fit_prior
from commlib.exchange import Bill, Sent
from commlib.experiments.bench import Laps, Measured, Row, Say, Target, race, table
from commlib.experiments.model import Model, furnish
from commlib.journal import Journal
from commlib.ledger import Ledger
from commlib.plan import Plan, make_plan
from commlib.rationing import Rationing, Tariff
from commlib.topology import FixedTopology, full, knn

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

TARGETS = {
    "slope": Target(at_most=1.1),
    "slope_from_1024_agents": Target(at_most=1.1),
    "memory_slope": Target(at_most=1.1),
    "audit_differences": Target(at_most=0),
}
ALPHABET, WIDTH, N_SENDERS, HOLD = 64, 16, 4, 0.5
SIZES, FULL_SIZES, N_LAPS = (64, 128, 256, 512, 1024, 2048, 4096, 8192), (16, 32, 64, 128), 9
MANY = 1024
"""From so many agents on, what a round costs by itself no longer hides how it grows."""
GRAPHS: dict[str, Callable[[int], FixedTopology]] = {"knn": partial(knn, n_senders=N_SENDERS), "full": full}


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """Rounds of all sizes in turn, lap by lap; then memory, size by size."""
    sizes, full_sizes, n_laps = ((64, 256, 1024), (16, 64), 2) if quick else (SIZES, FULL_SIZES, N_LAPS)
    places = [("knn", n) for n in sizes] + [("full", n) for n in full_sizes]
    with TemporaryDirectory() as folder:
        towns = {}
        for graph, n in places:
            say(f"{n} agents, {graph}")
            towns[f"{graph} {n}"] = Town(graph, n, seed, n_laps, Path(folder))
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
    summary = {
        "slope": _slope(sparse, "n_edges", "seconds_per_round"),
        "slope_from_1024_agents": _slope(sparse, "n_edges", "seconds_per_round", least=0 if quick else MANY),
        "memory_slope": _slope(sparse, "n_agents", "bytes", least=0 if quick else MANY),
        "audit_differences": sum(row["audit_differences"] for row in rows),
        "messages_per_second": sparse[-1]["messages_per_second"],
        "bytes_per_agent": sparse[-1]["bytes_per_agent"],
        "milliseconds_per_round": 1000 * sparse[-1]["seconds_per_round"],
        "largest_n_agents": sparse[-1]["n_agents"],
    }
    return Measured(rows, summary, _tables(rows))


def _slope(rows: Sequence[Row], x: str, y: str, least: int = 0) -> float:
    """The slope of y against x on logarithmic axes, by least squares, over rows of at least so many agents."""
    across, up = (np.log([float(row[key]) for row in rows if row["n_agents"] >= least]) for key in (x, y))
    return float(np.polyfit(across, up, 1)[0])


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


# --- a town -----------------------------------------------------------------------------------------------------------


class Criers:
    """Agents that say what they see, and do nothing."""

    def __init__(self, agents: list[int], senders: NDArray[np.int64]) -> None:
        self.n_agents, self.n_slots = senders.shape

    def reset(self, n_worlds: int) -> None:
        """They remember nothing."""

    def speak(self, observation: Vectors, elapsed: float) -> Spoken:
        """The observations [W, n, D], as they are; nobody is silent."""
        return Spoken(observation.swapaxes(0, 1), np.zeros(observation.shape[1::-1], bool))

    def act(self, inbox: Vectors, uniform: NDArray[np.float32]) -> NDArray[np.int64]:
        """Nothing, [W, n]; the inbox [W, n, K, D] has arrived."""
        return np.zeros(uniform.shape, np.int64)


class _TimedTill(Till):
    """Tells how long booking took, in processor seconds."""

    seconds = 0.0

    def settle(self, number: int, sent: Sequence[Sent]) -> None:
        started = time.thread_time()
        super().settle(number, sent)
        self.seconds += time.thread_time() - started

    def book_receipts(self, number: int, heard_by_host: Sequence[Sequence[Bill]]) -> None:
        started = time.thread_time()
        super().book_receipts(number, heard_by_host)
        self.seconds += time.thread_time() - started


class Town:
    """Agents with their graph, hosts, traffic and books, ready for rounds."""

    def __init__(self, graph: str, n_agents: int, seed: int, n_rounds: int, folder: Path) -> None:
        self.graph, self.n_agents = graph, n_agents
        draw = np.random.default_rng([seed, n_agents])
        codec = _codec()
        codes = held_codes(n_rounds + 1, n_agents, draw)
        noise = draw.normal(scale=0.01, size=(*codes.shape[:2], WIDTH)).astype(np.float32)
        self._vectors = codec.quantiser.embed(codes.reshape(-1, 1)).reshape(noise.shape) + noise
        edges = GRAPHS[graph](n_agents).edges()
        self.n_edges = len(edges)
        self._runtime = _hosts(1)
        plan: Plan = make_plan(edges, (0,) * n_agents, "broadcast")
        furnish(self._runtime, plan, Model(Criers, codec, edges))
        self._runtime.each("desk.reset", [(1, Tariff(), Rationing())])
        self._journal = Journal(folder / f"{graph}-{n_agents}.sqlite")
        budget = Budget(None)
        books = Books(Ledger(self._journal, budget=budget))
        self._post = PostOffice(self._runtime, plan, books)
        self._post.till = self._till = _TimedTill(books, plan, 1)
        self._wall: list[float] = []
        self._wire_bits = self._n_rounds = 0

    def round(self, number: int) -> None:
        """Everybody says a vector, and hears."""
        started = time.perf_counter()
        uniform = np.zeros((1, self.n_agents), np.float32)
        self._post.till.begin(number, 1)
        carried, _ = self._post.step(number, self._vectors[number][None], 0.0, np.ones(1, bool), uniform)
        self._wall.append(time.perf_counter() - started)
        self._wire_bits += sum(bill.bits for sent in carried[0].sent for bill in sent.bills)
        self._n_rounds += 1

    def round_after_greeting(self, number: int) -> None:
        """The same, when round 0 is over."""
        if number == 0:
            self._wall, self._wire_bits, self._n_rounds, self._till.seconds = [], 0, 0, 0.0
        gc.enable()  # a race turns it off; here what it takes to look after many objects is part of the figure
        try:
            self.round(number + 1)
        finally:
            gc.disable()

    def row(self, laps: Laps) -> Row:
        """What the rounds came to; the books are audited."""
        started = time.thread_time()
        report = audit(self._journal)
        audited = time.thread_time() - started
        return {
            "graph": self.graph,
            "n_agents": self.n_agents,
            "n_hosts": 1,
            "n_edges": self.n_edges,
            "n_rounds": self._n_rounds,
            "seconds_per_round": laps.median,
            "wall_seconds_per_round": statistics.median(self._wall),
            "messages_per_second": self.n_edges / statistics.median(self._wall),
            "booking_share": self._till.seconds / sum(laps.seconds),
            "wire_bits_per_agent": self._wire_bits / self._n_rounds / self.n_agents,
            "audit_seconds_per_round": audited / (self._n_rounds + 1),
            "audit_differences": len(report.differences),
        }

    def close(self) -> None:
        """Hosts and books."""
        self._runtime.close()
        self._journal.close()


def _hosts(n_hosts: int) -> Runtime:
    """Where the agents live. `RayRuntime` has the same calls: a bench over actors begins here and in `Town`'s plan."""
    return LocalRuntime(n_hosts)


def held_codes(n_rounds: int, n: int, draw: np.random.Generator) -> Codes:
    """Codes [n_rounds, n, 1] of which half are those of the round before."""
    codes = draw.integers(0, ALPHABET, (n_rounds, n, 1))
    is_held = draw.random(codes.shape) < HOLD
    for number in range(1, n_rounds):
        codes[number] = np.where(is_held[number], codes[number - 1], codes[number])
    return codes


@lru_cache
def _codec() -> TableCodec:
    """A codebook of 64 vectors, and a prior that was counted from such traffic."""
    draw = np.random.default_rng(0)
    seen = held_codes(200, 500, draw)
    before = np.concatenate([fresh_context(500, 1)[None], next_context(np.zeros((199, 500, 2), np.int64), seen[:-1])])
    prior = fit_prior(seen.reshape(-1, 1), before.reshape(-1, 2), ALPHABET, "previous")
    return TableCodec("vq", CodebookQuantiser(draw.normal(size=(ALPHABET, WIDTH)).astype(np.float32)), prior)


def _peak_bytes(graph: str, n_agents: int, seed: int) -> int:
    """The most memory that a town takes while it is built and plays two rounds: Python's and numpy's, not SQLite's."""
    with TemporaryDirectory() as folder:
        tracemalloc.start()
        try:
            town = Town(graph, n_agents, seed, 2, Path(folder))
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
