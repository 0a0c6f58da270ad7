"""The price knob: fewer bits for a higher price, never for free, and a prior that pays for itself."""

import numpy as np
import pytest
import torch

from commlib.agent import Soloists
from commlib.codec import fresh_context, next_context
from commlib.codecs.floats import Float32Codec
from commlib.codecs.frozen import CodebookQuantiser, TableCodec
from commlib.codecs.prior import uniform_prior
from commlib.config import StagesConfig
from commlib.experiments.calibrate import ENOUGH, Knowledge, calibrate, refit
from commlib.experiments.model import Calibration, Model, Rung
from commlib.experiments.world_guide import MOVES, SIZE, Guide
from commlib.topology import none, ring


def rung(weight, return_, bits, success=None):
    return Rung(weight, success, return_, bits / 10, bits)


FRONTIER = Calibration((rung(0.0, 2.0, 40.0), rung(0.1, 1.9, 20.0), rung(0.2, 1.0, 10.0), rung(0.4, -3.0, 2.0)), 1)


def test_without_a_price_the_chosen_rung_is_used():
    assert FRONTIER.rate_weight(None) == 0.1


def test_without_a_calibration_the_nearest_code_is_sent():
    assert Calibration().rate_weight(None) == Calibration().rate_weight(3.0) == Calibration().bit_price(0.0) == 0.0
    assert Calibration.from_json(None) == Calibration()


def test_free_bits_buy_the_best_return_and_dear_bits_the_fewest():
    assert FRONTIER.rate_weight(0.0) == 0.0
    assert FRONTIER.rate_weight(1000.0) == 0.4


def test_a_higher_price_never_buys_more_bits():
    bits = {r.rate_weight: r.bits_per_agent_episode for r in FRONTIER.rungs}
    bought = [bits[FRONTIER.rate_weight(price)] for price in np.linspace(0, 2, 400)]
    assert bought == sorted(bought, reverse=True)
    assert set(bought) == set(bits.values())


def test_the_price_of_a_rung_is_where_it_begins_to_pay():
    assert FRONTIER.bit_price(0.0) == 0.0, "nothing is dearer"
    assert FRONTIER.bit_price(0.1) == pytest.approx(0.1 / 20)
    assert FRONTIER.bit_price(0.2) == pytest.approx(0.9 / 10)
    assert FRONTIER.bit_price(0.4) == pytest.approx(4.0 / 8)
    for r in FRONTIER.rungs[1:]:
        price = FRONTIER.bit_price(r.rate_weight)
        assert FRONTIER.rate_weight(price * 1.001) == r.rate_weight
        assert FRONTIER.rate_weight(price * 0.999) < r.rate_weight


@pytest.mark.parametrize(("weight", "side"), [(0.05, 0.1 / 20), (0.15, 0.9 / 10), (0.3, 4.0 / 8), (9.0, 4.0 / 8)])
def test_between_rungs_a_price_is_what_the_last_bit_brings(weight, side):
    """The slope of the hull: a rung below it changes nothing."""
    with_trap = Calibration((*FRONTIER.rungs, rung(0.25, -2.5, 9.0), rung(0.02, 0.0, 35.0)), 0)
    assert FRONTIER.bit_price(weight) == pytest.approx(side)
    assert with_trap.bit_price(weight) == pytest.approx(side)


@pytest.mark.parametrize("more_bits", [0.0, 1e-12, 1e-6 - 1e-10], ids=["apart", "alike", "nearly alike"])
def test_a_price_a_rounding_beside_a_rung_is_still_a_price(more_bits):
    """Prices are found by search, and may come to lie so near a rung's that their bits differ by less than can be told."""
    low, high = rung(0.4, -3.0, 2.0), rung(0.3, -3.0, 2.0 + more_bits)
    calibration = Calibration((*FRONTIER.rungs[:3], *([high] if more_bits else []), low), 0)
    for weight in (r.rate_weight * (1 + e) for r in calibration.rungs for e in (-1e-11, -1e-12, -1e-15, 1e-15, 1e-11)):
        assert 0 <= calibration.bit_price(weight) <= 1.0
    for weight in np.linspace(0.3, 0.4, 101):
        assert 0 <= calibration.bit_price(float(weight)) <= 1.0


