"""What goes when not all can: the most valuable, no coarser than need be, later rather than never, or nothing at all."""

from copy import deepcopy
from itertools import combinations

import numpy as np
import pytest

from commlib.agent import Spoken
from commlib.codec import fresh_context
from commlib.codecs.frozen import CodebookQuantiser, GridQuantiser, TableCodec
from commlib.codecs.prior import Prior, fit_prior, to_integers, uniform_prior
from commlib.errors import OverBudget
from commlib.exchange import Endpoint
from commlib.frame import shares
from commlib.message import Edge
from commlib.plan import make_plan
from commlib.rationing import Allowance, Cap, Group, Rationing, Scope, Tariff, Toll

N, W = 3, 6
EDGES = tuple(Edge(sender, N) for sender in range(N))
"""Three senders on one host, one listener on another."""
PLAN = make_plan(EDGES, (0,) * N + (1,), "broadcast")


def expects_nothing(alphabet=32):
    """Numbers 0..31, of which 0 is expected always, and small ones are cheaper than large ones."""
    codebook = np.arange(alphabet, dtype=np.float32)[:, None]
    table = np.zeros((1, alphabet + 1, alphabet))
    table[...] = 0.8 ** np.arange(alphabet)
    table[..., 0] = 200
    return TableCodec("numbers", CodebookQuantiser(codebook), Prior(to_integers(table)))


FREE_OF_CHARGE = Tariff()


def host(rationing, codec=None, n_worlds=W, plan=PLAN, tariff=FREE_OF_CHARGE):
    codec = codec or expects_nothing()
    end = Endpoint(0, plan, codec, n_worlds, tariff.rate_weight, tariff.tolls, rationing=rationing)
    end.reset(n_worlds)
    return end


def bits_of(n):
    return Allowance((Cap("bits", n),))


def say(end, numbers, number=0, allowance=None, silent=None, value=None, alive=None):
    """Numbers [n, W] as messages."""
    vectors = np.asarray(numbers, np.float32)[..., None]
    quiet = np.zeros(vectors.shape[:2], bool) if silent is None else silent
    alive = np.ones(vectors.shape[1], bool) if alive is None else alive
    end.recorded = []
    return end.send(number, Spoken(vectors, quiet, None, value), alive, allowance)


def told(end):
    """What listeners have now, [n, W]."""
    return end.delivered()[..., 0]


# --- most value per bit


@pytest.mark.parametrize("seed", range(25))
def test_what_goes_is_worth_as_much_as_the_best_choice_but_for_one_message(seed):
    """Against all choices of up to nine messages; the rule takes most value per bit, so it can miss one message's worth."""
    draw = np.random.default_rng(seed)
    numbers, value = draw.integers(1, 32, (N, 3)), draw.random((N, 3)).astype(np.float32)
    end = host(Rationing(), n_worlds=3)
    free = say(deepcopy(end), numbers)
    most = int(draw.integers(100, free.bills[0].bits))
    fits = []
    for n in range(10):
        for kept in combinations(range(9), n):
            silent = np.ones(9, bool)
            silent[list(kept)] = False
            sent = say(deepcopy(end), numbers, silent=silent.reshape(N, 3))
            if sum(bill.bits for bill in sent.bills) <= most:
                fits.append(value.ravel()[list(kept)].sum())
    say(end, numbers, allowance=bits_of(most), value=value)
    chosen = value[told(end) != 0].sum()
    assert max(fits) - value.max() <= chosen <= max(fits) + 1e-6


def test_without_a_value_it_is_the_distortion_that_is_spared():
    end = host(Rationing())
    sent = say(end, [[9] * W, [3] * W, [1] * W], allowance=bits_of(216))
    went = (told(end) != 0).sum(1)
    assert sent.n_spoken == went.sum() < N * W
    assert went[0] == W
    assert went[2] <= 1, "unless it is so short that it fits after all"


