"""The figures of a report: each function takes runs and gives a matplotlib figure, to be shown, saved or embedded.

One drawing style for all: what is measured is in colour, what explains it is grey, and no two things are told apart by
colour alone. Success and bits never share an axis. Colours are from Okabe and Ito's set, which colour-blind people can
tell apart. matplotlib is imported when the first figure is drawn; `figure.savefig("x.png")` works as usual, and
`to_svg` gives the text of an SVG that follows the colours of the page it is put into.
"""

from __future__ import annotations

import importlib.util
import io
import math
import re
import textwrap
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from commlib.errors import ConfigError
from commlib.experiments.evidence import Group, RoundBill, Run, group_runs, n_agents, world_spec
from commlib.experiments.intervals import bootstrap_ci
from commlib.experiments.strata import performance_profile
from commlib.journal import MAIN, Price
from commlib.message import Edge
from commlib.records import Estimate, Result
from commlib.units import Currency, format_amount, format_bits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

INK: Final = "#1f2329"
MUTED: Final = "#68717b"
RULE: Final = "#d7dce1"
SHADE: Final = "#f1f3f5"
PAPER: Final = "#fefefe"
PAGE_COLOURS: Final = {INK: "--ink", MUTED: "--muted", RULE: "--rule", SHADE: "--shade", PAPER: "--paper"}
"""Colours that `to_svg` leaves to the page, and the CSS variable that decides each."""

_OKABE_ITO: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
_LINES: Final = ("-", "--", "-.", ":")
_MOST_LABELLED: Final = 12
"""With more agents or edges than this, numbers beside them would hide the picture."""

_MOST_ACCOUNTS: Final = 4
"""More budgets than this have no panel of their own; the table has them all."""

_NAME: Final = 26
"""Characters of a line of a name beside a bar."""

_MOST_ROWS: Final = 60
"""With more edges than this, their names beside the rows would run into each other."""


class _Look(NamedTuple):
    colour: str
    marker: str
    line: str


class _Measure(NamedTuple):
    """The figure of merit of a world: success where it is defined, the return otherwise."""

    name: str
    scale: float

    def of(self, result: Result) -> Estimate:
        return result.success if self.name == "success" else result.return_

    @property
    def axis(self) -> str:
        return "success (%)" if self.name == "success" else "return (reward per agent and episode)"


def has_matplotlib() -> bool:
    """Whether figures can be drawn here."""
    return importlib.util.find_spec("matplotlib") is not None


def learning_curves(runs: Sequence[Run]) -> Figure:
    """Success (or return) and bits against environment steps; the stages are shaded, a line is a run."""
    worlds = _by_world(group_runs(runs))
    with_bits = any(_curve(run, "bits_per_agent_step") for run in runs)
    n_rows = 2 if with_bits else 1
    figure = _figure(9.6, (3.0 + 1.5 * (n_rows - 1)) * len(worlds) + 0.3)
    panels = figure.subplots(
        n_rows * len(worlds), 1, squeeze=False, gridspec_kw={"height_ratios": [2, 1][:n_rows] * len(worlds)}
    )[:, 0]
    looks = _looks(group_runs(runs))
    for place, (world, groups) in enumerate(worlds.items()):
        upper = panels[n_rows * place]
        measure = _measure(groups)
        stages_of = groups[0].runs[0] if _same_stages(groups) else None
        names = [(upper, measure.name, measure.scale)]
        if with_bits:
            names.append((panels[n_rows * place + 1], "bits_per_agent_step", 1.0))
        for axes, name, scale in names:
            _set_up(axes)
            if stages_of is not None:
                _shade_stages(axes, stages_of, with_names=axes is upper)
            for group in groups:
                for nth, run in enumerate(group.runs):
                    curve = _curve(run, name)
                    if not curve:
                        continue
                    steps, values = zip(*curve, strict=True)
                    look = looks[group.label]
                    axes.plot(
                        steps,
                        np.asarray(values) * scale,
                        color=look.colour,
                        linestyle=look.line,
                        linewidth=1.6 if len(group.runs) == 1 else 1.1,
                        label=_plain(group.label) if nth == 0 and axes is upper else None,
                    )
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter(_thousands)
        upper.set_ylabel(measure.axis)
        _world_title(upper, world, worlds)
        _legend(upper)
        last = names[-1][0]
        last.set_xlabel("environment steps")
        if with_bits:
            last.set_ylabel("bits per agent\nand step")
            _foot(last)
            upper.tick_params(labelbottom=False)
            upper.sharex(last)
    return figure


