"""Evaluation: a deployed team plays over real frames, under a budget, and the figures are written down.

Every message here is leased, framed, carried, receipted and booked; the journal is the proof of the figures. Training
traffic (continuous messages, gradients, calibration) is not use and is not in the books: centralised training,
decentralised execution.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from commlib.agents.meters import Meter
from commlib.agents.play import SILENT, Tally, Watcher
from commlib.agents.runtime import Runtime
from commlib.agents.till import Books, Use, open_books
from commlib.budget import Budget, Budgets, Network
from commlib.channel import Channel
from commlib.config import RunConfig, write_yaml
from commlib.errors import ConfigError, RunError
from commlib.experiments.compose import check_delay, complete, n_hosts, open_meter, open_runtime, world_of
from commlib.experiments.control import REHEARSAL_SEED, Control, Stage
from commlib.experiments.intervals import estimate
from commlib.experiments.model import Calibration, Model, furnish, has_router, n_signals
from commlib.experiments.presence import is_open
from commlib.experiments.progress import Display
from commlib.frame import GREETING_BYTES
from commlib.information import perplexity
from commlib.journal import MAIN, Journal
from commlib.ledger import Ledger, Statement
from commlib.plan import ABSENCE_RULE, CHARGING_RULES, Plan, make_plan, partition
from commlib.records import (
    BitFigures,
    Bits,
    BudgetFigures,
    CodecHealth,
    Estimate,
    FrontierPoint,
    LedgerFigures,
    Result,
    RunFolder,
    versions,
    write_json,
)
from commlib.world import World, WorldSpec, for_evaluation, part_of

EVALUATION_SEED = 7_919
"""Added to the run's seed, so that evaluation never sees the episodes of training."""
FRESH_JOURNAL = "journal.sqlite.partial"
"""The books of an evaluation until they are whole."""
_TEAM = ("codec", "policy", "checkpoint", "metrics.jsonl")
"""What an evaluation copies: the trained team, and the curve of its training."""


