"""Everything that is delivered was charged, both ends stay in step, and a frame that is not for us is refused."""

import itertools
from collections import defaultdict
from copy import deepcopy
from functools import lru_cache

import numpy as np
import pytest

from commlib.agent import Spoken
from commlib.codec import fresh_context
from commlib.codecs.frozen import ByteQuantiser, CodebookQuantiser, TableCodec
from commlib.codecs.prior import Prior, to_integers, uniform_prior
from commlib.errors import AgentError, ForeignCodec, FrameError
from commlib.exchange import Endpoint
from commlib.frame import Frame, is_greeting, shares, unpack_greeting
from commlib.message import Edge
from commlib.plan import CHARGING_RULES, Plan, Route, Trunk, incoming, make_plan, partition, senders_of
from commlib.rationing import Allowance, Cap

FULL4 = tuple(Edge(s, r) for s, r in itertools.permutations(range(4), 2))
RING4 = tuple(Edge(s, (s + 1) % 4) for s in range(4))
GRID = np.array(list(itertools.product((-1.0, 1.0), (-1.0, -0.3, 0.3, 1.0))), np.float32)


@lru_cache
def holding():
    """8 codes on a plane; the last code is expected again, at 1/8 of the price of another one."""
    table = np.ones((1, 9, 8))
    table[0, 1:] += 60 * np.eye(8)
    table[0, 0, 3] = 60
    return TableCodec("holding", CodebookQuantiser(GRID), Prior(to_integers(table)))


@lru_cache
def plain():
    """Floats as they are: no context, so that frames list the silent."""
    return TableCodec("plain", ByteQuantiser(2), uniform_prior(8, 256, kind="none"))


def payload_of(data):
    """The payload of a greeting or note."""
    return unpack_greeting(data).payload if is_greeting(data) else data[1:-2]


