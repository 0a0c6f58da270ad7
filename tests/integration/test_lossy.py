"""Three agents on three hosts talk in a ring over channels that lose frames in bursts: who still knows what was said."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pytest

from commlib.agent import Spoken
from commlib.channel import LOSSES, MarkovChannel
from commlib.codec import START
from commlib.codecs.frozen import CodebookQuantiser, TableCodec
from commlib.codecs.prior import fit_prior, uniform_prior
from commlib.exchange import Endpoint
from commlib.message import Edge
from commlib.plan import make_plan

N, W, ROUNDS, BATCHES = 3, 64, 40, 8
HOLD = 0.85
RING = tuple(Edge(s, (s + 1) % N) for s in range(N))
PLACES = np.stack(np.meshgrid(np.arange(5), np.arange(5)), -1).reshape(-1, 2).astype(np.float32)
ALIVE, TALKING = np.ones(W, bool), np.zeros((1, W), bool)
WAYS = {"previous, refreshed": ("previous", 5), "held": ("held", 0), "held, refreshed": ("held", 5)}


class Played(NamedTuple):
    """Shares and counts of some batches of episodes.

    Attributes:
        right: share of messages that the listener had right.
        late: share of messages, said as themselves in a frame that arrived, that it had wrong.
        n_sent, n_lost: frames sent, and lost on the way.
        n_noticed, n_unread: frames that listeners missed, and could not read.
        bits: charged.
    """

    right: float
    late: float
    n_sent: int
    n_lost: int
    n_noticed: int
    n_unread: int
    bits: int


def traffic(seed):
    """Places [ROUNDS, N, W] that agents have in mind: held, or drawn anew."""
    numbers = np.random.default_rng([7, seed])
    places = numbers.integers(0, len(PLACES), (ROUNDS, N, W))
    is_held = numbers.random((ROUNDS, N, W)) < HOLD
    for number in range(1, ROUNDS):
        places[number] = np.where(is_held[number], places[number - 1], places[number])
    return places


def play(codec, refresh_every, loss, seeds, is_lossy=True):
    """Batches of episodes, each on fresh links, over a channel per trunk; and contexts and codes of all that was said."""
    plan = make_plan(RING, tuple(range(N)), "broadcast")._replace(is_lossy=is_lossy, refresh_every=refresh_every)
    ends = [Endpoint(host, plan, codec, W, recorded=[]) for host in range(N)]
    channels = [MarkovChannel(loss, np.random.default_rng([3, trunk])) for trunk in range(N)]
    n_right = n_said = n_late = n_sent = n_lost = n_noticed = n_unread = bits = number = 0
    for seed in seeds:
        for end in ends:
            end.reset(W)
        for places in traffic(seed):
            arrived = {}
            for end in ends:
                sent = end.send(number, Spoken(PLACES[places[end.host]][None], TALKING), ALIVE)
                bits += sum(bill.bits for bill in sent.bills)
                for trunk, data in sent.frames.items():
                    n_sent += 1
                    if channels[trunk].passes():
                        arrived[trunk] = data
                    else:
                        n_lost += 1
            for end in ends:
                heard_from = (end.host - 1) % N
                received = end.receive(number, {t: d for t, d in arrived.items() if t == heard_from}, ALIVE)
                n_noticed += received.n_lost
                n_unread += len(received.unread)
                context, codes = ends[heard_from].recorded[-1]
                is_wrong = (received.inbox[:, 0, 0] != codec.embed(codes)).any(-1)
                n_right += int((~is_wrong).sum())
                if heard_from in arrived:
                    is_new = (codes != context[:, :-1]).any(-1)
                    n_said += int(is_new.sum())
                    n_late += int((is_wrong & is_new).sum())
            number += 1
    total = len(seeds) * ROUNDS * N * W
    recorded = [np.concatenate(parts) for parts in zip(*(r for end in ends for r in end.recorded), strict=True)]
    return Played(n_right / total, n_late / n_said, n_sent, n_lost, n_noticed, n_unread, bits), recorded


@lru_cache
def fitted(kind, refresh_every):
    """A codec whose prior was counted from traffic over a channel without loss."""
    start = TableCodec("places", CodebookQuantiser(PLACES), uniform_prior(1, len(PLACES), "previous"))
    _, (context, codes) = play(start, refresh_every, 0.0, range(100, 104), is_lossy=False)
    return TableCodec("places", CodebookQuantiser(PLACES), fit_prior(codes, context, len(PLACES), kind))


@lru_cache
def played(way, loss):
    kind, refresh_every = WAYS[way]
    return play(fitted(kind, refresh_every), refresh_every, loss, range(BATCHES))[0]


@pytest.mark.parametrize("way", WAYS)
def test_without_loss_everything_is_right_and_a_lossy_plan_costs_the_same(way):
    kind, refresh_every = WAYS[way]
    result = played(way, 0.0)
    assert (result.right, result.late, result.n_lost, result.n_noticed, result.n_unread) == (1.0, 0.0, 0, 0, 0)
    strict, _ = play(fitted(kind, refresh_every), refresh_every, 0.0, range(BATCHES), is_lossy=False)
    assert strict == result


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("way", WAYS)
def test_no_frame_is_unaccounted_for(way, loss):
    result = played(way, loss)
    assert result.n_lost > 0.3 * loss * result.n_sent, "the channel did its work"
    assert result.n_noticed <= result.n_lost, "a trunk's last frames of an episode are missed by nobody"
    assert result.n_noticed >= 0.8 * result.n_lost
    assert (result.n_unread > 0) == (WAYS[way][0] == "previous")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("way", ["held", "held, refreshed"])
def test_what_is_said_as_itself_in_a_frame_that_arrived_is_right(way, loss):
    result = played(way, loss)
    assert result.late == 0.0
    assert result.right > 0.5
    assert played("previous, refreshed", loss).late > 0.0


@pytest.mark.parametrize("way", WAYS)
def test_more_loss_is_never_better(way):
    right = [played(way, loss).right for loss in (0.0, *LOSSES)]
    assert right == sorted(right, reverse=True)
    assert len(set(right)) == 4


@pytest.mark.parametrize("loss", LOSSES)
def test_holding_survives_loss_better_than_knowing_the_past(loss):
    right = {way: played(way, loss).right for way in WAYS}
    assert right["held, refreshed"] > right["previous, refreshed"]
    assert right["held, refreshed"] > right["held"], "a refresh says again what was lost"


def test_a_refresh_is_paid_for():
    assert played("held", 0.0).bits < played("held, refreshed", 0.0).bits


def test_fresh_links_are_what_a_refresh_shows():
    """Every fifth round of an episode has contexts as on its first."""
    _, (context, _) = play(fitted("held", 5), 5, 0.0, [0])
    is_fresh = (context[:, 0] == START).reshape(N, ROUNDS, W)
    assert is_fresh.all(-1).tolist() == [[number % 5 == 0 for number in range(ROUNDS)]] * N
    assert not is_fresh[:, 1:5].any()
