"""What a prior may know before a symbol is said: which row of its table applies.

Like finishing a friend's sentence: the more of it was heard, and the better the friend is known, the fewer words are
left to guess. Five ways of knowing, by name:

    none       nothing: one row
    previous   the symbol last delivered at the same position of the same link, or that the link is fresh
    staged     `previous` for the first position; a later one knows its predecessor in this message, and, where all
               before it is as it was last time, its own last symbol (residual stages)
    held       only whether the link is fresh. "The same as last time" is a symbol of its own, so that the stream can be
               read without knowing what was last delivered: a lost frame spoils nothing but what it held
    trellis    which of the two interleaved grids of `commlib.codecs.trellis` the next number lies on

All functions take numpy arrays or torch tensors alike, so that training and wire share them: arithmetic only.
Shapes: n messages, P positions, K alphabet. A past is the code last delivered, int64 [n, P], START on a fresh link.
"""

from typing import Any

from commlib.codec import START
from commlib.errors import CodecError

KINDS = ("none", "previous", "staged", "held", "trellis")


def n_rows(kind: str, alphabet: int) -> int:
    """Rows of a table of this kind."""
    if kind not in KINDS:
        raise CodecError(f"a prior cannot be conditioned on {kind!r}; there are {', '.join(KINDS)}")
    return {"none": 1, "previous": alphabet + 1, "staged": 2 * alphabet + 1, "held": 2, "trellis": 2}[kind]


def n_symbols(kind: str, alphabet: int) -> int:
    """Symbols that the stream distinguishes: the codes, and for `held` "the same again"."""
    return alphabet + 1 if kind == "held" else alphabet


def row(kind: str, position: int, past: Any, codes: Any, alphabet: int) -> Any:  # noqa: ANN401 (array or tensor)
    """The row [n] for the next symbol, when `codes` [n, P] are known before `position`."""
    mine = past[..., position]
    if kind == "previous" or (kind == "staged" and position == 0):
        return mine - START
    if kind == "held":
        return (mine != START) * 1
    if kind == "trellis":
        return grid_of(codes, position)
    if kind == "staged":
        before = codes[..., :position]
        same = ((before == past[..., :position]).all(-1) & (mine != START)) * 1
        return same * (alphabet + 1 + mine) + (1 - same) * (1 + codes[..., position - 1])
    return mine * 0


def rows(kind: str, past: Any, codes: Any, alphabet: int) -> Any:  # noqa: ANN401
    """The rows [n, P] of whole messages."""
    if kind == "previous":
        return past - START
    if kind == "held":
        return (past != START) * 1
    every = past * 0
    if kind != "none":
        for position in range(codes.shape[-1]):
            every[..., position] = row(kind, position, past, codes, alphabet)
    return every


def symbols(kind: str, codes: Any, past: Any, alphabet: int) -> Any:  # noqa: ANN401
    """What the stream says for these codes [n, P]."""
    if kind != "held":
        return codes
    same = (codes == past) * 1
    return same * alphabet + (1 - same) * codes


def codes_of(kind: str, said: Any, past: Any, alphabet: int) -> Any:  # noqa: ANN401
    """The codes [n, P] that these symbols mean: the inverse of `symbols`; START where the stream makes no sense."""
    if kind != "held":
        return said
    same = (said == alphabet) * 1
    return same * past + (1 - same) * said


def grid_of(codes: Any, position: int) -> Any:  # noqa: ANN401
    """Which of two interleaved grids the number at `position` lies on, 0 or 1 [n].

    Ungerboeck's eight-state code in feed-forward form (Ungerboeck 1982, table I, h0 = 13, h1 = 04 octal): with
    u[t] = parity[t] + u[t-1] + u[t-3] modulo 2, the grid at t is u[t-2].
    """
    zero = codes[..., 0] * 0
    u1, u2, u3 = zero, zero, zero
    for t in range(position):
        u1, u2, u3 = (codes[..., t] + u1 + u3) % 2, u1, u2
    return u2
