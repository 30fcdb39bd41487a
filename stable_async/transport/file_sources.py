"""The bytes of a file field, which can be read from the start any number of times."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sequence
from inspect import isawaitable, iscoroutinefunction
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from stable_async.api.file_input import (
    SupportsRead,
    SupportsReadChunk,
    UnfitSourceError,
    holds_pixels,
)
from stable_async.files import in_thread
from stable_async.media import Media
from stable_async.transport.pixels import encode_png

if TYPE_CHECKING:
    from stable_async.api.file_input import FileInput

__all__ = ["Source", "open_source"]

CHUNK = 64 * 1024
# What can be read only once is buffered for retries: in memory up to this size, then on disk.
SPOOL_IN_MEMORY = 1024 * 1024

# Several requests may send the same file object at once: each reads at its own position and
# restores the one that it found.
_SEEKING = threading.Lock()


class Source(Protocol):
    """The bytes of one file.

    Attributes:
        filename: Name to send; the API ignores it.
        size: Length, bytes; `None` if it is unknown before the end.
    """

    filename: str
    size: int | None

    def chunks(self) -> AsyncGenerator[bytes | memoryview, None]:
        """Read from the start, without blocking the event loop.

        Raises:
            OSError: The bytes cannot be read.
            UnfitSourceError: The source does not return bytes, or has changed since it was opened.
        """

    async def close(self) -> None:
        """Close what was opened here."""


class BytesSource:
    """Bytes in memory, in one piece or several."""

    filename = "file"

    def __init__(self, pieces: Sequence[bytes | bytearray | memoryview]) -> None:
        self._views = [_flat(memoryview(piece)) for piece in pieces]
        self.size: int | None = sum(map(len, self._views))

    async def chunks(self) -> AsyncGenerator[bytes | memoryview, None]:
        for view in self._views:
            for start in range(0, len(view), CHUNK):
                yield view[start : start + CHUNK]

    async def close(self) -> None:
        """Do nothing."""


def _flat(view: memoryview) -> memoryview:
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


class PathSource:
    """A file by its path, opened for each attempt; it must not change between attempts."""

    def __init__(self, path: Path, stat: os.stat_result) -> None:
        self._path = path
        self._stat = stat
        self.filename: str = path.name
        self.size: int | None = stat.st_size

    async def chunks(self) -> AsyncGenerator[bytes | memoryview, None]:
        with self._path.open("rb", buffering=0) as file:
            now = os.fstat(file.fileno())
            if (now.st_size, now.st_mtime_ns) != (self._stat.st_size, self._stat.st_mtime_ns):
                raise UnfitSourceError(f"{self.filename}, which changed since it was opened")
            while chunk := await in_thread(file.read, CHUNK):
                yield chunk

    async def close(self) -> None:
        """Do nothing: `chunks` closes the file."""


class SeekableSource:
    """A file object that can seek: read from its position, which is restored."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.filename: str = file_name_of(file)
        with _SEEKING:
            self._start = file.tell()
            self.size: int | None = file.seek(0, os.SEEK_END) - self._start
            file.seek(self._start)

    async def chunks(self) -> AsyncGenerator[bytes | memoryview, None]:
        position = self._start
        while chunk := await in_thread(self._read_at, position):
            position += len(chunk)
            yield chunk

    def _read_at(self, position: int) -> bytes:
        with _SEEKING:
            found = self._file.tell()
            try:
                self._file.seek(position)
                return self._file.read(CHUNK)
            finally:
                self._file.seek(found)

    async def close(self) -> None:
        """Do nothing: the caller closes the file."""


class OneShotSource:
    """A source that can be read once; what was read is buffered for the next attempt."""

    size: int | None = None

    def __init__(self, pieces: AsyncGenerator[bytes, None], filename: str = "file") -> None:
        self.filename = filename
        self._pieces = pieces
        self._buffer = SpooledTemporaryFile[bytes](max_size=SPOOL_IN_MEMORY)
        self._length = 0
        self._reading: asyncio.Task[bool] | None = None

    async def chunks(self) -> AsyncGenerator[bytes | memoryview, None]:
        position = 0
        while position < self._length or await self._read_on():
            chunk = await in_thread(self._buffered_at, position)
            position += len(chunk)
            yield chunk

    async def _read_on(self) -> bool:
        # A cancelled attempt must neither lose a piece nor end the source: the read continues in a
        # task of its own, and the next attempt takes its result.
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_piece())
        more = await asyncio.shield(self._reading)
        self._reading = None
        return more

    async def _read_piece(self) -> bool:
        piece = await anext(self._pieces, b"")
        await in_thread(self._append, piece)
        return bool(piece)

    def _append(self, piece: bytes) -> None:
        self._buffer.seek(0, os.SEEK_END)
        self._buffer.write(piece)
        self._length += len(piece)

    def _buffered_at(self, position: int) -> bytes:
        self._buffer.seek(position)
        return self._buffer.read(CHUNK)

    async def close(self) -> None:
        try:
            if self._reading is not None:
                self._reading.cancel()
                await asyncio.wait({self._reading})
                if not self._reading.cancelled():
                    self._reading.exception()  # marked as retrieved
            await self._pieces.aclose()
        finally:
            self._buffer.close()


