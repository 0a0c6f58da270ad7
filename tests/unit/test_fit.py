"""Fitting codecs to recorded messages, and compressing agents that were never trained with one."""

import numpy as np
import pytest

from commlib.codec import fresh_context
from commlib.codecs.fit import NAMES, Settings, checked, encode_stream, fit_codec
from commlib.codecs.residual import coarse
from commlib.codecs.trellis import even_trellis
from commlib.errors import CodecError, ConfigError
from commlib.experiments.compress import compress_vectors, read_vectors
from commlib.testing import check_codec


def gaussian(n, width=4, seed=0):
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


def gap_db(fit, width):
    rate, error = fit.bits / width, fit.distortion / width
    return 10 * np.log10(error / 2 ** (-2 * rate))


@pytest.mark.parametrize("name", NAMES)
def test_every_fitted_codec_keeps_the_laws_and_its_held_out_figures_are_true(name):
    fit = fit_codec(gaussian(3000), Settings(name, 16, rate_weight=0.1, n_rounds=3))
    check_codec(fit.codec)
    other = gaussian(3000, seed=9)[:, None]
    codes, contexts = encode_stream(fit.codec, other, 0.1)
    assert fit.codec.estimate_bits(codes, contexts).mean() == pytest.approx(fit.bits, rel=0.06)
    error = np.square(fit.codec.embed(codes, contexts) - other[:, 0]).sum(-1).mean()
    assert error == pytest.approx(fit.distortion, rel=0.1, abs=1e-9)
    assert fit.n_messages == 2400


def test_a_rate_weight_buys_bits_with_distortion():
    fits = [fit_codec(gaussian(4000), Settings("rvq", 16, rate_weight=w, n_rounds=4)) for w in (0.0, 0.2, 0.8)]
    assert fits[0].bits > fits[1].bits > fits[2].bits
    assert fits[0].distortion < fits[1].distortion < fits[2].distortion


def test_trellis_is_within_1_15_db_of_the_gaussian_bound_and_beats_an_even_grid():
    x = gaussian(20_000, 8)
    trellis = fit_codec(x, Settings("trellis", 64, rate_weight=0.45, step=0.7, n_rounds=6))
    assert 0.95 < trellis.bits / 8 < 1.05
    assert gap_db(trellis, 8) < 1.15
    grid = fit_codec(x, Settings("int8", context="none", rate_weight=0.45, n_rounds=6))
    assert gap_db(grid, 8) > gap_db(trellis, 8) + 0.3


def test_the_search_of_a_trellis_finds_the_best_path():
    quantiser = even_trellis(np.zeros(4, np.float32), np.full(4, 0.5, np.float32), 4)
    paths = np.stack(np.meshgrid(*[np.arange(4)] * 4, indexing="ij"), -1).reshape(-1, 4)
    x = gaussian(50)
    best = np.square(x[:, None] - quantiser.embed(paths)).sum(-1).min(1)
    assert np.allclose(np.square(x - quantiser.embed(quantiser.nearest(x))).sum(-1), best, atol=1e-5)


def test_a_context_pays_where_messages_follow_from_each_other_and_not_elsewhere():
    held = gaussian(300, 4).repeat(8, axis=0).reshape(300, 8, 4)
    bits = {kind: fit_codec(held, Settings("vq", 16, context=kind)).bits for kind in ("none", "previous", "held")}
    assert bits["previous"] < 0.25 * bits["none"]
    assert bits["held"] < 0.25 * bits["none"]
    alone = {kind: fit_codec(gaussian(4000), Settings("vq", 16, context=kind)).bits for kind in ("none", "previous")}
    assert alone["previous"] == pytest.approx(alone["none"], rel=0.02)


def test_ages_pay_where_a_message_depends_on_the_step():
    steps = np.tile(np.eye(6, dtype=np.float32), (200, 1, 1)) + 0.01 * gaussian(200 * 6, 6).reshape(200, 6, 6)
    blind = fit_codec(steps, Settings("vq", 6, context="none"))
    knows = fit_codec(steps, Settings("vq", 6, context="none", n_ages=6))
    assert blind.bits > 2.5
    assert knows.bits < 0.1


def test_a_residual_message_can_be_told_coarse():
    fit = fit_codec(gaussian(4000), Settings("rvq", 16, n_stages=3))
    codes = fit.codec.choose(gaussian(500, seed=4), fresh_context(500, 3))
    errors = [np.square(fit.codec.embed(coarse(codes, n)) - gaussian(500, seed=4)).mean() for n in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]
    bits = [fit.codec.estimate_bits(coarse(codes, n), fresh_context(500, 3)).mean() for n in (1, 2, 3)]
    assert bits[0] < 1.5 * np.log2(16) + 12, "not even a coarse message is dear"
    assert np.array_equal(coarse(codes, 3), codes)


def test_it_says_when_it_has_seen_enough():
    assert fit_codec(gaussian(20_000), Settings("vq", 8)).has_enough
    many = np.random.default_rng(0).integers(0, 64, 60)
    assert not fit_codec(np.eye(64, dtype=np.float32)[many], Settings("vq", 64)).has_enough


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        (np.zeros((3, 4)), "3 links of messages are too few"),
        (np.full((20, 4), np.inf), "NaN or infinity"),
        (np.zeros(20), "must be float"),
        ("words", "must be numbers"),
    ],
)
def test_messages_that_cannot_be_used_are_refused(messages, sentence):
    with pytest.raises(CodecError, match=sentence):
        checked(messages)


def test_unknown_names_and_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no codec called 'zip' can be fitted"):
        Settings("zip")
    with pytest.raises(CodecError, match="there is no file"):
        read_vectors(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(b"junk")
    with pytest.raises(CodecError, match=r"is no .npy file of numbers"):
        read_vectors(tmp_path / "x.npy")


def test_vectors_are_compressed_to_the_distortion_that_is_asked_for():
    made = compress_vectors(gaussian(3000), Settings("trellis", 32, step=0.3), most_distortion=0.2)
    assert made.points[made.chosen].distortion <= 0.2
    assert made.points[made.chosen].bits < made.points[0].bits
    with pytest.raises(CodecError, match="the least is"):
        compress_vectors(gaussian(1000), Settings("vq", 4), most_distortion=0.001)


def test_a_codec_knows_what_saves_most_on_messages_it_has_not_seen():
    draw = np.random.default_rng(3)
    words = 3 * draw.normal(size=(16, 4)).astype(np.float32)
    new = draw.integers(0, 16, size=(400, 12))
    held = np.maximum.accumulate(np.where(draw.random((400, 12)) < 0.5, np.arange(12), 0), 1)
    cases = {
        "none": new,
        "held": np.take_along_axis(new, held, 1),
        "previous": (np.cumsum(draw.integers(1, 3, size=(400, 12)), 1) % 16),  # one or two further than before
    }
    for kind, codes in cases.items():
        best = fit_codec(words[codes], Settings("vq", 16))
        assert best.codec.prior.kind == kind
        assert best.bits <= min(fit_codec(words[codes], Settings("vq", 16, context=k)).bits for k in cases) + 1e-9
