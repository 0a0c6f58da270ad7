"""Search-and-extract: what moves, what is seen, what pays, and when it is over."""

import pytest
import torch

from commlib.errors import WorldError
from commlib.experiments.world_search_extract import COVERAGE, DISCOVER, EXTRACT, MOVE_COST, SearchExtract

STAY, UP, DOWN, LEFT, RIGHT = range(5)
FAR = [19 * 20 + column for column in range(4)]  # the bottom left, out of everybody's view
VIEW = 25


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def at(row, column):
    return 20 * row + column


def placed(agents, targets, obstacles=(), **settings):
    """One world with everything in its place, nothing seen yet but from there; obstacles stand still."""
    world = SearchExtract(drift=0.0, obstacles=len(obstacles) / 400, n_targets=(len(targets), len(targets)), **settings)
    world.reset(1, generator())
    world._cell_BN, world._target_BT = torch.tensor([agents]), torch.tensor([targets])
    world._obstacle_BM = torch.tensor([list(obstacles)], dtype=torch.int64).reshape(1, -1)
    world._seen_BNP.zero_()
    world._is_found_BT = torch.zeros(1, len(targets), dtype=torch.bool)
    world._known_BNT = torch.zeros(1, len(agents), len(targets), dtype=torch.bool)
    world._look()
    return world


def act(*actions):
    return torch.tensor([actions])


def test_the_spec_is_the_paper_s():
    spec = SearchExtract().spec
    assert (spec.n_agents, spec.n_actions, spec.n_steps) == (4, 5, 50)
    assert spec.observation_width == 20 + 20 + 2 + 3 * VIEW + 2 * 25
    assert SearchExtract(has_chart=False).spec.observation_width == 20 + 20 + 2 + 3 * VIEW


def test_everything_begins_on_a_cell_of_its_own_with_3_to_5_targets_and_obstacles_on_15_percent():
    world = SearchExtract()
    world.reset(300, generator())
    places = torch.cat([world._cell_BN, world._target_BT, world._obstacle_BM], 1).sort(1).values
    assert (places.diff(dim=1) > 0).all()
    assert world._obstacle_BM.shape[1] == 60
    n_targets = world._is_left_BT.sum(1)
    assert {3, 4, 5} == set(n_targets.tolist())
    assert torch.bincount(n_targets)[3:].min() > 70


def test_walls_and_obstacles_block():
    world = placed([at(0, 0), at(5, 5), at(9, 9), at(9, 9)], [at(19, 19)], obstacles=[at(5, 6), at(9, 8)])
    out = world.step(act(UP, RIGHT, LEFT, RIGHT))
    assert world._cell_BN.tolist() == [[at(0, 0), at(5, 5), at(9, 9), at(9, 10)]]
    assert out.reward[0, :3].min() >= 0, "who is stopped has not moved"


def test_a_target_is_discovered_once_and_whoever_does_is_paid():
    world = placed([at(5, 4), *FAR[:3]], [at(5, 7), at(0, 19)])
    first = world.step(act(RIGHT, STAY, STAY, STAY))
    assert not first.reward[0, 1:].any()
    assert float(first.reward[0, 0]) == pytest.approx(DISCOVER - MOVE_COST + COVERAGE * 5 / VIEW, rel=1e-5)
    again = world.step(act(LEFT, STAY, STAY, STAY))
    assert again.reward[0].tolist() == pytest.approx([-MOVE_COST, 0, 0, 0])
    both = placed([at(5, 4), at(5, 4), *FAR[:2]], [at(5, 7), at(0, 19)]).step(act(RIGHT, RIGHT, STAY, STAY))
    assert float(both.reward[0, 0] - both.reward[0, 1]) == pytest.approx(DISCOVER + COVERAGE * 5 / VIEW)


def test_cells_are_paid_once_for_all_and_to_one_of_those_who_see_them_at_once():
    world = placed([at(10, 10), at(10, 10), *FAR[:2]], [at(0, 19)])
    out = world.step(act(RIGHT, RIGHT, STAY, STAY))
    assert out.reward[0, :2].tolist() == pytest.approx([COVERAGE * 5 / VIEW - MOVE_COST, -MOVE_COST])
    out = world.step(act(LEFT, RIGHT, STAY, STAY))
    assert out.reward[0, :2].tolist() == pytest.approx([-MOVE_COST, COVERAGE * 5 / VIEW - MOVE_COST])


def test_one_hand_is_not_enough_two_are_and_the_last_extraction_ends_it():
    world = placed([at(5, 5), at(5, 6), *FAR[:2]], [at(5, 5), at(0, 19)])
    out = world.step(act(STAY, STAY, STAY, STAY))
    assert not out.reward[0].any()
    out = world.step(act(STAY, LEFT, STAY, STAY))
    assert out.reward[0].tolist() == pytest.approx([EXTRACT, EXTRACT - MOVE_COST, 0, 0]), "those who have a hand in it"
    assert not out.done.any()
    assert (world.success().item(), world.share_extracted().item()) == (0.0, 0.5)
    lone = placed([at(5, 5), *FAR[:3]], [at(5, 5)], n_hands=1)
    over = lone.step(act(STAY, STAY, STAY, STAY))
    assert over.done.all()
    assert not over.active.any()
    assert (lone.success().item(), lone.share_extracted().item()) == (1.0, 1.0)
    after = lone.step(act(UP, UP, UP, UP))
    assert not after.reward.any()
    assert after.observation.equal(over.observation)


