"""Where to send whom: hands to targets, eyes to where nobody has looked, feet around what is in the way.

The control room of search_extract, and its expert. Not a learned policy, and not the best plan either: rules with one
constant, tuned by hand.

Shapes: B worlds, N agents, C cells, H hands, V cells of a window.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from commlib.experiments.world_guide import MOVES
from commlib.experiments.world_predator_prey import view_table

FAR = 1000.0
"""Steps of a way that there is not."""
DETOUR = 1.0
"""Steps that are added to each way before what is seen at its end is divided by them: the more, the further agents go."""


def sent_to_targets(way_BNC: Tensor, is_target_BC: Tensor, n_hands: int) -> tuple[Tensor, Tensor]:
    """To which target each agent is sent, int64 [B, N], and whether it is, bool [B, N]: as many as it takes hands.

    To each target go those who are nearest to it; the target that is reached soonest comes first.
    """
    B, N, _ = way_BNC.shape
    goal_BN, is_sent_BN = torch.zeros(B, N, dtype=torch.int64), torch.zeros(B, N, dtype=torch.bool)
    is_open_BC = is_target_BC
    for _ in range(N // n_hands):
        free_BNC = way_BNC.masked_fill(is_sent_BN[:, :, None], 2 * FAR)
        near_BHC, who_BHC = free_BNC.topk(n_hands, dim=1, largest=False)
        soon_B, target_B = near_BHC.amax(1).masked_fill(~is_open_BC, 2 * FAR).min(1)
        who_BH = who_BHC.gather(2, target_B[:, None, None].expand(-1, n_hands, 1))[..., 0]
        chosen_BN = torch.zeros(B, N, dtype=torch.bool).scatter(1, who_BH, soon_B[:, None].expand_as(who_BH) < FAR)
        goal_BN = torch.where(chosen_BN, target_B[:, None], goal_BN)
        is_sent_BN |= chosen_BN
        is_open_BC = is_open_BC.scatter(1, target_B[:, None], False)
    return goal_BN, is_sent_BN


def to_be_seen(unseen_BC: Tensor, size: int, vision: int) -> Tensor:
    """How many unseen cells come into view from each cell, float32 [B, C]."""
    unseen = unseen_BC.view(len(unseen_BC), 1, size, size)
    return avg_pool2d(unseen, 2 * vision + 1, stride=1, padding=vision, divisor_override=1).flatten(1)


def sent_to_look(way_BC: Tensor, gain_BC: Tensor) -> Tensor:
    """Where an agent sees the most that is unseen for the steps that it takes, int64 [B]; it stays where there is nothing."""
    worth_BC = torch.where(way_BC < FAR, gain_BC / (way_BC + DETOUR), -1.0)
    most_B, best_B = worth_BC.max(1)
    return torch.where(most_B > 0, best_B, way_BC.argmin(1))


class Expert:
    """One who sees what all agents see, and has seen what they have seen, and sends each of them on.

    To a target that anybody has seen go those who are nearest to it; the others go where most is to be seen. Ways are counted
    as if nothing were in them, but for what is in an agent's own view.

    Args:
        size: of the grid.
        vision: how far agents see.
        n_hands: that a target takes.
    """

    def __init__(self, size: int, vision: int, n_hands: int) -> None:
        self._size, self._vision, self._n_hands = size, vision, n_hands
        cell = torch.arange(size * size)
        row, column = cell // size, cell % size
        self._way_CC = ((row[:, None] - row).abs() + (column[:, None] - column).abs()).float()
        self._width = 2 * vision + 3  # what is in view, and a rim around it
        window_CV = view_table(size, vision + 1)
        n_padded = (size + 2 * vision + 2) ** 2
        middle_C = window_CV[:, window_CV.shape[1] // 2]
        inside = torch.zeros(n_padded, dtype=torch.bool).index_fill_(0, middle_C, True)
        cell_of = torch.zeros(n_padded, dtype=torch.int64).index_copy_(0, middle_C, cell)
        self._window_CV, self._is_outside_CV = cell_of[window_CV], ~inside[window_CV]
        here = self._width * (vision + 1) + vision + 1
        self._beside = torch.tensor([here + self._width * down + right for down, right in MOVES])
        is_rim = torch.ones(self._width, self._width, dtype=torch.bool)
        is_rim[1:-1, 1:-1] = False
        self._is_rim_V = is_rim.flatten()

    def act(
        self,
        cell_BN: Tensor,
        is_target_BC: Tensor,
        unseen_BC: Tensor,
        is_blocked_BC: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """What agents should do, int64 [B, N]; of several that are as good, any."""
        way_BNC = self._way_CC[cell_BN]
        goal_BN, is_sent_BN = sent_to_targets(way_BNC, is_target_BC, self._n_hands)
        gain_BC = to_be_seen(unseen_BC, self._size, self._vision)
        looks = [sent_to_look(way_BC, gain_BC) for way_BC in way_BNC.unbind(1)]
        goal_BN = torch.where(is_sent_BN, goal_BN, torch.stack(looks, 1))
        return self._towards(cell_BN, goal_BN, is_blocked_BC, generator)

    def _towards(self, cell_BN: Tensor, goal_BN: Tensor, is_blocked_BC: Tensor, generator: torch.Generator) -> Tensor:
        """The first step to each goal, around what is in view; from its rim on, ways are counted as if nothing were there."""
        window_BNV, is_outside_BNV = self._window_CV[cell_BN], self._is_outside_CV[cell_BN]
        B, N, _ = window_BNV.shape
        left_BNV = self._way_CC[goal_BN].gather(2, window_BNV)
        is_blocked_BNV = is_blocked_BC[:, None].expand(B, N, -1).gather(2, window_BNV) & ~self._is_rim_V
        is_shut_BNV = is_outside_BNV | is_blocked_BNV
        is_known_BNV = (self._is_rim_V | (window_BNV == goal_BN[..., None])) & ~is_outside_BNV
        way = torch.where(is_known_BNV, left_BNV, FAR).view(B, N, self._width, self._width)
        toll = torch.where(is_shut_BNV, FAR, 1.0).view_as(way)
        for _ in range(2 * self._width):
            come = pad(way + toll, (1, 1, 1, 1), value=FAR)
            beside = torch.stack([come[..., :-2, 1:-1], come[..., 2:, 1:-1], come[..., 1:-1, :-2], come[..., 1:-1, 2:]])
            way = torch.minimum(way, beside.amin(0))
        cost_BNK = (way.flatten(2) + FAR * is_shut_BNV)[..., self._beside]
        return (cost_BNK + torch.rand(cost_BNK.shape, generator=generator) * 0.1).argmin(2)
