"""The ledger against a model that anyone can check by eye, over any sequence of calls, crashes and reopenings.

Two ledgers, as of two processes, act in turn on one file. Any call may be struck at any statement that writes: the
statement fails, the program is interrupted, the power is cut before it, in the middle of it or just after it; or the
disk is full, the file locked or read-only. After each call the model, both ledgers and the file agree.

A few hundred steps by default. The big run, which counts its steps and says what it did:

    COMMLIB_LEDGER_STEPS=20000 python -m pytest tests/property/test_ledger_machine.py
"""

import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from commlib.audit import audit
from commlib.budget import Budget
from commlib.compact import compact
from commlib.errors import CommlibError, JournalError, LeaseError, OverBudget
from commlib.journal import KINDS, MAIN, Journal, Statement, Terms
from commlib.ledger import Entry, Lease, Ledger, Receipt

ASKED = int(os.environ.get("COMMLIB_LEDGER_STEPS", "600"))
STEPS_PER_EXAMPLE = 50
COUNTS = Counter()
MEMORY = Path("/dev/shm")

HOLDERS = ("a", "b", "c")
ACCOUNTS = {MAIN: None, "counted": Terms("messages", "", 20), "waited": Terms("latency", "", None, agents=(0, 1))}
MISSING = "other"
WRITES = ("INSERT", "UPDATE", "DELETE", "COMMIT", "VACUUM")
LISTENER = 9

FATES = (
    *("settle expire", "expire settle", "expire settle settle", "expire release", "expire fence settle"),
    *("expire fence release", "expire compact settle", "expire fence compact settle", "fence expire", "compact expire"),
)

few = st.integers(0, 40)
numbers = st.integers(0, 6)
holders = st.sampled_from(HOLDERS)
accounts = st.sampled_from([MAIN, *ACCOUNTS])
whom = st.integers(0, 1)
sizes = st.lists(st.integers(0, 20), max_size=3)
spans = st.sampled_from([None, None, None, 0.0, 0.5, 2.0])


# --- what may strike


class PowerCut(BaseException):
    """The machine stops here."""


class Fault(NamedTuple):
    kind: str
    nth: int = 0


STRIKES = ("error", "half", "interrupt", "cut", "half, cut", "cut after")
STATES = ("full", "locked", "read-only")
faults = st.one_of(
    st.just(None),
    st.just(Fault("none")),
    st.builds(Fault, st.sampled_from(STRIKES), st.integers(1, 6)),
    st.builds(Fault, st.sampled_from(STRIKES), st.integers(1, 24)),
    st.builds(Fault, st.sampled_from(STATES), st.just(0)),
).map(lambda fault: fault if fault and fault.kind != "none" else None)


class Connection(sqlite3.Connection):
    """A connection to SQLite that can be struck at its nth writing statement."""

    fault: Fault | None = None
    n_writes = 0
    has_committed = False
    struck = ""

    def arm(self, fault):
        self.fault, self.n_writes, self.has_committed, self.struck = fault, 0, False, ""

    def execute(self, sql, *parameters):
        run = super().execute
        return self._strike(sql, lambda share: run(sql, *parameters) if share == 1 else None)

    def executemany(self, sql, rows):
        rows, run = list(rows), super().executemany
        return self._strike(sql, lambda share: run(sql, rows[: int(share * len(rows))]))

    def _strike(self, sql, run):
        verb = sql.split(None, 1)[0].upper()
        if verb not in WRITES or self.fault is None:
            return run(1)
        self.n_writes += 1
        kind, nth = self.fault
        if self.n_writes == nth:
            self.struck = f"{kind} at {verb}"
            if "half" in kind and verb != "COMMIT":
                run(0.5)
            if kind == "cut after":
                self.has_committed |= run(1) is not None and verb == "COMMIT"
            if "cut" in kind:
                self.close()
                raise PowerCut
            if kind == "interrupt":
                raise KeyboardInterrupt
            raise sqlite3.OperationalError("disk I/O error")
        done = run(1)
        self.has_committed |= verb == "COMMIT"
        return done


# --- the model


class Refused(Exception):
    """The ledger is to raise this kind of error."""

    def __init__(self, kind):
        self.kind = kind


