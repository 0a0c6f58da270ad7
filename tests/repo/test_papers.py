"""papers.md is complete and true: every paper that the code cites is listed, every place that it names exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAPERS = ROOT / "papers.md"
FOLDERS = ("commlib", "codecs", "agents", "experiments")

CITED = re.compile(r"arXiv[: ](\d{4}\.\d{5})", re.IGNORECASE)
PLACE = re.compile(r"`((?:commlib|codecs|agents|experiments|tests)/[\w/]+\.py):([\w.]+)`")


def uncited(root: Path, papers: str) -> list[str]:
    """Each citation in the source that papers.md does not list."""
    listed = set(CITED.findall(papers))
    return [
        f"{path.relative_to(root).as_posix()} cites arXiv:{number}"
        for folder in FOLDERS
        for path in sorted([*(root / folder).rglob("*.py"), *(root / folder).rglob("*.yaml")])
        for number in sorted(set(CITED.findall(path.read_text())) - listed)
    ]


def defines(source: str, name: str) -> bool:
    """Whether the module has this function or class; `Class.method` is looked up inside the class."""
    body: list[ast.stmt] = ast.parse(source).body
    for part in name.split("."):
        found = [
            node
            for node in body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == part
        ]
        if not found:
            return False
        body = found[-1].body
    return True


def missing_places(root: Path, papers: str) -> list[str]:
    return [
        f"{path}:{name}"
        for path, name in PLACE.findall(papers)
        if not (root / path).is_file() or not defines((root / path).read_text(), name)
    ]


def test_every_cited_paper_is_listed() -> None:
    assert uncited(ROOT, PAPERS.read_text()) == []


def test_every_place_named_exists() -> None:
    assert missing_places(ROOT, PAPERS.read_text()) == []


def test_the_checks_see_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "codecs").mkdir()
    (tmp_path / "codecs" / "vq.py").write_text('"""arXiv:1711.00937."""\nclass A:\n    def f(self): ...\n')
    papers = "arXiv:2405.08550 | `codecs/vq.py:A.f` | `codecs/vq.py:A.g` | `codecs/vq.py:f` | `codecs/gone.py:A`"
    assert uncited(tmp_path, papers) == ["codecs/vq.py cites arXiv:1711.00937"]
    assert missing_places(tmp_path, papers) == ["codecs/vq.py:A.g", "codecs/vq.py:f", "codecs/gone.py:A"]