def evaluate(
    model: Model,
    config: RunConfig,
    world: World,
    runtime: Runtime,
    journal: Journal,
    display: Display,
    *,
    training: dict[str, float] | None = None,
    random_return: Estimate | None = None,
    watcher: Watcher | None = None,
    meter: Meter = SILENT,
    run: Path | None = None,
) -> Result:
    """Play `config.episodes` episodes, `config.parallel_worlds` at a time, and sum up.

    Args:
        model: who plays.
        config: budget, price, episodes and seed are read from here.
        world: where; what it holds out from training, if anything, is what is played.
        runtime: the hosts, already started.
        journal: the books; an evaluation that was cut off may be repeated on the same journal.
        display: where progress is shown.
        training: throughput and seconds of the training, for the record.
        random_return: what random play returns, for the record.
        watcher: sees every round.
        meter: is told what each step comes to; not of rehearsals.
        run: the run folder, for the record.
    """
    started = time.perf_counter()
    world = for_evaluation(world)
    check_delay(config, world.spec)
    channel = None if config.channel is None else Channel.parse(config.channel)
    plan = make_plan(model.edges, partition(world.spec.n_agents, runtime.n_hosts), config.charging)
    plan = _lossy(plan, channel)
    furnish(runtime, plan, model)
    has_knob = (
        bool(model.calibration.rungs) or config.stages.priced > 0
    )  # a price acts on the encoder, or acted in training
    if config.bit_price is not None and not has_knob:
        raise ConfigError(
            f"bit_price = {config.bit_price:g} has nothing to act on: {config.method} has no price-aware "
            f"encoder; leave it out"
        )
    budgets = config.budgets.for_team(world.spec.n_agents, model.edges)
    network = None if config.network is None else Network.parse(config.network)
    world.set_progress(1.0)
    ledger = Ledger(journal, budget=budgets.main)
    open_books(ledger, budgets, network)
    books = Books(ledger, budgets, config.rationing.for_team(world.spec.n_agents), network)
    config = complete(config, world.spec)
    n_episodes = config.episodes or 1
    n_parallel = min(config.parallel_worlds or 1, n_episodes)
    stage, control = (
        Stage(runtime, plan, world, model, channel),
        _control(model.calibration, config, books, n_parallel, world.spec.n_agents),
    )
    generator = torch.Generator().manual_seed(config.seed + REHEARSAL_SEED)
    control.rehearse(stage, books, n_parallel, n_episodes, generator)
    if control.n_rehearsed:
        furnish(runtime, plan, model)  # what was said in rehearsals is not in the figures
    if control.verdict:
        display.say(control.verdict)
    rehearsed = time.perf_counter()
    generator = torch.Generator().manual_seed(config.seed + EVALUATION_SEED)
    played: list[Played] = []
    done = 0
    while done < n_episodes:
        n_worlds = min(n_parallel, n_episodes - done)
        control.aim(books.left, n_episodes - done)
        for account in control.budgets:
            ledger.note_price(account, control.prices.price(account), books.first_round)
        for account in budgets.accounts():
            meter.price(account, control.prices.price(account) + (control.rate_weight if account == MAIN else 0.0))
        tally = stage.play(books, n_worlds, control.tariff, generator, watcher, meter)
        played.append(Played(tally, control.price_of_a_bit))
        control.learn(tally.use, n_worlds)
        books = replace(books, first_round=books.first_round + stage.n_rounds, left=tally.left)
        done += n_worlds
        display.advance("evaluate", done / n_episodes, {"episodes": done})
    usage: NDArray[np.int64] = sum(runtime.each("desk.usage", [()] * runtime.n_hosts))
    tallies = [one.tally for one in played]
    seconds = {"evaluation": round(time.perf_counter() - rehearsed, 3)}
    if control.n_rehearsed:
        seconds["rehearsal"] = round(rehearsed - started, 3)
    throughput = {"evaluation_steps_per_second": round(sum(sum(t.lengths) for t in tallies) / seconds["evaluation"], 1)}
    for name, figure in (training or {}).items():
        (seconds if name.endswith("seconds") else throughput)[name] = figure
    figures = _figures(config, model, world, plan, played)
    return Result(
        **figures,
        runtime=runtime.name,
        hosts=runtime.n_hosts,
        ledger=_ledger_figures(ledger.statement()),
        budgets=_budget_figures(budgets, tallies, control, model.calibration, n_parallel),
        allocation=config.allocation if budgets else None,
        when_out=config.when_out if budgets else None,
        codec_health=CodecHealth(
            used_codes=int((usage.sum(0) > 0).sum()),
            perplexity=float(np.mean([perplexity(row) for row in usage])),
            dead_codes=int((usage.sum(0) == 0).sum()),
        ),
        journal_digest=journal.digest(),
        throughput=throughput,
        seconds=seconds,
        restarts=runtime.n_restarts,
        channel=config.channel,
        frames_lost=sum(tally.n_lost for tally in tallies),
        frames_unread=sum(tally.n_unread for tally in tallies),
        calls_refused=sum(runtime.each("refused", [()] * runtime.n_hosts)),
        versions=versions(),
        git=git_revision(),
        command=command_line(),
        random_return=random_return,
        run=str(run) if run else "",
    )


def _control(calibration: Calibration, config: RunConfig, books: Books, n_parallel: int, n_agents: int) -> Control:
    """The prices that meet the budgets; the one that is given or calibrated, where they do not decide."""
    if not config.rate_aware:
        return Control.fixed(0.0)
    if config.bit_price is not None:
        return Control.fixed(calibration.rate_weight(config.bit_price))
    return Control.of(books, calibration, n_agents, n_parallel)


def _lossy(plan: Plan, channel: Channel | None) -> Plan:
    """The plan over a channel that loses frames: links start afresh by the clock.

    Raises:
        ConfigError: no frame would ever pass through the channel.
    """
    if channel is None:
        return plan
    if len(set(plan.host_of)) == 1:
        raise ConfigError(
            "nothing passes through the channel, since all agents are on one host; give each its own (--hosts)"
        )
    return plan._replace(is_lossy=channel.is_lossy, refresh_every=channel.refresh)


def random_return(world: World, config: RunConfig) -> Estimate:
    """What agents return that draw every action evenly, over as many episodes as are played in parallel."""
    world = for_evaluation(world)
    n_worlds, spec = config.parallel_worlds or 1, world.spec
    generator = torch.Generator().manual_seed(config.seed + EVALUATION_SEED)
    counts = torch.tensor(spec.action_counts)
    world.set_progress(1.0)
    step = world.reset(n_worlds, generator)
    total = torch.zeros(n_worlds)
    dice = torch.Generator().manual_seed(config.seed)
    while not bool(step.done.all()):
        action = (torch.rand(n_worlds, spec.n_agents, generator=dice) * counts).long()
        step = world.step(torch.minimum(action, counts - 1))
        total += step.reward.mean(1)
    return estimate(total.tolist())


