import math

import numpy as np
import pytest
import torch

from commlib.errors import WorldError
from commlib.experiments.world_speaker_listener import SpeakerListener
from commlib.testing import check_world

NOTHING, LEFT, RIGHT, DOWN, UP = range(5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def act(*moves):
    return torch.stack((torch.zeros(len(moves), dtype=torch.int64), torch.tensor(moves)), 1)


def placed(place, landmarks, goal, velocity=(0.0, 0.0)):
    world = SpeakerListener()
    world.reset(1, generator())
    world._place_BX, world._velocity_BX = torch.tensor([place]), torch.tensor([velocity])
    world._landmark_BLX, world._goal_B = torch.tensor([landmarks]), torch.tensor([goal])
    return world


def test_spec():
    spec = SpeakerListener().spec
    assert (spec.n_agents, spec.observation_width, spec.action_counts, spec.n_steps) == (2, 8, (1, 5), 25)
    assert spec.bound_bits == math.log2(3) / 2
    assert spec.success == ""


def test_it_keeps_the_laws_of_a_world():
    check_world(SpeakerListener())


def test_each_sees_what_the_other_does_not():
    world = placed((0.5, -0.5), ((1.0, 0.0), (0.0, 0.0), (-1.0, 1.0)), goal=1, velocity=(0.0, 2.0))
    out = world.step(act(NOTHING))
    speaker, listener = out.observation[0]
    torch.testing.assert_close(speaker, torch.tensor([0.15, 0.65, 0.15, 0, 0, 0, 0, 0]))
    torch.testing.assert_close(listener, torch.tensor([0.0, 1.5, 0.5, 0.3, -0.5, 0.3, -1.5, 1.3]))


@pytest.mark.parametrize(("move", "push"), [(LEFT, (-1, 0)), (RIGHT, (1, 0)), (DOWN, (0, -1)), (UP, (0, 1))])
def test_a_push_moves_the_listener_a_step_later(move, push):
    world = placed((0.0, 0.0), ((1.0, 1.0),) * 3, goal=0)
    out = world.step(act(move))
    torch.testing.assert_close(out.reward, torch.full((1, 2), -2.0))  # 1 + 1: it has not moved yet
    torch.testing.assert_close(out.observation[0, 1, :2], 0.5 * torch.tensor(push, dtype=torch.float32))
    world.step(act(NOTHING))
    torch.testing.assert_close(world._place_BX[0], 0.05 * torch.tensor(push, dtype=torch.float32))
    torch.testing.assert_close(world._velocity_BX[0], 0.375 * torch.tensor(push, dtype=torch.float32))


def test_episode_lasts_25_steps_then_freezes():
    world = SpeakerListener()
    start = world.reset(4, generator())
    assert start.active.tolist() == [[False, True]] * 4
    outs = [world.step(act(*[RIGHT] * 4)) for _ in range(25)]
    assert [bool(out.done.any()) for out in outs] == [False] * 24 + [True]
    assert all(out.active[:, 1].all() for out in outs[:-1])
    assert not any(out.active[:, 0].any() for out in outs)
    assert not outs[-1].active.any()
    after = world.step(act(*[LEFT] * 4))
    assert after.done.all()
    assert not after.reward.any()
    assert after.observation.equal(outs[-1].observation)


def test_same_seed_same_episode():
    first, second, other = (SpeakerListener().reset(64, generator(seed)).observation for seed in (1, 1, 2))
    assert first.equal(second)
    assert not first.equal(other)


def test_places_and_goals_are_uniform():
    world = SpeakerListener()
    world.reset(30_000, generator())
    places = torch.cat((world._place_BX[:, None], world._landmark_BLX), 1)
    assert (places.min(), places.max()) == pytest.approx((-1, 1), abs=1e-3)
    assert places.mean((0, 1)).tolist() == pytest.approx([0, 0], abs=0.02)
    assert places.var((0, 1)).tolist() == pytest.approx([1 / 3, 1 / 3], abs=0.01)
    assert (world._goal_B.bincount() / 30_000).tolist() == pytest.approx([1 / 3] * 3, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_it_plays_as_mpe2_does_step_by_step(seed):
    from mpe2 import simple_speaker_listener_v4

    theirs = simple_speaker_listener_v4.parallel_env(max_cycles=25)
    seen, _ = theirs.reset(seed=seed)
    inner = theirs.unwrapped.world
    goal = next(i for i, landmark in enumerate(inner.landmarks) if landmark is inner.agents[0].goal_b)
    ours = placed(
        tuple(inner.agents[1].state.p_pos.tolist()),
        tuple(tuple(landmark.state.p_pos.tolist()) for landmark in inner.landmarks),
        goal,
    )
    dice = np.random.default_rng(seed)
    for _ in range(25):
        move, word = int(dice.integers(5)), int(dice.integers(3))
        seen, rewards, _, truncations, _ = theirs.step({"speaker_0": word, "listener_0": move})
        out = ours.step(act(move))
        np.testing.assert_allclose(out.observation[0, 0, :3], seen["speaker_0"], atol=1e-6)
        np.testing.assert_allclose(
            out.observation[0, 1], seen["listener_0"][:8], atol=1e-5
        )  # the rest is their channel
        expected = [rewards["speaker_0"], rewards["listener_0"]]
        np.testing.assert_allclose(out.reward[0], expected, rtol=1e-5, atol=1e-5)
        assert bool(out.done[0]) == truncations["listener_0"]
    theirs.close()


def test_wrong_actions_are_refused():
    world = SpeakerListener()
    with pytest.raises(WorldError, match="before its first reset"):
        world.step(act(NOTHING))
    world.reset(1, generator())
    with pytest.raises(WorldError, match=r"0\.\.4, got 0\.\.5"):
        world.step(act(5))
