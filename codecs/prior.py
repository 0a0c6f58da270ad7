"""The prior q(code | what the receiver already has): one integer table that is both the bill and the coder's model.

It is the shared expectation of two people who know each other: what is expected costs almost nothing to say. Rows are
contexts (the code last delivered on the link, first row: nothing yet), columns are codes; each row sums to 2**16, so
that two machines can never disagree about a probability. Not a neural network: it is counted, not trained, from the
agents' own messages.

Shapes: P positions, C context rows (1 = no context, K + 1 = previous code), K alphabet, n messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from commlib.codec import START, Codes
from commlib.codecs.entropy import TABLE_TOTAL, TableModels
from commlib.errors import CodecError

BACKOFFS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Weights of the backoff distribution, in pseudo-messages per row, among which held-out messages decide."""


@dataclass(frozen=True, eq=False)
class Prior:
    """Integer frequencies [P, C, K], uint32, each row summing to 2**16, none zero."""

    table: NDArray[np.uint32]

    def __post_init__(self) -> None:
        table = self.table
        if table.ndim != 3 or table.shape[1] not in (1, table.shape[2] + 1):
            raise CodecError(f"a prior needs the shape [P, 1 or K + 1, K], not {list(table.shape)}")
        if (table == 0).any() or (table.astype(np.int64).sum(-1) != TABLE_TOTAL).any():
            raise CodecError(f"each row of a prior must sum to {TABLE_TOTAL} without a zero")
        table.setflags(write=False)

    def __reduce__(self) -> tuple[type[Prior], tuple[NDArray[np.uint32]]]:
        """Only the table travels to other processes; what is derived from it is not picklable."""
        return Prior, (self.table,)

    @property
    def alphabet(self) -> int:
        """K."""
        return int(self.table.shape[2])

    @property
    def is_conditional(self) -> bool:
        """Whether rows depend on the code last delivered on the link."""
        return bool(self.table.shape[1] > 1)

    @cached_property
    def bits(self) -> NDArray[np.float64]:
        """-log2 q, [P, C, K], in bits."""
        return -np.log2(self.table / TABLE_TOTAL)

    @cached_property
    def models(self) -> TableModels:
        """The entropy coder's models."""
        return TableModels(self.table)

    @cached_property
    def likeliest(self) -> NDArray[np.int64]:
        """The most probable symbol of each row, [P, C]; the first one on a tie."""
        best: NDArray[np.int64] = self.table.argmax(-1)
        return best

    def rows(self, context: Codes) -> Codes:
        """Context rows [n, P] of contexts [n, P]."""
        return context - START if self.is_conditional else np.zeros_like(context)

    def estimate_bits(self, codes: Codes, context: Codes) -> NDArray[np.float64]:
        """-log2 q of each message, [n], summed over positions."""
        positions = np.arange(self.table.shape[0])
        bits: NDArray[np.float64] = self.bits[positions, self.rows(context), codes].sum(-1)
        return bits


def uniform_prior(n_positions: int, alphabet: int, *, is_conditional: bool) -> Prior:
    """The prior of someone who expects nothing in particular."""
    rows = alphabet + 1 if is_conditional else 1
    return Prior(to_integers(np.ones((n_positions, rows, alphabet))))


def fit_prior(codes: Codes, context: Codes, alphabet: int, *, is_conditional: bool) -> Prior:
    """Count a prior from messages [n, P] and the contexts [n, P] in which they were sent.

    A row that was seen n times is its counts plus w pseudo-messages of a backoff: with probability h the previous code
    again, else the marginal. h is counted; w is the one of `BACKOFFS` with the least rate on the second half of the
    messages when the first half is counted.
    """
    if len(codes) < 2:
        raise CodecError(f"a prior needs at least 2 messages to count, not {len(codes)}")
    if not is_conditional:
        context = np.full_like(context, START)
    half = len(codes) // 2
    trial = _Counts(codes[:half], context[:half], alphabet)

    def held_out_bits(weight: float) -> float:
        prior = Prior(to_integers(trial.smoothed(weight, is_conditional=is_conditional)))
        return float(prior.estimate_bits(codes[half:], context[half:]).sum())

    weight = min(BACKOFFS, key=held_out_bits)
    counts = _Counts(codes, context, alphabet)
    return Prior(to_integers(counts.smoothed(weight, is_conditional=is_conditional)))


class _Counts:
    """How often each code followed each context."""

    def __init__(self, codes: Codes, context: Codes, alphabet: int) -> None:
        n_positions = codes.shape[1]
        positions = np.broadcast_to(np.arange(n_positions), codes.shape)
        self.joint_PCK = np.zeros((n_positions, alphabet + 1, alphabet))
        np.add.at(self.joint_PCK, (positions, context - START, codes), 1.0)

    def smoothed(self, weight: float, *, is_conditional: bool) -> NDArray[np.float64]:
        """Positive frequencies [P, C, K]."""
        joint_PCK = self.joint_PCK
        alphabet = joint_PCK.shape[2]
        marginal_PK: NDArray[np.float64] = joint_PCK.sum(1) + 0.5
        marginal_PK /= marginal_PK.sum(-1, keepdims=True)
        if not is_conditional:
            return marginal_PK[:, None, :]
        again_P = np.trace(joint_PCK[:, 1:], axis1=1, axis2=2)
        hold_P = (again_P + 0.5) / (joint_PCK[:, 1:].sum((1, 2)) + 1.0)
        backoff_PCK = np.broadcast_to(marginal_PK[:, None, :], joint_PCK.shape).copy()
        backoff_PCK[:, 1:] *= (1.0 - hold_P)[:, None, None]
        same = np.arange(alphabet)
        backoff_PCK[:, same + 1, same] += hold_P[:, None]
        frequencies: NDArray[np.float64] = joint_PCK + weight * backoff_PCK
        return frequencies


def to_integers(frequencies: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Positive frequencies [.., K] as integers >= 1 that sum to 2**16 in each row (largest remainders win)."""
    alphabet = frequencies.shape[-1]
    scaled = frequencies / frequencies.sum(-1, keepdims=True) * (TABLE_TOTAL - alphabet)
    whole = np.floor(scaled).astype(np.int64)
    missing = TABLE_TOTAL - alphabet - whole.sum(-1)
    rank = np.argsort(np.argsort(-(scaled - whole), axis=-1, kind="stable"), axis=-1, kind="stable")
    integers: NDArray[np.uint32] = (whole + 1 + (rank < missing[..., None])).astype(np.uint32)
    return integers
