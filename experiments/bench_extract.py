"""How much of search_extract a team gets done by a rule: what a success of so many per cent can mean, and what sharing is worth.

A control room: what agents share arrives there whole, in every step, at no cost, and one dispatcher sends each agent where it
is needed. Not a learned policy, and not the best plan either: a rule with one constant, tuned by hand. So what it reaches can
be reached with what a team can know, and what a learned team lacks beside it is not the world's fault.

The rule: to a known target go those who are nearest to it, as many as it takes hands, the target first that is reached
soonest; the others go, one after the other, to the cell from where most cells come into view that nobody has seen or is
sent to see, by steps of the way. Ways are the shortest around obstacles in view; others are not known to be there still.
Where only calls are shared, nobody is sent: all go for the nearest of the targets that anybody has seen, and look around by
what they have seen themselves. Where nothing is, they go for what they found themselves, and stand there until another one
comes by.

Shapes: B worlds, N agents, C cells, V cells in view, K moves, H hands, S size of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from commlib.experiments.bench import Measured, Row, Say, Target, table
from commlib.experiments.dispatch import FAR, sent_to_look, sent_to_targets, to_be_seen
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
SHARED = {"views": "all that each sees", "calls": "where targets are", "nothing": "nothing"}
EXPERT = "expert"
"""In the place of what is shared: agents do as the world's own expert would have them do, from whom a team may learn."""


