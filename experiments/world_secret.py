"""Secret: one of five agents knows a number, and all five have to name it.

Think of a jury in which one member, another one each time, has seen the culprit's face. Not a search: a number that was
not heard can only be guessed, and once it was said there is nothing to add.

The world is named and sized after that of ECNet: five agents, twenty actions, twenty steps, one agent
that knows. What else it is made of was not to be found, so the rest is ours and stands in the class's docstring.

Shapes: B worlds, N = 5 agents, K = 20 numbers.
"""

import math

import torch
from torch import Tensor

from commlib.experiments.world_guide import check_action
from commlib.world import WorldSpec, WorldStep

N_AGENTS = 5
N_NUMBERS = 20
N_STEPS = 20


def least_bits(n_agents: int, n_numbers: int) -> float:
    """Least bits per agent and episode where the stream of each sender is coded by itself.

    Who knows says one of `n_numbers` different things, the others say always the same. One of the numbers may be said
    by saying that, too: if nobody says anything else, it is the one. Then an agent's stream is of that kind with
    probability p = 1 - (n_numbers - 1) / (n_agents n_numbers), each other one with 1 / (n_agents n_numbers), and its
    entropy is what it costs. The number alone is log2(n_numbers) / n_agents; the rest is to say who has it.

    >>> round(least_bits(5, 20), 3)
    1.509
    """
    n_cases = n_agents * n_numbers
    p = 1 - (n_numbers - 1) / n_cases
    return -p * math.log2(p) + (1 - p) * math.log2(n_cases)


class Secret:
    """Five agents, 20 steps; one of them, drawn anew in each episode, sees a number of 0..19; all have to name it.

    Number and knower are uniform and independent of one another, so who speaks tells nothing of what is said. The
    knower sees the number in every step: our agents have no memory but the links, on which silence means "as expected",
    so one message per episode is enough all the same. Actions: the numbers 0..19, of each agent in each step. Reward
    per agent and step: 1/20 for the right number, else 0; whoever is always right gets 1. Nobody sees a reward or an
    action of another, and nothing that is done changes what comes. Success: all five are right in the last step. An
    episode always lasts 20 steps and everybody is active throughout.

    Observation [20]: of the knower the number, one-hot; of the others zeros.

    Without messages the knower alone is sure, and each other one is right with probability 1/20: a mean return of
    (1 + 4/20) / 5 = 0.24 per agent, and success in 1/20 of the episodes if all guess alike, in 1 of 160,000 if each
    guesses for itself.
    """

    def __init__(self) -> None:
        self._spec = WorldSpec(
            name="secret_v1",
            n_agents=N_AGENTS,
            observation_width=N_NUMBERS,
            action_counts=(N_NUMBERS,) * N_AGENTS,
            n_steps=N_STEPS,
            success="all agents name the secret number in the last step",
            must_say="the number, once per episode, from who knows it to all: log2 20 = 4.32 bits; with each sender "
            "coded by itself also which of the five that is: 7.54 bits in all, 1.51 per agent",
            bound_bits=least_bits(N_AGENTS, N_NUMBERS),
            source="after ECNet's Secret; what was not to be found is ours",
        )
        self._one_hot = torch.eye(N_NUMBERS)
        self._secret_B = self._knower_B = torch.zeros(0, dtype=torch.int64)
        self._right_BN = torch.zeros(0, N_AGENTS, dtype=torch.bool)
        self._clock = 0

    @property
    def spec(self) -> WorldSpec:
        """The fixed facts of this world."""
        return self._spec

    def reset(self, n_worlds: int, generator: torch.Generator) -> WorldStep:
        """Draw numbers and knowers; everything lives on the generator's device."""
        device = generator.device
        self._one_hot = self._one_hot.to(device)
        self._secret_B = torch.randint(N_NUMBERS, (n_worlds,), generator=generator, device=device)
        self._knower_B = torch.randint(N_AGENTS, (n_worlds,), generator=generator, device=device)
        self._right_BN = torch.zeros(n_worlds, N_AGENTS, dtype=torch.bool, device=device)
        self._clock = 0
        return self._out(torch.zeros(n_worlds, N_AGENTS, device=device))

    def step(self, action: Tensor) -> WorldStep:
        """Pay who names the number; after the last step nothing counts any more."""
        check_action(action, self._spec, len(self._secret_B))
        if self._clock == N_STEPS:
            return self._out(torch.zeros_like(action, dtype=torch.float32))
        self._clock += 1
        self._right_BN = action == self._secret_B[:, None]
        return self._out(self._right_BN.float() / N_STEPS)

    def success(self) -> Tensor:
        """Return 1 where all agents were right in the step before, else 0, float32 [B]."""
        return self._right_BN.all(dim=1).float()

    def set_progress(self, progress: float) -> None:
        """Nothing to do: this world has no curriculum."""

    def close(self) -> None:
        """Nothing to free."""

    def _out(self, reward: Tensor) -> WorldStep:
        n_worlds, device = len(self._secret_B), self._secret_B.device
        observation = torch.zeros(n_worlds, N_AGENTS, N_NUMBERS, device=device)
        observation[torch.arange(n_worlds, device=device), self._knower_B] = self._one_hot[self._secret_B]
        is_over = self._clock == N_STEPS
        done = torch.full((n_worlds,), is_over, device=device)
        return WorldStep(observation, reward, done, torch.full((n_worlds, N_AGENTS), not is_over, device=device))
