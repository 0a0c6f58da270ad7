"""Sources whose limits are known: what can be said in how few bits, and how wrong it must then be.

The measuring rod beside which a codec is held. Discrete sources have an entropy rate in closed form; for continuous ones
the rate-distortion function is computed by Blahut's and Arimoto's iteration, which needs no closed form.

Shapes: n symbols or numbers, L links, T rounds, K alphabet, M grid points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from commlib.codec import Codes, Vectors

Floats = NDArray[np.float64]

# --- discrete ---------------------------------------------------------------------------------------------------------


def zipf(alphabet: int) -> Floats:
    """Zipf's law with exponent 1, [K]."""
    shares: Floats = 1.0 / np.arange(1, alphabet + 1)
    shares /= shares.sum()
    return shares


def entropy(shares: Floats) -> float:
    """Shannon's entropy of a distribution, in bits.

    >>> entropy(np.array([0.5, 0.25, 0.25, 0.0]))
    1.5
    """
    some = shares[shares > 0]
    return float(-(some * np.log2(some)).sum())


@dataclass(frozen=True)
class HeldSource:
    """With probability `hold` the last symbol again, else one drawn from `shares` [K] (which may be the same).

    `hold` = 0 is a source without memory. The shares are the stationary distribution whatever `hold` is.
    """

    shares: Floats
    hold: float = 0.0

    def transitions(self) -> Floats:
        """P(next | last), [K, K]."""
        alphabet = len(self.shares)
        return self.hold * np.eye(alphabet) + (1 - self.hold) * np.broadcast_to(self.shares, (alphabet, alphabet))

    def entropy_rate(self) -> float:
        """Bits per symbol (Shannon 1948, sec. 7): the entropies of the rows, weighted by how often each applies.

        >>> round(HeldSource(np.full(64, 1 / 64)).entropy_rate(), 9)
        6.0
        """
        return float(sum(share * entropy(row) for share, row in zip(self.shares, self.transitions(), strict=True)))

    def draw(self, n_rounds: int, n_links: int, generator: np.random.Generator) -> Codes:
        """Symbols [n_rounds, n_links], link by link one source each, from the stationary distribution on."""
        drawn = generator.choice(len(self.shares), size=(n_rounds, n_links), p=self.shares)
        new = generator.random((n_rounds, n_links)) >= self.hold
        new[0] = True
        since = np.maximum.accumulate(np.where(new, np.arange(n_rounds)[:, None], 0), axis=0)
        symbols: Codes = np.take_along_axis(drawn, since, axis=0)
        return symbols


# --- continuous -------------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    """A point of a rate-distortion function: bits, and squared error (or any distortion), per number."""

    rate: float
    distortion: float


def blahut_arimoto(
    shares: Floats, distortions: Floats, slope: float, tolerance: float = 1e-4, n_rounds: int = 20_000
) -> Point:
    """The point of R(D) whose slope -dR/dD is `slope` nats per unit of distortion.

    Blahut 1972 (IEEE Trans. Inform. Theory 18(4), theorem 6), Arimoto 1972 (the same issue).

    Args:
        shares: the source, [M].
        distortions: of source symbol by reproduction symbol, [M, M'].
        slope: positive; a larger one is a higher rate.
        tolerance: bits; Blahut's bounds on the rate lie so close together when it stops.
        n_rounds: at most.
    """
    kernel = np.exp(-slope * distortions)
    return _point(shares, kernel, kernel * distortions, slope, tolerance, n_rounds)


def even_blahut_arimoto(
    points: Floats, shares: Floats, slope: float, tolerance: float = 1e-3, n_rounds: int = 20_000
) -> Point:
    """The same for squared error and an even source, told by its points from 0 up [M] and the shares of their absolute value.

    The best reproduction is even too, so a point and its mirror image are one symbol, and the work is a quarter.
    """
    kernel, weighted = np.zeros((2, len(points), len(points)))
    for mirrored in (points, -points):
        apart = np.square(points[:, None] - mirrored)
        nearness = np.exp(-slope * apart) / 2
        kernel += nearness
        weighted += nearness * apart
    return _point(shares, kernel, weighted, slope, tolerance, n_rounds)


