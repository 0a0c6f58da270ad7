"""The measuring rods are right: entropies, R(D) against closed forms, and draws that follow their law."""

import numpy as np
import pytest

from commlib.experiments.sources import (
    HeldSource,
    NumberSource,
    autoregressive,
    blahut_arimoto,
    entropy,
    even_blahut_arimoto,
    zipf,
)


def dice(seed=0):
    return np.random.default_rng(seed)


def binary_entropy(p):
    return entropy(np.array([p, 1 - p]))


def test_entropies_of_known_distributions():
    assert entropy(np.full(64, 1 / 64)) == pytest.approx(6)
    assert entropy(np.array([1.0, 0.0])) == 0
    assert zipf(4) == pytest.approx(np.array([12, 6, 4, 3]) / 25)


def test_the_entropy_rate_of_a_held_source():
    assert HeldSource(zipf(64)).entropy_rate() == pytest.approx(entropy(zipf(64)))
    assert HeldSource(zipf(64), 1.0).entropy_rate() == 0
    p = 0.9 + 0.1 / 2  # two even symbols, held nine times in ten: a binary Markov chain
    assert HeldSource(np.array([0.5, 0.5]), 0.9).entropy_rate() == pytest.approx(binary_entropy(p))


def test_a_held_source_draws_what_it_says():
    source = HeldSource(zipf(8), 0.9)
    said = source.draw(400, 2000, dice())
    assert np.bincount(said[-1], minlength=8) / 2000 == pytest.approx(zipf(8), abs=0.04)
    pairs = np.bincount(8 * said[:-1].ravel() + said[1:].ravel(), minlength=64).reshape(8, 8)
    assert pairs / pairs.sum(1, keepdims=True) == pytest.approx(source.transitions(), abs=0.01)


@pytest.mark.parametrize("slope", [0.6, 1.0, 2.0, 8.0, 16.0])
def test_blahut_arimoto_finds_the_gaussian_rate_to_a_hundredth_of_a_bit(slope):
    """R(D) = log2(1 / D) / 2 (Shannon 1959)."""
    points, shares = NumberSource("Gaussian").on_grid()
    found = even_blahut_arimoto(points, shares, slope)
    assert found.rate == pytest.approx(-np.log2(found.distortion) / 2, abs=0.01)
    assert found.rate == pytest.approx(np.log2(2 * slope) / 2, abs=0.01)


@pytest.mark.parametrize(("p", "slope"), [(0.5, 2.0), (0.3, 2.0), (0.1, 4.0)])
def test_blahut_arimoto_finds_the_rate_of_bits_under_hamming_distortion(p, slope):
    """R(D) = h(p) - h(D) (Cover, Thomas 2006, theorem 10.3.1)."""
    found = blahut_arimoto(np.array([p, 1 - p]), 1 - np.eye(2), slope)
    assert found.rate == pytest.approx(binary_entropy(p) - binary_entropy(found.distortion), abs=1e-3)
    assert found.distortion == pytest.approx(1 / (1 + np.exp(slope)), abs=1e-3)


def test_folding_an_even_source_changes_nothing():
    points = np.linspace(0, 4, 41)
    shares = np.exp(-points)
    shares[0] /= 2
    shares /= shares.sum()
    both = np.concatenate([-points[:0:-1], points])
    whole = np.concatenate([shares[:0:-1] / 2, shares[:1], shares[1:] / 2])
    folded = even_blahut_arimoto(points, shares, 2.0, 1e-5)
    full = blahut_arimoto(whole, np.square(both[:, None] - both), 2.0, 1e-5)
    assert folded == pytest.approx(full, abs=1e-3)


@pytest.mark.parametrize("name", ["Gaussian", "Laplace", "sparse"])
def test_a_source_has_variance_1_and_a_curve_that_starts_there(name):
    source = NumberSource(name)
    drawn = source.draw(100_000, 8, dice())
    assert drawn.var() == pytest.approx(1, abs=0.02)
    assert (drawn == 0).mean() == pytest.approx(0.9 if name == "sparse" else 0.0, abs=0.01)
    points, shares = source.on_grid()
    assert shares.sum() == pytest.approx(1)
    assert (shares * points**2).sum() == pytest.approx(1, abs=0.01)


def test_a_curve_is_a_bound_that_falls():
    curve = NumberSource("Gaussian").curve
    assert curve.distortion(0.0) == pytest.approx(1)
    assert curve.distortion(1.0) == pytest.approx(0.25)
    assert curve.distortion(7.0) == pytest.approx(4.0**-7), "it goes on as it ended"
    assert curve.gap_db(1.0, 0.25) == pytest.approx(0, abs=1e-6)


def test_the_laplace_curve_lies_between_its_bounds():
    """Shannon's lower bound, h(X) - log2(2 pi e D) / 2, which is tight at high rates; the Gaussian of equal variance above."""
    curve = NumberSource("Laplace").curve
    for rate in (0.5, 1.0, 2.0):
        lower = np.exp(2) * 2 / (2 * np.pi * np.e) / 4.0**rate
        assert lower * 0.995 <= curve.distortion(rate) <= 4.0**-rate
    assert curve.distortion(2.5) == pytest.approx(np.exp(2) * 2 / (2 * np.pi * np.e) / 4**2.5, rel=0.02)


def test_autoregressive_streams_remember():
    streams = autoregressive(500, 20, 4, 0.95, dice())
    assert streams.shape == (500, 20, 4)
    assert streams.var() == pytest.approx(1, abs=0.05)
    now, next_ = streams[:, :-1].ravel(), streams[:, 1:].ravel()
    assert np.corrcoef(now, next_)[0, 1] == pytest.approx(0.95, abs=0.01)
