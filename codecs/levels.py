"""Finite scalar quantisation in numpy: a few numbers, each rounded to one of a few levels, between two linear maps.

Mentzer et al. 2023 (arXiv:2309.15505), sec. 3.1, as `FSQ` of vector-quantize-pytorch computes it.

Shapes: n messages, D message width, P numbers = positions, K = the most levels of any.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from commlib.codec import Codes, Vectors
from commlib.codecs.frozen import Arrays, Rate

_EPS = 1e-3
_PASSES = 2


@dataclass(frozen=True, eq=False)
class LevelsQuantiser:
    """Linear [P, D], tanh, rounding to `levels` [P], linear [D, P]; squared distance in the space of messages."""

    levels: NDArray[np.int64]
    into: NDArray[np.float32]
    into_bias: NDArray[np.float32]
    out: NDArray[np.float32]
    out_bias: NDArray[np.float32]

    @property
    def width(self) -> int:
        """D."""
        return int(self.out.shape[0])

    @property
    def n_positions(self) -> int:
        """P."""
        return len(self.levels)

    @property
    def alphabet(self) -> int:
        """K."""
        return int(self.levels.max())

    @property
    def is_searchable(self) -> bool:
        """Yes."""
        return True

    def arrays(self) -> Arrays:
        """Levels and both maps."""
        return {name: getattr(self, name) for name in ("levels", "into", "into_bias", "out", "out_bias")}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> LevelsQuantiser:
        """Back from `arrays`."""
        return cls(**arrays)

    def nearest(self, vectors: Vectors) -> Codes:
        """Rounded numbers, [n, P]: nearest between the maps, not among messages."""
        z = vectors @ self.into.T + self.into_bias
        half = ((self.levels - 1) * (1 + _EPS) / 2).astype(np.float32)
        offset = np.where(self.levels % 2 == 0, 0.5, 0.0).astype(np.float32)
        bounded = np.tanh(z + np.arctanh(offset / half)) * half - offset
        codes: Codes = np.rint(bounded).astype(np.int64) + self.levels // 2
        return codes

    def search(self, vectors: Vectors, rate: Rate, rate_weight: float) -> Codes:
        """Number by number the best trade of squared distance and bits, the others held, a few times round."""
        codes, everyone = self.nearest(vectors), np.arange(len(vectors))
        for _ in range(_PASSES):
            for position in range(self.n_positions):
                value = self._values(position)
                left = vectors - self.embed(codes) + np.outer(value[codes[:, position]], self.out[:, position])
                apart = np.square(left[:, None] - value[:, None] * self.out[:, position]).sum(-1)
                told = rate(position, everyone, codes)[:, : len(value)]
                codes[:, position] = (apart + rate_weight * told).argmin(-1)
        return codes

    def _values(self, position: int) -> NDArray[np.float32]:
        half = self.levels[position] // 2
        values: NDArray[np.float32] = ((np.arange(self.levels[position]) - half) / half).astype(np.float32)
        return values

    def embed(self, codes: Codes) -> Vectors:
        """Messages, [n, D]; a symbol beyond a number's levels stands for its highest."""
        half = self.levels // 2
        value = ((np.minimum(codes, self.levels - 1) - half) / half).astype(np.float32)
        return value @ self.out.T + self.out_bias
