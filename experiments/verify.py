"""Verification: separate hosts compute the same codes, actions and bits as the learner's one batch.

The same evaluation is played twice with the same seed, once over the hosts of the run and once with all agents in one
place, and compared round by round: what every receiver decoded, what every agent did, what was estimated. A difference
means a hidden channel, or arithmetic that depends on where an agent lives. The trainable codec is held against the frozen
one besides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from commlib.agents.play import Round
from commlib.agents.runtime import LocalRuntime, Runtime
from commlib.codec import START, Codes
from commlib.codecs.build import make_codec
from commlib.config import RunConfig
from commlib.exchange import Plan, make_plan, partition
from commlib.experiments.checkpoint import read_checkpoint
from commlib.experiments.evaluate import evaluate
from commlib.experiments.model import Model
from commlib.experiments.progress import Display
from commlib.frame import unpack
from commlib.journal import Journal
from commlib.records import RunFolder
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


class Heard(NamedTuple):
    """One round, agent by agent: codes [N, W, P] as the listeners have them, actions [W, N], estimated bits."""

    codes: Codes
    action: NDArray[np.int64]
    estimate_bits: float


@dataclass
class Eavesdropper:
    """Decodes every frame as its receivers do, and keeps what was said and done."""

    model: Model
    plan: Plan
    rounds: list[Heard] = field(default_factory=list)
    _past: Codes = field(default_factory=lambda: np.zeros((0, 0, 0), np.int64))

    def __call__(self, seen: Round) -> None:
        """Take down one round."""
        codec, alive = self.model.codec, seen.alive
        if seen.step == 0:
            self._past = np.full((len(self.plan.host_of), len(alive), codec.n_positions), START)
        for index, trunk in enumerate(self.plan.trunks):
            senders = [route.sender for route in trunk.routes]
            context = self._past[senders][:, alive].reshape(-1, codec.n_positions)
            codes = codec.expected(context)
            if index in seen.frames:
                frame = unpack(seen.frames[index])
                spoken = np.ones(len(context), bool)
                if frame.silent is not None:
                    spoken = np.unpackbits(np.frombuffer(frame.silent, np.uint8), count=len(context)) == 0
                codes[spoken] = codec.decode(frame.payload, context[spoken])
            for sender, row in zip(senders, codes.reshape(len(senders), -1, codec.n_positions), strict=True):
                self._past[sender, alive] = row
        estimate = sum(s.estimate_bits for s in seen.sent)
        self.rounds.append(Heard(self._past.copy(), seen.action.copy(), estimate))


def verify(
    model: Model, config: RunConfig, world: World, runtime: Runtime, folder: RunFolder, display: Display
) -> Verdict:
    """Play on the hosts of `runtime` and in one batch, and compare; without a budget, so that nothing is dropped."""
    config = config.model_copy(update={"budget": None})
    plays = []
    for place in (runtime, LocalRuntime(1)):
        plan = make_plan(model.edges, partition(world.spec.n_agents, place.n_hosts), "broadcast")
        ear = Eavesdropper(model, plan)
        with Journal.in_memory() as journal:
            evaluate(
                model,
                config.model_copy(update={"charging": "broadcast"}),
                world,
                place,
                journal,
                display,
                watcher=ear,
            )
        plays.append(ear.rounds)
    differences = compare(*plays)
    n_ties, against_frozen = compare_codecs(model, config, folder)
    return Verdict(
        len(plays[0]),
        sum(heard.codes.size for heard in plays[0]),
        sum(heard.action.size for heard in plays[0]),
        N_PROBES,
        n_ties,
        differences + against_frozen,
    )


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
    codec = make_codec(config.codec, config.message_width, config.codebook_size)
    codec.load_state_dict(
        {k.removeprefix("codec."): v for k, v in checkpoint.tensors.items() if k.startswith("codec.")}
    )
    generator = torch.Generator().manual_seed(config.seed)
    x = torch.rand(N_PROBES, config.message_width, generator=generator) * 2 - 1
    with torch.no_grad():
        trained = codec(x)
    fresh = np.full((N_PROBES, model.codec.n_positions), START)
    frozen = model.codec.choose(x.numpy(), fresh)
    unlike = (trained.codes.numpy() != frozen).any(-1)
    distances = [((x.numpy() - z) ** 2).sum(-1) for z in (trained.z.numpy(), model.codec.embed(frozen))]
    ties = np.abs(distances[0] - distances[1]) <= TIE * np.maximum(*distances) + 1e-12
    meant = model.codec.embed(trained.codes.numpy())
    astray = np.abs(meant - trained.z.numpy()).max(-1) > TIE  # the same code stands for something else
    wrong = int(((unlike & ~ties) | astray).sum())
    words = [f"the trainable and the frozen codec disagree on {wrong} of {N_PROBES} messages"] if wrong else []
    return int((unlike & ties).sum()), words
