"""Sweeps with made-up processes: what is run, in which order, what a failure does, and what the table and the JSON say."""

import doctest
import io
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from commlib.config import write_yaml
from commlib.errors import ConfigError, RunError
from commlib.experiments import children, cli, sweep_plan, train
from commlib.experiments.children import Commlib, interrupted_by_signals, locked, stop_all
from commlib.experiments.compose import complete
from commlib.experiments.sweep import Standing, command, run_sweep, share_done
from commlib.experiments.sweep_plan import Axes, check_folders, plan_sweep, seeds_in
from commlib.experiments.sweep_table import (
    LiveBoard,
    PlainBoard,
    QuietBoard,
    progress_line,
    summarise,
    sweep_json,
    sweep_table,
)
from commlib.experiments.worlds import make_world
from commlib.records import Result, write_json

GIVEN = {"steps": "100", "episodes": "8", "learning": {"n_worlds": "4"}}


def make_result(config, success=0.9):
    bits = {"estimate": 1.0, "payload": 2.0, "wire": 3.0}
    return Result.model_validate(
        {
            "world": config.world, "method": config.method, "codec": config.codec, "topology": config.topology,
            "seed": config.seed, "steps": config.steps, "runtime": "local", "hosts": 1, "charging_rule": "broadcast",
            "budget": config.budget, "bit_price": config.bit_price or 0.0, "rate_weight": 0.0,
            "success": {"mean": success, "ci95": None, "n": 8}, "return_": {"mean": -1.5, "ci95": None, "n": 8},
            "random_return": None, "episode_steps": {"mean": 10.0, "ci95": None, "n": 8},
            "bits": {"per_agent_step": bits, "per_agent_episode": bits, "per_message": bits},
            "messages_per_agent_step": 0.25, "gate_rate": 1.0, "density": 1.0, "wire_bytes": 1, "frames": 1,
            "parallel_worlds": 8,
            "ledger": {"granted": 8, "spent": 8, "leased": 0, "available": 0, "dropped": 0, "degraded": 0},
            "codec_health": {"used_codes": 1, "perplexity": 1.0, "dead_codes": 0}, "rate_gap": 0.0, "frontier": [],
            "edges": [], "journal_digest": "", "throughput": {}, "versions": {}, "git": "", "run": "",
            "seconds": {"training_seconds": 5.0, "training_calibration_seconds": 2.0, "evaluation": 1.0},
            "command": "commlib",
        }
    )  # fmt: skip


def finish(task, success=0.9):
    task.folder.path.mkdir(parents=True, exist_ok=True)
    write_yaml(task.config, task.folder.config)
    write_json(task.folder.result, make_result(task.config, success).to_json())


class FakeChild:
    """Ends at the second look: with a result, or with a complaint."""

    def __init__(self, task, crew):
        self.task, self.crew, self.looks, self.is_stopped = task, crew, 0, False
        crew.at_work += 1
        crew.most = max(crew.most, crew.at_work)

    def poll(self):
        self.looks += 1
        if self.looks < 2:
            return None
        self.crew.at_work -= 1
        return 1 if self.task.name in self.crew.complaints else 0

    def stop(self):
        self.is_stopped = True

    def wait(self, seconds):
        self.is_waited_for = seconds >= 0

    def complaint(self):
        said = self.crew.complaints.get(self.task.name, "")
        if not said:
            finish(self.task, 0.5 + 0.1 * self.task.config.seed)
        return said


class Crew:
    """Starts fake children, and remembers which and how many at a time."""

    def __init__(self, **complaints):
        self.complaints, self.started, self.at_work, self.most = complaints, [], 0, 0

    def __call__(self, task, words):
        self.started.append(list(words))
        return FakeChild(task, self)

    @property
    def folders(self):
        return [words[words.index("--out") + 1].rpartition("sweep/")[2] for words in self.started]


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr("commlib.experiments.sweep.LOOK_EVERY_SECONDS", 0.0)


@pytest.fixture
def plan(tmp_path):
    def make(given=GIVEN, file=None, **axes):
        axes = {"worlds": ["guide"], "methods": ["ours"], "seeds": [0, 1], **axes}
        return plan_sweep(Axes(**axes), given, file, tmp_path / "sweep")

    return make


def swept(plan, crew, n_jobs=2):
    standing = Standing(plan)
    run_sweep(standing, n_jobs, QuietBoard(), crew)
    return standing


# --- the plan


@pytest.mark.parametrize("module", [sweep_plan, children])
def test_the_examples_in_the_docstrings_hold(module):
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(module).attempted > 0


@pytest.mark.parametrize("text", ["", ",", "0", "many", "-1", "0,x", "1.5"])
def test_seeds_that_are_none(text):
    with pytest.raises(ConfigError, match="--seeds"):
        seeds_in(text)


