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
        """Charge by this prior from now on."""
        self.table.copy_(torch.from_numpy(prior.table.astype(np.int64)))
        self.bits.copy_(torch.from_numpy(prior.bits.astype(np.float32)))

    def forward(self, codes: Tensor, context: Tensor | None) -> Tensor:
        """Bits of each message, float [B], for codes [B, P] in contexts [B, P + 1]; no context is a fresh link."""
        context = fresh_like(codes) if context is None else context
        past = context[..., :-1]
        rows = known.rows(self.kind, past, codes, self.alphabet) + self._later(context)[..., None]
        said = known.symbols(self.kind, codes, past, self.alphabet)
        return self.bits[torch.arange(codes.shape[-1]), rows, said].sum(-1)

    def _later(self, context: Tensor) -> Tensor:
        return context[..., -1].clamp_max(self.n_ages - 1) * known.n_rows(self.kind, self.alphabet)

    def choose(self, distortions: Tensor, context: Tensor | None, rate_weight: float) -> Tensor:
        """The codes [B, P] of least distortion + rate_weight x bits, from distortions [B, P, K] that add up over positions.

        The same rule as `commlib.codecs.frozen.search_positions`, for training under a price.
        """
        codes = torch.zeros(distortions.shape[:-1], dtype=torch.int64)
        context = fresh_like(codes) if context is None else context
        past, later = context[..., :-1], self._later(context)
        for position in range(codes.shape[-1]):
            row = known.row(self.kind, position, past, codes, self.alphabet) + later
            bits = self.bits[position, row][..., : self.alphabet]
            if self.kind == "held":
                mine = past[..., position, None]
                again = self.bits[position, row][..., -1:]
                bits = torch.where(torch.arange(self.alphabet) == mine, again, bits)
            codes[..., position] = (distortions[..., position, :] + rate_weight * bits).argmin(-1)
        return codes


def fresh_like(codes: Tensor) -> Tensor:
    """The context [.., P + 1] of a fresh link for codes [.., P]."""
    context = torch.full((*codes.shape[:-1], codes.shape[-1] + 1), START)
    context[..., -1] = 0
    return context
