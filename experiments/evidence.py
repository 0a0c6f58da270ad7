"""What a run folder proves: its figures, its curve, and its books added up by edge and by round.

The case file that figures and reports are drawn from: everything in it was read from the run folder, nothing is
computed that the books do not hold. A missing document is noted in the file, not guessed at. Not the run itself:
nothing here can be played again.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from commlib.audit import AuditReport, audit
from commlib.errors import JournalError, RunError
from commlib.experiments.top import AgentLine, Meter
from commlib.journal import MAIN, Journal, Price
from commlib.message import Edge
from commlib.records import Result, RunFolder
from commlib.units import Bits

if TYPE_CHECKING:
    from commlib.world import WorldSpec

_TELLING: Final = (
    "codec",
    "topology",
    "router",
    "variant",
    "budget",
    "charging_rule",
    "runtime",
    "hosts",
    "parallel_worlds",
)
"""What tells two runs of one method apart, in the order in which it is looked for."""
_LAST_RESORT: Final = ("bit_price", "density", "steps", "seed", "run")
"""What is looked at only where two such runs have the same seed: a chosen price may differ from seed to seed."""


class EdgeBill(NamedTuple):
    """What one edge was charged in the whole evaluation.

    `bits` and `payload_bits` are the edge's share: a broadcast is paid once, and its bits are shared out over those who
    heard it in whole bits that add up exactly. `n_messages` counts every round and live world in which the edge's frame
    was sent. All sizes are in bits.
    """

    edge: Edge
    n_messages: int
    bits: Bits
    payload_bits: Bits


class RoundBill(NamedTuple):
    """What one round could spend and did spend of an account, all hosts and parallel worlds together, in its units."""

    round: int
    leased: int
    spent: int


class Booked(NamedTuple):
    """The books of a run.

    Attributes:
        edges: the bill by edge; rounds: the bill by round, in bits.
        capped: the bill by round of every account that has a cap, by name.
        prices: what was noted of each account, by round.
        agents: what each sent.
        compacted: bits that were charged and then compacted: a broadcast cannot be shared out any more, so that they are
            in no bill by edge, round or agent.
        audit: the auditor's findings; digest: of all rows.
    """

    edges: list[EdgeBill]
    rounds: list[RoundBill]
    audit: AuditReport
    digest: str
    capped: dict[str, list[RoundBill]]
    prices: dict[str, list[Price]]
    agents: list[AgentLine]
    compacted: Bits = 0

    @property
    def charged(self) -> Bits:
        """All bits that were charged for frames."""
        return self.compacted + sum(bill.bits for bill in self.edges)


@dataclass(frozen=True)
class Run:
    """A finished run as a report sees it; `notes` says in sentences what its folder lacks."""

    folder: RunFolder
    result: Result
    metrics: list[dict[str, Any]]
    booked: Booked | None
    config: str
    notes: tuple[str, ...]


class Group(NamedTuple):
    """Runs that differ in nothing but their seed, under the shortest label that tells them from the others."""

    label: str
    world: str
    runs: tuple[Run, ...]


def read_run(folder: RunFolder) -> Run:
    """Read a finished run; what the folder lacks besides `result.json` is noted, not raised.

    Raises:
        RunError: there is no result, or it is damaged.
    """
    result = folder.read_result()
    notes = []
    metrics = folder.read_metrics()
    if not metrics:
        notes.append("metrics.jsonl is missing or empty, so there is no learning curve.")
    booked = None
    try:
        with Journal.reader(folder.journal) as journal:
            booked = read_books(journal)
    except JournalError as error:
        notes.append(f"{_no_books(folder, error)}, so there is no bill by edge and no audit.")
    if booked is not None and result.journal_digest and booked.digest != result.journal_digest:
        notes.append(_other_books(booked.digest, result))
    try:
        config = folder.config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        config = ""
        notes.append("config.yaml is missing or cannot be read, so the settings are not shown.")
    return Run(folder, result, metrics, booked, config, tuple(notes))


def why_unproved(folder: RunFolder) -> str:
    """Why the figures of a finished run cannot be held against its books, in a sentence; empty where they can.

    Raises:
        RunError: there is no result, or it is damaged.
    """
    result = folder.read_result()
    try:
        with Journal.reader(folder.journal) as journal:
            digest = journal.digest()
    except JournalError as error:
        return f"{_no_books(folder, error)}, so nothing proves the figures of result.json; evaluate the run again."
    return _other_books(digest, result) if result.journal_digest and digest != result.journal_digest else ""


def _no_books(folder: RunFolder, error: JournalError) -> str:
    return f"journal.sqlite {f'cannot be read ({error})' if folder.journal.is_file() else 'is missing'}"


def _other_books(digest: str, result: Result) -> str:
    return (
        f"The journal's digest is {digest[:12]}, result.json names {result.journal_digest[:12]}: "
        f"the books were written by another evaluation or changed since; evaluate the run again."
    )


def read_runs(folders: Iterable[RunFolder]) -> tuple[list[Run], list[str]]:
    """Read many runs; those without a result are left out and named in the second list.

    Raises:
        RunError: not one of them has a result.
    """
    runs, unread = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except RunError as error:  # noqa: PERF203 (one folder is not the next one's problem)
            unread.append(str(error))
    if not runs:
        raise RunError(unread[0] if len(unread) == 1 else " | ".join(unread) or "no run folder was named; name one")
    return runs, unread


def read_books(journal: Journal) -> Booked:
    """Add up a journal by edge, by round and by agent, and audit it."""
    with journal.reading():
        return _added_up(journal)


def _added_up(journal: Journal) -> Booked:
    capped = [account for account, (terms, _) in journal.accounts().items() if terms.amount is not None and terms.per]
    prices: dict[str, list[Price]] = defaultdict(list)
    for price in journal.prices():
        prices[price.account].append(price)
    return Booked(
        _bill_by_edge(journal),
        _bill_by_round(journal, MAIN),
        audit(journal),
        journal.digest(),
        {account: _bill_by_round(journal, account) for account in capped},
        dict(prices),
        Meter().read(journal).agents,
        0 if (carried := journal.carried()) is None else carried.bits_debited,
    )


def _bill_by_edge(journal: Journal) -> list[EdgeBill]:
    sums: dict[Edge, list[int]] = defaultdict(lambda: [0, 0, 0])
    for entry in journal.entries():
        n = len(entry.receivers)
        for place, receiver in enumerate(entry.receivers):
            total = sums[Edge(entry.sender, receiver)]
            total[0] += entry.n_messages
            total[1] += entry.bits // n + (place < entry.bits % n)
            total[2] += entry.payload_bits // n + (place < entry.payload_bits % n)
    return [EdgeBill(edge, *sums[edge]) for edge in sorted(sums)]


def _bill_by_round(journal: Journal, account: str) -> list[RoundBill]:
    """Leases are numbered by round; what a fenced or overspent one held counts as spent, as in the statement."""
    leased: dict[int, int] = defaultdict(int)
    spent: dict[int, int] = defaultdict(int)
    for record in journal.leases(account):
        leased[record.lease.sequence] += record.lease.bits
        spent[record.lease.sequence] += record.spent
    return [RoundBill(number, leased[number], spent[number]) for number in sorted(leased)]


def n_agents(run: Run) -> int:
    """How many agents the edges and the books know of."""
    edges = [*run.result.edges, *(bill.edge for bill in run.booked.edges)] if run.booked else run.result.edges
    return 1 + max((agent for edge in edges for agent in edge), default=0)


def world_spec(world: str) -> "WorldSpec | None":
    """What is known of a built-in world; None for any other, which is not loaded just to be described."""
    from commlib.experiments.worlds import known_spec

    return known_spec(world)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Put runs that differ only in their seed together, in the order in which they first come.

    Two runs of one method, seed and settings that still differ (say, in the price) are apart.
    """
    groups = _split(list(runs), ("world", "method", *_TELLING))
    for name in _LAST_RESORT:
        groups = [part for group in groups for part in (_split(group, (name,)) if _repeats_a_seed(group) else [group])]
    return [Group(_label(group, groups), group[0].result.world, tuple(group)) for group in groups]


