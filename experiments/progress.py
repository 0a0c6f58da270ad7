"""Telling the person at the terminal how it goes: a live line with ETA where there is a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_SECONDS = 5.0


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

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = self._last = time.monotonic()
        self._share = 0.0

    def say(self, text: str) -> None:
        """The line."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def advance(self, stage: str, share: float, figures: Mapping[str, Any]) -> None:
        """A line, unless the last one is recent."""
        now = time.monotonic()
        if share < self._share:  # another job began
            self._started = now
        self._share = share
        if now - self._last >= PLAIN_SECONDS:
            self._last = now
            left = (now - self._started) * (1 - share) / max(share, 1e-3)
            self.say(f"{stage:>10} {share:4.0%}  {_written(figures)}  about {left:.0f} s left")

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
        """Move the bar."""
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
