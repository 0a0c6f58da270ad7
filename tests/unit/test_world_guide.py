import math

import pytest
import torch

from commlib.errors import WorldError
from commlib.experiments.world_guide import Guide, guide_8
from commlib.testing import check_world

STAY, UP, DOWN, LEFT, RIGHT = range(5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def placed(cells, goals):
    world = Guide()
    world.reset(1, generator())
    world._cell_BN, world._goal_BN = torch.tensor([cells]), torch.tensor([goals])
    return world


def test_spec():
    spec = Guide().spec
    assert (spec.n_agents, spec.observation_width, spec.n_actions, spec.n_steps) == (3, 50, 5, 10)
    assert spec.bound_bits == math.log2(25)


def test_agent_sees_its_cell_and_its_neighbours_goal():
    world = placed([0, 12, 24], [3, 7, 11])
    observation = world.step(torch.zeros(1, 3, dtype=torch.int64)).observation[0]
    assert observation[:, :25].argmax(1).tolist() == [0, 12, 24]
    assert observation[:, 25:].argmax(1).tolist() == [7, 11, 3]
    assert observation.sum(1).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("start", "action", "end"),
    [
        *[(12, STAY, 12), (12, UP, 7), (12, DOWN, 17), (12, LEFT, 11), (12, RIGHT, 13)],
        *[(2, UP, 2), (22, DOWN, 22), (10, LEFT, 10), (14, RIGHT, 14)],
    ],
)
def test_moves_and_walls(start, action, end):
    world = placed([start, start, start], [0, 0, 0])
    out = world.step(torch.full((1, 3), action))
    assert out.observation[0, 0, :25].argmax() == end


def test_reward_is_progress_less_step_cost():
    world = placed([0, 0, 0], [1, 6, 0])
    out = world.step(torch.tensor([[RIGHT, LEFT, DOWN]]))
    torch.testing.assert_close(out.reward, torch.tensor([[1.0, -0.05, -1.05]]))
    assert world.success().tolist() == pytest.approx([1 / 3])


def test_episode_lasts_ten_steps_then_freezes():
    world = Guide()
    world.reset(4, generator())
    move = torch.full((4, 3), RIGHT)
    outs = [world.step(move) for _ in range(10)]
    assert [bool(out.done.any()) for out in outs] == [False] * 9 + [True]
    assert all(out.active.all() for out in outs[:9])
    assert not outs[-1].active.any()
    after = world.step(torch.full((4, 3), LEFT))
    assert after.done.all()
    assert not after.reward.any()
    assert after.observation.equal(outs[-1].observation)


def test_same_seed_same_episode():
    first, second, other = (Guide().reset(64, generator(seed)).observation for seed in (1, 1, 2))
    assert first.equal(second)
    assert not first.equal(other)


def test_goals_are_uniform():
    goals = Guide().reset(4096, generator()).observation[..., 25:].mean(dim=(0, 1))
    assert (goals - 1 / 25).abs().max() < 0.01


def test_wrong_actions_are_refused():
    world = Guide()
    with pytest.raises(WorldError, match="before its first reset"):
        world.step(torch.zeros(2, 3, dtype=torch.int64))
    world.reset(2, generator())
    with pytest.raises(WorldError, match=r"int64 \[2, 3\].*float32"):
        world.step(torch.zeros(2, 3))
    with pytest.raises(WorldError, match=r"got torch.int64 \[2, 4\]"):
        world.step(torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(WorldError, match=r"0\.\.4, got 0\.\.5"):
        world.step(torch.tensor([[0, 0, 0], [0, 5, 0]]))


@pytest.mark.parametrize("make", [Guide, guide_8])
def test_it_keeps_the_laws_of_a_world(make):
    check_world(make())


def test_eight_agents_play_by_the_same_rules():
    spec = guide_8().spec
    assert (spec.name, spec.n_agents, spec.observation_width, spec.n_steps) == ("guide_8_v1", 8, 50, 10)
    assert spec.bound_bits == Guide().spec.bound_bits
    world = guide_8()
    world.reset(1, generator())
    world._cell_BN, world._goal_BN = torch.arange(8)[None], torch.arange(10, 18)[None]
    out = world.step(torch.tensor([[STAY] * 7 + [DOWN]]))
    assert out.observation[0, :, :25].argmax(1).tolist() == [0, 1, 2, 3, 4, 5, 6, 12]
    assert out.observation[0, :, 25:].argmax(1).tolist() == [11, 12, 13, 14, 15, 16, 17, 10]
    torch.testing.assert_close(out.reward, torch.tensor([[-0.05] * 7 + [0.95]]))
    world._cell_BN = world._goal_BN.clone()
    assert world.success().tolist() == [1.0]


def test_three_agents_are_the_guide_of_old():
    assert Guide(3).spec == Guide().spec
    with pytest.raises(WorldError, match="at least 2"):
        Guide(1)
