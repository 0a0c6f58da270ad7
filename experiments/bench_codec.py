"""How long a message takes from vector to bytes and back: our frozen codecs against one call of the library's quantiser.

The rival has the lighter load: `VectorQuantize` of vector-quantize-pytorch in eager mode gives an index and a vector,
no bytes. Ours chooses a code, encodes it to bytes, decodes them and looks the vector up.

A codec remembers the bytes of single messages that it has said before (`commlib.codecs.frozen.REMEMBERED`). Both sides
of that are told: *warm*, when every code has been said from every past; *cold*, when nothing is remembered; and *first*,
the first message of a new codec.

Shapes: n messages, D message width, K codebook size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from commlib.codec import Codes, Vectors, fresh_context, next_context
from commlib.codecs.entropy import PACKED
from commlib.codecs.fit import Settings, fit_codec
from commlib.codecs.frozen import CodebookQuantiser, TableCodec
from commlib.codecs.prior import Prior, best_prior
from commlib.experiments.bench import Laps, Measured, Row, Say, Target, race, table
from commlib.experiments.sources import HeldSource, zipf

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGETS = {"single_speedup": Target(at_least=30), "batch_speedup": Target(at_least=3)}
WIDTH, CODEBOOK_SIZE = 16, 64
BATCH = 4096
LIBRARY = "vector-quantize-pytorch, eager"
_OTHERS = (
    Settings("rvq", 16, n_stages=2),
    Settings("int8"),
    Settings("trellis", CODEBOOK_SIZE),
    Settings("float32"),
)
HOLD = 0.5
"""How likely a link that has a memory says the same code again."""
SEEN = 100_000
"""Messages that a batch's prior is counted from."""
MANY_ROWS = ("walk", "Zipf, idle rows")
"""Usages whose prior has a row for each past code, so that the coder is called for each that comes up."""
_NOISE = 0.1
"""Standard deviation of the vectors of a batch around their codes, whose own is 1."""


class _Size(NamedTuple):
    """How much is measured."""

    n_calls: int
    n_laps: int
    n_links: int
    n_batches: int
    n_slow_laps: int
    """Laps of the codecs that are shown for information."""


_FULL, _QUICK = _Size(200, 41, 4000, 41, 5), _Size(20, 3, 64, 3, 2)


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """Single messages, then batches."""
    size = _QUICK if quick else _FULL
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        draw = np.random.default_rng(seed)
        streams = draw.normal(size=(size.n_links, 8, WIDTH)).astype(np.float32)
        codecs = {"vq": fit_codec(streams, Settings("vq", CODEBOOK_SIZE), seed).codec}
        for settings in _OTHERS:
            codecs[settings.name] = fit_codec(streams[:500], settings, seed).codec
        say("single messages")
        singles = _singles(codecs, size, draw, seed)
        say("cold messages")
        singles += _cold(codecs["vq"], size, draw)
        say(f"batches of {BATCH:,}")
        batches = _batches(codecs, size, draw, seed)
    finally:
        torch.set_num_threads(threads)
    ours = [row for row in singles + batches if row["codec"] == "vq"]

    def least(**which: object) -> float:
        return float(min(row["speedup"] for row in ours if all(row[key] == value for key, value in which.items())))

    summary = {
        "single_speedup": least(n_messages=1, memory="warm"),
        "single_speedup_cold": least(n_messages=1, memory="cold"),
        "single_speedup_first": least(n_messages=1, memory="first message of all"),
        "batch_speedup": min(row["speedup"] for row in ours if row["n_messages"] > 1 and row["usage"] not in MANY_ROWS),
        "batch_speedup_many_rows": min(least(n_messages=BATCH, usage=usage) for usage in MANY_ROWS),
    }
    columns = {
        "codec": "codec",
        "usage": "codes used",
        "link": "link",
        "memory": "memory",
        "prior": "prior",
        "stream": "stream",
        "microseconds": "us",
        "speedup": "times faster",
        "payload_bytes": "bytes",
    }
    return Measured(
        singles + batches,
        summary,
        [
            table("one message, vector to bytes to vector", columns, singles),
            table(f"{BATCH:,} messages in one stream", columns, batches),
        ],
    )


def _library(seed: int) -> torch.nn.Module:
    from vector_quantize_pytorch import VectorQuantize

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        library: torch.nn.Module = VectorQuantize(dim=WIDTH, codebook_size=CODEBOOK_SIZE).eval()
    return library


