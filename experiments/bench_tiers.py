"""A router that chooses the tier of each message, against teams that tell all of them equally finely.

One team is trained, its messages residual: coarse, finer, finest. Then one codec per tier is made of its first stages,
and the whole. Each goes up the same ladder of rate weights on the same episodes, with a prior of its own refitted at each
rung: a fixed tier with the price-aware encoder, which may also be silent, is a strong rival. The router's team is the
whole codec with a router.

The world is Predator-Prey easy. Who stands on the prey has something to say that decides what the others do; who is
still searching says where it is, and for most of what it could say nobody does anything else. So some messages matter
more, and which ones is a matter of what the sender sees.

Shapes: P stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch

from commlib.agents.runtime import LocalRuntime
from commlib.codecs.frozen import TableCodec
from commlib.codecs.prior import uniform_prior
from commlib.codecs.residual import ResidualQuantiser
from commlib.config import StagesConfig
from commlib.experiments.bench import Measured, Row, Say, Target, table
from commlib.experiments.calibrate import Rehearsal, climb, go_to_school, refit
from commlib.experiments.compose import complete, resolve
from commlib.experiments.model import Model, Rung, learned_team
from commlib.experiments.progress import Quiet
from commlib.experiments.school import School
from commlib.experiments.train import Training, make_folder, policy_spec
from commlib.experiments.worlds import make_world
from commlib.records import RunFolder
from commlib.world import World

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

WORLD, N_STAGES, ALPHABET = "predator_prey_easy", 3, 16
TARGETS = {"least_gain": Target(at_least=0.0), "bits_at_95_of_best_fixed": Target(at_most=1.0)}
N_WORLDS, WHOLE_LADDER = 2048, 0.12
"""Episodes that a rung is measured on; and a margin with which the ladder is climbed until the team is lost."""
LADDER, N_RUNGS = (2.0**-9, 1.0), 19
"""The first and the last rate weight, as shares of the messages' variance per bit, and how many in between, half octaves."""
SHARE, TAUGHT_AT = 0.95, 2.0**-4
"""Where bits are compared, as a share of the success for free bits; where a router is taught, as a share of the variance."""
SEEN = 0.006
"""Differences of success that are less than this share are noise of so many episodes, and none is told."""


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """Train, cut the codec into tiers, teach a router, and climb with each."""
    world = make_world(WORLD)
    short = {"steps": 60_000, "learning": {"n_worlds": 128}} if quick else {}
    config = resolve(
        WORLD, None, None, {"codec": "rvq", "codec_stages": N_STAGES, "codebook_size": ALPHABET, "seed": seed, **short}
    )
    config = complete(config, world.spec)
    with TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch) / "run")
        make_folder(folder, config)
        training = Training(config, world, LocalRuntime(1), folder, Quiet())
        say(f"training a team on {WORLD}, {config.steps:,} steps")
        training.run()
    weights, _, edges = training.team.runtime.each("learner.deployed", [()])[0]
    spec = policy_spec(config, world.spec)
    codec = training.codec.freeze()
    team = Model(partial(learned_team, spec, weights), codec, edges)
    school = School(spec, weights, world.spec.n_steps, say)
    rows: list[Row] = []
    for name, model in {**tiers(team), "router": team}.items():
        say(f"climbing: {name}")
        climbed = _climb(model, world, seed, quick, school if name == "router" else None)
        rows += [_row(name, rung) for rung in climbed]
    return Measured(rows, summary(rows), [_table(rows)])


def tiers(team: Model) -> dict[str, Model]:
    """The team with a codec of one stage, of two, and so on; each with a prior that expects nothing yet."""
    codec = team.codec
    assert isinstance(codec, TableCodec)
    assert isinstance(codec.quantiser, ResidualQuantiser)
    books = codec.quantiser.codebooks
    kind = codec.prior.kind
    return {
        f"stages 1 to {n}" if n > 1 else "stage 1": replace(
            team, codec=replace(codec, quantiser=ResidualQuantiser(books[:n]), prior=uniform_prior(n, ALPHABET, kind))
        )
        for n in range(1, len(books) + 1)
    }


