"""The quick paths of frozen codecs change nothing: remembered messages, grouped rows, packed bits."""

import numpy as np
import pytest

from commlib.codec import fresh_context
from commlib.codecs import entropy
from commlib.codecs.frozen import CodebookQuantiser, TableCodec
from commlib.codecs.prior import Prior, fit_prior, to_integers, uniform_prior
from commlib.errors import CodecError

KINDS = ("none", "previous", "held")


def dice(seed=0):
    return np.random.default_rng(seed)


def codec(kind, n_ages=1, alphabet=8):
    """A codec whose prior differs from row to row and, if told apart, from age to age."""
    draw = dice(1)
    codes = draw.integers(0, alphabet, size=(5000, 1))
    ages = draw.integers(0, 4, size=(5000, 1))
    codes = np.where(draw.random((5000, 1)) < 0.2 * (1 + ages), ages, codes)
    contexts = np.concatenate([np.roll(codes, 1, 0), ages], 1)
    contexts[ages[:, 0] == 0, 0] = -1
    prior = fit_prior(codes, contexts, alphabet, kind, n_ages)
    return TableCodec("vq", CodebookQuantiser(draw.normal(size=(alphabet, 4)).astype(np.float32)), prior)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_ages", [1, 3])
def test_a_remembered_message_is_the_one_that_would_be_coded(kind, n_ages):
    remembering = codec(kind, n_ages)
    for age in (0, 1, 2, 3, 50):
        for past in range(-1, 8):
            context = np.array([[past, age]])
            for code in range(8):
                forgetful = TableCodec(remembering.name, remembering.quantiser, remembering.prior)
                codes = np.array([[code]])
                payload = remembering.encode(codes, context)
                assert payload == forgetful.encode(codes, context)
                assert remembering.decode(payload, context).tolist() == [[code]]
                assert forgetful.decode(payload, context).tolist() == [[code]]


def test_ages_that_the_prior_does_not_tell_apart_are_remembered_as_one():
    one, three = codec("previous"), codec("previous", 3)
    for age in range(1, 100):
        for each in (one, three):
            context = np.array([[2, age]])
            each.decode(each.encode(np.array([[5]]), context), context)
    assert (len(one._said), len(one._heard)) == (1, 1)
    assert (len(three._said), len(three._heard)) == (2, 2)


@pytest.mark.parametrize("n", [1, 2, 300])
@pytest.mark.parametrize("n_rows", [1, 3, 70_000])
def test_grouping_is_by_row_and_keeps_the_order_within_it(n, n_rows):
    column = dice(n).integers(0, n_rows, size=n)
    order, runs = entropy._grouped(column)
    which = np.arange(n)[order]
    expected = [(row, np.flatnonzero(column == row).tolist()) for row in np.unique(column)]
    assert [(row, which[start:end].tolist()) for row, start, end in runs] == expected


@pytest.mark.parametrize("alphabet", [2, 3, 64, 256, 257, 1000, 70_000])
def test_packed_codes_are_each_as_wide_as_the_alphabet_needs(alphabet):
    codes = dice().integers(0, alphabet, size=(37, 3))
    width = entropy.symbol_bits(alphabet)
    bits = "1" + "".join(format(code, f"0{width}b") for code in codes.ravel())
    packed = entropy.pack(codes, alphabet)
    assert packed == int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    assert entropy.unpack(packed, codes.shape, alphabet).tolist() == codes.tolist()


def test_a_stream_of_many_rows_comes_back():
    table = to_integers(dice().dirichlet(np.full(8, 0.3), size=(2, 9)))
    models = [entropy.RowModels(rows) for rows in table]
    rows, said = dice(2).integers(0, 9, size=(500, 2)), dice(3).integers(0, 8, size=(500, 2))
    data = entropy.encode(said, rows, models)
    heard = entropy.decode(data, 500, 2, lambda position, known: rows[:, position], models)
    assert heard.tolist() == said.tolist()


