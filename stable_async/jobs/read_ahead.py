"""Rows read in a thread of its own: a pipe may be silent, and nobody else is to wait for it."""

from __future__ import annotations

import threading
from contextlib import closing
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["ReadAhead"]

T = TypeVar("T")

# Seconds in which a reader ends that does not wait for a pipe.
END_OF_READER = 0.1


class ReadAhead(Generic[T]):
    """Items of an iterator, read ahead in a thread of its own.

    Attributes:
        exhausted: Whether everything was taken.
    """

    def __init__(self, items: Generator[T, None, None], most: int) -> None:
        """Begin to read; when `most` items have gathered, wait until they are taken."""
        self._items = items
        self._most = most
        self._gathered: list[T] = []
        self._ended = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        # Nothing ends a thread that waits for a pipe, so it must not keep the interpreter alive.
        self._thread = threading.Thread(target=self._read, name="prompts", daemon=True)
        self._thread.start()
        self.exhausted: bool = False

    def take(self, timeout: float) -> list[T]:
        """Return what has gathered, in order; wait up to `timeout` seconds for the first item.

        Raises:
            Exception: What the iterator raised after all that was taken before.
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
        """Read no more. A reader that waits for a pipe is left to itself."""
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
