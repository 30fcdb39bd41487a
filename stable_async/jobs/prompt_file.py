"""Prompt files of all formats, and folders, read lazily as rows."""

from __future__ import annotations

import os
import reprlib
import shutil
import sys
import weakref
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Literal, cast, get_args

from stable_async.arguments import (
    checked_arguments,
    checked_setting,
    choice,
    instance,
    or_none,
    path_like,
)
from stable_async.jobs.columns import ColumnReport, ColumnRules, folded
from stable_async.jobs.errors import PromptFileError, RowProblem, UnreadableError
from stable_async.jobs.formats.dataset_rows import (
    metadata_tables,
    parquet_files,
    read_media_folder,
    read_parquet_folder,
)
from stable_async.jobs.formats.decoding import TextFile, is_text_encoding, unpacked
from stable_async.jobs.formats.delimited import read_records, read_tab_separated
from stable_async.jobs.formats.embedded import InputStore
from stable_async.jobs.formats.folder_rows import (
    AUDIO,
    IMAGES,
    FolderFiles,
    is_pattern,
    read_folder,
)
from stable_async.jobs.formats.json_rows import read_json
from stable_async.jobs.formats.parquet_rows import embedded_columns, read_parquet
from stable_async.jobs.formats.prompt_lines import read_prompt_lines
from stable_async.jobs.formats.table import SuspiciousColumnsError, read_table

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from stable_async.jobs.formats.base import Rows
    from stable_async.jobs.row import Row

__all__ = ["STDIN", "Format", "PromptFile", "SuspiciousFileError"]

Format = Literal["jsonl", "json", "csv", "tsv", "txt", "parquet"]
STDIN = "-"
OTHER_NAMES: dict[str, Format] = {"ndjson": "jsonl", "tab": "tsv", "pq": "parquet"}
DELIMITER_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}


class SuspiciousFileError(PromptFileError):
    """Columns look like parameters under other names, and no option says what they are.

    Attributes:
        columns: How each column is used.
    """

    def __init__(self, name: str, problem: RowProblem, columns: ColumnReport) -> None:
        """Name the columns of the file called `name`."""
        super().__init__(name, [problem])
        self.columns = columns


