"""Amounts as people write them: "64 bit/step", "3 messages/episode", "5 ms/step" in, "1.2 kbit" out.

A price tag with its unit on it: a number alone is never a budget, since 64 bytes are eight times 64 bits. Not a library
of units: only what a budget can be of (bits and bytes, 1 B = 8 bit; messages; rounds; time), the decimal prefixes k, M, G
of bits, and what an amount is for (round, step, episode, run, second).
"""

import difflib
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Final, Literal, TypeAlias, get_args

from commlib.errors import ConfigError

Bits: TypeAlias = int
"""Whole bits, as charged. A rate, which is an expectation, is a float and never `Bits`."""

Per: TypeAlias = Literal["round", "step", "episode", "run", "second"]
"""What an allowance lasts for: a round or step of one world, one episode of one world, the run, a second by the clock."""

Currency: TypeAlias = Literal["bits", "messages", "rounds", "latency"]
"""What is paid with; latency is counted in whole microseconds."""

Placement: TypeAlias = Literal["pack", "spread"]
"""Where agent hosts go on a cluster: as few nodes as have room, or as many as there are."""

MOST_BITS: Final = 2**62
"""No count of bits reaches this: every sum of two still fits into the 64 bits of the journal's integers."""

_SCALE: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_UNITS: Final[dict[str, tuple[Currency, int]]] = {
    **{
        prefix + unit: ("bits", scale * bits)
        for prefix, scale in _SCALE.items()
        for unit, bits in (("bit", 1), ("bits", 1), ("B", 8), ("byte", 8), ("bytes", 8))
    },
    **dict.fromkeys(("message", "messages"), ("messages", 1)),
    **dict.fromkeys(("round", "rounds"), ("rounds", 1)),
    **{unit: ("latency", scale) for unit, scale in (("us", 1), ("ms", 10**3), ("s", 10**6))},
}
_LEAST: Final[dict[Currency, str]] = {"bits": "bit", "messages": "message", "rounds": "round", "latency": "us"}
_SPANS: Final[dict[str, Per]] = {**{per: per for per in get_args(Per)}, "s": "second"}
_AMOUNT: Final = r"(?P<number>[+-]?\d[\d_]*(?:\.\d+)?(?:[eE]\+?\d{1,2})?)\s*(?P<unit>[A-Za-z]*)"
_AS_SOLD: Final = re.compile(r"(?P<prefix>[kKmMgG]?)(?P<size>[bB])(?P<is_rate>ps)?")
"""Units as networks and disks are sold by."""
_BUDGET: Final = re.compile(_AMOUNT + r"(?:\s*(?:/|\bper\b)\s*(?P<per>\S+))?", re.ASCII)


def parse_amount(text: str) -> tuple[int, Currency, Per]:
    """Read an allowance: how much, of what, and for what; without "/..." it is for the whole run.

    >>> parse_amount("64 bit/step")
    (64, 'bits', 'step')
    >>> parse_amount("2 kB per episode")
    (16000, 'bits', 'episode')
    >>> parse_amount("1 Mbit/s")
    (1000000, 'bits', 'second')
    >>> parse_amount("1.5 ms/step")
    (1500, 'latency', 'step')

    Raises ConfigError when this is no amount, or none in whole bits, messages, rounds or microseconds.
    """
    match = _BUDGET.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"cannot read the budget {text!r}; write it like '64 bit/step', '2 kB/episode', '3 messages/episode' or "
            f"'1 Mbit/s'"
        )
    unit = match["unit"]
    if unit not in _UNITS:
        wrong = f"has the unknown unit {unit!r}" if unit else "has no unit"
        raise ConfigError(f"the budget {text!r} {wrong}; did you mean {_meant(unit)!r}?")
    currency, scale = _UNITS[unit]
    per = _per(match["per"], text)
    amount = Decimal(match["number"].replace("_", "")) * scale
    least = _LEAST[currency]
    if amount < 1:
        wrong = "negative" if amount < 0 else f"less than one {least}"
        raise ConfigError(f"the budget {text!r} is {wrong}; it must be at least '1 {least}/{per}'")
    if amount >= MOST_BITS:
        raise ConfigError(f"the budget {text!r} is 2^62 {least} or more; leave it out if nothing is to be capped")
    return _whole(amount, currency, f"the budget {text!r}"), currency, per


def parse_rate(text: str) -> int:
    """Read a network's rate, in bits per second.

    >>> parse_rate("250 kbit/s")
    250000

    Raises ConfigError when this is none.
    """
    amount, currency, per = parse_amount(text)
    if currency != "bits" or per != "second":
        raise ConfigError(f"{text!r} is no rate; write it like '250 kbit/s'")
    return amount


def parse_microseconds(text: str) -> int:
    """Read a time, in whole microseconds; 0 is one, too.

    >>> parse_microseconds("2 ms"), parse_microseconds("0 ms")
    (2000, 0)

    Raises ConfigError when this is none.
    """
    match = re.fullmatch(_AMOUNT, text.strip(), re.ASCII)
    currency, scale = _UNITS.get(match["unit"], (None, 0)) if match else (None, 0)
    if match is None or currency != "latency" or match["number"].startswith("-"):
        raise ConfigError(f"{text!r} is no time; write it like '2 ms'")
    return _whole(Decimal(match["number"].replace("_", "")) * scale, "latency", f"the time {text!r}")


def format_amount(n: int, currency: Currency) -> str:
    """Write an amount of any currency for people.

    >>> format_amount(3, "messages"), format_amount(1500, "latency"), format_amount(1234, "bits")
    ('3 messages', '1.5 ms', '1.2 kbit')
    """
    if currency == "bits":
        return format_bits(n)
    if currency == "latency":
        value, unit = (n, "us") if abs(n) < 1000 else (n / 1e3, "ms") if abs(n) < 1_000_000 else (n / 1e6, "s")
        return f"{value:.1f}".removesuffix(".0") + f" {unit}"
    return f"{n} {currency}" if n != 1 else f"1 {_LEAST[currency]}"


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
    if word in _SPANS:
        return _SPANS[word]
    nearest = _nearest(word, get_args(Per), "step")
    raise ConfigError(f"the budget {text!r} is for an unknown span {word!r}; did you mean {nearest!r}?")


def _whole(amount: Decimal, currency: Currency, what: str) -> int:
    """An amount in its least unit; raises ConfigError where a fraction of that would be cut off, world by world."""
    whole = int(amount)
    if whole != amount:
        units = "us" if currency == "latency" else currency
        raise ConfigError(
            f"{what} comes to {amount.normalize():f} {units}, and only whole ones count; write {whole} or {whole + 1}"
        )
    return whole


def _meant(unit: str) -> str:
    """The unit that was likely meant: b is a bit and B a byte, and "kbps" is for a second."""
    match = _AS_SOLD.fullmatch(unit)
    if match is None:
        return _nearest(unit, _UNITS, "bit")
    prefix = {"K": "k", "m": "M", "g": "G"}.get(match["prefix"], match["prefix"])
    return prefix + ("bit" if match["size"] == "b" else "B") + ("/s" if match["is_rate"] else "")


def _nearest(word: str, known: Iterable[str], otherwise: str) -> str:
    folded = {name.casefold(): name for name in known}  # "KB" is nearest to "kB"
    return folded[(difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.3) or [otherwise.casefold()])[0]]