def has_bands(runs: Sequence[Run]) -> bool:
    """Whether the learning curves have shaded bands: where all runs of a world went through the same stages, and several."""
    return any(
        _same_stages(groups) and len(_stages(groups[0].runs[0])) > 1 for groups in _by_world(group_runs(runs)).values()
    )


def frontier(runs: Sequence[Run]) -> Figure:
    """Success (or return) against bits: the line that one trained model slides along, and where each run works.

    Filled markers stand at the estimate with the 95 % interval, hollow ones at the wire, which is what is charged.
    """
    all_groups = group_runs(runs)
    worlds = _by_world(all_groups)
    looks = _looks(all_groups)
    figure = _figure(9.6, 4.6 * len(worlds))
    for axes, (world, groups) in zip(_panels(figure, len(worlds)), worlds.items(), strict=True):
        _set_up(axes)
        measure = _measure(groups)
        axes.set_xscale("log")
        for group in groups:
            _one_frontier(axes, group, measure, looks[group.label])
        axes.margins(y=0.12)
        axes.set_xlabel("bits per agent and step (log scale): filled = estimate, hollow = wire, header included")
        axes.set_ylabel(measure.axis)
        if not any(result.bits.per_agent_step.wire > 0 for result in _results(groups)):
            axes.set_xlim(0.1, 10)
        _known_bound(axes, world, groups)
        _log_ticks(axes)
        _world_title(axes, world, worlds)
        _legend(axes)
    return figure


def _one_frontier(axes: Axes, group: Group, measure: _Measure, look: _Look) -> None:
    shown = _plain(group.label)
    for run in group.runs:
        points = []
        for point in run.result.frontier:
            value = point.success if measure.name == "success" else point.return_
            if value is not None and point.bits_per_agent_step > 0:
                points.append((point.bits_per_agent_step, value * measure.scale))
        if len(points) > 1:
            x, y = zip(*sorted(points), strict=True)
            axes.plot(x, y, color=look.colour, linewidth=1.3, alpha=0.75, marker=".", markersize=5)
        merit, bits = measure.of(run.result), run.result.bits.per_agent_step
        if merit.mean is None:
            continue
        mean = merit.mean * measure.scale
        if bits.estimate <= 0:
            axes.axhline(mean, color=look.colour, linestyle=":", linewidth=1.3, label=f"{shown}: no bits")
            shown = "_"
            continue
        if bits.wire > 0:
            axes.plot([bits.estimate, bits.wire], [mean, mean], color=look.colour, linewidth=0.7, alpha=0.6)
            axes.plot(bits.wire, mean, look.marker, color=look.colour, markersize=7, markerfacecolor=PAPER)
        _with_interval(axes, bits.estimate, merit, measure.scale, look, shown)
        shown = "_"


def _with_interval(axes: Axes, x: float, merit: Estimate, scale: float, look: _Look, label: str) -> None:
    assert merit.mean is not None
    low, high = merit.ci95 or (merit.mean, merit.mean)
    around = [[max(0.0, merit.mean - low) * scale], [max(0.0, high - merit.mean) * scale]]
    axes.errorbar(
        [x], [merit.mean * scale], yerr=around, fmt=look.marker, color=look.colour, markersize=8, capsize=3,
        elinewidth=1.2, label=label, zorder=3,
    )  # fmt: skip


def _foot(axes: Axes) -> None:
    """Bits start at zero, unless the lines lie so far apart that only a log axis shows them all."""
    values = np.concatenate([np.empty(0), *(np.asarray(line.get_ydata(), float) for line in _data_lines(axes))])
    shown = values[values > 0]
    if len(shown) and shown.max() > 30 * shown.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_plain_number)
        axes.minorticks_off()
    else:
        axes.set_ylim(bottom=0)


def _data_lines(axes: Axes) -> list[Line2D]:
    return [line for line in axes.lines if line.get_transform() == axes.transData]


