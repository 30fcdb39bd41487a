"""What a file field was given, as bytes that can be read from the start any number of times."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Iterator,
    Sequence,
)
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from stable_async.files import in_thread

if TYPE_CHECKING:
    from stable_async.api.base import FileInput

__all__ = ["Source", "open_source"]

CHUNK = 64 * 1024
# A source that can be read only once is kept to be sent again: in memory up to here, then on disk.
SPOOL_IN_MEMORY = 1024 * 1024


# Several requests may send the same file object at a time: each reads where it is, and leaves the
# position as it was.
_SEEKING = threading.Lock()


class Source(Protocol):
    """The bytes of one file.

    Attributes:
        filename: Name to send; the API does not look at it.
        size: Length in bytes, `None` when it is not known before the end.
    """

    filename: str
    size: int | None

    def chunks(self) -> AsyncGenerator[bytes | memoryview, None]:
        """Read from the start, without blocking the event loop.

        Raises:
            OSError: The bytes cannot be read, or are not those that were there at first.
        """

    async def close(self) -> None:
        """Close what was opened here."""


class BytesSource:
    """Bytes in memory, in one piece or several."""

    filename = "file"

    def __init__(self, pieces: Sequence[bytes | bytearray | memoryview]) -> None:
        self._views = [memoryview(piece).cast("B") for piece in pieces]
        self.size: int | None = sum(map(len, self._views))

    async def chunks(self) -> AsyncGenerator[bytes | memoryview, None]:
        for view in self._views:
            for start in range(0, len(view), CHUNK):
                yield view[start : start + CHUNK]

    async def close(self) -> None:
        """Nothing was opened."""


class PathSource:
    """A file by its path, opened for each sending; it must not change between two."""

    def __init__(self, path: Path, stat: os.stat_result) -> None:
        self._path = path
        self._stat = stat
        self.filename = path.name
        self.size: int | None = stat.st_size

    async def chunks(self) -> AsyncGenerator[bytes | memoryview, None]:
        with self._path.open("rb", buffering=0) as file:
            now = os.fstat(file.fileno())
            if (now.st_size, now.st_mtime_ns) != (self._stat.st_size, self._stat.st_mtime_ns):
                raise OSError(f"{self.filename} changed after its size was read")
            while chunk := await in_thread(file.read, CHUNK):
                yield chunk

    async def close(self) -> None:
        """Each reading closes its own file."""


class SeekableSource:
    """A file object that can go back to where it stood."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.filename = file_name_of(file)
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
            stood = self._file.tell()
            try:
                self._file.seek(position)
                return self._file.read(CHUNK)
            finally:
                self._file.seek(stood)

    async def close(self) -> None:
        """The file is its owner's to close."""


class OneShotSource:
    """A source that can be read once; what was read is kept, so that it can be sent again."""

    size: int | None = None

    def __init__(self, pieces: AsyncGenerator[bytes, None], filename: str = "file") -> None:
        self.filename = filename
        self._pieces = pieces
        self._kept = SpooledTemporaryFile[bytes](max_size=SPOOL_IN_MEMORY)
        self._length = 0
        self._reading: asyncio.Task[bool] | None = None

    async def chunks(self) -> AsyncGenerator[bytes | memoryview, None]:
        position = 0
        while position < self._length or await self._read_on():
            chunk = await in_thread(self._kept_at, position)
            position += len(chunk)
            yield chunk

    async def _read_on(self) -> bool:
        # A sending that is cut short must not take a piece with it, nor end the source: the
        # reading goes on in a task of its own, for the next sending to find.
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_piece())
        more = await asyncio.shield(self._reading)
        self._reading = None
        return more

    async def _read_piece(self) -> bool:
        piece = await anext(self._pieces, b"")
        await in_thread(self._keep, piece)
        return bool(piece)

    def _keep(self, piece: bytes) -> None:
        self._kept.seek(0, os.SEEK_END)
        self._kept.write(piece)
        self._length += len(piece)

    def _kept_at(self, position: int) -> bytes:
        self._kept.seek(position)
        return self._kept.read(CHUNK)

    async def close(self) -> None:
        try:
            if self._reading is not None:
                self._reading.cancel()
                await asyncio.wait({self._reading})
                if not self._reading.cancelled():
                    self._reading.exception()  # looked at: nobody asks for it any more
            await self._pieces.aclose()
        finally:
            self._kept.close()


async def open_source(value: FileInput) -> Source:
    """Give the source for what a file field was given.

    Raises:
        OSError: A file that is missing or may not be read.
    """
    match value:
        case str() | os.PathLike():
            return PathSource(Path(value), await in_thread(os.stat, value))
        case bytes() | bytearray() | memoryview():
            return BytesSource((value,))
        case list() | tuple():
            return BytesSource(value)
    if callable(getattr(value, "read", None)):
        if isinstance(value, io.TextIOBase):
            raise ValueError("opened as text, not as bytes")
        file = cast("BinaryIO", value)
        if file.seekable():
            return SeekableSource(file)
        return OneShotSource(_read(file), file_name_of(file))
    if isinstance(value, AsyncIterable):
        return OneShotSource(_without_empty(value))
    return OneShotSource(_iterate(iter(value)))


def file_name_of(file: object) -> str:
    """Give the last part of a file object's name, `file` when it has none."""
    name = getattr(file, "name", None)
    return (Path(name).name if isinstance(name, str) else "") or "file"


async def _read(file: BinaryIO) -> AsyncGenerator[bytes, None]:
    while chunk := await in_thread(file.read, CHUNK):
        yield chunk


async def _without_empty(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    async for piece in pieces:
        if piece:
            yield piece


async def _iterate(pieces: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Give what a blocking iterator gives, gathered into chunks by a worker thread."""
    while gathered := await in_thread(_gather, pieces):
        yield gathered


def _gather(pieces: Iterator[bytes]) -> bytes:
    gathered = bytearray()
    for piece in pieces:
        gathered += piece
        if len(gathered) >= CHUNK:
            break
    return bytes(gathered)