@checked_arguments(
    {
        "format": or_none(choice(*get_args(Format))),
        "rules": or_none(instance(ColumnRules, "ColumnRules")),
    }
)
class PromptFile:
    """A prompt file: `.jsonl`, `.json`, `.csv`, `.tsv`, `.txt` or `.parquet`, `-`, or a folder.

    Text may be compressed with gzip. JSON Lines accept only the keys `id`, `service`, the fields of
    the API and `metadata`, so that a misspelt key costs nothing. Tables and JSON arrays have
    columns of their own: names are matched without regard to case; a column that is not a parameter
    is kept as metadata, unless it looks like a parameter under another name. Empty cells are
    ignored.

    A folder or a glob pattern names the input files of a service, one for each row. A folder with
    `metadata.jsonl`, `metadata.csv` or parquet files is read as a data set.

    Attributes:
        name: Name of the file in messages.
        path: Its path; `None` for pipes, which can be read only once, and for folders.
        is_pipe: Whether it can be read only once, and may be silent for any time.
        folder: The folder that its input files are relative to; for a pipe, the current one.
        format: Its format; `folder` for a folder.
        encoding: Encoding of its text; `None` means that of its byte order mark, else UTF-8.
        delimiter: Delimiter of CSV cells; `None` means the one that its header shows.
        rules: How its columns are used.
        columns: The columns found so far.
        notes: Messages to the user so far, in whole sentences.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        format: Format | None = None,  # noqa: A002 - the option's name
        encoding: str | None = None,
        delimiter: str | None = None,
        rules: ColumnRules | None = None,
    ) -> None:
        """Prepare to read.

        Args:
            source: Path of a file, a named pipe or a folder, a glob pattern, or `-` for standard
                input.
            format: `None` goes by the name; a pipe is JSON Lines if its name does not show it.
            encoding: Encoding of text, by Python's name for it.
            delimiter: One character, or `tab`, `comma`, `semicolon` or `pipe`.
            rules: How columns are used; `None` goes by their names.

        Raises:
            PromptFileError: There is nothing to read, or an argument is invalid.
        """
        path = checked_setting("source", source, path_like)
        source = os.fspath(source)
        piped = source == STDIN or path.is_fifo() or path.is_char_device()
        self._files = FolderFiles(source) if path.is_dir() or is_pattern(source) else None
        self._source = source
        self._inputs: Path | None = None
        self.name: str = "standard input" if source == STDIN else source
        self.path: Path | None = None if piped or self._files else path
        self.is_pipe: bool = piped
        if self.path is not None and not path.exists():
            raise self._unusable(0, "no such file")
        self.folder: Path = Path.cwd() if piped else path.absolute().parent
        if self._files:
            self.folder = self._files.root.absolute()
        self._is_assumed = False
        self.format: Format | Literal["folder"]
        self.format = "folder" if self._files else format or self._format_by_name()
        self.encoding = encoding
        self.delimiter: str | None = DELIMITER_NAMES.get(delimiter or "", delimiter)
        self.rules: ColumnRules = rules or ColumnRules()
        self.columns: ColumnReport = ColumnReport()
        self.notes: list[str] = []
        for problem in self._problems():
            raise self._unusable(0, problem)

    def _problems(self) -> Generator[str, None, None]:
        if self.path is None and self.format == "parquet":
            yield "parquet cannot be read from a pipe"
        if self.path is not None and not self.path.is_file():
            yield "is not a file"
        if self._source == STDIN and sys.stdin is None:
            yield "is closed"
        if self.encoding is not None and not is_text_encoding(self.encoding):
            yield (
                f"encoding is {self.encoding!r}; allowed: utf-8, utf-16, cp1252, cp932, gb18030 "
                "and the others of Python"
            )
        if self.delimiter is not None and len(self.delimiter) != 1:
            names = ", ".join(name for name in DELIMITER_NAMES if name.isalpha())
            yield f"delimiter is {self.delimiter!r}; allowed: one character, or {names}"
        yield from self.rules.problems()

    def _format_by_name(self) -> Format:
        suffix = self._source.lower().removesuffix(".gz").rpartition(".")[2]
        for known in get_args(Format):
            if suffix == known:
                return cast("Format", known)
        if suffix in OTHER_NAMES:
            return OTHER_NAMES[suffix]
        if self.path is None:
            self._is_assumed = True
            return "jsonl"
        if suffix in {"xlsx", "xlsm", "xls", "ods", "numbers"}:
            raise self._unusable(0, f"a .{suffix} file: save the sheet as CSV (UTF-8)")
        if f".{suffix}" in (*IMAGES, *AUDIO):
            what = f"an input file: name its folder, or a pattern such as '*.{suffix}'"
            raise self._unusable(0, what)
        allowed = ", ".join(f".{known}" for known in get_args(Format))
        raise self._unusable(0, f"unknown format; allowed: {allowed}, each with .gz, or --format")

    @property
    def reading(self) -> dict[str, object]:
        """How the file is read, as JSON values; if it differs, the rows may differ."""
        rules = self.rules
        return {
            "format": self.format,
            "encoding": self.encoding,
            "delimiter": self.delimiter,
            "prompt_column": rules.prompt_column and folded(rules.prompt_column),
            "map": {folded(name): rules.map[name] for name in sorted(rules.map)},
            "keep": sorted(map(folded, rules.keep)),
            "drop": sorted(map(folded, rules.drop)),
        }

    def rows(self) -> Generator[Row | RowProblem, None, None]:
        """Read the rows, in order.

        Raises:
            SuspiciousFileError: Columns look like parameters under other names.
            PromptFileError: The file as a whole is not what it should be, or cannot be read.
        """
        self.columns.take(ColumnReport())
        self.notes.clear()
        with self._translated():
            if self._files is None and self.format != "parquet":
                with self._text() as text:
                    yield from self._rows_of(text)
            else:
                yield from self._with_inputs()

    @property
    def has_inputs_inside(self) -> bool:
        """Whether input files of requests are embedded in the file; see `keep_inputs`.

        Raises:
            PromptFileError: The file cannot be read.
        """
        with self._translated():
            paths = self._parquet_paths()
            return any(embedded_columns(path, self.rules) for path in paths[:1])

    def keep_inputs(self, folder: Path) -> None:
        """Write embedded input files below `folder`, which rows are then relative to.

        Without this, only their sizes and first bytes are written, for a preview, to a folder that
        is deleted with this object.
        """
        self._inputs = self.folder = folder

    def _parquet_paths(self) -> list[Path]:
        if (files := self._files) is not None:
            if files.is_pattern:
                return [files.root / name for name in files.names() if name.endswith(".parquet")]
            return [] if metadata_tables(files.root) else parquet_files(files.root)
        return [self.path] if self.path is not None and self.format == "parquet" else []

    def _with_inputs(self) -> Rows:
        """Read rows whose input files are beside the file, or embedded in it."""
        paths, files = self._parquet_paths(), self._files
        if files is not None and not paths:
            tables = [] if files.is_pattern else metadata_tables(files.root)
            if tables:
                yield from read_media_folder(files.root, tables, self.rules, self.columns)
            else:
                yield from read_folder(files, self.rules, self.notes)
            return
        folder = self._inputs
        if folder is None and self.has_inputs_inside:
            folder = self.folder = self._temporary_folder()
        store = InputStore(folder or self.folder, whole=self._inputs is not None)
        if files is None:
            yield from read_parquet(paths[0], self.rules, self.columns, store)
        else:
            yield from read_parquet_folder(paths, self.rules, self.columns, store)

    def _temporary_folder(self) -> Path:
        """Return a folder that exists as long as this object."""
        folder = mkdtemp(prefix="stable-async-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    @contextmanager
    def _text(self) -> Iterator[TextFile]:
        # A file object of our own for standard input: a thread may still be reading when the
        # interpreter exits and closes its own.
        standard = self._source == STDIN
        source = sys.stdin.fileno() if standard else self._source
        with (
            open(source, "rb", closefd=not standard) as file,
            TextFile(unpacked(file), self.encoding) as text,
        ):
            yield text

    def _rows_of(self, text: TextFile) -> Rows:
        rules, columns = self.rules, self.columns
        match self.format:
            case "jsonl" | "json":
                first = text.first_line().strip()
                if self._is_assumed and first and first[0] not in "{[":
                    what = f"begins with {reprlib.repr(first)}, and is read as JSON Lines"
                    raise UnreadableError(0, f"{what}: name another format with --format")
                return read_json(text, rules, columns)
            case "txt":
                field = rules.line_field
                is_path = field in rules.file_fields
                return read_prompt_lines(text.lines(), field, is_path=is_path, is_known=rules.knows)
            case "tsv" if self.delimiter is None:
                records = read_tab_separated(text.lines())
            case _:
                records = read_records(text.lines(), self.delimiter, rules.knows)
        hint = "quote text that contains a comma; row names need a column of their own"
        return read_table(records, rules, columns, delimiter_hint=hint)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the errors of readers into `PromptFileError`."""
        try:
            yield
        except SuspiciousColumnsError as error:
            self.columns.take(error.report)
            problem = RowProblem(error.row, error.what)
            raise SuspiciousFileError(self.name, problem, error.report) from None
        except UnreadableError as error:
            raise self._unusable(error.row, error.what) from None
        except OSError as error:
            raise self._unusable(0, f"cannot be read: {error.strerror or error}") from error

    def _unusable(self, row: int, what: str) -> PromptFileError:
        return PromptFileError(self.name, [RowProblem(row, what)])