def _known_bound(axes: Axes, world: str, groups: list[Group]) -> None:
    """A line at the least bits that a perfect team needs, where the world knows them."""
    spec = world_spec(world)
    steps = next((result.episode_steps.mean for result in _results(groups) if result.episode_steps.mean), None)
    if spec is None or spec.bound_bits is None or steps is None:
        return
    bound = spec.bound_bits / steps
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, bound / (high / low) ** 0.2), high)  # room for the words beside it
    axes.axvline(bound, color=MUTED, linestyle="--", linewidth=1)
    axes.annotate(
        "least that a\nperfect team\nmust send", (bound, 1), xycoords=("data", "axes fraction"), xytext=(-5, -4),
        textcoords="offset points", ha="right", va="top", color=MUTED, fontsize=8.5,
    )  # fmt: skip


def comparison(runs: Sequence[Run]) -> Figure:
    """Bars per method: success (or return) with its 95 % interval, and what was charged, on a log axis.

    Where a method was run with several seeds, the bar is the mean over seeds, its interval is the bootstrap over
    seeds, and each seed is a dot; with one seed the interval is over episodes.
    """
    all_groups = group_runs(runs)
    worlds = _by_world(all_groups)
    looks = _looks(all_groups)
    names = {world: [_in_lines(group.label) for group in groups] for world, groups in worlds.items()}
    most = {world: max(name.count("\n") for name in lines) for world, lines in names.items()}
    heights = [(0.42 + 0.16 * most[world]) * len(groups) + 0.5 for world, groups in worlds.items()]
    figure = _figure(9.6, sum(heights) + 0.75 * len(worlds) + 0.2)
    grid = figure.subplots(
        len(worlds), 2, squeeze=False, sharey="row", gridspec_kw={"height_ratios": heights, "width_ratios": [1, 1.15]}
    )
    for (left, right), (world, groups) in zip(grid, worlds.items(), strict=True):
        measure = _measure(groups)
        _set_up(left, across=True)
        _set_up(right, across=True)
        for place, group in enumerate(groups):
            _merit_bar(left, place, group, measure, looks[group.label])
            _bits_bar(right, place, group, looks[group.label])
        left.set_yticks(range(len(groups)), names[world])
        left.tick_params(axis="y", colors=INK, labelsize=10, length=0)
        right.tick_params(axis="y", length=0)
        left.set_ylim(len(groups) - 0.4, -0.6)
        left.set_xlabel(measure.axis)
        right.set_xlabel("wire bits per agent and step (log scale)")
        if measure.name == "success":
            left.set_xlim(0, 118)
            left.set_xticks(range(0, 101, 20))
        else:
            left.margins(x=0.18)
        _bits_scale(right, groups)
        _world_title(left, world, worlds)
    return figure


def _merit_bar(axes: Axes, place: int, group: Group, measure: _Measure, look: _Look) -> None:
    means = [merit.mean for merit in (measure.of(run.result) for run in group.runs) if merit.mean is not None]
    if not means:
        axes.annotate("not defined", (0, place), xytext=(4, 0), textcoords="offset points", va="center", color=MUTED)
        return
    mean = float(np.mean(means))
    if len(means) > 1:
        low, high = bootstrap_ci(means, generator=np.random.default_rng(0))
    else:
        low, high = measure.of(group.runs[0].result).ci95 or (mean, mean)
    around = [[max(0.0, mean - low) * measure.scale], [max(0.0, high - mean) * measure.scale]]
    axes.barh(place, mean * measure.scale, height=0.62, color=look.colour, alpha=0.85, zorder=2)
    axes.errorbar(
        [mean * measure.scale], [place], xerr=around, fmt="none", color=INK, capsize=3, elinewidth=1.2, zorder=3
    )
    if len(means) > 1:
        dots = np.asarray(means) * measure.scale
        axes.plot(dots, [place] * len(dots), "o", markersize=3.5, color=PAPER, markeredgecolor=INK, zorder=4)
    text = f"{mean * measure.scale:.1f} %" if measure.name == "success" else f"{mean:.3g}"
    end = max(high, mean) if mean >= 0 else max(high, 0.0)
    axes.annotate(
        text,
        (end * measure.scale, place),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        color=INK,
        fontsize=9,
    )


