"""Telling the person at the terminal how it goes: a live line with ETA where there is a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_SECONDS = 5.0
SURE_SHARE, SURE_SECONDS = 0.05, 15.0
"""How much of a job, or how long, must have been seen before it is told how long the rest will take."""


class Display(Protocol):
    """Where progress is shown."""

    def say(self, text: str) -> None:
        """One line of news."""
        ...

    def advance(self, stage: str, share: float, figures: Mapping[str, Any]) -> None:
        """How far a stage is, 0..1, with live figures."""
        ...

    def close(self) -> None:
        """No more news."""
        ...


class Quiet:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def advance(self, stage: str, share: float, figures: Mapping[str, Any]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class PlainLines:
    """A line every few seconds, for logs and pipes."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._last = clock()
        self._share, self._is_told_of = 1.0, False
        self._first = (self._last, 1.0)
        """When the job was heard of first, and how far it was: what came before (a start, a resume) says nothing of its speed."""

    def say(self, text: str) -> None:
        """The line."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def advance(self, stage: str, share: float, figures: Mapping[str, Any]) -> None:
        """A line, unless the last one is recent; the end of a job that had lines has one in any case."""
        now = self._clock()
        if share < self._share:  # another job began
            self._first, self._is_told_of = (now, share), False
        self._share = share
        if (share >= 1 and self._is_told_of) or now - self._last >= PLAIN_SECONDS:
            self._last, self._is_told_of = now, share < 1
            self.say("  ".join(filter(None, [f"{stage:>10} {share:4.0%}", _written(figures), self._left(now)])))

    def _left(self, now: float) -> str:
        """How long the rest will take at the speed so far; empty where that is not known yet, or all is done."""
        since, before = self._first
        seconds, gained = now - since, self._share - before
        if self._share >= 1 or gained <= 0 or (gained < SURE_SHARE and seconds < SURE_SECONDS):
            return ""
        return f"about {seconds * (1 - self._share) / gained:.0f} s left"

    def close(self) -> None:
        """Nothing to put away."""


class LiveBar:
    """A bar with ETA and live figures."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:3.0f}%"),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=False,
        )
        self._progress.start()
        self._task = self._progress.add_task("", total=1.0, figures="")

    def say(self, text: str) -> None:
        """The line, above the bar."""
        self._progress.console.print(text, highlight=False)

    def advance(self, stage: str, share: float, figures: Mapping[str, Any]) -> None:
        """Move the bar; one that would go back is another job's, with a time of its own."""
        if share < self._progress.tasks[0].completed:
            self._progress.reset(self._task)
        self._progress.update(self._task, completed=share, description=stage, figures=_written(figures))

    def close(self) -> None:
        """Put the bar away."""
        self._progress.stop()


def _written(figures: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value}" for name, value in figures.items())


def make_display(*, is_quiet: bool = False) -> Display:
    """On stderr, so that stdout stays free for results."""
    if is_quiet:
        return Quiet()
    console = Console(stderr=True)
    return LiveBar(console) if console.is_terminal and sys.stderr.isatty() else PlainLines(console)