def _call(library: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> Callable[[int], object]:
    def run(number: int) -> object:
        with torch.no_grad():
            return library(inputs[number])

    return run


def _both_ways(codec: TableCodec, inputs: Sequence[Vectors], contexts: Sequence[Codes]) -> Callable[[int], Vectors]:
    """Vector to bytes and back, as two ends of a link would do it."""

    def run(number: int) -> Vectors:
        context = contexts[number]
        payload = codec.encode(codec.choose(inputs[number], context), context)
        return codec.embed(codec.decode(payload, context), context)

    return run


def _row(codec: str, laps: Laps, library: Laps | None, n: int, **more: object) -> Row:
    return {
        "codec": codec,
        "n_messages": n,
        "usage": None,
        "link": None,
        "memory": None,
        "prior": None,
        "stream": None,
        "microseconds": 1e6 * laps.median,
        "speedup": None if library is None else laps.speedup(library),
        "payload_bytes": None,
        **more,
    }


def _singles(codecs: dict[str, TableCodec], size: _Size, draw: np.random.Generator, seed: int) -> list[Row]:
    n = size.n_calls * size.n_laps
    vectors = list(draw.normal(size=(n, 1, WIDTH)).astype(np.float32))
    runners: dict[str, Callable[[int], object]] = {
        "library": _call(_library(seed), [torch.from_numpy(vector) for vector in vectors])
    }
    rows: dict[str, Row] = {}
    for name, codec in codecs.items():
        for link, contexts in (("fresh", [fresh_context(1, codec.n_positions)] * n), ("past", _pasts(codec, n, draw))):
            inputs = vectors if link == "fresh" else vectors[::-1]  # not the ones that were just said
            runners[f"{name} {link}"] = run = _both_ways(codec, inputs, contexts)
            if name == "vq":
                _say_everything(codec)
            for number in range(min(n, 20)):  # builds what is built once
                run(number)
            few = [codec.encode(codec.choose(inputs[i], contexts[i]), contexts[i]) for i in range(min(n, 200))]
            rows[f"{name} {link}"] = {"link": link, "payload_bytes": float(np.mean([len(data) for data in few]))}
    laps, slow_laps = _two_races(runners, size.n_calls, size.n_laps, size.n_slow_laps)
    found = [_row(LIBRARY, laps["library"], None, 1, memory="warm")]
    for name, row in rows.items():
        kind = name.split()[0]
        both = laps if kind == "vq" else slow_laps
        warm = "warm" if kind == "vq" else "new messages"
        found.append(_row(kind, both[name], both["library"], 1, memory=warm, **row))
    return found


def _two_races(
    runners: dict[str, Callable[[int], object]], n_calls: int, n_laps: int, n_slow_laps: int
) -> tuple[dict[str, Laps], dict[str, Laps]]:
    """The library against vq, many laps; then against all others, few laps."""
    fast = {name: run for name, run in runners.items() if name.split()[0] in ("library", "vq")}
    slow = {name: run for name, run in runners.items() if name.split()[0] != "vq"}
    return race(fast, n_calls, n_laps), race(slow, n_calls, n_slow_laps)


def _pasts(codec: TableCodec, n: int, draw: np.random.Generator) -> list[Codes]:
    """The contexts of a link on which message after message was delivered."""
    contexts = [fresh_context(1, codec.n_positions)]
    vectors = draw.normal(size=(n, WIDTH)).astype(np.float32)
    for codes in codec.choose(vectors, fresh_context(n, codec.n_positions)):
        contexts.append(next_context(contexts[-1], codes[None]))
    return contexts[1:]


def _say_everything(codec: TableCodec) -> None:
    """Every code from every past once: what a codec has done after a while."""
    for past in range(-1, codec.alphabet):
        context = np.array([[past, past + 1]])
        for code in range(codec.alphabet):
            codec.decode(codec.encode(np.array([[code]]), context), context)


def _cold(codec: TableCodec, size: _Size, draw: np.random.Generator) -> list[Row]:
    """What a message costs that is not remembered, and the first one of a codec of which nothing is built yet."""
    n = size.n_calls
    vectors = list(draw.normal(size=(n, 1, WIDTH)).astype(np.float32))
    library = _call(_library(0), [torch.from_numpy(vector) for vector in vectors])
    contexts = _pasts(codec, n, draw)
    seconds: dict[str, list[float]] = {"library": [], "cold": [], "first": []}
    for number in range(n):
        forgetful = TableCodec(codec.name, codec.quantiser, codec.prior)
        prior = Prior(codec.prior.table, codec.prior.kind)
        new = TableCodec(codec.name, CodebookQuantiser(codec.quantiser.arrays()["codebook"]), prior)
        runners = {
            "library": library,
            "cold": _both_ways(forgetful, vectors, contexts),
            "first": _both_ways(new, vectors, contexts),
        }
        for name in [*runners][number % 3 :] + [*runners][: number % 3]:  # each comes after each
            seconds[name].append(_seconds(runners[name], number))
    cold, first, rivals = (Laps(tuple(seconds[name])) for name in ("cold", "first", "library"))
    return [
        _row("vq", cold, rivals, 1, link="past", memory="cold"),
        _row("vq", first, rivals, 1, link="past", memory="first message of all"),
    ]


def _seconds(run: Callable[[int], object], number: int) -> float:
    started = time.thread_time()
    run(number)
    return time.thread_time() - started


def _batches(codecs: dict[str, TableCodec], size: _Size, draw: np.random.Generator, seed: int) -> list[Row]:
    runners: dict[str, Callable[[int], object]] = {}
    rows: dict[str, Row] = {}
    n = size.n_batches
    plain = list(draw.normal(size=(n, BATCH, WIDTH)).astype(np.float32))
    runners["library"] = _call(_library(seed), [torch.from_numpy(vectors) for vectors in plain])
    for usage, (source, kinds) in _usages().items():
        codec, inputs, fresh, past = _used(codecs["vq"], source, kinds, n, draw)
        for link, contexts in (("fresh", fresh), ("past", past)):
            name = f"vq {usage} {link}"
            runners[name] = _both_ways(codec, inputs, contexts)
            payload = codec.encode(codec.choose(inputs[0], contexts[0]), contexts[0])
            rows[name] = {
                "usage": usage,
                "link": link,
                "prior": codec.prior.kind,
                "stream": "packed" if payload[0] & PACKED else "range-coded",
                "payload_bytes": float(len(payload)),
            }
    for name, codec in codecs.items():
        if name != "vq":
            fresh = [fresh_context(BATCH, codec.n_positions)] * n
            runners[name] = _both_ways(codec, plain, fresh)
            bytes_each = len(codec.encode(codec.choose(plain[0], fresh[0]), fresh[0]))
            rows[name] = {"usage": "as fitted", "link": "fresh", "payload_bytes": float(bytes_each)}
    for run in runners.values():
        run(0)
    laps, slow_laps = _two_races(runners, 1, n, size.n_slow_laps)
    found = [_row(LIBRARY, laps["library"], None, BATCH)]
    for name, row in rows.items():
        kind = name.split()[0]
        both = laps if kind == "vq" else slow_laps
        found.append(_row(kind, both[name], both["library"], BATCH, **row))
    return found


class Walk(NamedTuple):
    """Codes on a circle, each up to three places from the last one, all seven alike."""

    def draw(self, n_rounds: int, n_links: int, generator: np.random.Generator) -> Codes:
        """Codes [n_rounds, n_links]."""
        start = generator.integers(0, CODEBOOK_SIZE, (1, n_links))
        steps = generator.integers(-3, 4, (n_rounds - 1, n_links))
        codes: Codes = np.concatenate([start, steps]).cumsum(0) % CODEBOOK_SIZE
        return codes


def _usages() -> dict[str, tuple[HeldSource | Walk, tuple[str, ...]]]:
    """How codes are used: on links without memory and on links that often say the same again.

    The prior is of the kind that `fit_codec` would choose. The last two (`MANY_ROWS`) have what is worst for speed, a row
    for each past code: a walk, where each row tells something else, and links without memory, where none tells anything
    and the kind is forced.
    """
    even, skewed = np.full(CODEBOOK_SIZE, 1 / CODEBOOK_SIZE), zipf(CODEBOOK_SIZE)
    any_kind = Settings("vq").kinds
    return {
        "uniform": (HeldSource(even), any_kind),
        "Zipf": (HeldSource(skewed), any_kind),
        "uniform, held": (HeldSource(even, HOLD), any_kind),
        "Zipf, held": (HeldSource(skewed, HOLD), any_kind),
        "walk": (Walk(), any_kind),
        "Zipf, idle rows": (HeldSource(skewed), ("previous",)),
    }


def _used(
    codec: TableCodec, source: HeldSource | Walk, kinds: Sequence[str], n: int, draw: np.random.Generator
) -> tuple[TableCodec, list[Vectors], list[Codes], list[Codes]]:
    """A codec whose prior was counted from links that speak like this; batches of such vectors, on new links and old.

    Returns:
        the codec, n batches of vectors [BATCH, D], and their contexts if the links are fresh, and if not.
    """
    quantiser = codec.quantiser
    seen = source.draw(8, SEEN // 8, draw)[..., None]
    contexts = [fresh_context(SEEN // 8, 1)]
    for codes in seen[:-1]:
        contexts.append(next_context(contexts[-1], codes))
    prior = best_prior(seen.reshape(-1, 1), np.concatenate(contexts), CODEBOOK_SIZE, kinds)
    inputs, fresh, past = [], [fresh_context(BATCH, 1)] * n, []
    for _ in range(n):
        before, now = source.draw(2, BATCH, draw)[..., None]
        past.append(next_context(fresh[0], before))
        inputs.append((quantiser.embed(now) + _NOISE * draw.normal(size=(BATCH, WIDTH))).astype(np.float32))
    return TableCodec(codec.name, quantiser, prior), inputs, fresh, past


def draw(rows: Sequence[Row]) -> Figure:
    """Bars: how many times faster than the library, one message and a batch."""
    from commlib.experiments.bench_figures import bars

    panels = {}
    for title, n in (("one message", 1), (f"{BATCH:,} messages in one stream", BATCH)):
        panels[title] = [
            (" ".join(str(row[key]) for key in ("codec", "usage", "link", "memory") if row[key]), row["speedup"])
            for row in rows
            if row["n_messages"] == n and row["speedup"] is not None
        ]
    return bars(panels, "times as fast as one eager call of vector-quantize-pytorch (which makes no bytes)")
