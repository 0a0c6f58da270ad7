"""`commlib doctor`: what is wrong with this machine, this install, or an object of yours, in plain words.

A check-up, not an operation: it looks, says what it found and what to do, and changes nothing. Every finding is one
line; a failed import or a class that cannot be made is a finding as well, never a traceback.
"""

import importlib.metadata
import importlib.util
import inspect
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from commlib.agents.meters import ray_exports
from commlib.codec import FrozenCodec, fresh_context
from commlib.codecs.frozen import CodebookQuantiser, TableCodec
from commlib.codecs.prior import uniform_prior
from commlib.errors import CommlibError, ConfigError
from commlib.plugins import load_object
from commlib.testing import check_agent, check_codec, check_world

LEAST_GIGABYTES = 1.0
"""Of memory and of free disk: the tests and the demo stay below it."""

MESSAGE_WIDTH = 16
"""What a user's codec is made with, as in a run with default settings."""

EXTRAS = {
    "plots": ("matplotlib", "figures"),
    "digits": ("sklearn", "world digits"),
    "mpe": ("mpe2", "mpe2 worlds"),
    "sisl": ("pygame", "pettingzoo sisl worlds"),
    "metrics": ("prometheus_client", "--metrics-port"),
}
SHAPES = {"guide": (50, 5), "predator_prey_easy": (28, 5), "traffic_junction_easy": (17, 2)}
"""Observation width and number of actions of built-in worlds, tried where an agent does not state its own."""


class Finding(NamedTuple):
    """What was looked at, whether it is good, and a sentence about it."""

    name: str
    is_good: bool
    text: str


def diagnose() -> list[Finding]:
    """Look at this machine and this install."""
    machine = [_cores(), _memory(), _disk(), _folder()]
    return [_python(), *_packages(), *_extras(), *machine, _ray_address(), _cluster_metrics(), _round_trip()]


def diagnose_target(target: str) -> list[Finding]:
    """Look at a user's agent, codec or world, given as "package.module:Class" or "./file.py:Class"."""
    try:
        thing = load_object(target)
    except ConfigError as error:
        return [Finding("import", False, str(error))]
    name = target.rpartition(":")[2]
    kind = _kind(thing)
    found = [Finding("import", True, f"{name} was found, and is treated as {_with_article(kind)}")]
    check = {"agent": _agent, "codec": _codec, "world": _world}[kind]
    try:
        found.append(Finding(kind, True, check(thing, name)))
    except CommlibError as error:
        found.append(Finding(kind, False, str(error)))
    except Exception as error:
        found.append(Finding(kind, False, f"{name} raised {_in_a_line(error)}"))
    return found


# --- machine and install ----------------------------------------------------------------------------------------------


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return _at_least("python", version, "3.10", "install a newer Python")


def _packages() -> list[Finding]:
    return [_package(name, lowest) for name, lowest in requirements().items()]


def _package(name: str, lowest: str) -> Finding:
    cure = f"pip install '{name}>={lowest}'"
    try:
        return _at_least(name, importlib.metadata.version(name), lowest, cure)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, f"not installed; {cure}")


