"""Symbols to bytes and back: range coding by the `constriction` library, or bit packing.

Two ways to pack a suitcase: roll the clothes by how often they are worn (range coding), or fold them all to one size
(bit packing). The first bit of the stream says which: 0 rolled, 1 folded. A range coder's last words are padding that a
short stream cannot afford: of all numbers in the coder's final interval the one with the fewest bytes is sent, and both
ends read a stream as if zeros followed it for ever.

The coder sees only integer tables; the floats handed to `constriction` are table / 2**16, exact in float64, so its
fixed-point tables are the same on every IEEE machine.

Shapes: n messages, P positions, R rows, S symbols.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import constriction
import numpy as np
from numpy.typing import NDArray

from commlib.errors import CodecError

STREAM = "range-or-packed-2"
"""Names this bitstream in every digest; whoever changes the bytes changes the name."""

TABLE_BITS = 16
TABLE_TOTAL = 1 << TABLE_BITS
PACKED = 0x80
"""The first bit of a bit-packed stream."""

Int = NDArray[np.int64]
Bytes = NDArray[np.uint8]
_FLAG = constriction.stream.model.Uniform(2)
_END = (1 << 136) - 1
_NO_FLAG = np.zeros(1, np.int32)


class RowModels(dict[int, object]):
    """The coder's models of a position's rows [R, S] of integer frequencies, each built when it is first used."""

    def __init__(self, table: NDArray[np.uint32]) -> None:
        super().__init__()
        self._table = table

    def __missing__(self, row: int) -> object:
        probabilities = self._table[row].astype(np.float64) / TABLE_TOTAL
        model = self[row] = constriction.stream.model.Categorical(probabilities, perfect=False)
        return model


class _Groups(NamedTuple):
    """The coding order within a position: messages with the same row together, rows ascending.

    Attributes:
        order: which message comes when, [n].
        runs: row, first and last but one place in that order, of each group.
    """

    order: NDArray[np.intp] | slice
    runs: list[tuple[int, int, int]]


def _grouped(column: Int) -> _Groups:
    """Messages grouped by their rows [n]; a counting sort, which numpy has for short integers alone, where they fit."""
    n = len(column)
    if n == 0:
        return _Groups(slice(None), [])
    if n == 1:
        return _Groups(slice(None), [(int(column[0]), 0, 1)])
    count = np.bincount(column)
    rows = count.nonzero()[0]
    if len(rows) == 1:
        return _Groups(slice(None), [(int(rows[0]), 0, n)])
    ends = count[rows].cumsum().tolist()
    order = (column.astype(np.uint16) if len(count) <= 1 << 16 else column).argsort(kind="stable")
    return _Groups(order, list(zip(rows.tolist(), [0, *ends[:-1]], ends, strict=True)))


def encode(symbols: Int, rows: Int, models: Sequence[RowModels]) -> bytes:
    """Symbols [n, P] under the models of their rows [n, P], range-coded, position by position."""
    coder = constriction.stream.queue.RangeEncoder()
    coder.encode(_NO_FLAG, _FLAG)
    said = symbols.astype(np.int32)
    for position in range(symbols.shape[1]):
        order, runs = _grouped(rows[:, position])
        column, model = said[:, position][order], models[position]
        for row, start, end in runs:
            coder.encode(column[start:end], model[row])
    n_words, (lower, width) = coder.pos()
    sealed = coder.get_compressed()
    return _shortest(sealed, n_words, lower, width)


def _shortest(sealed: NDArray[np.uint32], n_words: int, lower: int, width: int) -> bytes:
    """The fewest bytes that lie in the coder's final interval when zeros follow them.

    The interval is [low, low + width), in units of 2**-(32 n_words + 64) of the unit interval; `lower` holds the last
    64 bits of `low`, the bits before them are those of the sealed stream, one less if sealing carried.
    """
    n_bits = 32 * n_words + 64
    inside = int.from_bytes(sealed.astype(">u4").tobytes(), "big") << (n_bits - 32 * len(sealed))
    low = (inside >> 64 << 64) + lower
    if low > inside:
        low -= 1 << 64
    end = low & _END  # all that can change, but for a carry: what is before it is long
    for n_bytes in range(max(0, n_bits // 8 - 16), n_bits // 8 + 1):
        unit = n_bits - 8 * n_bytes
        value = -(-end >> unit)  # rounded up
        if value << unit < end + width:
            whole = (low - end >> unit) + value
            return whole.to_bytes(n_bytes, "big").rstrip(b"\0")
    raise CodecError("the range coder's interval is empty; this is a bug, please report it")


def decode(
    payload: bytes, n_messages: int, n_positions: int, row_of: Callable[[int, Int], Int], models: Sequence[RowModels]
) -> Int:
    """The symbols [n, P] of a range-coded stream.

    Args:
        payload: the stream.
        n_messages: n.
        n_positions: P.
        row_of: gives the rows [n] of a position once all symbols before it are known.
        models: the coder's models of each position.

    Raises:
        CodecError: these bytes are no stream of n messages.
    """
    limit = 4 * n_messages * n_positions + 8  # a symbol costs at most 24 bits in the coder
    if len(payload) > limit:
        raise CodecError(f"{len(payload)} payload bytes for {n_messages * n_positions} symbols, at most {limit} fit")
    words = np.frombuffer(payload + bytes(8 + -len(payload) % 4), ">u4").astype(np.uint32)
    coder = constriction.stream.queue.RangeDecoder(words)
    symbols = np.zeros((n_messages, n_positions), np.int64)
    try:
        coder.decode(_FLAG, 1)
        for position in range(n_positions):
            order, runs = _grouped(row_of(position, symbols))
            model = models[position]
            column = [coder.decode(model[row], end - start) for row, start, end in runs]
            if column:
                symbols[:, position][order] = np.concatenate(column) if len(column) > 1 else column[0]
    except (AssertionError, ValueError) as error:
        raise CodecError("the payload is no stream of this codec; the frame is damaged") from error
    return symbols


def symbol_bits(alphabet: int) -> int:
    """Bits of one bit-packed code."""
    return max(1, (alphabet - 1).bit_length())


def packed_bytes(n_codes: int, alphabet: int) -> int:
    """The size of a bit-packed stream."""
    return (1 + n_codes * symbol_bits(alphabet) + 7) // 8


def pack(codes: Int, alphabet: int) -> bytes:
    """Codes [n, P], each in as many bits as the alphabet needs."""
    width = symbol_bits(alphabet)
    bits = np.ones(1 + codes.size * width, np.uint8)  # the first one says that this is packed
    short = codes.ravel().astype(np.uint32)
    for nth in range(width):
        bits[1 + nth :: width] = short >> (width - 1 - nth) & 1
    return np.packbits(bits).tobytes()


def unpack(payload: bytes, shape: tuple[int, int], alphabet: int) -> Int:
    """The codes of a bit-packed stream, [n, P].

    Raises:
        CodecError: these bytes are no stream of n messages.
    """
    width = symbol_bits(alphabet)
    n_codes = shape[0] * shape[1]
    n_bits = 1 + n_codes * width
    if len(payload) != (n_bits + 7) // 8:
        raise CodecError(f"{len(payload)} packed bytes where {(n_bits + 7) // 8} were expected; the frame is damaged")
    bits = np.unpackbits(np.frombuffer(payload, np.uint8)).astype(np.int64)
    if bits[n_bits:].any():
        raise CodecError("the padding of a packed payload is not zero; the frame is damaged")
    codes: Int = bits[1:n_bits].reshape(n_codes, width) @ (1 << np.arange(width - 1, -1, -1))
    if (codes >= alphabet).any():
        raise CodecError(f"a packed symbol is outside the alphabet of {alphabet}; the frame is damaged")
    return codes.reshape(shape)