def test_a_rung_that_is_worse_and_dearer_is_never_bought():
    with_trap = Calibration((*FRONTIER.rungs, rung(0.3, 0.5, 30.0)), 0)
    assert 0.3 not in {with_trap.rate_weight(price) for price in np.linspace(0, 2, 400)}


def test_saving_for_nothing_has_no_price():
    calibration = Calibration((rung(0.0, 1.0, 40.0), rung(0.1, 1.0, 20.0), rung(0.2, 1.2, 10.0)), 2)
    assert [calibration.bit_price(r.rate_weight) for r in calibration.rungs] == [0.0, 0.0, 0.0]
    assert calibration.bit_price(0.15) == 0.0


def test_a_calibration_reads_back_as_it_was_written():
    assert Calibration.from_json(FRONTIER.to_json()) == FRONTIER


# --- on agents


class Guides:
    """Tells the neighbour's goal, again and again, as a place in the plane; goes where it is told."""

    def __init__(self, agent_id):
        self.before = (agent_id - 1) % 3

    def act(self, observation, inbox):
        cells = observation.reshape(2, SIZE, SIZE)
        here, goal = (np.argwhere(cell)[0] for cell in cells)
        said = (goal / (SIZE - 1)).astype(np.float32)
        if self.before not in inbox:
            return 0, said
        aim = np.rint(inbox[self.before] * (SIZE - 1)).clip(0, SIZE - 1)
        step = np.sign(aim - here)
        move = (int(step[0]), 0) if step[0] else (0, int(step[1]))
        return MOVES.index(move), said


def guides(agents, senders):
    return Soloists(Guides, agents, senders, 2, [5] * len(agents))


def places(spare=0):
    """A codec with a code for each place of the grid, and a prior that expects nothing."""
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, SIZE)] * 2), -1).reshape(-1, 2).astype(np.float32)
    codebook = np.concatenate([grid, np.full((spare, 2), 9, np.float32)])
    return TableCodec("vq", CodebookQuantiser(codebook), uniform_prior(1, len(codebook)))


def model_of(codec=None, edges=None):
    edges = ring(3).edges() if edges is None else edges
    return Model(guides, codec or places(), edges)


STAGES = StagesConfig(calibrate_worlds=16, calibrate_rounds=1, rungs=11, margin=0.02)


