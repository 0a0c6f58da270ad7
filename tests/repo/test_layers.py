"""The layers of the house, read off the source with `ast`: who may import whom, and what nobody may import.

The folders codecs/, agents/ and experiments/ have no `__init__.py`, so no ready-made import linter can see them.
The checker is itself tested, against a house with one fault at a time.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("commlib", "codecs", "agents", "experiments")
LOWER = frozenset(
    {
        "units", "errors", "message", "frame", "budget", "ledger", "journal", "schema", "audit", "compact", "export",
        "purse", "price", "bill", "config", "records", "plugins", "plan", "rationing", "channel",
    }
)  # fmt: skip
RAY_FILE = "agents/ray_runtime.py"

# Importing one of these imports torch, or is Ray.
HEAVY = ("torch", "ray", "vector_quantize_pytorch", "torch_einops_utils", "tensordict", "safetensors.torch")
PICKLES = ("pickle", "_pickle", "cPickle", "cloudpickle", "ray.cloudpickle", "dill", "marshal", "shelve", "joblib")
PICKLES_TOO = ("torch.load", "torch.save")

# What a layer may never name, neither at import time, nor inside a function, nor for its annotations.
NEVER = {
    "lower": {"codecs", "agents", "experiments"},
    "upper": {"codecs", "agents", "experiments"},
    "codecs": {"agents", "experiments"},
    "agents": {"codecs", "experiments"},
    "experiments": set[str](),
}

When = Literal["load", "call", "typing"]


class Import(NamedTuple):
    """One imported name, absolute: when it is imported, and where that stands."""

    name: str
    when: When
    file: str
    line: int


def modules(root: Path) -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))


def import_name(file: Path) -> str:
    """`codecs/vq.py` -> `commlib.codecs.vq`; the file is relative to the root."""
    parts = file.with_suffix("").parts
    return ".".join(parts if parts[0] == "commlib" else ("commlib", *parts))


def is_or_is_inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


class _Imports(ast.NodeVisitor):
    """Collects imports, with aliases, and remembers whether they run at import time."""

    def __init__(self, file: Path, lazy: dict[str, str]) -> None:
        self.file = file
        self.lazy = lazy
        self.when: When = "load"
        self.found: list[Import] = []
        self.alias: dict[str, str] = {}

    def add(self, name: str, line: int) -> None:
        # `from commlib import run` runs commlib.experiments.run: the lazy table must not be a way round the layers.
        self.found.append(Import(self.lazy.get(name, name), self.when, self.file.as_posix(), line))

    def inside(self, node: ast.AST, when: When) -> None:
        outer = self.when
        self.when = outer if outer == "typing" else when
        self.generic_visit(node)
        self.when = outer

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.inside(node, "call")

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.inside(node, "call")

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.inside(node, "call")

    def visit_If(self, node: ast.If) -> None:
        guard = node.test.attr if isinstance(node.test, ast.Attribute) else getattr(node.test, "id", "")
        if guard != "TYPE_CHECKING":
            self.generic_visit(node)
            return
        outer, self.when = self.when, "typing"
        for child in node.body:
            self.visit(child)
        self.when = outer
        for child in node.orelse:
            self.visit(child)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.add(alias.name, node.lineno)
            self.alias[alias.asname or alias.name.partition(".")[0]] = (
                alias.name if alias.asname else alias.name.partition(".")[0]
            )

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            own = import_name(self.file).removesuffix(".__init__").split(".")
            up = node.level - (self.file.name == "__init__.py")
            base = ".".join([*own[: len(own) - up], *([base] if base else [])])
        for alias in node.names:
            name = base if alias.name == "*" else f"{base}.{alias.name}"
            self.add(name, node.lineno)
            self.alias[alias.asname or alias.name] = name

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        first = node.args[0] if node.args else None
        if called in {"import_module", "__import__"} and isinstance(first, ast.Constant):
            self.add(str(first.value), node.lineno)
        self.generic_visit(node)


def lazy_table(root: Path) -> dict[str, str]:
    """`commlib.run` -> `commlib.experiments.run`, and so on, as `commlib/__init__.py` says."""
    init = root / "commlib" / "__init__.py"
    for node in ast.parse(init.read_text()).body if init.is_file() else []:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_LAZY":
            return {f"commlib.{name}": module for name, module in ast.literal_eval(node.value).items()}
    return {}


def visited(root: Path, path: Path) -> tuple[ast.Module, _Imports]:
    tree = ast.parse(path.read_text(), str(path))
    visitor = _Imports(path.relative_to(root), lazy_table(root))
    visitor.visit(tree)
    return tree, visitor


def layer_of_file(file: Path) -> str:
    if file.parts[0] != "commlib":
        return file.parts[0]
    return "door" if file.stem in {"__init__", "__main__"} else "lower" if file.stem in LOWER else "upper"


def layer_of_name(name: str) -> str | None:
    """The layer that an imported name belongs to; None for what is not ours."""
    head, *rest = name.split(".")
    if head in {"agents", "experiments"}:
        return head
    if head != "commlib":
        return None
    if not rest or rest[0].startswith("__"):
        return "door"
    return rest[0] if rest[0] in FOLDERS else "lower" if rest[0] in LOWER else "upper"


def layer_faults(root: Path) -> Iterator[str]:
    """Each import that goes up, or sideways, or that loads torch or Ray where that must be cheap."""
    for path in modules(root):
        own = layer_of_file(path.relative_to(root))
        for name, when, file, line in visited(root, path)[1].found:
            other = layer_of_name(name)
            where = f"{file}:{line}"
            if file != RAY_FILE and is_or_is_inside(name, "ray"):
                yield f"{where} imports {name}: Ray is imported in {RAY_FILE} alone"
            if own == "door":
                table = file.endswith("__init__.py") and when == "typing"
                cli = file.endswith("__main__.py") and when == "call"
                if other not in {None, "door", "lower"} and not table and not cli:
                    yield f"{where} imports {name}: `import commlib` must stay cheap; use the lazy table"
            elif other in NEVER[own]:
                yield f"{where} imports {name}: {own} must not know {other}"
            if own in {"door", "lower"} and when == "load":
                if own == "lower" and other == "upper":
                    yield f"{where} imports {name}: the lower half of commlib must not load the upper half"
                if any(is_or_is_inside(name, heavy) for heavy in HEAVY):
                    yield f"{where} imports {name}: this half of commlib must load without torch"


def shape_faults(root: Path) -> Iterator[str]:
    """Each file that would break the one import name: a package marker, a nested folder, a standard library's name."""
    for path in modules(root):
        file = path.relative_to(root)
        if file.parts[0] == "commlib":
            continue
        if file.name == "__init__.py":
            yield f"{file.as_posix()} must not exist: with the root on PYTHONPATH it can stop Python from starting"
        if len(file.parts) > 2:
            yield f"{file.as_posix()} is nested: {file.parts[0]}/ has one level of modules"
        if file.stem in sys.stdlib_module_names:
            yield f"{file.as_posix()} has the name of a standard library module"


