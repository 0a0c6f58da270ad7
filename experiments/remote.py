"""Runs of a sweep as tasks of a Ray cluster: wherever a core is free, and back here as each one ends.

A parcel there and a parcel back: what a run needs to begin (its own folder, if it was begun; the trained team, if it only
plays; the settings in a file) travels with the task, and the filled run folder is its answer. So nodes need no disk in
common. A task whose worker or node dies is begun again by Ray, some times; one that fails is told like any other, and tried
again by the next sweep. What a task has done so far is lost with it: checkpoints stay on its node until it ends.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any, NamedTuple

from commlib.agents.ray_runtime import Pending, begin_task
from commlib.errors import CommlibError, RunError
from commlib.experiments.children import sentence
from commlib.experiments.sweep_plan import SweepPlan, Task

SETTINGS = "settings.yaml"
"""The name under which the file of settings travels."""


_CAREFULLY: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
"""No links or devices out of an archive; the oldest patch releases of Python that we run on cannot ask for it."""


class Parcel(NamedTuple):
    """What comes back: the exit code, what was written to stderr, and the run folder, packed; empty if there is none."""

    code: int
    log: str
    folder: bytes


def packed(folder: Path) -> bytes:
    """A folder as a tar archive; empty if there is none."""
    if not folder.is_dir():
        return b""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        archive.add(folder, ".")
    return buffer.getvalue()


def unpack(data: bytes, folder: Path) -> None:
    """Put a packed folder in place of whatever is there, whole or not at all.

    Raises:
        RunError: it cannot be written.
    """
    if not data:
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(mkdtemp(prefix=".arriving-", dir=folder.parent))
        try:
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                archive.extractall(fresh / "new", **_CAREFULLY)
            if folder.exists():
                folder.replace(fresh / "old")
            (fresh / "new").replace(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise RunError(f"what came back for {folder} is damaged ({error}); the same command tries it again") from error


def fill_folder(words: Sequence[str], name: str, folders: Mapping[str, bytes], settings: bytes | None) -> Parcel:
    """Run a `commlib` command whose folders lie in the working directory; in a process of its own, on some node."""
    from commlib.experiments.cli import main

    sys.argv = ["commlib", *words]  # what the record says was typed; this process does nothing else
    log = io.StringIO()
    with TemporaryDirectory(prefix="commlib-") as root, _working_in(root):
        for folder, data in folders.items():
            unpack(data, Path(root) / folder)
        if settings is not None:
            (Path(root) / SETTINGS).write_bytes(settings)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(log):
            try:
                code = main(list(words))
            except Exception as error:
                code = 1
                log.write(f"commlib: {type(error).__name__}: {error}\n")
        return Parcel(code, log.getvalue(), packed(Path(root) / name))


@contextlib.contextmanager
def _working_in(folder: str) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class RemoteRun:
    """A task of a sweep somewhere on the cluster.

    Args:
        plan: the sweep.
        task: what is to be filled.
        words: the command.
        file: the settings that all trainings share, or None.
    """

    def __init__(self, plan: SweepPlan, task: Task, words: Sequence[str], file: Path | None) -> None:
        self._task, self._complaint = task, ""
        self._code: int | None = None
        begun = {task.name: packed(task.folder.path)} if "--resume" in words else {}
        team = {task.trained: packed(plan.out / task.trained)} if task.trained else {}
        settings = file.read_bytes() if file is not None and not task.trained else None
        there = [_there(word, plan.out, file) for word in words]
        self._pending: Pending = begin_task(fill_folder, there, task.name, {**team, **begun}, settings)

    def poll(self) -> int | None:
        """Its exit code; None while it runs. Its folder is here as soon as there is a code."""
        if self._code is None and self._pending.is_over():
            self._code = self._landed()
        return self._code

    def _landed(self) -> int:
        """The exit code of the task that has ended; what came of it is put in its place."""
        try:
            parcel: Parcel = self._pending.answer()
            unpack(parcel.folder, self._task.folder.path)
        except Exception as error:
            self._complaint = str(error) if isinstance(error, CommlibError) else f"{type(error).__name__}: {error}"
            return 1
        if parcel.code:
            self._complaint = sentence(parcel.code, parcel.log)
            with contextlib.suppress(OSError):
                self._task.log.write_text(parcel.log, encoding="utf-8")
        return parcel.code

    def stop(self) -> None:
        """Ask it to end."""
        self._pending.cancel()

    def wait(self, seconds: float) -> None:
        """Wait so long for its end, then have its process killed."""
        if not self._pending.is_over(seconds):
            self._pending.cancel(force=True)

    def complaint(self) -> str:
        """After its end, what went wrong, in one sentence; empty if nothing did."""
        return self._complaint


def _there(word: str, out: Path, file: Path | None) -> str:
    """A word of the command as it is where only the folders of the run are."""
    if file is not None and word == str(file):
        return SETTINGS
    path = Path(word)
    return str(path.relative_to(out)) if path.is_relative_to(out) and path != out else word
