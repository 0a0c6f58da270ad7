"""Information of discrete messages, in bits: entropy, perplexity, and the gap between the bill and the bound.

For a deterministic code I(message; input) = H(message) <= E[-log2 q]: the bill is an upper bound on what is said, and the
gap is what a better prior could still save.
"""

import numpy as np
from numpy.typing import NDArray


def entropy_bits(counts: NDArray[np.int64]) -> float:
    """Entropy of the empirical distribution of counts [K], in bits (plug-in estimate).

    >>> entropy_bits(np.array([1, 1, 0, 0]))
    1.0
    """
    total = counts.sum()
    if total == 0:
        return 0.0
    p = counts[counts > 0] / total
    return float(-(p * np.log2(p)).sum())


def perplexity(counts: NDArray[np.int64]) -> float:
    """2 ** entropy: the number of codes that are in even use, from counts [K].

    >>> perplexity(np.array([5, 5, 5, 5]))
    4.0
    """
    return float(2.0 ** entropy_bits(counts))
