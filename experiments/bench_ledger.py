"""What a charge costs: debits out of a lease against a call to the ledger for each message, on Ray actors, durable both.

Four hosts are actors that do nothing but charge; the ledger is a fifth, on a journal file whose every commit has reached
the disk. In one lap the hosts spend from purses; in the next they ask a toll gate: one call per message, in which the
ledger leases, settles and commits, and which they wait for. A lap ends when all that was charged in it is in the journal.
What differs is what a crash can cost: nothing at the toll gate, at most one lease with a purse.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from commlib.agents.ledger_host import LedgerHost, RemoteLedger
from commlib.audit import audit
from commlib.errors import OverBudget
from commlib.experiments.bench import Measured, Row, Say, Target, race, table
from commlib.journal import Entry, Journal, Lease, Receipt, Statement, Terms
from commlib.ledger import Ledger
from commlib.purse import Purse
from commlib.units import Bits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from commlib.agents.ray_runtime import Process

TARGETS = {
    "lease_vs_sync": Target(at_least=1000),
    "stranded_share": Target(at_most=0.01),
    "audit_differences": Target(at_most=0),
}
N_HOSTS: Final = 4
BITS: Final = 64
PAYLOAD_BITS: Final = 56
PLENTY: Final = 2**55
_BLOCK: Final = 500


class Told(NamedTuple):
    """What one host sent in a lap: how many messages under each round, and how long each settlement took to be answered."""

    number: int
    rounds: list[tuple[int, int]]
    started: float
    ended: float
    n_calls: int
    answer_seconds: list[float]

    @property
    def n_charges(self) -> int:
        """Messages sent."""
        return sum(n for _, n in self.rounds)


class TollGate(LedgerHost):
    """A ledger that is asked before each message."""

    def pay(self, holder: str, sequence: int, sender: int, receivers: tuple[int, ...], bits: Bits) -> int:
        """Lease and settle in one commit; when this is answered, the charge is in the journal."""
        ledger = self.ledger()
        with ledger.round():
            lease = ledger.lease(holder, bits, sequence)
            round_ = sequence
            entry = Entry(lease.epoch, sequence, round_, sender, receivers, 1, bits, PAYLOAD_BITS, holder)
            ledger.settle(lease, [entry])
        return round_


class _Counting:
    """A way to the ledger that counts calls and notes how long each settlement took."""

    def __init__(self, remote: RemoteLedger) -> None:
        self._remote = remote
        self.n_calls = 0
        self.settle_seconds: list[float] = []

    def fence(self, holder: str) -> int:
        self.n_calls += 1
        return self._remote.fence(holder)

    def lease(
        self, holder: str, bits: Bits, sequence: int, *, epoch: int | None = None, seconds: float | None = None
    ) -> Lease:
        self.n_calls += 1
        return self._remote.lease(holder, bits, sequence, epoch=epoch, seconds=seconds)

    def settle(self, lease: Lease, entries: Iterable[Entry]) -> Statement:
        self.n_calls += 1
        started = time.perf_counter()
        statement = self._remote.settle(lease, entries)
        self.settle_seconds.append(time.perf_counter() - started)
        return statement

    def release(self, lease: Lease) -> Statement:
        self.n_calls += 1
        return self._remote.release(lease)

    def statement(self) -> Statement:
        self.n_calls += 1
        return self._remote.statement()

    def accounts(self) -> dict[str, Terms]:
        self.n_calls += 1
        return self._remote.accounts()


class Spender:
    """A host that does nothing but charge, from a purse or at the toll gate."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._holder = f"host-{number}"
        self._receivers = ((number + 1) % N_HOSTS,)
        self._sequence = 0
        self._purses: dict[str, tuple[Purse, _Counting]] = {}

    def ready(self) -> int:
        """Answer, once the process is up."""
        return self._number

    def spend_from_purse(self, name: str, ledger: Process, seconds: float) -> Told:
        """Charge for so long, or until the budget is out; done when all of it is settled."""
        if name not in self._purses:
            counting = _Counting(RemoteLedger(ledger))
            self._purses[name] = Purse(counting, self._holder), counting
        purse, lender = self._purses[name]
        lender.n_calls, lender.settle_seconds = 0, []
        rounds: list[tuple[int, int]] = []
        started = time.monotonic()
        charge, number, receivers = purse.charge, self._number, self._receivers
        current, n = -1, 0
        try:
            while time.monotonic() < started + seconds:
                for _ in range(_BLOCK):
                    round_ = charge(number, receivers, BITS, PAYLOAD_BITS)
                    if round_ != current:
                        rounds.append((current, n))
                        current, n = round_, 0
                    n += 1
        except OverBudget:
            pass
        purse.settle()
        rounds.append((current, n))
        return Told(number, rounds[1:], started, time.monotonic(), lender.n_calls, lender.settle_seconds)

    def pay_at_gate(self, name: str, gate: Process, seconds: float) -> Told:
        """Ask before each message, for so long."""
        rounds: list[tuple[int, int]] = []
        answers: list[float] = []
        started = asked = time.monotonic()
        while asked < started + seconds:
            round_ = gate.call("pay", self._holder, self._sequence, self._number, self._receivers, BITS)
            self._sequence += 1
            answered = time.monotonic()
            rounds.append((round_, 1))
            answers.append(answered - asked)
            asked = answered
        return Told(self._number, rounds, started, asked, len(rounds), answers)


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """Laps of both ways in turn; then a small budget to its end; then a debit alone."""
    n_laps, lap_seconds, small = (2, 0.3, 2_000_000) if quick else (7, 2.0, 200_000_000)
    with TemporaryDirectory() as folder:
        rows, end = _on_actors(Path(folder), n_laps, lap_seconds, small, say)
    say("a debit alone")
    alone = _debit_alone(n_laps)
    by_way = {way: [row for row in rows if row["way"] == way] for way in ("purse", "gate")}
    ratios = [
        ours["charges_per_second"] / theirs["charges_per_second"]
        for ours, theirs in zip(by_way["purse"], by_way["gate"], strict=True)
    ]
    summary = {
        "lease_vs_sync": statistics.median(ratios),
        "charges_per_second_leased": _median(by_way["purse"], "charges_per_second"),
        "charges_per_second_sync": _median(by_way["gate"], "charges_per_second"),
        "charges_per_call_leased": sum(row["n_charges"] for row in by_way["purse"])
        / sum(row["n_calls"] for row in by_way["purse"]),
        **alone,
        "settle_ms": _median(by_way["purse"], "settle_ms"),
        "sync_call_ms": _median(by_way["gate"], "settle_ms"),
        "stranded_share": end["stranded_share"],
        "audit_differences": end["audit_differences"],
    }
    return Measured([*rows, end], summary, _tables(rows, end))


