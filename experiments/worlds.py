"""Every way to name a world, and the one function that understands them all.

Think of the porter's desk: show a name, an address or the thing itself, and be shown to a `World`. Not a registry to
edit: a user's world comes in as an object, as "package.module:Class", or by the entry point group `commlib.worlds`.
PettingZoo is imported only when one of its environments is asked for.
"""

import importlib
import importlib.util
import pkgutil
import re
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from commlib.errors import ConfigError, WorldError
from commlib.experiments.world_digits import Digits
from commlib.experiments.world_guide import Guide, guide_8, guide_recall, guide_relay
from commlib.experiments.world_levers import Levers
from commlib.experiments.world_mixture import Mixture
from commlib.experiments.world_predator_prey import (
    predator_prey_easy,
    predator_prey_easy_vision_1,
    predator_prey_hard,
    predator_prey_medium,
)
from commlib.experiments.world_reference import Reference
from commlib.experiments.world_riddle import Riddle, riddle_4
from commlib.experiments.world_search_extract import SearchExtract, forgetful, longer, one_hand, restless, still
from commlib.experiments.world_secret import Secret
from commlib.experiments.world_speaker_listener import SpeakerListener
from commlib.experiments.world_switchboard import Switchboard
from commlib.experiments.world_traffic_junction import HARD, MEDIUM, TrafficJunction
from commlib.plugins import load_object, nearest
from commlib.world import World, WorldSpec

if TYPE_CHECKING:
    from pettingzoo import ParallelEnv

    Nameable: TypeAlias = str | World | ParallelEnv[Any, Any, Any] | Callable[[], World | ParallelEnv[Any, Any, Any]]

_BUILT_IN: dict[str, Callable[[], World]] = {
    "digits_v1": Digits,
    "guide_v1": Guide,
    "guide_8_v1": guide_8,
    "guide_recall_v1": guide_recall,
    "guide_relay_v1": guide_relay,
    "levers_v1": Levers,
    "predator_prey_easy_v1": predator_prey_easy,
    "predator_prey_easy_vision_1_v1": predator_prey_easy_vision_1,
    "predator_prey_medium_v1": predator_prey_medium,
    "predator_prey_hard_v1": predator_prey_hard,
    "reference_v1": Reference,
    "riddle_v1": Riddle,
    "riddle_4_v1": riddle_4,
    "search_extract_v2": SearchExtract,
    "search_extract_one_hand_v2": one_hand,
    "search_extract_longer_v2": longer,
    "search_extract_still_v2": still,
    "search_extract_restless_v2": restless,
    "search_extract_forgetful_v2": forgetful,
    "secret_v1": Secret,
    "speaker_listener_v1": SpeakerListener,
    "switchboard_v1": Switchboard,
    "traffic_junction_easy_v1": TrafficJunction,
    "traffic_junction_easy_vision_1_v1": partial(TrafficJunction, 1),
    "traffic_junction_medium_v1": partial(TrafficJunction, 0, MEDIUM),
    "traffic_junction_medium_vision_1_v1": partial(TrafficJunction, 1, MEDIUM),
    "traffic_junction_hard_v1": partial(TrafficJunction, 0, HARD),
    "traffic_junction_hard_vision_1_v1": partial(TrafficJunction, 1, HARD),
}
_OF_ANY_SIZE: dict[str, Callable[[int], World]] = {
    "guide_v1": Guide,
    "predator_prey_easy_v1": predator_prey_easy,
    "predator_prey_medium_v1": predator_prey_medium,
    "predator_prey_hard_v1": predator_prey_hard,
}
"""The worlds that allow another number of agents, with observations and actions as they are."""
_EXTRAS = {"mpe2": "commlib[mpe]", "pettingzoo.sisl": "commlib[sisl]"}


def list_worlds() -> list[WorldSpec]:
    """Describe the built-in worlds."""
    return [make().spec for make in _BUILT_IN.values()]


def built_in_name(name: str) -> str | None:
    """The whole name of a built-in world, with its version; None if there is none by this name.

    >>> built_in_name("search_extract"), built_in_name("guide_mine.py:World")
    ('search_extract_v2', None)
    """
    return next((whole for whole in _BUILT_IN if name in (whole, without_version(whole))), None)


def known_spec(name: str) -> WorldSpec | None:
    """What is known of a built-in world by the name that its results bear; None of any other."""
    if "+" in name:
        return make_world(name).spec if all(map(known_spec, name.split("+"))) else None
    if whole := built_in_name(name):
        return _BUILT_IN[whole]().spec
    sized = re.fullmatch(r"(.+)_(\d+)(_v\d+)", name)
    if sized is None or sized[1] + sized[3] not in _OF_ANY_SIZE:
        return None
    try:
        return _OF_ANY_SIZE[sized[1] + sized[3]](int(sized[2])).spec
    except WorldError:  # a name that no result can bear
        return None


def without_version(name: str) -> str:
    """A world's name without its version.

    >>> without_version("guide_8_v1")
    'guide_8'
    """
    return re.sub(r"_v\d+$", "", name)