async def open_source(value: FileInput) -> Source:
    """Return the source for the value of a file field.

    Raises:
        OSError: A file is missing or may not be read.
        UnfitSourceError: The value cannot be read as a file.
    """
    if isinstance(value, str | os.PathLike):
        return await _open_path(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return BytesSource((value,))
    if isinstance(value, Media):
        return BytesSource((value.data,))
    if isinstance(value, list | tuple):
        return BytesSource([_checked(piece) for piece in value])
    if holds_pixels(value):
        return BytesSource((await in_thread(encode_png, value),))
    return _open_stream(value)


async def _open_path(path: str | os.PathLike[str]) -> Source:
    try:
        return PathSource(Path(path), await in_thread(os.stat, path))
    except UnicodeEncodeError:
        raise UnfitSourceError("a path that cannot be encoded") from None
    except ValueError:
        raise UnfitSourceError("a path with a null character") from None


def _open_stream(value: object) -> Source:
    if isinstance(value, SupportsReadChunk):
        return OneShotSource(_read_chunks(value))
    file = _innermost(value)
    if isinstance(file, io.TextIOBase):
        raise UnfitSourceError("a file opened as text", "a file opened in binary mode")
    if isinstance(file, SupportsRead):
        if getattr(file, "closed", False) is True:
            raise UnfitSourceError("a closed file")
        if _is_seekable(file):
            return SeekableSource(cast("BinaryIO", file))
        return OneShotSource(_read(file), file_name_of(file))
    if isinstance(value, AsyncIterable):
        return OneShotSource(_iterate_async(value))
    if isinstance(value, Iterable):
        return OneShotSource(_iterate(iter(value)))
    raise UnfitSourceError(f"a value of type {type(value).__name__}")


def _innermost(value: object) -> object:
    """Return the synchronous file inside an upload or an asynchronous file, else `value`.

    It may be seekable, so that it can be sent more than once.
    """
    for attribute in ("file", "wrapped"):  # Starlette and aiohttp; anyio
        if isinstance(inner := getattr(value, attribute, None), SupportsRead):
            return inner
    return value


def _is_seekable(file: object) -> bool:
    seekable = getattr(file, "seekable", None)
    return callable(seekable) and not iscoroutinefunction(seekable) and bool(seekable())


def file_name_of(file: object) -> str:
    """Return the last part of a file object's name, `file` if it has none."""
    name = getattr(file, "name", None)
    return (Path(name).name if isinstance(name, str) else "") or "file"


async def _read(file: SupportsRead) -> AsyncGenerator[bytes, None]:
    asynchronous = iscoroutinefunction(file.read)
    while True:
        result = file.read(CHUNK) if asynchronous else await in_thread(file.read, CHUNK)
        if not (chunk := _checked(await result if isawaitable(result) else result)):
            return
        yield chunk


async def _read_chunks(part: SupportsReadChunk) -> AsyncGenerator[bytes, None]:
    while chunk := _checked(await part.read_chunk(CHUNK)):
        yield chunk


async def _iterate_async(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    async for piece in pieces:
        if _checked(piece):
            yield piece


async def _iterate(pieces: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Iterate over a blocking iterator in a worker thread, joining its pieces into chunks."""
    while gathered := await in_thread(_gather, pieces):
        yield gathered


def _gather(pieces: Iterator[bytes]) -> bytes:
    gathered = bytearray()
    for piece in pieces:
        gathered += _checked(piece)
        if len(gathered) >= CHUNK:
            break
    return bytes(gathered)


def _checked(piece: bytes) -> bytes:
    if isinstance(piece, bytes | bytearray | memoryview):
        return piece
    raise UnfitSourceError(f"a source of {type(piece).__name__}", "a source of bytes")
