"""Training on hosts that share out worlds: what a second host brings, and what not waiting for a slow one.

World: mpe2's simple_spread (three agents, 25 steps, stepped by Python one copy after the other), 64 copies, method `ours`. All
ways train the same team from the same start, in turn, lap by lap, each lap with a seed of its own; a lap is whole
iterations, rollout and update, with nothing under way before it and what is still under way after it not counted. In the
ways with a slow host, one of the two is stopped (SIGSTOP) half of the time, 100 ms out of 200. Who waits for it
(synchronous) hands the next part of a batch to whoever is free, in four parts or in eight, and counts with what serves it
better; who does not (asynchronous, staleness 1) learns from what is there, and corrects for its age.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from commlib.agents.recovery import Recovering
from commlib.agents.rollouts import Shards
from commlib.experiments.bench import Laps, Measured, Row, Say, Target, table
from commlib.experiments.compose import complete, resolve, world_of
from commlib.experiments.evaluate import random_return
from commlib.experiments.progress import Quiet
from commlib.experiments.train import Training, make_folder, stages_of
from commlib.records import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

WORLD = "mpe2:simple_spread_v3"
N_WORLDS, N_LAPS, N_ITERATIONS = 64, 5, 20
STEPS = 200_000
"""Of the whole training that a lap is the beginning of."""
STOPPED_SECONDS = 0.1
TARGETS = {"second_host": Target(at_least=1.5), "not_waiting": Target(at_least=1.2)}


class Way(NamedTuple):
    """A way to train."""

    n_hosts: int
    staleness: int
    n_shards: int = 4
    has_slow_host: bool = False


WAYS = {
    "1 host": Way(1, 0),
    "2 hosts": Way(2, 0),
    "2 hosts, asynchronous": Way(2, 1),
    "one slow, 4 parts": Way(2, 0, has_slow_host=True),
    "one slow, 8 parts": Way(2, 0, 8, has_slow_host=True),
    "one slow, 8 parts, asynchronous": Way(2, 1, 8, has_slow_host=True),
    "one slow, 4 parts, two updates late": Way(2, 2, has_slow_host=True),
}
WAITING, NOT_WAITING = ("one slow, 4 parts", "one slow, 8 parts"), "one slow, 8 parts, asynchronous"
"""Who waits may choose the better of two grains."""


class Slowed:
    """A process that is stopped half of the time, as if its machine had half the speed."""

    def __init__(self, pid: int) -> None:
        self._pid, self._is_over = pid, Event()
        self._thread = Thread(target=self._stop_and_go, daemon=True)

    def _stop_and_go(self) -> None:
        while not self._is_over.is_set():
            os.kill(self._pid, signal.SIGSTOP)
            time.sleep(STOPPED_SECONDS)
            os.kill(self._pid, signal.SIGCONT)
            time.sleep(STOPPED_SECONDS)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """Laps of all ways in turn."""
    from commlib.agents.ray_runtime import OnRay, RayRuntime

    n_laps, n_iterations = (1, 2) if quick else (N_LAPS, N_ITERATIONS)
    rows: list[Row] = []
    with OnRay(sum({way.n_hosts for way in WAYS.values()})):
        hosts = {n_hosts: RayRuntime(n_hosts) for n_hosts in sorted({way.n_hosts for way in WAYS.values()})}
        try:
            for lap in range(-1, n_laps):  # the first one warms up
                say(f"lap {lap + 1} of {n_laps}" if lap >= 0 else "warming up")
                for name, way in WAYS.items():
                    row = _lap(
                        way, hosts[way.n_hosts], seed + max(0, lap), n_iterations if lap >= 0 else 1, quick=quick
                    )
                    rows += [{"way": name, "lap": lap, **row}] if lap >= 0 else []
        finally:
            for runtime in hosts.values():
                runtime.close()
    return Measured(rows, _summary(rows), [_table(rows)])


def _lap(way: Way, hosts: Any, seed: int, n_iterations: int, *, quick: bool) -> Row:  # noqa: ANN401 (a RayRuntime)
    """The beginning of a training."""
    settings: dict[str, Any] = {
        "steps": STEPS, "seed": seed, "runtime": "ray", "hosts": way.n_hosts,
        "learning": {"n_worlds": 8 if quick else N_WORLDS, "staleness": way.staleness, "shards": way.n_shards},
    }  # fmt: skip
    made = resolve(WORLD, None, None, settings)
    world = world_of(made)
    config = complete(made, world.spec)
    with TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch) / "run")
        make_folder(folder, config)
        training = Training(config, world, Recovering(hosts, max_restarts=0), folder, Quiet())
        stage = stages_of(config)[0]
        n_steps = n_iterations * config.learning.n_worlds * world.spec.n_steps if config.learning.n_worlds else 0

        def learn() -> float:
            started = time.perf_counter()
            training.learn(stage, n_steps)
            return time.perf_counter() - started

        if way.has_slow_host:
            with Slowed(hosts.pids[-1]):
                seconds = learn()
        else:
            seconds = learn()
        training.rollouts.close()
        at_random = random_return(world, config)
        metrics = folder.read_metrics()
    assert isinstance(training.rollouts, Shards)
    return {
        "steps": training.steps,
        "seconds": seconds,
        "steps_per_second": training.steps / seconds,
        "return": statistics.fmean(row["return"] for row in metrics[-max(1, n_iterations // 4) :]),
        "behind": statistics.fmean(row.get("behind", 0.0) for row in metrics),
        "return_at_random": at_random.mean,
        "parts": training.rollouts.n_begun,
        "discarded": training.rollouts.n_discarded,
    }


def _summary(rows: Sequence[Row]) -> Row:
    per_step = {name: Laps(tuple(1 / row["steps_per_second"] for row in _laps(rows, name))) for name in WAYS}
    waiting = min(WAITING, key=lambda name: per_step[name].median)
    late = _laps(rows, NOT_WAITING)
    return {
        "second_host": per_step["2 hosts"].speedup(per_step["1 host"]),
        "second_host_asynchronous": per_step["2 hosts, asynchronous"].speedup(per_step["1 host"]),
        "not_waiting": per_step[NOT_WAITING].speedup(per_step[waiting]),
        "behind": statistics.fmean(row["behind"] for row in late),
        "discarded_share": sum(row["discarded"] for row in late) / sum(row["parts"] for row in late),
        "return_synchronous": statistics.fmean(row["return"] for row in _laps(rows, waiting)),
        "return_asynchronous": statistics.fmean(row["return"] for row in late),
        "return_at_random": statistics.fmean(row["return_at_random"] for row in rows),
    }


def _laps(rows: Sequence[Row], name: str) -> list[Row]:
    return [row for row in rows if row["way"] == name]


def _table(rows: Sequence[Row]) -> Table:
    columns = {
        "way": "training",
        "steps_per_second": "steps/s, learning included",
        "return": "return at the end of the lap",
        "behind": "updates behind",
        "discarded": "parts thrown away",
    }
    shown = [
        {"way": name, **{key: statistics.median(row[key] for row in _laps(rows, name)) for key in list(columns)[1:]}}
        for name in WAYS
    ]
    return table(f"{WORLD}, medians of {len(rows) // len(WAYS)} laps", columns, shown)


def draw(rows: Sequence[Row]) -> Figure:
    """Steps per second of each way, lap by lap."""
    from commlib.experiments.bench_figures import Line, lines

    shown = [Line(name, [(row["lap"] + 1, row["steps_per_second"]) for row in _laps(rows, name)]) for name in WAYS]
    return lines({"training": shown}, "lap", "steps per second, learning included")
