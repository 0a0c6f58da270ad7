"""Whatever may be spent, of what, by whom and by which rule: no cap is broken, both ends stay in step, all is counted."""

from copy import deepcopy
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commlib.agent import Spoken
from commlib.codecs.frozen import ByteQuantiser, CodebookQuantiser, TableCodec
from commlib.codecs.prior import Prior, to_integers, uniform_prior
from commlib.codecs.residual import ResidualQuantiser
from commlib.errors import OverBudget
from commlib.exchange import Endpoint
from commlib.frame import shares
from commlib.message import Edge
from commlib.plan import CHARGING_RULES, make_plan
from commlib.rationing import ALLOCATIONS, Allowance, Cap, Group, Rationing, Scope, Toll

BOOK = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)


def holding():
    """Eight codes; the last one is expected again."""
    table = np.ones((1, 9, 8))
    table[0, 1:] += 60 * np.eye(8)
    return TableCodec("holding", CodebookQuantiser(BOOK), Prior(to_integers(table)))


def residual():
    """Two tiers, of which the first code of each is expected."""
    books = np.stack([2 * BOOK[:4], 0.5 * BOOK[4:]])
    books[1, 0] = 0
    table = np.ones((2, 5, 4))
    table[..., 0] = 20
    return TableCodec("residual", ResidualQuantiser(books), Prior(to_integers(table)))


CODECS = {
    "holding": holding(),
    "residual": residual(),
    "no word for silence": TableCodec("vq", CodebookQuantiser(BOOK), uniform_prior(1, 8, kind="none")),
    "floats": TableCodec("plain", ByteQuantiser(2), uniform_prior(8, 256, kind="none")),
}


@st.composite
def teams(draw):
    """A plan over at most three hosts, and worlds of which some are over."""
    n_agents = draw(st.integers(2, 5))
    pairs = [Edge(*pair) for pair in permutations(range(n_agents), 2)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, min_size=1))
    host_of = draw(st.lists(st.integers(0, 2), min_size=n_agents, max_size=n_agents))
    plan = make_plan(tuple(edges), tuple(host_of), draw(st.sampled_from(sorted(CHARGING_RULES))))
    return plan, draw(st.lists(st.booleans(), min_size=1, max_size=4))


@st.composite
def scopes(draw, plan):
    agents = st.integers(0, len(plan.host_of) - 1)
    edges = sorted(Edge(r.sender, to) for trunk in plan.trunks for r in trunk.routes for to in r.receivers)
    some = st.lists(agents, min_size=1, max_size=3, unique=True).map(lambda ids: Scope(tuple(sorted(ids))))
    return draw(st.one_of(st.just(Scope()), some, st.sampled_from(edges).map(lambda edge: Scope(None, edge))))


@st.composite
def allowances(draw, plan):
    def cap(currency, most):
        guaranteed = st.just(()) | st.tuples(st.integers(0, 60), st.integers(0, 60))
        return Cap(currency, draw(st.integers(0, most)), draw(scopes(plan)), draw(guaranteed))

    caps = [cap("bits", 500) for _ in range(draw(st.integers(0, 3)))]
    caps += [cap("messages", 6) for _ in range(draw(st.integers(0, 2)))]
    return Allowance(tuple(draw(st.permutations(caps))), draw(st.none() | st.integers(0, 300)))


@st.composite
def rationings(draw):
    groups = (Group((0, 3), 0.5), Group((1,), 0.2))
    allocation = draw(st.sampled_from(ALLOCATIONS))
    when_out = draw(st.sampled_from(("drop", "degrade", "defer")))
    return Rationing(allocation, groups if allocation == "priority" else (), when_out, draw(st.integers(1, 3)))


@st.composite
def tariffs(draw, plan):
    weight = st.sampled_from((0.0, 0.0, 0.01, 0.2))
    tolls = [
        Toll(currency, draw(weight), draw(scopes(plan)) if currency != "rounds" else Scope())
        for currency in draw(st.lists(st.sampled_from(("bits", "messages", "rounds")), max_size=2))
    ]
    return draw(weight), tuple(tolls)


def harm(seat, receivers, worlds, heard):
    """Every other sender is not listened to with the first number."""
    return (len(receivers) * np.square(heard[..., seat % 2 :]).sum(-1) * (1 + worlds % 2)).astype(np.float32)


def spoken_of(numbers, n_agents, n_worlds, draws_dice, has_harm, has_value):
    shape = n_agents, n_worlds
    silent = numbers.random(shape).astype(np.float32) if draws_dice else numbers.random(shape) < 0.2
    value = numbers.random(shape).astype(np.float32) if has_value else None
    vectors = numbers.normal(size=(*shape, 2)).astype(np.float32)
    return Spoken(vectors, silent, harm if has_harm else None, value)


def charged(plan, cap, bills):
    """What bills come to under a cap, worked out once more."""
    total = 0
    for bill in bills:
        paid = shares(bill.bits, bill.messages) if cap.currency == "bits" else bill.messages
        total += sum(
            n for n, route in zip(paid, plan.trunks[bill.trunk].routes, strict=True) if cap.scope.covers(route)
        )
    return total


