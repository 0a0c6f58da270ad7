"""The entropy coder on any table, contexts and sizes: what is encoded comes back, any bytes are decoded or refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlib.codecs.entropy import (
    PACKED,
    TABLE_TOTAL,
    RowModels,
    decode,
    encode,
    pack,
    packed_bytes,
    symbol_bits,
    unpack,
)
from commlib.codecs.prior import to_integers
from commlib.errors import CodecError

MOST_SLACK_BITS = 17
"""What a stream may have above its estimate: the flag bit, and less than two bytes for a whole number of bytes and the
coder's own rounding, 24 bits of a probability and at least 32 of an interval."""


@st.composite
def languages(draw, fewest=0, most=40):
    """A table [P, C, K], from even to extremely skewed, and context rows and symbols [n, P]."""
    n, n_positions, n_rows = draw(st.integers(fewest, most)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    alphabet = draw(st.integers(2, 300))
    numbers = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    skew = draw(st.sampled_from([0.0, 1.0, 5.0, 40.0, 300.0]))
    likely_share = draw(st.sampled_from([0.0, 0.5, 1.0]))
    return (*made(numbers, n, n_positions, n_rows, alphabet, skew, likely_share), alphabet)


def made(numbers, n, n_positions, n_rows, alphabet, skew, likely_share):
    """A table of some skew, and rows and symbols of which a share are the likeliest of their row."""
    table = to_integers(numbers.random((n_positions, n_rows, alphabet)) ** skew + 1e-300)
    rows = numbers.integers(0, n_rows, (n, n_positions))
    likely = table[np.arange(n_positions), rows].argmax(-1)
    is_likely = numbers.random((n, n_positions)) < likely_share
    symbols = np.where(is_likely, likely, numbers.integers(0, alphabet, (n, n_positions)))
    return table, rows, symbols.astype(np.int64)


def estimate(table, rows, symbols):
    return -np.log2(table[np.arange(table.shape[0]), rows, symbols] / TABLE_TOTAL).sum()


def read(payload, rows, models):
    return decode(payload, *rows.shape, lambda position, _: rows[:, position], models)


def in_range(decoded, rows, alphabet):
    assert decoded.shape == rows.shape
    assert decoded.dtype == np.int64
    assert ((decoded >= 0) & (decoded < alphabet)).all()


@given(languages())
@settings(max_examples=300, deadline=None)
def test_what_is_encoded_comes_back(language):
    table, rows, symbols, _ = language
    models = [RowModels(rows) for rows in table]
    payload = encode(symbols, rows, models)
    assert np.array_equal(read(payload, rows, models), symbols)
    assert payload == encode(symbols, rows, [RowModels(rows) for rows in table])
    assert payload[:1] < bytes([PACKED]), "it would pass for a packed stream"
    assert not payload.endswith(b"\0"), "zeros at the end need not be sent"


@given(languages())
@settings(max_examples=200, deadline=None)
def test_what_is_packed_comes_back(language):
    _, _, symbols, alphabet = language
    payload = pack(symbols, alphabet)
    assert np.array_equal(unpack(payload, symbols.shape, alphabet), symbols)
    assert payload[0] & PACKED
    assert len(payload) == packed_bytes(symbols.size, alphabet) == (1 + symbols.size * symbol_bits(alphabet) + 7) // 8


@given(languages(most=200))
@settings(max_examples=100, deadline=None)
def test_a_stream_is_never_longer_than_the_estimate_allows(language):
    table, rows, symbols, _ = language
    assert (
        8 * len(encode(symbols, rows, [RowModels(rows) for rows in table]))
        <= estimate(table, rows, symbols) + MOST_SLACK_BITS
    )


def cases(n_cases, seed):
    """Many small languages, of one symbol and up."""
    numbers = np.random.default_rng(seed)
    for case in range(n_cases):
        n = 1 if case % 4 == 0 else int(numbers.integers(1, 60))
        n_positions = 1 if case % 8 < 6 else 3
        skew, likely_share = numbers.choice([0.0, 1.0, 5.0, 40.0, 300.0]), numbers.choice([0.0, 0.9, 1.0])
        alphabet = int(numbers.integers(2, 40))
        yield made(numbers, n, n_positions, int(numbers.integers(1, 4)), alphabet, skew, likely_share)


def test_the_shortest_stream_comes_back_in_2000_cases_and_is_within_its_estimate():
    lengths, over = [], []
    for table, rows, symbols in cases(2000, seed=0):
        models = [RowModels(rows) for rows in table]
        payload = encode(symbols, rows, models)
        assert np.array_equal(read(payload, rows, models), symbols)
        lengths.append(len(payload))
        over.append(8 * len(payload) - estimate(table, rows, symbols))
    assert max(over) <= MOST_SLACK_BITS
    assert np.mean(over) < 6, "flag and rounding up to a byte take 1 + 3.5 bits on average"
    assert {0, 1, 2} <= set(lengths), "one symbol, all but certain, takes no byte; a doubtful one takes some"


def test_a_stream_near_the_top_of_the_interval_carries_and_comes_back():
    """The last symbol again and again: the interval clings to 1/2, and every rounding up carries through all words."""
    table = to_integers(np.array([[[1.0, 1.0, 1e6]]]))
    models = [RowModels(rows) for rows in table]
    for n in range(1, 400):
        for odd in (0, 1, 2):
            symbols = np.full((n, 1), 2)
            symbols[-1] = odd
            rows = np.zeros_like(symbols)
            payload = encode(symbols, rows, models)
            assert np.array_equal(read(payload, rows, models), symbols)
            assert 8 * len(payload) <= estimate(table, rows, symbols) + MOST_SLACK_BITS


@pytest.mark.parametrize("n", [1, 3, 12])
def test_no_shorter_stream_says_the_same(n):
    """All streams that are shorter by one byte or more are tried where they can be: up to two bytes."""
    table = to_integers(np.array([[[5.0, 2.0, 1.0]]]))
    models, numbers = [RowModels(rows) for rows in table], np.random.default_rng(n)
    for _ in range(20):
        symbols = numbers.integers(0, 3, (n, 1))
        rows = np.zeros_like(symbols)
        payload = encode(symbols, rows, models)
        if 1 <= len(payload) <= 2:
            for shorter in range(256 ** (len(payload) - 1)):
                data = shorter.to_bytes(len(payload) - 1, "big")
                if data[:1] < bytes([PACKED]):
                    assert not np.array_equal(read(data, rows, models), symbols)


@given(languages(), st.binary(max_size=60), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_bytes_decode_to_codes_in_range_or_are_refused(language, data, is_packed):
    table, rows, _, alphabet = language
    if is_packed and rows.size:  # the right length, so that unpacking comes to its end
        length = packed_bytes(rows.size, alphabet)
        data = b"\x80" + (data * (length // max(1, len(data)) + 1))[: length - 1]
    try:
        decoded = (
            unpack(data, rows.shape, alphabet) if is_packed else read(data, rows, [RowModels(rows) for rows in table])
        )
    except CodecError as error:
        assert "\n" not in str(error)
    else:
        in_range(decoded, rows, alphabet)


@given(languages(), st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_stream_decodes_in_range_or_is_refused(language, data):
    table, rows, symbols, alphabet = language
    models = [RowModels(rows) for rows in table]
    payload = encode(symbols, rows, models)
    at = data.draw(st.integers(0, len(payload)))
    junk = data.draw(st.binary(max_size=3))
    try:
        decoded = read(payload[:at] + junk + payload[at + data.draw(st.integers(0, 3)) :], rows, models)
    except CodecError:
        return
    in_range(decoded, rows, alphabet)


@given(languages(fewest=1), st.integers(1, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_a_packed_stream_has_one_spelling(language, flips):
    _, _, symbols, alphabet = language
    payload = pack(symbols, alphabet)
    padding = 8 * len(payload) - 1 - symbols.size * symbol_bits(alphabet)
    spoilt = payload[:-1] + bytes([payload[-1] | flips % (1 << padding)])
    if spoilt != payload:
        with pytest.raises(CodecError, match="padding"):
            unpack(spoilt, symbols.shape, alphabet)
    for other in (payload + b"\0", payload[:-1]):
        with pytest.raises(CodecError, match="were expected"):
            unpack(other, symbols.shape, alphabet)


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=300).filter(lambda weights: sum(weights) > 1e-6))
@settings(deadline=None)
def test_integer_tables_add_up_and_have_no_zero(weights):
    row = to_integers(np.array([weights]))
    assert row.sum() == TABLE_TOTAL
    assert row.min() >= 1
    assert row.dtype == np.uint32
