"""The learner of one host: its agents' share of a PPO update, cut where the messages travel.

Agents on different hosts learn together like a relay team: the sender runs its leg (`forward_messages`), the receiver
runs from there to the loss and hands back how each message should have been (`backward_actions`), the sender finishes its
gradient (`backward_messages`), and the gradients of all hosts are summed and applied everywhere alike (`apply`). Where a
step has several rounds of messages, there are legs between (`forward_replies`, `backward_replies`). So every host holds
the same parameters, no host sees another's messages but as messages, and one host with all agents is the ordinary joint
update. Centralised training: the critic, and only it, sees all observations.

Shapes: M samples of a minibatch, n agents of this host, N agents in all, D message width, P positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from commlib.agents.policy import Policy, PolicySpec, may_speak
from commlib.codec import Codec, Pulling
from commlib.errors import AgentError
from commlib.gate import Gate
from commlib.message import Edge
from commlib.objective import LossTerms, Objective
from commlib.topology import CommFormerTopology, FixedTopology, PrunedTopology, edges_of, full

MAX_GRADIENT_NORM = 0.5
SPEECH = ("encoder.", "repliers.")
"""The parts of the policy that decide what is said."""


class Phase(NamedTuple):
    """What stays the same during one iteration of rollout and update.

    Attributes:
        learning_rate: of the weights.
        edge_learning_rate: of the learned graph.
        entropy_weight: reward per nat.
        floor: share of actions drawn uniformly.
        noise: standard deviation of the noise on messages while they are continuous.
        use_codec: whether messages pass the bottleneck.
        use_gate: whether gates act; before the priced stage everybody talks, but for those whom `topk` leaves out.
        all_edges: whether every edge is open (warm-up of a learned graph).
        objective: the loss weights, and the bit price.
        gate: the rule that keeps messages back, once they pass the bottleneck.
        throws_dice: whether the driver has to throw dice for gates.
        is_speech_fixed: whether agents go on saying what they say, and only what they make of it is learned.
        imitation: weight of the world's expert, in nats; where it is not 0, the expert is asked in each step.
        heeds_budget: whether nobody is heard who sees that nothing is left of the budget.
    """

    learning_rate: float
    edge_learning_rate: float
    entropy_weight: float
    floor: float
    noise: float
    use_codec: bool
    use_gate: bool
    all_edges: bool
    objective: Objective
    gate: Gate = Gate()
    throws_dice: bool = False
    imitation: float = 0.0
    is_speech_fixed: bool = False
    heeds_budget: bool = False


class Said(NamedTuple):
    """What the host's agents say in one step of a rollout: sent vectors [B, n, D], codes [B, n, P], bits and talk [B, n]."""

    z: Tensor
    codes: Tensor
    bits: Tensor
    talk: Tensor


class Chosen(NamedTuple):
    """What the host's agents do: actions [B, n], their log-probabilities, and what they remember having heard, [B, n, E]."""

    action: Tensor
    log_prob: Tensor
    echo: Tensor


class Samples(NamedTuple):
    """The samples of one iteration as this host needs them; L samples in all.

    Attributes:
        observation: [L, n, O] of this host's agents; state: [L, N, O] of all (critic only).
        elapsed: share of the episode that is over, [L].
        action, log_prob, advantage, target: [L, n]; active: bool [L, n].
        context: what listeners of this host's agents have, [L, n, P + 1], in each round of a step.
        held: what listeners heard of these agents a step before, [L, n, D], in each round but the first.
        noise: drawn by the driver, [L, n, D], or dice for gates, [L, n, 1], in each round; empty where there is none.
        talk: who talked in the first round, 0/1 [L, n].
        echo: what was left of what agents had heard before, [L, n, E].
        advice: what the expert would have them do, int64 [L, n]; like `action` where nobody asks.
        said_in: the sample in which what is heard in each was said, [L], each once; None: the same.
        weight: how much each sample counts in every term but the codec's own, [L], mean about 1; None: all alike.
    """

    observation: Tensor
    state: Tensor
    elapsed: Tensor
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    target: Tensor
    active: Tensor
    context: tuple[Tensor, ...]
    held: tuple[Tensor, ...]
    noise: tuple[Tensor, ...]
    talk: Tensor
    echo: Tensor
    advice: Tensor
    said_in: Tensor | None = None
    weight: Tensor | None = None


