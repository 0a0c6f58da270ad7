"""The frozen codec: a quantiser and a prior in numpy, immutable, named by a digest; what both ends of a link carry.

A quantiser says which vectors the words of the language stand for, the prior says which word comes next. Any quantiser
whose distortion is a sum over positions fits: it needs a distortion table and an `embed`, and gets rate-aware encoding,
silence and entropy coding from here.

Shapes: n messages, D message width, P positions, K alphabet.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from commlib.codec import START, Codes, Vectors
from commlib.codecs import entropy
from commlib.codecs.prior import Prior
from commlib.errors import CodecError


class Quantiser(Protocol):
    """Vectors to codes and back, without any notion of bits."""

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

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """All that determines the quantiser, by name."""
        ...

    def nearest(self, vectors: Vectors) -> Codes:
        """The codes [n, P] of least distortion."""
        ...

    def distortions(self, vectors: Vectors) -> NDArray[np.float32] | None:
        """The distortion of every symbol, [n, P, K], adding up over positions; None if only `nearest` makes sense."""
        ...

    def embed(self, codes: Codes) -> Vectors:
        """The vectors [n, D] of codes [n, P]."""
        ...


@dataclass(frozen=True, eq=False)
class TableCodec:
    """A `FrozenCodec` made of a quantiser and a prior.

    >>> codec = TableCodec("pair", CodebookQuantiser(np.eye(2, dtype=np.float32)), uniform_prior(1, 2, is_conditional=True))
    >>> fresh = np.full((1, 1), START)
    >>> payload = codec.encode(codec.choose(np.array([[0.1, 0.9]], np.float32), fresh), fresh)
    >>> codec.embed(codec.decode(payload, fresh)).tolist()
    [[0.0, 1.0]]
    """

    name: str
    quantiser: Quantiser
    prior: Prior

    def __post_init__(self) -> None:
        q, shape = self.quantiser, self.prior.table.shape
        if (shape[0], shape[2]) != (q.n_positions, q.alphabet):
            raise CodecError(
                f"codec {self.name}: the prior has {shape[0]} positions of {shape[2]} symbols, the quantiser "
                f"{q.n_positions} of {q.alphabet}; fit the prior again"
            )
        for array in q.arrays().values():
            array.setflags(write=False)

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
        """Silence is a codeword where the prior is conditioned on the link's past."""
        return self.prior.is_conditional

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the kind of stream, the kind of quantiser, its arrays and the prior."""
        sha = hashlib.sha256(f"{entropy.STREAM}|{type(self.quantiser).__name__}".encode())
        for name, array in sorted({**self.quantiser.arrays(), "prior": self.prior.table}.items()):
            little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
            sha.update(f"{name}{little.dtype.str}{little.shape}".encode() + little.tobytes())
        return sha.hexdigest()

    @cached_property
    def _start(self) -> Codes:
        """What silence means on a fresh link of a codec without context: the zero vector."""
        return self.quantiser.nearest(np.zeros((1, self.width), np.float32))

    def choose(self, vectors: Vectors, context: Codes, rate_weight: float = 0.0) -> Codes:
        """The codes [n, P] of least distortion + rate_weight x bits (Chou, Lookabaugh & Gray 1989).

        `rate_weight` is in units of distortion per bit; calibration translates a bit price (reward per bit) into it. A
        quantiser without a distortion table always gives the nearest code.
        """
        if not np.isfinite(vectors).all():
            raise CodecError("a message holds NaN or infinity; check the agent that made it")
        if rate_weight > 0:
            distortions = self.quantiser.distortions(vectors)
            if distortions is not None:
                positions = np.arange(self.n_positions)
                cost = distortions + rate_weight * self.prior.bits[positions, self.prior.rows(context)]
                chosen: Codes = cost.argmin(-1)
                return chosen
        return self.quantiser.nearest(vectors)

    def expected(self, context: Codes) -> Codes:
        """What silence means: the likeliest code, or, without a context in the prior, the last one again."""
        if self.silence_is_coded:
            return self.prior.likeliest[np.arange(self.n_positions), self.prior.rows(context)]
        return np.where(context == START, self._start, context)

    def embed(self, codes: Codes) -> Vectors:
        """The vectors [n, D] that these codes stand for."""
        return self.quantiser.embed(codes)

    def estimate_bits(self, codes: Codes, context: Codes) -> NDArray[np.float64]:
        """-log2 q(code | context) of each message, [n], in bits."""
        return self.prior.estimate_bits(codes, context)

    def encode(self, codes: Codes, context: Codes) -> bytes:
        """All messages as one stream, range-coded or bit-packed, whichever is shorter."""
        if codes.size and not 0 <= codes.min() <= codes.max() < self.prior.alphabet:
            raise CodecError(f"codec {self.name}: codes must lie in 0..{self.prior.alphabet - 1}")
        return entropy.encode(codes, self.prior.rows(context), self.prior.models, self.prior.alphabet)

    def decode(self, payload: bytes, context: Codes) -> Codes:
        """The codes [n, P] of a stream; raises `CodecError` for bytes that are none."""
        return entropy.decode(payload, self.prior.rows(context), self.prior.models, self.prior.alphabet)

    def payload_bits(self, codes: Codes, context: Codes) -> int:
        """The size of the stream in bits."""
        return 8 * len(self.encode(codes, context))


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

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The codebook."""
        return {"codebook": self.codebook}

    @cached_property
    def _norms(self) -> NDArray[np.float32]:
        norms: NDArray[np.float32] = (self.codebook**2).sum(-1)
        return norms

    def nearest(self, vectors: Vectors) -> Codes:
        """Index of the nearest row, [n, 1]."""
        index: Codes = (self._norms - 2 * vectors @ self.codebook.T).argmin(-1)[:, None]
        return index

    def distortions(self, vectors: Vectors) -> NDArray[np.float32]:
        """Squared distances [n, 1, K]."""
        distances: NDArray[np.float32] = (
            (vectors**2).sum(-1, keepdims=True) + self._norms - 2 * vectors @ self.codebook.T
        )
        return distances[:, None, :]

    def embed(self, codes: Codes) -> Vectors:
        """Rows of the codebook, [n, D]."""
        return self.codebook[codes[:, 0]]


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

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Origin and step of each grid."""
        return {"low": self.low, "step": self.step, "levels": np.array([self.levels], np.int64)}

    def nearest(self, vectors: Vectors) -> Codes:
        """Nearest level of each float, [n, D]."""
        level: Codes = np.rint((vectors - self.low) / self.step).clip(0, self.levels - 1).astype(np.int64)
        return level

    def distortions(self, vectors: Vectors) -> NDArray[np.float32]:
        """Squared differences to every level, [n, D, K]."""
        grid = self.low[:, None] + self.step[:, None] * np.arange(self.levels, dtype=np.float32)
        return np.square(vectors[:, :, None] - grid, dtype=np.float32)

    def embed(self, codes: Codes) -> Vectors:
        """Levels, [n, D]."""
        return self.low + self.step * codes.astype(np.float32)  # in float32, as in training: the same last bits


@dataclass(frozen=True, eq=False)
class ByteQuantiser:
    """IEEE float32 as it is, four bytes per float, most significant first: lossless."""

    n_floats: int

    @property
    def width(self) -> int:
        """D."""
        return self.n_floats

    @property
    def n_positions(self) -> int:
        """Four symbols per float."""
        return 4 * self.n_floats

    @property
    def alphabet(self) -> int:
        """A byte."""
        return 256

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The width."""
        return {"n_floats": np.array([self.n_floats], np.int64)}

    def nearest(self, vectors: Vectors) -> Codes:
        """The bytes, [n, 4 D]."""
        flat = np.ascontiguousarray(vectors, dtype=">f4")
        return flat.view(np.uint8).reshape(len(flat), self.n_positions).astype(np.int64)

    def distortions(self, vectors: Vectors) -> None:
        """A byte more or less is no measure of distortion."""

    def embed(self, codes: Codes) -> Vectors:
        """The floats, [n, D]."""
        return codes.astype(np.uint8).view(">f4").astype(np.float32)
