import math

import pytest
import torch

from commlib.errors import WorldError
from commlib.experiments.world_secret import Secret, least_bits
from commlib.testing import check_world


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def placed(secrets, knowers):
    world = Secret()
    world.reset(len(secrets), generator())
    world._secret_B, world._knower_B = torch.tensor(secrets), torch.tensor(knowers)
    return world


def test_spec():
    spec = Secret().spec
    assert (spec.n_agents, spec.observation_width, spec.action_counts, spec.n_steps) == (5, 20, (20,) * 5, 20)


def test_it_keeps_the_laws_of_a_world():
    check_world(Secret())


def test_the_bound_is_the_entropy_of_the_cheapest_perfect_code_of_a_sender():
    silent = 4 / 5 + 1 / 100  # another one knows, or the number is the one that silence stands for
    by_hand = -silent * math.log2(silent) + 19 / 100 * math.log2(100)
    assert Secret().spec.bound_bits == pytest.approx(by_hand)
    assert math.log2(20) / 5 < by_hand < (1 / 5) * math.log2(5 * 20) - (4 / 5) * math.log2(4 / 5)
    assert least_bits(2, 1) == 0


def test_the_knower_sees_the_number_in_every_step_and_nobody_else_sees_anything():
    world = placed([7, 19], [2, 4])
    for _ in range(3):
        seen = world.step(torch.zeros(2, 5, dtype=torch.int64)).observation
        assert seen.nonzero().tolist() == [[0, 2, 7], [1, 4, 19]]
        assert seen.sum() == 2


def test_a_twentieth_is_paid_for_the_right_number_and_success_takes_all_five():
    world = placed([3, 3, 0], [0, 1, 2])
    out = world.step(torch.tensor([[3, 3, 3, 3, 3], [3, 3, 3, 3, 4], [1, 1, 1, 1, 1]]))
    torch.testing.assert_close(out.reward, torch.tensor([[1.0] * 5, [1, 1, 1, 1, 0], [0.0] * 5]) / 20)
    assert world.success().tolist() == [1, 0, 0]


def test_the_last_step_decides_and_then_nothing_counts():
    world = placed([3, 3], [0, 0])
    right, wrong = torch.full((5,), 3), torch.full((5,), 4)
    outs = [world.step(torch.stack((right, wrong))) for _ in range(19)]
    assert world.success().tolist() == [1, 0]
    assert not any(out.done.any() for out in outs)
    assert all(out.active.all() for out in outs)
    last = world.step(torch.stack((wrong, right)))
    assert last.done.all()
    assert not last.active.any()
    assert world.success().tolist() == [0, 1]
    after = world.step(torch.stack((right, wrong)))
    assert not after.reward.any()
    assert after.done.all()
    assert after.observation.equal(last.observation)
    assert world.success().tolist() == [0, 1]


def test_who_is_always_right_is_paid_one():
    world = placed([11], [3])
    total = sum(world.step(torch.full((1, 5), 11)).reward for _ in range(20))
    torch.testing.assert_close(total, torch.ones(1, 5))


def test_same_seed_same_episode():
    first, second, other = (Secret().reset(64, generator(seed)).observation for seed in (1, 1, 2))
    assert first.equal(second)
    assert not first.equal(other)


def test_numbers_and_knowers_are_uniform_and_independent():
    seen = Secret().reset(40_000, generator()).observation
    assert (seen.sum((1, 2)) == 1).all()
    assert (seen.mean(0) - 1 / 100).abs().max() < 0.002  # four standard deviations


def test_wrong_actions_are_refused():
    world = Secret()
    with pytest.raises(WorldError, match="before its first reset"):
        world.step(torch.zeros(1, 5, dtype=torch.int64))
    world.reset(1, generator())
    with pytest.raises(WorldError, match=r"0\.\.19, got 0\.\.20"):
        world.step(torch.tensor([[0, 0, 0, 0, 20]]))
