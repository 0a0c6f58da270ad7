"""Fitting a frozen codec to recorded messages: encode, refit the prior, refit the quantiser, and again.

A tailor's fitting: the customer tries it on, pins are moved, and the customer tries it on again. No agent is needed,
only what it said: vectors on their own, or streams of them, where each message knows the one before on its link.

The rounds are those of entropy-constrained vector quantisation (Chou, Lookabaugh & Gray 1989, IEEE Trans. ASSP 37(1),
sec. III): each is meant to lower distortion + rate_weight x bits.

Shapes: L links, T messages on each, n = L T messages, D message width, P positions, K alphabet.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from commlib.codec import Codes, Vectors, fresh_context, next_context
from commlib.codecs.frozen import ByteQuantiser, CodebookQuantiser, GridQuantiser, Quantiser, TableCodec
from commlib.codecs.prior import best_prior, uniform_prior
from commlib.codecs.residual import ResidualQuantiser
from commlib.codecs.store import save_codec
from commlib.codecs.trellis import TrellisQuantiser, even_trellis
from commlib.errors import CodecError, ConfigError

NAMES = ("vq", "rvq", "int8", "trellis", "float16", "float32")
FIT_MESSAGES = 20_000
FIT_STARTS = 3
LARGEST = 1e15
"""The largest number that a codec is fitted to."""
LARGE, LARGE_ROUNDS = 256, 10
"""Codebooks of more codes start from messages drawn at random, and get so many rounds of Lloyd's algorithm."""
HELD_OUT = 0.2
"""The share of links, the last ones, that a codec is not fitted to but judged by."""
ENOUGH = 0.02
"""Twice the messages should move the held-out rate by no more than this share."""


