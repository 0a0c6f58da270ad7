"""The report: what was run, what it cost, and whether the books agree, as a table for the terminal and as one page.

A page that can be mailed: figures, styles and numbers are all inside it, and opening it asks nothing of any network.
Not a dashboard: it is written once, from run folders alone, and the same folders always give the same page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from commlib.errors import ConfigError, RunError
from commlib.experiments import figures
from commlib.experiments.areas import areas, why_no_areas
from commlib.experiments.evidence import Booked, Group, Run, group_runs, read_runs, world_spec
from commlib.experiments.intervals import OverSeeds, over_seeds
from commlib.experiments.page import Content, Html, document, join, table, tag
from commlib.records import Estimate, Result, RunFolder, write_whole
from commlib.units import format_amount, format_bits

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

NONE: Final = "-"
"""Stands where there is no figure."""

_MOST_DRAWN: Final = 12
"""No more runs than this have their books drawn; tables they all have."""

_MOST_UNFOLDED: Final = 12
"""More runs than this stand behind their titles, so that what they come to together is not lost among them."""

_ESTIMATE: Final = (
    "-log2 q of every code, the expected ones included: what a perfect coder would need under the learned prior."
)
_PAYLOAD: Final = "the bits of the entropy-coded streams inside the frames: what our coder needed."
_WIRE: Final = "eight times the bytes of the frames as they were sent, headers included: what is charged."


class Saving(NamedTuple):
    """The wire of a run against that of dense; `is_like_for_like` if both share their frames in the same way."""

    times_less: float
    share: float
    is_like_for_like: bool

    @property
    def times(self) -> str:
        """In words, with a star where it is not like for like."""
        words = f"{number(self.times_less)}x less" if self.times_less >= 1 else f"{number(1 / self.times_less)}x more"
        return words if self.is_like_for_like else f"{words} *"


def saving_against_dense(result: Result, results: Sequence[Result]) -> Saving | None:
    """How much less a run put on the wire than `dense` in the same world; None without such a run, or without bits.

    A dense run with the same charging rule, hosts and worlds per frame is preferred, since these decide how far a
    header is shared; where there is none, the saving is marked as not like for like. Seeds of dense are averaged.
    """
    if result.method == "dense":
        return None
    same_world = [other for other in results if other.method == "dense" and other.world == result.world]
    alike = [other for other in same_world if _frame_sharing(other) == _frame_sharing(result)]
    dense = [other.bits.per_agent_step.wire for other in alike or same_world]
    wire = result.bits.per_agent_step.wire
    if not dense or wire <= 0 or np.mean(dense) <= 0:
        return None
    return Saving(float(np.mean(dense)) / wire, wire / float(np.mean(dense)), bool(alike))


def _frame_sharing(result: Result) -> tuple[str, int, int]:
    return result.charging_rule, result.hosts, result.parallel_worlds


class _Cell(NamedTuple):
    """A figure, and in a smaller hand below it how sure it is, or what else there is to say."""

    main: str
    below: str = ""


def summary_table(results: Sequence[Result]) -> Table:
    """The runs side by side, for the terminal; bits and messages are per agent and step."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    worlds = ", ".join(dict.fromkeys(result.world for result in results))
    shown = Table(
        title=Text(f"{worlds}: bits and messages per agent and step"),
        caption=Text(" ".join(["± is the wider side of the 95 % interval over episodes.", *_footnotes(results)])),
        caption_justify="left",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    head, rows = _summary(results)
    n_words = _n_words(head)
    for nth, title in enumerate(head):
        shown.add_column(Text(title), justify="left" if nth < n_words else "right", overflow="fold", min_width=4)
    for row in rows:
        shown.add_row(*(Text.assemble(cell.main, (f"\n{cell.below}" if cell.below else "", "dim")) for cell in row))
    return shown


def _n_words(head: Sequence[str]) -> int:
    return head.index("topology") + 1


def _summary(results: Sequence[Result]) -> tuple[list[str], list[list[_Cell]]]:
    """Titles and cells; the world and the seed are named only where they differ, savings where dense is there."""
    columns: dict[str, Callable[[Result], _Cell]] = {
        "method": lambda r: _Cell(r.method, r.variant),
        "codec": lambda r: _Cell(r.codec),
        "topology": lambda r: _Cell(r.topology if r.router == "none" else f"{r.topology}, router {r.router}"),
        "success %": lambda r: _with_side(r.success, 100, 1),
        "return": lambda r: _with_side(r.return_, 1, 2),
        "estimate": lambda r: _Cell(number(r.bits.per_agent_step.estimate)),
        "payload": lambda r: _Cell(number(r.bits.per_agent_step.payload)),
        "wire": lambda r: _Cell(number(r.bits.per_agent_step.wire)),
        "messages": lambda r: _Cell(number(r.messages_per_agent_step)),
        "payload / estimate\u00a0-\u00a01": lambda r: _Cell(coder_overhead(r)),
        "saving against dense": lambda r: _saving(r, results),
        "runtime x hosts": lambda r: _Cell(r.runtime, f"x {r.hosts}"),
        "worlds per frame": lambda r: _Cell(str(r.parallel_worlds)),
    }
    if len({result.seed for result in results}) > 1:
        columns["method"] = lambda r: _Cell(r.method, ", ".join(filter(None, (f"seed {r.seed}", r.variant))))
    if len({result.world for result in results}) > 1:
        columns = {"world": lambda r: _Cell(r.world), **columns}
    if all(saving_against_dense(result, results) is None for result in results):
        del columns["saving against dense"]
    return list(columns), [[cell(result) for cell in columns.values()] for result in results]


def _with_side(figure: Estimate, scale: float, digits: int) -> _Cell:
    """A mean and the wider side of its interval."""
    if figure.mean is None:
        return _Cell(NONE)
    if figure.ci95 is None:
        return _Cell(f"{figure.mean * scale:.{digits}f}")
    side = max(figure.mean - figure.ci95[0], figure.ci95[1] - figure.mean)
    return _Cell(f"{figure.mean * scale:.{digits}f}", f"± {side * scale:.{digits}f}")


def _saving(result: Result, results: Sequence[Result]) -> _Cell:
    saving = saving_against_dense(result, results)
    return _Cell(NONE) if saving is None else _Cell(saving.times, f"{number(100 * saving.share)} %")


def _footnotes(results: Sequence[Result]) -> list[str]:
    savings = [saving_against_dense(result, results) for result in results]
    notes = []
    if any(saving is not None for saving in savings):
        notes.append("Savings are of the wire, and its share of dense's wire.")
    if any(saving is not None and not saving.is_like_for_like for saving in savings):
        notes.append("* dense has another charging rule, number of hosts or of worlds per frame: not like for like.")
    return notes


def coder_overhead(result: Result) -> str:
    """How far the coder stays behind the estimate, in percent."""
    bits = result.bits.per_agent_step
    return f"{100 * (bits.payload / bits.estimate - 1):+.1f} %" if bits.estimate > 0 else NONE


def price_in_words(result: Result) -> str:
    """What a bit was worth in the evaluation.

    A rate weight may be above 0 where the bit price is 0: in calibration the bits that it saves brought no return, so that
    nobody would have to pay for it to be worth its while.
    """
    price = f"{result.bit_price:.3g} reward per bit"
    if result.bit_price or not result.rate_weight:
        return price
    return (
        f"{price} (rate weight {result.rate_weight:.3g} in squared distortion or harm per bit; the bits that it saves brought no "
        f"return in calibration)"
    )


def number(value: float) -> str:
    """Write a figure with about three digits that count.

    >>> number(0), number(0.01234), number(1.935), number(38.25), number(1728)
    ('0', '0.0123', '1.94', '38.2', '1,728')
    """
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 9.995 else f"{value:.2f}" if size >= 0.9995 else f"{value:.3g}"


def write_report(
    folders: Iterable[RunFolder],
    path: Path,
    *,
    plots_dir: Path | None = None,
    warn: Callable[[str], None] | None = None,
) -> None:
    """Write one page about these runs, and the figures as PNG files where a folder for them is named.

    Without matplotlib the page has no figures and says so. `warn` is told what the folders lack, which stands on the page,
    too.

    Raises:
        RunError: no run has a result, or the page cannot be written.
        ConfigError: PNG files were asked for and matplotlib is missing; the page itself was written.
    """
    runs, unread = read_runs(folders)
    drawn = _draw(runs) if figures.has_matplotlib() else {}
    _make_folder(path.parent)
    write_whole(path, _page(runs, unread, drawn).encode())
    if warn is not None:
        for sentence in [*unread, *(f"{run.folder.path}: {note}" for run in runs for note in run.notes)]:
            warn(sentence)
    if plots_dir is None:
        return
    if not drawn:
        raise ConfigError(f'{path} was written without figures: they need matplotlib; pip install "commlib[plots]"')
    _make_folder(plots_dir)
    for name, (figure, _) in drawn.items():
        write_whole(plots_dir / f"{name}.png", figures.to_png(figure))


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder {path}: {error.strerror}; choose another --out") from error


# Figures, by file name.

Drawn = dict[str, "tuple[Figure, str]"]


def _draw(runs: list[Run]) -> Drawn:
    """Every figure that these runs have the data for, with what it shows in words."""
    drawn: Drawn = {}
    if any(run.metrics for run in runs):
        drawn["learning_curves"] = (
            figures.learning_curves(runs),
            "Training: success or return, and the bits per agent and step, against environment steps."
            + (" Shaded bands are stages of training." if figures.has_bands(runs) else ""),
        )
    if any(run.result.frontier for run in runs) or len(runs) > 1:
        drawn["frontier"] = (
            figures.frontier(runs),
            "Success or return against bits. A line is one trained model played at several prices; a filled marker is "
            "where a run works (estimate, with its 95 % interval), the hollow one beside it what it put on the wire.",
        )
    if len(runs) > 1:
        drawn["comparison"] = (
            figures.comparison(runs),
            "Per method: success or return with its 95 % interval, and the wire bits, which are charged; the marks "
            "inside a bar are the payload (stroke) and the estimate (diamond).",
        )
    if figures.has_profiles(runs):
        drawn["profiles"] = (
            figures.profiles(runs),
            "Of each success rate the share of a method's runs that do better, each world counting once; shaded is the 95 % "
            "bootstrap interval.",
        )
    for nth, run in _closely(runs):
        if run.booked is None or not _talks(run):
            continue
        drawn[f"graph_{nth}"] = (
            figures.graph(run),
            "Who talks to whom, as charged in the evaluation; a dashed edge is open and carried nothing."
            + _without_compacted(run.booked),
        )
        if any(row.get("edges") for row in run.metrics):
            drawn[f"graph_over_time_{nth}"] = (
                figures.graph_over_time(run),
                "The learned graph over training: a mark where an edge was open, darker for those that stayed.",
            )
        drawn[f"bill_{nth}"] = (
            figures.bill(run),
            "The bill: bits charged on each edge, and the share of each sender." + _without_compacted(run.booked),
        )
        drawn[f"budget_{nth}"] = (
            figures.budget_over_time(run),
            "What was spent per round of the evaluation, all agents and parallel worlds together"
            + (", against what the budgets allowed" if run.result.budget else "; there was no budget")
            + (", and beneath it what a unit cost, in squared distortion (or harm)." if run.booked.prices else "."),
        )
    return drawn


def _talks(run: Run) -> bool:
    """Whether anybody could say anything to anybody; else there is nothing to draw of the books."""
    return bool(run.result.edges or (run.booked and run.booked.edges))


def _closely(runs: list[Run]) -> list[tuple[int, Run]]:
    """The runs whose books are drawn, numbered as on the page: one seed of each group keeps a sweep readable."""
    first = {id(group.runs[0]) for group in group_runs(runs)[:_MOST_DRAWN]}
    return [(nth, run) for nth, run in enumerate(runs, start=1) if id(run) in first]


def _shown(drawn: Drawn, name: str) -> Html | None:
    if name not in drawn:
        return None
    figure, caption = drawn[name]
    svg = Html(figures.to_svg(figure, caption, prefix=name))
    return tag("figure", svg, tag("figcaption", caption))


# The page, section by section.


def _page(runs: list[Run], unread: list[str], drawn: Drawn) -> str:
    worlds = list(dict.fromkeys(run.result.world for run in runs))
    methods = list(dict.fromkeys(run.result.method for run in runs))
    title = f"{_several(methods, 'methods')} on {_several(worlds, 'worlds')}"
    n_runs = f"{len(runs)} run{'s' * (len(runs) != 1)}"
    return document(
        f"commlib report: {title}",
        tag("h1", title[0].upper() + title[1:]),
        tag(
            "p",
            f"commlib report of {n_runs}: what was said, what it cost in bits, and what it was worth.",
            class_="muted",
        ),
        *(tag("p", f"Not shown: {sentence}", class_="note") for sentence in unread),
        _tiles(runs),
        _what_was_run(runs, worlds),
        _summary_section(runs),
        _figure_section(drawn),
        _frontier_section(runs),
        *(_run_section(nth, run, runs, drawn) for nth, run in enumerate(runs, start=1)),
        tag("footer", "Made from the run folders alone. Every figure is in result.json, every bit in journal.sqlite."),
    )


def _several(words: list[str], noun: str) -> str:
    return (
        " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
        if len(words) <= 4
        else (f"{len(words)} {noun}")
    )


def _tiles(runs: list[Run]) -> Html:
    """The answer in four figures: of the one run, or of ours among many, over its seeds."""
    groups = group_runs(runs)
    group = next((one for one in groups if one.runs[0].result.method == "ours"), groups[0])
    chosen = [run.result for run in group.runs]
    result, n_seeds = chosen[0], len(chosen)
    wire = number(over_seeds([one.bits.per_agent_step.wire for one in chosen]).iqm or 0.0)
    estimate = number(over_seeds([one.bits.per_agent_step.estimate for one in chosen]).iqm or 0.0)
    tiles = [_merit_tile(chosen), (wire, f"bits per agent and step on the wire (estimate {estimate})")]
    savings = [saving_against_dense(one, [run.result for run in runs]) for one in chosen]
    known = [saving for saving in savings if saving is not None]
    if known and len(known) == n_seeds:
        share = over_seeds([saving.share for saving in known]).iqm or 0.0
        is_alike = all(saving.is_like_for_like for saving in known)
        over_all = Saving(1 / share, share, is_like_for_like=is_alike)
        words = f"of the wire of dense: {number(100 * share)} %"
        tiles.append((over_all.times.removesuffix(" *"), words + ("" if is_alike else ", not like for like")))
    else:
        n_episodes = sum(one.success.n or one.return_.n for one in chosen)
        tiles.append((format_bits(sum(one.ledger.spent for one in chosen)), f"spent in {n_episodes:,} episodes"))
    seeds = f"seed {result.seed}" if n_seeds == 1 else f"middle of {n_seeds} seeds"
    where = [group.world] if len({one.world for one in groups}) > 1 else []
    whose = f" ({', '.join([group.label, *where, seeds])})" if len(runs) > 1 else ""
    tiles = [(value, words + whose) for value, words in tiles]
    tiles.append(_verdict_tile(runs))
    return tag(
        "div",
        *(tag("div", tag("b", value), tag("span", words), class_="tile") for value, words in tiles),
        class_="tiles",
    )


def _merit_tile(results: list[Result]) -> tuple[str, str]:
    """Success, or else the return: of one run over its episodes, of several over the runs."""
    has_success = all(one.success.mean is not None for one in results)
    noun, scale, unit = ("success", 100.0, " %") if has_success else ("return", 1.0, "")
    if len(results) == 1:
        figure = results[0].success if has_success else results[0].return_
        mean, interval = figure.mean or 0.0, _between(figure, scale, unit)
    else:
        over = over_seeds([one.success.mean if has_success else one.return_.mean for one in results])
        mean = over.iqm or 0.0
        ends = [] if over.ci95 is None else [f"{scale * end:.3g}" for end in over.ci95]
        interval = f", 95 % interval {' to '.join(ends)}{unit} over seeds" if ends else ""
    return (f"{100 * mean:.1f} %" if has_success else number(mean)), noun + interval


def _between(figure: Estimate, scale: float, unit: str) -> str:
    if figure.ci95 is None:
        return ""
    low, high = (scale * end for end in figure.ci95)
    return f", 95 % interval {low:.3g} to {high:.3g}{unit} over {figure.n} episodes"


def _verdict_tile(runs: list[Run]) -> tuple[str, str]:
    audited = [run.booked.audit for run in runs if run.booked is not None]
    n_differences = sum(len(report.differences) for report in audited)
    if not audited:
        return NONE, "no books to audit"
    if n_differences:
        return f"{n_differences} differences", "found by the audit; see below"
    n_entries = sum(report.n_entries for report in audited)
    return "books agree", f"audit of {n_entries:,} entries in {len(audited)} of {len(runs)} journals"


def _what_was_run(runs: list[Run], worlds: list[str]) -> Html:
    return tag(
        "section",
        tag("h2", "What was run"),
        *(_world(world, [run.result for run in runs if run.result.world == world]) for world in worlds),
        tag("h3", "Commands"),
        _folded(
            f"{len(runs)} commands", tag("pre", "\n".join(dict.fromkeys(run.result.command for run in runs))), runs
        ),
    )


def _folded(title: str, content: Html, runs: list[Run]) -> Html:
    """Content behind its title where there are so many runs that it would hide the rest of the page."""
    return tag("details", tag("summary", title), content) if len(runs) > _MOST_UNFOLDED else content


def _world(world: str, results: list[Result]) -> Html:
    spec = world_spec(world)
    facts: list[tuple[str, Content]] = []
    if spec is not None:
        facts += [
            ("agents", f"{spec.n_agents}, for at most {spec.n_steps} steps an episode"),
            ("success", spec.success or "not defined; the return counts"),
            ("must be said", spec.must_say or "not known"),
        ]
        if spec.bound_bits is not None:
            facts.append(("known bound", _against_bound(spec.bound_bits, results)))
        facts.append(("source", spec.source or NONE))
    else:
        facts.append(("world", "not built in: it is described where it comes from"))
    facts.append(("training", f"{_range([result.steps for result in results])} environment steps"))
    facts.append(("evaluation", f"{_range([result.return_.n for result in results])} episodes"))
    facts.append(("seeds", ", ".join(str(seed) for seed in sorted({result.seed for result in results}))))
    return join([tag("h3", world), _facts(facts)])


def _against_bound(bound: float, results: list[Result]) -> str:
    text = f"a perfect team must send {bound:.2f} bits per agent and episode"
    if len(results) == 1 and results[0].bits.per_agent_episode.estimate > 0:
        bits = results[0].bits.per_agent_episode
        text += (
            f"; this run's estimate is {number(bits.estimate)} ({number(bits.estimate / bound)} times that), "
            f"its wire {number(bits.wire)} ({number(bits.wire / bound)} times)"
        )
    return text


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _facts(facts: Sequence[tuple[str, Content]]) -> Html:
    return tag("dl", *(piece for name, value in facts for piece in (tag("dt", name), tag("dd", value))))


def _summary_section(runs: list[Run]) -> Html:
    results = [run.result for run in runs]
    head, rows = _summary(results)
    rules = list(dict.fromkeys(result.charging_rule for result in results))
    cells = [[join([cell.main, tag("small", cell.below) if cell.below else None]) for cell in row] for row in rows]
    note = "Estimate, payload, wire and messages are per agent and step; ± is the wider side of the 95 % interval."
    return tag(
        "section",
        tag("h2", "Summary"),
        _over_seeds(group_runs(runs)),
        _areas(group_runs(runs)),
        tag("h3", "Run by run") if len(runs) > 1 else None,
        _folded(f"{len(runs)} runs", table(head, cells, n_words=_n_words(head)), runs),
        tag("p", " ".join([note, *_footnotes(results)]), class_="small muted"),
        *(tag("p", tag("b", "Charging rule: "), _charging(rule), class_="rule") for rule in rules),
        _facts([("estimate", _ESTIMATE), ("payload", _PAYLOAD), ("wire", _WIRE)]),
    )


def _charging(rule: str) -> str:
    """The rule in words, whether its name or its sentence is recorded."""
    from commlib.plan import ABSENCE_RULE, CHARGING_RULES

    if rule not in CHARGING_RULES:
        return rule
    return f"{rule}: {CHARGING_RULES[rule]}; {ABSENCE_RULE}."


def _over_seeds(groups: list[Group]) -> Html | None:
    """Interquartile means over seeds, where there are several."""
    several = [group for group in groups if len(group.runs) > 1]
    if not several:
        return None

    def over(values: list[float | None], scale: float) -> str:
        return _over(over_seeds(values), scale)

    rows = [
        (
            group.label,
            group.world,
            str(len(group.runs)),
            over([run.result.success.mean for run in group.runs], 100),
            over([run.result.return_.mean for run in group.runs], 1),
            over([run.result.bits.per_agent_step.estimate for run in group.runs], 1),
            over([run.result.bits.per_agent_step.wire for run in group.runs], 1),
        )
        for group in several
    ]
    n_fewest = min(len(group.runs) for group in several)
    return join(
        [
            tag("h3", "Over seeds"),
            table(("method", "world", "seeds", "success %", "return", "estimate", "wire"), rows, n_words=2),
            tag("p", "Interquartile mean over seeds, in brackets its 95 % bootstrap interval."
                + (" Fewer than five seeds: no claim can rest on it." if n_fewest < 5 else ""), class_="small muted"),
        ]
    )  # fmt: skip


def _areas(groups: list[Group]) -> Html | None:
    """How much of the ground below its curve each method covers, in worlds where one of them says nothing."""
    rows: list[tuple[str, ...]] = []
    missing: list[str] = []
    for world in dict.fromkeys(group.world for group in groups):
        here = {group.label: [run.result for run in group.runs] for group in groups if group.world == world}
        if (reason := why_no_areas(here)) is not None:
            missing += [f"{world}: {reason}."] if len(here) > 1 else []
            continue
        rows += [
            (
                one.name,
                world,
                str(one.area.n),
                _over(one.area, text="{:.3f}".format),
                _times(one.times),
                NONE if one.volume.iqm is None else f"{one.volume.iqm:.3f}",
                NONE if one.by_bandwidth.iqm is None else f"{one.by_bandwidth.iqm:.3f}",
                NONE if one.squared.iqm is None else number(one.squared.iqm),
            )
            for one in areas(here)
        ]
    without = tag("p", " ".join(["No areas in", *missing]), class_="small muted") if missing else None
    if not rows:
        return without
    note = (
        "Area below the best score so far as bits grow, on axes that all methods of the world share: bits (estimates) by their "
        "logarithm, from the fewest of any run to the most; the score from that of a team without messages to 1, or to the best "
        "return. In brackets the 95 % bootstrap interval. The hypervolume is the same with bits as they are, up to the most of "
        "any run. AUC is the seed paper's (arXiv:2602.02035), success over bits by the most of the run itself, of runs "
        "with more than one point. Success squared per wire bit, per agent and step, rewards both at once."
    )
    head = ("method", "world", "seeds", "area", "times the best other", "hypervolume", "AUC", "success² per wire bit")
    return join(
        filter(
            None,
            [
                tag("h3", "Area under the frontier"),
                table(head, rows, n_words=2),
                tag("p", note, class_="small muted"),
                without,
            ],
        )
    )


def _over(figure: OverSeeds, scale: float = 1.0, text: Callable[[float], str] = number) -> str:
    """A figure over seeds with its interval."""
    if figure.iqm is None:
        return NONE
    side = "" if figure.ci95 is None else f" [{', '.join(text(scale * end) for end in figure.ci95)}]"
    return text(scale * figure.iqm) + side


def _times(ratio: float | None) -> str:
    return NONE if ratio is None else f"{ratio:.2f}"


def _figure_section(drawn: Drawn) -> Html | None:
    if not figures.has_matplotlib():
        note = 'There are no figures: matplotlib is not installed. pip install "commlib[plots]", then report again.'
        return tag("section", tag("h2", "Figures"), tag("p", note, class_="note"))
    shown = [_shown(drawn, name) for name in ("comparison", "frontier", "profiles", "learning_curves")]
    return tag("section", tag("h2", "Figures"), *shown) if any(shown) else None


def _frontier_section(runs: list[Run]) -> Html | None:
    with_frontier = [(nth, run) for nth, run in enumerate(runs, start=1) if run.result.frontier]
    if not with_frontier:
        return None
    rows = [
        (
            f"{nth}. {run.result.method}, seed {run.result.seed}",
            run.result.world,
            f"{point.bit_price:.3g}",
            f"{point.rate_weight:.3g}",
            NONE if point.success is None else f"{100 * point.success:.1f}",
            number(point.return_),
            number(point.bits_per_agent_step),
            "works here" if point.rate_weight == run.result.rate_weight else "",
        )
        for nth, run in with_frontier
        for point in sorted(run.result.frontier, key=lambda point: point.bits_per_agent_step)
    ]
    head = (
        "run",
        "world",
        "price (reward per bit)",
        "rate weight",
        "success %",
        "return",
        "bits per agent and step",
        "",
    )
    content = (
        tag(
            "p", "One trained model, played at several prices of a bit: the price is a knob that is turned at run time."
        ),
        table(head, rows, n_words=2),
    )
    if len(rows) > 24:
        content = (content[0], tag("details", tag("summary", f"{len(rows)} points"), content[1]))
    return tag("section", tag("h2", "Frontier"), *content)


def _run_section(nth: int, run: Run, runs: list[Run], drawn: Drawn) -> Html:
    result = run.result
    title = f"The books of {result.method}, seed {result.seed}"
    title = title if len(runs) == 1 else f"{nth}. {title}"
    books = [
        *(tag("p", note, class_="note") for note in run.notes),
        tag("p", _verdict(run)),
        _differences(run),
        tag("div", _shown(drawn, f"graph_{nth}"), _shown(drawn, f"bill_{nth}"), class_="pair")
        if run.booked and _talks(run)
        else None,
        _shown(drawn, f"graph_over_time_{nth}"),
        _budgets(run),
        _shown(drawn, f"budget_{nth}"),
        tag(
            "p",
            f"Tables only: books are drawn for one seed of each method, {_MOST_DRAWN} at most.",
            class_="small muted",
        )
        if run.booked and _talks(run) and drawn and f"graph_{nth}" not in drawn
        else None,
        _agents_table(run),
        _bill_table(run),
        tag("h3", "Ledger, codec, time"),
        _facts(_run_facts(run)),
        tag("h3", "How to make it again"),
        tag("pre", result.command),
        _facts(
            [
                ("git", tag("code", result.git or "not a checkout")),
                ("versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())),
                ("journal", tag("code", result.journal_digest)),
                ("run", tag("code", result.run)),
            ]
        ),
        tag("details", tag("summary", "config.yaml, as resolved"), tag("pre", run.config)) if run.config else None,
    ]
    if len(runs) > _MOST_UNFOLDED:
        return tag("section", _folded(f"{title}, {result.world}", join(books), runs), id=f"run-{nth}")
    return tag("section", tag("h2", title), *books, id=f"run-{nth}")


def _verdict(run: Run) -> Html:
    """The auditor's finding in words."""
    if run.booked is None:
        return tag("span", "Not audited: there are no books to read.", class_="bad")
    report = run.booked.audit
    read = (
        f"{report.n_entries:,} entries of {format_bits(report.bits_debited)} were held against "
        f"{report.n_receipts:,} receipts, edge by edge and round by round."
    )
    if report.differences:
        n = len(report.differences)
        return join([tag("span", f"The books do not agree: {n} difference{'s' * (n != 1)}. ", class_="bad"), read])
    extra = ""
    if report.bits_unaccounted:
        extra = (
            f" Hosts that died had leased {format_bits(report.bits_unaccounted)} and not reported; it counts as spent, "
            f"and receivers heard {format_bits(report.bits_recovered)} of it."
        )
    return join([tag("span", "The books agree. ", class_="good"), read, extra])


def _differences(run: Run) -> Html | None:
    if run.booked is None or not run.booked.audit.differences:
        return None
    found = [str(difference) for difference in run.booked.audit.differences]
    more = [f"... and {len(found) - 10} more; see `commlib audit`"] if len(found) > 10 else []
    return tag("ul", *(tag("li", sentence, class_="bad") for sentence in found[:10] + more))


def _budgets(run: Run) -> Html | None:
    """What each budget was used for, which one binds, and what became of what found no room."""
    result, ledger = run.result, run.result.ledger
    if not result.budgets:
        return None
    rows = [
        (
            one.budget,
            *(_amount(n, one.currency) for n in (one.granted, one.spent)),
            f"{100 * one.spent / one.granted:.1f} %" if one.granted else NONE,
            _amount(one.wanted, one.currency),
            f"{one.n_full:,}",
            number(one.price) if one.price else NONE,
            NONE if one.bit_price is None else number(one.bit_price),
            "binds" if one.is_binding else "",
        )
        for one in result.budgets
    ]
    head = ("budget", "granted", "spent", "used", "wanted", "short rounds", "price", "reward per bit", "")
    binding = f"{result.binding} holds the others back" if result.binding else "none: all had room"
    facts: list[tuple[str, Content]] = [
        ("binding", binding),
        ("when one is out", f"messages are {_FATES.get(result.when_out or '', result.when_out)}"),
        ("who goes first", f"allocation by {result.allocation}"),
        (
            "for want of budget",
            f"{ledger.dropped:,} messages dropped, {ledger.degraded:,} degraded, {ledger.deferred:,} deferred",
        ),
    ]
    note = (
        "Wanted is what would have been spent if no allowance had been too small. Prices are in squared distortion (or "
        "harm) per unit."
    )
    return join(
        [
            tag("h3", "Budgets"),
            *(tag("p", one.hint, class_="note") for one in result.budgets if one.hint),
            table(head, rows),
            tag("p", note, class_="small muted"),
            _facts(facts),
        ],
    )


_FATES: Final = {
    "drop": "dropped",
    "degrade": "told more coarsely, then dropped",
    "defer": "deferred, then dropped",
    "raise": "an error",
}


def _amount(n: int, currency: str) -> str:
    """A whole amount, and the unit where it is not the budget's own."""
    return format_amount(n, "latency") if currency == "latency" else f"{n:,}"


def _without_compacted(booked: Booked) -> str:
    """A sentence on what is in no bill by edge or agent; empty where nothing is missing."""
    if not booked.compacted:
        return ""
    return f" Of {format_bits(booked.compacted)} that were compacted only the sum is known: they are not in it."


def _compacted_cells(booked: Booked) -> tuple[str, str]:
    """What was compacted, and its share of the bill."""
    return f"{booked.compacted:,}", f"{100 * booked.compacted / max(1, booked.charged):.1f} %"


def _agents_table(run: Run) -> Html | None:
    """What each agent sent; folded away where they are many."""
    booked = run.booked
    if booked is None or not booked.agents:
        return None
    rows = [
        (
            str(line.agent),
            f"{line.messages:,}",
            f"{line.bits:,}",
            f"{100 * line.bits / max(1, booked.charged):.1f} %",
            NONE if line.gate_rate is None else f"{100 * line.gate_rate:.1f} %",
        )
        for line in booked.agents
    ]
    if booked.compacted:
        rows.append(("compacted", NONE, *_compacted_cells(booked), NONE))
    shown = table(("agent", "messages", "wire bits charged", "share of the bill", "rounds in which it spoke"), rows)
    if len(rows) > 14:
        shown = tag("details", tag("summary", f"The bill of {len(rows)} agents"), shown)
    return join([tag("h3", "The bill, by agent"), shown])


def _bill_table(run: Run) -> Html | None:
    """The bill by edge; folded away where it is long."""
    if run.booked is None:
        return None
    booked, bills = run.booked, run.booked.edges
    if not booked.charged:
        return tag("p", "No message was charged.", class_="muted")
    rows = [
        (
            f"{bill.edge.sender} → {bill.edge.receiver}",
            f"{bill.n_messages:,}",
            f"{bill.bits:,}",
            f"{bill.payload_bits:,}",
            f"{100 * bill.bits / booked.charged:.1f} %",
        )
        for bill in bills
    ]
    payload = f"{sum(bill.payload_bits for bill in bills):,}"
    if booked.compacted:
        bits, share = _compacted_cells(booked)
        rows.append(("compacted", NONE, bits, NONE, share))
        payload = NONE
    rows.append(("all", "", f"{booked.charged:,}", payload, ""))
    shown = table(("edge", "messages in frames", "wire bits charged", "payload bits", "share of the bill"), rows)
    if len(bills) > 14:
        shown = tag("details", tag("summary", f"The bill of {len(bills)} edges"), shown)
    note = (
        "A frame is paid once: its bits are shared out evenly over the senders in it and over those who heard them, "
        "so that the column adds up to what was charged."
    )
    if booked.compacted:
        note += " Of what was compacted only the sum is known, not the edges."
    return join([tag("h3", "The bill, by edge"), shown, tag("p", note, class_="small muted")])


def _by_world(result: Result) -> list[tuple[str, Content]]:
    """The success in each part of a mixture, as a fact; none of any other world."""
    told = [f"{name} {100 * (one.mean or 0):.1f} %" for name, one in result.success_by_world.items()]
    return [("success by world", ", ".join(told))] if told else []


def _run_facts(run: Run) -> list[tuple[str, Content]]:
    result, ledger, health = run.result, run.result.ledger, run.result.codec_health
    balance = ledger.spent + ledger.leased + ledger.available - ledger.granted
    right = "spent + leased + available = granted, to the bit" if balance == 0 else f"off by {balance:,} bits"
    facts: list[tuple[str, Content]] = [
        ("budget", result.budget or "none: what was sent was granted"),
        (
            "ledger",
            f"granted {ledger.granted:,} bits, spent {ledger.spent:,}, leased {ledger.leased:,}, "
            f"available {ledger.available:,}: {right}",
        ),
        ("for want of budget", f"{ledger.dropped:,} messages dropped, {ledger.degraded:,} degraded")
        if not result.budgets
        else ("seen by agents", "what is left of the budget" if result.show_budget else "nothing of the budget"),
        *_by_world(result),
        ("bit price", price_in_words(result)),
        (
            "codec",
            f"{health.used_codes} codes used, perplexity {health.perplexity:.1f}, {health.dead_codes} never used",
        ),
        ("rate gap", f"{100 * result.rate_gap:+.1f} %: the coder's stream against the estimate"),
        (
            "talk",
            f"{result.messages_per_agent_step:.3g} messages per agent and step; gate rate {result.gate_rate:.3g}; "
            f"{100 * result.density:.0f} % of all edges open",
        ),
        (
            "frames",
            f"{result.frames:,} of {result.wire_bytes:,} bytes together, {result.parallel_worlds} worlds in a frame, "
            f"{result.runtime} runtime on {result.hosts} host{'s' * (result.hosts != 1)}",
        ),
    ]
    if result.seconds:
        spent = [f"{name.removesuffix('_seconds')} {number(seconds)} s" for name, seconds in result.seconds.items()]
        facts.append(("time", ", ".join(spent)))
    if result.throughput:
        rates = [f"{name.replace('_', ' ')} {number(rate)}" for name, rate in result.throughput.items()]
        facts.append(("throughput", ", ".join(rates)))
    return facts