def calibrated(model, rate_aware=True, stages=STAGES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return calibrate(model, Guide(), "broadcast", stages, generator, rate_aware=rate_aware)


def test_a_counted_prior_lowers_the_rate_of_what_it_was_counted_from():
    model = model_of()
    contexts = np.concatenate([fresh_context(20, 1), np.tile([3, 1], (180, 1))])
    codes = np.concatenate([np.arange(20)[:, None], np.full((180, 1), 3)])
    fitted = refit(model, [(contexts, codes)])
    rates = [m.codec.estimate_bits(codes, contexts).mean() for m in (model, fitted)]
    assert rates[1] < 0.3 * rates[0]
    assert fitted.codec.digest != model.codec.digest
    assert fitted.codec.quantiser is model.codec.quantiser
    assert fitted.edges == model.edges


@pytest.mark.parametrize(
    ("knowledge", "kind", "ages"),
    [
        (None, "previous", 1),
        (Knowledge(), "previous", 1),
        (Knowledge("held"), "held", 1),
        (Knowledge("best", 4), "none", 4),
        (Knowledge("none", 2), "none", 2),
    ],
)
def test_what_the_prior_knows_is_a_setting_or_what_saves_most(knowledge, kind, ages):
    """What they say depends on the hour alone."""
    draw = np.random.default_rng(0)
    age = draw.integers(0, 4, size=(4000, 1))
    codes = 2 * age + draw.integers(0, 2, size=(4000, 1))
    contexts = np.concatenate([np.where(age == 0, -1, draw.integers(0, 25, size=(4000, 1))), age], 1)
    prior = refit(model_of(), [(contexts, codes)], knowledge).codec.prior
    assert (prior.kind, prior.n_ages) == (kind, ages)


def test_a_prior_is_not_counted_from_nothing():
    model = model_of()
    nothing = np.zeros((0, 1), np.int64)
    assert refit(model, [(nothing, nothing)]) == model


def test_only_the_prior_is_counted_without_a_price_aware_encoder():
    model = model_of()
    fitted = calibrated(model, rate_aware=False)
    assert (fitted.calibration.rungs, fitted.calibration.n_steps > 0) == ((), True)
    assert fitted.codec.digest != model.codec.digest
    held = np.arange(25)[:, None]
    context = next_context(fresh_context(25, 1), held)
    assert (fitted.codec.expected(context) == held).all(), "they repeat themselves, and the prior has noticed"


def test_a_codec_without_distortions_has_no_knob():
    assert calibrated(model_of(Float32Codec(2).freeze())).calibration.rungs == ()


def test_agents_that_say_nothing_need_no_calibration():
    model = model_of(edges=none(3).edges())
    silent = calibrated(model)
    assert (silent.codec.digest, silent.calibration.rungs) == (model.codec.digest, ())


@pytest.fixture(scope="module")
def knob():
    return calibrated(model_of(places(spare=7)))


def test_every_rung_is_measured_and_the_chosen_one_keeps_the_success(knob):
    calibration = knob.calibration
    assert len(calibration.rungs) == 12
    weights = [r.rate_weight for r in calibration.rungs]
    assert weights == sorted(weights)
    assert weights[0] == 0
    chosen = calibration.rungs[calibration.chosen]
    assert chosen.success >= max(r.success for r in calibration.rungs) - 2 * STAGES.margin
    assert chosen.success > 0.9
    assert calibration.rate_weight(None) == chosen.rate_weight


def test_the_knob_trades_bits_for_success(knob):
    rungs = knob.calibration.rungs
    assert rungs[-1].bits_per_agent_episode < 0.75 * rungs[0].bits_per_agent_episode
    assert rungs[-1].success < rungs[0].success
    assert all(r.bits_per_agent_episode == pytest.approx(10 * r.bits_per_agent_step) for r in rungs)
    fewest = min(r.bits_per_agent_episode for r in rungs if r.success >= rungs[0].success - STAGES.margin)
    assert rungs[knob.calibration.chosen].bits_per_agent_episode <= rungs[0].bits_per_agent_episode
    assert rungs[knob.calibration.chosen].bits_per_agent_episode <= 1.2 * ENOUGH * fewest


def test_a_goal_is_told_once_and_then_costs_next_to_nothing(knob):
    """log2 25 = 4.64 bits are needed; the agents repeat the goal ten times."""
    chosen = knob.calibration.rungs[knob.calibration.chosen]
    assert 4.0 < chosen.bits_per_agent_episode < 9.0


def test_the_same_seed_calibrates_alike(knob):
    again = calibrated(model_of(places(spare=7)))
    assert again.calibration == knob.calibration
    assert again.codec.digest == knob.codec.digest


def test_fewer_rungs_can_be_asked_for():
    calibration = calibrated(model_of(), stages=STAGES.model_copy(update={"rungs": 2})).calibration
    assert len(calibration.rungs) == 3


def test_how_far_the_ladder_is_can_be_seen():
    seen = []
    generator, stages = torch.Generator().manual_seed(0), STAGES.model_copy(update={"rungs": 2})
    calibrate(
        model_of(),
        Guide(),
        "broadcast",
        stages,
        generator,
        rate_aware=True,
        show=lambda share, figures: seen.append((share, figures)),
    )
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert (shares[0] > 0, shares[-1], len(shares)) == (True, pytest.approx(1.0), 5)
    assert seen[0][1].keys() == {"success", "bits/agent/step"}