def test_trainings_come_seed_by_seed_so_that_every_row_has_its_first_figure_early(plan):
    made = plan(worlds=["guide", "digits"], methods=["none", "ours"])
    assert [task.name for task in made.trainings] == [
        f"{world}-{method}-{seed}" for seed in (0, 1) for world in ("guide", "digits") for method in ("none", "ours")
    ]
    assert made.evaluations == ()
    assert [(row.world, row.method, row.tasks) for row in made.rows][1] == (
        "guide",
        "ours",
        ("guide-ours-0", "guide-ours-1"),
    )


def test_budgets_and_prices_are_played_by_the_trained_team(plan):
    made = plan(seeds=[4], budgets=["8 bit/step", "none"], bit_prices=["default", "0.01"])
    assert [task.name for task in made.trainings] == ["guide-ours-4"]
    assert {task.name: (task.config.budget, task.config.bit_price) for task in made.evaluations} == {
        "guide-ours-4/at-budget-8-bit-step": ("8 bit/step", None),
        "guide-ours-4/at-budget-8-bit-step-price-0.01": ("8 bit/step", 0.01),
        "guide-ours-4/at-price-0.01": (None, 0.01),
    }
    assert {task.trained for task in made.evaluations} == {"guide-ours-4"}
    assert [row.tasks for row in made.rows][2] == ("guide-ours-4",), "as it was trained: not played again"


@pytest.mark.parametrize("method", ["none", "dense"])
def test_a_method_that_has_no_use_for_a_price_plays_without_one(plan, method):
    made = plan(methods=[method], bit_prices=["0", "0.01"], given={**GIVEN, "bit_price": "0.5"})
    assert [(row.bit_price, len(row.tasks)) for row in made.rows] == [(None, 2)]
    assert made.evaluations == ()
    assert made.trainings[0].config.bit_price is None


