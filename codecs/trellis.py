"""Trellis-coded quantisation in numpy: two interleaved grids, and the numbers said so far decide which one is next.

Like dancing on two chessboards laid half a square apart: the step taken now decides on which board the next one may
land. A path chosen with foresight lies closer to any target than steps taken one by one on a single board. Not a code
for long streams only: a message of a few floats is a path too.

Marcellin & Fischer 1990 (IEEE Trans. Commun. 38(1)); with entropy coding, Fischer & Wang 1992 (IEEE Trans. Inform.
Theory 38(2)); the code is Ungerboeck's with eight states (`commlib.codecs.rows.grid_of`). The search is Viterbi's.

Shapes: n messages, D floats = positions, K levels, S = 8 states.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from commlib.codec import Codes, Vectors
from commlib.codecs.frozen import Arrays, Rate
from commlib.codecs.rows import grid_of
from commlib.errors import CodecError

_STATES = np.arange(8)
"""u[t-1], u[t-2] and u[t-3] of the code, as bits 4, 2 and 1."""
_GRID = (_STATES >> 1) & 1


def _step(parity: int) -> NDArray[np.int64]:
    """The state after each state when the number said has this parity."""
    u = parity ^ (_STATES >> 2) ^ (_STATES & 1)
    return u << 2 | _STATES >> 1


_NEXT = np.stack([_step(0), _step(1)])


@dataclass(frozen=True, eq=False)
class TrellisQuantiser:
    """What number k on grid g of a float stands for: float32 [D, 2, K], at first two even grids (`even_trellis`)."""

    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.shape[1] != 2 or not np.isfinite(self.values).all():
            raise CodecError(f"the values of a trellis are finite floats [D, 2, K], not {list(self.values.shape)}")

    @property
    def width(self) -> int:
        """D."""
        return len(self.values)

    @property
    def n_positions(self) -> int:
        """One number per float."""
        return len(self.values)

    @property
    def alphabet(self) -> int:
        """K, levels per float."""
        return int(self.values.shape[2])

    @property
    def is_searchable(self) -> bool:
        """Yes."""
        return True

    def arrays(self) -> Arrays:
        """The values."""
        return {"values": self.values}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> TrellisQuantiser:
        """Back from `arrays`."""
        return cls(arrays["values"])

    def nearest(self, vectors: Vectors) -> Codes:
        """The path [n, D] of least squared distance."""
        return self.search(vectors, lambda position, which, codes: np.zeros((len(which), 1), np.float32), 0.0)

    def search(self, vectors: Vectors, rate: Rate, rate_weight: float) -> Codes:
        """The path [n, D] of least squared distance + rate_weight x bits, exactly, if rates depend on the grid alone."""
        n = len(vectors)
        total = np.full((n, len(_STATES)), np.inf)
        total[:, 0] = 0.0
        said = np.zeros((self.width, n, 2, 2), np.int64)  # the best number on each grid, of each parity
        came = np.zeros((self.width, n, len(_STATES)), np.int64)  # the state before, and in bit 3 the parity
        for position in range(self.width):
            cost = np.empty((n, 2, 2))
            for grid in range(2):
                for_grid = self._cost(position, grid, vectors[:, position], rate, rate_weight)
                for parity in range(2):
                    best = for_grid[:, parity::2].argmin(1)
                    said[position, :, grid, parity] = 2 * best + parity
                    cost[:, grid, parity] = for_grid[np.arange(n), 2 * best + parity]
            after = np.full((n, len(_STATES)), np.inf)
            for parity in range(2):
                arriving = total + cost[:, _GRID, parity]
                for state in _STATES:
                    there = _NEXT[parity, state]
                    better = arriving[:, state] < after[:, there]
                    after[better, there] = arriving[better, state]
                    came[position, better, there] = state | parity << 3
            total = after
        return self._path(total.argmin(1), said, came)

    def _cost(
        self, position: int, grid: int, x: NDArray[np.float32], rate: Rate, rate_weight: float
    ) -> NDArray[np.float64]:
        """What each level [n, K] of a grid costs at a position."""
        low, high = float(self.values[position].min()), float(self.values[position].max())
        near = x.astype(np.float64).clip(2 * low - high, 2 * high - low)  # what is beyond is as far from all, in floats
        apart: NDArray[np.float64] = np.square(near[:, None] - self.values[position, grid])
        if rate_weight == 0:
            return apart
        before = np.zeros((len(x), self.width), np.int64)
        if position >= 2:
            before[:, position - 2] = grid  # one past of many that lead to this grid
        elif grid:
            return np.full_like(apart, np.inf)  # the first two numbers lie on the first grid
        apart += rate_weight * rate(position, np.arange(len(x)), before)
        return apart

    def _path(self, last: NDArray[np.intp], said: Codes, came: Codes) -> Codes:
        """Back from the best last state of each message."""
        n, everyone, state = len(last), np.arange(len(last)), last
        codes = np.zeros((n, self.width), np.int64)
        for position in range(self.width - 1, -1, -1):
            step = came[position, everyone, state]
            state, parity = step & 7, step >> 3
            codes[:, position] = said[position, everyone, _GRID[state], parity]
        return codes

    def embed(self, codes: Codes) -> Vectors:
        """The floats [n, D]."""
        return self.values[np.arange(self.width), self.grids(codes), codes]

    def grids(self, codes: Codes) -> Codes:
        """Which grid each number of messages [n, D] lies on, [n, D]."""
        return np.stack([grid_of(codes, position) for position in range(self.width)], 1)


def even_trellis(middle: NDArray[np.float32], step: NDArray[np.float32], levels: int) -> TrellisQuantiser:
    """Two even grids for each float, 2 steps wide and a step apart, their middle level at `middle` [D]."""
    number = 2 * (np.arange(levels) - levels // 2) + np.arange(2)[:, None]
    return TrellisQuantiser((middle[:, None, None] + step[:, None, None] * number).astype(np.float32))