class Record:
    """A lease in the model."""

    def __init__(self, bits, minted, deadline):
        self.bits, self.minted, self.deadline = bits, minted, deadline
        self.state, self.spent, self.entries = "open", 0, []


class Model:
    """Dictionaries of what was booked, and their sums worked out anew each time."""

    def __init__(self, *, is_capped, is_by_round):
        self.terms = dict(ACCOUNTS)
        self.terms[MAIN] = Terms("bits", "step", 50) if is_capped else Terms("bits", "run", None)
        self.allowances, self.leases, self.receipts, self.notes, self.prices = {}, {}, {}, {}, {}
        self.epochs = dict.fromkeys(HOLDERS, 0)
        self.highest = {}
        self.carried = {account: Counter() for account in self.terms}
        self.is_by_round, self.rounds_were_sequences = is_by_round, True
        self.now = 1000.0
        self.base = self.n_rounds = 0

    # What the books come to.

    def of(self, account):
        return [record for slot, record in self.leases.items() if slot[0] == account]

    def statement(self, account):
        leases, carried = self.of(account), self.carried[account]
        granted = carried["granted"] + sum(lease.minted for lease in leases)
        for (name, kind, _), (_, taken) in self.allowances.items():
            granted += 0 if name != account else taken if kind == "grant" else -taken
        spent = carried["spent"] + sum(lease.spent for lease in leases)
        leased = sum(lease.bits for lease in leases if lease.state == "open")
        if account != MAIN:
            return Statement(granted, spent, leased, granted - spent - leased)
        counts = {kind: [sum(column) for column in zip((0, 0), *self.noted(kind), strict=True)] for kind in KINDS}
        n_entries = carried["entries"] + sum(len(lease.entries) for lease in leases)
        return Statement(
            *(granted, spent, leased, granted - spent - leased, *counts["dropped"], n_entries),
            *(counts["degraded"][0], counts["deferred"][0]),
        )

    def noted(self, kind):
        return [row for (name, _), row in self.notes.items() if name == kind]

    def open_slots(self):
        return {slot for slot, lease in self.leases.items() if lease.state == "open"}

    def may_be_late(self, slot):
        return self.leases[slot].state == "expired" and slot[2] == self.epochs[slot[1]]

    def reconciles(self):
        """Whether the audit is to find nothing: all that was debited was heard, or is excused by the dead."""
        debits, orphans = Counter(), Counter()
        for lease in self.leases.values():
            if lease.state == "overspent":
                return False
            debits.update({(entry.round, entry.sender): 1 + entry.bits for entry in lease.entries})
        for receipt in self.receipts.values():
            debit = debits.pop((receipt.round, receipt.sender), None)
            if debit is None:
                orphans[receipt.round, receipt.sender] += receipt.bits
            elif debit != 1 + receipt.bits:
                return False
        lost = self.carried[MAIN]["lost"] - self.carried[MAIN]["recovered"]
        lost += sum(lease.spent for lease in self.of(MAIN) if lease.state in {"fenced", "expired"})
        return not debits and sum(orphans.values()) <= lost

    # What is done to them: each gives what the ledger is to give, or raises Refused.

    def open_account(self, account, terms):
        if self.terms.setdefault(account, terms) != terms:
            raise Refused(JournalError)
        self.carried.setdefault(account, Counter())

    def grant(self, account, bits, sequence):
        return self.allow("grant", account, bits, sequence, bits)

    def withdraw(self, account, bits, sequence):
        return self.allow("withdrawal", account, bits, sequence, min(bits, self.statement(account).available))

    def allow(self, kind, account, bits, sequence, taken):
        if sequence <= self.highest.get((kind, account, "", 0), -1):
            raise Refused(JournalError)
        asked, taken = self.allowances.setdefault((account, kind, sequence), (bits, taken))
        if asked != bits:
            raise Refused(JournalError)
        return taken

    def lease(self, account, holder, bits, sequence, seconds):
        slot = (account, holder, self.epochs[holder], sequence)
        known = self.leases.get(slot)
        if known is None:
            if sequence <= self.highest.get(("lease", account, *slot[1:3]), -1):
                raise Refused(LeaseError)
            lacking = max(0, bits - self.statement(account).available)
            if lacking and self.terms[account].amount is not None:
                raise Refused(OverBudget)
            deadline = None if seconds is None else int(1000 * (self.now + seconds))
            self.leases[slot] = Record(bits, lacking, deadline)
        elif known.bits != bits:
            raise Refused(LeaseError)
        return slot

    def lease_again(self, slot, bits):
        known = self.leases.get(slot)
        if known is not None and known.bits == bits:
            return slot
        if known is not None or slot[2] != self.epochs[slot[1]]:
            raise Refused(LeaseError)
        return self.lease(slot[0], slot[1], bits, slot[3], None)

    def settle(self, slot, amount, entries, receipts):
        lease = self.closable(slot)
        if lease is None:
            lease = self.leases[slot]
            if lease.state not in {"settled", "late"} or (lease.spent, lease.entries) != (amount, entries):
                raise Refused(LeaseError)
        elif amount > lease.bits:
            lease.state, lease.spent = "overspent", lease.bits
            raise Refused(LeaseError)
        else:
            lease.state = "settled" if lease.state == "open" else "late"
            lease.spent, lease.entries = amount, entries
        self.receive(receipts)

    def release(self, slot):
        lease = self.closable(slot)
        if lease is None:
            if self.leases[slot].state != "released":
                raise Refused(LeaseError)
        else:
            lease.state, lease.spent = "released", 0

    def closable(self, slot):
        """The lease, if it is open or can still be closed late; None if it is closed."""
        if slot not in self.leases:
            raise Refused(LeaseError)
        lease = self.leases[slot]
        if lease.state == "expired" and not self.may_be_late(slot):
            raise Refused(LeaseError)
        return lease if lease.state in {"open", "expired"} else None

    def fence(self, holder):
        for slot in self.open_slots():
            if slot[1] == holder:
                self.leases[slot].state, self.leases[slot].spent = "fenced", self.leases[slot].bits
        self.epochs[holder] += 1
        return self.epochs[holder]

    def expire(self):
        over = {
            slot
            for slot in self.open_slots()
            if self.leases[slot].deadline is not None and self.leases[slot].deadline <= 1000 * self.now
        }
        for slot in over:
            self.leases[slot].state, self.leases[slot].spent = "expired", self.leases[slot].bits
        return over

    def receive(self, receipts):
        kept = dict(self.receipts)
        for receipt in receipts:
            key = (*receipt[:3], receipt.sender)
            is_gone = receipt.sequence <= self.highest.get(("receipt", "", *receipt[:2]), -1)
            if is_gone or kept.setdefault(key, receipt) != receipt:
                raise Refused(JournalError)
        self.receipts = kept

    def note(self, kind, n, bits, sequence):
        if self.notes.setdefault((kind, sequence), (n, bits)) != (n, bits):
            raise Refused(JournalError)

    def note_price(self, account, price, sequence):
        if self.prices.setdefault((account, sequence), price) != price:
            raise Refused(JournalError)

    def compact(self):
        if not self.reconciles():
            raise Refused(JournalError)
        pending = {slot for slot in self.leases if slot in self.open_slots() or self.may_be_late(slot)}
        slips = [*self.receipts.values(), *(entry for lease in self.leases.values() for entry in lease.entries)]
        is_by_round = self.rounds_were_sequences and all(slip.round == slip.sequence for slip in slips)
        if not is_by_round and not pending <= self.open_slots():
            raise Refused(JournalError)
        self.rounds_were_sequences = is_by_round
        end = min((slot[3] for slot in pending), default=10**9) if is_by_round else 10**9
        for slot in [slot for slot in self.leases if slot not in pending and slot[3] < end]:
            self.carry_lease(slot, self.leases.pop(slot))
        for key in [key for key, receipt in self.receipts.items() if receipt.sequence < end]:
            receipt = self.receipts.pop(key)
            self.raise_to(("receipt", "", *key[:2]), receipt.sequence)
            self.carried[MAIN]["recovered"] += receipt.bits if receipt.sender % 10 == 7 else 0
        for (account, kind, sequence), (_, taken) in self.allowances.items():
            self.carried[account]["granted"] += taken if kind == "grant" else -taken
            self.raise_to((kind, account, "", 0), sequence)
        self.allowances = {}

    def carry_lease(self, slot, lease):
        carried = self.carried[slot[0]]
        carried["granted"] += lease.minted
        carried["spent"] += lease.spent
        carried["entries"] += len(lease.entries)
        carried["lost"] += lease.spent if lease.state in {"fenced", "expired"} else 0
        self.raise_to(("lease", *slot[:3]), slot[3])

    def raise_to(self, counter, sequence):
        self.highest[counter] = max(sequence, self.highest.get(counter, -1))


