"""One process of many that share a quota in Redis: `python -m benchmarks.machines_client OPTIONS`.

OPTIONS is JSON: `url` of the server of arrivals, `redis` (a port), `limiter`, `count` requests of
`priority`, all wanted at once or one each `every` seconds. It prints how long each interactive one
waited, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypedDict

import aiohttp

from stable_async.quota import Permit, Priority, Quota, QuotaLimiter, SharedQuota

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from types import SimpleNamespace

    Gate = Callable[[], AbstractAsyncContextManager[Permit | None]]

REQUESTS = 150
WINDOW = 10
PROCESSES = 8


class Options(TypedDict, total=False):
    url: str
    redis: int
    limiter: str
    count: int
    priority: Priority
    every: float


class ExpiredError(Exception):
    """The permit has expired; nothing was sent."""


def session() -> aiohttp.ClientSession:
    """Return a session that marks the permit of a request, and stops it if it may not leave."""

    async def mark(
        _session: aiohttp.ClientSession,
        context: SimpleNamespace,
        _params: aiohttp.TraceRequestHeadersSentParams,
    ) -> None:
        permit = context.trace_request_ctx
        if isinstance(permit, Permit) and not permit.mark_sent():
            raise ExpiredError

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(mark)
    return aiohttp.ClientSession(
        trace_configs=[trace],
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
    )


@asynccontextmanager
async def ours(options: Options) -> AsyncIterator[Gate]:
    quota = SharedQuota.redis(f"redis://127.0.0.1:{options['redis']}/0", "benchmark")
    limiter = QuotaLimiter(quota)
    await limiter.open()

    @asynccontextmanager
    async def gate() -> AsyncIterator[Permit]:
        with await limiter.acquire(priority=options.get("priority", "bulk")) as permit:
            yield permit

    try:
        yield gate
    finally:
        await limiter.aclose()


@asynccontextmanager
async def eighth(_options: Options) -> AsyncIterator[Gate]:
    """What needs no Redis: each process keeps to its part."""
    limiter = QuotaLimiter(Quota(requests=REQUESTS // PROCESSES, scope="client"))

    @asynccontextmanager
    async def gate() -> AsyncIterator[Permit]:
        with await limiter.acquire() as permit:
            yield permit

    yield gate
    await limiter.aclose()


@asynccontextmanager
async def limits(options: Options) -> AsyncIterator[Gate]:
    from limits import RateLimitItemPerSecond
    from limits.aio.storage import RedisStorage
    from limits.aio.strategies import MovingWindowRateLimiter

    storage = RedisStorage(
        f"async+redis://127.0.0.1:{options['redis']}/0", implementation="redispy"
    )
    limiter = MovingWindowRateLimiter(storage)
    item = RateLimitItemPerSecond(REQUESTS, WINDOW)

    @asynccontextmanager
    async def gate() -> AsyncIterator[None]:
        while not await limiter.hit(item, "key"):
            stats = await limiter.get_window_stats(item, "key")
            await asyncio.sleep(max(stats.reset_time - time.time(), 0.01))
        yield None

    yield gate


@asynccontextmanager
async def throttled(options: Options) -> AsyncIterator[Gate]:
    from throttled.asyncio import RateLimiterType, RedisStore, Throttled, rate_limiter

    throttle = Throttled(
        key="key",
        using=RateLimiterType.GCRA.value,
        quota=rate_limiter.per_duration(timedelta(seconds=WINDOW), REQUESTS, burst=REQUESTS),
        store=RedisStore(server=f"redis://127.0.0.1:{options['redis']}/0"),
        timeout=3600,
    )

    @asynccontextmanager
    async def gate() -> AsyncIterator[None]:
        while (await throttle.limit()).limited:
            pass
        yield None

    yield gate


@asynccontextmanager
async def pyrate(options: Options) -> AsyncIterator[Gate]:
    from pyrate_limiter import Duration, Limiter, Rate, RedisBucket
    from redis.asyncio import Redis

    client = Redis(port=options["redis"])
    bucket = await RedisBucket.init([Rate(REQUESTS, Duration.SECOND * WINDOW)], client, "key")
    limiter = Limiter(bucket)

    @asynccontextmanager
    async def gate() -> AsyncIterator[None]:
        await limiter.try_acquire_async("key")
        yield None

    yield gate


LIMITERS = {
    "stable_async": ours,
    "eighth": eighth,
    "limits": limits,
    "throttled": throttled,
    "pyrate": pyrate,
}


async def main(options: Options) -> None:
    every = options.get("every", 0.0)
    waits: list[float] = []
    async with LIMITERS[options["limiter"]](options) as gate, session() as http:

        async def request(number: int) -> None:
            await asyncio.sleep(number * every)
            asked = time.monotonic()
            while True:
                try:
                    async with gate() as permit:
                        waits.append(time.monotonic() - asked)
                        work = http.get(f"{options['url']}/work", trace_request_ctx=permit)
                        async with work as answer:
                            await answer.read()
                        return
                except ExpiredError:
                    waits.pop()

        await asyncio.gather(*(request(number) for number in range(options["count"])))
    print(json.dumps(waits if options.get("priority") == "interactive" else []), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
