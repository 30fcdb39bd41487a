"""Files written whole or not at all: a temporary name beside the target, synced, then renamed."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, partial
from itertools import islice
from pathlib import Path
from random import getrandbits
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["AtomicFile", "FileSink", "Sink", "in_thread", "write_atomically"]

TEMPORARY_SUFFIX = ".part"
MOST_THREADS = 40
MOST_NAME = 200
MOST_PIECES = 256  # per call; the system takes 1,024

P = ParamSpec("P")
T = TypeVar("T")
KeptT = TypeVar("KeptT", covariant=True)


@cache
def _threads() -> ThreadPoolExecutor:
    """Give threads of our own: asyncio's are few, and look up names as well."""
    return ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="stable_async")


# A forked process has the object, but none of its threads: a call would wait for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a blocking function in a worker thread, and be gone only when it is.

    A cancelled caller waits for the call to end before the cancellation goes on: what the
    function uses, a file for one, may be closed right after.
    """
    loop = asyncio.get_running_loop()
    call = loop.run_in_executor(_threads(), partial(function, *args, **kwargs))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        while not call.done():
            try:
                await asyncio.wait({call})
            except asyncio.CancelledError:
                continue
        if not call.cancelled():
            call.exception()  # looked at, so that asyncio does not report it as forgotten
        raise


class Sink(Protocol[KeptT]):
    """Where bytes are kept: whole once `commit` has returned, or not at all."""

    async def write(self, chunks: Sequence[bytes]) -> None:
        """Append `chunks`."""

    async def commit(self, last: Sequence[bytes]) -> KeptT:
        """Append `last` and keep everything for good."""

    async def discard(self) -> None:
        """Forget everything; harmless after `commit`."""


class AtomicFile:
    """A file under a temporary name beside `path`, until `commit` gives it its name.

    Its calls block: use them from a worker thread, or use a `FileSink`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Write to `path`; nothing is opened before the first bytes come."""
        self.path = os.fspath(path)
        folder, name = os.path.split(self.path)
        # Told by its target, to whoever clears up after a crash; names have at most 255 bytes.
        name = os.fsdecode(os.fsencode(name)[:MOST_NAME])
        temporary = f".{name}.{getrandbits(64):016x}{TEMPORARY_SUFFIX}"
        self._temporary = os.path.join(folder, temporary)
        self._descriptor: int | None = None
        self._synced = False

    def write(self, chunks: Iterable[bytes]) -> None:
        """Append `chunks`.

        Raises:
            OSError: The folder is missing or not writable, or the disk is full.
        """
        descriptor = self._open()
        # As few calls as can be: each gives up the interpreter lock and must win it back.
        pieces = (memoryview(chunk) for chunk in chunks if chunk)
        while views := list(islice(pieces, MOST_PIECES)):
            self._synced = False
            while views:
                with self._named():
                    written = os.writev(descriptor, views)
                while views and written >= len(views[0]):
                    written -= len(views.pop(0))
                if written:
                    views[0] = views[0][written:]

    def begin_sync(self) -> None:
        """Let the disk begin to write what it was given, and do not wait."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._open(), 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Wait until all that was written is on the disk.

        Raises:
            OSError: The disk failed, or is full after all.
        """
        with self._named():
            os.fsync(self._open())
        self._synced = True

    def commit(self, last: Iterable[bytes] = ()) -> None:
        """Append `last`, sync to the disk and give the file its name, replacing one that has it.

        Raises:
            OSError: As for `write`.
        """
        self.write(last)
        if not self._synced:
            self.sync()
        self._close()
        os.replace(self._temporary, self.path)

    def discard(self) -> None:
        """Remove the temporary file; harmless after `commit`."""
        self._close()
        with suppress(FileNotFoundError):
            os.unlink(self._temporary)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Say in errors which file could not be written: the system does not, of an open one."""
        try:
            yield
        except OSError as error:
            error.filename = error.filename or self.path
            raise

    def _open(self) -> int:
        if self._descriptor is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._temporary, flags, 0o666)
        return self._descriptor

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


class FileSink:
    """An `AtomicFile` that is written in worker threads."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Write to `path`; nothing is opened before the first bytes come."""
        self._file = AtomicFile(path)

    async def write(self, chunks: Sequence[bytes]) -> None:
        await in_thread(self._file.write, chunks)

    async def commit(self, last: Sequence[bytes]) -> Path:
        await in_thread(self._file.commit, last)
        return Path(self._file.path)

    async def discard(self) -> None:
        await in_thread(self._file.discard)


def write_atomically(path: str | os.PathLike[str], chunks: Iterable[bytes]) -> Path:
    """Write `chunks` to `path`, whole or not at all, and give the path.

    Raises:
        OSError: The folder is missing or not writable, or the disk is full; `path` is as it was.
    """
    file = AtomicFile(path)
    try:
        file.commit(chunks)
        return Path(path)
    except BaseException:
        file.discard()
        raise
