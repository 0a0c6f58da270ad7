"""A router that chooses the tier of each message, against teams that tell all of them equally finely.

One team is trained, its messages residual: coarse, finer, finest. Then one codec per tier is made of its first stages,
and the whole. Each goes up the same ladder of rate weights on the same episodes, with a prior of its own refitted at each
rung: a fixed tier with the price-aware encoder, which may also be silent, is a strong rival. Listeners were not trained
on fewer stages. A second team, trained alike with the usual `vq`, goes up the ladder, too. The router's team is the whole
residual codec with a router, taught as calibration teaches it.

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
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from commlib.agents.runtime import LocalRuntime
from commlib.codecs.frozen import TableCodec
from commlib.codecs.prior import uniform_prior
from commlib.codecs.residual import ResidualQuantiser
from commlib.config import StagesConfig
from commlib.experiments.bench import Measured, Row, Say, Target, table
from commlib.experiments.calibrate import USUAL_RUNG, Rehearsal, cheapest, climb, go_to_school, refit
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
MARGIN, UNSAID = 0.006, 0.71
"""Differences of success up to this share are noise of so many episodes, and what calibration may give up; and what a team
trained without messages reaches (docs/results.md): below it nobody would pay for a message."""
TARGETS = {
    "least_gain": Target(at_least=-MARGIN),
    "bits_at_95": Target(at_most=1.0),
    "bits_at_margin": Target(at_most=1.0),
}
N_WORLDS, N_LECTURES, WHOLE_LADDER = 2048, 512, 0.12
"""Episodes that a rung is measured on, and those of a lecture; and a margin with which a ladder is climbed to its end."""
LADDER, N_RUNGS = (2.0**-9, 1.0), 19
"""The first and the last rate weight, as shares of the messages' variance per bit, and how many in between, half octaves."""


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """Train two teams, cut the codec of one into tiers, teach a router, and climb with each."""
    world = make_world(WORLD)
    settings = {"rvq": {"codec": "rvq", "codec_stages": N_STAGES, "codebook_size": ALPHABET}, "vq": {}}
    teams = {}
    for name, own in settings.items():
        say(f"training a team with {name} on {WORLD}")
        teams[name] = _trained({**own, "seed": seed}, quick)
    rows: list[Row] = []
    for name, model in {**tiers(teams["rvq"]), "vq": teams["vq"]}.items():
        say(f"climbing: {name}")
        ladder = _Ladder(model, world, seed, quick)
        climbed = ladder.climb()
        rows += [_row(name, rung) for rung, _ in climbed]
        if name == _tier(N_STAGES):
            whole, start = climbed, ladder
    rung, even = cheapest(whole, MARGIN)
    school = School(world.spec.n_steps, say)
    lectures = Rehearsal(world, "broadcast", 64 if quick else N_LECTURES, torch.Generator().manual_seed(seed + 2))
    taught = go_to_school(even, school, lectures, max(rung.rate_weight, USUAL_RUNG * start.variance))
    say("climbing: router")
    routed = _Ladder(replace(taught, codec=start.model.codec), world, seed, quick, start.weights)
    rows += [_row("router", rung) for rung, _ in routed.climb()]
    return Measured(rows, summary(rows), [_table(rows)])


def _trained(settings: dict[str, Any], quick: bool) -> Model:
    """A team as training leaves it, not calibrated."""
    short = {"steps": 60_000, "learning": {"n_worlds": 128}} if quick else {}
    world = make_world(WORLD)
    config = complete(resolve(WORLD, None, None, {**settings, **short}), world.spec)
    with TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch) / "run")
        make_folder(folder, config)
        training = Training(config, world, LocalRuntime(1), folder, Quiet())
        training.run()
    weights, _, edges = training.team.runtime.each("learner.deployed", [()])[0]
    spec = policy_spec(config, world.spec)
    return Model(partial(learned_team, spec, weights), training.frozen()[-1], edges)


def _tier(n: int) -> str:
    return "stage 1" if n == 1 else f"stages 1 to {n}"


