"""`rvq`: a message in stages, each adding what the ones before left over, so that it can be told coarse or fine.

The quantiser is `ResidualVQ` of vector-quantize-pytorch (Zeghidour et al. 2021, arXiv:2107.03312), composed; code 0 of
every stage but the first is the zero vector (`commlib.codecs.residual`), so that a shorter message is a cheaper one.

Shapes: B messages, D message width, P stages, K codes per stage.
"""

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import ResidualVQ

from commlib.codec import Quantized
from commlib.codecs.fit import FIT_MESSAGES, residual_codebooks
from commlib.codecs.frozen import TableCodec
from commlib.codecs.prior import Prior
from commlib.codecs.rate import RateTable
from commlib.codecs.residual import ResidualQuantiser
from commlib.codecs.through import in_training, straight_through, through_frozen
from commlib.errors import CodecError


class RVQCodec(nn.Module):
    """Residual vector quantisation; a stage's prior knows the stages before it and what was said last time."""

    name = "rvq"
    is_fitted: Tensor

    def __init__(self, width: int, codebook_size: int = 16, n_stages: int = 2, context: str = "staged") -> None:
        super().__init__()
        self.width = width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the library draws first codebooks from torch's global generator
            self.quantizer = ResidualVQ(
                dim=width,
                codebook_size=codebook_size,
                num_quantizers=n_stages,
                commitment_weight=0.25,
                decay=0.99,
                threshold_ema_dead_code=2,
            )
        first = self.quantizer.codebooks.detach().clone()
        first[1:, 0] = 0.0
        self._set(first)
        self.rate = RateTable(n_stages, codebook_size, context)
        self.register_buffer("is_fitted", torch.zeros((), dtype=torch.bool))

    def _set(self, codebooks: Tensor) -> None:
        """Make these [P, K, D] the codebooks in use, running averages included."""
        for layer, codebook in zip(self.quantizer.layers, codebooks, strict=True):
            inner = layer._codebook
            inner.embed.data.copy_(codebook[None])
            inner.embed_avg.data.copy_(codebook[None])
            inner.cluster_size.data.fill_(1.0)

    def _keep_zero(self) -> None:
        """Nothing to add stays the first code of every stage but the first, whatever the running averages say."""
        for layer in self.quantizer.layers[1:]:
            inner = layer._codebook
            inner.embed.data[:, 0], inner.embed_avg.data[:, 0], inner.cluster_size.data[:, 0] = 0.0, 0.0, 1e6

    def forward(self, x: Tensor, context: Tensor | None = None, rate_weight: float = 0.0) -> Quantized:
        """Stage by stage the nearest code of each message, float [B, D]; with a rate weight the best trade found.

        In training mode the codebooks follow the messages until they are fitted; reviving dead codes draws from torch's
        global generator then, as the library does.
        """
        if rate_weight > 0:
            return through_frozen(self, x, context, rate_weight)
        is_still = bool(self.is_fitted) or not self.training
        with in_training(self.quantizer):
            z, codes, commitment = self.quantizer(x, freeze_codebook=is_still)
        if not is_still:
            self._keep_zero()
        return Quantized(straight_through(z, x), codes, self.rate(codes, context), {"commitment": commitment.sum()})

    def fit(self, messages: Tensor, generator: torch.Generator) -> None:
        """k-means++ stage by stage on recorded messages [n, D]."""
        if len(messages) == 0:
            raise CodecError("no recorded messages to fit rvq to; nobody speaks")
        pick = torch.randperm(len(messages), generator=generator)[:FIT_MESSAGES]
        seed = int(torch.randint(2**31, (1,), generator=generator))
        n_stages, n_codes, _ = self.quantizer.codebooks.shape
        self._set(torch.from_numpy(residual_codebooks(messages[pick].numpy(), n_stages, n_codes, seed)))
        self.is_fitted.fill_(True)

    def set_prior(self, prior: Prior) -> None:
        """Charge by this prior from now on."""
        self.rate.set_prior(prior)

    def freeze(self) -> TableCodec:
        """The frozen edition."""
        codebooks = self.quantizer.codebooks.detach().clone().numpy()
        return TableCodec(self.name, ResidualQuantiser(codebooks), self.rate.prior)
