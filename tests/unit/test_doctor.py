import sys
import types

import pytest

from commlib.experiments import doctor
from commlib.experiments.doctor import Finding, diagnose, diagnose_target, requirements
from commlib.experiments.worlds import make_world


@pytest.fixture(autouse=True)
def workplace(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def by_name():
    return {finding.name: finding for finding in diagnose()}


def test_this_machine_is_good():
    found = by_name()
    assert [f for f in found.values() if not f.is_good] == []
    assert {
        "python",
        "torch",
        "ray",
        "vector-quantize-pytorch",
        "numpy",
        "constriction",
        "cores",
        "memory",
        "disk",
    } <= set(found)
    assert "64 bits" in found["codec"].text or "72 bits" in found["codec"].text


def test_the_lowest_versions_are_those_of_the_project_file():
    assert requirements()["torch"] == "2.2"
    assert requirements()["vector-quantize-pytorch"] == "1.20"
    assert "matplotlib" not in requirements()


def test_installed_metadata_is_read_where_there_is_some(monkeypatch):
    lines = ["torch>=2.2", "ray>=2.40", 'matplotlib>=3.8; extra == "plots"']
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: lines)
    assert requirements() == {"torch": "2.2", "ray": "2.40"}


def test_old_and_missing_packages_are_named_with_the_cure(monkeypatch):
    def version(name):
        if name == "ray":
            raise doctor.importlib.metadata.PackageNotFoundError(name)
        return "1.9.1+cpu" if name == "torch" else "99"

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    found = by_name()
    assert found["torch"] == Finding("torch", False, "1.9.1+cpu is older than 2.2; pip install 'torch>=2.2'")
    assert found["ray"] == Finding("ray", False, "not installed; pip install 'ray>=2.40'")
    assert found["numpy"].is_good


@pytest.mark.parametrize(("version", "is_good"), [("2.10", True), ("2.2.0a1", True), ("2.1.9", False), ("?", False)])
def test_versions_are_compared_as_numbers(version, is_good):
    assert doctor._at_least("x", version, "2.2", "").is_good == is_good


def test_a_missing_extra_is_no_fault_and_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert by_name()["extra mpe"].is_good
    assert "pip install 'commlib[mpe]'" in by_name()["extra mpe"].text


def test_a_poor_machine(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=2e8))
    monkeypatch.setattr(doctor.os, "sysconf", lambda name: 1000)

    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    found = by_name()
    assert found["disk"] == Finding("disk", False, "0.2 GB is less than 1; free some, or run in another folder")
    assert not found["memory"].is_good
    assert "cannot be written (Permission denied)" in found["folder"].text


