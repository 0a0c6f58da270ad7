"""Training in stages, each visible: learn the task, fit the codec, fine-tune through it, calibrate, evaluate.

    dense       continuous messages, unpriced: the task comes first, a price too early shuts agents up for good
    fit         the codec is fitted to what they learned to say
    fine-tune   briefly, through the codec, its codebook held still
    calibrate   the prior is counted on their own runs, the encoder made price-aware
    priced      (optional) fine-tuned under the bit price, and calibrated again
    evaluate    over real frames, charged

A run that was killed continues from its last checkpoint and ends with the same result and the same books.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from commlib.agents.balance import Balance
from commlib.agents.learner import Learner, Phase
from commlib.agents.policy import PolicySpec
from commlib.agents.practice import Practice
from commlib.agents.pruning import KEPT, SLACK, cut, judge
from commlib.agents.rollouts import Relay, Rollouts, Shards, make_player
from commlib.agents.runtime import LocalRuntime, Runtime
from commlib.agents.training import Learning, Rollout, Team, update
from commlib.channel import Channel
from commlib.codec import Codec, FrozenCodec, fresh_context, next_context
from commlib.codecs.frozen import TableCodec
from commlib.codecs.prior import Prior, fit_prior
from commlib.codecs.store import check_storable, load_codec, read_header, save_codec
from commlib.config import LEARNED_GRAPHS, PRUNABLE, RunConfig, make_config, read_yaml, write_yaml
from commlib.errors import CodecError, ConfigError, RunError
from commlib.experiments.calibrate import Knowledge, calibrate
from commlib.experiments.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from commlib.experiments.compose import (
    check_budget_is_there,
    check_channel_is_crossed,
    codecs_of,
    complete,
    n_hosts,
    open_meter,
    open_runtime,
    resolve,
    why_no_router,
    world_of,
)
from commlib.experiments.evaluate import evaluate, random_return
from commlib.experiments.memory import fade
from commlib.experiments.model import Calibration, Model, learned_team, network_of
from commlib.experiments.progress import Display, make_display
from commlib.experiments.school import School
from commlib.experiments.worlds import make_world
from commlib.gate import Gate
from commlib.journal import Journal
from commlib.message import Edge
from commlib.objective import LossTerms, Objective, holds, merit
from commlib.plan import make_plan, partition
from commlib.records import Result, RunFolder, write_json, write_whole
from commlib.topology import make_topology
from commlib.world import World, WorldSpec

CHECKPOINT_EVERY = 20
RAMP = 0.25
"""The share of the priced stage in which the price rises."""
DEFAULT_OUT = Path("runs")


class Stage(NamedTuple):
    """A stretch of training, in environment steps."""

    name: str
    start: int
    stop: int


def stages_of(config: RunConfig) -> list[Stage]:
    """The stages that have any steps, in order."""
    shares = config.stages
    later = {
        "prune": shares.prune if config.topology in PRUNABLE else 0.0,
        "fine-tune": shares.fine_tune,
        "priced": shares.priced,
    }
    steps = {name: int(config.steps * share) for name, share in later.items()}
    stages, start = [], 0
    for name, length in {"dense": config.steps - sum(steps.values()), **steps}.items():
        stages += [Stage(name, start, start + length)] if length else []
        start += length
    return stages


def phase_of(config: RunConfig, stage: Stage, steps: int, bit_price: float, gate: Gate | None = None) -> Phase:
    """What holds for the iteration that starts after `steps` environment steps."""
    learning = config.learning
    share = min(1.0, (steps - stage.start) / (stage.stop - stage.start))
    is_dense, has_codec = stage.name == "dense", stage.name in ("fine-tune", "priced")
    ramp = min(1.0, share / RAMP)  # a price that jumps shuts agents up for good
    price = bit_price * ramp if stage.name == "priced" else 0.0
    first_rate = learning.learning_rate * (1.0 if is_dense else config.stages.fine_tune_rate)
    return Phase(
        learning_rate=first_rate * fallen(learning.schedule, share),
        edge_learning_rate=learning.edge_learning_rate if is_dense else 0.0,
        entropy_weight=learning.entropy_weight * (1 - share) if is_dense else 0.0,
        floor=learning.floor * max(0.0, 1 - share / 0.7) if is_dense else 0.0,
        noise=learning.noise if is_dense else 0.0,
        use_codec=has_codec,
        use_gate=stage.name == "priced",
        is_speech_fixed=stage.name == "fine-tune" and not config.stages.fine_tune_speech,
        all_edges=is_dense and config.topology == "commformer" and share < learning.warm_up,
        objective=Objective(learning.clip, learning.value_weight, price, learning.foresight),
        gate=gate if gate and stage.name == "priced" else Gate(),
        imitation=learning.imitation * max(0.0, 1 - steps / (config.steps * learning.imitation_until)),
        throws_dice=stage.name == "priced" and config.gate in ("random", "sampled"),
        heeds_budget=has_codec and config.show_budget,
    )


def fallen(schedule: Literal["linear", "rex"], share: float) -> float:
    """What is left of the learning rate after a share of a stage: from 1 to 0.05, in a line or by REX (Chen et al. 2021, sec. 4).

    >>> fallen("linear", 0.5), round(fallen("rex", 0.5), 3)
    (0.525, 0.683)
    """
    left = 1 - share
    return 0.05 + 0.95 * (left / (1 - share / 2) if schedule == "rex" else left)


def policy_spec(config: RunConfig, world: WorldSpec) -> PolicySpec:
    """The network that a configuration asks for."""
    return replace(
        PolicySpec.of(world, config.message_width, config.learning.hidden),
        gate=config.gate if config.gate in ("talk", "sampled") else "none",
        aggregation=config.aggregation,
        n_rounds=config.rounds,
        signal=config.signal,
        has_foresight=config.learning.foresight > 0,
        n_speakers=n_speakers(config, world.n_agents),
        ids=config.ids,
        echo=fade(world.n_steps) if config.memory in ("echoes", "both") else 0.0,
    )


def n_speakers(config: RunConfig, n_agents: int) -> int:
    """How many may speak in a step where signals are ranked: the density's share, but at least one; else 0."""
    return max(1, int(config.density * n_agents)) if config.signal == "topk" else 0


