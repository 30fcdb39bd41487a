"""The errors of a job as a whole."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stable_async.errors import StabilityError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "ImagesURLError",
    "JobChangedError",
    "JobError",
    "JobLockedError",
    "LedgerError",
    "PromptFileError",
    "RowProblem",
    "StorageError",
    "UnreadableError",
    "storage_errors",
]

LISTED_PROBLEMS = 20
# How many rows with the same problem are named.
NAMED_ROWS = 5


class JobError(StabilityError):
    """A job cannot start or continue. What it has done so far is safe in its ledger."""


class JobLockedError(JobError):
    """Another process works on the same job."""


class JobChangedError(JobError):
    """A run has other options than its job was started with; nothing was changed or sent."""


class LedgerError(JobError):
    """The ledger cannot be read or written."""


class StorageError(JobError):
    """An image cannot be stored: no space, no permission, no bucket.

    Attributes:
        spooled: Whether it is spooled, so that the next run stores it where it belongs.
    """

    def __init__(self, message: str, *, spooled: bool = False) -> None:
        """Describe what cannot be stored, and why."""
        if spooled:
            message += "; it is spooled, and the next run stores it"
        super().__init__(message)
        self.spooled = spooled


class ImagesURLError(StorageError):
    """The URL for images is invalid, or of an unknown kind."""


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Turn an `OSError` of the block into a `StorageError` that names where it occurred."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{where}: {error.strerror or error}") from error


class UnreadableError(Exception):
    """A prompt file as a whole cannot be read; `PromptFile` raises `PromptFileError` for it.

    Attributes:
        row: The row; 0 means the whole file.
        what: The problem, and what to do.
    """

    def __init__(self, row: int, what: str) -> None:
        super().__init__(what)
        self.row = row
        self.what = what


@dataclass(frozen=True, slots=True)
class RowProblem:
    """What is wrong with one row.

    Attributes:
        row: Number of the row, as a text editor or a spreadsheet shows it; 0 means the whole file.
        text: The field, the problem and what is allowed.
        files: The input files of the row, by their names; those of a folder have no other number.
    """

    row: int
    text: str
    files: str = ""

    @property
    def place(self) -> str:
        """The number of the row, and its files."""
        return f"{self.row} ({self.files})" if self.files else str(self.row)

    def __str__(self) -> str:
        """Return `row 3: ...`."""
        return f"row {self.place}: {self.text}" if self.row else self.text


class PromptFileError(JobError):
    """The prompts cannot be used as they are; nothing was sent.

    Attributes:
        problems: The problems by row; only the first ones if there are very many.
        count: How many problems there are.
    """

    def __init__(self, name: str, problems: Sequence[RowProblem], count: int | None = None) -> None:
        """Describe the problems of the file called `name`."""
        self.problems: tuple[RowProblem, ...] = tuple(problems)
        self.count: int = len(problems) if count is None else count
        lines = [_printable(line) for line in _grouped(self.problems)]
        if len(lines) == 1 and self.count == len(self.problems):
            super().__init__(f"{name}: {lines[0]}")
            return
        shown = lines[:LISTED_PROBLEMS]
        if self.count > len(self.problems) or len(lines) > len(shown):
            shown.append("... and others")
        super().__init__("\n  ".join([f"{name}: {self.count:,} problems", *shown]))


def _grouped(problems: Sequence[RowProblem]) -> list[str]:
    """Return one line for each problem; a problem of several rows is reported once."""
    alike: dict[str, list[RowProblem]] = {}
    for problem in problems:
        alike.setdefault(problem.text, []).append(problem)
    return [_line(some) for some in alike.values()]


def _printable(text: str) -> str:
    """Return a message without the control characters of a file, which terminals would obey."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _line(alike: Sequence[RowProblem]) -> str:
    if len(alike) == 1:
        return str(alike[0])
    named = ", ".join(problem.place for problem in alike[:NAMED_ROWS])
    more = f" and {len(alike) - NAMED_ROWS:,} more" if len(alike) > NAMED_ROWS else ""
    return f"rows {named}{more}: {alike[0].text}"
