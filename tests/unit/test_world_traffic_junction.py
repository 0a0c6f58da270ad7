import pytest
import torch

from commlib.experiments.world_traffic_junction import BRAKE, GAS, TrafficJunction

DOWN_ROAD, RIGHT_ROAD = 0, 1


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def placed(cars, arrivals=False, vision=0):
    """A world with cars {slot: (route, place along it)}."""
    world = TrafficJunction(vision)
    world.reset(1, generator())
    for slot, (route, place) in cars.items():
        world._is_car_BN = world._is_car_BN.clone()
        world._route_BN, world._place_BN = world._route_BN.clone(), world._place_BN.clone()
        world._is_car_BN[0, slot], world._route_BN[0, slot], world._place_BN[0, slot] = True, route, place
    world._rate = 1.0 if arrivals else -1.0
    return world


def act(*actions):
    return torch.tensor([actions])


def test_spec():
    spec = TrafficJunction().spec
    assert (spec.n_agents, spec.observation_width, spec.n_actions, spec.n_steps) == (5, 17, 2, 20)
    assert TrafficJunction(vision=1).spec.observation_width == 2 + 15 * 9


def test_roads_start_empty():
    out = TrafficJunction().reset(8, generator())
    assert not out.observation.any()
    assert not out.active.any()
    assert not out.done.any()


def test_gas_moves_brake_does_not_and_waiting_costs():
    world = placed({0: (DOWN_ROAD, 0), 2: (RIGHT_ROAD, 1)})
    first = world.step(act(GAS, GAS, BRAKE, GAS, GAS))
    assert world._place_BN[0, [0, 2]].tolist() == [1, 1]
    assert first.active.tolist() == [[True, False, True, False, False]]
    torch.testing.assert_close(first.reward, torch.tensor([[-0.01, 0, -0.01, 0, 0]]))
    second = world.step(act(GAS, GAS, GAS, GAS, GAS))
    torch.testing.assert_close(second.reward, torch.tensor([[-0.02, 0, -0.02, 0, 0]]))
    assert world.success().tolist() == [1.0]


def test_collision_is_paid_by_both_each_step_and_fails_the_episode():
    world = placed({0: (DOWN_ROAD, 2), 1: (RIGHT_ROAD, 2), 4: (DOWN_ROAD, 5)})
    out = world.step(act(GAS, GAS, GAS, GAS, GAS))
    torch.testing.assert_close(out.reward, torch.tensor([[-10.01, -10.01, 0, 0, -0.01]]))
    assert out.observation[0, :, -1].tolist() == [2, 2, 0, 0, 1]
    out = world.step(act(BRAKE, BRAKE, GAS, GAS, GAS))
    torch.testing.assert_close(out.reward, torch.tensor([[-10.02, -10.02, 0, 0, 0]]))
    out = world.step(act(GAS, BRAKE, GAS, GAS, GAS))
    torch.testing.assert_close(out.reward, torch.tensor([[-0.03, -0.03, 0, 0, 0]]))
    assert world.success().tolist() == [0.0]


def test_car_leaves_past_the_last_cell():
    world = placed({3: (RIGHT_ROAD, 6)})
    out = world.step(act(GAS, GAS, GAS, GAS, GAS))
    assert not out.active.any()
    assert not out.observation.any()
    assert not out.reward.any()


def test_new_cars_enter_after_the_move_and_hit_who_brakes_on_the_entry():
    world = placed({0: (DOWN_ROAD, 0)}, arrivals=True)
    out = world.step(act(BRAKE, GAS, GAS, GAS, GAS))
    assert out.active.sum() == 3
    assert out.reward[0, 0].item() == pytest.approx(-10.01)
    assert sorted(out.reward[0].tolist()) == pytest.approx([-10.01, -10.0, 0, 0, 0])
    assert world.success().tolist() == [0.0]


def test_at_most_five_cars_and_slots_are_drawn_at_random():
    world = TrafficJunction()
    world.reset(400, generator())
    world._rate = 1.0
    counts = [world.step(torch.full((400, 5), BRAKE)).active.sum(dim=1) for _ in range(4)]
    assert [count.unique().tolist() for count in counts] == [[2], [4], [5], [5]]
    world.reset(4000, generator())
    taken = world.step(torch.full((4000, 5), GAS)).active.float().mean(dim=0)
    assert (taken - 0.4).abs().max() < 0.04


