"""`failures.jsonl`: the rows without a good result, rewritten by each run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stable_async.files import write_atomically
from stable_async.jobs.row import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stable_async.jobs.ledger import Ledger

__all__ = ["FAILURES_NAME", "write_failures"]

FAILURES_NAME = "failures.jsonl"


def write_failures(folder: Path, ledger: Ledger) -> None:
    """Write the file into the folder of a job, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    write_atomically(folder / FAILURES_NAME, _lines(ledger))


def _lines(ledger: Ledger) -> Iterator[bytes]:
    for row, state, reason, error, in_doubt in ledger.failures():
        line = {
            "id": row.id,
            "row": row.number,
            "state": state,
            "reason": reason,
            "error": error,
            "service": row.service,
            "text": row.fields.get("prompt"),
            "generation_id": row.generation_id,
            "attempts": row.attempts,
            "credits_in_doubt": in_doubt,
        }
        yield (to_json(line) + "\n").encode()