def _bits_bar(axes: Axes, place: int, group: Group, look: _Look) -> None:
    bits = [run.result.bits.per_agent_step for run in group.runs]
    wire, payload, estimate = (
        float(np.mean([getattr(b, name) for b in bits])) for name in ("wire", "payload", "estimate")
    )
    if wire <= 0:
        axes.annotate(
            "no bits", (0, place), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            va="center", color=MUTED, fontsize=9,
        )  # fmt: skip
        return
    axes.barh(place, wire, height=0.62, color=look.colour, alpha=0.85, zorder=2)
    for value, marker in ((payload, "|"), (estimate, "d")):
        if value > 0:
            axes.plot(
                value, place, marker, color=PAPER, markersize=9 if marker == "|" else 5, markeredgewidth=1.5, zorder=4
            )
    axes.annotate(
        f"{wire:.3g}", (wire, place), xytext=(5, 0), textcoords="offset points", va="center", color=INK, fontsize=9
    )


def _bits_scale(axes: Axes, groups: list[Group]) -> None:
    """Bars on a log axis have no natural foot; it stands a little below the smallest estimate."""
    bits = [result.bits.per_agent_step for result in _results(groups)]
    shown = [value for b in bits for value in (b.estimate, b.payload, b.wire) if value > 0]
    axes.set_xscale("log")
    low, high = (min(shown) / 2, max(shown) * 3) if shown else (0.1, 10)
    axes.set_xlim(low, high)
    _log_ticks(axes)


def profiles(runs: Sequence[Run]) -> Figure:
    """Performance profiles: of each success rate the share of runs that do better, a line per method over all its worlds.

    Agarwal et al. 2021, arXiv:2108.13264, sec. 4.2; only methods that were run in every world, and worlds with success.
    """
    tasks = _tasks_of_methods(runs)
    looks = _looks(group_runs(runs))
    figure = _figure(9.6, 4.2)
    (axes,) = _panels(figure, 1)
    _set_up(axes)
    taus = np.linspace(0, 1, 101)
    for label, scores in tasks.items():
        profile = performance_profile(scores, list(taus), n_resamples=500, generator=np.random.default_rng(0))
        look = looks[label]
        axes.step(
            100 * taus, 100 * np.asarray(profile.shares), where="post", color=look.colour, linestyle=look.line,
            label=_plain(label),
        )  # fmt: skip
        if profile.low is not None and profile.high is not None:
            low, high = (100 * np.asarray(ends) for ends in (profile.low, profile.high))
            axes.fill_between(100 * taus, low, high, step="post", color=look.colour, alpha=0.12, linewidth=0)
    axes.set_xlim(0, 100)
    axes.set_ylim(-2, 102)
    axes.set_xlabel("success (%)")
    axes.set_ylabel("runs that do better (%)")
    _legend(axes)
    return figure


def has_profiles(runs: Sequence[Run]) -> bool:
    """Whether there are profiles to draw: of two methods or more, with several runs in each world."""
    return len(_tasks_of_methods(runs)) > 1


def _tasks_of_methods(runs: Sequence[Run]) -> dict[str, list[list[float]]]:
    """Of each method with several runs in every world that has success: the success of its runs, world by world."""
    worlds = {
        world: groups for world, groups in _by_world(group_runs(runs)).items() if _measure(groups).name == "success"
    }
    found: dict[str, list[list[float]]] = {}
    for groups in worlds.values():
        for group in groups:
            scores = [run.result.success.mean for run in group.runs if run.result.success.mean is not None]
            if len(scores) > 1:
                found.setdefault(group.label, []).append(scores)
    return {label: tasks for label, tasks in found.items() if len(tasks) == len(worlds)}


