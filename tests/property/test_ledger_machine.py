"""The ledger against a model that anyone can check by eye, over any sequence of calls, crashes and reopenings."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from commlib.audit import audit
from commlib.budget import Budget
from commlib.errors import JournalError, LeaseError, OverBudget
from commlib.journal import Journal
from commlib.ledger import Entry, Ledger, Receipt

HOLDERS = ("a", "b", "c")
few_bits = st.integers(0, 40)
sequences = st.integers(0, 6)
holders = st.sampled_from(HOLDERS)


class PowerCut(Exception):
    """The machine stops here."""


class LedgerMachine(RuleBasedStateMachine):
    leases = Bundle("leases")

    @initialize(is_capped=st.booleans())
    def open(self, is_capped):
        self.folder = Path(tempfile.mkdtemp())
        self.load(budget=Budget(50, "step") if is_capped else Budget(None))
        self.is_capped = is_capped
        self.granted = 0  # the model: what went in, what each lease holds, and how each one ended
        self.grants, self.withdrawals, self.dropped = {}, {}, {}
        self.known, self.open_keys, self.closed = {}, set(), {}
        self.epochs = dict.fromkeys(HOLDERS, 0)
        self.n_entries = self.n_rounds = 0

    def load(self, budget=None):
        self.ledger = Ledger(Journal(self.folder / "journal.sqlite"), budget=budget)
        self.ledger.journal._connection.execute("PRAGMA synchronous = OFF")  # no power is cut in earnest: be quick

    def teardown(self):
        if hasattr(self, "ledger"):
            assert audit(self.ledger.journal).statement == self.ledger.statement()
            self.ledger.close()
            shutil.rmtree(self.folder)

    @property
    def spent(self):
        return sum(bits for bits, _ in self.closed.values())

    @property
    def leased(self):
        return sum(self.known[key].bits for key in self.open_keys)

    @property
    def available(self):
        return self.granted - self.spent - self.leased

    @rule(bits=few_bits, sequence=sequences)
    def grant(self, bits, sequence):
        if self.grants.setdefault(sequence, bits) == bits:
            is_new = ("grant", sequence) not in self.grants
            self.ledger.grant(bits, sequence)
            self.granted += bits if is_new else 0
            self.grants["grant", sequence] = True
        else:
            with_error(JournalError, self.ledger.grant, bits, sequence)

    @rule(bits=few_bits, sequence=sequences)
    def withdraw(self, bits, sequence):
        if sequence not in self.withdrawals:
            expected = min(bits, self.available)
            self.withdrawals[sequence] = (bits, expected)
            self.granted -= expected
        asked, taken = self.withdrawals[sequence]
        if asked == bits:
            assert self.ledger.withdraw(bits, sequence) == taken
        else:
            with_error(JournalError, self.ledger.withdraw, bits, sequence)

    @rule(target=leases, holder=holders, bits=few_bits, sequence=sequences)
    def lease(self, holder, bits, sequence):
        key = (holder, self.epochs[holder], sequence)
        if key in self.known and self.known[key].bits != bits:
            with_error(LeaseError, self.ledger.lease, holder, bits, sequence)
            return self.known[key]
        if key not in self.known and bits > self.available:
            if self.is_capped:
                with_error(OverBudget, self.ledger.lease, holder, bits, sequence)
                return None
            self.granted += bits - self.available
        lease = self.ledger.lease(holder, bits, sequence)
        assert lease.key == key
        if key in self.known:
            assert lease == self.known[key]
        else:
            self.known[key] = lease
            self.open_keys.add(key)
        return lease

    @rule(lease=leases, sizes=st.lists(st.integers(0, 20), max_size=3))
    def settle(self, lease, sizes):
        if lease is None:
            return
        entries = [Entry(lease.epoch, lease.sequence, 1, k, (9,), 1, n, 0, lease.holder) for k, n in enumerate(sizes)]
        if lease.key not in self.open_keys:
            if self.closed[lease.key] == (sum(sizes), entries):
                self.ledger.settle(lease, entries)
            else:
                with_error(LeaseError, self.ledger.settle, lease, entries)
            return
        self.open_keys.remove(lease.key)
        if sum(sizes) <= lease.bits:
            self.ledger.settle(lease, entries)
            self.closed[lease.key] = (sum(sizes), entries)
            self.n_entries += len(entries)
        else:
            with_error(LeaseError, self.ledger.settle, lease, entries)
            self.closed[lease.key] = (lease.bits, "overspent")

    @rule(lease=leases)
    def release(self, lease):
        if lease is None:
            return
        if lease.key in self.open_keys:
            self.open_keys.remove(lease.key)
            self.closed[lease.key] = (0, "released")
        if self.closed[lease.key] == (0, "released"):
            self.ledger.release(lease)
        else:
            with_error(LeaseError, self.ledger.release, lease)

    @rule(holder=holders)
    def fence(self, holder):
        for key in [key for key in self.open_keys if key[0] == holder]:
            self.open_keys.remove(key)
            self.closed[key] = (self.known[key].bits, "fenced")
        self.epochs[holder] += 1
        assert self.ledger.fence(holder) == self.epochs[holder]

    @rule(holder=holders, sequence=sequences, bits=few_bits)
    def receive(self, holder, sequence, bits):
        receipt = Receipt(holder, self.epochs[holder], sequence, 1, 0, 9, 1, bits)
        recorded = {r[:3]: r for r in self.ledger.journal.receipts()}
        if recorded.get(receipt[:3], receipt) == receipt:
            self.ledger.receive([receipt])
        else:
            with_error(JournalError, self.ledger.receive, [receipt])

    @rule(n=st.integers(0, 3), bits=few_bits, sequence=sequences)
    def note_dropped(self, n, bits, sequence):
        if self.dropped.setdefault(sequence, (n, bits)) == (n, bits):
            self.ledger.note("dropped", n, bits, sequence)
        else:
            with_error(JournalError, self.ledger.note, "dropped", n, bits, sequence)

    @rule(holder=holders, bits=few_bits, before_commit=st.booleans(), is_killed=st.booleans())
    def crash_in_a_round(self, holder, bits, before_commit, is_killed):
        journal, digest = self.ledger.journal, self.ledger.journal.digest()
        before = self.ledger.statement(), self.ledger.epoch(holder)
        commit = journal._commit

        def cut():
            raise PowerCut

        try:
            with self.ledger.round():
                self.n_rounds += 1
                self.ledger.grant(bits, 1000 + self.n_rounds)
                lease = self.ledger.lease(holder, bits, 1000 + self.n_rounds)
                self.ledger.settle(lease, [Entry(lease.epoch, lease.sequence, 2, 0, (9,), 1, bits, 0, holder)])
                self.ledger.fence(holder)
                if not before_commit:
                    raise PowerCut
                if is_killed:  # the process ends with the transaction open: nobody rolls back
                    journal._connection.close()
                journal._commit = cut
        except PowerCut:
            pass
        assert (self.ledger.statement(), self.ledger.epoch(holder)) == before
        if before_commit and is_killed:
            self.load()
        else:
            journal._commit = commit
        assert self.ledger.journal.digest() == digest

    @rule()
    def reopen(self):
        digest = self.ledger.journal.digest()
        self.ledger.close()
        self.load()
        assert self.ledger.journal.digest() == digest

    @invariant()
    def nothing_is_lost_or_made(self):
        if not hasattr(self, "ledger"):
            return
        now = self.ledger.statement()
        assert now.spent + now.leased + now.available == now.granted
        assert min(now) >= 0
        assert now[:4] == (self.granted, self.spent, self.leased, self.available)
        assert now.n_entries == self.n_entries
        assert now.dropped_bits == sum(bits for _, bits in self.dropped.values())
        assert now.dropped_messages == sum(n for n, _ in self.dropped.values())
        assert now == self.ledger.journal.statement()
        assert {lease.key for lease in self.ledger.journal.open_leases()} == self.open_keys
        assert {holder: self.ledger.epoch(holder) for holder in HOLDERS} == self.epochs


def with_error(kind, call, *arguments):
    try:
        call(*arguments)
    except kind:
        return
    raise AssertionError(f"{call.__name__}{arguments} was to raise {kind.__name__}")


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