def test_first_come_serves_in_the_order_of_the_plan():
    end = host(Rationing("first"))
    say(end, [[1] * W, [9] * W, [9] * W], allowance=bits_of(216))
    assert (told(end)[0] == 1).all()
    assert not told(end)[2].any()


# --- parts of a pool


@pytest.mark.parametrize("currency", ["bits", "messages"])
def test_equal_parts_are_of_use_to_their_owners_alone(currency):
    value = np.array([[9.0] * W, [1.0] * W, [1.0] * W], np.float32)
    cap = Cap(currency, 9 if currency == "messages" else 216)
    went = {}
    for rule in ("equal", "value"):
        end = host(Rationing(rule))
        say(end, np.full((N, W), 9), allowance=Allowance((cap,)), value=value)
        went[rule] = (told(end) != 0).sum(1)
    assert went["value"][0] == W
    assert went["equal"].max() - went["equal"].min() <= 1
    assert went["equal"].min() > 0
    end = host(Rationing("equal"))
    say(end, np.full((N, W), 9), allowance=Allowance((cap,)), silent=np.array([[True] * W, [False] * W, [False] * W]))
    went = (told(end) != 0).sum(1)
    assert went[0] == 0
    assert (currency == "messages" and went.tolist() == [0, 3, 3]) or went[1:].max() < W


@pytest.mark.parametrize("currency", ["bits", "messages"])
def test_an_equal_part_that_is_not_used_is_of_no_use_to_others(currency):
    """Two agents want a little more than the pool, the third wants nothing: its third stays unspent."""
    codec = TableCodec(
        "bytes", CodebookQuantiser(np.arange(256, dtype=np.float32)[:, None]), uniform_prior(1, 256, "none")
    )
    silent = np.array([[True] * W, [False] * W, [False] * W])
    wanted = say(host(Rationing(), codec), np.full((N, W), 9), silent=silent)
    amount = wanted.n_spoken - 1 if currency == "messages" else wanted.bills[0].bits - 8
    went = {}
    for rule in ("equal", "value"):
        end = host(Rationing(rule), codec)
        say(end, np.full((N, W), 9), allowance=Allowance((Cap(currency, amount),)), silent=silent)
        went[rule] = (told(end) != 0).sum(1).tolist()
    assert sum(went["value"]) == 2 * W - 1
    assert went["equal"] in ([0, 3, 3], [0, 4, 3])


def test_proportional_parts_go_by_what_is_wanted():
    silent = np.zeros((N, W), bool)
    silent[1, 2:] = silent[2] = True
    end = host(Rationing("proportional"))
    say(end, np.full((N, W), 9), allowance=Allowance((Cap("messages", 4),)), silent=silent)
    assert (told(end) != 0).sum(1).tolist() == [3, 1, 0]


def test_a_pool_of_a_few_agents_is_divided_among_them():
    value = np.array([[9.0] * W, [1.0] * W, [5.0] * W], np.float32)
    end = host(Rationing("equal"))
    say(end, np.full((N, W), 9), allowance=Allowance((Cap("messages", 4, Scope((0, 1))),)), value=value)
    assert (told(end) != 0).sum(1).tolist() == [2, 2, W]


@pytest.mark.parametrize(("currency", "unit"), [("messages", 1), ("bits", 8)])
def test_a_group_has_what_it_is_guaranteed_if_it_wants_it(currency, unit):
    """Agent 2 is worth next to nothing, and is guaranteed a third."""
    rationing = Rationing("priority", (Group((0,), 0.4), Group((2,), 0.33)))
    value = np.array([[9.0] * W, [5.0] * W, [0.01] * W], np.float32)
    codec = TableCodec(
        "bytes", CodebookQuantiser(np.arange(256, dtype=np.float32)[:, None]), uniform_prior(1, 256, "none")
    )
    amount = 9 * unit + (168 if currency == "bits" else 0)  # what a greeting weighs beside nine messages
    pool = 9 * unit
    cap = Cap(currency, amount, guaranteed=(int(0.4 * pool), int(0.33 * pool)))
    end = host(rationing, codec)
    say(end, np.full((N, W), 9), allowance=Allowance((cap,)), value=value)
    went = (told(end) != 0).sum(1)
    assert went[2] >= 2
    assert went[0] >= 3
    assert went[0] == W or went[1] == 0, "what is over goes to the first group first"
    idle = host(rationing, codec)
    silent = np.array([[False] * W, [False] * W, [True] * W])
    say(idle, np.full((N, W), 9), allowance=Allowance((cap,)), value=value, silent=silent)
    assert (told(idle) != 0).sum() >= went.sum(), "what nobody of a group wants is not kept for it"