def graph(run: Run) -> Figure:
    """Who talks to whom: an arrow is an open edge, its width the edge's share of the bits that were charged."""
    figure = _figure(3.9, 3.9)
    from matplotlib.patches import FancyArrowPatch

    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_xlim(-1.45, 1.45)
    axes.set_ylim(-1.35, 1.35)
    n = n_agents(run)
    angles = [math.pi / 2 - 2 * math.pi * agent / n for agent in range(n)]
    places = [(math.cos(angle), math.sin(angle)) if n > 1 else (0.0, 0.0) for angle in angles]
    bits = {bill.edge: bill.bits for bill in run.booked.edges} if run.booked else {}
    most = max(bits.values(), default=0)
    node = 17.0 if n <= _MOST_LABELLED else 11.0
    edges = sorted({*(Edge(*edge) for edge in run.result.edges), *bits})
    for edge in edges:
        sender, receiver = edge
        charged = bits.get(edge, 0)
        share = charged / most if most else 0.0
        axes.add_patch(
            FancyArrowPatch(
                places[sender],
                places[receiver],
                connectionstyle="arc3,rad=0.16",
                arrowstyle="-|>",
                mutation_scale=9 + 5 * share,
                shrinkA=node,
                shrinkB=node,
                linewidth=0.8 + 4.2 * share if charged else 0.8,
                linestyle="-" if charged else (0, (3, 3)),
                color=_OKABE_ITO[0] if charged else MUTED,
                alpha=0.35 + 0.55 * share if charged else 0.7,
            )
        )
        if len(edges) <= _MOST_LABELLED and most:
            x, y = _beside(places[sender], places[receiver])
            axes.text(
                x, y, format_bits(charged) if charged else "0", ha="center", va="center", fontsize=8.5, color=INK,
                bbox={"boxstyle": "round,pad=0.15", "facecolor": PAPER, "edgecolor": "none"}, zorder=4,
            )  # fmt: skip
    for agent, (x, y) in enumerate(places):
        axes.plot(x, y, "o", markersize=1.55 * node, color=SHADE, markeredgecolor=INK, markeredgewidth=1.1, zorder=5)
        axes.text(x, y, str(agent), ha="center", va="center", fontsize=11, color=INK, zorder=6)
    if not edges:
        axes.text(0, 0, "nobody talks\nto anybody", ha="center", va="center", color=MUTED, fontsize=11)
    return figure


def graph_over_time(run: Run) -> Figure:
    """Which edges were open when: a row for each edge that was ever open, by receiver, a mark where it was."""
    rows = [row for row in run.metrics if row.get("edges") is not None]
    kept = {Edge(*edge) for edge in run.result.edges}
    known = sorted({Edge(*edge) for row in rows for edge in row["edges"]} | kept, key=lambda e: (e.receiver, e.sender))
    open_ET = np.array([[list(edge) in [list(e) for e in row["edges"]] for row in rows] for edge in known])
    figure = _figure(7.2, min(9.0, 1.3 + 0.13 * len(known)))
    axes = figure.subplots()
    _set_up(axes)
    axes.grid(visible=False)
    steps = np.array([0, *(row["steps"] for row in rows)])
    shade = np.where(open_ET, np.where([[edge in kept] for edge in known], 2.0, 1.0), np.nan)
    axes.pcolormesh(
        steps, np.arange(len(known) + 1), np.ma.masked_invalid(shade), cmap=_blues(), vmin=0, vmax=2.4, linewidth=0
    )
    axes.hlines(np.arange(1, len(known)), 0, steps[-1], color=PAPER, linewidth=2)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("edges, by receiver")
    if len(known) <= _MOST_ROWS:
        axes.set_yticks(np.arange(len(known)) + 0.5, [f"{e.sender} to {e.receiver}" for e in known], fontsize=6.5)
    else:
        axes.set_yticks([])
    axes.invert_yaxis()
    return figure


def _beside(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    """Where the label of a bent arrow goes: on the arrow, two fifths from its start."""
    (x0, y0), (x1, y1), rad, t = start, end, 0.16, 0.42
    cx, cy = (x0 + x1) / 2 + rad * (y1 - y0), (y0 + y1) / 2 - rad * (x1 - x0)
    a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t**2
    return a * x0 + b * cx + c * x1, a * y0 + b * cy + c * y1


def bill(run: Run) -> Figure:
    """Who pays for what: the share of the charged bits that fell on each edge, sender by receiver, and per sender."""
    n = n_agents(run)
    bits_SR = np.full((n, n), np.nan)
    for edge in run.result.edges:
        bits_SR[edge] = 0.0
    for row in run.booked.edges if run.booked else []:
        bits_SR[row.edge] = row.bits
    total = float(np.nansum(bits_SR))
    figure = _figure(5.9, min(6.0, 1.5 + 0.5 * n))
    squares, sums = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.25, 1]}, sharey=True)
    _set_up(squares)
    _set_up(sums, across=True)
    squares.grid(visible=False)
    squares.pcolormesh(
        np.ma.masked_invalid(bits_SR / max(total, 1.0) * 100), cmap=_blues(), vmin=0, edgecolors=PAPER, linewidth=1.5
    )
    if n <= _MOST_LABELLED:
        top = float(np.nanmax(bits_SR)) if total else 1.0
        for sender, receiver in zip(*np.nonzero(~np.isnan(bits_SR)), strict=True):
            value = bits_SR[sender, receiver]
            colour = "#ffffff" if value > 0.55 * top else "#1f2328"
            text = format_bits(int(value)).removesuffix("bit").strip()
            squares.text(receiver + 0.5, sender + 0.5, text, ha="center", va="center", fontsize=9, color=colour)
    ticks = np.arange(0, n, max(1, math.ceil(n / 16)))
    squares.set_xticks(ticks + 0.5, [str(agent) for agent in ticks])
    squares.set_yticks(ticks + 0.5, [str(agent) for agent in ticks])
    squares.tick_params(length=0)
    squares.set_ylim(n, 0)
    squares.set_xlabel("receiver")
    squares.set_ylabel("sender")
    squares.set_title("bits charged, by edge", fontsize=10, color=INK, loc="left")
    by_sender = np.nansum(bits_SR, axis=1)
    sums.barh(
        np.arange(n) + 0.5, by_sender / max(total, 1.0) * 100, height=0.6, color=_OKABE_ITO[0], alpha=0.85, zorder=2
    )
    sums.set_xlabel("share of the bill (%)")
    sums.set_title("by sender", fontsize=10, color=INK, loc="left")
    sums.tick_params(axis="y", length=0)
    if not total:
        sums.set_xlim(0, 100)
    return figure


