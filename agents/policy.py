"""The network that all agents share: what to say, what to do, and (in training only) how good things are.

One brain in many bodies: the parameters are shared, and `ids` says what tells the bodies apart (`IDS`). Speaking and
acting are two calls, because between them the messages travel. The critic sees the whole state and is used in training
alone (MAPPO: Yu et al. 2022, arXiv:2103.01955).

What an agent is known by, to itself and to those who attend to it: its number, one-hot; nothing, so that agents are
exchangeable and any number of them can play; or a role, a small latent that is learned for each agent, and by which it
reads what it hears: what all share, made to measure by role (the idea of LatentMem, 2026, arXiv:2602.03036), by scale and
shift (FiLM: Perez et al. 2018, arXiv:1709.07871).

A step may have several rounds of messages: what is said in a later round depends on what was heard in the ones before
(`reply`). Or a round of signals comes first, one number of each agent, and decides who speaks after it (`SIGNALS`).

How an agent listens (`AGGREGATIONS`): a slot for each sender; the mean of all it hears (CommNet: Sukhbaatar et al. 2016,
arXiv:1605.07736, eq. 2); a `set`, in which what is made of each message by itself is added up (Deep Sets: Zaheer et al.
2017, arXiv:1703.06114, theorem 2), so that "there is one, at this place" can be a word of its own; a `relation`, the same of
each message beside what the listener knows, so that "there is one, to my left" can be one (Relation Networks: Santoro et al.
2017, arXiv:1706.01427, eq. 1); attention over messages with their senders' ids; the same with the age of what is held of each
sender (`aged`); or attention in which the message itself brings its signature (TarMAC: Das et al. 2019, arXiv:1810.11187,
sec. 4). Mean, set, relation and signatures treat all senders alike; attention has an empty place to look at where nobody says
anything of use.

Shapes: B samples, n agents of this call, N agents in all, O observation width, D message width, A actions, K key width,
W width of what an agent is known by, F width of what it makes of what it hears.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

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
    ids: str = "onehot"
    has_foresight: bool = False
    echo: float = 0.0

    @classmethod
    def of(cls, world: WorldSpec, message_width: int, hidden: int) -> "PolicySpec":
        """The plainest specification for a world."""
        return cls(world.n_agents, world.observation_width, world.action_counts, message_width, hidden)

    @property
    def message_widths(self) -> tuple[int, ...]:
        """Floats per message in each round of a step."""
        words = (self.message_width,) * self.n_rounds
        return words if self.signal == "none" else (1, *words)

    @property
    def has_gate(self) -> bool:
        """Whether agents learn when to talk: `talk` by a threshold, `sampled` by drawing."""
        return self.gate in ("talk", "sampled")

    @property
    def has_ages(self) -> bool:
        """Whether agents look at how old is what they hold of each sender."""
        return self.aggregation == "aged"

    @property
    def id_width(self) -> int:
        """W, floats by which an agent is known."""
        return {"onehot": self.n_agents, "none": 0}.get(self.ids, ROLE_WIDTH)

    @property
    def known_width(self) -> int:
        """Observation, what the agent is known by, share of the episode that is over."""
        return self.observation_width + self.id_width + 1


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


AGGREGATIONS = ("slots", "mean", "set", "relation", "attention", "aged", "signature")
IDS = ("onehot", "none", "role")
KEY_WIDTH, SHARPEST = 16, 20.0
"""K, TarMAC's signature has 16 floats; and the largest score of a message, which float32 can still weigh against all others."""
MINE_WIDTH = 32
"""Floats of what a listener knows itself, by which it reads each message (`relation`)."""
ROLE_WIDTH = 8
"""W of a role."""


HALF_OLD = 4.0
"""The age, in steps, whose number lies in the middle."""


def older(age: Tensor, before: Tensor, now: Tensor) -> Tensor:
    """For how many steps listeners have held the same of each sender, [.., N]; from what they held and hold, [.., N, D]."""
    same: Tensor = torch.where((before == now).all(-1), age + 1, torch.zeros_like(age))
    return same


def with_age(messages: Tensor, age: Tensor) -> Tensor:
    """Messages [.., N, D + 1]: with their ages [.., N] beside them, in steps, as numbers of 0..1."""
    return torch.cat([messages, (age / (age + HALF_OLD))[..., None]], -1)