def test_observation_is_last_action_route_place_and_count():
    world = placed({0: (DOWN_ROAD, 2), 1: (RIGHT_ROAD, 4)})
    observation = world.step(act(GAS, BRAKE, GAS, GAS, GAS)).observation[0]
    assert observation[:2, :2].tolist() == [[GAS, DOWN_ROAD], [BRAKE, RIGHT_ROAD]]
    assert observation[:2, 2:16].sum(1).tolist() == [1, 1]
    assert observation[0, 2:16].argmax() != observation[1, 2:16].argmax()
    assert observation[:, 16].tolist() == [1, 1, 0, 0, 0]


def test_each_road_cell_has_a_class_of_its_own_and_the_crossing_one_for_both_roads():
    classes = []
    for route in (DOWN_ROAD, RIGHT_ROAD):
        for place in range(7):
            observation = placed({0: (route, place)}).step(act(BRAKE, GAS, GAS, GAS, GAS)).observation
            classes.append(int(observation[0, 0, 2:16].argmax()))
    assert classes[3] == classes[10]
    assert len(set(classes)) == 13
    assert max(classes) == 12


def test_vision_one_sees_the_car_diagonally_before_the_crossing():
    world = placed({0: (DOWN_ROAD, 1), 1: (RIGHT_ROAD, 1)}, vision=1)
    observation = world.step(act(GAS, GAS, GAS, GAS, GAS)).observation[0, 0, 2:].view(3, 3, 15)
    assert observation[..., 14].tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0]]
    is_outside = observation[..., 13]
    assert is_outside.tolist() == [[1, 0, 1], [1, 0, 1], [0, 0, 0]]


def test_new_car_in_an_old_slot_starts_with_gas_and_no_waiting():
    world = placed({i: (DOWN_ROAD, 6 if i == 2 else i) for i in range(5)}, arrivals=True)
    world.step(act(BRAKE, BRAKE, BRAKE, BRAKE, BRAKE))
    out = world.step(act(BRAKE, BRAKE, GAS, BRAKE, BRAKE))
    assert out.observation[0, 2, 0] == GAS
    assert world._wait_BN[0].tolist() == [2, 2, 0, 2, 2]


@pytest.mark.parametrize(("progress", "rate"), [(0.0, 0.1), (0.25, 0.2), (0.5, 0.3), (1.0, 0.3)])
def test_curriculum_raises_arrivals_over_the_first_half(progress, rate):
    world = TrafficJunction()
    world.set_progress(progress)
    world.reset(4000, generator())
    n_new = world.step(torch.zeros(4000, 5, dtype=torch.int64)).active.sum() / 4000
    assert n_new.item() == pytest.approx(2 * rate, abs=0.03)


def test_without_curriculum_arrivals_are_full():
    world = TrafficJunction()
    world.reset(4000, generator())
    n_new = world.step(torch.zeros(4000, 5, dtype=torch.int64)).active.sum() / 4000
    assert n_new.item() == pytest.approx(0.6, abs=0.03)


def test_always_gas_succeeds_in_about_three_episodes_of_ten():
    world = TrafficJunction()
    world.reset(2000, generator())
    gas = torch.zeros(2000, 5, dtype=torch.int64)
    outs = [world.step(gas) for _ in range(20)]
    assert 0.25 < world.success().mean() < 0.33
    assert [bool(out.done.all()) for out in outs] == [False] * 19 + [True]
    after = world.step(gas)
    assert after.observation.equal(outs[-1].observation)
    assert not after.reward.any()
    assert not after.active.any()


def test_same_seed_same_episode():
    def play(seed):
        world = TrafficJunction()
        world.reset(32, generator(seed))
        return [world.step(torch.zeros(32, 5, dtype=torch.int64)) for _ in range(20)]

    for one, two in zip(play(3), play(3), strict=True):
        assert all(a.equal(b) for a, b in zip(one, two, strict=True))
    assert any(not a.active.equal(b.active) for a, b in zip(play(3), play(4), strict=True))
