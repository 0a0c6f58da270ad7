"""How few steps Predator-Prey takes a team that shares all it sees: what the published step counts can mean.

A search party with radios, and one head that plans for all. Until somebody sees the prey nothing is learnt that could change
the plan, so the best plan is one path for each predator, walked until the prey is in view; then everybody walks straight to
it. The mean number of steps over all places of the prey is a fact of the paths, which are annealed (Kirkpatrick et al. 1983)
for each draw of starting cells. Annealing finds good paths, not provably the best ones: the least mean is a little below
`planned`, and no less than `known`, the steps of a team that is told at the start where the prey is. Not a policy: it says
how much is left to gain for any, whatever it may say to each other.

Shapes: B starts, N predators, T steps, C cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from commlib.experiments.bench import Measured, Row, Say, Target, table
from commlib.experiments.world_guide import MOVES, move_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE, N_PREDATORS, VISIONS = 5, 3, (0, 1)
N_STEPS = 16
"""Of a path; what has not been seen by then is found too late, whatever comes next."""
HOT, COLD = 0.4, 0.005
"""Temperatures of the annealing, in steps of the mean."""
TARGETS: dict[str, Target] = {}


class _Size(NamedTuple):
    n_starts: int
    n_tries: int


_FULL, _QUICK = _Size(64, 300_000), _Size(16, 400)


class Grid(NamedTuple):
    """Tables of a square grid: where moves lead [C, 5], and distances in moves and in views (Chebyshev) [C, C]."""

    next_cell: Tensor
    moves_apart: Tensor
    views_apart: Tensor


def grid(size: int) -> Grid:
    """The tables of a grid of `size` x `size` cells."""
    cell = torch.arange(size * size)
    rows = (cell[:, None] // size - cell // size).abs()
    columns = (cell[:, None] % size - cell % size).abs()
    return Grid(move_table(size), rows + columns, torch.maximum(rows, columns))


def mean_steps(tables: Grid, start_BN: Tensor, move_BNT: Tensor, vision: int) -> Tensor:
    """Steps until all are on the prey, on average over the cells where it can be, float32 [B].

    Args:
        tables: of the grid.
        start_BN: where predators start, int64.
        move_BNT: their moves until the prey is in somebody's view, int64.
        vision: how many cells around its own a predator sees.
    """
    places = [start_BN]
    for t in range(move_BNT.shape[2]):
        places.append(tables.next_cell[places[-1], move_BNT[:, :, t]])
    place_BNT = torch.stack(places, 2)
    is_seen_BTC = (tables.views_apart[place_BNT] <= vision).any(1)
    is_seen_BTC[:, -1] = True
    found_BC = is_seen_BTC.to(torch.uint8).argmax(1)
    moment = found_BC[:, None].expand(-1, place_BNT.shape[1], -1)
    way_BNC = tables.moves_apart[place_BNT.gather(2, moment), torch.arange(len(tables.next_cell))]
    steps = (found_BC + way_BNC.amax(1)).float()
    can_be_BC = torch.ones_like(steps).scatter_(1, start_BN, 0.0)
    return (steps * can_be_BC).sum(1) / can_be_BC.sum(1)


def plan(tables: Grid, start_BN: Tensor, vision: int, n_tries: int, generator: torch.Generator) -> Tensor:
    """The mean steps of the best paths that annealing meets for each start, float32 [B]."""
    B, N = start_BN.shape
    every, moment = torch.arange(B), torch.arange(N_STEPS)
    move_BNT = torch.randint(len(MOVES), (B, N, N_STEPS), generator=generator)
    now = mean_steps(tables, start_BN, move_BNT, vision)
    best = now.clone()
    for nth in range(n_tries):
        who, when, other = (torch.randint(n, (B,), generator=generator) for n in (N, N_STEPS, N_STEPS))
        path = move_BNT[every, who]
        if nth % 3 == 1:  # two moves change places
            order = moment.repeat(B, 1)
            order[every, when], order[every, other] = other, when
            changed = path.gather(1, order)
        else:
            # one move is another, or comes in before the rest
            shift = moment - (moment > when[:, None]).long() if nth % 3 else moment.expand(B, -1)
            changed = path.gather(1, shift)
            changed[every, when] = torch.randint(len(MOVES), (B,), generator=generator)
        tried = move_BNT.clone()
        tried[every, who] = changed
        then = mean_steps(tables, start_BN, tried, vision)
        temperature = HOT * (COLD / HOT) ** (nth / n_tries)
        is_taken = torch.rand(B, generator=generator) < torch.exp((now - then) / temperature)
        move_BNT = torch.where(is_taken[:, None, None], tried, move_BNT)
        now = torch.where(is_taken, then, now)
        best = torch.minimum(best, now)
    return best


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """Plan for the same starts with each view."""
    size = _QUICK if quick else _FULL
    generator = torch.Generator().manual_seed(seed)
    tables = grid(SIZE)
    start_BN = torch.rand(size.n_starts, SIZE * SIZE, generator=generator).topk(N_PREDATORS, 1).indices
    told = mean_steps(tables, start_BN, torch.zeros(size.n_starts, N_PREDATORS, 1, dtype=torch.int64), vision=SIZE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[Row] = []
    try:
        for vision in VISIONS:
            say(f"vision {vision}: {size.n_starts} starts, {size.n_tries:,} tries each")
            planned = plan(tables, start_BN, vision, size.n_tries, generator)
            rows.append(
                {
                    "vision": vision,
                    "planned": float(planned.mean()),
                    "planned_standard_error": float(planned.std()) / math.sqrt(size.n_starts),
                    "known": float(told.mean()),
                    "n_starts": size.n_starts,
                    "n_tries": size.n_tries,
                }
            )
    finally:
        torch.set_num_threads(threads)
    columns = {
        "vision": "vision",
        "planned": "steps, planned by one head",
        "planned_standard_error": "standard error",
        "known": "steps, told where the prey is",
    }
    summary = {f"vision_{row['vision']}_planned": row["planned"] for row in rows} | {"known": rows[0]["known"]}
    title = f"Predator-Prey, {SIZE}x{SIZE}, {N_PREDATORS} predators: steps until all are on the prey"
    return Measured(rows, summary, [table(title, columns, rows)])


def draw(rows: Sequence[Row]) -> Figure:
    """Steps by view."""
    from commlib.experiments.bench_figures import bars

    panels = {name: [(f"vision {row['vision']}", float(row[name])) for row in rows] for name in ("planned", "known")}
    return bars(panels, "steps until all are on the prey")
