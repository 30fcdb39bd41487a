"""Calls that continue when their caller is gone, so that a paid result is kept."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import TYPE_CHECKING, TypeVar, cast

from stable_async.errors import StabilityError
from stable_async.media import Media
from stable_async.transport.streams import READ_ONCE, MediaStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from contextlib import AbstractAsyncContextManager

    from stable_async.transport.send_state import SendState

    Keep = Callable[[object], Awaitable[None]]

__all__ = ["Finishing", "FinishingStream"]

ResultT = TypeVar("ResultT")
MediaT = TypeVar("MediaT", bound=Media)

# How many chunks may be buffered for a slow reader.
AHEAD = 4

logger: logging.Logger = logging.getLogger("stable_async")


class FinishingStream(MediaStream[MediaT]):
    """A result that is read to its end, with or without a consumer.

    Attributes:
        taken: Whether the consumer has read to the end.
    """

    _chunks: asyncio.Queue[bytes | Exception | None] | None = None
    taken: bool = False

    async def pump(self, opened: asyncio.Future[None]) -> MediaT:
        """Read the result, pass it on to the consumer, and return the whole of it.

        The consumer waits for `opened`; it is gone if that is cancelled.
        """
        if not opened.cancelled():
            self._chunks = asyncio.Queue(AHEAD)
            opened.set_result(None)
        kept = []
        try:
            async for chunk in super().__aiter__():
                kept.append(chunk)
                await self._pass_on(chunk)
        except Exception as error:
            await self._pass_on(error)
            raise
        await self._pass_on(None)
        return self._reader.result(b"".join(kept), self.credits)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the bytes as they arrive.

        Raises:
            APIConnectionError, APITimeoutError, InvalidResponseError: As for any stream.
        """
        first, self._first = self._first, []  # what was held; `pump` left nothing there
        if self._chunks is None and not first:
            raise StabilityError(READ_ONCE)
        for data in first:
            yield data
        while self._chunks is not None:
            chunk = await self._chunks.get()
            if isinstance(chunk, bytes):
                yield chunk
                continue
            self._chunks, self.taken = None, True
            if chunk is not None:
                raise chunk

    def leave(self) -> None:
        """Stop passing bytes on: the consumer is gone."""
        chunks, self._chunks = self._chunks, None
        while chunks is not None and not chunks.empty():
            chunks.get_nowait()

    async def _pass_on(self, chunk: bytes | Exception | None) -> None:
        if self._chunks is not None:
            await self._chunks.put(chunk)


class Finishing:
    """The calls of one client that may outlive their callers."""

    def __init__(self) -> None:
        """Start with none."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def send(
        self, sending: Coroutine[object, object, ResultT], state: SendState, keep: Keep
    ) -> ResultT:
        """Return the result of `sending`.

        A call that is cancelled after it was sent continues, and `keep` receives its result.
        """
        task = asyncio.create_task(sending)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await self._detach(task, state, keep)
            raise

    @asynccontextmanager
    async def stream(
        self,
        opening: AbstractAsyncContextManager[MediaStream[MediaT]],
        state: SendState,
        keep: Keep,
    ) -> AsyncIterator[MediaStream[MediaT]]:
        """Return the stream that `opening` opens, a `FinishingStream`.

        A stream that is closed before its end, after its request was sent, is read on, and `keep`
        receives its result.
        """
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        streams: list[FinishingStream[MediaT]] = []

        async def pump() -> MediaT:
            async with opening as opened_stream:
                stream = cast("FinishingStream[MediaT]", opened_stream)
                streams.append(stream)
                return await stream.pump(opened)

        task = asyncio.create_task(pump())
        try:
            await asyncio.wait((task, opened), return_when=asyncio.FIRST_COMPLETED)
            if not opened.done():
                await task  # it has failed, and says how
            yield streams[0]
        finally:
            opened.cancel()  # of no effect once it is open
            for stream in streams:
                stream.leave()
            if streams and streams[0].taken:
                await _ended(task)
            else:
                await self._detach(task, state, keep)

    async def aclose(self) -> None:
        """Wait for the calls in progress; if this is cancelled, cancel them."""
        try:
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _detach(
        self,
        task: asyncio.Task[ResultT],
        state: SendState,
        keep: Keep,
    ) -> None:
        """Detach from a caller: finish what was sent, withdraw what was not."""
        state.abandoned = True
        if state.sent:
            finish = asyncio.create_task(_finish(task, keep))
            self._tasks.add(finish)
            finish.add_done_callback(self._tasks.discard)
        else:
            task.cancel()
            await _ended(task)


async def _ended(task: asyncio.Task[ResultT]) -> None:
    """Wait for `task`, whatever its outcome."""
    await asyncio.gather(task, return_exceptions=True)


async def _finish(task: asyncio.Task[ResultT], keep: Keep) -> None:
    try:
        kept = keep(await task)
        if isawaitable(kept):  # as its type says; `results.append` has done its work all the same
            await kept
    except StabilityError as error:
        logger.warning("a call whose caller is gone has failed: %s", error)
    except Exception:
        logger.exception("a paid result whose reader is gone was not kept")
