"""The tables of docs/results.md, made from the result files beside it: `python -m commlib.experiments.tables docs/results.md`.

A page marks where a table goes and which files it shows:

    <!-- table: guide-ours-* guide-int8-gated-* -->
    ...
    <!-- end -->

What stands between the marks is replaced; the words around them stay.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from commlib.errors import ConfigError
from commlib.records import Estimate, Result

HEAD = (
    "| run | success % (95 %) | return | estimate | payload | wire | estimate per episode | training | steps/s of one core |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
_PLACE = re.compile(r"(<!-- table: (?P<files>[^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)


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
        rows = []
        for pattern in match["files"].split():
            found = sorted(results.glob(f"{pattern}.json"))
            if not found:
                raise ConfigError(f"no file {pattern}.json in {results}; run experiments/reproduce.sh first")
            rows += [row(path) for path in found]
        return f"{match[1]}{HEAD}\n" + "\n".join(rows) + f"\n{match[3]}"

    return _PLACE.sub(table, page)


def main(words: list[str]) -> None:
    """Fill the tables of one page in place; its results lie in the folder `results` beside it."""
    page = Path(words[0])
    page.write_text(filled(page.read_text(encoding="utf-8"), page.parent / "results"), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
