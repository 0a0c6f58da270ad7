"""The fuzz target on a small scale; the million is a command (tests/fuzz/mutate.py)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fuzz"))
from mutate import run
from target import one_input, seeds


def test_sound_inputs_are_taken():
    assert all(one_input(data) for data in seeds())


def test_mutated_inputs_raise_our_errors_or_are_read():
    figures = run(4000, seed=1)
    assert 0 < figures["taken"] < 2000
    assert figures["memory_grown_mb"] < 200
