"""Text that is not a prompt: for other programs, or written for a missing value."""

from __future__ import annotations

import re
import reprlib
from typing import TYPE_CHECKING

from stable_async.jobs.columns import ALL_FIELDS, is_text
from stable_async.jobs.errors import RowProblem

if TYPE_CHECKING:
    from stable_async.jobs.row import Row

__all__ = ["ADVICE", "accepted", "comment_problem"]

ADVICE = "remove it, or write the row as JSON Lines, where a prompt may be any text"
# What lines begin with that are comments in other files.
COMMENTS = ("#", "//")

FOREIGN = (
    (re.compile(r"(?im)^negative prompt:"), "a negative prompt in the form of AUTOMATIC1111"),
    (re.compile(r"(?im)^steps: (?=\d+,)"), "parameters in the form of AUTOMATIC1111"),
    (re.compile(r"(?m)^/imagine\b"), "a Midjourney command"),
)
FOREIGN_INSIDE = (
    # Midjourney: `--ar 16:9`, `--v 6`, `--no people`, `--tile`.
    (re.compile(r"(?:^|(?<=\s))--[a-z]\w*"), "a parameter of another program"),
    # The same after a word processor; a sentence may have a dash before a word.
    (re.compile(r"(?:^|(?<=\s))—[a-z]+(?=\s+\d)"), "a parameter of another program"),
    (re.compile(r"<(?:lora|lyco|hypernet):", re.IGNORECASE), "a model of another program"),
)
# What spreadsheets write for a formula that failed, in any language, libraries for no value, and
# psql at the end.
NO_TEXT = re.compile(
    r"#[A-ZÀ-Þ/0-9]{2,12}[!?]|#N/A|#NV|Err:\d{3}|<NA>|NULL|NaN|nan|None|\\N|\(\d+ rows?\)"
)
# The longest of them.
SHORT = 16
# A line below a header, as in the tables of Markdown and psql, or around it, as in those of DuckDB.
RULE = re.compile(r" *[-=+_*~|:`\u2500-\u257f][-=+_*~|:` \u2500-\u257f]*")
RULE_SIGNS = frozenset("-=+_*~|:` " + "".join(map(chr, range(0x2500, 0x2580))))
# Fields that are written by hand.
TEXTS = tuple(sorted(name for name in ALL_FIELDS if is_text(name) and name != "text_prompts"))
# One of them begins what the patterns of `FOREIGN` find, at the start of a line.
FIRST_CHARACTERS = frozenset("nNsS/")


def comment_problem(text: str) -> str | None:
    """Return the problem of a line that would be a comment in other files."""
    sign = next((sign for sign in COMMENTS if text.startswith(sign)), None)
    return sign and f"begins with {sign!r}: a comment? {ADVICE}"


def accepted(row: Row) -> Row | RowProblem:
    """Return a row of text or a table, or its problem: text for another program."""
    for name in TEXTS:
        text = row.fields.get(name)
        if text and isinstance(text, str) and (what := _foreign(text)):
            return RowProblem(row.number, f"{name} {what}; {ADVICE}")
    return row


def _foreign(text: str) -> str | None:
    if len(text) < SHORT and NO_TEXT.fullmatch(text.strip()):
        return f"is {text.strip()!r}: what programs write for a missing value, not text"
    if text[0] in RULE_SIGNS and RULE.fullmatch(text):
        return f"is {reprlib.repr(text)}: a separator, not text"
    if text[0] in FIRST_CHARACTERS or "\n" in text:
        for pattern, what in FOREIGN:
            if found := pattern.search(text):
                place = "has a line that begins" if found.start() else "begins"
                return f"{place} with {found[0]!r}: {what}"
    if "--" in text or "—" in text or "<" in text:  # nearly no prompt has any
        for pattern, what in FOREIGN_INSIDE:
            if found := pattern.search(text):
                return f"has {found[0]!r}: {what}"
    return None