# --- the machine


class Call(NamedTuple):
    """Something to do to the model and to a ledger."""

    name: str
    model: tuple[object, ...]
    ledger: object  # a function of the ledger


class LedgerMachine(RuleBasedStateMachine):
    leases = Bundle("leases")

    @initialize(is_capped=st.booleans(), is_by_round=st.booleans(), may_be_wrong=st.sampled_from([False, False, True]))
    def open(self, is_capped, is_by_round, may_be_wrong):
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.path = self.folder / "journal.sqlite"
        self.model = Model(is_capped=is_capped, is_by_round=is_by_round)
        self.may_be_wrong = may_be_wrong
        self.held = {}  # what holders remember of their leases
        self.heard = []  # what receivers remember to have heard, or were about to
        self.ledgers = [self.load(Budget(50, "step") if is_capped else Budget(None)), self.load()]
        for account, terms in ACCOUNTS.items():
            if terms is not None:
                self.ledgers[0].open_account(account, terms)
        self.do(0, None, self.grant_call("counted", 100, 0))

    def load(self, budget=None):
        connect = sqlite3.connect
        with mock.patch.object(sqlite3, "connect", lambda *args, **named: connect(*args, factory=Connection, **named)):
            ledger = Ledger(Journal(self.path, busy_seconds=0.0), budget=budget, clock=lambda: self.model.now)
        ledger.journal._connection.execute("PRAGMA synchronous = OFF")  # no power is cut in earnest: be quick
        return ledger

    def teardown(self):
        if hasattr(self, "model"):
            for ledger in self.ledgers:
                ledger.close()
            shutil.rmtree(self.folder)

    # How a call is made.

    def do(self, who, fault, *calls):
        """Make calls, in one round if there are several, with a fault in it; what they gave, and whether they did it."""
        COUNTS["steps"] += 1
        for call in calls:
            COUNTS["call", call.name] += 1
        before, digest = deepcopy(self.model), self.ledgers[1 - who].journal.digest()
        wanted, refusal = [], None
        try:
            wanted.extend(getattr(self.model, call.name)(*call.model) for call in calls)
        except Refused as refused:
            refusal = refused.kind
            # What is refused within a round takes the others back, an overspent lease as well; and a conflict moves nothing.
            if len(calls) > 1 or refusal is JournalError:
                self.model = deepcopy(before)
        if fault is not None and fault.kind in STATES:
            is_done, given = self.in_a_bad_state(who, fault.kind, refusal, calls)
        else:
            is_done, given = self.struck(who, fault, refusal, calls)
        if not is_done:
            self.model = before
            assert self.ledgers[who].journal.digest() == digest
        elif refusal is None and given is not None:
            assert [given_one for given_one in given if given_one is not None] == [
                wanted_one for wanted_one in wanted if wanted_one is not None
            ]
        self.all_agree()
        return is_done and refusal is None

    def struck(self, who, fault, refusal, calls):
        """Make the calls with a fault at a writing statement; whether they were booked, and what they gave."""
        ledger = self.ledgers[who]
        connection = ledger.journal._connection
        connection.arm(fault or Fault("none"))
        given = raised = None
        try:
            given = self.make(ledger, calls)
        except (CommlibError, KeyboardInterrupt, PowerCut) as error:
            raised = error
        has_struck, has_committed = connection.struck, connection.has_committed
        connection.arm(None)
        if has_struck:
            COUNTS["fault", has_struck] += 1
            assert raised is not None or has_committed
            assert has_committed or isinstance(raised, JournalError | KeyboardInterrupt | PowerCut), raised
            if isinstance(raised, PowerCut):
                ledger.close()
                self.ledgers[who] = self.load()
            return has_committed, None
        self.check_raised(raised, refusal)
        return True, given

    def in_a_bad_state(self, who, kind, refusal, calls):
        ledger, raised, given = self.ledgers[who], None, None
        connection = ledger.journal._connection
        holder = reader = None
        if kind == "full":
            (n_pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {n_pages}")
        elif kind == "locked":
            holder = sqlite3.connect(self.path, isolation_level=None)
            holder.execute("BEGIN IMMEDIATE")
        else:
            ledger = reader = Ledger(Journal.reader(self.path), clock=lambda: self.model.now)
        try:
            if kind == "full":  # most calls find room in the pages that are there: fill these, in the same round
                with ledger.round():
                    self.make(ledger, calls)
                    ledger.journal.set_meta("filler", "x" * 10_000)
            else:
                given = self.make(ledger, calls)
        except CommlibError as error:
            raised = error
        finally:
            if kind == "full":
                connection.execute("PRAGMA max_page_count = 1000000")
            elif holder is not None:
                holder.execute("ROLLBACK")
                holder.close()
            elif reader is not None:
                reader.close()
        signs = {"full": "its disk is full", "locked": "is locked by another", "read-only": "is read-only"}
        if isinstance(raised, JournalError) and signs[kind] in str(raised):
            COUNTS["fault", kind] += 1
            return False, None
        assert kind != "locked", raised
        assert kind != "full" or refusal is not None, raised
        self.check_raised(raised, refusal)
        return kind != "full", given  # read-only: there was nothing to write

    def make(self, ledger, calls):
        if len(calls) == 1:
            return [calls[0].ledger(ledger)]
        with ledger.round():
            return [call.ledger(ledger) for call in calls]

    def check_raised(self, raised, refusal):
        if refusal is None:
            assert raised is None, f"{type(raised).__name__}: {raised}"
        else:
            assert isinstance(raised, refusal), f"{refusal.__name__} was to be raised, and it was {raised!r}"
            COUNTS["refused", refusal.__name__] += 1

    def sequence(self, number):
        return self.model.base + number

    # The calls.

    def grant_call(self, account, bits, number):
        sequence = self.sequence(number)

        def grant(ledger):
            assert ledger.grant(bits, sequence, account=account) == ledger.statement(account)
            return bits

        return Call("grant", (account, bits, sequence), grant)

    def withdraw_call(self, account, bits, number):
        sequence = self.sequence(number)
        return Call(
            "withdraw", (account, bits, sequence), lambda ledger: ledger.withdraw(bits, sequence, account=account)
        )

    def lease_call(self, account, holder, bits, number, seconds):
        sequence = self.sequence(number)

        def lease(ledger):
            given = ledger.lease(holder, bits, sequence, account=account, seconds=seconds)
            return given.account, *given.key

        return Call("lease", (account, holder, bits, sequence, seconds), lease)

    def settle_call(self, slot, amounts, *, is_heard, again):
        account, holder, epoch, sequence = slot
        known = self.model.leases.get(slot)
        if again and known is not None and known.state in {"settled", "late"}:
            amount, entries = known.spent, known.entries
        else:
            amount = sum(amounts)
            self.model.n_rounds += 1
            round_ = sequence if self.model.is_by_round else 10**6 + self.model.n_rounds
            entries = [
                Entry(
                    epoch, sequence, round_, 100 * epoch + 10 * HOLDERS.index(holder) + k, (LISTENER,), 1, n, 0, holder
                )
                for k, n in enumerate(amounts)
            ]
        if account != MAIN:
            entries = []
        receipts = [
            Receipt("ear", 0, entry.round, entry.round, entry.sender, LISTENER, 1, entry.bits) for entry in entries
        ]
        receipts = receipts if is_heard else []
        self.heard += receipts
        lease = self.lease_at(slot)

        def settle(ledger):
            with ledger.round():
                ledger.settle(lease, entries) if account == MAIN else ledger.settle_at(lease, amount)
                if receipts:
                    ledger.receive(receipts)

        def overspend(ledger):  # a round of its own would take the overspent lease back
            ledger.settle(lease, entries) if account == MAIN else ledger.settle_at(lease, amount)

        is_over = amount > lease.bits
        return Call("settle", (slot, amount, entries, receipts), overspend if is_over else settle)

    def lease_at(self, slot):
        """The lease as a holder remembers it."""
        account, holder, epoch, sequence = slot
        return Lease(0, holder, epoch, sequence, self.held[slot], account)

    # The rules.

    @rule(who=whom, fault=faults, account=accounts, bits=st.integers(0, 150), number=numbers)
    def grant(self, who, fault, account, bits, number):
        self.do(who, fault, self.grant_call(account, bits, number))

    @rule(who=whom, fault=faults, account=accounts, bits=few, number=numbers)
    def withdraw(self, who, fault, account, bits, number):
        self.do(who, fault, self.withdraw_call(account, bits, number))

    @rule(
        target=leases, who=whom, fault=faults, account=accounts, holder=holders, bits=few, number=numbers, seconds=spans
    )
    def lease(self, who, fault, account, holder, bits, number, seconds):
        slot = (account, holder, self.model.epochs[holder], self.sequence(number))
        if not self.do(who, fault, self.lease_call(account, holder, bits, number, seconds)):
            return multiple()
        self.held[slot] = bits
        return slot

    @rule(
        who=whom, fault=faults, slot=leases, spared=st.integers(-1, 5), is_heard=st.integers(0, 15), again=st.booleans()
    )
    def settle(self, who, fault, slot, spared, is_heard, again):
        spared = spared if self.may_be_wrong else abs(spared)
        is_heard = is_heard < 15 or not self.may_be_wrong
        amounts = self.split(max(0, self.held[slot] - spared))
        self.do(who, fault, self.settle_call(slot, amounts, is_heard=is_heard, again=again))

    def split(self, total):
        """Up to three entries of this size together."""
        parts = [total // 2, total - total // 2 - total // 3, total // 3]
        return [part for part in parts if part]

    @rule(who=whom, fault=faults, slot=leases, more=st.sampled_from([0, 0, 1]), seconds=spans)
    def lease_again(self, who, fault, slot, more, seconds):
        """A retry, perhaps of what was compacted or fenced meanwhile, perhaps not quite the same."""
        account, holder, epoch, sequence = slot
        bits = self.held[slot] + more

        def lease(ledger):
            given = ledger.lease(holder, bits, sequence, epoch=epoch, account=account, seconds=seconds)
            return given.account, *given.key

        self.do(who, fault, Call("lease_again", (slot, bits), lease))

    @precondition(lambda self: self.heard)
    @rule(who=whom, fault=faults, nth=st.integers(0, 10**6), more=st.sampled_from([0, 0, 1]))
    def hear_again(self, who, fault, nth, more):
        receipt = self.heard[nth % len(self.heard)]
        receipts = [receipt._replace(bits=receipt.bits + more)]
        if (*receipt[:3], receipt.sender) in self.model.receipts or self.may_be_wrong or self.is_gone(receipt):
            self.do(who, fault, Call("receive", (receipts,), lambda ledger: ledger.receive(receipts)))

    def is_gone(self, receipt):
        return receipt.sequence <= self.model.highest.get(("receipt", "", *receipt[:2]), -1)

    @rule(
        target=leases,
        who=whom,
        faults=st.tuples(*[faults] * 5),
        account=accounts,
        holder=holders,
        bits=st.integers(1, 20),
        number=numbers,
        waits=st.sampled_from([0.25, 0.5, 0.5, 1.0]),
        then=st.sampled_from(FATES),
    )
    def be_late(self, who, faults, account, holder, bits, number, waits, then):
        """A holder that is given half a second."""
        slot = (account, holder, self.model.epochs[holder], self.sequence(number))
        if not self.do(who, faults[0], self.lease_call(account, holder, bits, number, 0.5)):
            return multiple()
        self.held[slot] = bits
        self.model.now += waits
        for fault, name in zip(faults[1:], then.split(), strict=False):
            if name == "expire":
                self.expire(who, fault)
            elif name == "fence":
                self.fence(who, fault, holder)
            elif name == "compact":
                self.compact(who, fault, 0)
            elif name == "settle":
                self.settle(1 - who, fault, slot, 1, 0, False)
            else:
                self.release(1 - who, fault, slot)
        return slot

    @rule(
        target=leases,
        who=whom,
        faults=st.tuples(faults, faults),
        account=accounts,
        holder=holders,
        number=numbers,
        amounts=sizes,
    )
    def lease_and_settle(self, who, faults, account, holder, number, amounts):
        """What hosts do all day."""
        bits = 10 + sum(amounts)
        slot = (account, holder, self.model.epochs[holder], self.sequence(number))
        if not self.do(who, faults[0], self.lease_call(account, holder, bits, number, None)):
            return multiple()
        self.held[slot] = bits
        self.do(1 - who, faults[1], self.settle_call(slot, amounts, is_heard=True, again=False))
        return slot

    @rule(who=whom, fault=faults, slot=leases)
    def release(self, who, fault, slot):
        lease = self.lease_at(slot)
        self.do(who, fault, Call("release", (slot,), lambda ledger: ledger.release(lease) and None))

    @rule(who=whom, fault=faults, holder=holders)
    def fence(self, who, fault, holder):
        self.do(who, fault, Call("fence", (holder,), lambda ledger: ledger.fence(holder)))

    @rule(quarters=st.integers(1, 8))
    def wait(self, quarters):
        COUNTS["steps"] += 1
        self.model.now += quarters / 4
        self.all_agree()

    @rule(who=whom, fault=faults)
    def expire(self, who, fault):
        def expire(ledger):
            return {(lease.account, *lease.key) for lease in ledger.expire()}

        self.do(who, fault, Call("expire", (), expire))

    @rule(who=whom, fault=faults, slot=leases, share=st.floats(0, 1))
    def hear_the_dead(self, who, fault, slot, share):
        """Part of what a lost lease held was sent and heard."""
        lease = self.model.leases.get(slot)
        if lease is None or slot[0] != MAIN or lease.state not in {"fenced", "expired"}:
            return
        _, holder, epoch, sequence = slot
        self.model.n_rounds += 1
        round_ = sequence if self.model.is_by_round else 10**6 + self.model.n_rounds
        sender = 100 * epoch + 10 * HOLDERS.index(holder) + 7
        if any((receipt.round, receipt.sender) == (round_, sender) for receipt in self.model.receipts.values()):
            return
        receipts = [Receipt("ear", 0, round_, round_, sender, LISTENER, 1, int(share * lease.bits))]
        if not self.may_be_wrong and self.model.may_be_late(slot):
            return  # settled late, it would be heard twice
        self.do(who, fault, Call("receive", (receipts,), lambda ledger: ledger.receive(receipts)))

    @precondition(lambda self: self.may_be_wrong)
    @rule(who=whom, fault=faults, number=numbers, bits=few, rare=st.integers(0, 3))
    def hear_nonsense(self, who, fault, number, bits, rare):
        if rare:
            return
        receipts = [Receipt("ear", 0, self.sequence(number), self.sequence(number), 8, LISTENER, 1, bits)]
        self.do(who, fault, Call("receive", (receipts,), lambda ledger: ledger.receive(receipts)))

    @rule(
        who=whom,
        fault=faults,
        what=st.sampled_from([*KINDS, "price", "account"]),
        account=st.sampled_from([*ACCOUNTS, MISSING]),
        n=st.integers(0, 3),
        number=numbers,
    )
    def write_aside(self, who, fault, what, account, n, number):
        """A note, a price, an account: what moves nothing."""
        sequence = self.sequence(number)
        if what == "account":
            name, terms = MISSING if account == MAIN else account, Terms("messages", "", (20, None)[n % 2])
            call = Call("open_account", (name, terms), lambda ledger: ledger.open_account(name, terms))
        elif what == "price":
            account = account if account in self.model.terms else MAIN
            call = Call(
                "note_price", (account, n / 3, sequence), lambda ledger: ledger.note_price(account, n / 3, sequence)
            )
        else:
            call = Call(
                "note", (what, n, 7 * n, sequence), lambda ledger: ledger.note(what, n, 7 * n, sequence) and None
            )
        self.do(who, fault, call)

    @rule(who=whom, fault=faults, nth=st.integers(0, 10**6))
    def compact(self, who, fault, nth):
        journal = self.ledgers[who].journal
        digest = journal.digest()
        if self.do(who, fault, Call("compact", (), lambda ledger: compact(ledger.journal) and None)):
            COUNTS["compacted"] += 1
            assert self.ledgers[who].journal.digest() == digest
            self.model.base += 7
            self.repeat_what_is_gone(who, nth)

    def repeat_what_is_gone(self, who, nth):
        receipts = [receipt for receipt in self.heard if self.is_gone(receipt)]
        if receipts:
            again = [receipts[nth % len(receipts)]]
            self.do(who, None, Call("receive", (again,), lambda ledger: ledger.receive(again)))
        slots = sorted(slot for slot in self.held if slot not in self.model.leases)
        if slots:
            self.lease_again(who, None, slots[nth % len(slots)], 0, None)
            self.settle(who, None, slots[nth % len(slots)], 0, 0, True)

    @rule(
        who=whom,
        fault=faults,
        slot=st.none() | leases,
        holder=holders,
        account=accounts,
        amounts=st.tuples(few, few, few),
        number=numbers,
    )
    def several(self, who, fault, slot, holder, account, amounts, number):
        """What a play does in a round: a grant, leases in two accounts, a settlement, a withdrawal; one commit."""
        granted, leased, withdrawn = amounts
        calls = [
            self.grant_call(account, granted, number),
            self.lease_call(MAIN, holder, leased, number, None),
            self.lease_call(account, holder, leased, number, None),
        ]
        if slot is not None:
            calls.append(self.settle_call(slot, [], is_heard=True, again=True))
        calls.append(self.withdraw_call(account, withdrawn, number))
        self.do(who, fault, *calls)

    @rule(who=whom)
    def reopen(self, who):
        COUNTS["steps"] += 1
        digest = self.ledgers[who].journal.digest()
        self.ledgers[who].close()
        self.ledgers[who] = self.load()
        assert self.ledgers[who].journal.digest() == digest
        self.all_agree()

    def all_agree(self):
        """The invariant, after each call: a rule may make several."""
        wanted = {account: self.model.statement(account) for account in self.model.terms}
        for now in wanted.values():
            assert now.spent + now.leased + now.available == now.granted
            assert min(now) >= 0
        for ledger in self.ledgers:
            assert ledger.statements() == wanted
            assert ledger.accounts() == self.model.terms
            assert {holder: ledger.epoch(holder) for holder in HOLDERS} == self.model.epochs
            assert {(lease.account, *lease.key) for lease in ledger.journal.held()} == self.model.open_slots()
        journal = self.ledgers[COUNTS["steps"] % 2].journal
        report = audit(journal)
        assert report.accounts == wanted
        assert {account: total for account, (_, total) in journal.accounts().items()} == wanted
        assert (report.differences == []) == self.model.reconciles(), report.differences
        assert {price[:2]: price[2] for price in journal.prices()} == self.model.prices


def say(text):
    sys.stdout.write(text + "\n")


@pytest.mark.timeout(0 if ASKED > 1000 else 300)
def test_model_ledgers_and_file_agree_whatever_strikes(capsys):
    started, n_runs = time.perf_counter(), 0
    COUNTS.clear()
    while COUNTS["steps"] < ASKED:
        left = ASKED - COUNTS["steps"]
        chosen = settings(
            max_examples=max(1, min(200, -(-left // STEPS_PER_EXAMPLE))),
            stateful_step_count=STEPS_PER_EXAMPLE,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[__import__("hypothesis").Phase.generate],
        )
        run_machine(seed(n_runs)(LedgerMachine), settings=chosen)
        n_runs += 1
    assert COUNTS["steps"] >= ASKED
    struck = {key[1]: n for key, n in COUNTS.items() if key[0] == "fault"}
    with capsys.disabled():
        say(f"\n{COUNTS['steps']} steps in {time.perf_counter() - started:.0f} s, {sum(struck.values())} faults")
        for kind in (*STRIKES, *STATES):
            mine = {what: n for what, n in sorted(struck.items()) if what == kind or what.startswith(f"{kind} at")}
            say(f"  {kind}: {sum(mine.values())}" + (f" {mine}" if kind in STRIKES else ""))
        say(f"  refusals: { {key[1]: n for key, n in COUNTS.items() if key[0] == 'refused'} }")
        say(f"  calls: { {key[1]: n for key, n in COUNTS.items() if key[0] == 'call'} }")
        say(f"  compactions that went through: {COUNTS['compacted']}")
    if ASKED >= 10_000:
        assert all(any(what.startswith(kind) for what in struck) for kind in (*STRIKES, *STATES))
        assert all(any(what.endswith(f"at {verb}") for what in struck) for verb in WRITES)
        assert COUNTS["compacted"] > 0
