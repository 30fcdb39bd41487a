"""The sandbox's clock: the event loop's, plus the time by which a test has advanced it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from threading import Lock

__all__ = ["Clock"]

# A loop whose time differs by more than this from the system's has a clock of its own.
OWN_CLOCK = 1.0


class Clock:
    """Seconds since an arbitrary moment.

    Usually `time.monotonic()`. In an event loop with a clock of its own, such as a test's virtual
    time, it is that clock, so that client and sandbox agree about the time.
    """

    def __init__(self) -> None:
        """Follow the system's clock until `start`."""
        self._source = time.monotonic
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = Lock()
        self._advanced = 0.0
        self._moved: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Follow the running event loop."""
        self._loop = loop = asyncio.get_running_loop()
        self._moved = loop.create_future()
        if abs(loop.time() - time.monotonic()) > OWN_CLOCK:
            self._source = loop.time

    @property
    def advanced(self) -> float:
        """The seconds by which this clock is ahead of its source."""
        return self._advanced

    def now(self) -> float:
        """Return the time."""
        return self._source() + self._advanced

    def advance(self, seconds: float) -> None:
        """Move forward at once and wake all waiters. Usable from any thread.

        Raises:
            ValueError: `seconds` is negative or not finite.
        """
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"seconds is {seconds!r}; allowed: 0 or more")
        with self._lock:
            self._advanced += seconds
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._moved is not None and self._loop is not None:
            moved, self._moved = self._moved, self._loop.create_future()
            moved.set_result(None)

    async def _advances(self) -> None:
        """Wait until the clock is moved."""
        if self._moved is None:
            self.start()
        if self._moved is not None:
            await asyncio.shield(self._moved)

    async def sleep_until(self, when: float) -> None:
        """Wait until this clock shows `when`."""
        while (left := when - self.now()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._advances()
