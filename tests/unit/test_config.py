import pytest
from pydantic import ValidationError

from commlib.config import LearningConfig, RunConfig, make_config, read_yaml, write_yaml
from commlib.errors import ConfigError


def test_the_defaults_are_a_configuration():
    config = make_config()
    assert config == RunConfig()
    assert (config.world, config.codec, config.seed) == ("guide", "vq", 0)


def test_later_layers_lie_on_top_and_nested_ones_merge():
    config = make_config(
        ("recipe", {"steps": 10, "learning": {"gamma": 0.9, "hidden": 32}}),
        ("file", {"learning": {"gamma": 0.8}}),
        ("command line", {"seed": 3}),
    )
    assert (config.steps, config.seed) == (10, 3)
    assert (config.learning.gamma, config.learning.hidden) == (0.8, 32)
    assert config.learning.clip == LearningConfig().clip


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().learning.gamma = 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sede": 1}, "my.yaml: unknown setting 'sede'; did you mean 'seed'"),
        ({"learning": {"gama": 1}}, "unknown setting 'learning.gama'; did you mean 'gamma'"),
        ({"qqqq": 1}, "unknown setting 'qqqq'; there are world, method, codec"),
        ({1: 1}, "unknown setting '1'"),
        ({"seed": -1}, "my.yaml: seed = -1: Input should be greater than or equal to 0"),
        ({"seed": "many"}, "seed = 'many': Input should be a valid integer"),
        ({"density": 0}, "density = 0: Input should be greater than 0"),
        ({"learning": {"gamma": 2}}, r"learning.gamma = 2: Input should be less than or equal to 1"),
        ({"learning": 3}, "learning. must hold `name: value` lines, not 3"),
        ({"charging": "free"}, "charging = 'free': there are broadcast, link"),
        ({"budget": "64 bit/hour"}, "the budget '64 bit/hour' is for an unknown span 'hour'"),
        ({"budget": "64"}, "budget = '64': the budget '64' has no unit"),
        ({"agents": 0}, "agents = 0: Input should be greater than or equal to 1"),
        ({"rounds": 2, "stages": {"fine_tune_speech": False}}, "what is said in a second round depends on"),
        ({"topology": "pruned", "memory": "echoes"}, "an echo outlasts that; take another topology"),
        ({"ids": "none"}, "with ids none no sender is told from another, .*; take --aggregation mean, set"),
        ({"ids": "none", "aggregation": "mean", "router": "learned"}, "a router must know its receivers apart"),
        ({"ids": "none", "aggregation": "mean", "topology": "dynamic"}, "the topology dynamic, whose edges a router"),
    ],
)
def test_a_wrong_setting_names_its_layer_and_the_cure(settings, sentence):
    with pytest.raises(ConfigError, match=sentence) as error:
        make_config(("recipe", {"steps": 5}), ("my.yaml", settings))
    assert str(error.value).startswith("my.yaml: ")
    assert "\n" not in str(error.value)


def test_the_first_wrong_layer_is_the_one_that_is_blamed():
    with pytest.raises(ConfigError, match=r"^recipe: "):
        make_config(("recipe", {"seed": -1}), ("file", {"seed": -2}))


def test_budgets():
    assert not make_config().budgets
    budget = make_config(("file", {"budget": "64 bit/step"})).budgets.main
    assert (budget.amount, budget.per) == (64, "step")


def test_a_file_brings_back_what_was_written(tmp_path):
    config = make_config(("file", {"seed": 7, "budget": "2 kB/episode", "learning": {"gamma": 0.5}}))
    write_yaml(config, tmp_path / "config.yaml")
    assert make_config(("file", read_yaml(tmp_path / "config.yaml"))) == config


def test_an_empty_file_changes_nothing(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing but a remark\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"cannot read .*: No such file"),
        (b"a: [1,\n", "is not YAML: while parsing"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"- 1\n- 2\n", "must hold `name: value` lines"),
        (b"just words", "must hold `name: value` lines"),
        (b"!!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_a_file_that_is_none_is_one_sentence(content, sentence, tmp_path):
    path = tmp_path / "my.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=sentence) as error:
        read_yaml(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"gate": "evnt"},
            "gate = 'evnt': there are none, talk, sampled, listen, random, event; did you mean 'event'?",
        ),
        (
            {"aggregation": "loud"},
            "aggregation = 'loud': there are slots, mean, set, relation, attention, aged, signature",
        ),
        ({"allocation": "fair"}, "allocation = 'fair': there are value, first, equal, proportional, priority"),
        ({"ids": "roles"}, "ids = 'roles': there are onehot, none, role; did you mean 'role'?"),
    ],
)
def test_a_choice_that_there_is_not_is_answered_with_all_and_its_neighbour(settings, sentence):
    with pytest.raises(ConfigError) as caught:
        make_config(("here", settings))
    assert str(caught.value).endswith(sentence)


def test_what_a_topology_brings_goes_with_it():
    """A file asks for `dynamic` and the command line for another graph: no router or charging by link is left behind."""
    config = make_config(("file", {"topology": "dynamic"}), ("command line", {"topology": "full"}))
    assert (config.router, config.charging) == ("none", "broadcast")
    kept = make_config(("file", {"topology": "dynamic"}), ("command line", {"seed": 3}))
    assert (kept.router, kept.charging) == ("learned", "link")


@pytest.mark.parametrize(("value", "near"), [("world", "worlds"), ("agent", "agents")])
def test_a_slip_in_a_choice_that_may_be_left_open_is_told(value, near):
    with pytest.raises(ConfigError, match=rf"spread = '{value}': there are agents, worlds; did you mean '{near}'\?"):
        make_config(("here", {"spread": value}))
