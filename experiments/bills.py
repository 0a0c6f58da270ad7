"""Bills side by side: read from runs, results and files, and put on one axis, for the terminal, as JSON and on a page.

A money changer's board: everybody's sums in one currency, and beside each how far it is to be trusted. It changes
nothing: a count that a bill leaves open stays open here.

A page marks where a table of bills goes, and `python -m commlib.experiments.bills docs/accounting.md` fills it:

    <!-- bills: accounting/published/*.json -->
    ...
    <!-- end -->
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commlib.bill import (
    PLACE_OF_RUN,
    BillRecord,
    BitsPer,
    Setting,
    Source,
    bill_of_run,
    figures,
    from_float_count,
    from_mask_rate,
    from_tokens,
)
from commlib.errors import ConfigError, RunError
from commlib.records import Result, RunFolder

if TYPE_CHECKING:
    from rich.table import Table

MARKS = {"measured": "m", "derived": "d", "assumed": "a", "unknown": ""}
LEGEND = (
    "Bits. m measured, d derived from what the source states, a something in it is assumed, - not known. Only bills that are "
    "paid alike (broadcast or link) compare."
)
HEAD = ("paid", "estimate", "payload", "wire", "estimate / episode", "payload / episode", "wire / episode")
_SQLITE = b"SQLite format 3\0"
_PLACE = re.compile(r"(<!-- bills: (?P<files>[^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def read_bills(path: Path) -> list[BillRecord]:
    """The bills of a run folder, a `result.json`, a bill, or what `commlib bill --json` wrote.

    Raises:
        RunError: there is nothing, or the folder holds no finished run.
        ConfigError: the file cannot be read, or holds no bill.
    """
    if path.is_dir():
        return [bill_of_run(RunFolder.existing(path).read_result())]
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise RunError(f"{path} does not exist; give a run folder or a JSON file of bills") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; give a run folder or a JSON file of bills") from error
    if content.startswith(_SQLITE):
        raise ConfigError(
            f"{path} is a journal, which holds no bill; bill its run folder, or see what it holds with commlib journal {path}"
        )
    try:
        data = json.loads(content)
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}; give a run folder or a JSON file of bills") from error
    try:
        return _bills_in(data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; docs/accounting.md says what a bill holds") from error


def _bills_in(data: Any) -> list[BillRecord]:  # noqa: ANN401 (any JSON value)
    if isinstance(data, dict) and isinstance(data.get("bills"), list):
        if not data["bills"]:
            raise ConfigError("its list of bills is empty")
        return [BillRecord.from_json(bill) for bill in data["bills"]]
    if isinstance(data, dict) and "wire_bytes" in data:
        try:
            result = Result.from_json(data)
        except ValueError as error:
            raise ConfigError("this is no result of this version of commlib") from error
        return [bill_of_run(result)]
    return [BillRecord.from_json(data)]


# What belongs to each way to state a bill, beside what any of them can have.
_OF_READER = {
    "mask_rate": ("floats", "float_bits", "edges"),
    "float_count": ("float_bits", "messages"),
    "tokens": ("vocabulary", "bytes_per_token", "messages"),
}
_OF_ANY = {
    "agents": None, "steps": None, "episodes": 1, "rounds": 1, "charging": None, "header_bits": None,
    "title": None, "source": None, "place": "",
}  # fmt: skip


def stated_bill(given: argparse.Namespace) -> BillRecord | None:
    """The bill that the flags of `commlib bill` state; None if they state none.

    Raises:
        ConfigError: they state two, or flags are missing or would do nothing.
    """
    readers = [name for name in _OF_READER if getattr(given, name) is not None]
    if len(readers) > 1:
        raise ConfigError(f"{_flag(readers[0])} and {_flag(readers[1])} are two bills; give one of them at a time")
    specific = dict.fromkeys(name for names in _OF_READER.values() for name in names)
    useful = {*_OF_READER[readers[0]], *_OF_ANY} if readers else set()
    for name, usual in {**specific, **_OF_ANY}.items():
        if getattr(given, name) != usual and name not in useful:
            fits = [_flag(reader) for reader in _OF_READER if name in (*_OF_READER[reader], *_OF_ANY)]
            raise ConfigError(f"{_flag(name)} says nothing here; it goes with {' or '.join(fits)}")
    return _stated(readers[0], given) if readers else None


def _stated(reader: str, given: argparse.Namespace) -> BillRecord:
    said = [reader, *_OF_READER[reader], *_OF_ANY]
    words = [word for name in said for word in _words(name, getattr(given, name))]
    source = Source(
        work=given.source or "not stated", place=given.place, command=shlex.join(["commlib", "bill", *words])
    )
    title = given.title or f"{_flag(reader).removeprefix('--').replace('-', ' ')} {getattr(given, reader):g}"
    setting = Setting(given.agents, given.steps, given.episodes, given.rounds, given.charging, given.header_bits)
    if reader == "mask_rate":
        if given.floats is None:
            raise ConfigError("a mask rate is of messages; say how many numbers one has (--floats)")
        return from_mask_rate(
            given.mask_rate, given.floats, setting,
            float_bits=given.float_bits, n_edges=given.edges, title=title, source=source,
        )  # fmt: skip
    if reader == "float_count":
        return from_float_count(
            given.float_count, setting,
            float_bits=given.float_bits, n_messages=given.messages, title=title, source=source,
        )  # fmt: skip
    return from_tokens(
        given.tokens, setting, vocabulary=given.vocabulary, bytes_per_token=given.bytes_per_token,
        n_messages=given.messages, title=title, source=source,
    )  # fmt: skip


def _words(name: str, value: str | float | None) -> list[str]:
    """A flag with its value as one would type it; nothing where it says nothing new."""
    if value is None or value == _OF_ANY.get(name):
        return []
    is_whole = isinstance(value, float) and value.is_integer()
    return [_flag(name), str(int(value) if is_whole else value)]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def bills_json(bills: Sequence[BillRecord]) -> dict[str, Any]:
    """The bills, and their sums divided, as one plain object."""
    return {
        "bills": [bill.to_json() for bill in bills],
        "figures": [{"title": bill.title, **figures(bill).to_json()} for bill in bills],
    }


def cells(bill: BillRecord) -> list[str]:
    """What stands beside a bill's name: the rule, bits per agent and step, bits of an episode."""
    divided, marks = figures(bill), [MARKS[getattr(bill.basis, name).kind] for name in BitsPer._fields]
    step = [_cell(bits, mark) for bits, mark in zip(divided.per_agent_step, marks, strict=True)]
    episode = [_cell(bits, mark) for bits, mark in zip(divided.per_episode, marks, strict=True)]
    paid = bill.charging_rule.paid
    return [paid + (" (a)" if bill.charging_rule.basis.kind == "assumed" else ""), *step, *episode]


