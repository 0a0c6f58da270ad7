"""docs/wire.md tells the truth: its worked example runs, prints what the page says, and is taken apart byte by byte."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

from commlib.frame import NOTE_BYTES

ROOT = Path(__file__).resolve().parents[2]
WIRE = ROOT / "docs" / "wire.md"


def example(page: str) -> str:
    """The page's only Python block."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return str(block)


def shown_after(page: str, sentence: str) -> str:
    """The indented block that follows a sentence at the end of its line."""
    (block,) = re.findall(rf"{re.escape(sentence)}\n\n((?:    .*\n)+)", page)
    return textwrap.dedent(block)


def spelt_out(listing: str) -> bytes:
    """The bytes of a listing in which each line is hex, a wide gap, and words."""
    return bytes.fromhex("".join(re.split(r"\s{2,}", line)[0] for line in listing.splitlines()))


def frames(printed: str) -> list[bytes]:
    """The bytes of the frames that the example prints."""
    found = re.findall(r"^  (\d+) bytes  ([0-9a-f ]+)$", printed, re.MULTILINE)
    assert found, "the page shows no frame"
    shown = [bytes.fromhex(data) for _, data in found]
    assert [len(frame) for frame in shown] == [int(size) for size, _ in found]
    return shown


def test_the_example_prints_what_the_page_says() -> None:
    page = WIRE.read_text()
    done = subprocess.run(
        [sys.executable, "-c", example(page)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown_after(page, "It prints:")


def test_the_fields_are_those_of_the_frame_of_round_0() -> None:
    page = WIRE.read_text()
    listing = shown_after(page, "Field by field, the frame of round 0:")
    assert spelt_out(listing) == frames(shown_after(page, "It prints:"))[0]


def test_the_note_is_that_of_round_2() -> None:
    page = WIRE.read_text()
    _, note = frames(shown_after(page, "It prints:"))
    assert spelt_out(shown_after(page, "And the note of round 2:")) == note
    assert len(note) == NOTE_BYTES + 1


def test_what_the_page_shows_is_read_to_the_letter() -> None:
    page = "```python\nprint(1)\n```\n\nIt prints:\n\n    1\n      2\n\nMore.\n\n    3\n"
    assert example(page) == "print(1)\n"
    assert shown_after(page, "It prints:") == "1\n  2\n"
    assert spelt_out("98              array of 8\nc4 04 f1a1  run") == bytes([0x98, 0xC4, 0x04, 0xF1, 0xA1])
    assert frames("round 0\n  3 bytes  98 01 c4\n  1 bytes  0a\n") == [bytes([0x98, 0x01, 0xC4]), b"\n"]