class Listener(nn.Module):
    """What an agent makes of what it hears: messages [B, n, N, D] over open edges [n, N] become features [B, n, F].

    Where ages count (`aged`), messages come with them (`with_age`).

    Messages come as they were said; what a closed edge would carry has the weight 0. So a learned edge that is closed still
    gets the gradient of what its message would be worth.

    It keeps the address book, too: where agents have roles, those of senders are in the keys and values of attention, and
    the listener's own one colours what it makes of it all. A role colours nothing at first, so that who hears nobody starts
    from hearing nothing.
    """

    width: int
    """F, floats that are made of what is heard."""

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.kind, n, width = spec.aggregation, spec.n_agents, spec.message_width
        if self.kind not in AGGREGATIONS:
            raise ConfigError(f"agents cannot listen by {self.kind!r}; there are {', '.join(AGGREGATIONS)}")
        if spec.ids not in IDS:
            raise ConfigError(f"agents cannot be known by {spec.ids!r}; there are {', '.join(IDS)}")
        if spec.ids == "none" and self.kind == "slots":
            raise ConfigError(f"who is known by nothing has no slot; listen by {', '.join(AGGREGATIONS[1:])}")
        features = {"slots": n * width, "mean": width, "signature": width - KEY_WIDTH}
        self.width = features.get(self.kind, spec.hidden)
        if self.width < 1:
            raise ConfigError(
                f"a message of {width} floats has no room for a signature of {KEY_WIDTH}; take a message_width of "
                f"{KEY_WIDTH + 1} or more"
            )
        if self.kind == "relation":
            self.mine = nn.Linear(spec.known_width, MINE_WIDTH)
            self.word = nn.Sequential(_mlp(width + MINE_WIDTH, spec.hidden, spec.hidden, out_gain=2**0.5), nn.ReLU())
        if self.kind == "set":
            self.word = nn.Sequential(_mlp(width, spec.hidden, spec.hidden, out_gain=2**0.5), nn.ReLU())
        if self.kind in ("attention", "aged", "signature"):
            self.query = nn.Linear(spec.known_width, KEY_WIDTH)
        if self.kind in ("attention", "aged"):
            told = width + spec.id_width + spec.has_ages
            self.key, self.value = nn.Linear(told, KEY_WIDTH), nn.Linear(told, spec.hidden)
        self.ids, self._id_columns = spec.ids, slice(spec.observation_width, -1)
        if spec.ids == "role":
            self.roles, self.colour = nn.Embedding(n, ROLE_WIDTH), nn.Linear(ROLE_WIDTH, 2 * self.width)
            nn.init.normal_(self.roles.weight, std=ROLE_WIDTH**-0.5)  # about as long as a one-hot id
            nn.init.zeros_(self.colour.weight)
            nn.init.zeros_(self.colour.bias)

    def known(self, inputs: Tensor) -> Tensor:
        """What an agent knows before it hears anything: its inputs, with its role in the place of its number."""
        if self.ids != "role":
            return inputs
        # each product is by exactly 0 or 1, so that its bits depend on no batch and no partition
        role = inputs[..., self._id_columns] @ self.roles.weight
        return torch.cat([inputs[..., : self._id_columns.start], role, inputs[..., -1:]], -1)

    def forward(self, inputs: Tensor, messages: Tensor, is_open: Tensor) -> Tensor:
        """Features [B, n, F] from inputs [B, n, I], messages [B, n, N, D], and 0/1 for each edge."""
        known = self.known(inputs)
        features = self._gathered(known, messages, is_open)
        if self.ids != "role":
            return features
        scale, shift = self.colour(known[..., self._id_columns]).chunk(2, -1)
        coloured: Tensor = (1 + scale) * features + shift  # FiLM: Perez et al. 2018, arXiv:1709.07871, eq. 2
        return coloured

    def _senders(self, n_senders: int) -> Tensor:
        """What each sender is known by, [N, W]."""
        if self.ids == "role":
            return self.roles.weight
        return torch.eye(n_senders) if self.ids == "onehot" else torch.zeros(n_senders, 0)

    def _gathered(self, known: Tensor, messages: Tensor, is_open: Tensor) -> Tensor:
        """Messages gathered into features, as this listener does it."""
        if self.kind in ("slots", "mean"):
            heard = messages * is_open[..., None]
            if self.kind == "slots":
                return heard.flatten(-2)
            return heard.sum(-2) / is_open.sum(-1, keepdim=True).clamp_min(1)
        if self.kind == "set":
            is_alike = messages.stride(-3) == 0  # one tensor that all listeners share: each message is looked at once
            words = self.word(messages[..., :1, :, :] if is_alike else messages)
            together: Tensor = (words * is_open[..., None]).sum(-2)
            return together
        if self.kind == "relation":
            mine = self.mine(known)[..., None, :].expand(*messages.shape[:-1], -1)
            related: Tensor = (self.word(torch.cat([messages, mine], -1)) * is_open[..., None]).sum(-2)
            return related
        if self.kind == "signature":
            key, value = messages[..., :KEY_WIDTH], messages[..., KEY_WIDTH:]
        else:
            told = torch.cat([messages, self._senders(messages.shape[-2]).expand(*messages.shape[:-1], -1)], -1)
            key, value = self.key(told), self.value(told)
        score = ((self.query(known)[..., None, :] * key).sum(-1) / KEY_WIDTH**0.5).clamp(-SHARPEST, SHARPEST)
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