def _cell(bits: float | None, mark: str) -> str:
    return "-" if bits is None else f"{_number(bits)} {mark}"


def _number(bits: float) -> str:
    return f"{bits:,.0f}" if bits >= 1000 else f"{bits:.4g}"


def bills_table(bills: Sequence[BillRecord]) -> Table:
    """The bills side by side, for the terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(
        title="bits per agent and step, and per episode of all agents",
        caption=LEGEND,
        caption_justify="left",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for nth, title in enumerate(("bill", *HEAD)):
        shown.add_column(title, justify="left" if nth < 2 else "right", overflow="fold")
    for label, bill in zip(labels(bills), bills, strict=True):
        shown.add_row(*(Text(cell) for cell in (label, *cells(bill))))
    return shown


def labels(bills: Sequence[BillRecord]) -> list[str]:
    """What each bill is called: its title, and where several have the same, the place that it comes from."""
    n_titled = Counter(bill.title for bill in bills)
    places = [bill.source.place.removeprefix(PLACE_OF_RUN) if n_titled[bill.title] > 1 else "" for bill in bills]
    return [bill.title + (f" ({place})" if place else "") for bill, place in zip(bills, places, strict=True)]


def assumed(bills: Sequence[BillRecord]) -> list[str]:
    """What was assumed, a line for each count of each bill into which something went that its source does not state."""
    return [
        f"{label}: {line}"
        for label, bill in zip(labels(bills), bills, strict=True)
        for name, line in zip(BitsPer._fields, explained(bill), strict=True)
        if getattr(bill.basis, name).kind == "assumed"
    ]


def share(text: str) -> float:
    """A share as people write it: 0.4 or 40 %."""
    number = text.strip()
    if not number.endswith("%"):
        return float(number)
    return float(Decimal(number[:-1].strip()) / 100)  # 33.3 % is 0.333, not the double beside it


def explained(bill: BillRecord) -> list[str]:
    """How each count of one bill was obtained, a line each."""
    lines = []
    for name, bits in zip(BitsPer._fields, bill.sums, strict=True):
        basis = getattr(bill.basis, name)
        known = "not known" if bits is None else f"{bits:,.10g} bits, {basis.kind}"
        lines.append(f"{name}: {known}: {basis.text}")
    return lines


def filled(page: str, folder: Path) -> str:
    """The page with every table of bills made anew from files in its folder.

    Raises:
        ConfigError: a table asks for files of which there is none, or that hold no bills.
    """

    def table(match: re.Match[str]) -> str:
        rows = []
        for pattern in match["files"].split():
            found = sorted(folder.glob(pattern))
            if not found:
                raise ConfigError(f"no file {pattern} in {folder}; make it by the command on the page")
            rows += [_row(bill, path.relative_to(folder)) for path in found for bill in read_bills(path)]
        head = ["bill", *HEAD]
        return match[1] + "\n".join([_line(head), "|" + "---|" * len(head), *rows]) + f"\n{match[3]}"

    return _PLACE.sub(table, page)


def _row(bill: BillRecord, path: Path) -> str:
    return _line([f"[{bill.title}]({path.as_posix()})", *cells(bill)])


def _line(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"


def main(words: list[str]) -> None:
    """Fill the tables of one page in place."""
    page = Path(words[0])
    page.write_text(filled(page.read_text(encoding="utf-8"), page.parent), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
