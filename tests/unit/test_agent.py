import numpy as np
import pytest

from commlib.agent import Agent, Soloists, checked_reply
from commlib.errors import AgentError

DICE = np.zeros((2, 2), np.float32)


class Parrot:
    """Acts by what it heard, says its id and how often it was asked."""

    def __init__(self, agent_id):
        self.agent_id, self.n_calls, self.inboxes = agent_id, 0, []

    def reset(self):
        self.n_calls = 0

    def act(self, observation, inbox):
        self.n_calls += 1
        self.inboxes.append({sender: vector.tolist() for sender, vector in inbox.items()})
        observation[:] = 99
        action = int(sum(vector[0] for vector in inbox.values())) % 5
        return action, None if self.n_calls == 3 else np.array([self.agent_id, self.n_calls])


def team(n_worlds=2):
    """Agents 1 and 2 of a team of three; 1 hears 0 and 2, 2 hears nobody."""
    soloists = Soloists(Parrot, [1, 2], np.array([[0, 2], [-1, -1]]), 2, [5, 5])
    soloists.reset(n_worlds)
    return soloists._agents, soloists


def test_anything_with_act_is_an_agent():
    assert isinstance(Parrot(0), Agent)
    assert not isinstance(object(), Agent)


def test_messages_are_laid_out_by_agent_and_world():
    _, soloists = team()
    observation = np.zeros((2, 2, 3), np.float32)
    vectors, silent, *_ = soloists.speak(observation, 0.0)
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[[1, 1], [1, 1]], [[2, 1], [2, 1]]]
    assert not silent.any()
    assert not observation.any(), "an agent reached into the world"


def test_what_is_said_is_heard_in_the_next_step_and_only_on_open_edges():
    agents, soloists = team()
    observation = np.zeros((2, 2, 3), np.float32)
    inbox = np.arange(2 * 2 * 2 * 2, dtype=np.float32).reshape(2, 2, 2, 2)
    soloists.speak(observation, 0.0)
    assert soloists.act(inbox, DICE).tolist() == [[0, 0], [0, 0]]
    soloists.speak(observation, 0.1)
    assert agents[0][0].inboxes == [{}, {0: [0.0, 1.0], 2: [2.0, 3.0]}]
    assert agents[1][0].inboxes == [{}, {0: [8.0, 9.0], 2: [10.0, 11.0]}]
    assert agents[0][1].inboxes == [{}, {}]
    assert soloists.act(inbox, DICE).tolist() == [[2, 0], [18 % 5, 0]]


def test_none_is_silence():
    _, soloists = team()
    for _ in range(3):
        vectors, silent, *_ = soloists.speak(np.zeros((2, 2, 3), np.float32), 0.0)
    assert silent.all()
    assert not vectors.any()


def test_a_reset_forgets_the_inbox_and_reaches_the_agents():
    agents, soloists = team()
    soloists.speak(np.zeros((2, 2, 3), np.float32), 0.0)
    soloists.act(np.ones((2, 2, 2, 2), np.float32), DICE)
    soloists.reset(1)
    vectors, *_ = soloists.speak(np.zeros((1, 2, 3), np.float32), 0.0)
    assert vectors.tolist() == [[[1, 1]], [[2, 1]]]
    assert agents[0][0].inboxes[-1] == {}


def test_replies_are_normalised():
    action, message = checked_reply((np.int32(3), [0.5, 1]), 0, 5, 2)
    assert (action, type(action)) == (3, int)
    assert message.dtype == np.float32
    assert checked_reply((0, None), 0, 1, 2) == (0, None)


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (3, r"act must return \(action, message or None\), it returned a int"),
        ((1, None, None), "it returned a tuple"),
        ([1, None], "it returned a list"),
        ((5, None), "must be an integer in 0..4, not 5"),
        ((-1, None), "must be an integer in 0..4, not -1"),
        ((1.0, None), "not 1.0"),
        ((True, None), "not True"),
        (("up", None), "not 'up'"),
        ((0, "hello"), "must be numbers, not a str"),
        ((0, {1: 2}), "must be numbers, not a dict"),
        ((0, [[1.0, 2.0]]), r"the shape \[1, 2\], the codec expects \[2\]"),
        ((0, 1.0), r"the shape \[\], the codec expects"),
        ((0, [1.0, np.nan]), "NaN or infinity"),
        ((0, [1.0, 1e300]), "NaN or infinity"),
    ],
)
def test_a_wrong_reply_is_one_sentence_that_names_the_agent(reply, sentence):
    with pytest.raises(AgentError, match=f"agent 7: .*{sentence}"):
        checked_reply(reply, 7, 5, 2)