def kmeans(messages: NDArray[np.float32], n_codes: int, seed: int) -> NDArray[np.float32]:
    """The codebook [n_codes, D] of least distortion among a few k-means++ starts; spare codes repeat the last row.

    Arthur & Vassilvitskii 2007. In our trials it left a third of the distortion of running averages with dead-code
    revival from a random start.
    """
    distinct = np.unique(messages, axis=0)
    if len(distinct) <= n_codes:  # fewer things are said than there are codes: each gets its own
        return np.concatenate([distinct, np.repeat(distinct[-1:], n_codes - len(distinct), 0)])
    if n_codes > LARGE:  # the careful start would cost more than it saves
        codebook = messages[np.random.default_rng(seed).choice(len(messages), n_codes, replace=False)]
        for _ in range(LARGE_ROUNDS):
            codebook = _means(codebook, CodebookQuantiser(codebook).nearest(messages)[:, 0], messages)
        return codebook

    def start(k: int) -> tuple[float, NDArray[np.float32]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty cluster: a spare code, no harm
            codebook, label = kmeans2(messages, n_codes, iter=50, minit="++", seed=np.random.default_rng([seed, k]))
        return float(((messages - codebook[label]) ** 2).sum()), codebook.astype(np.float32)

    return min((start(k) for k in range(FIT_STARTS)), key=lambda pair: pair[0])[1]


def residual_codebooks(messages: NDArray[np.float32], n_stages: int, n_codes: int, seed: int) -> NDArray[np.float32]:
    """Codebooks [n_stages, n_codes, D], each fitted to what the stages before it leave over; code 0 of the later is zero."""
    left, stages = messages, []
    for stage in range(n_stages):
        if stage == 0:
            codebook = kmeans(left, n_codes, seed)
        else:
            nothing = np.zeros((1, messages.shape[1]), np.float32)
            codebook = np.concatenate([nothing, kmeans(left, n_codes - 1, seed + stage)])
        distance = (codebook**2).sum(-1) - 2 * left @ codebook.T
        left = left - codebook[distance.argmin(-1)]
        stages.append(codebook)
    return np.stack(stages)


class Fit(NamedTuple):
    """A codec, and how it does on the messages that it was not fitted to.

    Attributes:
        codec: the codec.
        bits: estimate, per message.
        distortion: squared error, summed over the D floats, per message.
        n_messages: messages that it was fitted to.
        bits_with_half: the held-out rate of a prior counted from half of them.
        has_enough: whether the second half moved the held-out rate by no more than `ENOUGH`; if not, record more.
        used_codes: codes of the first position that were used, of `codec.alphabet`.

    `save` writes the codec, for `commlib.load_codec`.
    """

    codec: TableCodec
    bits: float
    distortion: float
    n_messages: int
    bits_with_half: float
    has_enough: bool
    used_codes: int

    def save(self, folder: str | Path) -> None:
        """Write the codec to a folder, from which `commlib.load_codec` reads it back."""
        save_codec(self.codec, Path(folder), made_by="commlib.fit_codec")

    def __repr__(self) -> str:
        """The figures, not the tables."""
        held_out = f"bits={self.bits:.4g}, distortion={self.distortion:.4g}, has_enough={self.has_enough}"
        return f"Fit({self.codec.name}, {held_out}, n_messages={self.n_messages}, used_codes={self.used_codes})"


@dataclass(frozen=True)
class Settings:
    """What kind of codec, and how hard it should save.

    Attributes:
        name: one of `NAMES`.
        codebook_size: K of vq and rvq; levels of trellis.
        n_stages: P of rvq.
        context: what the prior knows (`commlib.codecs.rows.KINDS`); None: what suits the codec, or, where that is the
            past, whichever of it, nothing, and "the same again" has the least held-out rate.
        n_ages: ages of a link that the prior tells apart.
        rate_weight: squared distortion per bit that the fit trades at.
        step: of trellis, in standard deviations of each float; None: what suits the rate weight.
        n_rounds: encode-and-refit rounds.
    """

    name: str = "vq"
    codebook_size: int = 64
    n_stages: int = 2
    context: str | None = None
    n_ages: int = 1
    rate_weight: float = 0.0
    step: float | None = None
    n_rounds: int = 8

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ConfigError(f"no codec called {self.name!r} can be fitted to messages; there are {', '.join(NAMES)}")
        for name, value, least in (
            ("codebook_size", self.codebook_size, 2), ("n_stages", self.n_stages, 1), ("n_ages", self.n_ages, 1),
            ("rate_weight", self.rate_weight, 0), ("n_rounds", self.n_rounds, 0),
        ):  # fmt: skip
            if not least <= value < float("inf"):
                raise ConfigError(f"{name} = {value}: it must be {least} or more")

    @property
    def kinds(self) -> tuple[str, ...]:
        """What the prior may know; the first is the codec's natural way."""
        if self.context:
            return (self.context,)
        natural = {"vq": "previous", "rvq": "staged", "int8": "previous", "trellis": "trellis"}.get(self.name, "none")
        return (natural, "none", "held") if natural in ("previous", "staged") else (natural,)


def encode_stream(codec: TableCodec, messages: Vectors, rate_weight: float) -> tuple[Codes, Codes]:
    """Codes [n, P] of streams [L, T, D], link by link in time, and the contexts [n, P + 1] that each was said in."""
    n_links, n_times, _ = messages.shape
    context = fresh_context(n_links, codec.n_positions)
    codes, contexts = [], []
    for t in range(n_times):
        chosen = codec.choose(messages[:, t], context, rate_weight)
        codes.append(chosen)
        contexts.append(context)
        context = next_context(context, chosen)
    return np.stack(codes, 1).reshape(-1, codec.n_positions), np.stack(contexts, 1).reshape(-1, codec.n_positions + 1)


def checked(messages: object) -> Vectors:
    """Messages as float32 [L, T, D].

    Raises:
        CodecError: they are of another shape, too few, or not finite.
    """
    try:
        array = np.asarray(messages, np.float32)
    except (TypeError, ValueError) as error:
        raise CodecError(f"messages must be numbers, float [n, D] or [L, T, D] ({error})") from error
    if array.ndim == 2:
        array = array[:, None]
    if array.ndim != 3 or array.shape[2] == 0:
        raise CodecError(f"messages must be float [n, D] or [L, T, D], not {list(array.shape)}")
    if len(array) < 10:
        raise CodecError(
            f"{len(array)} links of messages are too few to fit a codec and to judge it; record 10 or more"
        )
    if not np.isfinite(array).all():
        raise CodecError("a recorded message holds NaN or infinity; look at what made it")
    if np.abs(array).max() > LARGEST:
        raise CodecError(
            f"a recorded message holds a number beyond {LARGEST:g}, whose square is no float32; scale them"
        )
    return array


def unseen_of(streams: Vectors) -> Vectors:
    """The links [.., T, D] that a codec is not fitted to."""
    return streams[len(streams) - max(2, int(HELD_OUT * len(streams))) :]


def fit_codec(messages: object, settings: Settings | None = None, seed: int = 0) -> Fit:
    """Fit a codec to recorded messages.

    >>> from commlib.codecs.fit import Settings, fit_codec
    >>> says = np.random.default_rng(0).normal(size=(2000, 4))
    >>> fit = fit_codec(says, Settings("vq", codebook_size=16))
    >>> 3 < fit.bits <= 4.1
    True

    Args:
        messages: float [n, D], or streams [L, T, D] of messages that follow each other on L links.
        settings: what kind of codec.
        seed: of the codebook's starts.

    Raises:
        CodecError: the messages cannot be used.
    """
    settings = settings or Settings()
    if not isinstance(settings, Settings):
        raise ConfigError(f"settings are commlib.codecs.fit.Settings(...), not a {type(settings).__name__}")
    streams = checked(messages)
    unseen = unseen_of(streams)
    seen = streams[: len(streams) - len(unseen)]
    flat = seen.reshape(-1, streams.shape[2])
    draw = np.random.default_rng(seed)
    quantiser = _first_quantiser(flat[draw.permutation(len(flat))[:FIT_MESSAGES]], settings, seed)
    prior = uniform_prior(quantiser.n_positions, quantiser.alphabet, settings.kinds[0], settings.n_ages)
    codec = TableCodec(settings.name, quantiser, prior)
    codes, contexts = encode_stream(codec, seen, 0.0)
    codec = _counted(codec, codes, contexts, settings.kinds)
    for _ in range(settings.n_rounds if settings.rate_weight or settings.codebook_size > LARGE else 0):
        codes, contexts = encode_stream(codec, seen, settings.rate_weight)
        codec = _counted(
            replace(codec, quantiser=_refitted(codec.quantiser, codes, flat)), codes, contexts, settings.kinds
        )
    said, said_in = encode_stream(codec, unseen, settings.rate_weight)
    half = len(codes) // 2
    bits = float(codec.estimate_bits(said, said_in).mean())
    bits_with_half = float(
        _counted(codec, codes[:half], contexts[:half], (codec.prior.kind,)).estimate_bits(said, said_in).mean()
    )
    error = codec.embed(said, said_in) - unseen.reshape(-1, streams.shape[2])
    return Fit(
        codec,
        bits,
        float((error**2).sum(-1).mean()),
        len(codes),
        bits_with_half,
        abs(bits_with_half - bits) <= ENOUGH * max(bits_with_half, 1e-9),
        len(np.unique(codes[:, 0])),
    )


def curve(codec: TableCodec, messages: Vectors, rate_weights: Sequence[float]) -> list[tuple[float, float]]:
    """Bits and squared error per message of one codec on streams [L, T, D], at each rate weight."""
    flat, points = messages.reshape(-1, codec.width), []
    for weight in rate_weights:
        codes, contexts = encode_stream(codec, messages, weight)
        error = np.square(codec.embed(codes, contexts) - flat).sum(-1).mean()
        points.append((float(codec.estimate_bits(codes, contexts).mean()), float(error)))
    return points


def _counted(codec: TableCodec, codes: Codes, contexts: Codes, kinds: Sequence[str]) -> TableCodec:
    prior = codec.prior
    return replace(codec, prior=best_prior(codes, contexts, prior.alphabet, kinds, (prior.n_ages,)))


def _first_quantiser(messages: Vectors, settings: Settings, seed: int) -> Quantiser:
    width = messages.shape[1]
    if settings.name == "vq":
        return CodebookQuantiser(kmeans(messages, settings.codebook_size, seed))
    if settings.name == "rvq":
        return ResidualQuantiser(residual_codebooks(messages, settings.n_stages, settings.codebook_size, seed))
    if settings.name == "int8":
        return even_grid(messages)
    if settings.name == "trellis":
        return _trellis(messages, settings)
    return ByteQuantiser(width, 2 if settings.name == "float16" else 4)


def even_grid(messages: Vectors, levels: int = 256) -> GridQuantiser:
    """A grid for each float over the range of the messages."""
    low, high = messages.min(0), messages.max(0)
    step = np.maximum((high - low) / np.float32(levels - 1), np.float32(1e-6))
    return GridQuantiser(low, step.astype(np.float32), levels)


def _trellis(messages: Vectors, settings: Settings) -> TrellisQuantiser:
    """A step that suits the rate weight: at a high rate a slope of -dD/dR = w belongs to a step of sqrt(w / 0.4)."""
    deviation = np.maximum(messages.std(0), np.float32(1e-6))
    if settings.step is not None:
        step = settings.step * deviation
    elif settings.rate_weight > 0:
        step = np.full_like(deviation, np.sqrt(settings.rate_weight / 0.4))
    else:
        step = np.abs(messages - messages.mean(0)).max(0) / settings.codebook_size
    return even_trellis(messages.mean(0), np.maximum(step, np.float32(1e-6)), settings.codebook_size)


def _refitted(quantiser: Quantiser, codes: Codes, messages: Vectors) -> Quantiser:
    """The quantiser with every codeword moved to the mean of what it stands for; even grids stay as they are."""
    if isinstance(quantiser, CodebookQuantiser):
        return CodebookQuantiser(_means(quantiser.codebook, codes[:, 0], messages))
    if isinstance(quantiser, ResidualQuantiser):
        codebooks = quantiser.codebooks.copy()
        for stage in range(len(codebooks)):
            others = quantiser.embed(codes) - codebooks[stage, codes[:, stage]]
            codebooks[stage] = _means(codebooks[stage], codes[:, stage], messages - others)
            codebooks[1:, 0] = 0.0
            quantiser = ResidualQuantiser(codebooks.copy())
    if isinstance(quantiser, TrellisQuantiser):
        grids, values = quantiser.grids(codes), quantiser.values.copy()
        for position, column in enumerate(messages.T):
            code = grids[:, position] * quantiser.alphabet + codes[:, position]
            values[position] = _means(values[position].reshape(-1, 1), code, column[:, None]).reshape(2, -1)
        quantiser = TrellisQuantiser(values)
    return quantiser


def _means(codebook: NDArray[np.float32], code: NDArray[np.int64], messages: Vectors) -> NDArray[np.float32]:
    count = np.bincount(code, minlength=len(codebook))[:, None]
    total = np.stack([np.bincount(code, column, len(codebook)) for column in messages.T], 1)
    moved: NDArray[np.float32] = np.where(count > 0, total / np.maximum(count, 1), codebook).astype(np.float32)
    return moved