def make_world(world: "Nameable", n_agents: int | None = None) -> World:
    """Turn a name, an address or an object into a `World`, of its own number of agents or another that it allows.

        make_world("guide")                                  built in; "guide_v1" is the same
        make_world("pettingzoo:sisl/pursuit-v5")             pettingzoo.sisl.pursuit_v5.parallel_env()
        make_world("mpe2:simple_speaker_listener_v4")        mpe2.simple_speaker_listener_v4.parallel_env()
        make_world("my_package.my_module:MyWorld")           a World or ParallelEnv class, or a function that makes one
        make_world("guide", 5)                               with five agents
        make_world("guide+guide_recall")                     two worlds side by side, for one team
        make_world(env), make_world(lambda: MyEnv(size=9))   a live World or ParallelEnv, or a function that makes one

    Raises:
        ConfigError: there is no such world, what is there is none, or it does not allow that number of agents.
        WorldError: it is one, and breaks the contract.
    """
    made = _made(world)
    if n_agents is None or n_agents == made.spec.n_agents:
        return made
    name = made.spec.name
    if not isinstance(world, str) or name not in _OF_ANY_SIZE:
        raise ConfigError(
            f"{name} has {made.spec.n_agents} agents and allows no other number, so not agents = {n_agents}; leave it out, "
            f"or name one of {', '.join(_OF_ANY_SIZE)}"
        )
    try:
        return _OF_ANY_SIZE[name](n_agents)
    except WorldError as error:
        raise ConfigError(f"agents = {n_agents}: {error}") from error


def _made(world: "Nameable") -> World:
    if not isinstance(world, str):
        return _from_object(world, repr(world))
    name = world.strip()
    if "+" in name and not all(part.strip() for part in name.split("+")):
        raise ConfigError(f"{name} is no mixture: a world's name goes on both sides of each +")
    if "+" in name and not Path(name.rpartition(":")[0]).is_file():  # a plus may stand in a path
        return Mixture([_made(part) for part in name.split("+")])
    package, colon, place = name.partition(":")
    if colon and package in ("pettingzoo", "mpe2"):
        return _from_pettingzoo(package, place, name)
    if colon and package and place:
        return _from_object(load_object(name), name)
    return _from_name(name)


def _from_name(name: str) -> World:
    if whole := built_in_name(name):
        return _BUILT_IN[whole]()
    plugins = {point.name: point for point in entry_points(group="commlib.worlds")}
    if name in plugins:
        return _from_object(plugins[name].load(), name)
    raise ConfigError(f"there is no world {name!r}; {nearest(name, [*_BUILT_IN, *plugins])}")


def _from_object(thing: object, name: str) -> World:
    """Accept a live World or ParallelEnv, or something to call without arguments that makes one."""
    if not isinstance(thing, type) and _is_world(thing):
        return cast(World, thing)
    from pettingzoo import AECEnv, ParallelEnv

    from commlib.experiments.world_pettingzoo import CopiesOf, PettingZooWorld

    if isinstance(thing, ParallelEnv):
        return PettingZooWorld(CopiesOf(thing))
    made = thing
    if callable(thing):
        try:
            made = thing()
        except TypeError as error:
            raise ConfigError(
                f"{name} cannot be made without arguments ({error}); give a function that fills them in, "
                "such as lambda: MyWorld(size=9)"
            ) from error
        if _is_world(made):
            return cast(World, made)
        if isinstance(made, ParallelEnv):
            made.close()
            return PettingZooWorld(cast("Callable[[], ParallelEnv[Any, Any, Any]]", thing))
    if isinstance(made, AECEnv):
        raise ConfigError(
            f"{name} is turn-based (an AECEnv), and commlib steps all agents at once; "
            "convert it with pettingzoo.utils.conversions.aec_to_parallel"
        )
    raise ConfigError(
        f"{name} is or makes a {type(made).__name__}, which is no world; "
        "give a commlib World, a PettingZoo ParallelEnv, or something to call that makes one"
    )


def _is_world(thing: object) -> bool:
    return isinstance(getattr(thing, "spec", None), WorldSpec)


def _from_pettingzoo(package: str, place: str, name: str) -> World:
    """Find the module of a PettingZoo environment, whichever of the two spellings is used, and wrap it."""
    from commlib.experiments.world_pettingzoo import PettingZooWorld

    *families, environment = re.split(r"[/.]", place.replace("-", "_"))
    if package == "pettingzoo" and not families:
        raise ConfigError(f'{name} lacks its family; write it as in "pettingzoo:sisl/pursuit-v5"')
    family = ".".join((package, *families))
    if family == "pettingzoo.mpe":
        raise ConfigError(f'PettingZoo has given its mpe worlds away; use "mpe2:{environment}"')
    extra = _EXTRAS.get(family, f"pettingzoo[{families[0]}]" if families else package)
    versions = _environments(package, family, name, extra)
    if environment not in versions:
        base = re.sub(r"_v\d+$", "", environment)
        same = [version for version in versions if re.sub(r"_v\d+$", "", version) == base]
        known = f"{', '.join(same)} is what is installed" if same else nearest(environment, versions)
        raise ConfigError(f"{family} has no {environment}; {known}")
    try:
        with warnings.catch_warnings():
            # PettingZoo 1.27 advises its registry, which 1.24 does not have and where mpe2 is not listed
            warnings.filterwarnings("ignore", message="The old environment creation API", category=DeprecationWarning)
            module = importlib.import_module(f"{family}.{environment}")
            if not isinstance(module, ModuleType) or "parallel_env" not in vars(module):
                raise ConfigError(f"{name} is turn-based only, and commlib steps all agents at once; choose another")
            return PettingZooWorld(module.parallel_env, name=name)
    except ImportError as error:
        raise ConfigError(f'{name} cannot be loaded ({error}); pip install "{extra}"') from error


def _environments(package: str, family: str, name: str, extra: str) -> list[str]:
    """List the versioned environments of a family such as pettingzoo.sisl, without importing them."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f'{name} needs {package}, which is not installed; pip install "{extra}"')
    try:
        found = importlib.import_module(family)
    except ModuleNotFoundError as error:
        families = [module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)]
        raise ConfigError(f"there is no {family}; {nearest(family.rpartition('.')[2], families)}") from error
    return [module.name for module in pkgutil.iter_modules(found.__path__) if re.search(r"_v\d+$", module.name)]
