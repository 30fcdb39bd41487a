"""Bodies of requests: text is encoded, files are streamed; each attempt sends the same bytes."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache
from random import getrandbits
from typing import TYPE_CHECKING

from aiohttp.payload import Payload

from stable_async.api.file_input import UnfitSourceError
from stable_async.api.file_limits import FileHead
from stable_async.errors import FieldProblem, InvalidRequestError
from stable_async.transport.file_sources import open_source

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from aiohttp.abc import AbstractStreamWriter

    from stable_async.api.base import Request
    from stable_async.transport.file_sources import Source

__all__ = ["MultipartForm", "MultipartPayload", "body_of"]

# How much of each file is read to determine its format. The first size is nearly always enough, but
# a JPEG may begin with a long profile or preview.
HEAD_SIZES = (128 * 1024, 1024 * 1024)


def body_of(request: Request[object]) -> tuple[bytes | MultipartForm, str]:
    """Return the body of a POST request, bytes unless it has files, and its content type.

    Raises:
        InvalidRequestError: The texts are larger than the API accepts.
    """
    if request.operation.body == "json":
        return request.json_body(), "application/json"
    boundary = f"{getrandbits(128):032x}"  # need not be secret, must not occur in a file
    texts = ""
    for name, text in request.texts():
        texts += f"--{boundary}\r\n{_disposition(name)}\r\n\r\n{text}\r\n"
    content_type = f"multipart/form-data; boundary={boundary}"
    if request.file_parts and any(request.files()):
        return MultipartForm(request, boundary, texts.encode()), content_type
    body = f"{texts}--{boundary}--\r\n".encode()
    if len(body) > request.operation.max_bytes:
        raise _too_large(request, f"given {len(body)} bytes")
    return body, content_type


@dataclass(frozen=True, slots=True)
class _FilePart:
    name: str
    head: bytes
    source: Source


class MultipartForm:
    """The multipart/form-data body of a request with files, for any number of attempts.

    Attributes:
        size: Length of the body, bytes; `None` if a source does not know its own.
    """

    def __init__(self, request: Request[object], boundary: str, texts: bytes) -> None:
        """Send `texts`, encoded, before the files of `request`, which `open` opens."""
        self._request = request
        self._limit = request.operation.max_bytes
        self._boundary = boundary
        self._texts = texts
        self._closing = f"--{boundary}--\r\n".encode()
        self._parts: list[_FilePart] = []
        self.size: int | None = len(texts) + len(self._closing)
        # A cancelled attempt may still be closing its sources when the next one begins.
        self._sending = asyncio.Lock()

    async def open(self) -> None:
        """Open the files, and check their sizes and formats.

        Raises:
            InvalidRequestError: A file is missing, unreadable, empty or not of a format and size
                that the API accepts here, or the whole request is too large.
        """
        for name, value in self._request.files():
            try:
                source = await open_source(value)
            except Exception as error:  # raised by the caller's code, as in `_read`
                raise self._unreadable(name, error) from error
            if source.size == 0:
                raise self._refused(name, "given 0 bytes", "a file with content")
            head = (
                f"--{self._boundary}\r\n"
                f'{_disposition(name)}; filename="{_quoted(source.filename)}"\r\n'
                "Content-Type: application/octet-stream\r\n\r\n"
            ).encode(errors="replace")  # a name that is not UTF-8
            self._parts.append(_FilePart(name, head, source))
            if self.size is not None and source.size is not None:
                self.size += len(head) + source.size + len(b"\r\n")
            else:
                self.size = None
        await self._check_content()
        if self.size is not None and self.size > self._limit:
            raise _too_large(self._request, f"given {self.size} bytes")

    async def _check_content(self) -> None:
        for size in HEAD_SIZES:
            heads = {part.name: await self._head(part, size) for part in self._parts}
            try:
                problems = list(self._request.broken_file_rules(heads))
            except EOFError:
                continue
            if problems:
                raise InvalidRequestError(type(self._request).__name__, problems)
            return
        # A longer header is left to the API.

    async def _head(self, part: _FilePart, size: int) -> FileHead:
        data = bytearray()
        async with aclosing(self._read(part)) as chunks:
            async for chunk in chunks:
                data += chunk
                if len(data) >= size:
                    break
        if not data:
            allowed = "a source with content, not one that was read before"
            raise self._refused(part.name, "given 0 bytes", allowed)
        return FileHead(bytes(data), complete=len(data) < size, size=part.source.size)

    async def chunks(self) -> AsyncGenerator[bytes | memoryview, None]:
        """Yield the body piece by piece.

        Raises:
            InvalidRequestError: A source cannot be read or has changed, or had an unknown length
                and turned out empty or too large.
        """
        async with self._sending:
            left = self._limit - len(self._texts) - len(self._closing)
            yield self._texts
            for part in self._parts:
                yield part.head
                left -= len(part.head) + len(b"\r\n")
                read = 0
                async with aclosing(self._read(part)) as chunks:
                    async for chunk in chunks:
                        read += len(chunk)
                        if read > left:
                            raise _too_large(self._request, f"given more than {self._limit} bytes")
                        yield chunk
                left -= read
                if part.source.size is None and read == 0:
                    allowed = "a source with content, not one that was read before"
                    raise self._refused(part.name, "given 0 bytes", allowed)
                if part.source.size not in {None, read}:
                    allowed = f"the {part.source.size} bytes that were announced"
                    raise self._refused(part.name, f"given {read} bytes", allowed)
                yield b"\r\n"
            yield self._closing

    async def _read(self, part: _FilePart) -> AsyncGenerator[bytes | memoryview, None]:
        try:
            async with aclosing(part.source.chunks()) as chunks:
                async for chunk in chunks:
                    yield chunk
        except Exception as error:  # raised by the caller's code, where the source is an iterable
            raise self._unreadable(part.name, error) from error

    async def close(self) -> None:
        """Close the sources once no attempt uses them."""
        async with self._sending:
            for part in self._parts:
                await part.source.close()

    def _unreadable(self, field: str, error: Exception) -> InvalidRequestError:
        if isinstance(error, UnfitSourceError):
            return self._refused(field, f"given {error.given}", error.allowed)
        # The text of another library's error may contain anything.
        reason = getattr(error, "strerror", None) or f"reading it raised {type(error).__name__}"
        return self._refused(field, reason, "a readable file")

    def _refused(self, field: str, given: str, allowed: str) -> InvalidRequestError:
        problem = FieldProblem(field, given, allowed)
        return InvalidRequestError(type(self._request).__name__, [problem])


class MultipartPayload(Payload):
    """One attempt to send a `MultipartForm`, as a payload of aiohttp.

    Attributes:
        failure: The error raised by a source; aiohttp raises an error of its own instead.
        on_written: Called when the whole body was written.
    """

    def __init__(self, form: MultipartForm, stall_limit: float | None) -> None:
        """Send `form`; sending each piece may take `stall_limit` seconds."""
        super().__init__(form)
        self._size = form.size
        self._form = form
        self._stall_limit = stall_limit
        self.failure: Exception | None = None
        self.on_written: Callable[[], None] | None = None

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the body; each piece waits until the connection accepted the previous one."""
        async with aclosing(self._form.chunks()) as chunks:
            while True:
                try:
                    chunk = await anext(chunks)
                except StopAsyncIteration:
                    break
                except Exception as error:
                    self.failure = error
                    raise
                async with asyncio.timeout(self._stall_limit):
                    await writer.write(chunk)
        if self.on_written is not None:
            self.on_written()

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Raise `TypeError`: the body is never whole in memory."""
        raise TypeError("a multipart body is not held in memory")


def _too_large(request: Request[object], given: str) -> InvalidRequestError:
    allowed = f"up to {request.operation.max_bytes} bytes for the whole request"
    return InvalidRequestError(type(request).__name__, [FieldProblem("", given, allowed)])


@lru_cache(maxsize=256)
def _disposition(name: str) -> str:
    return f'Content-Disposition: form-data; name="{_quoted(name)}"'


def _quoted(text: str) -> str:
    """Escape a name for `Content-Disposition`, as browsers do (WHATWG HTML, form submission).

    The backslash is escaped as well, although browsers send it unchanged: servers read it as an
    escape of RFC 9110, and a name that ends with one would not be terminated.
    """
    for character, escape in (("\r", "%0D"), ("\n", "%0A"), ('"', "%22"), ("\\", "%5C")):
        text = text.replace(character, escape)
    return text
