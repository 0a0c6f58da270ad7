"""Which of several worlds counts how much: those in which a team is weak, and is not getting better, count more.

A teacher with one class and several subjects, who spends more of the hour where marks are low, and less of it where they are
rising by themselves. Not a curriculum: nothing is made easier.

The rule is that of MT-GRPO (Ramesh et al. 2026, arXiv:2602.05547) in closed form: of all weights w on the simplex, those that
minimise sum_k w_k (J_k + I_k) + tau KL(w || even), where J_k is the success in world k and I_k how much it has lately risen.
So w_k is proportional to exp(-(J_k + I_k) / tau): as tau goes to 0 only the worst counts, as it grows all count alike. The
constants are ours.

Shapes: K worlds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

TEMPERATURE: Final = 0.3
"""tau, in shares of success: a world that stands 0.3 below another one counts e times as much."""
LATELY: Final = 0.2
"""How fast an average follows that says what the team comes to."""
BEFORE: Final = 0.05
"""How fast another one does; the first less this one is the improvement. Both per iteration."""


class Balance:
    """Weights of K worlds, with mean 1, that follow what a team comes to in each."""

    def __init__(self, n_worlds: int) -> None:
        self._now, self._before = torch.zeros(n_worlds), torch.zeros(n_worlds)

    def learn(self, success_K: Tensor) -> None:
        """Take note of the success in each world, 0..1, in the last batch."""
        self._now = self._now + LATELY * (success_K - self._now)
        self._before = self._before + BEFORE * (success_K - self._before)

    @property
    def weights(self) -> Tensor:
        """How much each world counts, float32 [K], mean 1.

        >>> balance = Balance(2)
        >>> for _ in range(100): balance.learn(torch.tensor([0.2, 0.8]))
        >>> balance.weights.mean().item(), bool(balance.weights[0] > 4 * balance.weights[1])
        (1.0, True)
        """
        improvement = self._now - self._before
        return len(self._now) * torch.softmax(-(self._now + improvement) / TEMPERATURE, 0)

    def state(self) -> dict[str, list[float]]:
        """What a checkpoint needs to keep."""
        return {"now": self._now.tolist(), "before": self._before.tolist()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._now, self._before = torch.tensor(state["now"]), torch.tensor(state["before"])
