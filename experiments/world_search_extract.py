"""Search-and-extract: find what is hidden on a large grid, and bring enough hands to get it out.

Think of divers in murky water who look for wrecks, each with a torch and a slate: whoever finds one can call, and stays until
help comes. Not Predator-Prey: there are several finds, nobody knows how many, what is found must be left again for the next
one, and things drift through the way.

The world of the seed paper (Farooq & Iqbal 2026, arXiv:2602.02035): a grid of 20x20, 4 agents with a view of 5x5, obstacles
that move on 15 % of the cells, 3 to 5 targets, 5 moves, and the rewards below. No code is published, and the paper does not
say how long an episode is, what extracting takes, what success is, or how obstacles move. These are our choices, each of them
a setting of `SearchExtract`: see there, and docs/search-extract.md for what other choices change.

Shapes: B worlds, N agents, T targets (the most there can be), M obstacles, C cells, V cells in view, S size of the grid, K
= 5 bands of a chart.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from commlib.errors import WorldError
from commlib.experiments.dispatch import Expert
from commlib.experiments.world_guide import MOVES, check_action, move_table
from commlib.experiments.world_predator_prey import view_table
from commlib.world import WorldSpec, WorldStep

DISCOVER, EXTRACT, COVERAGE, MOVE_COST = 5.0, 10.0, 2.0, 0.01
"""The paper's rewards. Its 0.1 per message is not among them: what a message costs is the ledger's matter."""
BANDS = (-7, -2, 3, 8)
"""Where the bands of rows (and of columns) of an agent's chart begin, but for the first one, counted from where it stands."""
PATCH = 25
"""Cells of a patch where neither the wall nor the end of the chart cuts it or makes it larger."""


