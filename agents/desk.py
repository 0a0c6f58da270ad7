"""The desk of a host: its agents play for real, and everything they say or hear is a charged frame.

A desk has two trays, out and in. `speak` fills the out tray, within the allowance that came with the call; `act` empties
the in tray and says what the agents do; `reply`, where a step has several rounds, does both trays. Where hosts share a
pool, `draft` and `redraft` say first what is wanted, and `post` sends what is allowed. No agent sees anything but its own
observation and its tray.

Shapes: W worlds, n local agents, N agents in all, K slots of an inbox, O observation width, D message width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from commlib.agent import BatchedTeam, ReplyingTeam, Spoken
from commlib.agents.policy import Policy, PolicySpec, may_speak, older, with_age
from commlib.codec import Codes, FrozenCodec, Vectors, fresh_context
from commlib.errors import AgentError
from commlib.exchange import Bill, Endpoint, Received, Sent
from commlib.gate import Gate
from commlib.plan import Plan
from commlib.rationing import Allowance, Claims, Rationing, Scope, Tariff


class Acted(NamedTuple):
    """What a host does after hearing: actions int64 [W, n], receipts for what it heard, trunks that it could not read."""

    action: NDArray[np.int64]
    heard: list[Bill]
    unread: tuple[int, ...] = ()


class Replied(NamedTuple):
    """What a host says in the next round of a step, receipts for what it heard in this one, trunks that it could not read."""

    sent: Sent
    heard: list[Bill]
    unread: tuple[int, ...] = ()


class Redrafted(NamedTuple):
    """What a host wants to say in the next round, of each pool, receipts for what it heard in this one, trunks that it could
    not read.
    """

    claims: list[Claims]
    heard: list[Bill]
    unread: tuple[int, ...] = ()


class LearnedTeam:
    """The agents of one host played by the shared policy, as it was trained: actions are drawn.

    A policy that searches without memory must be random; its likeliest action alone would run in circles.

    Every agent is computed on its own with the same shapes, [W, ..], however agents are spread over hosts: matrix
    products change their last bits with the shape, and the books must not depend on the partition.
    """

    def __init__(
        self, spec: PolicySpec, weights: dict[str, Tensor], agents: list[int], senders: NDArray[np.int64]
    ) -> None:
        self._policy = Policy(spec)
        self._policy.load_state_dict(weights)
        self._agents = agents
        self._senders = [torch.from_numpy(row[row >= 0]) for row in senders]
        self._is_open = torch.zeros(len(agents), spec.n_agents)
        for k, known in enumerate(self._senders):
            self._is_open[k, known] = 1
        self._inputs: list[Tensor] = []
        self._vectors: list[Tensor] = []
        self._heard: list[list[Tensor]] = []
        self._silent = np.zeros((0, 0), bool)
        self.reset(1)

    def reset(self, n_worlds: int) -> None:
        """What is remembered: echoes, what was heard in the step before, for the router, and how long it has been so."""
        spec = self._policy.spec
        n_before = n_worlds if spec.has_router else 0
        self._echoes: list[Tensor | None] = [None] * len(self._agents)
        self._before = [torch.zeros(n_before, 1, spec.n_agents, spec.message_width) for _ in self._agents]
        widths, rows = spec.message_widths if spec.has_ages else (), (n_worlds, 1, spec.n_agents)
        self._held = [[torch.zeros(*rows, width) for width in widths] for _ in self._agents]
        self._ages = [[torch.zeros(rows) for _ in widths] for _ in self._agents]

    @torch.no_grad()
    def speak(self, observation: Vectors, elapsed: float) -> Spoken:
        """Messages of the local agents; silent where the talk gate is shut."""
        share = torch.full((len(observation),), elapsed)
        self._inputs, self._vectors, silent = [], [], []
        wishes: list[NDArray[np.float32]] = []
        self._heard = [[] for _ in self._agents]
        for k, agent in enumerate(self._agents):
            inputs = self._policy.inputs(torch.from_numpy(observation[:, k : k + 1]), [agent], share)
            message, gate = self._policy.speak(inputs)
            self._inputs.append(inputs)
            self._vectors.append(message)
            silent.append(self._silence(gate, len(observation)))
            if gate is not None:  # learned under a price: how far it is open says what the message is worth
                wishes.append(gate[:, 0].sigmoid().numpy())
        vectors = torch.cat(self._vectors, 1).transpose(0, 1).contiguous().numpy()
        dtype = np.float32 if self._policy.spec.gate == "sampled" else bool
        harm = self.harm if self._policy.spec.has_router else None
        return Spoken(vectors, np.stack(silent).astype(dtype), harm, np.stack(wishes) if wishes else None)

    @torch.no_grad()
    def harm(
        self, seat: int, receivers: Sequence[int], worlds: NDArray[np.int64], heard: Vectors
    ) -> NDArray[np.float32]:
        """What the router expects of M ways [M, w, D] to tell the message of a local agent; see `commlib.agent.Harm`."""
        here, n_ways = torch.from_numpy(worlds), len(heard)
        inputs, meant, before = (
            column[here].repeat(n_ways, *[1] * (column.ndim - 1))
            for column in (self._inputs[seat], self._vectors[seat], self._before[seat])
        )
        told = torch.from_numpy(heard).reshape(-1, 1, heard.shape[-1])
        is_open, ids = self._is_open[seat : seat + 1], torch.tensor([receivers])
        harm = self._policy.harm(inputs, before, is_open, meant, told, ids).sum(-1)
        expected: NDArray[np.float32] = harm.view(n_ways, -1).numpy()
        return expected

    def _silence(self, gate: Tensor | None, n_worlds: int) -> NDArray[np.float32]:
        """How likely an agent is silent, [W], by its gate's logits [W, 1]; 0 or 1 where no dice are thrown."""
        if gate is None:
            return np.zeros(n_worlds, np.float32)
        shut = (-gate[:, 0]).sigmoid() if self._policy.spec.gate == "sampled" else (gate[:, 0] <= 0).float()
        silent: NDArray[np.float32] = shut.numpy()
        return silent

    @torch.no_grad()
    def reply(self, inbox: Vectors, own: Vectors) -> Spoken:
        """Messages of the next round; silent are those whom the signals of the first tell to be."""
        vectors = []
        for k, inputs in enumerate(self._inputs):
            self._heard[k].append(self._listened(inbox, k))
            vectors.append(self._policy.reply(inputs, self._heard[k], self._is_open[k : k + 1]))
        if len(self._heard[0]) == 1:
            self._silent = self._told_to_be_silent(own)
        return Spoken(torch.cat(vectors, 1).transpose(0, 1).contiguous().numpy(), self._silent)

    def _told_to_be_silent(self, own: Vectors) -> NDArray[np.bool_]:
        """Whom the signals of the first round, heard and own [n, W, 1], tell to be silent in this step, [n, W]."""
        spec, silent = self._policy.spec, np.zeros(own.shape[:2], bool)
        if spec.signal == "none":
            return silent
        everybody = 1 - torch.eye(spec.n_agents)
        for k, agent in enumerate(self._agents):
            signals = self._heard[k][0][:, 0, :, 0].clone()
            signals[:, agent] = torch.from_numpy(own[k, :, 0])
            silent[k] = (may_speak(spec.signal, signals, everybody, spec.n_speakers)[:, agent] < 0.5).numpy()
        return silent

    @torch.no_grad()
    def act(self, inbox: Vectors, uniform: NDArray[np.float32]) -> NDArray[np.int64]:
        """An action of each agent, drawn with the uniform number that it was dealt."""
        dealt = torch.from_numpy(uniform)
        actions = []
        for k, (agent, inputs) in enumerate(zip(self._agents, self._inputs, strict=True)):
            heard = self._listened(inbox, k)
            if self._policy.spec.has_router:
                self._before[k] = heard
            everything = [*self._heard[k], heard]
            aware = self._policy.aware(inputs, everything, self._is_open[k : k + 1], self._echoes[k])
            self._echoes[k] = self._policy.echo(aware)
            p = self._policy.act_on(aware, [agent])[:, 0].softmax(-1)
            drawn = (p.cumsum(-1) < dealt[:, k : k + 1]).sum(-1)
            actions.append(drawn.clamp_max(self._policy.spec.action_counts[agent] - 1))
        return torch.stack(actions, 1).numpy()

    def _listened(self, inbox: Vectors, k: int) -> Tensor:
        """What the k-th agent heard in this round, [W, 1, N, D], with its age where it looks at that."""
        heard = self._by_sender(inbox, k)
        if not self._policy.spec.has_ages:
            return heard
        nth = len(self._heard[k])
        self._ages[k][nth] = older(self._ages[k][nth], self._held[k][nth], heard)
        self._held[k][nth] = heard
        return with_age(heard, self._ages[k][nth])

    def _by_sender(self, inbox: Vectors, k: int) -> Tensor:
        """What the k-th agent heard as the policy knows it, [W, 1, N, D]: a place for each agent, zeros on closed edges."""
        senders = self._senders[k]  # ascending, and so in the first slots
        heard = torch.zeros(len(inbox), 1, self._policy.spec.n_agents, inbox.shape[-1])
        heard[:, 0, senders] = torch.from_numpy(inbox[:, k, : len(senders)])
        return heard


