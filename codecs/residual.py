"""Residual quantisation in numpy: each stage says what the stages before it left over, so a message can stop early.

A price told in pounds, then shillings, then pence: whoever stops after the pounds is roughly right. Code 0 of every
stage but the first stands for the zero vector: "nothing to add", cheap where the prior expects it. So a tier (coarse,
fine, finest) is no field on the wire; it is how many of the last codes are 0.

Shapes: n messages, D message width, P stages, K codes per stage, M paths kept alive in the search.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from commlib.codec import Codes, Vectors
from commlib.codecs.frozen import Arrays, Rate
from commlib.errors import CodecError

BEAM = 8


@dataclass(frozen=True, eq=False)
class ResidualQuantiser:
    """P codebooks, float32 [P, K, D], whose chosen rows add up (Juang & Gray 1982; Zeghidour et al. 2021, sec. III-C)."""

    codebooks: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.codebooks.ndim != 3 or self.codebooks[1:, 0].any():
            raise CodecError("residual codebooks are [P, K, D], and code 0 of all but the first is the zero vector")

    @property
    def width(self) -> int:
        """D."""
        return int(self.codebooks.shape[2])

    @property
    def n_positions(self) -> int:
        """P, the stages."""
        return int(self.codebooks.shape[0])

    @property
    def alphabet(self) -> int:
        """K, codes per stage."""
        return int(self.codebooks.shape[1])

    @property
    def is_searchable(self) -> bool:
        """Yes."""
        return True

    def arrays(self) -> Arrays:
        """The codebooks."""
        return {"codebooks": self.codebooks}

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> ResidualQuantiser:
        """Back from `arrays`."""
        return cls(arrays["codebooks"])

    def nearest(self, vectors: Vectors) -> Codes:
        """Stage by stage the row nearest to what is left, [n, P]: what training does, not the best sum of rows."""
        left, codes = vectors, []
        for codebook in self.codebooks:
            code = ((codebook**2).sum(-1) - 2 * left @ codebook.T).argmin(-1)
            left = left - codebook[code]
            codes.append(code)
        return np.stack(codes, 1)

    def search(self, vectors: Vectors, rate: Rate, rate_weight: float) -> Codes:
        """The best of `BEAM` paths through the stages, by squared distance + rate_weight x bits of the whole message."""
        n = len(vectors)
        left = vectors[:, None]  # [n, M, D]
        codes = np.zeros((n, 1, self.n_positions), np.int64)
        bits = np.zeros((n, 1))
        for stage, codebook in enumerate(self.codebooks):
            n_paths = left.shape[1]
            told = rate(stage, np.repeat(np.arange(n), n_paths), codes.reshape(n * n_paths, -1)).reshape(n, n_paths, -1)
            apart = (left**2).sum(-1, keepdims=True) + (codebook**2).sum(-1) - 2 * left @ codebook.T
            cost = (apart + rate_weight * (bits[..., None] + told)).reshape(n, -1)
            kept = min(BEAM, cost.shape[1])
            best = np.argpartition(cost, kept - 1, 1)[:, :kept]
            path, code = best // self.alphabet, best % self.alphabet
            rows = np.arange(n)[:, None]
            left = left[rows, path] - codebook[code]
            bits = bits[rows, path] + told[rows, path, code]
            codes = codes[rows, path]
            codes[..., stage] = code
        final = ((left**2).sum(-1) + rate_weight * bits).argmin(1)
        found: Codes = codes[np.arange(n), final]
        return found

    def embed(self, codes: Codes) -> Vectors:
        """The sum of the chosen rows, [n, D], stage by stage."""
        total: Vectors = self.codebooks[0, codes[:, 0]]
        for stage in range(1, self.n_positions):
            total = total + self.codebooks[stage, codes[:, stage]]
        return total


def coarse(codes: Codes, n_stages: int) -> Codes:
    """The same messages told with `n_stages` stages at most, [n, P].

    >>> coarse(np.array([[5, 7, 2]]), 1)
    array([[5, 0, 0]])
    """
    return np.where(np.arange(codes.shape[1]) < n_stages, codes, 0)
