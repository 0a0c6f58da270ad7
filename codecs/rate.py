"""The prior inside a trainable codec: a table lookup of -log2 q, kept as a buffer so that checkpoints carry it.

Shapes: B messages, P positions, R rows, A ages, K alphabet, S symbols.
"""

import numpy as np
import torch
from torch import Tensor, nn

from commlib.codec import START
from commlib.codecs import rows as known
from commlib.codecs.prior import Prior, uniform_prior


class RateTable(nn.Module):
    """-log2 q(code | context) for batches in torch; uniform until a prior is set."""

    table: Tensor
    bits: Tensor

    def __init__(self, n_positions: int, alphabet: int, kind: str = "previous", n_ages: int = 1) -> None:
        super().__init__()
        self.kind, self.alphabet, self.n_ages = kind, alphabet, n_ages
        prior = uniform_prior(n_positions, alphabet, kind, n_ages)
        self.register_buffer("table", torch.from_numpy(prior.table.astype(np.int64)))
        self.register_buffer("bits", torch.from_numpy(prior.bits.astype(np.float32)))

    @property
    def prior(self) -> Prior:
        """The prior as an integer table."""
        return Prior(self.table.numpy().astype(np.uint32), self.kind, self.n_ages)

    def set_prior(self, prior: Prior) -> None:
        """Charge by this prior from now on, whatever it knows."""
        self.kind, self.n_ages = prior.kind, prior.n_ages
        self.table = torch.from_numpy(prior.table.astype(np.int64))
        self.bits = torch.from_numpy(prior.bits.astype(np.float32))

    def forward(self, codes: Tensor, context: Tensor | None) -> Tensor:
        """Bits of each message, float [B], for codes [B, P] in contexts [B, P + 1]; no context is a fresh link."""
        context = fresh_like(codes) if context is None else context
        past = context[..., :-1]
        rows = known.rows(self.kind, past, codes, self.alphabet) + self._later(context)[..., None]
        said = known.symbols(self.kind, codes, past, self.alphabet)
        return self.bits[torch.arange(codes.shape[-1]), rows, said].sum(-1)

    def _later(self, context: Tensor) -> Tensor:
        return context[..., -1].clamp_max(self.n_ages - 1) * known.n_rows(self.kind, self.alphabet)


def fresh_like(codes: Tensor) -> Tensor:
    """The context [.., P + 1] of a fresh link for codes [.., P]."""
    context = torch.full((*codes.shape[:-1], codes.shape[-1] + 1), START)
    context[..., -1] = 0
    return context
