"""Who goes first when not all can: sums are exact, no pool is overdrawn, and every rule does what it says."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from commlib.config import make_config
from commlib.errors import ConfigError
from commlib.message import Edge
from commlib.plan import Route
from commlib.rationing import (
    ALLOCATIONS,
    Claims,
    Group,
    Rationing,
    Scope,
    divide_over_hosts,
    divided,
    order,
    parse_groups,
    shares_of,
    within_shares,
)

GROUPS = (Group((0, 2), 0.5), Group((1,), 0.3))
CURRENCIES = st.sampled_from(("bits", "messages"))


def claims_of(rows, overhead=0):
    """From (sender, bits, value)."""
    sender, bits, value = zip(*rows, strict=True) if rows else ((), (), ())
    return Claims(np.array(sender, np.int64), np.array(bits, float), np.array(value, float), overhead)


ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40), st.floats(0, 9, width=16)), max_size=12)
CLAIMS = st.builds(claims_of, ROWS, st.integers(0, 60))


def by(allocation):
    return Rationing(allocation, GROUPS if allocation == "priority" else ())


# --- whole units


@given(st.integers(0, 2**61), arrays(float, st.integers(1, 9), elements=st.floats(0, 1e6)))
def test_parts_are_whole_and_add_up(amount, weights):
    parts = divided(amount, weights)
    assert sum(parts) == amount
    assert min(parts) >= 0
    assert all(type(part) is int for part in parts)
    total = weights.sum()
    if total > 0 and amount < 2**40:
        assert all(abs(part - amount * w / total) <= 1.01 for part, w in zip(parts, weights, strict=True))


@given(CLAIMS, st.integers(0, 500), CURRENCIES)
def test_equal_and_proportional_shares_add_up(claims, amount, currency):
    agents = [0, 1, 2, 3, 4]
    equal, proportional = (shares_of(claims, rule, agents, amount, currency) for rule in ("equal", "proportional"))
    assert sum(equal) == sum(proportional) == amount
    assert max(equal) - min(equal) <= 1
    wanted = np.array([claims.costs(currency)[claims.sender == agent].sum() for agent in agents])
    if wanted.sum():
        assert np.abs(np.array(proportional) - amount * wanted / wanted.sum()).max() <= 1.01
    assert shares_of(claims, "value", agents, amount, currency) == [amount] * 5


@given(CLAIMS, st.sampled_from(("equal", "proportional")), st.integers(0, 500), CURRENCIES)
def test_nobody_has_more_than_the_own_share_and_more_is_never_less(claims, rule, amount, currency):
    agents = [0, 1, 2, 3, 4]
    fits = within_shares(claims, rule, agents, amount, currency)
    left = max(0, amount - (claims.overhead_bits if currency == "bits" else 0))
    shares = shares_of(claims, rule, agents, left, currency)
    for agent, share in zip(agents, shares, strict=True):
        mine = claims.sender == agent
        assert claims.costs(currency)[mine & fits].sum() <= share + 1e-9
        best = claims.density(currency)[mine & fits].min(initial=np.inf)
        assert (claims.density(currency)[mine & ~fits] <= best).all(), "the most valuable of its own go"
    if rule == "equal":
        assert (within_shares(claims, rule, agents, amount + 5, currency) >= fits).all()


# --- the order


@given(CLAIMS, st.sampled_from(ALLOCATIONS), CURRENCIES, st.integers(0, 200))
def test_everybody_is_in_the_queue_once(claims, allocation, currency, pool):
    queue = order(claims, by(allocation), currency, [pool // 2, pool // 3])
    assert sorted(queue.tolist()) == list(range(len(claims.bits)))


@given(CLAIMS, CURRENCIES, st.randoms())
def test_value_goes_by_value_per_unit_whatever_the_order_of_the_claims(claims, currency, random):
    queue = order(claims, by("value"), currency, ())
    density = claims.density(currency)[queue]
    assert (np.diff(density) <= 0).all()
    shuffled = list(range(len(claims.bits)))
    random.shuffle(shuffled)
    again = order(claims.of(np.array(shuffled, np.int64)), by("value"), currency, ())
    assert np.array_equal(claims.density(currency)[np.array(shuffled, np.int64)[again]], density)


def test_a_pool_of_messages_goes_by_value_per_message():
    claims = claims_of([(0, 2, 3.0), (1, 10, 8.0), (2, 1, 1.0)])
    assert order(claims, by("value"), "bits", ()).tolist() == [0, 2, 1]
    assert order(claims, by("value"), "messages", ()).tolist() == [1, 0, 2]


def test_first_come_is_the_order_of_the_plan():
    assert order(claims_of([(3, 1, 0.0), (0, 9, 5.0)]), by("first"), "bits", ()).tolist() == [0, 1]


@given(CLAIMS, CURRENCIES, st.integers(0, 300))
def test_priority_serves_what_is_guaranteed_first_and_then_group_by_group(claims, currency, pool):
    guaranteed = [int(group.share * pool) for group in GROUPS]
    queue = order(claims, by("priority"), currency, guaranteed)
    rank = np.select([np.isin(claims.sender, group.agents) for group in GROUPS], [0, 1], 2)[queue]
    costs, density = claims.costs(currency)[queue], claims.density(currency)[queue]
    late = np.zeros(len(queue), bool)
    for nth, most in enumerate((*guaranteed, -1)):
        mine = rank == nth
        late[mine] = np.cumsum(costs[mine]) > most
        assert (np.diff(density[mine]) <= 0).all(), "within a group by value"
    assert (np.diff(late.astype(int)) >= 0).all(), "first what is guaranteed"
    assert (np.diff(rank[~late]) >= 0).all()
    assert (np.diff(rank[late]) >= 0).all()


@given(CLAIMS, st.sampled_from(("equal", "proportional")), CURRENCIES, st.integers(0, 12))
def test_with_parts_of_their_own_agents_take_turns(claims, rule, currency, n):
    """Wherever the queue is cut, nobody is ahead of another who still waits by more than one message."""
    queue = order(claims, by(rule), currency, ())
    served, waiting = queue[:n], queue[n:]
    costs = claims.costs(currency)
    for one in set(claims.sender[waiting].tolist()):
        for other in set(claims.sender[served].tolist()):
            had = [costs[served][claims.sender[served] == agent].sum() for agent in (one, other)]
            wanted = [costs[claims.sender == agent].sum() if rule == "proportional" else 1 for agent in (one, other)]
            last = costs[waiting][claims.sender[waiting] == one][0]
            assert had[1] / wanted[1] <= (had[0] + last) / wanted[0] + 1e-9


# --- hosts


@given(
    st.lists(CLAIMS, min_size=1, max_size=4), st.sampled_from(ALLOCATIONS), CURRENCIES, st.integers(0, 2**50),
    st.booleans(),
)  # fmt: skip
def test_hosts_share_a_pool_exactly(claims, allocation, currency, amount, is_tight):
    amount = amount % 300 if is_tight else amount
    parts = divide_over_hosts(claims, by(allocation), amount, currency, [2] * len(claims))
    assert sum(part.amount for part in parts) == amount
    assert all(part.amount >= 0 for part in parts)
    for part in parts:
        assert len(part.guaranteed) == (2 if allocation == "priority" else 0)


@given(st.lists(CLAIMS, min_size=2, max_size=4), st.sampled_from(("first", "priority")), st.integers(0, 600))
def test_what_fits_of_the_common_queue_fits_where_it_is(claims, allocation, amount):
    """Each host can pay for those of its messages that stand at the front of the queue of all."""
    rationing = by(allocation)
    parts = divide_over_hosts(claims, rationing, amount, "bits", [2] * len(claims))
    host = np.repeat(np.arange(len(claims)), [len(one.bits) for one in claims])
    everything = Claims(
        *(np.concatenate([getattr(one, name) for one in claims]) for name in ("sender", "bits", "value"))
    )
    queue = order(everything, rationing, "bits", [int(group.share * amount) for group in rationing.groups])
    need, open_ = np.zeros(len(claims)), [True] * len(claims)
    for m in queue:
        cost = everything.bits[m] + (claims[host[m]].overhead_bits if open_[host[m]] else 0)
        if need.sum() + cost > amount:
            break
        need[host[m]] += cost
        open_[host[m]] = False
    assert all(part.amount >= bits - 1 for part, bits in zip(parts, need, strict=True))
    assert not need.any() or all(part.amount == 0 for part, bits in zip(parts, need, strict=True) if not bits)


def test_a_host_with_little_to_say_is_not_opened_where_its_frame_costs_more_than_it_tells():
    """One message of 6.1 for each 8 bits, in a frame of 100 bits besides; and twenty of 6.0 in another such frame."""
    quiet, busy = claims_of([(0, 8, 6.1)], 100), claims_of([(1, 8, 6.0)] * 20, 100)
    parts = divide_over_hosts([quiet, busy], by("value"), 260, "bits", [1, 1])
    assert [part.amount for part in parts] == [0, 260]
    parts = divide_over_hosts([quiet, busy], by("value"), 400, "bits", [1, 1])
    assert all(part.amount >= need for part, need in zip(parts, (108, 260), strict=True)), "there is enough for all"


def test_a_host_whose_messages_are_worth_more_has_more():
    dear, cheap = claims_of([(0, 8, 5.0)] * 4, 24), claims_of([(1, 8, 1.0)] * 4, 24)
    parts = divide_over_hosts([cheap, dear], by("value"), 80, "bits", [1, 1])
    assert [part.amount for part in parts] == [0, 80]
    parts = divide_over_hosts([cheap, dear], by("value"), 112, "bits", [1, 1])
    assert [part.amount for part in parts] == [56, 56]
    assert [part.amount for part in divide_over_hosts([cheap, dear], by("equal"), 81, "bits", [1, 2])] == [27, 54]
    many = claims_of([(0, 8, 1.0)] * 9, 8)
    assert [p.amount for p in divide_over_hosts([cheap, many], by("proportional"), 68, "bits", [1, 1])] == [28, 40]
    assert [p.amount for p in divide_over_hosts([cheap, many], by("proportional"), 13, "messages", [1, 1])] == [4, 9]


def test_who_comes_first_may_try_even_where_not_even_one_message_fits():
    parts = divide_over_hosts([claims_of([(0, 99, 1.0)]), claims_of([(1, 99, 2.0)])], by("value"), 50, "bits", [1, 1])
    assert [part.amount for part in parts] == [0, 50]


def test_a_pool_that_nobody_asks_for_is_divided_by_agents():
    parts = divide_over_hosts([claims_of([]), claims_of([])], by("value"), 9, "bits", [2, 1])
    assert [part.amount for part in parts] == [6, 3]


@pytest.mark.parametrize("currency", ["bits", "messages"])
def test_a_guarantee_is_of_the_whole_pool_also_where_hosts_share_it(currency):
    """Group 0 wants everything on two hosts; what group 1 is guaranteed is still there, on the host where it lives."""
    unit = 8 if currency == "bits" else 1
    one = claims_of([(0, 8, 9.0)] * 20 + [(1, 8, 0.1)] * 20)
    two = claims_of([(2, 8, 8.0)] * 20)
    rationing = by("priority")
    parts = divide_over_hosts([one, two], rationing, 20 * unit, currency, [2, 1])
    assert [part.guaranteed for part in parts] == [(10 * unit, 6 * unit), (0, 0)]
    queue = order(one, rationing, currency, parts[0].guaranteed)
    served = one.sender[queue[: parts[0].amount // unit]]
    assert (served == 1).sum() == 6
    assert sum(part.amount for part in parts) == 20 * unit


# --- scopes and groups


def test_scopes():
    route = Route(1, (0, 2))
    assert Scope().is_everybodys
    assert Scope().covers(route)
    assert Scope((1, 3)).covers(route)
    assert not Scope((0, 2)).covers(route)
    assert Scope(None, Edge(1, 2)).covers(route)
    assert not Scope(None, Edge(1, 3)).covers(route)
    assert not Scope(None, Edge(0, 2)).covers(route)
    assert [agent for agent in range(4) if Scope(None, Edge(1, 2)).has(agent)] == [1]
    assert [agent for agent in range(4) if Scope((1, 3)).has(agent)] == [1, 3]
    assert [agent for agent in range(2) if Scope().has(agent)] == [0, 1]


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        (None, ()),
        ("", ()),
        ("agents 0+2: 50 %, agent 1: 20%", (Group((0, 2), 0.5), Group((1,), 0.2))),
        ("agent 3", (Group((3,), 0.0),)),
        ("agents 0-1 : 12.5 %", (Group((0, 1), 0.125),)),
    ],
)
def test_groups_are_read(text, groups):
    assert parse_groups(text) == groups


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agents 0: 50", "write it like 'agents 0-2: 50 %'"),
        ("0-1: 50 %", "cannot read the group '0-1: 50 %'"),
        ("agents 0,2: 50 %", "cannot read the group '2: 50 %'"),
        ("agents 0: -5 %", "the group 'agents 0: -5 %' is guaranteed -5 %; a share is from 0 % to 100 %"),
        ("agent 0: 150 %, agent 1", "the group 'agent 0: 150 %' is guaranteed 150 %; a share is from 0 % to 100 %"),
        ("agents 0: nan %", "cannot read the group"),
        ("agent 0: %", "cannot read the group"),
        ("agent 0: 60 %, agent 1: 50 %", "are guaranteed 110% together; at most 100 % is there"),
    ],
)
def test_groups_that_make_no_sense_are_refused(text, said):
    with pytest.raises(ConfigError) as caught:
        parse_groups(text)
    assert said in str(caught.value)


def test_all_can_be_guaranteed():
    for shares in itertools.permutations((33.3, 33.3, 33.4, 0)):
        parse_groups(", ".join(f"agent {nth}: {share} %" for nth, share in enumerate(shares)))
    parse_groups(", ".join(f"agent {nth}: {share} %" for nth, share in enumerate((58, 28, 14))))


def test_a_group_of_strangers_is_refused():
    rationing = Rationing("priority", parse_groups("agents 0-3: 50 %"))
    assert rationing.for_team(4) is rationing
    with pytest.raises(ConfigError, match="for agent 3, but the agents are 0 to 2"):
        rationing.for_team(3)


def test_the_configuration_knows_the_rules():
    config = make_config(("here", {"allocation": "priority", "priority": "agent 1: 50 %", "when_out": "defer"}))
    assert config.rationing == Rationing("priority", (Group((1,), 0.5),), "defer", 2)
    with pytest.raises(ConfigError, match="needs groups"):
        make_config(("here", {"allocation": "priority"}))
    with pytest.raises(ConfigError, match="needs groups, and groups need it"):
        make_config(("here", {"priority": "agent 1"}))