# --- several caps


def test_the_cap_of_one_agent_is_no_cap_of_the_others():
    end = host(Rationing())
    free = say(deepcopy(end), np.full((N, W), 9))
    caps = (Cap("bits", free.bills[0].bits), Cap("bits", 30, Scope((1,))), Cap("messages", 2, Scope(None, Edge(2, N))))
    sent = say(end, np.full((N, W), 9), allowance=Allowance(caps))
    went = (told(end) != 0).sum(1)
    assert went[0] == W
    assert 0 < went[1] < W
    assert went[2] == 2
    assert shares(sent.bills[0].bits, sent.bills[0].messages)[1] <= 30
    assert sent.wanted == (free.bills[0].bits, shares(free.bills[0].bits, free.bills[0].messages)[1], W)


def test_a_frame_that_takes_too_long_loses_its_own_messages():
    plan = make_plan((Edge(0, 1), Edge(0, 3), Edge(1, 3), Edge(2, 3)), (0, 0, 0, 1), "link")
    end = host(Rationing(), plan=plan)
    sent = say(end, np.full((N, W), 9), allowance=Allowance((), 224))
    free = say(host(Rationing(), plan=plan), np.full((N, W), 9))
    assert sent.bills[0].messages == free.bills[0].messages == (W,)
    assert free.bills[1].bits > 224 >= sent.bills[1].bits
    assert sum(sent.bills[1].messages) > W
    assert say(host(Rationing(), plan=plan), np.full((N, W), 9), allowance=Allowance((), 0)).frames == {}


# --- more coarsely


def grid():
    """One float on a grid of 256 levels, of which every fourth is cheaper, every 16th cheaper still; 0 is expected."""
    level = np.arange(256)
    odds = np.where(level % 16 == 0, 200.0, np.where(level % 4 == 0, 20.0, 1.0)) * np.where(level == 0, 20, 1)
    quantiser = GridQuantiser(np.zeros(1, np.float32), np.full(1, 1 / 64, np.float32), 256)
    return TableCodec("grid", quantiser, Prior(to_integers(np.tile(odds, (1, 257, 1)))))


def test_messages_are_told_just_so_coarsely_that_they_fit():
    said = np.random.default_rng(0).uniform(0.5, 4, (N, W))
    end = host(Rationing(when_out="degrade"), grid())
    free = say(deepcopy(end), said)
    errors, spoken = [], []
    for share in (1.0, 0.95, 0.9, 0.85, 0.8):
        degraded = deepcopy(end)
        sent = say(degraded, said, allowance=bits_of(int(share * free.bills[0].bits)))
        assert sent.n_spoken + sent.n_dropped == N * W
        assert sent.bills[0].bits <= share * free.bills[0].bits
        errors.append(float(np.abs(told(degraded) - said).sum()))
        spoken.append(sent.n_spoken)
        assert (np.abs(told(degraded) - said) <= np.abs(said) + 1e-6).all(), "never farther off than silence"
    assert errors == sorted(errors)
    assert spoken[1] == N * W, "before anything is dropped, all of it is told more coarsely"
    dropped = deepcopy(end)
    dropped.rationing = Rationing()
    sent = say(dropped, said, allowance=bits_of(int(0.9 * free.bills[0].bits)))
    assert float(np.abs(told(dropped) - said).sum()) > errors[2]


