"""The pace in front of the rule: how many requests leave at once after a pause."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from aiolimiter import AsyncLimiter

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Pace"]


class Pace:
    """A leaky bucket that is asked before it is known for whom.

    Whoever waits in an `AsyncLimiter` keeps his place whatever comes after him. So nobody waits in
    it: a token is taken when there is one, or fetched ahead, and then given to whose turn it is.
    """

    def __init__(self, burst: int, rate: float, wake: Callable[[], None]) -> None:
        """Let `burst` leave at once, then `rate` a second; see `call` for `wake`."""
        self._limiter = AsyncLimiter(burst, burst / rate)
        self._wake = wake
        self._tokens = 0
        self._fetching: asyncio.Task[None] | None = None

    def ready(self) -> bool:
        """Say whether one may leave."""
        if self._tokens and self._limiter.has_capacity(self._limiter.max_rate):
            # The bucket is empty by itself: what was given back to it has run out long ago.
            self._tokens = 0
        return self._tokens > 0 or self._limiter.has_capacity()

    def call(self) -> None:
        """Have `wake` called when one may leave."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())

    def take(self) -> None:
        """Let one leave; only when `ready`."""
        if self._tokens:
            self._tokens -= 1
            return
        # With capacity left, `acquire` comes to its end without waiting.
        with suppress(StopIteration):
            self._limiter.acquire().send(None)

    def give_back(self) -> None:
        """Undo one `take`."""
        self._tokens += 1

    async def _fetch(self) -> None:
        await self._limiter.acquire()
        self._tokens += 1
        self._wake()
