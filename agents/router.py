"""What it will cost receivers to be told one thing and not another, as far as the sender can tell.

A postmaster who knows the addressees: an urgent letter goes by courier, a greeting by slow post or not at all. A codec
alone takes every difference between two vectors for equally bad; but "nothing found at cell 5" for "nothing found at
cell 6" harms nobody, and "nothing found" for "found" does. The router predicts the harm to each receiver from what the
sender knows: its observation, its id, the time, what it heard last, its message, and the way to tell it. Then one rule
opens everything, `harm + rate_weight x bits`: silence, the tiers of a residual code, and, where links are paid one by
one, the edges of a graph that changes from step to step.

Nothing is learned under a price here, so nothing collapses: harm is measured (`commlib.agents.routing`), and predicted.

Shapes: B samples, n agents of this call, N agents in all, C receivers, D message width, S width of what a sender knows.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

KEY_WIDTH = 16


class Router(nn.Module):
    """Squared distortion times a positive factor: a key of the sender's situation against one of each receiver.

    In the lessons the mean harm is the mean distortion (`scale`), which keeps rate weights in the range of the ladder; the
    same weight still buys other bits than without a router.
    """

    scale: Tensor

    def __init__(self, n_agents: int, known_width: int, message_width: int, hidden: int) -> None:
        super().__init__()
        self.sender = nn.Sequential(
            nn.Linear(known_width + 2 * message_width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, KEY_WIDTH + 1),
        )
        self.receiver = nn.Embedding(n_agents, KEY_WIDTH)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, known: Tensor, meant: Tensor, told: Tensor, receivers: Tensor) -> Tensor:
        """Expected harm [B, n, C], from what senders know [B, n, S] and messages as meant and as told [B, n, D].

        Receivers are ids, int64 [n, C].
        """
        key = self.sender(torch.cat([known, meant, told], -1))
        lock = self.receiver(receivers) / KEY_WIDTH**0.5
        factor = softplus((key[..., None, :-1] * lock).sum(-1) + key[..., -1:])
        harm: Tensor = self.scale * (meant - told).square().sum(-1, keepdim=True) * factor
        return harm


def deviance(predicted: Tensor, seen: Tensor) -> Tensor:
    """Poisson deviance per element, halved: least where the prediction is the mean of what is seen, whatever its spread.

    Most replacements harm nobody and few do for certain; squared error would see nothing but the few.
    (McCullagh & Nelder 1989, Generalized Linear Models, sec. 2.3.)
    """
    floor = 1e-6
    surprise = torch.where(seen > 0, seen * (seen.clamp_min(floor) / predicted.clamp_min(floor)).log(), 0.0)
    return surprise - seen + predicted
