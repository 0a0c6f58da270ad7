"""Every kind of prior, over any table, past and age: one bill for the estimate, the search and the coder."""

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from commlib.codec import START, fresh_context
from commlib.codecs.frozen import CodebookQuantiser, GridQuantiser, TableCodec
from commlib.codecs.prior import Prior, to_integers
from commlib.codecs.rate import RateTable
from commlib.codecs.rows import KINDS, n_rows, n_symbols
from commlib.errors import CodecError


@st.composite
def languages(draw, most=40, most_positions=3, most_codes=6, kinds=KINDS):
    """A prior, contexts [n, P + 1] of which some are fresh, and codes [n, P] that often say the same again."""
    kind, n_ages = draw(st.sampled_from(kinds)), draw(st.integers(1, 3))
    n_positions, alphabet, n = (
        draw(st.integers(1, most_positions)),
        draw(st.integers(2, most_codes)),
        draw(st.integers(0, most)),
    )
    numbers = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = n_positions, n_ages * n_rows(kind, alphabet), n_symbols(kind, alphabet)
    prior = Prior(
        to_integers(numbers.random(shape) ** draw(st.sampled_from([0.0, 1.0, 8.0, 60.0])) + 1e-300), kind, n_ages
    )
    context = fresh_context(n, n_positions)
    is_old = numbers.random(n) < 0.7
    context[is_old, :-1] = numbers.integers(0, alphabet, (is_old.sum(), n_positions))
    context[is_old, -1] = numbers.integers(1, 6, is_old.sum())
    codes = numbers.integers(0, alphabet, (n, n_positions))
    again = (numbers.random(codes.shape) < 0.5) & (context[:, :-1] != START)
    return prior, context, np.where(again, context[:, :-1], codes)


def grid(prior):
    """A codec with a number per position, the codes its places on a line."""
    low, step = np.zeros(prior.n_positions, np.float32), np.ones(prior.n_positions, np.float32)
    return TableCodec("grid", GridQuantiser(low, step, prior.alphabet), prior)


@given(languages())
@settings(max_examples=300, deadline=None)
def test_what_is_encoded_comes_back_within_its_estimate(language):
    prior, context, codes = language
    codec = grid(prior)
    payload = codec.encode(codes, context)
    assert np.array_equal(codec.decode(payload, context), codes)
    assert 8 * len(payload) <= prior.estimate_bits(codes, context).sum() + 17
    for n in range(min(3, len(codes))):  # single messages are remembered: the second time is a look-up
        for _ in range(2):
            alone = codec.encode(codes[n : n + 1], context[n : n + 1])
            assert np.array_equal(codec.decode(alone, context[n : n + 1]), codes[n : n + 1])
            assert alone == grid(prior).encode(codes[n : n + 1], context[n : n + 1])


@given(languages(most=3))
@settings(max_examples=200, deadline=None)
def test_probabilities_in_one_context_add_up_to_at_most_one(language):
    prior, context, _ = language
    every = np.array(list(itertools.product(range(prior.alphabet), repeat=prior.n_positions)))
    for one in context:
        total = np.exp2(-prior.estimate_bits(every, np.tile(one, (len(every), 1)))).sum()
        assert total <= 1 + 1e-9
        if prior.kind != "held":  # there "the same again" takes the place of a code that is never said as itself
            assert total >= 1 - 1e-9


@given(languages())
@settings(max_examples=200, deadline=None)
def test_the_bits_of_each_code_add_up_to_the_estimate(language):
    prior, context, codes = language
    total, everyone = np.zeros(len(codes)), np.arange(len(codes))
    for position in range(prior.n_positions):
        known = codes.copy()
        known[:, position:] = 0
        bits = prior.code_bits(position, context, known)
        assert bits.shape == (len(codes), prior.alphabet)
        total += bits[everyone, codes[:, position]]
    assert np.allclose(total, prior.estimate_bits(codes, context))


