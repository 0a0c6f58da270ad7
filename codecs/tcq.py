"""`trellis`: trellis-coded quantisation of each message's floats, the codec for more than about a bit per float.

The wire's own search runs in training too (`commlib.codecs.through`); see `commlib.codecs.trellis` for how it works.

Shapes: B messages, D message width, K levels.
"""

import torch
from torch import Tensor, nn

from commlib.codec import Quantized
from commlib.codecs.frozen import TableCodec
from commlib.codecs.prior import Prior
from commlib.codecs.rate import RateTable
from commlib.codecs.through import through_frozen
from commlib.codecs.trellis import even_trellis
from commlib.errors import CodecError


class TrellisCodec(nn.Module):
    """A path of grid numbers for each message, float [B, D]; grids span -1..1 until fitted."""

    name = "trellis"
    middle: Tensor
    step: Tensor

    def __init__(self, width: int, codebook_size: int = 64) -> None:
        super().__init__()
        self.width, self.levels = width, codebook_size
        self.register_buffer("middle", torch.zeros(width))
        self.register_buffer("step", torch.full((width,), 1.0 / codebook_size))
        self.rate = RateTable(width, codebook_size, "trellis")

    def forward(self, x: Tensor, context: Tensor | None = None, rate_weight: float = 0.0) -> Quantized:
        """The best path, straight through."""
        return through_frozen(self, x, context, rate_weight)

    def fit(self, messages: Tensor, generator: torch.Generator) -> None:
        """Stretch the grids over the range of recorded messages [n, D]."""
        if len(messages) == 0:
            raise CodecError("no recorded messages to fit trellis to; nobody speaks")
        middle = messages.mean(0)
        self.middle.copy_(middle)
        self.step.copy_(((messages - middle).abs().amax(0) / self.levels).clamp_min(1e-6))

    def set_prior(self, prior: Prior) -> None:
        """Charge by this prior from now on."""
        self.rate.set_prior(prior)

    def freeze(self) -> TableCodec:
        """The frozen edition."""
        grid = even_trellis(self.middle.numpy(), self.step.numpy(), self.levels)
        return TableCodec(self.name, grid, self.rate.prior)
