"""The journal in a thread of its own: many small changes become one commit on the disk."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Self, TypeVar

from stable_async.jobs.errors import JobError, JournalError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from stable_async.jobs.journal import Journal
    from stable_async.jobs.metadata import MetadataFile

__all__ = ["JournalWriter"]

T = TypeVar("T")

# Lines of metadata.jsonl that are written again, at the most, after a crash.
MARK_EVERY = 1_000


@dataclass(slots=True)
class _Change:
    make: Callable[[Journal], Any]
    future: asyncio.Future[Any]
    result: object = None


class JournalWriter:
    """Makes changes to the journal, from one event loop, as an async context manager.

    Changes that come while others are being written are committed together. After a commit the
    pictures in it get their lines in `metadata.jsonl`, and then the callers go on.
    """

    def __init__(
        self,
        journal: Journal,
        metadata: MetadataFile,
        settle_files: Callable[[Iterable[str]], None],
    ) -> None:
        """Use `journal` and `metadata`, which nobody else may do meanwhile.

        `settle_files` makes the names of files last; it is called before they are journalled.
        """
        self._journal = journal
        self._metadata = metadata
        self._settle_files = settle_files
        self._queue: SimpleQueue[_Change | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._failure: JobError | None = None

    async def __aenter__(self) -> Self:
        """Start the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write what is waiting, and end the thread."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    async def do(self, make: Callable[[Journal], T]) -> T:
        """Call `make` with the journal and give what it gives, once that is on the disk.

        It is done even if the caller is cancelled meanwhile.

        Raises:
            JobError: The journal or `metadata.jsonl` cannot be written; no other change is made
                from then on.
            Exception: What `make` raises; nothing is kept of it, nor of what came along with it.
        """
        change = _Change(make, self._loop.create_future())
        self._queue.put(change)
        result: T = await change.future
        return result

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            changes, more = [first], True
            while more:
                try:
                    change = self._queue.get_nowait()
                except Empty:
                    break
                if change is None:
                    self._queue.put(None)
                    break
                changes.append(change)
            self._commit(changes)
        self._mark()

    def _commit(self, changes: list[_Change]) -> None:
        error: Exception | None = self._failure
        if error is None:
            try:
                with self._journal.transaction():
                    for change in changes:
                        change.result = change.make(self._journal)
                    fresh = self._journal.take_fresh()
                    self._settle_files(image.file_name for _, _, image in fresh)
                    if self._metadata.unmarked >= MARK_EVERY:
                        self._metadata.mark()
                self._metadata.append(fresh)
            except Exception as raised:  # noqa: BLE001 - handed on to whoever waits
                error = self._translated(raised)
        self._loop.call_soon_threadsafe(_settle, changes, error)

    def _translated(self, error: Exception) -> Exception:
        if isinstance(error, sqlite3.Error):
            self._failure = JournalError(f"the journal cannot be written: {error}")
        elif isinstance(error, OSError):
            self._failure = StorageError(f"metadata.jsonl cannot be written: {error.strerror}")
        else:
            return error
        return self._failure

    def _mark(self) -> None:
        try:
            with self._journal.transaction():
                self._metadata.mark()
        except (sqlite3.Error, OSError):
            pass  # the next run brings the file up to date


def _settle(changes: list[_Change], error: Exception | None) -> None:
    for change in changes:
        if change.future.done():
            continue
        if error is None:
            change.future.set_result(change.result)
        else:
            change.future.set_exception(error)
