"""Folders that Hugging Face `datasets` loads: files with a `metadata` table, or parquet files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from stable_async.jobs.columns import ColumnReport, ColumnRules, folded
from stable_async.jobs.errors import RowProblem, UnreadableError
from stable_async.jobs.formats.decoding import TextFile, unpacked
from stable_async.jobs.formats.delimited import read_records
from stable_async.jobs.formats.folder_rows import input_field, is_own
from stable_async.jobs.formats.json_rows import read_json
from stable_async.jobs.formats.parquet_rows import embedded_columns, read_parquet
from stable_async.jobs.formats.table import SuspiciousColumnsError, read_table
from stable_async.jobs.row import MAX_ID

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stable_async.jobs.formats.base import Rows
    from stable_async.jobs.formats.embedded import InputStore

__all__ = ["metadata_tables", "parquet_files", "read_media_folder", "read_parquet_folder"]

METADATA = ("metadata.jsonl", "metadata.csv")
FILE_NAME = "file_name"


def metadata_tables(root: Path) -> list[Path]:
    """Return the metadata files of a folder of media: one, or one in each split's folder.

    A job below the folder, to which its results go, is not a split.
    """
    if found := sorted(root / name for name in METADATA if (root / name).exists()):
        return found
    below = sorted(path for name in METADATA for path in root.glob(f"*/{name}"))
    return [path for path in below if not is_own(path.parent)]


def parquet_files(root: Path) -> list[Path]:
    """Return the parquet files of a data set, in order.

    Raises:
        UnreadableError: It was saved in a format that only `datasets` reads.
    """
    found = sorted(
        path
        for path in root.rglob("*.parquet")
        if not path.name.startswith(".") and not _is_in_own(path, root)
    )
    if not found and (root / "dataset_info.json").exists() and any(root.glob("*.arrow")):
        raise UnreadableError(
            0, "was written by save_to_disk: write it with Dataset.to_parquet, and use that file"
        )
    return found


def _is_in_own(path: Path, root: Path) -> bool:
    return any(is_own(root / folder) for folder in path.relative_to(root).parents[:-1])


def read_media_folder(
    root: Path, tables: Sequence[Path], rules: ColumnRules, report: ColumnReport
) -> Rows:
    """Read a row for each line of the metadata. Its file is the input; the rest is metadata.

    A column is a parameter only where an option says so: the parameters that made an image are not
    those of the new request.

    Raises:
        UnreadableError: The metadata cannot be read, or the service takes no files.
    """
    field = _field(rules)
    mapped = {folded(name) for name in rules.map}
    mapping = rules.map if FILE_NAME in mapped else {**rules.map, FILE_NAME: field}
    rules = replace(rules, map=mapping, metadata_only=True)
    for path in tables:
        before = path.parent.relative_to(root).as_posix()
        with path.open("rb") as file, TextFile(unpacked(file), None) as text:
            if path.suffix == ".csv":
                records = read_records(text.lines(), None, rules.knows)
                rows = read_table(records, rules, report, delimiter_hint="quote such text")
            else:
                rows = read_json(text, rules, report)
            try:
                for row in rows:
                    if not isinstance(row, RowProblem) and field in row.fields:
                        name = str(row.fields[field])
                        row.fields[field] = name = name if before == "." else f"{before}/{name}"
                        if len(name) <= MAX_ID and name.isprintable():
                            row.fields["id"] = name
                    yield row
            except UnreadableError as error:
                # The user has not given this mapping of the file's name.
                what = error.what if FILE_NAME in mapped else error.what.removeprefix("--map: ")
                where = path.relative_to(root).as_posix()
                raise UnreadableError(error.row, f"{where}: {what}") from None


def read_parquet_folder(
    paths: Sequence[Path], rules: ColumnRules, report: ColumnReport, store: InputStore
) -> Rows:
    """Read the rows of all parquet files of a data set.

    Where they have input files, the other columns are metadata; else they are tables like others.

    Raises:
        UnreadableError: A file cannot be read, or its columns are wrong.
    """
    media = replace(rules, metadata_only=True)
    if embedded_columns(paths[0], media):
        _field(rules)
        rules = media
    number = 0
    for path in paths:
        try:
            for row in read_parquet(path, rules, report, store, after=number):
                number = row.row if isinstance(row, RowProblem) else row.number
                yield row
        except SuspiciousColumnsError:
            raise
        except UnreadableError as error:
            raise UnreadableError(error.row, f"{path.name}: {error.what}") from None


def _field(rules: ColumnRules) -> str:
    mapped = frozenset(rules.mapped.values()) - rules.file_fields
    return input_field(replace(rules, given=rules.given | mapped))
