"""`failures.jsonl`: the rows without a good image, rewritten by each run.

Each line has all charges of its row, so that a lost ledger is rebuilt with its doubts.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stable_async.files import state_of, write_atomically
from stable_async.jobs.errors import StorageError
from stable_async.jobs.row import text_of, to_json
from stable_async.jobs.storage.facts import RowFacts, read_facts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stable_async.jobs.ledger import Ledger

__all__ = ["FAILURES_NAME", "is_as_written", "read_failures", "write_failures"]

FAILURES_NAME = "failures.jsonl"


def write_failures(folder: Path, ledger: Ledger) -> None:
    """Write the file into the folder of a job, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    write_atomically(folder / FAILURES_NAME, _lines(ledger))
    ledger.set(failures=_state(folder))


def is_as_written(folder: Path, ledger: Ledger) -> bool:
    """Return whether the file is as written from this ledger, or does not exist."""
    return _state(folder) in {ledger.get("failures"), None}


def _state(folder: Path) -> str | None:
    try:
        return state_of((folder / FAILURES_NAME).stat())
    except FileNotFoundError:
        return None


def read_failures(folder: Path) -> Iterator[RowFacts]:
    """Yield the readable lines that the last run wrote about rows without an image."""
    path = folder / FAILURES_NAME
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                facts = read_facts(json.dumps(json.loads(line)["facts"]).encode(), path.name)
            except (ValueError, LookupError, TypeError, StorageError):
                continue  # edited, or torn
            if facts.image is None and facts.charges and facts.state != "filtered":
                yield facts


def _lines(ledger: Ledger) -> Iterator[bytes]:
    for row, state, reason, error, in_doubt in ledger.failures():
        line = {
            "id": row.id,
            "row": row.number,
            "state": state,
            "reason": reason,
            "error": error,
            "service": row.service,
            "text": text_of(row.fields),
            "generation_id": row.generation_id,
            "attempts": row.attempts,
            "credits_in_doubt": in_doubt,
            "facts": RowFacts.of(row, state, ledger.charges(row.position), reason, error).stored(),
        }
        yield (to_json(line) + "\n").encode()
