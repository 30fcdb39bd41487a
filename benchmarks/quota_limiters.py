"""The limiters that are compared, each used as its documentation shows it."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from importlib.metadata import version

from stable_async.quota import Permit, Priority, Quota, QuotaHome, QuotaLimiter

REQUESTS = 150
WINDOW = 10

# Entered, it waits for its turn; a request is sent inside. Ours yields its permit.
Gate = Callable[[Priority], AbstractAsyncContextManager[Permit | None]]
Send = Callable[[], Awaitable[None]]


class Contender:
    """One limiter in the comparison.

    Attributes:
        name: Its name in tables and drawings.
        package: Its distribution, for the version; empty for ours.
        make: Makes a gate, inside a running event loop.
    """

    def __init__(self, name: str, package: str, make: Callable[[], Gate]) -> None:
        self.name = name
        self.package = package
        self.make = make

    @property
    def version(self) -> str:
        return version(self.package or "stable_async")

    async def run(self, requests: list[Send]) -> None:
        """Send all of `requests`, at most as fast as the limiter allows."""
        gate = self.make()
        await asyncio.gather(*(_through(gate, send) for send in requests))


async def _through(gate: Gate, send: Send) -> None:
    async with gate("interactive"):
        await send()


class Ours(Contender):
    """`QuotaLimiter`, kept so that the benchmark can report measurements and refusals to it."""

    def __init__(self, name: str = "stable_async.quota", quota: Quota | None = None) -> None:
        super().__init__(name, "", self._gate)
        self.quota = quota or Quota()
        self.home: QuotaHome | None = None
        self.limiter: QuotaLimiter | None = None

    def _gate(self) -> Gate:
        limiter = self.limiter = QuotaLimiter(self.quota, home=self.home)

        @asynccontextmanager
        async def gate(priority: Priority) -> AsyncIterator[Permit | None]:
            with await limiter.acquire(priority=priority) as permit:
                yield permit

        return gate


def _aiolimiter(rate: int, period: float) -> Gate:
    from aiolimiter import AsyncLimiter

    limiter = AsyncLimiter(rate, period)

    @asynccontextmanager
    async def gate(_priority: Priority) -> AsyncIterator[Permit | None]:
        async with limiter:
            yield None

    return gate


def _pyrate() -> Gate:
    from pyrate_limiter import Duration, Limiter, Rate

    limiter = Limiter(Rate(REQUESTS, Duration.SECOND * WINDOW))

    @asynccontextmanager
    async def gate(_priority: Priority) -> AsyncIterator[Permit | None]:
        await limiter.try_acquire_async("key")
        yield None

    return gate


def _limits() -> Gate:
    from limits import RateLimitItemPerSecond
    from limits.aio.storage import MemoryStorage
    from limits.aio.strategies import MovingWindowRateLimiter

    limiter = MovingWindowRateLimiter(MemoryStorage())
    item = RateLimitItemPerSecond(REQUESTS, WINDOW)

    @asynccontextmanager
    async def gate(_priority: Priority) -> AsyncIterator[Permit | None]:
        while not await limiter.hit(item, "key"):
            stats = await limiter.get_window_stats(item, "key")
            await asyncio.sleep(max(stats.reset_time - time.time(), 0.01))
        yield None

    return gate


def _throttled() -> Gate:
    from throttled.asyncio import MemoryStore, RateLimiterType, Throttled, rate_limiter

    throttle = Throttled(
        key="key",
        using=RateLimiterType.GCRA.value,
        quota=rate_limiter.per_duration(timedelta(seconds=WINDOW), REQUESTS, burst=REQUESTS),
        store=MemoryStore(),
        timeout=3600,
    )

    @asynccontextmanager
    async def gate(_priority: Priority) -> AsyncIterator[Permit | None]:
        while (await throttle.limit()).limited:
            pass
        yield None

    return gate


class Aiometer(Contender):
    """aiometer runs a batch at a rate; there is nothing to wait for from elsewhere."""

    def __init__(self) -> None:
        super().__init__("aiometer 15/s", "aiometer", self._no_gate)

    @staticmethod
    def _no_gate() -> Gate:
        raise NotImplementedError("aiometer has no limiter of its own to share")

    async def run(self, requests: list[Send]) -> None:
        import aiometer

        await aiometer.run_all(requests, max_per_second=REQUESTS / WINDOW)


def contenders() -> list[Contender]:
    """Return all limiters, ours first."""
    return [
        Ours(),
        Contender("aiolimiter 150/10 s", "aiolimiter", functools.partial(_aiolimiter, 150, 10)),
        Contender("aiolimiter 15/1 s", "aiolimiter", functools.partial(_aiolimiter, 15, 1)),
        Contender("pyrate-limiter 150/10 s", "pyrate-limiter", _pyrate),
        Contender("limits moving window 150/10 s", "limits", _limits),
        Contender("throttled-py GCRA 150/10 s", "throttled-py", _throttled),
        Aiometer(),
    ]
