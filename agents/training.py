"""One iteration of training over any number of hosts: a batch of whole episodes, then PPO over it.

The driver is the conductor: it holds the score (world, random numbers, rewards) and no instrument. All randomness is
drawn here and handed out, so that how agents are spread over hosts changes nothing but the place of the work.
PPO: Schulman et al. 2017, arXiv:1707.06347; advantages: Schulman et al. 2016, arXiv:1506.02438, eq. 16.

Shapes: T steps, B worlds, N agents, n agents of one host, D message width, P positions, L live samples.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from commlib.agents.learner import Gradients, Phase, Samples
from commlib.agents.policy import older, with_age
from commlib.agents.practice import Practice
from commlib.agents.runtime import Runtime
from commlib.agents.weather import Weather
from commlib.channel import Channel
from commlib.codec import fresh_context
from commlib.objective import LossTerms
from commlib.plan import Plan
from commlib.world import World, expert_of, part_of


@dataclass(frozen=True)
class Learning:
    """How an iteration learns.

    Attributes:
        n_worlds: worlds side by side.
        n_epochs: passes over the samples.
        n_minibatches: updates per pass.
        gamma: discount.
        gae_lambda: of generalised advantage estimation.
        edges_every: a learned graph is updated in every n-th epoch, alone (CommFormer's bilevel schedule); 0: never.
        has_learned_graph: whether the graph is drawn anew for each update.
        channel: what messages go through; None: all are heard.
        practice: the budget, where agents see what is left of it: a world of `commlib.world.BudgetSeen`.
    """

    n_worlds: int
    n_epochs: int
    n_minibatches: int
    gamma: float
    gae_lambda: float
    edges_every: int
    has_learned_graph: bool
    channel: Channel | None = None
    practice: Practice | None = None


class Rollout(NamedTuple):
    """A batch of whole episodes, each field [T, B, ...]; messages, contexts and noise in each round of a step.

    Messages `z` are as they were heard: in the place of one that was `missed` stands what was heard of its sender before.
    They were said `delay` steps before; contexts, noise, bits and talk are those of what was said in the step. `echo` is what
    was left of what agents had heard in earlier steps; `advice` what the world's expert would have had them do, or what they did
    where it is not asked.

    Of each world [B]: `success`, how many updates `behind` the learner the policy was that played there, and which `part` of
    a mixture it is.
    """

    observation: Tensor
    elapsed: Tensor
    z: tuple[Tensor, ...]
    age: tuple[Tensor, ...]
    context: tuple[Tensor, ...]
    noise: tuple[Tensor, ...]
    action: Tensor
    log_prob: Tensor
    reward: Tensor
    value: Tensor
    active: Tensor
    alive: Tensor
    bits: Tensor
    talk: Tensor
    echo: Tensor
    advice: Tensor
    success: Tensor
    behind: Tensor
    part: Tensor
    missed: tuple[Tensor, ...] = ()
    delay: int = 0

    @property
    def n_steps(self) -> int:
        """World steps played, finished worlds not counted."""
        return int(self.alive.sum())


class Team:
    """The hosts seen as one team that learns; messages have so many floats and codes in each round of a step."""

    def __init__(
        self,
        runtime: Runtime,
        plan: Plan,
        widths: Sequence[int],
        n_positions: Sequence[int],
        *,
        has_ages: bool = False,
    ) -> None:
        self.runtime, self.widths, self.n_positions, self.has_ages = runtime, widths, n_positions, has_ages
        self.blocks = [plan.agents_of(host) for host in range(runtime.n_hosts)]
        self.n_agents = len(plan.host_of)

    def split(self, tensor: Tensor, axis: int) -> list[Tensor]:
        """Cut along the agent axis, a piece per host."""
        return [tensor.narrow(axis, block[0], len(block)) for block in self.blocks]

    def heard(self, z: Tensor, age: Tensor) -> Tensor:
        """What listeners get of messages [.., N, D], with their ages [.., N] where agents look at them."""
        return with_age(z, age) if self.has_ages else z

    def each(self, method: str, *arguments: object) -> list[Any]:
        """The same arguments to every host; a list gives each host its own."""
        rows = [tuple(a[h] if isinstance(a, list) else a for a in arguments) for h in range(self.runtime.n_hosts)]
        return self.runtime.each(method, rows)


class Paths:
    """How messages that are said again got to their listeners in a rollout, and the way back for gradients; live samples only."""

    def __init__(self, team: Team, rollout: Rollout) -> None:
        alive = rollout.alive
        self._team = team
        self._ages = [age[alive] for age in rollout.age]
        self._heard = [z[alive] for z in rollout.z] if rollout.missed else []
        self._missed = [missed[alive][..., None] for missed in rollout.missed]

    def there(self, nth: int, z: Tensor, index: Tensor) -> Tensor:
        """Messages [M, N, D] of the nth round of the indexed samples as listeners get them, with ages."""
        if self._missed:
            z = torch.where(self._missed[nth][index], self._heard[nth][index], z)
        return self._team.heard(z, self._ages[nth][index])

    def back(self, nth: int, gradient: Tensor, index: Tensor) -> list[Tensor]:
        """What a gradient of these is to those who said them, a piece per host; who was missed learns nothing of it."""
        gradient = gradient[..., : self._team.widths[nth]]
        return self._team.split(gradient * ~self._missed[nth][index] if self._missed else gradient, 1)


def collect(team: Team, world: World, phase: Phase, learning: Learning, generator: torch.Generator) -> Rollout:
    """Play one batch of episodes with sampled actions."""
    B, N = learning.n_worlds, team.n_agents
    n_steps = world.spec.n_steps
    step = world.reset(B, generator)
    contexts = [torch.from_numpy(fresh_context(B * N, n)).view(B, N, -1) for n in team.n_positions]
    rows: list[tuple[Tensor, ...]] = []
    talks: list[list[tuple[Tensor, ...]]] = [[] for _ in contexts]
    echoes: list[Tensor | None] = [None] * len(team.blocks)
    held = [torch.zeros(B, N, width) for width in team.widths]
    delay = learning.channel.delay if learning.channel else 0
    under_way = [deque([last] * delay) for last in held]
    ages = [torch.zeros(B, N) for _ in team.widths]
    weather = [Weather(learning.channel, B, N, generator) for _ in contexts] if learning.channel else []
    missed: list[list[Tensor]] = [[] for _ in weather]
    practice = learning.practice
    money = practice.open(B, is_coded=phase.use_codec, generator=generator) if practice else None
    for t in range(n_steps):
        alive = ~step.done
        if not alive.any():
            break
        if money is not None:
            step.observation[..., -1] = money.left(t / n_steps)[:, None]
        elapsed = torch.full((B,), t / n_steps)
        heard: list[Tensor] = []
        bits = torch.zeros(B, N)
        for nth, context in enumerate(contexts):
            noise = _noise(phase, (B, N, team.widths[nth]), generator)
            past, dice = team.split(context, 1), None if noise is None else team.split(noise, 1)
            if nth == 0:
                said = team.each("learner.say", phase, team.split(step.observation, 1), elapsed, past, dice)
            else:
                said = team.each("learner.reply", phase, heard[-1], past, team.split(held[nth], 1), dice)
            under_way[nth].append(torch.cat([s.z for s in said], 1))
            z_all = under_way[nth].popleft()
            if weather:
                missed[nth].append(weather[nth].missed(t))
                z_all = torch.where(missed[nth][-1][..., None], held[nth], z_all)
            if team.has_ages:
                ages[nth] = older(ages[nth], held[nth], z_all)
            held[nth] = z_all
            heard.append(team.heard(z_all, ages[nth]))
            bits = bits + torch.cat([s.bits for s in said], 1)
            if nth == 0:
                talk = torch.cat([s.talk for s in said], 1)
            talks[nth].append((z_all, ages[nth], context, *([] if noise is None else [noise])))
            contexts[nth] = torch.cat((torch.cat([s.codes for s in said], 1), context[..., -1:] + 1), -1)
        if money is not None:
            money.pay(float(bits[alive].sum()))
        uniform = torch.rand(B, N, generator=generator)
        chosen = team.each("learner.choose", phase, heard[-1], team.split(uniform, 1), echoes)
        action, log_prob, after = (torch.cat(parts, 1) for parts in zip(*chosen, strict=True))
        echo = torch.zeros_like(after) if echoes[0] is None else torch.cat(cast("list[Tensor]", echoes), 1)
        echoes = [one.echo for one in chosen]
        observation, active = step.observation, step.active & alive[:, None]
        advice = expert_of(world) if phase.imitation else action
        step = world.step(action)
        rows.append((observation, elapsed, action, log_prob, step.reward, active, alive, bits, talk, echo, advice))
    observation, elapsed, action, log_prob, reward, active, alive, bits, talk, echo, advice = (
        torch.stack(column) for column in zip(*rows, strict=True)
    )
    z, age, pasts, *noises = zip(
        *([torch.stack(column) for column in zip(*steps, strict=True)] for steps in talks), strict=True
    )
    value = team.runtime.each(
        "learner.values", [(observation.flatten(0, 1), elapsed.flatten(0, 1))] * team.runtime.n_hosts
    )[0].view(reward.shape)
    return Rollout(
        observation,
        elapsed,
        z,
        age,
        pasts,
        noises[0] if noises else (),
        action,
        log_prob,
        reward,
        value,
        active,
        alive,
        bits,
        talk,
        echo,
        advice,
        world.success(),
        torch.zeros(B, dtype=torch.int64),
        part_of(B, max(1, len(world.spec.parts))),
        tuple(torch.stack(column) for column in missed),
        delay,
    )


def _noise(phase: Phase, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor | None:
    """What the driver draws for the messages of a round: dice for gates, or noise on continuous messages."""
    if phase.throws_dice:
        return torch.rand(*shape[:2], 1, generator=generator)
    return torch.randn(shape, generator=generator) if phase.noise > 0 else None


def advantages(
    rollout: Rollout, reward: Tensor, learning: Learning, trust: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates [T, B, N] and the critic's targets; an episode's end is terminal (time is observed).

    `trust`, [T, B, N] in 0..1, is the truncated importance of actions that another policy chose: V-trace with lambda
    (Espeholt et al. 2018, arXiv:1802.01561, eq. 1 and remark 2). Without it, all are the learner's own.
    """
    result, gain = torch.zeros_like(reward), torch.zeros_like(reward)
    running = torch.zeros_like(reward[0])
    following = torch.zeros_like(reward[0])
    for t in range(len(reward) - 1, -1, -1):
        goes_on = rollout.alive[t + 1][:, None].float() if t + 1 < len(reward) else torch.zeros(1, 1)
        delta = reward[t] + learning.gamma * following * goes_on - rollout.value[t]
        result[t] = delta + learning.gamma * learning.gae_lambda * goes_on * running
        running = result[t] if trust is None else trust[t] * result[t]
        gain[t], following = running, rollout.value[t]
    return result, gain + rollout.value


def reconsidered(team: Team, rollout: Rollout, phase: Phase) -> tuple[Rollout, Tensor]:
    """A rollout of an older policy as the learner sees it now: its values and log-probabilities, and how far to trust it.

    PPO's ratio then starts at 1, at the policy of the update's beginning (decoupled PPO: Hilton, Cobbe & Schulman 2021,
    arXiv:2110.00641); how much likelier an action was to the policy that chose it is the trust, [T, B, N].
    """
    alive, none = rollout.alive, torch.zeros_like(rollout.value)
    _load(team, rollout, rollout.active[alive], none[alive], none[alive])
    everything = torch.arange(int(alive.sum()))
    z = torch.cat(team.each("learner.forward_messages", phase, everything, None), 1)
    paths = Paths(team, rollout)
    heard = [paths.there(0, z, everything)]
    for nth in range(1, len(rollout.z)):
        z = torch.cat(team.each("learner.forward_replies", phase, heard[-1], None), 1)
        heard.append(paths.there(nth, z, everything))
    log_prob, value = rollout.log_prob.clone(), rollout.value.clone()
    log_prob[alive] = torch.cat(team.each("learner.reconsider", phase, tuple(heard)), 1)
    elapsed = rollout.elapsed.expand(alive.shape)[alive]
    value[alive] = team.each("learner.values", rollout.observation[alive], elapsed)[0]
    trust = torch.where(rollout.active, (log_prob - rollout.log_prob).exp().clamp(max=1), torch.ones(()))
    return rollout._replace(log_prob=log_prob, value=value), trust


def _load(
    team: Team, rollout: Rollout, active: Tensor, advantage: Tensor, target: Tensor, weight: Tensor | None = None
) -> None:
    """Give each host its samples: those of worlds that were not over, [L, N]; `weight`, [L], says how much each counts."""
    alive = rollout.alive

    def mine(tensor: Tensor) -> list[Tensor]:
        return team.split(tensor, 1)

    columns = zip(
        *(
            mine(x)
            for x in (
                rollout.observation[alive], rollout.action[alive], rollout.log_prob[alive], advantage, target, active,
                rollout.talk[alive], rollout.echo[alive], rollout.advice[alive],
            )
        ),
        strict=True,
    )  # fmt: skip
    before = [torch.cat([torch.zeros_like(z[:1]), z[:-1]]) for z in rollout.z[1:]]
    past, held, noises = (
        list(zip(*(mine(part[alive]) for part in parts), strict=True)) or [()] * len(team.blocks)
        for parts in (rollout.context, before, rollout.noise)
    )
    state, elapsed = rollout.observation[alive], rollout.elapsed.expand(alive.shape)[alive]
    said_in = _said_in(rollout)
    samples = [
        Samples(
            observation,
            state,
            elapsed,
            action,
            log_prob,
            adv,
            tgt,
            act,
            contexts,
            last,
            noise,
            talk,
            echo,
            advice,
            said_in,
            weight,
        )
        for (observation, action, log_prob, adv, tgt, act, talk, echo, advice), contexts, last, noise in zip(
            columns, past, held, noises, strict=True
        )
    ]
    team.each("learner.load", samples)


def _said_in(rollout: Rollout) -> Tensor | None:
    """The sample in which that was said which is heard in each, [L].

    In the place of what is heard before anything can be stands what is said too late to be heard: so each sample is there
    once, and what is said has its price, whether or not anybody hears it.
    """
    alive, delay = rollout.alive, rollout.delay
    if not delay:
        return None
    number = torch.zeros(alive.shape, dtype=torch.int64)
    number[alive] = torch.arange(int(alive.sum()))
    step = torch.arange(len(alive))[:, None]
    return number.gather(0, (step - delay) % alive.sum(0).clamp_min(1))[alive]


def update(
    team: Team,
    rollout: Rollout,
    phase: Phase,
    learning: Learning,
    generator: torch.Generator,
    iteration: int,
    weights_K: Tensor | None = None,
) -> LossTerms:
    """PPO over one rollout; the mean loss terms of its updates. `weights_K` say how much each part of a mixture counts."""
    trust = None
    if rollout.behind.any():
        rollout, trust = reconsidered(team, rollout, phase)
    reward = rollout.reward - phase.objective.bit_price * rollout.bits
    advantage, target = advantages(rollout, reward, learning, trust)
    alive, active = rollout.alive, rollout.active[rollout.alive]
    scale = advantage[alive][active]
    spread = float(scale.std()) + 1e-6
    normalised = (advantage[alive] - scale.mean()) / spread
    if trust is not None:
        normalised = normalised * trust[alive]
    phase = phase._replace(objective=phase.objective.at_scale(spread))
    weight = None if weights_K is None else weights_K[rollout.part].expand(alive.shape)[alive]
    _load(team, rollout, active, normalised, target[alive], weight)
    n_samples, n_rounds, paths = int(alive.sum()), len(rollout.z), Paths(team, rollout)
    totals: list[LossTerms] = []
    pending: Gradients | None = None  # applied with the next question, to save a call
    draws_edges = learning.has_learned_graph and phase.edge_learning_rate > 0
    for epoch in range(learning.n_epochs):
        number = iteration * learning.n_epochs + epoch + 1
        step_edges = draws_edges and learning.edges_every > 0 and number % learning.edges_every == 0
        order = torch.randperm(n_samples, generator=generator)
        for index in order.chunk(learning.n_minibatches):
            seed = int(torch.randint(2**31, (1,), generator=generator))
            graph_seed = seed if draws_edges else None
            z = torch.cat(team.each("learner.forward_messages", phase, index, pending), 1)
            heard = paths.there(0, z, index)
            for nth in range(1, n_rounds):
                z = torch.cat(team.each("learner.forward_replies", phase, heard, graph_seed), 1)
                heard = paths.there(nth, z, index)
            legs = team.each("learner.backward_actions", phase, heard, graph_seed)
            gradient = sum((leg[0] for leg in legs[1:]), legs[0][0])
            for nth in range(n_rounds - 1, 0, -1):
                gradient = sum(team.each("learner.backward_replies", paths.back(nth, gradient, index)))
            shares = team.each("learner.backward_messages", paths.back(0, gradient, index))
            weights = sum((s[0] for s in shares[1:]), shares[0][0])
            edges = sum((s[1] for s in shares[1:]), shares[0][1])
            pending = Gradients(weights, edges, step_edges)
            totals.append(LossTerms(*(sum(parts) for parts in zip(*(leg[1] for leg in legs), strict=True))))
    team.each("learner.apply", phase, pending)
    return LossTerms(*(torch.stack(list(column)).mean() for column in zip(*totals, strict=True)))
