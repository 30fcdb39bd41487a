"""A result while it comes in: chunk by chunk, into memory, or straight into a file."""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import TYPE_CHECKING, Generic, TypeVar

from stable_async.api.verdict import judge_broken_connection
from stable_async.errors import APITimeoutError, StabilityError
from stable_async.files import FileSink
from stable_async.media import CONTENT_FILTERED, Media, warn_of_other_format
from stable_async.transport.error_mapping import translated_errors

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from aiohttp import ClientResponse

    from stable_async.api.answers import MediaReader
    from stable_async.api.verdict import Asked
    from stable_async.files import Sink

__all__ = ["MediaStream", "read_body"]

MediaT = TypeVar("MediaT", bound=Media)
KeptT = TypeVar("KeptT")

# A thread hop costs as much as writing a hundred KiB, so that this much is gathered for one: most
# pictures are written, synced and renamed in a single hop.
WRITE_SIZE = 2 * 1024 * 1024
# An answer is stalled when fewer bytes than this came within the time limit. Counting them, not
# just the time between two reads, ends a trickle of single bytes as well.
LEAST_PROGRESS = 16 * 1024


class MediaStream(Generic[MediaT]):
    """The result of one request, read once: iterate over it, `read` it, or `save` it.

    Attributes:
        credits: List price of what was asked for.
        generation_id: What `client.results.get` takes to give the result once more; `None` for
            synchronous operations.
    """

    def __init__(
        self,
        response: ClientResponse,
        reader: MediaReader[MediaT],
        *,
        credits: float | None,  # noqa: A002 - the API's word
        generation_id: str | None,
        stall_limit: float | None,
    ) -> None:
        """Stream `response`; made by `StabilityClient.stream`."""
        self._reader = reader
        self._response = response
        self._stall_limit = stall_limit
        self._begun = False
        self.credits = credits
        self.generation_id = generation_id

    @property
    def content_type(self) -> str:
        """Media type of the result, such as `image/png`."""
        return self._reader.content_type

    @property
    def content_length(self) -> int | None:
        """Length of the result, bytes; `None` where the answer does not say it."""
        return self._reader.content_length

    @property
    def seed(self) -> int | None:
        """The result's seed; with `accept="application/json"` known only when all was read."""
        return self._reader.seed

    @property
    def finish_reason(self) -> str | None:
        """`SUCCESS` or `CONTENT_FILTERED`; with JSON known only when all was read."""
        return self._reader.finish_reason

    @property
    def filtered(self) -> bool:
        """Whether the content filter blurred the result; with JSON known when all was read."""
        return self.finish_reason == CONTENT_FILTERED

    @property
    def request_id(self) -> str | None:
        """The answer's `x-request-id`."""
        return self._reader.request_id

    def of_kind(self, kind: type[MediaStream[MediaT]]) -> MediaStream[MediaT]:
        """Give the same result as a stream of another kind, to be read instead of this one."""
        return kind(
            self._response,
            self._reader,
            credits=self.credits,
            generation_id=self.generation_id,
            stall_limit=self._stall_limit,
        )

    @property
    def headers(self) -> dict[str, str]:
        """What is known of the result, as headers of an answer of your own: no others are copied.

        `content-type`, `content-length`, `seed` and `finish-reason`, as far as the API says them.
        """
        known = {
            "content-type": self.content_type,
            "content-length": self.content_length,
            "seed": self.seed,
            "finish-reason": self.finish_reason,
        }
        return {name: str(value) for name, value in known.items() if value not in {None, ""}}

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Give the bytes as they come; the server waits while nobody takes them.

        Raises:
            APIConnectionError: The connection broke before the end; what came is incomplete.
            APITimeoutError: The answer stalled.
            InvalidResponseError: A JSON answer is not what it should be.
        """
        if self._begun:
            raise StabilityError("a stream can be read once: this one was begun before")
        self._begun = True
        try:
            async for chunk in read_body(self._response, self._stall_limit, self._reader.asked):
                if data := self._reader.feed(chunk):
                    yield data
            self._reader.finish()
        except StabilityError as error:
            if self.generation_id is not None:
                error.attach_generation(self.generation_id)
            raise

    async def read(self) -> MediaT:
        """Give the whole result, held in memory.

        Raises:
            APIConnectionError, APITimeoutError, InvalidResponseError: As for iterating.
        """
        buffer = BytesIO()  # gives its bytes away at the end without a second copy
        async for chunk in self:
            buffer.write(chunk)
        return self._reader.result(buffer.getvalue(), self.credits)

    async def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result to `path`, whole or not at all, without blocking the event loop.

        The bytes are not converted: warns if the suffix of `path` is that of another format.

        Raises:
            OSError: The folder is missing or not writable, or the disk is full.
            APIConnectionError, APITimeoutError, InvalidResponseError: As for iterating.
        """
        warn_of_other_format(path, self.content_type, stacklevel=2)
        return await self.save_to(FileSink(path))

    async def save_to(self, sink: Sink[KeptT]) -> KeptT:
        """Write the result to `sink`, and give what its `commit` gives.

        Raises:
            APIConnectionError, APITimeoutError, InvalidResponseError: As for iterating; the sink
                was told to discard what it has. So it is for errors of its own.
        """
        try:
            gathered: list[bytes] = []
            size = 0
            async for chunk in self:
                gathered.append(chunk)
                size += len(chunk)
                if size >= WRITE_SIZE:
                    await sink.write(gathered)
                    gathered, size = [], 0
            return await sink.commit(gathered)
        except BaseException:
            await sink.discard()
            raise


async def read_body(
    response: ClientResponse, stall_limit: float | None, asked: Asked = "submit"
) -> AsyncGenerator[bytes, None]:
    """Give the body of an answer as it comes.

    Raises:
        APIConnectionError: The connection broke before the end.
        APITimeoutError: Fewer than 16 KiB came within `stall_limit` seconds of waiting.
    """
    content = response.content
    clock = asyncio.get_running_loop().time
    left, progress = stall_limit, 0
    with translated_errors(sent=True, asked=asked):
        while not content.at_eof():
            if content.is_eof():
                yield content.read_nowait()
                continue
            began = clock()
            try:
                async with asyncio.timeout(left) as limit:
                    chunk = await content.readany()
            except TimeoutError:
                if not limit.expired():
                    raise  # the total of the attempt is over
                raise APITimeoutError(
                    f"the answer stalled: fewer than {LEAST_PROGRESS} bytes in {stall_limit:g} s",
                    verdict=judge_broken_connection(sent=True, asked=asked),
                ) from None
            if left is not None and stall_limit is not None:
                left -= clock() - began
                progress += len(chunk)
                if progress >= LEAST_PROGRESS:
                    left, progress = stall_limit, 0
            if chunk:
                yield chunk