class JointCritic(nn.Sequential):
    """The value of every agent from the observations of all, each in its place."""

    def __init__(self, spec: PolicySpec) -> None:
        n, hidden = spec.n_agents, spec.hidden
        super().__init__(*_mlp(n * spec.observation_width + 1, hidden, hidden, n))

    def value(self, state: Tensor, elapsed: Tensor) -> Tensor:
        """Values [B, N] from observations [B, N, O] and share of the episode over [B]."""
        values: Tensor = self(torch.cat([state.flatten(1), elapsed[:, None]], -1))
        return values


class CommonCritic(nn.Module):
    """The value of every agent from its own observation and the mean of what all see: it matters to nobody who is who.

    A function of a set, and so of any number of agents (Deep Sets: Zaheer et al. 2017, arXiv:1703.06114, theorem 2).
    """

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.seen = nn.Sequential(_mlp(spec.observation_width, spec.hidden, out_gain=2**0.5), nn.ReLU())
        self.worth = _mlp(spec.observation_width + spec.hidden + 1, spec.hidden, spec.hidden, 1)

    def value(self, state: Tensor, elapsed: Tensor) -> Tensor:
        """Values [B, N] from observations [B, N, O] and share of the episode over [B]."""
        everybody = self.seen(state).mean(-2, keepdim=True).expand(-1, state.shape[1], -1)
        late = elapsed[:, None, None].expand(-1, state.shape[1], 1)
        values: Tensor = self.worth(torch.cat([state, everybody, late], -1))[..., 0]
        return values


