"""Two claims as tables: fewer messages than a team that always speaks, and fewer bits on the wire than each rival.

A pair of scales for a page of results. The first claim is by the seed paper's own rule, in which a message costs log2 K
whatever it says (Farooq & Iqbal 2026, arXiv:2602.02035), so that with one codec fewer messages are all the saving there can be;
the second weighs frames. Not a comparison with all its notes and warnings: that is `commlib compare`.

Nobody here speaks always: that is an argument, not a measurement. A silent sender is heard to say the expected code, so a team
that tells each message by its nearest code (rate weight 0) acts alike whether it sends the codes that are expected or not.
Beside a run stands what it comes to at that rate weight, in the episodes of calibration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from commlib.errors import ConfigError
from commlib.experiments.compare import MUST_AGREE
from commlib.experiments.intervals import OverSeeds, over_seeds, with_interval
from commlib.experiments.sides import Found, read_results, told_apart
from commlib.experiments.strata import Figure, ratio_of_iqms
from commlib.records import Result

RATE_HEAD = (
    "| runs | n | success % (95 %) | with each nearest code, success % | bits per agent and episode by log2 K (95 %) | if every "
    "code were sent | fewer messages % (95 %) |\n|---|---|---|---|---|---|---|"
)
RIVALS_HEAD = (
    "| against | n | its success % (95 %) | of its success % (95 %) | its wire bits per agent and episode | fewer wire bits % "
    "(95 %) |\n|---|---|---|---|---|---|"
)


ONE_CODE: Final = ("vq", "gvq")
"""Codecs whose message is one code of a codebook."""


def rate_rows(groups: Mapping[str, Sequence[Path]]) -> list[str]:
    """Each group of runs beside itself if every code were sent.

    Raises:
        ConfigError: a group holds runs that differ in more than their seeds, or one to which the rule does not apply.
    """
    return [_rate_row(name, read_results(name, paths)) for name, paths in groups.items()]


def _rate_row(name: str, runs: Sequence[Found]) -> str:
    results = [run.result for run in runs]
    for run in results:
        if why := _why_no_rate(run):
            raise ConfigError(f"{name} holds a run {why}; the rule of log2 K does not apply to it")
    slots = [math.log2(_n_codes(run)) * (run.episode_steps.mean or 0.0) for run in results]
    spoken = [slot * run.messages_per_agent_step for slot, run in zip(slots, results, strict=True)]
    sent = over_seeds([run.messages_per_agent_step for run in results])
    return _row(
        name,
        str(len(runs)),
        _percent(over_seeds([run.success.mean for run in results])),
        _percent(over_seeds([run.frontier[0].success for run in results])),
        _bits(over_seeds(spoken)),
        f"{over_seeds(slots).iqm:.1f}",
        _fewer(None if sent.iqm is None else Figure(sent.iqm, sent.ci95)),
    )


def _n_codes(run: Result) -> int:
    return run.codec_health.used_codes + run.codec_health.dead_codes


def _why_no_rate(run: Result) -> str:
    """Why a run's messages are not one code each, sent unless it is the expected one; empty where they are."""
    if run.codec not in ONE_CODE:
        return f"with the codec {run.codec}, whose messages are not one code each"
    if (run.rounds or 1) != 1:
        return f"with {run.rounds} rounds in a step"
    if run.gate not in (None, "none"):
        return f"with the gate {run.gate}"
    if not run.frontier or run.frontier[0].success is None or run.episode_steps.mean is None:
        return "without success at rate weight 0"
    return ""


def rival_rows(groups: Mapping[str, Sequence[Path]]) -> list[str]:
    """The first group beside each other one, by success and by bits on the wire.

    Raises:
        ConfigError: a group holds runs that differ in more than their seeds, a run has no success, or groups were not played
            alike.
    """
    sides = {name: [run.result for run in read_results(name, paths)] for name, paths in groups.items()}
    for field in ("world", "steps", "budget", *MUST_AGREE):
        found = {name: getattr(runs[0], field) for name, runs in sides.items()}
        if len(set(found.values())) > 1:
            raise ConfigError(
                f"{', '.join(sides)} differ in {field.replace('_', ' ')} ({told_apart(list(found.values()))}), so their bits do "
                f"not compare"
            )
    (first, ours), *others = sides.items()
    ours_row = _row(first, str(len(ours)), _percent(_success(first, ours)), "", _bits(_wire(ours)), "")
    return [ours_row, *(_rival_row(name, ours, theirs) for name, theirs in others)]


def _rival_row(name: str, ours: Sequence[Result], theirs: Sequence[Result]) -> str:
    success = ratio_of_iqms(
        [run.success.mean or 0.0 for run in ours],
        [run.success.mean or 0.0 for run in theirs],
        generator=np.random.default_rng(0),
    )
    bits = ratio_of_iqms(_episode_wire(ours), _episode_wire(theirs), generator=np.random.default_rng(0))
    return _row(
        name,
        str(len(theirs)),
        _percent(_success(name, theirs)),
        "-" if success is None else _percent(OverSeeds(success.value, success.ci95, len(theirs))),
        _bits(_wire(theirs)),
        _fewer(bits),
    )


def _success(name: str, runs: Sequence[Result]) -> OverSeeds:
    if any(run.success.mean is None for run in runs):
        raise ConfigError(f"{name} holds a run without success; compare it by `commlib compare`, which takes returns")
    return over_seeds([run.success.mean for run in runs])


def _episode_wire(runs: Sequence[Result]) -> list[float]:
    return [run.bits.per_agent_episode.wire for run in runs]


def _wire(runs: Sequence[Result]) -> OverSeeds:
    return over_seeds(_episode_wire(runs))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(figure: OverSeeds) -> str:
    return with_interval(figure, 1, 100)


def _bits(figure: OverSeeds) -> str:
    return with_interval(figure, 1)


def _fewer(ratio: Figure | None) -> str:
    """A ratio as the share that is saved; the interval's ends change places."""
    if ratio is None:
        return "-"
    ends = None if ratio.ci95 is None else (1 - ratio.ci95[1], 1 - ratio.ci95[0])
    return with_interval(OverSeeds(1 - ratio.value, ends, 0), 2, 100)
