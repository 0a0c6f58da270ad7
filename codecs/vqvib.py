"""`vq-vib`: `vq` whose code is drawn in training, P(c | z) ~ exp(-|z - c|^2), and charged for what it tells.

Tucker et al. 2022 (arXiv:2207.00088), as in the discrete codec of emergent communication: a stochastic code keeps
near-by words interchangeable, and the KL divergence from the prior (the complexity) prices the information in it. On the
wire the likeliest code is sent, which is the nearest.

The paper's messages may be as large as they like, so its agents learn how sharp the draw is. Ours may be bounded, so `fit`
settles it: the distance is scaled until the nearest code is drawn for `MOSTLY` of the recorded messages.

What is drawn depends on the message alone (`hashed_uniform`): the same vector gives the same code until weights move, so
that hosts agree without a generator. Where agents have few distinct things to say, that is little randomness.

Shapes: B messages, D message width, K codebook size.
"""

import torch
from torch import Tensor

from commlib.codec import Quantized
from commlib.codecs.through import straight_through
from commlib.codecs.vq import VQCodec

MOSTLY = 0.95
"""How often the nearest code is drawn after a fit."""


def hashed_uniform(x_BD: Tensor, n: int) -> Tensor:
    """Numbers in (0, 1), [B, n], that look random but depend on nothing except x: no generator, the same on every host."""
    state = x_BD.detach().float().contiguous().view(torch.int32).long()
    row = torch.zeros(state.shape[:-1], dtype=torch.int64)
    for column in state.unbind(-1):
        row = _mixed(row ^ column)
    mixed = _mixed(_mixed(row[..., None] + torch.arange(1, n + 1) * 0x1E3779B97F4A7C15))
    return ((mixed >> 11) & ((1 << 52) - 1)).double().add(0.5).div(1 << 52)


def _mixed(state: Tensor) -> Tensor:
    """One round of a multiplicative hash on 64-bit integers (Steele et al. 2014, SplitMix)."""
    state = (state ^ (state >> 30)) * 0x3F58476D1CE4E5B9
    return (state ^ (state >> 27)) * 0x14D049BB133111EB


class VQVIBCodec(VQCodec):
    """Stochastic vector quantisation with an information price.

    Args:
        width, codebook_size, context: as for `VQCodec`.
        complexity_weight: weight of KL(P(c | z) || uniform), in nats, among the losses.
    """

    name = "vq-vib"
    sharpness: Tensor

    def __init__(
        self, width: int, codebook_size: int = 64, context: str = "previous", complexity_weight: float = 0.001
    ) -> None:
        super().__init__(width, codebook_size, context)
        self.complexity_weight = complexity_weight
        self.register_buffer("sharpness", torch.ones(()))

    def forward(self, x: Tensor, context: Tensor | None = None, rate_weight: float = 0.0) -> Quantized:
        """In training a drawn code of each message, float [B, D]; else, and under a rate weight, as `vq`."""
        if rate_weight > 0 or not self.training:
            return super().forward(x, context, rate_weight)
        if not bool(self.is_fitted):
            self.quantizer(x)  # lets the codebook follow the messages
        codebook = self.quantizer.codebook.detach()
        log_p = self._log_p(x, codebook)
        gumbel = -(-hashed_uniform(x, len(codebook)).log()).log()
        codes = (log_p.detach() + gumbel).argmax(-1, keepdim=True)
        hard = codebook[codes[..., 0]]
        commitment = 0.25 * (x - hard).square().mean()
        complexity = (log_p.exp() * log_p).sum(-1).mean() + torch.tensor(float(len(codebook))).log()
        losses = {"commitment": commitment, "complexity": self.complexity_weight * complexity}
        return Quantized(straight_through(hard, x), codes, self.rate(codes, context), losses)

    def fit(self, messages: Tensor, generator: torch.Generator) -> None:
        """As `vq`, and the scale of the draw."""
        super().fit(messages, generator)
        codebook, sample = self.quantizer.codebook.detach(), messages[:: max(1, len(messages) // 2000)].float()
        for doublings in range(-4, 24):
            self.sharpness.fill_(2.0**doublings)
            if self._log_p(sample, codebook).amax(-1).exp().mean() >= MOSTLY:
                break

    def _log_p(self, x: Tensor, codebook: Tensor) -> Tensor:
        """Ln P(c | z), [B, K]."""
        return (-self.sharpness * torch.cdist(x, codebook).square()).log_softmax(-1)
