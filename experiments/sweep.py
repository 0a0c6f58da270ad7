"""A sweep: many trainings at a time, each in a process of its own, and what they came to, row by row, as they end.

A harvest with several hands: a hand that is hurt lays down its own basket, and the others pick on. What is in the barn
stays there: a finished run is not run again, a cut-off one goes on from its checkpoint, and the same command twice does
the work once. Not a scheduler for a cluster: all processes are on this machine.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from commlib.errors import RunError
from commlib.experiments.children import Child, stop_all
from commlib.experiments.sweep_plan import SweepPlan, Task, has_begun
from commlib.records import Result

LOOK_EVERY_SECONDS = 0.2
_TAIL_BYTES = 4096

Start = Callable[[Task, Sequence[str]], Child]
"""Sets a task going, by the given command."""


class Failure(NamedTuple):
    """Why a run has no result, in one sentence, and after how many seconds of wall-clock."""

    error: str
    seconds: float


@dataclass
class Standing:
    """How far a sweep is: the results and the failures by the name of the task, and what is at work."""

    plan: SweepPlan
    results: dict[str, Result] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    running: list[Task] = field(default_factory=list)

    @property
    def n_ended(self) -> int:
        """Runs that are done or have failed."""
        return len(self.results) + len(self.failures)

    @property
    def is_good(self) -> bool:
        """Whether every run has its result."""
        return len(self.results) == len(self.plan.tasks)


class Board(Protocol):
    """Where people see how it goes."""

    def show(self, standing: Standing) -> None:
        """How it stands now; called several times a second."""
        ...

    def note(self, standing: Standing, task: Task) -> None:
        """A task has ended, well or not."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


def run_sweep(standing: Standing, n_jobs: int, board: Board, start: Start) -> None:
    """Do what is not done yet, at most `n_jobs` processes at a time, until every task has a result or a failure.

    Evaluations go before trainings, so that a row is complete as early as it can be. When interrupted, the processes are
    ended first; `standing` then holds what was reached.
    """
    evaluations: dict[str, list[Task]] = {}
    for task in standing.plan.evaluations:
        evaluations.setdefault(task.trained, []).append(task)
    queue = deque(standing.plan.trainings)
    at_work: dict[str, tuple[Child, float]] = {}

    def ended(task: Task, seconds: float, error: str = "") -> None:
        _settle(standing, task, Failure(error, seconds))
        board.note(standing, task)
        follow = evaluations.get(task.name, [])
        if task.name in standing.results:
            queue.extendleft(reversed(follow))
        else:
            for other in follow:
                ended(other, 0.0, f"was not begun, because {task.name} failed")

    try:
        while queue or at_work:
            n_before = standing.n_ended
            while queue and len(at_work) < n_jobs:
                task = queue.popleft()
                if is_finished(task):
                    ended(task, 0.0)
                    continue
                try:
                    at_work[task.name] = (start(task, command(task)), time.monotonic())
                    standing.running.append(task)
                except OSError as error:
                    ended(task, 0.0, f"cannot be started: {error.strerror}")
            for task in list(standing.running):
                child, since = at_work[task.name]
                if child.poll() is not None:
                    del at_work[task.name]
                    standing.running.remove(task)
                    ended(task, round(time.monotonic() - since, 1), child.complaint())
            board.show(standing)
            if at_work and standing.n_ended == n_before:
                time.sleep(LOOK_EVERY_SECONDS)
    finally:
        stop_all([child for child, _ in at_work.values()])


def is_finished(task: Task) -> bool:
    """Whether the folder holds a run that is through; that it is this one, `check_folders` has seen."""
    return task.folder.config.is_file() and task.folder.result.is_file()


def command(task: Task) -> list[str]:
    """The command that begins a task or goes on with it.

    What an evaluation that was cut off left behind, a copy of the trained team, is removed.
    """
    if task.trained:
        shutil.rmtree(task.folder.path, ignore_errors=True)
        return list(task.words)
    return [*task.words, *(["--resume"] if has_begun(task) else [])]


def _settle(standing: Standing, task: Task, failure: Failure) -> None:
    """Note a task's result, or why it has none."""
    try:
        if failure.error:
            raise RunError(failure.error)
        standing.results[task.name] = task.folder.read_result()
    except RunError as error:
        standing.failures[task.name] = Failure(str(error), failure.seconds)


def share_done(task: Task) -> float | None:
    """How far a training is, 0..1, by the last line of its curve; None of an evaluation, or before the first line."""
    if task.trained:
        return None
    try:
        with task.folder.metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            row: Mapping[str, float] = json.loads(file.read().rpartition(b"\n")[0].rpartition(b"\n")[2])
    except (OSError, ValueError):
        return None
    return min(1.0, row["steps"] / task.config.steps)
