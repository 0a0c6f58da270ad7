"""Reports of made-up runs: nothing is trained here, but the folders are as a run leaves them."""

import builtins
import json
import random
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from commlib.budget import Budget
from commlib.compact import compact
from commlib.config import make_config, write_yaml
from commlib.errors import ConfigError, RunError
from commlib.experiments import evidence, figures, page, report
from commlib.experiments.evidence import group_runs, read_run
from commlib.experiments.report import price_in_words, saving_against_dense, summary_table, write_report
from commlib.journal import Journal
from commlib.ledger import Entry, Ledger, Receipt, Terms
from commlib.records import Estimate, Result, RunFolder, write_json

VOID = {"meta", "br", "hr", "img", "path", "use", "rect", "circle", "line", "stop"}


def bits(scale):
    return {"estimate": 0.93 * scale, "payload": scale, "wire": 1.8 * scale}


def make_books(folder, n_agents, n_rounds, per_round, budget):
    """Each agent broadcasts to the next two in the ring, more in the early rounds."""
    rng = random.Random(1)
    with Ledger(Journal(folder.journal), budget=budget) as ledger:
        for r in range(n_rounds):
            with ledger.round():
                if budget.amount is not None:
                    ledger.grant(budget.allowance(64), 2 * r)
                spend = [
                    int(per_round * (3 if r == 1 else 0.4 + rng.random()) * (1 + s) / n_agents) for s in range(n_agents)
                ]
                lease = ledger.lease("host-0", sum(spend) if budget.amount is None else ledger.statement().available, r)
                entries, receipts = [], []
                for s, b in enumerate(spend):
                    heard_by = tuple(sorted({(s + 1) % n_agents, (s + 2) % n_agents} - {s}))
                    if b:
                        entries.append(Entry(0, r, r, s, heard_by, 64, b, int(0.6 * b), "host-0"))
                        receipts += [Receipt("host-0", 0, r, r, s, to, 64, b) for to in heard_by]
                ledger.settle(lease, entries)
                ledger.receive(receipts)
                if budget.amount is not None:
                    ledger.withdraw(ledger.statement().available, 2 * r + 1)
        return ledger.statement(), ledger.journal.digest()


