"""Teaching a router what it does to the listeners if a message is told otherwise.

Agents play, and everything that was said is taken down. Then each message is told otherwise in thought, one at a time:
not at all, coarser, or as something else. The harm is how likely a listener then acts otherwise than if it had heard the
nearest code (the causal effect of I2C: Ding et al. 2020, arXiv:2006.06455, eq. 2, with total variation for KL: which is
large where a choice is certain, not where it matters). The router learns to tell it from what the sender knew. Lessons
are taken from plays in which the router already decides, because silence leads to where no play without it comes
(DAgger: Ross, Gordon & Bagnell 2011, arXiv:1011.0686).

Shapes: T steps, W worlds, N agents, S senders, R receivers, D message width, P positions, L lessons of each sender.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from commlib.agents.policy import Policy, PolicySpec
from commlib.agents.router import deviance
from commlib.codec import Codes, FrozenCodec
from commlib.errors import AgentError

LEARNING_RATE, N_UPDATES, BATCH = 3e-3, 2000, 1024
KINDS = (0.45, 0.2, 0.25, 0.1)
"""The shares of messages told as silence, as they are, at another rate weight, and as what was said in another world."""


class Overheard(NamedTuple):
    """A play, taken down.

    Attributes:
        observation: [T, W, N, O]; alive: bool [T, W]; active: who could still act, bool [T, W, N].
        context: what listeners had, int64 [T, W, N, P + 1]; codes: what they then heard, int64 [T, W, N, P].
    """

    observation: Tensor
    alive: Tensor
    active: Tensor
    context: Codes
    codes: Codes


class Lessons(NamedTuple):
    """What was known, meant and told, [L, N, ..], and the harm that it did, [L, S, R]."""

    inputs: Tensor
    before: Tensor
    meant: Tensor
    told: Tensor
    harm: Tensor


class Graduate(NamedTuple):
    """A network with a router, and how much of the deviance of held-out harms it explains, of what their mean leaves."""

    spec: PolicySpec
    weights: dict[str, Tensor]
    explained: float


@torch.no_grad()
def lessons(
    policy: Policy,
    is_open_RS: Tensor,
    codec: FrozenCodec,
    heard: Overheard,
    n_steps: int,
    rate_weight: float,
    generator: torch.Generator,
) -> Lessons:
    """The lessons of a play of episodes of at most `n_steps` steps, in which a bit cost about so much."""
    n_rounds, n_worlds, n_agents, _ = heard.observation.shape
    everyone = list(range(n_agents))
    elapsed = (torch.arange(n_rounds) / n_steps).repeat_interleave(n_worlds)
    inputs = policy.inputs(heard.observation.flatten(0, 1), everyone, elapsed)
    meant = policy.speak(inputs)[0]
    shape = (n_rounds, n_worlds, n_agents, -1)

    def embed(codes: Codes, context: Codes) -> Tensor:
        flat = codec.embed(codes.reshape(-1, codes.shape[-1]), context.reshape(-1, context.shape[-1]))
        return torch.from_numpy(flat).view(*codes.shape[:-1], -1)

    delivered = embed(heard.codes, heard.context)
    truth = codec.choose(
        meant.reshape(-1, meant.shape[-1]).numpy(), heard.context.reshape(-1, heard.context.shape[-1])
    ).reshape(heard.codes.shape)
    true_z = embed(truth, heard.context)
    codes = _told(codec, meant.view(shape), truth, heard.context, rate_weight, generator)
    told = embed(codes, heard.context)

    harm = torch.zeros(n_rounds, n_worlds, n_agents, n_agents)
    acting = (heard.active & heard.alive[..., None]).float()
    rows = inputs.view(n_rounds, n_worlds, n_agents, -1)

    def act(sender: int, slot: Tensor) -> Tensor:
        inbox = delivered.clone()
        inbox[..., sender, :] = slot
        messages = inbox.flatten(0, 1)[:, None].expand(-1, n_agents, -1, -1)
        return policy.act(inputs, [messages], everyone, is_open_RS).softmax(-1).view(*shape)

    for sender in is_open_RS.any(0).nonzero()[:, 0].tolist():
        apart = act(sender, told[..., sender, :]) - act(sender, true_z[..., sender, :])
        harm[:, :, sender] = apart.abs().sum(-1) / 2 * acting
    harm *= is_open_RS.T
    before = torch.cat([torch.zeros_like(delivered[:1]), delivered[:-1]])
    kept = heard.alive
    return Lessons(rows[kept], before[kept], meant.view(shape)[kept], told[kept], harm[kept])


def _told(
    codec: FrozenCodec, meant: Tensor, truth: Codes, context: Codes, rate_weight: float, generator: torch.Generator
) -> Codes:
    """A way to tell each message, [T, W, N, P], drawn from `KINDS`."""
    flat, past = meant.reshape(-1, meant.shape[-1]).numpy(), context.reshape(-1, context.shape[-1])
    coarser = 16 ** float(torch.rand((), generator=generator)) * rate_weight
    ways = [codec.expected(past).reshape(truth.shape), truth, codec.choose(flat, past, coarser).reshape(truth.shape)]
    ways.append(truth[:, torch.randperm(truth.shape[1], generator=generator).numpy()])
    kind = torch.multinomial(torch.tensor(KINDS), meant[..., 0].numel(), replacement=True, generator=generator)
    return np.choose(kind.view(meant.shape[:-1])[..., None].numpy(), ways)


def teach(
    spec: PolicySpec,
    weights: dict[str, Tensor],
    is_open_RS: Tensor,
    known: list[Lessons],
    held_out: Lessons,
    seed: int,
) -> Graduate:
    """A network with a router that was taught by these lessons."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = Policy(replace(spec, has_router=True))
    missing, unexpected = policy.load_state_dict(weights, strict=False)
    if unexpected or not all(name.startswith("router.") for name in missing):
        raise AgentError(f"these weights are not those of the network: {[*unexpected, *missing][:3]}")
    router = policy.router
    assert router is not None
    everything = Lessons(*(torch.cat(column) for column in zip(*known, strict=True)))
    optimiser = torch.optim.Adam(router.parameters(), LEARNING_RATE)
    for update in range(N_UPDATES):
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 - update / N_UPDATES)
        index = torch.randint(len(everything.harm), (BATCH,), generator=generator)
        batch = Lessons(*(column[index] for column in everything))
        optimiser.zero_grad()
        deviance(_expected(policy, is_open_RS, batch), batch.harm).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    with torch.no_grad():
        left = deviance(_expected(policy, is_open_RS, held_out), held_out.harm).sum()
        mean = everything.harm.mean(0).expand_as(held_out.harm)
        explained = float(1 - left / deviance(mean, held_out.harm).sum().clamp_min(1e-9))
        is_heard = is_open_RS.any(0)
        distortion = (everything.meant - everything.told)[:, is_heard].square().sum()
        router.scale.copy_(distortion / everything.harm.sum().clamp_min(1e-6))
    return Graduate(policy.spec, {k: v.detach().clone() for k, v in policy.state_dict().items()}, explained)


def _expected(policy: Policy, is_open_RS: Tensor, lessons: Lessons) -> Tensor:
    """What the router expects, [L, S, R]; 0 over closed edges."""
    n_agents = len(is_open_RS)
    before = lessons.before[:, None].expand(-1, n_agents, -1, -1)
    receivers = torch.arange(n_agents).expand(n_agents, -1)
    expected = policy.harm(lessons.inputs, before, is_open_RS, lessons.meant, lessons.told, receivers)
    return expected * is_open_RS.T
