"""The mutants of an SQL statement, or of a part of one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["changes", "difference", "is_sql"]

_SQL = re.compile(r"\b(SELECT|INSERT|UPDATE \w+ SET|DELETE FROM|CREATE|WHERE)\b|\b(IN|EXISTS) \(")
# What is changed, and into what; `None` is left as it is. The first rule holds.
_CHANGES: list[tuple[re.Pattern[str], str | None]] = [
    (re.compile(old), new)
    for old, new in (
        (r"--.*|BETWEEN \? AND|IF NOT EXISTS|(INTEGER|REAL|TEXT|BLOB) NOT NULL", None),
        (r"'([a-z][a-z ]*)'", r"'not \1'"),
        (r"\bINSERT OR (REPLACE|IGNORE)", "INSERT"),
        (r"\bAND\b", "OR"),
        (r"\bOR\b", "AND"),
        (r"\bIS NOT NULL", "IS NULL"),
        (r"\bIS NULL", "IS NOT NULL"),
        (r"\bNOT ", ""),
        (r"<>", "="),
        (r"<=", "<"),
        (r">=", ">"),
        (r"<", "<="),
        (r">", ">="),
        (r"\bLEFT JOIN", "JOIN"),
        (r"\bDISTINCT ", ""),
        (r" DESC\b", ""),
        (r"(ORDER BY [\w.]+\b)(?! DESC)", r"\1 DESC"),
        (r"\bmax\(", "min("),
        (r"\bmin\(", "max("),
        (r"( [\w.]+ )\+", r"\1-"),
        (r"( [\w.]+ )-", r"\1+"),
        (r"(=|DEFAULT) 0\b", r"\1 1"),
        (r"(=|DEFAULT) 1\b", r"\1 0"),
    )
]


def is_sql(text: str) -> bool:
    """Return whether a text of a program is SQL."""
    return _SQL.search(text) is not None


def changes(text: str) -> Iterator[str]:
    """Yield SQL with one change each."""
    seen: set[int] = set()
    for old, new in _CHANGES:
        for match in old.finditer(text):
            places = range(*match.span())
            if new is not None and seen.isdisjoint(places):
                yield text[: match.start()] + match.expand(new) + text[match.end() :]
            seen.update(places)


def difference(old: str, new: str) -> str:
    """Return where two texts differ, and what is around it."""
    old, new = (" ".join(text.split()) for text in (old, new))
    begin = _shared(old, new)
    end = min(_shared(old[::-1], new[::-1]), min(len(old), len(new)) - begin)
    begin, end = max(begin - 25, 0), max(end - 25, 0)
    return f"{old[begin : len(old) - end]} -> {new[begin : len(new) - end]}"


def _shared(old: str, new: str) -> int:
    """Return how many characters two different texts have in common at their beginning."""
    pairs = enumerate(zip(old, new, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(old), len(new)))