def check_held(plan, allowance, sent):
    for cap in allowance.caps:
        assert charged(plan, cap, sent.bills) <= cap.amount
    if allowance.frame_bits is not None:
        assert all(8 * len(frame) <= allowance.frame_bits for frame in sent.frames.values())
    assert sum(8 * len(frame) for frame in sent.frames.values()) == sum(bill.bits for bill in sent.bills)
    assert sent.n_spoken == sum(sum(bill.messages) for bill in sent.bills)
    assert len(sent.wanted) == len(allowance.caps)


def in_step(plan, ends):
    everywhere = np.ones(ends[0].n_worlds, bool)
    for index, trunk in enumerate(plan.trunks):
        mouth = ends[trunk.source].mouths[index]
        for target in trunk.targets:
            ear = ends[target].ears[index]
            assert np.array_equal(mouth.context(everywhere), ear.context(everywhere))
            assert mouth.n_frames == ear.n_frames


def check_degraded(end, sent, offers):
    """What is told more coarsely is still nearer to what was meant than silence."""
    n_degraded, drafting = 0, end._fitting.drafting
    for draft, offer in zip(end._fitting.drafts, offers, strict=True):
        rows = np.flatnonzero(offer.kept & (offer.codes != draft.wanted).any(-1))
        n_degraded += len(rows)
        assert (drafting.gains(draft, offer.codes[rows], rows) > 0).all()
        assert not (offer.kept & ~draft.spoken).any()
    assert n_degraded == sent.n_degraded


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_no_cap_is_ever_broken_and_everything_is_counted(data):
    plan, live = data.draw(teams())
    alive, codec = np.array(live), CODECS[data.draw(st.sampled_from(sorted(CODECS)))]
    rationing, (rate_weight, tolls) = data.draw(rationings()), data.draw(tariffs(plan))
    ends = [
        Endpoint(host, plan, codec, len(alive), rate_weight, tolls, rationing=rationing)
        for host in range(max(plan.host_of) + 1)
    ]
    for end in ends:
        end.reset(len(alive))
    numbers = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    kinds = [data.draw(st.booleans()) for _ in range(3)]
    sums = np.zeros((len(ends), 4), int)  # news, said as news, put off, said late or given up
    for number in range(4):
        frames = {}
        for end in ends:
            spoken = spoken_of(numbers, len(plan.agents_of(end.host)), len(alive), *kinds)
            allowance = data.draw(st.none() | allowances(plan))
            end.draft(number, spoken, alive)
            free = deepcopy(end).post(number, alive)
            news = sum(int((draft.spoken & ~draft.is_late).sum()) for draft in end._fitting.drafts)
            sent, offers = posted(end, number, alive, allowance)
            check_degraded(end, sent, offers)
            if allowance is None:
                assert (sent.frames, sent.n_spoken) == (free.frames, free.n_spoken)
            else:
                check_held(plan, allowance, sent)
                assert sent.wanted == tuple(charged(plan, cap, free.bills) for cap in allowance.caps)
                assert sent.longest_wanted_bits == max((bill.bits for bill in free.bills), default=0)
            assert sent.n_open == free.n_open
            if rationing.when_out != "defer":
                assert sent.n_spoken + sent.n_dropped == free.n_spoken == news
                assert sent.n_late == sent.n_deferred == 0
            assert sent.n_degraded == 0 or rationing.when_out == "degrade"
            sums[end.host] += (news, sent.n_spoken - sent.n_late, sent.n_deferred, sent.n_late + sent.n_dropped)
            frames.update(sent.frames)
        for end in ends:
            end.receive(number, {i: f for i, f in frames.items() if end.host in plan.trunks[i].targets}, alive)
        in_step(plan, ends)
        alive = alive & (numbers.random(len(alive)) < 0.8)
    if rationing.when_out == "defer":
        for end, (news, said, deferred, done) in zip(ends, sums, strict=True):
            assert news == said + deferred
            assert deferred == done + end.n_put_off


def posted(end, number, alive, allowance):
    """What is sent, and the offers that it was made of."""
    fitting, made = end._fitting, [end._fitting.full]
    fitted = fitting.fitted
    fitting.fitted = lambda *arguments: made.append(fitted(*arguments)) or made[-1]
    return end.post(number, alive, allowance), made[-1]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_raise_moves_nothing(data):
    plan, live = data.draw(teams())
    alive, codec = np.array(live), CODECS[data.draw(st.sampled_from(sorted(CODECS)))]
    end = Endpoint(plan.trunks[0].source, plan, codec, len(alive), rationing=Rationing(when_out="raise"))
    numbers = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    for number in range(3):
        spoken = spoken_of(numbers, len(plan.agents_of(end.host)), len(alive), False, False, False)
        allowance = data.draw(allowances(plan))
        end.draft(number, spoken, alive)
        free = deepcopy(end).post(number, alive)
        is_enough = all(charged(plan, cap, free.bills) <= cap.amount for cap in allowance.caps) and (
            allowance.frame_bits is None or all(bill.bits <= allowance.frame_bits for bill in free.bills)
        )
        if is_enough:
            sent = end.post(number, alive, allowance)
            check_held(plan, allowance, sent)
        else:
            with pytest.raises(OverBudget, match=f"host {end.host} has {free.n_spoken} messages in round {number}"):
                end.post(number, alive, allowance)
            sent = end.post(number, alive)
        assert (sent.frames, sent.bills, sent.estimate_bits) == (free.frames, free.bills, free.estimate_bits)
