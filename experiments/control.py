"""Control: while a team plays under budgets, their prices are set from batch to batch, so that spending meets them.

A captain who reads the fuel gauge at every port and sets the speed for the next leg: the tank cannot hold more than it
holds, so nobody runs the gauge to find out. Not the cap: that is the till's (`commlib.agents.till`), in every round. And
not the rule by which a price moves, which is `commlib.price`; here it is settled what is measured, when, and on what the
price acts.

    budgets --allowed--> [prices] --tariff--> play --wanted--> [prices] --tariff--> ...

Before it counts the team rehearses: a few batches on episodes of their own, with books that are thrown away, until the
prices are right. Like calibration that is training traffic, not use, and it is not charged. In the end it rehearses once
with the cap alone, at the price that calibration chose: where that earns more (episodes that fail may last longer, and cost
more in the end), no price follows the budgets.

What has a price: budgets per episode and per run. Bits for everybody act through the encoder's rate weight, all else through
tolls; a price of latency is a toll on bits and rounds, by what they take on the network. Rounds and latency have one only
where a world has its frames to itself: worlds that share frames share rounds, too, so that at a price all of them speak
in a round, or none does. Of a budget per step or round one price would have to suit a first step that needs ten times
what later ones need; per second, the books would depend on how fast the machine is. There the cap alone holds, and within
it value per bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, variance

import torch

from commlib.agents.meters import Meter
from commlib.agents.play import SILENT, Tally, Watcher, play
from commlib.agents.runtime import Runtime
from commlib.agents.till import Books, Use, open_books
from commlib.budget import Budget, Network
from commlib.channel import Channel
from commlib.experiments.model import Calibration, Model, n_signals
from commlib.journal import MAIN
from commlib.ledger import Ledger
from commlib.plan import Plan
from commlib.price import TOLERANCE, PriceController, Prices
from commlib.rationing import Scope, Tariff, Toll
from commlib.world import World

PRICED_SPANS = ("episode", "run")
"""What an allowance must last for, to have a price."""
PRICED_TOGETHER = ("bits", "messages")
"""Currencies that have one even where worlds share frames."""
WINDOW = 64
"""Episodes that demand is measured over at the least: a single one may want everything, or nothing."""
MOST_REHEARSALS = 6
SETTLED = 0.02
"""A rehearsal is the last one if demand is as near to its target as this share, or as it usually scatters."""
REHEARSAL_SEED = 15_485_863
"""Added to the run's seed, so that rehearsals see neither the episodes of training nor those that count."""


@dataclass(frozen=True)
class Stage:
    """Where a team plays: its hosts, furnished; who is told what; the world; what lies between hosts."""

    runtime: Runtime
    plan: Plan
    world: World
    model: Model
    channel: Channel | None = None

    @property
    def n_rounds(self) -> int:
        """How many rounds of messages an episode has at the most."""
        return len(self.model.codecs) * self.world.spec.n_steps

    def play(
        self,
        books: Books,
        n_worlds: int,
        tariff: Tariff,
        generator: torch.Generator,
        watcher: Watcher | None = None,
        meter: Meter = SILENT,
    ) -> Tally:
        """One batch of episodes."""
        return play(
            self.runtime,
            self.plan,
            self.world,
            books,
            n_worlds=n_worlds,
            tariff=tariff,
            generator=generator,
            n_rounds=len(self.model.codecs),
            n_signals=n_signals(self.model),
            channel=self.channel,
            watcher=watcher,
            meter=meter,
        )


