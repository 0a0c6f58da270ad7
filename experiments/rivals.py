"""Quantisers of vector-quantize-pytorch as rivals at equal rate: trained on the same sample, their indices entropy-coded.

A rival that is not given its best is no yardstick: each is trained in a few ways, of which the best on the training sample
runs, and its indices are coded by the same coder as ours, with priors counted stage by stage from the training sample.

Shapes: n vectors, D width, P stages, K codes per stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from commlib.codec import Codes, Vectors, fresh_context
from commlib.codecs import entropy
from commlib.codecs.prior import fit_prior

HIDDEN = 64
BATCH = 2048


class Told(NamedTuple):
    """What a rival makes of vectors: vectors [n, D], and indices [n, P]."""

    vectors: Vectors
    indices: Codes


@dataclass(frozen=True)
class Rival:
    """A quantiser to be trained.

    Attributes:
        kind: `VectorQuantize`, `ResidualVQ`, `LFQ` or `FSQ`.
        levels: codes of each stage.
    """

    kind: str
    levels: tuple[int, ...]

    @property
    def name(self) -> str:
        """For tables."""
        if len(set(self.levels)) == 1 and len(self.levels) > 1:
            return f"{self.kind} {len(self.levels)} x {self.levels[0]}"
        return f"{self.kind} {' x '.join(map(str, self.levels))}"


@dataclass(frozen=True)
class Effort:
    """How long rivals are trained: passes over the data for running averages, steps for gradients."""

    n_passes: int
    n_steps: int


def trained(rival: Rival, vectors: Vectors, effort: Effort, seed: int) -> Callable[[Vectors], Told]:
    """The rival after training on vectors [n, D]: of a few ways to train it, the one with the least squared error."""
    x = torch.from_numpy(vectors)
    ways: list[Callable[[], nn.Module]]
    if rival.kind in ("VectorQuantize", "ResidualVQ"):
        ways = [lambda decay=decay: _averaged(rival, x, decay, effort) for decay in (0.8, 0.99)]  # type: ignore[misc]
    else:
        ways = [lambda hidden=hidden: _descended(rival, x, hidden, effort) for hidden in (0, HIDDEN)]  # type: ignore[misc]
    best, least = None, np.inf
    for nth, way in enumerate(ways):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + nth)
            module = way()
        error = float(((_told(rival, module, vectors).vectors - vectors) ** 2).mean())
        if error < least:
            best, least = module, error
    assert best is not None
    chosen = best
    return lambda some: _told(rival, chosen, some)


def _batches(x: Tensor) -> list[Tensor]:
    return list(torch.split(x[torch.randperm(len(x))], BATCH))


def _averaged(rival: Rival, x: Tensor, decay: float, effort: Effort) -> nn.Module:
    """k-means for a start, then running averages over passes through the data."""
    from vector_quantize_pytorch import ResidualVQ, VectorQuantize

    options: dict[str, Any] = {"kmeans_init": True, "kmeans_iters": 30, "decay": decay, "threshold_ema_dead_code": 2}
    module: nn.Module
    if rival.kind == "VectorQuantize":
        module = VectorQuantize(dim=x.shape[1], codebook_size=rival.levels[0], **options)
    else:
        size = rival.levels[0]
        beam = {"beam_size": 1, "eval_beam_size": min(8, size)}  # a wider one than a stage has codes is an error there
        module = ResidualVQ(dim=x.shape[1], num_quantizers=len(rival.levels), codebook_size=size, **beam, **options)
    module.train()
    with torch.no_grad():
        module(x[torch.randperm(len(x))[: 8 * BATCH]][None])
        for _ in range(effort.n_passes):
            for batch in _batches(x):
                module(batch[None])
    return module.eval()


class _Between(nn.Module):
    """A scalar quantiser between two learned maps, linear or with a hidden layer."""

    def __init__(self, quantiser: nn.Module, width: int, inner: int, hidden: int) -> None:
        super().__init__()
        self.into, self.quantiser, self.out = _map(width, inner, hidden), quantiser, _map(inner, width, hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [n, D] and indices [n, ..] for vectors [n, D]."""
        told = self.quantiser(self.into(x)[None])
        return self.out(told[0][0]), told[1][0]


def _map(n_in: int, n_out: int, hidden: int) -> nn.Module:
    if not hidden:
        return nn.Linear(n_in, n_out)
    return nn.Sequential(
        nn.Linear(n_in, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, n_out)
    )


def _descended(rival: Rival, x: Tensor, hidden: int, effort: Effort) -> nn.Module:
    """Adam on the squared error, straight through the rounding, the rate of learning falling to zero along a cosine."""
    from vector_quantize_pytorch import FSQ, LFQ

    n_inner = len(rival.levels)
    quantiser: nn.Module
    if rival.kind == "FSQ":
        quantiser = FSQ(list(rival.levels))
    else:  # bits in groups of four: the library compares with every code of a group while it trains
        n_groups = max(1, n_inner // 4)
        quantiser = LFQ(
            codebook_size=2 ** (n_inner // n_groups), num_codebooks=n_groups, dim=n_inner, entropy_loss_weight=0.0
        )
    module = _Between(quantiser, x.shape[1], n_inner, hidden)
    optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, effort.n_steps)
    module.train()
    batches: list[Tensor] = []
    for _ in range(effort.n_steps):
        batches = batches or _batches(x)
        batch = batches.pop()
        loss = ((module(batch)[0] - batch) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return module.eval()


def _told(rival: Rival, module: nn.Module, vectors: Vectors) -> Told:
    with torch.no_grad():
        parts = [_told_some(rival, module, part) for part in torch.split(torch.from_numpy(vectors), 8 * BATCH)]
    return Told(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _told_some(rival: Rival, module: nn.Module, x: Tensor) -> tuple[NDArray[np.float32], Codes]:
    if isinstance(module, _Between):
        z, found = module(x)
    else:
        told = module(x[None])
        z, found = told[0][0], told[1][0]
    index = found.reshape(len(x), -1).numpy().astype(np.int64)
    if rival.kind == "FSQ":  # one number for all levels, the first of them counting least
        basis = np.cumprod([1, *rival.levels[:-1]])
        index = index // basis % np.array(rival.levels)
    return z.numpy(), index


def real_bits(seen: Codes, said: Codes, levels: Sequence[int]) -> int:
    """The stream of indices `said` [n, P], with priors counted stage by stage from `seen` [m, P].

    Range-coded, or in as many bits as each stage needs, whichever is shorter; the flag that says which is counted.
    """
    n_positions = said.shape[1]
    alphabet = max(2, int(max(seen.max(), said.max())) + 1)
    prior = fit_prior(seen, fresh_context(len(seen), n_positions), alphabet, "none")
    context = fresh_context(len(said), n_positions)
    coded = entropy.encode(prior.symbols(said, context), prior.rows(said, context), prior.models)
    plain = 1 + len(said) * sum(entropy.symbol_bits(level) for level in levels)
    return min(8 * len(coded), 8 * ((plain + 7) // 8))
