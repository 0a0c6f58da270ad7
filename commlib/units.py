"""Bits as people write them: "64 bit/step" in, "1.2 kbit" out.

A price tag with its unit on it: a number alone is never a budget, since 64 bytes are eight times 64 bits. Not a library
of units: only bits and bytes (1 B = 8 bit), the decimal prefixes k, M, G, and what bits are for (step, episode, run).
"""

import difflib
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Final, Literal, TypeAlias, cast, get_args

from commlib.errors import ConfigError

Bits: TypeAlias = int
"""Whole bits, as charged. A rate, which is an expectation, is a float and never `Bits`."""

Per: TypeAlias = Literal["step", "episode", "run"]
"""What an allowance lasts for: one step of one world, one episode of one world, or the whole run."""

MOST_BITS: Final = 2**62
"""No count of bits reaches this: every sum of two still fits into the 64 bits of the journal's integers."""

_SCALE: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_UNITS: Final = {
    prefix + unit: scale * bits
    for prefix, scale in _SCALE.items()
    for unit, bits in (("bit", 1), ("bits", 1), ("B", 8), ("byte", 8), ("bytes", 8))
}
_BUDGET: Final = re.compile(
    r"(?P<number>[+-]?\d[\d_]*(?:\.\d+)?(?:[eE]\+?\d{1,2})?)\s*(?P<unit>[A-Za-z]*)(?:\s*(?:/|\bper\b)\s*(?P<per>\S+))?",
    re.ASCII,
)


def parse_budget_text(text: str) -> tuple[Bits, Per]:
    """Read a budget: how many bits, and for what; without "/..." it is for the whole run.

    >>> parse_budget_text("64 bit/step")
    (64, 'step')
    >>> parse_budget_text("2 kB per episode")
    (16000, 'episode')
    >>> parse_budget_text("1 Mbit")
    (1000000, 'run')

    A fraction of a bit is rounded down. Raises ConfigError when this is no budget, or less than one bit.
    """
    match = _BUDGET.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"cannot read the budget {text!r}; write it like '64 bit/step', '2 kB/episode' or '1 Mbit/run'"
        )
    unit = match["unit"]
    if unit not in _UNITS:
        wrong = f"has the unknown unit {unit!r}" if unit else "has no unit"
        raise ConfigError(f"the budget {text!r} {wrong}; did you mean {_nearest(unit, _UNITS, 'bit')!r}?")
    per = _per(match["per"], text)
    bits = Decimal(match["number"].replace("_", "")) * _UNITS[unit]
    if bits < 1:
        raise ConfigError(f"the budget {text!r} is less than one bit; it must be at least '1 bit/{per}'")
    if bits >= MOST_BITS:
        raise ConfigError(f"the budget {text!r} is 2^62 bits or more; write 'unlimited' if nothing is to be capped")
    return int(bits), per


def format_bits(n: Bits) -> str:
    """Write a count of bits for people, with one decimal at most.

    >>> format_bits(64), format_bits(1234), format_bits(16_000_000)
    ('64 bit', '1.2 kbit', '16 Mbit')
    """
    value, prefix = next(
        ((n / scale, prefix) for prefix, scale in _SCALE.items() if abs(round(n / scale, 1)) < 1000),
        (n / _SCALE["G"], "G"),
    )
    return f"{value:.1f}".removesuffix(".0") + f" {prefix}bit"


def _per(word: str | None, text: str) -> Per:
    if word is None:
        return "run"
    for per in get_args(Per):
        if word == per:
            return cast(Per, per)
    nearest = _nearest(word, get_args(Per), "step")
    raise ConfigError(f"the budget {text!r} is for an unknown span {word!r}; did you mean {nearest!r}?")


def _nearest(word: str, known: Iterable[str], otherwise: str) -> str:
    folded = {name.casefold(): name for name in known}  # "KB" is nearest to "kB"
    return folded[(difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.3) or [otherwise.casefold()])[0]]
