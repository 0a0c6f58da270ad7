"""What agents see of the budget while they learn, when nothing is charged yet: what it would have left by now.

Play money: it is handed out as the budget will be in use, and what is said is paid from it at its expected price, the rate.
Once it is gone nobody is heard, as in use, or else there would be nothing to save for. Not the ledger, which is the
same for whole bits as they were sent, headers included.

Messages have no rate before they pass the codec. Then each world draws a pace at which its play money goes, so that agents
know every value of what they see by the time that it means something.

Shapes: B worlds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from commlib.budget import Budget

FASTEST = 2.0
"""Of the drawn paces: the play money is gone after half of the longest episode."""


class Pool(NamedTuple):
    """A budget of bits for everybody that lasts for some steps.

    Attributes:
        bits: what each of the worlds side by side adds to it.
        n_batches: for how many batches of episodes it has to do: one, but for the budget of a run.
    """

    bits: float
    n_batches: int = 1


@dataclass(frozen=True)
class Practice:
    """The budgets as agents see them while they learn.

    Attributes:
        pools: those that can be worked out from rates.
        is_whole: whether they are always whole when agents look: allowances of a round or a step are new then.
    """

    pools: tuple[Pool, ...]
    is_whole: bool

    @classmethod
    def of(cls, budgets: Iterable[Budget], n_episodes: int, n_parallel: int) -> Practice:
        """From the budgets of a play of so many episodes, so many of them side by side.

        >>> Practice.of([Budget.parse("64 bit/step"), Budget.parse("9 bit/episode")], 100, 50).pools
        (Pool(bits=9.0, n_batches=1),)
        """
        capped = [budget for budget in budgets if budget.amount is not None and budget.per not in ("round", "step")]
        spans = {"episode": (1, 1), "run": (n_parallel, -(-n_episodes // n_parallel))}
        pools = tuple(
            Pool((budget.amount or 0) / spans[budget.per][0], spans[budget.per][1])
            for budget in capped
            if budget.currency == "bits" and budget.is_everybodys and budget.per in spans
        )
        return cls(pools, not capped)

    def open(self, n_worlds: int, *, is_coded: bool, generator: torch.Generator) -> PlayMoney:
        """The play money of a new batch of episodes; `is_coded`: messages pass the codec, and so have a rate."""
        starts = [self._start(pool, generator) for pool in self.pools]
        paces = torch.zeros(n_worlds)
        if not self.is_whole and not (is_coded and self.pools):
            paces = FASTEST * torch.rand(n_worlds, generator=generator)
        return PlayMoney(self.pools if is_coded else (), starts, paces)

    def _start(self, pool: Pool, generator: torch.Generator) -> float:
        """What earlier batches have left of a pool: this one is any of those that share it, and they spend alike."""
        if pool.n_batches == 1:
            return 1.0
        return 1 - int(torch.randint(pool.n_batches, (1,), generator=generator)) / pool.n_batches


class PlayMoney:
    """What is left in one batch of episodes; all its worlds pay from it together, as in use."""

    def __init__(self, pools: tuple[Pool, ...], starts: list[float], paces: Tensor) -> None:
        self._pools, self._starts, self._paces = pools, starts, paces
        self._spent = 0.0

    def left(self, elapsed: float) -> Tensor:
        """The share left of the scarcest pool, [B], when this share of the episode is over."""
        n_worlds = len(self._paces)
        shares = min(
            (
                start - self._spent / max(n_worlds * pool.bits, 1e-9)
                for pool, start in zip(self._pools, self._starts, strict=False)
            ),
            default=min(self._starts, default=1.0),
        )
        return (shares - elapsed * self._paces).clamp_min(0)

    def pay(self, bits: float) -> None:
        """What all worlds said in a step."""
        self._spent += bits
