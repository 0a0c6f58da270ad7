"""Entropy and perplexity in bits, against figures that can be worked out by hand."""

import math

import numpy as np
import pytest

from commlib.codec import fresh_context
from commlib.codecs.prior import fit_prior
from commlib.information import entropy_bits, perplexity


@pytest.mark.parametrize(
    ("counts", "bits"),
    [([1, 1, 0, 0], 1.0), ([4] * 8, 3.0), ([9], 0.0), ([0, 7, 0], 0.0), ([0, 0], 0.0), ([], 0.0), ([2, 1, 1], 1.5)],
)
def test_entropy_by_hand(counts, bits):
    assert entropy_bits(np.array(counts, np.int64)) == pytest.approx(bits, abs=1e-12)
    assert perplexity(np.array(counts, np.int64)) == pytest.approx(2.0**bits)


def test_entropy_knows_no_order_and_no_scale():
    counts = np.random.default_rng(0).integers(0, 50, 20)
    assert entropy_bits(counts[::-1]) == pytest.approx(entropy_bits(counts))
    assert entropy_bits(1000 * counts) == pytest.approx(entropy_bits(counts))
    assert 0 < entropy_bits(counts) < math.log2(20)


def test_large_counts_do_not_overflow():
    assert entropy_bits(np.full(4, 2**60, np.int64)) == pytest.approx(2.0)


def test_the_bill_is_never_below_the_entropy():
    """Cross-entropy under a counted prior bounds what is said (and is near it where there is enough to count)."""
    numbers = np.random.default_rng(0)
    codes = numbers.choice(6, (5000, 1), p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    context = fresh_context(len(codes), codes.shape[1])
    prior = fit_prior(codes, context, 6, kind="none")
    bill = prior.estimate_bits(codes, context).mean()
    said = entropy_bits(np.bincount(codes[:, 0], minlength=6))
    assert said <= bill < said * 1.001
