"""The lines that tell how it goes: what they estimate is from the job they are about, and its end is among them."""

from io import StringIO

from rich.console import Console

from commlib.experiments.progress import LiveBar, PlainLines


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def told(*steps):
    """The lines of these (seconds, stage, share)."""
    clock, console = Clock(), Console(file=StringIO(), width=160, color_system=None)
    lines = PlainLines(console, clock)
    for now, stage, share in steps:
        clock.now = 100.0 + now
        lines.advance(stage, share, {"n": 1})
    return console.file.getvalue().splitlines()


def test_a_slow_start_is_not_taken_for_the_speed_of_the_job():
    assert told((30, "dense", 0.02), (36, "dense", 0.04), (42, "dense", 0.08), (90, "dense", 0.52)) == [
        "     dense   2%  n 1",
        "     dense   4%  n 1",
        "     dense   8%  n 1  about 184 s left",
        "     dense  52%  n 1  about 58 s left",
    ]


def test_a_slow_job_is_told_of_after_a_quarter_of_a_minute():
    assert told((5, "dense", 0.001), (11, "dense", 0.002), (21, "dense", 0.003)) == [
        "     dense   0%  n 1",
        "     dense   0%  n 1",
        "     dense   0%  n 1  about 7976 s left",
    ]


def test_the_next_job_has_a_time_of_its_own():
    lines = told((1, "dense", 0.5), (2, "dense", 1.0), (100, "evaluate", 0.02), (106, "evaluate", 0.12))
    assert lines == ["  evaluate   2%  n 1", "  evaluate  12%  n 1  about 53 s left"]


def test_a_run_that_is_resumed_is_told_of_by_what_it_does_now():
    assert told((1, "dense", 0.9), (11, "dense", 0.96))[-1] == "     dense  96%  n 1  about 7 s left"


def test_a_job_that_had_lines_ends_with_one_once():
    steps = [(6, "dense", 0.5), (7, "dense", 1.0), (7.1, "dense", 1.0), (8, "evaluate", 0.5), (8.1, "evaluate", 1.0)]
    assert told(*steps) == ["     dense  50%  n 1", "     dense 100%  n 1"]


def test_a_bar_that_goes_back_begins_anew():
    bar = LiveBar(Console(file=StringIO(), width=160, force_terminal=True))
    task = bar._progress.tasks[0]
    for stage, share in (("dense", 0.5), ("dense", 1.0)):
        bar.advance(stage, share, {})
    assert task.finished
    bar.advance("evaluate", 0.1, {})
    assert not task.finished
    assert task.completed == 0.1
    bar.close()


def test_bits_and_a_price_are_told_where_there_is_a_codec(tiny_settings, tmp_path):
    """In the first stage messages are continuous: nothing is charged, and their width in floats is no rate."""
    from commlib.experiments.compose import resolve
    from commlib.experiments.train import run_training

    class Listener:
        def __init__(self):
            self.figures = {}

        def say(self, text):
            pass

        def advance(self, stage, share, figures):
            self.figures.setdefault(stage, set()).update(figures)

        def close(self):
            pass

    display = Listener()
    run_training(resolve("guide", "ours", None, tiny_settings), tmp_path / "run", display=display)
    assert not {"bits/agent/step", "price"} & display.figures["dense"]
    assert {"bits/agent/step", "price"} <= display.figures["fine-tune"]
