"""The till: what each budget grants and when, what a round may spend of it, and what every account is charged."""

import numpy as np
import pytest

from commlib.agents.till import EVERYBODY, Books, Till, open_books
from commlib.audit import audit
from commlib.budget import Budgets, Network
from commlib.errors import ConfigError, LeaseError
from commlib.exchange import Bill, Sent
from commlib.journal import MAIN, Journal
from commlib.ledger import Ledger
from commlib.plan import make_plan, partition
from commlib.rationing import Cap, Claims, Group, Rationing, Scope
from commlib.topology import full

N = 4
EDGES = full(N).edges()
NETWORK = Network(1_000_000, 100)
EQUALLY = Rationing("equal")


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self, now=1_000_000.0):
        self.now = now

    def __call__(self):
        return self.now


class Shop:
    """A till with its books."""

    def __init__(self, budget, n_hosts=2, n_rounds=1, rationing=EQUALLY, journal=None, clock=None, first=0, left=None):
        budgets = Budgets.parse(budget).for_team(N, EDGES)
        self.plan = make_plan(EDGES, partition(N, n_hosts), "broadcast")
        self.ledger = Ledger(journal or Journal.in_memory(), budget=budgets.main)
        open_books(self.ledger, budgets, NETWORK)
        books = Books(self.ledger, budgets, rationing, NETWORK, first, left or {}, clock or Clock())
        self.till = Till(books, self.plan, n_hosts, n_rounds)

    def sent(self, number, host, messages, bits, **more):
        """A frame of one host's trunk, with so many messages on each route."""
        trunk = next(i for i, trunk in enumerate(self.plan.trunks) if trunk.source == host)
        bills = [Bill(trunk, messages, bits, bits - 24)] if any(messages) else []
        frames = {bill.trunk: bytes(bill.bits // 8) for bill in bills}
        return Sent(frames, bills, 0.0, 0, sum(messages), 0, 0, **more)

    def round(self, number, n_alive, *rows):
        """A whole round: rows are each host's messages and bits."""
        self.till.begin(number, n_alive)
        allowances = self.till.lease(number)
        sent = [self.sent(number, host, *row) for host, row in enumerate(rows)]
        sent = [s._replace(wanted=(0,) * len(a.caps) if a else ()) for s, a in zip(sent, allowances, strict=True)]
        self.till.settle(number, sent)
        return allowances

    def check(self):
        for account, now in self.ledger.statements().items():
            assert now.granted == now.spent + now.leased + now.available, account
            assert now.leased == 0, account
        assert [d for d in audit(self.ledger.journal).differences if "heard nothing" not in str(d)] == []


def caps(allowance):
    return [(cap.currency, cap.amount, cap.scope) for cap in allowance.caps]


QUIET = ((0, 0), 0)


def test_every_budget_is_a_cap_of_the_hosts_that_it_concerns():
    shop = Shop("64 bit/step, agent 1: 8 bit/step, agents 1-2: 3 messages/step, edge 3->0: 5 bit/step")
    shop.till.open(10)
    one, two = shop.round(0, 10, QUIET, QUIET)
    assert caps(one) == [("bits", 320, Scope()), ("bits", 80, Scope((1,))), ("messages", 15, Scope((1, 2)))]
    assert caps(two) == [("bits", 320, Scope()), ("messages", 15, Scope((1, 2))), ("bits", 50, Scope(None, (3, 0)))]
    shop.till.close(0)
    shop.check()


def test_each_account_is_charged_for_what_is_in_its_scope():
    shop = Shop(
        "100 bit/step, agent 1: 60 bit/step, edge 1->3: 60 bit/step, 9 messages/step, each agent: 9 messages/step"
    )
    shop.till.open(1)
    shop.round(0, 1, ((1, 3), 40), ((0, 2), 24))
    spent = {name: now.spent for name, now in shop.ledger.statements().items()}
    assert spent == {
        MAIN: 64,
        "bits/step of agent 1": 30,
        "bits/step of edge 1->3": 30,
        "messages/step": 6,
        **{f"messages/step of agent {agent}": n for agent, n in enumerate((1, 3, 0, 2))},
    }
    assert [(e.sender, e.n_messages, e.bits) for e in shop.ledger.journal.entries()] == [
        (0, 1, 10),
        (1, 3, 30),
        (3, 2, 24),
    ]
    shop.till.close(0)
    shop.check()


@pytest.mark.parametrize(("text", "account"), [("40 bit/round", MAIN), ("3 messages/round", "messages/round")])
def test_an_allowance_of_a_round_is_for_the_live_worlds_and_gone_at_its_end(text, account):
    shop = Shop(text, n_rounds=2)
    shop.till.open(10)
    unit = 3 if "messages" in text else 40
    for number, n_alive in enumerate((10, 10, 4, 4)):
        one, two = shop.round(number, n_alive, ((2, 0), 48), QUIET)
        assert one.caps[0].amount + two.caps[0].amount == unit * n_alive
        assert shop.ledger.statement(account).available == 0
    use = shop.till.close(0)[account]
    assert (use.granted, use.spent) == (28 * unit, 8 if "messages" in text else 4 * 48)
    shop.check()


def test_rounds_of_a_step_share_its_allowance_and_none_starves_the_others():
    shop = Shop("90 bit/step", n_hosts=1, n_rounds=3)
    shop.till.open(1)
    spent = (24, 24, 40)
    had = [shop.round(n, 1, ((1, 0, 0, 0), bits))[0].caps[0].amount for n, bits in enumerate(spent)]
    assert had == [30, 33, 42]
    assert shop.round(3, 1, ((0,) * 4, 0))[0].caps[0].amount == 30
    shop.till.close(0)
    shop.check()


def test_rounds_are_paid_by_everybody_together_and_only_when_somebody_speaks():
    shop = Shop("2 rounds/episode")
    shop.till.open(5)
    allowed = [
        shop.round(number, 5, row, QUIET)[0] for number, row in enumerate([QUIET, ((1, 0), 24), ((1, 0), 24), QUIET])
    ]
    assert [allowance.frame_bits for allowance in allowed] == [None, None, None, 0]
    assert [lease.holder for lease in (record.lease for record in shop.ledger.journal.leases("rounds/episode"))] == [
        EVERYBODY
    ] * 4
    assert shop.ledger.statement("rounds/episode").spent == 10
    shop.till.close(0)
    shop.check()


def test_a_round_that_not_every_world_can_pay_is_not_held():
    shop = Shop("2 rounds/episode")
    shop.till.open(5)
    speaks = ((1, 0), 24)
    assert [shop.round(n, 4, speaks if n < 2 else QUIET, QUIET)[0].frame_bits for n in range(3)] == [None, None, 0]
    assert shop.round(3, 2, speaks, QUIET)[0].frame_bits is None, "for two worlds what is left is enough"
    assert shop.ledger.statement("rounds/episode").spent == 10
    shop.till.close(0)
    shop.check()


def test_latency_allows_the_frames_that_arrive_in_time():
    shop = Shop("1 ms/step")
    shop.till.open(2)
    (one, two) = shop.round(0, 2, ((1, 0), 800), ((1, 0), 1600))
    assert one.frame_bits == two.frame_bits == NETWORK.frame_bits(2000, 2) == 1800
    assert shop.ledger.statement("latency/step").spent == 200 + 1600, "two delays, and the longest frame"
    shop.till.close(0)
    shop.check()
    with pytest.raises(ConfigError, match="needs to know the network"):
        open_books(Ledger(), Budgets.parse("1 ms/step"))


def test_the_shortest_of_several_limits_on_frames_holds():
    shop = Shop("1 ms/step, 500 us/round, 1 round/step")
    shop.till.open(1)
    assert shop.round(0, 1, QUIET, QUIET)[0].frame_bits == 400
    assert shop.round(1, 1, ((1, 0), 24), QUIET)[0].frame_bits == 400


def test_a_run_spends_what_it_has_left():
    shop = Shop("100 bit", n_hosts=1)
    shop.till.open(3)
    shop.round(0, 3, ((1, 0, 0, 0), 40))
    assert shop.till.left() == {MAIN: 60}
    assert shop.till.left_share == 0.6
    assert shop.till.close(0)[MAIN].granted == 40
    later = Shop("100 bit", n_hosts=1, journal=shop.ledger.journal, first=1, left={MAIN: 60})
    later.till.open(3)
    assert later.round(1, 3, ((0,) * 4, 0))[0].caps[0].amount == 60
    later.check()


# --- by the clock


def test_a_second_has_one_allowance_whoever_asks():
    clock, journal = Clock(), Journal.in_memory()
    seen, granted, number = [], 0, 0
    for _ in range(3):  # two plays within a second, and one in the next
        shop = Shop("100 bit/s", n_hosts=1, journal=journal, clock=clock, first=number)
        shop.till.open(5)
        for _ in range(2):
            seen.append(shop.round(number, 5, ((1, 0, 0, 0), 24))[0].caps[0].amount)
            clock.now, number = clock.now + 0.25, number + 1
        granted += shop.till.close(0)[MAIN].granted
        shop.check()
    assert seen == [100, 76, 52, 28, 100, 76]
    assert granted == 200


def test_what_a_second_leaves_is_gone_in_the_next():
    clock = Clock()
    shop = Shop("100 bit/s, 3 messages/s", n_hosts=1, clock=clock)
    shop.till.open(5)
    amounts = []
    for number, second in enumerate((0, 0.5, 1, 1.9, 3, 2.5)):
        clock.now = 1_000_000 + second
        amounts.append([cap.amount for cap in shop.round(number, 5, ((1, 0, 0, 0), 40))[0].caps])
    assert amounts == [[100, 3], [60, 2], [100, 3], [60, 2], [100, 3], [60, 2]], "a clock that goes back brings nothing"
    use = shop.till.close(0)
    assert (use[MAIN].granted, use[MAIN].spent) == (300, 240)
    assert (use["messages/second"].granted, use["messages/second"].spent) == (9, 6)
    shop.check()


def test_a_round_that_is_repeated_holds_what_it_held():
    clock, journal = Clock(), Journal.in_memory()
    first = Shop("100 bit/s", n_hosts=2, journal=journal, clock=clock)
    first.till.open(1)
    held = [caps(allowance) for allowance in first.round(0, 1, ((1, 0), 24), QUIET)]
    spent, clock.now = first.ledger.statement().spent, clock.now + 77.0
    again = Shop("100 bit/s", n_hosts=2, journal=journal, clock=clock)
    again.till.open(1)
    assert [caps(allowance) for allowance in again.round(0, 1, ((1, 0), 24), QUIET)] == held
    assert again.ledger.statement().spent == spent
    assert sum(allowance.caps[0].amount for allowance in again.round(1, 1, QUIET, QUIET)) == 100
    again.check()


# --- hosts that share a pool


def claim(sender, bits, value, overhead=24):
    return Claims(np.array(sender), np.array(bits, float), np.array(value, float), overhead)


def test_only_pools_of_several_hosts_need_claims():
    by_value = Rationing("value")
    assert Shop("64 bit/step", rationing=by_value).till.needs_claims
    assert Shop("agents 1-2: 64 bit/step", rationing=by_value).till.scopes == [Scope((1, 2))]
    for budget in ("agents 0-1: 64 bit/step", "edge 0->3: 64 bit/step", "2 rounds/step, 5 ms/step", "unlimited"):
        assert not Shop(budget, rationing=by_value).till.needs_claims
    assert not Shop("64 bit/step", n_hosts=1, rationing=by_value).till.needs_claims
    assert not Shop("64 bit/step", rationing=Rationing("equal")).till.needs_claims


def test_claims_decide_what_each_host_may_spend_of_each_pool():
    rationing = Rationing("priority", (Group((3,), 0.5),))
    shop = Shop("100 bit/step, agents 1-2: 3 messages/step, agent 0: 9 bit/step", rationing=rationing)
    shop.till.open(1)
    shop.till.begin(0, 1)
    assert shop.till.scopes == [Scope(), Scope((1, 2))]
    dear, cheap = claim([0, 1], [8, 8], [9, 9]), claim([3], [26], [0.1])
    one, two = shop.till.lease(0, [[dear, dear.of([1])], [cheap, claim([], [], [], 0)]])
    assert one.caps == (
        Cap("bits", 44, Scope(), (0,)),
        Cap("messages", 3, Scope((1, 2)), (0,)),
        Cap("bits", 9, Scope((0,)), (4,)),
    )
    assert two.caps == (Cap("bits", 56, Scope(), (26,)), Cap("messages", 0, Scope((1, 2)), (0,)))


def test_a_budget_is_full_when_somebodys_part_of_it_is():
    shop = Shop("100 bit/step")
    shop.till.open(1)
    shop.till.begin(0, 1)
    shop.till.lease(0)
    shop.till.settle(0, [shop.sent(0, 0, (1, 0), 48, wanted=(60,)), shop.sent(0, 1, (0, 0), 0, wanted=(0,))])
    use = shop.till.close(0)[MAIN]
    assert (use.wanted, use.spent, use.n_full) == (60, 48, 1)


def test_the_least_that_was_wanted_and_the_most_that_was_there_for_it():
    shop = Shop("100 bit/step, 2 rounds/step, 5 messages/step")
    shop.till.open(1)
    for number, wants in enumerate(((60, 0), (0, 0), (48, 70))):
        shop.till.begin(number, 1)
        shop.till.lease(number)
        caps = [(bits, 2 * (bits > 0)) for bits in wants]
        shop.till.settle(number, [shop.sent(number, host, (0, 0), 0, wanted=cap) for host, cap in enumerate(caps)])
    use = shop.till.close(3)
    assert (use[MAIN].least_wanted, use[MAIN].most_held, use[MAIN].wanted) == (48, 50, 178)
    assert (use["messages/step"].least_wanted, use["messages/step"].most_held) == (2, 3)
    assert (use["rounds/step"].least_wanted, use["rounds/step"].most_held) == (0, 0)


def test_a_host_that_sends_more_than_a_narrow_budget_holds_is_found_out():
    shop = Shop("agent 0: 30 bit/step")
    shop.till.open(1)
    with pytest.raises(LeaseError, match="of 'bits/step of agent 0' holds 30 bits, but 40 were sent"):
        shop.round(0, 1, ((1, 0), 40), QUIET)


def test_what_is_called_off_is_not_held():
    shop = Shop("100 bit/step, 2 rounds/step, 9 messages")
    shop.till.open(1)
    shop.till.begin(0, 1)
    shop.till.lease(0)
    assert all(now.leased for name, now in shop.ledger.statements().items())
    shop.till.release()
    assert not any(now.leased or now.spent for now in shop.ledger.statements().values())


def test_without_caps_nothing_is_asked():
    shop = Shop("unlimited")
    shop.till.open(1)
    assert shop.round(0, 1, ((1, 0), 40), QUIET) == [None, None]
    assert (shop.till.left(), shop.till.left_share) == ({}, 1.0)
    assert shop.till.close(0)[MAIN].granted == shop.ledger.statement().granted == 40
    shop.check()


def test_the_share_that_is_left_is_that_of_the_scarcest():
    shop = Shop("100 bit/episode, 4 messages/episode", n_hosts=1)
    shop.till.open(2)
    shop.round(0, 2, ((4, 0, 0, 0), 40))
    assert shop.till.left_share == 0.5
