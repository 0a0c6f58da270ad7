"""One budget while processes are killed all the time: not a bit is overspent, and no settled charge is lost.

Four hosts are Ray actors that send messages at a steady pace; one of them at random gets SIGKILL every few hundred
milliseconds, unless two are still missing; in a second run the ledger's process is killed as well. Whoever dies is started
again by Ray; meanwhile a spare process takes its place, and opens its purse, which fences what the dead one had in hand.

The books do not testify for themselves. Each host writes what it sends into a file that is mapped into memory, by one
eight-byte store after each debit: that survives SIGKILL, and is at the same time the wire, since the next host in the ring
reads there what it hears and books receipts for it. A lease's messages on an edge are added up to one receipt. When a
settlement was answered, that is written there as well. The witnesses are compared with the journal at the end.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from commlib.agents.ledger_host import LedgerHost, RemoteLedger
from commlib.audit import audit
from commlib.errors import HostError, OverBudget
from commlib.experiments.bench import Measured, Row, Say, Target, table
from commlib.journal import Entry, Journal, Lease, Receipt, Statement, Terms
from commlib.purse import Purse
from commlib.units import Bits, format_bits

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from commlib.agents.ray_runtime import Pending, Process

TARGETS = {
    "overspend_bits": Target(at_most=0),
    "lost_charges": Target(at_most=0),
    "stranded_share": Target(at_most=0.01),
    "audit_differences": Target(at_most=0),
    "kills": Target(at_least=100),
    "ledger_kills": Target(at_least=20),
    "wrong_settlements": Target(at_most=0),
}
N_HOSTS: Final = 4
N_SPARES: Final = 4
SIZES: Final = tuple(range(40, 200))
"""Bits of the messages, drawn at random."""
MESSAGES_PER_SECOND: Final = 20_000
"""Of each host that is alive."""
KILL_SECONDS: Final = (0.3, 0.8)
"""Between two kills, drawn at random; longer where processes come back more slowly than that."""
_LEAST_SENDING: Final = 3
BITS_PER_KILL: Final = 6_000_000
"""... and where so little is sent meanwhile, because others use the machine."""
_KILLS_PER_GRANT: Final = 8
_LOOK_SECONDS: Final = 0.02
_POINT_SECONDS: Final = 5.0
_NAP_SECONDS: Final = 0.002
_BURST: Final = 400
_LISTEN_SECONDS: Final = 0.1


# --- the witness ------------------------------------------------------------------------------------------------------


class Sum(NamedTuple):
    """Messages and their bits."""

    n: int
    bits: Bits


class Witness:
    """What one incarnation of a host sent, and what was answered to it, lease by lease, in a file that outlives it.

    Each sum is the messages times 2^44 plus their bits, so that one store of eight bytes tells both.
    """

    N_LEASES: Final = 1 << 16
    _SHIFT: Final = 44
    _FIRST: Final = 3
    _TOTAL, _N, _PID = range(_FIRST)

    def __init__(self, path: Path) -> None:
        """Open the file, or begin it."""
        self._words = _numbers(path, self._FIRST + 2 * self.N_LEASES)

    @property
    def total(self) -> Bits:
        """Bits sent so far, for a look in passing: the last message may be missing from it."""
        return self._words[self._TOTAL]

    @property
    def pid(self) -> int:
        """The process that writes here."""
        return self._words[self._PID]

    def sign(self) -> None:
        """Say which process writes here: this one."""
        self._words[self._PID] = os.getpid()

    def send(self, sequence: int, bits: Bits) -> None:
        """A message goes out under this lease."""
        words = self._words
        if words[self._N] <= sequence:
            words[self._N] = sequence + 1
        words[self._FIRST + 2 * sequence] += (1 << self._SHIFT) + bits
        words[self._TOTAL] += bits

    def answered(self, sequence: int, n: int, bits: Bits) -> None:
        """The settlement of this lease was answered."""
        self._words[self._FIRST + 2 * sequence + 1] = (n << self._SHIFT) + bits

    def sent(self, first: int = 0) -> list[Sum]:
        """What went out, by lease, from one lease on."""
        return self._sums(self._FIRST + 2 * first)

    def settled(self) -> list[Sum]:
        """What was answered as settled, by lease."""
        return self._sums(self._FIRST + 1)

    def _sums(self, start: int) -> list[Sum]:
        column = self._words[start : self._FIRST + 2 * self._words[self._N] : 2].tolist()
        return [Sum(word >> self._SHIFT, word & ((1 << self._SHIFT) - 1)) for word in column]


def _numbers(path: Path, n: int) -> memoryview[int]:
    """Whole numbers in a file that is mapped into memory."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, 8 * n)
        return memoryview(mmap.mmap(descriptor, 0)).cast("q")
    finally:
        os.close(descriptor)


