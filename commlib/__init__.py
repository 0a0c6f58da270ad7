"""commlib: multi-agent messages with a price per bit.

`import commlib` loads neither torch nor ray; what needs them is loaded when it is first used.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# In a checkout the folders codecs/, agents/ and experiments/ lie beside this package, not inside it; they are imported
# as commlib.codecs and so on ("packages in multiple directories", Python tutorial 6.4.3). In a wheel they lie inside.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "codecs").is_dir():
    __path__.append(str(_root))

_LAZY = {
    "run": "commlib.experiments.run",
    "train": "commlib.experiments.train",
    "load": "commlib.experiments.run",
    "load_codec": "commlib.codecs.words",
    "fit_codec": "commlib.codecs.fit",
    "MessageCodec": "commlib.codecs.words",
    "Result": "commlib.records",
    "testing": "commlib.testing",
}

__all__ = ["MessageCodec", "Result", "__version__", "fit_codec", "load", "load_codec", "run", "testing", "train"]

if TYPE_CHECKING:
    from commlib import testing
    from commlib.codecs.fit import fit_codec
    from commlib.codecs.words import MessageCodec, load_codec
    from commlib.experiments.run import load, run
    from commlib.experiments.train import train
    from commlib.records import Result


def __getattr__(name: str) -> Any:  # noqa: ANN401 (a module attribute can be anything)
    if name not in _LAZY:
        raise AttributeError(f"module 'commlib' has no attribute {name!r}")
    module = import_module(_LAZY[name])
    return module if name == "testing" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*__all__, *globals()})
