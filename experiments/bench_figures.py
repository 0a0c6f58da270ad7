"""The figures of the benches, in the drawing style of the reports (`commlib.experiments.figures`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from commlib.experiments.figures import _LINES, _MARKERS, _OKABE_ITO, INK, MUTED, PAPER, _figure, _set_up

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def bars(panels: Mapping[str, Sequence[tuple[str, float]]], quantity: str) -> Figure:
    """A panel of horizontal bars for each title, with a line at 1, on a logarithmic axis."""
    figure = _figure(9.6, 1.2 + 0.32 * sum(map(len, panels.values())))
    figure.set_facecolor(PAPER)
    axes = figure.subplots(
        len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": [len(p) for p in panels.values()]}
    )
    for (title, values), ax in zip(panels.items(), axes[:, 0], strict=True):
        _set_up(ax, across=True)
        ax.set_xscale("log")
        ax.set_title(title, fontsize=10.5, color=INK, loc="left")
        for place, (label, value) in enumerate(values):
            ax.barh(place, value, color=_OKABE_ITO[0 if label.startswith("vq") else 5], height=0.7)
            ax.annotate(
                f"{value:.3g}", (value, place), (3, 0), textcoords="offset points", va="center", fontsize=8, color=INK
            )
        ax.set_yticks(range(len(values)), [label for label, _ in values], fontsize=8.5)
        ax.invert_yaxis()
        ax.margins(x=0.15)
        ax.axvline(1, color=MUTED, linewidth=1)
    axes[-1, 0].set_xlabel(quantity)
    return figure


class Line:
    """One line of a panel: its label, its points, and whether they are joined or stand alone."""

    def __init__(self, label: str, points: Sequence[tuple[float, float]], *, is_bound: bool = False) -> None:
        self.label, self.points, self.is_bound = label, sorted(points), is_bound


def lines(
    curves: Mapping[str, Sequence[Line]],
    x: str,
    y: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    joined: bool = True,
) -> Figure:
    """A panel of lines for each title, side by side; bounds are grey and without markers."""
    return panels([Panel(title, own, x, y, log_x, log_y) for title, own in curves.items()], joined=joined)


class Panel(NamedTuple):
    """Some lines, and what they stand over."""

    title: str
    lines: Sequence[Line]
    x: str
    y: str
    log_x: bool = False
    log_y: bool = False


def panels(some: Sequence[Panel], *, joined: bool = True) -> Figure:
    """Panels side by side, with one legend."""
    figure = _figure(4.6 * len(some), 4.4)
    figure.set_facecolor(PAPER)
    for panel, ax in zip(some, figure.subplots(1, len(some), squeeze=False)[0], strict=True):
        _set_up(ax)
        if panel.log_x:
            ax.set_xscale("log")
        if panel.log_y:
            ax.set_yscale("log")
        ax.set_title(panel.title, fontsize=10.5, color=INK, loc="left")
        ax.set_xlabel(panel.x)
        ax.set_ylabel(panel.y)
        _draw_lines(ax, panel.lines, joined=joined)
    labels: dict[str, Artist] = {}
    for ax in figure.axes:
        handles, names = ax.get_legend_handles_labels()
        labels |= dict(zip(names, handles, strict=True))
    figure.legend(
        list(labels.values()),
        list(labels),
        loc="outside lower center",
        ncols=4,
        fontsize=9,
        frameon=False,
        labelcolor=INK,
    )
    return figure


def _draw_lines(ax: Axes, curves: Sequence[Line], *, joined: bool) -> None:
    nth = 0
    for line in curves:
        across, up = zip(*line.points, strict=True)
        if line.is_bound:
            ax.plot(across, up, color=MUTED, linewidth=1.4, label=line.label)
            continue
        ax.plot(
            across,
            up,
            color=_OKABE_ITO[nth % len(_OKABE_ITO)],
            marker=_MARKERS[nth % len(_MARKERS)],
            linestyle=_LINES[nth % len(_LINES)] if joined else "none",
            markersize=5,
            linewidth=1.3,
            label=line.label,
        )
        nth += 1
