"""`int8`: each float on an even grid of 256 levels, with the same prior, silence and rate-aware encoder as `vq`.

The strongest simple rival: a ruler instead of a phrase book. Straight-through rounding (Bengio et al. 2013,
arXiv:1308.3432).
"""

import numpy as np
import torch
from torch import Tensor, nn

from commlib.codec import Quantized
from commlib.codecs.frozen import GridQuantiser, TableCodec
from commlib.codecs.prior import Prior
from commlib.codecs.rate import RateTable
from commlib.codecs.through import through_frozen
from commlib.errors import CodecError

LEVELS = 256
SOFTNESS = 0.05
"""Temperature of the drawn level that the rate's gradient asks about, as a share of a grid's variance."""


class Int8Codec(nn.Module):
    """Eight bits per float before entropy coding, float [B, D]; grids span -1..1 until fitted."""

    name = "int8"
    low: Tensor
    step: Tensor

    def __init__(self, width: int, context: str = "previous") -> None:
        super().__init__()
        self.width = width
        self.register_buffer("low", torch.full((width,), -1.0))
        self.register_buffer("step", torch.full((width,), 2.0 / (LEVELS - 1)))
        self.rate = RateTable(width, LEVELS, context)

    def forward(self, x: Tensor, context: Tensor | None = None, rate_weight: float = 0.0) -> Quantized:
        """Nearest level of each float, straight through; with a rate weight the best trade of error and bits."""
        if rate_weight > 0:
            return through_frozen(self, x, context, rate_weight)
        codes = ((x.detach() - self.low) / self.step).round().clamp(0, LEVELS - 1)
        hard = self.low + self.step * codes
        codes = codes.long()
        return Quantized(hard + (x - x.detach()), codes, self.rate(codes, context), {})

    def pulled_bits(self, x: Tensor, codes: Tensor, context: Tensor | None) -> Tensor:
        """Bits of each message, [B], with a gradient for it; see `commlib.codecs.rate.RateTable.expected`."""
        levels = self.low[:, None] + self.step[:, None] * torch.arange(LEVELS)
        distance = (x[..., None] - levels).square()
        return self.rate.expected(distance, codes, context, SOFTNESS * float(levels.var(1, correction=0).mean()))

    def fit(self, messages: Tensor, generator: torch.Generator) -> None:
        """Stretch each grid over the range of recorded messages [n, D]."""
        if len(messages) == 0:
            raise CodecError("no recorded messages to fit int8 to")
        low, high = messages.amin(0), messages.amax(0)
        self.low.copy_(low)
        self.step.copy_(((high - low) / (LEVELS - 1)).clamp_min(1e-6))

    def set_prior(self, prior: Prior) -> None:
        """Charge by this prior from now on."""
        self.rate.set_prior(prior)

    def freeze(self) -> TableCodec:
        """The frozen edition."""
        grid = GridQuantiser(self.low.numpy().astype(np.float32), self.step.numpy().astype(np.float32), LEVELS)
        return TableCodec(self.name, grid, self.rate.prior)
