"""A frozen codec in anybody's agent: a vector in, bytes out, and back.

A pocket phrase book: no runtime, no ledger, no torch. Either each message stands on its own (`encode`, `decode`), or both
ends keep a `Link` that remembers what was said, so that what is expected costs nothing.

Shapes: D message width, n messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from commlib.codec import Codes, Vectors, fresh_context, next_context
from commlib.codecs.frozen import TableCodec
from commlib.codecs.store import load_codec as load_frozen
from commlib.codecs.store import read_header
from commlib.errors import CodecError

ZOO = Path(__file__).resolve().parent / "zoo"
"""Small codecs that ship with the package, trained or fitted by the command that stands in their label."""

Floats = Vectors | Sequence[float]


class MessageCodec:
    """Messages to bytes and back, each on its own.

    The bytes are the bare payload: no label, no checksum. Bytes of another codec, or with a bit turned over, are often a
    message of this one, only not the one that was sent; where that matters, put them in a `commlib.frame.Frame`, which says
    whose they are and whether they are whole.

    >>> codec = load_codec("zoo:gaussian-8")
    >>> data = codec.encode([0.3, -1.2, 0.0, 0.8, 2.1, -0.5, 0.4, -0.1])
    >>> codec.decode(data).shape, len(data) < 4 * 8
    ((8,), True)

    Attributes:
        frozen: the codec itself, with its prior, digest and tables.
        rate_weight: the squared distortion that a bit is worth unless a call says otherwise; 0: nearest code.
    """

    def __init__(self, frozen: TableCodec, rate_weight: float = 0.0) -> None:
        if not isinstance(frozen, TableCodec):
            hint = "; take its .codec" if hasattr(frozen, "codec") else ""
            raise CodecError(f"a MessageCodec wants a frozen codec, not a {type(frozen).__name__}{hint}")
        self.frozen, self.rate_weight = frozen, rate_weight
        self._fresh = fresh_context(1, frozen.n_positions)
        self._fresh.setflags(write=False)

    @property
    def width(self) -> int:
        """D, floats per message."""
        return self.frozen.width

    def encode(self, vector: Floats, rate_weight: float | None = None) -> bytes:
        """One message, float [D], as bytes; a dear bit (`rate_weight`) makes it shorter and coarser.

        Raises:
            CodecError: another width, or NaN or infinity.
        """
        return self.frozen.encode(self._choose(vector, self._fresh, rate_weight), self._fresh)

    def decode(self, data: bytes) -> Vectors:
        """The message, float32 [D]; damage is noticed only where no message of this codec has these bytes.

        Raises:
            CodecError: the bytes are no message of this codec.
        """
        heard: Vectors = self.frozen.embed(self.frozen.decode(_bytes(data), self._fresh), self._fresh)[0]
        return heard

    def encode_many(self, vectors: Vectors, rate_weight: float | None = None) -> bytes:
        """N messages, float [n, D], as one stream, shorter than n single ones."""
        rows = _floats(vectors)
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise CodecError(f"messages must be [n, {self.width}], not {list(rows.shape)}")
        fresh = fresh_context(len(rows), self.frozen.n_positions)
        return self.frozen.encode(self.frozen.choose(rows, fresh, self._weight(rate_weight)), fresh)

    def decode_many(self, data: bytes, n_messages: int) -> Vectors:
        """The n messages of a stream, float32 [n, D]."""
        if n_messages < 0:
            raise CodecError(f"a stream holds 0 messages or more, not {n_messages}")
        fresh = fresh_context(n_messages, self.frozen.n_positions)
        return self.frozen.embed(self.frozen.decode(_bytes(data), fresh), fresh)

    def link(self) -> Link:
        """One end of a link; make one at each end."""
        return Link(self)

    def _choose(self, vector: Floats, context: Codes, rate_weight: float | None) -> Codes:
        row = _floats(vector)
        if row.shape != (self.width,):
            raise CodecError(f"a message of this codec is [{self.width}], not {list(row.shape)}")
        return self.frozen.choose(row[None], context, self._weight(rate_weight))

    def _weight(self, rate_weight: float | None) -> float:
        weight = self.rate_weight if rate_weight is None else rate_weight
        if not 0 <= weight < float("inf"):
            raise CodecError(f"a rate weight is 0 or more, not {weight}")
        return weight

    def __repr__(self) -> str:
        """What it is, in a line."""
        f = self.frozen
        return f"MessageCodec({f.name}, width={f.width}, codes={f.alphabet}, prior={f.prior.kind}, {f.digest[:8]})"


class Link:
    """What one end of a link remembers; every message that one end encodes, the other must decode, in order.

    >>> codec = load_codec("zoo:gaussian-8")
    >>> here, there = codec.link(), codec.link()
    >>> there.decode(here.encode(np.ones(8))).shape
    (8,)
    """

    def __init__(self, codec: MessageCodec) -> None:
        self._codec = codec
        self.reset()

    def reset(self) -> None:
        """Forget: both ends do so at once, for example when a message was lost."""
        self._context = fresh_context(1, self._codec.frozen.n_positions)

    def encode(self, vector: Floats, rate_weight: float | None = None) -> bytes:
        """One message, float [D]; no bytes at all if it is what the other end expects: then send nothing."""
        frozen = self._codec.frozen
        codes = self._codec._choose(vector, self._context, rate_weight)
        is_expected = np.array_equal(codes, frozen.expected(self._context))
        data = b"" if is_expected else frozen.encode(codes, self._context) or b"\0"
        self._context = next_context(self._context, codes)
        return data

    def decode(self, data: bytes) -> Vectors:
        """The message, float32 [D]; no bytes mean that all is as expected. Damage is noticed as by `MessageCodec.decode`.

        Raises:
            CodecError: the bytes are no message of this codec.
        """
        frozen, context = self._codec.frozen, self._context
        whole = _bytes(data)
        codes = frozen.decode(whole, context) if whole else frozen.expected(context)
        self._context = next_context(context, codes)
        heard: Vectors = frozen.embed(codes, context)[0]
        return heard


def _bytes(data: bytes) -> bytes:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise CodecError(f"a message to decode is bytes, not a {type(data).__name__}")
    return bytes(data)


def _floats(given: Floats) -> Vectors:
    try:
        with np.errstate(over="ignore"):  # what is too large becomes infinity, and is refused as that
            return np.asarray(given, np.float32)
    except (TypeError, ValueError) as error:
        raise CodecError(f"a message is a vector of numbers ({error})") from error


def zoo() -> list[str]:
    """The codecs that ship with the package."""
    return sorted(path.parent.name for path in ZOO.glob("*/codec.json"))


def load_codec(path: str | Path) -> MessageCodec:
    """A codec from a run folder, a codec folder, or, as ``zoo:NAME``, from those that ship with the package.

    Loads neither torch nor ray. Its rate weight is the one that calibration chose, 0 where there was none.

    Raises:
        CodecError: there is none, or it is damaged.
    """
    name = str(path)
    if name.startswith("zoo:"):
        folder = ZOO / name.removeprefix("zoo:")
        if name.removeprefix("zoo:") not in zoo():
            raise CodecError(f"the zoo has no codec {name.removeprefix('zoo:')!r}; there are {', '.join(zoo())}")
    else:
        folder = Path(path)
        folder = folder / "codec" if (folder / "codec" / "codec.json").exists() else folder
    frozen = load_frozen(folder)
    calibration = read_header(folder)["calibration"]
    try:
        rate_weight = float(calibration["rungs"][calibration["chosen"]]["rate_weight"]) if calibration else 0.0
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise CodecError(f"the calibration in {folder} is damaged ({type(error).__name__}); copy it again") from error
    return MessageCodec(frozen, rate_weight)
