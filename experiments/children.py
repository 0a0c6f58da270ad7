"""Commands as processes of their own: what one of them does to itself, running out of memory included, ends no other.

A nursery with strict rules: every child has one thread, a session of its own, so that Ctrl-C reaches only the parent,
and a file for what it has to complain of. A child that outlives a killed parent keeps the parent's lock, so that nobody
starts a second one in the same folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from commlib.errors import RunError

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
PATIENCE_SECONDS = 10.0
"""How long a child that was asked to end may take before it is killed."""
_OURS = "commlib: "


class Child(Protocol):
    """A command at work."""

    def poll(self) -> int | None:
        """Its exit code, negative for the signal that killed it; None while it runs."""
        ...

    def stop(self) -> None:
        """Ask it to end; a second call, or one after its end, does nothing."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait so long for its end, then kill it."""
        ...

    def complaint(self) -> str:
        """After its end, what went wrong, in one sentence; empty if nothing did."""
        ...


class Commlib:
    """A `commlib` command in a process of its own.

    Args:
        words: the command line without `commlib` in front.
        log: what it writes to stderr goes there; the file is removed if all went well, or if nothing is in it.
        lock: an open file that is to stay locked as long as the process lives.
    """

    def __init__(self, words: Sequence[str], log: Path, lock: int) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "commlib", *words],
                env={**os.environ, **ONE_THREAD, "NO_COLOR": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=(lock,),
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Its exit code, negative for the signal that killed it; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask it to end; runs are written so that they may end anywhere."""
        if self.poll() is None:
            self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait so long for its end, then kill it, with all that it started."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._last_words()

    def complaint(self) -> str:
        """After its end, what went wrong, in one sentence; empty if nothing did."""
        code, log = self._process.wait(), self._last_words()
        return sentence(code, log) if code else ""

    def _last_words(self) -> str:
        """What it wrote to stderr; a log that is of no use any more is removed."""
        log = self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""
        if not log or self._process.returncode == 0:
            self._log.unlink(missing_ok=True)
        return log


def sentence(code: int, log: str) -> str:
    r"""What a process says that ended with this code and left this behind.

    >>> sentence(2, "commlib: there is no world 'gide'\n"), sentence(3, "")
    ("there is no world 'gide'", 'ended with code 3 and without a word')
    """
    if code < 0:
        hint = ": the machine may be out of memory, fewer --jobs need less" if code == -signal.SIGKILL else ""
        return f"was killed by signal {-code} ({signal.strsignal(-code) or 'unknown'}){hint}"
    lines = [" ".join(line.split()) for line in log.splitlines() if line.strip()]
    if ours := [line for line in lines if line.startswith(_OURS)]:
        return ours[-1].removeprefix(_OURS)
    return f"ended with code {code} and " + (f"these last words: {lines[-1][:300]}" if lines else "without a word")


def stop_all(children: Sequence[Child]) -> None:
    """End all children: ask first, and kill those that take too long, or all if we are interrupted once more."""
    for child in children:
        child.stop()
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        for child in children:
            child.wait(max(0.0, deadline - time.monotonic()))
    except BaseException:
        for child in children:
            child.wait(0.0)
        raise


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """A lock on a folder, as the descriptor of an open file; whoever inherits it holds the lock, too.

    Raises:
        RunError: somebody holds it, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"{folder} is in use by another sweep, or by a run that a killed one left behind; wait for it, or choose "
                f"another --out"
            ) from error
        yield file.fileno()


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Take what ends a batch job or closes a terminal as a Ctrl-C, so that no child is left behind; main thread only."""

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt

    ours = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
