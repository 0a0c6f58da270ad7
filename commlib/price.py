"""The price that makes spending meet a budget: dual ascent on a logarithm, with a map of what each price brings.

A thermostat that has read the boiler's data sheet. After every batch it is told what was wanted at its price, and where
that is more than is allowed, the price goes up, otherwise down; by how much is the secant between what was measured on
either side, and before anything was, the ladder of calibration. Not the cap: the jar of the ledger is the cap, and holds
whatever the price is. So the price is judged by *demand*, what would have been spent without the cap; spending that the
cap has cut short would look like thrift.

    maximise  E[reward] - sum over accounts of  price x (E[spending] - allowance)          prices >= 0: the multipliers

Dual ascent moves a multiplier by its constraint's violation. Here price and violation are taken as logarithms (mirror
ascent), so that one rule serves prices of 0.00001 and of 10, and the step is divided by the elasticity of demand, so that
it neither creeps nor overshoots. Nothing is integrated, so nothing can wind up: the price is always the map's answer to
"which price brings this much?", between 0, where the budget does not bind, and a highest one.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from commlib.errors import BudgetError

BEYOND: Final = 2.0**10
"""The least price that is told from 0 is this many times below the lowest rung; the highest, as many above the highest."""
SPREAD: Final = math.log(2.0)
"""Width over which the prices of a batch are spread: an octave. See `side_by_side`."""
FURTHEST: Final = math.log(4.0)
"""No step goes further beyond what is known than to 4 times the price, or a quarter; and a secant takes no measurement
for more than 4 times the target or less than a quarter: beside a cliff it becomes a bisection."""
STEEPEST: Final = (0.5, 2.0)
"""Elasticities of demand that are believed where the map ends; 1 where it is a single point."""
NEAR: Final = 0.02
"""Measurements at prices that differ by less than 2 % are one point of the map."""
MEMORY: Final = 0.9
"""What a measurement still weighs after the next one."""
MOST_POINTS: Final = 12
LADDER_WEIGHT: Final = 0.5
"""What a rung weighs against a measurement."""
LADDER_GAP: Final = math.log(1.5)
"""A rung this near a measurement is left out of the map."""
LADDER_FADE: Final = math.log(16.0)
"""Over this distance an error of the ladder is carried on to rungs further away."""
TOLERANCE: Final = 0.05
"""A measurement is contradicted by a new one that differs by more than this, or by three times the usual scatter."""
FIRST_SCATTER: Final = 0.0125
"""Scatter of demand about the map that is assumed at first."""
LEAST_RESERVE: Final = 0.01
MOST_RESERVE: Final = 0.025
"""The target lies two scatters below the allowance, but not by less or more than these shares of it: the cap cuts off what
scatters beyond it, and the further below the target lies, the more is left unspent for nothing."""
MOST_DOUBLINGS: Final = 5
"""A step in the same direction again is twice as long, and so on, up to this power of two."""
MOST_TRIM: Final = 0.1
"""A miss that stays on one side, though the map sees nothing to mend, moves the price by half of it, and at the most by half
of this: the map is an average, and an average of measurements that scatter can stay beside the target for long."""
DAMPED: Final = 0.6
"""Share of its step that a price goes while another one moves the same messages."""
_NOTHING: Final = 1e-12
"""Rates below this are nothing."""
_GOLDEN: Final = (math.sqrt(5.0) - 1.0) / 2.0


class Point(NamedTuple):
    """A point of the map: at this price so much was wanted; both as logarithms, and what the point weighs."""

    log_price: float
    log_rate: float
    weight: float = 1.0


class Block(NamedTuple):
    """Points that are one on the monotone map: their centre, and the least price among them."""

    log_price: float
    log_rate: float
    weight: float
    least: float


@dataclass(frozen=True)
class PriceController:
    """The price of one account, and all that was learned about what it brings; each step gives a new record.

    Rates are amounts per unit of whatever the budget counts by: bits per episode of a world, messages per step, bits
    per second. The unit of the price is the caller's.

    >>> controller = PriceController.on_ladder([(0.0, 100.0), (1.0, 50.0), (4.0, 10.0)]).aim(50.0)
    >>> 1.0 < controller.price < 1.2
    True
    >>> controller.learn(70.0).aim(50.0).price > controller.price
    True
    >>> controller.aim(200.0).price, controller.aim(200.0).binds
    (0.0, False)

    Attributes:
        ladder: (price, rate) as measured beforehand, ascending by price; may be empty.
        lowest, highest: the range of prices; below the lowest there is only 0.
        log_price: where the price stands now.
        points: what was measured in use, oldest first.
        scatter: how much demand scatters about the map, as a share.
        allowed: the rate that was last asked for; None before.
        n_missed: how often in a row demand missed about this target on the same side, by more than the scatter: negative
            where it was below.
        miss: by how much it did so last, as a logarithm.
    """

    ladder: tuple[tuple[float, float], ...]
    lowest: float
    highest: float
    log_price: float
    points: tuple[Point, ...] = ()
    scatter: float = FIRST_SCATTER
    allowed: float | None = None
    n_missed: int = 0
    miss: float = 0.0

    @classmethod
    def on_ladder(cls, ladder: Sequence[tuple[float, float]]) -> PriceController:
        """A warm start from (price, rate) pairs, as calibration measures them.

        Raises:
            BudgetError: no pair has a positive price, or a number is negative or not finite.
        """
        rungs = tuple(sorted((float(price), float(rate)) for price, rate in ladder))
        wrong = next((n for rung in rungs for n in rung if not 0 <= n < math.inf), None)
        if wrong is not None:
            raise BudgetError(f"a ladder of prices and rates holds {wrong}; all of them must be numbers from 0 up")
        prices = [price for price, _ in rungs if price > 0]
        if not prices:
            raise BudgetError("a ladder needs a rung with a price above 0; without one, start from a price instead")
        lowest, highest = prices[0] / BEYOND, prices[-1] * BEYOND
        return cls(rungs, lowest, highest, math.log(prices[len(prices) // 2]))

    @classmethod
    def from_price(cls, price: float) -> PriceController:
        """A cold start at a price, knowing nothing of what it brings.

        Raises:
            BudgetError: the price is not above 0.
        """
        if not 0 < price < math.inf:
            raise BudgetError(f"a price cannot start from {price}; start from one above 0")
        return cls((), price / BEYOND**2, price * BEYOND**2, math.log(price))

    @property
    def price(self) -> float:
        """What a unit costs in the next batch; 0 where the budget does not bind."""
        return math.exp(self.log_price) if self.binds else 0.0

    @property
    def binds(self) -> bool:
        """Whether the budget restrains anybody."""
        return self.log_price > self._free

    @property
    def reserve(self) -> float:
        """How far below what is allowed the target lies, as a share: twice the scatter, so that the cap is hardly met."""
        return min(max(2 * self.scatter, LEAST_RESERVE), MOST_RESERVE)

    @property
    def _free(self) -> float:
        """The logarithm that stands for a price of 0: all prices that are spread about it are below the lowest."""
        return math.log(self.lowest) - SPREAD / 2

    def side_by_side(self, n: int, turn: int = 0) -> list[float]:
        """The prices of `n` worlds side by side, spread evenly over an octave about this one.

        A codec's answer to a price has steps: all messages that are alike change their code at once, and between two
        steps no price brings the target. Spread prices cross a step one by one, so demand becomes continuous. `turn` is
        the number of the batch: by the golden ratio, few worlds at a time are spread over time.

        >>> [round(price, 2) for price in PriceController.from_price(1.0).side_by_side(3)]
        [0.71, 0.89, 1.12]
        """
        shares = [(k + (turn * _GOLDEN) % 1.0) / n for k in range(n)]
        prices = [math.exp(self.log_price + SPREAD * (share - 0.5)) for share in shares]
        return [price if price >= self.lowest else 0.0 for price in prices]

    def learn(self, demand: float) -> PriceController:
        """Told what was wanted at this price, per unit, the cap aside.

        What was measured before and contradicts it (a lower price brought less, or a higher one more) is forgotten: the
        team, the world or the clock has changed.

        Raises:
            BudgetError: demand is negative or not finite.
        """
        if not 0 <= demand < math.inf:
            raise BudgetError(f"demand of {demand} is no amount; tell what a batch wanted to spend, from 0 up")
        here, rate = self.log_price, _log(demand)
        nearest = min((abs(p.log_price - here) for p in self.points), default=math.inf)
        error = abs(rate - _at(self.map(), here)) if nearest < LADDER_GAP else self.scatter
        scatter = self.scatter + 0.2 * (1.25 * min(error, 4 * self.scatter) - self.scatter)
        tolerance = max(TOLERANCE, 3 * self.scatter)
        aged = [p._replace(weight=p.weight * MEMORY) for p in self.points]
        kept = [p for p in aged if not _contradicts(p, here, rate, tolerance)]
        points = _merged(kept, Point(here, rate))[-MOST_POINTS:]
        miss = 0.0 if self.allowed is None else rate - _log(self.allowed * (1 - self.reserve))
        n_missed = self._missed(miss)
        return replace(self, points=points, scatter=max(scatter, 1e-4), n_missed=n_missed, miss=miss)

    def learn_beside(self, demand: float) -> PriceController:
        """As `learn`, where another account's price has moved demand: the map keeps its shape and moves to where demand is.

        Of the scatter nothing can be learned then.
        """
        blocks = self.map()
        moved = _log(demand) - _at(blocks, self.log_price) if blocks else 0.0
        ladder = tuple((price, rate * math.exp(moved)) for price, rate in self.ladder)
        points = tuple(point._replace(log_rate=point.log_rate + moved) for point in self.points)
        return replace(replace(self, ladder=ladder, points=points).learn(demand), scatter=self.scatter)

    def _missed(self, miss: float) -> int:
        """`n_missed` after a batch that missed by so much, as a logarithm."""
        if abs(miss) <= max(self.scatter, LEAST_RESERVE):
            return 0
        side = 1 if miss > 0 else -1
        return self.n_missed + side if self.n_missed * side >= 0 else side

    def aim(self, allowed: float, *, damping: float = 1.0) -> PriceController:
        """The price for a batch that is allowed this rate; `damping` below 1 goes only so far towards it.

        Raises:
            BudgetError: the allowance is negative or not finite.
        """
        if not 0 <= allowed < math.inf:
            raise BudgetError(f"an allowance of {allowed} is no amount; give a number from 0 up")
        is_same = self.allowed is not None and abs(_log(allowed) - _log(self.allowed)) < TOLERANCE
        n_missed = self.n_missed if is_same else 0
        found, furthest = self._answer(_log(allowed * (1 - self.reserve)))
        step = damping * (found - self.log_price)
        if n_missed * step > 0:  # again on the same side: twice as far, but not past the middle of what is still open
            most = max(abs(step), abs(furthest - self.log_price) / 2)
            step = math.copysign(min(abs(step) * 2.0 ** min(abs(n_missed) - 1, MOST_DOUBLINGS), most), step)
        trim = damping * min(max(self.miss, -MOST_TRIM), MOST_TRIM) / 2
        if abs(n_missed) > 1 and step * math.copysign(1.0, trim) < abs(trim):
            step = trim
        there = self.log_price + step
        is_free = found <= self._free and there - self._free < SPREAD
        log_price = self._free if is_free else self._within(there)
        return replace(self, log_price=log_price, allowed=allowed, n_missed=n_missed)

    def map(self) -> list[Block]:
        """What each price brings as far as is known: measurements, between them the ladder, made monotone.

        Where measurements lie off the ladder, the rungs about them are moved along.
        """
        rungs = [Point(math.log(p) if p > 0 else self._free, _log(r), LADDER_WEIGHT) for p, r in self.ladder]
        if not rungs or not self.points:
            return _monotone([*rungs, *self.points])
        raw, moved = _monotone(rungs), []
        for rung in rungs:
            distance, error = min(
                (abs(point.log_price - rung.log_price), point.log_rate - _at(raw, point.log_price))
                for point in self.points
            )
            if distance > LADDER_GAP:
                moved.append(rung._replace(log_rate=rung.log_rate + error * math.exp(-distance / LADDER_FADE)))
        return _monotone([*moved, *self.points])

    def _answer(self, target: float) -> tuple[float, float]:
        """The log price that brings the log rate `target`, as the map knows it; and how far away it could be, if it errs."""
        blocks = self.map()
        if not blocks:
            return self.log_price, self.log_price
        first, last = blocks[0], blocks[-1]
        if target >= first.log_rate:
            if first.least <= self._free:
                return self._free, self._free
            further = min((target - first.log_rate) / _slope(blocks[:2]), FURTHEST)
            return self._within(first.least - further), self._within(first.least - FURTHEST)
        if target <= last.log_rate:
            further = min((last.log_rate - target) / _slope(blocks[-2:]), FURTHEST)
            return self._within(last.log_price + further), self._within(last.log_price + FURTHEST)
        after = bisect([-block.log_rate for block in blocks], -target)
        left, right = blocks[after - 1], blocks[after]
        more, less = min(left.log_rate - target, FURTHEST), min(target - right.log_rate, FURTHEST)
        share = more / (more + less) if more + less > 0 else 0.0
        found = left.log_price + (right.log_price - left.log_price) * share
        return found, (left if found < self.log_price else right).log_price

    def _within(self, log_price: float) -> float:
        return min(max(log_price, self._free), math.log(self.highest))

    def to_json(self) -> dict[str, Any]:
        """As a plain object."""
        return {**vars(self), "ladder": [list(r) for r in self.ladder], "points": [list(p) for p in self.points]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PriceController:
        """Back from the plain object."""
        ladder = tuple((float(price), float(rate)) for price, rate in data["ladder"])
        return cls(**{**data, "ladder": ladder, "points": tuple(Point(*p) for p in data["points"])})


@dataclass(frozen=True)
class Prices:
    """The prices of several accounts whose budgets restrain the same agents, side by side; each has a controller of its own.

    Where more than one binds, each price goes only a part of its way, since the others' steps move its demand, too. What
    to aim at and what was wanted is told for every account.

    >>> bits = PriceController.on_ladder([(0.0, 100.0), (1.0, 50.0), (4.0, 10.0)])
    >>> prices = Prices({"bits": bits, "messages": PriceController.on_ladder([(0.0, 6.0), (1.0, 5.0)])})
    >>> prices.aim({"bits": 20.0, "messages": 9.0}).binding
    ('bits',)

    Attributes:
        controllers: by account.
        stepped: whose price changed in the last aim.
    """

    controllers: Mapping[str, PriceController]
    stepped: tuple[str, ...] = ()

    @property
    def binding(self) -> tuple[str, ...]:
        """The accounts whose price is above 0."""
        return tuple(name for name, controller in self.controllers.items() if controller.binds)

    def price(self, account: str) -> float:
        """The price of an account; 0 for one that is not controlled."""
        return self.controllers[account].price if account in self.controllers else 0.0

    def learn(self, demand: Mapping[str, float]) -> Prices:
        """Told what was wanted of each account, per unit of its own."""
        learned = {}
        for name, controller in self.controllers.items():
            is_alone = not any(other != name for other in self.stepped)
            learned[name] = (controller.learn if is_alone else controller.learn_beside)(demand[name])
        return Prices(learned)

    def aim(self, allowed: Mapping[str, float]) -> Prices:
        """The prices for a batch that is allowed these rates."""
        is_first = not any(controller.points for controller in self.controllers.values())
        damping = DAMPED if len(self.binding) > 1 and not is_first else 1.0
        aimed = {name: c.aim(allowed[name], damping=damping) for name, c in self.controllers.items()}
        stepped = [name for name, c in aimed.items() if abs(c.log_price - self.controllers[name].log_price) > NEAR]
        return Prices(aimed, tuple(stepped))


def _log(rate: float) -> float:
    return math.log(max(rate, _NOTHING))


def _contradicts(point: Point, log_price: float, log_rate: float, tolerance: float) -> bool:
    """Whether a lower price brought less than this, or a higher one more."""
    if point.log_price <= log_price + NEAR and point.log_rate < log_rate - tolerance:
        return True
    return point.log_price >= log_price - NEAR and point.log_rate > log_rate + tolerance


def _merged(points: Sequence[Point], new: Point) -> tuple[Point, ...]:
    """The points with a new one last, which those very near it are merged into."""
    near = [p for p in points if abs(p.log_price - new.log_price) <= NEAR]
    far = [p for p in points if abs(p.log_price - new.log_price) > NEAR]
    return (*far, _centre([*near, new]))


def _centre(points: Sequence[Point]) -> Point:
    weight = sum(p.weight for p in points)
    log_price, log_rate = (sum(p[i] * p.weight for p in points) / weight for i in (0, 1))
    return Point(log_price, log_rate, weight)


def _monotone(points: Sequence[Point]) -> list[Block]:
    """The nearest map on which a higher price never brings more: pool adjacent violators (Ayer et al. 1955)."""
    blocks: list[Block] = []
    for point in sorted(points):
        block = Block(*point, least=point.log_price)
        while blocks and blocks[-1].log_rate <= block.log_rate:
            before = blocks.pop()
            block = Block(*_centre([Point(*before[:3]), Point(*block[:3])]), least=before.least)
        blocks.append(block)
    return blocks


def _at(blocks: Sequence[Block], log_price: float) -> float:
    """What the map says of a price; level beyond its ends."""
    after = bisect([b.log_price for b in blocks], log_price)
    if after in (0, len(blocks)):
        return blocks[min(after, len(blocks) - 1)].log_rate
    left, right = blocks[after - 1], blocks[after]
    share = (log_price - left.log_price) / (right.log_price - left.log_price)
    return left.log_rate + share * (right.log_rate - left.log_rate)


def _slope(blocks: Sequence[Block]) -> float:
    """The elasticity of demand between two blocks, as far as it is believed; 1 of a single one."""
    if len(blocks) < 2:
        return 1.0
    left, right = blocks
    slope = (left.log_rate - right.log_rate) / (right.log_price - left.log_price)
    return min(max(slope, STEEPEST[0]), STEEPEST[1])
