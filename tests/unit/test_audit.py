import pytest

from commlib.audit import audit
from commlib.errors import LeaseError
from commlib.journal import MAIN, Entry, Journal, Receipt, Statement, Terms
from commlib.ledger import Ledger
from commlib.message import Edge


@pytest.fixture
def ledger():
    """Two rounds on two hosts: in each, agent 0 broadcasts to 1 and 2, and agent 2 tells 0."""
    with Ledger() as ledger:
        for r in range(2):
            ledger.grant(100, r)
            for holder, sender, receivers, bits in (("a", 0, (1, 2), 30), ("b", 2, (0,), 12)):
                lease = ledger.lease(holder, 40, r)
                ledger.settle(lease, [Entry(0, r, r, sender, receivers, 4, bits, 8, holder)])
            ledger.receive([Receipt("a", 0, r, r, 2, 0, 4, 12)])
            ledger.receive([Receipt("b", 0, r, r, 0, 1, 4, 30), Receipt("b", 0, r, r, 0, 2, 4, 30)])
            ledger.withdraw(100, r)
        yield ledger


def tamper(ledger, sql):
    assert ledger.journal._connection.execute(sql).rowcount >= 1


def told(ledger):
    return [str(difference) for difference in audit(ledger.journal).differences]


def test_honest_books_agree(ledger):
    report = audit(ledger.journal)
    assert report.differences == []
    assert (report.n_entries, report.n_receipts) == (4, 6)
    assert (report.bits_debited, report.bits_received) == (84, 144)
    assert report.statement == ledger.statement()
    assert report.statement.spent == 84


def test_empty_books_agree():
    with Journal.in_memory() as journal:
        assert audit(journal).differences == []


def test_a_lost_receipt_is_named_by_round_and_edge(ledger):
    tamper(ledger, "DELETE FROM receipts WHERE round = 1 AND receiver = 2")
    (difference,) = audit(ledger.journal).differences
    assert (difference.round, difference.edge) == (1, Edge(0, 2))
    assert str(difference) == (
        "round 1, edge 0->2: the sender was charged for 4 messages of 30 bits, "
        "but the receiver heard nothing: the frame was lost, or its receipt was"
    )


def test_who_has_booked_no_receipt_at_all_is_named(ledger):
    assert audit(ledger.journal).silent == []
    tamper(ledger, "DELETE FROM receipts WHERE receiver = 2 OR (receiver = 1 AND round = 1)")
    report = audit(ledger.journal)
    assert report.silent == [2], "of agent 1 there is a receipt"
    assert len(report.differences) == 3


@pytest.mark.parametrize(("column", "heard"), [("bits", "4 messages of 31"), ("n_messages", "5 messages of 30")])
def test_a_receipt_of_another_size_is_told_with_both_numbers(ledger, column, heard):
    tamper(ledger, f"UPDATE receipts SET {column} = {column} + 1 WHERE round = 0 AND receiver = 1")
    assert told(ledger) == [
        f"round 0, edge 0->1: the sender was charged for 4 messages of 30 bits, but the receiver heard {heard} bits"
    ]


def test_a_receipt_without_a_debit_is_a_difference(ledger):
    ledger.receive([Receipt("b", 0, 5, 5, 0, 1, 1, 9)])
    assert told(ledger) == [
        "round 5, edge 0->1: the receiver heard 1 message of 9 bits, but the sender was never charged"
    ]


def test_a_message_heard_twice_is_a_difference(ledger):
    ledger.receive([Receipt("b", 0, 7, 1, 0, 1, 4, 30)])
    (text,) = told(ledger)
    assert "round 1, edge 0->1" in text
    assert "2 receipts" in text


