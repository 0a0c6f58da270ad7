import pytest
import torch

from commlib.errors import WorldError
from commlib.experiments.world_switchboard import N_KINDS, N_STEPS, RATES, Switchboard


def calls_of(step):
    return step.observation.argmax(-1)


def test_calls_come_at_their_rates_and_all_kinds_alike():
    world = Switchboard()
    step = world.reset(4000, torch.Generator().manual_seed(0))
    seen = [calls_of(step)]
    for _ in range(N_STEPS - 1):
        step = world.step(torch.zeros(4000, 4, dtype=torch.int64))
        seen.append(calls_of(step))
    calls = torch.stack(seen)
    assert (calls > 0).float().mean((0, 1)).tolist() == pytest.approx(RATES, abs=0.01)
    shares = torch.bincount(calls[calls > 0], minlength=N_KINDS + 1)[1:] / (calls > 0).sum()
    assert shares.tolist() == pytest.approx([1 / N_KINDS] * N_KINDS, abs=0.005)


@pytest.mark.parametrize(("answers", "success"), [("right", 1.0), ("none", 0.0), ("own", None)])
def test_the_next_desk_answers_at_once_or_the_call_is_lost(answers, success):
    world = Switchboard()
    step = world.reset(500, torch.Generator().manual_seed(1))
    total = torch.zeros(500, 4)
    for _ in range(N_STEPS):
        calls = calls_of(step)
        right = calls.roll(1, dims=1)
        action = {"right": right, "none": torch.zeros_like(calls), "own": calls}[answers]
        step = world.step(action)
        total += step.reward
        expected = ((action == right) & (right > 0)).float() - 0.25 * ((action != right) & (action > 0)).float()
        assert torch.equal(step.reward, expected)
    assert bool(step.done.all())
    if success is not None:
        assert world.success().tolist() == [success] * 500
    assert world.success().mean() < 0.2 or answers == "right"
    after = world.step(torch.zeros(500, 4, dtype=torch.int64))
    assert not after.reward.any(), "an episode that is over pays nothing"


def test_what_must_be_said_is_the_entropy_of_the_calls():
    spec = Switchboard().spec
    assert spec.bound_bits == pytest.approx(20 * (3.9219 + 3 * 0.8690) / 4, abs=0.01)
    with pytest.raises(WorldError, match="before its first reset"):
        Switchboard().step(torch.zeros(1, 4, dtype=torch.int64))
