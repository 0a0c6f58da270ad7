"""Who goes first when a budget is too small: every rule of allocation, on a world whose agents need unequal shares.

The world is `switchboard`: in each step a call comes in at desk 0 with probability 0.8, at the other three with 0.1 each,
and is lost unless the next desk hears of it at once. All calls are worth the same. So desk 0 needs 8 times the bits of
each other, and an equal split, which is what a budget per agent comes to, is wrong by a known amount.

One team per seed is trained without a budget, and plays the same episodes under each budget and rule, each agent on a host
of its own, so that the pool is shared out over hosts. Rules are named in `commlib.rationing`. `priority` guarantees the
three quiet desks 10 % of the pool each and gives the rest to desk 0: it is told what the world needs, and the others are
not. `first` serves desk 0 first because it comes first in the plan: here that happens to be the order of need.

Prices do not act here (`bit_price` 0): what is measured is the knapsack of each round.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from commlib.experiments.bench import Measured, Row, Say, Target, table
from commlib.experiments.compose import resolve
from commlib.experiments.progress import Quiet
from commlib.experiments.run import Trained, load
from commlib.experiments.train import run_training
from commlib.rationing import ALLOCATIONS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

WORLD, N_HOSTS = "switchboard", 4
PRIORITY = "agents 1-3: 30 %, agent 0"
BUDGETS = ("8 bit/step", "6 bit/step", "5 bit/step", "4 bit/step", "3 bit/step")
TIGHT = "5 bit/step"
"""Of the 7.4 bits per step that all calls take."""
N_SEEDS = 5
EPISODES, PARALLEL = 2048, 256
TARGETS = {"gain_over_equal": Target(at_least=0.1), "least_gain_over_equal": Target(at_least=0.1)}


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """Train a team per seed and play it under every budget and rule."""
    rows: list[Row] = []
    seeds = range(seed, seed + (1 if quick else N_SEEDS))
    for one in seeds:
        say(f"training a team on {WORLD}, seed {one}")
        with TemporaryDirectory() as scratch:
            short = {"steps": 60_000} if quick else {}
            config = resolve(WORLD, None, None, {"seed": one, **short})
            run_training(config, Path(scratch) / "run", display=Quiet())
            team = load(Path(scratch) / "run")
        for budget in BUDGETS[2:3] if quick else BUDGETS:
            say(f"playing under {budget}")
            rows += [_played(team, one, budget, rule, quick) for rule in ALLOCATIONS]
    return Measured(rows, summary(rows), [_table(rows)])


def _played(team: Trained, seed: int, budget: str, rule: str, quick: bool) -> Row:
    groups = {"priority": PRIORITY} if rule == "priority" else {}
    result = team.evaluate(
        budget=budget,
        allocation=rule,
        hosts=N_HOSTS,
        bit_price=0.0,
        episodes=256 if quick else EPISODES,
        parallel_worlds=PARALLEL,
        **groups,
    )
    (used,) = result.budgets
    return {
        "seed": seed,
        "budget": budget,
        "allocation": rule,
        "success": result.success.mean,
        "success_ci95": result.success.ci95,
        "wire_bits_per_agent_step": result.bits.per_agent_step.wire,
        "spent_share": used.spent / used.granted,
        "dropped": result.ledger.dropped,
    }


def summary(rows: Sequence[Row]) -> Row:
    """Success under `value` over that under `equal`, less 1, under the tight budget: over seeds, and on the worst seed."""

    def mean(rule: str, seeds: Sequence[int]) -> float:
        return fmean(
            r["success"] for r in rows if (r["budget"], r["allocation"]) == (TIGHT, rule) and r["seed"] in seeds
        )

    seeds = sorted({row["seed"] for row in rows})
    gains = [mean("value", [seed]) / mean("equal", [seed]) - 1 for seed in seeds]
    return {
        "gain_over_equal": mean("value", seeds) / mean("equal", seeds) - 1,
        "least_gain_over_equal": min(gains),
        **{f"success_{rule}": mean(rule, seeds) for rule in ALLOCATIONS},
    }


def _means(rows: Sequence[Row]) -> list[Row]:
    pairs = dict.fromkeys((row["budget"], row["allocation"]) for row in rows)
    figures = ("success", "wire_bits_per_agent_step", "spent_share")
    return [
        {
            "setting": f"{budget}, {rule}",
            **{
                name: fmean(r[name] for r in rows if (r["budget"], r["allocation"]) == (budget, rule))
                for name in figures
            },
        }
        for budget, rule in pairs
    ]


def _table(rows: Sequence[Row]) -> Table:
    columns = {
        "setting": "budget, rule",
        "success": "success",
        "wire_bits_per_agent_step": "wire",
        "spent_share": "spent",
    }
    return table("success and wire bits per agent and step, means over seeds", columns, _means(rows))


def draw(rows: Sequence[Row]) -> Figure:
    """Success over the budget, a line for each rule."""
    from commlib.experiments.bench_figures import Line, lines

    def points(rule: str) -> list[tuple[float, float]]:
        of_rule = [row for row in rows if row["allocation"] == rule]
        budgets = dict.fromkeys(row["budget"] for row in of_rule)
        return [
            (float(budget.split()[0]), 100 * fmean(r["success"] for r in of_rule if r["budget"] == budget))
            for budget in budgets
        ]

    curves = [Line(rule, points(rule)) for rule in ALLOCATIONS]
    return lines({WORLD: curves}, "budget: bits per step of all agents", "calls answered rightly, %")
