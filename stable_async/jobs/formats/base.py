"""The types that every reader yields and raises."""

from __future__ import annotations

from collections.abc import Iterator

from stable_async.api.texts import is_blank
from stable_async.jobs.errors import RowProblem
from stable_async.jobs.row import Row

__all__ = ["Lines", "Rows", "blank_problem"]

Rows = Iterator[Row | RowProblem]
Lines = Iterator[tuple[int, str]]
"""Lines with their numbers, from 1; without their line breaks."""

# Fields that mean nothing when they are blank.
TEXTS = ("prompt", "search_prompt", "select_prompt")


def blank_problem(row: Row) -> RowProblem | None:
    """Return the problem of a blank prompt, or one with NUL; the API's rules refuse empty ones."""
    for name in TEXTS:
        value = row.fields.get(name)
        if value and isinstance(value, str):
            if is_blank(value):
                return RowProblem(row.number, f"{name}: blank; write one, or remove the row")
            if "\0" in value:
                return RowProblem(row.number, f"{name}: has a NUL character; remove it")
    return None
