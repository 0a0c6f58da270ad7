"""The tables of docs/results.md, made from the result files beside it: `python -m commlib.experiments.tables docs/results.md`.

A page marks where a table goes and which files it shows:

    <!-- table: guide-ours-* guide-int8-gated-* -->
    ...
    <!-- end -->

`seeds:` in the place of `table:` makes one row of the files of each pattern: the interquartile mean over runs, with its 95 %
bootstrap interval for success, and the least and the most for bits (`commlib.experiments.intervals.over_seeds`). What
stands between the marks is replaced; the words around them stay.

`areas:` says of each pattern how much of the ground below its curve is covered (`commlib.experiments.areas`).

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
from commlib.experiments.areas import areas
from commlib.experiments.claims import RATE_HEAD, RIVALS_HEAD, rate_rows, rival_rows
from commlib.experiments.intervals import over_seeds, with_interval
from commlib.experiments.sides import read_results
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
    "| runs | n | normalised area (95 %) | times the best other one's | hypervolume (95 %) | AUC, as in the paper (95 %) "
    "| success^2 per wire bit (95 %) |\n"
    "|---|---|---|---|---|---|---|"
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
    runs = [run.result for run in read_results(name, paths)]
    success = over_seeds([run.success.mean for run in runs])
    wire = [run.bits.per_agent_step.wire for run in runs]
    figures: list[tuple[list[float | None], int]] = [
        ([run.return_.mean for run in runs], 3),
        ([run.episode_steps.mean for run in runs], 2),
        ([run.bits.per_agent_step.estimate for run in runs], 3),
    ]
    cells = [
        name,
        str(len(runs)),
        with_interval(success, 1, 100),
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
    rows = []
    for one in areas({name: [run.result for run in read_results(name, paths)] for name, paths in groups.items()}):
        cells = [
            one.name,
            str(one.area.n),
            with_interval(one.area, 3),
            "-" if one.times is None else f"{one.times:.2f}",
            with_interval(one.volume, 3),
            with_interval(one.by_bandwidth, 3),
            with_interval(one.squared, 3),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


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
