"""The prior q(code | what the receiver already has): one integer table that is both the bill and the coder's model.

It is the shared expectation of two people who know each other: what is expected costs almost nothing to say. Rows are
what is known before a symbol is said (`commlib.codecs.rows`), columns are symbols; each row sums to 2**16, so that two
machines can never disagree about a probability. Not a neural network: it is counted, not trained, from the agents' own
messages.

Shapes: P positions, R rows, A ages, K alphabet, S symbols of the stream, n messages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from commlib.codec import START, Codes
from commlib.codecs import rows as known
from commlib.codecs.entropy import TABLE_TOTAL, RowModels
from commlib.errors import CodecError

BACKOFFS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Weights of the backoff distribution, in pseudo-messages per row, among which held-out messages decide."""


@dataclass(frozen=True, eq=False)
class Prior:
    """Integer frequencies [P, A R, S], uint32, each row summing to 2**16, none zero.

    Attributes:
        table: the frequencies; the R rows of age 0 first, then those of age 1, ..; the last age stands for all later.
        kind: what the rows mean, one of `commlib.codecs.rows.KINDS`.
        n_ages: A, how many ages of a link (rounds since it was fresh) are told apart; 1: none.
    """

    table: NDArray[np.uint32]
    kind: str = "previous"
    n_ages: int = 1

    def __post_init__(self) -> None:
        table = self.table
        if table.ndim != 3 or self.n_ages < 1:
            raise CodecError(f"a prior needs the shape [P, A R, S] and at least one age, not {list(table.shape)}")
        alphabet = self.alphabet
        shape = self.n_ages * known.n_rows(self.kind, alphabet), known.n_symbols(self.kind, alphabet)
        if alphabet < 2:
            raise CodecError(f"a prior needs at least 2 codes to choose from, not {alphabet}")
        if table.shape[1:] != shape:
            raise CodecError(
                f"a prior of kind {self.kind!r} over {alphabet} codes needs {shape[0]} rows of {shape[1]} symbols, "
                f"not {table.shape[1]} of {table.shape[2]}"
            )
        if (table == 0).any() or (table.astype(np.int64).sum(-1) != TABLE_TOTAL).any():
            raise CodecError(f"each row of a prior must sum to {TABLE_TOTAL} without a zero")
        table.setflags(write=False)

    def __reduce__(self) -> tuple[type[Prior], tuple[NDArray[np.uint32], str, int]]:
        """Only the table travels to other processes; what is derived from it is not picklable."""
        return Prior, (self.table, self.kind, self.n_ages)

    @property
    def n_positions(self) -> int:
        """P."""
        return int(self.table.shape[0])

    @property
    def alphabet(self) -> int:
        """K."""
        return int(self.table.shape[2]) - (self.kind == "held")

    @property
    def n_symbols(self) -> int:
        """S."""
        return int(self.table.shape[2])

    @property
    def knows_past(self) -> bool:
        """Whether the code last delivered on the link matters."""
        return self.kind in ("previous", "staged", "held")

    @property
    def survives_loss(self) -> bool:
        """Whether a stream can be read by a receiver who missed an earlier one."""
        return self.kind in ("none", "held", "trellis")  # an age is told by the clock

    @cached_property
    def bits(self) -> NDArray[np.float64]:
        """-log2 q, [P, A R, S], in bits."""
        return -np.log2(self.table / TABLE_TOTAL)

    @cached_property
    def models(self) -> list[RowModels]:
        """The entropy coder's models of each position."""
        return [RowModels(rows) for rows in self.table]

    @cached_property
    def _likeliest(self) -> NDArray[np.int64]:
        best: NDArray[np.int64] = self.table.argmax(-1)
        return best

    @cached_property
    def _two_likeliest(self) -> NDArray[np.int64]:
        """The two likeliest codes, "the same again" not counted, [P, A R, 2]."""
        order = np.argsort(-self.table[..., : self.alphabet].astype(np.int64), axis=-1, kind="stable")
        return order[..., :2]

    def row(self, position: int, context: Codes, codes: Codes) -> Codes:
        """The row [n] that applies at `position` in contexts [n, P + 1], the codes [n, P] before it being known."""
        row: Codes = known.row(self.kind, position, context[:, :-1], codes, self.alphabet)
        return row if self.n_ages == 1 else row + self._later(context)

    def rows(self, codes: Codes, context: Codes) -> Codes:
        """The rows [n, P] of messages [n, P] that are known as a whole."""
        rows: Codes = known.rows(self.kind, context[:, :-1], codes, self.alphabet)
        return rows if self.n_ages == 1 else rows + self._later(context)[:, None]

    def _later(self, context: Codes) -> Codes:
        """Where the rows of each link's age begin, [n]."""
        return np.minimum(context[:, -1], self.n_ages - 1) * known.n_rows(self.kind, self.alphabet)

    def symbols(self, codes: Codes, context: Codes) -> Codes:
        """What the stream says for codes [n, P]."""
        said: Codes = known.symbols(self.kind, codes, context[:, :-1], self.alphabet)
        return said

    def codes_of(self, said: Codes, context: Codes) -> Codes:
        """The codes [n, P] that symbols mean."""
        codes: Codes = known.codes_of(self.kind, said, context[:, :-1], self.alphabet)
        return codes

    def expected(self, context: Codes) -> Codes:
        """The likeliest code of each position in turn, [n, P]; the first one on a tie."""
        if self.kind == "held":
            return self._expected_held(context)
        codes = np.zeros((len(context), self.n_positions), np.int64)
        for p in range(self.n_positions):
            codes[:, p] = self._likeliest[p, self.row(p, context, codes)]
        return codes

    def _expected_held(self, context: Codes) -> Codes:
        """The same again, or, where it is likelier, the likeliest code that would be said as itself."""
        past, rows, positions = context[:, :-1], self.rows(context[:, :-1], context), np.arange(self.n_positions)
        best, second = self._two_likeliest[positions, rows, 0], self._two_likeliest[positions, rows, -1]
        other = np.where(best == past, second, best)
        is_again = self.table[positions, rows, -1] >= self.table[positions, rows, other]
        return np.where((past != START) & (is_again | (other == past)), past, other)

    @cached_property
    def _bits(self) -> NDArray[np.float32]:
        """For searches, where a table of half the size is half the time."""
        return self.bits.astype(np.float32)

    def code_bits(self, position: int, context: Codes, codes: Codes) -> NDArray[np.float32]:
        """-log2 q of every code at `position`, [n, K], the codes [n, P] before it being known."""
        if self.kind == "none" and self.n_ages == 1:
            return np.broadcast_to(self._bits[position], (len(context), self.alphabet))
        row = self.row(position, context, codes)
        bits: NDArray[np.float32] = self._bits[position, row][:, : self.alphabet]
        if self.kind == "held":
            old = np.flatnonzero(context[:, position] >= 0)
            bits[old, context[old, position]] = self._bits[position, row[old], -1]
        return bits

    def estimate_bits(self, codes: Codes, context: Codes) -> NDArray[np.float64]:
        """-log2 q of each message, [n], summed over positions."""
        return self.bits_of(self.rows(codes, context), self.symbols(codes, context))

    def bits_of(self, rows: Codes, symbols: Codes) -> NDArray[np.float64]:
        """The bits [n] of messages whose rows and symbols [n, P] are known."""
        bits: NDArray[np.float64] = self.bits[np.arange(self.n_positions), rows, symbols].sum(-1)
        return bits


