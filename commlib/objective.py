"""What training maximises: task reward minus the price of the bits, as named loss terms.

    maximise  E[sum of reward] - bit_price * E[sum of bits],      bits = -log2 q(code | what the receiver has)

A loss is a bill with one line per item; `LossTerms` keeps the lines apart so that a curve can be drawn of each. PPO's
clipped surrogate (Schulman et al. 2017, arXiv:1707.06347, eq. 7) stands in for the reward.

Shapes: M samples, n agents.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class LossTerms(NamedTuple):
    """One scalar tensor per term, already weighted, so that they may be added.

    Attributes:
        policy: the clipped surrogate, in units of normalised advantage.
        value: squared error of the critic, in reward^2 times its weight.
        entropy: minus the exploration bonus, in reward (weight x nats).
        commitment: the codec's own losses, weighted.
        rate: bit_price x expected bits, in units of normalised advantage.
        gate: the clipped surrogate of drawn talk decisions, in units of normalised advantage.
        foresight: squared error of agents' own guesses, in units of normalised advantage, squared, times its weight.
        imitation: nats by which agents miss what the world's expert would do, times their weight.
    """

    policy: Tensor
    value: Tensor
    entropy: Tensor
    commitment: Tensor
    rate: Tensor
    gate: Tensor
    foresight: Tensor
    imitation: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        return sum(self, torch.zeros(()))


class Scored(Protocol):
    """Anything that was played: success 0..1, None where the world defines none, and the mean return."""

    @property
    def success(self) -> float | None:
        """0..1, or None."""
        ...

    @property
    def return_(self) -> float:
        """The mean return."""
        ...


def merit(one: Scored) -> float:
    """What a play is judged by: success where there is one, else the return."""
    return one.return_ if one.success is None else one.success


def holds(one: Scored, best: Scored, margin: float) -> bool:
    """Whether a play is within the margin of the best: of success, or, without one, of the size of the return."""
    if one.success is None or best.success is None:
        return one.return_ >= best.return_ - margin * abs(best.return_)
    return one.success >= best.success - margin


@dataclass(frozen=True)
class Objective:
    """Weights of the terms. Advantages and masks come in, terms come out; nothing is stored.

    Attributes:
        clip: PPO's clip range.
        value_weight: reward per reward^2 of critic error.
        bit_price: reward per bit; 0 in all stages but the priced one.
        foresight_weight: of the squared error of agents' own guesses.
        scale: reward that one unit of advantage stands for.
    """

    clip: float = 0.2
    value_weight: float = 0.5
    bit_price: float = 0.0
    foresight_weight: float = 0.0
    scale: float = 1.0

    def policy(self, log_ratio: Tensor, advantage: Tensor, weight: Tensor) -> Tensor:
        """Clipped surrogate from log-ratios [M, n] and normalised advantages [M, n]; weights [M, n] add up to one."""
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        return -(torch.minimum(ratio * advantage, clipped * advantage) * weight).sum()

    def value(self, predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Squared critic error of predictions [M, n]."""
        return self.value_weight * ((predicted - target).square() * weight).sum()

    def at_scale(self, reward: float) -> Objective:
        """The same where one unit of advantage stands for so much reward: the price is in that unit, too.

        The surrogate sees normalised advantages. A price in bare reward beside it would weigh less, the more there is at stake.
        """
        return replace(self, bit_price=self.bit_price / reward, scale=reward)

    def foresight(self, guessed: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Squared error of the returns [M, n] that agents guess from what they hear, in units of advantage."""
        return self.foresight_weight * (((guessed - target) / self.scale).square() * weight).sum()

    def rate(self, expected_bits: Tensor, weight: Tensor) -> Tensor:
        """The bill for expected bits [M, n] at the bit price."""
        return self.bit_price * (expected_bits * weight).sum()
