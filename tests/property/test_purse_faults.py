"""Purses over a line that breaks anywhere, with holders that die at any time: what was sent never exceeds what was granted."""

from collections import Counter
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from commlib.audit import audit
from commlib.errors import HostError, OverBudget
from commlib.ledger import Ledger
from commlib.purse import Purse, Tally

HOLDERS = ("a", "b", "c")


class Line:
    """A way to the ledger of which each call may break: None lets it pass, else it is lost, or its answer is."""

    def __init__(self, ledger, breaks):
        self.ledger, self.breaks = ledger, iter(breaks)

    def __getattr__(self, name):
        def call(*arguments, **named):
            when = next(self.breaks, None)
            if when == "before":
                raise HostError("lost")
            answer = getattr(self.ledger, name)(*arguments, **named)
            if when == "after":
                raise HostError("lost")
            return answer

        return call


charges = st.tuples(st.just("charge"), st.sampled_from(HOLDERS), st.integers(0, 60))
others = st.tuples(st.sampled_from(["settle", "tick", "die"]), st.sampled_from(HOLDERS), st.integers(0, 1))
waits = st.tuples(st.just("wait"), st.none(), st.integers(0, 40))
actions = st.lists(charges | charges | charges | others | waits, max_size=60)
breaks = st.lists(st.sampled_from([None, None, None, "before", "after"]), max_size=60)


@given(actions, breaks, st.integers(0, 1500), st.sampled_from([0.01, 0.5, 3.0]))
def test_nobody_sends_more_than_was_granted_and_nothing_settled_is_lost(actions, breaks, granted, most_share):
    ledger = Ledger()
    ledger.grant(granted, 0)
    now = [0.0]
    line = Line(ledger, breaks)
    ear = Tally(ledger, "ear", 0)
    sent = Counter()

    def open_purse(holder):
        while True:
            with suppress(HostError):
                return Purse(line, holder, settle_seconds=1.0, most_share=most_share, clock=lambda: now[0])

    purses = {holder: open_purse(holder) for holder in HOLDERS}
    for action, holder, number in actions:
        try:
            if action == "charge":
                sender = HOLDERS.index(holder)
                round_ = purses[holder].charge(sender, (9,), number)
                sent[holder, purses[holder].epoch] += number
                ear.hear(round_, sender, 9, number)
            elif action == "wait":
                now[0] += number / 20
            elif action == "die":
                purses[holder] = open_purse(holder)
            else:
                getattr(purses[holder], action)()
        except (HostError, OverBudget):
            pass
        assert sum(sent.values()) <= granted
        statement = ledger.statement()
        assert statement.spent + statement.leased + statement.available == granted
    line.breaks = iter(())
    for purse in purses.values():
        purse.close()
    ear.close()
    report = audit(ledger.journal)
    assert report.differences == []
    booked = Counter()
    for entry in ledger.journal.entries():
        booked[entry.holder, entry.epoch] += entry.bits
    for holder, purse in purses.items():
        assert booked[holder, purse.epoch] == sent[holder, purse.epoch]
    assert all(booked[key] <= sent[key] for key in booked)
    assert sum(sent.values()) <= report.statement.spent == granted - report.statement.available
    assert report.statement.leased == 0