def _ledger_figures(statement: Statement) -> LedgerFigures:
    return LedgerFigures(
        granted=statement.granted,
        spent=statement.spent,
        leased=statement.leased,
        available=statement.available,
        dropped=statement.dropped_messages,
        degraded=statement.degraded_messages,
        deferred=statement.deferred_messages,
    )


def _budget_figures(
    budgets: Budgets, tallies: list[Tally], control: Control, calibration: Calibration, n_parallel: int
) -> list[BudgetFigures]:
    """What each budget came to over all batches of `n_parallel` episodes, its last price, and which one binds."""
    figures = []
    for account, budget in budgets.accounts().items():
        if budget.amount is None:
            continue
        uses = [tally.use[account] for tally in tallies]
        granted = budget.amount if budget.per == "run" else sum(use.granted for use in uses)
        figures.append(
            BudgetFigures(
                account=account,
                budget=str(budget),
                currency=budget.currency,
                granted=granted,
                spent=sum(use.spent for use in uses),
                wanted=sum(use.wanted for use in uses),
                n_full=sum(use.n_full for use in uses),
                price=(price := control.prices.price(account)),
                bit_price=calibration.bit_price(price)
                if account in control.budgets and budget.currency == "bits"
                else None,
                hint=_hint(budget, uses, n_parallel, is_priced=price > 0),
            )
        )
    scarce = [one for one in figures if one.n_full or one.price]
    binding = max(scarce, key=lambda one: one.spent / max(1, one.granted), default=None)
    return [one.model_copy(update={"is_binding": one is binding}) for one in figures]


def _hint(budget: Budget, uses: list[Use], n_parallel: int, *, is_priced: bool) -> str:
    """Why nothing was ever said, if that is because a budget is too small for the smallest frame; empty otherwise.

    At a price that rose for want of any frame that fits, nothing may have been wanted after the rehearsals. Then the
    budget is held against what no first frame on a trunk weighs less than.
    """
    if any(use.spent for use in uses):
        return ""
    unit = "us" if budget.currency == "latency" else budget.currency
    if any(use.n_full for use in uses):
        least, most = min(use.least_wanted for use in uses if use.least_wanted), max(use.most_held for use in uses)
        what = "the smallest frames that were to be sent at once take"
    elif is_priced and budget.currency == "bits" and budget.is_everybodys:
        least, most = 8 * GREETING_BYTES, budget.allowance(n_parallel)
        what = "the smallest frame there can be takes"
    else:
        return ""
    if least <= most:
        return ""
    return (
        f"nothing can be said under {budget}: {what} {least:,} {unit}, and at most {most:,} can be spent at once; "
        f"raise the budget, or let more worlds share a frame (--parallel-worlds)"
    )


class Played(NamedTuple):
    """A batch, and the price of a bit in it, in squared distortion (or harm)."""

    tally: Tally
    rate_weight: float


def _mean(played: list[Played], price: Callable[[float], float]) -> float:
    """What a rate weight is worth, over all episodes."""
    prices, counts = zip(*((price(one.rate_weight), len(one.tally.returns)) for one in played), strict=True)
    return prices[0] if len(set(prices)) == 1 else float(np.average(prices, weights=counts))


