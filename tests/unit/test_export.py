import csv
import json
from pathlib import Path

import pytest

from commlib.errors import JournalError
from commlib.export import export_csv, export_jsonl
from commlib.journal import Journal
from commlib.schema import COLUMNS, SCHEMA_VERSION

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def journal():
    with Journal.reader(GOLDEN / "journal-v2.sqlite") as journal:
        yield journal


def rows_of(journal, table):
    return [tuple(row) for row in journal.rows(f"SELECT {', '.join(COLUMNS[table][1])} FROM {table}")]


def test_every_row_is_a_json_line_with_its_table(journal, tmp_path):
    file = tmp_path / "books.jsonl"
    n_rows = export_jsonl(journal, file)
    first, *lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert first == {"table": "schema_version", "version": SCHEMA_VERSION}
    assert len(lines) == n_rows
    for table, (_, columns) in COLUMNS.items():
        mine = [line for line in lines if line["table"] == table]
        assert all(list(line) == ["table", *columns] for line in mine)
        assert sorted(tuple(line.values())[1:] for line in mine) == sorted(rows_of(journal, table)), table
    assert sum(len(rows_of(journal, table)) for table in COLUMNS) == n_rows


def test_every_table_is_a_csv_file(journal, tmp_path):
    n_rows = export_csv(journal, tmp_path / "books")
    assert {file.name for file in (tmp_path / "books").iterdir()} == {f"{table}.csv" for table in COLUMNS}
    for table, (_, columns) in COLUMNS.items():
        with (tmp_path / "books" / f"{table}.csv").open(newline="") as file:
            header, *rows = csv.reader(file)
        assert tuple(header) == columns
        n_rows -= len(rows)
        said = [tuple("" if value is None else str(value) for value in row) for row in rows_of(journal, table)]
        assert sorted(map(tuple, rows)) == sorted(said)
    assert n_rows == 0


def test_the_same_books_are_the_same_bytes(journal, tmp_path):
    for name in ("one", "two"):
        export_jsonl(journal, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_books_of_an_older_schema_are_exported_in_todays(tmp_path):
    with Journal.reader(GOLDEN / "journal-v1.sqlite") as journal:
        export_jsonl(journal, tmp_path / "books.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "books.jsonl").read_text().splitlines()]
    assert {line["account"] for line in lines if line["table"] == "leases"} == {"bits"}


class Stops(Journal):
    """A disk that fails in the middle of the second table."""

    def rows(self, sql, parameters=()):
        if "FROM leases" in sql:
            raise OSError(28, "No space left on device")
        return super().rows(sql, parameters)


@pytest.mark.parametrize("export", [export_jsonl, export_csv])
def test_an_export_is_there_whole_or_not_at_all(export, tmp_path):
    with Stops(":memory:") as journal:
        with pytest.raises(JournalError, match="cannot write .*books: No space left"):
            export(journal, tmp_path / "books")
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(JournalError, match="cannot write"):
            export(journal, tmp_path / "nowhere" / "books")


def test_a_file_that_is_there_is_left_alone(journal, tmp_path):
    (tmp_path / "books.jsonl").write_text("years of work")
    with pytest.raises(JournalError, match=r"books\.jsonl is there already; name a new file for the export"):
        export_jsonl(journal, tmp_path / "books.jsonl")
    assert (tmp_path / "books.jsonl").read_text() == "years of work"
    assert [file.name for file in tmp_path.iterdir()] == ["books.jsonl"]


def test_a_folder_that_holds_something_is_left_alone(journal, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(JournalError, match="is not empty; name a new folder"):
        export_csv(journal, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    export_csv(journal, tmp_path / "empty")
