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
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from commlib.errors import BudgetError

BEYOND: Final = 2.0**10
"""The least price that is told from 0 is this many times below the lowest rung; the highest, as many above the highest."""
NEARLY_FREE: Final = math.log(2.0)
"""A price on its way to 0 is 0 when it comes within an octave of the lowest."""
FURTHEST: Final = math.log(4.0)
"""No step goes further beyond what is known than to 4 times the price, or a quarter; and a secant takes no measurement
for more than 4 times the target or less than a quarter: beside a cliff it becomes a bisection. Nor is a ladder ever off by
more: where a measurement says so, that is a cliff, and the rungs on either side stay."""
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


class Point(NamedTuple):
    """A point of the map: at this price so much was wanted; both as logarithms, and what the point weighs."""

    log_price: float
    log_rate: float
    weight: float = 1.0


class Block(NamedTuple):
    """Points that are one on the monotone map: their centre, and the least and the highest price among them.

    The map is level from the one to the other: a plateau ends where it was last seen, not in its middle.
    """

    log_price: float
    log_rate: float
    weight: float
    least: float
    most: float


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
            raise BudgetError("a ladder needs a rung with a price above 0")
        lowest, highest = prices[0] / BEYOND, prices[-1] * BEYOND
        return cls(rungs, lowest, highest, math.log(prices[len(prices) // 2]))

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
        """The logarithm that stands for a price of 0."""
        return math.log(self.lowest)

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
        is_free = found <= self._free and there - self._free < NEARLY_FREE
        log_price = self._free if is_free else self._within(there)
        return replace(self, log_price=log_price, allowed=allowed, n_missed=n_missed)

    def no_less_than(self, floor: float) -> PriceController:
        """The same, where a unit costs so much in any case; what is missed there is no reason to go any further."""
        if floor <= self.price:
            return self
        return replace(self, log_price=self._within(math.log(floor)), n_missed=0, miss=0.0)

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
                carried = error * math.exp(-distance / LADDER_FADE) if abs(error) <= FURTHEST else 0.0
                moved.append(rung._replace(log_rate=rung.log_rate + carried))
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
            return self._within(last.most + further), self._within(last.most + FURTHEST)
        after = bisect([-block.log_rate for block in blocks], -target)
        left, right = blocks[after - 1], blocks[after]
        more, less = min(left.log_rate - target, FURTHEST), min(target - right.log_rate, FURTHEST)
        share = more / (more + less) if more + less > 0 else 0.0
        found = left.most + (right.least - left.most) * share
        return found, left.most if found < self.log_price else right.least

    def _within(self, log_price: float) -> float:
        return min(max(log_price, self._free), math.log(self.highest))


@dataclass(frozen=True)
class Prices:
    """The prices of several accounts whose budgets restrain the same agents, side by side; each has a controller of its own.

    A bit of one agent is a bit of everybody's, too, and pays for both. So the controller of the inner account looks for what
    its units must cost in all, and its own price is what the others leave of that: an account that is thrifty enough at the
    price of the outer one has a price of 0, at once. Where prices move each other's demand in other ways (of bits and of
    messages), each goes only a part of its way.

    >>> bits = PriceController.on_ladder([(0.0, 100.0), (1.0, 50.0), (4.0, 10.0)])
    >>> agent = PriceController.on_ladder([(0.0, 25.0), (1.0, 12.5), (4.0, 2.5)])
    >>> prices = Prices({"bits": bits, "bits of agent 0": agent}, {"bits of agent 0": ("bits",)})
    >>> prices.aim({"bits": 20.0, "bits of agent 0": 9.0}).binding
    ('bits',)

    Attributes:
        controllers: by account; an inner account stands after those that it is in.
        outer: of an account, those whose price its units pay as well.
        base: of an account, what its units cost besides, whatever the budgets; 0 of one that is not there.
        stepped: whose price changed in the last aim.
    """

    controllers: Mapping[str, PriceController]
    outer: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    base: Mapping[str, float] = field(default_factory=dict)
    stepped: tuple[str, ...] = ()

    @property
    def binding(self) -> tuple[str, ...]:
        """The accounts whose price is above 0."""
        return tuple(account for account in self.controllers if self.price(account) > 0)

    def price(self, account: str) -> float:
        """The price of an account, on top of what others take; 0 for one that is not controlled."""
        if account not in self.controllers:
            return 0.0
        return max(0.0, self.controllers[account].price - self._others(account))

    def with_new(self, controllers: Mapping[str, PriceController]) -> Prices:
        """These, and more accounts."""
        return replace(self, controllers={**self.controllers, **controllers})

    def learn(self, demand: Mapping[str, float]) -> Prices:
        """Told what was wanted of each account, per unit of its own."""
        learned = {}
        for account, controller in self.controllers.items():
            is_moved = any(other != account and other not in self._around(account) for other in self.stepped)
            learned[account] = (controller.learn_beside if is_moved else controller.learn)(demand[account])
        return replace(self, controllers=learned, stepped=())

    def aim(self, allowed: Mapping[str, float]) -> Prices:
        """The prices for a batch that is allowed these rates."""
        is_first = not any(controller.points for controller in self.controllers.values())
        aimed = self
        for account, controller in self.controllers.items():
            beside = set(self.binding) - {account, *self._around(account)}
            found = controller.aim(allowed[account], damping=DAMPED if beside and not is_first else 1.0)
            aimed = aimed.with_new({account: found.no_less_than(aimed._others(account))})
        stepped = [account for account in self.controllers if self._has_moved(account, aimed)]
        return replace(aimed, stepped=tuple(stepped))

    def _around(self, account: str) -> tuple[str, ...]:
        return self.outer.get(account, ())

    def _others(self, account: str) -> float:
        """What a unit of this account costs without its own price."""
        return self.base.get(account, 0.0) + sum(self.price(outer) for outer in self._around(account))

    def _has_moved(self, account: str, since: Prices) -> bool:
        before, after = self.controllers[account].log_price, since.controllers[account].log_price
        return abs(after - before) > NEAR and (self.price(account) > 0 or since.price(account) > 0)


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
        block = Block(*point, least=point.log_price, most=point.log_price)
        while blocks and blocks[-1].log_rate <= block.log_rate:
            before = blocks.pop()
            centre = _centre([Point(*before[:3]), Point(*block[:3])])
            block = Block(*centre, least=before.least, most=block.most)
        blocks.append(block)
    return blocks


def _at(blocks: Sequence[Block], log_price: float) -> float:
    """What the map says of a price; level beyond its ends."""
    after = bisect([b.least for b in blocks], log_price)
    left = blocks[max(0, after - 1)]
    if after in (0, len(blocks)) or log_price <= left.most:
        return left.log_rate
    right = blocks[after]
    share = (log_price - left.most) / (right.least - left.most)
    return left.log_rate + share * (right.log_rate - left.log_rate)


def _slope(blocks: Sequence[Block]) -> float:
    """The elasticity of demand between two blocks, as far as it is believed; 1 of a single one."""
    if len(blocks) < 2:
        return 1.0
    left, right = blocks
    slope = (left.log_rate - right.log_rate) / (right.log_price - left.log_price)
    return min(max(slope, STEEPEST[0]), STEEPEST[1])
