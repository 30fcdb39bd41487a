"""Time limits: those that aiohttp enforces, and one that first takes what has arrived."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING, Self

from aiohttp import ClientTimeout

if TYPE_CHECKING:
    from types import TracebackType

    from stable_async.config import Timeouts

__all__ = ["TimeLimit", "client_timeout"]

# How many iterations of the event loop an expired limit waits: one reads what has arrived, one
# decrypts it, one wakes the task that waits for it.
GRACE_TURNS = 3


@lru_cache(maxsize=64)
def client_timeout(limits: Timeouts) -> ClientTimeout:
    """Return the limit that aiohttp enforces: the time to a connection.

    Our pool has no queue, so this covers name resolution, proxy, TCP and TLS. `TimeLimit` enforces
    the others, which concern answers that may be paid for.
    """
    return ClientTimeout(
        total=None,
        connect=limits.connect,
        # Without a connect limit, it is not known when the wait for the first byte begins.
        sock_read=limits.first_byte if limits.connect is None else None,
    )


class TimeLimit:
    """Like `asyncio.timeout`, but data that has already arrived is taken first.

    When the event loop was busy, or the process was stopped for a while (Ctrl-Z, a paused
    container, a closed laptop), the limit has expired when the loop runs again, and the answer may
    have arrived.

    Raises:
        TimeoutError: On leaving, if the limit has expired.
    """

    def __init__(self, seconds: float | None) -> None:
        """Limit the block to `seconds` from entering it; `None` means no limit yet."""
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None
        self._entered = False

    def restart(self, seconds: float) -> None:
        """Restart the limit, with `seconds` from now."""
        self._seconds = seconds
        if self._entered:
            if self._handle is not None:
                self._handle.cancel()
            self._handle = self._loop.call_later(seconds, self._expire, GRACE_TURNS)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._entered = True
        if self._seconds is not None:
            self._handle = self._loop.call_later(self._seconds, self._expire, GRACE_TURNS)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered = False
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        await self._timeout.__aexit__(kind, error, traceback)

    def _expire(self, turns: int) -> None:
        if turns:
            self._handle = self._loop.call_soon(self._expire, turns - 1)
        else:
            self._timeout.reschedule(0)
