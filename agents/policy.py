"""The network that all agents share: what to say, what to do, and (in training only) how good things are.

One brain in many bodies: the parameters are shared, the agent's own id is part of what it sees. Speaking and acting are
two calls, because between them the messages travel. The critic sees the whole state and is used in training alone (MAPPO:
Yu et al. 2022, arXiv:2103.01955).

A step may have several rounds of messages: what is said in a later round depends on what was heard in the ones before
(`reply`). Or a round of signals comes first, one number of each agent, and decides who speaks after it (`SIGNALS`).

How an agent listens (`AGGREGATIONS`): a slot for each sender; the mean of all it hears (CommNet: Sukhbaatar et al. 2016,
arXiv:1605.07736, eq. 2); attention over messages with their senders' ids; or attention in which the message itself
brings its signature (TarMAC: Das et al. 2019, arXiv:1810.11187, sec. 4). The mean and signatures treat all senders
alike; attention has an empty place to look at where nobody says anything of use.

Shapes: B samples, n agents of this call, N agents in all, O observation width, D message width, A actions, K key width.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from commlib.agents.router import Router
from commlib.errors import AgentError, ConfigError
from commlib.world import WorldSpec


@dataclass(frozen=True)
class PolicySpec:
    """What it takes to build the network: facts of the world and sizes."""

    n_agents: int
    observation_width: int
    action_counts: tuple[int, ...]
    message_width: int
    hidden: int
    gate: str = "none"
    aggregation: str = "slots"
    has_router: bool = False
    n_rounds: int = 1
    signal: str = "none"
    n_speakers: int = 0

    @classmethod
    def of(cls, world: WorldSpec, message_width: int, hidden: int, **chosen: Any) -> "PolicySpec":  # noqa: ANN401
        """The specification for a world; `chosen` are any of the fields with a default."""
        n, counts = world.n_agents, world.action_counts
        return cls(n, world.observation_width, counts, message_width, hidden, **chosen)

    @property
    def message_widths(self) -> tuple[int, ...]:
        """Floats per message in each round of a step."""
        return (self.message_width,) * self.n_rounds if self.signal == "none" else (1, self.message_width)

    @property
    def has_gate(self) -> bool:
        """Whether agents learn when to talk: `talk` by a threshold, `sampled` by drawing."""
        return self.gate in ("talk", "sampled")

    @property
    def input_width(self) -> int:
        """Observation, one-hot agent id, share of the episode that is over."""
        return self.observation_width + self.n_agents + 1


SIGNALS = ("none", "topk", "listen")
"""What the signals of a first round decide: nothing, there are none; that the k largest speak (SchedNet: Kim et al. 2019,
arXiv:1902.01554, sec. 3.2); or that those speak to whom somebody listens (the temporal gate of arXiv:2411.00382)."""
SHARPNESS = 4.0
"""Of the sigmoid whose gradient a signal gets."""


def may_speak(rule: str, signals: Tensor, is_open_SR: Tensor, n_speakers: int) -> Tensor:
    """Who speaks after a round of signals [.., N]: exactly 0 or 1, with the gradient of how close it was.

    `is_open_SR` are the edges, 0/1 [N, N]. Of equal signals the one with the lower id comes first.
    """
    if rule == "topk":
        ranked = torch.sort(signals.detach(), dim=-1, descending=True, stable=True)
        hard = torch.zeros_like(signals).scatter(-1, ranked.indices[..., :n_speakers], 1.0)
        if n_speakers >= signals.shape[-1]:
            return hard
        edge = ranked.indices[..., n_speakers - 1 : n_speakers + 1]  # the last one in and the first one out
        soft = (SHARPNESS * (signals - signals.gather(-1, edge).mean(-1, keepdim=True))).sigmoid()
    else:
        hard = ((signals[..., None, :] > 0) * is_open_SR).amax(-1)
        deaf = (-SHARPNESS * signals).sigmoid()[..., None, :].expand(*signals.shape, -1)
        soft = 1 - torch.where(is_open_SR > 0, deaf, 1.0).prod(-1)
    return hard + (soft - soft.detach())


AGGREGATIONS = ("slots", "mean", "attention", "signature")
KEY_WIDTH, SHARPEST = 16, 20.0
"""K, TarMAC's signature has 16 floats; and the largest score of a message, which float32 can still weigh against all others."""


