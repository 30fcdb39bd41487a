"""Bytes of a text file as lines: compression, byte order marks, encodings."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

from stable_async.jobs.errors import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from typing import Self

    from stable_async.jobs.formats.base import Lines

__all__ = ["TextFile", "is_text_encoding", "unpacked"]

# The longest prompt has 10,000 characters; a longer line means a file without line breaks.
MAX_LINE = 1024 * 1024
PIECE = 64 * 1024

MARKS = (
    # UTF-32 first: its little-endian mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MARK = "\ufeff"
GZIP = b"\x1f\x8b"
# First bytes of files that are not text, whatever their names say.
FOREIGN = {
    b"PK\x03\x04": "a zip archive, as .xlsx and .ods files are: save the sheet as CSV (UTF-8)",
    b"\xd0\xcf\x11\xe0": "an .xls file: save the sheet as CSV (UTF-8)",
    b"SQLite format 3": "an SQLite database: write the table as CSV or JSON Lines",
    b"PAR1": "a parquet file: name it .parquet, or --format parquet",
    b"ARROW1": "an Arrow file: write it as parquet",
    b"%PDF": "a PDF file: allowed: text",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: allowed: gzip",
    b"\xfd7zXZ\x00": "compressed with xz: allowed: gzip",
    b"BZh": "compressed with bzip2: allowed: gzip",
}
LOOKED_AT = 64
KANA = re.compile(r"[\u3040-\u30ff]")


def is_text_encoding(name: str) -> bool:
    """Return whether Python can decode text in an encoding of this name."""
    try:
        b"a".decode(name)
    except LookupError:
        return False
    except UnicodeError:
        return True
    return True


def unpacked(file: BufferedReader) -> BinaryIO:
    """Return the file without its gzip compression, which is recognised by its first bytes."""
    if file.peek(2)[:2] == GZIP:
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    return file


class TextFile:
    """Reads a binary file as text; a context manager that leaves the file open."""

    def __init__(self, file: BinaryIO, encoding: str | None) -> None:
        """Begin to read.

        Args:
            file: A buffered binary file.
            encoding: `None` means the encoding of the file's byte order mark, else UTF-8.
        """
        self._file = file
        self._wanted = encoding
        self._text: io.TextIOWrapper | None = None
        self._number = 0
        self._pending = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._text is not None:
            self._text.detach()

    def first_line(self) -> str:
        """Return the first line that is not blank, or the beginning of a very long one.

        `lines` and `pieces` begin with it; empty lines before it are skipped.

        Raises:
            UnreadableError: The file is not text in its encoding, or its gzip data is broken.
        """
        if not self._pending:
            with self._reading() as text:
                while (line := text.readline(MAX_LINE + 1)).isspace():
                    self._number += 1
                self._pending = line
        return self._pending

    def lines(self) -> Lines:
        """Yield the lines.

        Raises:
            UnreadableError: As for `first_line`, or a line is too long.
        """
        with self._reading() as text:
            line = self._pending or text.readline(MAX_LINE + 1)
            self._pending = ""
            while line:
                self._number += 1
                if len(line) > MAX_LINE:
                    raise UnreadableError(self._number, f"longer than {MAX_LINE:,} characters")
                if line[0] == MARK:  # of a file that was appended to another one
                    line = line[1:]
                yield self._number, line.rstrip("\n")
                line = text.readline(MAX_LINE + 1)

    def pieces(self) -> Iterator[str]:
        """Yield the text in pieces of any length.

        Raises:
            UnreadableError: As for `first_line`.
        """
        with self._reading() as text:
            while piece := self._pending or text.read(PIECE):
                self._pending = ""
                yield piece

    @contextmanager
    def _reading(self) -> Iterator[io.TextIOWrapper]:
        encoding = self._wanted
        try:
            if self._text is None:
                encoding = _encoding(self._file, self._wanted)
                # Line ends of every system. Programs that concatenate files leave a byte order
                # mark.
                self._text = io.TextIOWrapper(self._file, encoding, newline=None)
            yield self._text
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            what = f"the gzip data is broken: {error}"
            raise UnreadableError(self._number + 1, what) from None
        except UnicodeError as error:
            raise _undecodable(error, self._number, str(encoding)) from None


def _encoding(file: BinaryIO, wanted: str | None) -> str:
    """Return the encoding that the first bytes show, checked against the one asked for."""
    head: bytes = file.peek(LOOKED_AT)[:LOOKED_AT]  # type: ignore[attr-defined]  # buffered, both
    for mark, encoding in MARKS:
        if head.startswith(mark):
            if wanted is not None and not _may_have_mark(wanted, mark):
                raise UnreadableError(
                    0,
                    f"has the byte order mark of {encoding.removesuffix('-sig').upper()}, not of "
                    f"{wanted}: leave out --encoding",
                )
            return encoding
    if wanted is not None:
        return wanted
    for start, what in FOREIGN.items():
        if head.startswith(start):
            raise UnreadableError(0, what)
    if b"\0" in head:
        order = "le" if head.find(b"\0") % 2 else "be"
        raise UnreadableError(
            0,
            "is not text, or is UTF-16 without a byte order mark: for that, use --encoding "
            f"utf-16-{order}",
        )
    return "utf-8"


def _may_have_mark(encoding: str, mark: bytes) -> bool:
    try:
        return mark.decode(encoding) in {"", "\ufeff"}
    except UnicodeError:
        return False


def _undecodable(error: UnicodeError, lines: int, encoding: str) -> UnreadableError:
    known = encoding.removesuffix("-sig").upper()
    if not isinstance(error, UnicodeDecodeError):
        return UnreadableError(lines + 1, f"not {known}: {error}")
    row = lines + 1 + error.object[: error.start].count(b"\n")
    advice = "write it as UTF-8, or name its encoding with --encoding"
    if known == "UTF-8":
        advice = f"try {_likely(error.object)}, or save it as UTF-8"
    byte = f"byte 0x{error.object[error.start]:02x}"
    return UnreadableError(row, f"not {known} ({byte}): {advice}")


def _likely(data: bytes) -> str:
    """Return the option for the likely encoding of text that is not UTF-8."""
    if KANA.search(data.decode("cp932", "ignore")) and _runs(data) > 1.5:
        return "--encoding cp932 (Windows, Japanese)"
    if _runs(data) <= 1.5:
        return "--encoding cp1252 (Windows, western languages)"
    return (
        "--encoding gb18030 (Chinese), cp949 (Korean), cp932 (Japanese), cp1251 (Cyrillic) or "
        "cp1253 (Greek)"
    )


def _runs(data: bytes) -> float:
    """Return the average length of runs of non-ASCII bytes; for western languages it is about
    one.
    """
    runs = re.findall(rb"[\x80-\xff]+", data)
    return sum(map(len, runs)) / max(len(runs), 1)
