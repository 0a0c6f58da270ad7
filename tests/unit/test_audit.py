import pytest

from commlib.audit import audit
from commlib.errors import LeaseError
from commlib.journal import Entry, Journal, Receipt
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
