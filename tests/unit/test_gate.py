"""Gates that are rules: who is kept back, the same in training and on the wire, and that it is charged as silence."""

import numpy as np
import pytest

from commlib.agent import Spoken
from commlib.codec import fresh_context
from commlib.codecs.frozen import CodebookQuantiser, TableCodec
from commlib.codecs.prior import Prior, to_integers, uniform_prior
from commlib.errors import ConfigError
from commlib.exchange import Endpoint
from commlib.gate import Gate, dice_of
from commlib.plan import make_plan, partition
from commlib.topology import full

W, N, D, K = 40, 3, 2, 16
CODEBOOK = np.random.default_rng(0).normal(size=(K, D)).astype(np.float32)
AGAIN = Prior(to_integers(np.concatenate([np.full((1, K), 1 / K), 0.9 * np.eye(K) + 0.1 / K])[None]), "previous")
CODECS = {
    "knows its past": TableCodec("vq", CodebookQuantiser(CODEBOOK), AGAIN),
    "knows nothing": TableCodec("vq", CodebookQuantiser(CODEBOOK), uniform_prior(1, K, "none")),
}


def ends(gate, codec, n_hosts=1):
    plan = make_plan(full(N).edges(), partition(N, n_hosts), "broadcast")
    return plan, [Endpoint(host, plan, codec, W, gate=gate) for host in range(n_hosts)]


def talk(gate, codec, rounds, n_hosts=1):
    """Messages [T, N, W, D] as listeners have them after each round, and how many were open in each."""
    plan, hosts = ends(gate, codec, n_hosts)
    alive, heard, n_open = np.ones(W, bool), [], []
    for number, vectors in enumerate(rounds):
        sent = [
            host.send(number, Spoken(vectors[plan.agents_of(h)], np.zeros((len(plan.agents_of(h)), W), bool)), alive)
            for h, host in enumerate(hosts)
        ]
        frames = {index: data for s in sent for index, data in s.frames.items()}
        for host in hosts:
            host.receive(number, {i: frames[i] for i in host.ears if i in frames}, alive)
        n_open.append(sum(s.n_open for s in sent))
        said = {route.sender: None for trunk in plan.trunks for route in trunk.routes}
        for host in hosts:
            for index, ear in host.ears.items():
                for row, route in enumerate(plan.trunks[index].routes):
                    said[route.sender] = ear.context(alive).reshape(-1, W, 2)[row, :, 0]
        heard.append(np.stack([CODEBOOK[said[sender]] for sender in range(N)]))
    return np.stack(heard), n_open


def rounds(n=4, seed=1):
    return np.random.default_rng(seed).normal(size=(n, N, W, D)).astype(np.float32)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_a_random_gate_lets_its_share_through_wherever_agents_live(codec, rate):
    one, n_open = talk(Gate("random", rate), codec, rounds())
    many, again = talk(Gate("random", rate), codec, rounds(), n_hosts=3)
    assert np.array_equal(one, many)
    assert n_open == again
    assert np.mean(n_open) / (N * W) == pytest.approx(rate, abs=0.08)


def test_dice_differ_between_rounds_and_senders_and_not_between_runs():
    thrown = [dice_of(7, number, sender, 50) for number in range(3) for sender in range(3)]
    assert all(not np.array_equal(a, b) for i, a in enumerate(thrown) for b in thrown[:i])
    assert np.array_equal(dice_of(7, 2, 1, 50), dice_of(7, 2, 1, 50))
    assert not np.array_equal(dice_of(7, 2, 1, 50), dice_of(8, 2, 1, 50)), "another seed, other dice"
    assert np.array_equal(dice_of(7, 2, 1, 50)[:20], dice_of(7, 2, 1, 20)), (
        "a world's dice do not depend on its neighbours"
    )


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())
def test_an_event_gate_lets_news_through_and_listeners_keep_the_rest(codec):
    first = rounds(1)[0]
    moved = first + np.where(np.arange(W) % 2, 1.5, 0.01)[None, :, None].astype(np.float32)
    nearest = CODEBOOK[codec.choose(first.reshape(-1, D), fresh_context(N * W, 1))[:, 0]].reshape(N, W, D)
    heard, n_open = talk(Gate("event", 1.0), codec, [first, moved])
    had = heard[0]
    news = ((moved - had) ** 2).sum(-1) > 1.0
    assert n_open[1] == news.sum()
    assert np.array_equal(heard[1][~news], had[~news])
    said = ((first - CODEBOOK[codec.expected(fresh_context(1, 1))[0, 0]]) ** 2).sum(-1) > 1.0
    assert np.array_equal(heard[0][said], nearest[said])


def test_how_likely_silence_is_decides_by_the_same_dice():
    plan, (host,) = ends(Gate(), CODECS["knows its past"])
    vectors, alive = rounds(1)[0], np.ones(W, bool)
    silent = np.full((N, W), 0.7, np.float32)
    sent = host.send(5, Spoken(vectors, silent), alive)
    assert sent.n_open == sum(int((dice_of(0, 5, sender, W) >= np.float32(0.7)).sum()) for sender in range(N))
    for likely, n_open in ((0.0, N * W), (1.0, 0)):
        _, (host,) = ends(Gate(), CODECS["knows its past"])
        assert host.send(5, Spoken(vectors, np.full((N, W), likely, np.float32)), alive).n_open == n_open
    assert plan.host_of == (0,) * N


@pytest.mark.parametrize(
    ("rule", "level"), [("often", 0.5), ("random", 1.5), ("event", -1.0), ("random", float("nan"))]
)
def test_a_gate_that_makes_no_sense_is_refused(rule, level):
    with pytest.raises(ConfigError, match="gate"):
        Gate(rule, level)
