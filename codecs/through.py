"""Through a frozen codec in training: what the wire would do forward, the gradient of doing nothing backward.

Shapes: B messages, D message width, P positions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from commlib.codec import FrozenCodec, Quantized
from commlib.codecs.rate import RateTable, fresh_like


class Freezable(Protocol):
    """A codec that charges by a `RateTable`."""

    rate: RateTable

    def freeze(self) -> FrozenCodec:
        """The frozen edition as it stands now."""
        ...


@contextmanager
def in_training(module: nn.Module) -> Iterator[None]:
    """The library's quantisers are straight-through in training mode alone; the mode is as before afterwards."""
    was = module.training
    module.train()
    try:
        yield
    finally:
        module.train(was)


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """`hard` forward, gradient of `soft` backward (Bengio et al. 2013, arXiv:1308.3432)."""
    return soft + (hard - soft).detach()


def through_frozen(codec: Freezable, x: Tensor, context: Tensor | None, rate_weight: float = 0.0) -> Quantized:
    """Messages x, float [B, D], as the frozen edition would choose, deliver and charge them; rate-aware if told to."""
    frozen = codec.freeze()
    flat = x.detach().reshape(-1, frozen.width).float().numpy()
    if context is None:
        context = fresh_like(torch.zeros(len(flat), frozen.n_positions, dtype=torch.int64))
    past = context.reshape(-1, frozen.n_positions + 1).numpy()
    chosen = frozen.choose(flat, past, rate_weight)
    heard = torch.from_numpy(frozen.embed(chosen, past)).view_as(x)
    codes = torch.from_numpy(chosen).view(*x.shape[:-1], -1)
    return Quantized(straight_through(heard, x), codes, codec.rate(codes, context.view(*codes.shape[:-1], -1)), {})
