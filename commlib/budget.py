"""The budget: how many bits may be spent together, and for how long.

An allowance, not an account: it says what is granted and when; the jar that it fills is the ledger's (`commlib.ledger`).
"""

from dataclasses import dataclass, field

from commlib.units import Bits, Per, parse_budget_text


@dataclass(frozen=True)
class Budget:
    """How many bits all agents of a world may spend together, and for how long; `bits=None` caps nothing.

    >>> budget = Budget.parse("64 bit/step")
    >>> budget.bits, budget.per, budget.allowance(n_worlds=8)
    (64, 'step', 512)
    >>> str(Budget.parse("2 kB/episode")), str(Budget(None))
    ('2 kB/episode', 'unlimited')
    """

    bits: Bits | None
    per: Per = "run"
    text: str = field(default="", compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read "64 bit/step", "2 kB/episode", "1 Mbit" (for the run) or "unlimited"; raises ConfigError."""
        if text.strip().casefold() == "unlimited":
            return cls(None)
        return cls(*parse_budget_text(text), text=text.strip())

    def __str__(self) -> str:
        return "unlimited" if self.bits is None else self.text or f"{self.bits} bit/{self.per}"

    def allowance(self, n_worlds: int) -> Bits:
        """Give the bits to grant at the start of a step or episode of `n_worlds` live worlds, or of the run.

        Steps and episodes are counted in each world, so the allowance grows with the worlds; a run has one. It is 0
        when the budget is unlimited: nothing needs granting then.
        """
        return (self.bits or 0) * (1 if self.per == "run" else n_worlds)
