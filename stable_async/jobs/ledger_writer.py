"""The journal in a thread of its own: many small changes become one commit on the disk."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from stable_async.files import in_thread
from stable_async.jobs.batch_thread import BatchThread
from stable_async.jobs.errors import JobError, JournalError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from stable_async.jobs.ledger import Journal
    from stable_async.jobs.metadata import MetadataFile

__all__ = ["JournalWriter"]

T = TypeVar("T")

# Lines of metadata.jsonl that are written again, at the most, after a crash.
MARK_EVERY = 1_000


class JournalWriter:
    """Makes changes to the journal, from one event loop, as an async context manager.

    Changes that come while others are being written are committed together. After a commit the
    pictures in it get their lines in `metadata.jsonl`, and then the callers go on.
    """

    def __init__(self, journal: Journal, metadata: MetadataFile) -> None:
        """Use `journal` and `metadata`, which nobody else may do meanwhile."""
        self._journal = journal
        self._metadata = metadata
        self._thread = BatchThread(self._commit, name="journal")
        self._failure: JobError | None = None

    async def __aenter__(self) -> Self:
        """Start the thread."""
        await self._thread.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write what is waiting, and end the thread."""
        await self._thread.__aexit__(exc_type, exc, traceback)
        await in_thread(self._mark)

    async def do(self, change: Callable[[Journal], T]) -> T:
        """Call `change` with the journal and give what it gives, once that is on the disk.

        It is done even if the caller is cancelled meanwhile.

        Raises:
            JobError: The journal or `metadata.jsonl` cannot be written; no other change is made
                from then on.
            Exception: What `change` raises; nothing is kept of it, nor of what came along with it.
        """
        return cast("T", await self._thread.do(change))

    def _commit(self, changes: Sequence[Callable[[Journal], Any]]) -> list[Any]:
        if self._failure is not None:
            raise self._failure
        try:
            with self._journal.transaction():
                results = [change(self._journal) for change in changes]
                fresh = self._journal.take_fresh()
                if self._metadata.unmarked >= MARK_EVERY:
                    self._metadata.mark()
            self._metadata.append(fresh)
        except sqlite3.Error as error:
            self._failure = JournalError(f"the journal cannot be written: {error}")
        except OSError as error:
            self._failure = StorageError(f"metadata.jsonl cannot be written: {error.strerror}")
        if self._failure is not None:
            raise self._failure
        return results

    def _mark(self) -> None:
        if self._failure is not None:
            return  # the file may end in half a line
        try:
            with self._journal.transaction():
                self._metadata.mark()
        except (sqlite3.Error, OSError):
            pass  # the next run brings the file up to date
