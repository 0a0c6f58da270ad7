"""`commlib top RUN`: who spends how much of which budget while a run goes on, read from its journal.

The meter cupboard in the hall: one looks at the dials, and nothing is switched there. The books are opened to read only,
for a moment at each look, and only what was booked since the last look is added up (in SQL), so that a journal of
millions of rows is as quick to watch as a short one. Not the audit: nothing is reconciled here.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from commlib.budget import Budget
from commlib.errors import JournalError, RunError
from commlib.experiments.presence import is_open
from commlib.journal import MAIN, Journal, Statement, Terms
from commlib.message import Edge
from commlib.units import Bits, format_bits

LOOK_EVERY_SECONDS: Final = 1.0
MOST_EDGES: Final = 10
"""So many of the busiest edges are shown."""
MOST_AGENTS: Final = 20
BAR: Final = 10
"""Characters of a bar."""
WIDE: Final = 110
"""Characters of a terminal in which everything has room."""
_ROOM: Final = {WIDE: ("unit", "expired", "left"), 72: ("of the allowance",)}
"""What is left out where the terminal has fewer characters."""
NO_CAP: Final = "no cap"
_UNITS: Final = {"bits": "bit", "messages": "messages", "rounds": "rounds", "latency": "us"}
_BOOKS: Final = ("journal.sqlite", "journal.sqlite.partial")

_NEXT_EPOCH: Final = "SELECT holder, epoch FROM entries WHERE holder = ? AND epoch > ? ORDER BY epoch LIMIT 1"
_NEXT_HOLDER: Final = "SELECT holder, epoch FROM entries WHERE holder > ? ORDER BY holder, epoch LIMIT 1"
_NEW_ENTRIES: Final = """
SELECT sender, receivers, n, bits % n AS rest, COUNT(*), SUM(n_messages), SUM(bits / n), MAX(sequence),
    SUM(round <> sequence) FROM (
    SELECT *, 1 + LENGTH(receivers) - LENGTH(REPLACE(receivers, ',', '')) AS n FROM entries
    WHERE holder = ? AND epoch = ? AND sequence > ?)
