"""`.txt`: one prompt, or one path of an input file, on each line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from stable_async.jobs.errors import RowProblem
from stable_async.jobs.formats.base import UnreadableError, blank_problem
from stable_async.jobs.row import Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from stable_async.jobs.formats.base import Lines, Rows

__all__ = ["read_prompt_lines"]

# Patterns of lines that are not prompts, or have parameters that only other programs understand.
FOREIGN = (
    (re.compile(r"#"), "a comment?"),
    (re.compile(r"negative prompt:", re.IGNORECASE), "a negative prompt as AUTOMATIC1111 has it"),
    (re.compile(r"steps: (?=\d+,)", re.IGNORECASE), "parameters as AUTOMATIC1111 has them"),
    (re.compile(r"/imagine\b"), "a command of Midjourney"),
)
FOREIGN_INSIDE = (
    # Midjourney: `--ar 16:9`, `--v 6`, `--no people`, `--tile`.
    (re.compile(r"(?:^|(?<=\s))(?:--|—)[a-z]\w*"), "a parameter of another program"),
    (re.compile(r"<(?:lora|lyco|hypernet):", re.IGNORECASE), "a model of another program"),
)
# One of them begins, or is in, what the patterns find: nearly no prompt has any.
FIRST_SIGNS = frozenset("#nNsS/")
SIGNS = ("--", "—", "<")
ADVICE = (
    "remove it, or use a .csv with columns such as prompt and negative_prompt, where a text may "
    "be anything"
)


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
        UnreadableError: It is a table.
    """
    first = True
    for number, line in lines:
        text = line.strip()
        if not text:
            continue
        if first:
            _refuse_table(number, text, is_known)
            first = False
        if is_path:
            # Windows quotes a path that is copied from the Explorer.
            yield Row(number, {field: text.removeprefix('"').removesuffix('"')})
        elif what := _foreign(text):
            yield RowProblem(number, f"{what}; {ADVICE}")
        else:
            row = Row(number, {field: text})
            yield blank_problem(row) or row


def _refuse_table(number: int, text: str, is_known: Callable[[str], bool]) -> None:
    """Refuse a table, as Excel's "Unicode Text" is one, by its header: columns that are known."""
    for delimiter, name in (("\t", "tab"), (",", "comma"), (";", "semicolon"), ("|", "pipe")):
        cells = [cell.strip().strip('"') for cell in text.split(delimiter)]
        known = sum(map(is_known, cells))
        if len(cells) == 1:
            found = text.lower() == "prompt" and name == "comma"
        else:
            found = known == len(cells) or (known > 1 and name == "tab")
        if found:
            raise UnreadableError(
                number,
                f"{', '.join(cells)}: the header of a table? Then --format csv --delimiter {name}; "
                "a .txt has a prompt on each line",
            )


def _foreign(text: str) -> str | None:
    if text[0] in FIRST_SIGNS:
        for pattern, what in FOREIGN:
            if found := pattern.match(text):
                return f"begins with {found[0]!r}: {what}"
    if any(sign in text for sign in SIGNS):
        for pattern, what in FOREIGN_INSIDE:
            if found := pattern.search(text):
                return f"has {found[0]!r}: {what}"
    return None
