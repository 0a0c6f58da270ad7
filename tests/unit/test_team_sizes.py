"""A team that knows nobody by an id plays with another number of agents; any other team says why it cannot."""

import shutil

import pytest

import commlib
from commlib.config import make_config, read_yaml, replay_config
from commlib.errors import ConfigError
from commlib.experiments.books import audit_run, verify_run
from commlib.experiments.evaluate import evaluate_run
from commlib.experiments.progress import Quiet
from commlib.experiments.run import load
from commlib.message import Edge
from commlib.records import RunFolder

TINY = {
    "steps": 1500,
    "episodes": 8,
    "parallel_worlds": 8,
    "codebook_size": 8,
    "learning": {"n_worlds": 16, "hidden": 8},
    "stages": {"calibrate_worlds": 8, "calibrate_rounds": 1, "rungs": 2},
}


def trained(tmp_path_factory, world, **settings):
    out = tmp_path_factory.mktemp("runs") / "run"
    commlib.train(world, out=out, quiet=True, ids="none", **{**TINY, **settings})
    return out


@pytest.fixture(scope="module")
def hunters(tmp_path_factory):
    """Three that were trained to attend to whoever speaks."""
    return trained(tmp_path_factory, "predator_prey_easy", aggregation="attention")


def config_of(run, **settings):
    folder = RunFolder(run)
    return replay_config(make_config(("run", read_yaml(folder.config))), ("command line", settings))


def play(run, out, **settings):
    return evaluate_run(run, config_of(run, **settings), out, Quiet())


def test_three_were_trained_and_five_play(hunters, tmp_path):
    result = play(hunters, tmp_path / "five", agents=5)
    assert result.world == "predator_prey_easy_5_v1"
    assert len(result.edges) == 20
    assert {agent for edge in result.edges for agent in edge} == set(range(5))
    assert result.ledger.spent == 8 * result.wire_bytes > 0
    assert audit_run(tmp_path / "five")[1] == []
    assert result.random_return != RunFolder(hunters).read_result().random_return, "of five, not of three"


@pytest.mark.parametrize("n_agents", [3, 5])
def test_hosts_and_learner_agree_on_any_number_of_agents(hunters, n_agents):
    verdict = verify_run(hunters, config_of(hunters, agents=n_agents), Quiet())
    assert verdict.differences == []
    assert verdict.n_actions > 0


def test_an_evaluation_with_others_is_a_run_folder_that_plays_again_and_goes_back(hunters, tmp_path):
    first = play(hunters, tmp_path / "five", agents=5)
    assert config_of(tmp_path / "five").agents == 5
    again = play(tmp_path / "five", tmp_path / "again")
    assert again.journal_digest == first.journal_digest
    back = play(tmp_path / "five", tmp_path / "three", agents=3)
    assert back.journal_digest == RunFolder(hunters).read_result().journal_digest
    assert back.world == "predator_prey_easy_v1"


def test_it_is_the_same_from_python(hunters, tmp_path):
    team = load(hunters)
    five = team.evaluate(agents=5)
    assert five.journal_digest == play(hunters, tmp_path / "five", agents=5).journal_digest
    assert team.evaluate().world == "predator_prey_easy_v1"


@pytest.mark.parametrize(
    ("topology", "density", "edges"),
    [
        ("ring", 0.4, [(0, 1), (1, 2), (2, 3), (3, 0)]),
        ("chain", 0.4, [(0, 1), (1, 2), (2, 3)]),
        ("none", 0.4, []),
        ("knn", 0.5, [(0, 1), (0, 2), (1, 0), (1, 3), (2, 0), (2, 3), (3, 1), (3, 2)]),
    ],
)
def test_a_given_graph_is_made_anew(hunters, tmp_path, topology, density, edges):
    run = shutil.copytree(hunters, tmp_path / "run")  # only what the configuration says of the graph matters here
    config = RunFolder(run).config
    lines = {"topology": topology, "density": density}
    text = [line for line in config.read_text().splitlines() if line.partition(":")[0] not in lines]
    config.write_text("\n".join([*text, *(f"{name}: {value}" for name, value in lines.items())]))
    assert play(run, tmp_path / "four", agents=4).edges == [Edge(*edge) for edge in edges]


def test_who_is_known_by_an_id_cannot_be_more_or_fewer(run_copy, tmp_path):
    play(run_copy, tmp_path / "three", agents=3)
    with pytest.raises(
        ConfigError, match=r"3 agents and cannot play with 4: it was trained with ids onehot.*--ids none"
    ):
        play(run_copy, tmp_path / "four", agents=4)
    assert not (tmp_path / "four").exists()
    with pytest.raises(ConfigError, match="ids onehot"):
        verify_run(run_copy, config_of(run_copy, agents=4), Quiet())


def test_a_learned_graph_has_no_place_for_others(tmp_path_factory, tmp_path):
    run = trained(tmp_path_factory, "guide", aggregation="mean", topology="commformer")
    with pytest.raises(ConfigError, match=r"its graph was learned \(topology commformer\).*--topology full"):
        play(run, tmp_path / "four", agents=4)


def test_a_world_that_does_not_allow_the_number_says_so(hunters, tmp_path):
    with pytest.raises(ConfigError, match="25 predators cannot have one each; take 1 to 24"):
        play(hunters, tmp_path / "many", agents=25)


def test_a_team_may_be_trained_with_another_number(tmp_path):
    result = commlib.train(
        "guide", out=tmp_path / "run", quiet=True, **{**TINY, "agents": 4, "topology": "ring", "ids": "role"}
    )
    assert (result.world, result.density) == ("guide_4_v1", 4 / 12)
    assert config_of(tmp_path / "run").agents == 4
    assert verify_run(tmp_path / "run", config_of(tmp_path / "run"), Quiet()).differences == []
    assert load(tmp_path / "run").evaluate(seed=1).world == "guide_4_v1"
