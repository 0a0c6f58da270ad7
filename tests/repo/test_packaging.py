"""One import name, wherever the code comes from: a bare checkout, or a wheel unpacked far away from it."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("commlib", "codecs", "agents", "experiments")
PACKED = (*FOLDERS, "pyproject.toml", "README.md", "LICENSE")
LOWER = (
    *("units", "errors", "message", "frame", "ledger", "journal", "schema", "audit", "compact", "export"),
    *("config", "records", "plugins"),
)

NAME_THE_HEAVY = "import sys; print([name for name in ('torch', 'ray') if name in sys.modules])"


def python(code: str, on_path: Path, cwd: Path, *flags: str) -> str:
    """What `code` prints in a fresh interpreter that has `on_path` on its path and stands elsewhere."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(on_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def expected_members() -> set[str]:
    """The checkout's modules and data files, by the name that each has in the wheel."""
    members = {"commlib/py.typed"}
    for folder in FOLDERS:
        inside = "commlib" if folder == "commlib" else f"commlib/{folder}"
        files = [
            *(ROOT / folder).rglob("*.py"),
            *(ROOT / folder / "recipes").glob("*.yaml"),
            *(ROOT / folder / "zoo").glob("*/*"),
        ]
        members |= {f"{inside}/{path.relative_to(ROOT / folder).as_posix()}" for path in files}
    return members


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built once, from a copy, so that no stale build/ of the checkout gets into it."""
    tree = tmp_path_factory.mktemp("tree")
    for name in PACKED:
        source = ROOT / name
        assert source.exists(), f"{name} is missing: without it no wheel can be built"
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "."],
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (tree / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="session")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as an installer lays it out, outside the repository."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize("flags", [(), ("-X", "frozen_modules=off")], ids=["frozen", "not frozen"])
def test_the_interpreter_starts_with_the_checkout_on_its_path(flags: tuple[str, ...], tmp_path: Path) -> None:
    code = "import codecs, os; print(os.path.dirname(codecs.__file__) == os.path.dirname(os.__file__), codecs.lookup)"
    assert python(code, ROOT, tmp_path, *flags).startswith("True <")


def test_import_commlib_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    assert python(f"import commlib; {NAME_THE_HEAVY}", ROOT, tmp_path) == "[]"


def test_the_lower_half_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    imports = "; ".join(f"import commlib.{name}" for name in LOWER)
    assert python(f"{imports}; {NAME_THE_HEAVY}", ROOT, tmp_path) == "[]"


def test_help_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    code = (
        "import contextlib, io, sys; from commlib.__main__ import main; sys.argv = ['commlib', '--help']\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main()\n"
    )
    assert python(code + NAME_THE_HEAVY, ROOT, tmp_path) == "[]"


def test_the_wheel_holds_exactly_the_checkout(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        members = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert members == expected_members()


def test_the_wheel_carries_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (licence,) = [name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()


def test_every_module_of_the_wheel_imports_outside_the_repository(site: Path, tmp_path: Path) -> None:
    names = sorted(
        member.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for member in expected_members()
        if member.endswith(".py")
    )
    code = (
        "import importlib, sys\n"
        f"for name in {names}: importlib.import_module(name)\n"
        "files = [m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'commlib' and m.__file__]\n"
        f"print(len(files), all(file.startswith({str(site)!r}) for file in files))"
    )
    assert python(code, site, tmp_path) == f"{len(names)} True"