@pytest.mark.parametrize("method", ["ours", "dense"])
def test_the_commands_of_a_task_mean_its_configuration(plan, tmp_path, monkeypatch, method):
    (tmp_path / "file.yaml").write_text("bit_price: 0.5\nlearning: {gamma: 0.75}\n")
    made = plan(
        {**GIVEN, "rate_aware": method == "ours"}, tmp_path / "file.yaml", methods=[method], budgets=["2 kbit/episode"]
    )
    seen = []

    def capture(config, out, **_):
        seen.append((complete(config, make_world(config.world).spec), out))
        raise RunError("seen")

    monkeypatch.setattr(train, "run_training", capture)
    for task in made.trainings:
        assert cli.main(list(task.words)) == cli.FAILED
        assert seen.pop() == (task.config, task.folder.path)
        assert task.config.learning.gamma == 0.75
    monkeypatch.setattr("commlib.experiments.evaluate.evaluate_run", lambda _, config, out, __: capture(config, out))
    for training, task in zip(made.trainings, made.evaluations, strict=True):
        finish(training)
        assert cli.main(list(task.words)) == cli.FAILED
        assert seen.pop() == (task.config, task.folder.path)


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ({"worlds": ["guide", "gudie"]}, "there is no world 'gudie'; did you mean guide_v1"),
        ({"methods": ["ours", "int9"]}, "no method is called 'int9'; did you mean 'int8'?"),
        ({"budgets": ["8 bit/step", "64"]}, "the budget '64' has no unit"),
        ({"bit_prices": ["0", "-1"]}, "bit_price = '-1'"),
        ({"bit_prices": ["cheap"]}, "bit_price = 'cheap'"),
    ],
)
def test_a_slip_anywhere_is_told_before_anything_is_run(plan, axes, sentence, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        plan(**axes)
    assert list(tmp_path.iterdir()) == []


# --- going on


def test_what_is_finished_is_not_run_again_and_what_was_cut_off_goes_on(plan):
    made = plan(seeds=[0, 1, 2], budgets=["8 bit/step"])
    first, second, _ = made.trainings
    finish(first, 0.7)
    second.folder.path.mkdir(parents=True)
    write_yaml(second.config, second.folder.config)
    left_behind = made.evaluations[0].folder
    left_behind.staged.path.mkdir(parents=True)
    write_yaml(first.config, left_behind.staged.config)  # as a killed evaluation leaves it
    check_folders(made)
    crew = Crew()
    standing = swept(made, crew)
    assert standing.is_good
    assert first.name not in crew.folders
    assert ["--resume" in words for words in crew.started if words[0] == "train"] == [True, False]
    again = Crew()
    assert swept(made, again).is_good
    assert again.started == []


def test_a_cut_off_evaluation_leaves_no_copy_behind(plan):
    task = plan(budgets=["8 bit/step"]).evaluations[0]
    task.folder.path.mkdir(parents=True)
    write_yaml(task.config, task.folder.config)
    assert command(task) == list(task.words)
    assert not task.folder.path.exists()


def test_a_folder_with_another_run_is_refused_by_name_and_setting(plan):
    finish(plan(budgets=["8 bit/step"]).evaluations[0])
    finish(plan().trainings[1])
    with pytest.raises(ConfigError, match=r"guide-ours-1 holds a run with other settings: steps is 100 there, 7 here"):
        check_folders(plan({**GIVEN, "steps": 7}))
    with pytest.raises(
        ConfigError, match=r"guide-ours-1 .*: learning.gamma is 0.8 there, 0.5 here; choose another --out"
    ):
        check_folders(plan({**GIVEN, "learning": {"n_worlds": "4", "gamma": "0.5"}}))
    check_folders(plan(seeds=[0, 1, 2]))
    with pytest.raises(ConfigError, match=r"at-budget-8-bit-step holds a run with other .*: episodes is 8 there"):
        check_folders(plan({**GIVEN, "episodes": 9}, budgets=["8 bit/step"], seeds=[0]))


# --- failures


def test_a_failure_is_kept_and_the_others_go_on(plan):
    made = plan(budgets=["none", "8 bit/step"])
    crew = Crew(**{"guide-ours-0": "the codec broke; fit it again", "guide-ours-1/at-budget-8-bit-step": "no luck"})
    standing = swept(made, crew)
    assert not standing.is_good
    assert list(standing.results) == ["guide-ours-1"]
    assert {name: failure.error for name, failure in standing.failures.items()} == {
        "guide-ours-0": "the codec broke; fit it again",
        "guide-ours-0/at-budget-8-bit-step": "was not begun, because guide-ours-0 failed",
        "guide-ours-1/at-budget-8-bit-step": "no luck",
    }
    assert crew.folders == ["guide-ours-0", "guide-ours-1", "guide-ours-1/at-budget-8-bit-step"]


def test_a_process_that_cannot_be_started_and_a_result_that_cannot_be_read_are_failures(plan):
    made = plan()
    finish(made.trainings[0])
    made.trainings[0].folder.result.write_text("{")

    def start(task, words):
        raise OSError(11, "Resource temporarily unavailable")

    standing = swept(made, start)
    assert "cannot be read" in standing.failures["guide-ours-0"].error
    assert standing.failures["guide-ours-1"].error == "cannot be started: Resource temporarily unavailable"


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_so_many_processes_at_a_time_and_no_more(plan, n_jobs):
    crew = Crew()
    assert swept(plan(seeds=range(5)), crew, n_jobs).is_good
    assert crew.most == n_jobs


def test_an_interrupted_sweep_ends_its_processes_first(plan):
    crew, made = Crew(), []

    def start(task, words):
        if made:
            raise KeyboardInterrupt
        made.append(crew(task, words))
        return made[0]

    with pytest.raises(KeyboardInterrupt):
        swept(plan(), start)
    assert made[0].is_stopped
    assert made[0].is_waited_for


# --- processes


def test_a_wrong_command_complains_in_one_sentence_and_a_good_one_leaves_no_log(tmp_path):
    with locked(tmp_path) as lock:
        wrong = Commlib(["list", "things"], tmp_path / "wrong.log", lock)
        good = Commlib(["--version"], tmp_path / "good.log", lock)
        assert wrong.complaint().startswith("argument what: invalid choice: 'things'")
        assert good.complaint() == ""
        assert (wrong.poll(), good.poll()) == (2, 0)
    assert not (tmp_path / "good.log").exists()
    assert (tmp_path / "wrong.log").read_text().startswith("commlib: argument what")


def test_a_process_that_is_stopped_says_by_what(tmp_path):
    with locked(tmp_path) as lock:
        child = Commlib(["list", "worlds"], tmp_path / "log", lock)
        stop_all([child])
    assert child.complaint() == "was killed by signal 15 (Terminated)"
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("code", "log", "sentence"),
    [
        (-9, "", "was killed by signal 9 (Killed): the machine may be out of memory, fewer --jobs need less"),
        (1, "a warning\ncommlib: too bad; try again\n\n", "too bad; try again"),
        (1, "Traceback:\n  MemoryError\n", "ended with code 1 and these last words: MemoryError"),
    ],
)
def test_what_went_wrong_is_onesentence(code, log, sentence):
    assert children.sentence(code, log) == sentence