@dataclass
class Control:
    """The prices of a play, and what was wanted since they were last moved.

    Attributes:
        budgets: those that have a price, by account; none, where there is nothing that could be priced.
        rate_weight: the price of a bit where no budget sets it.
        least_weight: the lowest rung of the ladder, where a price that nothing is known of begins.
        network: how long frames take, for a price of latency.
        calibrated: the price of a bit that calibration chose.
        prices: of the accounts whose demand has been seen, or foreseen by the ladder.
        wanted: by account, since the prices last moved; in `n_worlds` worlds.
        demand: by account, of an episode, when it was last worked out.
    """

    budgets: dict[str, Budget]
    rate_weight: float = 0.0
    least_weight: float = 0.0
    network: Network | None = None
    calibrated: float = 0.0
    prices: Prices = field(default_factory=lambda: Prices({}))
    wanted: dict[str, float] = field(default_factory=dict)
    n_worlds: int = 0
    demand: dict[str, float] = field(default_factory=dict)
    is_due: bool = True
    """Whether the prices are to move before the next batch: something was learned."""
    n_rehearsed: int = 0
    """Episodes that were played in rehearsals."""
    verdict: str = ""
    """Why no price follows the budgets though one could; in words."""

    @classmethod
    def of(cls, books: Books, calibration: Calibration, n_agents: int, n_parallel: int) -> Control:
        """Prices for a team's budgets, as warm as its calibration makes them, where `n_parallel` worlds share frames."""
        ladder = [(rung.rate_weight, rung.bits_per_agent_episode * n_agents) for rung in calibration.rungs]
        least = min((weight for weight, _ in ladder if weight > 0), default=0.0)
        priced = {
            account: budget
            for account, budget in books.budgets.accounts().items()
            if budget.amount is not None
            and budget.per in PRICED_SPANS
            and (budget.currency in PRICED_TOGETHER or n_parallel == 1)
            and least > 0
        }
        calibrated = calibration.rate_weight(None)
        control = cls(priced, calibrated, least, books.network, calibrated)
        if any(_is_of_all_bits(budget) for budget in priced.values()):
            control.rate_weight = 0.0
        bits = sorted(
            (account for account, budget in priced.items() if budget.currency == "bits"),
            key=lambda account: -_n_senders(priced[account], n_agents),
        )
        control.prices = Prices(
            {account: _on_ladder(ladder, _n_senders(priced[account], n_agents) / n_agents) for account in bits},
            {
                inner: tuple(outer for outer in bits[:k] if _is_in(priced[inner], priced[outer], n_agents))
                for k, inner in enumerate(bits)
            },
            dict.fromkeys(bits, control.rate_weight),
        )
        return control

    @classmethod
    def fixed(cls, rate_weight: float) -> Control:
        """No control: the price of a bit stays as it is."""
        return cls({}, rate_weight)

    def __bool__(self) -> bool:
        return bool(self.budgets)

    @property
    def price_of_a_bit(self) -> float:
        """For everybody, in squared distortion (or harm)."""
        prices = (self.prices.price(account) for account, budget in self.budgets.items() if _is_of_all_bits(budget))
        return self.rate_weight + sum(prices)

    @property
    def tariff(self) -> Tariff:
        """What the next batch is played at."""
        tolls: list[Toll] = []
        for account, budget in self.budgets.items():
            price, scope = self.prices.price(account), Scope(budget.agents, budget.edge)
            if price == 0 or _is_of_all_bits(budget):
                continue
            if budget.currency == "latency" and self.network is not None:
                tolls += _tolls_of_latency(price, self.network)
            else:
                tolls.append(Toll(budget.currency, price, scope))
        return Tariff(self.price_of_a_bit, tuple(tolls))

    def aim(self, left: Mapping[str, int], n_left: int) -> None:
        """Move the prices to where the budgets will be met, as far as is known.

        Args:
            left: what accounts of the run have left; all of it, where they are not there.
            n_left: the episodes that it is to last for.
        """
        allowed = {account: self._allowed(account, left, n_left) for account in self.prices.controllers}
        changed = [
            controller.allowed is None or abs(allowed[account] - controller.allowed) > TOLERANCE * controller.allowed
            for account, controller in self.prices.controllers.items()
        ]
        if self.is_due or any(changed):
            self.prices = self.prices.aim(allowed)
            self.wanted, self.n_worlds, self.is_due = {}, 0, False

    def learn(self, use: Mapping[str, Use], n_worlds: int, window: int = WINDOW) -> None:
        """Told what a batch of so many episodes wanted; of a few, nothing is concluded before there are more."""
        if not self.budgets:
            return
        self.n_worlds += n_worlds
        for account in {MAIN, *self.budgets}:
            self.wanted[account] = self.wanted.get(account, 0) + use[account].wanted
        if self.n_worlds >= window:
            self.demand = {account: wanted / self.n_worlds for account, wanted in self.wanted.items()}
            self.prices = self._learned()
            self.wanted, self.n_worlds, self.is_due = {}, 0, True

    def _learned(self) -> Prices:
        """The prices, told what was wanted; those that were waiting to see some demand join in."""
        new = {account: self._met(account) for account in self.budgets if account not in self.prices.controllers}
        return self.prices.learn(self.demand).with_new(new)

    def _met(self, account: str) -> PriceController:
        """The controller of an account whose demand is seen for the first time, while it was free.

        Half of it is supposed to go at a price at which a unit costs as much as the bits that go with it do now.
        """
        free = self.demand[account]
        bits = self.demand[MAIN] / free if free > 0 else 1.0
        guess = max(self.price_of_a_bit, self.least_weight) * max(1.0, bits)
        return PriceController.on_ladder([(0.0, free), (guess, free / 2)]).aim(2 * free + 1).learn(free)

    def _allowed(self, account: str, left: Mapping[str, int], n_left: int) -> float:
        """What an episode of a world may spend."""
        amount = self.budgets[account].amount or 0
        return amount if self.budgets[account].per == "episode" else left.get(account, amount) / max(1, n_left)

    @property
    def is_settled(self) -> bool:
        """Whether what was learned last is no reason to move any price by much."""
        return len(self.prices.controllers) == len(self.budgets) and all(
            _is_met(controller, self.demand.get(account, 0.0), account in self.prices.binding)
            for account, controller in self.prices.controllers.items()
        )

    def rehearse(
        self, stage: Stage, books: Books, n_parallel: int, n_episodes: int, generator: torch.Generator
    ) -> None:
        """Play until the prices are right, so many worlds at a time, for so many to come; and once with the cap alone."""
        if not self.budgets:
            return
        window, returns = min(max(n_parallel, WINDOW), n_episodes), [0.0]
        for _ in range(MOST_REHEARSALS):
            self.aim({}, n_episodes)
            returns = []
            while not self.is_due:
                tally = self._rehearsed(stage, books, n_parallel, self.tariff, generator)
                self.learn(tally.use, n_parallel, window)
                returns += tally.returns
            if self.is_settled:
                break
        if not self.prices.binding:
            return
        capped: list[float] = []
        while len(capped) < len(returns):
            capped += self._rehearsed(stage, books, n_parallel, Tariff(self.calibrated), generator).returns
        if _is_surely_more(capped, returns):
            self.verdict = (
                f"the cap alone holds the budget: at the price that meets it the team returned {fmean(returns):.3g} in "
                f"rehearsal, at the calibrated one {fmean(capped):.3g}"
            )
            self.budgets, self.prices, self.rate_weight = {}, Prices({}), self.calibrated

    def _rehearsed(
        self, stage: Stage, books: Books, n_parallel: int, tariff: Tariff, generator: torch.Generator
    ) -> Tally:
        """A batch that nobody is charged for."""
        ledger = Ledger(budget=books.budgets.main)
        open_books(ledger, books.budgets, books.network)
        rationing = books.rationing
        if rationing.when_out == "raise":
            rationing = replace(rationing, when_out="drop")
        self.n_rehearsed += n_parallel
        return stage.play(replace(books, ledger=ledger, rationing=rationing), n_parallel, tariff, generator)