def _figures(config: RunConfig, model: Model, world: World, plan: Plan, played: list[Played]) -> dict[str, Any]:
    """What the batches come to: success, return, bits, messages, and the frontier."""
    n, tallies = world.spec.n_agents, [one.tally for one in played]

    def total(name: str) -> float:
        return float(sum(getattr(tally, name) for tally in tallies))

    slots, episodes, messages = total("n_slots"), sum(len(t.returns) for t in tallies), total("n_messages")
    sums = [total(f"{kind}_bits") for kind in ("estimate", "payload", "wire")]

    def bits_per(count: float) -> Bits:
        estimate_, payload, wire = (round(value / count, 6) if count else 0.0 for value in sums)
        return Bits(estimate=estimate_, payload=payload, wire=wire)

    success = [value for tally in tallies for value in tally.success] if world.spec.success else []
    chances = (len(model.codecs) - n_signals(model)) * sum(len(t.routes) for t in plan.trunks) * slots / n
    calibration = model.calibration
    return {
        "world": world.spec.name,
        "method": config.method,
        "codec": config.codec,
        "topology": config.topology,
        "router": "none" if config.router == "none" else "kept" if has_router(model) else "dropped",
        "gate": config.gate,
        "aggregation": config.aggregation,
        "ids": config.ids,
        "memory": config.memory,
        "rounds": config.rounds,
        "priced": config.stages.priced,
        "show_budget": config.show_budget,
        "foresight": config.learning.foresight,
        "imitation": config.learning.imitation,
        "imitation_until": config.learning.imitation_until if config.learning.imitation else None,
        "fine_tune_speech": config.stages.fine_tune_speech if config.stages.fine_tune else None,
        "balance": config.learning.balance if world.spec.parts else None,
        "schedule": config.learning.schedule,
        "seed": config.seed,
        "steps": config.steps,
        "charging_rule": f"{config.charging}: {CHARGING_RULES[config.charging]}; {ABSENCE_RULE}; evaluation only",
        "budget": config.budget,
        "bit_price": _mean(played, calibration.bit_price) if config.bit_price is None else config.bit_price,
        "rate_weight": _mean(played, float),
        "success": estimate(success),
        "success_by_world": _by_world(world.spec, tallies),
        "return_": estimate([value for tally in tallies for value in tally.returns]),
        "episode_steps": estimate([float(value) for tally in tallies for value in tally.lengths]),
        "bits": BitFigures(
            per_agent_step=bits_per(slots), per_agent_episode=bits_per(n * episodes), per_message=bits_per(messages)
        ),
        "messages_per_agent_step": messages / slots if slots else 0.0,
        "gate_rate": total("n_open") / chances if chances else 0.0,
        "density": len(model.edges) / (n * (n - 1)) if n > 1 else 0.0,
        "wire_bytes": int(sums[2]) // 8,
        "frames": int(total("n_frames")),
        "parallel_worlds": min(config.parallel_worlds or 1, config.episodes or 1),
        "rate_gap": sums[1] / sums[0] - 1 if sums[0] else 0.0,
        "frontier": [
            FrontierPoint(
                bit_price=calibration.bit_price(rung.rate_weight),
                rate_weight=rung.rate_weight,
                success=rung.success,
                return_=rung.return_,
                bits_per_agent_step=rung.bits_per_agent_step,
            )
            for rung in calibration.rungs
        ],
        "edges": [tuple(edge) for edge in model.edges],
    }


def _by_world(spec: WorldSpec, tallies: list[Tally]) -> dict[str, Estimate]:
    """Success in each part of a mixture; nothing of any other world."""
    if not spec.parts or not spec.success:
        return {}
    success = np.concatenate([tally.success for tally in tallies])
    part = torch.cat([part_of(len(tally.success), len(spec.parts)) for tally in tallies]).numpy()
    return {name: estimate(success[part == k]) for k, name in enumerate(spec.parts)}


def evaluate_run(path: Path, config: RunConfig, out: Path | None, display: Display) -> Result:
    """Evaluate a trained run again on hosts opened for it; see `evaluate_run_on`."""
    RunFolder.existing(path)
    world = world_of(config)
    runtime = open_runtime(config, n_hosts(config, world.spec.n_agents), display.say)
    try:
        with closing(open_meter(config, runtime)) as meter:
            return evaluate_run_on(runtime, path, config, out, display, meter)
    finally:
        runtime.close()
        world.close()


def next_evaluation(run: Path) -> Path:
    """The first free RUN/evaluation-N."""
    n = 1
    while (run / f"evaluation-{n}").exists():
        n += 1
    return run / f"evaluation-{n}"