class Policy(nn.Module):
    """Speak, act and value for any subset of the agents."""

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.spec = spec
        width, hidden = spec.message_width, spec.hidden
        first, *later = spec.message_widths
        self.encoder = _mlp(spec.observation_width, hidden, first + spec.has_gate)
        listeners = [Listener(spec) for _ in range(spec.n_rounds)]
        self.listeners = nn.ModuleList(listeners)
        *told, heard = itertools.accumulate(listener.width for listener in listeners)
        self.echo_width = heard if spec.echo else 0
        """E, floats that are left of what was heard in earlier steps."""
        heard += self.echo_width
        self.actor = _mlp(spec.known_width + heard, hidden, hidden, max(spec.action_counts), out_gain=0.01)
        self.critic: JointCritic | CommonCritic = CommonCritic(spec) if spec.ids == "none" else JointCritic(spec)
        allowed = torch.arange(max(spec.action_counts)) < torch.tensor(spec.action_counts)[:, None]
        self.register_buffer("forbidden", ~allowed, persistent=False)
        if spec.has_gate or spec.signal == "listen":
            bias = self.encoder[-1].bias
            assert isinstance(bias, Tensor)
            with torch.no_grad():
                bias[-1] = 2.0 if spec.has_gate else 0.5  # open at first: a gate that starts shut never learns to open
        told = told if spec.signal == "none" else [0, *told]
        self.repliers = nn.ModuleList(
            _mlp(spec.observation_width + features, hidden, width) for features, width in zip(told, later, strict=True)
        )
        if spec.has_router and spec.echo:
            raise ConfigError("a router does not know what its receivers remember; it cannot be taught with echoes")
        if spec.has_router and spec.ids == "none":
            raise ConfigError("a router knows its receivers by their ids; it cannot be taught with ids none")
        self.foresight = _mlp(spec.known_width + heard, spec.hidden, 1) if spec.has_foresight else None
        self.router = Router(spec.n_agents, spec.known_width + heard, width, hidden) if spec.has_router else None

    forbidden: Tensor

    def inputs(self, observation: Tensor, agents: list[int], elapsed: Tensor) -> Tensor:
        """Observation [B, n, O], ids of those n agents and share of the episode over [B], as input [B, n, I].

        Who has a role is here still known by its number: inputs hold nothing that is learned, and so stay true in updates.
        """
        B, n, _ = observation.shape
        late = elapsed[:, None, None].expand(B, n, 1)
        if self.spec.ids == "none":
            return torch.cat([observation, late], -1)
        ids = torch.eye(self.spec.n_agents)[agents].expand(B, -1, -1)
        return torch.cat([observation, ids, late], -1)

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

        What is said does not depend on signals.
        """
        known = [inputs[..., : self.spec.observation_width]]
        if self._words(heard):
            known.append(self._features(inputs, heard, is_open))
        message: Tensor = self.repliers[len(heard) - 1](torch.cat(known, -1)).tanh()
        return message

    def act(self, inputs: Tensor, heard: Sequence[Tensor], agents: list[int], is_open: Tensor) -> Tensor:
        """Action logits [B, n, A] from inputs [B, n, I] and messages; -inf where an agent lacks the action.

        `heard` has the messages of each round of the step, [B, n, N, D]. `is_open`, 0/1 [n, N], is the graph: whom each
        of these agents hears. What comes over closed edges is not looked at.
        """
        return self.act_on(self.aware(inputs, heard, is_open), agents)

    def act_on(self, aware: Tensor, agents: list[int]) -> Tensor:
        """Action logits [B, n, A] from what agents are aware of; -inf where an agent lacks the action."""
        logits: Tensor = self.actor(aware)
        return logits.masked_fill(self.forbidden[agents], -torch.inf)

    def foresee(self, aware: Tensor) -> Tensor:
        """What each agent guesses to return, [B, n], from what it is aware of, the messages of others included.

        In training alone, and for the messages' sake: what is heard gets a gradient for all that it tells of what is to come,
        which is less noisy than that of actions (the value heads of CommNet and IC3Net look at messages, too).
        """
        assert self.foresight is not None
        expected: Tensor = self.foresight(aware)[..., 0]
        return expected

    def _features(self, inputs: Tensor, heard: Sequence[Tensor], is_open: Tensor) -> Tensor:
        """What is made of all that was heard so far, [B, n, F]."""
        listened = zip(self.listeners, self._words(heard), strict=False)
        return torch.cat([listen(inputs, told, is_open) for listen, told in listened], -1)

    def _words(self, heard: Sequence[Tensor]) -> Sequence[Tensor]:
        """What was heard but for signals."""
        return heard if self.spec.signal == "none" else heard[1:]

    def aware(self, inputs: Tensor, heard: Sequence[Tensor], is_open: Tensor, echo: Tensor | None = None) -> Tensor:
        """What agents know and what they heard, in this step and before, [B, n, known + F + E].

        `echo`, [B, n, E], is what is left of the steps before; None: nothing.
        """
        first = cast("Listener", self.listeners[0])
        features = self._features(inputs, heard, is_open)
        parts = [first.known(inputs), features]
        if self.echo_width:
            faded = self.spec.echo * (torch.zeros_like(features) if echo is None else echo)
            parts.append(torch.where(features.abs() >= faded.abs(), features, faded))
        return torch.cat(parts, -1)

    def echo(self, aware: Tensor) -> Tensor:
        """What is left for later of what agents are aware of, [B, n, E]."""
        return aware[..., aware.shape[-1] - self.echo_width :]

    def harm(
        self, inputs: Tensor, before: Tensor, is_open: Tensor, meant: Tensor, told: Tensor, receivers: Tensor
    ) -> Tensor:
        """What it is expected to cost each receiver, [B, n, C], to be told [B, n, D] and no more, in squared distortion.

        From inputs [B, n, I], what was heard before [B, n, N, D] over open edges [n, N], messages as meant [B, n, D], and
        receivers, int64 [n, C]. The network must have a router.
        """
        if self.router is None:
            raise AgentError("this network has no router; train it with `--router learned`")
        expected: Tensor = self.router(self.aware(inputs, [before], is_open), meant, told, receivers)
        return expected

    def value(self, state: Tensor, elapsed: Tensor) -> Tensor:
        """Expected return of every agent [B, N] from all observations [B, N, O]."""
        return self.critic.value(state, elapsed)