def pickle_faults(root: Path) -> Iterator[str]:
    """Each way to unpickle, anywhere that a message may pass."""
    for path in modules(root):
        file = path.relative_to(root).as_posix()
        if file.startswith("experiments/"):
            continue
        tree, imports = visited(root, path)
        for name, _, _, line in imports.found:
            if any(is_or_is_inside(name, banned) for banned in PICKLES + PICKLES_TOO):
                yield f"{file}:{line} imports {name}: never pickle on the message path"
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                head, _, tail = ast.unparse(node).partition(".")
                if f"{imports.alias.get(head, head)}.{tail}" in PICKLES_TOO:
                    yield f"{file}:{node.lineno} uses {ast.unparse(node)}: never pickle on the message path"
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
                yield f"{file}:{node.value.lineno} allows pickles in an array file: never pickle on the message path"


def faults(root: Path) -> list[str]:
    return [*layer_faults(root), *shape_faults(root), *pickle_faults(root)]


def ray_files(root: Path) -> list[str]:
    return sorted(
        {
            name.file
            for path in modules(root)
            for name in visited(root, path)[1].found
            if is_or_is_inside(name.name, "ray")
        }
    )


def test_the_house_keeps_its_layers() -> None:
    assert list(layer_faults(ROOT)) == []


def test_the_folders_keep_their_shape() -> None:
    assert list(shape_faults(ROOT)) == []


def test_nothing_on_the_message_path_unpickles() -> None:
    assert list(pickle_faults(ROOT)) == []


def test_ray_is_imported_in_exactly_one_file() -> None:
    assert ray_files(ROOT) == [RAY_FILE]


# The checker, checked: a sound house, then the same house with one fault.