class Desk:
    """A team and its endpoints on one host, one for each round of a step: each round has a past of its own."""

    def __init__(
        self, host: int, plan: Plan, codecs: Sequence[FrozenCodec], team: BatchedTeam, gate: Gate | None = None
    ) -> None:
        self.host = host
        self._team = team
        self._endpoints = [Endpoint(host, plan, codec, n_worlds=1, gate=gate or Gate()) for codec in codecs]
        self._nth = 0
        """Which round of the step it is."""

    def reset(self, n_worlds: int, tariff: Tariff, rationing: Rationing, delay: int = 0) -> None:
        """A new batch of episodes on fresh links, at these prices; what does not fit is treated so.

        What other hosts say is heard `delay` steps later.
        """
        self._team.reset(n_worlds)
        for endpoint in self._endpoints:
            endpoint.rationing, endpoint.rate_weight, endpoint.tolls = rationing, tariff.rate_weight, tariff.tolls
            endpoint.delay = delay
            endpoint.reset(n_worlds)

    def speak(
        self,
        round_number: int,
        observation: Vectors,
        elapsed: float,
        alive: NDArray[np.bool_],
        allowance: Allowance | None,
    ) -> Sent:
        """Observations [W, n, O] to paid frames: the first round of a step."""
        self._draft(round_number, observation, elapsed, alive)
        return self.post(allowance)

    def draft(
        self,
        round_number: int,
        observation: Vectors,
        elapsed: float,
        alive: NDArray[np.bool_],
        scopes: Sequence[Scope],
    ) -> list[Claims]:
        """Observations [W, n, O] to what the agents want to send in each scope; `post` sends it."""
        self._draft(round_number, observation, elapsed, alive)
        return self._endpoint.claims(scopes)

    def _draft(self, round_number: int, observation: Vectors, elapsed: float, alive: NDArray[np.bool_]) -> None:
        self._nth = 0
        self._endpoint.draft(round_number, self._team.speak(observation, elapsed), alive)

    def reply(
        self, round_number: int, frames: dict[int, bytes], alive: NDArray[np.bool_], allowance: Allowance | None
    ) -> Replied:
        """Frames of a round to those of the next, which has this number, and receipts."""
        received = self._redraft(round_number, frames, alive)
        return Replied(self.post(allowance), received.heard, received.unread)

    def redraft(
        self, round_number: int, frames: dict[int, bytes], alive: NDArray[np.bool_], scopes: Sequence[Scope]
    ) -> Redrafted:
        """Frames of a round to what the agents want to send in the next one, which has this number, and receipts."""
        received = self._redraft(round_number, frames, alive)
        return Redrafted(self._endpoint.claims(scopes), received.heard, received.unread)

    def _redraft(self, round_number: int, frames: dict[int, bytes], alive: NDArray[np.bool_]) -> Received:
        received = self._endpoint.receive(round_number - 1, frames, alive)
        if not isinstance(self._team, ReplyingTeam):
            raise AgentError(f"a {type(self._team).__name__} has no method reply; give its steps one round of messages")
        spoken = self._team.reply(received.inbox, self._endpoint.delivered())
        self._nth += 1
        self._endpoint.draft(round_number, spoken, alive)
        return received

    def post(self, allowance: Allowance | None) -> Sent:
        """What was drafted, or what is allowed of it, as paid frames."""
        return self._endpoint.post(allowance)

    @property
    def _endpoint(self) -> Endpoint:
        """Of the round that is going on."""
        return self._endpoints[self._nth]

    def n_put_off(self) -> int:
        """How many messages still wait for a later round."""
        return sum(endpoint.n_put_off for endpoint in self._endpoints)

    def act(
        self, round_number: int, frames: dict[int, bytes], alive: NDArray[np.bool_], uniform: NDArray[np.float32]
    ) -> Acted:
        """Frames of the last round to actions [W, n], drawn with uniform numbers [W, n], and receipts."""
        if self._nth != len(self._endpoints) - 1:
            raise AgentError(
                f"a step of these agents has {len(self._endpoints)} rounds of messages, it was ended after {self._nth + 1}; "
                f"play with n_rounds={len(self._endpoints)}"
            )
        received = self._endpoints[-1].receive(round_number, frames, alive)
        return Acted(self._team.act(received.inbox, uniform), received.heard, received.unread)

    def record(self) -> None:
        """Keep a record of all messages from now on."""
        for endpoint in self._endpoints:
            endpoint.recorded = []

    def recorded(self) -> list[tuple[Codes, Codes]]:
        """Contexts [n, P + 1] and codes [n, P] of all messages since `record`, for each round of a step."""
        return [_columns(endpoint) for endpoint in self._endpoints]

    def state(self) -> list[tuple[NDArray[np.int64], dict[int, bool]]] | None:
        """What outlasts an episode, so that another desk can go on with the next one; None: a user's team may keep anything."""
        if not isinstance(self._team, LearnedTeam) or self._endpoints[0].recorded is not None:
            return None
        return [endpoint.state() for endpoint in self._endpoints]

    def load_state(self, state: list[tuple[NDArray[np.int64], dict[int, bool]]]) -> None:
        """Go on where another desk stood, with the next episode."""
        for endpoint, one in zip(self._endpoints, state, strict=True):
            endpoint.load_state(one)

    def usage(self) -> NDArray[np.int64]:
        """How often each code of the last round was sent since the desk was furnished, [P, K]."""
        return self._endpoints[-1].usage


def _columns(endpoint: Endpoint) -> tuple[Codes, Codes]:
    n_positions = endpoint.codec.n_positions
    rows = [(fresh_context(0, n_positions), np.zeros((0, n_positions), np.int64)), *(endpoint.recorded or [])]
    contexts, codes = zip(*rows, strict=True)
    return np.concatenate(contexts), np.concatenate(codes)
