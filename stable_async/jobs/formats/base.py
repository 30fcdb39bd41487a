"""The types that every reader yields and raises."""

from __future__ import annotations

from collections.abc import Iterator

from stable_async.jobs.errors import RowProblem
from stable_async.jobs.row import Row

__all__ = ["Lines", "Rows"]

Rows = Iterator[Row | RowProblem]
Lines = Iterator[tuple[int, str]]
"""Lines with their numbers, from 1; without their line breaks."""
