"""Verification: separate hosts compute the same codes, actions and bits as any other spread of the agents, and as the learner.

The same evaluation is played over the hosts of the run and with the agents spread otherwise, and compared round by round:
what every receiver decoded, what every agent did, what was estimated. A difference means a hidden channel, or arithmetic
that depends on where an agent lives. Then the learner is asked, round by round, what it would have said and done, and the
trainable codec is held against the frozen one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from commlib.agents.learner import Learner, Phase
from commlib.agents.play import Step
from commlib.agents.policy import older, with_age
from commlib.agents.runtime import LocalRuntime, Runtime
from commlib.codec import Codes, FrozenCodec, Vectors, fresh_context
from commlib.codecs.frozen import TableCodec
from commlib.config import RunConfig
from commlib.errors import RunError
from commlib.experiments.checkpoint import read_checkpoint
from commlib.experiments.compose import codecs_of
from commlib.experiments.eavesdrop import Eavesdropper, Heard
from commlib.experiments.evaluate import evaluate
from commlib.experiments.model import Model
from commlib.experiments.progress import Display
from commlib.experiments.train import build_learner
from commlib.gate import dice_of
from commlib.journal import Journal
from commlib.objective import Objective
from commlib.plan import make_plan, partition
from commlib.records import RunFolder
from commlib.world import World

TIE = 1e-4
"""Codes whose vectors are equally near, up to this share, are a tie, which sums in another order may break either way."""
N_PROBES = 4096


class Verdict(NamedTuple):
    """How much was compared, and every difference in words."""

    n_steps: int
    n_codes: int
    n_actions: int
    n_probes: int
    n_ties: int
    differences: list[str]


def verify(
    model: Model, config: RunConfig, world: World, runtime: Runtime, folder: RunFolder, display: Display
) -> Verdict:
    """Play on the hosts of `runtime`, spread otherwise, and through the learner, and compare.

    Without a budget, so that nothing is dropped. Where all agents live on one host, the play beside it has a host for
    each. The learner knows no price, so it is compared with a play in which bits are for nothing.
    """
    config = config.model_copy(update={"budget": None})
    config = config.model_copy(update={"channel": None})  # what got lost is no difference between learner and hosts
    beside = LocalRuntime(1 if runtime.n_hosts > 1 else world.spec.n_agents)
    hosts, spread = (_overheard(model, config, world, place, display) for place in (runtime, beside))
    pupil = Pupil.of(model, config, world, folder)
    _overheard(
        model, config.model_copy(update={"rate_aware": False, "bit_price": None}), world, runtime, display, pupil
    )
    n_ties, against_frozen = compare_codecs(model, config, folder)
    return Verdict(
        len(hosts) // len(model.codecs),
        sum(heard.codes.size for heard in hosts) + pupil.n_codes,
        sum(heard.action.size for heard in hosts) // len(model.codecs) + pupil.n_actions,
        N_PROBES,
        n_ties + pupil.n_ties,
        against_frozen + compare(hosts, spread) + pupil.differences,
    )


def _overheard(
    model: Model, config: RunConfig, world: World, runtime: Runtime, display: Display, pupil: Pupil | None = None
) -> list[Heard]:
    """One evaluation over a runtime's hosts, with every round taken down, and shown to the pupil."""
    plan = make_plan(model.edges, partition(world.spec.n_agents, runtime.n_hosts), config.charging)
    ears = [Eavesdropper(model, plan, nth) for nth in range(len(model.codecs))]

    def watch(seen: Step) -> None:
        before = [ear.by_sender(ear.past(seen)) for ear in ears]
        for ear in ears:
            ear(seen)
        if pupil is not None:
            pupil.check(seen, before, [ear.by_sender(ear.rounds[-1].codes) for ear in ears])

    with Journal.in_memory() as journal:
        evaluate(model, config, world, runtime, journal, display, watcher=watch)
    return [heard for rounds in zip(*(ear.rounds for ear in ears), strict=True) for heard in rounds]


