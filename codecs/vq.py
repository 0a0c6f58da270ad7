"""`vq`: the message is the nearest of K learned vectors; straight-through in training, a table lookup on the wire.

The quantiser is `VectorQuantize` of vector-quantize-pytorch (van den Oord et al. 2017, arXiv:1711.00937; dead-code
revival after Dhariwal et al. 2020, arXiv:2005.00341; rotation trick, Fifty et al. 2024, arXiv:2410.06424), composed, with
the settings that did not collapse in our trials: k-means start, slow decay, revival on.

Shapes: B messages, D message width, K codebook size.
"""

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from commlib.codec import Quantized
from commlib.codecs.frozen import CodebookQuantiser, TableCodec
from commlib.codecs.prior import Prior
from commlib.codecs.rate import RateTable
from commlib.errors import CodecError

FIT_PASSES = 200
FIT_BATCH = 4096


class VQCodec(nn.Module):
    """Vector-quantised messages with a prior conditioned on the link's previous code.

    >>> codec = VQCodec(width=4, codebook_size=8)
    >>> codec(torch.zeros(5, 4)).codes.shape
    torch.Size([5, 1])
    """

    name = "vq"

    def __init__(self, width: int, codebook_size: int = 64) -> None:
        super().__init__()
        self.width = width
        self.codebook_size = codebook_size
        self.quantizer = VectorQuantize(
            dim=width,
            codebook_size=codebook_size,
            decay=0.99,
            kmeans_init=True,
            kmeans_iters=20,
            threshold_ema_dead_code=2,
            commitment_weight=0.25,
        )
        self.rate = RateTable(1, codebook_size, is_conditional=True)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Quantized:
        """Nearest code of each message, float [B, D]; the codebook itself moves only in `fit`."""
        self.quantizer.train()
        z, index, commitment = self.quantizer(x, freeze_codebook=True)
        codes = index[..., None]
        return Quantized(z, codes, self.rate(codes, context), {"commitment": commitment.sum()})

    def fit(self, messages: Tensor, generator: torch.Generator) -> None:
        """k-means on recorded messages [n, D], then exponential moving averages with dead-code revival."""
        if len(messages) < self.codebook_size:
            raise CodecError(
                f"{len(messages)} recorded messages cannot fit {self.codebook_size} codes; record more or use a "
                f"smaller codebook"
            )
        for _ in range(FIT_PASSES):
            pick = torch.randint(len(messages), (min(FIT_BATCH, len(messages)),), generator=generator)
            self._follow(messages[pick], generator)

    def _follow(self, messages: Tensor, generator: torch.Generator) -> None:
        """One step of the codebook's moving average towards these messages [n, D], reviving dead codes."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():  # the library draws from torch's global generator
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            self.quantizer.train()
            self.quantizer(messages)

    def set_prior(self, prior: Prior) -> None:
        """Charge by this prior from now on."""
        self.rate.set_prior(prior)

    def freeze(self) -> TableCodec:
        """The frozen edition."""
        codebook = self.quantizer.codebook.detach().clone().numpy()
        return TableCodec(self.name, CodebookQuantiser(codebook), self.rate.prior)
