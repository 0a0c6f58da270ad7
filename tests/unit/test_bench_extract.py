"""The dispatcher of search_extract: ways around what blocks, who is sent where, and what it does not know."""

import json

import torch

from commlib.experiments.bench import draw, run_bench
from commlib.experiments.bench_extract import FAR, Dispatcher, played
from commlib.experiments.world_search_extract import SearchExtract

STAY, UP, DOWN, LEFT, RIGHT = range(5)
AROUND = (RIGHT, DOWN)


def test_ways_go_around_what_blocks():
    dispatcher = Dispatcher(size=3, vision=1, n_agents=1, n_hands=1)
    blocked = torch.zeros(1, 1, 9, dtype=torch.bool)
    blocked[0, 0, [1, 4]] = True  # 0 # 2 / 3 # 5 / 6 7 8
    way = dispatcher.ways(torch.tensor([[0]]), blocked)[0, 0]
    assert way[[0, 3, 6, 7, 8, 5, 2]].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert (way[[1, 4]] >= FAR).all()
    blocked[0, 0, 7] = True
    assert (dispatcher.ways(torch.tensor([[0]]), blocked)[0, 0, [2, 5, 8]] >= FAR).all(), "walled off"


def seen(size, cells, *, targets=(), blocked=()):
    """What agents on these cells observe, as the world lays it out; a view of 3x3."""
    rows = []
    for cell in cells:
        row, column = divmod(cell, size)
        place = [float(row == k) for k in range(size)] + [float(column == k) for k in range(size)] + [0.0, 0.0]
        view = []
        for r in range(row - 1, row + 2):
            for c in range(column - 1, column + 2):
                is_inside = 0 <= r < size and 0 <= c < size
                here = r * size + c
                view += [
                    float(not is_inside or here in blocked),
                    float(here in cells),
                    float(is_inside and here in targets),
                ]
        rows.append(place + view)
    return torch.tensor([rows])


def test_the_nearest_pair_goes_to_what_one_agent_knows():
    dispatcher = Dispatcher(size=7, vision=1, n_agents=3, n_hands=2)
    dispatcher.reset(1)
    cells = [0, 14, 48]  # corners, and two rows below the first; the target is beside the first one
    move = dispatcher.act(seen(7, cells, targets=[1]), torch.Generator().manual_seed(0))[0]
    assert move[0] == RIGHT
    assert move[1] in (UP, RIGHT), "it does not see the target itself"
    assert move[2] in (UP, LEFT), "nobody needs a third one: it goes where nothing was seen"


def test_a_target_that_is_gone_is_forgotten_by_whoever_sees_that():
    dispatcher = Dispatcher(size=7, vision=1, n_agents=1, n_hands=1)
    dispatcher.reset(1)
    generator = torch.Generator().manual_seed(0)
    assert dispatcher.act(seen(7, [0], targets=[8]), generator)[0, 0] in AROUND
    dispatcher.act(seen(7, [48]), generator)
    back = dispatcher.act(seen(7, [22], targets=[]), generator)[0, 0]
    assert back in (UP, LEFT), "it still goes for 8, which it last saw there"
    gone = dispatcher.act(seen(7, [16], targets=[]), generator)[0, 0]
    assert gone not in (UP, LEFT), "8 is in view now, and empty"


def test_nobody_walks_into_what_blocks():
    dispatcher = Dispatcher(size=5, vision=1, n_agents=1, n_hands=1)
    dispatcher.reset(1)
    move = dispatcher.act(seen(5, [12], blocked=[7, 11, 13]), torch.Generator().manual_seed(0))
    assert move[0, 0] == DOWN


def test_what_is_not_shared_is_not_known():
    cells = [0, 14, 48]  # the first sees the target beside it, the last is far away

    def moves(shared):
        dispatcher = Dispatcher(size=7, vision=1, n_agents=3, n_hands=2, shared=shared)
        dispatcher.reset(64)
        here = seen(7, cells, targets=[1]).expand(64, -1, -1)
        return [set(column) for column in dispatcher.act(here, torch.Generator().manual_seed(0)).T.tolist()]

    views, calls, nothing = map(moves, ("views", "calls", "nothing"))
    assert views[0] == calls[0] == nothing[0] == {RIGHT}
    assert views[1] | calls[1] <= {UP, RIGHT}
    assert nothing[1] <= {RIGHT, DOWN}, "it looks where nothing was seen"
    assert calls[2] <= {UP, LEFT}, "who does not know where others are goes, too"


def test_who_has_nothing_to_look_for_stays():
    dispatcher = Dispatcher(size=3, vision=1, n_agents=1, n_hands=1)
    dispatcher.reset(1)
    move = dispatcher.act(seen(3, [4]), torch.Generator().manual_seed(0))  # all is in view
    assert move[0, 0] == STAY


def test_more_shared_and_more_time_help():
    def share(n_steps=25, shared="views"):
        world = SearchExtract(name="small_v1", size=10, n_targets=(2, 2), n_steps=n_steps)
        return played(world, 64, 0, shared)[1].mean().item()

    world, generator = SearchExtract(name="small_v1", size=10, n_targets=(2, 2), n_steps=25), torch.Generator()
    step = world.reset(64, generator.manual_seed(0))
    while not bool(step.done.all()):
        step = world.step(torch.randint(5, (64, 4), generator=generator))
    assert world.share_extracted().mean().item() < share(shared="nothing") < share(shared="calls") < share()
    assert share() < share(50)


def test_the_record_and_its_figure():
    record = run_bench("extract", 3, "commlib bench it", lambda text: None, quick=True).record
    assert json.loads(json.dumps(record)) == record
    short, long, calls, nothing, expert = record["rows"]
    assert [row["shared"] for row in record["rows"]] == ["views", "views", "calls", "nothing", "expert"]
    assert (short["n_steps"], long["n_steps"]) == (50, 100)
    assert 0.5 < short["share_extracted"] <= long["share_extracted"]
    assert record["summary"]["search_extract_v2_views"] == short["success"]
    assert calls["n_steps"] == nothing["n_steps"] == expert["n_steps"] == 50
    assert expert["share_extracted"] > nothing["share_extracted"]
    low, high = short["success_ci95"]
    assert low <= short["success"] <= high
    assert draw(record).axes
    assert run_bench("extract", 3, "", lambda text: None, quick=True).record["rows"] == record["rows"]
