"""The steps of a search party: paths by hand, what planning can and cannot do, and the same seed twice."""

import json

import pytest
import torch

from commlib.experiments.bench import draw, run_bench
from commlib.experiments.bench_search import N_PREDATORS, SIZE, grid, mean_steps, plan

STAY, UP, DOWN, LEFT, RIGHT = range(5)


def test_a_walk_by_hand():
    tables = grid(2)  # cells 0 1 / 2 3; one predator on 0, so that the prey is on 1, 2 or 3
    walk = torch.tensor([[[RIGHT, DOWN, LEFT, STAY]]])
    steps = mean_steps(tables, torch.tensor([[0]]), walk, vision=0)
    assert steps.item() == pytest.approx((1 + 2 + 3) / 3)
    # with a view of 3x3 the prey is seen at once, and no longer walked for than it is far away
    assert mean_steps(tables, torch.tensor([[0]]), walk, vision=1).item() == pytest.approx((1 + 1 + 2) / 3)


def test_who_is_far_away_is_waited_for():
    tables = grid(3)
    start = torch.tensor([[0, 8]])
    stay = torch.zeros(1, 2, 1, dtype=torch.int64)
    # all of 3x3 is in the view of one or the other but for the corners 2 and 6, which are seen too late, after one step
    ways = {1: 3, 2: 1 + 2, 3: 3, 4: 2, 5: 3, 6: 1 + 2, 7: 3}
    assert mean_steps(tables, start, stay, vision=1).item() == pytest.approx(sum(ways.values()) / 7)


def test_plans_lie_between_what_can_be_known_and_what_is_drawn():
    tables, generator = grid(SIZE), torch.Generator().manual_seed(0)
    start = torch.rand(16, SIZE * SIZE, generator=generator).topk(N_PREDATORS, 1).indices
    told = mean_steps(tables, start, torch.zeros(16, N_PREDATORS, 1, dtype=torch.int64), vision=SIZE)
    few, many = (plan(tables, start, 0, n, torch.Generator().manual_seed(1)) for n in (10, 1500))
    assert (many < few).all()
    assert (many > told).all()
    assert plan(tables, start, 0, 10, torch.Generator().manual_seed(1)).equal(few)


def test_the_record_and_its_figure():
    record = run_bench("search", 3, "commlib bench it", lambda text: None, quick=True).record
    assert json.loads(json.dumps(record)) == record
    near, far = record["rows"][1], record["rows"][0]
    assert (far["vision"], near["vision"]) == (0, 1)
    assert record["summary"]["known"] < near["planned"] < far["planned"]
    assert draw(record).axes
    assert run_bench("search", 3, "", lambda text: None, quick=True).record["rows"] == record["rows"]
