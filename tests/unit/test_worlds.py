import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

from commlib.errors import ConfigError
from commlib.experiments import worlds
from commlib.experiments.world_digits import Digits
from commlib.experiments.world_guide import Guide
from commlib.experiments.world_levers import Levers
from commlib.experiments.world_pettingzoo import PettingZooWorld
from commlib.experiments.world_predator_prey import PredatorPrey
from commlib.experiments.world_reference import Reference
from commlib.experiments.world_riddle import Riddle
from commlib.experiments.world_secret import Secret
from commlib.experiments.world_speaker_listener import SpeakerListener
from commlib.experiments.world_traffic_junction import TrafficJunction
from commlib.experiments.worlds import known_spec, list_worlds, make_world


class Still(ParallelEnv):
    def __init__(self, size=3):
        self.metadata = {"name": "still_v0"}
        self.possible_agents, self.agents = ["a"], []
        self._space = spaces.Box(0, 1, (size,), np.float32)

    def observation_space(self, agent):
        return self._space

    def action_space(self, agent):
        return spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.agents = ["a"]
        return {"a": np.zeros(self._space.shape, np.float32)}, {"a": {}}

    def close(self):
        pass


class Turns(AECEnv):
    pass


class NeedsSize:
    def __init__(self, size):
        pass


@pytest.mark.parametrize(
    ("name", "kind", "full_name"),
    [
        ("digits", Digits, "digits_v1"),
        ("guide", Guide, "guide_v1"),
        ("guide_v1", Guide, "guide_v1"),
        ("guide_8", Guide, "guide_8_v1"),
        ("predator_prey_easy", PredatorPrey, "predator_prey_easy_v1"),
        ("predator_prey_medium", PredatorPrey, "predator_prey_medium_v1"),
        ("predator_prey_hard", PredatorPrey, "predator_prey_hard_v1"),
        ("levers", Levers, "levers_v1"),
        ("reference", Reference, "reference_v1"),
        ("riddle", Riddle, "riddle_v1"),
        ("riddle_4", Riddle, "riddle_4_v1"),
        ("secret", Secret, "secret_v1"),
        ("speaker_listener", SpeakerListener, "speaker_listener_v1"),
        ("traffic_junction_easy_v1", TrafficJunction, "traffic_junction_easy_v1"),
        ("traffic_junction_easy_vision_1", TrafficJunction, "traffic_junction_easy_vision_1_v1"),
        ("traffic_junction_medium", TrafficJunction, "traffic_junction_medium_v1"),
        ("traffic_junction_medium_vision_1", TrafficJunction, "traffic_junction_medium_vision_1_v1"),
        ("traffic_junction_hard", TrafficJunction, "traffic_junction_hard_v1"),
        ("traffic_junction_hard_vision_1", TrafficJunction, "traffic_junction_hard_vision_1_v1"),
    ],
)
def test_built_in_names(name, kind, full_name):
    world = make_world(name)
    assert isinstance(world, kind)
    assert world.spec.name == full_name


def test_every_listed_world_can_be_made_by_its_name():
    assert [make_world(spec.name).spec for spec in list_worlds()] == list_worlds()
    assert len(list_worlds()) == 28


def test_worlds_are_listed_without_loading_their_material():
    code = "import sys; from commlib.experiments.worlds import *; list_worlds(); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_built_in_worlds_load_no_pettingzoo():
    code = (
        "import sys; from commlib.experiments.worlds import *; make_world('guide'); print('pettingzoo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("thing", [Still, lambda: Still(), Still(), f"{__name__}:Still"])
def test_pettingzoo_environments_as_class_function_live_or_address(thing):
    world = make_world(thing)
    assert isinstance(world, PettingZooWorld)
    assert world.spec.name == "still_v0"
    assert world.reset(2, torch.Generator()).observation.shape == (2, 1, 3)


@pytest.mark.parametrize("thing", [Guide, Guide(), "commlib.experiments.world_guide:Guide"])
def test_worlds_as_class_live_or_address(thing):
    assert isinstance(make_world(thing), Guide)


def test_entry_points(monkeypatch):
    point = types.SimpleNamespace(name="my_guide", load=lambda: Guide)
    monkeypatch.setattr(worlds, "entry_points", lambda group: [point] if group == "commlib.worlds" else [])
    assert isinstance(make_world("my_guide"), Guide)
    with pytest.raises(ConfigError, match="did you mean my_guide"):
        make_world("my_guid")


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        ("gide", "there is no world 'gide'; did you mean guide_v1"),
        ("guide_v2", "did you mean guide_v1"),
        ("xyz", "there are digits_v1, guide_8_v1, guide_recall_v1, guide_relay_v1"),
        (":", "there is no world ':'"),
        ("pettingzoo:sisl/pursuit-v4", "pettingzoo.sisl has no pursuit_v4; pursuit_v5 is what is installed"),
        ("pettingzoo:sisl/persuit-v5", "did you mean pursuit_v5"),
        ("pettingzoo:mpe/simple_spread-v3", 'use "mpe2:simple_spread_v3"'),
        ("pettingzoo:sissl/pursuit-v5", "there is no pettingzoo.sissl; did you mean sisl"),
        ("pettingzoo:pursuit_v5", "lacks its family"),
        ("mpe2:simple_spread_v1", "mpe2 has no simple_spread_v1; simple_spread_v3 is what is installed"),
        ("no_such_package.x:World", "there is no module 'no_such_package'; is its folder on PYTHONPATH"),
        ("commlib.experiments.world_guide:Gide", "has no 'Gide'; did you mean Guide"),
        ("math:pi", "math:pi is or makes a float, which is no world"),
        (f"{__name__}:NeedsSize", "cannot be made without arguments"),
        (Turns, "is turn-based .an AECEnv"),
        (lambda: 3, "is or makes a int, which is no world"),
    ],
)
def test_errors_say_what_to_do(thing, message):
    with pytest.raises(ConfigError, match=message):
        make_world(thing)