def budget_over_time(run: Run) -> Figure:
    """What was spent in each round of the evaluation, against what the budgets left for it, and beneath it the prices.

    A panel for each budget, the one that binds first, and one for the prices that were noted. Long evaluations are shown as
    means over neighbouring rounds.
    """
    accounts, prices = _drawn_accounts(run), {name: rows for name, rows in _prices(run).items() if rows}
    heights = [2.9] + [1.9] * (len(accounts) - 1) + [1.7] * bool(prices)
    figure = _figure(9.6, sum(heights))
    panels = list(
        figure.subplots(len(heights), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights})[:, 0]
    )
    for nth, (axes, account) in enumerate(zip(panels, accounts, strict=False)):
        _spending(axes, account, has_names=nth == 0)
    if prices:
        last = max((row.round for account in accounts for row in account.rounds), default=0)
        _prices_beneath(panels[-1], prices, {account.name: account.label for account in accounts}, last)
    width = accounts[0].width
    panels[-1].set_xlabel("round" if width == 1 else f"round (means over {width} rounds)")
    panels[-1].locator_params(axis="x", integer=True)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper right", ncols=2, fontsize=9, frameon=False, labelcolor=INK)
    return figure


class _Account(NamedTuple):
    """An account as it is drawn: its label is the budget, None where there is no cap."""

    name: str
    label: str | None
    currency: Currency
    rounds: list[RoundBill]

    @property
    def width(self) -> int:
        """How many rounds stand in one bar."""
        return max(1, math.ceil(len(self.rounds) / 240))


def _drawn_accounts(run: Run) -> list[_Account]:
    """The accounts that have a cap, the binding one first, at most `_MOST_ACCOUNTS`; where there is none, that of bits."""
    booked = run.booked
    known = {figures.account: figures for figures in run.result.budgets}
    capped: dict[str, list[RoundBill]] = {} if booked is None else booked.capped
    if not capped:
        return [_Account(MAIN, None, "bits", booked.rounds if booked else [])]
    order = sorted(capped, key=lambda name: not (name in known and known[name].is_binding))
    label = {name: known[name].budget if name in known else run.result.budget or name for name in order}
    currency: dict[str, Any] = {name: known[name].currency if name in known else "bits" for name in order}
    return [_Account(name, label[name], currency[name], capped[name]) for name in order[:_MOST_ACCOUNTS]]


def _prices(run: Run) -> dict[str, list[Price]]:
    return run.booked.prices if run.booked else {}