def _holder(number: int) -> str:
    return f"host-{number}"


def _witness_path(folder: Path, number: int, epoch: int) -> Path:
    return folder / f"{_holder(number)}-{epoch}.witness"


def _epochs(folder: Path, number: int) -> list[int]:
    """The incarnations of a host that left a witness."""
    return sorted(int(path.stem.rpartition("-")[2]) for path in folder.glob(f"{_holder(number)}-*.witness"))


# --- in the ledger's process ------------------------------------------------------------------------------------------


class ReceiptLookup(LedgerHost):
    """A ledger that can also be asked which receipts stand in it."""

    def stand(self, receipts: Sequence[Receipt]) -> list[bool]:
        """For each receipt, whether exactly this one was booked."""
        journal = self.ledger().journal
        return [journal.has_receipt(receipt) for receipt in receipts]


# --- in a host's process ----------------------------------------------------------------------------------------------


class _Witnessed:
    """A way to the ledger that writes down which settlements were answered."""

    def __init__(self, remote: RemoteLedger) -> None:
        self._remote = remote
        self.witness: Witness | None = None

    def fence(self, holder: str) -> int:
        return self._remote.fence(holder)

    def lease(
        self, holder: str, bits: Bits, sequence: int, *, epoch: int | None = None, seconds: float | None = None
    ) -> Lease:
        return self._remote.lease(holder, bits, sequence, epoch=epoch, seconds=seconds)

    def settle(self, lease: Lease, entries: Iterable[Entry]) -> Statement:
        rows = list(entries)
        statement = self._remote.settle(lease, rows)
        if self.witness is not None:
            self.witness.answered(lease.sequence, sum(row.n_messages for row in rows), sum(row.bits for row in rows))
        return statement

    def release(self, lease: Lease) -> Statement:
        return self._remote.release(lease)

    def statement(self) -> Statement:
        return self._remote.statement()

    def accounts(self) -> dict[str, Terms]:
        return self._remote.accounts()


class _Ear:
    """What a host hears of its neighbour, booked once, whichever of its incarnations does it.

    The messages of a lease are over when a later lease has some, or a later incarnation is there. What was booked is noted
    in a file after the answer; so of what is over and not noted, the predecessors may have booked some: a new incarnation
    begins by asking the ledger which.
    """

    def __init__(self, folder: Path, number: int, epoch: int, books: Process) -> None:
        self._folder, self._number, self._epoch = folder, number, epoch
        self._sender = (number - 1) % N_HOSTS
        self._remote = RemoteLedger(books)
        self._witnesses: dict[int, Witness] = {}
        # By incarnation of the sender, how many of its leases are booked; before these, who noted it last.
        self._noted = _numbers(folder / f"{_holder(number)}.heard", 1 + Witness.N_LEASES)
        earlier = range(self._noted[0], epoch)
        over = self._over(is_end=False)
        asked = [row._replace(epoch=before) for row in over.rows for before in earlier]
        stands = _already_booked(books, asked)
        self._book(over._replace(rows=[row for row in over.rows if row.round not in stands]))

    def listen(self, *, is_end: bool = False) -> None:
        """Book what is over; at the end, when nobody sends any more, everything."""
        self._book(self._over(is_end=is_end))

    def _over(self, *, is_end: bool) -> _Over:
        rows: list[Receipt] = []
        upto: dict[int, int] = {}
        incarnations = _epochs(self._folder, self._sender)
        for sender_epoch in incarnations:
            if sender_epoch not in self._witnesses:
                self._witnesses[sender_epoch] = Witness(_witness_path(self._folder, self._sender, sender_epoch))
            first = self._noted[1 + sender_epoch]
            heard = self._witnesses[sender_epoch].sent(first)
            if not is_end and sender_epoch == incarnations[-1]:
                heard = heard[:-1]
            for sequence, (n, bits) in enumerate(heard, start=first):
                if n:
                    round_ = (sender_epoch << 32) + sequence
                    names = (_holder(self._number), self._epoch, round_, round_)
                    rows.append(Receipt(*names, self._sender, self._number, n, bits))
            upto[sender_epoch] = first + len(heard)
        return _Over(rows, upto)

    def _book(self, over: _Over) -> None:
        if over.rows:
            self._remote.receive(over.rows)
        self._noted[0] = self._epoch
        for sender_epoch, n in over.upto.items():
            self._noted[1 + sender_epoch] = n


