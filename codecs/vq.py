"""`vq`: the message is the nearest of K learned vectors; straight-through in training, a table lookup on the wire.

The quantiser is `VectorQuantize` of vector-quantize-pytorch (van den Oord et al. 2017, arXiv:1711.00937; rotation trick,
Fifty et al. 2024, arXiv:2410.06424), composed. Its codebook is fitted once, to recorded messages, by k-means++, and held
still while agents are fine-tuned through it: running averages with dead-code revival did worse (docs/notebook.md).

Shapes: B messages, D message width, K codebook size.
"""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from commlib.codec import Quantized
from commlib.codecs.frozen import CodebookQuantiser, TableCodec
from commlib.codecs.prior import Prior
from commlib.codecs.rate import RateTable
from commlib.errors import CodecError

FIT_MESSAGES = 20_000
FIT_STARTS = 3


def kmeans(messages: NDArray[np.float32], n_codes: int, seed: int) -> NDArray[np.float32]:
    """The codebook [n_codes, D] of least distortion among a few k-means++ starts; spare codes repeat the last row."""
    distinct = np.unique(messages, axis=0)
    if len(distinct) <= n_codes:  # fewer things are said than there are codes: each gets its own
        return np.concatenate([distinct, np.repeat(distinct[-1:], n_codes - len(distinct), 0)])

    def start(k: int) -> tuple[float, NDArray[np.float32]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty cluster: a spare code, no harm
            codebook, label = kmeans2(messages, n_codes, iter=50, minit="++", seed=np.random.default_rng([seed, k]))
        return float(((messages - codebook[label]) ** 2).sum()), codebook.astype(np.float32)

    return min((start(k) for k in range(FIT_STARTS)), key=lambda pair: pair[0])[1]


class VQCodec(nn.Module):
    """Vector-quantised messages with a prior conditioned on the link's previous code.

    >>> codec = VQCodec(width=4, codebook_size=8)
    >>> codec(torch.zeros(5, 4)).codes.shape
    torch.Size([5, 1])
    """

    name = "vq"

    def __init__(self, width: int, codebook_size: int = 64, context: str = "previous") -> None:
        super().__init__()
        self.width = width
        self.codebook_size = codebook_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the library draws a first codebook from torch's global generator
            self.quantizer = VectorQuantize(dim=width, codebook_size=codebook_size, commitment_weight=0.25)
        self.rate = RateTable(1, codebook_size, context)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Quantized:
        """Nearest code of each message, float [B, D]; the codebook itself moves only in `fit`."""
        self.quantizer.train()
        z, index, commitment = self.quantizer(x, freeze_codebook=True)
        codes = index[..., None]
        return Quantized(z, codes, self.rate(codes, context), {"commitment": commitment.sum()})

    def fit(self, messages: Tensor, generator: torch.Generator) -> None:
        """k-means++ on recorded messages [n, D] (Arthur & Vassilvitskii 2007), the best of a few starts.

        In our trials it left a third of the distortion of running averages with revival from a random start.
        """
        if len(messages) == 0:
            raise CodecError("no recorded messages to fit vq to; nobody speaks")
        pick = torch.randperm(len(messages), generator=generator)[:FIT_MESSAGES]
        seed = int(torch.randint(2**31, (1,), generator=generator))
        codebook = torch.from_numpy(kmeans(messages[pick].numpy(), self.codebook_size, seed))
        inner = self.quantizer._codebook  # the library's own setter leaves the running averages behind
        inner.embed.data.copy_(codebook[None])
        inner.embed_avg.data.copy_(codebook[None])
        inner.cluster_size.data.fill_(1.0)

    def set_prior(self, prior: Prior) -> None:
        """Charge by this prior from now on."""
        self.rate.set_prior(prior)

    def freeze(self) -> TableCodec:
        """The frozen edition."""
        codebook = self.quantizer.codebook.detach().clone().numpy()
        return TableCodec(self.name, CodebookQuantiser(codebook), self.rate.prior)