GROUP BY sender, receivers, rest
"""
_NEW_ROUNDS: Final = """
SELECT sender, COUNT(DISTINCT round) FROM entries WHERE holder = ? AND epoch = ? AND sequence > ? GROUP BY sender
"""
_NEW_LEASES: Final = """
SELECT holder, COUNT(*), MAX(id) FROM leases WHERE id > ? AND account = 'bits' GROUP BY holder
"""
_NEW_ALLOWANCES: Final = """
SELECT COALESCE(SUM(taken), 0), MAX(sequence) FROM allowances WHERE account = ? AND kind = ? AND sequence > ?
"""
_LAST_GRANT: Final = """
SELECT taken FROM allowances WHERE account = ? AND kind = 'grant' ORDER BY sequence DESC LIMIT 1
"""


class AccountLine(NamedTuple):
    """One account, in its units: granted = spent + leased + expired + left.

    `left_share` is what is left of the allowance that is in use, None where there is none; `price` is the last that was
    noted, in squared distortion (or harm) per unit.
    """

    account: str
    budget: str
    currency: str
    granted: int
    spent: int
    leased: int
    expired: int
    left: int
    left_share: float | None
    price: float | None
    is_binding: bool


class AgentLine(NamedTuple):
    """What one agent sent: `gate_rate` is the share of the rounds in which it did, None where there are none to count;
    `share` is of all bits.
    """

    agent: int
    bits: Bits
    messages: int
    gate_rate: float | None
    share: float


class EdgeLine(NamedTuple):
    """What went over one edge; the bits of a message that several hear are shared out over them."""

    sender: int
    receiver: int
    bits: Bits
    messages: int
    share: float


class Snapshot(NamedTuple):
    """The books at one moment.

    Attributes:
        journal: the file.
        is_finished: whether the run has written its result since.
        is_open: whether anybody has the books open; None where that cannot be told.
        written: when something was written last, by the clock of the disk, in local time.
        rounds: how many were leased for, since the last compaction; None where leases are of something else than rounds, as
            those of a purse are.
        bits_per_second: by the clock, since the look before; None at the first.
        dropped, degraded, deferred: messages.
        bits_without_entry: bits that were spent by nobody known: of hosts that died, or compacted.
        bits_compacted: the part of them that was compacted.
        n_edges: how many carried anything; `edges` has the busiest.
    """

    journal: str
    is_finished: bool
    is_open: bool | None
    written: str
    rounds: int | None
    bits_per_second: float | None
    dropped: int
    degraded: int
    deferred: int
    bits_without_entry: Bits
    bits_compacted: Bits
    accounts: list[AccountLine]
    agents: list[AgentLine]
    n_edges: int
    edges: list[EdgeLine]

    def to_json(self) -> dict[str, Any]:
        """As a plain object."""
        parts = ("accounts", "agents", "edges")
        return {**self._asdict(), **{name: [line._asdict() for line in getattr(self, name)] for name in parts}}


@dataclass
class Totals:
    """What all entries, leases and allowances of a journal come to; `add` takes what is new.

    A row may turn up behind one that was counted already: a lease that was settled late, or after a compaction. The
    running totals of the books tell, and then everything is added up anew.
    """

    bits: Counter[int] = field(default_factory=Counter)
    messages: Counter[int] = field(default_factory=Counter)
    rounds_spoken: Counter[int] = field(default_factory=Counter)
    edge_bits: Counter[Edge] = field(default_factory=Counter)
    edge_messages: Counter[Edge] = field(default_factory=Counter)
    n_entries: int = 0
    is_by_round: bool = True
    """Whether each entry stands under its round; those of a purse stand under the settlement."""
    n_leases: Counter[str] = field(default_factory=Counter)
    """Of the main account, by holder: each has one for each of its rounds."""
    allowances: Counter[tuple[str, str]] = field(default_factory=Counter)
    _last_lease: int = 0
    _last_entry: dict[tuple[str, int], int] = field(default_factory=dict)
    _last_allowance: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def n_rounds(self) -> int:
        """Rounds that were leased for."""
        return max(self.n_leases.values(), default=0)

    def add(self, journal: Journal) -> None:
        """Count what was booked since the last time."""
        for holder, n, last in list(journal.rows(_NEW_LEASES, (self._last_lease,))):
            self.n_leases[holder] += n
            self._last_lease = max(self._last_lease, last)
        for whose in list(_holders(journal)):
            self._add_entries(journal, whose)
        for account in journal.accounts():
            for kind in ("grant", "withdrawal"):
                self._add_allowances(journal, account, kind)

    def _add_entries(self, journal: Journal, whose: tuple[str, int]) -> None:
        since = (*whose, self._last_entry.get(whose, -1))
        for sender, n_rounds in journal.rows(_NEW_ROUNDS, since):
            self.rounds_spoken[sender] += n_rounds
        for sender, receivers, n, rest, n_rows, n_messages, share, last, n_other in journal.rows(_NEW_ENTRIES, since):
            self.n_entries += n_rows
            self.is_by_round = self.is_by_round and not n_other
            self.messages[sender] += n_messages
            self.bits[sender] += n * share + rest * n_rows
            self._last_entry[whose] = max(self._last_entry.get(whose, -1), last)
            for place, receiver in enumerate(receivers.split(",")):
                edge = Edge(sender, int(receiver))
                self.edge_bits[edge] += share + n_rows * (place < rest)
                self.edge_messages[edge] += n_messages

    def _add_allowances(self, journal: Journal, account: str, kind: str) -> None:
        key = account, kind
        taken, last = next(journal.rows(_NEW_ALLOWANCES, (*key, self._last_allowance.get(key, -1))))
        self.allowances[key] += taken
        if last is not None:
            self._last_allowance[key] = last

    def is_whole(self, journal: Journal) -> bool:
        """Whether the running totals of the books say that nothing was missed."""
        before = journal.carried_accounts()
        for account, (terms, statement) in journal.accounts().items():
            carried = before.get(account)
            net = self.allowances[account, "grant"] - self.allowances[account, "withdrawal"]
            if terms.amount is not None and net != statement.granted - (carried.granted if carried else 0):
                return False
            if account == MAIN and self.n_entries != statement.n_entries - (carried.n_entries if carried else 0):
                return False
        return True


def _holders(journal: Journal) -> Iterator[tuple[str, int]]:
    """Who has entries, and in which epochs, by a step in the index for each: DISTINCT would read every row."""
    found = next(journal.rows(_NEXT_HOLDER, ("",)), None)
    while found is not None:
        holder, epoch = found
        yield holder, epoch
        found = next(journal.rows(_NEXT_EPOCH, (holder, epoch)), None) or next(
            journal.rows(_NEXT_HOLDER, (holder,)), None
        )


def account_lines(journal: Journal, totals: Totals) -> list[AccountLine]:
    """The accounts, the main one first, and which of them binds."""
    accounts = journal.accounts()
    short = accounts[MAIN][1]
    is_short = bool(short.dropped_messages or short.degraded_messages or short.deferred_messages)
    before = journal.carried_accounts()
    lines = []
    for account in sorted(accounts, key=lambda name: (name != MAIN, name)):
        terms, now = accounts[account]
        carried = before[account].granted if account in before else 0
        granted = now.granted if terms.amount is None else totals.allowances[account, "grant"] + carried
        expired = granted - now.granted
        lines.append(
            AccountLine(
                account,
                budget_text(terms),
                terms.currency,
                granted,
                now.spent,
                now.leased,
                expired,
                now.available,
                _left_share(journal, account, terms, now, granted, expired),
                journal.last_price(account),
                is_binding=False,
            )
        )
    scarce = [
        line
        for line in lines
        if accounts[line.account][0].amount is not None and line.granted and (is_short or line.price)
    ]
    binding = max(scarce, key=lambda line: line.spent / line.granted, default=None)
    return [line._replace(is_binding=line is binding) for line in lines]


def _left_share(
    journal: Journal, account: str, terms: Terms, now: Statement, granted: int, expired: int
) -> float | None:
    """What is left of the allowance in use, 0..1; None where nothing is capped, or nothing is in use."""
    if terms.amount is None:
        return None
    whole = granted
    if terms.per not in ("", "run"):
        last = next(journal.rows(_LAST_GRANT, (account,)), (0,))[0]
        if not now.available and not now.leased and expired:
            return None  # it has expired, and the next one is not there yet
        whole = last
    return min(1.0, (now.available + now.leased) / whole) if whole else None


def budget_text(terms: Terms) -> str:
    """What an account is for, as people write budgets."""
    if terms.amount is None:
        return NO_CAP
    if not terms.per:
        return "granted freely"
    edge = None if terms.edge is None else Edge(*terms.edge)
    per: Any = terms.per
    return str(Budget(terms.amount, per, terms.currency, terms.agents, edge))


class Meter:
    """Reads the dials of one journal, again and again."""

    def __init__(self) -> None:
        self._totals = Totals()

    def read(self, journal: Journal, most_edges: int | None = MOST_EDGES) -> Snapshot:
        """What stands in the books now; at most so many edges, the busiest."""
        with journal.reading():
            self._totals.add(journal)
            if not self._totals.is_whole(journal):
                self._totals = Totals()
                self._totals.add(journal)
            main = journal.accounts()[MAIN][1]
            accounts = account_lines(journal, self._totals)
            carried = journal.carried()
            compacted = journal.carried_accounts()[MAIN].spent if carried else 0
        totals = self._totals
        rounds = totals.n_rounds if totals.is_by_round and (carried is None or carried.is_by_round) else None
        known = sum(totals.bits.values())
        busiest = sorted(totals.edge_bits.items(), key=lambda item: (-item[1], item[0]))[:most_edges]
        return Snapshot(
            journal=str(journal.path),
            is_finished=False,
            is_open=None,
            written="",
            rounds=rounds,
            bits_per_second=None,
            dropped=main.dropped_messages,
            degraded=main.degraded_messages,
            deferred=main.deferred_messages,
            bits_without_entry=main.spent - known,
            bits_compacted=compacted,
            accounts=accounts,
            agents=[
                AgentLine(
                    agent,
                    bits,
                    totals.messages[agent],
                    None if rounds is None else min(1.0, totals.rounds_spoken[agent] / max(1, rounds)),
                    bits / max(1, known),
                )
                for agent, bits in sorted(totals.bits.items())
            ],
            n_edges=len(totals.edge_bits),
            edges=[EdgeLine(*edge, bits, totals.edge_messages[edge], bits / max(1, known)) for edge, bits in busiest],
        )


# Which books, and when they are closed.


def newest_books(path: Path) -> Path:
    """The journal that was written last: of a run, of its evaluations, or the file itself where one is named.

    Raises:
        RunError: there is no run, or it has no books yet.
    """
    if path.is_file():
        return path
    found = [file for name in _BOOKS for level in ("", "*/", "*/*/") for file in path.glob(level + name)]
    if found:
        return max(found, key=written_at)
    if not (path / "config.yaml").is_file():
        raise RunError(f"{path} holds no run (no config.yaml in it, and no journal); see `commlib list runs`")
    raise NoBooksYet(
        f"{path} has no books yet: they begin with the evaluation, after the training; --follow waits for them"
    )


class NoBooksYet(RunError):
    """The run has not begun to spend."""


def written_at(journal: Path) -> int:
    """When a journal was last written, in nanoseconds; what is new stands in the file beside it at first."""
    times = [0]
    for file in (journal, journal.with_name(journal.name + "-wal")):
        with contextlib.suppress(OSError):  # it may go between two looks
            times.append(file.stat().st_mtime_ns)
    return max(times)


def is_finished(journal: Path) -> bool:
    """Whether a result was written after the books."""
    result = journal.with_name("result.json")
    if journal.name != _BOOKS[0] or not result.is_file():
        return False
    return result.stat().st_mtime_ns >= written_at(journal)


class View:
    """The newest books below a path, look by look.

    They are opened anew for each look: a reader that stays would keep the run from putting its books away as one file.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._seen: tuple[Path, int] | None = None
        self._meter = Meter()
        self._last: tuple[float, Bits] | None = None

    def look(self, most_edges: int | None = MOST_EDGES) -> Snapshot:
        """What stands there now.

        Raises:
            RunError: there is no run, or it has no books yet.
            JournalError: the books cannot be read.
        """
        books = newest_books(self._path)
        finished, opened = is_finished(books), is_open(books)  # asked first: what is read afterwards is then all
        which = books, books.stat().st_ino
        if which != self._seen:
            self._meter, self._last, self._seen = Meter(), None, which
        with Journal.reader(books) as journal:
            found = self._meter.read(journal, most_edges)
        now, spent = self._clock(), found.accounts[0].spent
        before, self._last = self._last, (now, spent)
        speed = (spent - before[1]) / (now - before[0]) if before is not None and now > before[0] else None
        written = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(written_at(books) / 1e9))
        return found._replace(is_finished=finished, is_open=opened, written=written, bits_per_second=speed)