def _spending(axes: Axes, account: _Account, *, has_names: bool) -> None:
    """Bars of what was spent, and a line at what could be."""
    _set_up(axes)
    rounds, width = account.rounds, account.width
    pieces = [rounds[start : start + width] for start in range(0, len(rounds), width)]
    x = np.array([float(np.mean([row.round for row in piece])) for piece in pieces])
    spent = np.array([float(np.mean([row.spent for row in piece])) for piece in pieces])
    leased = np.array([float(np.mean([row.leased for row in piece])) for piece in pieces])
    axes.bar(
        x, spent, width=0.8 * width, color=_OKABE_ITO[0], alpha=0.85, label="spent" if has_names else None, zorder=2
    )
    if account.label is not None and len(x):
        left = np.append(x - width / 2, x[-1] + width / 2)
        axes.stairs(leased, left, baseline=None, color=_OKABE_ITO[1], linewidth=1.8, zorder=3,
                    label="could be spent" if has_names else None)  # fmt: skip
        if spent.max() > 0 and leased.max() > 30 * spent.max():
            axes.set_yscale("log")
    if account.label is not None:
        axes.set_title(_plain(account.label), fontsize=9.5, color=INK, loc="left")
    axes.yaxis.set_major_formatter(lambda value, _: _amount_tick(value, account.currency))
    axes.set_ylabel("all agents and worlds" if has_names else "")
    if not rounds:
        axes.text(0.5, 0.5, "nothing was sent", transform=axes.transAxes, ha="center", color=MUTED)


def _prices_beneath(axes: Axes, prices: dict[str, list[Price]], labels: dict[str, str | None], last: int) -> None:
    """What a unit of each account cost, in squared distortion (or harm), from round to round, up to the last."""
    _set_up(axes)
    shown = []
    for nth, (name, rows) in enumerate(prices.items()):
        values = [row.price for row in rows]
        shown += [value for value in values if value > 0]
        end = max(last, rows[-1].sequence)  # a price holds until the next one
        rounds = [*(row.sequence for row in rows), end]
        axes.step(
            rounds, [*values, values[-1]], where="post", color=_OKABE_ITO[nth % len(_OKABE_ITO)],
            linestyle=_LINES[nth % len(_LINES)], linewidth=1.6, label=_plain(labels.get(name) or name),
        )  # fmt: skip
    if shown and max(shown) > 30 * min(shown):
        axes.set_yscale("log")
        axes.minorticks_off()
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel("distortion (or harm)\nper unit")
    if len(prices) > 1:
        _legend(axes)


def to_svg(figure: Figure, description: str, *, prefix: str = "f") -> str:
    """Turn a figure into an `<svg>` element for a page: no request leaves it, and its greys follow the page.

    Args:
        figure: what to embed.
        description: what it shows, for those who cannot see it.
        prefix: put before every id, so that several figures can share a page.
    """
    from html import escape

    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "commlib"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}-", text).replace("xlink:href", "href")
    for colour, variable in PAGE_COLOURS.items():
        text = text.replace(colour, f"var({variable})")
    width, height = (f"{72 * inches:g}" for inches in figure.get_size_inches())
    opening = (
        f'<svg role="img" aria-label="{escape(description)}" viewBox="0 0 {width} {height}" '
        f'style="max-width:{float(width) * 1.45:g}px">'
    )
    return opening + text[text.index(">") + 1 :].strip()


def to_png(figure: Figure, dots_per_inch: int = 150) -> bytes:
    """Turn a figure into the bytes of a PNG on white."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format="png", dpi=dots_per_inch, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


# How it is done.


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that belongs to no window and no global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError('figures need matplotlib, which is not installed; pip install "commlib[plots]"') from error
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    FigureCanvasAgg(figure)
    return figure


def _panels(figure: Figure, n: int) -> list[Axes]:
    return list(figure.subplots(n, 1, squeeze=False)[:, 0])


def _set_up(axes: Axes, *, across: bool = False) -> None:
    """Quiet axes: a light grid along the values, no box; every colour is set here, none is left to the defaults."""
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(RULE)
    axes.grid(visible=True, axis="x" if across else "y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=MUTED, labelsize=9, length=3)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(9.5)


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    legend = axes.legend(
        handles, labels, loc="best", fontsize=9, frameon=True, labelcolor=INK, ncols=1 + (len(handles) > 6)
    )
    legend.get_frame().set(facecolor=PAPER, edgecolor="none", alpha=0.85)


def _world_title(axes: Axes, world: str, worlds: dict[str, list[Group]]) -> None:
    if len(worlds) > 1:
        axes.set_title(_plain(world), fontsize=10.5, color=INK, loc="left", fontweight="bold")


def _log_ticks(axes: Axes) -> None:
    """Plain numbers, at more steps than every power of ten where the axis spans few of them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axes.get_xlim()
    ratio = high / max(low, 1e-300)
    subs = (1.0, 2.0, 3.0, 5.0, 7.0) if ratio < 10 else (1.0, 2.0, 5.0) if ratio < 300 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(_plain_number)
    axes.xaxis.set_minor_formatter(NullFormatter())