def make_run(path, *, n_agents=3, n_rounds=10, spend=2.0, success=0.97, with_budget=False, learning=True, **changed):
    """A run folder and what its result says; `changed` are fields of the result."""
    path.mkdir(parents=True)
    folder = RunFolder(path)
    budget = Budget.parse("64 bit/step") if with_budget else Budget(None)
    statement, digest = make_books(folder, n_agents, n_rounds, int(64 * n_agents * spend), budget)
    merit = None if success is None else Estimate(mean=success, ci95=(success - 0.012, min(1, success + 0.009)), n=512)
    method = changed.get("method", "ours")
    frontier = [
        {
            "bit_price": 0.01 * 2**k,
            "rate_weight": 0.1 * 2**k,
            "success": None if success is None else success * (1 - 0.004 * 3**k / 2),
            "return_": 2.0 - 0.05 * 2**k,
            "bits_per_agent_step": 0.93 * spend * 1.3 / 1.45**k,
        }
        for k in range(6)
    ]
    fields = {
        "world": "guide",
        "method": method,
        "codec": "vq",
        "topology": "full",
        "seed": 0,
        "steps": 200_000,
        "runtime": "local",
        "hosts": 1,
        "charging_rule": "broadcast",
        "budget": "64 bit/step" if with_budget else None,
        "bit_price": 0.02,
        "rate_weight": 0.2,
        "success": merit or Estimate(mean=None, ci95=None, n=0),
        "return_": {"mean": 1.93, "ci95": (1.88, 1.97), "n": 512},
        "random_return": None,
        "episode_steps": {"mean": 10.0, "ci95": (10.0, 10.0), "n": 512},
        "bits": {"per_agent_step": bits(spend), "per_agent_episode": bits(10 * spend), "per_message": bits(2 * spend)},
        "messages_per_agent_step": min(1.0, 0.14 * spend),
        "gate_rate": 1.0,
        "density": 1.0,
        "wire_bytes": statement.spent // 8,
        "frames": n_rounds,
        "parallel_worlds": 64,
        "ledger": {
            "granted": statement.granted,
            "spent": statement.spent,
            "leased": statement.leased,
            "available": statement.available,
            "dropped": 3 if with_budget else 0,
            "degraded": 0,
        },
        "codec_health": {"used_codes": 27, "perplexity": 24.6, "dead_codes": 37},
        "rate_gap": 0.031,
        "frontier": frontier if method == "ours" else [],
        "edges": [(s, r) for s in range(n_agents) for r in range(n_agents) if s != r],
        "journal_digest": digest,
        "throughput": {"train_steps_per_second": 5210.0, "messages_per_second": 18_400.0},
        "seconds": {"dense": 31.2, "fit": 2.1, "fine-tune": 9.7, "calibrate": 4.4, "evaluate": 1.9},
        "versions": {"commlib": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
        "git": "ef2f615",
        "command": f"commlib train guide --method {method} --out runs/{path.name}",
        "run": path.name,
    }
    result = Result.model_validate({**fields, **changed})
    write_json(folder.result, result.to_json())
    write_yaml(make_config(("test", {"world": "guide", "seed": result.seed})), folder.config)
    if learning:
        rng = random.Random(result.seed)
        rows = []
        for k in range(80):
            stage = "dense" if k < 56 else "fine-tune" if k < 72 else "priced"
            level = (success or 0.0) * (1 - 0.9 / (1 + (k / 14) ** 3)) + 0.02 * rng.random() - 0.06 * (k == 56)
            rows.append(
                {
                    "iteration": k,
                    "stage": stage,
                    "steps": 2500 * (k + 1),
                    "success": None if success is None else level,
                    "return": 2.0 - 3.0 / (1 + k / 5) + 0.05 * rng.random(),
                    "bits_per_agent_step": 4.6 * spend if k < 56 else spend * (1.5 - 0.3 * (k > 71)),
                    "seconds": 0.4,
                    "policy": -0.01,
                }
            )
        folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


class Page(HTMLParser):
    """Checks that every element is closed, and keeps what the tests ask about."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.loads, self.seen, self.titles = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.seen.append(name)
        if name not in VOID:
            self.open.append(name)
        for key, value in attributes:
            if key == "id":
                self.ids.append(value)
            if key in {"src", "href", "action", "data", "srcset", "poster"} and not value.startswith("#"):
                self.loads.append(value)

    def handle_startendtag(self, name, attributes):
        self.handle_starttag(name, attributes)
        if name not in VOID:
            self.open.pop()

    def handle_endtag(self, name):
        if name not in VOID:
            assert self.open.pop() == name

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)


def written(folders, tmp_path, **options):
    path = tmp_path / "out" / "report.html"
    write_report(folders, path, **options)
    return path.read_text()


def printed(table, width=200):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(table)
    console.file.close()
    return console.export_text()


@pytest.fixture
def several(tmp_path):
    return [
        make_run(tmp_path / "ours", with_budget=True),
        make_run(tmp_path / "ours-1", with_budget=True, seed=1, success=0.96),
        make_run(tmp_path / "int8", method="int8", codec="int8", spend=130.0),
        make_run(tmp_path / "dense", method="dense", codec="float32", spend=520.0, success=0.985),
        make_run(tmp_path / "none", method="none", topology="none", spend=0.0, success=0.42),
    ]


# The page.


def test_one_run_makes_a_whole_page(tmp_path):
    folder = make_run(tmp_path / "run", with_budget=True)
    text = written([folder], tmp_path)
    seen = Page(text)
    assert seen.seen.count("svg") == 5  # curves, frontier, graph, bill, budget
    assert seen.titles == ["What was run", "Summary", "Figures", "Frontier", "The books of ours, seed 0"]
    for words in (
        "log2 25 = 4.64 bits per agent per episode",
        "one frame per sending host and round, heard by all open edges, paid once",
        "The books agree.",
        "spent + leased + available = granted, to the bit",
        "27 codes used, perplexity 24.6, 37 never used",
        "fine-tune 9.70 s",
        "commlib train guide --method ours --out runs/run",
        "torch 2.13.0",
        "ef2f615",
        "97.0<small>± 1.2</small>",
        "+7.5 %",
    ):
        assert words in text, words


def test_a_page_asks_nothing_of_any_network(several, tmp_path):
    text = written(several, tmp_path)
    seen = Page(text)
    assert seen.loads == []
    assert not {"script", "link", "iframe", "object", "embed", "img", "base"} & set(seen.seen)
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert len(seen.ids) == len(set(seen.ids))
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
    assert used <= set(seen.ids)


def test_several_runs_stand_side_by_side(several, tmp_path):
    text = written(several, tmp_path)
    seen = Page(text)
    assert sum(title.endswith(("seed 0", "seed 1")) for title in seen.titles) == 5
    assert "Over seeds" in text
    assert "Fewer than five seeds" in text
    assert "saving against dense" in text
    assert "260x less<small>0.385 %</small>" in text
    # curves, frontier, comparison, and three for each of the four groups: the second seed has tables only
    assert seen.seen.count("svg") == 3 + 3 * 4
    assert text == written(several, tmp_path)


def rivals(tmp_path, n_seeds):
    """Three methods in one world, one of which says nothing."""
    methods = {"ours": (2.0, 0.95), "int8": (40.0, 0.97), "none": (0.0, 0.4)}
    return [
        make_run(tmp_path / f"{name}-{seed}", method=name, spend=spend, success=success - 0.01 * seed, seed=seed)
        for name, (spend, success) in methods.items()
        for seed in range(n_seeds)
    ]


def test_areas_and_profiles_stand_where_there_is_something_to_compare(tmp_path):
    text = written(rivals(tmp_path, 2), tmp_path)
    assert "Area under the frontier" in text
    assert "times the best other" in text
    table = text.partition("Area under the frontier")[2].partition("</table>")[0]
    assert table.index(">ours<") < min(table.index(">int8<"), table.index(">none<"))
    assert ">0.000 [0.000, 0.000]<" in table  # who says nothing covers nothing
    assert "profiles" in text
    alone = written([make_run(tmp_path / "alone")], tmp_path)
    assert "Area under the frontier" not in alone
    assert 'id="profiles' not in alone


def test_the_tiles_are_of_all_seeds(tmp_path):
    tiles = written(rivals(tmp_path, 3), tmp_path).partition('class="tiles"')[2].partition("</section>")[0]
    assert "<b>94.0 %</b>" in tiles, "the middle of 0.95, 0.94 and 0.93"
    assert "over seeds (ours, middle of 3 seeds)" in tiles
    alone = written(rivals(tmp_path / "one", 1), tmp_path).partition('class="tiles"')[2].partition("</section>")[0]
    assert "<b>95.0 %</b>" in alone
    assert "episodes (ours, seed 0)" in alone


def test_a_profile_is_the_share_of_runs_that_do_better(tmp_path):
    runs = [read_run(folder) for folder in rivals(tmp_path, 2)]
    axes = figures.profiles(runs).axes[0]
    by_label = {line.get_label(): line for line in axes.get_lines()}
    x, y = (list(values) for values in by_label["none"].get_data())
    at = dict(zip(x, y, strict=True))
    assert (at[30.0], at[39.0], at[45.0]) == (100.0, 50.0, 0.0)


def test_many_runs_stand_behind_their_titles(tmp_path):
    few, many = written(rivals(tmp_path / "few", 2), tmp_path), written(rivals(tmp_path / "many", 5), tmp_path)
    assert "15 commands</summary>" in many
    assert "15 runs</summary>" in many
    assert "seed 4, guide</summary>" in many
    assert "commands</summary>" not in few


def test_what_users_write_is_shown_and_never_run(tmp_path):
    bad = "<script>alert('$x$')</script>"
    folder = make_run(
        tmp_path / "run", world=bad, method="_a & b", command=bad, git=bad, charging_rule=bad, budget=bad, run=bad
    )
    folder.config.write_text(f"world: {bad}\n")
    other = make_run(tmp_path / "other", method="[red]$ & \u7532", world=bad)
    text = written([folder, other], tmp_path, plots_dir=tmp_path / "plots")
    assert "script" not in Page(text).seen
    assert "&lt;script&gt;alert" in text
    assert "not built in" in text
    assert "[red]$ &" in printed(summary_table([folder.read_result(), other.read_result()]))


def test_png_files_are_written_beside_it(tmp_path):
    folder = make_run(tmp_path / "run")
    written([folder], tmp_path, plots_dir=tmp_path / "plots")
    files = sorted((tmp_path / "plots").iterdir())
    assert [file.name for file in files] == [
        "bill_1.png", "budget_1.png", "frontier.png", "graph_1.png", "learning_curves.png"
    ]  # fmt: skip
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_without_a_journal_or_metrics_the_page_says_so(tmp_path):
    folder = make_run(tmp_path / "run", learning=False)
    folder.journal.unlink()
    text = written([folder], tmp_path)
    assert "journal.sqlite is missing, so there is no bill by edge and no audit." in text
    assert "metrics.jsonl is missing or empty" in text
    assert Page(text).seen.count("svg") == 1  # the frontier is in the result


def test_a_damaged_journal_is_named_on_the_page(tmp_path):
    folder = make_run(tmp_path / "run")
    folder.journal.write_bytes(b"no database at all" * 100)
    assert "cannot be read" in written([folder], tmp_path)


def test_tampered_books_are_told_in_words(tmp_path):
    folder = make_run(tmp_path / "run")
    with Journal(folder.journal) as journal:
        journal._connection.execute("UPDATE entries SET bits = bits + 1 WHERE round = 4 AND sender = 0")
    text = written([folder], tmp_path)
    assert "The books do not agree" in text
    assert "round 4, edge 0-&gt;1: the sender was charged for" in text
    assert "the books were written by another evaluation or changed since" in text


def test_a_run_without_a_result_is_named_and_left_out(tmp_path):
    whole, broken = make_run(tmp_path / "whole"), make_run(tmp_path / "broken")
    broken.result.unlink()
    text = written([whole, broken], tmp_path)
    assert "Not shown: " in text
    assert "is missing; is" in text
    with pytest.raises(RunError, match=r"result\.json is missing"):
        write_report([broken], tmp_path / "report.html")
    with pytest.raises(RunError, match="name one"):
        write_report([], tmp_path / "report.html")


def test_a_result_of_another_version_is_refused_in_words(tmp_path):
    folder = make_run(tmp_path / "run")
    folder.result.write_text('{"world": "guide"}')
    with pytest.raises(RunError, match="evaluate the run again"):
        write_report([folder], tmp_path / "report.html")


def test_without_matplotlib_there_is_a_page_but_no_figure(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run")
    real = builtins.__import__

    def no_matplotlib(name, *rest):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_matplotlib)
    monkeypatch.setattr(figures, "has_matplotlib", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install \"commlib\[plots\]\""):
        figures.graph(read_run(folder))
    text = written([folder], tmp_path)
    assert Page(text).seen.count("svg") == 0
    assert "commlib[plots]" in text
    with pytest.raises(ConfigError, match="without figures"):
        written([folder], tmp_path, plots_dir=tmp_path / "plots")


# The figures.


@pytest.fixture
def runs(several):
    return [read_run(folder) for folder in several]


def texts(figure):
    """All visible text of a figure, axis by axis."""
    figure.draw_without_rendering()
    from matplotlib.text import Text

    return {text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()}


def test_every_figure_shows_its_runs(runs):
    curves = figures.learning_curves(runs)
    assert [len(axes.lines) for axes in curves.axes] == [5 + 2, 5 + 2]  # a line per run and one per change of stage
    assert {"dense", "fine-tune", "priced", "ours", "int8", "success (%)"} <= texts(curves)
    side_by_side = figures.comparison(runs)
    assert [len(axes.patches) for axes in side_by_side.axes] == [4, 3]  # `none` has no bits to draw
    assert {"ours", "int8", "none", "no bits", "98.5 %"} <= texts(side_by_side)
    assert "none: no bits" in texts(figures.frontier(runs))


def test_a_learned_graph_is_shown_over_training(tmp_path):
    folder = make_run(tmp_path / "run", edges=[[0, 1], [1, 2]])
    rows = [{**row, "edges": [[0, 1], [2, 0]] if row["iteration"] < 40 else [[0, 1]]} for row in folder.read_metrics()]
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    figure = figures.graph_over_time(read_run(folder))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["2 to 0", "0 to 1", "1 to 2"]
    (mesh,) = axes.collections[:1]
    shade = np.ma.filled(mesh.get_array().reshape(3, -1), 0)
    assert [(row > 0).sum() for row in shade] == [40, 80, 0]
    assert (shade[0].max(), shade[1].max()) == (1.0, 2.0), "those that stayed are darker"
    written([folder], tmp_path, plots_dir=tmp_path / "plots")
    assert (tmp_path / "plots" / "graph_over_time_1.png").exists()


def test_the_frontier_marks_the_working_point_and_the_bound(runs):
    figure = figures.frontier(runs[:1])
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    x = [float(value) for line in axes.lines for value in line.get_xdata()]
    ours = runs[0].result.bits.per_agent_step
    assert ours.estimate in x
    assert ours.wire in x
    assert any(value == pytest.approx(0.464, abs=1e-3) for value in x)  # log2 25 bits in ten steps


def test_a_world_without_success_is_shown_by_its_return(tmp_path):
    runs = [read_run(make_run(tmp_path / "run", success=None, world="pettingzoo:sisl/pursuit-v5"))]
    for draw in (figures.learning_curves, figures.frontier, figures.comparison):
        assert any("return" in text for text in texts(draw(runs)))
        assert not any("success" in text for text in texts(draw(runs)))


def test_arrows_are_as_wide_as_their_bill(runs):
    from matplotlib.patches import FancyArrowPatch

    run = runs[0]
    arrows = [patch for patch in figures.graph(run).axes[0].patches if isinstance(patch, FancyArrowPatch)]
    widths = [arrow.get_linewidth() for arrow in arrows]
    paid = [bill.bits for bill in run.booked.edges]
    assert len(arrows) == len(run.result.edges) == len(paid)
    assert sorted(range(6), key=widths.__getitem__) == sorted(range(6), key=paid.__getitem__)


def test_the_bill_adds_up_to_what_was_spent(runs):
    for run in runs:
        spent = run.result.ledger.spent
        assert sum(bill.bits for bill in run.booked.edges) == spent
        assert sum(row.spent for row in run.booked.rounds) == spent


def add_a_round(folder, number):
    """After a compaction: 40 bits of agent 0 to agent 1."""
    with Ledger(Journal(folder.journal)) as ledger:
        ledger.settle(ledger.lease("host-0", 40, number), [Entry(0, number, number, 0, (1,), 64, 40, 20, "host-0")])
        ledger.receive([Receipt("host-0", 0, number, number, 0, 1, 64, 40)])


def test_what_was_compacted_is_in_the_bill(tmp_path):
    folder = make_run(tmp_path / "run")
    whole = read_run(folder).booked
    assert (whole.compacted, whole.charged) == (0, sum(bill.bits for bill in whole.edges))
    with Journal(folder.journal) as journal:
        compact(journal)
    booked = read_run(folder).booked
    assert (booked.edges, booked.compacted, booked.charged) == ([], whole.charged, whole.charged)
    write_report([folder], tmp_path / "all.html")
    plain = re.sub(r"(<[^>]+>)+", "|", (tmp_path / "all.html").read_text())
    assert f"compacted|-|{whole.charged:,}|-|100.0 %" in plain
    assert "No message was charged" not in plain

    add_a_round(folder, 10)
    booked = read_run(folder).booked
    assert (booked.compacted, booked.charged) == (whole.charged, whole.charged + 40)
    write_report([folder], tmp_path / "some.html")
    plain = re.sub(r"(<[^>]+>)+", "|", (tmp_path / "some.html").read_text())
    share = 100 * 40 / (whole.charged + 40)
    assert f"0 → 1|64|40|20|{share:.1f} %" in plain
    assert f"compacted|-|{whole.charged:,}|-|{100 - share:.1f} %" in plain, "the bill by edge"
    assert f"compacted|-|{whole.charged:,}|{100 - share:.1f} %|-" in plain, "the bill by agent"
    assert f"all|{whole.charged + 40:,}|-|" in plain
    assert "Of what was compacted only the sum is known" in plain
    assert "that were compacted only the sum is known: they are not in it" in plain


def test_spending_is_drawn_against_the_budget_where_there_is_one(runs):
    with_budget, without = figures.budget_over_time(runs[0]), figures.budget_over_time(runs[2])
    assert {"could be spent", "64 bit/step", "spent"} <= texts(with_budget)
    assert "could be spent" not in texts(without)
    assert len(with_budget.axes) == len(without.axes) == 1, "no prices were noted"
    assert {row.leased for row in runs[0].booked.rounds} == {64 * 64}


def budget_line(account, budget, currency, **changed):
    figures = {"granted": 1000, "spent": 400, "wanted": 450, "n_full": 0, "price": 0.0, "bit_price": None}
    return {"account": account, "budget": budget, "currency": currency, **figures, "is_binding": False, **changed}


@pytest.fixture
def rationed(tmp_path):
    """A run with three budgets, of which messages bind, and prices of two of them."""
    budgets = [
        budget_line("bits", "64 bit/step", "bits"),
        budget_line("messages/step", "3 messages/step", "messages", spent=990, wanted=2345, n_full=7, price=0.125,
                    bit_price=0.5, is_binding=True),
        budget_line("latency/run", "5 s/run", "latency", granted=5_000_000, spent=2_500_000),
    ]  # fmt: skip
    folder = make_run(
        tmp_path / "run", with_budget=True, budgets=budgets, allocation="value", when_out="defer", show_budget=True,
        ledger={"granted": 1, "spent": 1, "leased": 0, "available": 0, "dropped": 3, "degraded": 5, "deferred": 8},
    )  # fmt: skip
    with Ledger(Journal(folder.journal)) as ledger:
        for account, terms in (
            ("messages/step", Terms("messages", "step", 3)), ("latency/run", Terms("latency", "run", 5_000_000)),
            ("spare", Terms("bits", "", 0)),
        ):  # fmt: skip
            ledger.open_account(account, terms)
        for r in range(10):
            ledger.grant(192, 2 * r, account="messages/step")
            ledger.settle_at(ledger.lease("host-0", 192, r, account="messages/step"), 100 + r)
            ledger.withdraw(92 - r, 2 * r + 1, account="messages/step")
            ledger.note_price("messages/step", 0.01 * (r + 1), r)
            ledger.note_price("bits", 0.5 if r > 5 else 0.0, r)
    return folder


def test_the_books_of_every_budget_are_read(rationed):
    booked = read_run(rationed).booked
    assert list(booked.capped) == ["bits", "latency/run", "messages/step"]
    assert [row.spent for row in booked.capped["messages/step"]] == [100 + r for r in range(10)]
    assert {row.leased for row in booked.capped["messages/step"]} == {192}
    assert booked.capped["bits"] == booked.rounds
    assert [price.price for price in booked.prices["messages/step"]] == pytest.approx(
        [0.01 * (r + 1) for r in range(10)]
    )
    assert sum(line.bits for line in booked.agents) == sum(bill.bits for bill in booked.edges)


def test_every_budget_has_a_panel_the_binding_one_first_and_prices_stand_beneath(rationed):
    run = read_run(rationed)
    figure = figures.budget_over_time(run)
    figures.to_png(figure)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["3 messages/step", "64 bit/step", "5 s/run", ""]
    assert figure.axes[-1].get_ylabel() == "distortion (or harm)\nper unit"
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[-1].lines}
    assert lines["64 bit/step"] == [0.0] * 6 + [0.5] * 5, "a price holds until the next one, the last one to the end"
    assert len(lines["3 messages/step"]) == 11
    heights = [bar.get_height() for bar in figure.axes[0].containers[0]]
    assert heights == [100 + r for r in range(10)]


def test_the_page_says_what_each_budget_was_used_for_and_which_one_binds(rationed, tmp_path):
    write_report([rationed], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert Page(page)
    plain = re.sub(r"<[^>]+>", "|", page)
    plain = re.sub(r"\|+", "|", plain)
    assert "3 messages/step|1,000|990|99.0 %|2,345|7|0.125|0.5|binds" in plain
    assert "5 s/run|5 s|2.5 s|50.0 %|" in plain
    assert "binding|3 messages/step holds the others back" in plain
    assert "when one is out|messages are deferred, then dropped" in plain
    assert "who goes first|allocation by value" in plain
    assert "for want of budget|3 messages dropped, 5 degraded, 8 deferred" in plain
    assert "seen by agents|what is left of the budget" in plain
    assert "The bill, by agent" in plain
    assert "and beneath it what a unit cost, in squared distortion (or harm)" in plain


def test_the_page_says_which_budget_had_no_room_for_a_frame(tmp_path):
    hint = "nothing can be said under 8 bit/step: the smallest frame takes 152 bits"
    budgets = [budget_line("bits", "8 bit/step", "bits", hint=hint)]
    write_report([make_run(tmp_path / "run", with_budget=True, budgets=budgets)], tmp_path / "page.html")
    assert f'<p class="note">{hint}</p>' in (tmp_path / "page.html").read_text()


def test_a_page_without_budgets_has_no_section_of_them(runs, tmp_path):
    write_report([runs[2].folder], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<h3>Budgets</h3>" not in page
    assert "messages dropped" in page


def test_a_long_evaluation_is_drawn_as_means(tmp_path):
    run = read_run(make_run(tmp_path / "run", n_rounds=500, with_budget=True))
    figure = figures.budget_over_time(run)
    assert len(figure.axes[0].patches) < 260
    assert "round (means over 3 rounds)" in texts(figure)


def test_many_agents_fit_without_numbers_on_them(tmp_path):
    run = read_run(make_run(tmp_path / "run", n_agents=20, n_rounds=2))
    for draw in (figures.graph, figures.bill, figures.budget_over_time):
        assert len(figures.to_png(draw(run))) > 5000


def test_silence_has_its_own_picture(tmp_path):
    run = read_run(make_run(tmp_path / "run", spend=0.0, edges=[], frontier=[], method="none"))
    assert "nobody talks\nto anybody" in texts(figures.graph(run))
    for draw in (figures.bill, figures.budget_over_time):
        figures.to_png(draw(run))
    for draw in (figures.frontier, figures.comparison):
        figures.to_png(draw([run]))


def test_a_figure_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="at least one run"):
        figures.frontier([])


def test_an_embedded_figure_follows_the_page(runs):
    text = figures.to_svg(figures.graph(runs[0]), "a <graph>", prefix="g")
    assert text.startswith('<svg role="img" aria-label="a &lt;graph&gt;" viewBox=')
    assert "var(--ink)" in text
    assert figures.INK not in text
    assert len(text) > 3000


# Tables, groups, words.


def test_the_table_has_a_row_per_run_and_savings_where_dense_is_there(several):
    results = [folder.read_result() for folder in several]
    shown = printed(summary_table(results))
    for words in ("int8", "float32", "local", "x 1", "seed 1", "260x less", "97.0", "± 1.2", "3.60", "+7.5 %"):
        assert words in shown, words
    alone = printed(summary_table(results[:1]))
    assert "saving" not in alone
    assert "seed" not in alone


def test_a_saving_is_the_ratio_of_the_wires(several):
    ours, _, int8, dense, none = (folder.read_result() for folder in several)
    saving = saving_against_dense(ours, [ours, dense])
    assert saving.times_less == pytest.approx(260)
    assert saving.share == pytest.approx(1 / 260)
    assert saving.is_like_for_like
    assert saving_against_dense(int8, [int8, dense]).times == "4.00x less"
    assert saving_against_dense(dense, [ours, dense]) is None
    assert saving_against_dense(none, [none, dense]) is None
    assert saving_against_dense(ours, [ours, int8]) is None
    elsewhere = dense.model_copy(update={"world": "traffic_junction_easy"})
    assert saving_against_dense(ours, [ours, elsewhere]) is None


def test_a_dense_run_that_shares_headers_otherwise_is_marked(several):
    ours, dense = several[0].read_result(), several[3].read_result()
    other = dense.model_copy(update={"parallel_worlds": 1})
    assert not saving_against_dense(ours, [ours, other]).is_like_for_like
    assert saving_against_dense(ours, [ours, other, dense]).is_like_for_like
    assert "not like for like" in printed(summary_table([ours, other]))


def test_spending_more_than_dense_is_said_so(several):
    ours, dense = several[0].read_result(), several[3].read_result()
    lavish, thrifty = dense.model_copy(update={"method": "lavish"}), ours.model_copy(update={"method": "dense"})
    assert saving_against_dense(lavish, [thrifty]).times == "260x more"


def test_runs_that_differ_in_their_seed_only_are_one_group(runs):
    assert [(group.label, len(group.runs)) for group in group_runs(runs)] == [
        ("ours", 2),
        ("int8", 1),
        ("dense", 1),
        ("none", 1),
    ]


def test_a_sweep_over_prices_is_a_group_per_price(tmp_path):
    runs = [
        read_run(make_run(tmp_path / f"{seed}-{price}", seed=seed, bit_price=price))
        for price in (0.01, 0.1)
        for seed in (0, 1)
    ]
    assert [(group.label, len(group.runs)) for group in group_runs(runs)] == [
        ("ours, price 0.01", 2),
        ("ours, price 0.1", 2),
    ]
    chosen = [read_run(make_run(tmp_path / f"c{seed}", seed=seed, bit_price=seed / 7)) for seed in (0, 1)]
    assert [group.label for group in group_runs(chosen)] == ["ours"]


def test_labels_name_what_differs_and_no_more(tmp_path):
    runs = [
        read_run(make_run(tmp_path / "a", with_budget=True)),
        read_run(make_run(tmp_path / "b")),
        read_run(make_run(tmp_path / "c", hosts=3, runtime="ray")),
    ]
    assert [group.label for group in group_runs(runs)] == [
        "ours, 64 bit/step",
        "ours, no budget, local",
        "ours, no budget, ray",
    ]


def test_a_broadcast_is_shared_out_to_the_bit():
    with Journal.in_memory() as journal:
        ledger = Ledger(journal, budget=Budget(None))
        ledger.settle(ledger.lease("h", 10, 0), [Entry(0, 0, 0, 0, (1, 2, 3), 4, 10, 5, "h")])
        bills = evidence.read_books(journal).edges
    assert [(str(bill.edge), bill.bits, bill.payload_bits) for bill in bills] == [
        ("0->1", 4, 2),
        ("0->2", 3, 2),
        ("0->3", 3, 1),
    ]


def test_the_examples_in_the_docstrings_hold():
    import doctest

    for module in (report, page):
        assert doctest.testmod(module).failed == 0
        assert doctest.testmod(module).attempted > 0


def test_of_a_team_without_edges_nothing_is_drawn_of_its_books(tmp_path):
    folder = make_run(tmp_path / "none", method="none", topology="none", spend=0.0, success=0.42, edges=[], n_agents=1)
    text = written([folder], tmp_path, plots_dir=tmp_path / "plots")
    assert "No message was charged." in text
    assert "Tables only" not in text
    assert not list((tmp_path / "plots").glob("*_1.png"))
    Page(text)


def test_bands_are_spoken_of_where_there_are_bands(tmp_path):
    ours = make_run(tmp_path / "ours")
    assert "Shaded bands are stages" in written([ours], tmp_path)
    other = make_run(tmp_path / "none", method="none", spend=0.0)
    rows = [{**row, "stage": "dense"} for row in other.read_metrics()]
    other.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "Shaded bands" not in written([ours, other], tmp_path), "their stages differ"
    assert "Shaded bands" not in written([other], tmp_path), "there is one stage only"


def test_a_long_name_leaves_the_bars_their_room(tmp_path):
    budget = "agents 0+1: 300 bit/episode, 40 messages/episode, agent 2: 1 kbit/run, edge 0->1: 12 bit/step"
    folders = [make_run(tmp_path / "a"), make_run(tmp_path / "b", budget=budget)]
    figure = figures.comparison([read_run(folder) for folder in folders])
    figure.canvas.draw()
    left, right = figure.axes
    names = [label.get_text() for label in left.get_yticklabels()]
    assert names[1].replace("\n", " ") == f"ours, {budget}"
    assert max(len(line) for name in names for line in name.splitlines()) <= 26
    for axes in (left, right):
        assert axes.get_position().width > 0.3
        box = axes.xaxis.label.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width, "its words are whole"


@pytest.mark.parametrize(
    ("bit_price", "rate_weight", "said"),
    [
        (0.02, 0.2, "0.02 reward per bit"),
        (0.0, 0.0, "0 reward per bit"),
        (
            0.0,
            0.0363,
            "0 reward per bit (rate weight 0.0363 in squared distortion or harm per bit; the bits that it saves brought no "
            "return in calibration)",
        ),
    ],
)
def test_a_rate_weight_without_a_bit_price_is_told(tmp_path, bit_price, rate_weight, said):
    folder = make_run(tmp_path / "ours", bit_price=bit_price, rate_weight=rate_weight)
    assert price_in_words(folder.read_result()) == said
    assert f"<dd>{said}</dd>" in written([folder], tmp_path)
