"""Export: the books as JSON lines or CSV files, for whoever has other tools than ours.

A photocopy of every page: all tables, all rows, the columns in the order of `commlib.schema.COLUMNS`, which is part of
a schema and does not change within it. Not a backup: nothing reads a journal back from it; for that, copy the file.
"""

import csv
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commlib.errors import JournalError
from commlib.journal import Journal
from commlib.schema import COLUMNS, SCHEMA_VERSION


def export_jsonl(journal: Journal, file: Path | str) -> int:
    """Write one JSON object per row, with its table under "table", in the order of the tables; gives the count.

    The first line is `{"table": "schema_version", "version": 2}`. The file must not exist yet: it appears whole or not at
    all. Floats are written so that they are read back exactly.
    """
    file = Path(file)
    partial = file.with_name(file.name + ".partial")
    if file.exists():
        raise JournalError(f"{file} is there already; name a new file for the export")
    n_rows = 0
    with _said(file, partial), journal.reading():
        with partial.open("w", encoding="utf-8", newline="\n") as lines:
            lines.write(json.dumps({"table": "schema_version", "version": SCHEMA_VERSION}) + "\n")
            for table, (_, columns) in COLUMNS.items():
                for row in _rows(journal, table):
                    lines.write(json.dumps({"table": table, **dict(zip(columns, row, strict=True))}) + "\n")
                    n_rows += 1
            lines.flush()
            os.fsync(lines.fileno())
        partial.replace(file)
    return n_rows


def export_csv(journal: Journal, folder: Path | str) -> int:
    """Write one CSV file per table into a new folder, the names of the columns first; gives the count of rows.

    The folder must not exist yet, or be empty: it appears whole or not at all. What is NULL in the books is an empty
    field.
    """
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    if folder.is_dir() and any(folder.iterdir()):
        raise JournalError(f"{folder} is not empty; name a new folder for the export")
    n_rows = 0
    with _said(folder, partial), journal.reading():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for table, (_, columns) in COLUMNS.items():
            with (partial / f"{table}.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(columns)
                for row in _rows(journal, table):
                    writer.writerow(row)
                    n_rows += 1
                file.flush()
                os.fsync(file.fileno())
        partial.replace(folder)
    return n_rows


def _rows(journal: Journal, table: str) -> Iterator[tuple[str | int | float | None, ...]]:
    n_key, columns = COLUMNS[table]
    order = f"ORDER BY {', '.join(columns[:n_key])}" if n_key else ""
    return journal.rows(f"SELECT {', '.join(columns)} FROM {table} {order}")


@contextmanager
def _said(target: Path, partial: Path) -> Iterator[None]:
    """Leave nothing half done, and say what stood in the way."""
    try:
        yield
    except BaseException as error:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise JournalError(
                f"cannot write {target}: {error.strerror}; free some space or choose another path"
            ) from error
        raise
