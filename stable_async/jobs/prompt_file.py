"""Prompt files of all formats as rows, read lazily: memory does not grow with their number."""

from __future__ import annotations

import csv
import gzip
import json
import math
import re
import reprlib
import sys
import zlib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, cast, get_args

from stable_async.api.services import fields_of_all
from stable_async.extras import install_command
from stable_async.jobs.errors import PromptFileError, RowProblem
from stable_async.jobs.row import FACTS, Row

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from io import BufferedReader

__all__ = ["STDIN", "Format", "PromptFile"]

Format = Literal["jsonl", "csv", "tsv", "txt", "parquet"]
STDIN = "-"
GZIP_MAGIC = b"\x1f\x8b"
# The longest prompt has 10,000 characters; a longer line is a file without line breaks.
MAX_LINE = 1024 * 1024
PARQUET_BATCH = 1_000
# Keys of a row that are no fields of the API.
ROW_KEYS = frozenset({"id", "service"})


class PromptFile:
    """A prompt file: `.jsonl`, `.csv`, `.tsv`, `.txt` or `.parquet`, with gzip or without, or `-`.

    JSON Lines know no other keys than `id`, `service`, the fields of the API and `metadata`, so
    that a slip of the pen costs nothing. Tables come with columns of their own: names are matched
    without regard to case, and a column that no service knows is kept as metadata, unless it
    looks like a slip of the pen. Empty cells are not given.

    Attributes:
        name: What to call the file in messages.
        path: Where it is; `None` for standard input and other pipes, which can be read only once.
        folder: What its input files are relative to; for a pipe, the current one.
        format: Its format.
        prompt_column: Name of the column or key that has the prompts; `None`: `prompt`.
    """

    def __init__(
        self,
        source: str,
        *,
        format: Format | None = None,  # noqa: A002 - the option's name
        prompt_column: str | None = None,
    ) -> None:
        """Prepare to read.

        Args:
            source: A path, that of a named pipe for one, or `-` for standard input.
            format: `None` goes by the name; a pipe is JSON Lines if its name does not tell.
            prompt_column: Name of the column or key that has the prompts.

        Raises:
            PromptFileError: There is nothing to read, or its format is not known.
        """
        path = Path(source)
        piped = source == STDIN or path.is_fifo() or path.is_char_device()
        self._source = source
        self.name = "standard input" if source == STDIN else source
        self.path = None if piped else path
        self.folder = Path.cwd() if piped else path.absolute().parent
        self.format: Format = format or self._format_by_name()
        self.prompt_column = prompt_column
        if not piped and not path.is_file():
            raise self._unusable(0, "is a folder" if path.is_dir() else "no such file")
        if source == STDIN and sys.stdin is None:
            raise self._unusable(0, "is closed")
        if piped and self.format == "parquet":
            raise self._unusable(0, "parquet cannot be read from a pipe")

    def _format_by_name(self) -> Format:
        suffix = self._source.lower().removesuffix(".gz").rpartition(".")[2]
        for known in get_args(Format):
            if suffix == known:
                return cast("Format", known)
        if self.path is None:
            return "jsonl"
        allowed = ", ".join(f".{known}" for known in get_args(Format))
        raise self._unusable(0, f"unknown format; allowed: {allowed}, each with .gz, or --format")

    def rows(self) -> Generator[Row | RowProblem, None, None]:
        """Read the rows, in order.

        Raises:
            PromptFileError: The file as a whole is not what it should be, or cannot be read.
        """
        try:
            yield from self._parquet() if self.format == "parquet" else self._text()
        except OSError as error:
            raise self._unusable(0, f"cannot be read: {error.strerror or error}") from error

    def _text(self) -> Iterator[Row | RowProblem]:
        # Standard input as an object of our own: a thread may still wait in it when the
        # interpreter ends and clears its own away.
        standard = self._source == STDIN
        source = sys.stdin.fileno() if standard else self._source
        with open(source, "rb", closefd=not standard) as file:
            lines = self._lines(_unpacked(file))
            if self.format == "jsonl":
                yield from self._jsonl(lines)
            elif self.format == "txt":
                for number, line in lines:
                    if line.strip():
                        yield Row(number, {"prompt": line.strip()})
            else:
                yield from self._table(lines)

    def _lines(self, file: BinaryIO) -> Iterator[tuple[int, str]]:
        """Give the lines with their numbers; bytes that are no UTF-8 stay as lone surrogates."""
        number = 0
        try:
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise self._unusable(number, f"longer than {MAX_LINE:,} bytes")
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                yield number, line.decode("utf-8", "surrogateescape").rstrip("\r\n")
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self._unusable(number + 1, f"the gzip data is broken: {error}") from None

    def _jsonl(self, lines: Iterator[tuple[int, str]]) -> Iterator[Row | RowProblem]:
        for number, line in lines:
            if not line or line.isspace():
                continue
            try:
                fields = json.loads(line, parse_constant=_refuse)
            except (ValueError, RecursionError) as error:
                what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                place = (
                    f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
                )
                yield RowProblem(number, f"not valid JSON: {what}{place}")
                continue
            if not isinstance(fields, dict):
                yield RowProblem(number, 'not a JSON object; allowed: {"prompt": "...", ...}')
                continue
            if self.prompt_column is not None and self.prompt_column in fields:
                fields["prompt"] = fields.pop(self.prompt_column)
            metadata = fields.pop("metadata", {})
            if not isinstance(metadata, dict):
                given = reprlib.repr(metadata)
                yield RowProblem(number, f"metadata: given {given}; allowed: a JSON object")
                continue
            yield Row(number, fields, {_own_name(name): value for name, value in metadata.items()})

    def _table(self, lines: Iterator[tuple[int, str]]) -> Iterator[Row | RowProblem]:
        if self.format == "tsv":
            records: Iterator[Sequence[str]] = (
                [_unquoted(cell) for cell in line.split("\t")] for _, line in lines
            )
        else:
            records = csv.reader((line + "\n" for _, line in lines), strict=True)
        number = 1
        try:
            columns = self._columns(next(records, ()))
            for cells in records:
                number += 1
                if not any(cells):
                    continue
                if len(cells) > len(columns):
                    yield RowProblem(number, f"{len(cells)} cells under {len(columns)} columns")
                    continue
                yield _row(number, columns, cells)
        except csv.Error as error:
            raise self._unusable(number + 1, f"not valid CSV: {error}") from None

    def _parquet(self) -> Iterator[Row | RowProblem]:
        try:
            from pyarrow import ArrowException, parquet  # has none
        except ImportError:
            what = f"parquet needs pyarrow: {install_command('export')}"
            raise self._unusable(0, what) from None
        number = 0
        try:
            with parquet.ParquetFile(self.path) as file:
                columns = self._columns(file.schema_arrow.names)
                for batch in file.iter_batches(PARQUET_BATCH):
                    for values in zip(*batch.to_pydict().values(), strict=True):
                        number += 1
                        yield _row(number, columns, values)
        except (ArrowException, OverflowError, ValueError) as error:  # or a time Python has not
            what = f"not valid parquet after row {number:,}: {error}"
            raise self._unusable(0, what) from None

    def _columns(self, names: Sequence[str]) -> list[tuple[str, bool]]:
        """Give for each column the name it goes by, and whether it is a field."""
        known = fields_of_all() | ROW_KEYS
        columns: list[tuple[str, bool]] = []
        problems: list[RowProblem] = []
        for name in names:
            field_name = _folded(name)
            if self.prompt_column is not None and "prompt" in {field_name, name}:
                field_name = f"source_{field_name}"
            if self.prompt_column is not None and name.strip() == self.prompt_column.strip():
                field_name = "prompt"
            if field_name in known:
                columns.append((field_name, True))
            elif near := get_close_matches(field_name, known, n=1, cutoff=0.88):
                problems.append(
                    RowProblem(1, f"column {name!r} is no field; is it {near[0]!r}? rename it")
                )
            else:
                columns.append((_own_name(name.strip()), False))
        found = [name for name, _ in columns]
        problems += [
            RowProblem(1, f"two columns are {name!r}")
            for name in sorted(set(found))
            if found.count(name) > 1
        ]
        if self.prompt_column is not None and "prompt" not in found:
            problems.append(
                RowProblem(1, f"no column {self.prompt_column!r}; there are: {', '.join(names)}")
            )
        if problems:
            raise PromptFileError(self.name, problems)
        return columns

    def _unusable(self, row: int, what: str) -> PromptFileError:
        return PromptFileError(self.name, [RowProblem(row, what)])


def _unpacked(file: BufferedReader) -> BinaryIO:
    if file.peek(2)[:2] == GZIP_MAGIC:
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    return file


def _row(number: int, columns: Sequence[tuple[str, bool]], cells: Sequence[object]) -> Row:
    row = Row(number, {})
    for (name, is_field), cell in zip(columns, cells, strict=False):
        if not _is_missing(cell):
            (row.fields if is_field else row.metadata)[name] = cell
    return row


def _is_missing(cell: object) -> bool:
    """Tell whether a cell is empty: in parquet files of pandas, NaN says so."""
    return cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))


def _refuse(constant: str) -> object:
    """Take `NaN` and the like, which `json` would read, for what they are."""
    raise ValueError(constant)


def _folded(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _own_name(name: str) -> str:
    """Give a name that does not hide a fact about the image in metadata.jsonl."""
    return f"source_{name}" if name in FACTS or name in fields_of_all() else name


def _unquoted(cell: str) -> str:
    """Undo the quotes of spreadsheets: TSV itself knows none, and a prompt may begin with one."""
    if len(cell) > 1 and re.fullmatch(r'"(?:[^"]|"")*"', cell):
        return cell[1:-1].replace('""', '"')
    return cell