def test_different_worlds_may_open_different_edges(ledger):
    ledger.grant(100, 9)
    lease = ledger.lease("a", 50, 9)
    ledger.settle(lease, [Entry(0, 9, 9, 0, (1, 2), 3, 30, 8, "a"), Entry(0, 9, 9, 0, (2,), 1, 10, 8, "a")])
    ledger.receive([Receipt("b", 0, 9, 9, 0, 1, 3, 30), Receipt("b", 0, 9, 9, 0, 2, 4, 40)])
    assert told(ledger) == []


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE entries SET bits = bits - 1 WHERE round = 0 AND sender = 2", "but its entries add up to 11"),
        ("DELETE FROM entries WHERE round = 0 AND sender = 2", "entries were lost or added"),
        ("UPDATE leases SET spent = spent + 1 WHERE holder = 'a' AND sequence = 0", "settled at 31 bits"),
        ("UPDATE leases SET bits = 20 WHERE holder = 'a' AND sequence = 0", "held 20 bits, but 30 count as spent"),
        ("UPDATE leases SET state = 'released', spent = 0 WHERE holder = 'a'", "is released, yet it has entries of 30"),
        ("DELETE FROM leases WHERE holder = 'b'", "entries were lost or added"),
        ("UPDATE allowances SET taken = taken - 50 WHERE kind = 'grant'", "100 bits came from nowhere"),
    ],
)
def test_changed_books_do_not_add_up(ledger, sql, said):
    tamper(ledger, sql)
    assert any(said in text for text in told(ledger))


def test_an_overspent_lease_is_a_difference_together_with_what_was_heard(ledger):
    ledger.grant(100, 9)
    lease = ledger.lease("a", 40, 9)
    with pytest.raises(LeaseError):
        ledger.settle(lease, [Entry(0, 9, 9, 0, (1,), 1, 50, 8, "a")])
    ledger.receive([Receipt("b", 0, 9, 9, 0, 1, 1, 50)])
    first, second = told(ledger)
    assert first.startswith("lease 9 of a (epoch 0) held 40 bits and its holder sent more")
    assert second.startswith("round 9, edge 0->1: the receiver heard 1 message of 50 bits")


def test_what_a_dead_sender_spent_is_known_from_those_who_heard_it(ledger):
    ledger.grant(100, 9)
    ledger.lease("a", 40, 9)
    ledger.receive([Receipt("b", 0, 9, 9, 0, 1, 1, 25), Receipt("b", 0, 9, 9, 0, 2, 1, 25)])
    assert len(told(ledger)) == 2  # the lease is still open: nobody has died yet
    ledger.fence("a")
    report = audit(ledger.journal)
    assert report.differences == []
    assert (report.bits_unaccounted, report.bits_recovered) == (40, 25)
    assert report.statement.spent == 84 + 40


def test_a_dead_sender_excuses_no_more_than_its_lease(ledger):
    ledger.grant(100, 9)
    ledger.lease("a", 40, 9)
    ledger.fence("a")
    ledger.receive([Receipt("b", 0, 9, 9, 0, 1, 1, 41)])
    assert told(ledger) == [
        "round 9, edge 0->1: the receiver heard 1 message of 41 bits, but the sender was never charged"
    ]


def test_a_lease_that_is_still_open_is_no_difference(ledger):
    ledger.grant(100, 9)
    ledger.lease("a", 40, 9)
    report = audit(ledger.journal)
    assert report.differences == []
    assert report.statement.leased == 40


# --- other accounts

COUNTED, OF_AGENT, ON_EDGE, HELD, DELAY = "messages/step", "bits of agent 2", "bits on 0->2", "rounds", "latency/step"


@pytest.fixture
def busy():
    """The same two rounds with every kind of account."""
    now = [0.0]
    with Ledger(clock=lambda: now[0]) as ledger:
        ledger.now = now
        ledger.open_account(COUNTED, Terms("messages", "step", None))
        ledger.open_account(OF_AGENT, Terms("bits", "run", None, agents=(2,)))
        ledger.open_account(ON_EDGE, Terms("bits", "run", None, edge=(0, 2)))
        ledger.open_account(HELD, Terms("rounds", "step", None))
        ledger.open_account(DELAY, Terms("latency", "step", None, agents=(0,)))
        for r in range(2):
            ledger.grant(100, r)
            talk(ledger, r)
        yield ledger