class _Messages(NamedTuple):
    """Vectors as listeners get them [M, n, D], codes [M, n, P], bits [M, n], talk in 0/1 [M, n], auxiliary losses."""

    z: Tensor
    codes: Tensor
    bits: Tensor
    talk: Tensor
    losses: dict[str, Tensor]


class _Leg(NamedTuple):
    """What a sender's leg of a round leaves to be finished: what was sent, and its own costs."""

    sent: Tensor
    rate: Tensor
    commitment: Tensor
    gate: Tensor

    def finish(self, gradient: Tensor) -> None:
        """Run the gradient of what was sent, and of the leg's own costs, back."""
        extra = self.rate + self.commitment + self.gate
        roots = [(root, grad) for root, grad in ((self.sent, gradient), (extra, torch.ones(()))) if root.requires_grad]
        if roots:
            torch.autograd.backward([r for r, _ in roots], [g for _, g in roots])


class Gradients(NamedTuple):
    """The gradients of all hosts, summed; `step_edges` says which of the two is applied."""

    weights: Tensor
    edges: Tensor
    step_edges: bool


class _Flat:
    """A module's parameters as one vector, with one gradient vector and one Adam state."""

    def __init__(self, module: nn.Module) -> None:
        parameters = [p for p in module.parameters() if p.requires_grad]
        self.vector = torch.cat([p.detach().reshape(-1) for p in parameters]) if parameters else torch.zeros(0)
        self.gradient = torch.zeros_like(self.vector)
        self.mean, self.square = torch.zeros_like(self.vector), torch.zeros_like(self.vector)
        self.n_updates = 0
        start = 0
        for p in parameters:
            stop = start + p.numel()
            p.data = self.vector[start:stop].view_as(p)
            p.grad = self.gradient[start:stop].view_as(p)
            start = stop

    def step(self, gradient: Tensor, learning_rate: float) -> None:
        """One Adam update (Kingma & Ba 2015, arXiv:1412.6980, alg. 1)."""
        self.n_updates += 1
        self.mean.lerp_(gradient, 0.1)
        self.square.lerp_(gradient.square(), 0.001)
        scale = learning_rate / (1 - 0.9**self.n_updates)
        root = (self.square / (1 - 0.999**self.n_updates)).sqrt_().add_(1e-5)
        self.vector.addcdiv_(self.mean, root, value=-scale)