@given(languages())
@settings(max_examples=200, deadline=None)
def test_what_is_expected_is_the_cheapest_code_of_each_position_in_turn(language):
    prior, context, _ = language
    expected = prior.expected(context)
    for position in range(prior.n_positions):
        bits = prior.code_bits(position, context, expected)
        assert np.allclose(bits[np.arange(len(bits)), expected[:, position]], bits.min(-1, initial=64.0))


@given(languages(kinds=("none", "held", "trellis")), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_a_stream_that_survives_loss_is_read_with_another_past(language, shift):
    """All that is said as itself is right; only "the same again" means what the reader last heard."""
    prior, context, codes = language
    codec, elsewhere = grid(prior), context.copy()
    is_old = context[:, 0] != START
    elsewhere[is_old, :-1] = (context[is_old, :-1] + shift) % prior.alphabet
    assert codec.survives_loss
    found = codec.decode(codec.encode(codes, context), elsewhere)
    is_again = (codes == context[:, :-1]) & (prior.kind == "held")
    is_packed = codec.encode(codes, context)[:1] >= b"\x80"
    assert np.array_equal(found[~is_again], codes[~is_again])
    if not is_packed:
        assert np.array_equal(found[is_again], elsewhere[:, :-1][is_again])


@given(languages(), st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_codes_or_a_codec_error(language, data):
    prior, context, _ = language
    try:
        codes = grid(prior).decode(data, context)
    except CodecError as error:
        assert "\n" not in str(error)
    else:
        assert codes.shape == (len(context), prior.n_positions)
        assert ((codes >= 0) & (codes < prior.alphabet)).all()


@given(languages(), st.sampled_from([0.0, 0.01, 0.3, 5.0]))
@settings(max_examples=200, deadline=None)
def test_training_pays_and_chooses_by_the_same_prior(language, rate_weight):
    prior, context, codes = language
    rate = RateTable(prior.n_positions, prior.alphabet, prior.kind, prior.n_ages)
    rate.set_prior(prior)
    contexts = torch.from_numpy(context)
    bits = rate(torch.from_numpy(codes), contexts).numpy()
    assert np.allclose(bits, prior.estimate_bits(codes, context), rtol=1e-5, atol=1e-4)
    vectors = np.random.default_rng(len(codes)).uniform(0, prior.alphabet, codes.shape).astype(np.float32)
    places = np.arange(prior.alphabet, dtype=np.float32)
    distortions = np.square(vectors[:, :, None] - places)
    wanted = grid(prior).choose(vectors, context, rate_weight)
    least = costs(prior, distortions, context, wanted, rate_weight)
    for position in range(
        prior.n_positions
    ):  # no other symbol at any position, the rest as it is, if the rest stays as dear
        if prior.kind in ("none", "previous", "held"):
            for symbol in range(prior.alphabet):
                other = wanted.copy()
                other[:, position] = symbol
                assert (costs(prior, distortions, context, other, rate_weight) >= least - 1e-3).all()
    if prior.n_positions == 1:
        column = CodebookQuantiser(places[:, None])
        by_book = TableCodec("book", column, prior).choose(vectors, context, rate_weight)
        assert np.allclose(costs(prior, distortions, context, by_book, rate_weight), least, rtol=1e-3, atol=1e-3)
    assert torch.equal(
        rate(torch.from_numpy(codes), None),
        rate(torch.from_numpy(codes), torch.from_numpy(fresh_context(*codes.shape))),
    )
    assert np.array_equal(rate.prior.table, prior.table)
    assert (rate.prior.kind, rate.prior.n_ages) == (prior.kind, prior.n_ages)


def costs(prior, distortions, context, codes, rate_weight):
    """The cost of the first position, where the two searches must agree; later ones depend on how a tie fell there."""
    first = codes[:, :1]
    distortion = np.take_along_axis(distortions[:, 0], first, 1)[:, 0]
    bits = prior.code_bits(0, context, np.zeros_like(codes))
    return distortion + rate_weight * np.take_along_axis(bits, first, 1)[:, 0]