def _thousands(value: float, _: float) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if abs(value) >= 1e3 else f"{value:g}"


def _plain_number(value: float, _: float) -> str:
    return f"{value:,.6g}"


def _bits_tick(value: float, _: float) -> str:
    return format_bits(round(value)) if value >= 1 or value == 0 else f"{value:g} bit"


def _amount_tick(value: float, currency: Currency) -> str:
    """An amount beside an axis; of a currency that is a count, the number alone."""
    if currency == "bits":
        return _bits_tick(value, 0.0)
    return format_amount(round(value), currency) if currency == "latency" else f"{value:,.6g}"


def _blues() -> Any:  # noqa: ANN401 (a colour map)
    """From nearly nothing to the blue of everything else: one hue, so that only lightness speaks."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("bits", ["#e8f1f8", _OKABE_ITO[0], "#003a5c"])


def _looks(groups: Sequence[Group]) -> dict[str, _Look]:
    """A colour, a marker and a line for each label; a repeated colour comes with another marker and line."""
    looks: dict[str, _Look] = {}
    for group in groups:
        nth = len(looks)
        looks.setdefault(
            group.label,
            _Look(
                _OKABE_ITO[nth % len(_OKABE_ITO)],
                _MARKERS[nth % len(_MARKERS)],
                _LINES[nth // len(_OKABE_ITO) % len(_LINES)],
            ),
        )
    return looks


def _by_world(groups: Sequence[Group]) -> dict[str, list[Group]]:
    worlds: dict[str, list[Group]] = {}
    for group in groups:
        worlds.setdefault(group.world, []).append(group)
    if not worlds:
        raise ConfigError("a figure of no runs was asked for; name at least one run")
    return worlds


def _results(groups: Sequence[Group]) -> list[Result]:
    return [run.result for group in groups for run in group.runs]


def _measure(groups: Sequence[Group]) -> _Measure:
    has_success = any(result.success.mean is not None for result in _results(groups))
    return _Measure("success", 100.0) if has_success else _Measure("return", 1.0)


def _curve(run: Run, name: str) -> list[tuple[float, float]]:
    """(steps, value) where both are there and finite, thinned to what a screen can show."""
    points = [
        (float(row["steps"]), float(row[name]))
        for row in run.metrics
        if isinstance(row.get("steps"), int | float)
        and isinstance(row.get(name), int | float)
        and math.isfinite(row[name])
    ]
    return points[:: max(1, len(points) // 800)]


def _stages(run: Run) -> list[tuple[str, float, float]]:
    """(stage, from, to) in steps; a stage begins where the one before it ended."""
    stages: list[tuple[str, float, float]] = []
    end = 0.0
    for row in run.metrics:
        if not isinstance(row.get("steps"), int | float):
            continue
        name, steps = str(row.get("stage", "")), float(row["steps"])
        if stages and stages[-1][0] == name:
            stages[-1] = (name, stages[-1][1], steps)
        else:
            stages.append((name, end, steps))
        end = steps
    return stages


def _same_stages(groups: Sequence[Group]) -> bool:
    """Whether all curves change their stage at about the same steps, so that one shading is true of all."""
    rounded = {
        tuple((name, round(end / max(1.0, stages[-1][2]), 1)) for name, _, end in stages)
        for stages in (_stages(run) for group in groups for run in group.runs)
        if stages
    }
    return len(rounded) == 1


def _shade_stages(axes: Axes, run: Run, *, with_names: bool) -> None:
    for nth, (name, start, end) in enumerate(_stages(run)):
        if nth % 2:
            axes.axvspan(start, end, facecolor=SHADE, edgecolor="none", zorder=0)
        if nth:
            axes.axvline(start, color=RULE, linewidth=0.9, zorder=1)
        if with_names:
            axes.annotate(
                _plain(name), ((start + end) / 2, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                textcoords="offset points", ha="center", va="bottom", fontsize=8.5, color=MUTED,
            )  # fmt: skip


def _in_lines(label: str) -> str:
    """A name beside a bar in lines of a length that leaves the bars their room."""
    return "\n".join(_plain(line) for line in textwrap.wrap(label, _NAME))


def _plain(text: str) -> str:
    """User text as it is: a dollar sign starts no formula, and a leading underscore does not hide a legend's entry."""
    shown = text.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
