"""The tables of docs/results.md, made from the result files beside it: `python -m commlib.experiments.tables docs/results.md`.

A page marks where a table goes and which files it shows:

    <!-- table: guide-ours-* guide-int8-gated-* -->
    ...
    <!-- end -->

`seeds:` in the place of `table:` makes one row of the files of each pattern: the interquartile mean over runs, with its 95 %
bootstrap interval for success, and the least and the most for bits (`commlib.experiments.intervals.over_seeds`). What
stands between the marks is replaced; the words around them stay.

`areas:` says of each pattern how much of the ground below its curve is covered (`commlib.experiments.curves`). A run's curve is
its own figures and its frontier, bits being estimates per agent and step, since a frontier has no others. All patterns of a
block share the axis of bits, from the fewest of any run in the block to the most, and that of success, from what the runs of
the method `none` come to (which must be among them) to 1; in a world without success that of the return, to the best there is.

`rates:` puts the runs of each pattern beside themselves if they always spoke, and `rivals:` those of the first pattern beside
those of each other one (`commlib.experiments.claims`).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from commlib.errors import ConfigError
from commlib.experiments.claims import RATE_HEAD, RIVALS_HEAD, rate_rows, rival_rows
from commlib.experiments.curves import Point, anytime_area, frontier, squared_reward_per_bit
from commlib.experiments.intervals import OverSeeds, over_seeds
from commlib.records import Estimate, Result

HEAD = (
    "| run | success % (95 %) | return | estimate | payload | wire | estimate per episode | training | steps/s of one core |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
SEEDS_HEAD = (
    "| runs | n | success % (95 %) | return | episode, steps | estimate | wire (least to most) | messages per agent and step |\n"
    "|---|---|---|---|---|---|---|---|"
)
AREAS_HEAD = (
    "| runs | n | normalised area (95 %) | times the best other one's | success^2 per wire bit (95 %) |\n"
    "|---|---|---|---|---|"
)
_PLACE = re.compile(
    r"(<!-- (?P<kind>table|seeds|areas|rates|rivals): (?P<files>[^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL
)


def row(path: Path) -> str:
    """One run as a row; the link is relative to the folder above the file's."""
    data = json.loads(path.read_text(encoding="utf-8"))
    result = Result.from_json(data)
    success, step, episode = result.success, result.bits.per_agent_step, result.bits.per_agent_episode
    seconds, speed = (
        _number(data, "seconds", "training_seconds"),
        _number(data, "throughput", "training_steps_per_cpu_second"),
    )
    cells = [
        f"[{path.stem}]({path.parent.name}/{path.name})",
        _share(success),
        f"{result.return_.mean:.3f}",
        *(f"{bits:.3f}" for bits in (step.estimate, step.payload, step.wire)),
        f"{episode.estimate:.2f}",
        "-" if seconds is None else f"{seconds:.0f} s",
        "-" if speed is None else f"{speed:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def seeds_row(name: str, paths: list[Path]) -> str:
    """Runs that differ by their seeds alone, as one row.

    Raises:
        ConfigError: they differ otherwise, or have a seed twice.
    """
    runs = [Result.from_json(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    for field in (
        "world",
        "method",
        "codec",
        "topology",
        "router",
        "variant",
        "steps",
        "budget",
        "charging_rule",
        "parallel_worlds",
    ):
        found = {str(getattr(run, field)) for run in runs}
        if len(found) > 1:
            raise ConfigError(
                f"{name} holds runs of more than one {field}: {', '.join(sorted(found))}; narrow the pattern"
            )
    if len({run.seed for run in runs}) < len(runs):
        raise ConfigError(f"{name} holds a seed twice; narrow the pattern")
    success = over_seeds([run.success.mean for run in runs])
    wire = [run.bits.per_agent_step.wire for run in runs]
    figures: list[tuple[list[float | None], int]] = [
        ([run.return_.mean for run in runs], 3),
        ([run.episode_steps.mean for run in runs], 2),
        ([run.bits.per_agent_step.estimate for run in runs], 3),
    ]
    span = "" if success.ci95 is None else f" ({100 * success.ci95[0]:.1f}-{100 * success.ci95[1]:.1f})"
    cells = [
        name,
        str(len(runs)),
        "-" if success.iqm is None else f"{100 * success.iqm:.1f}{span}",
        *(_digits(over_seeds(values).iqm, digits) for values, digits in figures),
        f"{over_seeds(list(wire)).iqm:.3f} ({min(wire):.3f}-{max(wire):.3f})",
        f"{over_seeds([run.messages_per_agent_step for run in runs]).iqm:.3f}",
    ]
    return f"| {' | '.join(cells)} |"


def areas_rows(groups: dict[str, list[Path]]) -> list[str]:
    """A row for each group of runs: the area below their curves, the largest first.

    Raises:
        ConfigError: no group is of the method `none`.
    """
    runs = {name: [_result(path) for path in paths] for name, paths in groups.items()}
    curves = {name: [_curve(run) for run in some] for name, some in runs.items()}
    none = over_seeds([_curve(run)[0].score for some in runs.values() for run in some if run.method == "none"]).iqm
    if none is None:
        raise ConfigError(f"areas need what a team without messages comes to; add runs of none to {', '.join(groups)}")
    points = [point for some in curves.values() for one in some for point in one]
    ends = min(point.bits for point in points if point.bits > 0), max(point.bits for point in points)
    has_success = all(run.success.mean is not None for some in runs.values() for run in some)
    best = 1.0 if has_success else max(point.score for point in points)
    areas = {
        name: over_seeds([anytime_area(one, bits=ends, scores=(none, best)) for one in some])
        for name, some in curves.items()
    }
    rows = []
    for name in sorted(runs, key=lambda name: -(areas[name].iqm or 0.0)):
        rival = max((area.iqm or 0.0 for other, area in areas.items() if other != name), default=0.0)
        own = areas[name].iqm or 0.0
        cells = [
            name,
            str(len(runs[name])),
            _with_interval(areas[name], 3),
            "-" if rival == 0 else f"{own / rival:.2f}",
            _with_interval(over_seeds([_squared(run) for run in runs[name]]), 3),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _result(path: Path) -> Result:
    return Result.from_json(json.loads(path.read_text(encoding="utf-8")))


def _curve(run: Result) -> list[Point]:
    """What a run comes to at its bits, estimates, and then at every price that its encoder was asked."""
    score, at = ("return", run.return_.mean or 0.0) if run.success.mean is None else ("success", run.success.mean)
    return [Point(run.bits.per_agent_step.estimate, at), *frontier(run, score)]


def _squared(run: Result) -> float | None:
    success = run.success.mean
    return None if success is None else squared_reward_per_bit(success, run.bits.per_agent_step.wire)


def _with_interval(figure: OverSeeds, digits: int) -> str:
    if figure.iqm is None:
        return "-"
    span = "" if figure.ci95 is None else f" ({figure.ci95[0]:.{digits}f}-{figure.ci95[1]:.{digits}f})"
    return f"{figure.iqm:.{digits}f}{span}"


def _digits(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(success: Estimate) -> str:
    if success.mean is None or success.ci95 is None:
        return "-"
    low, high = success.ci95
    return f"{100 * success.mean:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def _number(data: dict[str, Any], *keys: str) -> float | None:
    for key in keys:
        data = data.get(key) or {}
    return float(data) if isinstance(data, int | float) else None


def filled(page: str, results: Path) -> str:
    """The page with every table made anew from the files in `results`.

    Raises:
        ConfigError: a table asks for files of which there is none.
    """

    def table(match: re.Match[str]) -> str:
        groups: dict[str, list[Path]] = {}
        for pattern in match["files"].split():
            groups[pattern] = sorted(results.glob(f"{pattern}.json"))
            if not groups[pattern]:
                raise ConfigError(f"no file {pattern}.json in {results}; run experiments/reproduce.sh first")
        if match["kind"] == "areas":
            head, rows = AREAS_HEAD, areas_rows(groups)
        elif match["kind"] == "rates":
            head, rows = RATE_HEAD, rate_rows(groups)
        elif match["kind"] == "rivals":
            head, rows = RIVALS_HEAD, rival_rows(groups)
        elif match["kind"] == "seeds":
            head, rows = SEEDS_HEAD, [seeds_row(pattern, found) for pattern, found in groups.items()]
        else:
            head, rows = HEAD, [row(path) for found in groups.values() for path in found]
        return f"{match[1]}{head}\n" + "\n".join(rows) + f"\n{match[4]}"

    return _PLACE.sub(table, page)


def main(words: list[str]) -> None:
    """Fill the tables of one page in place; its results lie in the folder `results` beside it."""
    page = Path(words[0])
    page.write_text(filled(page.read_text(encoding="utf-8"), page.parent / "results"), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