class SearchExtract:
    """N agents on a square grid with drifting obstacles, and targets that `n_hands` agents on the cell extract.

    Actions: stay, up, down, left, right. Walls and obstacles block; agents may share a cell. All places are drawn evenly,
    each on a cell of its own. Then, in each step: agents move; obstacles each try, half of the time, a neighbouring cell,
    and go there if nobody else is or goes there; targets in view are discovered; those with hands enough are extracted.

    Rewards, of each agent: +5 for a target that it discovers; +10 for one that it has a hand in extracting; +2 for a whole view
    of cells that nobody had in view before (in proportion; of those who see a target or a cell first at once, the first agent
    gets it); -0.01 for a move. Success: all targets are extracted, with which the episode ends.

    Observation: row and column, one-hot each, and both as numbers from -1 to 1; for each cell in view, row by row: 1 if
    blocked or outside, agents there (itself included) / N, 1 if a target is there that is not extracted; then its own chart,
    which is its memory and nobody else's: of 5x5 patches around it (its view is the one in the middle; the outermost ones go on
    to the wall) how many cells it has not had in view yet / 25, and whether it knows a target there.

    Args:
        n_steps: the longest episode. The paper is silent; a re-implementer took 100.
        n_hands: agents that must be on a target at once to extract it. The paper is silent.
        drift: the probability with which an obstacle tries to move in a step. The paper says that they move.
        has_chart: whether agents remember what they have had in view. The paper's agents have a hidden state.
    """

    def __init__(
        self,
        *,
        name: str = "search_extract_v2",
        size: int = 20,
        n_agents: int = 4,
        vision: int = 2,
        obstacles: float = 0.15,
        n_targets: tuple[int, int] = (3, 5),
        n_steps: int = 50,
        n_hands: int = 2,
        drift: float = 0.5,
        has_chart: bool = True,
    ) -> None:
        n_cells, n_view = size * size, (2 * vision + 1) ** 2
        self._n_obstacles = round(obstacles * n_cells)
        if n_agents + n_targets[1] + self._n_obstacles > n_cells or not 1 <= n_hands <= n_agents:
            raise WorldError(
                f"{name} needs a cell for each of {n_agents} agents, {n_targets[1]} targets and {self._n_obstacles} obstacles "
                f"on {n_cells}, and 1 to {n_agents} hands for a target"
            )
        n_patches = (len(BANDS) + 1) ** 2
        self._spec = WorldSpec(
            name=name,
            n_agents=n_agents,
            observation_width=2 * size + 2 + 3 * n_view + (2 * n_patches if has_chart else 0),
            action_counts=(len(MOVES),) * n_agents,
            n_steps=n_steps,
            has_expert=True,
            success="all targets are extracted by the last step",
            must_say="where a target is that needs another hand: at most log2 400 bits, once for each target",
            source=(
                f"Farooq & Iqbal 2026, arXiv:2602.02035 (search-and-extract); what it leaves open is ours: {n_steps} steps, "
                f"hands for a target {n_hands}, obstacles drift in {drift:.0%} of them, {'a' if has_chart else 'no'} chart"
            ),
        )
        self.size, self.vision, self.n_hands = size, vision, n_hands
        self._n_targets, self._drift = n_targets, drift
        self._has_chart = has_chart
        self._next_cell = move_table(size)
        self._view = view_table(size, vision)
        self._expert = Expert(size, vision, n_hands)
        self._n_padded = (size + 2 * vision) ** 2
        self._pad = self._view[:, n_view // 2]
        self._is_outside = torch.ones(self._n_padded).index_fill_(0, self._pad, 0.0)
        cell = torch.arange(n_cells)
        line = torch.eye(size)
        numbers = torch.stack([cell // size, cell % size], 1) / (size - 1) * 2 - 1
        self._place = torch.cat([line[cell // size], line[cell % size], numbers], 1)
        self._cell_BN = torch.zeros(0, n_agents, dtype=torch.int64)
        self._clock = 0

    @property
    def spec(self) -> WorldSpec:
        """The fixed facts of this world."""
        return self._spec

    def reset(self, n_worlds: int, generator: torch.Generator) -> WorldStep:
        """Place everything, each on a cell of its own."""
        N, T, M = self._spec.n_agents, self._n_targets[1], self._n_obstacles
        self._generator = generator
        lot = torch.rand(n_worlds, self.size**2, generator=generator)
        place = lot.topk(N + T + M, dim=1).indices
        self._cell_BN, self._target_BT, self._obstacle_BM = place[:, :N], place[:, N : N + T], place[:, N + T :]
        low, high = self._n_targets
        n_targets = torch.randint(low, high + 1, (n_worlds, 1), generator=generator)
        self._is_left_BT = torch.arange(T) < n_targets
        self._is_found_BT = torch.zeros(n_worlds, T, dtype=torch.bool)
        self._seen_BNP = torch.zeros(n_worlds, N, self._n_padded)
        self._known_BNT = torch.zeros(n_worlds, N, T, dtype=torch.bool)
        self._clock = 0
        self._look()
        return self._out(torch.zeros(n_worlds, N))

    def step(self, action: Tensor) -> WorldStep:
        """Move agents, then obstacles; look; extract."""
        check_action(action, self._spec, len(self._cell_BN))
        is_over = self._is_over()
        if bool(is_over.all()):
            return self._out(torch.zeros_like(self._cell_BN, dtype=torch.float32))
        self._clock += 1
        stayed = self._cell_BN
        self._cell_BN = self._moved(action, is_over)
        self._drifted()
        reward = -MOVE_COST * (self._cell_BN != stayed).float()
        discovered, covered = self._look()
        reward += DISCOVER * discovered + COVERAGE * covered / self._view.shape[1]
        has_hand = self._cell_BN[:, :, None] == self._target_BT[:, None]
        is_extracted = (has_hand.sum(1) >= self.n_hands) & self._is_left_BT
        self._is_left_BT = self._is_left_BT & ~is_extracted
        reward += EXTRACT * (has_hand & is_extracted[:, None]).sum(2)
        return self._out(reward * ~is_over[:, None])

    def success(self) -> Tensor:
        """Return 1 where no target is left, else 0, float32 [B]."""
        return (~self._is_left_BT.any(1)).float()

    def share_extracted(self) -> Tensor:
        """The share of its targets that each world's team has extracted, float32 [B]."""
        n_left, n_none = self._is_left_BT.sum(1), (~self._is_found_BT & ~self._is_left_BT).sum(1)
        n_all = (self._is_left_BT.shape[1] - n_none).clamp_min(1)
        return 1 - n_left / n_all

    def set_progress(self, progress: float) -> None:
        """No curriculum."""

    def expert(self) -> Tensor:
        """What one would have agents do who sees what all see, and has seen what they have seen, int64 [B, N]."""
        known = (self._is_left_BT & self._is_found_BT).float()
        target = torch.zeros(len(known), self.size**2).scatter_add(1, self._target_BT, known)
        unseen = 1 - self._seen_BNP.amax(1)[:, self._pad]
        blocked = self._on_grid(self._obstacle_BM)
        return self._expert.act(self._cell_BN, target > 0, unseen, blocked > 0, self._generator)

    def close(self) -> None:
        """Nothing to free."""

    def _is_over(self) -> Tensor:
        return ~self._is_left_BT.any(1) | (self._clock == self._spec.n_steps)

    def _moved(self, action: Tensor, is_over: Tensor) -> Tensor:
        """Where agents are after their moves."""
        wanted = self._next_cell[self._cell_BN, action]
        is_blocked = self._on_grid(self._obstacle_BM).gather(1, wanted) > 0
        return torch.where(is_blocked | is_over[:, None], self._cell_BN, wanted)

    def _drifted(self) -> None:
        """Obstacles that try a neighbouring cell go there, if nothing else is or goes there."""
        shape = self._obstacle_BM.shape
        tries = torch.rand(shape, generator=self._generator) < self._drift
        way = torch.randint(1, len(MOVES), shape, generator=self._generator)
        wanted = torch.where(tries, self._next_cell[self._obstacle_BM, way], self._obstacle_BM)
        taken = self._on_grid(torch.cat([self._obstacle_BM, self._cell_BN], 1))
        taken = taken.scatter_add(1, self._target_BT, self._is_left_BT.float()).gather(1, wanted) > 0
        is_moving = tries & ~taken
        rivals = torch.zeros(len(wanted), self.size**2).scatter_add_(1, wanted, is_moving.float())
        is_moving &= rivals.gather(1, wanted) == 1
        self._obstacle_BM = torch.where(is_moving, wanted, self._obstacle_BM)

    def _on_grid(self, cells: Tensor) -> Tensor:
        """How many of the cells [B, K] are each cell of the grid, [B, C]."""
        return torch.zeros(len(cells), self.size**2).scatter_add_(1, cells, torch.ones_like(cells, dtype=torch.float32))

    def _look(self) -> tuple[Tensor, Tensor]:
        """Note what comes into view: targets and cells that are first seen by each agent, [B, N] each."""
        view = self._view[self._cell_BN]
        inside = 1 - self._is_outside[view]
        seen_by_all = self._seen_BNP.amax(1)
        covered = torch.zeros(self._cell_BN.shape)
        for n in range(self._spec.n_agents):
            covered[:, n] = ((1 - seen_by_all.gather(1, view[:, n])) * inside[:, n]).sum(1)
            seen_by_all.scatter_(1, view[:, n], 1.0)
        self._seen_BNP.scatter_(2, view, 1.0)
        target = self._pad[self._target_BT]
        in_view = (view[..., None] == target[:, None, None]).any(2)
        is_new = in_view & (self._is_left_BT & ~self._is_found_BT)[:, None]
        is_first = is_new & (is_new.cumsum(1) == 1)
        self._is_found_BT = self._is_found_BT | is_new.any(1)
        self._known_BNT = torch.where(in_view, self._is_left_BT[:, None], self._known_BNT)
        return is_first.sum(2).float(), covered

    def _out(self, reward: Tensor) -> WorldStep:
        B, N = self._cell_BN.shape
        view = self._view[self._cell_BN]
        here = torch.zeros(B, self._n_padded)
        agents = here.scatter_add(1, self._pad[self._cell_BN], torch.ones(B, N)) / N
        blocked = here.scatter(1, self._pad[self._obstacle_BM], 1.0) + self._is_outside
        target = here.scatter_add(1, self._pad[self._target_BT], self._is_left_BT.float())
        planes = torch.stack([blocked, agents, target], -1)
        seen = planes[torch.arange(B)[:, None, None], view].flatten(2)
        parts = [self._place[self._cell_BN], seen, *self._chart()]
        is_over = self._is_over()
        return WorldStep(torch.cat(parts, -1), reward, is_over, (~is_over)[:, None].expand(B, N))

    def _chart(self) -> list[Tensor]:
        """Of each patch the cells that an agent has not had in view, and whether it knows a target there, [B, N, K * K] each."""
        if not self._has_chart:
            return []
        B, N = self._cell_BN.shape
        unseen = 1 - self._seen_BNP[..., self._pad]
        # what an agent knows to be there is gone once it sees that; it is not told when others take it
        where = self._target_BT[:, None].expand(B, N, -1)
        known = torch.zeros(B, N, self.size**2).scatter_add(2, where, self._known_BNT.float())
        return [self._by_patch(unseen) / PATCH, self._by_patch(known).clamp_max(1)]

    def _by_patch(self, cells_BNC: Tensor) -> Tensor:
        """Sums of cells over the patches around each agent, row by row, [B, N, K * K]."""
        B, N = self._cell_BN.shape
        S, K = self.size, len(BANDS) + 1
        begin = torch.tensor([-S, *BANDS, S])
        row, column = ((place[..., None] + begin).clamp(0, S) for place in (self._cell_BN // S, self._cell_BN % S))
        total = pad(cells_BNC.view(B, N, S, S).cumsum(2).cumsum(3), (1, 0, 1, 0))
        bands = total.gather(2, row[..., None].expand(B, N, K + 1, S + 1)).diff(dim=2)
        return bands.gather(3, column[:, :, None].expand(B, N, K, K + 1)).diff(dim=3).flatten(2)


def one_hand() -> SearchExtract:
    """A choice that the paper leaves open, taken otherwise: one agent is enough to extract a target."""
    return SearchExtract(name="search_extract_one_hand_v2", n_hands=1)


def longer() -> SearchExtract:
    """Another one: as many steps as a re-implementer took."""
    return SearchExtract(name="search_extract_longer_v2", n_steps=100)


def still() -> SearchExtract:
    """Another one: obstacles stay where they are."""
    return SearchExtract(name="search_extract_still_v2", drift=0.0)


def restless() -> SearchExtract:
    """Another one: every obstacle tries to move in every step."""
    return SearchExtract(name="search_extract_restless_v2", drift=1.0)


def forgetful() -> SearchExtract:
    """Another one: agents have no chart, and so no memory of what they saw."""
    return SearchExtract(name="search_extract_forgetful_v2", has_chart=False)