@dataclass
class Pupil:
    """The learner of the checkpoint, asked in every round what it would say and do in the place of the hosts' agents.

    It computes all agents and worlds in one batch, as in training, so its sums may differ from the hosts' in the last
    bits; where that decides between two codes as near, or on which side of a boundary a dealt number falls, it is a tie.
    """

    learner: Learner
    phase: Phase
    model: Model
    n_steps: int
    n_codes: int = 0
    n_actions: int = 0
    n_ties: int = 0
    differences: list[str] = field(default_factory=list)
    _held: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """What listeners hold of every agent in each round of a step, [W, N, D], and for how long, [W, N]."""
    _echo: Tensor | None = None
    """What they remember having heard, [W, N, E]."""

    @classmethod
    def of(cls, model: Model, config: RunConfig, world: World, folder: RunFolder) -> Pupil:
        """The learner of a run folder, with all agents."""
        checkpoint = read_checkpoint(folder.checkpoint)
        if checkpoint is None:
            raise RunError(f"{folder.checkpoint} holds no checkpoint; the learner cannot be asked")
        learner = build_learner(config, world.spec, list(range(world.spec.n_agents)))
        learner.load_state(checkpoint.tensors)
        for trainable, frozen in zip(learner.codecs, model.codecs, strict=True):
            if isinstance(frozen, TableCodec):  # the prior was counted after training; it decides what silence means
                cast("Any", trainable).set_prior(frozen.prior)
        learner.load_codecs(learner.codecs.state_dict())
        learner.codecs.eval()  # a code that is drawn in training is the likeliest one in use
        is_learned = config.gate in ("talk", "sampled", "listen")
        phase = Phase(0.0, 0.0, 0.0, 0.0, 0.0, True, is_learned, False, Objective(), model.gate)
        return cls(learner, phase, model, world.spec.n_steps)

    def check(self, seen: Step, before: Sequence[Codes], after: Sequence[Codes]) -> None:
        """Compare one step: contexts [N, W, P + 1] before and codes [N, W, P] after each round, and the actions."""
        n_worlds, n_agents = seen.uniform.shape
        elapsed = torch.full((n_worlds,), seen.step / self.n_steps)
        z = torch.zeros(0)
        for nth, (past, codes) in enumerate(zip(before, after, strict=True)):
            context = torch.from_numpy(past).permute(1, 0, 2).contiguous()
            number, seed = seen.number + nth, self.model.gate.seed
            dice = np.stack([dice_of(seed, number, agent, n_worlds) for agent in range(n_agents)], 1)
            drawn = torch.from_numpy(dice[..., None])
            if nth == 0:
                said = self.learner.say(self.phase, torch.from_numpy(seen.observation), elapsed, context, drawn)
            else:
                nothing = torch.zeros_like(
                    self.learner.meant[..., :0]
                )  # messages are coded: what was held is in the past
                said = self.learner.reply(self.phase, z, context, nothing, drawn)
            found = torch.from_numpy(self._compare(self.model.codecs[nth], seen, past, codes, said.codes.numpy()))
            z = self._aged(nth, found, is_first=seen.step == 0)
        echo = None if seen.step == 0 else self._echo
        chosen = self.learner.choose(self.phase, z, torch.from_numpy(seen.uniform), echo)
        self._echo = chosen.echo
        alive = seen.alive
        unlike = chosen.action.numpy()[alive] != seen.action[alive]
        self.n_actions += unlike.size
        nudged = [
            self.learner.choose(self.phase, z, torch.from_numpy(seen.uniform + shift), echo).action.numpy()[alive]
            for shift in (-np.float32(TIE), np.float32(TIE))
        ]
        self._count("the learner would do", unlike, unlike & (nudged[0] != nudged[1]), seen.step)

    def _aged(self, nth: int, z: Tensor, *, is_first: bool) -> Tensor:
        """What was heard, with its age where agents look at that."""
        if not self.learner.policy.spec.has_ages:
            return z
        if is_first:
            self._held[nth : nth + 1] = [(torch.zeros_like(z), torch.zeros(z.shape[:2]))]
        before, age = self._held[nth]
        self._held[nth] = (z, older(age, before, z))
        return with_age(*self._held[nth])

    def _compare(self, codec: FrozenCodec, seen: Step, before: Codes, after: Codes, own: Codes) -> Vectors:
        """Hold the learner's codes [W, N, P] against those of a round; what was heard in it, [W, N, D]."""
        alive = seen.alive
        z = np.zeros((len(alive), len(after), codec.width), np.float32)
        for speaker in sorted({edge.sender for edge in self.model.edges}):
            heard, would, past = after[speaker, alive], own[alive, speaker], before[speaker, alive]
            z[alive, speaker] = codec.embed(heard, past)
            unlike = (heard != would).any(-1)
            x = self.learner.meant[:, speaker].numpy()[alive]
            distances = [((x - codec.embed(c, past)) ** 2).sum(-1) for c in (heard, would)]
            ties = unlike & (np.abs(distances[0] - distances[1]) <= TIE * np.maximum(*distances) + 1e-9)
            self._count(f"agent {speaker} would say", unlike, ties, seen.step)
            self.n_codes += len(heard)
        return z

    def _count(self, what: str, unlike: NDArray[np.bool_], ties: NDArray[np.bool_], step: int) -> None:
        self.n_ties += int(ties.sum())
        wrong = int((unlike & ~ties).sum())
        if wrong:
            self.differences.append(f"step {step}: {what} otherwise in {wrong} of {unlike.size} cases")


