"""Read-only access to the ledger of a job that may be running."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from stable_async.jobs.errors import JobError, LedgerError
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.lock import is_locked
from stable_async.jobs.recovery import LEDGER_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["is_of_sandbox", "reading"]


@contextmanager
def reading(folder: Path) -> Iterator[Ledger]:
    """Open the ledger of the job in `folder` for reading, as it is at this moment.

    What was in flight when the last run was killed is shown as the next run will find it: in doubt.

    Raises:
        JobError: The folder is not a job.
        LedgerError: The ledger cannot be read.
    """
    path = folder / LEDGER_NAME
    if not path.exists():
        raise JobError(f"{folder} is not a job: it has no {LEDGER_NAME}")
    try:
        with _opened(path) as ledger, ledger.snapshot():
            if not is_locked(folder):
                ledger.show_as_ended()
            yield ledger
    except sqlite3.OperationalError as error:
        raise LedgerError(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise LedgerError(f"{path}: {error}; the next run of the job repairs it") from error


def is_of_sandbox(ledger: Ledger) -> bool:
    """Return whether the job used a sandbox: its results are not the API's, and nothing was
    paid.
    """
    begun = json.loads(str(ledger.get("begun") or "{}"))
    return str(begun.get("server") or "").startswith("sandbox")


@contextmanager
def _opened(path: Path) -> Iterator[Ledger]:
    """Open a ledger, or a copy of it if its folder is read-only, since SQLite must write to
    read.
    """
    with ExitStack() as stack:
        try:
            ledger = Ledger.open(path)
        except sqlite3.OperationalError:
            if os.access(path.parent, os.W_OK):
                raise
            folder = stack.enter_context(TemporaryDirectory(prefix="stable-async-"))
            copy = Path(folder, path.name)
            for suffix in ("", "-wal"):
                with suppress(FileNotFoundError):
                    shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
            ledger = Ledger.open(copy)
        stack.callback(ledger.close)
        yield ledger
