"""What an agent saw fades, and is its own: nothing of another agent's, another world's or the last episode's."""

import pytest
import torch

from commlib.errors import WorldError
from commlib.experiments.memory import LEFT, Remembering
from commlib.experiments.world_digits import Digits
from commlib.experiments.world_guide import Guide, guide_recall
from commlib.experiments.world_mixture import Mixture
from commlib.experiments.world_search_extract import SearchExtract
from commlib.testing import check_world
from commlib.world import BudgetSeen, expert_of, for_evaluation


def played(world, n_worlds=4, seed=0):
    """Observations of an episode of random play, [T + 1, B, N, O]."""
    dice = torch.Generator().manual_seed(seed)
    step = world.reset(n_worlds, torch.Generator().manual_seed(seed))
    seen = [step.observation]
    while not bool(step.done.all()):
        step = world.step(torch.randint(5, (n_worlds, world.spec.n_agents), generator=dice))
        seen.append(step.observation)
    return torch.stack(seen)


def test_what_is_seen_is_as_it_was_and_its_trace_beside_it():
    bare, seen = played(Guide()), played(Remembering(Guide()))
    width = bare.shape[-1]
    assert torch.equal(seen[..., :width], bare)
    trace = bare[0]
    for step, now in enumerate(bare):
        if step:
            faded = LEFT ** (1 / 9) * trace
            trace = torch.where(now.abs() >= faded.abs(), now, faded)
        assert torch.equal(seen[step, ..., width:], trace)


def test_a_goal_seen_once_is_still_there_at_the_end():
    seen = played(Remembering(guide_recall()))
    goal, trace = seen[0, ..., 25:50], seen[-2, ..., 75:100]
    assert not seen[1:, ..., 25:50].any(), "it is shown in the first step only"
    assert torch.allclose(trace, LEFT ** (9 / 9) * goal)


def test_a_new_episode_remembers_nothing():
    world = Remembering(guide_recall())
    played(world, seed=1)
    assert torch.equal(played(world, seed=2), played(Remembering(guide_recall()), seed=2))


def test_a_world_that_is_remembered_is_a_world():
    check_world(Remembering(Guide()))


def test_the_expert_is_asked_through_everything_around_a_world():
    bare = SearchExtract()
    for world in (Remembering(SearchExtract()), BudgetSeen(SearchExtract()), Mixture([SearchExtract()])):
        for one in (bare, world):
            one.reset(6, torch.Generator().manual_seed(3))
        assert torch.equal(expert_of(world), bare.expert())
    with pytest.raises(WorldError, match="guide_v1 has no expert"):
        Remembering(Guide()).expert()


def test_what_is_held_out_is_remembered_too():
    world = Remembering(Digits())
    judged = for_evaluation(world)
    assert isinstance(judged, Remembering)
    assert judged.spec == world.spec
