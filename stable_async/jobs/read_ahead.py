"""Rows read in batches: those of a pipe in a thread of its own, as it may be silent."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["Batches", "ReadAhead"]

T = TypeVar("T")

# Seconds within which a reader ends unless it waits for a pipe.
END_OF_READER = 0.1


class Batches(Generic[T]):
    """Items of an iterator that does not wait for input; for one thread at a time.

    Attributes:
        exhausted: Whether everything has been taken.
    """

    def __init__(self, items: Generator[T, None, None], most: int) -> None:
        """Prepare to take up to `most` items at a time."""
        self._items = items
        self._most = most
        self._error: Exception | None = None
        self.exhausted: bool = False

    def take(self, timeout: float) -> list[T]:
        """Return the next items, in order: what comes within `timeout` seconds, at least one.

        Raises:
            Exception: What the iterator raised, once all items before it were taken.
        """
        if self._error is not None:
            self.exhausted = True
            raise self._error
        found: list[T] = []
        end = time.monotonic() + timeout
        try:
            for item in self._items:
                found.append(item)
                if len(found) == self._most or time.monotonic() > end:
                    return found
        except Exception as error:
            if not found:
                raise
            self._error = error
        self.exhausted = not found
        return found

    def close(self) -> None:
        """Read no more."""
        self._items.close()


class ReadAhead(Generic[T]):
    """Items of an iterator, read ahead in a separate thread.

    Attributes:
        exhausted: Whether everything has been taken.
    """

    def __init__(self, items: Generator[T, None, None], most: int) -> None:
        """Begin to read; pause while `most` items are waiting to be taken."""
        self._items = items
        self._most = most
        self._gathered: list[T] = []
        self._ended = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        # A thread that waits for a pipe cannot be ended, so it must not keep the interpreter alive.
        self._thread = threading.Thread(target=self._read, name="prompts", daemon=True)
        self._thread.start()
        self.exhausted: bool = False

    def take(self, timeout: float) -> list[T]:
        """Return the items read so far, in order; wait up to `timeout` seconds for the first one.

        Raises:
            Exception: What the iterator raised, once all items before it were taken.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._gathered or self._ended, timeout)
            items, self._gathered = self._gathered, []
            self._changed.notify_all()
            self.exhausted = self._ended and not items
        if self.exhausted and self._error is not None:
            raise self._error
        return items

    def close(self) -> None:
        """Stop reading. A reader that waits for a pipe is abandoned."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join(END_OF_READER)

    def _read(self) -> None:
        try:
            with closing(self._items):
                for item in self._items:
                    if not self._keep(item):
                        break
        except Exception as error:  # noqa: BLE001 - passed on to the consumer
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _keep(self, item: T) -> bool:
        """Store an item once there is room, and return whether to continue."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._gathered) < self._most or self._ended)
            if not self._ended:
                self._gathered.append(item)
                self._changed.notify_all()
            return not self._ended
