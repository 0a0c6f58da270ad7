"""What a sweep is to do: worlds x methods x seeds to train, and budgets x prices at which each trained team plays.

The order of a banquet, written down before a pot is on the fire: every name and value is checked here, so that a slip in
the last of forty runs is told at once and not after thirty-nine. Nothing is written, and nothing is run, here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from commlib.config import RunConfig, replay_config
from commlib.errors import ConfigError
from commlib.experiments.compose import complete, has_priced_encoder, resolve
from commlib.experiments.train import check_names, other_setting, run_name
from commlib.experiments.worlds import make_world
from commlib.records import RunFolder
from commlib.world import WorldSpec

AS_CALIBRATED = "default"
"""The bit price that stands for what calibration finds."""


class Axes(NamedTuple):
    """What is varied. Empty budgets or prices: each team plays once, as it was trained."""

    worlds: Sequence[str]
    methods: Sequence[str]
    seeds: Sequence[int]
    budgets: Sequence[str] = ()
    bit_prices: Sequence[str] = ()


class Task(NamedTuple):
    """One run folder to be filled by one process.

    Attributes:
        name: the folder, as seen from the sweep's own.
        folder: the folder.
        config: what its config.yaml says once it is begun.
        words: the command that fills it, without `commlib` in front.
        trained: of an evaluation, the name of the training whose team plays; empty for a training.
    """

    name: str
    folder: RunFolder
    config: RunConfig
    words: tuple[str, ...]
    trained: str = ""

    @property
    def log(self) -> Path:
        """The file beside the folder that holds what the process complained of, if it failed."""
        return self.folder.path.with_name(f"{self.folder.path.name}.log")


class Row(NamedTuple):
    """What the table shows in one line; `tasks` are the names of its runs, one for each seed.

    `budget` is None where nothing caps, `bit_price` (reward per bit) where the price is what calibration finds.
    """

    world: str
    method: str
    budget: str | None
    bit_price: float | None
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class SweepPlan:
    """Trainings, seed by seed, so that every row has its first figure early; evaluations; and the rows that they make."""

    out: Path
    trainings: tuple[Task, ...]
    evaluations: tuple[Task, ...]
    rows: tuple[Row, ...]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All of them."""
        return self.trainings + self.evaluations


def seeds_in(text: str) -> list[int]:
    """The seeds that a text means: so many from 0, or the listed ones; a comma makes a list.

    >>> seeds_in("5"), seeds_in("0,3,7"), seeds_in("3,")
    ([0, 1, 2, 3, 4], [0, 3, 7], [3])

    Raises:
        ConfigError: it means none.
    """
    words = words_in(text)
    if not words or not all(word.isascii() and word.isdigit() for word in words):
        raise ConfigError(f"--seeds {text!r} means no seeds; write how many, as in 5, or which, as in 0,3,7")
    numbers = [int(word) for word in words]
    found = numbers if "," in text else list(range(numbers[0]))
    if not found:
        raise ConfigError(f"--seeds {text} is no run at all; ask for one at least")
    return found


def words_in(text: str) -> list[str]:
    """The words between commas, each once, in the order in which they first come.

    >>> words_in("8 bit/step, none,,none")
    ['8 bit/step', 'none']
    """
    return list(dict.fromkeys(" ".join(word.split()) for word in text.split(",") if word.strip()))


def plan_sweep(axes: Axes, given: Mapping[str, Any], file: Path | None, out: Path) -> SweepPlan:
    """Every run of a sweep, with names and values checked.

    A method without a price-aware encoder has nothing for a price to act on: it plays without one, once for each budget.

    Args:
        axes: what is varied.
        given: settings that all trainings share, as on the command line, nested where there is a dot.
        file: settings in YAML, below the given ones.
        out: the sweep's folder.

    Raises:
        ConfigError: an unknown world, method, setting or codec, or a value out of range.
    """
    specs = {world: _spec_of(world) for world in axes.worlds}
    made = {
        (world, method, seed): _training(specs[world], world, method, {**given, "seed": seed}, file, out)
        for seed in axes.seeds
        for world in axes.worlds
        for method in axes.methods
    }
    if len({task.name for task in made.values()}) < len(made):
        raise ConfigError("two of the worlds would share a run folder, so alike are their names; sweep them one by one")
    evaluations: dict[str, Task] = {}
    rows = []
    for world in axes.worlds:
        for method in axes.methods:
            first = made[world, method, axes.seeds[0]].config
            for budget, price in _ways_to_play(first, axes):
                tasks = [_played(made[world, method, seed], budget, price) for seed in axes.seeds]
                evaluations |= {task.name: task for task in tasks if task.trained}
                rows.append(Row(world, method, budget, price, tuple(task.name for task in tasks)))
    return SweepPlan(out, tuple(made.values()), tuple(evaluations.values()), tuple(rows))