def uniform_prior(n_positions: int, alphabet: int, kind: str = "previous", n_ages: int = 1) -> Prior:
    """The prior of someone who expects nothing in particular."""
    shape = n_positions, n_ages * known.n_rows(kind, alphabet), known.n_symbols(kind, alphabet)
    return Prior(to_integers(np.ones(shape)), kind, n_ages)


def fit_prior(codes: Codes, context: Codes, alphabet: int, kind: str = "previous", n_ages: int = 1) -> Prior:
    """Count a prior from messages [n, P] and the contexts [n, P + 1] in which they were sent.

    A row that was seen n times is its counts plus w pseudo-messages of a backoff: with probability h what was said last
    time again, else the marginal. h is counted; w is the one of `BACKOFFS` with the least rate on one half of the
    messages, drawn at random, when the other half is counted.
    """
    return fit_prior_report(codes, context, alphabet, kind, n_ages).prior


class FittedPrior(NamedTuple):
    """A prior, and the rate [bits per message] that its like had on messages that it was not counted from."""

    prior: Prior
    held_out_bits: float


def fit_prior_report(
    codes: Codes, context: Codes, alphabet: int, kind: str = "previous", n_ages: int = 1
) -> FittedPrior:
    """`fit_prior`, and its held-out rate: the judge of which kind pays, and of whether enough was recorded."""
    if len(codes) < 2:
        raise CodecError(f"a prior needs at least 2 messages to count, not {len(codes)}")
    mixed = np.random.default_rng(0).permutation(len(codes))  # recorded round by round: the last are no fair sample
    half, judges = mixed[: len(codes) // 2], mixed[len(codes) // 2 :]
    trial = _Counts(codes[half], context[half], alphabet, kind, n_ages)

    def held_out_bits(weight: float) -> float:
        prior = Prior(to_integers(trial.smoothed(weight)), kind, n_ages)
        return float(prior.estimate_bits(codes[judges], context[judges]).mean())

    rates = {weight: held_out_bits(weight) for weight in BACKOFFS}
    weight = min(rates, key=lambda w: rates[w])
    counts = _Counts(codes, context, alphabet, kind, n_ages)
    return FittedPrior(Prior(to_integers(counts.smoothed(weight)), kind, n_ages), rates[weight])


def best_prior(codes: Codes, context: Codes, alphabet: int, kinds: Sequence[str], ages: Sequence[int] = (1,)) -> Prior:
    """Of these kinds of knowledge, with so many ages, the one with the least held-out rate; the first of equals.

    Two neighbours who talk every day find out which small talk helps: what was said yesterday, the hour, or nothing.
    """
    ways = [(kind, n_ages) for n_ages in ages for kind in kinds]
    if len(ways) == 1:
        return fit_prior(codes, context, alphabet, *ways[0])
    fitted = [fit_prior_report(codes, context, alphabet, *way) for way in ways]
    return min(fitted, key=lambda fit: fit.held_out_bits).prior


class _Counts:
    """How often each symbol was said in each row."""

    def __init__(self, codes: Codes, context: Codes, alphabet: int, kind: str, n_ages: int) -> None:
        self.kind, self.alphabet, self.n_ages = kind, alphabet, n_ages
        empty = uniform_prior(codes.shape[1], alphabet, kind, n_ages)
        rows, said = empty.rows(codes, context), empty.symbols(codes, context)
        self.joint_PRS = np.zeros(empty.table.shape)
        np.add.at(self.joint_PRS, (np.broadcast_to(np.arange(codes.shape[1]), codes.shape), rows, said), 1.0)

    def smoothed(self, weight: float) -> NDArray[np.float64]:
        """Positive frequencies [P, A R, S]."""
        n_rows = known.n_rows(self.kind, self.alphabet)
        shape: tuple[int, ...] = self.joint_PRS.shape
        joint_PARS = self.joint_PRS.reshape(shape[0], self.n_ages, n_rows, shape[2])
        ageless_PRS = joint_PARS.sum(1)
        frequencies: NDArray[np.float64] = ageless_PRS + weight * _BACKOFFS[self.kind](ageless_PRS, self.alphabet)
        if self.n_ages == 1:
            return frequencies
        shares = frequencies / frequencies.sum(-1, keepdims=True)
        by_age: NDArray[np.float64] = (joint_PARS + weight * shares[:, None]).reshape(shape)
        return by_age


Frequencies = NDArray[np.float64]


def _marginal(joint_PRS: Frequencies, prior_count: float = 0.5) -> Frequencies:
    counts_PS: Frequencies = joint_PRS.sum(1) + prior_count
    marginal_PS: Frequencies = counts_PS / counts_PS.sum(-1, keepdims=True)
    return marginal_PS


def _back_to_marginal(joint_PRS: Frequencies, alphabet: int) -> Frequencies:
    return np.broadcast_to(_marginal(joint_PRS)[:, None, :], joint_PRS.shape)


def _back_to_hold(joint_PRS: Frequencies, alphabet: int) -> Frequencies:
    """With the counted probability the previous code again, else the marginal."""
    n_rows = joint_PRS.shape[1]
    backoff = np.broadcast_to(_marginal(joint_PRS)[:, None, :], joint_PRS.shape).copy()
    same = np.arange(alphabet)
    past = joint_PRS[:, n_rows - alphabet :]
    again_P = np.trace(past, axis1=1, axis2=2)
    hold_P = (again_P + 0.5) / (past.sum((1, 2)) + 1.0)
    backoff[:, n_rows - alphabet :] *= (1.0 - hold_P)[:, None, None]
    backoff[:, same + n_rows - alphabet, same] += hold_P[:, None]
    return backoff


def _back_to_stage(joint_PRS: Frequencies, alphabet: int) -> Frequencies:
    """The first position as `previous`; a later one by its predecessor (rows 1..K) or its own past (rows K + 1..2 K)."""
    backoff = np.empty_like(joint_PRS)
    first = joint_PRS[:1, : alphabet + 1]
    backoff[:1, : alphabet + 1] = _back_to_hold(first, alphabet)
    backoff[:1, alphabet + 1 :] = _marginal(first)[:, None]
    if len(joint_PRS) > 1:
        backoff[1:] = _back_to_hold(joint_PRS[1:], alphabet)
        backoff[1:, : alphabet + 1] = _marginal(joint_PRS[1:, : alphabet + 1])[:, None]
    return backoff


def _back_to_fresh(joint_PRS: Frequencies, alphabet: int) -> Frequencies:
    """A new code is likely what codes are, on a fresh link or later; "the same again" as often as it was counted."""
    backoff = np.empty_like(joint_PRS)
    marginal = _marginal(joint_PRS[:, :, :alphabet])
    again_P = (joint_PRS[:, 1, alphabet] + 0.5) / (joint_PRS[:, 1].sum(-1) + 1.0)
    backoff[:, 0, :alphabet], backoff[:, 0, alphabet] = marginal, 0.0
    backoff[:, 1, :alphabet], backoff[:, 1, alphabet] = (1 - again_P)[:, None] * marginal, again_P
    return backoff


_BACKOFFS: dict[str, Callable[[Frequencies, int], Frequencies]] = {
    "none": _back_to_marginal,
    "previous": _back_to_hold,
    "staged": _back_to_stage,
    "held": _back_to_fresh,
    "trellis": _back_to_marginal,
}


def to_integers(frequencies: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Frequencies >= 0, [.., S], as integers >= 1 that sum to 2**16 in each row (largest remainders win)."""
    alphabet = frequencies.shape[-1]
    scaled = frequencies / frequencies.sum(-1, keepdims=True) * (TABLE_TOTAL - alphabet)
    whole = np.floor(scaled).astype(np.int64)
    missing = TABLE_TOTAL - alphabet - whole.sum(-1)
    rank = np.argsort(np.argsort(-(scaled - whole), axis=-1, kind="stable"), axis=-1, kind="stable")
    integers: NDArray[np.uint32] = (whole + 1 + (rank < missing[..., None])).astype(np.uint32)
    return integers
