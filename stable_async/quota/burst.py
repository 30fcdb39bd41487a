"""A bound on the number of requests that leave at once after a pause."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from aiolimiter import AsyncLimiter

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BurstLimit"]


class BurstLimit:
    """A leaky bucket whose tokens are taken before it is decided which request gets them.

    A task that waits in an `AsyncLimiter` keeps its place whatever comes after it. So no request
    waits there: a token is taken when available, or fetched ahead, and then goes to the request
    whose turn it is.
    """

    def __init__(self, burst: int, rate: float, wake: Callable[[], None]) -> None:
        """Let `burst` requests leave at once, then `rate` per second; see `call` for `wake`."""
        self._limiter = AsyncLimiter(burst, burst / rate)
        self._wake = wake
        self._tokens = 0
        self._fetching: asyncio.Task[None] | None = None

    def ready(self) -> bool:
        """Return whether a request may leave."""
        if self._tokens and self._limiter.has_capacity(self._limiter.max_rate):
            # The bucket is empty: what was returned to it has drained long ago.
            self._tokens = 0
        return self._tokens > 0 or self._limiter.has_capacity()

    def call(self) -> None:
        """Have `wake` called when a request may leave."""
        if self._fetching is None:
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())

    def take(self) -> None:
        """Take a token; only when `ready`."""
        if self._tokens:
            self._tokens -= 1
            return
        # With capacity left, `acquire` finishes without waiting.
        with suppress(StopIteration):
            self._limiter.acquire().send(None)

    def give_back(self) -> None:
        """Undo one `take`."""
        self._tokens += 1

    def close(self) -> None:
        """Cancel the task that fetches a token."""
        fetching, self._fetching = self._fetching, None
        if fetching is not None:
            fetching.cancel()

    async def _fetch(self) -> None:
        try:
            await self._limiter.acquire()
            self._tokens += 1
        finally:
            # Also if another cancelled it: calls that wait have a new one started.
            if self._fetching is not None:
                self._fetching = None
                self._wake()