def _n_senders(budget: Budget, n_agents: int) -> int:
    """How many agents' frames count."""
    if budget.edge is not None:
        return 1
    return n_agents if budget.agents is None else len(budget.agents)


def _is_in(inner: Budget, outer: Budget, n_agents: int) -> bool:
    """Whether whatever counts for the one counts for the other, too."""
    if outer.edge is not None:
        return inner.edge == outer.edge
    senders = {inner.edge.sender} if inner.edge is not None else set(inner.agents or range(n_agents))
    return senders <= set(outer.agents or range(n_agents))


def _on_ladder(ladder: Sequence[tuple[float, float]], share: float) -> PriceController:
    """A start on what calibration measured of the whole team, where so much of it counts."""
    return PriceController.on_ladder([(price, share * rate) for price, rate in ladder])


def _is_surely_more(returns: Sequence[float], others: Sequence[float]) -> bool:
    """Whether the mean is greater by more than twice the standard error of the difference."""
    if min(len(returns), len(others)) < 2:
        return False
    error = math.sqrt(variance(returns) / len(returns) + variance(others) / len(others))
    return fmean(returns) - fmean(others) > 2 * error


def _is_of_all_bits(budget: Budget) -> bool:
    """Whether its price is one of every bit."""
    return budget.currency == "bits" and budget.is_everybodys


def _is_met(controller: PriceController, demand: float, binds: bool) -> bool:
    """Whether at its price as much is wanted as is aimed at, or it cannot be brought any nearer."""
    if controller.allowed is None:
        return False
    if not binds:
        return demand <= controller.allowed
    target = controller.allowed * (1 - controller.reserve)
    is_at_its_end = demand > target and math.isclose(controller.price, controller.highest)
    return abs(demand - target) <= max(SETTLED, controller.scatter) * target or is_at_its_end


def _tolls_of_latency(price: float, network: Network) -> list[Toll]:
    """A price of a microsecond as one of bits, which take time, and of rounds, which wait."""
    return [
        Toll("bits", price * 1_000_000 / network.bits_per_second),
        Toll("rounds", price * network.delay_us),
    ]
