"""Predator-Prey: a team of short-sighted hunters has to gather on one prey that sits still.

Think of friends looking for a cafe in fog: the first to find it can stay and call the others, but it gains nothing by
calling. Not a chase: the prey never moves, and a predator on it never leaves.

The rules are those of IC3Net (Singh et al. 2019, arXiv:1812.09755, and the authors' `predator_prey_env.py`), mode
"mixed", written anew for B worlds at once.

Shapes: B worlds, N predators, O observation width, C cells, V cells in view = (2 vision + 1)^2.
"""

import torch
from torch import Tensor

from commlib.errors import WorldError
from commlib.experiments.world_guide import MOVES, check_action, move_table
from commlib.world import WorldSpec, WorldStep

STEP_COST = 0.05
EASY, MEDIUM, HARD = 3, 5, 10
"""How many predators IC3Net's settings have."""


def view_table(size: int, vision: int) -> Tensor:
    """Tabulate what each cell has in view, int64 [C, V]: indices into the grid padded by `vision` cells all around."""
    width = size + 2 * vision
    cell = torch.arange(size * size)
    corner = cell // size * width + cell % size
    offset = torch.arange(2 * vision + 1)
    return corner[:, None] + (offset[:, None] * width + offset).flatten()


class PredatorPrey:
    """N predators on a square grid, one still prey, all on cells of their own at the start.

    Actions: stay, up, down, left, right; walls clamp; predators may share a cell. A predator that reached the prey
    stays there, its actions do nothing and it is no longer active. Reward per predator and step: -0.05 off the prey, 0
    on it, counted after the move. The episode ends when all are on the prey, or with the last step.

    Observation of a predator: one-hot of its own cell [C]; for each of the V cells in view, row by row: 1 if outside
    the grid, predators there (itself included) / the setting's own N, 1 if the prey is there. So a predator alone looks
    the same in a team of any size, and every width is that of the setting. IC3Net instead marks each cell in view with
    the one-hot of its own place; the information is the same, the width C + 3 V instead of (C + 4) V.
    """

    def __init__(
        self, *, name: str, size: int, n_predators: int, vision: int, n_steps: int, n_usual: int | None = None
    ) -> None:
        n_cells, n_view = size * size, (2 * vision + 1) ** 2
        if not 0 < n_predators < n_cells:
            raise WorldError(
                f"{name} places each predator and the prey on a cell of its own; of {n_cells} cells {n_predators} "
                f"predators cannot have one each; take 1 to {n_cells - 1}"
            )
        self._spec = WorldSpec(
            name=name,
            n_agents=n_predators,
            observation_width=n_cells + 3 * n_view,
            action_counts=(len(MOVES),) * n_predators,
            n_steps=n_steps,
            success="all predators are on the prey by the last step",
            must_say=f"where the prey is: at most log2 {n_cells} bits from the first predator that finds it",
            source="IC3Net, arXiv:1812.09755, mode mixed",
            licence="MIT",
        )
        self._n_usual = n_usual or n_predators
        self._next_cell = move_table(size)
        self._view = view_table(size, vision)
        self._n_padded = (size + 2 * vision) ** 2
        self._pad = self._view[:, n_view // 2]
        is_outside = torch.ones(self._n_padded).index_fill_(0, self._pad, 0.0)
        self._outside = is_outside[self._view]
        self._one_hot = torch.eye(n_cells)
        self._cell_BN = torch.zeros(0, n_predators, dtype=torch.int64)
        self._prey_B = torch.zeros(0, dtype=torch.int64)
        self._clock = 0

    @property
    def spec(self) -> WorldSpec:
        """The fixed facts of this world."""
        return self._spec

    def reset(self, n_worlds: int, generator: torch.Generator) -> WorldStep:
        """Place predators and prey on different cells, uniformly; everything lives on the generator's device."""
        device, n_predators = generator.device, self._spec.n_agents
        self._next_cell, self._view, self._pad = (t.to(device) for t in (self._next_cell, self._view, self._pad))
        self._outside, self._one_hot = self._outside.to(device), self._one_hot.to(device)
        lot = torch.rand(n_worlds, len(self._pad), generator=generator, device=device)
        place = lot.topk(n_predators + 1, dim=1).indices
        self._cell_BN, self._prey_B = place[:, :n_predators], place[:, n_predators]
        self._clock = 0
        return self._out(torch.zeros(n_worlds, n_predators, device=device))

    def step(self, action: Tensor) -> WorldStep:
        """Move all predators that are still hunting."""
        check_action(action, self._spec, len(self._cell_BN))
        if self._clock == self._spec.n_steps:
            return self._out(torch.zeros_like(self._cell_BN, dtype=torch.float32))
        self._clock += 1
        moved = self._next_cell[self._cell_BN, action]
        self._cell_BN = torch.where(self._is_on_prey(), self._cell_BN, moved)
        return self._out(-STEP_COST * (~self._is_on_prey()).float())

    def success(self) -> Tensor:
        """Return 1 where all predators are on the prey, else 0, float32 [B]."""
        return self._is_on_prey().all(dim=1).float()

    def set_progress(self, progress: float) -> None:
        """Nothing to do: this world has no curriculum."""

    def close(self) -> None:
        """Nothing to free."""

    def _is_on_prey(self) -> Tensor:
        return self._cell_BN == self._prey_B[:, None]

    def _out(self, reward: Tensor) -> WorldStep:
        n_worlds = len(self._cell_BN)
        padded_BN = self._pad[self._cell_BN]
        ones = torch.ones_like(padded_BN, dtype=torch.float32)
        count = ones.new_zeros(n_worlds, self._n_padded).scatter_add_(1, padded_BN, ones)
        view_BNV = self._view[self._cell_BN]
        predators = count.gather(1, view_BNV.flatten(1)).view_as(view_BNV) / self._n_usual
        prey = (view_BNV == self._pad[self._prey_B][:, None, None]).float()
        seen = torch.stack((self._outside[self._cell_BN], predators, prey), dim=-1)
        observation = torch.cat((self._one_hot[self._cell_BN], seen.flatten(2)), dim=-1)
        hunting = ~self._is_on_prey()
        done = ~hunting.any(dim=1) | (self._clock == self._spec.n_steps)
        return WorldStep(observation, reward, done, hunting & ~done[:, None])


def predator_prey_easy(n_agents: int = EASY) -> PredatorPrey:
    """Build IC3Net's easy setting: 3 predators (or another number), 5x5, vision 0, 20 steps."""
    name = "predator_prey_easy_v1" if n_agents == EASY else f"predator_prey_easy_{n_agents}_v1"
    return PredatorPrey(name=name, size=5, n_predators=n_agents, vision=0, n_steps=20, n_usual=EASY)


def predator_prey_easy_vision_1() -> PredatorPrey:
    """Build CommFormer's setting (arXiv:2405.08550, its predator-prey script): as easy, with a view of 3x3."""
    return PredatorPrey(name="predator_prey_easy_vision_1_v1", size=5, n_predators=EASY, vision=1, n_steps=20)


def predator_prey_medium(n_agents: int = MEDIUM) -> PredatorPrey:
    """Build IC3Net's medium setting: 5 predators (or another number), 10x10, vision 1, 40 steps."""
    name = "predator_prey_medium_v1" if n_agents == MEDIUM else f"predator_prey_medium_{n_agents}_v1"
    return PredatorPrey(name=name, size=10, n_predators=n_agents, vision=1, n_steps=40, n_usual=MEDIUM)


def predator_prey_hard(n_agents: int = HARD) -> PredatorPrey:
    """Build IC3Net's hard setting: 10 predators (or another number), 20x20, vision 1, 80 steps."""
    name = "predator_prey_hard_v1" if n_agents == HARD else f"predator_prey_hard_{n_agents}_v1"
    return PredatorPrey(name=name, size=20, n_predators=n_agents, vision=1, n_steps=80, n_usual=HARD)
