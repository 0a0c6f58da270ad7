"""The network that all agents share: what to say, what to do, and (in training only) how good things are.

One brain in many bodies: the parameters are shared, the agent's own id is part of what it sees. Speaking and acting are
two calls, because between them the messages travel. Every sender has its own slot in the receiver's inbox. The critic
sees the whole state and is used in training alone (MAPPO: Yu et al. 2022, arXiv:2103.01955).

Shapes: B samples, n agents of this call, N agents in all, O observation width, D message width, A actions.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from commlib.world import WorldSpec


@dataclass(frozen=True)
class PolicySpec:
    """What it takes to build the network: facts of the world and sizes."""

    n_agents: int
    observation_width: int
    action_counts: tuple[int, ...]
    message_width: int
    hidden: int
    has_gate: bool

    @classmethod
    def of(cls, world: WorldSpec, message_width: int, hidden: int, *, has_gate: bool) -> "PolicySpec":
        """The specification for a world."""
        return cls(world.n_agents, world.observation_width, world.action_counts, message_width, hidden, has_gate)

    @property
    def input_width(self) -> int:
        """Observation, one-hot agent id, share of the episode that is over."""
        return self.observation_width + self.n_agents + 1


def _mlp(*widths: int, out_gain: float = 1.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (wide, narrow) in enumerate(itertools.pairwise(widths)):
        linear = nn.Linear(wide, narrow)
        is_last = i == len(widths) - 2
        nn.init.orthogonal_(linear.weight, gain=out_gain if is_last else 2**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear] if is_last else [linear, nn.ReLU()]
    return nn.Sequential(*layers)


class Policy(nn.Module):
    """Speak, act and value for any subset of the agents."""

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.spec = spec
        n, width, hidden = spec.n_agents, spec.message_width, spec.hidden
        self.encoder = _mlp(spec.observation_width, hidden, width + spec.has_gate)
        self.actor = _mlp(spec.input_width + n * width, hidden, hidden, max(spec.action_counts), out_gain=0.01)
        self.critic = _mlp(n * spec.observation_width + 1, hidden, hidden, n)
        allowed = torch.arange(max(spec.action_counts)) < torch.tensor(spec.action_counts)[:, None]
        self.register_buffer("forbidden", ~allowed, persistent=False)
        if spec.has_gate:
            bias = self.encoder[-1].bias
            assert isinstance(bias, Tensor)
            with torch.no_grad():
                bias[-1] = 2.0  # talk at first: a gate that starts shut never learns to open

    forbidden: Tensor

    def inputs(self, observation: Tensor, agents: list[int], elapsed: Tensor) -> Tensor:
        """Observation [B, n, O], ids of those n agents and share of the episode over [B], as input [B, n, I]."""
        B, n, _ = observation.shape
        ids = torch.eye(self.spec.n_agents)[agents].expand(B, -1, -1)
        return torch.cat([observation, ids, elapsed[:, None, None].expand(B, n, 1)], -1)

    def speak(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Message [B, n, D] in -1..1, and the gate's logit [B, n] where there is one (above 0: talk).

        What is said depends on what is seen alone: the receiver knows who speaks and when, so saying it would cost bits.
        """
        out = self.encoder(inputs[..., : self.spec.observation_width])
        if not self.spec.has_gate:
            return out.tanh(), None
        return out[..., :-1].tanh(), out[..., -1]

    def act(self, inputs: Tensor, inbox: Tensor, agents: list[int]) -> Tensor:
        """Action logits [B, n, A] from inputs [B, n, I] and inbox [B, n, N, D]; -inf where an agent lacks the action."""
        logits: Tensor = self.actor(torch.cat([inputs, inbox.flatten(-2)], -1))
        return logits.masked_fill(self.forbidden[agents], -torch.inf)

    def value(self, state: Tensor, elapsed: Tensor) -> Tensor:
        """Expected return of every agent [B, N] from all observations [B, N, O]."""
        values: Tensor = self.critic(torch.cat([state.flatten(1), elapsed[:, None]], -1))
        return values
