"""Budgets as people write them, and what they grant; networks, and what time leaves for a frame."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commlib.budget import Budget, Budgets, Network, parse_agents
from commlib.errors import ConfigError
from commlib.journal import MAIN, Terms
from commlib.message import Edge
from commlib.topology import full

EDGES = full(3).edges()


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("64 bit/step", Budget(64, "step")),
        ("2 kB per episode", Budget(16_000, "episode")),
        ("1 Mbit/s", Budget(1_000_000, "second")),
        ("3 messages/round", Budget(3, "round", "messages")),
        ("2 rounds/episode", Budget(2, "episode", "rounds")),
        ("1.5 ms/step", Budget(1500, "step", "latency")),
        ("300 bit", Budget(300, "run")),
        ("agent 2: 8 bit/step", Budget(8, "step", agents=(2,))),
        ("agents 0-2: 2 kB/episode", Budget(16_000, "episode", agents=(0, 1, 2))),
        ("agents 0+4+6-8: 3 messages/step", Budget(3, "step", "messages", agents=(0, 4, 6, 7, 8))),
        ("edge 0->1: 1 Mbit", Budget(1_000_000, "run", edge=Edge(0, 1))),
        ("edge 12 -> 3 : 5 messages/episode", Budget(5, "episode", "messages", edge=Edge(12, 3))),
        ("each agent: 8 bit/step", Budget(8, "step", each="each agent")),
        ("each edge: 1 message/step", Budget(1, "step", "messages", each="each edge")),
        ("  Unlimited ", Budget(None)),
    ],
)
def test_a_budget_is_read_and_its_text_is_kept(text, budget):
    assert Budget.parse(text) == budget
    assert str(Budget.parse(text)) == text.strip() or budget.amount is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agent: 8 bit/step", "write it like 'agent 2"),
        ("agents 3-1: 8 bit/step", "cannot read whose budget"),
        ("agent x: 8 bit/step", "cannot read whose budget"),
        ("host 1: 8 bit/step", "cannot read whose budget"),
        ("edge 0-1: 8 bit/step", "'edge 0->1: ...'"),
        ("every agent: 8 bit/step", "'each agent: ...'"),
        (": 8 bit/step", "cannot read whose budget"),
        ("agent 2: 2 rounds/step", "is of rounds, which all agents share; leave out 'agent 2'"),
        ("edge 0->1: 5 ms/step", "is of latency, which all agents share; leave out 'edge 0->1'"),
        ("agent 2 8 bit/step", "cannot read the budget"),
        ("agent 2: bit/step", "cannot read the budget"),
        ("agent 2: 8 bits/day", "unknown span 'day'"),
    ],
)
def test_nonsense_is_refused_with_a_sentence_that_helps(text, said):
    with pytest.raises(ConfigError) as caught:
        Budget.parse(text)
    assert said in str(caught.value)
    assert str(caught.value).count(". ") <= 1


@given(
    st.integers(1, 2**40),
    st.sampled_from(("round", "step", "episode", "run", "second")),
    st.sampled_from(("bits", "messages")),
    st.none() | st.lists(st.integers(0, 99), min_size=1, max_size=5, unique=True).map(lambda ids: tuple(sorted(ids))),
)
def test_what_a_budget_says_of_itself_is_read_as_the_same(amount, per, currency, agents):
    budget = Budget(amount, per, currency, agents=agents)
    assert Budget.parse(str(budget)) == budget
    assert budget.is_everybodys == (agents is None)


@pytest.mark.parametrize(("per", "expected"), [("round", 24), ("step", 24), ("episode", 24), ("run", 8), ("second", 8)])
def test_an_allowance_grows_with_the_worlds_unless_there_is_one_for_all(per, expected):
    assert Budget(8, per).allowance(n_worlds=3) == expected
    assert Budget(None, per).allowance(n_worlds=3) == 0


def test_terms_are_what_the_ledger_notes():
    assert Budget.parse("edge 0->1: 8 bit/step").terms == Terms("bits", "step", 8, None, (0, 1))
    assert Budget.parse("agents 0-1: 3 messages").terms == Terms("messages", "run", 3, (0, 1))
    assert Budget(None).terms == Terms("bits", "run", None)


# --- several


def test_the_first_budget_of_bits_for_everybody_is_the_main_one():
    budgets = Budgets.parse("agent 2: 8 bit/step; 3 messages/episode, 64 bit/step, 2 kbit/episode")
    assert list(budgets.accounts()) == [MAIN, "bits/step of agent 2", "messages/episode", "bits/episode"]
    assert budgets.main == Budget(64, "step")
    assert str(budgets) == "agent 2: 8 bit/step, 3 messages/episode, 64 bit/step, 2 kbit/episode"


def test_without_bits_for_everybody_the_main_account_caps_nothing():
    budgets = Budgets.parse("agents 0-1: 8 bit/step, 3 messages/step")
    assert budgets.accounts()[MAIN].amount is None
    assert len(budgets.accounts()) == 3


@pytest.mark.parametrize("text", [None, "unlimited", " UNLIMITED ", "none", "null"])
def test_nothing_is_capped(text):
    budgets = Budgets.parse(text)
    assert not budgets
    assert str(budgets) == "unlimited"
    assert list(budgets.accounts()) == [MAIN]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("64 bit/step, 32 bit/step", "two budgets of bits/step: 64 bit/step and 32 bit/step; keep one"),
        ("agent 1: 64 bit/step, agents 1+1: 3 bit/step", "two budgets of bits/step of agent 1"),
        ("64 bit/step, unlimited", "is 'unlimited', which caps nothing beside others; leave it out"),
        ("64 bit/step,", "cannot read the budget ''"),
        ("", "cannot read the budget ''"),
        ("1,000 bit/step", "the budget '1' has no unit"),
    ],
)
def test_lists_that_make_no_sense_are_refused(text, said):
    with pytest.raises(ConfigError, match="budget") as caught:
        Budgets.parse(text)
    assert said in str(caught.value)


def test_one_for_each_is_made_when_the_team_is_known():
    team = Budgets.parse("each agent: 8 bit/step, each edge: 2 messages/step, 1 kbit").for_team(3, EDGES)
    assert [budget.agents for budget in team.all[:3]] == [(0,), (1,), (2,)]
    assert [budget.edge for budget in team.all[3:9]] == sorted(EDGES)
    assert team.main.amount == 1000
    assert list(team.accounts())[1:3] == ["bits/step of agent 0", "bits/step of agent 1"]
    assert str(team.all[2]) == "agent 2: 8 bit/step"
    assert team.for_team(3, EDGES) == team


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agents 1-3: 8 bit/step", "is for agent 3, but the agents are 0 to 2"),
        ("edge 0->0: 8 bit/step", "an edge that the graph does not have; it has 0->1, 0->2, 1->0"),
        ("edge 0->7: 8 bit/step", "an edge that the graph does not have"),
        ("each agent: 8 bit/step, agent 1: 4 bit/step", "two budgets of bits/step of agent 1"),
    ],
)
def test_budgets_for_strangers_are_refused(text, said):
    with pytest.raises(ConfigError) as caught:
        Budgets.parse(text).for_team(3, EDGES)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "agents"),
    [
        ("2", (2,)), ("0-3", (0, 1, 2, 3)), ("4+0+6 - 8", (0, 4, 6, 7, 8)), ("1+1", (1,)), ("", None), ("2-", None),
        ("-1", None), ("1,2", None), ("a", None), ("3-1", None), ("0-99999999", None), ("²", None),
    ],
)  # fmt: skip
def test_lists_of_agents(text, agents):
    assert parse_agents(text) == agents


# --- networks


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("1 Mbit/s", Network(1_000_000, 0)),
        ("250 kbit/s + 2 ms", Network(250_000, 2000)),
        ("8 kB/s+0 ms", Network(64_000, 0)),
    ],
)
def test_a_network_is_read(text, network):
    assert Network.parse(text) == network


@pytest.mark.parametrize(
    "text", ["2 ms", "1 Mbit", "1 Mbit/step + 2 ms", "1 Mbit/s + 2 bit", "1 Mbit/s + -2 ms", "fast"]
)
def test_what_is_no_network_is_refused(text):
    with pytest.raises(ConfigError, match="write it like"):
        Network.parse(text)


@given(st.integers(1, 10**9), st.integers(0, 10**6), st.integers(1, 100), st.integers(0, 10**7), st.integers(0, 10**6))
def test_a_frame_that_is_no_longer_than_the_time_allows_is_there_in_time(rate, delay, n_worlds, left, more):
    network = Network(rate, delay)
    most = network.frame_bits(left, n_worlds)
    assert most >= 0
    assert most == 0 or network.round_us(n_worlds, most) <= left
    assert network.round_us(n_worlds, most + 1) > left, "and not a bit more would be"
    assert network.frame_bits(left + more, n_worlds) >= most
