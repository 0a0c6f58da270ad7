"""Verification: separate hosts compute the same codes, actions and bits as any other spread of the agents, and as the learner.

The same evaluation is played over the hosts of the run and with the agents spread otherwise, and compared round by round:
what every receiver decoded, what every agent did, what was estimated. A difference means a hidden channel, or arithmetic
that depends on where an agent lives. Then the learner is asked, round by round, what it would have said and done, and the
trainable codec is held against the frozen one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from commlib.agents.learner import Learner, Phase
from commlib.agents.play import Round
from commlib.agents.runtime import LocalRuntime, Runtime
from commlib.codec import Codes, fresh_context
from commlib.codecs.frozen import TableCodec
from commlib.config import RunConfig
from commlib.errors import RunError
from commlib.experiments.checkpoint import read_checkpoint
from commlib.experiments.compose import codec_of
from commlib.experiments.eavesdrop import Eavesdropper, Heard
from commlib.experiments.evaluate import evaluate
from commlib.experiments.model import Model
from commlib.experiments.progress import Display
from commlib.experiments.train import build_learner
from commlib.gate import dice_of
from commlib.journal import Journal
from commlib.objective import Objective
from commlib.plan import make_plan, partition
from commlib.records import Result, RunFolder
from commlib.world import World

TIE = 1e-4
"""Codes whose vectors are equally near, up to this share, are a tie, which sums in another order may break either way."""
N_PROBES = 4096


class Verdict(NamedTuple):
    """How much was compared, and every difference in words."""

    n_rounds: int
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
    beside = LocalRuntime(1 if runtime.n_hosts > 1 else world.spec.n_agents)
    hosts, spread = (_overheard(model, config, world, place, display)[0] for place in (runtime, beside))
    pupil = Pupil.of(model, config, world, folder)
    _overheard(
        model, config.model_copy(update={"rate_aware": False, "bit_price": None}), world, runtime, display, pupil
    )
    n_ties, against_frozen = compare_codecs(model, config, folder)
    return Verdict(
        len(hosts),
        sum(heard.codes.size for heard in hosts) + pupil.n_codes,
        sum(heard.action.size for heard in hosts) + pupil.n_actions,
        N_PROBES,
        n_ties + pupil.n_ties,
        against_frozen + compare(hosts, spread) + pupil.differences,
    )


def _overheard(
    model: Model, config: RunConfig, world: World, runtime: Runtime, display: Display, pupil: Pupil | None = None
) -> tuple[list[Heard], Result]:
    """One evaluation over a runtime's hosts, with every round taken down, and shown to the pupil."""
    plan = make_plan(model.edges, partition(world.spec.n_agents, runtime.n_hosts), config.charging)
    ear = Eavesdropper(model, plan)

    def watch(seen: Round) -> None:
        before = ear.past(seen)
        ear(seen)
        if pupil is not None:
            pupil.check(seen, ear.by_sender(before), ear.by_sender(ear.rounds[-1].codes))

    with Journal.in_memory() as journal:
        result = evaluate(model, config, world, runtime, journal, display, watcher=watch)
    return ear.rounds, result


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

    @classmethod
    def of(cls, model: Model, config: RunConfig, world: World, folder: RunFolder) -> Pupil:
        """The learner of a run folder, with all agents."""
        checkpoint = read_checkpoint(folder.checkpoint)
        if checkpoint is None:
            raise RunError(f"{folder.checkpoint} holds no checkpoint; the learner cannot be asked")
        learner = build_learner(config, world.spec, list(range(world.spec.n_agents)))
        learner.load_state(checkpoint.tensors)
        if isinstance(model.codec, TableCodec):  # the prior was counted after training; it decides what silence means
            learner.codec.set_prior(model.codec.prior)
            learner.load_codec(learner.codec.state_dict())
        cast("nn.Module", learner.codec).eval()  # a code that is drawn in training is the likeliest one in use
        is_learned = config.gate in ("talk", "sampled")
        phase = Phase(0.0, 0.0, 0.0, 0.0, 0.0, True, is_learned, False, Objective(), model.gate)
        return cls(learner, phase, model, world.spec.n_steps)

    def check(self, seen: Round, before: Codes, after: Codes) -> None:
        """Compare one round: contexts [N, W, P + 1] before it, codes [N, W, P] after it, and the actions."""
        speakers = sorted({edge.sender for edge in self.model.edges})
        alive = seen.alive
        elapsed = torch.full((len(alive),), seen.step / self.n_steps)
        context = torch.from_numpy(before).permute(1, 0, 2).contiguous()
        dice = np.stack(
            [dice_of(self.model.gate.seed, seen.number, agent, len(alive)) for agent in range(len(before))], 1
        )[..., None]
        said = self.learner.say(
            self.phase, torch.from_numpy(seen.observation), elapsed, context, torch.from_numpy(dice)
        )
        z = np.zeros((len(alive), len(after), self.model.codec.width), np.float32)
        for speaker in speakers:
            heard, own = after[speaker, alive], said.codes[:, speaker].numpy()[alive]
            z[alive, speaker] = self.model.codec.embed(heard, before[speaker, alive])
            unlike = (heard != own).any(-1)
            x = self.learner.policy.speak(self.learner._inputs[:, speaker])[0].detach().numpy()[alive]
            distances = [((x - self.model.codec.embed(c, before[speaker, alive])) ** 2).sum(-1) for c in (heard, own)]
            ties = unlike & (np.abs(distances[0] - distances[1]) <= TIE * np.maximum(*distances) + 1e-9)
            self._count(f"agent {speaker} would say", unlike, ties, seen.step)
            self.n_codes += len(heard)
        action, _ = self.learner.choose(self.phase, torch.from_numpy(z), torch.from_numpy(seen.uniform))
        unlike = action.numpy()[alive] != seen.action[alive]
        self.n_actions += unlike.size
        nudged = [
            self.learner.choose(self.phase, torch.from_numpy(z), torch.from_numpy(seen.uniform + shift))[0].numpy()[
                alive
            ]
            for shift in (-np.float32(TIE), np.float32(TIE))
        ]
        self._count("the learner would do", unlike, unlike & (nudged[0] != nudged[1]), seen.step)

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
    codec = codec_of(config)
    codec.load_state_dict(
        {k.removeprefix("codec."): v for k, v in checkpoint.tensors.items() if k.startswith("codec.")}
    )
    codec.eval()
    generator = torch.Generator().manual_seed(config.seed)
    x = torch.rand(N_PROBES, config.message_width, generator=generator) * 2 - 1
    with torch.no_grad():
        trained = codec(x)
    fresh = fresh_context(N_PROBES, model.codec.n_positions)
    frozen = model.codec.choose(x.numpy(), fresh)
    unlike = (trained.codes.numpy() != frozen).any(-1)
    distances = [((x.numpy() - z) ** 2).sum(-1) for z in (trained.z.numpy(), model.codec.embed(frozen, fresh))]
    ties = np.abs(distances[0] - distances[1]) <= TIE * np.maximum(*distances) + 1e-12
    meant = model.codec.embed(trained.codes.numpy(), fresh)
    astray = np.abs(meant - trained.z.numpy()).max(-1) > TIE  # the same code stands for something else
    wrong = int(((unlike & ~ties) | astray).sum())
    words = [f"the trainable and the frozen codec disagree on {wrong} of {N_PROBES} messages"] if wrong else []
    return int((unlike & ties).sum()), words
