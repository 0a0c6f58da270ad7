"""A channel that loses frames in bursts: what a plan that is declared lossy has to live with.

Weather, not dice: it is fine for a while, then unsteady, then a storm, and frames are lost mostly in the storm. A frame
passes whole or not at all; what arrives is what was sent (damage is `commlib.frame`'s matter).

A Markov chain over three states, one step per frame. Zhang, Zhang & Lin 2020 (TMC, arXiv:2010.14391) test messages over
such a channel, in three settings whose mean losses they publish (`LOSSES`). The transition matrix is our choice, not
theirs: in the fair and the bad state the chain spends an equal share of the time, which makes that share the mean loss.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commlib.errors import ConfigError

LOSSES = (0.015, 0.082, 0.156)
"""The mean losses of TMC's light, medium and heavy setting."""

LOSS_IN = (0.0, 0.2, 0.8)
"""The share of frames lost in the good, the fair and the bad state."""

CHANGE = 0.2
"""The probability, per frame, of each step away from fair, and of leaving bad, which so lasts 5 frames on average."""

MAX_LOSS = 0.4

_VALUES = {"loss": r"(\d+(?:\.\d+)?)\s*(%?)", "refresh": r"\d+"}


def transitions(loss: float) -> NDArray[np.float64]:
    """The matrix [3, 3] of going from a state (row) to a state whose stationary mean loss is `loss`.

    With shares 1 - 2 x loss, loss, loss of the states, both pairs of neighbours are in balance, and the mean loss is
    0.2 x loss + 0.8 x loss.
    """
    worsens = CHANGE * loss / (1 - 2 * loss)
    return np.array([[1 - worsens, worsens, 0], [CHANGE, 1 - 2 * CHANGE, CHANGE], [0, CHANGE, 1 - CHANGE]])


@dataclass(frozen=True)
class Channel:
    """What lies between any two hosts: the mean share of frames that get lost, in bursts; and how links live with it.

    Frames within a host cross no channel. What was lost stays charged.

    >>> Channel.parse("loss=8.2%")
    Channel(loss=0.082, refresh=5)
    >>> str(Channel.parse("loss=0.5 %, refresh=10"))
    'loss=0.5%, refresh=10'

    Attributes:
        loss: 0 to 0.4.
        refresh: every so many rounds all links start afresh, so that a listener who missed something catches up; 0: never.
    """

    loss: float
    refresh: int = 5

    @classmethod
    def parse(cls, text: str) -> Channel:
        """Read "loss=8.2%" or "loss=8.2%, refresh=10"; raises ConfigError."""
        settings: dict[str, Any] = {}
        for part in text.split(","):
            name, _, value = (word.strip() for word in part.partition("="))
            match = re.fullmatch(_VALUES.get(name, "(?!)"), value, re.ASCII)
            if match is None or name in settings:
                raise ConfigError(f"cannot read {part.strip()!r} of a channel; write it like 'loss=8.2%, refresh=5'")
            settings[name] = int(value) if name == "refresh" else float(Decimal(match[1]) / (100 if match[2] else 1))
        if "loss" not in settings:
            raise ConfigError(f"the channel {text!r} does not say what it loses; write it like 'loss=8.2%'")
        channel = cls(**settings)
        check_loss(channel.loss)
        return channel

    def __str__(self) -> str:
        percent = f"{100 * self.loss:.12f}".rstrip("0").rstrip(".")
        return f"loss={percent}%, refresh={self.refresh}"

    def between(self, source: int, target: int, *seed: int) -> MarkovChannel:
        """The line from one host to another; each has weather of its own."""
        return MarkovChannel(self.loss, np.random.default_rng([*seed, source, target]))


def check_loss(loss: float) -> None:
    """Raises ConfigError if nothing can lose so much."""
    if not 0 <= loss <= MAX_LOSS:
        hint = f"did you mean {loss:g}%?" if 1 <= loss <= 100 * MAX_LOSS else "0.1 loses a tenth of the frames"
        raise ConfigError(f"a mean loss must lie in 0..{MAX_LOSS}, not {loss:g}; {hint}")


@dataclass
class MarkovChannel:
    """Lets frames pass or loses them, `loss` of them in the long run.

    >>> channel = MarkovChannel(0.0, np.random.default_rng(0))
    >>> channel.passes()
    True

    Attributes:
        loss: the mean share of lost frames, 0 to 0.4.
        generator: where chance comes from; also for the state in which the channel begins.
    """

    loss: float
    generator: np.random.Generator
    _state: int = field(init=False)

    def __post_init__(self) -> None:
        check_loss(self.loss)
        self._ways = transitions(self.loss).cumsum(-1).tolist()
        self._state = self._drawn([1 - 2 * self.loss, 1 - self.loss])

    def _drawn(self, cumulative: list[float]) -> int:
        chance = self.generator.random()
        return 0 if chance < cumulative[0] else 1 if chance < cumulative[1] else 2

    def passes(self) -> bool:
        """Whether the next frame arrives; the weather moves on."""
        is_through = bool(self.generator.random() >= LOSS_IN[self._state])
        self._state = self._drawn(self._ways[self._state])
        return is_through