def _split(runs: list[Run], names: tuple[str, ...]) -> list[list[Run]]:
    parts: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        parts.setdefault(tuple(getattr(run.result, name) for name in names), []).append(run)
    return list(parts.values())


def _repeats_a_seed(runs: list[Run]) -> bool:
    return len({run.result.seed for run in runs}) < len(runs)


def _label(group: list[Run], groups: list[list[Run]]) -> str:
    """The method, and of the rest just enough to tell it from the other groups of this method and world."""
    own = group[0].result
    rivals = [
        other[0].result
        for other in groups
        if other is not group and (other[0].result.method, other[0].result.world) == (own.method, own.world)
    ]
    words = [own.method]
    for name in (*_TELLING, *_LAST_RESORT):
        alike = [rival for rival in rivals if getattr(rival, name) == getattr(own, name)]
        if len(alike) < len(rivals):
            words.append(_WORDS.get(name, str)(getattr(own, name)))
        rivals = alike
    return ", ".join(words)


_WORDS: Final[dict[str, Callable[[Any], str]]] = {
    "variant": lambda variant: variant or "plain",
    "router": lambda router: f"router {router}" if router != "none" else "no router",
    "density": lambda density: f"{density:.0%} of edges",
    "budget": lambda budget: budget or "no budget",
    "hosts": lambda hosts: f"{hosts} host{'s' * (hosts != 1)}",
    "parallel_worlds": lambda worlds: f"{worlds} world{'s' * (worlds != 1)} a frame",
    "bit_price": lambda price: f"price {price:.3g}",
    "steps": lambda steps: f"{steps:,} steps",
    "seed": lambda seed: f"seed {seed}",
}
