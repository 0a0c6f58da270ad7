"""One side of a comparison: the runs that a path or a pattern names, one method in each world.

A team sheet: who plays in which world, and all in the same colours. Runs of one world may differ in their seed and in what
calibration chose for it, in nothing that they were told; otherwise the spread over seeds would hold something else. Not the
comparison: nothing is measured here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Final, NamedTuple

from commlib.errors import ConfigError, RunError
from commlib.records import Result, RunFolder, read_json

ALIKE: Final = (
    "method",
    "codec",
    "topology",
    "variant",
    "steps",
    "budget",
    "channel",
    "charging_rule",
    "hosts",
    "parallel_worlds",
)
"""What runs of one side and world must have in common."""
_WAYS: Final = (
    "give a run folder, a result file, a folder of runs, or a quoted glob of them such as 'runs/sweep/*-ours-*'"
)


class Found(NamedTuple):
    """A run folder or a result file, and the figures that it holds."""

    path: Path
    result: Result


@dataclass(frozen=True)
class Side:
    """The runs of one side by world; `unread` says in sentences which run folders hold no figures."""

    asked: str
    worlds: dict[str, list[Found]]
    unread: tuple[str, ...]

    @property
    def runs(self) -> list[Found]:
        """All runs, world by world."""
        return [run for runs in self.worlds.values() for run in runs]


def read_side(asked: str) -> Side:
    """The runs at a path, or at all paths that a glob matches; runs that are not finished are named and left out.

    A folder that holds no run itself stands for the runs just below it. Of what a glob matches, only run folders, folders
    of them and `.json` files count.

    Raises:
        ConfigError: nothing is there, a file holds no result, or runs of one world differ in more than their seed.
        RunError: a file cannot be read.
    """
    worlds: dict[str, list[Found]] = {}
    unread: list[str] = []
    places = list(dict.fromkeys(place for path in _matches(asked) for place in _runs_at(path)))
    for place in places:
        try:
            result = _result_of(place)
        except RunError as error:
            if place.is_file():
                raise
            unread.append(str(error))
            continue
        worlds.setdefault(result.world, []).append(Found(place, result))
    if not worlds:
        raise ConfigError(f"{asked} holds no finished run; {' | '.join(unread) or _WAYS}")
    for world, runs in worlds.items():
        _check_alike(asked, world, runs)
    return Side(asked, worlds, tuple(unread))


def read_results(asked: str, paths: Sequence[Path]) -> list[Found]:
    """The results in files, of one world and side; `asked` is what errors call them.

    Raises:
        ConfigError: a file holds no result, or the runs differ in their world or in more than their seed.
        RunError: a file cannot be read.
    """
    runs = [Found(path, _result_of(path)) for path in paths]
    if len(worlds := {run.result.world for run in runs}) > 1:
        raise ConfigError(f"{asked} holds runs of {', '.join(sorted(worlds))}; narrow it to one of them")
    _check_alike(asked, runs[0].result.world, runs)
    return runs


def _matches(asked: str) -> list[Path]:
    if Path(asked).exists():
        return [Path(asked)]
    found = sorted(map(Path, glob(asked))) if has_magic(asked) else []  # noqa: PTH207 (Path.glob takes no absolute pattern)
    if not found:
        raise ConfigError(f"nothing matches {asked!r}; {_WAYS}")
    return found


def _runs_at(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if path.suffix == ".json" else []
    return [path] if _is_run(path) else sorted(child for child in path.iterdir() if child.is_dir() and _is_run(child))


def _is_run(path: Path) -> bool:
    folder = RunFolder(path)
    return folder.config.is_file() or folder.is_cut_off


def _result_of(path: Path) -> Result:
    if path.is_dir():
        return RunFolder.existing(path).read_result()
    data = read_json(path)
    try:
        return Result.from_json(data)
    except ValueError as error:
        raise ConfigError(
            f"{path} holds no result of this version of commlib; leave it out, or narrow the glob"
        ) from error


def _check_alike(asked: str, world: str, runs: list[Found]) -> None:
    for field in ALIKE:
        values = [getattr(run.result, field) for run in runs]
        if len(set(values)) > 1:
            raise ConfigError(
                f"{asked} holds runs of {world} that differ in {field.replace('_', ' ')} ({told_apart(values)}); a side is "
                f"one method in each world, so narrow it, for example by a quoted glob"
            )
    seed, n = Counter(run.result.seed for run in runs).most_common(1)[0]
    if n > 1:
        twice = ", ".join(str(run.path) for run in runs if run.result.seed == seed)
        raise ConfigError(
            f"{asked} holds seed {seed} of {world} {n} times, and each training counts once: {twice}; name one"
        )


def told_apart(values: list[object]) -> str:
    """Different values, in a few words where these are enough to tell them apart.

    >>> told_apart(["broadcast: paid once", "link: paid by edge", "link: paid by edge"]), told_apart([None, ""])
    ('broadcast, link', 'none, plain')
    """
    words = list(dict.fromkeys("none" if value is None else str(value) or "plain" for value in values))
    short = [word.partition(":")[0] for word in words]
    return ", ".join(short if len(set(short)) == len(words) else words)
