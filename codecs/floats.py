"""`float32` and `float16`: floats as they are, less what a fitted prior over their bytes saves; the dense baselines."""

import torch
from torch import Tensor, nn

from commlib.codec import Quantized
from commlib.codecs.frozen import ByteQuantiser, TableCodec
from commlib.codecs.prior import Prior
from commlib.codecs.rate import RateTable


class Float32Codec(nn.Module):
    """Lossless messages, float [B, D]; four byte symbols per float, entropy-coded plane by plane, no context."""

    name = "float32"
    n_bytes = 4

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self._bytes = ByteQuantiser(width, self.n_bytes)
        self.rate = RateTable(self._bytes.n_positions, 256, "none")

    def forward(self, x: Tensor, context: Tensor | None = None, rate_weight: float = 0.0) -> Quantized:
        """The message as these bytes can say it, straight through; there is nothing to trade for bits."""
        codes_nP = self._bytes.nearest(x.detach().reshape(-1, self.width).float().numpy())
        codes = torch.from_numpy(codes_nP).reshape(*x.shape[:-1], self._bytes.n_positions)
        heard = torch.from_numpy(self._bytes.embed(codes_nP)).view_as(x)
        return Quantized(x + (heard - x).detach(), codes, self.rate(codes, None), {})

    def fit(self, messages: Tensor, generator: torch.Generator) -> None:
        """Nothing to fit."""

    def set_prior(self, prior: Prior) -> None:
        """Charge by this prior from now on."""
        self.rate.set_prior(prior)

    def freeze(self) -> TableCodec:
        """The frozen edition."""
        return TableCodec(self.name, self._bytes, self.rate.prior)


class Float16Codec(Float32Codec):
    """Messages rounded to IEEE half precision; two byte symbols per float."""

    name = "float16"
    n_bytes = 2
