"""Polling of running generations: never too often, and until the API itself has answered.

A look is free, so it is not retried: the next look is the retry. After any answer of an
intermediary the generation is polled again, until the limit expires.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from stable_async.api.texts import clean
from stable_async.api.verdict import judge_broken_connection
from stable_async.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    InvalidResponseError,
    StabilityError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = ["POLL_INTERVAL", "RESULT_TIMEOUT", "Polling", "reported_when_cancelled"]

# "Polling more than once per 10 s may be rate-limited or fail in other ways": OpenAPI document of
# api.stability.ai, read 2026-09-22.
POLL_INTERVAL = 10.0
# The slowest operation takes about a minute; an outage, or a queue of the API, takes longer.
RESULT_TIMEOUT = 1800.0

# The pause after a failed look, seconds, where the interval is shorter; it doubles.
FIRST_PAUSE = 0.01

FoundT = TypeVar("FoundT")

logger: logging.Logger = logging.getLogger("stable_async")


class Polling:
    """Keeps the interval between two looks at the same generation, for all callers."""

    def __init__(
        self,
        interval: float = POLL_INTERVAL,
        *,
        limit: float | None = RESULT_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Leave at least `interval` seconds from the end of one look to the next.

        Args:
            interval: Seconds.
            limit: For how long `until_found` polls, seconds; `None` means no limit.
            clock: Returns seconds.
            sleep: Waits for a number of seconds.
        """
        self._interval = interval
        self._limit = float("inf") if limit is None else limit
        self._clock = clock
        self._sleep = sleep
        # When each generation may be polled again; past times are removed.
        self._next: dict[str, float] = {}

    def rest(self, generation: str, seconds: float = 0.0) -> None:
        """Record that the API has just been asked for `generation`, or has just begun it.

        The next look is an interval from now, or `seconds` if that is longer.
        """
        now = self._clock()
        self._next.pop(generation, None)
        self._next[generation] = now + max(self._interval, seconds)
        for other in list(self._next):
            if self._next[other] > now:
                break
            del self._next[other]

    async def once(
        self, generation: str, look: Callable[[], Awaitable[FoundT | None]]
    ) -> FoundT | None:
        """Return the result of `look`, called as soon as the interval allows it.

        Raises:
            StabilityError: What `look` raises, with the generation's id.
        """
        while (wait := self._next.get(generation, 0.0) - self._clock()) > 0:
            await self._sleep(wait)
        self.rest(generation)  # before the look: others must not look meanwhile
        pause = 0.0
        try:
            return await look()
        except StabilityError as error:
            error.attach_generation(generation)
            if isinstance(error, APIStatusError):
                pause = error.retry_after or 0.0
            raise
        finally:
            self.rest(generation, pause)  # and after it: it may have waited long for the quota

    async def until_found(
        self, generation: str, look: Callable[[], Awaitable[FoundT | None]]
    ) -> FoundT:
        """Return the result of `look`, called repeatedly until there is one.

        Raises:
            APITimeoutError: There was none within the limit. It carries the generation's id.
            StabilityError: The API has ended the generation, or cannot be asked; with the id.
        """
        ends_at = self._clock() + self._limit
        failures = 0
        while True:
            try:
                found = await self.once(generation, look)
            except (APIStatusError, APIConnectionError, InvalidResponseError) as error:
                if error.verdict.job != "look":
                    raise
                logger.debug("polling again after: %s", error)
                last = error.text
                failures += 1
                pause = min(FIRST_PAUSE * 2 ** min(failures, 10), POLL_INTERVAL)
                self._next[generation] = max(self._next.get(generation, 0.0), self._clock() + pause)
            else:
                if found is not None:
                    return found
                last = "it is still running"
                failures = 0
            if max(self._next.get(generation, 0.0), self._clock()) >= ends_at:
                late = APITimeoutError(
                    f"no result within {self._limit:g} s; the last poll: {last}",
                    verdict=judge_broken_connection(sent=True, asked="look"),
                )
                late.attach_generation(generation)
                raise late


@contextmanager
def reported_when_cancelled(generation: str) -> Iterator[None]:
    """Log the id of a paid generation when the wait for it is cancelled."""
    try:
        yield
    except asyncio.CancelledError:
        logger.warning(
            "cancelled; generation %s is paid for, and its result can still be fetched",
            clean(generation),
        )
        raise
