"""Who goes first when a budget is too small: every rule of allocation, on a world whose agents need unequal shares.

The world is `switchboard`: in each step a call comes in at desk 0 with probability 0.8, at the other three with 0.1 each,
and is lost unless the next desk hears of it at once. All calls are worth the same. So desk 0 needs 8 times the bits of
each other, and an equal split, which is what a budget per agent comes to, is wrong by a known amount.

One team per seed is trained without a budget, and plays the same episodes under each budget and rule: with all agents on
one host, whose frame they share, and with each on a host of its own, over which the pool is shared out, and where every
host that speaks has to tell the silence of its other worlds, too. Rules are named in `commlib.rationing`. `priority`
guarantees the three quiet desks 30 % of the pool together and gives the rest to desk 0. `first` serves desk 0 first because it
comes first in the plan: here that happens to be the order of need.

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

WORLD, HOSTS = "switchboard", (1, 4)
PRIORITY = "agents 1-3: 30 %, agent 0"
BUDGETS = ("6 bit/step", "5 bit/step", "4 bit/step")
TIGHT = "5 bit/step"
"""Without a budget, the team of seed 0 spends 7.4 wire bits per step of all agents, 512 worlds in a frame."""
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
            short = {"steps": 15_000, "stages": {"calibrate_worlds": 32, "rungs": 2}, "episodes": 32} if quick else {}
            config = resolve(WORLD, None, None, {"seed": one, **short})
            run_training(config, Path(scratch) / "run", display=Quiet())
            team = load(Path(scratch) / "run")
        for budget in (TIGHT,) if quick else BUDGETS:
            say(f"playing under {budget}")
            rows += [_played(team, one, budget, rule, hosts, quick) for hosts in HOSTS for rule in ALLOCATIONS]
    return Measured(rows, summary(rows), [_table(rows)])


def _played(team: Trained, seed: int, budget: str, rule: str, hosts: int, quick: bool) -> Row:
    groups = {"priority": PRIORITY} if rule == "priority" else {}
    result = team.evaluate(
        budget=budget,
        allocation=rule,
        hosts=hosts,
        bit_price=0.0,
        episodes=64 if quick else EPISODES,
        parallel_worlds=32 if quick else PARALLEL,
        **groups,
    )
    (used,) = result.budgets
    return {
        "seed": seed,
        "budget": budget,
        "hosts": hosts,
        "allocation": rule,
        "success": result.success.mean,
        "success_ci95": result.success.ci95,
        "wire_bits_per_agent_step": result.bits.per_agent_step.wire,
        "spent_share": used.spent / used.granted,
        "dropped": result.ledger.dropped,
    }


def summary(rows: Sequence[Row]) -> Row:
    """Success under `value` over that under `equal`, less 1, under the tight budget, with however many hosts it is less.

    `gain_over_equal` is of the means over seeds, `least_gain_over_equal` that of the worst seed.
    """

    def mean(rule: str, hosts: int, seeds: Sequence[int]) -> float:
        where = (TIGHT, rule, hosts)
        return fmean(
            r["success"] for r in rows if (r["budget"], r["allocation"], r["hosts"]) == where and r["seed"] in seeds
        )

    def gain(seeds: Sequence[int]) -> float:
        return min(mean("value", hosts, seeds) / mean("equal", hosts, seeds) - 1 for hosts in HOSTS)

    seeds = sorted({row["seed"] for row in rows})
    return {
        "gain_over_equal": gain(seeds),
        "least_gain_over_equal": min(gain([seed]) for seed in seeds),
        **{f"success_{rule}_{hosts}_hosts": mean(rule, hosts, seeds) for hosts in HOSTS for rule in ALLOCATIONS},
    }


_FIGURES = ("success", "wire_bits_per_agent_step", "spent_share")


def _means(rows: Sequence[Row]) -> list[Row]:
    settings = dict.fromkeys((row["budget"], row["hosts"], row["allocation"]) for row in rows)
    means = []
    for setting in settings:
        alike = [row for row in rows if (row["budget"], row["hosts"], row["allocation"]) == setting]
        budget, hosts, rule = setting
        named = f"{budget}, {hosts} host{'s' * (hosts > 1)}, {rule}"
        means.append({"setting": named, **{name: fmean(row[name] for row in alike) for name in _FIGURES}})
    return means


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

    def points(rule: str, hosts: int) -> list[tuple[float, float]]:
        alike = [row for row in rows if (row["allocation"], row["hosts"]) == (rule, hosts)]
        budgets = dict.fromkeys(row["budget"] for row in alike)
        return [
            (float(budget.split()[0]), 100 * fmean(r["success"] for r in alike if r["budget"] == budget))
            for budget in budgets
        ]

    panels = {
        "all agents on one host" if hosts == 1 else "a host for each": [
            Line(rule, points(rule, hosts)) for rule in ALLOCATIONS
        ]
        for hosts in HOSTS
    }
    return lines(panels, "budget: bits per step of all agents", "calls answered rightly, %")
