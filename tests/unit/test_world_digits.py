import math
import sys

import pytest
import torch

from commlib.errors import ConfigError, WorldError
from commlib.experiments import world_digits
from commlib.experiments.world_digits import Digits, is_held_out, load_pictures, shifted
from commlib.testing import check_world
from commlib.world import for_evaluation


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def named(*digits):
    """Actions in which agent 1 names these digits."""
    return torch.stack((torch.zeros(len(digits), dtype=torch.int64), torch.tensor(digits)), 1)


def as_bytes(rows):
    return {row.numpy().tobytes() for row in rows}


def test_spec():
    spec = Digits().spec
    assert (spec.n_agents, spec.observation_width, spec.action_counts, spec.n_steps) == (2, 64, (1, 10), 1)
    assert spec.bound_bits == math.log2(10) / 2


def test_both_editions_keep_the_laws_of_a_world():
    check_world(Digits())  # checks what it holds out as well


def test_agent_0_sees_a_picture_and_agent_1_nothing():
    start = Digits().reset(256, generator())
    assert start.observation.shape == (256, 2, 64)
    assert start.observation.dtype == torch.float32
    assert (start.observation.min(), start.observation.max()) == (0, 1)
    assert start.observation[:, 0].any(1).all()
    assert not start.observation[:, 1].any()


def test_both_are_paid_where_agent_1_is_right_and_then_nothing_more():
    world = Digits()
    start = world.reset(3, generator())
    assert (start.done.any(), start.active.tolist()) == (False, [[False, True]] * 3)
    assert not start.reward.any()
    right = world._digit_B.tolist()
    out = world.step(named(right[0], (right[1] + 1) % 10, right[2]))
    assert out.reward.tolist() == [[1, 1], [0, 0], [1, 1]]
    assert world.success().tolist() == [1, 0, 1]
    assert out.done.all()
    assert not out.active.any()
    after = world.step(named(*right))
    assert not after.reward.any()
    assert after.done.all()
    assert world.success().tolist() == [1, 0, 1]


def test_nobody_has_succeeded_before_the_step():
    world = Digits()
    world.reset(8, generator())
    assert not world.success().any()


def test_what_agent_0_does_changes_nothing():
    first, second = Digits(), Digits()
    for world in (first, second):
        world.reset(64, generator())
    action = named(*[3] * 64)
    other = action.clone()
    other[:, 0] = 7
    assert first.step(action).reward.equal(second.step(other).reward)


def test_same_seed_same_pictures():
    for edition in (Digits(), Digits().held_out()):
        first, second, other = (edition.reset(64, generator(seed)).observation for seed in (1, 1, 2))
        assert first.equal(second)
        assert not first.equal(other)


def test_the_parts_are_a_fifth_and_the_rest():
    pictures, digits = load_pictures()
    assert (pictures.shape, digits.shape) == ((1797, 8, 8), (1797,))
    held = is_held_out(1797)
    assert (int(held.sum()), int((~held).sum())) == (360, 1437)
    assert held.nonzero()[:3, 0].tolist() == [0, 5, 10]
    assert not as_bytes(pictures[held]) & as_bytes(pictures[~held])


def test_training_never_shows_a_held_out_picture_and_evaluation_shows_no_other(monkeypatch):
    monkeypatch.setattr(world_digits, "NOISE", 0.0)
    pictures, _ = load_pictures()
    held = is_held_out(1797)
    training = Digits()
    trained = as_bytes(training.reset(30_000, generator()).observation[:, 0])
    judged = as_bytes(for_evaluation(training).reset(360, generator()).observation[:, 0])
    assert trained <= as_bytes(shifted(pictures[~held]).flatten(0, 1))
    assert len(trained) > 0.95 * len(shifted(pictures[~held]).flatten(0, 1))
    assert judged == as_bytes(pictures[held].flatten(1))
    assert not trained & judged
    assert not as_bytes(training.reset(30_000, generator(1)).observation[:, 0]) & judged  # it was left as it is


def test_evaluation_shows_every_held_out_picture_before_any_again():
    seen = Digits().held_out().reset(720, generator()).observation[:, 0]
    assert len(as_bytes(seen[:360])) == 360
    assert seen[:360].equal(seen[360:])


def test_pictures_and_digits_belong_together_in_both_editions(monkeypatch):
    monkeypatch.setattr(world_digits, "NOISE", 0.0)
    monkeypatch.setattr(world_digits, "SHIFTS", ((0, 0),))
    pictures, digits = load_pictures()
    names = {picture.numpy().tobytes(): int(digit) for picture, digit in zip(pictures.flatten(1), digits, strict=True)}
    for edition in (Digits(), Digits().held_out()):
        seen = edition.reset(500, generator()).observation[:, 0]
        assert [names[row.numpy().tobytes()] for row in seen] == edition._digit_B.tolist()


def test_a_shift_moves_the_ink_and_blanks_what_moves_in():
    picture = torch.zeros(1, 8, 8)
    picture[0, 0, 3] = 1.0
    still, up, down, left, right = shifted(picture)[0].view(5, 8, 8)
    assert still.equal(picture[0])
    assert not up.any()
    for moved, (row, column) in ((down, (1, 3)), (left, (0, 2)), (right, (0, 4))):
        assert moved.nonzero().tolist() == [[row, column]]


def test_without_scikit_learn_it_is_still_listed_and_the_extra_is_named(monkeypatch):
    load_pictures.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    world = Digits()
    with pytest.raises(ConfigError, match=r"digits needs scikit-learn .*commlib\[digits\]"):
        world.reset(1, generator())


def test_wrong_actions_are_refused():
    world = Digits()
    with pytest.raises(WorldError, match="before its first reset"):
        world.step(named(1, 2))
    world.reset(2, generator())
    with pytest.raises(WorldError, match=r"0\.\.9, got 0\.\.10"):
        world.step(named(1, 10))
