"""Post-training compression: a codec for agents that were never trained with one, or for vectors on their own.

A subtitler comes after the film is shot: what was said stays, it is only put shorter. From recorded vectors one gets a
curve of rate against distortion; from agents at work, the curve that matters, of rate against task score, with what
they score when nothing is lost beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from commlib.agent import Agent
from commlib.codec import Codes
from commlib.codecs.fit import ENOUGH, HELD_OUT, Fit, Settings, checked, curve, fit_codec, unseen_of
from commlib.codecs.frozen import TableCodec
from commlib.codecs.prior import fit_prior
from commlib.codecs.store import save_codec
from commlib.config import RunConfig
from commlib.errors import CodecError
from commlib.experiments.calibrate import rehearse
from commlib.experiments.model import Calibration, Model, Rung
from commlib.experiments.run import fit_to_agents, graph_of, lossless_team, probe_width
from commlib.world import World, for_evaluation

SHARES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.2)
"""Rate weights to try on recorded vectors, as shares of their variance per bit."""


class Point(NamedTuple):
    """One rate weight: bits per message, and what they buy.

    Attributes:
        rate_weight: squared distortion per bit.
        bits: estimate per message (vectors) or per agent and step (agents).
        distortion: squared error per message as a share of the variance; None for agents.
        success, return_: the task score; None for vectors.
    """

    rate_weight: float
    bits: float
    distortion: float | None
    success: float | None
    return_: float | None


@dataclass(frozen=True)
class Compressed:
    """A fitted codec and its curve.

    Attributes:
        codec: the codec at the chosen point.
        calibration: what this codec does at every rate weight, its label when it is stored.
        points: the curve; for agents the first is what they do over a lossless channel (float32).
        chosen: the index of the point in use.
        n_messages: how many messages the codec was fitted to.
        has_enough: whether twice as many would hardly lower the rate on messages it has not seen.
    """

    codec: TableCodec
    calibration: Calibration
    points: tuple[Point, ...]
    chosen: int
    n_messages: int
    has_enough: bool

    def to_json(self) -> dict[str, Any]:
        """As a plain object."""
        return {
            "codec": self.codec.name,
            "digest": self.codec.digest,
            "width": self.codec.width,
            "points": [point._asdict() for point in self.points],
            "chosen": self.chosen,
            "n_messages": self.n_messages,
            "has_enough": self.has_enough,
        }

    def save(self, folder: Path, made_by: str) -> None:
        """Write the codec; `commlib.load_codec` reads it."""
        save_codec(self.codec, folder, self.calibration.to_json(), made_by)


def read_vectors(path: Path) -> np.ndarray[Any, Any]:
    """Recorded messages from a .npy file, float [n, D] or [L, T, D].

    Raises:
        CodecError: there is no such file, or it holds no such array.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise CodecError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise CodecError(f"{path} is no .npy file of numbers ({error}); save the messages with numpy.save") from error
    return checked(array)


def compress_vectors(
    messages: object, settings: Settings, seed: int = 0, most_distortion: float | None = None
) -> Compressed:
    """Fit a codec to recorded vectors at several rate weights.

    The point in use is the one with the fewest bits whose distortion, as a share of the variance, is at most
    `most_distortion`; without that the one of rate weight 0.

    Raises:
        CodecError: no point is as good as asked.
    """
    streams = checked(messages)
    variance = max(float(streams.reshape(-1, streams.shape[2]).var(0).sum()), 1e-12)
    fits: list[Fit] = []
    for share in SHARES:
        weight = share * variance
        fits.append(fit_codec(streams, Settings(**{**vars(settings), "rate_weight": weight}), seed))
    points = tuple(
        Point(share * variance, fit.bits, fit.distortion / variance, None, None)
        for share, fit in zip(SHARES, fits, strict=True)
    )
    good = [i for i, p in enumerate(points) if most_distortion is not None and (p.distortion or 0.0) <= most_distortion]
    if most_distortion is not None and not good:
        least = min(point.distortion or 0.0 for point in points)
        raise CodecError(
            f"no point of this {settings.name} codec has a distortion of {most_distortion:.2%} or less, "
            f"the least is {least:.2%}; take a larger --codebook-size or another --codec"
        )
    chosen = min(good, key=lambda i: points[i].bits) if good else 0
    fit = fits[chosen]
    weights = [share * variance for share in SHARES]
    told = zip(weights, curve(fit.codec, unseen_of(streams), weights), strict=True)
    rungs = tuple(Rung(weight, None, -error / variance, bits, bits) for weight, (bits, error) in told)
    return Compressed(fit.codec, Calibration(rungs, chosen), points, chosen, fit.n_messages, fit.has_enough)


def compress_agent(agent: Callable[[int], Agent], world: World, config: RunConfig) -> Compressed:
    """Fit a codec to agents that never knew one, and tell what each rate costs them in their task."""
    width = probe_width(agent, world, config.seed)
    edges = graph_of(config, world)
    model = fit_to_agents(agent, world, config, edges, width)
    return _of_model(model, lossless_team(agent, world, edges, width), world, config)


def _of_model(model: Model, lossless: Model, world: World, config: RunConfig) -> Compressed:
    if not isinstance(model.codec, TableCodec):
        raise CodecError(f"{config.codec} freezes to no TableCodec; only those can be calibrated and stored")
    weights = [rung.rate_weight for rung in model.calibration.rungs] or [0.0]
    chosen = model.calibration.chosen
    generator = torch.Generator().manual_seed(config.seed + 2)
    whole, rungs, contexts, codes = rehearse(
        model, lossless, for_evaluation(world), config, weights, weights[chosen], generator
    )
    points = [Point(0.0, r.bits_per_agent_step, None, r.success, r.return_) for r in (whole,)]
    points += [Point(w, r.bits_per_agent_step, None, r.success, r.return_) for w, r in zip(weights, rungs, strict=True)]
    if whole.bits_per_agent_step == 0:
        raise CodecError(
            "the agents said nothing, so there is nothing to fit a codec to; `act` returns (action, message)"
        )
    enough = has_enough(model.codec, contexts, codes)
    return Compressed(model.codec, model.calibration, tuple(points), 1 + chosen, len(codes), enough)


def has_enough(codec: TableCodec, contexts: Codes, codes: Codes) -> bool:
    """Whether the second half of the messages hardly lowers the rate of the last ones, which neither was counted from."""
    mixed = np.random.default_rng(0).permutation(len(codes))  # recorded round by round: the last are no fair sample
    contexts, codes = contexts[mixed], codes[mixed]
    n_judges = int(HELD_OUT * len(codes))
    if n_judges < 1 or len(codes) - n_judges < 4:
        return False
    prior, n = codec.prior, len(codes) - n_judges
    rates = [
        float(
            fit_prior(codes[:m], contexts[:m], prior.alphabet, prior.kind, prior.n_ages)
            .estimate_bits(codes[n:], contexts[n:])
            .mean()
        )
        for m in (n // 2, n)
    ]
    return abs(rates[0] - rates[1]) <= ENOUGH * max(rates[0], 1e-9)
