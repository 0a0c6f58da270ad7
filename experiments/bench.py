"""Benches: one question each, asked of this machine in one run, answered by a table and one JSON object.

A race on one track: whoever is compared runs in the same process, in turn, lap by lap, so that a slow minute of the
machine slows all alike; what is reported is the median lap and the median of the laps' ratios, in processor seconds of
the one thread that works, which others on the machine disturb least. Not a profile: it says how fast or how short, not
why.
"""

from __future__ import annotations

import difflib
import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast

import numpy as np

from commlib.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

Say = Callable[[str], None]
Row = dict[str, Any]

BENCHES: Final = {
    "codec": ("commlib.experiments.bench_codec", "one message, and 4,096, from vector to bytes and back"),
    "wire": (
        "commlib.experiments.bench_wire",
        "bits on the wire against what the prior says they need; and under loss",
    ),
    "collapse": ("commlib.experiments.bench_collapse", "codes in use when codebook, sender and receiver learn at once"),
    "shannon": ("commlib.experiments.bench_shannon", "distance from entropy and from the rate-distortion function"),
    "search": (
        "commlib.experiments.bench_search",
        "how few steps Predator-Prey takes a team that shares all it sees",
    ),
    "extract": (
        "commlib.experiments.bench_extract",
        "how much of search_extract a team gets done by a rule, by what is shared",
    ),
    "tiers": (
        "commlib.experiments.bench_tiers",
        "a router that chooses how finely to tell each message, against telling all alike",
    ),
    "allocation": (
        "commlib.experiments.bench_allocation",
        "who goes first under a tight budget: five rules, on a world of unequal needs",
    ),
    "price": (
        "commlib.experiments.bench_price",
        "prices that follow a budget: one team under five budgets, one that changes, and two at once",
    ),
    "ledger": ("commlib.experiments.bench_ledger", "charges out of leases against a call to the ledger for each"),
    "chaos": ("commlib.experiments.bench_chaos", "`ledger --chaos`: one budget, while hosts and the ledger are killed"),
    "ray": ("commlib.experiments.bench_ray", "rounds over Ray against a remote call for each message"),
    "train": ("commlib.experiments.bench_train", "environment steps per second of one core, learning included"),
    "routes": ("commlib.experiments.bench_routes", "frames through the driver, or from host to host, over Ray"),
    "train-ray": (
        "commlib.experiments.bench_train_ray",
        "`train --runtime ray`: training on one host and on two; and with a slow one that nobody waits for",
    ),
    "cluster": (
        "commlib.experiments.bench_cluster",
        "training on three nodes: one is killed, a host stopped, the driver killed",
    ),
    "scale": ("commlib.experiments.bench_scale", "a round of up to 8,192 agents, by open edges; ledger and audit on"),
    "scale-ray": (
        "commlib.experiments.bench_scale_ray",
        "`scale --runtime ray`: up to 20,000 agents on two hosts over Ray",
    ),
}


class Measured(NamedTuple):
    """What a bench found: a row for each thing measured, the figures that sum it up, and tables for people."""

    rows: list[Row]
    summary: Row
    tables: list[Table]


class _Bench(Protocol):
    """What the module of a bench holds."""

    TARGETS: Mapping[str, Target]

    def measure(self, seed: int, quick: bool, say: Say) -> Measured: ...

    def draw(self, rows: Sequence[Row]) -> Figure: ...