class Dispatcher:
    """What the control room knows of what agents see, and where it sends whom.

    Args:
        size: of the grid.
        vision: how far agents see.
        n_agents: that there are.
        n_hands: that a target takes.
        shared: what arrives at the control room: one of `SHARED`.
    """

    def __init__(self, size: int, vision: int, n_agents: int, n_hands: int, shared: str = "views") -> None:
        self._size, self._n_agents, self._n_hands = size, n_agents, n_hands
        self._vision, self._shared = vision, shared
        self._view = view_table(size, vision)
        self._middle = self._view[:, self._view.shape[1] // 2]
        self._next_cell = move_table(size)
        self.reset(0)

    def reset(self, n_worlds: int) -> None:
        """Know nothing."""
        shape = n_worlds, self._n_agents, self._size**2
        self._unseen_BNC, self._target_BNC = torch.ones(shape), torch.zeros(shape)

    def act(self, observation_BNW: Tensor, generator: torch.Generator) -> Tensor:
        """Take in what everybody sees, and send everybody on, int64 [B, N]."""
        cell_BN, blocked_BNC = self._noted(observation_BNW)
        way_BNC = self.ways(cell_BN, blocked_BNC)
        goal_BN, is_sent_BN = self._answered(way_BNC) if self._shared == "views" else self._gone_for(way_BNC)
        goal_BN = self._explored(way_BNC, goal_BN, is_sent_BN)
        left_BNK = self.ways(goal_BN, blocked_BNC).gather(2, self._next_cell[cell_BN])
        # of two ways of the same length any, or two who block each other would do so for ever
        left_BNK += torch.rand(left_BNK.shape, generator=generator) * 0.1
        return (left_BNK + blocked_BNC.gather(2, self._next_cell[cell_BN]) * FAR).argmin(2)

    def ways(self, from_BN: Tensor, blocked_BNC: Tensor) -> Tensor:
        """Steps from a cell of each agent to all others, around what it knows to be blocked, float32 [B, N, C]."""
        B, N, S = *from_BN.shape, self._size
        way = torch.full((B, N, S * S), FAR).scatter_(2, from_BN[:, :, None], 0.0).view(B, N, S, S)
        toll = torch.where(blocked_BNC, FAR, 1.0).view(B, N, S, S)
        while True:
            wide = pad(way, (1, 1, 1, 1), value=FAR)
            beside = torch.stack([wide[..., :-2, 1:-1], wide[..., 2:, 1:-1], wide[..., 1:-1, :-2], wide[..., 1:-1, 2:]])
            shorter = torch.minimum(way, beside.amin(0) + toll)
            if torch.equal(shorter, way):
                return way.flatten(2)
            way = shorter

    def _noted(self, observation_BNW: Tensor) -> tuple[Tensor, Tensor]:
        """Where agents are, int64 [B, N], and which cells each knows to be blocked, bool [B, N, C]."""
        S, V, (B, N, _) = self._size, self._view.shape[1], observation_BNW.shape
        cell_BN = observation_BNW[..., :S].argmax(-1) * S + observation_BNW[..., S : 2 * S].argmax(-1)
        planes_BNV3 = observation_BNW[..., 2 * S + 2 : 2 * S + 2 + 3 * V].reshape(B, N, V, 3)

        def on_grid(what_BNV: Tensor, is_shared: bool) -> Tensor:
            grid = torch.zeros(B, N, (S + 2 * self._vision) ** 2).scatter_(2, self._view[cell_BN], what_BNV)
            grid = grid[..., self._middle]
            return grid.amax(1, keepdim=True).expand_as(grid) if is_shared else grid

        is_seen = torch.ones_like(planes_BNV3[..., 0])
        all_views, calls = self._shared == "views", self._shared != "nothing"
        self._unseen_BNC = self._unseen_BNC.masked_fill(on_grid(is_seen, all_views) > 0, 0.0)
        has_looked = on_grid(is_seen, calls) > 0  # who sees that a target is gone says so, too
        self._target_BNC = torch.where(has_looked, on_grid(planes_BNV3[..., 2], calls), self._target_BNC)
        return cell_BN, on_grid(planes_BNV3[..., 0], all_views) > 0

    def _gone_for(self, way_BNC: Tensor) -> tuple[Tensor, Tensor]:
        """As `_answered`, but everybody goes for the nearest target that it knows of, and waits there."""
        soon_BN, goal_BN = way_BNC.masked_fill(self._target_BNC == 0, 2 * FAR).min(2)
        return goal_BN, soon_BN < FAR

    def _answered(self, way_BNC: Tensor) -> tuple[Tensor, Tensor]:
        """Who is sent to a target, and to which, [B, N] each: pairs, or whatever it takes, the soonest first."""
        return sent_to_targets(way_BNC, self._target_BNC[:, 0] > 0, self._n_hands)  # all know the same

    def _explored(self, way_BNC: Tensor, goal_BN: Tensor, is_sent_BN: Tensor) -> Tensor:
        """The goals of all, those who look around included, int64 [B, N]."""
        B, N, C = way_BNC.shape
        goals = goal_BN.clone()
        taken_BC = torch.zeros(B, C)  # what others are sent to see
        for n in range(N):
            gain_BC = to_be_seen(self._unseen_BNC[:, n] * (1 - taken_BC), self._size, self._vision)
            look_B = sent_to_look(way_BNC[:, n], gain_BC)
            goals[:, n] = torch.where(is_sent_BN[:, n], goal_BN[:, n], look_B)
            if self._shared == "views":
                padded = torch.zeros(B, (self._size + 2 * self._vision) ** 2).scatter_(1, self._view[goals[:, n]], 1.0)
                taken_BC = torch.maximum(taken_BC, padded[:, self._middle])
        return goals


def played(world: SearchExtract, n_worlds: int, seed: int, shared: str = "views") -> tuple[Tensor, Tensor]:
    """The success of each world, 0/1 float32 [B], and the share of its targets that was extracted, float32 [B]."""
    generator, dice = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    if shared == EXPERT:
        seen = world.reset(n_worlds, generator)
        while not bool(seen.done.all()):
            seen = world.step(world.expert())
        return world.success(), world.share_extracted()
    dispatcher = Dispatcher(world.size, world.vision, world.spec.n_agents, world.n_hands, shared)
    seen = world.reset(n_worlds, generator)
    dispatcher.reset(n_worlds)
    while not bool(seen.done.all()):
        seen = world.step(dispatcher.act(seen.observation, dice))
    return world.success(), world.share_extracted()


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """Play each choice of the world with all shared, and the first with less; starts are the same for each."""
    n_worlds = N_QUICK if quick else N_WORLDS
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[Row] = []
    plays = [(make, "views") for make in WORLDS[: 2 if quick else None]]
    plays += [(WORLDS[0], shared) for shared in (*SHARED, EXPERT) if shared != "views"]
    try:
        for make, shared in plays:
            world = make()
            told = f"{world.spec.name}, " + (
                "played by its expert" if shared == EXPERT else f"shared: {SHARED[shared]}"
            )
            say(f"{told}; {n_worlds:,} episodes of at most {world.spec.n_steps} steps")
            n_batches = math.ceil(n_worlds / BATCH)
            ends = [played(world, min(BATCH, n_worlds), seed + nth, shared) for nth in range(n_batches)]
            success, share = (torch.cat(column) for column in zip(*ends, strict=True))
            low, high = wilson_ci(int(success.sum()), len(success))
            rows.append(
                {
                    "world": world.spec.name,
                    "shared": shared,
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
    columns = {
        "world": "world",
        "shared": "shared",
        "success": "success",
        "share_extracted": "share of targets",
        "n_steps": "steps",
    }
    summary = {f"{row['world']}_{row['shared']}": row["success"] for row in rows}
    return Measured(rows, summary, [table("search_extract, by a rule", columns, rows)])


def draw(rows: Sequence[Row]) -> Figure:
    """Success by world."""
    from commlib.experiments.bench_figures import bars

    names = [(f"{row['world']}, {row['shared']}", float(row["success"])) for row in rows]
    return bars({"sent by a rule": names}, "success")
