import pytest
import torch

from commlib.experiments.world_predator_prey import (
    predator_prey_easy,
    predator_prey_easy_vision_1,
    predator_prey_hard,
    predator_prey_medium,
)

STAY, UP, DOWN, LEFT, RIGHT = range(5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def placed(world, cells, prey):
    world.reset(1, generator())
    world._cell_BN, world._prey_B = torch.tensor([cells]), torch.tensor([prey])
    return world


def act(*actions):
    return torch.tensor([actions])


def test_specs():
    easy, medium = predator_prey_easy().spec, predator_prey_medium().spec
    assert (easy.n_agents, easy.observation_width, easy.n_actions, easy.n_steps) == (3, 28, 5, 20)
    assert (medium.n_agents, medium.observation_width, medium.n_actions, medium.n_steps) == (5, 127, 5, 40)
    seeing = predator_prey_easy_vision_1().spec
    assert (seeing.n_agents, seeing.observation_width, seeing.n_actions, seeing.n_steps) == (3, 52, 5, 20)
    hard = predator_prey_hard().spec
    assert (hard.n_agents, hard.observation_width, hard.n_actions, hard.n_steps) == (10, 427, 5, 80)


def test_all_start_on_different_cells():
    world = predator_prey_easy()
    out = world.reset(500, generator())
    places = torch.cat((world._cell_BN, world._prey_B[:, None]), dim=1).sort(dim=1).values
    assert (places.diff(dim=1) > 0).all()
    assert set(places.flatten().tolist()) == set(range(25))
    assert out.active.all()
    assert not out.done.any()


def test_arrived_predator_stays_is_paid_zero_and_is_inactive():
    world = placed(predator_prey_easy(), [11, 0, 4], 12)
    out = world.step(act(RIGHT, UP, RIGHT))
    torch.testing.assert_close(out.reward, torch.tensor([[0.0, -0.05, -0.05]]))
    assert out.active.tolist() == [[False, True, True]]
    out = world.step(act(RIGHT, DOWN, STAY))
    assert out.observation[0, :, :25].argmax(1).tolist() == [12, 5, 4]
    assert world.success().tolist() == [0.0]


def test_over_when_all_have_arrived_then_frozen():
    world = placed(predator_prey_easy(), [11, 13, 12], 12)
    out = world.step(act(RIGHT, LEFT, UP))
    assert out.done.all()
    assert not out.active.any()
    assert world.success().tolist() == [1.0]
    after = world.step(act(UP, UP, UP))
    assert after.observation.equal(out.observation)
    assert after.done.all()
    assert not after.reward.any()


def test_over_at_the_last_step_without_success():
    world = placed(predator_prey_easy(), [0, 1, 2], 24)
    outs = [world.step(act(STAY, STAY, STAY)) for _ in range(20)]
    assert [bool(out.done) for out in outs] == [False] * 19 + [True]
    assert world.success().tolist() == [0.0]
    after = world.step(act(DOWN, DOWN, DOWN))
    assert after.observation.equal(outs[-1].observation)
    assert not after.reward.any()


def test_vision_zero_sees_only_what_is_on_its_cell():
    world = placed(predator_prey_easy(), [12, 12, 3], 3)
    seen = world.step(act(STAY, STAY, STAY)).observation[0, :, 25:]
    torch.testing.assert_close(seen, torch.tensor([[0, 2 / 3, 0], [0, 2 / 3, 0], [0, 1 / 3, 1]]))


def test_vision_one_sees_walls_predators_and_prey_around():
    world = placed(predator_prey_medium(), [0, 1, 11, 99, 55], 10)
    seen = world.step(act(*[STAY] * 5)).observation[0, :, 100:].view(5, 3, 3, 3)
    outside, predators, prey = seen.unbind(-1)
    assert outside[0].tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0]]
    torch.testing.assert_close(predators[0] * 5, torch.tensor([[0.0, 0, 0], [0, 1, 1], [0, 0, 1]]))
    assert prey[0].tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert prey[2].tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert outside[3].tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 1]]
    assert not outside[4].any()
    assert not prey[4].any()


def test_hard_sees_its_corner_of_a_grid_of_twenty():
    world = placed(predator_prey_hard(), [0, 399, 20, *[210] * 7], 21)
    out = world.step(act(*[STAY] * 10))
    assert out.observation[0, :3, :400].argmax(1).tolist() == [0, 399, 20]
    outside, predators, prey = out.observation[0, :2, 400:].view(2, 3, 3, 3).unbind(-1)
    assert outside.tolist() == [[[1, 1, 1], [1, 0, 0], [1, 0, 0]], [[0, 0, 1], [0, 0, 1], [1, 1, 1]]]
    torch.testing.assert_close(predators[0] * 10, torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 1, 0]]))
    assert prey[0].tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert not prey[1].any()
    out = world.step(act(RIGHT, STAY, RIGHT, *[STAY] * 7))
    assert out.active[0].tolist() == [True, True, False, *[True] * 7]


@pytest.mark.parametrize("make", [predator_prey_easy, predator_prey_medium, predator_prey_hard])
def test_same_seed_same_episode(make):
    def play(seed):
        world, source = make(), generator(seed)
        start = world.reset(32, source)
        shape = (32, world.spec.n_agents)
        return [start, *(world.step(torch.randint(5, shape, generator=source)) for _ in range(world.spec.n_steps))]

    for one, two in zip(play(3), play(3), strict=True):
        assert all(a.equal(b) for a, b in zip(one, two, strict=True))
    assert not play(3)[0].observation.equal(play(4)[0].observation)


def test_a_predator_alone_looks_the_same_in_a_team_of_any_size():
    few, many = placed(predator_prey_easy(), [12, 7, 3], 24), placed(predator_prey_easy(5), [12, 7, 3, 8, 8], 24)
    seen, among = (world.step(act(*[STAY] * world.spec.n_agents)).observation[0] for world in (few, many))
    assert among[:3].equal(seen)
    assert float(among[3, 26]) == pytest.approx(2 / 3)
