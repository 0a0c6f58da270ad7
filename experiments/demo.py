"""The main job, small: four methods on one world, each agent in a Ray actor of its own, under one budget, compared.

`none` shows what the world is worth without messages, `dense` what wide floats reach and cost, `int8-gated` is the strongest
simple rival, and `ours` is vector-quantised messages with predictive silence on a learned graph. All four are trained by
the same trainer for the same number of steps, then play over real frames between the actors, and the books are checked.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from commlib.agents.runtime import Runtime
from commlib.config import RunConfig
from commlib.errors import RunError
from commlib.experiments.books import audit_run
from commlib.experiments.compose import open_runtime, resolve
from commlib.experiments.evaluate import evaluate_run_on
from commlib.experiments.progress import Display
from commlib.experiments.report import summary_table, write_report
from commlib.experiments.train import load_model, run_training
from commlib.experiments.verify import verify
from commlib.experiments.worlds import make_world
from commlib.records import Result, RunFolder

WORLD = "guide"
METHODS = ("none", "dense", "int8-gated", "ours")
STEPS = 150_000
EPISODES = 1024
BUDGET = "2 kbit/step"
SINGLE = ("dense", "ours")
SINGLE_EPISODES = 16


@dataclass(frozen=True)
class Outcome:
    """What the demo found.

    Attributes:
        results: one per method.
        singles: dense and ours with one world per frame, so that no header is shared.
        checks: each check in words, and whether it holds.
        seconds: wall-clock of the whole.
        page: the report.
    """

    results: list[Result]
    singles: list[Result]
    checks: list[tuple[str, bool]]
    seconds: float
    page: Path

    @property
    def is_good(self) -> bool:
        """Whether every check holds."""
        return all(holds for _, holds in self.checks)

    def to_json(self) -> dict[str, Any]:
        """As a plain object."""
        return {
            "results": [result.to_json() for result in self.results],
            "single_world": [result.to_json() for result in self.singles],
            "checks": [{"check": text, "holds": holds} for text, holds in self.checks],
            "seconds": self.seconds,
            "page": str(self.page),
        }


def run_demo(out: Path, runtime_name: str, seed: int, steps: int | None, display: Display, console: Console) -> Outcome:
    """Train and evaluate every method on the same hosts, check the books, write the report."""
    started = time.perf_counter()
    _clear(out)
    world = make_world(WORLD)
    settings = {
        "runtime": runtime_name,
        "hosts": world.spec.n_agents,
        "budget": BUDGET,
        "episodes": EPISODES,
        "parallel_worlds": EPISODES,
        "seed": seed,
        "steps": steps or STEPS,
    }
    configs = [resolve(WORLD, method, None, settings) for method in METHODS]
    display.say(f"starting {world.spec.n_agents} agent hosts ({runtime_name})")
    runtime = open_runtime(configs[0], world.spec.n_agents, display.say)
    checks: list[tuple[str, bool]] = []
    results = []
    try:
        for config in configs:
            display.say(f"--- {config.method}: {config.steps:,} environment steps")
            results.append(run_training(config, out / config.method, display=display, runtime=runtime))
            checks += _check(out / config.method, config, runtime, display)
        singles = [_single(out, config, runtime, display) for config in configs if config.method in SINGLE]
    finally:
        runtime.close()
        world.close()
    folders = [RunFolder(out / method) for method in METHODS]
    page = out / "report.html"
    write_report(folders, page, plots_dir=out / "plots")
    outcome = Outcome(results, singles, checks, round(time.perf_counter() - started, 1), page)
    _tell(outcome, console)
    return outcome


def _clear(out: Path) -> None:
    """Make room for a fresh demo; only folders that a demo made are removed."""
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; choose another --out")
    for name in (*METHODS, *(f"{method}-single-world" for method in SINGLE)):
        if (out / name / "config.yaml").is_file():
            shutil.rmtree(out / name)
    out.mkdir(parents=True, exist_ok=True)


def _check(path: Path, config: RunConfig, runtime: Runtime, display: Display) -> list[tuple[str, bool]]:
    _, differences = audit_run(path)
    world = make_world(WORLD)
    verdict = verify(load_model(RunFolder(path), world), config, world, runtime, RunFolder(path), display)
    return [
        (f"{config.method}: audit, {len(differences)} differences", not differences),
        (f"{config.method}: verify, {len(verdict.differences)} differences", not verdict.differences),
    ]


def _single(out: Path, config: RunConfig, runtime: Runtime, display: Display) -> Result:
    """A method with one world at a time: every header is paid in full."""
    alone = config.model_copy(update={"parallel_worlds": 1, "episodes": SINGLE_EPISODES})
    return evaluate_run_on(runtime, out / config.method, alone, out / f"{config.method}-single-world", display)


def _tell(outcome: Outcome, console: Console) -> None:
    console.print(summary_table(outcome.results))
    ours = outcome.singles[1]
    per_message, wires = ours.bits.per_message, [single.bits.per_agent_step.wire for single in outcome.singles]
    console.print(
        f"ours says {outcome.results[-1].bits.per_agent_episode.estimate:.2f} bits per agent and episode (4.64 are needed)",
        highlight=False,
    )
    console.print(
        f"one world alone, no header shared: ours {wires[1]:.1f} wire bits per agent and step, dense {wires[0]:.1f} "
        f"({wires[1] / wires[0]:.1%}); a message of ours weighs {per_message.wire:.0f} bits for {per_message.payload:.1f} of "
        f"payload",
        highlight=False,
    )
    for text, holds in outcome.checks:
        console.print(f"{'ok  ' if holds else 'FAIL'} {text}", highlight=False)
    console.print(f"{outcome.seconds:.0f} s in all; page: {outcome.page}", highlight=False)
