"""A router is taught on the team's own plays, plays alike on any hosts, and stays only where it pays."""

from dataclasses import replace

import pytest
import torch

import commlib.experiments.calibrate as calibration
from commlib.agents import routing
from commlib.agents.runtime import LocalRuntime
from commlib.config import make_config, read_yaml
from commlib.experiments.calibrate import Rehearsal, calibrate, go_to_school
from commlib.experiments.model import Calibration, Rung
from commlib.experiments.progress import Quiet
from commlib.experiments.school import School
from commlib.experiments.train import load_model, save_model
from commlib.experiments.verify import verify
from commlib.experiments.worlds import make_world
from commlib.records import RunFolder


@pytest.fixture
def team(tiny_run, monkeypatch):
    """A trained team with its world, and a school that is over soon."""
    monkeypatch.setattr(routing, "N_UPDATES", 60)
    folder, world = RunFolder(tiny_run), make_world("guide")
    config = make_config(("run", read_yaml(folder.config)), ("test", {"episodes": 16, "budget": "none"}))
    model = load_model(folder, world)
    spec, weights = model.build_team.args
    said = []
    return model, config, world, folder, School(spec, weights, world.spec.n_steps, said.append), said


def rehearsal(world, seed=0):
    return Rehearsal(world, "broadcast", 8, torch.Generator().manual_seed(seed))


def taught(team, weight=0.05):
    model, _, world, _, school, _ = team
    return go_to_school(model, school, rehearsal(world), weight)


def test_the_same_plays_teach_the_same_and_leave_the_team_as_it_was(team):
    model, _, _, _, school, said = team
    one, other = taught(team), taught(team)
    spec, weights = one.build_team.args
    assert spec == replace(school.spec, has_router=True)
    assert all(torch.equal(weights[name], other.build_team.args[1][name]) for name in weights)
    assert all(torch.equal(weights[name], value) for name, value in school.weights.items())
    assert (one.codec, one.edges, one.calibration) == (model.codec, model.edges, model.calibration)
    assert "messages told otherwise" in said[0]


@pytest.mark.parametrize("charging", ["broadcast", "link"])
@pytest.mark.parametrize("n_hosts", [1, 3])
def test_hosts_route_alike_wherever_agents_live(team, charging, n_hosts):
    _, config, world, folder, _, _ = team
    rung = Rung(0.05, 0.0, 0.0, 0.0, 0.0)
    model = replace(taught(team), calibration=Calibration((rung,), 0))
    config = config.model_copy(update={"charging": charging})
    verdict = verify(model, config, world, LocalRuntime(n_hosts), folder, Quiet())
    assert verdict.differences == []


def test_what_was_taught_is_saved_and_loaded(team, tmp_path):
    _, _, world, _, _, _ = team
    model, folder = taught(team), RunFolder(tmp_path)
    save_model(model, folder)
    back = load_model(folder, world)
    assert back.build_team.args[0] == model.build_team.args[0]
    weights = model.build_team.args[1]
    assert all(torch.equal(back.build_team.args[1][name], weights[name]) for name in weights)


@pytest.mark.parametrize("saves", [True, False])
def test_a_router_stays_only_where_it_saves_bits(team, monkeypatch, saves):
    model, config, world, _, school, said = team
    priced, bits = calibration._priced, [2.0, 1.0 if saves else 3.0]

    def told(*given):
        found = priced(*given)
        rung = replace(found.calibration.rungs[0], success=0.5, bits_per_agent_episode=bits.pop(0))
        return replace(found, calibration=Calibration((rung,), 0))

    monkeypatch.setattr(calibration, "_priced", told)
    generator = torch.Generator().manual_seed(0)
    stages = config.stages.model_copy(update={"rungs": 1})
    after = calibrate(model, world, "broadcast", stages, generator, rate_aware=True, school=school)
    assert after.build_team.args[0].has_router == saves
    assert said[-1].endswith("kept" if saves else "dropped")


def test_a_router_that_costs_success_is_dropped(team, monkeypatch):
    model, config, world, _, school, said = team
    priced, success = calibration._priced, [0.9, 0.5]

    def told(*given):
        found = priced(*given)
        rung = replace(found.calibration.rungs[0], success=success.pop(0), bits_per_agent_episode=len(success))
        return replace(found, calibration=Calibration((rung,), 0))

    monkeypatch.setattr(calibration, "_priced", told)
    stages = config.stages.model_copy(update={"rungs": 1})
    generator = torch.Generator().manual_seed(0)
    after = calibrate(model, world, "broadcast", stages, generator, rate_aware=True, school=school)
    assert not after.build_team.args[0].has_router
    assert said[-1].endswith("dropped")