def talk(ledger, r):
    for holder, sender, receivers, bits in (("a", 0, (1, 2), 30), ("b", 2, (0,), 12)):
        lease = ledger.lease(holder, 40, r)
        ledger.settle(lease, [Entry(0, r, r, sender, receivers, 4, bits, 8, holder)])
        charge(ledger, COUNTED, holder, r, 4)
    ledger.receive([Receipt("a", 0, r, r, 2, 0, 4, 12)])
    ledger.receive([Receipt("b", 0, r, r, 0, 1, 4, 30), Receipt("b", 0, r, r, 0, 2, 4, 30)])
    charge(ledger, OF_AGENT, "b", r, 12)
    charge(ledger, ON_EDGE, "a", r, 30)
    charge(ledger, HELD, "play", r, 1)
    charge(ledger, DELAY, "play", r, 250)


def charge(ledger, account, holder, r, amount):
    ledger.settle_at(ledger.lease(holder, 1000, r, account=account), amount)


def test_honest_accounts_agree(busy):
    report = audit(busy.journal)
    assert report.differences == []
    assert report.accounts == busy.statements()
    assert report.accounts[COUNTED] == Statement(1012, 16, 0, 996)
    assert report.accounts[MAIN] == report.statement
    assert report.explanations == []


@pytest.mark.parametrize(
    ("account", "said"),
    [
        (
            COUNTED,
            "account 'messages/step': in round 1 the entries in its scope come to 8 messages, but 9 were settled",
        ),
        (
            OF_AGENT,
            "account 'bits of agent 2': in round 1 the entries in its scope come to 12 bits, but 13 were settled",
        ),
        (ON_EDGE, "account 'bits on 0->2': in round 1 the entries in its scope come to 30 bits, but 31 were settled"),
    ],
)
def test_an_amount_that_the_entries_do_not_bear_out_is_told(busy, account, said):
    charge(busy, account, "z", 1, 1)
    assert told(busy) == [said]


def test_what_was_not_settled_in_an_account_is_told(busy):
    busy.settle(busy.lease("a", 40, 2), [Entry(0, 2, 2, 0, (2,), 1, 9, 8, "a")])
    busy.receive([Receipt("b", 0, 2, 2, 0, 2, 1, 9)])
    assert told(busy) == [
        "account 'bits on 0->2': in round 2 the entries in its scope come to 9 bits, but 0 were settled",
        "account 'latency/step': in round 2 somebody in its scope said something, but nothing was settled",
        "account 'messages/step': in round 2 the entries in its scope come to 1 messages, but 0 were settled",
        "account 'rounds': in round 2 somebody in its scope said something, but nothing was settled",
    ]


@pytest.mark.parametrize(("account", "unit"), [(HELD, "rounds"), (DELAY, "microseconds")])
def test_a_round_in_which_nobody_spoke_costs_neither_a_round_nor_time(busy, account, unit):
    charge(busy, account, "play", 5, 3)
    assert told(busy) == [
        f"account '{account}': in round 5 3 {unit} were settled, but nobody in its scope said anything"
    ]


def test_an_account_that_was_never_used_is_no_difference(ledger):
    ledger.open_account(COUNTED, Terms("messages", "step", 10))
    ledger.grant(10, 0, account=COUNTED)
    ledger.release(ledger.lease("a", 5, 0, account=COUNTED))
    charge_free = ledger.lease("a", 5, 1, account=COUNTED)
    ledger.settle_at(charge_free, 0)
    assert told(ledger) == []


def test_an_account_that_is_granted_freely_is_for_its_owner_to_explain(ledger):
    ledger.open_account("tokens", Terms("messages", "", None))
    charge(ledger, "tokens", "z", 77, 5)
    assert told(ledger) == []


def test_accounts_alone_have_no_entries_to_be_held_against():
    with Ledger() as ledger:
        ledger.open_account(COUNTED, Terms("messages", "step", None))
        charge(ledger, COUNTED, "z", 0, 5)
        assert told(ledger) == []


