"""Prices against plants drawn at random: power laws, cliffs, shelves and staircases, ladders that are off, and noise."""

import math
import random
from collections.abc import Callable
from statistics import fmean

from hypothesis import example, given, settings
from hypothesis import strategies as st

from commlib.price import PriceController

N_WORLDS = 64


def plant(kind: str, scale: float, knee: float, elasticity: float) -> Callable[[float], float]:
    """What is wanted at a price: `scale` at 0, half of it or so at the knee."""
    if kind == "power":
        return lambda price: scale / (1 + (price / knee) ** elasticity)
    if kind == "shelf":
        upper = plant("power", scale / 2, knee, 2 * elasticity)
        lower = plant("power", scale / 2, 100 * knee, 2 * elasticity)
        return lambda price: upper(price) + lower(price)
    dice = random.Random(repr((scale, knee, elasticity)))
    steps = [(knee * 10 ** dice.uniform(-2, 2), dice.random()) for _ in range(30)]
    height = sum(weight for _, weight in steps)
    factors = [2.0 ** (k / N_WORLDS - 0.5) for k in range(N_WORLDS)]  # worlds differ: each has its steps elsewhere

    def wanted(price: float) -> float:
        said = [weight for factor in factors for step, weight in steps if step > factor * price]
        return scale * sum(said) / (height * N_WORLDS)

    return wanted


kinds = st.sampled_from(["power", "shelf", "stairs"])
logs = st.floats(-4, 4).map(lambda power: 10.0**power)


@example("power", 1.0, 1.0, 3.0, 0.75, 0.75, 1)  # a plateau that the ladder puts at the target
@settings(max_examples=150, deadline=None)
@given(kinds, logs, logs, st.floats(0.4, 3), st.floats(0.08, 0.8), st.floats(0.7, 1.4), st.integers(0, 99))
def test_spending_comes_within_a_few_percent_below_any_budget(kind, scale, knee, elasticity, share, error, seed):
    wanted, dice = plant(kind, scale, knee, elasticity), random.Random(seed)
    rungs = [0.0, *(knee * 10 ** (k / 2) for k in range(-4, 6))]
    controller = PriceController.on_ladder([(price, error * wanted(price)) for price in rungs])
    allowed, demands = share * scale, []
    for _ in range(32):
        controller = controller.aim(allowed)
        demand = wanted(controller.price) * math.exp(dice.gauss(0, 0.005))
        controller = controller.learn(demand)
        demands.append(demand / allowed)
    late = demands[-12:]
    assert fmean(min(demand, 1.0) for demand in late) > 0.93
    assert fmean(late) < 1.02


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), min_size=1, max_size=40), st.booleans())
def test_whatever_it_is_told_the_price_stays_in_range_and_the_record_in_bounds(told, is_warm):
    controller = PriceController.on_ladder([(1.0, 1.0)])
    if is_warm:
        controller = PriceController.on_ladder([(0.0, 100.0), (0.1, 70.0), (10.0, 1.0)])
    for allowed, demand in told:
        controller = controller.aim(allowed)
        assert controller.price == 0 or controller.lowest <= controller.price <= 1.001 * controller.highest
        controller = controller.learn(demand)
        assert len(controller.points) <= 12
        assert all(math.isfinite(number) for point in controller.points for number in point)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(1, 1000), min_size=3, max_size=8), logs, logs)
def test_more_is_never_allowed_at_a_higher_price(rates, first, second):
    ladder = [(10.0**k, rate) for k, rate in enumerate(sorted(rates, reverse=True))]
    controller = PriceController.on_ladder(ladder).aim(50.0).learn(40.0)
    less, more = sorted((first, second))
    fresh = [controller.aim(allowed).price for allowed in (less, more)]
    assert fresh[0] >= fresh[1]
