"""`vq`: the message is the nearest of K learned vectors; straight-through in training, a table lookup on the wire.

The quantiser is `VectorQuantize` of vector-quantize-pytorch (van den Oord et al. 2017, arXiv:1711.00937; rotation trick,
Fifty et al. 2024, arXiv:2410.06424), composed. There are two ways to its codebook:

- fitted once to recorded messages by k-means++ (`fit`), and then held still while agents are fine-tuned through it: what
  `commlib train` does, and what did best (docs/notebook.md);
- learned in the user's own training loop, in training mode and before any `fit`: running averages (decay 0.99), with
  dead codes revived from the batch.

Shapes: B messages, D message width, K codebook size.
"""

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from commlib.codec import Quantized
from commlib.codecs.fit import FIT_MESSAGES, kmeans
from commlib.codecs.frozen import CodebookQuantiser, TableCodec
from commlib.codecs.prior import Prior
from commlib.codecs.rate import RateTable
from commlib.codecs.through import in_training, through_frozen
from commlib.errors import CodecError

SOFTNESS = 0.05
"""Temperature of the drawn code that the rate's gradient asks about, as a share of the codebook's variance."""


class VQCodec(nn.Module):
    """Vector-quantised messages; the prior knows the link's previous code, unless told otherwise.

    >>> codec = VQCodec(width=4, codebook_size=8)
    >>> codec(torch.zeros(5, 4)).codes.shape
    torch.Size([5, 1])
    """

    name = "vq"
    is_fitted: Tensor

    def __init__(self, width: int, codebook_size: int = 64, context: str = "previous") -> None:
        super().__init__()
        self.width = width
        self.codebook_size = codebook_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the library draws a first codebook from torch's global generator
            self.quantizer = VectorQuantize(
                dim=width, codebook_size=codebook_size, commitment_weight=0.25, decay=0.99, threshold_ema_dead_code=2
            )
        self.rate = RateTable(1, codebook_size, context)
        self.register_buffer("is_fitted", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor, context: Tensor | None = None, rate_weight: float = 0.0) -> Quantized:
        """Nearest code of each message, float [B, D]; with a rate weight the best trade of distance and bits.

        In training mode the codebook follows the messages until it is fitted; reviving dead codes draws from torch's
        global generator then, as the library does.
        """
        if rate_weight > 0:
            return through_frozen(self, x, context, rate_weight)
        is_still = bool(self.is_fitted) or not self.training
        with in_training(self.quantizer):
            z, index, commitment = self.quantizer(x, freeze_codebook=is_still)
        codes = index[..., None]
        return Quantized(z, codes, self.rate(codes, context), {"commitment": commitment.sum()})

    def pulled_bits(self, x: Tensor, codes: Tensor, context: Tensor | None) -> Tensor:
        """Bits of each message, [B], with a gradient for it; see `commlib.codecs.rate.RateTable.expected`."""
        book = self.quantizer.codebook.detach()
        distance = (x.square().sum(-1, keepdim=True) - 2 * x @ book.T + book.square().sum(-1)).clamp_min(0)
        spread = float(book.var(0, correction=0).sum())
        return self.rate.expected(distance[..., None, :], codes, context, SOFTNESS * max(spread, 1e-6))

    def fit(self, messages: Tensor, generator: torch.Generator) -> None:
        """k-means++ on recorded messages [n, D] (Arthur & Vassilvitskii 2007), the best of a few starts."""
        if len(messages) == 0:
            raise CodecError(f"no recorded messages to fit {self.name} to; nobody speaks")
        pick = torch.randperm(len(messages), generator=generator)[:FIT_MESSAGES]
        seed = int(torch.randint(2**31, (1,), generator=generator))
        codebook = torch.from_numpy(kmeans(messages[pick].numpy(), self.codebook_size, seed))
        inner = self.quantizer._codebook  # the library's own setter leaves the running averages behind
        inner.embed.data.copy_(codebook[None])
        inner.embed_avg.data.copy_(codebook[None])
        inner.cluster_size.data.fill_(1.0)
        self.is_fitted.fill_(True)

    def set_prior(self, prior: Prior) -> None:
        """Charge by this prior from now on."""
        self.rate.set_prior(prior)

    def freeze(self) -> TableCodec:
        """The frozen edition."""
        codebook = self.quantizer.codebook.detach().clone().numpy()
        return TableCodec(self.name, CodebookQuantiser(codebook), self.rate.prior)