def build_learner(config: RunConfig, world: WorldSpec, agents: list[int]) -> Learner:
    """A host's learner; runs on the host, so that no module travels."""
    topology = make_topology(config.topology, world.n_agents, config.density, config.graph_seed)
    spec = policy_spec(config, world)
    return Learner(spec, agents, codecs_of(config), topology, config.seed)


def counted(codec: nn.Module, plays: Sequence[tuple[Tensor, Tensor]]) -> Prior:
    """The prior of a codec, counted from what was said in plays, each message told by its nearest code.

    A play is its messages [T, B, N, D] and which worlds were alive, [T, B].
    """
    frozen = cast("TableCodec", cast("Codec", codec).freeze())
    found = []
    for messages, alive in plays:
        context = fresh_context(messages[0, ..., 0].numel(), frozen.n_positions)
        for step, lives in zip(messages, alive, strict=True):
            codes = frozen.choose(step.reshape(-1, frozen.width).numpy(), context)
            spoken = lives[:, None].expand(step.shape[:2]).flatten().numpy()
            found.append((codes[spoken], context[spoken]))
            context = next_context(context, codes)
    said, contexts = (np.concatenate(column) for column in zip(*found, strict=True))
    return fit_prior(said, contexts, frozen.prior.alphabet, frozen.prior.kind, frozen.prior.n_ages)


def success_by_part(rollout: Rollout) -> Tensor:
    """The mean success in each part of a mixture, [K]."""
    part, success = rollout.part, rollout.success.float()
    return torch.zeros(int(part.max()) + 1).index_add_(0, part, success) / part.bincount()