def test_an_agent_sees_its_view_and_knows_its_own_chart_alone():
    world = placed([at(5, 5), at(5, 6), at(12, 12), at(19, 0)], [at(4, 4), at(0, 19)], obstacles=[at(7, 7)])
    out = world.step(act(STAY, STAY, STAY, STAY))
    own = out.observation[0, 0]
    assert own[:20].argmax() == 5
    assert own[20:40].argmax() == 5
    assert own[40:42].tolist() == pytest.approx([5 / 19 * 2 - 1] * 2)
    view = own[42 : 42 + 3 * VIEW].view(5, 5, 3)
    assert view[..., 0].nonzero().tolist() == [[4, 4]], "the obstacle, two rows down and two columns right"
    assert view[2, 2, 1] == view[2, 3, 1] == 0.25
    assert view[..., 2].nonzero().tolist() == [[1, 1]]
    unseen, known = own[-50:-25].view(5, 5) * 25, out.observation[0, :, -25:]
    # rows and columns 0 to 2, 3 to 7 (its view), 8 to 12, and 13 to 19, with none before these
    assert unseen[2].tolist() == pytest.approx([0, 15, 0, 25, 35])
    assert unseen[:, 2].tolist() == pytest.approx([0, 15, 0, 25, 35])
    assert float(unseen.sum()) == pytest.approx(400 - 25)
    assert known.nonzero().tolist() == [[0, 12], [1, 12]], "in the view of both; the other one is in nobody's"
    assert out.observation[0, 3, -50:-25].view(5, 5)[2].tolist() == pytest.approx([0, 0, 0, 0.6, 1.44])
    corner = out.observation[0, 3, 42 : 42 + 3 * VIEW].view(5, 5, 3)[..., 0]
    assert corner.sum() == 25 - 9


def test_what_others_took_is_known_when_it_is_seen_to_be_gone():
    world = placed([at(5, 5), at(5, 5), at(5, 7), at(19, 0)], [at(5, 5), at(0, 19)])
    world.step(act(STAY, STAY, RIGHT, STAY))
    assert world._known_BNT[0, :, 0].tolist() == [True, True, True, False], "taken out after the look"
    out = world.step(act(STAY, STAY, STAY, STAY))
    assert out.observation[0, :3, -25:].sum(1).tolist() == [0, 0, 1], "the third has turned its back"
    out = world.step(act(STAY, STAY, LEFT, STAY))
    assert not out.observation[0, 2, -25:].any()


def test_obstacles_drift_and_never_share_a_cell_or_step_on_anything():
    world = SearchExtract()
    world.reset(20, generator())
    before = world._obstacle_BM.clone()
    for step in range(60):
        world.step(torch.randint(0, 5, (20, 4), generator=generator(step)))
        assert (world._obstacle_BM.sort(1).values.diff(dim=1) > 0).all()
        apart = world._obstacle_BM[:, :, None] != world._cell_BN[:, None]
        assert apart.all()
        on_target = (world._obstacle_BM[:, :, None] == world._target_BT[:, None]) & world._is_left_BT[:, None]
        assert not on_target.any()
    assert (world._obstacle_BM != before).float().mean() > 0.8
    still = SearchExtract(drift=0.0)
    still.reset(5, generator())
    start = still._obstacle_BM.clone()
    still.step(torch.zeros(5, 4, dtype=torch.int64))
    assert still._obstacle_BM.equal(start)


def test_the_expert_sends_the_nearest_pair_to_what_anybody_has_seen_and_the_others_to_look():
    world = placed([at(5, 4), at(9, 4), at(9, 18), at(18, 2)], [at(5, 5), at(0, 19)])
    move = world.expert()[0].tolist()
    assert move[0] == RIGHT
    assert move[1] in (UP, RIGHT), "it does not see the target itself"
    world._seen_BNP[:, :, world._pad[: at(10, 0)]] = 1
    move = world.expert()[0].tolist()
    assert move[2] != UP, "there is nothing above it that nobody has seen"
    assert move[0] == RIGHT
    assert move[1] in (UP, RIGHT), "what has been looked at changes nothing for those who are sent to a target"
    world._is_found_BT.zero_()
    assert RIGHT not in world.expert()[0, :1].tolist(), (
        "what nobody has seen it does not know, and here all has been looked at"
    )


def test_the_expert_goes_around_what_it_sees_and_waits_on_a_target():
    walls = [at(4, 5), at(5, 5), at(6, 5)]
    world = placed([at(5, 4), at(5, 9), *FAR[:2]], [at(5, 7), at(5, 9)], obstacles=walls, vision=4)
    assert world.expert()[0, 1] in (STAY, LEFT)
    assert world.expert()[0, 0] in (UP, DOWN)
    alone = placed([at(5, 4), at(19, 19), *FAR[:2]], [at(5, 4)])
    assert alone.expert()[0, 0] == STAY


def test_the_expert_extracts_most_of_it():
    world = SearchExtract()
    step = world.reset(48, generator())
    while not bool(step.done.all()):
        step = world.step(world.expert())
    assert world.share_extracted().mean() > 0.8
    world.close()


@pytest.mark.parametrize("settings", [{"obstacles": 0.99}, {"n_hands": 5}, {"n_hands": 0}])
def test_what_cannot_be_is_refused(settings):
    with pytest.raises(WorldError, match="needs a cell for each"):
        SearchExtract(**settings)


def test_the_same_seed_is_the_same_world():
    def played(seed):
        world = SearchExtract()
        start = world.reset(4, generator(seed))
        moves = [torch.randint(0, 5, (4, 4), generator=generator(step)) for step in range(5)]
        return torch.stack([start.observation, *[world.step(move).observation for move in moves]])

    assert played(1).equal(played(1))
    assert not played(1).equal(played(2))