class _Over(NamedTuple):
    """Receipts to be booked, and how many leases of each incarnation of the sender are booked then."""

    rows: list[Receipt]
    upto: dict[int, int]


class Spender:
    """A host: sends at its pace until the budget is out, and hears its neighbour."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def pid(self) -> int:
        """Its process, once it is up."""
        return os.getpid()

    def spend(self, number: int, books: Process) -> int:
        """Send until nothing more fits and nobody has anything in hand; how many messages were sent."""
        remote = RemoteLedger(books)
        lender = _Witnessed(remote)
        purse = Purse(lender, _holder(number))
        lender.witness = witness = Witness(_witness_path(self._folder, number, purse.epoch))
        witness.sign()
        ear = _Ear(self._folder, number, purse.epoch, books)
        draw = random.Random(f"{number} {purse.epoch}")
        receivers = ((number + 1) % N_HOSTS,)

        def send(bits: Bits) -> None:
            round_ = purse.charge(number, receivers, bits, bits - 8)
            witness.send(round_ & 0xFFFFFFFF, bits)

        n, started, listen_at = 0, time.monotonic(), 0.0
        while True:
            now = time.monotonic()
            due = int((now - started) * MESSAGES_PER_SECOND) - n
            if due > _BURST:  # what was missed while waiting is not made up for, but for a burst
                started += (due - _BURST) / MESSAGES_PER_SECOND
                due = _BURST
            for _ in range(due):
                try:
                    send(draw.choice(SIZES))
                except OverBudget:
                    if not _sends_the_smallest(send):
                        statement = remote.statement()
                        if statement.leased == 0 and statement.available < SIZES[0]:
                            purse.close()
                            ear.listen()
                            return n
                        break
                n += 1
            if now >= listen_at:
                ear.listen()
                listen_at = now + _LISTEN_SECONDS
            time.sleep(_NAP_SECONDS)

    def finish(self, number: int, books: Process) -> None:
        """Book what is still to be booked of what was heard, when nobody sends any more."""
        epoch = RemoteLedger(books).fence(_holder(number))
        _Ear(self._folder, number, epoch, books).listen(is_end=True)


def _sends_the_smallest(send: Callable[[Bits], None]) -> bool:
    try:
        send(SIZES[0])
    except OverBudget:
        return False
    return True


def _already_booked(books: Process, receipts: list[Receipt]) -> set[int]:
    """The rounds of those receipts that stand in the books."""
    patience = 60.0
    give_up_at = time.monotonic() + patience
    while True:
        with suppress(HostError):
            return {
                row.round for row, is_there in zip(receipts, books.call("stand", receipts), strict=True) if is_there
            }
        if time.monotonic() > give_up_at:
            raise HostError(f"the ledger did not answer for {patience:g} s")
        time.sleep(0.05)


# --- the driver -------------------------------------------------------------------------------------------------------


class _AtWork(NamedTuple):
    process: Process
    pid: int
    call: Pending


class _Troupe:
    """Four hosts at work and some processes to spare: whoever dies is replaced at once, and is a spare when it is back."""

    def __init__(self, folder: Path, books: Process, cpu_share: float) -> None:
        from commlib.agents.ray_runtime import Process

        self._folder = folder
        self._books = books
        self._all = [Process(Spender, str(folder), cpu_share=cpu_share) for _ in range(N_HOSTS + N_SPARES)]
        self._starting = [(process, process.begin("pid")) for process in self._all]
        self._spares: list[tuple[Process, int]] = []
        self._at_work: dict[int, _AtWork] = {}
        self._vacant = list(range(N_HOSTS))
        self._witnesses: dict[str, Witness] = {}
        self.n_done = 0

    def look(self) -> None:
        """Who is back, who is done, who is dead."""
        starting, self._starting = self._starting, []
        for process, call in starting:
            if not call.is_over():
                self._starting.append((process, call))
                continue
            with suppress(HostError):
                self._spares.append((process, call.answer()))
                continue
            self._starting.append((process, process.begin("pid")))
        for number, (process, pid, call) in list(self._at_work.items()):
            is_over = call.is_over()
            if is_over:
                with suppress(HostError):
                    call.answer()
                    self.n_done += 1
                    del self._at_work[number]
                    self._spares.append((process, pid))
                    continue
            if is_over or not _is_alive(pid):
                del self._at_work[number]
                self._vacant.append(number)
                self._starting.append((process, process.begin("pid")))
        while self._vacant and self._spares:
            number, (process, pid) = self._vacant.pop(), self._spares.pop()
            self._at_work[number] = _AtWork(process, pid, process.begin("spend", number, self._books))

    def sent(self) -> Bits:
        """Bits that all witnesses together have seen go out, nearly."""
        for path in self._folder.glob("*.witness"):
            if path.name not in self._witnesses:
                self._witnesses[path.name] = Witness(path)
        return sum(witness.total for witness in self._witnesses.values())

    def sending(self) -> list[int]:
        """Processes that are at work and have sent something."""
        seen = {witness.pid for witness in self._witnesses.values() if witness.total}
        return [at_work.pid for at_work in self._at_work.values() if at_work.pid in seen and _is_alive(at_work.pid)]

    def finish(self) -> None:
        """Let every host book what it has heard and not booked."""
        for number in range(N_HOSTS):
            process, _ = self._spares[number % len(self._spares)]
            process.call("finish", number, self._books)

    def end(self) -> None:
        """End all processes."""
        for process in self._all:
            process.end()


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet buried does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def measure(seed: int, quick: bool, say: Say) -> Measured:
    """A run in which hosts die, then one in which the ledger dies as well."""
    n_kills, n_ledger_kills = (6, 2) if quick else (100, 20)
    rows = []
    for name, n_of_ledger in (("hosts", 0), ("hosts and ledger", n_ledger_kills)):
        with TemporaryDirectory() as folder:
            rows.append({"killed": name, **chaos(Path(folder), seed, n_kills, n_of_ledger, say)})
    worst = {key: max(row[key] for row in rows) for key in ("stranded_share",)}
    sums = {
        key: sum(row[key] for row in rows)
        for key in ("overspend_bits", "lost_charges", "wrong_settlements", "audit_differences", "ledger_kills")
    }
    summary = {
        **sums,
        **worst,
        "kills": min(row["kills"] for row in rows),
        "fenced_share": max(row["fenced_share"] for row in rows),
        "kill_seconds": statistics.median(row["seconds"] / row["kills"] for row in rows),
    }
    return Measured(rows, summary, [_table(rows)])


def _table(rows: Sequence[Row]) -> Table:
    columns = {
        "killed": "killed",
        "kills": "hosts killed",
        "ledger_kills": "ledger killed",
        "seconds": "seconds",
        "granted": "bits granted",
        "n_sent": "messages sent",
        "overspend_bits": "overspent",
        "lost_charges": "settled and lost",
        "stranded_share": "share stranded",
        "fenced_share": "share fenced",
        "audit_differences": "audit differences",
    }
    return table("one budget, four hosts, SIGKILL", columns, rows)


def chaos(
    folder: Path, seed: int, n_kills: int, n_ledger_kills: int, say: Say, *, bits_per_kill: Bits = BITS_PER_KILL
) -> Row:
    """Spend a budget to its end, with at least so many kills meanwhile, and look what the witnesses say."""
    from commlib.agents.ray_runtime import OnRay, Process

    path = folder / "journal.sqlite"
    # Ray tells on stdout of each process that dies
    with redirect_stdout(StringIO()), OnRay(N_HOSTS + N_SPARES + 1) as ray:
        books = Process(ReceiptLookup, str(path), cpu_share=ray.cpu_share, call_seconds=10.0)
        troupe = _Troupe(folder, books, ray.cpu_share)
        killer = _Killer(troupe, books, random.Random(seed), n_kills, n_ledger_kills, bits_per_kill)
        killer.run(say)
        troupe.finish()
        RemoteLedger(books).statement()
        books.call("close")
        troupe.end()
        books.end()
    return {**killer.row(), **compare(folder, path, killer.granted)}


class _Killer:
    """Grants, and kills while it is being spent, until there were kills enough and the last grant is used up."""

    def __init__(
        self,
        troupe: _Troupe,
        books: Process,
        draw: random.Random,
        n_kills: int,
        n_ledger_kills: int,
        bits_per_kill: Bits,
    ) -> None:
        self._troupe, self._books, self._draw = troupe, books, draw
        self._bits_per_kill, self._instalment = bits_per_kill, _KILLS_PER_GRANT * bits_per_kill
        self._n_kills, self._n_ledger_kills = n_kills, n_ledger_kills
        self._ledger_pid = books.begin("pid")
        self._n_grants = self.kills = self.ledger_kills = 0
        self.granted: Bits = 0
        self._seconds = 0.0
        self._timeline: list[tuple[float, float]] = []

    def run(self, say: Say) -> None:
        """Until all hosts have found the budget used up."""
        self._grant()
        while not self._troupe.sent():
            self._troupe.look()
            time.sleep(_LOOK_SECONDS)
        started = kill_at = time.monotonic()
        while self._troupe.n_done < N_HOSTS:
            self._troupe.look()
            sent, now = self._troupe.sent(), time.monotonic()
            self._seconds = now - started
            if self._seconds >= len(self._timeline) * _POINT_SECONDS:
                self._timeline.append((round(self._seconds, 2), sent))
                if len(self._timeline) % 2 == 0:
                    say(f"{format_bits(sent)} sent, {self.kills} hosts and {self.ledger_kills} ledgers killed")
            if self.kills < self._n_kills and self.granted - sent < self._instalment / 2:
                self._grant()
            if now >= kill_at and sent >= self.kills * self._bits_per_kill and self._kill_a_host():
                kill_at = now + self._draw.uniform(*KILL_SECONDS)
            if (self.ledger_kills + 0.5) * self._n_kills < self.kills * self._n_ledger_kills:
                self._kill_the_ledger()
            time.sleep(_LOOK_SECONDS)

    def row(self) -> Row:
        """What happened."""
        return {
            "granted": self.granted,
            "kills": self.kills,
            "ledger_kills": self.ledger_kills,
            "seconds": self._seconds,
            "timeline": self._timeline,
        }

    def _grant(self) -> None:
        self.granted = RemoteLedger(self._books).grant(self._instalment, self._n_grants).granted
        self._n_grants += 1

    def _kill_a_host(self) -> bool:
        sending = self._troupe.sending()
        if len(sending) < _LEAST_SENDING:
            return False
        os.kill(self._draw.choice(sending), signal.SIGKILL)
        self.kills += 1
        return True

    def _kill_the_ledger(self) -> None:
        if self._ledger_pid.is_over() and self.ledger_kills < self._n_ledger_kills:
            with suppress(HostError):
                os.kill(self._ledger_pid.answer(), signal.SIGKILL)
                self.ledger_kills += 1
            self._ledger_pid = self._books.begin("pid")


# --- the truth --------------------------------------------------------------------------------------------------------


def compare(folder: Path, path: Path, granted: Bits) -> Row:
    """The witnesses against the journal."""
    sent, settled = _testimony(folder)
    with Journal.reader(path) as journal, journal.reading():
        report = audit(journal)
        records = {(r.lease.holder, r.lease.epoch, r.lease.sequence): r for r in journal.leases()}
        booked: dict[_Key, Sum] = {}
        for entry in journal.entries():
            key = (entry.holder, entry.epoch, entry.sequence)
            booked[key] = Sum(
                booked.get(key, _NOTHING).n + entry.n_messages, booked.get(key, _NOTHING).bits + entry.bits
            )
    total = sum(one.bits for one in sent.values())
    beyond = sum(max(0, one.bits - (records[key].lease.bits if key in records else 0)) for key, one in sent.items())
    fenced = {key: record for key, record in records.items() if record.state == "fenced"}
    return {
        "n_sent": sum(one.n for one in sent.values()),
        "sent": total,
        "n_leases": len(records),
        "overspend_bits": max(0, total - granted) + beyond,
        "lost_charges": sum(one.n for key, one in settled.items() if booked.get(key) != one),
        "wrong_settlements": sum(1 for key, one in booked.items() if sent.get(key) != one),
        "stranded_share": (granted - total) / granted,
        "n_fenced": len(fenced),
        "fenced_share": sum(record.spent for record in fenced.values()) / granted,
        "fenced_unsent_share": sum(r.spent - sent.get(key, _NOTHING).bits for key, r in fenced.items()) / granted,
        "recovered_share": report.bits_recovered / granted,
        "audit_differences": len(report.differences),
        "first_differences": [str(difference) for difference in report.differences[:5]],
    }


_Key: TypeAlias = tuple[str, int, int]
_NOTHING: Final = Sum(0, 0)


def _testimony(folder: Path) -> tuple[dict[_Key, Sum], dict[_Key, Sum]]:
    """What was sent, and what was answered as settled, by lease."""
    sent: dict[_Key, Sum] = {}
    settled: dict[_Key, Sum] = {}
    for number in range(N_HOSTS):
        for epoch in _epochs(folder, number):
            witness = Witness(_witness_path(folder, number, epoch))
            for told, sums in ((sent, witness.sent()), (settled, witness.settled())):
                told |= {(_holder(number), epoch, sequence): one for sequence, one in enumerate(sums) if one.n}
    return sent, settled


def draw(rows: Sequence[Row]) -> Figure:
    """Bits sent over time."""
    from commlib.experiments.bench_figures import Line, lines

    curves = [
        Line(f"{row['killed']} killed", [(seconds, sent / 1e6) for seconds, sent in row["timeline"]]) for row in rows
    ]
    return lines({"one budget while processes are killed": curves}, "seconds", "Mbit sent")