def test_a_folder_has_one_sweep_at_a_time_also_through_a_child_that_was_left_behind(tmp_path):
    with locked(tmp_path / "sweep") as lock:
        with pytest.raises(RunError, match="is in use by another sweep"), locked(tmp_path / "sweep"):
            pass
        waits = [sys.executable, "-c", "input()"]
        orphan = subprocess.Popen(waits, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=(lock,))
    with pytest.raises(RunError, match="left behind"), locked(tmp_path / "sweep"):
        pass
    orphan.communicate(b"\n")
    with locked(tmp_path / "sweep"):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_ends_a_batch_job_is_taken_as_an_interrupt(number):
    before = signal.signal(number, signal.SIG_DFL)  # Ray, in another test of this process, may have put its own there
    try:
        _taken_as_an_interrupt(number)
    finally:
        signal.signal(number, before)


def _taken_as_an_interrupt(number):
    with pytest.raises(KeyboardInterrupt), interrupted_by_signals():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is signal.SIG_DFL


# --- what is shown


def text_of(renderable):
    console = Console(width=200, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def test_the_table_fills_and_names_what_failed(plan):
    made = plan(seeds=[0, 1, 2], methods=["none", "ours"], budgets=["none", "8 bit/step"])
    standing = Standing(made)
    empty = text_of(sweep_table(standing))
    assert empty.count("0 of 3") == 4
    run_sweep(standing, 1, QuietBoard(), Crew(**{"guide-ours-2": "broke"}))
    table = text_of(sweep_table(standing))
    assert (table.count("3 of 3"), table.count("2 of 3"), table.count("1 failed")) == (2, 2, 2)
    assert "failed  guide-ours-2: broke" in table
    assert "Fewer than 5 seeds" in table
    assert "50.0 to 60.0" in table
    assert "price" not in table


def test_figures_are_over_seeds_each_of_which_counts_once(plan):
    standing = swept(plan(seeds=range(6), budgets=["none", "8 bit/step"]), Crew())
    trained, played = summarise(standing)
    assert trained.figures["success"].iqm == pytest.approx(0.75)
    assert trained.figures["success"].n == 6
    assert (trained.seconds, played.seconds) == (6 * 8.0, 6 * 1.0)


def test_the_json_is_one_object_without_folders_of_this_machine(plan, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["commlib", "sweep", "guide", "--out", str(tmp_path / "sweep")])
    failed = {"guide-ours-1": f"{tmp_path}/sweep/guide-ours-1 is broken; see /etc/ssl/certs/x.pem"}
    record = sweep_json(swept(plan(bit_prices=["default", "0.25"]), Crew(**failed)))
    assert list(record) == ["command", "rows", "runs", "versions", "git"]
    text = json.dumps(record, allow_nan=False)
    assert str(tmp_path) not in text
    assert not re.search(r'["\s]/\w', text)
    assert record["command"] == "commlib sweep guide --out sweep"
    runs = {run["path"]: run for run in record["runs"]}
    assert runs["guide-ours-0"]["result"]["success"] == 0.5
    assert runs["guide-ours-0"]["seconds"] == 8.0
    assert runs["guide-ours-0/at-price-0.25"]["config"]["bit_price"] == 0.25
    assert runs["guide-ours-1"]["error"] == "guide-ours-1 is broken; see x.pem"
    assert runs["guide-ours-1"]["result"] is None
    assert [(row["bit_price"], row["seeds"], row["n_failed"]) for row in record["rows"]] == [
        (None, [0], 1),
        (0.25, [0], 1),
    ]


def test_on_a_terminal_the_table_itself_fills(plan):
    screen = io.StringIO()
    board, standing = LiveBoard(Console(file=screen, force_terminal=True, width=200, height=60)), Standing(plan())
    try:
        run_sweep(standing, 1, board, Crew())
    finally:
        board.close()
        board.close()
    shown = screen.getvalue()
    assert "2 of 2" in shown


def test_lines_tell_each_end(plan, capsys):
    made = plan()
    standing = Standing(made)
    run_sweep(standing, 1, PlainBoard(Console(width=200)), Crew(**{"guide-ours-0": "broke [twice]"}))
    first, second = capsys.readouterr().out.splitlines()
    assert first.strip() == "1 of 2  guide-ours-0: failed: broke [twice]"
    assert "guide-ours-1: success 60.0%, return -1.50, bits 1.00 estimate 2.00 payload 3.00 wire" in second


def test_how_far_a_training_is_stands_in_its_curve(plan):
    task = plan().trainings[0]
    assert share_done(task) is None
    task.folder.path.mkdir(parents=True)
    task.folder.metrics.write_text(json.dumps({"steps": 20}) + "\n" + json.dumps({"steps": 40}) + '\n{"ste')
    assert share_done(task) == 0.4
    standing = Standing(plan(), running=[task])
    assert progress_line(standing) == "0 of 2 runs; at work: guide-ours-0 40%"
