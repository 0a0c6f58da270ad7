"""When an open edge carries something: rules that need no learning, the same in training and in use.

A doorman with one rule. `random` lets in a share of the callers, whoever they are: the control that every cleverer doorman
has to beat at the same rate. `event` lets in whoever has news: the message moved by more than a threshold from what its
listeners have (event-triggered communication: Hu et al. 2021, arXiv:2010.04978; Zhang et al. 2020, TMC, arXiv:2010.14391).
What is not let in is silence, and silence means what the codec says it means.

Shapes: n messages, D message width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commlib.errors import ConfigError

RULES = ("none", "random", "event")


@dataclass(frozen=True)
class Gate:
    """A rule and its level.

    Attributes:
        rule: one of `RULES`.
        level: of `random` the share of messages that go; of `event` the least squared distance, summed over the D floats,
            between a message and what its listeners have.
        seed: of the dice.
    """

    rule: str = "none"
    level: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"no gate has the rule {self.rule!r}; there are {', '.join(RULES)}")
        if not 0 <= self.level <= (1 if self.rule == "random" else float("inf")):
            raise ConfigError(f"a {self.rule} gate cannot have the level {self.level}")

    @property
    def draws(self) -> bool:
        """Whether it throws dice."""
        return self.rule == "random"

    def is_shut(self, vectors: Any, held: Any, dice: Any) -> Any:  # noqa: ANN401 (arrays or tensors)
        """Which messages [..] stay unsaid, from vectors and what listeners have, [.., D], and uniform numbers [..]."""
        if self.rule == "random":
            return dice >= self.level
        return ((vectors - held) ** 2).sum(-1) <= self.level


def dice_of(seed: int, round_number: int, sender: int, n_worlds: int) -> NDArray[np.float64]:
    """A sender's uniform numbers of a round, [W]: the same wherever it lives."""
    return np.random.default_rng([seed, round_number, sender]).random(n_worlds)
