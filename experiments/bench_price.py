"""One trained team under five budgets, one that changes, and two at once: whether spending meets them, what it brings.

A team is trained once per seed, thriftily calibrated, and its curve is measured: success over bits, at fixed prices. The
smallest useful budget is where success is halfway between silence and the best. Then the same team plays

    under 1, 2, 4, 8 and 16 times that, thousands of episodes each: what was spent, of what was granted, and success;
    under 4 times, 1 time and 8 times that, one after the other in one run and in one ledger: how soon spending follows;
    under bits and messages at once, such that bits bind, and such that messages do.

The world is `guide`, the codec `int8`, whose answer to a price is fine: there is a price for every one of these budgets.
512 worlds share a frame and an allowance. Budgets are whole bits per episode of all agents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from commlib.agents.runtime import LocalRuntime
from commlib.agents.till import Books, open_books
from commlib.budget import Budget, Budgets
from commlib.config import RunConfig, replay_config
from commlib.experiments.bench import Measured, Row, Say, Target, table
from commlib.experiments.compose import resolve, world_of
from commlib.experiments.control import Control, Stage
from commlib.experiments.evaluate import evaluate
from commlib.experiments.model import Model, furnish
from commlib.experiments.progress import Quiet
from commlib.experiments.run import load
from commlib.experiments.train import run_training
from commlib.journal import MAIN, Journal
from commlib.ledger import Ledger
from commlib.plan import make_plan
from commlib.rationing import Tariff
from commlib.records import Result
from commlib.world import for_evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

WORLD, METHOD, MARGIN = "guide", "int8-gated", 0.3
"""A margin of 0.3 lets calibration count the prior where bits are saved hard: with the usual one silence is dear in contexts
that only a thrifty team meets."""
N_SEEDS = 5
TIMES = (1, 2, 4, 8, 16)
CHANGES = (4, 1, 8)
N_BATCHES, PARALLEL = 8, 512
N_OCTAVES = 20
"""A curve ends this many octaves above the lowest rung, if nobody fell silent before."""
NEAR = 0.95
"""Spending from this share of the budget on meets it."""
TARGETS = {
    "spent_share_min": Target(at_least=NEAR),
    "spent_share_max": Target(at_most=1.0),
    "overspend_bits": Target(at_most=0),
    "n_falls": Target(at_most=0),
    "episodes_to_follow": Target(at_most=2 * PARALLEL),
    "share_named": Target(at_least=1.0),
}


@dataclass(frozen=True)
class Team:
    """A trained team, its seed and its settings, and how many batches it plays under each budget."""

    seed: int
    model: Model
    config: RunConfig
    n_batches: int = N_BATCHES

    def stage(self) -> Stage:
        """All agents on one host."""
        world = for_evaluation(world_of(self.config))
        world.set_progress(1.0)
        plan = make_plan(self.model.edges, (0,) * world.spec.n_agents, self.config.charging)
        runtime = LocalRuntime(1)
        furnish(runtime, plan, self.model)
        return Stage(runtime, plan, world, self.model)


class Point(NamedTuple):
    """What a fixed price comes to, in an episode of all agents."""

    bits: float
    messages: float
    success: float


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """Train a team per seed, find its smallest useful budget, and play."""
    rows: list[Row] = []
    for one in range(seed, seed + (1 if quick else N_SEEDS)):
        say(f"training a team on {WORLD}, seed {one}")
        rows += played(trained(one, quick), say)
    return Measured(rows, summary(rows), [_table(rows), _table_of_conflict(rows)])


def trained(seed: int, quick: bool) -> Team:
    """A team that can be thrifty."""
    short = {"steps": 15_000, "learning": {"n_worlds": 64}} if quick else {}
    stages = {"margin": MARGIN, **({"calibrate_worlds": 64, "calibrate_rounds": 1} if quick else {})}
    with TemporaryDirectory() as scratch:
        config = resolve(WORLD, METHOD, None, {"seed": seed, "stages": stages, **short})
        run_training(config, Path(scratch) / "run", display=Quiet())
        team = load(Path(scratch) / "run")
    return Team(seed, team.model, team.config, 2 if quick else N_BATCHES)


def played(team: Team, say: Say) -> list[Row]:
    """All that is asked of a team."""
    points = curve(team)
    smallest = max(1, math.ceil(smallest_useful(points)))
    say(f"seed {team.seed}: {smallest} bits an episode are of use, {points[0].bits:.0f} would be spent for nothing")
    rows = [
        {"kind": "curve", "seed": team.seed, "bits": p.bits, "messages": p.messages, "success": p.success}
        for p in points
    ]
    rows += [_under(team, times, smallest) for times in TIMES]
    rows += list(_through_changes(team, smallest))
    return rows + list(_in_conflict(team, points, smallest))


def curve(team: Team) -> list[Point]:
    """What bits bring at fixed prices, from 0 up to where everybody is silent."""
    stage, lowest = team.stage(), min(r.rate_weight for r in team.model.calibration.rungs if r.rate_weight > 0)
    points: list[Point] = []
    for weight in (0.0, *(lowest * 2.0**octave for octave in range(N_OCTAVES))):
        generator = torch.Generator().manual_seed(team.seed)
        tallies = [
            stage.play(Books(Ledger(budget=Budget(None))), PARALLEL, Tariff(weight), generator)
            for _ in range(team.n_batches // 2)
        ]
        n = PARALLEL * len(tallies)
        bits, messages = (sum(getattr(tally, name) for tally in tallies) / n for name in ("wire_bits", "n_messages"))
        points.append(Point(bits, messages, fmean(value for tally in tallies for value in tally.success)))
        if bits == 0:
            break
    return points


def smallest_useful(points: Sequence[Point]) -> float:
    """The bits at which success is halfway between that of the fewest bits and the best.

    >>> smallest_useful([Point(100.0, 9.0, 1.0), Point(20.0, 3.0, 0.7), Point(10.0, 2.0, 0.3), Point(0.0, 0.0, 0.1)])
    16.25
    """
    rising = sorted(points)
    success = np.maximum.accumulate([point.success for point in rising])
    halfway = (success[0] + success[-1]) / 2
    first = int(np.argmax(success >= halfway))
    if first == 0:
        return rising[0].bits
    below, above = rising[first - 1], rising[first]
    share = (halfway - success[first - 1]) / (success[first] - success[first - 1])
    return float(below.bits + share * (above.bits - below.bits))


def _evaluated(team: Team, budget: str) -> tuple[Result, list[int]]:
    """What is played under some budgets comes to, and the bits of each batch, by the books."""
    n_episodes = team.n_batches * PARALLEL
    layer = {"budget": budget, "episodes": n_episodes, "parallel_worlds": PARALLEL, "hosts": 1}
    config = replay_config(team.config, ("bench", layer))
    stage = team.stage()
    with Journal.in_memory() as journal:
        result = evaluate(team.model, config, world_of(config), stage.runtime, journal, Quiet())
        spent = [0] * team.n_batches
        for entry in journal.entries():
            spent[entry.round // stage.n_rounds] += entry.bits
    return result, spent


def _under(team: Team, times: int, smallest: int) -> Row:
    """The team under so many times the smallest useful budget."""
    bits = times * smallest
    result, spent = _evaluated(team, f"{bits} bit/episode")
    (figures,) = result.budgets
    shares = [n / (bits * PARALLEL) for n in spent]
    return {
        "kind": "budget",
        "seed": team.seed,
        "times": times,
        "bits_per_episode": bits,
        "episodes": result.success.n,
        "success": result.success.mean,
        "success_ci95": result.success.ci95,
        "spent_share": sum(spent) / (bits * PARALLEL * team.n_batches),
        "spent_share_of_batches": [min(shares), max(shares)],
        "overspend_bits": sum(max(0, n - bits * PARALLEL) for n in spent),
        "rate_weight": figures.price,
        "bit_price": figures.bit_price,
        "dropped": result.ledger.dropped,
        "rehearsal_seconds": result.seconds["rehearsal"],
    }


def _through_changes(team: Team, smallest: int) -> Iterator[Row]:
    """A run in which the budget changes twice."""
    stage = team.stage()
    budgets = [Budgets((Budget(times * smallest, "episode"),)) for times in CHANGES]
    largest = max(budgets, key=lambda some: some.main.amount or 0)
    ledger = Ledger(budget=largest.main)
    open_books(ledger, largest)
    books = Books(ledger, budgets[0])
    control = Control.of(books, team.model.calibration, stage.world.spec.n_agents, PARALLEL)
    control.rehearse(stage, books, PARALLEL, PARALLEL, torch.Generator().manual_seed(team.seed + 1))
    generator = torch.Generator().manual_seed(team.seed + 2)
    for budget in budgets:
        control.budgets[MAIN] = budget.main
        books = replace(books, budgets=budget)
        for since in range(team.n_batches):
            control.aim({}, PARALLEL)
            tally = stage.play(books, PARALLEL, control.tariff, generator)
            control.learn(tally.use, PARALLEL)
            books = replace(books, first_round=books.first_round + stage.n_rounds)
            allowed = (budget.main.amount or 0) * PARALLEL
            yield {
                "kind": "change",
                "seed": team.seed,
                "batch": books.first_round // stage.n_rounds,
                "since_change": since,
                "bits_per_episode": budget.main.amount,
                "spent_per_episode": tally.wire_bits / PARALLEL,
                "spent_share": tally.wire_bits / allowed,
                "overspend_bits": max(0, tally.wire_bits - allowed),
                "wanted_share": tally.use[MAIN].wanted / allowed,
                "success": fmean(tally.success),
                "rate_weight": control.price_of_a_bit,
            }


def _in_conflict(team: Team, points: Sequence[Point], smallest: int) -> Iterator[Row]:
    """Bits and messages, such that bits bind at first, and messages afterwards."""
    rising = sorted(points)
    usual = float(np.interp(4 * smallest, [p.bits for p in rising], [p.messages for p in rising]))
    settings = {
        "bits": (4 * smallest, max(1, math.ceil(2 * usual))),
        "messages": (16 * smallest, max(1, math.floor(0.8 * usual))),
    }
    for meant, (bits, messages) in settings.items():
        result, _ = _evaluated(team, f"{bits} bit/episode, {messages} messages/episode")
        yield {
            "kind": "conflict",
            "seed": team.seed,
            "meant": meant,
            "budget": f"{bits} bit/episode, {messages} messages/episode",
            "binding": next((one.currency for one in result.budgets if one.is_binding), None),
            "spent_share": {one.currency: one.spent / one.granted for one in result.budgets},
            "overspend": {one.currency: max(0, one.spent - one.granted) for one in result.budgets},
            "price": {one.currency: one.price for one in result.budgets},
            "success": result.success.mean,
            "success_ci95": result.success.ci95,
        }


def summary(rows: Sequence[Row]) -> Row:
    """How near spending comes to the budgets, whether success rises with them, and how soon a change is followed.

    `n_falls` counts budgets under which success is less than under the one before by more than both intervals;
    `episodes_to_follow` those that were played, after the worst change, before spending met the new budget twice in a row
    (`episodes_to_follow_wanted`: and what was wanted was not more than 5 % above it);
    `share_named` is that of the conflicts in which the budget that was meant to bind is named, and none is overspent.
    """
    budgets, changes, conflicts = (
        [row for row in rows if row["kind"] == kind] for kind in ("budget", "change", "conflict")
    )
    followed = _followed(changes)
    named = [row["binding"] == row["meant"] and not any(row["overspend"].values()) for row in conflicts]
    later = [row["spent_share"] for row in changes if row["since_change"] * PARALLEL >= max(followed, default=0)]
    return {
        "spent_share_min": min(row["spent_share"] for row in budgets),
        "spent_share_max": max(row["spent_share"] for row in budgets),
        "spent_share_of_batches_min": min(row["spent_share_of_batches"][0] for row in budgets),
        "overspend_bits": sum(row["overspend_bits"] for row in (*budgets, *changes)),
        "n_falls": _n_falls(budgets),
        "episodes_to_follow": max(followed, default=0),
        "episodes_to_follow_mean": fmean(followed) if followed else 0.0,
        "episodes_to_follow_wanted": max(_followed(changes, 2 - NEAR), default=0),
        "spent_share_after_change": fmean(later) if later else 0.0,
        "share_named": fmean(named) if named else 0.0,
        "smallest_useful_bits": fmean(row["bits_per_episode"] for row in budgets if row["times"] == 1),
        **{
            f"success_{times}x": fmean(row["success"] for row in budgets if row["times"] == times)
            for times in sorted({row["times"] for row in budgets})
        },
    }


def _n_falls(budgets: Sequence[Row]) -> int:
    """Budgets under which success is surely less than under the next smaller one."""
    falls = 0
    for seed in {row["seed"] for row in budgets}:
        mine = sorted((row for row in budgets if row["seed"] == seed), key=lambda row: int(row["times"]))
        falls += sum(after["success_ci95"][1] < before["success_ci95"][0] for before, after in pairwise(mine))
    return falls


def _followed(changes: Sequence[Row], most_wanted: float = float("inf")) -> list[int]:
    """For each change of a budget, the episodes before the first of two batches in a row that meet the new one.

    One alone could be chance. A batch that wanted more than so many times its budget, and was cut off by the cap, is none.
    """
    followed: list[int] = []
    for seed in sorted({row["seed"] for row in changes}):
        mine = [row for row in changes if row["seed"] == seed]
        starts = [nth for nth, row in enumerate(mine) if row["since_change"] == 0][1:]
        for start, end in zip(starts, [*starts[1:], len(mine)], strict=True):
            met = [NEAR <= row["spent_share"] <= 1 and row["wanted_share"] <= most_wanted for row in mine[start:end]]
            lasting = [nth for nth in range(len(met)) if all(met[nth : nth + 2])]
            followed.append(PARALLEL * min(lasting, default=len(met)))
    return followed


def _table(rows: Sequence[Row]) -> Table:
    budgets = [row for row in rows if row["kind"] == "budget"]
    figures = ("bits_per_episode", "spent_share", "success", "rate_weight")
    means = [
        {
            "times": f"{times} x",
            **{name: fmean(row[name] for row in budgets if row["times"] == times) for name in figures},
        }
        for times in sorted({row["times"] for row in budgets})
    ]
    columns = {
        "times": "budget",
        "bits_per_episode": "bits per episode",
        "spent_share": "spent",
        "success": "success",
        "rate_weight": "price",
    }
    return table("one team under five budgets, means over seeds", columns, means)


def _table_of_conflict(rows: Sequence[Row]) -> Table:
    shown = [
        {
            "budget": f"seed {row['seed']}: {row['budget']}",
            "binding": row["binding"],
            **{f"{what} {name}": value for what in ("spent_share", "price") for name, value in row[what].items()},
            "success": row["success"],
        }
        for row in rows
        if row["kind"] == "conflict"
    ]
    columns = {
        "budget": "two budgets",
        "binding": "binds",
        "spent_share bits": "bits spent",
        "spent_share messages": "messages spent",
        "price bits": "price of a bit",
        "price messages": "of a message",
        "success": "success",
    }
    return table("bits and messages at once", columns, shown)


def draw(rows: Sequence[Row]) -> Figure:
    """Success over the budget, and the bits that are spent while it changes."""
    from matplotlib.ticker import ScalarFormatter

    from commlib.experiments.bench_figures import Line, Panel, panels

    def of(kind: str, seed: int) -> list[Row]:
        return [row for row in rows if row["kind"] == kind and row["seed"] == seed]

    seeds = sorted({row["seed"] for row in rows})
    success = [
        Line(f"seed {seed}", [(row["bits_per_episode"], 100 * row["success"]) for row in of("budget", seed)])
        for seed in seeds
    ]
    steps = [
        Line(f"seed {seed}", [(PARALLEL * row["batch"], row["spent_per_episode"]) for row in of("change", seed)])
        for seed in seeds[:1]
    ]
    bounds = [
        Line(
            "budget", [(PARALLEL * row["batch"], row["bits_per_episode"]) for row in of("change", seed)], is_bound=True
        )
        for seed in seeds[:1]
    ]
    figure = panels(
        [
            Panel("one team, five budgets", success, "budget: bits per episode of all agents", "success %", log_x=True),
            Panel("a budget that changes", bounds + steps, "episodes", "bits per episode", log_y=True),
        ]
    )
    left, right = figure.axes
    left.set_xscale("log", base=2)
    right.set_yscale("log", base=2)
    for axis in (left.xaxis, right.yaxis):
        axis.set_major_formatter(ScalarFormatter())
    return figure
