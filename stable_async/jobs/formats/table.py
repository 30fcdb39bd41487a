"""Rows of tables: records of cells under the columns of a header."""

from __future__ import annotations

import math
import re
from itertools import islice
from typing import TYPE_CHECKING

from stable_async.api.prompt_texts import NEEDED_PROMPTS
from stable_async.jobs.columns import (
    NUMBERS,
    WHOLE_NUMBERS,
    ColumnError,
    ColumnReport,
    ColumnRules,
    Target,
    classify,
    folded,
    suspicion_message,
)
from stable_async.jobs.errors import RowProblem, UnreadableError
from stable_async.jobs.formats.foreign import accepted, comment_problem
from stable_async.jobs.row import Row
from stable_async.wording import count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stable_async.jobs.formats.base import Rows

__all__ = ["SuspiciousColumnsError", "checked_columns", "read_table", "row_of"]

# What R, SQL shells and spreadsheets write for a missing value; free text may contain it.
MISSING = frozenset(("#N/A", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "\\N", "nan", "null"))
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
# Four thousand in English, and four in German: refused where only one of them is meant.
THOUSANDS = re.compile(r",\d{3}$")
DELIMITER = re.compile(r"[,;\t|]")
# How many rows with a title, a date and the like people have above a header.
TITLE_ROWS = 10


class SuspiciousColumnsError(UnreadableError):
    """Columns look like parameters under other names, and no option says what they are.

    Attributes:
        report: The report of all columns.
    """

    def __init__(self, report: ColumnReport, service: str) -> None:
        super().__init__(0, suspicion_message(report, service))
        self.report = report


def checked_columns(
    names: Sequence[str],
    rules: ColumnRules,
    row: int,
    *,
    partial: bool = False,
    what: str = "column",
) -> tuple[list[Target], ColumnReport]:
    """Return the targets of columns; see `classify`.

    Raises:
        UnreadableError: They do not match the rules.
        SuspiciousColumnsError: Some look like parameters under other names.
    """
    try:
        targets, report = classify(names, rules, partial=partial, what=what)
    except ColumnError as error:
        raise UnreadableError(row, str(error)) from None
    if report.suspicious:
        raise SuspiciousColumnsError(report, rules.service)
    return targets, report


def read_table(
    records: Iterator[tuple[int, Sequence[str]]],
    rules: ColumnRules,
    report: ColumnReport,
    *,
    delimiter_hint: str,
) -> Rows:
    """Read rows of numbered records of text; the first one is the header.

    Raises:
        UnreadableError: The header is wrong, or does not fit the first row.
    """
    number, header = next(records, (0, ()))
    if not number:
        raise UnreadableError(0, "the file is empty")
    try:
        targets, found = checked_columns(header, rules, number)
    except SuspiciousColumnsError:
        raise
    except UnreadableError as error:
        raise _header_below(records, rules) or error from None
    report.take(found)
    width, first = len(targets), True
    unnamed = [place for place, name in enumerate(header) if not folded(name)]
    for number, cells in records:
        if len(cells) > width and any(cells[width:]):
            what = f"{count(len(cells), 'cell')} under {count(width, 'column')}"
            if first:
                raise UnreadableError(number, f"{what}: {delimiter_hint}")
            yield RowProblem(number, what)
            continue
        first = False
        if cells == header:
            yield RowProblem(number, "the header again: was another file appended?")
            continue
        comment = comment_problem(cells[0]) if targets[0].is_text else None
        if comment and not any(cells[1:]):
            yield RowProblem(number, comment)
            continue
        for place in [place for place in unnamed if place < len(cells) and cells[place]]:
            unnamed.remove(place)
            report.kept.append(targets[place].name)
        row = row_of(number, targets, cells)
        yield accepted(row)


def _header_below(
    records: Iterator[tuple[int, Sequence[str]]], rules: ColumnRules
) -> UnreadableError | None:
    """Return the problem of titles above the header, if one of the next records is the header."""
    wanted = rules.required.union(map(folded, rules.mapped))
    for number, cells in islice(records, TITLE_ROWS):
        # The delimiter may not be known: a title may have none.
        names = {folded(name) for cell in cells for name in DELIMITER.split(cell)}
        if not wanted.isdisjoint(names):
            what = "the header? The first row has the names of the columns: remove the rows above"
            return UnreadableError(number, what)
    return None


def row_of(number: int, targets: Sequence[Target], cells: Sequence[object]) -> Row:
    """Return a row of the values that are present; pandas has NaN for missing ones."""
    fields: dict[str, object] = {}
    metadata: dict[str, object] = {}
    for target, cell in zip(targets, cells, strict=False):
        if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
            continue
        if target.kind == "kept":
            metadata[target.name] = cell
        elif target.kind == "field":
            is_plain = not isinstance(cell, str) or (target.is_text and cell not in MISSING)
            value = cell if is_plain else _value(target, str(cell))
            if value is not None:
                fields[target.name] = value
    return Row(number, fields, metadata)


def _value(target: Target, cell: str) -> str | None:
    """Return the text of a cell; `None` for a missing value, except where a row needs one."""
    if target.is_text:
        return cell if target.name in NEEDED_PROMPTS else None
    cell = cell.strip()
    if cell in MISSING:
        return None
    if "," in cell and target.name in NUMBERS and DECIMAL_COMMA.fullmatch(cell):
        is_grouped = target.name in WHOLE_NUMBERS and THOUSANDS.search(cell)
        return cell if is_grouped else cell.replace(",", ".")
    return cell