def _median(rows: Sequence[Row], key: str) -> float:
    return float(statistics.median(row[key] for row in rows))


def _tables(rows: Sequence[Row], end: Row) -> list[Any]:
    columns = {
        "way": "way",
        "lap": "lap",
        "n_charges": "charges",
        "seconds": "seconds",
        "charges_per_second": "charges/s",
        "n_calls": "calls",
        "settle_ms": "ms per settlement",
    }
    ending = {
        "granted": "bits granted",
        "sent": "bits sent",
        "stranded_share": "share stranded",
        "n_calls": "calls",
        "seconds": "seconds",
    }
    return [
        table("four hosts, one budget: leases against a call per message", columns, rows),
        table("a small budget to its end", ending, [end]),
    ]


# --- on actors --------------------------------------------------------------------------------------------------------


def _on_actors(folder: Path, n_laps: int, lap_seconds: float, small: Bits, say: Say) -> tuple[list[Row], Row]:
    """Laps of both ways, and the small budget; each of the three has a ledger and a journal of its own."""
    from commlib.agents.ray_runtime import OnRay, Process

    granted = {"purse": PLENTY, "gate": PLENTY, "end": small}
    ways = {"purse": "spend_from_purse", "gate": "pay_at_gate"}
    told: dict[str, list[Told]] = {name: [] for name in granted}
    with OnRay(N_HOSTS + len(granted)) as ray:
        say("starting actors")
        ledgers = {name: Process(TollGate, str(folder / f"{name}.sqlite"), cpu_share=ray.cpu_share) for name in granted}
        for name, ledger in ledgers.items():
            RemoteLedger(ledger).grant(granted[name], 0)
        hosts = [Process(Spender, number, cpu_share=ray.cpu_share) for number in range(N_HOSTS)]
        _all(hosts, "ready")
        for name, method in ways.items():
            told[name] += _all(hosts, method, name, ledgers[name], 0.1)  # whatever is slower the first time
        rows: list[Row] = []
        for lap in range(n_laps):
            for name, method in ways.items():
                say(f"lap {lap + 1} of {n_laps}: {name}")
                of_lap = _all(hosts, method, name, ledgers[name], lap_seconds)
                told[name] += of_lap
                rows.append({"way": name, "lap": lap, **_row(of_lap)})
        say("a small budget to its end")
        told["end"] = _all(hosts, "spend_from_purse", "end", ledgers["end"], 600.0)
        for name, ledger in ledgers.items():
            _book_receipts(RemoteLedger(ledger), told[name])
            ledger.call("close")
        end = {"way": "end", "granted": small, **_row(told["end"])}
        end["sent"] = end["n_charges"] * BITS
        end["stranded_share"] = 1 - end["sent"] / small
        for process in (*hosts, *ledgers.values()):
            process.end()
    differences = {name: _audit(folder / f"{name}.sqlite", told[name]) for name in granted}
    say("books: " + ", ".join(f"{name} {n} differences" for name, n in differences.items()))
    end["audit_differences"] = sum(differences.values())
    return rows, end


