"""Who has a journal open is told from outside, and nobody's lock is lost by the asking."""

import subprocess
import sys

import pytest

from commlib.experiments.presence import is_open
from commlib.journal import Journal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of locks without taking them")

HOLDER = """
import sys
from commlib.journal import Journal
with Journal(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_books_are_open_from_the_first_look_to_the_end(tmp_path):
    path = tmp_path / "journal.sqlite"
    assert is_open(path) is False, "there is no file"
    with Journal(path):
        assert is_open(path) is True
        assert is_open(path) is True, "asking lets go of nothing"
    assert is_open(path) is False
    with Journal.reader(path) as journal, journal.reading():
        journal.accounts()
        assert is_open(path) is True


def test_a_process_that_was_killed_has_nothing_open(tmp_path):
    path = tmp_path / "journal.sqlite"
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout.readline() == "open\n"
        assert is_open(path) is True
        child.kill()
        child.wait()
    assert path.with_name("journal.sqlite-wal").is_file()
    assert is_open(path) is False


def test_what_cannot_be_asked_is_not_known(tmp_path, monkeypatch):
    path = tmp_path / "journal.sqlite"
    Journal(path).close()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert is_open(path) is None