def compare(hosts: list[Heard], learner: list[Heard]) -> list[str]:
    """Every difference between two plays, round by round."""
    differences = []
    if len(hosts) != len(learner):
        differences.append(f"the hosts played {len(hosts)} rounds, the learner {len(learner)}")
    for number, (one, other) in enumerate(zip(hosts, learner, strict=False)):
        if one.codes.shape != other.codes.shape:
            differences.append(f"round {number}: {one.codes.shape[1]} worlds against {other.codes.shape[1]}")
            continue
        n_codes, n_actions = int((one.codes != other.codes).sum()), int((one.action != other.action).sum())
        if n_codes:
            differences.append(f"round {number}: {n_codes} of {one.codes.size} codes differ between hosts and learner")
        if n_actions:
            differences.append(f"round {number}: {n_actions} of {one.action.size} actions differ")
        if abs(one.estimate_bits - other.estimate_bits) > 1e-6 * max(1.0, other.estimate_bits):
            differences.append(
                f"round {number}: the hosts estimate {one.estimate_bits:.3f} bits, the learner {other.estimate_bits:.3f}"
            )
    return differences


def compare_codecs(model: Model, config: RunConfig, folder: RunFolder) -> tuple[int, list[str]]:
    """The trainable codec of the checkpoint against the frozen one on random messages: ties, and differences in words."""
    checkpoint = read_checkpoint(folder.checkpoint)
    if checkpoint is None:
        return 0, [f"{folder.checkpoint} holds no checkpoint, so the trainable codec cannot be compared"]
    codecs = nn.ModuleList(codecs_of(config))
    codecs.load_state_dict(
        {k.removeprefix("codec."): v for k, v in checkpoint.tensors.items() if k.startswith("codec.")}
    )
    codecs.eval()
    generator = torch.Generator().manual_seed(config.seed)
    n_ties, words = 0, []
    for codec, frozen in zip(codecs, model.codecs, strict=True):
        n_wrong, n_even = _compare_codec(codec, frozen, generator)
        n_ties += n_even
        if n_wrong:
            words.append(f"the trainable and the frozen codec disagree on {n_wrong} of {N_PROBES} messages")
    return n_ties, words


def _compare_codec(codec: nn.Module, frozen: FrozenCodec, generator: torch.Generator) -> tuple[int, int]:
    """On how many random messages a trainable and a frozen codec disagree, and how many are ties."""
    x = torch.rand(N_PROBES, frozen.width, generator=generator) * 2 - 1
    with torch.no_grad():
        trained = codec(x)
    fresh = fresh_context(N_PROBES, frozen.n_positions)
    codes = frozen.choose(x.numpy(), fresh)
    unlike = (trained.codes.numpy() != codes).any(-1)
    distances = [((x.numpy() - z) ** 2).sum(-1) for z in (trained.z.numpy(), frozen.embed(codes, fresh))]
    ties = np.abs(distances[0] - distances[1]) <= TIE * np.maximum(*distances) + 1e-12
    meant = frozen.embed(trained.codes.numpy(), fresh)
    astray = np.abs(meant - trained.z.numpy()).max(-1) > TIE  # the same code stands for something else
    return int(((unlike & ~ties) | astray).sum()), int((unlike & ties).sum())
