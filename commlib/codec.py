"""What a codec is: the two paths between a message vector and bits, and the law that they agree.

A codec is a phrase book printed twice. The *trainable* edition (`Codec`, a torch module) is what gradients pass through;
the *frozen* edition (`FrozenCodec`, numpy only) is what both ends of a link carry, identified by a digest. Not a
compressor of files: it knows what the receiver already has, and only codes what that does not tell.

                    training                                          the wire
    x [B, D] --> forward --> z [B, D]               x [n, D] --> choose --> codes [n, P] --> encode --> bytes
                    |                                                                                     |
                    +--> codes, rate_bits                   z [n, D] <-- embed <-- codes [n, P] <-- decode

Shapes: B messages in training, n messages on the wire, D message width, P positions (symbols per message), K alphabet.
A context is what both ends know of a link's past, int64 [.., P + 1]: the code last delivered, START everywhere on a fresh
link, and then the link's age, the rounds since it was fresh (`fresh_context`, `next_context`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Codes = NDArray[np.int64]
Vectors = NDArray[np.float32]

START = -1
"""What stands for the last code of a link on which nothing was delivered yet."""


def fresh_context(n_messages: int, n_positions: int) -> Codes:
    """The context [n, P + 1] of links on which nothing was delivered yet.

    >>> fresh_context(1, 2)
    array([[-1, -1,  0]])
    """
    context = np.full((n_messages, n_positions + 1), START, np.int64)
    context[:, -1] = 0
    return context


def next_context(context: Codes, codes: Codes) -> Codes:
    """The contexts [.., P + 1] one round later, when codes [.., P] were delivered.

    >>> next_context(fresh_context(1, 2), np.array([[4, 7]]))
    array([[4, 7, 1]])
    """
    return np.concatenate([codes, context[..., -1:] + 1], -1)


class Quantized(NamedTuple):
    """What a codec's training path returns.

    Attributes:
        z: float [B, D], what the receiver would reconstruct; gradient straight through to the input.
        codes: int64 [B, P].
        rate_bits: float [B], -log2 q(code | context) under the codec's prior: an estimate, never charged.
        losses: auxiliary losses by name, each a scalar tensor (for example ``{"commitment": ...}``).
    """

    z: Tensor
    codes: Tensor
    rate_bits: Tensor
    losses: dict[str, Tensor]


@runtime_checkable
class Pulling(Protocol):
    """What a trainable codec may offer besides: bits whose gradient pulls messages to cheaper codes.

    It costs more than a lookup, so it is asked for only where a price acts.
    """

    def pulled_bits(self, x: Tensor, codes: Tensor, context: Tensor | None) -> Tensor:
        """The `rate_bits` of `codes` [B, P], float [B], with a gradient for the messages x [B, D]."""
        ...


@runtime_checkable
class FrozenCodec(Protocol):
    """The edition that both ends of a link carry: numpy only, immutable, identified by its digest."""

    @property
    def name(self) -> str:
        """A short name for tables, such as ``vq``."""
        ...

    @property
    def digest(self) -> str:
        """Hex SHA-256 over everything that both ends must share; another digest is another language."""
        ...

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
    def silence_is_coded(self) -> bool:
        """True if silence is a codeword (the expected code, paid for in the stream); False if frames must list the silent."""
        ...

    @property
    def survives_loss(self) -> bool:
        """Whether a stream can be read by a receiver who missed an earlier one of the link."""
        ...

    def choose(self, vectors: Vectors, context: Codes, rate_weight: float = 0.0) -> Codes:
        """The codes [n, P] that minimise distortion + rate_weight x bits (Chou, Lookabaugh & Gray 1989); 0 = nearest."""
        ...

    def expected(self, context: Codes) -> Codes:
        """What silence means: the codes [n, P] that a receiver with this context assumes."""
        ...

    def embed(self, codes: Codes, context: Codes | None = None) -> Vectors:
        """The vectors [n, D] that these codes stand for; a codec with shared dither needs the context too."""
        ...

    def estimate_bits(self, codes: Codes, context: Codes) -> NDArray[np.float64]:
        """-log2 q(code | context) of each message, [n], in bits: the estimate, never charged."""
        ...

    def encode(self, codes: Codes, context: Codes) -> bytes:
        """All messages as one stream."""
        ...

    def decode(self, payload: bytes, context: Codes) -> Codes:
        """The codes [n, P] of a stream; n and the context are what the receiver already knows.

        Raises:
            CodecError: the bytes are not a stream of n messages.
        """
        ...

    def payload_bits(self, codes: Codes, context: Codes) -> int:
        """The size of `encode(codes, context)` in bits, exactly."""
        ...


class Codec(Protocol):
    """The trainable edition: a `torch.nn.Module` with a differentiable path and a way to freeze it."""

    width: int

    def __call__(self, x: Tensor, context: Tensor | None = None) -> Quantized:
        """Send x, float [B, D], through the bottleneck. A context, int64 [B, P + 1], conditions the rate and silence."""
        ...

    def fit(self, messages: Tensor, generator: torch.Generator) -> None:
        """Fit the quantiser to recorded messages, float [n, D]."""
        ...

    def set_prior(self, prior: Any) -> None:  # noqa: ANN401 (codecs build on this module, not the other way)
        """Charge by this prior from now on (`commlib.codecs.prior.Prior`)."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors that make the codec what it is."""
        ...

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> object:
        """Take over such a state."""
        ...

    def freeze(self) -> FrozenCodec:
        """The frozen edition as it stands now."""
        ...