# What people see.


def watch(
    path: Path,
    console: Console,
    *,
    follow: bool = False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """A picture that is drawn anew every second, until the run is finished, nobody has its books open any more, or Ctrl-C.

    To `follow` is to go on for ever. Between its books and its result a run has neither open for a moment, so that books
    must be found closed twice.

    Raises:
        RunError: there is no run; or it has no books yet, and they are not to be waited for.
        JournalError: the books cannot be read.
    """
    view, n_failed, n_closed = View(path, clock), 0, 0
    with Live(console=console, auto_refresh=False) as live, contextlib.suppress(KeyboardInterrupt):
        while True:
            try:
                found = view.look()
                live.update(picture(found, console.options), refresh=True)
                n_failed, n_closed = 0, n_closed + 1 if found.is_open is False else 0
                if (found.is_finished or n_closed > 1) and not follow:
                    return
            except NoBooksYet:
                if not follow:
                    raise
                live.update(Text(f"{path} has no books yet; waiting for its evaluation"), refresh=True)
            except (JournalError, OSError):  # books that are just being made, or put away, are there in a second
                n_failed += 1
                if n_failed > 1:
                    raise
            sleep(LOOK_EVERY_SECONDS)


def picture(found: Snapshot, options: ConsoleOptions) -> RenderableType:
    """A snapshot for a terminal."""
    rounds = (
        ""
        if found.rounds is None
        else f", {found.rounds:,} rounds" + " since the compaction" * bool(found.bits_compacted)
    )
    speed = "" if found.bits_per_second is None else f", {format_bits(round(found.bits_per_second))}/s"
    head = Text.assemble((found.journal, "bold"), f"  {_state(found)}{rounds}{speed}")
    short = [f"{getattr(found, kind):,} {kind}" for kind in ("dropped", "degraded", "deferred")]
    parts: list[RenderableType] = [head, _accounts(found, options)]
    if any(line.price is not None for line in found.accounts):
        parts.append(Text("prices are in squared distortion (or harm) per unit", "dim"))
    parts.append(Text(f"messages for want of budget: {', '.join(short)}"))
    if not found.agents:
        if not found.bits_without_entry:
            parts.append(Text("nothing was sent yet", "dim"))
    elif options.max_width < WIDE:
        parts += [_agents(found), _edges(found)]
    else:
        side_by_side = Table.grid(padding=(0, 4))
        side_by_side.add_row(_agents(found), _edges(found))
        parts.append(side_by_side)
    if found.bits_compacted:
        parts.append(Text(f"{format_bits(found.bits_compacted)} were compacted: of these only the sum is known", "dim"))
    if lost := found.bits_without_entry - found.bits_compacted:
        parts.append(Text(f"{format_bits(lost)} were spent by nobody known: of hosts that died", "dim"))
    return Group(*parts)


def _state(found: Snapshot) -> str:
    """What is known of whoever writes these books."""
    if found.is_finished:
        return "finished"
    if found.is_open:
        return "running"
    nobody = "nobody has it open, " if found.is_open is False else ""
    return f"{nobody}last written {found.written}"


def _accounts(found: Snapshot, options: ConsoleOptions) -> RenderableType:
    columns: dict[str, Callable[[AccountLine], str | Text]] = {
        "budget": lambda line: line.budget if line.budget != NO_CAP else f"{line.account}, no cap",
        "unit": lambda line: _UNITS[line.currency],
        "granted": lambda line: f"{line.granted:,}",
        "spent": lambda line: f"{line.spent:,}",
        "expired": lambda line: f"{line.expired:,}",
        "left": lambda line: f"{line.left + line.leased:,}",
        "of the allowance": lambda line: "" if line.left_share is None else _bar(line.left_share, options.ascii_only),
        "used": lambda line: f"{line.spent / line.granted:.1%}" if line.granted and line.budget != NO_CAP else "",
        "price": lambda line: "" if line.price is None else f"{line.price:.3g}",
        "": lambda line: Text("binds", "bold yellow") if line.is_binding else "",
    }
    for width, titles in _ROOM.items():
        for title in titles if options.max_width < width else ():
            del columns[title]
    table = _table(*columns)
    for line in found.accounts:
        table.add_row(*(cell(line) for cell in columns.values()))
    return table


def _agents(found: Snapshot) -> RenderableType:
    has_rounds = found.rounds is not None
    table = _table("agent", "bits", "messages", *(["gate rate"] if has_rounds else []), "share")
    busiest = sorted(found.agents, key=lambda line: (-line.bits, line.agent))[:MOST_AGENTS]
    for line in sorted(busiest):
        gate = [] if line.gate_rate is None else [f"{line.gate_rate:.1%}"]
        table.add_row(str(line.agent), f"{line.bits:,}", f"{line.messages:,}", *gate, f"{line.share:.1%}")
    if len(found.agents) > MOST_AGENTS:
        table.add_row(f"+{len(found.agents) - MOST_AGENTS}", *(f"{n:,}" for n in _rest(found, busiest)))
    return table


def _rest(found: Snapshot, shown: list[AgentLine]) -> tuple[int, int]:
    """Bits and messages of the agents that are not shown."""
    rest = [line for line in found.agents if line not in shown]
    return sum(line.bits for line in rest), sum(line.messages for line in rest)


def _edges(found: Snapshot) -> RenderableType:
    table = _table("edge", "bits", "messages", "share")
    for line in found.edges:
        table.add_row(f"{line.sender} -> {line.receiver}", f"{line.bits:,}", f"{line.messages:,}", f"{line.share:.1%}")
    if found.n_edges > len(found.edges):
        table.add_row(f"+{found.n_edges - len(found.edges)}", "", "", f"{1 - sum(e.share for e in found.edges):.1%}")
    return table


def _table(*titles: str) -> Table:
    """Figures stand right and whole; the first column gives way where the terminal is narrow."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for nth, title in enumerate(titles):
        is_word = nth == 0 or title in ("unit", "of the allowance", "")
        table.add_column(title, justify="left" if is_word else "right", no_wrap=nth > 0)
    return table


def _bar(share: float, ascii_only: bool) -> str:
    """A bar that is as full as an allowance, and how full."""
    n_full = round(share * BAR)
    full, empty = ("#", ".") if ascii_only else ("\u2588", "\u2591")
    return f"{full * n_full}{empty * (BAR - n_full)} {share:>4.0%}"