def stream_of(codec, data, n_messages):
    """The entropy-coded stream of a frame: its payload, less the list of the silent where there is one."""
    payload = payload_of(data)
    if codec.silence_is_coded:
        return payload
    return payload[1:] if payload[:1] == b"\0" else payload[1 + (n_messages + 7) // 8 :]


class Network:
    """All hosts of a team, and the wires between them."""

    def __init__(self, edges=FULL4, host_of=(0, 0, 1, 1), codec=None, n_worlds=5, charging="broadcast"):
        self.codec, self.n_worlds = codec or holding(), n_worlds
        self.plan = make_plan(edges, host_of, charging)
        self.ends = [Endpoint(host, self.plan, self.codec, n_worlds) for host in range(max(host_of) + 1)]
        self.blocks = [self.plan.agents_of(end.host) for end in self.ends]
        self.number = 0

    def round(self, vectors, silent=None, alive=None, allowance=None, rate_weight=0.0):
        """Vectors [N, W, D] to what each host sent, and the inbox [W, N, N, D]."""
        n_agents = len(self.plan.host_of)
        silent = np.zeros((n_agents, self.n_worlds), bool) if silent is None else silent
        alive = np.ones(self.n_worlds, bool) if alive is None else alive
        sent = []
        for end, block in zip(self.ends, self.blocks, strict=True):
            end.rate_weight = rate_weight
            sent.append(end.send(self.number, Spoken(vectors[block], silent[block]), alive, capped(allowance)))
        frames = {index: data for one in sent for index, data in one.frames.items()}
        self.received = [
            end.receive(
                self.number, {i: f for i, f in frames.items() if end.host in self.plan.trunks[i].targets}, alive
            )
            for end in self.ends
        ]
        self.number += 1
        inbox = np.zeros((self.n_worlds, n_agents, n_agents, self.codec.width), np.float32)
        for end, block, received in zip(self.ends, self.blocks, self.received, strict=True):
            senders = senders_of(self.plan, end.host)
            assert received.inbox.shape == (self.n_worlds, *senders.shape, self.codec.width)
            assert not received.inbox[:, senders < 0].any()
            for agent, row, heard in zip(block, senders, received.inbox.swapaxes(0, 1), strict=True):
                inbox[:, agent, row[row >= 0]] = heard[:, row >= 0]
        return sent, inbox

    def in_step(self):
        """Whether what was last sent on each route is what each listener last heard."""
        return all(
            same_past(self.ends[trunk.source].mouths[index], self.ends[target].ears[index])
            for index, trunk in enumerate(self.plan.trunks)
            for target in trunk.targets
        )


def capped(bits):
    """An allowance of so many bits, or none."""
    return None if bits is None else Allowance((Cap("bits", bits),))


def same_past(one, other):
    """Whether two ends of a trunk would go on alike: contexts of all worlds, age, and frames counted."""
    every = np.ones(one._past.shape[1], bool)
    return np.array_equal(one.context(every), other.context(every)) and (one._age, one.n_frames) == (
        other._age,
        other.n_frames,
    )


def draw(seed, n_agents=4, n_worlds=5):
    return np.random.default_rng(seed).uniform(-1, 1, (n_agents, n_worlds, 2)).astype(np.float32)


# --- plans


def test_partitions_are_blocks_as_equal_as_possible():
    assert partition(5, 2) == (0, 0, 0, 1, 1)
    assert partition(4, 4) == (0, 1, 2, 3)
    assert partition(3, 1) == (0, 0, 0)


def test_a_broadcast_has_one_trunk_per_host_and_a_link_one_per_pair():
    assert make_plan(RING4, (0, 0, 1, 1), "broadcast") == Plan(
        (0, 0, 1, 1),
        (Trunk(0, (0, 1), (Route(0, (1,)), Route(1, (2,)))), Trunk(1, (0, 1), (Route(2, (3,)), Route(3, (0,))))),
    )
    assert make_plan(RING4, (0, 0, 1, 1), "link").trunks == (
        Trunk(0, (0,), (Route(0, (1,)),)),
        Trunk(0, (1,), (Route(1, (2,)),)),
        Trunk(1, (0,), (Route(3, (0,)),)),
        Trunk(1, (1,), (Route(2, (3,)),)),
    )
    assert make_plan((), (0, 1), "broadcast").trunks == ()


# --- delivery and charge


@pytest.mark.parametrize("codec", [holding(), plain()], ids=lambda codec: codec.name)
@pytest.mark.parametrize("charging", CHARGING_RULES)
@pytest.mark.parametrize("edges", [FULL4, RING4, (Edge(2, 0),)])
def test_bits_delivered_are_bits_charged_edge_by_edge(edges, charging, codec):
    network = Network(edges, codec=codec, charging=charging)
    for seed in range(6):
        sent, inbox = network.round(draw(seed), silent=np.random.default_rng(seed).random((4, 5)) < 0.3)
        debits, paid = defaultdict(list), 0
        for host, one in enumerate(sent):
            for bill, (index, data) in zip(one.bills, one.frames.items(), strict=True):
                routes = network.plan.trunks[index].routes
                stream = stream_of(network.codec, data, 5 * len(routes))
                assert bill == (index, bill.messages, 8 * len(data), 8 * len(stream))
                assert 0 < sum(bill.messages) <= 5 * len(routes)
                for route, n, bits in zip(routes, bill.messages, shares(bill.bits, bill.messages), strict=True):
                    assert route.sender in network.blocks[host]
                    paid += bits
                    for receiver in route.receivers:
                        debits[Edge(route.sender, receiver)].append((n, bits))
        assert paid == sum(8 * len(frame) for one in sent for frame in one.frames.values())
        receipts = defaultdict(list)
        for end, received in zip(network.ends, network.received, strict=True):
            inlets = incoming(network.plan, end.host)
            for bill in received.heard:
                bits = shares(bill.bits, bill.messages)
                for route, sender, receiver, *_ in zip(*inlets[bill.trunk], strict=True):
                    receipts[Edge(sender, receiver)].append((bill.messages[route], bits[route]))
        assert receipts == debits
        assert set(receipts) <= set(edges)
        assert (paid > 0) == bool(receipts)
        open_ = np.zeros((4, 4), bool)
        open_[[e.receiver for e in edges], [e.sender for e in edges]] = True
        assert not inbox[:, ~open_].any()


@pytest.mark.parametrize("charging", CHARGING_RULES)
def test_what_arrives_is_the_nearest_code_of_what_was_said(charging):
    network = Network(charging=charging)
    vectors = draw(0)
    _, inbox = network.round(vectors)
    for sender, receiver in FULL4:
        context = fresh_context(5, 1)
        said = network.codec.embed(network.codec.choose(vectors[sender], context))
        assert np.array_equal(inbox[:, receiver, sender], said)


def test_a_broadcast_is_paid_once_and_a_link_for_each_pair():
    broadcast, link = Network(charging="broadcast"), Network(charging="link")
    costs = [sum(bill.bits for one in network.round(draw(1))[0] for bill in one.bills) for network in (broadcast, link)]
    assert costs[0] < costs[1]
    assert [len(network.plan.trunks) for network in (broadcast, link)] == [2, 4]


@pytest.mark.parametrize("charging", CHARGING_RULES)
@pytest.mark.parametrize("codec", [holding(), plain()], ids=lambda codec: codec.name)
@pytest.mark.parametrize("host_of", [(0, 0, 0, 0), (0, 0, 1, 1), (0, 1, 1, 1), (0, 1, 2, 3)])
def test_the_partition_changes_no_inbox(host_of, codec, charging):
    whole, parts = Network(host_of=(0, 0, 0, 0), codec=codec), Network(host_of=host_of, codec=codec, charging=charging)
    for seed in range(4):
        silent = np.random.default_rng(seed).random((4, 5)) < 0.4
        alive = np.arange(5) <= 4 - seed
        expected, found = (network.round(draw(seed), silent, alive)[1] for network in (whole, parts))
        assert np.array_equal(expected, found)
        assert parts.in_step()


@pytest.mark.parametrize("n_hosts", [1, 2, 4])
def test_an_estimate_is_the_rate_of_all_messages_whatever_the_partition(n_hosts):
    network = Network(host_of=partition(4, n_hosts))
    for seed in range(3):
        every = np.ones(5, bool)
        past = [mouth.context(every) for end in network.ends for mouth in end.mouths.values()]
        sent, _ = network.round(draw(seed))
        now = [mouth.context(every)[:, :-1] for end in network.ends for mouth in end.mouths.values()]
        expected = sum(network.codec.estimate_bits(*pair).sum() for pair in zip(now, past, strict=True))
        assert len(past) == n_hosts
        assert sum(one.estimate_bits for one in sent) == pytest.approx(expected)


# --- silence


def test_nothing_is_sent_when_all_is_as_expected():
    network = Network()
    network.round(draw(0))
    for _ in range(3):  # the same again: what the prior expects
        sent, inbox = network.round(draw(0))
        assert all(one.frames == {} and one.bills == [] and one.n_spoken == 0 for one in sent)
        assert all(received.heard == [] for received in network.received)
        assert inbox.any()
    assert network.in_step()


def test_silence_means_the_expected_message():
    network = Network()
    start = network.codec.embed(network.codec.expected(fresh_context(1, 1)))
    sent, inbox = network.round(draw(0), silent=np.ones((4, 5), bool))
    assert all(one.frames == {} and one.n_open == 0 for one in sent)
    assert all(np.array_equal(inbox[w, r, s], start[0]) for w in range(5) for s, r in FULL4)
    first = network.round(draw(1))[1]
    held = network.round(draw(2), silent=np.ones((4, 5), bool))[1]
    assert np.array_equal(first, held)


def test_without_a_codeword_for_silence_frames_list_the_silent():
    network = Network(codec=plain())
    silent = np.zeros((4, 5), bool)
    silent[0, :3] = silent[3] = True
    sent, inbox = network.round(draw(0), silent)
    assert [one.n_spoken for one in sent] == [7, 5]
    listed = b"\1" + np.packbits(silent[:2].ravel()).tobytes()
    assert payload_of(sent[0].frames[0])[:3] == listed
    assert sum(bill.payload_bits for bill in sent[0].bills) == 8 * (len(payload_of(sent[0].frames[0])) - len(listed))
    assert np.array_equal(inbox[3, 1, 0], draw(0)[0, 3])
    assert not inbox[:3, 1, 0].any()
    assert [one.estimate_bits for one in sent] == [7 * 64.0, 5 * 64.0]
    again, held = network.round(draw(1), silent=np.ones((4, 5), bool))
    assert np.array_equal(held, inbox)
    assert all(one.frames == {} and one.estimate_bits == 0 for one in again)
    everybody, _ = network.round(draw(2))
    assert payload_of(everybody[0].frames[0])[:1] == b"\0", "nobody is silent: one byte says so"


def test_a_context_free_message_that_repeats_itself_is_still_sent_and_paid():
    network = Network(codec=plain())
    first, _ = network.round(draw(0))
    second, _ = network.round(draw(0))
    assert [one.n_spoken for one in second] == [one.n_spoken for one in first] == [10, 10]


# --- many rounds


@pytest.mark.parametrize("codec", [holding(), plain()], ids=lambda codec: codec.name)
@pytest.mark.parametrize("charging", CHARGING_RULES)
def test_both_ends_stay_in_step_over_many_rounds(charging, codec):
    network = Network(codec=codec, charging=charging, host_of=(0, 1, 1, 2))
    numbers = np.random.default_rng(0)
    alive = np.ones(5, bool)
    for number in range(60):
        alive &= numbers.random(5) > 0.02
        allowance = None if number % 3 else int(numbers.integers(0, 600))
        network.round(draw(number), numbers.random((4, 5)) < 0.3, alive, allowance, rate_weight=number % 2 * 0.05)
        assert network.in_step()


def test_a_reset_forgets_what_was_heard():
    network = Network()
    first, inbox = network.round(draw(0))
    network.round(draw(1))
    for end in network.ends:
        end.reset(5)
    again, same = network.round(draw(0))
    assert np.array_equal(same, inbox)
    for one, other in zip(first, again, strict=True):
        nothing = {"frames": {}, "bills": [], "longest_wanted_bits": 0}
        assert other._replace(**nothing) == one._replace(**nothing)
        assert [payload_of(data) for data in other.frames.values()] == [payload_of(d) for d in one.frames.values()]
    assert network.in_step()


def test_dead_worlds_send_nothing_and_keep_what_they_had():
    network = Network()
    network.round(draw(0))
    alive = np.array([True, False, True, False, False])
    vectors = draw(1)
    sent, inbox = network.round(vectors, alive=alive)
    assert not inbox[~alive].any()
    assert inbox[alive].any()
    assert {n for one in sent for bill in one.bills for n in bill.messages} <= {0, 1, 2}
    fewer = Network(n_worlds=2)
    fewer.round(draw(0)[:, alive])
    assert fewer.round(vectors[:, alive])[0][0].estimate_bits == pytest.approx(sent[0].estimate_bits)
    nobody, inbox = network.round(draw(2), alive=np.zeros(5, bool))
    assert all(one.frames == {} and one.estimate_bits == 0 for one in nobody)
    assert not inbox.any()


# --- allowances


@pytest.mark.parametrize("codec", [holding(), plain()], ids=lambda codec: codec.name)
@pytest.mark.parametrize("charging", CHARGING_RULES)
@pytest.mark.parametrize("allowance", [0, 100, 160, 168, 184, 333, 800, 5000])
def test_an_allowance_is_never_exceeded_and_drops_are_counted(allowance, charging, codec):
    free, capped = Network(codec=codec, charging=charging), Network(codec=codec, charging=charging)
    silent = np.random.default_rng(0).random((4, 5)) < 0.2
    wanted, _ = free.round(draw(3), silent)
    sent, _ = capped.round(draw(3), silent, allowance=allowance)
    assert capped.in_step()
    for want, one in zip(wanted, sent, strict=True):
        bits, full = (sum(8 * len(frame) for frame in s.frames.values()) for s in (one, want))
        assert bits <= allowance
        assert one.n_spoken + one.n_dropped == want.n_spoken
        assert one.n_open == want.n_open
        assert (one.n_dropped > 0) == (full > allowance)
        assert one.dropped_bits >= full - bits
    assert all(one.frames == {} for one in sent) or allowance


def test_a_larger_allowance_lets_more_through():
    spoken = []
    for allowance in range(120, 400, 8):
        sent, _ = Network(host_of=(0, 0, 0, 0), codec=plain()).round(draw(3), allowance=allowance)
        spoken.append(sent[0].n_spoken)
    assert spoken == sorted(spoken)
    assert spoken[0] == 0
    assert spoken[-1] >= 2


def test_a_dropped_message_that_repeats_the_last_one_counts_as_dropped():
    network = Network(codec=plain(), host_of=(0, 0, 0, 0))
    network.round(draw(0))
    sent, _ = network.round(draw(0), allowance=0)
    assert (sent[0].n_spoken, sent[0].n_dropped, sent[0].estimate_bits) == (0, 20, 0.0)


# --- refusals


def refused(network, kind, sentence, frames):
    ears = network.ends[1].ears
    before = deepcopy(ears)
    with pytest.raises(kind, match=sentence):
        network.ends[1].receive(network.number, frames, np.ones(5, bool))
    assert all(same_past(before[i], ears[i]) and before[i]._is_deaf == ears[i]._is_deaf for i in ears), (
        "half a delivery"
    )


def test_a_frame_that_is_not_for_us_is_refused_and_changes_nothing():
    network = Network()
    sent = network.ends[0].send(0, Spoken(draw(0)[:2], np.zeros((2, 5), bool)), np.ones(5, bool))
    own = network.ends[1].send(0, Spoken(draw(0)[2:], np.zeros((2, 5), bool)), np.ones(5, bool))
    sound, other = sent.frames[0], own.frames[1]
    frame = unpack_greeting(sound)
    refused(network, FrameError, "on trunk 7, which does not lead to it", {7: sound})
    refused(
        network,
        FrameError,
        "expected round 0 on trunk 1 after 0 frames, the frame is of round 0 on trunk 0",
        {1: sound},
    )
    refused(network, FrameError, "the frame is of round 1", {0: frame._replace(round=1).greeting()})
    refused(network, ForeignCodec, "different codecs or graphs", {0: frame._replace(run=b"abcd").greeting()})
    refused(network, FrameError, "it was cut or damaged", {0: sound[:-2]})
    refused(network, FrameError, "payload bytes", {0: frame._replace(payload=b"x" * 500).greeting()})
    refused(network, FrameError, "damaged", {1: other, 0: frame._replace(payload=b"\xff").greeting()})
    for wrong in (frame._replace(round=1), frame._replace(run=b"abcd"), frame._replace(trunk=1)):
        refused(network, FrameError, "the seal of a", {0: wrong.note(), 1: other})
    refused(network, FrameError, "payload bytes", {1: other, 0: frame._replace(payload=b"x" * 500).note()})
    received = network.ends[1].receive(0, {0: sound, 1: other}, np.ones(5, bool))
    assert received.inbox.any()
    network.number += 1
    refused(network, FrameError, "after 1 frames, the frame is of round 0 on trunk 0 after 0", {0: sound})
    quiet, alive = np.zeros((2, 5), bool), np.ones(5, bool)
    mine, theirs = (
        e.send(1, Spoken(draw(1)[2 * k : 2 * k + 2], quiet), alive).frames for k, e in enumerate(network.ends)
    )
    note, own = mine[0], theirs[1]
    for cut_or_damaged in (note[:-1], note + b"\0", note[:2], b"", note[:3] + bytes([note[3] ^ 1]) + note[4:]):
        refused(network, FrameError, "bytes are no frame|the seal of a", {1: own, 0: cut_or_damaged})
    assert network.ends[1].receive(1, {0: note, 1: own}, alive).inbox.any()
    network.number += 1
    refused(network, FrameError, "was heard before", {0: note})


def test_hosts_with_another_codec_or_graph_do_not_understand_each_other():
    base = Network()
    others = [Network(codec=plain()), Network(edges=RING4), Network(charging="link"), Network(host_of=(0, 1, 1, 1))]
    assert len({network.ends[0].run for network in (base, *others)}) == 5
    assert {end.run for end in base.ends} == {Network().ends[1].run}


def test_a_list_of_the_silent_of_the_wrong_length_is_refused():
    network = Network(codec=plain())
    frame = Frame(network.ends[0].run, 0, 0, 0, b"\1\0")
    refused(network, FrameError, "the list of the silent has 1 bytes for 10 messages", {0: frame.greeting()})
    refused(network, FrameError, "or no beginning", {0: frame._replace(payload=b"").greeting()})
    refused(network, FrameError, "or no beginning", {0: frame._replace(payload=b"\2\0\0").greeting()})
    refused(network, FrameError, "names more than the 10", {0: frame._replace(payload=b"\1\xff\xff").greeting()})
    stream = network.codec.encode(np.zeros((9, 8), np.int64), fresh_context(9, 8))
    received = network.ends[1].receive(
        0, {0: frame._replace(payload=b"\1\x80\0" + stream).greeting()}, np.ones(5, bool)
    )
    assert received.heard


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_messages_must_be_finite(bad):
    network = Network()
    vectors = draw(0)
    vectors[1, 2, 0] = bad
    with pytest.raises(AgentError, match="host 0: a message in round 0 holds NaN or infinity"):
        network.round(vectors)


def test_a_lost_frame_is_noticed_at_the_next_one():
    network = Network()
    quiet, alive = np.zeros((2, network.n_worlds), bool), np.ones(network.n_worlds, bool)
    sender, receiver = network.ends
    first, second = (sender.send(number, Spoken(draw(number)[:2], quiet), alive).frames for number in range(2))
    assert first, "the first frame was sent, and is now lost"
    receiver.receive(0, {}, alive)
    before = deepcopy(receiver.ears)
    lost = "0 frames were heard on trunk 0, 1 were sent before this one: some were lost.* or declare the plan lossy"
    with pytest.raises(FrameError, match=lost):
        receiver.receive(1, second, alive)
    assert all(same_past(before[i], ear) for i, ear in receiver.ears.items())
