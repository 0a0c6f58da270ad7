"""`commlib.run`: agents of one's own, our codec, and a sentence for everything that they can do wrong."""

import numpy as np
import pytest

import commlib
from commlib.config import make_config
from commlib.errors import AgentError, ConfigError
from commlib.experiments.run import load, probe_width
from commlib.experiments.world_guide import MOVES, SIZE, Guide
from commlib.records import Result

SMALL = {"episodes": 16, "stages": {"calibrate_worlds": 64, "calibrate_rounds": 1, "rungs": 2}}


class Guides:
    """Says where its neighbour has to go, and goes where it is told."""

    def __init__(self, agent_id):
        self.before = (agent_id - 1) % 3

    def act(self, observation, inbox):
        cells = observation.reshape(2, SIZE, SIZE)
        here, goal = (np.argwhere(cell)[0] for cell in cells)
        said = (goal / (SIZE - 1)).astype(np.float32)
        if self.before not in inbox:
            return 0, said
        aim = np.rint(inbox[self.before] * (SIZE - 1)).clip(0, SIZE - 1)
        step = np.sign(aim - here)
        return MOVES.index((int(step[0]), 0) if step[0] else (0, int(step[1]))), said


class Silent:
    """Says nothing, and stays where it is."""

    def __init__(self, agent_id):
        pass

    def act(self, observation, inbox):
        return 0, None


def run(agent, **settings):
    return commlib.run("guide", agent, **{**SMALL, **settings})


def replying(reply):
    """Agents that always give this reply."""
    return lambda agent_id: type("Agent", (), {"act": lambda self, observation, inbox: reply})()


@pytest.mark.parametrize("codec", ["vq", "int8", "float32"])
def test_agents_that_tell_each_other_the_way_arrive(codec):
    result = run(Guides, codec=codec, topology="ring", rate_aware=False)
    assert isinstance(result, Result)
    assert result.success.mean > 0.9
    assert (result.world, result.codec, result.method, result.topology) == ("guide_v1", codec, "custom", "ring")
    assert result.ledger.spent == 8 * result.wire_bytes > 0
    assert result.bits.per_agent_episode.payload <= result.bits.per_agent_episode.wire
    assert (result.return_.n, result.density) == (16, 0.5)


def test_without_edges_nobody_knows_the_way():
    result = run(Guides, topology="none", rate_aware=False)
    assert result.success.mean < 0.3
    assert (result.wire_bytes, result.messages_per_agent_step, result.edges) == (0, 0.0, [])


def test_a_goal_that_is_repeated_is_paid_once():
    result = run(Guides, topology="ring")
    assert result.bits.per_agent_episode.estimate < 20, "ten times 4.64 bits would be 46"
    assert result.success.mean > 0.7


def test_a_budget_caps_what_they_say():
    free = run(Guides, topology="ring", rate_aware=False)
    capped = run(Guides, topology="ring", rate_aware=False, budget="100 bit")
    assert capped.ledger.spent <= 100 < free.ledger.spent
    assert capped.ledger.dropped > 0
    assert capped.success.mean < free.success.mean


@pytest.mark.parametrize("codec", ["vq", "int8", "float32"])
def test_silence_is_free(codec):
    result = run(Silent, codec=codec)
    assert (result.wire_bytes, result.frames, result.messages_per_agent_step, result.gate_rate) == (0, 0, 0.0, 0.0)
    assert result.ledger.spent == 0


def test_the_same_seed_is_the_same_run():
    one, other, third = (run(Guides, rate_aware=False, seed=seed) for seed in (4, 4, 5))
    assert one.journal_digest == other.journal_digest
    assert one.success == other.success
    assert one.return_ == other.return_ != third.return_


def test_hosts_change_frames_and_nothing_that_agents_do():
    one, three = (run(Guides, topology="ring", rate_aware=False, hosts=hosts) for hosts in (1, 3))
    assert one.success == three.success
    assert one.return_ == three.return_
    assert one.frames < three.frames


