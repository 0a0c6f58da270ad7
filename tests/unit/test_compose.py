"""World, method, file and command line are laid over each other in that order."""

import pytest

import commlib
from commlib.agents.runtime import LocalRuntime
from commlib.config import make_config
from commlib.errors import ConfigError
from commlib.experiments import compose
from commlib.experiments.cli import WRONG_USAGE, main
from commlib.experiments.compose import complete, methods, n_hosts, open_runtime, resolve
from commlib.experiments.worlds import list_worlds, make_world
from commlib.topology import TOPOLOGIES


@pytest.fixture
def layers(monkeypatch):
    """Two worlds and two methods, of settings that can be told apart."""
    recipes = {
        "maze": {"world": "maze", "steps": 1, "seed": 1, "density": 0.1, "learning": {"hidden": 8, "clip": 0.11}},
        "method-ours": {"method": "ours", "steps": 2, "seed": 2, "learning": {"clip": 0.12}},
        "method-other": {"method": "other", "codec": "int8"},
    }
    monkeypatch.setattr(compose, "_recipes", lambda: recipes)


def test_later_layers_win_setting_by_setting(layers, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 3\nlearning: {gamma: 0.5}\n")
    config = resolve("maze", None, file, {"episodes": 4})
    assert (config.world, config.method) == ("maze", "ours")
    assert (config.density, config.steps, config.seed, config.episodes) == (0.1, 2, 3, 4)
    assert (config.learning.hidden, config.learning.clip, config.learning.gamma) == (8, 0.12, 0.5)
    assert resolve("maze", None, file, {"seed": 5, "learning": {"clip": 0.3}}).learning.clip == 0.3
    assert resolve("maze", None, file, {"seed": 5}).seed == 5


@pytest.mark.parametrize(
    "name", ["search_extract_v2", "search_extract_still", "search_extract_one_hand_v2", "search_extract_still+guide"]
)
def test_a_built_in_world_is_learned_as_the_one_whose_name_it_extends(name):
    assert resolve(name).learning == resolve("search_extract").learning
    assert resolve(name).world == name


@pytest.mark.parametrize(
    "name",
    [
        "searches",
        "search_extract_mine.py:World",
        "guide_mine:World",
        "secret_agents.spies:Spy",
        "guide_mine",
        "maze:maze",
    ],
)
def test_other_worlds_are_learned_by_the_defaults(name):
    assert resolve(name).learning == make_config().learning
    assert resolve(name).topology == resolve("nowhere").topology


def test_a_version_finds_its_recipe_and_stays_in_the_name(layers):
    config = resolve("maze_v1")
    assert (config.world, config.density) == ("maze_v1", 0.1)


def test_a_world_without_a_recipe_has_the_defaults(layers):
    assert resolve("somewhere:Else", "other").density == make_config().density


def test_the_method_of_the_command_line_wins_over_that_of_the_file(layers, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("method: other\nsteps: 7\n")
    assert resolve("maze", None, file).method == "other"
    assert resolve("maze", None, file).codec == "int8"
    assert (resolve("maze", "ours", file).method, resolve("maze", "ours", file).codec) == ("ours", "vq")
    assert resolve("maze", "ours", file).steps == 7


def test_a_wrong_setting_names_the_layer_in_which_it_stands(layers, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("sede: 3\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: unknown setting 'sede'; did you mean 'seed'\?"):
        resolve("maze", None, file)
    with pytest.raises(ConfigError, match=r"command line: unknown setting 'sede'"):
        resolve("maze", None, None, {"sede": 3})


def test_an_unknown_method_names_its_nearest_neighbour():
    with pytest.raises(ConfigError, match=r"no method is called 'our'; did you mean 'ours'\?"):
        resolve("guide", "our")
    with pytest.raises(ConfigError, match=r"no method is called 'zzzz'; there are .*none.*ours"):
        resolve("guide", "zzzz")


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("world", [spec.name for spec in list_worlds()])
def test_every_method_resolves_for_every_world(method, world):
    config = resolve(world, method)
    assert (config.world, config.method) == (world, method)
    assert config.topology in TOPOLOGIES


def test_every_method_tells_what_it_is():
    assert {"ours", "none", "dense", "int8"} <= methods().keys()
    assert all(text and text[0] != "#" for text in methods().values())


@pytest.mark.parametrize(
    ("settings", "hosts"),
    [({}, 1), ({"runtime": "ray"}, 3), ({"hosts": 2}, 2), ({"runtime": "ray", "hosts": 1}, 1)],
)
def test_hosts_unless_told_otherwise(settings, hosts):
    assert n_hosts(make_config(("test", settings)), 3) == hosts


def test_many_agents_share_eight_ray_hosts():
    assert n_hosts(make_config(("test", {"runtime": "ray"})), 100) == 8


def test_more_hosts_than_agents_are_refused():
    with pytest.raises(ConfigError, match="4 hosts are more than the 3 agents of guide; use fewer"):
        n_hosts(make_config(("test", {"hosts": 4})), 3)


def test_the_local_runtime_needs_no_ray():
    runtime = open_runtime(make_config(), 2)
    assert isinstance(runtime, LocalRuntime)
    assert runtime.n_hosts == 2


def test_none_says_nothing_whatever_else_is_asked(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("topology: full\n")
    run = ["train", "guide", "--method", "none", "--out", str(tmp_path / "run"), "--quiet"]
    for words in (["--topology", "ring"], ["--config", str(file)]):
        assert main([*run, *words]) == WRONG_USAGE
        assert "method none is a team without messages, and with topology" in capsys.readouterr().err
    sweep = ["sweep", "guide", "--methods", "ours,none", "--topology", "full", "--out", str(tmp_path / "sweep")]
    assert main(sweep) == WRONG_USAGE
    assert "sweep none by itself" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    spec = make_world("guide").spec
    complete(resolve("guide", "none", file, {"topology": "none"}), spec)
    with pytest.raises(ConfigError, match="add --topology none"):
        commlib.train("guide", method="none", topology="full", out=tmp_path / "run", quiet=True)
