"""Runs the ledger in its own thread: many small changes become one commit on the disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from stable_async.files import in_thread
from stable_async.jobs.batch_thread import BatchThread
from stable_async.jobs.errors import JobError, LedgerError, StorageError
from stable_async.jobs.ledger import Ledger

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from stable_async.jobs.metadata import MetadataFile

__all__ = ["LedgerWriter"]

T = TypeVar("T")

# Maximum lines of metadata.jsonl that are rewritten after a crash.
MARK_EVERY = 1_000


class LedgerWriter(BatchThread[Callable[[Ledger], Any], Any]):
    """Changes the ledger from one event loop; an async context manager.

    Changes that arrive while others are being written are committed together. After a commit its
    images get their lines in `metadata.jsonl`, and then the callers continue.
    """

    def __init__(self, ledger: Ledger, metadata: MetadataFile) -> None:
        """Use `ledger` and `metadata`, which nobody else may use meanwhile."""
        super().__init__(self._commit, name="ledger")
        self._ledger = ledger
        self._metadata = metadata
        self._failure: JobError | None = None

    async def __aexit__(self, *error: object) -> None:
        """Write what is waiting, and end the thread."""
        await super().__aexit__(*error)
        await in_thread(self._mark)

    def do(self, item: Callable[[Ledger], T]) -> asyncio.Future[T]:
        """Call `item` with the ledger, and return its result once that is on the disk.

        The change is made even if the caller is cancelled meanwhile.

        Raises:
            JobError: The ledger or `metadata.jsonl` cannot be written; no further change is made.
            Exception: What `item` raises; it is then rolled back.
        """
        return super().do(item)

    def post(self, change: Callable[[Ledger], object]) -> None:
        """Make a change before all later ones, without waiting for it.

        If it fails, all later changes fail too.
        """
        self.do(change).add_done_callback(_retrieve)

    def _commit(self, changes: Sequence[Callable[[Ledger], Any]]) -> list[Any]:
        if self._failure is not None:
            raise self._failure
        try:
            with self._ledger.transaction() as fresh:
                results = [change(self._ledger) for change in changes]
                if self._metadata.unmarked >= MARK_EVERY:
                    self._metadata.mark()
            if fresh:
                self._metadata.append(fresh)
        except sqlite3.Error as error:
            self._failure = LedgerError(f"the ledger cannot be written: {error}")
        except OSError as error:
            self._failure = StorageError(f"metadata.jsonl cannot be written: {error.strerror}")
        except Exception as error:  # noqa: BLE001 - passed on to the caller of that change
            if len(changes) == 1:
                return [error]
            return [result for change in changes for result in self._commit([change])]
        else:
            return results
        raise self._failure

    def _mark(self) -> None:
        if self._failure is not None:
            return  # the file may end in half a line
        try:
            with self._ledger.transaction():
                self._metadata.mark()
        except (sqlite3.Error, OSError):
            pass  # the next run brings the file up to date


def _retrieve(future: asyncio.Future[object]) -> None:
    """Retrieve the error of a change that nobody awaits; the next change raises it again."""
    if not future.cancelled():
        future.exception()
