"""The budgets of a team: how much may be spent together, of what, by whom, and for how long.

Household rules on the refrigerator door: so much a week for all, so much a day for each, no more than three phone calls.
All hold at once. A rule says what is granted and when; the jar that it fills is an account of the ledger
(`commlib.ledger`), and what a message costs each account is worked out where it is sent (`commlib.exchange`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from commlib.errors import ConfigError
from commlib.journal import MAIN, Terms
from commlib.message import Edge
from commlib.units import Currency, Per, format_amount, parse_amount, parse_microseconds, parse_rate

_EACH: Final = ("each agent", "each edge")


@dataclass(frozen=True)
class Budget:
    """How much of one currency may be spent together, by whom, and for how long; `amount=None` caps nothing.

    Attributes:
        amount: whole units: bits, messages, rounds, or microseconds of latency.
        per: what one allowance lasts for.
        currency: what is paid with.
        agents: the senders whose spending counts; None: everybody.
        edge: the one edge whose spending counts; None: all.
        each: "each agent" or "each edge" where there is to be one such budget for each; `Budgets.for_team` makes them.

    >>> budget = Budget.parse("64 bit/step")
    >>> budget.amount, budget.per, budget.allowance(n_worlds=8)
    (64, 'step', 512)
    >>> str(Budget.parse("agents 0-2: 2 kB/episode")), str(Budget(None))
    ('agents 0-2: 2 kB/episode', 'unlimited')
    """

    amount: int | None
    per: Per = "run"
    currency: Currency = "bits"
    agents: tuple[int, ...] | None = None
    edge: Edge | None = None
    each: str = ""
    text: str = field(default="", compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read "64 bit/step", "agent 2: 2 kB/episode", "edge 0->1: 1 Mbit" (for the run) or "unlimited".

        Raises ConfigError.
        """
        text = text.strip()
        if text.casefold() == "unlimited":
            return cls(None)
        whose, colon, amount = text.rpartition(":")
        n, currency, per = parse_amount(amount)
        budget = cls(n, per, currency, text=text)
        if not colon:
            return budget
        if currency in ("rounds", "latency"):
            raise ConfigError(
                f"the budget {text!r} is of {currency}, which all agents share; leave out {whose.strip()!r}"
            )
        return _scoped(budget, whose.strip(), text)

    def __str__(self) -> str:
        if self.amount is None:
            return "unlimited"
        what = format_amount(self.amount, self.currency) if self.currency != "bits" else f"{self.amount} bit"
        return self.text or f"{self.whose}: " * bool(self.whose) + f"{what}/{self.per}"

    @property
    def whose(self) -> str:
        """Whose spending counts, in words; empty for everybody."""
        if self.edge is not None:
            return f"edge {self.edge.sender}->{self.edge.receiver}"
        if self.agents is None:
            return self.each
        return f"agent {self.agents[0]}" if len(self.agents) == 1 else f"agents {'+'.join(map(str, self.agents))}"

    @property
    def account(self) -> str:
        """The name of the account that this budget fills, unless it is the first one of bits for everybody."""
        return f"{self.currency}/{self.per}" + f" of {self.whose}" * bool(self.whose)

    @property
    def is_everybodys(self) -> bool:
        """Whether all agents share it."""
        return self.agents is None and self.edge is None and not self.each

    @property
    def terms(self) -> Terms:
        """What the ledger notes of it."""
        edge = None if self.edge is None else (self.edge.sender, self.edge.receiver)
        return Terms(self.currency, self.per, self.amount, self.agents, edge)

    def allowance(self, n_worlds: int) -> int:
        """Give the amount to grant for a round, step or episode of `n_worlds` live worlds, for the run, or for a second.

        Rounds, steps and episodes are counted in each world, so the allowance grows with the worlds; a run has one, and
        so has a second. It is 0 when the budget is unlimited: nothing needs granting then.
        """
        return (self.amount or 0) * (1 if self.per in ("run", "second") else n_worlds)


