"""The entropy coder on any table, contexts and sizes: what is encoded comes back, any bytes are decoded or refused."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from commlib.codecs.entropy import TABLE_TOTAL, TableModels, decode, encode, symbol_bits
from commlib.codecs.prior import to_integers
from commlib.errors import CodecError


@st.composite
def languages(draw, most_symbols=40):
    """A table [P, C, K], from even to extremely skewed, and context rows and symbols [n, P]."""
    n, n_positions, n_rows = draw(st.integers(0, most_symbols)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    alphabet = draw(st.integers(2, 300))
    numbers = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    skew = draw(st.sampled_from([0.0, 1.0, 5.0, 40.0, 300.0]))
    table = to_integers(numbers.random((n_positions, n_rows, alphabet)) ** skew + 1e-300)
    rows = numbers.integers(0, n_rows, (n, n_positions))
    likely = table[np.arange(n_positions), rows].argmax(-1)
    is_likely = numbers.random((n, n_positions)) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    symbols = np.where(is_likely, likely, numbers.integers(0, alphabet, (n, n_positions)))
    return table, rows, symbols.astype(np.int64), alphabet


def estimate(table, rows, symbols):
    return -np.log2(table[np.arange(table.shape[0]), rows, symbols] / TABLE_TOTAL).sum()


@given(languages())
@settings(max_examples=300, deadline=None)
def test_what_is_encoded_comes_back(language):
    table, rows, symbols, alphabet = language
    models = TableModels(table)
    payload = encode(symbols, rows, models, alphabet)
    assert np.array_equal(decode(payload, rows, models, alphabet), symbols)
    assert payload == encode(symbols, rows, TableModels(table), alphabet)


@given(languages(most_symbols=200))
@settings(max_examples=100, deadline=None)
def test_a_stream_is_never_longer_than_the_estimate_allows_nor_than_packing(language):
    table, rows, symbols, alphabet = language
    bits = 8 * len(encode(symbols, rows, TableModels(table), alphabet))
    assert bits <= 1.01 * estimate(table, rows, symbols) + 64
    assert bits <= 8 + symbols.size * symbol_bits(alphabet)


@given(languages(), st.binary(max_size=60), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_bytes_decode_to_codes_in_range_or_are_refused(language, data, is_packed):
    table, rows, _, alphabet = language
    if is_packed and rows.size:  # the right length, so that the packed branch is taken to its end
        length = (1 + rows.size * symbol_bits(alphabet) + 7) // 8
        data = b"\x80" + (data * (length // max(1, len(data)) + 1))[: length - 1]
    try:
        decoded = decode(data, rows, TableModels(table), alphabet)
    except CodecError as error:
        assert "\n" not in str(error)
        return
    assert decoded.shape == rows.shape
    assert decoded.dtype == np.int64
    assert ((decoded >= 0) & (decoded < alphabet)).all()


@given(languages(), st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_stream_decodes_in_range_or_is_refused(language, data):
    table, rows, symbols, alphabet = language
    models = TableModels(table)
    payload = encode(symbols, rows, models, alphabet)
    at = data.draw(st.integers(0, len(payload)))
    junk = data.draw(st.binary(max_size=3))
    try:
        decoded = decode(payload[:at] + junk + payload[at + data.draw(st.integers(0, 3)) :], rows, models, alphabet)
    except CodecError:
        return
    assert ((decoded >= 0) & (decoded < alphabet)).all()


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=300).filter(lambda weights: sum(weights) > 1e-6))
@settings(deadline=None)
def test_integer_tables_add_up_and_have_no_zero(weights):
    row = to_integers(np.array([weights]))
    assert row.sum() == TABLE_TOTAL
    assert row.min() >= 1
    assert row.dtype == np.uint32