def evaluate_run_on(
    runtime: Runtime, path: Path, config: RunConfig, out: Path | None, display: Display, meter: Meter = SILENT
) -> Result:
    """Evaluate a trained run again, with its own or other settings; its result and books are replaced whole.

    With `out` the team and the new figures go to that folder and the run stays as it is. What an evaluation that was
    killed left in the folder is replaced; its `config.yaml` comes last, so that the folder is no run before it is whole.

    Raises:
        RunError: the folder holds a run already, or another process is evaluating into it.
    """
    from commlib.experiments.train import load_model  # the trainer evaluates too

    source = RunFolder.existing(path)
    world = world_of(config)
    model = load_model(source, world)
    folder = source if out is None else RunFolder(out)
    is_new = out is not None and not out.exists()
    fresh, staged = folder.path / FRESH_JOURNAL, folder.staged
    check_free(folder, is_copy=out is not None)
    old = _old_result(source)
    training = {k: v for k, v in {**old.throughput, **old.seconds}.items() if k.startswith("training")} if old else {}
    try:
        discard_journal(fresh)
        stage(config, folder)
        if out is not None:
            copy_team(source, folder)
        with Journal(fresh) as journal:
            result = evaluate(
                model,
                config,
                world,
                runtime,
                journal,
                display,
                training=training,
                random_return=_random_return(old, world, config),
                meter=meter,
                run=folder.path,
            )
        check_put_away(fresh)
        write_json(staged.result, result.to_json())
        discard_journal(folder.journal)  # with what a killed writer left beside it, which would be replayed over ours
        fresh.replace(folder.journal)  # all three are written: from here on a full disk cannot part books from figures
        staged.result.replace(folder.result)
        staged.config.replace(folder.config)
        return result
    except BaseException:
        if is_new:  # a folder without figures is of no use to anybody
            shutil.rmtree(folder.path, ignore_errors=True)
        elif out is not None:
            discard_team(folder)
        raise
    finally:
        discard_journal(fresh)
        shutil.rmtree(staged.path, ignore_errors=True)
        world.close()


def _random_return(old: Result | None, world: World, config: RunConfig) -> Estimate | None:
    """What random play returns in this world: as it was measured after training, or anew with other agents."""
    if old is None or old.world == world.spec.name:
        return old.random_return if old else None
    return random_return(world, complete(config, world.spec))


def _old_result(folder: RunFolder) -> Result | None:
    """The figures of training, if there are any to carry over."""
    try:
        return folder.read_result()
    except RunError:
        return None


def check_put_away(journal: Path) -> None:
    """Make sure that closed books are in one file, so that they can be moved.

    Raises:
        RunError: somebody has been reading them for so long that a part still stands beside it.
    """
    beside = journal.with_name(journal.name + "-wal")
    if beside.is_file() and beside.stat().st_size:
        raise RunError(
            f"{journal} could not be put away as one file, since another program has been reading it for seconds; end it "
            f"and evaluate again"
        )


def discard_journal(path: Path) -> None:
    """Remove a journal that was not finished, with what sqlite keeps beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def check_free(folder: RunFolder, *, is_copy: bool) -> None:
    """Refuse a folder into which somebody else is evaluating, and for a copy of a run one that holds anything of that kind.

    Raises:
        RunError: it does.
    """
    if is_copy and folder.config.exists():
        raise RunError(f"{folder.path} holds a run already; choose another --out")
    in_the_way = [name for name in _TEAM if (folder.path / name).exists()]
    if is_copy and in_the_way and not folder.is_cut_off:
        raise RunError(f"{folder.path} is no run and has a {in_the_way[0]} of its own; choose another --out")
    if is_open(folder.path / FRESH_JOURNAL):
        raise RunError(f"another process is evaluating into {folder.path}; wait for it, or choose another --out")


def stage(config: RunConfig, folder: RunFolder) -> None:
    """Make the folder, with what tells that an evaluation is at work in it and what it plays."""
    try:
        folder.staged.path.mkdir(parents=True, exist_ok=True)
        write_yaml(config, folder.staged.config)
    except OSError as error:
        raise RunError(f"cannot write to {folder.path}: {error.strerror}; choose another --out") from error


def copy_team(source: RunFolder, folder: RunFolder) -> None:
    """Put the trained team and its curve into a folder, in the place of those that were cut off there."""
    discard_team(folder)
    try:
        for name in _TEAM:
            if (source.path / name).is_dir():
                shutil.copytree(source.path / name, folder.path / name)
            elif (source.path / name).is_file():
                shutil.copy2(source.path / name, folder.path / name)
    except OSError as error:
        raise RunError(f"cannot copy the run to {folder.path}: {error}; choose another --out") from error


def discard_team(folder: RunFolder) -> None:
    """Remove what `copy_team` put into a folder."""
    for name in _TEAM:
        if (folder.path / name).is_dir():
            shutil.rmtree(folder.path / name)
        else:
            (folder.path / name).unlink(missing_ok=True)


def git_revision() -> str:
    """The checkout's revision, with a + if it was changed; empty outside one."""
    here = Path(__file__).resolve().parent
    try:
        revision = subprocess.run(
            ["git", "-C", here, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", here, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    return revision + ("+" if changed else "")


def command_line() -> str:
    """How this process was started, as one would type it."""
    name = Path(sys.argv[0]).name
    program = "commlib" if name in {"commlib", "__main__.py"} else name
    return shlex.join([program, *sys.argv[1:]])
