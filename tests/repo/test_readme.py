"""README.md tells the truth: its Python blocks run, in order, and its links lead somewhere.

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


def script(text: str) -> str:
    """The page with every line that is not in a Python block blanked, so that a traceback's line is the page's."""
    kept: list[str] = []
    fence: str | None = None
    last = ""
    for line in text.splitlines():
        if fence is None and line.startswith("```"):
            fence = "skip" if line != "```python" or NOT_RUN.fullmatch(last.strip()) else "run"
            kept.append("")
        elif fence is not None and line == "```":
            fence = None
            kept.append("")
        else:
            kept.append(line if fence == "run" else "")
        last = line if line.strip() else last
    return "\n".join(kept) + "\n"


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


def test_the_readme_exists() -> None:
    assert README.is_file(), "README.md is missing: the wheel is built with it, and newcomers start there"


def test_every_python_block_runs(tmp_path: Path) -> None:
    assert README.is_file(), "README.md is missing"
    blocks = tmp_path / "readme.py"
    blocks.write_text(script(README.read_text()))
    done = subprocess.run(
        [sys.executable, str(blocks)],
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
    assert script(page) == "\n\na = 1\n" + "\n" * 9


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text('# One two\n[a](page.md#one-two) [b](gone.md) [c](#gone) [d](https://x.y) <img src="gone.png">\n')
    assert broken_links(page) == ["gone.md", "#gone", "gone.png"]
