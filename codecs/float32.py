"""`float32`: every float as it is, 32 bits each, less what a fitted prior over its bytes saves; the dense baseline."""

import torch
from torch import Tensor, nn

from commlib.codec import Quantized
from commlib.codecs.frozen import ByteQuantiser, TableCodec
from commlib.codecs.prior import Prior
from commlib.codecs.rate import RateTable


class Float32Codec(nn.Module):
    """Lossless messages, float [B, D]; four byte symbols per float, entropy-coded plane by plane, no context."""

    name = "float32"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.rate = RateTable(4 * width, 256, is_conditional=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Quantized:
        """The message itself."""
        frozen = ByteQuantiser(self.width)
        flat = x.detach().reshape(-1, self.width).float().numpy()
        codes = torch.from_numpy(frozen.nearest(flat)).reshape(*x.shape[:-1], 4 * self.width)
        return Quantized(x, codes, self.rate(codes, None), {})

    def fit(self, messages: Tensor, generator: torch.Generator) -> None:
        """Nothing to fit: the codec is lossless."""

    def set_prior(self, prior: Prior) -> None:
        """Charge by this prior from now on."""
        self.rate.set_prior(prior)

    def freeze(self) -> TableCodec:
        """The frozen edition."""
        return TableCodec(self.name, ByteQuantiser(self.width), self.rate.prior)
