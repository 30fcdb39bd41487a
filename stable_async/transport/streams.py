"""A result as it arrives: chunk by chunk, into memory, or straight into a file."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Generic, Self, TypeVar, cast

from stable_async.api.base import MediaRequest, ResultRequest
from stable_async.api.media_reader import MediaReader
from stable_async.errors import APIConnectionError, StabilityError
from stable_async.files import FileSink
from stable_async.media import CONTENT_FILTERED, Media, warn_of_other_format

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from stable_async.api.answers import Answer
    from stable_async.files import Sink

__all__ = ["READ_ONCE", "MediaStream"]

MediaT = TypeVar("MediaT", bound=Media)
KeptT = TypeVar("KeptT")

# A hop to a thread costs as much as writing a hundred KiB, so this much is gathered for one: most
# images are written, synced and renamed in a single hop.
WRITE_SIZE = 2 * 1024 * 1024

# The most that all streams of this process gather together, bytes: each has an equal share of it,
# and at least `PIECE`.
GATHERED_AT_MOST = 64 * 1024 * 1024
PIECE = 64 * 1024
READ_ONCE = "a stream can be read once: reading this one has begun already"
# The streams that are being saved, in whatever thread.
_saving: set[object] = set()


class MediaStream(Generic[MediaT]):
    """The result of one request, read once: iterate over it, `read` it, or `save` it.

    Attributes:
        content_type: Media type of the result, such as `image/png`.
        seed: The result's seed; with `accept="application/json"` known only when all was read.
        finish_reason: `SUCCESS` or `CONTENT_FILTERED`; with JSON known only when all was read.
        known_at_end: Whether seed and finish reason are known only when all was read, as with JSON.
        request_id: The answer's `x-request-id`.
        credits: List price of what was asked for.
        generation_id: What `client.results.get` takes to fetch the result again; `None` for
            synchronous operations.
    """

    def __init__(
        self, request: MediaRequest[MediaT], head: Answer, body: AsyncGenerator[bytes, None]
    ) -> None:
        """Stream the answer to `request`; made by `StabilityClient.stream`."""
        reader = MediaReader(cast("type[MediaT]", request.media), head)
        self._reader = reader
        self._body = body
        self._first: list[bytes] = []
        self._begun = False
        self.content_type: str = ""  # recognised by `start`
        self.seed: int | None = reader.seed
        self.finish_reason: str | None = reader.finish_reason
        self.known_at_end: bool = False
        self.request_id: str | None = reader.request_id
        self.credits: float | None = request.credits
        self.generation_id: str | None = None
        if isinstance(request, ResultRequest):
            self.credits, self.generation_id = request.paid, request.id

    @property
    def content_length(self) -> int | None:
        """Length of the result, bytes; `None` where the answer does not state it."""
        return self._reader.content_length

    @property
    def filtered(self) -> bool:
        """Whether the content filter blurred the result; with JSON known when all was read."""
        return self.finish_reason == CONTENT_FILTERED

    async def start(self) -> Self:
        """Read until the result is recognised by its first bytes.

        Raises:
            APIConnectionError, APITimeoutError, InvalidResponseError: As for iterating.
        """
        try:
            while not self._reader.recognised:
                chunk = await anext(self._body, b"")
                if not chunk:
                    self._reader.finish()
                    break
                if data := self._reader.feed(chunk):
                    self._first.append(data)
        except StabilityError as error:
            self._attach_generation(error)
            raise
        self.content_type = self._reader.content_type
        self.known_at_end = self._reader.known_at_end
        return self

    @property
    def headers(self) -> dict[str, str]:
        """The facts of the result, as headers for an answer of your own; no other header is copied.

        `content-type`, `content-length`, `seed` and `finish-reason`, as far as the API states them.
        """
        known = {
            "content-type": self.content_type,
            "content-length": self.content_length,
            "seed": self.seed,
            "finish-reason": self.finish_reason,
        }
        return {name: str(value) for name, value in known.items() if value not in {None, ""}}

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the bytes as they arrive; the server waits while they are not read.

        Raises:
            APIConnectionError: The connection broke before the end; what came is incomplete.
            APITimeoutError: The answer stalled.
            InvalidResponseError: A JSON answer is not what it should be.
        """
        if self._begun:
            raise StabilityError(READ_ONCE)
        self._begun = True
        try:
            first, self._first = self._first, []
            for data in first:
                yield data
            try:
                async for chunk in self._body:
                    if data := self._reader.feed(chunk):
                        yield data
            except APIConnectionError:
                if not self._reader.has_all:  # else only the end of the answer is missing
                    raise
            self._reader.finish()
            self.seed, self.finish_reason = self._reader.seed, self._reader.finish_reason
        except StabilityError as error:
            self._attach_generation(error)
            raise

    async def hold(self) -> None:
        """Read the whole result into memory, so that all is known of it; it can still be read.

        Raises:
            APIConnectionError, APITimeoutError, InvalidResponseError: As for iterating.
        """
        self._first = [data async for data in self]
        self._begun = False

    def _attach_generation(self, error: StabilityError) -> None:
        if self.generation_id is not None:
            error.attach_generation(self.generation_id)

    async def read(self) -> MediaT:
        """Return the whole result, held in memory.

        Raises:
            APIConnectionError, APITimeoutError, InvalidResponseError: As for iterating.
        """
        buffer = BytesIO()  # returns its bytes at the end without a second copy
        async for chunk in self:
            buffer.write(chunk)
        return self._reader.result(buffer.getvalue(), self.credits)

    async def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result to `path`, whole or not at all, without blocking the event loop.

        The bytes are not converted: warns if the suffix of `path` is that of another format.

        Raises:
            OSError: The folder is missing or not writable, the disk is full, or `path` is not a
                regular file.
            APIConnectionError, APITimeoutError, InvalidResponseError: As for iterating.
        """
        saved = await self.save_to(FileSink(path))
        warn_of_other_format(path, self.content_type, stacklevel=2)  # may be turned into an error
        return saved

    async def save_to(self, sink: Sink[KeptT]) -> KeptT:
        """Write the result to `sink`, and return what its `commit` returns.

        Raises:
            APIConnectionError, APITimeoutError, InvalidResponseError: As for iterating. `sink`
                is then discarded, as it is after errors of its own.
        """
        gathered: list[bytes] = []
        size = 0
        _saving.add(self)
        try:
            async for chunk in self:
                gathered.append(chunk)
                size += len(chunk)
                if size >= min(WRITE_SIZE, max(GATHERED_AT_MOST // len(_saving), PIECE)):
                    await sink.write(gathered)
                    gathered, size = [], 0
            storing = sink.commit(gathered)
            gathered = []  # the sink alone has them now: it may drop them once they are copied
            return await storing
        except BaseException:
            await sink.discard()
            raise
        finally:
            _saving.discard(self)
