"""`.csv` and `.tsv` as spreadsheet programs and data libraries write them: records of cells."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING

from stable_async.jobs.formats.base import UnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stable_async.jobs.formats.base import Lines

__all__ = ["read_records", "read_tab_separated"]

DELIMITERS = (",", ";", "\t", "|")
# What Excel writes as the first line, and reads as no row, where commas are decimal points.
SEP_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
# A header that is longer is no header.
HEADER_LINES = 50


def read_records(
    lines: Lines, delimiter: str | None, is_known: Callable[[str], bool]
) -> Iterator[tuple[int, Sequence[str]]]:
    """Read records of CSV with their numbers; the first one is the header, and empty ones are not.

    Args:
        lines: Of the file.
        delimiter: `None`: what a `sep=` line says, else what makes the most sense of the header.
        is_known: Whether a column means something by this name.

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
    records = csv.reader(
        (line + "\n" for some in (header, texts) for line in some), strict=True, delimiter=delimiter
    )
    try:
        for cells in records:
            number += 1
            if any(cells):
                yield number, cells
    except csv.Error as error:
        raise UnreadableError(number + 1, f"not valid CSV: {error}") from None


def _delimiter(header: str, is_known: Callable[[str], bool]) -> str:
    """Return the delimiter by which the most columns are known, or else there are the most."""

    def sense(delimiter: str) -> tuple[int, int]:
        try:
            cells = next(csv.reader(header.splitlines(keepends=True), delimiter=delimiter), [])
        except csv.Error:
            return 0, 0
        return sum(map(is_known, cells)), len(cells)

    return max(DELIMITERS, key=sense)  # the first of those that make as much sense


def read_tab_separated(lines: Lines) -> Iterator[tuple[int, Sequence[str]]]:
    """Read records of TSV, which has a line for each and knows no quotes; but spreadsheets do.

    Raises:
        UnreadableError: A cell may go on in the next line.
    """
    for number, line in lines:
        cells = [_unquoted(cell) for cell in line.split("\t")]
        if not any(cells):
            continue
        if cells[-1].startswith('"') and cells[-1].count('"') % 2:
            raise UnreadableError(
                number,
                "a quote is opened and not closed on its line: close it, or read cells of several "
                "lines with --format csv --delimiter tab",
            )
        yield number, cells


def _unquoted(cell: str) -> str:
    """Undo the quotes of spreadsheets; a prompt may begin with one that is its own."""
    if len(cell) > 1 and re.fullmatch(r'"(?:[^"]|"")*"', cell):
        return cell[1:-1].replace('""', '"')
    return cell
