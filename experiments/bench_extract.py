"""How much of search_extract a team gets done that shares all it sees: what a success of so many per cent can mean.

A control room: what every agent has in view arrives there whole, in every step, at no cost, and one dispatcher sends each
agent where it is needed. Not a learned policy, and not the best plan either: a rule with two constants, tuned by hand. So
what it reaches can be reached with what a team can know, and what a learned team lacks beside it is not the world's fault.

The rule: to a known target go those who are nearest to it, as many as it takes hands, the target first that is reached
soonest; the others go, one after the other, to the cell from where most cells come into view that nobody has seen or is
sent to see, by steps of the way. Ways are the shortest around obstacles in view; others are not known to be there still.

Shapes: B worlds, N agents, C cells, P cells of the grid padded by the view, V cells in view, G goals, S size of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from commlib.experiments.bench import Measured, Row, Say, Target, table
from commlib.experiments.intervals import wilson_ci
from commlib.experiments.world_guide import move_table
from commlib.experiments.world_predator_prey import view_table
from commlib.experiments.world_search_extract import SearchExtract, longer, one_hand, restless, still

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGETS: dict[str, Target] = {}
WORLDS = (SearchExtract, longer, one_hand, still, restless)
N_WORLDS, N_QUICK = 1024, 8
BATCH = 256
FAR = 1000.0
"""Steps of a way that there is not."""
DETOUR = 1.0
"""Steps that are added to each way before what is seen at its end is divided by them: the more, the further agents go."""


class Dispatcher:
    """What the control room knows, and where it sends whom."""

    def __init__(self, size: int, vision: int, n_agents: int, n_hands: int) -> None:
        self._size, self._n_agents, self._n_hands = size, n_agents, n_hands
        self._vision = vision
        self._view = view_table(size, vision)
        self._middle = self._view[:, self._view.shape[1] // 2]
        self._next_cell = move_table(size)
        self._unseen_BC = torch.zeros(0, size * size)
        self._target_BC = torch.zeros(0, size * size)

    def reset(self, n_worlds: int) -> None:
        """Know nothing."""
        self._unseen_BC = torch.ones(n_worlds, self._size**2)
        self._target_BC = torch.zeros(n_worlds, self._size**2)

    def act(self, observation_BNW: Tensor, generator: torch.Generator) -> Tensor:
        """Take in what everybody sees, and send everybody on, int64 [B, N]."""
        cell_BN, blocked_BC = self._noted(observation_BNW)
        way_BNC = self.ways(cell_BN, blocked_BC)
        goal_BN, is_sent_BN = self._answered(way_BNC)
        goal_BN = self._explored(way_BNC, cell_BN, goal_BN, is_sent_BN)
        left_BNK = self.ways(goal_BN, blocked_BC).gather(2, self._next_cell[cell_BN])
        # of two ways of the same length any, or two who block each other would do so for ever
        left_BNK += torch.rand(left_BNK.shape, generator=generator) * 0.1
        is_blocked_BNK = blocked_BC[:, None].expand(-1, self._n_agents, -1).gather(2, self._next_cell[cell_BN])
        return (left_BNK + is_blocked_BNK * FAR).argmin(2)

    def ways(self, from_BG: Tensor, blocked_BC: Tensor) -> Tensor:
        """Steps of the shortest way from each goal to each cell around what is blocked, float32 [B, G, C]."""
        B, G, S = *from_BG.shape, self._size
        begin = torch.full((B, G, S * S), FAR).scatter_(2, from_BG[:, :, None], 0.0)
        toll = torch.where(blocked_BC, FAR, 1.0).view(B, 1, S, S)
        way = begin.view(B, G, S, S)
        while True:
            wide = pad(way, (1, 1, 1, 1), value=FAR)
            beside = torch.stack([wide[..., :-2, 1:-1], wide[..., 2:, 1:-1], wide[..., 1:-1, :-2], wide[..., 1:-1, 2:]])
            shorter = torch.minimum(way, beside.amin(0) + toll)
            if torch.equal(shorter, way):
                return way.flatten(2)
            way = shorter

    def _noted(self, observation_BNW: Tensor) -> tuple[Tensor, Tensor]:
        """Where agents are, int64 [B, N], and which cells in their views are blocked, bool [B, C]."""
        S, V, B = self._size, self._view.shape[1], len(observation_BNW)
        cell_BN = observation_BNW[..., :S].argmax(-1) * S + observation_BNW[..., S : 2 * S].argmax(-1)
        planes = observation_BNW[..., 2 * S + 2 : 2 * S + 2 + 3 * V].reshape(B, -1, V, 3).flatten(1, 2)
        where_BX = self._view[cell_BN].flatten(1)
        n_padded = (S + 2 * self._vision) ** 2

        def on_grid(what_BX: Tensor) -> Tensor:
            return torch.zeros(B, n_padded).scatter_reduce(1, where_BX, what_BX, "amax")[:, self._middle]

        is_seen = on_grid(torch.ones_like(planes[..., 0])) > 0
        self._unseen_BC = self._unseen_BC.masked_fill(is_seen, 0.0)
        self._target_BC = torch.where(is_seen, on_grid(planes[..., 2]), self._target_BC)
        return cell_BN, on_grid(planes[..., 0]) > 0

    def _answered(self, way_BNC: Tensor) -> tuple[Tensor, Tensor]:
        """Who is sent to a target, and to which, [B, N] each: pairs, or whatever it takes, the soonest first."""
        B, N, _ = way_BNC.shape
        goal_BN, is_sent_BN = torch.zeros(B, N, dtype=torch.int64), torch.zeros(B, N, dtype=torch.bool)
        is_open_BC = self._target_BC > 0
        for _ in range(N // self._n_hands):
            free_BNC = way_BNC.masked_fill(is_sent_BN[:, :, None], 2 * FAR)
            near_BHC, who_BHC = free_BNC.topk(self._n_hands, dim=1, largest=False)
            soon_B, target_B = near_BHC.amax(1).masked_fill(~is_open_BC, 2 * FAR).min(1)
            who_BH = who_BHC.gather(2, target_B[:, None, None].expand(-1, self._n_hands, 1))[..., 0]
            chosen_BN = torch.zeros(B, N, dtype=torch.bool).scatter(1, who_BH, soon_B[:, None].expand_as(who_BH) < FAR)
            goal_BN = torch.where(chosen_BN, target_B[:, None], goal_BN)
            is_sent_BN |= chosen_BN
            is_open_BC = is_open_BC.scatter(1, target_B[:, None], False)
        return goal_BN, is_sent_BN

    def _explored(self, way_BNC: Tensor, cell_BN: Tensor, goal_BN: Tensor, is_sent_BN: Tensor) -> Tensor:
        """The goals of all, those who look around included, int64 [B, N]."""
        B, N, _ = way_BNC.shape
        goals, unseen_BC, width = goal_BN.clone(), self._unseen_BC.clone(), 2 * self._vision + 1
        for n in range(N):
            grid = unseen_BC.view(B, 1, self._size, self._size)
            gain_BC = avg_pool2d(grid, width, stride=1, padding=self._vision, divisor_override=1).flatten(1)
            worth_BC = torch.where(way_BNC[:, n] < FAR, gain_BC / (way_BNC[:, n] + DETOUR), -1.0)
            goals[:, n] = torch.where(is_sent_BN[:, n], goal_BN[:, n], worth_BC.argmax(1))
            padded = torch.zeros(B, (self._size + 2 * self._vision) ** 2).scatter_(1, self._view[goals[:, n]], 1.0)
            unseen_BC = unseen_BC * (1 - padded[:, self._middle])
        return goals


def played(world: SearchExtract, n_worlds: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The success of each world, 0/1 float32 [B], and the share of its targets that was extracted, float32 [B]."""
    dispatcher = Dispatcher(world.size, world.vision, world.spec.n_agents, world.n_hands)
    seen = world.reset(n_worlds, generator)
    dispatcher.reset(n_worlds)
    while not bool(seen.done.all()):
        seen = world.step(dispatcher.act(seen.observation, generator))
    return world.success(), world.share_extracted()


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """Play each choice of the world, the same draws for each."""
    n_worlds = N_QUICK if quick else N_WORLDS
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[Row] = []
    try:
        for make in WORLDS[:2] if quick else WORLDS:
            world, generator = make(), torch.Generator().manual_seed(seed)
            say(f"{world.spec.name}: {n_worlds:,} episodes of at most {world.spec.n_steps} steps")
            ends = [played(world, min(BATCH, n_worlds), generator) for _ in range(math.ceil(n_worlds / BATCH))]
            success, share = (torch.cat(column) for column in zip(*ends, strict=True))
            low, high = wilson_ci(int(success.sum()), len(success))
            rows.append(
                {
                    "world": world.spec.name,
                    "success": float(success.mean()),
                    "success_ci95": [low, high],
                    "share_extracted": float(share.mean()),
                    "n_steps": world.spec.n_steps,
                    "n_hands": world.n_hands,
                    "n_episodes": len(success),
                }
            )
    finally:
        torch.set_num_threads(threads)
    columns = {"world": "world", "success": "success", "share_extracted": "share of targets", "n_steps": "steps"}
    summary = {f"{row['world']}_success": row["success"] for row in rows}
    return Measured(rows, summary, [table("search_extract: one dispatcher who sees what all see", columns, rows)])


def draw(rows: Sequence[Row]) -> Figure:
    """Success by world."""
    from commlib.experiments.bench_figures import bars

    names = [(str(row["world"]).removeprefix("search_extract_"), float(row["success"])) for row in rows]
    return bars({"a dispatcher who sees what all see": names}, "success")
