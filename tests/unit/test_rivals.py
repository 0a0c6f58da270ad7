"""Rivals are trained, told apart by name, leave torch's dice alone, and are charged what their indices weigh."""

import numpy as np
import pytest
import torch

from commlib.experiments.rivals import Effort, Rival, real_bits, trained

RIVALS = [
    Rival("VectorQuantize", (16,)),
    Rival("ResidualVQ", (4, 4)),
    Rival("LFQ", (2,) * 8),
    Rival("FSQ", (4, 3)),
]


def vectors(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)


@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.kind)
def test_a_rival_tells_vectors_and_the_indices_of_its_stages(rival):
    before = torch.random.get_rng_state()
    x = vectors(3000)
    tell, again = (trained(rival, x, Effort(3, 100), seed=1) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    told = tell(x)
    assert told.vectors.shape == x.shape
    assert told.vectors.tobytes() == again(x).vectors.tobytes(), "the same seed, the same rival"
    assert ((told.vectors - x) ** 2).mean() < 0.85 * x.var(), "it has learned something"
    assert (told.indices >= 0).all()
    if rival.kind in ("FSQ", "VectorQuantize"):
        assert (told.indices.max(0) < np.array(rival.levels)).all()
    said = {}
    for index, vector in zip(map(tuple, told.indices.tolist()), told.vectors, strict=True):
        assert np.allclose(said.setdefault(index, vector), vector, atol=1e-4), "equal indices mean equal vectors"


def test_names():
    assert [rival.name for rival in RIVALS] == ["VectorQuantize 16", "ResidualVQ 2 x 4", "LFQ 8 x 2", "FSQ 4 x 3"]


def test_indices_are_charged_by_what_they_weigh():
    even = np.random.default_rng(0).integers(0, 16, size=(4096, 2))
    assert real_bits(even, even, (16, 16)) <= 8 * 4096 + 8, "not more than bit packing and a flag"
    rare = np.where(even == 7, even, 0)
    bits = real_bits(rare, rare, (16, 16))
    assert bits == pytest.approx(2 * 4096 * 0.3373, rel=0.05), "the entropy of 1 in 16"