class Listener(nn.Module):
    """What an agent makes of what it hears: messages [B, n, N, D] over open edges [n, N] become features [B, n, F].

    Messages come as they were said; what a closed edge would carry has the weight 0. So a learned edge that is closed still
    gets the gradient of what its message would be worth.
    """

    width: int
    """F, floats that are made of what is heard."""

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.kind, n, width = spec.aggregation, spec.n_agents, spec.message_width
        if self.kind not in AGGREGATIONS:
            raise ConfigError(f"agents cannot listen by {self.kind!r}; there are {', '.join(AGGREGATIONS)}")
        self.width = {"slots": n * width, "mean": width, "attention": spec.hidden}.get(self.kind, width - KEY_WIDTH)
        if self.width < 1:
            raise ConfigError(
                f"a message of {width} floats has no room for a signature of {KEY_WIDTH}; take a message_width of "
                f"{KEY_WIDTH + 1} or more"
            )
        if self.kind in ("attention", "signature"):
            self.query = nn.Linear(spec.input_width, KEY_WIDTH)
        if self.kind == "attention":
            self.key, self.value = nn.Linear(width + n, KEY_WIDTH), nn.Linear(width + n, spec.hidden)

    def forward(self, inputs: Tensor, messages: Tensor, is_open: Tensor) -> Tensor:
        """Features [B, n, F] from inputs [B, n, I], messages [B, n, N, D], and 0/1 for each edge."""
        if self.kind in ("slots", "mean"):
            heard = messages * is_open[..., None]
            if self.kind == "slots":
                return heard.flatten(-2)
            return heard.sum(-2) / is_open.sum(-1, keepdim=True).clamp_min(1)
        if self.kind == "signature":
            key, value = messages[..., :KEY_WIDTH], messages[..., KEY_WIDTH:]
        else:
            told = torch.cat([messages, torch.eye(messages.shape[-2]).expand(*messages.shape[:-1], -1)], -1)
            key, value = self.key(told), self.value(told)
        score = ((self.query(inputs)[..., None, :] * key).sum(-1) / KEY_WIDTH**0.5).clamp(-SHARPEST, SHARPEST)
        top = score.detach().amax(-1, keepdim=True).clamp_min(0)
        weight = (score - top).exp() * is_open  # a product, so that a learned edge gets its gradient
        share = weight / (weight.sum(-1, keepdim=True) + (-top).exp())
        features: Tensor = (share[..., None] * value).sum(-2)
        return features


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
        first, *later = spec.message_widths
        self.encoder = _mlp(spec.observation_width, hidden, first + spec.has_gate)
        listeners = [Listener(spec) for _ in range(spec.n_rounds)]
        self.listeners = nn.ModuleList(listeners)
        *known, heard = itertools.accumulate(listener.width for listener in listeners)
        self.actor = _mlp(spec.input_width + heard, hidden, hidden, max(spec.action_counts), out_gain=0.01)
        self.critic = _mlp(n * spec.observation_width + 1, hidden, hidden, n)
        allowed = torch.arange(max(spec.action_counts)) < torch.tensor(spec.action_counts)[:, None]
        self.register_buffer("forbidden", ~allowed, persistent=False)
        if spec.has_gate or spec.signal == "listen":
            bias = self.encoder[-1].bias
            assert isinstance(bias, Tensor)
            with torch.no_grad():
                bias[-1] = 2.0 if spec.has_gate else 0.5  # open at first: a gate that starts shut never learns to open
        self.repliers = nn.ModuleList(
            _mlp(spec.observation_width + features, hidden, width)
            for features, width in zip(known if spec.signal == "none" else [0], later, strict=True)
        )
        self.router = Router(n, spec.input_width + heard, width, hidden) if spec.has_router else None

    forbidden: Tensor

    def inputs(self, observation: Tensor, agents: list[int], elapsed: Tensor) -> Tensor:
        """Observation [B, n, O], ids of those n agents and share of the episode over [B], as input [B, n, I]."""
        B, n, _ = observation.shape
        ids = torch.eye(self.spec.n_agents)[agents].expand(B, -1, -1)
        return torch.cat([observation, ids, elapsed[:, None, None].expand(B, n, 1)], -1)

    def speak(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Message [B, n, D] in -1..1, and the gate's logit [B, n] where there is one (above 0: rather talk).

        What is said depends on what is seen alone: the receiver knows who speaks and when, so saying it would cost bits.
        """
        out = self.encoder(inputs[..., : self.spec.observation_width])
        if not self.spec.has_gate:
            return out.tanh(), None
        return out[..., :-1].tanh(), out[..., -1]

    def reply(self, inputs: Tensor, heard: Sequence[Tensor], is_open: Tensor) -> Tensor:
        """Message [B, n, D] of the next round in -1..1, after hearing those of the rounds before, [B, n, N, D] each.

        What is said after a round of signals does not depend on them.
        """
        known = [inputs[..., : self.spec.observation_width]]
        if self.spec.signal == "none":
            known.append(self._features(inputs, heard, is_open))
        message: Tensor = self.repliers[len(heard) - 1](torch.cat(known, -1)).tanh()
        return message

    def act(self, inputs: Tensor, heard: Sequence[Tensor], agents: list[int], is_open: Tensor) -> Tensor:
        """Action logits [B, n, A] from inputs [B, n, I] and messages; -inf where an agent lacks the action.

        `heard` has the messages of each round of the step, [B, n, N, D]. `is_open`, 0/1 [n, N], is the graph: whom each
        of these agents hears. What comes over closed edges is not looked at.
        """
        logits: Tensor = self.actor(torch.cat([inputs, self._features(inputs, heard, is_open)], -1))
        return logits.masked_fill(self.forbidden[agents], -torch.inf)

    def _features(self, inputs: Tensor, heard: Sequence[Tensor], is_open: Tensor) -> Tensor:
        """What is made of all that was heard, [B, n, F]; signals are not listened to."""
        words = heard if self.spec.signal == "none" else heard[1:]
        return torch.cat(
            [listen(inputs, told, is_open) for listen, told in zip(self.listeners, words, strict=False)], -1
        )

    def harm(
        self, inputs: Tensor, before: Tensor, is_open: Tensor, meant: Tensor, told: Tensor, receivers: Tensor
    ) -> Tensor:
        """What it is expected to cost each receiver, [B, n, C], to be told [B, n, D] and no more, in squared distortion.

        From inputs [B, n, I], what was heard before [B, n, N, D] over open edges [n, N], messages as meant [B, n, D], and
        receivers, int64 [n, C]. The network must have a router.
        """
        if self.router is None:
            raise AgentError("this network has no router; train it with `--router learned`")
        heard = self._features(inputs, [before], is_open)
        expected: Tensor = self.router(torch.cat([inputs, heard], -1), meant, told, receivers)
        return expected

    def value(self, state: Tensor, elapsed: Tensor) -> Tensor:
        """Expected return of every agent [B, N] from all observations [B, N, O]."""
        values: Tensor = self.critic(torch.cat([state.flatten(1), elapsed[:, None]], -1))
        return values