@pytest.mark.parametrize(
    ("name", "absent", "extra"),
    [
        ("mpe2:simple_spread_v3", "mpe2", "commlib[mpe]"),
        ("pettingzoo:sisl/pursuit-v5", "pettingzoo.sisl.pursuit_v5", "commlib[sisl]"),
    ],
)
def test_a_missing_package_names_the_extra(monkeypatch, name, absent, extra):
    find_spec = worlds.importlib.util.find_spec
    monkeypatch.setattr(worlds.importlib.util, "find_spec", lambda m: None if m == absent else find_spec(m))
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(ConfigError) as caught:
        make_world(name)
    assert f'pip install "{extra}"' in str(caught.value)


@pytest.mark.parametrize(
    ("name", "n_agents", "width", "counts", "n_steps"),
    [
        ("pettingzoo:sisl/pursuit-v5", 8, 147, (5,) * 8, 500),
        ("mpe2:simple_speaker_listener_v4", 2, 11, (3, 5), 25),
    ],
)
def test_real_pettingzoo_worlds_run_and_repeat(name, n_agents, width, counts, n_steps):
    world = make_world(name)
    spec = world.spec
    assert (spec.name, spec.n_agents, spec.observation_width) == (name, n_agents, width)
    assert (spec.action_counts, spec.n_steps) == (counts, n_steps)

    def play():
        source = torch.Generator().manual_seed(5)
        start = world.reset(2, source)
        high = torch.tensor(counts)
        return [start, *(world.step((torch.rand(2, n_agents, generator=source) * high).long()) for _ in range(10))]

    first, second = play(), play()
    assert not first[-1].done.any()
    assert first[-1].reward.any()
    for one, two in zip(first, second, strict=True):
        assert all(a.equal(b) for a, b in zip(one, two, strict=True))
    world.close()


@pytest.mark.parametrize("name", ["guide", "predator_prey_easy", "predator_prey_medium_v1", "predator_prey_hard"])
def test_some_worlds_allow_another_number_of_agents_who_see_and_do_what_they_did(name):
    usual = make_world(name).spec
    assert make_world(name, usual.n_agents).spec == usual
    spec = make_world(name, 7).spec
    assert spec.n_agents == len(spec.action_counts) == 7
    assert spec.name == usual.name.removesuffix("_v1") + "_7_v1"
    assert (spec.observation_width, spec.n_actions) == (usual.observation_width, usual.n_actions)
    assert known_spec(spec.name) == spec


@pytest.mark.parametrize("world", ["secret", "guide_8", Guide(3), Guide])
def test_all_others_have_their_own_number(world):
    with pytest.raises(
        ConfigError, match=r"agents and allows no other number, so not agents = 4; .*guide_v1, predator"
    ):
        make_world(world, 4)


@pytest.mark.parametrize(
    ("name", "n_agents"),
    [("guide", 1), ("predator_prey_easy", 25), ("predator_prey_medium", 0), ("predator_prey_hard", 400)],
)
def test_a_number_that_a_world_cannot_hold_is_refused(name, n_agents):
    with pytest.raises(ConfigError, match=f"^agents = {n_agents}: .*{n_agents}"):
        make_world(name, n_agents)


def test_only_worlds_with_a_name_are_known_by_it():
    assert known_spec("secret") == known_spec("secret_v1") == make_world("secret").spec
    assert known_spec("secret_3_v1") is None
    assert known_spec("my_world_4_v1") is None