@pytest.mark.parametrize("end", ["open", "fenced", "expired"])
def test_what_nobody_spoke_for_may_have_been_used_up_to_all_of_it(busy, end):
    """In round 2 the sender of the charge dies, in round 3 that of the entries."""
    busy.grant(200, 9)
    talk(busy, 2)
    busy.lease("dead", 1, 2, account=COUNTED, seconds=1)
    busy.lease("dead", 20, 3, seconds=1)
    for account in (COUNTED, OF_AGENT, HELD):
        charge(busy, account, "z", 3, 1)
    busy.now[0] += 2
    if end == "fenced":
        busy.fence("dead")
    elif end == "expired":
        busy.expire()
    assert told(busy) == []
    charge(busy, COUNTED, "z", 2, 1)
    assert len(told(busy)) == 1


def test_where_sequences_are_no_rounds_the_sums_are_compared():
    with Ledger() as ledger:
        ledger.grant(100, 0)
        ledger.open_account(COUNTED, Terms("messages", "step", None))
        ledger.open_account(HELD, Terms("rounds", "step", None))
        for r in range(3):
            ledger.settle(ledger.lease("a", 20, 50 + r), [Entry(0, 50 + r, r, 0, (1,), 2, 9, 8, "a")])
            ledger.receive([Receipt("b", 0, r, r, 0, 1, 2, 9)])
        charge(ledger, COUNTED, "z", 7, 6)
        charge(ledger, HELD, "z", 9, 1)
        assert told(ledger) == []
        charge(ledger, COUNTED, "z", 8, 1)
        assert told(ledger) == [
            "account 'messages/step': in all the entries in its scope come to 6 messages, but 7 were settled"
        ]


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE accounts SET spent = spent + 1 WHERE account = 'rounds'", "'rounds': its running total of spent is 3, its rows"),
        ("UPDATE accounts SET n_entries = 0 WHERE account = 'bits'", "account 'bits': its running total of n_entries is 0"),
        ("UPDATE allowances SET account = 'x'", "something was booked in the account 'x', which was never opened"),
        ("UPDATE leases SET minted = 0 WHERE account = 'rounds'", "'rounds': 0 rounds were granted and not withdrawn, but 2"),
        ("UPDATE leases SET bits = 11 WHERE account = 'bits of agent 2'", "of account 'bits of agent 2' held 11 units, but 12"),
        ("UPDATE notes SET n_messages = 9", "'bits': its running total of degraded_messages is 2, its rows come to 9"),
    ],
)  # fmt: skip
def test_accounts_that_were_changed_do_not_add_up(busy, sql, said):
    busy.note("degraded", 2, 5, 0)
    tamper(busy, sql)
    assert any(said in text for text in told(busy))


def test_an_overspent_account_is_a_difference(busy):
    with pytest.raises(LeaseError):
        busy.settle_at(busy.lease("a", 5, 2, account=COUNTED), 6)
    assert told(busy) == [
        "lease 2 of a (epoch 0) of account 'messages/step' held 5 units and its holder sent more: what went beyond was "
        "never paid"
    ]


def test_what_is_out_of_the_ordinary_and_in_order_is_explained(busy):
    busy.grant(200, 9)
    late = busy.lease("slow", 20, 3, seconds=1)
    busy.lease("gone", 30, 3, seconds=1)
    busy.now[0] += 2
    busy.expire()
    busy.settle(late, [])
    for sequence in (4, 5):
        busy.lease("dead", 10, sequence)
    busy.lease("dead", 7, 4, account=COUNTED)
    busy.fence("dead")
    busy.lease("b", 5, 9)
    busy.receive([Receipt("b", 0, 4, 4, 7, 2, 1, 6)])
    report = audit(busy.journal)
    assert report.differences == []
    assert report.explanations == [
        "account 'bits': 2 leases of dead shut out by a fence: all 20 bits count as spent",
        "account 'bits': 1 lease of gone past the deadline, with no report: all 30 bits count as spent",
        "account 'bits': 1 lease of slow settled after the deadline, at 0 of 20 bits",
        "account 'bits': 1 lease of b not closed yet: 5 bits are set aside",
        "account 'messages/step': 1 lease of dead shut out by a fence: all 7 messages count as spent",
        "receivers heard 6 bits of what fenced and expired leases held, and nobody debited them",
    ]
