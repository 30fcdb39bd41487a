"""When to look for what an asynchronous operation makes: never too often, and not in vain."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from stable_async.errors import APIConnectionError, StabilityError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = ["POLL_INTERVAL", "Polling", "reported_when_cancelled"]

# "Polling more than once per 10 s may be rate-limited or fail in other ways": OpenAPI document of
# api.stability.ai, read 2026-09-22.
POLL_INTERVAL = 10.0

# A connection that breaks costs nothing here, so the next look is the retry. After as many in a
# row it is no passing fault.
MAX_BROKEN_LOOKS = 5

FoundT = TypeVar("FoundT")

logger = logging.getLogger("stable_async")


class Polling:
    """Keeps the time between two looks at the same generation, whoever looks."""

    def __init__(
        self,
        interval: float = POLL_INTERVAL,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Leave at least `interval` seconds from the end of one look to the next.

        `clock` gives seconds, and `sleep` waits for some.
        """
        self._interval = interval
        self._clock = clock
        self._sleep = sleep
        # When each generation may be looked at again; those that may be are forgotten.
        self._next: dict[str, float] = {}

    def rest(self, generation: str) -> None:
        """Note that the API has just been asked for `generation`, or has just begun it."""
        now = self._clock()
        self._next.pop(generation, None)
        self._next[generation] = now + self._interval
        for other in list(self._next):
            if self._next[other] > now:
                break
            del self._next[other]

    async def once(
        self, generation: str, look: Callable[[], Awaitable[FoundT | None]]
    ) -> FoundT | None:
        """Give what `look` gives, called when it is time to.

        Raises:
            StabilityError: What `look` raises, with the generation's id.
        """
        while (wait := self._next.get(generation, 0.0) - self._clock()) > 0:
            await self._sleep(wait)
        self.rest(generation)  # before: others must not look meanwhile
        try:
            return await look()
        except StabilityError as error:
            error.attach_generation(generation)
            raise
        finally:
            self.rest(generation)  # and after: it may have waited long for the quota

    async def until_found(
        self, generation: str, look: Callable[[], Awaitable[FoundT | None]]
    ) -> FoundT:
        """Give what `look` gives, called again and again until that is something.

        Raises:
            StabilityError: What `look` raises, with the generation's id. A broken connection
                must happen five times in a row.
        """
        broken = 0
        while True:
            try:
                found = await self.once(generation, look)
            except APIConnectionError:
                broken += 1
                if broken == MAX_BROKEN_LOOKS:
                    raise
                continue
            if found is not None:
                return found
            broken = 0


@contextmanager
def reported_when_cancelled(generation: str) -> Iterator[None]:
    """Log the id of a paid generation that nobody waits for any longer, and has never seen."""
    try:
        yield
    except asyncio.CancelledError:
        logger.warning("cancelled; generation %s is paid for and can be fetched", generation)
        raise
