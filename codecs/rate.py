"""The prior inside a trainable codec: a table lookup of -log2 q, kept as a buffer so that checkpoints carry it.

Shapes: B messages, P positions, C context rows, K alphabet.
"""

import numpy as np
import torch
from torch import Tensor, nn

from commlib.codec import START
from commlib.codecs.prior import Prior, uniform_prior


class RateTable(nn.Module):
    """-log2 q(code | context) for batches in torch; uniform until a prior is set."""

    table: Tensor
    bits: Tensor

    def __init__(self, n_positions: int, alphabet: int, *, is_conditional: bool) -> None:
        super().__init__()
        prior = uniform_prior(n_positions, alphabet, is_conditional=is_conditional)
        self.register_buffer("table", torch.from_numpy(prior.table.astype(np.int64)))
        self.register_buffer("bits", torch.from_numpy(prior.bits.astype(np.float32)))

    @property
    def prior(self) -> Prior:
        """The prior as an integer table."""
        return Prior(self.table.numpy().astype(np.uint32))

    def set_prior(self, prior: Prior) -> None:
        """Charge by this prior from now on."""
        self.table.copy_(torch.from_numpy(prior.table.astype(np.int64)))
        self.bits.copy_(torch.from_numpy(prior.bits.astype(np.float32)))

    def rows(self, context: Tensor) -> Tensor:
        """Context rows [B, P] of contexts [B, P]."""
        return context - START if self.table.shape[1] > 1 else torch.zeros_like(context)

    def forward(self, codes: Tensor, context: Tensor | None) -> Tensor:
        """Bits of each message, float [B]; no context is a fresh link."""
        if context is None:
            context = torch.full_like(codes, START)
        positions = torch.arange(self.table.shape[0])
        return self.bits[positions, self.rows(context), codes].sum(-1)