SOUND = {
    "commlib/__init__.py": (
        "from importlib import import_module\n"
        "from typing import TYPE_CHECKING\n"
        "_LAZY = {'run': 'commlib.experiments.run'}\n"
        "if TYPE_CHECKING:\n    from commlib.experiments.run import run\n"
    ),
    "commlib/__main__.py": "def main():\n    from commlib.experiments import cli\n    cli.main()\n",
    "commlib/units.py": "import numpy\nfrom .errors import CommlibError\n",
    "commlib/errors.py": "class CommlibError(Exception): ...\n",
    "commlib/records.py": "def versions():\n    import torch\n    return torch.__version__\n",
    "commlib/codec.py": "import torch\nfrom commlib import units\n",
    "codecs/vq.py": "import torch\nfrom commlib.codec import Codec\nfrom commlib.codecs.prior import Prior\n",
    "codecs/prior.py": "import codecs\nimport torch\nstate = torch.nn.Module.load_state_dict\n",
    "agents/ray_runtime.py": "import ray\nfrom .host import AgentHost\n",
    "agents/host.py": "from commlib.codec import Codec\n",
    "experiments/run.py": "import pickle\nfrom commlib.agents import host\nfrom commlib.codecs import vq\n",
}

BROKEN = [
    ("commlib/units.py", "import torch", "must load without torch"),
    ("commlib/units.py", "from safetensors.torch import load_file", "must load without torch"),
    (
        "commlib/units.py",
        "if True:\n    import vector_quantize_pytorch",
        "must load without torch",
    ),
    ("commlib/ledger.py", "from commlib.codec import Codec", "must not load the upper half"),
    ("commlib/ledger.py", "from . import codec", "must not load the upper half"),
    ("commlib/ledger.py", "class A:\n    from commlib import codec", "must not load the upper half"),
    ("commlib/ledger.py", "def f():\n    import ray", "Ray is imported in"),
    ("commlib/exchange.py", "from commlib.codecs import vq", "upper must not know codecs"),
    ("commlib/exchange.py", "def f():\n    from commlib.agents.host import AgentHost", "upper must not know agents"),
    ("commlib/exchange.py", "from commlib import run", "upper must not know experiments"),
    ("commlib/exchange.py", "from importlib import import_module\nimport_module('ray')", "Ray is imported in"),
    ("commlib/__init__.py", "from commlib.codec import Codec", "use the lazy table"),
    ("commlib/__main__.py", "from commlib.experiments import cli", "use the lazy table"),
    ("codecs/int8.py", "import commlib.agents.host as host", "codecs must not know agents"),
    ("codecs/int8.py", "from ..agents import host", "codecs must not know agents"),
    ("codecs/int8.py", "from ray import get", "Ray is imported in"),
    ("agents/policy.py", "from commlib import codecs", "agents must not know codecs"),
    (
        "agents/policy.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import commlib.codecs.vq",
        "agents must not know codecs",
    ),
    ("agents/policy.py", "import experiments.run", "agents must not know experiments"),
    ("experiments/sweep.py", "async def f():\n    import ray.util", "Ray is imported in"),
    ("codecs/__init__.py", "", "must not exist"),
    ("agents/nets/mlp.py", "", "one level of modules"),
    ("experiments/statistics.py", "", "name of a standard library module"),
    ("commlib/frame.py", "import pickle", "never pickle"),
    ("commlib/frame.py", "def f():\n    from cloudpickle import loads", "never pickle"),
    ("codecs/int8.py", "import torch as t\nx = t.load('f')", "never pickle"),
    ("codecs/int8.py", "from torch import load", "never pickle"),
    ("agents/policy.py", "import numpy\nnumpy.load('f', allow_pickle=True)", "never pickle"),
]


def build(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_checker_passes_a_sound_house(tmp_path: Path) -> None:
    build(tmp_path, SOUND)
    assert faults(tmp_path) == []
    assert ray_files(tmp_path) == [RAY_FILE]


@pytest.mark.parametrize(("file", "source", "sentence"), BROKEN)
def test_the_checker_names_the_fault(file: str, source: str, sentence: str, tmp_path: Path) -> None:
    before = SOUND.get(file, "")
    build(tmp_path, {**SOUND, file: f"{before}{source}\n"})
    found = faults(tmp_path)
    assert found
    assert all(fault.startswith(file) and sentence in fault for fault in found)
