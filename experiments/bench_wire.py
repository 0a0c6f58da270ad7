"""What a message weighs on the wire: real frames between a mouth and an ear, against what the prior says is needed.

Three numbers for each frame: the estimate, -log2 q of its messages; the payload, the bits of its stream; the wire, 8 x the
bytes that travel. What lies between the first two is lost by the coder (a flag, and bytes that are whole), what lies
between the last two is the label. Beside them, what the same messages weigh as others would send them.

A second table lets frames get lost in bursts (`commlib.channel`) and counts the messages that are heard right.

Shapes: n messages of a frame, K alphabet.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack
import numpy as np
import torch
from numpy.typing import NDArray

from commlib.channel import LOSSES, MarkovChannel
from commlib.codec import Codes, fresh_context, next_context
from commlib.codecs.frozen import CodebookQuantiser, TableCodec
from commlib.codecs.prior import Prior, fit_prior, to_integers
from commlib.codecs.rows import n_rows
from commlib.ends import Ear, Mouth
from commlib.errors import RunError
from commlib.experiments.bench import Measured, Row, Say, Target, table
from commlib.frame import run_id
from commlib.message import Edge
from commlib.plan import Plan, make_plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGETS = {
    "rate_gap": Target(at_most=0.02),
    "frame_overhead_bytes": Target(at_most=4),
    "overhead_bits_per_message_1024": Target(at_most=2),
}
ALPHABET, WIDTH = 64, 16
SIZES = (1, 4, 16, 64, 256, 1024, 4096)
LONG = 256
"""From so many messages on the rate gap counts; below it, whole bytes do."""
HOLD = 0.9
REFRESH = 5
REMEDIES = (("previous", REFRESH), ("held", 0), ("held", REFRESH), ("none", 0))
"""What a prior knows, and every how many rounds links start afresh."""


def usages() -> dict[str, NDArray[np.float64]]:
    """How often each of the K codes is said, by name."""
    zipf = 1.0 / np.arange(1, ALPHABET + 1)
    skewed = np.full(ALPHABET, 0.1 / (ALPHABET - 1))
    skewed[0] = 0.9
    return {"uniform": np.full(ALPHABET, 1 / ALPHABET), "Zipf": zipf / zipf.sum(), "skewed": skewed}


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """Frames of all sizes under all priors, then frames that get lost."""
    sizes = (1, 16, 256, 1024) if quick else SIZES
    n_messages = 4096 if quick else 1 << 18
    rows: list[Row] = []
    for usage, shares in usages().items():
        say(f"{usage} prior")
        for n in sizes:
            draw = np.random.default_rng([seed, n, len(rows)])
            n_frames = max(4 if quick else 64, min(n_messages // n, 20_000))
            rows.append(_frames(usage, shares, n, n_frames, draw))
    say("frames that get lost")
    lossy = [
        _loss(kind, refresh, loss, 100 if quick else 20_000, seed)
        for kind, refresh in REMEDIES
        for loss in (0.0, *LOSSES)
    ]
    long = [row for row in rows if row["n_messages"] >= LONG]
    summary = {
        "rate_gap": max(row["rate_gap"] for row in long),
        "frame_overhead_bytes": max(row["frame_overhead_bytes"] for row in rows if row["n_messages"] == 1),
        "greeting_bytes": max(row["greeting_overhead_bytes"] for row in rows),
        "overhead_bits_per_message_1024": max(
            row["overhead_bits_per_message"] for row in rows if row["n_messages"] == 1024
        ),
        "heard_right_at_15.6_percent": {
            f"{row['context']}, refresh {row['refresh_every']}": row["heard_right"]
            for row in lossy
            if row["loss"] == LOSSES[-1]
        },
    }
    return Measured(rows + lossy, summary, _tables(rows, lossy))


def _tables(rows: list[Row], lossy: list[Row]) -> list[Any]:
    wire = {
        "usage": "codes used",
        "n_messages": "messages",
        "estimate_bits": "estimate",
        "payload_bits": "payload",
        "wire_bits": "wire",
        "rate_gap": "payload/estimate - 1",
        "frame_overhead_bytes": "label B",
        "greeting_overhead_bytes": "greeting B",
        "frames_sent": "frames sent",
    }
    rivals = {
        "usage": "codes used",
        "n_messages": "messages",
        "ours": "ours",
        "array_of_indices": "bare uint8 array",
        "msgpack_arrays": "msgpack-numpy style",
        "msgpack_dicts": "msgpack dicts",
        "float32_array": "bare float32 array",
        "pickled_tensor": "pickled tensor",
    }
    flat = [{**row, **row["bytes_per_message"]} for row in rows]
    loss = {
        "context": "prior knows",
        "refresh_every": "refresh",
        "loss": "loss",
        "n_lost": "frames lost",
        "n_frames": "of",
        "heard_right": "heard right",
        "wire_bits": "wire bits per message",
    }
    return [
        table("bits per message in a frame", wire, rows),
        table("bytes per message, as others would send them", rivals, flat),
        table("messages heard right when frames get lost in bursts", loss, lossy),
    ]


# --- one link ---------------------------------------------------------------------------------------------------------


@dataclass
class Link:
    """A mouth and an ear on one trunk of n messages: one route in n worlds."""

    codec: TableCodec
    n_messages: int
    refresh_every: int = 0
    is_lossy: bool = False

    def __post_init__(self) -> None:
        plan: Plan = make_plan((Edge(0, 1),), (0, 1), "broadcast")
        plan = plan._replace(refresh_every=self.refresh_every, is_lossy=self.is_lossy)
        run = run_id(self.codec.digest, repr(plan))
        self.mouth, self.ear = Mouth(0, plan, self.codec, run), Ear(0, plan, self.codec, run)
        self.mouth.reset(self.n_messages)
        self.ear.reset(self.n_messages)
        self._alive = np.ones(self.n_messages, bool)

    def round(self, number: int, codes: Codes, channel: MarkovChannel) -> Round:
        """Codes [n, 1] are said; what travels, and what is heard."""
        mouth, ear, alive = self.mouth, self.ear, self._alive
        context = mouth.context(alive)
        spoken = np.ones(len(codes), bool)
        if self.codec.silence_is_coded:
            spoken = (codes != self.codec.expected(context)).any(-1)
        letter = mouth.frame(number, codes, context, spoken)
        estimate = float(self.codec.estimate_bits(codes, context).sum())
        mouth.said(codes, alive, was_sent=letter is not None)
        arrives = letter is not None and channel.passes()
        reading = ear.read(number, letter.data if letter is not None and arrives else None, alive)
        ear.heard(reading, alive, has_frame=arrives)
        return Round(
            estimate,
            0 if letter is None else letter.stream_bits,
            0 if letter is None else letter.bits,
            letter is not None and not arrives,
            float((reading.codes == codes).all(-1).mean()),
        )


class Round(NamedTuple):
    """One round of a link: bits of its messages, whether a frame was lost, and the share of messages heard right."""

    estimate_bits: float
    payload_bits: int
    wire_bits: int
    is_lost: bool
    heard_right: float


def _codec(shares: NDArray[np.float64], kind: str = "previous") -> TableCodec:
    """A codec whose prior is right about codes that come independently."""
    table = np.broadcast_to(shares, (1, n_rows(kind, ALPHABET), ALPHABET))
    return TableCodec("vq", CodebookQuantiser(_codebook()), Prior(to_integers(table), kind))


def _codebook() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(ALPHABET, WIDTH)).astype(np.float32)


def _frames(usage: str, shares: NDArray[np.float64], n: int, n_frames: int, draw: np.random.Generator) -> Row:
    """A greeting, then notes."""
    codec = _codec(shares)
    link, channel = Link(codec, n), MarkovChannel(0.0, draw)
    first = link.round(0, np.full((n, 1), ALPHABET - 1), channel)
    said = draw.choice(ALPHABET, size=(n_frames, n, 1), p=shares)
    rounds = [link.round(number, codes, channel) for number, codes in enumerate(said, 1)]
    if min(one.heard_right for one in rounds) < 1:
        raise RunError("a message was not heard as it was said; this is a bug, please report it")
    total = n_frames * n
    estimate = sum(one.estimate_bits for one in rounds)
    payload, wire = sum(one.payload_bits for one in rounds), sum(one.wire_bits for one in rounds)
    n_sent = sum(one.wire_bits > 0 for one in rounds)
    return {
        "table": "frames",
        "usage": usage,
        "n_messages": n,
        "n_frames": n_frames,
        "frames_sent": n_sent / n_frames,
        "estimate_bits": estimate / total,
        "payload_bits": payload / total,
        "wire_bits": wire / total,
        "rate_gap": payload / estimate - 1,
        "overhead_bits_per_message": (wire - estimate) / total,
        "frame_overhead_bytes": (wire - payload) / n_sent / 8,
        "greeting_overhead_bytes": (first.wire_bits - first.payload_bits) / 8,
        "bytes_per_message": {"ours": wire / total / 8, **_rivals(said[0], codec)},
    }


def _rivals(codes: Codes, codec: TableCodec) -> dict[str, float]:
    """Bytes per message of the same round, as others would send it: not entropy-coded, and without a checksum."""
    n, step = len(codes), 1000
    index, vectors = codes[:, 0].astype(np.uint8), codec.embed(codes)
    edges = np.stack([np.arange(n), np.arange(n) + 1], 1).astype(np.uint16)
    sizes = {
        "array_of_indices": len(index.tobytes()),
        "msgpack_arrays": len(msgpack.packb({"edges": _array(edges), "step": step, "index": _array(index)})),
        "msgpack_dicts": sum(
            len(msgpack.packb({"edge": edge, "step": step, "index": int(code)}))
            for edge, code in zip(edges.tolist(), index, strict=True)
        ),
        "float32_array": len(vectors.tobytes()),
        "pickled_tensor": len(pickle.dumps(torch.from_numpy(vectors.copy()))),
    }
    return {name: size / n for name, size in sizes.items()}


def _array(array: NDArray[Any]) -> dict[bytes, object]:
    """An array as the package msgpack-numpy packs it (its `encode`), written out because it is no dependency of ours."""
    return {b"nd": True, b"type": array.dtype.str, b"kind": b"", b"shape": array.shape, b"data": array.tobytes()}


# --- loss -------------------------------------------------------------------------------------------------------------


def held_codes(n_rounds: int, n: int, shares: NDArray[np.float64], draw: np.random.Generator) -> Codes:
    """Codes [n_rounds, n, 1] of links on which the last code is said again with probability `HOLD`, else a new one."""
    new = draw.random((n_rounds, n, 1)) >= HOLD
    new[0] = True
    drawn = draw.choice(ALPHABET, size=(n_rounds, n, 1), p=shares)
    since = np.maximum.accumulate(np.where(new, np.arange(n_rounds)[:, None, None], 0), axis=0)
    codes: Codes = np.take_along_axis(drawn, since, axis=0)
    return codes


def _loss(kind: str, refresh: int, loss: float, n_rounds: int, seed: int) -> Row:
    """One link of one message a round, which holds its code most of the time, over a channel that loses frames.

    The sequence of codes is the same for every remedy.
    """
    shares = usages()["Zipf"]
    seen = held_codes(2000, 64, shares, np.random.default_rng([seed, 1]))
    before = np.concatenate([fresh_context(64, 1)[None], next_context(np.zeros((1999, 64, 2), np.int64), seen[:-1])])
    codec = TableCodec(
        "vq",
        CodebookQuantiser(_codebook()),
        fit_prior(seen.reshape(-1, 1), before.reshape(-1, 2), ALPHABET, kind),
    )
    link = Link(codec, 1, refresh, is_lossy=True)
    channel = MarkovChannel(loss, np.random.default_rng([seed, 2]))
    said = held_codes(n_rounds, 1, shares, np.random.default_rng([seed, 3]))
    rounds = [link.round(number, codes, channel) for number, codes in enumerate(said)]
    return {
        "table": "loss",
        "context": kind,
        "refresh_every": refresh,
        "loss": loss,
        "n_frames": sum(one.wire_bits > 0 for one in rounds),
        "n_lost": sum(one.is_lost for one in rounds),
        "heard_right": float(np.mean([one.heard_right for one in rounds])),
        "wire_bits": float(np.mean([one.wire_bits for one in rounds])),
    }


def draw(rows: Sequence[Row]) -> Figure:
    """Bits per message over messages per frame: estimate and wire of each prior; and bytes of the others."""
    from commlib.experiments.bench_figures import Line, lines

    frames = [row for row in rows if row["table"] == "frames"]
    panels = {}
    for usage in usages():
        mine = [row for row in frames if row["usage"] == usage]
        n = [row["n_messages"] for row in mine]
        panels[f"{usage} codes"] = [
            Line("estimate", list(zip(n, [row["estimate_bits"] for row in mine], strict=True)), is_bound=True),
            *(
                Line(label, list(zip(n, [8 * row["bytes_per_message"][key] for row in mine], strict=True)))
                for key, label in (
                    ("ours", "our frames"),
                    ("array_of_indices", "bare uint8 array"),
                    ("msgpack_arrays", "msgpack-numpy style"),
                    ("msgpack_dicts", "msgpack dicts"),
                    ("pickled_tensor", "pickled tensor"),
                )
            ),
        ]
    return lines(panels, "messages per frame", "bits per message", log_x=True, log_y=True)
