"""`commlib top` says what the books say, of the newest books, and leaves them as they are."""

import json
import os
import sqlite3
import sys
import threading
import time
from io import StringIO

import pytest
from rich.console import Console

from commlib.budget import Budget, Budgets
from commlib.compact import compact
from commlib.errors import JournalError, RunError
from commlib.experiments import cli, top
from commlib.experiments.evaluate import check_put_away
from commlib.experiments.evidence import read_books
from commlib.experiments.top import Meter, NoBooksYet, View, is_finished, newest_books, picture, watch
from commlib.journal import MAIN, Journal
from commlib.ledger import Entry, Ledger, Receipt, Terms
from commlib.purse import Purse, Tally

BUDGETS = Budgets.parse("1 kbit/step, agent 1: 300 bit/episode, 40 messages/episode, 9 ms")


class Clock:
    """Seconds that pass when somebody sleeps; `then` is done in every sleep."""

    def __init__(self, *then):
        self.now, self.then = 0.0, list(then)

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.then.pop(0)() if self.then else interrupt()


def interrupt():
    raise KeyboardInterrupt


def nothing():
    pass


class Run:
    """A run that spends: three agents on two hosts, agent 0 to both others, agent 1 to agent 2."""

    def __init__(self, folder, name="journal.sqlite"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").touch()
        self.folder, self.path, self.round = folder, folder / name, 0
        self.ledger = Ledger(Journal(self.path), budget=BUDGETS.main, clock=lambda: self.round)
        for account, budget in BUDGETS.accounts().items():
            if account != MAIN:
                self.ledger.open_account(account, budget.terms)
        self.ledger.grant(9000, 0, account="latency/run")

    def play(self, n_rounds=1, bits=90):
        for _ in range(n_rounds):
            r = self.round
            with self.ledger.round():
                self.ledger.grant(1000, 2 * r)
                if r % 5 == 0:
                    self.ledger.grant(300, 2 * r, account="bits/episode of agent 1")
                    self.ledger.grant(40, 2 * r, account="messages/episode")
                leases = [self.ledger.lease(f"host-{h}", 500, r) for h in (0, 1)]
                entries = [Entry(0, r, r, 0, (1, 2), 4, bits + 1, bits // 2, "host-0")]
                self.ledger.settle(leases[0], entries)
                rest = [Entry(0, r, r, 1, (2,), 2, bits // 3, bits // 6, "host-1")] if r % 2 == 0 else []
                self.ledger.settle(leases[1], rest)
                self.ledger.receive(
                    Receipt("host-1", 0, r, r, e.sender, to, e.n_messages, e.bits)
                    for e in entries + rest
                    for to in e.receivers
                )
                for account, cost in (("bits/episode of agent 1", sum(e.bits for e in rest)), ("latency/run", 100)):
                    self.ledger.settle_at(self.ledger.lease("everybody", cost, r, account=account), cost)
                self.ledger.withdraw(1000, 2 * r + 1)
            self.round += 1

    def finish(self):
        self.ledger.close()
        (self.folder / "result.json").write_text("{}")
        later(self.folder / "result.json", self.path)


def later(file, than):
    """The file was written after the other one, whatever the clock of the disk says."""
    moment = than.stat().st_mtime_ns + 10**9
    os.utime(file, ns=(moment, moment))


@pytest.fixture
def run(tmp_path):
    made = Run(tmp_path / "run")
    yield made
    made.ledger.close()


def console(width=160, **kwargs):
    return Console(file=StringIO(), width=width, color_system=None, **kwargs)


def shown(snapshot, width=160):
    on = console(width)
    on.print(picture(snapshot, on.options))
    return on.file.getvalue()


# --- what it says


def test_the_lines_are_what_the_books_say(run):
    run.play(10)
    run.ledger.note("dropped", 3, 50, 0)
    run.ledger.note("deferred", 2, 0, 0)
    run.ledger.note_price(MAIN, 0.5, 3)
    run.ledger.note_price(MAIN, 0.25, 7)
    found = View(run.folder).look()
    assert (found.rounds, found.dropped, found.degraded, found.deferred) == (10, 3, 0, 2)
    assert (found.is_finished, found.bits_per_second, found.bits_without_entry) == (False, None, 0)
    assert [line[:3] for line in found.agents] == [(0, 910, 40), (1, 150, 10)]
    assert [line.gate_rate for line in found.agents] == [1.0, 0.5]
    assert [round(line.share, 4) for line in found.agents] == [round(910 / 1060, 4), round(150 / 1060, 4)]
    with Journal.reader(run.path) as journal:
        bills = {tuple(bill.edge): (bill.bits, bill.n_messages) for bill in read_books(journal).edges}
    assert {(e.sender, e.receiver): (e.bits, e.messages) for e in found.edges} == bills
    assert [e.bits for e in found.edges] == sorted((e.bits for e in found.edges), reverse=True)
    assert sum(e.bits for e in found.edges) == 1060
    main, *others = found.accounts
    assert main[:8] == (MAIN, "1000 bit/step", "bits", 10_000, 1060, 0, 8940, 0)
    assert (main.price, main.left_share) == (0.25, None), "the last allowance has expired"
    assert {line.account: line[3:8] for line in others} == {
        "bits/episode of agent 1": (600, 150, 0, 0, 450),
        "messages/episode": (80, 0, 0, 0, 80),
        "latency/run": (9000, 1000, 0, 0, 8000),
    }
    shares = {line.account: line.left_share for line in others}
    assert shares["latency/run"] == pytest.approx(8 / 9)
    assert shares["bits/episode of agent 1"] == 1.0, "episodes that are not closed leave their rest: it is capped"


def test_every_account_adds_up(run):
    run.play(7)
    lease = run.ledger.lease("host-9", 12, 0, account="messages/episode")
    for line in View(run.folder).look().accounts:
        assert line.granted == line.spent + line.leased + line.expired + line.left
        assert all(n >= 0 for n in (line.granted, line.spent, line.leased, line.expired, line.left))
    run.ledger.release(lease)


def test_none_binds_until_something_was_too_small_or_has_a_price(run):
    run.play(10)
    assert not any(line.is_binding for line in View(run.folder).look().accounts)
    run.ledger.note("dropped", 1, 9, 0)
    assert [line.account for line in View(run.folder).look().accounts if line.is_binding] == ["bits/episode of agent 1"]


def test_of_accounts_with_a_price_the_one_that_is_spent_most_binds(run):
    run.play(10)
    run.ledger.note_price(MAIN, 0.5, 1)
    assert [line.account for line in View(run.folder).look().accounts if line.is_binding] == [MAIN]
    run.ledger.note_price("latency/run", 0.5, 1)
    assert [line.account for line in View(run.folder).look().accounts if line.is_binding] == ["latency/run"]
    run.ledger.note_price("latency/run", 0.0, 2)
    assert [line.account for line in View(run.folder).look().accounts if line.is_binding] == [MAIN]


def test_without_a_cap_there_is_nothing_left_to_show(tmp_path):
    with Ledger(Journal(tmp_path / "free.sqlite"), budget=Budget(None)) as ledger:
        lease = ledger.lease("host-0", 40, 0)
        ledger.settle(lease, [Entry(0, 0, 0, 0, (1,), 1, 40, 30, "host-0")])
        found = View(tmp_path / "free.sqlite").look()
    assert found.accounts[0][3:9] == (40, 40, 0, 0, 0, None)
    assert "bits, no cap" in shown(found)


def test_books_in_which_nothing_was_booked(tmp_path):
    Journal(tmp_path / "new.sqlite").close()
    found = View(tmp_path / "new.sqlite").look()
    assert (found.agents, found.edges, found.rounds) == ([], [], 0)
    assert "nothing was sent yet" in shown(found)
    assert "granted freely" in shown(found)


def test_only_the_busiest_edges_are_shown(tmp_path):
    with Ledger(Journal(tmp_path / "wide.sqlite"), budget=Budget(None)) as ledger:
        lease = ledger.lease("host-0", 10**6, 0)
        entries = [
            Entry(0, 0, 0, s, tuple(r for r in range(30) if r != s), 1, 29 * (s + 1), 1, "host-0") for s in range(30)
        ]
        ledger.settle(lease, entries)
        found = View(tmp_path / "wide.sqlite").look()
    assert (found.n_edges, len(found.edges), len(found.agents)) == (870, 10, 30)
    assert {edge.sender for edge in found.edges} == {29}
    text = shown(found)
    assert "+860" in text
    assert "+10" in text, "agents beyond the first twenty are added up"


# --- look after look


def test_look_after_look_is_the_same_as_one_look(run):
    meter = Meter()
    for n_rounds in (0, 1, 3, 0, 2):
        run.play(n_rounds)
        with Journal.reader(run.path) as journal:
            assert meter.read(journal) == Meter().read(journal)


def test_what_was_settled_late_is_counted_all_the_same(run):
    run.ledger.grant(2000, 10**6)
    slow = run.ledger.lease("host-0", 30, 100)
    quick = run.ledger.lease("host-0", 30, 101)
    meter = Meter()
    run.ledger.settle(quick, [Entry(0, 101, 101, 0, (2,), 1, 20, 9, "host-0")])
    with Journal.reader(run.path) as journal:
        assert meter.read(journal).agents[0].bits == 20
    run.ledger.settle(slow, [Entry(0, 100, 100, 0, (1,), 1, 7, 5, "host-0")])
    with Journal.reader(run.path) as journal:
        found = meter.read(journal)
        assert found.agents[0].bits == 27
        assert found == Meter().read(journal)


def test_several_hosts_and_epochs(run):
    run.ledger.grant(2000, 10**6)
    for epoch in range(3):
        for host in ("a", "b", "c"):
            lease = run.ledger.lease(host, 50, 2 * epoch)
            run.ledger.settle(lease, [Entry(epoch, 2 * epoch, 2 * epoch, 0, (1,), 1, 10, 9, host)])
            run.ledger.fence(host)
    assert View(run.folder).look().agents[0].bits == 90


def test_allowances_in_any_order_are_all_counted(run):
    meter = Meter()
    for sequence in (10**6, 5, 7, 3):
        run.ledger.grant(100, sequence)
        with Journal.reader(run.path) as journal:
            assert meter.read(journal) == Meter().read(journal)
    assert View(run.folder).look().accounts[0].granted == 400


def test_bits_of_hosts_that_died_are_named(run):
    run.ledger.grant(2000, 10**6)
    run.play(2)
    run.ledger.lease("host-7", 64, 0)
    run.ledger.fence("host-7")
    found = View(run.folder).look()
    assert found.bits_without_entry == 64
    assert "64 bit were spent by nobody known" in shown(found)


def test_compacted_books_are_shown_with_what_they_still_know(run):
    run.play(6)
    meter = Meter()
    with Journal.reader(run.path) as journal:
        before = meter.read(journal)
    compact(run.ledger.journal)
    run.play(1)
    spent = run.ledger.statement().spent
    with Journal.reader(run.path) as journal:
        fresh, again = Meter().read(journal), meter.read(journal)
    assert again.accounts[0].spent == fresh.accounts[0].spent == spent
    assert fresh.bits_without_entry + sum(line.bits for line in fresh.agents) == spent
    assert fresh.bits_without_entry == fresh.bits_compacted > 0
    assert "1 rounds since the compaction" in shown(fresh)
    assert "were compacted: of these only the sum is known" in shown(fresh)
    assert "nobody known" not in shown(fresh)
    assert sum(line.bits for line in before.agents) < spent
    for line in fresh.accounts:
        assert line.granted == line.spent + line.leased + line.expired + line.left


def test_books_of_which_all_was_compacted_do_not_say_that_nothing_was_sent(run):
    run.play(6)
    compact(run.ledger.journal)
    text = shown(View(run.folder).look())
    assert "0 rounds since the compaction" in text
    assert "636 bit were compacted: of these only the sum is known" in text
    assert "nothing was sent" not in text


def test_of_purses_no_rounds_are_told(tmp_path):
    """What a purse settles at once is no round, and a share of settlements is no gate rate."""
    path = tmp_path / "purses.sqlite"
    with Ledger(Journal(path)) as ledger:
        ledger.grant(10_000, 0)
        for nth in range(3):
            with Purse(ledger, "host-0") as purse, Tally(ledger, f"ear-{nth}", 0) as tally:
                tally.hear(purse.charge(0, (1,), 64), 0, 1, 64)
        found = View(path).look()
        assert (found.rounds, [line.gate_rate for line in found.agents]) == (None, [None])
        assert "gate rate" not in shown(found)
        assert " rounds" not in shown(found)
        assert found.to_json()["rounds"] is None
        compact(ledger.journal)
        assert View(path).look().rounds is None


def test_every_question_is_a_step_in_an_index(run):
    """A look reads what is new, not the whole journal."""
    run.play(3)
    questions = {
        top._NEXT_HOLDER: ("",),
        top._NEXT_EPOCH: ("host-0", -1),
        top._NEW_ENTRIES: ("host-0", 0, 1),
        top._NEW_ROUNDS: ("host-0", 0, 1),
        top._NEW_LEASES: (3,),
        top._NEW_ALLOWANCES: (MAIN, "grant", 3),
        top._LAST_GRANT: (MAIN,),
    }
    with Journal.reader(run.path) as journal:
        for sql, parameters in questions.items():
            plan = [row[-1] for row in journal.rows("EXPLAIN QUERY PLAN " + sql, parameters)]
            assert any("SEARCH" in step for step in plan), plan
            assert not any(step.startswith("SCAN") and "subquery" not in step.lower() for step in plan), plan


# --- which books


def test_the_newest_books_of_a_run_are_shown(tmp_path):
    first = Run(tmp_path / "run")
    first.play(2)
    first.finish()
    assert newest_books(tmp_path / "run") == first.path
    again = Run(tmp_path / "run" / "evaluation-1", "journal.sqlite.partial")
    again.play(1)
    beside = again.path.with_name(again.path.name + "-wal")
    later(beside, first.path)
    assert newest_books(tmp_path / "run") == again.path, "what is new stands in the file beside it at first"
    assert View(tmp_path / "run").look().rounds == 1
    assert newest_books(tmp_path) == again.path, "a folder of runs will do"
    assert newest_books(first.path) == first.path, "and so will a file"
    again.ledger.close()


def test_a_run_is_finished_when_its_result_is_newer_than_its_books(run):
    run.play(1)
    assert not is_finished(run.path)
    run.finish()
    assert is_finished(run.path)
    later(run.path, run.folder / "result.json")
    assert not is_finished(run.path), "it is played again"
    partial = run.path.with_name("journal.sqlite.partial")
    assert not is_finished(partial)


def test_there_is_no_run(tmp_path):
    with pytest.raises(RunError, match=r"none holds no run \(no config.yaml in it, and no journal\)"):
        View(tmp_path / "none").look()


def test_a_run_that_still_trains_has_no_books(tmp_path):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(NoBooksYet, match="has no books yet: they begin with the evaluation, after the training"):
        View(tmp_path).look()


def test_books_of_a_later_version_are_refused(run):
    run.finish()
    with sqlite3.connect(run.path) as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    connection.close()
    with pytest.raises(JournalError, match="has schema 99, this commlib reads schemas 1 to"):
        View(run.folder).look()


def test_a_file_that_is_no_journal_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no journal at all, but long enough to be read as one" * 40)
    with pytest.raises(JournalError, match="is damaged or is no journal"):
        View(tmp_path / "notes.txt").look()


@pytest.mark.parametrize("version", [1, 2])
def test_old_books_are_read_and_left_alone(version, tmp_path):
    golden = cli.Path(__file__).parent.parent / "golden" / f"journal-v{version}.sqlite"
    copy = tmp_path / "old.sqlite"
    copy.write_bytes(golden.read_bytes())
    found = View(copy).look()
    assert found.accounts[0].spent == found.bits_without_entry + sum(line.bits for line in found.agents)
    assert copy.read_bytes() == golden.read_bytes()


# --- beside a run


def test_a_look_leaves_the_books_to_be_put_away_as_one_file(run, tmp_path):
    run.play(3)
    View(run.folder).look()
    spent = run.ledger.statement().spent
    run.ledger.close()
    assert [path.name for path in run.folder.glob("journal*")] == ["journal.sqlite"]
    moved = run.path.rename(tmp_path / "moved.sqlite")
    assert View(moved).look().accounts[0].spent == spent


def test_books_that_somebody_has_open_are_whole_in_their_file_once_they_are_closed(run, tmp_path):
    run.play(3)
    spent = run.ledger.statement().spent
    with Journal.reader(run.path) as journal:
        assert journal.now().spent == spent
        run.ledger.close()
        check_put_away(run.path)
        copy = tmp_path / "copy.sqlite"
        copy.write_bytes(run.path.read_bytes())
    assert View(copy).look().accounts[0].spent == spent


def test_books_that_somebody_is_reading_all_the_time_are_not_moved(tmp_path):
    path = tmp_path / "journal.sqlite"
    ledger = Ledger(Journal(path, busy_seconds=0.05), budget=Budget(None))
    with Journal.reader(path) as journal, journal.reading():
        journal.accounts()
        ledger.settle(ledger.lease("a", 9, 0), [Entry(0, 0, 0, 0, (1,), 1, 9, 9, "a")])
        ledger.close()
        with pytest.raises(RunError, match="could not be put away as one file, since another program has been reading"):
            check_put_away(path)
    check_put_away(tmp_path / "gone.sqlite")


# --- watching


def test_it_is_drawn_every_second_until_the_run_is_finished(run):
    run.play(1, bits=90)
    clock = Clock(lambda: run.play(2, bits=300), nothing, run.finish)
    on = console(force_terminal=False)
    drawn = []
    original = top.picture
    try:
        top.picture = lambda found, options: drawn.append(found) or original(found, options)
        watch(run.folder, on, clock=clock, sleep=clock.sleep)
    finally:
        top.picture = original
    assert [found.rounds for found in drawn] == [1, 3, 3, 3]
    assert [found.bits_per_second for found in drawn] == [None, 301 + 301 + 100, 0, 0]
    assert [found.is_finished for found in drawn] == [False, False, False, True]
    assert clock.now == 3
    assert "finished, 3 rounds" in on.file.getvalue()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody can tell who has books open")
def test_it_ends_with_books_that_nobody_has_open(tmp_path):
    """They were closed without a result: those of a ledger alone, of a process that was killed, or after a compaction."""
    path = tmp_path / "alone.sqlite"
    with Ledger(Journal(path), budget=Budget(None)) as ledger:
        ledger.settle(ledger.lease("host-0", 40, 0), [Entry(0, 0, 0, 0, (1,), 1, 40, 30, "host-0")])
        assert "alone.sqlite  running, 1 rounds" in shown(View(path).look())
    os.utime(path, (10**9, 10**9))
    clock, on = Clock(nothing, nothing), console()
    watch(path, on, clock=clock, sleep=clock.sleep)
    assert clock.now == 1, "between its books and its result a run has neither open: one look is not enough"
    written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(10**9))
    assert f"alone.sqlite  nobody has it open, last written {written}, 1 rounds" in on.file.getvalue()


def test_where_nobody_can_tell_who_has_books_open_it_goes_on(run, monkeypatch):
    monkeypatch.setattr(top, "is_open", lambda journal: None)
    run.play(1)
    clock, on = Clock(nothing, nothing, nothing), console()
    watch(run.folder, on, clock=clock, sleep=clock.sleep)
    assert clock.now == 4
    assert "journal.sqlite  last written " in on.file.getvalue()


def test_ctrl_c_ends_it_with_the_last_picture(run):
    run.play(2)
    clock, on = Clock(nothing), console()
    watch(run.folder, on, clock=clock, sleep=clock.sleep)
    assert "running, 2 rounds" in on.file.getvalue()


def test_who_follows_waits_for_books_and_goes_on_to_the_next_ones(tmp_path):
    (tmp_path / "config.yaml").touch()
    runs = []

    def begin():
        runs.append(Run(tmp_path))
        runs[0].play(2)

    def again():
        runs.append(Run(tmp_path / "evaluation-1"))
        runs[1].play(1)
        later(runs[1].path.with_name("journal.sqlite-wal"), runs[0].path)

    clock, on = Clock(begin, lambda: runs[0].finish(), again), console()
    watch(tmp_path, on, follow=True, clock=clock, sleep=clock.sleep)
    assert "evaluation-1/journal.sqlite  running, 1 rounds" in on.file.getvalue()
    runs[1].ledger.close()


def test_who_does_not_follow_is_told_that_there_are_no_books(tmp_path):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(NoBooksYet):
        watch(tmp_path, console(), sleep=interrupt)


def test_books_that_are_just_being_made_are_tried_once_more(tmp_path):
    path = tmp_path / "journal.sqlite"
    path.touch()
    made = []

    def make():
        path.unlink()
        made.append(Run(tmp_path))
        made[0].play(1)

    clock, on = Clock(make), console()
    watch(tmp_path, on, clock=clock, sleep=clock.sleep)
    assert "running, 1 rounds" in on.file.getvalue()
    made[0].ledger.close()
    path.write_bytes(b"no journal" * 400)
    for beside in tmp_path.glob("journal.sqlite-*"):
        beside.unlink()
    clock = Clock(nothing, nothing)
    with pytest.raises(JournalError, match="no journal"):
        watch(tmp_path, console(), clock=clock, sleep=clock.sleep)


def test_a_ledger_goes_on_spending_while_it_is_watched(run):
    """Looks and commits at once, from two threads: none waits for ever, and none is lost."""
    done = threading.Event()

    def spend():
        run.play(60)
        done.set()

    thread = threading.Thread(target=spend)
    thread.start()
    view, rounds = View(run.folder), [0]
    while not done.is_set():
        rounds.append(view.look().rounds)
    thread.join()
    assert rounds == sorted(rounds)
    assert view.look().rounds == 60


# --- the picture


@pytest.mark.parametrize("width", [60, 80, 109, 110, 200])
def test_figures_are_whole_in_any_terminal(run, width):
    run.play(12)
    run.ledger.note_price(MAIN, 0.125, 1)
    text = shown(View(run.folder).look(), width)
    for figure in ("12,000", "1,272", "0.125", "binds", "1,092"):
        assert figure in text
    assert "prices are in squared distortion (or harm) per unit" in text
    assert "\u2026" not in text
    assert max(map(len, text.splitlines())) <= width


def test_without_a_price_nothing_is_said_of_prices(run):
    run.play(1)
    assert "prices are" not in shown(View(run.folder).look())


def test_a_terminal_without_those_characters_gets_plain_ones(run):
    run.play(1)
    found = View(run.folder).look()
    assert "\u2588" in shown(found)
    on = console()
    options = on.options.copy()
    options.encoding = "ascii"
    on.print(picture(found, options))
    assert "#" in on.file.getvalue()
    assert "\u2588" not in on.file.getvalue()


# --- the command


def test_the_command_shows_one_picture_where_there_is_no_terminal(run, capsys):
    run.play(4)
    assert cli.main(["top", str(run.folder)]) == 0
    out, err = capsys.readouterr()
    assert "running, 4 rounds" in out
    assert err == ""
    assert cli.main(["top", str(run.path), "--once"]) == 0


def test_the_command_as_json(run, tmp_path, capsys):
    run.play(4)
    assert cli.main(["top", str(run.folder), "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == View(run.folder).look().to_json()
    assert {"accounts", "agents", "edges", "bits_per_second", "dropped"} <= set(found)
    assert found["accounts"][0]["account"] == MAIN
    assert cli.main(["top", str(run.folder), "--json", str(tmp_path / "top.json")]) == 0
    assert json.loads((tmp_path / "top.json").read_text()) == found


def test_the_command_on_a_terminal_watches(run, monkeypatch):
    run.play(1)
    watched = []
    monkeypatch.setattr(top, "watch", lambda path, console, follow: watched.append((path, follow)))
    monkeypatch.setattr(cli, "_console", lambda target: console(force_terminal=True))
    assert cli.main(["top", str(run.folder)]) == 0
    assert cli.main(["top", str(run.folder), "--follow"]) == 0
    assert watched == [(run.folder, False), (run.folder, True)]
    assert cli.main(["top", str(run.folder), "--once"]) == 0
    assert len(watched) == 2


def test_terms_are_told_as_budgets_are_written():
    told = [top.budget_text(terms) for terms in (
        Terms("bits", "step", 64), Terms("messages", "episode", 3, (0, 2)), Terms("bits", "run", 8, None, (0, 1)),
        Terms("bits", "", 0), Terms("bits", "run", None), Terms("latency", "step", 1500),
    )]  # fmt: skip
    assert told == [
        "64 bit/step",
        "agents 0+2: 3 messages/episode",
        "edge 0->1: 8 bit/run",
        "granted freely",
        "no cap",
        "1.5 ms/step",
    ]