def _point(shares: Floats, kernel: Floats, weighted: Floats, slope: float, tolerance: float, n_rounds: int) -> Point:
    """Iterate on the kernel exp(-slope d), [M, M'], which is `weighted` by d for the distortion at the end."""
    said = np.full(kernel.shape[1], 1.0 / kernel.shape[1])
    for _ in range(n_rounds):
        gain = (shares / (kernel @ said)) @ kernel
        said = said * gain
        if np.log2(gain.max()) - said @ np.log2(np.maximum(gain, 1e-300)) < tolerance:
            break
    partition = kernel @ said
    distortion = float((shares / partition) @ (weighted @ said))
    rate = (-slope * distortion - float(shares @ np.log(partition))) / np.log(2)
    return Point(max(float(rate), 0.0), distortion)


@dataclass(frozen=True)
class NumberSource:
    """Independent numbers of variance 1: Gaussian, Laplace, or sparse (0, but with probability `p` Gaussian)."""

    name: str
    p: float = 0.1

    def draw(self, n: int, width: int, generator: np.random.Generator) -> Vectors:
        """Numbers [n, width]."""
        if self.name == "Laplace":
            numbers = generator.laplace(scale=np.sqrt(0.5), size=(n, width))
        elif self.name == "sparse":
            there = generator.random((n, width)) < self.p
            numbers = there * generator.normal(scale=1 / np.sqrt(self.p), size=(n, width))
        else:
            numbers = generator.normal(size=(n, width))
        return numbers.astype(np.float32)

    def on_grid(self, n_points: int = 601) -> tuple[Floats, Floats]:
        """Points from 0 up [M], and the shares of the source's absolute value [M]."""
        spread = 1 / np.sqrt(self.p) if self.name == "sparse" else 1.0
        reach = 10.0 if self.name == "Laplace" else 4.7 * spread
        points = np.linspace(0, reach, n_points)
        density = np.exp(-np.sqrt(2) * points) if self.name == "Laplace" else np.exp(-0.5 * (points / spread) ** 2)
        density[0] /= 2  # 0 has no mirror image
        shares = density / density.sum()
        if self.name == "sparse":
            shares *= self.p
            shares[0] += 1 - self.p
        return points, shares

    @cached_property
    def curve(self) -> RateDistortion:
        """R(D)."""
        if self.name == "Gaussian":
            rates = np.linspace(0.0, 6.0, 601)
            return RateDistortion(rates, 4.0**-rates)
        points, shares = self.on_grid()
        slopes = np.geomspace(0.6, 30.0, 25) if self.name == "Laplace" else np.geomspace(0.6, 300.0, 30)
        found = sorted(even_blahut_arimoto(points, shares, slope) for slope in slopes)
        return RateDistortion(
            np.array([0.0, *(point.rate for point in found)]), np.array([1.0, *(point.distortion for point in found)])
        )


@dataclass(frozen=True)
class RateDistortion:
    """R(D) as points, rates ascending; between and beyond them the logarithm of the distortion is linear in the rate."""

    rates: Floats
    distortions: Floats

    def distortion(self, rate: float) -> float:
        """The least squared error per number at so many bits per number."""
        logs = np.log(self.distortions)
        nth = int(np.clip(np.searchsorted(self.rates, rate), 1, len(self.rates) - 1))
        slope = (logs[nth] - logs[nth - 1]) / (self.rates[nth] - self.rates[nth - 1])
        return float(np.exp(logs[nth] + slope * (rate - self.rates[nth])))

    def gap_db(self, rate: float, distortion: float) -> float:
        """How far a codec's error lies above the least possible at its own rate, in decibels.

        >>> curve = NumberSource("Gaussian").curve
        >>> round(curve.gap_db(1.0, 0.5), 2)
        3.01
        """
        return float(10 * np.log10(distortion / self.distortion(rate)))


def autoregressive(n_links: int, n_rounds: int, width: int, memory: float, generator: np.random.Generator) -> Vectors:
    """Streams [L, T, D] of independent AR(1) numbers of variance 1: x = memory x before + sqrt(1 - memory^2) noise."""
    streams = generator.normal(size=(n_links, n_rounds, width))
    for t in range(1, n_rounds):
        streams[:, t] = memory * streams[:, t - 1] + np.sqrt(1 - memory**2) * streams[:, t]
    return streams.astype(np.float32)