def test_the_cluster_that_would_be_joined(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert by_name()["RAY_ADDRESS"].text.startswith("10.0.0.1:6379: runs with --runtime ray join that cluster")
    monkeypatch.delenv("RAY_ADDRESS")
    assert by_name()["RAY_ADDRESS"].text.startswith("not set")


@pytest.mark.parametrize(("is_there", "text"), [(True, "its nodes show ours"), (False, "pip install 'ray[default]'")])
def test_where_metrics_are_shown_on_a_cluster(monkeypatch, is_there, text):
    monkeypatch.setattr(doctor, "ray_exports", lambda: is_there)
    assert by_name()["ray metrics"].is_good
    assert text in by_name()["ray metrics"].text


def test_a_coder_that_does_not_work(monkeypatch):
    monkeypatch.setattr(doctor.TableCodec, "decode", lambda self, payload, context: context * 0)
    assert "16 messages came back changed" in by_name()["codec"].text

    def fail(self, payload, context):
        raise RuntimeError("bad build")

    monkeypatch.setattr(doctor.TableCodec, "decode", fail)
    assert "raised RuntimeError: bad build; install constriction" in by_name()["codec"].text


MINE = """
import numpy as np
from commlib.codecs.int8 import Int8Codec
from commlib.experiments.world_guide import Guide

class Agent:
    def __init__(self, agent_id): pass
    def act(self, observation, inbox): return 0, np.zeros(4)

class NoId:
    def act(self, observation, inbox): return 0, None

class NoActing:
    def __init__(self, agent_id): pass

class Demanding:
    def __init__(self, agent_id, model): pass
    def act(self, observation, inbox): return 0, None

class ForTraffic(Agent):
    def act(self, observation, inbox):
        assert len(observation) == 17, f"expected 17 floats, got {len(observation)}"
        return 1, None

class ForMyWorld(Agent):
    observation_width, n_actions, message_width = 7, 9, 2
    def act(self, observation, inbox): return len(observation) + 1, observation[:2]

class BadAction(Agent):
    def act(self, observation, inbox): return 7.5, None

class WrongWidth(Agent):
    message_width = 3

class Failing(Agent):
    def __init__(self, agent_id): raise OSError("no weights in ./model")

ONE = Agent(0)

class Codec(Int8Codec):
    pass

class BadCodec(Int8Codec):
    def forward(self, x, context=None):
        q = super().forward(x, context)
        return q._replace(z=q.z + 1)

class HalfCodec:
    width = 4
    def freeze(self): return None

class SizedCodec(Int8Codec):
    def __init__(self, size): super().__init__(size)

class FixedCodec(Int8Codec):
    def __init__(self): super().__init__(2)

FROZEN = Int8Codec(3).freeze()

class World(Guide):
    pass

class BadWorld(Guide):
    def success(self): return super().success() + 2

class SizedWorld(Guide):
    def __init__(self, size): super().__init__()

NUMBER = 3
"""


@pytest.mark.parametrize(
    ("name", "kind", "is_good", "text"),
    [
        ("Agent", "agent", True, "keeps the contract of an agent, with observations [50], 5 actions (guide)"),
        ("NoId", "agent", True, "keeps the contract"),
        ("ForTraffic", "agent", True, "observations [17], 2 actions (traffic_junction_easy)"),
        ("ForMyWorld", "agent", True, "observations [7], 9 actions (its own)"),
        (
            "BadAction",
            "agent",
            False,
            "with observations [50], 5 actions (guide): agent 0: the action must be an integer",
        ),
        (
            "WrongWidth",
            "agent",
            False,
            "the message has the shape [4], expected was [3]; if it is made for another world",
        ),
        ("Demanding", "agent", False, "Demanding cannot be made as Demanding(agent_id); let it take the agent's id"),
        ("Failing", "agent", False, "making agent 0 raised OSError: no weights in ./model"),
        ("ONE", "agent", False, "ONE is one agent, and a team needs one for each id"),
        ("NoActing", "world", False, "NoActing'> cannot be made without arguments"),
        ("Codec", "codec", True, "keeps the laws of a codec, with messages of 16 floats"),
        ("FixedCodec", "codec", True, "with messages of 2 floats"),
        ("FROZEN", "codec", True, "with messages of 3 floats"),
        ("BadCodec", "codec", False, "differs from embed(codes)"),
        ("HalfCodec", "codec", False, "HalfCodec is no codec: it lacks forward, fit, set_prior; see"),
        ("SizedCodec", "codec", False, "cannot be made as SizedCodec(width=16)"),
        ("World", "world", True, "keeps the laws of a world: 3 agents, 10 steps at most"),
        ("BadWorld", "world", False, "success must be [3] numbers in 0..1"),
        ("SizedWorld", "world", False, "cannot be made without arguments"),
        ("NUMBER", "world", False, "which is no world"),
    ],
)
def test_a_users_object(name, kind, is_good, text, tmp_path):
    (tmp_path / "mine_for_doctor.py").write_text(MINE)
    for target in (f"mine_for_doctor:{name}", f"./mine_for_doctor.py:{name}"):
        found, verdict = diagnose_target(target)
        assert found.is_good
        assert (verdict.name, verdict.is_good) == (kind, is_good), verdict
        assert text in verdict.text
        assert "\n" not in verdict.text
        del sys.modules["mine_for_doctor"]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("mine_for_doctor:Agnt", "did you mean Agent"),
        ("no_such_file.py:A", "there is no file"),
        ("nothing", "names no object"),
        ("broken_for_doctor:A", "needs no_such_package_z, which is not installed"),
    ],
)
def test_what_cannot_be_imported_is_a_finding(target, text, tmp_path):
    (tmp_path / "mine_for_doctor.py").write_text(MINE)
    (tmp_path / "broken_for_doctor.py").write_text("import no_such_package_z\n")
    (finding,) = diagnose_target(target)
    assert (finding.name, finding.is_good) == ("import", False)
    assert text in finding.text


def test_the_shapes_that_are_tried_are_those_of_the_worlds():
    for name, shape in doctor.SHAPES.items():
        spec = make_world(name).spec
        assert (spec.observation_width, spec.n_actions) == shape


def test_a_pettingzoo_environment_is_a_world():
    assert diagnose_target("mpe2.simple_speaker_listener_v4:parallel_env")[-1].is_good