@dataclass(frozen=True)
class Target:
    """What a figure of the summary should be: at least or at most a number, or true."""

    at_least: float | None = None
    at_most: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a figure reaches it.

        >>> Target(at_most=0.02).holds(0.03)
        False
        """
        too_low = self.at_least is not None and value < self.at_least
        too_high = self.at_most is not None and value > self.at_most
        return not (too_low or too_high)

    def __str__(self) -> str:
        bounds = ((">=", self.at_least), ("<=", self.at_most))
        return " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)


@dataclass(frozen=True)
class Outcome:
    """A finished bench.

    Attributes:
        record: what is written as JSON: name, command, seed, versions, rows, summary.
        tables: for people.
        verdicts: each figure that has a target, in words, and whether the target is reached.
    """

    record: Row
    tables: list[Table]
    verdicts: list[tuple[str, bool]]


def find(name: str) -> str:
    """The module of a bench.

    Raises:
        ConfigError: no bench has this name.
    """
    if name not in BENCHES:
        near = difflib.get_close_matches(name, BENCHES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(BENCHES)}"
        raise ConfigError(f"no bench is called {name!r}; {hint}")
    return BENCHES[name][0]


def run_bench(name: str, seed: int, command: str, say: Say, *, quick: bool = False) -> Outcome:
    """Measure, and put the record together."""
    bench = cast("_Bench", import_module(find(name)))
    from commlib.records import versions

    measured = bench.measure(seed, quick, say)
    record = {
        "name": name,
        "command": command,
        "seed": seed,
        "versions": versions(),
        "rows": measured.rows,
        "summary": measured.summary,
    }
    verdicts = [
        (f"{figure} = {measured.summary[figure]:.4g}, target {target}", target.holds(measured.summary[figure]))
        for figure, target in bench.TARGETS.items()
    ]
    return Outcome(record, measured.tables, verdicts)


def draw(record: Row) -> Figure:
    """The figure of a bench's record."""
    bench = cast("_Bench", import_module(find(record["name"])))
    return bench.draw(record["rows"])


# --- timing -----------------------------------------------------------------------------------------------------------


class Laps(NamedTuple):
    """How long one call took, in processor seconds, lap by lap."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle lap.

        >>> Laps((3.0, 1.0, 2.0)).median
        2.0
        """
        return statistics.median(self.seconds)

    def speedup(self, slow: Laps) -> float:
        """How many times faster than another: the median of the laps' own ratios.

        >>> Laps((1.0, 2.0, 1.0)).speedup(Laps((3.0, 6.0, 9.0)))
        3.0
        """
        return statistics.median(theirs / ours for ours, theirs in zip(self.seconds, slow.seconds, strict=True))


def race(
    runners: Mapping[str, Callable[[int], object]],
    n_calls: int,
    n_laps: int,
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, Laps]:
    """Each lap lets every runner make `n_calls` calls; a call is told its number, so that it can vary its input.

    The order is drawn anew for each lap: nobody always finds the caches as the same other one left them. The garbage
    collector is off meanwhile. Numbers go on from lap to lap, so that no input comes twice.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    names, order = list(runners), np.random.default_rng(0)
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for lap in range(n_laps):
            for which in order.permutation(len(names)):
                name, first = names[which], lap * n_calls
                run = runners[name]
                started = clock()
                for number in range(first, first + n_calls):
                    run(number)
                seconds[name].append((clock() - started) / n_calls)
    finally:
        if was_on:
            gc.enable()
    return {name: Laps(tuple(laps)) for name, laps in seconds.items()}


def slope(rows: Sequence[Row], x: str, y: str) -> float:
    """The slope of y against x on logarithmic axes, by least squares.

    >>> round(slope([{"n": 1, "s": 2.0}, {"n": 10, "s": 200.0}], "n", "s"), 6)
    2.0
    """
    across, up = (np.log([float(row[key]) for row in rows]) for key in (x, y))
    return float(np.polyfit(across, up, 1)[0])


# --- tables -----------------------------------------------------------------------------------------------------------


def table(title: str, columns: Mapping[str, str], rows: Sequence[Row]) -> Table:
    """Rows as a table for people: columns by key, with their headings; figures to four digits, a dash for none."""
    from rich.table import Table

    shown = Table(title=title, title_justify="left", header_style="bold")
    for nth, heading in enumerate(columns.values()):
        shown.add_column(heading, justify="left" if nth == 0 else "right")
    for row in rows:
        shown.add_row(*(_cell(row.get(key)) for key in columns))
    return shown


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