@dataclass
class Training:
    """One run of training on open hosts: where it stands, and how it goes on."""

    config: RunConfig
    world: World
    runtime: Runtime
    folder: RunFolder
    display: Display

    def __post_init__(self) -> None:
        config, spec = self.config, self.world.spec
        self.codecs = nn.ModuleList(codecs_of(config))
        frozen = self.frozen()
        widths, n_positions = [codec.width for codec in frozen], [codec.n_positions for codec in frozen]
        has_ages = config.aggregation == "aged"
        learner_runtime = LocalRuntime(1) if config.spread == "worlds" else self.runtime
        plan = make_plan((), partition(spec.n_agents, learner_runtime.n_hosts), config.charging)
        self.team = Team(learner_runtime, plan, widths, n_positions, has_ages=has_ages)
        self.team.each("set_learner", build_learner, config, spec, [list(block) for block in self.team.blocks])
        learning = config.learning
        self.learning = Learning(
            n_worlds=learning.n_worlds or 256,
            n_epochs=learning.n_epochs,
            n_minibatches=learning.n_minibatches,
            gamma=learning.gamma,
            gae_lambda=learning.gae_lambda,
            edges_every=learning.edges_every if config.topology == "commformer" else 0,
            has_learned_graph=config.topology in LEARNED_GRAPHS,
            channel=None if learning.channel is None else Channel.parse(learning.channel),
            practice=Practice.of(config.budgets.all, config.episodes or 1, config.parallel_worlds or 1)
            if config.show_budget
            else None,
        )
        self.generator = torch.Generator().manual_seed(config.seed)
        self.rollouts: Rollouts = Relay(self.team, self.world, self.learning, self.generator)
        if config.spread == "worlds":
            everybody = list(range(spec.n_agents))
            recipe = (
                partial(world_of, config), partial(build_learner, config, spec, everybody), widths, n_positions, has_ages,
                self.learning,
            )  # fmt: skip
            sizes = learning.shards, learning.staleness
            self.rollouts = Shards(self.runtime, self.team, self.learning, *sizes, self.generator, make_player, *recipe)
        self.balance = self._balance() if spec.parts else None
        self.iteration, self.steps, self.bit_price = 0, 0, 0.0
        rate = config.gate_rate if config.gate == "random" else 0.0
        self.gate = Gate("random" if config.gate == "random" else "none", rate, config.seed)
        self.fitted, self.priced = False, False  # the stages that were entered
        self.seconds, self.cpu_seconds = 0.0, 0.0
        self.calibration_seconds, self.calibration_steps = 0.0, 0

    def _balance(self) -> Balance | None:
        """What weighs the worlds of a mixture; None where all count alike."""
        spec = self.world.spec
        if self.config.learning.balance == "even":
            return None
        if not spec.success:
            self.display.say(
                f"{'balance':>10}  {spec.name} defines no success to be balanced by: its worlds count alike"
            )
            return None
        return Balance(len(spec.parts))

    def say_by_which_recipe(self) -> None:
        """A line where a world's own recipe is not what its team is trained by."""
        if self.world.spec.parts:
            first = self.config.world.partition("+")[0]
            self.display.say(
                f"{'mixture':>10}  learned by the recipe of {first}, the first; what others need is given by flags"
            )

    # --- the stages ---------------------------------------------------------------------------------------------------

    def run(self) -> Model:
        """All stages from where the run stands to a calibrated model."""
        for stage in stages_of(self.config):
            if self.steps >= stage.stop:
                continue
            if stage.name == "prune":
                self.prune(stage)
                self.save()
                continue
            if stage.name != "dense" and not self.fitted:
                self.fit()
            if stage.name == "priced" and not self.priced:
                self.set_price()
            self.learn(stage, stage.stop)
            self.save()
        if not self.fitted and self.config.codec != "float32":
            self.fit()
            self.save()
        self.rollouts.close()
        return self.calibrated(Knowledge(self.config.prior, self.config.ages))

    def prune(self, stage: Stage) -> None:
        """Cut edges, train on, look again; what a cut cost too much is undone. Not saved before it is done."""
        phase = phase_of(self.config, stage, stage.start, 0.0)
        n, margin = self.world.spec.n_agents, self.config.stages.margin
        seed = int(torch.randint(2**31, (1,), generator=self.generator))
        edges = tuple(Edge(s, r) for s in range(n) for r in range(n) if s != r)
        n_cuts = max(1, math.ceil(math.log(max(2, n)) / -math.log(KEPT)))  # down to one sender per receiver
        judged = best = judge(self.team, self.world, phase, self.learning, seed)
        for nth in range(1, n_cuts + 1):
            before, kept = self.team.each("learner.state")[0], edges
            edges = cut(self.team, phase, judged.rollout, kept)
            self.learn(stage, stage.start + nth * (stage.stop - stage.start) // n_cuts)
            judged = judge(self.team, self.world, phase, self.learning, seed)
            if not holds(judged, best, SLACK * margin):
                self.team.each("learner.load_state", before)
                edges = kept
                break
            best = max(best, judged, key=merit)
        self.learn(stage, stage.stop)
        self.display.say(f"{'prune':>10}  {len(edges)} of {n * (n - 1)} edges are worth keeping")

    def learn(self, stage: Stage, stop: int) -> None:
        """Iterations of one stage, up to so many steps."""
        while self.steps < stop:
            self.team.runtime.checkpoint("learner")
            started, cpu = time.perf_counter(), time.process_time()
            phase = phase_of(self.config, stage, self.steps, self.bit_price, self.gate)
            rollout = self.rollouts.gather(phase, min(1.0, self.steps / stages_of(self.config)[0].stop))
            weights = None if self.balance is None else self.balance.weights
            terms = update(self.team, rollout, phase, self.learning, self.generator, self.iteration, weights)
            self.iteration += 1
            self.steps += rollout.n_steps
            self.seconds += time.perf_counter() - started
            self.cpu_seconds += time.process_time() - cpu
            self.note(stage, phase, rollout, terms)
            if self.balance is not None:
                self.balance.learn(success_by_part(rollout))
            if stage.name != "prune" and (self.iteration == 1 or self.iteration % CHECKPOINT_EVERY == 0):
                self.save()

    def say_what_is_shown(self) -> None:
        """A line where agents are shown a budget that tells them nothing."""
        if self.learning.practice is not None and self.learning.practice.is_whole:
            self.display.say(
                f"{'budget':>10}  {self.config.budget} is whole whenever agents look, so they always see 1; one per episode "
                f"or run would tell them something"
            )

    def fit(self) -> None:
        """Fit the codec to what the agents say now, and give it to every host."""
        self.display.say(f"{'fit':>10}  the {self.config.codec} codec to recorded messages")
        stage = stages_of(self.config)[0]
        phase = phase_of(self.config, stage, stage.stop, 0.0)._replace(noise=0.0, use_codec=False, imitation=0.0)
        plays = [self.rollouts.gather(phase, 1.0, is_record=True) for _ in range(2)]
        for nth, codec in enumerate(self.codecs):
            recorded = torch.cat([play.z[nth][play.alive].flatten(0, 1) for play in plays])
            if not torch.isfinite(recorded).all():
                raise CodecError("recorded messages hold NaN or infinity; lower the learning rate")
            cast("Any", codec).fit(recorded, self.generator)
            # Who is silent is heard to say what is expected, so that must be known by now; and without a prior all codes
            # would cost alike, many times what they cost in use, and a purse that agents see would be empty at once.
            needs_prior = self.config.signal == "topk" or self.config.show_budget
            if needs_prior and isinstance(cast("Codec", codec).freeze(), TableCodec):
                cast("Any", codec).set_prior(counted(codec, [(play.z[nth], play.alive) for play in plays]))
        self.share_codecs()
        self.fitted = True

    def set_price(self) -> None:
        """The price of the priced stage: as configured, or what calibration finds."""
        model = self.calibrated()
        for codec, frozen in zip(self.codecs, model.codecs, strict=True):
            cast("Any", codec).set_prior(cast("TableCodec", frozen).prior)
        self.share_codecs()
        calibration = model.calibration
        found = calibration.bit_price(calibration.rate_weight(None))
        asked = (self.config.stages.price, self.config.bit_price, found)
        self.bit_price = next(price for price in asked if price is not None)
        self.gate = model.gate
        self.priced = True  # a price of 0 is a price: a resumed run must not look for another

    def share_codecs(self) -> None:
        """Give these codecs to every host."""
        self.team.each("learner.load_codecs", dict(self.codecs.state_dict()))

    def frozen(self) -> list[FrozenCodec]:
        """The codecs as they stand, one for each round of a step."""
        return [cast("Codec", codec).freeze() for codec in self.codecs]

    def calibrated(self, knowledge: Knowledge | None = None) -> Model:
        """The model as it stands, with prior and encoder calibrated; in training the prior keeps its natural shape."""
        self.display.say(f"{'calibrate':>10}  prior and price-aware encoder on the agents' own runs")
        weights, codec_state, edges = self.team.each("learner.deployed")[0]
        self.codecs.load_state_dict(codec_state)
        spec = policy_spec(self.config, self.world.spec)
        *earlier, codec = self.frozen()
        model = Model(partial(learned_team, spec, weights), codec, edges, gate=self.gate, earlier=tuple(earlier))
        self.world.set_progress(1.0)
        generator = torch.Generator().manual_seed(self.config.seed + 1)
        has_router = self.config.router == "learned" and knowledge is not None
        started = time.perf_counter()
        calibrated = calibrate(
            model,
            self.world,
            self.config.charging,
            self.config.stages,
            generator,
            rate_aware=self.config.rate_aware,
            knowledge=knowledge,
            is_event_gated=self.config.gate == "event",
            school=School(self.world.spec.n_steps, self.display.say) if has_router else None,
            show=partial(self.display.advance, "calibrate"),
        )
        self.calibration_seconds = time.perf_counter() - started
        self.calibration_steps = calibrated.calibration.n_steps
        return calibrated

    # --- the record ---------------------------------------------------------------------------------------------------

    def note(self, stage: Stage, phase: Phase, rollout: Rollout, terms: LossTerms) -> None:
        """A line in metrics.jsonl, and on the screen."""
        n_agents = self.world.spec.n_agents
        success = float(rollout.success.float().mean()) if self.world.spec.success else None
        bits = float(rollout.bits[rollout.alive].sum()) / (rollout.n_steps * n_agents) if phase.use_codec else None
        row: dict[str, Any] = {
            "iteration": self.iteration,
            "stage": stage.name,
            "steps": self.steps,
            "success": success,
            "return": float(rollout.reward.sum(0).mean()),
            "episode_steps": rollout.n_steps / rollout.alive.shape[1],
            "bits_per_agent_step": bits,
            "bit_price": phase.objective.bit_price,
            **{f"loss_{name}": float(value) for name, value in terms._asdict().items()},
            "seconds": round(self.seconds, 3),
        }
        if (parts := self.world.spec.parts) and self.world.spec.success:
            row["success_by_world"] = dict(zip(parts, success_by_part(rollout).tolist(), strict=True))
            if self.balance is not None:
                row["weights"] = dict(zip(parts, self.balance.weights.tolist(), strict=True))
        if self.config.learning.staleness:
            row["behind"] = float(rollout.behind.float().mean())
        if self.learning.has_learned_graph:
            row["edges"] = self.team.each("learner.open_edges", phase)[0]
        with self.folder.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        figures = {
            "reward": f"{row['return']:.3f}",
            **({} if success is None else {"success": f"{success:.1%}"}),
            **({} if bits is None else {"bits/agent/step": f"{bits:.2f}", "price": f"{phase.objective.bit_price:.2g}"}),
            "steps/s": f"{self.steps / max(self.seconds, 1e-9):,.0f}",
        }
        self.display.advance(stage.name, min(1.0, self.steps / self.config.steps), figures)

    def save(self) -> None:
        """A checkpoint from which the run continues exactly."""
        state = self.team.each("learner.state")[0]
        position = {
            "iteration": self.iteration,
            "steps": self.steps,
            "fitted": self.fitted,
            "priced": self.priced,
            "bit_price": self.bit_price,
            "gate_level": self.gate.level,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            **({} if self.balance is None else {"balance": self.balance.state()}),
        }
        tensors = {**state, "generator": self.generator.get_state()}
        write_checkpoint(self.folder.checkpoint, Checkpoint(tensors, position))

    def restore(self) -> None:
        """Continue from the last checkpoint, if there is one."""
        checkpoint = read_checkpoint(self.folder.checkpoint)
        if checkpoint is None:
            self.folder.metrics.unlink(missing_ok=True)
            return
        position = checkpoint.position
        self.iteration, self.steps = position["iteration"], position["steps"]
        self.fitted, self.priced, self.bit_price = position["fitted"], position["priced"], position["bit_price"]
        if self.config.gate == "event" and self.priced:
            self.gate = Gate("event", position["gate_level"], self.config.seed)
        self.seconds, self.cpu_seconds = position["seconds"], position["cpu_seconds"]
        if self.balance is not None:
            self.balance.load(position["balance"])
        tensors = dict(checkpoint.tensors)
        self.generator.set_state(tensors.pop("generator"))
        self.team.each("learner.load_state", tensors)
        self.codecs.load_state_dict({k.removeprefix("codec."): v for k, v in tensors.items() if k.startswith("codec.")})
        rows = [row for row in self.folder.read_metrics() if row["iteration"] <= self.iteration]
        write_whole(self.folder.metrics, "".join(json.dumps(row) + "\n" for row in rows).encode())
        self.display.say(f"{'resume':>10}  at iteration {self.iteration}, {self.steps:,} steps done")

    def throughput(self) -> dict[str, float]:
        """Steps per second of training, wall-clock; per core where the hosts are in this process."""
        figures = {
            "training_seconds": round(self.seconds, 3),
            "training_calibration_seconds": round(self.calibration_seconds, 3),
            "training_calibration_steps": float(self.calibration_steps),
            "training_steps_per_second": round(self.steps / max(self.seconds, 1e-9), 1),
        }
        if self.runtime.name == "local":
            figures["training_steps_per_cpu_second"] = round(self.steps / max(self.cpu_seconds, 1e-9), 1)
        return figures


def run_training(
    config: RunConfig,
    out: Path,
    *,
    display: Display,
    resume: bool = False,
    runtime: Runtime | None = None,
    world: World | None = None,
) -> Result:
    """One whole run into a folder: every stage, then the evaluation.

    Args:
        config: what to run.
        out: the run folder.
        display: where progress is shown.
        resume: continue a run that was cut off.
        runtime: open hosts to use; by default they are opened and closed here.
        world: the world itself, where it has no name.

    Raises:
        RunError: the folder holds a run already (without `resume`), or another one (with it).
    """
    folder = RunFolder(out)
    has_name = world is None
    world = world_of(config, world)
    config = complete(config, world.spec, has_name=has_name)
    check_names(config, world.spec)
    check_folder(folder, config, resume=resume)
    if resume and folder.result.is_file():
        display.say(f"{'resume':>10}  {out} is finished already")
        return folder.read_result()
    world.reset(1, torch.Generator().manual_seed(config.seed))  # a world that cannot start leaves no folder behind
    opened = runtime or open_runtime(config, n_hosts(config, world.spec.n_agents), display.say)
    try:
        with closing(open_meter(config, opened)) as meter:
            if not resume:
                make_folder(folder, config)
            training = Training(config, world, opened, folder, display)
            if resume:
                training.restore()
            training.say_what_is_shown()
            training.say_by_which_recipe()
            model = training.run()
            save_model(model, folder)
            with Journal(folder.journal) as journal:
                result = evaluate(
                    model,
                    config,
                    world,
                    opened,
                    journal,
                    display,
                    training=training.throughput(),
                    random_return=random_return(world, config),
                    meter=meter,
                    run=out,
                )
            write_json(folder.result, result.to_json())
            if config.learning.channel and not config.channel:
                display.say(
                    f"{'channel':>10}  learned over {config.learning.channel}, played over none; to see them over it: commlib "
                    f"evaluate {folder.path} --hosts {world.spec.n_agents} --channel '{config.learning.channel}'"
                )
            return result
    finally:
        if runtime is None:
            opened.close()
        world.close()


def check_names(config: RunConfig, world: WorldSpec) -> None:
    """Refuse what cannot be built before anything is written."""
    n_hosts(config, world.n_agents)
    check_budget_is_there(config)
    check_channel_is_crossed(config, world)
    if config.learning.imitation and not world.has_expert:
        raise ConfigError(
            f"{world.name} has no expert to learn from (each part needs one); give --learning.imitation 0"
        )
    for codec in codecs_of(config):
        check_storable(codec.freeze())
    make_topology(config.topology, world.n_agents, config.density, config.graph_seed)
    missing = why_no_router(config, world.n_agents) if config.router == "learned" else None
    if missing:
        asked = "the topology dynamic" if config.topology == "dynamic" else "--router learned"
        raise ConfigError(f"{asked} has nothing to decide: {missing}")


def check_folder(folder: RunFolder, config: RunConfig, *, resume: bool) -> None:
    """Refuse a folder that holds another run, an evaluation that was cut off, or no run to resume."""
    folder.check_not_cut_off()
    if folder.config.is_file():
        if not resume:
            raise RunError(f"{folder.path} holds a run already; choose another --out, or continue it with --resume")
        if other := other_setting(folder, config):
            raise ConfigError(
                f"{folder.path} holds a run with other settings: {other}; to continue it as it was: commlib train "
                f"--resume --out {folder.path}"
            )
        return
    if resume:
        raise RunError(f"{folder.path} holds no run to resume; start it without --resume")


def other_setting(folder: RunFolder, config: RunConfig) -> str:
    """The first setting in which a folder's run is not this one, as "learning.gamma is 0.8 there, 0.5 here"; else empty.

    Raises:
        ConfigError: the folder's configuration is damaged.
    """
    stored = make_config((str(folder.config), read_yaml(folder.config)))
    return _first_difference(stored.model_dump(), config.model_dump())


def _first_difference(stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> str:
    for name, here in wanted.items():
        there = stored[name]
        if isinstance(here, Mapping) and (inner := _first_difference(there, here, f"{prefix}{name}.")):
            return inner
        if there != here:
            return f"{prefix}{name} is {there!s:.60} there, {here!s:.60} here"
    return ""


def make_folder(folder: RunFolder, config: RunConfig) -> None:
    """Make the folder with its configuration."""
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        write_yaml(config, folder.config)
    except OSError as error:
        raise RunError(f"cannot write to {folder.path}: {error.strerror}; choose another --out") from error


def save_model(model: Model, folder: RunFolder) -> None:
    """Write the frozen codecs with their calibration, and the policy, so that `load_model` finds them."""
    network = network_of(model)
    assert network is not None
    spec, weights = network
    edges = [list(edge) for edge in model.edges]
    calibration = {**model.calibration.to_json(), "edges": edges, "gate": vars(model.gate)}
    save_codec(model.codec, folder.codec, calibration)  # type: ignore[arg-type]
    for nth, earlier in enumerate(model.earlier):
        save_codec(earlier, round_folder(folder, nth))  # type: ignore[arg-type]
    write_checkpoint(folder.codec.parent / "policy", Checkpoint(weights, vars(spec)))


def round_folder(folder: RunFolder, nth: int) -> Path:
    """Where the codec of an earlier round of a step lies; that of the last one is the run's `codec`."""
    return folder.codec / f"round-{nth + 1}"


def train(world: Any, *, out: str | Path | None = None, quiet: bool = False, **settings: Any) -> Result:  # noqa: ANN401
    """Train a team and evaluate it over real frames; the same as ``commlib train``.

    >>> import commlib
    >>> result = commlib.train("guide", steps=4000, episodes=16, seed=1, quiet=True)  # doctest: +SKIP

    Args:
        world: a name, a live world, a PettingZoo `ParallelEnv` or a factory of one.
        out: the run folder; default ``runs/WORLD-METHOD-SEED``.
        quiet: show no progress.
        settings: any setting of `commlib.config.RunConfig`, such as ``codec="int8"``.
    """
    made = None if isinstance(world, str) else make_world(world, settings.get("agents"))
    method = settings.pop("method", None)
    config = resolve(made.spec.name if made else world, method, None, settings)
    display = make_display(is_quiet=quiet)
    try:
        folder = Path(out) if out else DEFAULT_OUT / run_name(config)
        return run_training(config, folder, display=display, world=made)
    finally:
        display.close()


def run_name(config: RunConfig) -> str:
    """The default name of a run's folder."""
    world = "".join(c if c.isalnum() or c in "._-" else "-" for c in config.world)
    return f"{world}-{config.method}-{config.seed}"


def load_model(folder: RunFolder, world: World) -> Model:
    """The deployed team of a run folder; where nobody is known by an id, of as many agents as the world has.

    Raises:
        RunError: the run was never finished.
        CodecError: its codec is damaged.
        ConfigError: the world has another number of agents than the team was trained for, and that it cannot be.
    """
    checkpoint = read_checkpoint(folder.path / "policy")
    if checkpoint is None:
        raise RunError(f"{folder.path} holds no trained team; finish the run with `commlib train ... --resume`")
    position = {**checkpoint.position, "action_counts": tuple(checkpoint.position["action_counts"])}
    spec = PolicySpec(**position)
    header = read_header(folder.codec)["calibration"]
    edges = tuple(Edge(*edge) for edge in header["edges"])
    if world.spec.n_agents != spec.n_agents:
        spec, edges = _of_another_size(folder, spec, world.spec)
    have = (world.spec.n_agents, world.spec.observation_width, world.spec.action_counts)
    if (spec.n_agents, spec.observation_width, spec.action_counts) != have:
        raise RunError(f"{folder.path} was trained on another version of {world.spec.name}; train it again")
    codec = load_codec(folder.codec)
    calibration, gate = Calibration.from_json(header), Gate(**header["gate"])
    earlier = tuple(load_codec(round_folder(folder, nth)) for nth in range(len(spec.message_widths) - 1))
    return Model(partial(learned_team, spec, checkpoint.tensors), codec, edges, calibration, gate, earlier)


def _of_another_size(folder: RunFolder, spec: PolicySpec, world: WorldSpec) -> tuple[PolicySpec, tuple[Edge, ...]]:
    """The network and the graph of a team with as many agents as this world has; the weights are the same."""
    config = make_config((str(folder.config), read_yaml(folder.config)))
    wanted = f"{folder.path} was trained with {spec.n_agents} agents and cannot play with {world.n_agents}"
    if spec.ids != "none":
        raise ConfigError(
            f"{wanted}: it was trained with ids {spec.ids}, so each agent is known by its own; leave --agents out, or "
            f"train with --ids none"
        )
    if config.topology in LEARNED_GRAPHS:
        raise ConfigError(
            f"{wanted}: its graph was learned (topology {config.topology}) and has no place for others; leave --agents "
            f"out, or train with a graph that is given, such as --topology full"
        )
    graph = make_topology(config.topology, world.n_agents, config.density, config.graph_seed)
    if len(set(spec.action_counts)) > 1:
        raise ConfigError(f"{wanted}: its agents have different numbers of actions; leave --agents out")
    counts = (spec.action_counts[0],) * world.n_agents
    k = n_speakers(config, world.n_agents)
    return replace(spec, n_agents=world.n_agents, action_counts=counts, n_speakers=k), graph.edges()


__all__ = ["Stage", "Training", "load_model", "run_training", "stages_of", "train"]