def _all(hosts: Sequence[Process], method: str, *arguments: Any) -> list[Any]:  # noqa: ANN401
    pending = [host.begin(method, *arguments) for host in hosts]
    return [call.answer(600.0) for call in pending]


def _row(told: Sequence[Told]) -> Row:
    seconds = max(one.ended for one in told) - min(one.started for one in told)
    n_charges = sum(one.n_charges for one in told)
    return {
        "n_charges": n_charges,
        "seconds": seconds,
        "charges_per_second": n_charges / seconds,
        "n_calls": sum(one.n_calls for one in told),
        "settle_ms": 1000 * statistics.median(chain.from_iterable(one.answer_seconds for one in told)),
    }


def _book_receipts(ledger: RemoteLedger, told: Sequence[Told]) -> None:
    """What the receivers heard: every message, in the round that it was sent under."""
    receipts: dict[str, list[Receipt]] = {}
    for sender, rounds in ((one.number, one.rounds) for one in told):
        receiver = (sender + 1) % N_HOSTS
        mine = receipts.setdefault(f"ear-{receiver}", [])
        mine += [
            Receipt(f"ear-{receiver}", 0, len(mine) + nth, round_, sender, receiver, n, n * BITS)
            for nth, (round_, n) in enumerate(rounds)
        ]
    for slips in receipts.values():
        for start in range(0, len(slips), 4096):
            ledger.receive(slips[start : start + 4096])


def _audit(path: Path, told: Sequence[Told]) -> int:
    """Differences in the books, and one more if they do not have what the hosts say they sent."""
    with Journal.reader(path) as journal:
        report = audit(journal)
    return len(report.differences) + (report.bits_debited != BITS * sum(one.n_charges for one in told))


# --- alone ------------------------------------------------------------------------------------------------------------


def _debit_alone(n_laps: int) -> dict[str, float]:
    """Nanoseconds of a charge whose lease is at hand, in one process; the lock is part of it, and told by itself."""
    with Ledger() as ledger:
        ledger.grant(PLENTY, 0)
        purse = Purse(ledger, "host-0", settle_seconds=3600.0, most_share=1.0)
        purse.charge(0, (1,), PLENTY // 4)  # so large a charge is the demand of the next lease
        purse.settle()
        charge, receivers, lock = purse.charge, (1,), Lock()

        def debits(number: int) -> None:
            for _ in range(10_000):
                charge(0, receivers, BITS, PAYLOAD_BITS)

        def locks(number: int) -> None:
            for _ in range(10_000):
                with lock:
                    pass

        def nothing(number: int) -> None:
            for _ in range(10_000):
                pass

        laps = race({"debit": debits, "lock": locks, "nothing": nothing}, n_calls=1, n_laps=max(9, 3 * n_laps))
    return {
        "charge_ns": (laps["debit"].median - laps["nothing"].median) * 1e5,
        "lock_ns": (laps["lock"].median - laps["nothing"].median) * 1e5,
    }


def draw(rows: Sequence[Row]) -> Figure:
    """Charges per second of both ways, lap by lap."""
    from commlib.experiments.bench_figures import Line, lines

    names = {"purse": "leases, settled in batches", "gate": "a call for each message"}
    curves = [
        Line(name, [(row["lap"] + 1, row["charges_per_second"]) for row in rows if row["way"] == way])
        for way, name in names.items()
    ]
    return lines({"four hosts, one budget, every settlement on disk": curves}, "lap", "charges per second", log_y=True)