class Learner:
    """The part of the team that lives on one host, with its replica of the shared parameters."""

    def __init__(
        self,
        spec: PolicySpec,
        agents: list[int],
        codecs: Sequence[Codec],
        topology: FixedTopology | CommFormerTopology | PrunedTopology,
        seed: int,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # the same weights on every host
            self.policy = Policy(spec)
        self.agents, self.topology = agents, topology
        self.codecs = nn.ModuleList(cast("Sequence[nn.Module]", codecs))
        """One for each round of a step."""
        self._frozen = [codec.freeze() for codec in codecs]
        self._heard: list[Tensor] = []
        self._legs: list[_Leg] = []
        self.meant = torch.zeros(0)
        """What agents last wanted to say, [B, n, D], before any codec or gate."""
        self._weights, self._edges = _Flat(self.policy), _Flat(topology)
        speech = [p.new_full((p.numel(),), name.startswith(SPEECH)) for name, p in self.policy.named_parameters()]
        self._of_speech = torch.cat(speech) > 0
        """Which of the weights decide what is said."""
        self._everyone = full(spec.n_agents).sample(torch.Generator())

    # --- rollouts -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def say(self, phase: Phase, observation: Tensor, elapsed: Tensor, context: Tensor, noise: Tensor | None) -> Said:
        """Messages for observations [B, n, O]; contexts [B, n, P + 1] are what listeners have.

        `noise` is what the driver drew: normal [B, n, D] for continuous messages, uniform [B, n, 1] for gates.
        """
        self._inputs = self.policy.inputs(observation, self.agents, elapsed)
        self._heard.clear()
        z, codes, bits, talk, _ = self._messages(phase, self._inputs, context, noise)
        return Said(z, codes, bits, talk)

    @torch.no_grad()
    def reply(self, phase: Phase, z_all: Tensor, context: Tensor, held: Tensor, noise: Tensor | None) -> Said:
        """Messages of the next round, after hearing z_all [B, N, D]; otherwise as `say`.

        `held`, [B, n, D], is what was heard of these agents in this round of the step before.
        """
        self._heard.append(z_all)
        z, codes, bits, talk, _ = self._replies(phase, self._inputs, self.adjacency(phase), context, held, noise)
        return Said(z, codes, bits, talk)

    @torch.no_grad()
    def choose(self, phase: Phase, z_all: Tensor, uniform: Tensor, echo: Tensor | None = None) -> Chosen:
        """Actions [B, n] drawn with uniform numbers [B, n], after hearing z_all [B, N, D].

        `echo`, [B, n, E], is what is left of what was heard in the steps before; None: nothing was.
        """
        aware = self._aware(self._inputs, [*self._heard, z_all], self.adjacency(phase), echo)
        log_p = self._log_probs_of(phase, aware)
        action = (log_p.exp().cumsum(-1) < uniform[..., None]).sum(-1)
        last = torch.tensor([self.policy.spec.action_counts[a] - 1 for a in self.agents])
        action = torch.minimum(action, last)
        return Chosen(action, log_p.gather(-1, action[..., None])[..., 0], self.policy.echo(aware))

    @torch.no_grad()
    def values(self, state: Tensor, elapsed: Tensor) -> Tensor:
        """The critic's values [L, N] of states [L, N, O]."""
        return self.policy.value(state, elapsed)

    @torch.no_grad()
    def influence(
        self, phase: Phase, observation: Tensor, elapsed: Tensor, heard: Sequence[Tensor], active: Tensor
    ) -> Tensor:
        """How far this host's agents' actions move when a sender falls silent, in nats, [n, N]; 0 on closed edges.

        KL(p(action | all heard) || p(action | all but one)), the mean over samples in which the listener is active, from
        observations [L, n, O], messages [L, N, D] of each round (Ding et al. 2020, arXiv:2006.06455, eq. 2). Of agents without
        echoes: those would outlast the silence.
        """
        inputs, adjacency_SR = self.policy.inputs(observation, self.agents, elapsed), self.adjacency(phase)
        with_all = self._log_probs(phase, inputs, heard, adjacency_SR)
        weight = active.float() / active.float().sum(0).clamp_min(1)
        moved = torch.zeros(len(self.agents), len(adjacency_SR))
        for sender in adjacency_SR.any(1).nonzero()[:, 0].tolist():
            without_SR = adjacency_SR.clone()
            without_SR[sender] = 0
            log_p = self._log_probs(phase, inputs, heard, without_SR)
            kl = (with_all.exp() * (with_all.clamp_min(-30) - log_p.clamp_min(-30))).sum(-1)
            moved[:, sender] = (kl * weight).sum(0)
        return moved * adjacency_SR.T[self.agents]

    def keep_edges(self, edges: tuple[Edge, ...]) -> None:
        """Close all other edges of a graph that can be pruned."""
        if not isinstance(self.topology, PrunedTopology):
            raise AgentError("this graph cannot be pruned; take the topology `pruned`")
        self.topology.keep(edges)

    # --- updates ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def reconsider(self, phase: Phase, heard: Sequence[Tensor]) -> Tensor:
        """Log-probabilities [L, n] of the samples' actions by this policy, after hearing [L, N, D] in each round."""
        log_p = self._log_probs(phase, self._all_inputs, heard, self.adjacency(phase), self._samples.echo)
        return log_p.gather(-1, self._samples.action[..., None])[..., 0]

    def load(self, samples: Samples) -> None:
        """Take this iteration's samples."""
        self._samples = samples
        self._all_inputs = self.policy.inputs(samples.observation, self.agents, samples.elapsed)
        if self.policy.spec.gate == "sampled":
            with torch.no_grad():
                self._talk_log_prob = self._talk_log_probs(self._all_inputs, samples.talk)

    def forward_messages(self, phase: Phase, index: Tensor, pending: Gradients | None) -> Tensor:
        """The sender's leg: messages [M, n, D] of the indexed samples; the graph is kept for `backward_messages`.

        `pending` are gradients of the minibatch before, applied first.
        """
        if pending is not None:
            self.apply(phase, pending)
        self._weights.gradient.zero_()
        self._edges.gradient.zero_()
        s = self._samples
        self._index, self._inputs = index, self._all_inputs[index]
        self._said = index if s.said_in is None else s.said_in[index]
        self._heard.clear()
        self._legs.clear()
        talk = s.talk[self._said] if self.policy.spec.gate == "sampled" else None
        inputs = self._inputs if s.said_in is None else self._all_inputs[self._said]
        said = self._messages(phase, inputs, s.context[0][self._said], self._noise(0), talk)
        return self._sent(phase, said, talk)

    def forward_replies(self, phase: Phase, z_all: Tensor, graph_seed: int | None) -> Tensor:
        """The sender's leg of the next round, after hearing z_all [M, N, D]; see `backward_actions`."""
        self._heard.append(z_all.clone().requires_grad_())
        nth, s = len(self._heard), self._samples
        context, held = s.context[nth][self._index], s.held[nth - 1][self._index]
        adjacency = self._graph(phase, graph_seed)
        return self._sent(phase, self._replies(phase, self._inputs, adjacency, context, held, self._noise(nth)), None)

    def _noise(self, nth: int) -> Tensor | None:
        noise = self._samples.noise
        return noise[nth][self._said] if noise else None

    def _sent(self, phase: Phase, said: _Messages, talk: Tensor | None) -> Tensor:
        """Keep what is left to be done of this leg; the messages without their graph."""
        s, index, none = self._samples, self._said, torch.zeros(())
        weight = torch.full_like(said.bits, 1.0 / (len(index) * self.policy.spec.n_agents))
        if s.weight is not None:
            weight = weight * s.weight[index][:, None]
        share = len(self.agents) / self.policy.spec.n_agents
        gate = none
        if talk is not None and phase.use_gate:
            log_ratio = self._talk_log_probs(self._all_inputs[index], talk) - self._talk_log_prob[index]
            gate = phase.objective.policy(log_ratio, s.advantage[index], s.active[index].float() * weight)
        rate, commitment = phase.objective.rate(said.bits, weight), share * sum(said.losses.values(), none)
        self._legs.append(_Leg(said.z, rate, commitment, gate))
        return said.z.detach()

    def backward_actions(self, phase: Phase, z_all: Tensor, graph_seed: int | None) -> tuple[Tensor, LossTerms]:
        """The receiver's leg: from all messages [M, N, D] to the loss, and its gradient for each message.

        Args:
            phase: the iteration's constants.
            z_all: what every agent sent.
            graph_seed: draw a learned graph with this seed; None for the graph in use.
        """
        s, index, objective = self._samples, self._index, phase.objective
        self._heard.append(z_all.clone().requires_grad_())
        aware = self._aware(self._inputs, self._heard, self._graph(phase, graph_seed), s.echo[index])
        log_p = self._log_probs_of(phase, aware)
        log_ratio = log_p.gather(-1, s.action[index][..., None])[..., 0] - s.log_prob[index]
        active = s.active[index].float()
        even = torch.full_like(active, 1.0 / (len(index) * self.policy.spec.n_agents))
        if s.weight is not None:
            even = even * s.weight[index][:, None]
        entropy = -(log_p.exp() * log_p.clamp_min(-30.0)).sum(-1)
        predicted = self.policy.value(s.state[index], s.elapsed[index])[:, self.agents]
        terms = LossTerms(
            policy=objective.policy(log_ratio, s.advantage[index], active * even),
            value=objective.value(predicted, s.target[index], even),
            entropy=-phase.entropy_weight * (entropy * active * even).sum(),
            commitment=sum((leg.commitment for leg in self._legs), torch.zeros(())),
            rate=sum((leg.rate for leg in self._legs), torch.zeros(())),
            gate=sum((leg.gate for leg in self._legs), torch.zeros(())),
            foresight=objective.foresight(self.policy.foresee(aware), s.target[index], active * even)
            if self.policy.spec.has_foresight
            else torch.zeros(()),
            imitation=-phase.imitation * (log_p.gather(-1, s.advice[index][..., None])[..., 0] * active * even).sum()
            if phase.imitation
            else torch.zeros(()),
        )
        torch.autograd.backward(terms.policy + terms.value + terms.entropy + terms.foresight + terms.imitation)
        if not torch.isfinite(terms.total):
            raise AgentError("the loss is not finite; lower the learning rate or check the world's rewards")
        return self._wanted(), LossTerms(*(term.detach() for term in terms))

    def _wanted(self) -> Tensor:
        """The gradient of the messages heard in the last round that is still to be finished."""
        heard = self._heard.pop()
        return heard.grad if heard.grad is not None else torch.zeros_like(heard)

    def backward_replies(self, gradient: Tensor) -> Tensor:
        """Finish the sender's leg of the last round with the gradient of its messages [M, n, D].

        The answer is the gradient of the messages heard in the round before, [M, N, D].
        """
        self._legs.pop().finish(gradient)
        return self._wanted()

    def backward_messages(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Finish the sender's first leg with the gradient of its messages [M, n, D]; this host's share of both gradients."""
        self._legs.pop().finish(gradient)
        return self._weights.gradient, self._edges.gradient

    def apply(self, phase: Phase, gradients: Gradients) -> None:
        """Apply the summed gradients of all hosts: the edges in their own epochs, the weights in all others."""
        if gradients.step_edges:
            self._edges.step(gradients.edges, phase.edge_learning_rate)
            return
        norm = torch.linalg.vector_norm(gradients.weights)
        clipped = gradients.weights * (MAX_GRADIENT_NORM / norm.clamp_min(MAX_GRADIENT_NORM))
        spoken = self._weights.vector[self._of_speech].clone() if phase.is_speech_fixed else None
        self._weights.step(clipped, phase.learning_rate)
        if spoken is not None:  # Adam goes on for a while where there is no gradient
            self._weights.vector[self._of_speech] = spoken

    # --- state --------------------------------------------------------------------------------------------------------

    def replica(self) -> dict[str, Tensor]:
        """All that decides what the team says and does now; alike on every host."""
        flat = {"weights.vector": self._weights.vector, "edges.vector": self._edges.vector}
        modules = {"codec": self.codecs.state_dict(), "graph": dict(self.topology.named_buffers())}
        tensors = flat | {f"{name}.{k}": v for name, m in modules.items() for k, v in m.items()}
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def follow(self, replica: dict[str, Tensor]) -> None:
        """Say and do what the learner does whose replica this is."""
        self._weights.vector.copy_(replica["weights.vector"])
        self._edges.vector.copy_(replica["edges.vector"])
        for name, buffer in self.topology.named_buffers():
            buffer.copy_(replica[f"graph.{name}"])
        self.load_codecs({k.removeprefix("codec."): v for k, v in replica.items() if k.startswith("codec.")})

    def state(self) -> dict[str, Tensor]:
        """All that a checkpoint must hold of the learner; alike on every host."""
        flat = {"weights": self._weights, "edges": self._edges}
        moments = {f"{n}.{k}": getattr(f, k).clone() for n, f in flat.items() for k in ("mean", "square")}
        counts = {f"{name}.n_updates": torch.tensor(f.n_updates) for name, f in flat.items()}
        return self.replica() | moments | counts

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a checkpoint."""
        self.follow(state)
        for name, flat in (("weights", self._weights), ("edges", self._edges)):
            for key in ("mean", "square"):
                getattr(flat, key).copy_(state[f"{name}.{key}"])
            flat.n_updates = int(state[f"{name}.n_updates"])

    def load_codecs(self, state: dict[str, Tensor]) -> None:
        """Take over codecs that were fitted elsewhere."""
        self.codecs.load_state_dict(state)
        self._frozen = [cast("Codec", codec).freeze() for codec in self.codecs]

    def deployed(self) -> tuple[dict[str, Tensor], dict[str, Tensor], tuple[Edge, ...]]:
        """What a deployed team needs: the policy's tensors, the codecs', and the edges in use."""
        policy = {k: v.clone() for k, v in self.policy.state_dict().items()}
        return policy, {k: v.clone() for k, v in self.codecs.state_dict().items()}, self.topology.edges()

    def open_edges(self, phase: Phase) -> tuple[Edge, ...]:
        """The graph that rollouts of this phase use."""
        return edges_of(self.adjacency(phase))

    # --- parts --------------------------------------------------------------------------------------------------------

    def adjacency(self, phase: Phase) -> Tensor:
        """The graph in use, [S, R]."""
        if phase.all_edges:
            return self._everyone
        return self.topology.sample(torch.Generator(), temperature=0.0).detach()

    def _graph(self, phase: Phase, seed: int | None) -> Tensor:
        """The graph in use, or one that is drawn with a seed, with a gradient for each edge."""
        if seed is None:
            return self.adjacency(phase)
        drawn = self.topology.sample(torch.Generator().manual_seed(seed))
        if phase.all_edges:  # every edge open, yet each with the gradient that a drawn one would get
            return self._everyone + drawn - drawn.detach()
        return drawn

    def _talk_log_probs(self, inputs: Tensor, talk: Tensor) -> Tensor:
        """Log-probability [M, n] of having talked or not, of a gate that draws."""
        logit = self.policy.speak(inputs)[1]
        assert logit is not None
        return logsigmoid(torch.where(talk > 0, logit, -logit))

    def _messages(
        self, phase: Phase, inputs: Tensor, context: Tensor, noise: Tensor | None, talked: Tensor | None = None
    ) -> _Messages:
        """What is said first. `talked` is what a gate that draws has drawn; without it, it draws by the dice in `noise`."""
        x, logit = self.policy.speak(inputs)
        talk = None
        if logit is not None and phase.use_gate:
            talk = self._talk(logit, None if noise is None else noise[..., 0], talked)
        return self._coded(phase, 0, x, context, noise, talk, self._can_pay(phase, inputs))

    def _replies(
        self, phase: Phase, inputs: Tensor, adjacency_SR: Tensor, context: Tensor, held: Tensor, noise: Tensor | None
    ) -> _Messages:
        """What is said next, after all that was heard in this step."""
        spec, talk = self.policy.spec, None
        is_open, heard = adjacency_SR.T[self.agents], [self._for_each(z_all) for z_all in self._heard]
        if spec.signal == "topk" or (spec.signal == "listen" and phase.use_gate):
            talk = may_speak(spec.signal, self._heard[0][..., 0], adjacency_SR, spec.n_speakers)[:, self.agents]
        x = self.policy.reply(inputs, heard, is_open)
        return self._coded(phase, len(heard), x, context, noise, talk, self._can_pay(phase, inputs), held)

    def _can_pay(self, phase: Phase, inputs: Tensor) -> Tensor | None:
        """Who sees that something is left of the budget, 0/1 [M, n]; None where nobody looks."""
        return (inputs[..., self.policy.spec.observation_width - 1] > 0).float() if phase.heeds_budget else None

    def _coded(
        self,
        phase: Phase,
        nth: int,
        x: Tensor,
        context: Tensor,
        noise: Tensor | None,
        talk: Tensor | None,
        can_pay: Tensor | None,
        held: Tensor | None = None,
    ) -> _Messages:
        """Messages [M, n, D] of the nth round of a step as listeners get them, of those who talk and can pay: 0/1 [M, n].

        Of the others they have what they expect; while messages are continuous, what they heard last.
        """
        raw, frozen = x.detach(), self._frozen[nth]
        x = raw if phase.is_speech_fixed else x
        self.meant = raw
        losses: dict[str, Tensor] = {}
        codes, bits = context[..., :-1], torch.zeros(x.shape[:2])
        if phase.use_codec:
            codec, rows, past_codes = (
                self.codecs[nth],
                x.reshape(-1, x.shape[-1]),
                context.reshape(-1, context.shape[-1]),
            )
            flat = codec(rows, past_codes)
            rate_bits = flat.rate_bits
            if rows.requires_grad and phase.objective.bit_price > 0 and isinstance(codec, Pulling):
                rate_bits = codec.pulled_bits(rows, flat.codes, past_codes)
            x, codes, bits = flat.z.view_as(x), flat.codes.view_as(codes), rate_bits.view(x.shape[:2])
            losses = flat.losses
        elif noise is not None:
            x = x + phase.noise * noise
        has_rule = phase.use_codec and phase.gate.rule != "none"
        if talk is None and not has_rule and can_pay is None:
            return _Messages(x, codes, bits, torch.ones(x.shape[:2]), losses)
        talk = torch.ones(x.shape[:2]) if talk is None else talk
        if not phase.use_codec:
            last = torch.zeros_like(x) if held is None else held
            return _Messages(talk[..., None] * x + (1 - talk[..., None]) * last, codes, bits, talk, losses)
        past = context.reshape(-1, context.shape[-1]).numpy()  # silence is the expected code, here as on the wire
        expected = frozen.expected(past)
        unsaid = torch.from_numpy(frozen.embed(expected, past)).view_as(x)
        if has_rule:
            dice = None if noise is None else noise[..., 0]
            talk = talk * (~phase.gate.is_shut(raw, unsaid, dice)).float()
        goes = talk if can_pay is None else talk * can_pay
        x = goes[..., None] * x + (1 - goes[..., None]) * unsaid
        codes = torch.where((goes > 0.5)[..., None], codes, torch.from_numpy(expected).view_as(codes))
        unsaid_bits = torch.zeros_like(bits)
        if frozen.silence_is_coded:
            unsaid_bits = torch.from_numpy(frozen.estimate_bits(expected, past)).view_as(bits).float()
        return _Messages(x, codes, unsaid_bits + goes * (bits - unsaid_bits), talk, losses)

    def _talk(self, logit: Tensor, dice: Tensor | None, talked: Tensor | None) -> Tensor:
        """Who talks, exactly 0 or 1 [M, n] as in use: drawn, or by the threshold with a straight-through gradient."""
        p = logit.sigmoid()
        if self.policy.spec.gate == "talk":
            return (logit > 0).float() + (p - p.detach())
        if talked is not None:
            return talked
        if dice is None:
            raise AgentError("a gate that draws needs dice; this phase throws none")
        return (dice >= (-logit).sigmoid()).float()

    def _for_each(self, z_all: Tensor) -> Tensor:
        """Messages [M, N, D] laid before each agent of this host, [M, n, N, D]."""
        return z_all[:, None].expand(-1, len(self.agents), -1, -1)

    def _log_probs(
        self, phase: Phase, inputs: Tensor, heard: Sequence[Tensor], adjacency_SR: Tensor, echo: Tensor | None = None
    ) -> Tensor:
        """Log-probabilities [M, n, A] of the actions after hearing [M, N, D] in each round over the open edges."""
        return self._log_probs_of(phase, self._aware(inputs, heard, adjacency_SR, echo))

    def _aware(self, inputs: Tensor, heard: Sequence[Tensor], adjacency_SR: Tensor, echo: Tensor | None) -> Tensor:
        """What agents know and heard, messages [M, N, D] in each round over the open edges, after echoes [M, n, E]."""
        messages = [self._for_each(z_all) for z_all in heard]
        return self.policy.aware(inputs, messages, adjacency_SR.T[self.agents], echo)

    def _log_probs_of(self, phase: Phase, aware: Tensor) -> Tensor:
        """Log-probabilities [M, n, A] of the actions, and of even ones where the phase has a floor."""
        log_p = self.policy.act_on(aware, self.agents).log_softmax(-1)
        if phase.floor > 0:
            allowed = (~self.policy.forbidden[self.agents]).float()
            even = allowed / allowed.sum(-1, keepdim=True)
            mixed = (1 - phase.floor) * log_p.exp() + phase.floor * even
            log_p = mixed.clamp_min(1e-38).log()  # an action that an agent lacks would have the gradient 0 / 0
        return log_p