def test_only_those_are_degraded_whose_budget_is_out():
    said = np.random.default_rng(1).uniform(0.5, 4, (N, W))
    end = host(Rationing(when_out="degrade"), grid())
    free = deepcopy(end)
    wanted = shares(*say(free, said).bills[0][2:0:-1])
    sent = say(end, said, allowance=Allowance((Cap("bits", int(0.8 * wanted[1]), Scope((1,))),)))
    assert np.array_equal(told(end)[[0, 2]], told(free)[[0, 2]])
    assert not np.array_equal(told(end)[1], told(free)[1])
    assert sent.n_degraded > 0


def test_messages_are_not_told_more_coarsely_because_there_may_be_few():
    said = np.random.default_rng(1).uniform(0.5, 4, (N, W))
    end = host(Rationing(when_out="degrade"), grid())
    free = deepcopy(end)
    say(free, said)
    sent = say(end, said, allowance=Allowance((Cap("messages", 5),)))
    assert (sent.n_spoken, sent.n_degraded, sent.n_dropped) == (5, 0, N * W - 5)
    assert np.isin(told(end), (0, *told(free).ravel())).all()


def test_where_silence_is_nearer_than_what_a_price_would_tell_it_is_silence():
    """Without a word for silence listeners keep what they had; the cheap word 0 would be worse than that."""
    seen = np.concatenate([np.zeros(200, np.int64), np.arange(32)])[:, None]
    quantiser = CodebookQuantiser(np.arange(32, dtype=np.float32)[:, None])
    codec = TableCodec("numbers", quantiser, fit_prior(seen, fresh_context(len(seen), 1), 32, "none"))
    end = host(Rationing(when_out="degrade"), codec)
    say(end, np.full((N, W), 9))
    sent = say(end, np.full((N, W), 8), 1, allowance=bits_of(64))
    assert np.isin(told(end), (8, 9)).all()
    assert sent.n_dropped > 0


# --- later


ALL, NONE = np.ones((1, 1), bool), np.zeros((1, 1), bool)
ONE = make_plan((Edge(0, 1),), (0, 1), "broadcast")
NOTHING = bits_of(0)


@pytest.mark.parametrize("defer_rounds", [1, 2, 3])
def test_a_message_waits_for_so_many_rounds_and_no_longer(defer_rounds):
    for rounds in range(1, 6):
        end = host(Rationing(when_out="defer", defer_rounds=defer_rounds), n_worlds=1, plan=ONE)
        first = say(end, [[9]], 0, NOTHING)
        assert (first.n_deferred, first.n_dropped, end.n_put_off) == (1, 0, 1)
        between = [say(end, [[0]], number, NOTHING, silent=ALL) for number in range(1, rounds)]
        last = say(end, [[0]], rounds, None, silent=ALL)
        is_said = rounds <= defer_rounds
        assert (last.n_late, last.n_spoken) == (is_said, is_said)
        assert told(end)[0, 0] == 9 * is_said
        assert sum(sent.n_dropped for sent in (*between, last)) == (not is_said)
        assert sum(sent.n_deferred for sent in (*between, last)) == 0
        assert end.n_put_off == 0


def test_news_take_the_place_of_what_waits():
    end = host(Rationing(when_out="defer"), n_worlds=1, plan=ONE)
    say(end, [[9]], 0, NOTHING)
    news = say(end, [[5]], 1, NOTHING)
    assert (news.n_dropped, news.n_deferred, end.n_put_off) == (1, 1, 1)
    assert say(end, [[0]], 2, None, silent=ALL).n_late == 1
    assert told(end)[0, 0] == 5


def test_to_say_the_same_again_is_news_so_it_is_put_off_and_dropped_each_time():
    end = host(Rationing(when_out="defer"), n_worlds=1, plan=ONE)
    unheard = [say(end, [[9]], number, NOTHING) for number in range(4)]
    assert [(sent.n_deferred, sent.n_dropped) for sent in unheard] == [(1, 0), (1, 1), (1, 1), (1, 1)]
    heard = say(end, [[9]], 4)
    assert (heard.n_spoken, heard.n_late, heard.n_dropped, end.n_put_off) == (1, 0, 1, 0)