def test_agents_are_told_when_an_episode_starts():
    started = []

    class Counting(Silent):
        def __init__(self, agent_id):
            self.agent_id = agent_id

        def reset(self):
            started.append(self.agent_id)

    run(Counting, episodes=4)
    assert {started.count(agent_id) for agent_id in range(3)} == {started.count(0)}
    assert started.count(0) > 4


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        ((0, [1.0, np.nan]), "agent 0: the message holds NaN or infinity; check its computation"),
        ((0, [1e39]), "agent 0: the message holds NaN or infinity"),
        ((0, "hello"), "agent 0: the message must be numbers, not a str"),
        ((0, [[1.0, 2.0]]), r"agent 0: the message has the shape \[1, 2\], the codec expects \[2\]"),
        ((5, None), r"agent 0: the action must be an integer in 0..4, not 5"),
        ((-1, None), r"agent 0: the action must be an integer in 0..4, not -1"),
        ((0.5, None), "the action must be an integer in 0..4, not 0.5"),
        ((True, None), "the action must be an integer in 0..4, not True"),
        (0, r"agent 0: act must return \(action, message or None\), it returned a int"),
        ((0, [1.0], "more"), "act must return"),
        ([0, None], "it returned a list"),
        (None, "it returned a NoneType"),
    ],
)
def test_a_wrong_reply_is_a_sentence(reply, sentence):
    with pytest.raises(AgentError, match=sentence):
        run(replying(reply))


def test_a_wrong_reply_late_in_an_episode_is_a_sentence_too():
    class Growing:
        def __init__(self, agent_id):
            self.agent_id, self.said = agent_id, 0

        def reset(self):
            self.said = 0

        def act(self, observation, inbox):
            self.said += 1
            return 0, np.ones(3 if self.said == 5 and self.agent_id == 2 else 2)

    with pytest.raises(AgentError, match=r"agent 2: the message has the shape \[3\], the codec expects \[2\]"):
        run(Growing)


def test_agents_must_agree_on_the_width():
    sizes = {0: 2, 1: 3, 2: 2}

    def make(agent_id):
        return replying((0, np.zeros(sizes[agent_id])))(agent_id)

    with pytest.raises(AgentError, match=r"agent 1: the message has the shape \[3\], the codec expects \[2\]"):
        run(make)


def test_what_is_no_agent_is_told():
    with pytest.raises(AgentError, match="a int is no agent: it has no method act"):
        run(lambda agent_id: 3)
    with pytest.raises(AgentError, match="cannot be made from an id alone"):
        run(type("Needy", (), {"__init__": lambda self, agent_id, more: None}))


def test_a_setting_that_does_not_exist_is_told():
    with pytest.raises(ConfigError, match="unknown setting 'episods'; did you mean 'episodes'"):
        run(Silent, episods=3)
    with pytest.raises(ConfigError, match="there is no world 'gudie'"):
        commlib.run("gudie", Silent)


# --- how wide the messages are


def test_a_declared_width_is_taken():
    declared = type("Declared", (Silent,), {"message_width": 7})
    assert probe_width(declared, Guide(), 0) == 7


def test_a_width_is_that_of_the_first_message():
    class Late(Silent):
        def __init__(self, agent_id):
            self.agent_id, self.steps = agent_id, 0

        def act(self, observation, inbox):
            self.steps += 1
            return 0, np.zeros(5) if self.steps == 4 and self.agent_id == 1 else None

    assert probe_width(Late, Guide(), 0) == 5
    assert probe_width(Silent, Guide(), 0) == 1


# --- a trained team back from disk


def test_a_trained_team_plays_again(tiny_run):
    trained = load(tiny_run)
    assert trained.result.world == "guide_v1"
    before = {path: path.read_bytes() for path in tiny_run.rglob("*") if path.is_file()}
    again = trained.evaluate()
    assert again.journal_digest == trained.result.journal_digest
    assert again.success == trained.result.success
    other = trained.evaluate(budget="unlimited", episodes=8, hosts=3, charging="link")
    assert (other.return_.n, other.hosts, other.ledger.dropped) == (8, 3, 0)
    assert {path: path.read_bytes() for path in tiny_run.rglob("*") if path.is_file()} == before
    with pytest.raises(ConfigError, match="codec was settled in training"):
        trained.evaluate(codec="int8")


def test_bits_that_cost_more_are_spent_less(tiny_run):
    trained = load(tiny_run)
    free, dear = (trained.evaluate(bit_price=price, budget=None) for price in (0.0, 1e6))
    assert dear.bits.per_agent_step.estimate < free.bits.per_agent_step.estimate
    assert (free.bit_price, dear.bit_price) == (0.0, 1e6)


def test_the_defaults_of_a_run_are_those_of_the_configuration():
    result = run(Silent)
    assert result.charging_rule.startswith(make_config().charging)
