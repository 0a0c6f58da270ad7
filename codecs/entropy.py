"""Symbols to bytes and back: range coding by the `constriction` library, or bit packing where that is smaller.

Two ways to pack a suitcase: roll the clothes by how often they are worn (range coding), or fold them all to one size
(bit packing). The first bit of the stream says which: 0 rolled, 1 folded. A range coder's last words are padding that a
short stream cannot afford, so the tail is cut to the fewest bytes that still decode; both ends read a stream as if
zeros followed it for ever.

The coder sees only integer tables; the floats handed to `constriction` are table / 2**16, exact in float64, so its
fixed-point tables are the same on every IEEE machine.
"""

from collections.abc import Iterator

import constriction
import numpy as np
from numpy.typing import NDArray

from commlib.errors import CodecError

STREAM = "range-or-packed-1"
"""Names this bitstream in every digest; whoever changes the bytes changes the name."""

TABLE_BITS = 16
TABLE_TOTAL = 1 << TABLE_BITS
_TRIM_BELOW_BYTES = 2048
"""Longer streams keep their last words: cutting them would save under 0.4 % and cost a decode for each try."""

Int = NDArray[np.int64]
_FLAG = constriction.stream.model.Uniform(2)


class TableModels:
    """The coder's models of a table [P, C, K] of integer frequencies, each built when it is first used."""

    def __init__(self, table: NDArray[np.uint32]) -> None:
        self._table = table
        self._models: dict[tuple[int, int], object] = {}

    def __call__(self, position: int, row: int) -> object:
        """The model of symbol `position` in context row `row`."""
        model = self._models.get((position, row))
        if model is None:
            probabilities = self._table[position, row].astype(np.float64) / TABLE_TOTAL
            model = constriction.stream.model.Categorical(probabilities, perfect=False)
            self._models[position, row] = model
        return model


def _runs(rows: Int) -> Iterator[tuple[int, int, NDArray[np.intp]]]:
    """The coding order: position by position, messages with the same context row together."""
    for position in range(rows.shape[1]):
        column = rows[:, position]
        order = np.argsort(column, kind="stable")
        cuts = np.flatnonzero(np.diff(column[order])) + 1
        for which in np.split(order, cuts):
            yield position, int(column[which[0]]), which


def encode(symbols: Int, rows: Int, models: TableModels, alphabet: int) -> bytes:
    """Symbols [n, P] under the models of their context rows [n, P], as the shorter of the two streams."""
    if symbols.size == 0:
        return b""
    packed = _pack(symbols, alphabet)
    coder = constriction.stream.queue.RangeEncoder()
    coder.encode(np.zeros(1, np.int32), _FLAG)
    for position, row, which in _runs(rows):
        coder.encode(symbols[which, position].astype(np.int32), models(position, row))
    stream = coder.get_compressed().astype(">u4").tobytes()
    if len(stream) - 8 > len(packed):
        return packed
    coded = _trim(stream, symbols, rows, models) if len(stream) <= _TRIM_BELOW_BYTES else stream.rstrip(b"\0")
    return coded if len(coded) <= len(packed) else packed


def decode(payload: bytes, rows: Int, models: TableModels, alphabet: int) -> Int:
    """The symbols [n, P] of a stream whose context rows [n, P] are known.

    Raises:
        CodecError: these bytes are no stream of n messages.
    """
    if rows.size == 0:
        if payload:
            raise CodecError(f"{len(payload)} payload bytes for no message; the frame is damaged")
        return np.zeros(rows.shape, np.int64)
    if payload and payload[0] & 0x80:
        return _unpack(payload, rows.shape, alphabet)
    limit = 4 * rows.size + 8  # a symbol costs at most 24 bits in the coder
    if len(payload) > limit:
        raise CodecError(f"{len(payload)} payload bytes for {rows.size} symbols, at most {limit} are possible")
    return _decode_range(payload, rows, models)


def _decode_range(payload: bytes, rows: Int, models: TableModels) -> Int:
    words = np.frombuffer(payload + bytes(8 + -len(payload) % 4), ">u4").astype(np.uint32)
    coder = constriction.stream.queue.RangeDecoder(words)
    symbols = np.empty(rows.shape, np.int64)
    try:
        coder.decode(_FLAG, 1)
        for position, row, which in _runs(rows):
            symbols[which, position] = coder.decode(models(position, row), len(which))
    except (AssertionError, ValueError) as error:
        raise CodecError("the payload is no stream of this codec; the frame is damaged") from error
    return symbols


def _trim(stream: bytes, symbols: Int, rows: Int, models: TableModels) -> bytes:
    """The fewest leading bytes, rounded down or up, that decode to the same symbols."""
    for length in range(max(0, len(stream) - 8), len(stream)):
        down = int.from_bytes(stream[:length], "big")
        for value in (down, down + 1):
            if value >> (8 * length):
                continue
            shorter = value.to_bytes(length, "big")
            if shorter[:1] >= b"\x80":
                continue
            try:
                decoded = _decode_range(shorter, rows, models)
            except CodecError:
                continue
            if np.array_equal(decoded, symbols):
                return shorter.rstrip(b"\0")
    return stream.rstrip(b"\0")


def symbol_bits(alphabet: int) -> int:
    """Bits of one bit-packed symbol."""
    return max(1, (alphabet - 1).bit_length())


def _pack(symbols: Int, alphabet: int) -> bytes:
    width = symbol_bits(alphabet)
    bits = (symbols.reshape(-1, 1) >> np.arange(width - 1, -1, -1)) & 1
    return np.packbits(np.concatenate([[1], bits.ravel()]).astype(np.uint8)).tobytes()


def _unpack(payload: bytes, shape: tuple[int, ...], alphabet: int) -> Int:
    width = symbol_bits(alphabet)
    n_symbols = int(np.prod(shape))
    n_bits = 1 + n_symbols * width
    if len(payload) != (n_bits + 7) // 8:
        raise CodecError(f"{len(payload)} packed bytes where {(n_bits + 7) // 8} were expected; the frame is damaged")
    bits = np.unpackbits(np.frombuffer(payload, np.uint8)).astype(np.int64)
    if bits[n_bits:].any():
        raise CodecError("the padding of a packed payload is not zero; the frame is damaged")
    symbols = bits[1:n_bits].reshape(n_symbols, width) @ (1 << np.arange(width - 1, -1, -1))
    if (symbols >= alphabet).any():
        raise CodecError(f"a packed symbol is outside the alphabet of {alphabet}; the frame is damaged")
    return symbols.reshape(shape)