def tiers(team: Model) -> dict[str, Model]:
    """The team with a codec of one stage, of two, and so on; each with a prior that expects nothing yet."""
    codec = team.codec
    assert isinstance(codec, TableCodec)
    assert isinstance(codec.quantiser, ResidualQuantiser)
    books = codec.quantiser.codebooks
    kind = codec.prior.kind
    return {
        _tier(n): replace(
            team, codec=replace(codec, quantiser=ResidualQuantiser(books[:n]), prior=uniform_prior(n, ALPHABET, kind))
        )
        for n in range(1, len(books) + 1)
    }


class _Ladder:
    """A model on the first rung, its prior counted, and the ladder before it."""

    def __init__(
        self, model: Model, world: World, seed: int, quick: bool, weights: Sequence[float] | None = None
    ) -> None:
        n_worlds = 64 if quick else N_WORLDS
        self._stages = StagesConfig(calibrate_worlds=n_worlds, margin=WHOLE_LADDER, calibrate_rounds=2)
        self._rehearsal = Rehearsal(world, "broadcast", n_worlds, torch.Generator().manual_seed(seed + 1))
        _, records = self._rehearsal.play(model, 0.0)
        self.model = refit(model, records)
        contexts, codes = records[-1]
        self.variance = float(self.model.codec.embed(codes, contexts).var(0).sum())
        shares = np.geomspace(*LADDER, 4 if quick else N_RUNGS)
        self.weights = weights or [0.0, *(shares * self.variance).tolist()]

    def climb(self) -> list[tuple[Rung, Model]]:
        """Success and bits at every rung, and the model with its prior there."""
        return climb(self.model, self._rehearsal, self._stages, self.weights)


def _row(name: str, rung: Rung) -> Row:
    return {
        "tier": name,
        "rate_weight": rung.rate_weight,
        "success": rung.success,
        "return": rung.return_,
        "bits_per_agent_step": rung.bits_per_agent_step,
    }


def summary(rows: Sequence[Row]) -> Row:
    """How far the router's curve lies above those of the fixed tiers, and of `vq`, and what it saves.

    `least_gain` is the least difference of success, over all rungs of the others that do better than a team without
    messages, between the router's rungs, joined by straight lines, at as many bits and the rung; -1 where none does.
    `bits_at_95` and `bits_at_margin` are the router's bits as a share of the best other's, where success is 95 % of the
    best that any other reaches, and within the margin of it.
    """
    router = [row for row in rows if row["tier"] == "router"]
    fixed, vq = ([r for r in rows if r["tier"] in names] for names in ([_tier(n + 1) for n in range(N_STAGES)], ["vq"]))
    against_vq = {f"{figure}_vq": value for figure, value in _against(router, vq).items()}
    n_compared = sum(row["success"] > UNSAID for row in (*fixed, *vq))
    return _against(router, fixed) | against_vq | {"n_compared": n_compared}


def _against(router: Sequence[Row], others: Sequence[Row]) -> Row:
    curve = frontier(router)
    rivals = [frontier([row for row in others if row["tier"] == name]) for name in {row["tier"] for row in others}]
    joined = sorted((row["bits_per_agent_step"], row["success"]) for row in router)
    worth = [(row["bits_per_agent_step"], row["success"]) for row in others if row["success"] > UNSAID]
    gains = [reached(joined, bits) - success for bits, success in worth]
    best = max(row["success"] for row in others)

    def share(success: float) -> float:
        return bits_for(curve, success) / min(bits_for(rival, success) for rival in rivals)

    return {
        "least_gain": min(gains, default=-1.0),
        "bits_at_95": share(0.95 * best),
        "bits_at_margin": share(best - MARGIN),
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
    """Success at so many bits, by straight lines between points; below the first, that of the first.

    >>> reached([(1.0, 0.5), (2.0, 0.9)], 1.5)
    0.7
    """
    x, y = zip(*curve, strict=True)
    return float(np.interp(bits, x, y))


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
