"""An inbox of slots says what an inbox with a place for every pair of agents says, on any graph, spread over any hosts."""

from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from commlib.agent import Spoken
from commlib.codecs.frozen import CodebookQuantiser, TableCodec
from commlib.codecs.prior import uniform_prior
from commlib.exchange import Endpoint
from commlib.frame import shares
from commlib.message import Edge
from commlib.plan import CHARGING_RULES, incoming, make_plan, senders_of

CODEBOOK = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
CODEC = TableCodec("vq", CodebookQuantiser(CODEBOOK), uniform_prior(1, 16))


@st.composite
def teams(draw):
    """A graph, the host of each agent (some hosts may be empty), a charging rule, and worlds of which some are over."""
    n_agents = draw(st.integers(1, 7))
    pairs = [Edge(*pair) for pair in permutations(range(n_agents), 2)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    host_of = draw(st.lists(st.integers(0, 3), min_size=n_agents, max_size=n_agents))
    alive = draw(st.lists(st.booleans(), min_size=1, max_size=4))
    return tuple(edges), tuple(host_of), draw(st.sampled_from(sorted(CHARGING_RULES))), np.array(alive)


@given(teams(), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_slots_are_the_dense_inbox(team, seed):
    edges, host_of, charging, alive = team
    plan, numbers = make_plan(edges, host_of, charging), np.random.default_rng(seed)
    hosts = range(max(host_of) + 1)
    ends = [Endpoint(host, plan, CODEC, len(alive)) for host in hosts]
    mind = np.zeros((len(host_of), len(alive)), np.int64)  # the code that listeners have
    for number in range(3):
        said = np.where(alive, numbers.integers(0, 16, mind.shape), mind)
        vectors, talking = CODEBOOK[said], np.zeros(mind.shape, bool)
        own = [Spoken(*(a[plan.agents_of(e.host)] for a in (vectors, talking))) for e in ends]
        sent = [e.send(number, spoken, alive) for e, spoken in zip(ends, own, strict=True)]
        frames = {index: data for one in sent for index, data in one.frames.items()}
        for end in ends:
            mine = {i: data for i, data in frames.items() if end.host in plan.trunks[i].targets}
            received = end.receive(number, mine, alive)
            agents, senders = plan.agents_of(end.host), senders_of(plan, end.host)
            dense = np.zeros((len(alive), len(agents), len(host_of), 3), np.float32)
            for sender, receiver in edges:
                if receiver in agents:
                    dense[alive, agents.index(receiver), sender] = vectors[sender, alive]
            back = np.zeros_like(dense)
            for seat, slot in np.argwhere(senders >= 0):
                back[:, seat, senders[seat, slot]] = received.inbox[:, seat, slot]
            assert np.array_equal(back, dense)
            assert not received.inbox[:, senders < 0].any()
            assert received.inbox.shape == (len(alive), *senders.shape, 3)
        mind = said


@given(teams())
@settings(max_examples=150, deadline=None)
def test_slots_and_columns_name_each_edge_once(team):
    edges, host_of, charging, _ = team
    plan = make_plan(edges, host_of, charging)
    n_slots = max([1, *(sum(edge.receiver == agent for edge in edges) for agent in range(len(host_of)))])
    by_slot, by_column = [], []
    for host in range(max(host_of) + 1):
        agents, senders = plan.agents_of(host), senders_of(plan, host)
        assert senders.shape == (len(agents), n_slots)
        for agent, row in zip(agents, senders.tolist(), strict=True):
            used = [sender for sender in row if sender >= 0]
            assert row == [*sorted(used), *[-1] * (n_slots - len(used))]
            by_slot += [Edge(sender, agent) for sender in used]
        for trunk, columns in incoming(plan, host).items():
            assert host in plan.trunks[trunk].targets
            for route, sender, receiver, seat, slot in zip(*columns, strict=True):
                assert plan.trunks[trunk].routes[route].sender == sender
                assert receiver in plan.trunks[trunk].routes[route].receivers
                assert (agents[seat], senders[seat, slot]) == (receiver, sender)
                by_column.append(Edge(sender, receiver))
    assert sorted(by_slot) == sorted(by_column) == sorted(edges)


@given(st.integers(0, 2**50), st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_shares_are_whole_and_add_up_and_every_message_bears_the_same(total, counts):
    parts, n = shares(total, counts), sum(counts)
    assert len(parts) == len(counts)
    assert sum(parts) == total
    for part, count in zip(parts, counts, strict=True):
        assert n == 0 or abs(part - total * count / n) <= 1 + 1e-9 * total
        assert n == 0 or count or not part, "who said nothing pays nothing"
