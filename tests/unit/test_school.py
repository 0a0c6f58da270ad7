"""A router is taught on the team's own plays, plays alike on any hosts, and stays only where it pays."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import commlib.experiments.calibrate as calibration
from commlib.agents import routing
from commlib.agents.desk import LearnedTeam
from commlib.agents.policy import Policy
from commlib.agents.routing import lessons
from commlib.agents.runtime import LocalRuntime
from commlib.config import make_config, read_yaml
from commlib.experiments.calibrate import Rehearsal, calibrate, go_to_school
from commlib.experiments.eavesdrop import Eavesdropper
from commlib.experiments.evaluate import evaluate
from commlib.experiments.model import Calibration, Rung
from commlib.experiments.progress import Quiet
from commlib.experiments.school import Recorder, School
from commlib.experiments.train import load_model, save_model
from commlib.experiments.verify import verify
from commlib.experiments.worlds import make_world
from commlib.journal import Journal
from commlib.plan import make_plan, senders_of
from commlib.records import RunFolder
from commlib.topology import adjacency_of


@pytest.fixture
def team(tiny_run, monkeypatch):
    """A trained team with its world, and a school that is over soon."""
    monkeypatch.setattr(routing, "N_UPDATES", 60)
    folder, world = RunFolder(tiny_run), make_world("guide")
    config = make_config(("run", read_yaml(folder.config)), ("test", {"episodes": 16, "budget": "none"}))
    model = load_model(folder, world)
    said = []
    return model, config, world, folder, School(world.spec.n_steps, said.append), said


def rehearsal(world, seed=0):
    return Rehearsal(world, "broadcast", 8, torch.Generator().manual_seed(seed))


def taught(team, weight=0.05):
    model, _, world, _, school, _ = team
    return go_to_school(model, school, rehearsal(world), weight)


def test_the_same_plays_teach_the_same_and_leave_the_team_as_it_was(team):
    model, *_, said = team
    one, other = taught(team), taught(team)
    spec, weights = one.build_team.args
    assert spec == replace(model.build_team.args[0], has_router=True)
    assert all(torch.equal(weights[name], other.build_team.args[1][name]) for name in weights)
    assert all(torch.equal(weights[name], value) for name, value in model.build_team.args[1].items())
    assert (one.codec, one.edges, one.calibration) == (model.codec, model.edges, model.calibration)
    assert [line.split()[1] for line in said[:4]] == ["term"] * 4
    assert "lessons; " in said[4]


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


@pytest.mark.parametrize(
    ("bits", "success", "is_kept"),
    [((2.0, 1.0), (0.9, 0.9), True), ((2.0, 1.99), (0.9, 0.9), False), ((2.0, 1.0), (0.9, 0.5), False)],
    ids=["saves", "saves next to nothing", "costs success"],
)
def test_a_router_stays_only_where_it_saves_bits(team, monkeypatch, bits, success, is_kept):
    model, config, world, _, school, said = team

    def rung(bits, success):
        return Rung(0.0, success, 0.0, bits, bits)

    priced, ladders = calibration._priced, []

    def counted(*given):
        ladders.append(priced(*given))
        if len(ladders) == 2:  # what follows is the judgement
            figures = iter(zip(bits, success, strict=True))
            monkeypatch.setattr(Rehearsal, "measure", lambda *_: rung(*next(figures)))
        return ladders[-1]

    monkeypatch.setattr(calibration, "_priced", counted)
    stages = config.stages.model_copy(update={"rungs": 1})
    generator = torch.Generator().manual_seed(0)
    after = calibrate(model, world, "broadcast", stages, generator, rate_aware=True, school=school)
    assert after.build_team.args[0].has_router == is_kept
    assert said[-1].endswith("it is kept" if is_kept else "it is dropped")
    assert after.calibration.n_steps > ladders[0].calibration.n_steps, "lectures and the second ladder count"


# --- that it is asked, and answers as it was taught


def overheard(model, world, weight):
    recorder = Recorder(Eavesdropper(model, rehearsal(world).plan(model)))
    rehearsal(world).play(model, weight, recorder)
    return recorder.overheard()


def test_a_desk_asks_the_router_and_says_other_things_for_it(team):
    model, _, world, _, _, _ = team
    plain, routed = (overheard(one, world, 0.3) for one in (model, taught(team)))
    assert torch.equal(plain.observation[0], routed.observation[0])
    assert (plain.codes[0] != routed.codes[0]).any()
    free, at_no_price = (overheard(one, world, 0.0) for one in (model, taught(team)))
    assert (free.codes == at_no_price.codes).all(), "where bits are for nothing nobody asks"


def test_in_a_play_a_sender_foresees_what_it_foresees_in_its_lesson(team):
    """What reaches the router on a desk is what the lessons say that a sender knows: nothing later, nothing of others."""
    model, _, world, *_ = team
    graduate = taught(team)
    spec, weights = graduate.build_team.args
    policy = Policy(spec)
    policy.load_state_dict(weights)
    is_open = adjacency_of(model.edges, 3).T.contiguous()
    heard = overheard(graduate, world, 0.3)
    generator = torch.Generator().manual_seed(0)
    drawn = lessons(policy, is_open, model.codec, heard, world.spec.n_steps, 0.3, generator)
    assert heard.alive.all(), "so that lessons lie step by step, world by world"
    n_rounds, n_worlds = heard.alive.shape
    plan = make_plan(model.edges, (0, 0, 0), "broadcast")
    desk = LearnedTeam(spec, weights, [0, 1, 2], senders_of(plan, 0))
    desk.reset(n_worlds)
    sender, receiver = model.edges[0]
    worlds = np.arange(n_worlds)
    for t in range(n_rounds):
        here = slice(t * n_worlds, (t + 1) * n_worlds)
        rows = type(drawn)(*(column[here] for column in drawn))
        spoken = desk.speak(heard.observation[t].numpy(), t / world.spec.n_steps)
        foreseen = spoken.harm(sender, (receiver,), worlds, rows.told[None, :, sender].numpy())
        with torch.no_grad():
            before = rows.before[:, None].expand(-1, 3, -1, -1)
            everyone = torch.arange(3).expand(3, -1)
            lesson = policy.harm(rows.inputs, before, is_open, rows.meant, rows.told, everyone)[:, sender, receiver]
        np.testing.assert_allclose(foreseen[0], lesson.numpy(), rtol=1e-4, atol=1e-5)
        said = model.codec.embed(heard.codes[t].reshape(-1, 1), heard.context[t].reshape(-1, 2)).reshape(
            n_worlds, 3, -1
        )
        inbox = np.stack([np.stack([said[:, max(s, 0)] * (s >= 0) for s in row], 1) for row in senders_of(plan, 0)], 1)
        desk.act(inbox.astype(np.float32), np.full((n_worlds, 3), 0.5, np.float32))


@pytest.mark.parametrize(
    ("asked", "is_kept", "word"), [("none", False, "none"), ("learned", False, "dropped"), ("learned", True, "kept")]
)
def test_a_result_says_whether_there_is_a_router(team, asked, is_kept, word):
    model, config, world, _, _, _ = team
    with Journal.in_memory() as journal:
        config = config.model_copy(update={"router": asked})
        result = evaluate(taught(team) if is_kept else model, config, world, LocalRuntime(1), journal, Quiet())
    assert result.router == word