def check_folders(plan: SweepPlan) -> None:
    """Refuse a folder that holds a run with other settings.

    Raises:
        ConfigError: there is one, or its configuration is damaged.
    """
    for task in plan.tasks:
        if has_begun(task) and (other := other_setting(task.folder, task.config)):
            raise ConfigError(
                f"{task.folder.path} holds a run with other settings: {other}; choose another --out for this sweep, or "
                f"remove that folder"
            )


def has_begun(task: Task) -> bool:
    """Whether the folder holds this task's run; one in which an evaluation was cut off holds none."""
    return task.folder.config.is_file()


def takes_a_price(config: RunConfig) -> bool:
    """Whether a bit price changes what is said."""
    return config.topology != "none" and has_priced_encoder(config)


def as_flags(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Settings as one would type them, nested names with dots.

    >>> list(as_flags({"seed": 3, "budget": None, "learning": {"n_worlds": "8"}}))
    ['--seed=3', '--budget=None', '--learning.n-worlds=8']
    """
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from as_flags(value, f"{prefix}{name}.")
        else:
            yield f"--{(prefix + name).replace('_', '-')}={value}"


def _spec_of(name: str, n_agents: int | None = None) -> WorldSpec:
    world = make_world(name, n_agents)
    try:
        return world.spec
    finally:
        world.close()


def _training(spec: WorldSpec, world: str, method: str, settings: dict[str, Any], file: Path | None, out: Path) -> Task:
    config = resolve(world, method, file, settings)
    if config.bit_price is not None and not takes_a_price(config):
        settings = {**settings, "bit_price": None}
        config = resolve(world, method, file, settings)
    if config.agents is not None:
        spec = _spec_of(world, config.agents)
    config = complete(config, spec)
    check_names(config, spec)
    name = run_name(config)
    from_file = () if file is None else ("--config", str(file))
    words = ("train", world, "--method", method, *as_flags(settings), *from_file, "--out", str(out / name), "--quiet")
    return Task(name, RunFolder(out / name), config, words)


def _ways_to_play(trained: RunConfig, axes: Axes) -> list[tuple[str | None, float | None]]:
    """Budgets x prices as a configuration has them, each pair once."""
    budgets: list[str | None] = list(axes.budgets) or [trained.budget]
    prices: list[str | float | None] = [trained.bit_price]
    if axes.bit_prices and takes_a_price(trained):
        prices = [None if price == AS_CALIBRATED else price for price in axes.bit_prices]
    layers = [("--budgets and --bit-prices", {"budget": b, "bit_price": p}) for b in budgets for p in prices]
    played = [replay_config(trained, layer) for layer in layers]
    return list(dict.fromkeys((config.budget, config.bit_price) for config in played))


def _played(training: Task, budget: str | None, price: float | None) -> Task:
    """The run at a budget and price: the training itself where it plays so, else an evaluation of it."""
    config = replay_config(training.config, ("sweep", {"budget": budget, "bit_price": price}))
    if config == training.config:
        return training
    name = "at"
    if config.budget != training.config.budget:
        name += "-budget-" + "".join(c if c.isalnum() or c == "." else "-" for c in budget or "none")
    if config.bit_price != training.config.bit_price:
        name += f"-price-{AS_CALIBRATED if price is None else price!r}"
    path = training.folder.path / name
    settings = as_flags({"budget": budget, "bit_price": price})
    words = ("evaluate", str(training.folder.path), *settings, "--out", str(path), "--quiet")
    return Task(f"{training.name}/{name}", RunFolder(path), config, words, training.name)