def test_what_listeners_expect_by_now_need_not_be_said():
    table = np.ones((1, 33, 32))
    table[0, 1:] += 200 * np.eye(32)
    held = TableCodec("held", expects_nothing().quantiser, Prior(to_integers(table)))
    end = host(Rationing(when_out="defer"), held, n_worlds=1, plan=ONE)
    say(end, [[9]], 0, NOTHING)
    say(end, [[9]], 1)
    again = say(end, [[9]], 2, NOTHING)
    assert (again.n_deferred, again.n_spoken, end.n_put_off) == (0, 0, 0)


def test_what_waits_keeps_its_worth_and_competes_with_news():
    plan = make_plan((Edge(0, 2), Edge(1, 2)), (0, 0, 1), "broadcast")
    silent = np.array([[True], [False]])
    only_one = Allowance((Cap("messages", 1),))
    for worth, later in ((9.0, (7, 0)), (0.1, (0, 5))):
        end = host(Rationing(when_out="defer"), n_worlds=1, plan=plan)
        value = np.array([[worth], [0.0]], np.float32)
        say(end, [[7], [0]], 0, NOTHING, value=value)
        sent = say(end, [[1], [5]], 1, only_one, silent=silent, value=np.array([[0.0], [1.0]], np.float32))
        assert tuple(told(end)[:, 0]) == later
        assert (sent.n_late, sent.n_deferred) == (worth > 1, worth > 1)


def test_a_world_that_is_over_says_nothing_late():
    end = host(Rationing(when_out="defer"), n_worlds=2, plan=ONE)
    say(end, [[9, 9]], 0, NOTHING)
    alive = np.array([True, False])
    sent = say(end, [[0, 0]], 1, None, silent=np.ones((1, 2), bool), alive=alive)
    assert (sent.n_late, end.n_put_off) == (1, 1)


def test_a_play_without_remembers_nothing_of_one_with():
    end = host(Rationing(when_out="defer"))
    say(end, np.full((N, W), 9), allowance=NOTHING)
    end.rationing = Rationing()
    end.reset(2)
    sent = say(end, np.full((N, 2), 9), 1, NOTHING)
    assert (sent.n_dropped, sent.n_deferred, end.n_put_off) == (2 * N, 0, 0)


# --- not at all


def test_a_raise_says_what_there_was_and_moves_nothing():
    end = host(Rationing(when_out="raise"))
    free = say(deepcopy(end), np.full((N, W), 9))
    caps = Allowance((Cap("bits", 100), Cap("messages", 20)), 50)
    with pytest.raises(OverBudget) as caught:
        say(end, np.full((N, W), 9), allowance=caps)
    assert str(caught.value) == (
        f"host 0 has 18 messages in round 0, and they do not fit ({free.bills[0].bits} bits of 100, 18 messages of 20, a frame "
        f"of at most 50 bits allowed); raise the budget, or let messages be dropped, degraded or deferred (--when-out)"
    )
    assert end.post(bits_of(10**6)).frames == free.frames


# --- prices of other currencies


def test_a_price_of_messages_leaves_unsaid_what_is_not_worth_it():
    tolls = (Toll("messages", 16.5, Scope((0,))), Toll("bits", 100.0, Scope((2,))))
    end = host(Rationing(), tariff=Tariff(0.0, tolls))
    sent = say(end, [[4] * W, [4] * W, [4] * W])
    assert (told(end) != 0).sum(1).tolist() == [0, W, 0]
    assert (sent.n_open, sent.n_spoken) == (N * W, W)
    dear = host(Rationing(), tariff=Tariff(0.0, (Toll("rounds", 1000.0),)))
    assert say(dear, [[4] * W] * N).frames == {}
    assert say(host(Rationing(), tariff=Tariff(0.0, (Toll("rounds", 1.0),))), [[4] * W] * N).n_spoken == N * W
