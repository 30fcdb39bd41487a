"""`.csv` and `.tsv` as spreadsheet programs and data libraries write them: records of cells."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING

from stable_async.jobs.errors import UnreadableError
from stable_async.jobs.formats.decoding import MAX_LINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stable_async.jobs.formats.base import Lines

__all__ = ["read_records", "read_tab_separated"]

DELIMITERS = (",", ";", "\t", "|")
# The first line that Excel writes and does not read as a row, where commas are decimal points.
SEP_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
# A longer line is not a header.
HEADER_LINES = 50
# What is wrong, by a part of the message of `csv`.
BROKEN = {
    "expected after": 'text after the end of a quoted cell; write a quote in such a cell as ""',
    "unexpected end": "a quote is opened and never closed",
    "field limit": f"a cell is longer than {MAX_LINE:,} characters; is a quote never closed?",
}


def read_records(
    lines: Lines, delimiter: str | None, is_known: Callable[[str], bool]
) -> Iterator[tuple[int, Sequence[str]]]:
    """Read records of CSV with their numbers; the first non-empty one is the header.

    Without a delimiter it is that of a `sep=` line, else the one that fits the header best.

    Raises:
        UnreadableError: The file is not CSV.
    """
    texts = (line for _, line in lines)
    number = 0
    header: list[str] = []
    for line in texts:
        if not header and (said := SEP_LINE.fullmatch(line.strip())):
            delimiter = delimiter or said[1]
            continue
        header.append(line)
        if not header[0].strip():
            header.clear()
            number += 1
        elif "\n".join(header).count('"') % 2 == 0 or len(header) == HEADER_LINES:
            break
    delimiter = delimiter or _delimiter("\n".join(header), is_known)
    if csv.field_size_limit() < MAX_LINE:
        csv.field_size_limit(MAX_LINE)  # of the whole process; below that of a line otherwise
    records = csv.reader(
        (line + "\n" for some in (header, texts) for line in some),
        strict=True,
        delimiter=delimiter,
        skipinitialspace=True,
    )
    try:
        for cells in records:
            number += 1
            if any(cells):
                yield number, cells
    except csv.Error as error:
        what = next((what for part, what in BROKEN.items() if part in str(error)), str(error))
        raise UnreadableError(number + 1, f"not valid CSV: {what}") from None


def _delimiter(header: str, is_known: Callable[[str], bool]) -> str:
    """Return the delimiter that makes the most known columns, or else the most columns."""

    def sense(delimiter: str) -> tuple[int, int]:
        try:
            lines = header.splitlines(keepends=True)
            cells = next(csv.reader(lines, delimiter=delimiter, skipinitialspace=True), [])
        except csv.Error:
            return 0, 0
        return sum(map(is_known, cells)), len(cells)

    return max(DELIMITERS, key=sense)  # the first of those that fit equally well


def read_tab_separated(lines: Lines) -> Iterator[tuple[int, Sequence[str]]]:
    """Read records of TSV: one line each and no quotes, though spreadsheets write quotes.

    Raises:
        UnreadableError: A cell may continue after a tab, or on the next line.
    """
    for number, line in lines:
        written = line.split("\t")
        cells = [_unquoted(cell) for cell in written]
        if not any(cells):
            continue
        if '"' in line and any(cell.startswith('"') and cell.count('"') % 2 for cell in written):
            raise UnreadableError(
                number,
                "a quote is opened and not closed in its cell: close it, or read cells with tabs "
                "or several lines in quotes with --format csv --delimiter tab",
            )
        yield number, cells


def _unquoted(cell: str) -> str:
    """Undo the quotes of spreadsheets; a prompt may begin with a quote of its own."""
    if len(cell) > 1 and re.fullmatch(r'"(?:[^"]|"")*"', cell):
        return cell[1:-1].replace('""', '"')
    return cell