def _climb(model: Model, world: World, seed: int, quick: bool, school: School | None) -> list[Rung]:
    """Success and bits at every rung, the router taught first where there is a school."""
    n_worlds = 64 if quick else N_WORLDS
    stages = StagesConfig(calibrate_worlds=n_worlds, margin=WHOLE_LADDER, calibrate_rounds=2)
    rehearsal = Rehearsal(world, "broadcast", n_worlds, torch.Generator().manual_seed(seed + 1))
    _, contexts, codes = rehearsal.play(model, 0.0)
    model = refit(model, contexts, codes)
    variance = float(model.codec.embed(codes, contexts).var(0).sum())
    if school is not None:
        model = go_to_school(model, school, rehearsal, TAUGHT_AT * variance)
    weights = [0.0, *(np.geomspace(*LADDER, 4 if quick else N_RUNGS) * variance).tolist()]
    return [rung for rung, _ in climb(model, rehearsal, stages, weights)]


def _row(name: str, rung: Rung) -> Row:
    return {
        "tier": name,
        "rate_weight": rung.rate_weight,
        "success": rung.success,
        "return": rung.return_,
        "bits_per_agent_step": rung.bits_per_agent_step,
    }


def summary(rows: Sequence[Row]) -> Row:
    """How far the router's curve lies above those of the fixed tiers, and what it saves.

    `least_gain` is the least difference of success, over all rungs of all fixed tiers, between the router's curve at as
    many bits (or the best that it reaches with fewer) and the fixed tier; within `SEEN` of each other they are equal.
    """
    fixed = [row for row in rows if row["tier"] != "router"]
    curve = frontier([row for row in rows if row["tier"] == "router"])
    gains = [reached(curve, row["bits_per_agent_step"]) - row["success"] for row in fixed]
    raw = [gain for gain in gains if not np.isnan(gain)]
    gains = [0.0 if abs(gain) < SEEN else gain for gain in raw]
    best = max(row["success"] for row in rows)
    needed = {
        tier: bits_for(frontier([row for row in rows if row["tier"] == tier]), SHARE * best)
        for tier in dict.fromkeys(row["tier"] for row in rows)
    }
    rivals = [bits for tier, bits in needed.items() if tier != "router"]
    return {
        "least_gain": min(gains),
        "least_gain_unrounded": min(raw),
        "mean_gain": float(np.mean(raw)),
        "n_compared": len(gains),
        "bits_at_95": needed,
        "bits_at_95_of_best_fixed": needed["router"] / min(rivals),
    }


NEVER = 1e9
Curve = list[tuple[float, float]]


def frontier(rows: Sequence[Row]) -> Curve:
    """(bits, success) by bits, without points that another one beats in both."""
    points = sorted((row["bits_per_agent_step"], -row["success"]) for row in rows)
    curve: Curve = []
    for bits, lost in points:
        if not curve or -lost > curve[-1][1]:
            curve.append((bits, -lost))
    return curve


def reached(curve: Curve, bits: float) -> float:
    """Success at so many bits, by straight lines between points; NaN below the first.

    >>> reached([(1.0, 0.5), (2.0, 0.9)], 1.5)
    0.7
    """
    x, y = zip(*curve, strict=True)
    return float(np.interp(bits, x, y, left=np.nan))


def bits_for(curve: Curve, success: float) -> float:
    """The bits at which a success is reached; `NEVER` where it is not.

    >>> bits_for([(1.0, 0.5), (2.0, 0.9)], 0.7)
    1.5
    """
    x, y = zip(*curve, strict=True)
    return float(np.interp(success, y, x, right=NEVER))


def _table(rows: Sequence[Row]) -> Table:
    return table(
        "success and bits per agent and step, rung by rung",
        {"tier": "tier", "rate_weight": "rate weight", "success": "success", "bits_per_agent_step": "bits"},
        list(rows),
    )


def draw(rows: Sequence[Row]) -> Figure:
    """Success over bits, a line for each tier and one for the router."""
    from commlib.experiments.bench_figures import Line, lines

    names = list(dict.fromkeys(row["tier"] for row in rows))
    curves = [
        Line(name, [(row["bits_per_agent_step"], 100 * row["success"]) for row in rows if row["tier"] == name])
        for name in names
    ]
    return lines({WORLD: curves}, "bits per agent and step", "success %")
