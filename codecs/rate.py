"""The prior inside a trainable codec: a table lookup of -log2 q, kept as a buffer so that checkpoints carry it.

Shapes: B messages, P positions, R rows, A ages, K alphabet, S symbols.
"""

from typing import Any

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
    knows: Tensor
    """The kind's place in `KINDS`, and the ages, int64 [2]."""

    def __init__(self, n_positions: int, alphabet: int, kind: str = "previous", n_ages: int = 1) -> None:
        super().__init__()
        self.alphabet = alphabet
        for name in ("table", "bits", "knows"):
            self.register_buffer(name, torch.zeros(0))
        self.set_prior(uniform_prior(n_positions, alphabet, kind, n_ages))

    @property
    def kind(self) -> str:
        """What the prior knows, one of `commlib.codecs.rows.KINDS`."""
        return known.KINDS[int(self.knows[0])]

    @property
    def n_ages(self) -> int:
        """A."""
        return int(self.knows[1])

    @property
    def prior(self) -> Prior:
        """The prior as an integer table."""
        return Prior(self.table.numpy().astype(np.uint32), self.kind, self.n_ages)

    def set_prior(self, prior: Prior) -> None:
        """Charge by this prior from now on, whatever it knows."""
        self.knows = torch.tensor([known.KINDS.index(prior.kind), prior.n_ages])
        self.table = torch.from_numpy(prior.table.astype(np.int64))
        self.bits = torch.from_numpy(prior.bits.astype(np.float32))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:  # noqa: ANN401 (torch's)
        """Take over whatever prior was saved, whatever it knows."""
        for name in ("table", "bits", "knows"):
            saved = state_dict.get(prefix + name)
            if saved is not None:
                setattr(self, name, torch.empty_like(saved))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, codes: Tensor, context: Tensor | None) -> Tensor:
        """Bits of each message, float [B], for codes [B, P] in contexts [B, P + 1]; no context is a fresh link."""
        context = fresh_like(codes) if context is None else context
        past = context[..., :-1]
        rows = known.rows(self.kind, past, codes, self.alphabet) + self._later(context)[..., None]
        said = known.symbols(self.kind, codes, past, self.alphabet)
        return self.bits[torch.arange(codes.shape[-1]), rows, said].sum(-1)

    def expected(self, distance: Tensor, codes: Tensor, context: Tensor | None, temperature: float) -> Tensor:
        """Bits of each message, [B], as `forward` gives them for `codes`, with a gradient for the messages.

        Which code is said has no gradient, so that of another question is taken: how many bits would be expected of a code
        drawn with P(k) ~ exp(-distance / temperature)? It pulls a message from a dear code towards cheaper ones nearby
        (soft-to-hard quantisation: Agustsson et al. 2017, arXiv:1704.00648, sec. 3).

        Args:
            distance: squared distances of the message to each code of each position, [B, P, K].
            codes: what is said, [B, P].
            context: what listeners have, [B, P + 1]; None is a fresh link.
            temperature: squared distance.
        """
        hard: Tensor = self(codes, context)
        context = fresh_like(codes) if context is None else context
        past = context[..., :-1, None].expand(distance.shape)
        every = torch.arange(self.alphabet).expand(distance.shape)
        rows = known.rows(self.kind, context[..., :-1], codes, self.alphabet) + self._later(context)[..., None]
        said = known.symbols(self.kind, every, past, self.alphabet)
        position = torch.arange(codes.shape[-1])[:, None]
        bits = self.bits[position, rows[..., None], said]
        soft = ((-distance / temperature).softmax(-1) * bits).sum((-2, -1))
        return hard + (soft - soft.detach())

    def _later(self, context: Tensor) -> Tensor:
        return context[..., -1].clamp_max(self.n_ages - 1) * known.n_rows(self.kind, self.alphabet)


def fresh_like(codes: Tensor) -> Tensor:
    """The context [.., P + 1] of a fresh link for codes [.., P]."""
    context = torch.full((*codes.shape[:-1], codes.shape[-1] + 1), START)
    context[..., -1] = 0
    return context