def requirements() -> dict[str, str]:
    """Lowest versions of what commlib needs: from the installed package, or from pyproject.toml in a bare checkout."""
    try:
        lines = [line for line in importlib.metadata.requires("commlib") or [] if "extra ==" not in line]
    except importlib.metadata.PackageNotFoundError:
        project = Path(__file__).resolve().parent.parent / "pyproject.toml"
        block = re.search(r"^dependencies = \[(.*?)^\]", project.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        lines = re.findall(r'"([^"]+)"', block[1]) if block else []
    found = [re.match(r"([\w.-]+)\s*>=\s*([\w.]+)", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def _at_least(name: str, version: str, lowest: str, advice: str) -> Finding:
    if _numbers(version) >= _numbers(lowest):
        return Finding(name, True, f"{version} (at least {lowest})")
    return Finding(name, False, f"{version} is older than {lowest}; {advice}")


def _numbers(version: str) -> tuple[int, ...]:
    """The release part of a version; what follows it, as in 2.13.0+cpu or 3.0rc1, is left out."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def _extras() -> Iterator[Finding]:
    for extra, (package, purpose) in EXTRAS.items():
        is_there = importlib.util.find_spec(package) is not None
        advice = f"not installed, so no {purpose}; pip install 'commlib[{extra}]' if you want them"
        yield Finding(f"extra {extra}", True, f"installed, for {purpose}" if is_there else advice)


def _cores() -> Finding:
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Finding("cores", True, f"{n}; about one agent host per core is fastest")


def _memory() -> Finding:
    try:
        gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError):
        return Finding("memory", True, "this system does not say how much there is")
    return _enough("memory", gigabytes, "train with fewer worlds side by side, or on another machine")


def _disk() -> Finding:
    try:
        return _enough("disk", shutil.disk_usage(Path.cwd()).free / 1e9, "free some, or run in another folder")
    except OSError as error:
        return Finding("disk", False, f"the current folder cannot be read ({error.strerror}); run in another one")


def _enough(name: str, gigabytes: float, advice: str) -> Finding:
    if gigabytes >= LEAST_GIGABYTES:
        return Finding(name, True, f"{gigabytes:.1f} GB")
    return Finding(name, False, f"{gigabytes:.1f} GB is less than {LEAST_GIGABYTES:.0f}; {advice}")


def _folder() -> Finding:
    try:
        with tempfile.TemporaryFile(dir=Path.cwd()):
            return Finding("folder", True, f"{Path.cwd()} is writable")
    except OSError as error:
        return Finding(
            "folder", False, f"the current folder cannot be written ({error.strerror}); use --out or another one"
        )


def _ray_address() -> Finding:
    address = os.environ.get("RAY_ADDRESS")
    if address:
        return Finding(
            "RAY_ADDRESS", True, f"{address}: runs with --runtime ray join that cluster, and leave it running"
        )
    return Finding("RAY_ADDRESS", True, "not set: runs with --runtime ray start a Ray of their own")


def _cluster_metrics() -> Finding:
    """Where --metrics-port shows its figures on a cluster; it is another place than without one."""
    if ray_exports():
        return Finding(
            "ray metrics", True, "ray[default] is installed: on a cluster that is joined, its nodes show ours"
        )
    return Finding(
        "ray metrics",
        True,
        "ray[default] is not installed, so runs on a cluster show their own; pip install 'ray[default]' on every node if "
        "Ray is to",
    )


def _round_trip() -> Finding:
    """A codec of 16 codes sends 16 messages."""
    codebook = np.arange(32, dtype=np.float32).reshape(16, 2)
    codec = TableCodec("doctor", CodebookQuantiser(codebook), uniform_prior(1, 16))
    fresh = fresh_context(16, 1)
    try:
        payload = codec.encode(codec.choose(codebook, fresh), fresh)
        heard = codec.embed(codec.decode(payload, fresh))
    except Exception as error:
        return Finding("codec", False, f"a round trip raised {_in_a_line(error)}; install constriction and numpy again")
    if not np.array_equal(heard, codebook):
        return Finding("codec", False, "16 messages came back changed; install constriction and numpy again")
    return Finding("codec", True, f"16 messages of 4 bits made a round trip in {8 * len(payload)} bits")


# --- a user's object --------------------------------------------------------------------------------------------------


def _kind(thing: object) -> str:
    """An agent has `act`; a codec `freeze` or what a frozen one has; anything else is to be a world."""
    if callable(getattr(thing, "act", None)):
        return "agent"
    if callable(getattr(thing, "freeze", None)) or all(hasattr(thing, name) for name in ("encode", "decode", "embed")):
        return "codec"
    return "world"


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _in_a_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _takes(maker: Callable[..., Any], *arguments: object, **named: object) -> bool:
    """Whether a call with these arguments fits the signature; told without calling."""
    try:
        inspect.signature(maker).bind(*arguments, **named)
    except TypeError:
        return False
    except ValueError:  # no signature to look at, as for some classes written in C
        return True
    return True


def _agent(thing: Any, name: str) -> str:  # noqa: ANN401 (a user's object)
    if not isinstance(thing, type):
        raise ConfigError(
            f"{name} is one agent, and a team needs one for each id; give the class, or a function of the id"
        )
    if not (_takes(thing, 0) or _takes(thing)):
        raise ConfigError(
            f"{name} cannot be made as {name}(agent_id); let it take the agent's id, and give all else a default"
        )

    def make(agent_id: int) -> Any:  # noqa: ANN401
        return thing(agent_id) if _takes(thing, agent_id) else thing()

    message_width: int | None = getattr(thing, "message_width", None)
    shapes = dict(SHAPES)
    if hasattr(thing, "observation_width") and hasattr(thing, "n_actions"):
        shapes = {"its own": (thing.observation_width, thing.n_actions)}
    troubles = []
    for world, (observation_width, n_actions) in shapes.items():
        sizes = f"observations [{observation_width}], {n_actions} actions ({world})"
        try:
            check_agent(make, observation_width=observation_width, n_actions=n_actions, message_width=message_width)
        except CommlibError as error:
            troubles.append(f"with {sizes}: {error}")
        else:
            return f"{name} keeps the contract of an agent, with {sizes}"
    advice = "" if len(shapes) == 1 else "; if it is made for another world, give it observation_width and n_actions"
    raise ConfigError(troubles[0] + advice)


def _codec(thing: Any, name: str) -> str:  # noqa: ANN401
    codec = thing
    if isinstance(thing, type):
        if _takes(thing, width=MESSAGE_WIDTH):
            codec = thing(width=MESSAGE_WIDTH)
        elif _takes(thing):
            codec = thing()
        else:
            raise ConfigError(f"{name} cannot be made as {name}(width={MESSAGE_WIDTH}); give all else a default")
    if not isinstance(codec, FrozenCodec):
        lacks = [method for method in ("forward", "fit", "set_prior", "freeze") if not hasattr(codec, method)]
        if lacks:
            raise ConfigError(f"{name} is no codec: it lacks {', '.join(lacks)}; see commlib.codec.Codec")
    check_codec(codec)
    return f"{name} keeps the laws of a codec, with messages of {codec.width} floats"


def _world(thing: Any, name: str) -> str:  # noqa: ANN401
    from commlib.experiments.worlds import make_world

    world = make_world(thing)
    try:
        check_world(world)
    finally:
        world.close()
    spec = world.spec
    return f"{name} keeps the laws of a world: {spec.n_agents} agents, {spec.n_steps} steps at most"
