"""Concurrent calls up to a limit, with results as they finish."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

__all__ = ["for_each", "map_as_completed"]

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


async def map_as_completed(
    function: Callable[[ItemT], Awaitable[ResultT]],
    items: Iterable[ItemT] | AsyncIterable[ItemT],
    limit: int,
) -> AsyncGenerator[ResultT, None]:
    """Yield `await function(item)` for every item, in the order in which they finish.

    At any time, at most `limit` items have been read from `items` whose result has not been
    consumed; there are never more tasks than that. An error of `items` or `function` is raised
    after the results of the calls in progress. Closing the generator cancels the calls in progress.
    """
    pool = _Pool(function, _iterate(items), limit, keep_results=True)
    try:
        async for result in pool.results():
            yield result
    finally:
        await pool.cancel()


async def for_each(
    function: Callable[[ItemT], Awaitable[object]], items: AsyncGenerator[ItemT, None], limit: int
) -> None:
    """Call `await function(item)` for every item, at most `limit` of them at a time.

    An error of `items` or `function` is raised after the calls in progress. A cancellation cancels
    them. `items` is closed at the end.
    """
    pool = _Pool(function, items, limit, keep_results=False)
    try:
        async for _ in pool.results():
            pass
    finally:
        await pool.cancel()


class _Pool(Generic[ItemT, ResultT]):
    """Workers that each read an item, call the function, and queue the result."""

    def __init__(
        self,
        function: Callable[[ItemT], Awaitable[ResultT]],
        items: AsyncGenerator[ItemT, None],
        limit: int,
        *,
        keep_results: bool,
    ) -> None:
        self._function = function
        self._items = items
        self._limit = limit
        self._keep_results = keep_results
        self._slots = asyncio.Semaphore(limit)
        self._reading = asyncio.Lock()
        self._exhausted = self._cancelled = False
        self._finished: deque[ResultT] = deque()
        self._changed = asyncio.Event()
        self._workers: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    async def results(self) -> AsyncGenerator[ResultT, None]:
        self._start_worker()
        while self._workers or self._finished:
            if self._finished:
                yield self._finished.popleft()
                self._slots.release()
            else:
                self._changed.clear()
                await self._changed.wait()
        if self._failure is not None:
            raise self._failure

    async def cancel(self) -> None:
        self._cancelled = True
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        await self._items.aclose()

    def _start_worker(self) -> None:
        worker = asyncio.create_task(self._work())
        self._workers.add(worker)
        worker.add_done_callback(self._worker_ended)

    async def _work(self) -> None:
        while not self._cancelled:  # the function may swallow its cancellation
            await self._slots.acquire()
            async with self._reading:
                if self._exhausted:
                    return
                try:
                    item = await anext(self._items)
                except StopAsyncIteration:
                    self._exhausted = True
                    return
                # Start one more worker while there are items: few items create few tasks.
                if len(self._workers) < self._limit:
                    self._start_worker()
            result = await self._function(item)
            if self._keep_results:
                self._finished.append(result)
                self._changed.set()
            else:
                self._slots.release()

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        self._slots.release()  # the last slot that it acquired has no result
        if not worker.cancelled() and (error := worker.exception()) is not None:
            self._exhausted = True
            self._failure = self._failure or error
        self._changed.set()


async def _iterate(
    items: Iterable[ItemT] | AsyncIterable[ItemT],
) -> AsyncGenerator[ItemT, None]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