def test_a_stream_of_no_messages_is_one_that_comes_back():
    models = [entropy.RowModels(rows) for rows in to_integers(np.ones((2, 1, 4)))]
    none = np.zeros((0, 2), np.int64)
    data = entropy.encode(none, none, models)
    assert entropy.decode(data, 0, 2, lambda position, known: none[:, position], models).shape == (0, 2)


def test_nearest_is_nearest_for_one_message_and_for_many():
    quantiser = codec("none").quantiser
    vectors = dice(4).normal(size=(200, 4)).astype(np.float32)
    apart = np.square(vectors[:, None] - quantiser.codebook).sum(-1)
    assert quantiser.nearest(vectors)[:, 0].tolist() == apart.argmin(-1).tolist()
    assert [int(quantiser.nearest(vector[None])[0, 0]) for vector in vectors] == apart.argmin(-1).tolist()
    assert np.array_equal(quantiser.embed(quantiser.nearest(vectors)), quantiser.codebook[apart.argmin(-1)])


def test_a_remembering_codec_still_checks():
    from commlib.errors import CodecError

    plain = TableCodec("vq", codec("none").quantiser, Prior(to_integers(np.ones((1, 1, 8))), "none"))
    with pytest.raises(CodecError, match="NaN"):
        plain.choose(np.array([[0, np.nan, 0, 0]], np.float32), fresh_context(1, 1))
    with pytest.raises(CodecError, match="codes must lie in"):
        plain.encode(np.array([[8]]), fresh_context(1, 1))


@pytest.mark.parametrize(
    ("n", "alphabet", "width"), [(63, 64, 16), (64, 64, 16), (1500, 64, 16), (700, 300, 4), (200, 7, 3)]
)
def test_the_nearest_code_of_many_is_that_of_each(n, alphabet, width):
    """Messages are looked at in blocks, the last of which is a part; a message between two equal codes takes the first."""
    draw = dice(n)
    codebook = draw.integers(-9, 10, size=(alphabet, width)).astype(np.float32)  # no rounding: ties are ties
    codebook[-1] = codebook[0]
    vectors = np.concatenate([codebook[:1], draw.integers(-9, 10, size=(n - 1, width))]).astype(np.float32)
    quantiser = CodebookQuantiser(codebook)
    apart = np.square(vectors[:, None] - codebook).sum(-1)
    assert quantiser.nearest(vectors).tolist() == apart.argmin(-1)[:, None].tolist()


@pytest.mark.parametrize("n", [entropy.TABLE_BITS, 255, 256, 4096])
def test_a_uniform_batch_is_packed_and_a_skewed_one_is_coded(n):
    context = fresh_context(n, 1)
    even = TableCodec("vq", CodebookQuantiser(np.eye(8, dtype=np.float32)), uniform_prior(1, 8, "none"))
    codes = dice().integers(0, 8, size=(n, 1))
    payload = even.encode(codes, context)
    assert entropy.packed_bytes(n, 8) - len(payload) in (0, 1), "one byte fewer by luck: zeros at the end are not sent"
    assert even.decode(payload, context).tolist() == codes.tolist()
    shares = np.array([[[57, 1, 1, 1, 1, 1, 1, 1]]])
    skewed = TableCodec("vq", even.quantiser, Prior(to_integers(shares.astype(float)), "none"))
    for said in (np.where(codes == 0, 1, 0), codes):  # what it expects, then what it does not
        payload = skewed.encode(said, context)
        assert bool(payload[0] & entropy.PACKED) == (said is codes)
        assert skewed.decode(payload, context).tolist() == said.tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_message_that_is_no_number_is_refused_and_a_huge_one_is_not(bad):
    vectors = np.zeros((100, 4), np.float32)
    vectors[50, 2] = bad
    with pytest.raises(CodecError, match="NaN or infinity"):
        codec("none").choose(vectors, fresh_context(100, 1))
    vectors[50, 2] = 1e30  # its square is no float32
    assert codec("none").choose(vectors, fresh_context(100, 1)).shape == (100, 1)
