"""The frozen codec: a quantiser and a prior in numpy, immutable, named by a digest; what both ends of a link carry.

A quantiser says which vectors the words of the language stand for, the prior says which word comes next. Any quantiser
fits that can name the nearest code and search for a cheaper one; it gets rate-aware encoding, silence and entropy
coding from here.

Shapes: n messages, D message width, P positions, K alphabet, U dither vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from commlib.codec import START, Codes, Vectors
from commlib.codecs import entropy
from commlib.codecs.prior import Prior
from commlib.errors import CodecError

REMEMBERED, SHORT = 1 << 14, 64
"""How many single messages a codec remembers the bytes of, so that saying one again is a look-up; longer ones than so many
bytes of codes and context hardly ever come again, and are not remembered."""

MANY, NEARLY = 256, 0.97
"""From so many messages on it pays to ask first whether coding pays, if some of them come so near to what packing takes."""

SEARCHED, BLOCK = 1024, 900_000
"""How many messages are searched at once, and how many products of two floats are looked through at once: OpenBLAS has a
quicker way for small matrices, of up to a million."""

Arrays = dict[str, NDArray[Any]]

Rate = Callable[[int, NDArray[np.intp], Codes], NDArray[np.float32]]
"""``rate(position, which, codes)``: bits of every code at a position, [m, K], for messages `which` [m] whose earlier codes
are `codes` [m, P]."""


class Quantiser(Protocol):
    """Vectors to codes and back; of bits it knows only what `search` is told."""

    @property
    def width(self) -> int:
        """D, floats per message."""
        ...

    @property
    def n_positions(self) -> int:
        """P, symbols per message."""
        ...

    @property
    def alphabet(self) -> int:
        """K, symbols to choose from at each position."""
        ...

    @property
    def is_searchable(self) -> bool:
        """Whether another code than the nearest makes sense; if not, `search` is never called."""
        ...

    def arrays(self) -> Arrays:
        """All that determines the quantiser, by name."""
        ...

    def nearest(self, vectors: Vectors) -> Codes:
        """The codes [n, P] of least distortion."""
        ...

    def search(self, vectors: Vectors, rate: Rate, rate_weight: float) -> Codes:
        """Codes [n, P] of little squared distortion + rate_weight x bits."""
        ...

    def embed(self, codes: Codes) -> Vectors:
        """The vectors [n, D] of codes [n, P]."""
        ...


@dataclass(frozen=True, eq=False)
class TableCodec:
    """A `FrozenCodec` made of a quantiser and a prior.

    >>> codec = TableCodec("pair", CodebookQuantiser(np.eye(2, dtype=np.float32)), uniform_prior(1, 2))
    >>> fresh = fresh_context(1, 1)
    >>> payload = codec.encode(codec.choose(np.array([[0.1, 0.9]], np.float32), fresh), fresh)
    >>> codec.embed(codec.decode(payload, fresh)).tolist()
    [[0.0, 1.0]]

    Attributes:
        name: for tables and messages.
        quantiser: which vectors the codes stand for.
        prior: how likely they are.
        dither: float32 [U, D] or None: added before, subtracted after quantising; which of the U is the age of the
            link, so both ends know it (subtractive dither: Schuchman 1964; Gray & Stockham 1993).
    """

    name: str
    quantiser: Quantiser
    prior: Prior
    dither: NDArray[np.float32] | None = None
    _said: dict[bytes, bytes] = field(default_factory=dict, init=False, repr=False)
    _heard: dict[bytes, Codes] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        q, prior = self.quantiser, self.prior
        if (prior.n_positions, prior.alphabet) != (q.n_positions, q.alphabet):
            raise CodecError(
                f"codec {self.name}: the prior has {prior.n_positions} positions of {prior.alphabet} symbols, the quantiser "
                f"{q.n_positions} of {q.alphabet}; fit the prior again"
            )
        if self.dither is not None and (self.dither.ndim != 2 or self.dither.shape[1] != q.width):
            raise CodecError(f"codec {self.name}: dither must be [U, {q.width}], not {list(self.dither.shape)}")
        for array in self.arrays().values():
            array.setflags(write=False)

    def __reduce__(self) -> tuple[type[TableCodec], tuple[object, ...]]:
        """What is remembered stays here."""
        return TableCodec, (self.name, self.quantiser, self.prior, self.dither)

    def arrays(self) -> Arrays:
        """The quantiser's arrays, the prior's table and the dither, by name."""
        dither = {} if self.dither is None else {"dither": self.dither}
        return {**self.quantiser.arrays(), "prior": self.prior.table, **dither}

    @property
    def width(self) -> int:
        """D, floats per message."""
        return self.quantiser.width

    @property
    def n_positions(self) -> int:
        """P, symbols per message."""
        return self.quantiser.n_positions

    @property
    def alphabet(self) -> int:
        """K, symbols to choose from at each position."""
        return self.quantiser.alphabet

    @property
    def silence_is_coded(self) -> bool:
        """Silence is a codeword where the prior knows the link's past."""
        return self.prior.knows_past

    @property
    def survives_loss(self) -> bool:
        """Where no row of the prior depends on what was last delivered."""
        return self.prior.survives_loss

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the kind of stream, of quantiser and of prior, and all arrays."""
        kinds = f"{entropy.STREAM}|{type(self.quantiser).__name__}|{self.prior.kind}|{self.prior.n_ages}"
        sha = hashlib.sha256(kinds.encode())
        for name, array in sorted(self.arrays().items()):
            little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
            sha.update(f"{name}{little.dtype.str}{little.shape}".encode() + little.tobytes())
        return sha.hexdigest()

    @cached_property
    def _start(self) -> Codes:
        """What silence means on a fresh link of a codec without context: the zero vector."""
        return self.quantiser.nearest(np.zeros((1, self.width), np.float32))

    def choose(self, vectors: Vectors, context: Codes, rate_weight: float = 0.0) -> Codes:
        """The codes [n, P] of least distortion + rate_weight x bits (Chou, Lookabaugh & Gray 1989).

        `rate_weight` is in units of squared distortion per bit; calibration translates a bit price (reward per bit)
        into it. A quantiser that is not searchable always gives the nearest code.
        """
        if not (isfinite(np.vdot(vectors, vectors)) or np.isfinite(vectors).all()):  # the former is the quicker one
            raise CodecError("a message holds NaN or infinity; check the agent that made it")
        if self.dither is not None:
            vectors = vectors + self._shift(context)
        if rate_weight > 0 and self.quantiser.is_searchable:
            return self._search(vectors, context, rate_weight)
        return self.quantiser.nearest(vectors)

    def _search(self, vectors: Vectors, context: Codes, rate_weight: float) -> Codes:
        """Search for a few messages at a time, so that memory stays bounded."""
        found = np.empty((len(vectors), self.n_positions), np.int64)
        for start in range(0, len(vectors), SEARCHED):
            part = slice(start, start + SEARCHED)

            def rate(position: int, which: NDArray[np.intp], codes: Codes, part: slice = part) -> NDArray[np.float32]:
                return self.prior.code_bits(position, context[part][which], codes)

            found[part] = self.quantiser.search(vectors[part], rate, rate_weight)
        return found

    def _shift(self, context: Codes) -> Vectors:
        assert self.dither is not None
        shift: Vectors = self.dither[context[:, -1] % len(self.dither)]
        return shift

    def expected(self, context: Codes) -> Codes:
        """What silence means: the likeliest code, or, where the prior knows no past, the last one again."""
        if self.silence_is_coded:
            return self.prior.expected(context)
        past = context[:, :-1]
        return np.where(past == START, self._start, past)

    def embed(self, codes: Codes, context: Codes | None = None) -> Vectors:
        """The vectors [n, D] that these codes stand for; dithered codes need their contexts.

        Raises:
            CodecError: the codec is dithered and no context is given.
        """
        vectors = self.quantiser.embed(codes)
        if self.dither is None:
            return vectors
        if context is None:
            raise CodecError(f"codec {self.name} is dithered: embed needs the context of each code")
        return vectors - self._shift(context)

    def estimate_bits(self, codes: Codes, context: Codes) -> NDArray[np.float64]:
        """-log2 q(code | context) of each message, [n], in bits."""
        return self.prior.estimate_bits(codes, context)

    def encode(self, codes: Codes, context: Codes) -> bytes:
        """All messages as one stream, range-coded or bit-packed, whichever is shorter."""
        if len(codes) != 1:
            return self._encode(codes, context)
        key = codes.tobytes() + self._known(context)
        payload = self._said.get(key)
        if payload is None:
            payload = self._encode(codes, context)
            if len(key) <= SHORT:
                if len(self._said) >= REMEMBERED:
                    self._said.clear()
                self._said[key] = payload
        return payload

    @cached_property
    def _n_known(self) -> int:
        """How many of a context's first bytes the coder goes by; not the age of a link, if all ages are alike."""
        return 8 * self.n_positions if self.prior.knows_past else 0

    def _known(self, context: Codes) -> bytes:
        """What the coder goes by in the context [1, P + 1] of a single message."""
        past = context.tobytes()[: self._n_known]
        last = self.prior.n_ages - 1
        return past if last == 0 else past + min(int(context[0, -1]), last).to_bytes(8, "little")

    def _encode(self, codes: Codes, context: Codes) -> bytes:
        prior = self.prior
        if codes.size == 0:
            return b""
        if not 0 <= codes.min() <= codes.max() < prior.alphabet:
            raise CodecError(f"codec {self.name}: codes must lie in 0..{prior.alphabet - 1}")
        rows, symbols = prior.rows(codes, context), prior.symbols(codes, context)
        if not self._packs_shorter(rows, symbols):
            coded = entropy.encode(symbols, rows, prior.models)
            if len(coded) <= entropy.packed_bytes(codes.size, prior.alphabet):
                return coded
        return entropy.pack(codes, prior.alphabet)

    def _packs_shorter(self, rows: Codes, symbols: Codes) -> bool:
        """Whether coding could not save a byte of a long stream, by its bits; a few messages tell when it surely can."""
        if len(rows) < MANY:
            return False
        bits, limit = self.prior.bits_of, 8 * entropy.packed_bytes(rows.size, self.alphabet) - 8
        few = slice(None, None, MANY // 16)
        likely = bits(rows[few], symbols[few]).mean() * len(rows) > NEARLY * limit
        return bool(likely and bits(rows, symbols).sum() > limit)

    def decode(self, payload: bytes, context: Codes) -> Codes:
        """The codes [n, P] of a stream; raises `CodecError` for bytes that are none."""
        if len(context) != 1:
            return self._decode(payload, context)
        key = payload + self._known(context)
        codes = self._heard.get(key)
        if codes is None:
            codes = self._decode(payload, context)
            codes.setflags(write=False)
            if len(key) <= SHORT:
                if len(self._heard) >= REMEMBERED:
                    self._heard.clear()
                self._heard[key] = codes
        return codes

    def _decode(self, payload: bytes, context: Codes) -> Codes:
        prior, n = self.prior, len(context)
        if n == 0:
            if payload:
                raise CodecError(f"{len(payload)} payload bytes for no message; the frame is damaged")
            return np.zeros((0, self.n_positions), np.int64)
        if payload and payload[0] & entropy.PACKED:
            return entropy.unpack(payload, (n, self.n_positions), prior.alphabet)

        def row_of(position: int, said: Codes) -> Codes:
            return prior.row(position, context, said)

        said = entropy.decode(payload, n, self.n_positions, row_of, prior.models)
        codes = prior.codes_of(said, context)
        if codes.min() < 0:
            raise CodecError('a message says "the same again" on a fresh link; the frame is damaged')
        return codes

    def payload_bits(self, codes: Codes, context: Codes) -> int:
        """The size of the stream in bits."""
        return 8 * len(self.encode(codes, context))


def search_positions(distortions: NDArray[np.float32], rate: Rate, rate_weight: float) -> Codes:
    """Position by position the code of least distortion + rate_weight x bits, from distortions [n, P, K] that add up."""
    n, n_positions, _ = distortions.shape
    everyone, codes = np.arange(n), np.zeros((n, n_positions), np.int64)
    for position in range(n_positions):
        cost = distortions[:, position] + np.float32(rate_weight) * rate(position, everyone, codes)
        codes[:, position] = cost.argmin(-1)
    return codes


@dataclass(frozen=True, eq=False)
class CodebookQuantiser:
    """Nearest row of a codebook, float32 [K, D]; squared Euclidean distortion."""

    codebook: NDArray[np.float32]

    @property
    def width(self) -> int:
        """D."""
        return int(self.codebook.shape[1])

    @property
    def n_positions(self) -> int:
        """One symbol per message."""
        return 1

    @property
    def alphabet(self) -> int:
        """K, the codebook size."""
        return int(self.codebook.shape[0])

    @property
    def is_searchable(self) -> bool:
        """Yes."""
        return True

    def arrays(self) -> Arrays:
        """The codebook."""
        return {"codebook": self.codebook}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> CodebookQuantiser:
        """Back from `arrays`."""
        return cls(arrays["codebook"])

    @cached_property
    def _lines(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The squared distance less the vector's own square is linear in the vector: its slope and intercept."""
        return np.ascontiguousarray(-2 * self.codebook.T), (self.codebook**2).sum(-1)

    def nearest(self, vectors: Vectors) -> Codes:
        """Index of the nearest row, [n, 1]."""
        if len(vectors) >= 64 and self._block:
            return self._nearest_of_many(vectors)
        slope, intercept = self._lines
        distance: NDArray[np.float32] = vectors.dot(slope)  # what `@` computes, in half the time for a single message
        distance += intercept
        codes: Codes = distance.argmin(-1)[:, None]
        return codes

    @cached_property
    def _block(self) -> int:
        """How many messages at once keep the product of `_nearest_of_many` small; 0: it would not pay."""
        block = BLOCK // (self.alphabet * (self.width + 1)) // 64 * 64
        return min(block, 512) if block >= 128 else 0

    @cached_property
    def _planes(self) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Slope and intercept in one matrix [K, D + 1], and the codes counted from the last one, [K, 1]."""
        slope, intercept = self._lines
        from_last = np.arange(self.alphabet - 1, -1, -1, dtype=np.min_scalar_type(self.alphabet - 1))
        return np.concatenate([slope.T, intercept[:, None]], 1), from_last[:, None]

    def _nearest_of_many(self, vectors: Vectors) -> Codes:
        """`nearest` with the messages along the last axis, where numpy finds the least of each fastest."""
        planes, from_last = self._planes
        n, block = len(vectors), min(self._block, len(vectors))
        column, distance = np.ones((self.width + 1, block), np.float32), np.empty((self.alphabet, block), np.float32)
        found = np.empty(n, from_last.dtype)
        for start in range(0, n, block):
            part = vectors[start : start + block]
            if len(part) < block:
                column, distance = column[:, : len(part)].copy(), distance[:, : len(part)].copy()
            column[:-1] = part.T
            np.dot(planes, column, out=distance)
            is_least = distance == distance.min(0)
            (is_least * from_last).max(0, out=found[start : start + len(part)])
        codes: Codes = self.alphabet - 1 - found.astype(np.int64)[:, None]
        return codes

    def distortions(self, vectors: Vectors) -> NDArray[np.float32]:
        """Squared distances less the vector's own square, which is the same for all codes, [n, 1, K]."""
        slope, intercept = self._lines
        distances: NDArray[np.float32] = intercept + vectors @ slope
        return distances[:, None, :]

    def search(self, vectors: Vectors, rate: Rate, rate_weight: float) -> Codes:
        """The best trade of distance and bits, exactly."""
        return search_positions(self.distortions(vectors), rate, rate_weight)

    def embed(self, codes: Codes) -> Vectors:
        """Rows of the codebook, [n, D]."""
        return self.codebook.take(codes[:, 0], 0)


@dataclass(frozen=True, eq=False)
class GridQuantiser:
    """Each float on its own even grid of K levels: low + step x symbol; squared distortion."""

    low: NDArray[np.float32]
    step: NDArray[np.float32]
    levels: int = 256

    @property
    def width(self) -> int:
        """D."""
        return len(self.low)

    @property
    def n_positions(self) -> int:
        """One symbol per float."""
        return len(self.low)

    @property
    def alphabet(self) -> int:
        """K, levels per float."""
        return self.levels

    @property
    def is_searchable(self) -> bool:
        """Yes."""
        return True

    def arrays(self) -> Arrays:
        """Origin and step of each grid."""
        return {"low": self.low, "step": self.step, "levels": np.array([self.levels], np.int64)}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> GridQuantiser:
        """Back from `arrays`."""
        return cls(arrays["low"], arrays["step"], int(arrays["levels"][0]))

    def nearest(self, vectors: Vectors) -> Codes:
        """Nearest level of each float, [n, D]."""
        level: Codes = np.rint((vectors - self.low) / self.step).clip(0, self.levels - 1).astype(np.int64)
        return level

    def search(self, vectors: Vectors, rate: Rate, rate_weight: float) -> Codes:
        """The best trade of squared difference and bits, float by float."""
        grid = self.low[:, None] + self.step[:, None] * np.arange(self.levels, dtype=np.float32)
        return search_positions(np.square(vectors[:, :, None] - grid, dtype=np.float32), rate, rate_weight)

    def embed(self, codes: Codes) -> Vectors:
        """Levels, [n, D]."""
        return self.low + self.step * codes.astype(np.float32)  # in float32, as in training: the same last bits


@dataclass(frozen=True, eq=False)
class ByteQuantiser:
    """IEEE floats as they are, most significant byte first: four bytes of each (lossless), or two of float16."""

    n_floats: int
    n_bytes: int = 4

    def __post_init__(self) -> None:
        if self.n_bytes not in (2, 4):
            raise CodecError(f"floats have 2 or 4 bytes here, not {self.n_bytes}")

    @property
    def width(self) -> int:
        """D."""
        return self.n_floats

    @property
    def n_positions(self) -> int:
        """A symbol per byte."""
        return self.n_bytes * self.n_floats

    @property
    def alphabet(self) -> int:
        """A byte."""
        return 256

    @property
    def is_searchable(self) -> bool:
        """No: a byte more or less is no measure of distortion."""
        return False

    def arrays(self) -> Arrays:
        """The width, and the bytes of each float."""
        return {"n_floats": np.array([self.n_floats], np.int64), "n_bytes": np.array([self.n_bytes], np.int64)}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> ByteQuantiser:
        """Back from `arrays`."""
        return cls(int(arrays["n_floats"][0]), int(arrays["n_bytes"][0]))

    def nearest(self, vectors: Vectors) -> Codes:
        """The bytes, [n, P]; what is too large for float16 becomes its largest number."""
        if self.n_bytes == 2:
            vectors = vectors.clip(-65504, 65504)
        flat = np.ascontiguousarray(vectors, dtype=f">f{self.n_bytes}")
        return flat.view(np.uint8).reshape(len(flat), self.n_positions).astype(np.int64)

    def search(self, vectors: Vectors, rate: Rate, rate_weight: float) -> Codes:
        """Nothing to trade."""
        return self.nearest(vectors)

    def embed(self, codes: Codes) -> Vectors:
        """The floats, [n, D]."""
        return codes.astype(np.uint8).view(f">f{self.n_bytes}").astype(np.float32)
