"""A thread that processes together what was submitted while it was busy."""

from __future__ import annotations

import asyncio
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from stable_async.files import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BatchThread"]

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

# A bound, so that the first item of a batch does not wait for very many others.
MOST = 64


class BatchThread(Generic[ItemT, ResultT]):
    """One thread for one event loop, as an async context manager.

    Items submitted while a batch is processed form the next batch. Many small items thus share the
    cost of one call: a sync of the disk, and waking the thread and the loop.
    """

    def __init__(
        self, work: Callable[[Sequence[ItemT]], Sequence[ResultT | Exception]], *, name: str
    ) -> None:
        """Call `work` with each batch in a thread of this `name`.

        `work` returns a result or an error for each item; an error that it raises is that of all.
        """
        self._work = work
        self._queue: SimpleQueue[tuple[ItemT, asyncio.Future[ResultT]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def __aenter__(self) -> Self:
        """Start the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        """Process what is waiting, and end the thread."""
        self._queue.put(None)
        await in_thread(self._thread.join)

    def do(self, item: ItemT) -> asyncio.Future[ResultT]:
        """Return the future of the result of `item`, which is processed even if that is
        cancelled.
        """
        future: asyncio.Future[ResultT] = self._loop.create_future()
        self._queue.put((item, future))
        return future

    def _run(self) -> None:
        ended = False
        while not ended:
            items: list[ItemT] = []
            futures: list[asyncio.Future[ResultT]] = []
            # Wait for one item; nobody else takes those that wait then.
            while not items or (len(items) < MOST and not self._queue.empty()):
                entry = self._queue.get()
                if entry is None:
                    ended = True
                    break
                items.append(entry[0])
                futures.append(entry[1])
            if items:
                results: Sequence[ResultT | Exception]
                try:
                    results = self._work(items)
                except Exception as error:  # noqa: BLE001 - passed on to the waiting caller
                    results = [error] * len(items)
                self._loop.call_soon_threadsafe(_settle, futures, results)


def _settle(
    futures: Sequence[asyncio.Future[ResultT]], results: Sequence[ResultT | Exception]
) -> None:
    for future, result in zip(futures, results, strict=True):
        if future.done():  # its caller was cancelled
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
