"""`fsq`: finite scalar quantisation, a codebook without a codebook (Mentzer et al. 2023, arXiv:2309.15505).

The quantiser is `FSQ` of vector-quantize-pytorch, composed. Its two linear maps are parameters like any other in the
user's own training loop, until they are fitted to recorded messages by gradient descent on the squared error; from then on
they are held still.

Shapes: B messages, D message width, P numbers, K levels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vector_quantize_pytorch import FSQ

from commlib.codec import Quantized
from commlib.codecs.fit import FIT_MESSAGES
from commlib.codecs.frozen import TableCodec
from commlib.codecs.levels import LevelsQuantiser
from commlib.codecs.prior import Prior
from commlib.codecs.rate import RateTable
from commlib.codecs.through import straight_through, through_frozen
from commlib.errors import CodecError

FIT_STEPS, FIT_BATCH, FIT_RATE = 1500, 512, 5e-3


def levels_for(codebook_size: int) -> list[int]:
    """Levels whose product is about the size of a codebook (arXiv:2309.15505, sec. 4.1, table 1)."""
    table = {16: [5, 3], 64: [8, 8], 256: [8, 6, 5], 1024: [8, 5, 5, 5], 4096: [7, 5, 5, 5, 5]}
    return next((levels for size, levels in table.items() if codebook_size <= size), table[4096])


class FSQCodec(nn.Module):
    """Finite scalar quantisation; the prior knows the last level of each number on the link."""

    name = "fsq"
    is_fitted: Tensor

    def __init__(self, width: int, codebook_size: int = 64, context: str = "previous") -> None:
        super().__init__()
        self.width = width
        self.levels = levels_for(codebook_size)
        n = len(self.levels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.into, self.out = nn.Linear(width, n), nn.Linear(n, width)
        self.quantizer = FSQ(self.levels)
        self.rate = RateTable(n, max(self.levels), context)
        self.register_buffer("is_fitted", torch.zeros((), dtype=torch.bool))

    def _pass(self, x: Tensor) -> Tensor:
        maps = [self.into.weight, self.into.bias, self.out.weight, self.out.bias]
        into, at, out, mean = (tensor.detach() for tensor in maps) if self.is_fitted else maps
        return F.linear(self.quantizer(F.linear(x, into, at)[None])[0][0], out, mean)

    def forward(self, x: Tensor, context: Tensor | None = None, rate_weight: float = 0.0) -> Quantized:
        """The rounded message, float [B, D]; gradient through both maps, or straight through under a rate weight."""
        sent = through_frozen(self, x, context, rate_weight)
        return sent if rate_weight > 0 else sent._replace(z=straight_through(sent.z, self._pass(x)))

    def fit(self, messages: Tensor, generator: torch.Generator) -> None:
        """Fit both maps to recorded messages [n, D], starting from their principal axes."""
        if len(messages) == 0:
            raise CodecError("no recorded messages to fit fsq to; nobody speaks")
        x = messages[torch.randperm(len(messages), generator=generator)[:FIT_MESSAGES]].float()
        mean, n = x.mean(0), len(self.levels)
        _, size, axes = torch.linalg.svd(x - mean, full_matrices=False)
        kept = min(n, len(axes))
        scale = (size[:kept] / len(x) ** 0.5).clamp_min(1e-6)
        with torch.no_grad():
            self.into.weight.zero_()
            self.out.weight.zero_()
            self.into.weight[:kept] = axes[:kept] / scale[:, None]
            self.into.bias.copy_(-self.into.weight @ mean)
            self.out.weight[:, :kept] = axes[:kept].T * scale * 1.5
            self.out.bias.copy_(mean)
        self.is_fitted.fill_(False)
        adam = torch.optim.Adam([*self.into.parameters(), *self.out.parameters()], FIT_RATE)
        with torch.enable_grad():
            for step in range(FIT_STEPS):
                adam.param_groups[0]["lr"] = FIT_RATE * (1 - step / FIT_STEPS)
                batch = x[torch.randint(len(x), (FIT_BATCH,), generator=generator)]
                adam.zero_grad()
                torch.autograd.backward((self._pass(batch) - batch).square().sum(-1).mean())
                adam.step()
        self.is_fitted.fill_(True)

    def set_prior(self, prior: Prior) -> None:
        """Charge by this prior from now on."""
        self.rate.set_prior(prior)

    def freeze(self) -> TableCodec:
        """The frozen edition."""
        maps = [
            tensor.detach().clone().numpy()
            for tensor in (self.into.weight, self.into.bias, self.out.weight, self.out.bias)
        ]
        levels = torch.tensor(self.levels).numpy()
        return TableCodec(self.name, LevelsQuantiser(levels, *maps), self.rate.prior)