@dataclass(frozen=True)
class Budgets:
    """All budgets of a team; every one of them holds.

    >>> budgets = Budgets.parse("64 bit/step, agent 2: 8 bit/step, 3 messages/episode")
    >>> list(budgets.accounts())
    ['bits', 'bits/step of agent 2', 'messages/episode']
    """

    all: tuple[Budget, ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> Budgets:
        """Read budgets with commas between them; None and "unlimited" cap nothing.

        Raises:
            ConfigError: one of them cannot be read, or two are for the same.
        """
        if text is None or text.strip().casefold() in ("none", "null", "unlimited"):
            return cls()
        budgets = tuple(Budget.parse(part) for part in re.split("[,;]", text))
        if any(budget.amount is None for budget in budgets):
            raise ConfigError(
                f"one of the budgets {text!r} is 'unlimited', which caps nothing beside others; leave it out"
            )
        return cls(budgets)

    def __post_init__(self) -> None:
        seen: dict[str, Budget] = {}
        for budget in self.all:
            twin = seen.setdefault(budget.account, budget)
            if twin is not budget:
                raise ConfigError(f"there are two budgets of {budget.account}: {twin} and {budget}; keep one")

    def __str__(self) -> str:
        return ", ".join(map(str, self.all)) or "unlimited"

    def __bool__(self) -> bool:
        return bool(self.all)

    @property
    def main(self) -> Budget:
        """The first budget of bits for everybody; without one, bits are not capped. Its account holds the debits."""
        return next((b for b in self.all if b.currency == "bits" and b.is_everybodys), Budget(None))

    def accounts(self) -> dict[str, Budget]:
        """All budgets by the names of their accounts, the main one first, even if it caps nothing."""
        main = self.main
        return {MAIN: main, **{budget.account: budget for budget in self.all if budget is not main}}

    def for_team(self, n_agents: int, edges: Iterable[Edge]) -> Budgets:
        """The same, with one for each agent or edge where that is meant.

        Raises:
            ConfigError: one is for an agent or edge that the team does not have.
        """
        listed = sorted(edges)
        team = Budgets(tuple(single for budget in self.all for single in _singles(budget, n_agents, listed)))
        for budget in team.all:
            strangers = [agent for agent in budget.agents or () if agent >= n_agents]
            if strangers:
                raise ConfigError(
                    f"the budget {str(budget)!r} is for agent {strangers[0]}, but the agents are {numbered(n_agents)}"
                )
            if budget.edge is not None and budget.edge not in listed:
                raise ConfigError(
                    f"the budget {str(budget)!r} is for an edge that the graph does not have; it has "
                    f"{', '.join(f'{edge.sender}->{edge.receiver}' for edge in listed[:8])}{', ...' * (len(listed) > 8)}"
                )
        return team


def _singles(budget: Budget, n_agents: int, edges: Sequence[Edge]) -> Iterator[Budget]:
    if budget.each == "each agent":
        yield from (replace(budget, each="", agents=(agent,), text="") for agent in range(n_agents))
    elif budget.each == "each edge":
        yield from (replace(budget, each="", edge=edge, text="") for edge in edges)
    else:
        yield budget


def numbered(n_agents: int) -> str:
    """The agents that a team has, in words: "0 to 2"."""
    return f"0 to {n_agents - 1}" if n_agents > 1 else "0 alone"


def parse_agents(text: str) -> tuple[int, ...] | None:
    """Agents as people list them: "2", "0-3", "0+4+6-8"; None if these are none."""
    agents: set[int] = set()
    for part in text.split("+"):
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part, re.ASCII)
        if match is None:
            return None
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first > 1_000_000:
            return None
        agents.update(range(first, last + 1))
    return tuple(sorted(agents))


def _scoped(budget: Budget, whose: str, text: str) -> Budget:
    """The budget for whom the words name."""
    word, _, rest = whose.partition(" ")
    if whose in _EACH:
        return replace(budget, each=whose)
    edge = re.fullmatch(r"\s*(\d{1,9})\s*->\s*(\d{1,9})\s*", rest, re.ASCII)
    if word == "edge" and edge is not None:
        return replace(budget, edge=Edge(int(edge[1]), int(edge[2])))
    agents = parse_agents(rest)
    if word in ("agent", "agents") and agents is not None:
        return replace(budget, agents=agents)
    raise ConfigError(
        f"cannot read whose budget {text!r} is; write it like 'agent 2: ...', 'agents 0-3: ...', 'edge 0->1: ...', "
        f"'each agent: ...' or 'each edge: ...'"
    )


@dataclass(frozen=True)
class Network:
    """How long a round takes on the air: a delay, and the time of its longest frame; frames of hosts travel side by side.

    Worlds that share a frame are counted as if each had sent its part alone: n delays, and the time of the frame.

    >>> network = Network.parse("1 Mbit/s + 2 ms")
    >>> network.round_us(n_worlds=1, longest_frame_bits=500), network.frame_bits(2500, n_worlds=1)
    (2500, 500)
    """

    bits_per_second: int
    delay_us: int

    @classmethod
    def parse(cls, text: str) -> Network:
        """Read "250 kbit/s" or "1 Mbit/s + 2 ms"; raises ConfigError."""
        rate, plus, delay = text.partition("+")
        return cls(parse_rate(rate.strip()), parse_microseconds(delay) if plus else 0)

    def round_us(self, n_worlds: int, longest_frame_bits: int) -> int:
        """The latency of a round in which somebody sent a frame, in microseconds, rounded up."""
        return n_worlds * self.delay_us - (-longest_frame_bits * 1_000_000 // self.bits_per_second)

    def frame_bits(self, left_us: int, n_worlds: int) -> int:
        """The longest frame, in bits, that still arrives in time; 0 if none does."""
        return max(0, (left_us - n_worlds * self.delay_us) * self.bits_per_second // 1_000_000)
