"""`dither`: each float on an even grid shifted by a random amount that both ends know, so that the error is just noise.

DDCL's quantiser (arXiv:2511.01554): with subtractive dither (Schuchman 1964; Gray & Stockham 1993) what is heard is what
was said plus uniform noise, independent of it, and the gradient through the channel is exactly 1. Both ends take the
shift from the age of their link, so it costs nothing. So all first messages of fresh links share one shift: for a single
message it is a fixed offset; the noise is random over the rounds of a link.

Shapes: B messages, D message width, U shifts.
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

N_SHIFTS = 64
SPARE = 1
"""Levels beyond the range of what was recorded, at each end, for the shift to move into."""


class DitherCodec(nn.Module):
    """Subtractively dithered floats, float [B, D]; grids span -1..1 until fitted.

    Args:
        width: D.
        levels: of each grid; DDCL's 2 |z| / delta + 1.
        magnitude_weight: weight of DDCL's cost, the mean over messages of sum over floats of log2(2 |x| / delta + 1).
    """

    name = "dither"
    low: Tensor
    step: Tensor

    def __init__(self, width: int, levels: int = 16, magnitude_weight: float = 0.0) -> None:
        super().__init__()
        self.width, self.levels, self.magnitude_weight = width, levels, magnitude_weight
        self.register_buffer("low", torch.zeros(width))
        self.register_buffer("step", torch.ones(width))
        self._stretch(torch.full((width,), -1.0), torch.full((width,), 1.0))
        self.rate = RateTable(width, levels, "previous")
        self._unit = np.random.default_rng(0).uniform(-0.5, 0.5, (N_SHIFTS, width)).astype(np.float32)

    def _stretch(self, low: Tensor, high: Tensor) -> None:
        step = ((high - low) / (self.levels - 1 - 2 * SPARE)).clamp_min(1e-6)
        self.step.copy_(step)
        self.low.copy_(low - SPARE * step)

    def forward(self, x: Tensor, context: Tensor | None = None, rate_weight: float = 0.0) -> Quantized:
        """The level nearest to what was said plus the shift, less the shift; gradient exactly 1."""
        out = through_frozen(self, x, context, rate_weight)
        if self.magnitude_weight == 0:
            return out
        magnitude = (2 * x.abs() / self.step + 1).log2().sum(-1).mean()
        return out._replace(losses={"magnitude": self.magnitude_weight * magnitude})

    def fit(self, messages: Tensor, generator: torch.Generator) -> None:
        """Stretch each grid over the range of recorded messages [n, D]."""
        if len(messages) == 0:
            raise CodecError("no recorded messages to fit dither to; nobody speaks")
        self._stretch(messages.amin(0), messages.amax(0))

    def set_prior(self, prior: Prior) -> None:
        """Charge by this prior from now on."""
        self.rate.set_prior(prior)

    def freeze(self) -> TableCodec:
        """The frozen edition."""
        step = self.step.numpy().copy()
        return TableCodec(
            self.name, GridQuantiser(self.low.numpy().copy(), step, self.levels), self.rate.prior, self._unit * step
        )
