"""`.txt`: one prompt, or one path of an input file, on each line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from stable_async.jobs.columns import PROMPTS, folded
from stable_async.jobs.errors import RowProblem, UnreadableError
from stable_async.jobs.formats.foreign import accepted, comment_problem
from stable_async.jobs.row import Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from stable_async.jobs.formats.base import Lines, Rows

__all__ = ["read_prompt_lines"]

# First lines of files whose lines would be bought one by one.
OTHER_FORMATS = (
    (re.compile(r'\{\s*"'), "JSON Lines? Use --format jsonl"),
    (re.compile(r'\[\s*(?:["{]|$)'), "JSON? Use --format json"),
    (re.compile(r"\w+ ?= ?\[|\['"), "Python, not prompts"),
    (re.compile(r"\{\\rtf"), "a rich text document: save it as plain text"),
    (re.compile(r"<(?:!doctype|html|\?xml|svg)\b", re.IGNORECASE), "a web page, not prompts"),
    (
        re.compile(r"version https://git-lfs\."),
        "a Git LFS pointer: fetch the file with git lfs pull",
    ),
)
DELIMITERS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "pipe"}
# The name of a column, as it is written in a header.
COLUMN = re.compile(r'"?\w[\w -]*"?')


def read_prompt_lines(
    lines: Lines, field: str, *, is_path: bool, is_known: Callable[[str], bool]
) -> Rows:
    """Read a row from each line that is not empty.

    Args:
        lines: Lines of the file.
        field: The field of the API that a line holds.
        is_path: Whether the field takes the path of a file.
        is_known: Whether a column of a table means something by this name.

    Raises:
        UnreadableError: It is a table, or of another format.
    """
    first = True
    for number, line in lines:
        text = line.strip()
        if not text:
            continue
        if first:
            _refuse_other_formats(number, text)
            _refuse_table(number, text, is_known)
            first = False
        if is_path:
            # Windows quotes a path that is copied from the Explorer.
            yield Row(number, {field: text.removeprefix('"').removesuffix('"')})
        elif comment := comment_problem(text):
            yield RowProblem(number, comment)
        else:
            yield accepted(Row(number, {field: text}))


def _refuse_other_formats(number: int, text: str) -> None:
    for pattern, what in OTHER_FORMATS:
        if found := pattern.match(text):
            raise UnreadableError(
                number, f"begins with {found[0]!r}: {what}; a .txt file has a prompt on each line"
            )


def _refuse_table(number: int, text: str, is_known: Callable[[str], bool]) -> None:
    """Refuse a table, as Excel's "Unicode Text" is one, by its header: columns that are known."""
    for delimiter, name in DELIMITERS.items():
        written = text.split(delimiter)
        cells = [cell.strip().strip('"') for cell in written]
        known = sum(map(is_known, cells))
        if len(cells) == 1:
            found = text.lower() == "prompt" and name == "comma"
        elif any(folded(cell) in PROMPTS for cell in cells) and name != "pipe":
            # A list of words in a prompt has spaces after its commas.
            found = name == "tab" or all(map(COLUMN.fullmatch, written))
        else:
            found = known == len(cells) or (known > 1 and name == "tab")
        if found:
            raise UnreadableError(
                number,
                f"{', '.join(cells)}: the header of a table? Use --format csv --delimiter {name}; "
                "a .txt file has a prompt on each line",
            )
    printed = re.split(r"\s{2,}", text)
    if len(printed) > 1 and all(map(is_known, printed)):
        raise UnreadableError(
            number,
            f"{', '.join(printed)}: the header of a table that was printed? Write it as CSV; "
            "a .txt file has a prompt on each line",
        )
