"""From "package.module:Class" or "./file.py:Class" to the object: how users bring their own, without a registry.

A cloakroom: hand in the ticket, get the coat, or a sentence that says why there is none. Modules are looked for where
Python looks, and last of all in the current folder, which a console command's Python does not search by itself.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from commlib.errors import ConfigError


def load_object(target: str) -> Any:  # noqa: ANN401 (a user's object)
    """The object that "package.module:Class" or "path/file.py:Class" names; `Class.method` goes deeper.

    >>> load_object("fractions:Fraction.from_float")(0.5)
    Fraction(1, 2)

    Raises:
        ConfigError: there is no such module, file or attribute, or importing it fails.
    """
    place, colon, name = target.strip().rpartition(":")
    if not (colon and place and name):
        raise ConfigError(f'{target!r} names no object; write "package.module:Class" or "./file.py:Class"')
    found: object = _from_file(Path(place)) if place.endswith(".py") else _from_module(place)
    for part in name.split("."):
        found = _attribute(found, part, place)
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say after an unknown name: its nearest neighbours, or all there are; private names are left out.

    >>> nearest("gide", ["guide", "maze"]), nearest("x", ["guide", "maze"])
    ('did you mean guide?', 'there are guide, maze')
    """
    public = [word for word in known if not word.startswith("_")]
    close = get_close_matches(name, public, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there are {', '.join(sorted(public))}" if public else "it is empty"


def _attribute(thing: object, name: str, place: str) -> object:
    try:
        found: object = getattr(thing, name)
    except AttributeError as error:
        raise ConfigError(f"{place} has no {name!r}; {nearest(name, dir(thing))}") from error
    return found


def _from_module(name: str) -> ModuleType:
    _search(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(f"there is no module {error.name!r}; is its folder on PYTHONPATH?") from error
        raise ConfigError(f"{name} needs {error.name}, which is not installed") from error
    except Exception as error:
        raise ConfigError(_failure(name, error)) from error


def _from_file(path: Path) -> ModuleType:
    """Import a file under its own name, so that what it defines can be found again by that name."""
    path = path.resolve()
    if not path.is_file():
        near = get_close_matches(path.name, [other.name for other in path.parent.glob("*.py")], n=1)
        raise ConfigError(f"there is no file {path}; " + (f"did you mean {near[0]}?" if near else "check its folder"))
    name, known = path.stem, sys.modules.get(path.stem)
    if isinstance(known, ModuleType) and known.__dict__.get("__file__") == str(path):
        return known
    if known is not None or name in sys.stdlib_module_names:
        raise ConfigError(f"another module is called {name!r} already; give {path.name} a name of its own")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} cannot be imported as a module; is it Python?")
    _search(path.parent)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(_failure(path.name, error)) from error
    return module


def _search(folder: Path) -> None:
    """Let Python look here too, last, so that nothing installed is hidden."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _failure(what: str, error: Exception) -> str:
    """Why an import failed, in one line, with the place in the user's code."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{what} needs {error.name}, which is not installed"
    if isinstance(error, SyntaxError):
        return f"{what} cannot be imported: line {error.lineno} is not Python ({error.msg})"
    trace, line = error.__traceback__, 0
    while trace is not None:
        line, trace = trace.tb_lineno, trace.tb_next
    return f"{what} cannot be imported: {type(error).__name__} in line {line}: {' '.join(str(error).split())[:200]}"
