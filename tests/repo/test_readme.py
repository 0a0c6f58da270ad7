"""README.md tells the truth: its Python blocks run, each by itself, and its links lead somewhere.

A block that cannot run in a test says why, on the line above it: `<!-- not run: it needs a cluster -->`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])

NOT_RUN = re.compile(r"<!-- not run: \S.* -->")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)|(?:src|href)=\"([^\"]+)\"")


def scripts(text: str) -> list[str]:
    """Each Python block of the page, with every other line blanked, so that a traceback's line is the page's."""
    found: list[list[str]] = []
    fence: str | None = None
    last = ""
    for number, line in enumerate(text.splitlines()):
        if fence is None and line.startswith("```"):
            fence = "skip" if line != "```python" or NOT_RUN.fullmatch(last.strip()) else "run"
            found += [[""] * (number + 1)] if fence == "run" else []
        elif fence is not None and line == "```":
            fence = None
        elif fence == "run":
            found[-1].append(line)
        last = line if line.strip() else last
    return ["\n".join(lines) + "\n" for lines in found]


def anchors(text: str) -> set[str]:
    """The names of a page's headings, as a link after `#` spells them."""
    headings = re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    broken = []
    for link in (one or other for one, other in LINK.findall(text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target.read_text())):
            broken.append(link)
    return broken


BLOCKS = scripts(README.read_text())


def test_the_page_has_the_examples_that_it_speaks_of() -> None:
    assert len(BLOCKS) == 5


@pytest.mark.parametrize("nth", range(len(BLOCKS)))
def test_every_python_block_runs_alone(tmp_path: Path, nth: int) -> None:
    block = tmp_path / "readme.py"
    block.write_text(BLOCKS[nth])
    done = subprocess.run(
        [sys.executable, str(block)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"line numbers are README.md's:\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_marked_block_is_left_out_and_lines_stay_in_place() -> None:
    page = "# x\n```python\na = 1\n```\n<!-- not run: no cluster here -->\n\n```python\nb = 2\n```\n```sh\nc\n```\n"
    assert scripts(page) == ["\n\na = 1\n"]
    assert scripts(page.replace("<!-- not run: no cluster here -->", "")) == ["\n\na = 1\n", "\n" * 7 + "b = 2\n"]


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text('# One two\n[a](page.md#one-two) [b](gone.md) [c](#gone) [d](https://x.y) <img src="gone.png">\n')
    assert broken_links(page) == ["gone.md", "#gone", "gone.png"]
