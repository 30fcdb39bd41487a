"""Atomic files: written to a temporary name beside the target, synced, then renamed.

Nothing here needs POSIX: where a faster call is missing, a portable one is used.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from itertools import islice
from pathlib import Path
from random import getrandbits
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = [
    "AtomicFile",
    "FileSink",
    "Sink",
    "in_thread",
    "prove_writable",
    "state_of",
    "sync_folder",
    "write_atomically",
]

TEMPORARY_SUFFIX = ".part"
MOST_THREADS = 40
MOST_NAME = 200
MOST_PIECES = 256  # per call; systems accept 1,024
NOT_OPEN = -1

P = ParamSpec("P")
T = TypeVar("T")
KeptT = TypeVar("KeptT", covariant=True)


@cache
def _threads() -> ThreadPoolExecutor:
    """Return our own threads: asyncio has few, and also resolves host names in them."""
    return ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="stable_async")


# A forked process inherits the executor without its threads: a call would wait forever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a blocking function in a worker thread.

    If this is cancelled, it waits for the call to end before raising, because the caller may then
    close what the function uses, such as a file.
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
            call.exception()  # marked as retrieved
        raise


class Sink(Protocol[KeptT]):
    """A place to store bytes: whole once `commit` has returned, or not at all."""

    async def write(self, chunks: Sequence[bytes]) -> None:
        """Append `chunks`."""

    async def commit(self, last: Sequence[bytes]) -> KeptT:
        """Append `last` and store everything durably."""

    async def discard(self) -> None:
        """Remove everything; does nothing after `commit`."""


class AtomicFile:
    """A file under a temporary name beside `path`, which `commit` renames to `path`.

    Its methods block: call them from a worker thread, or use a `FileSink`.
    """

    def __init__(self, path: str | os.PathLike[str], *, owner: str = "") -> None:
        """Write to `path`; the file is created by the first `write`.

        `owner` becomes part of the temporary name.
        """
        self.path: str = os.fspath(path)
        folder, name = os.path.split(self.path)
        # Named after its target, so that it can be removed after a crash; names have at most 255
        # bytes.
        name = name[:MOST_NAME]
        while len(os.fsencode(name)) > MOST_NAME:
            name = name[:-1]
        token = f"{owner}-" if owner else ""
        temporary = f".{name}.{token}{getrandbits(64):016x}{TEMPORARY_SUFFIX}"
        self._temporary = os.path.join(folder, temporary)
        self._descriptor = NOT_OPEN
        self._synced = False

    def write(self, chunks: Iterable[bytes]) -> None:
        """Append `chunks`.

        Raises:
            OSError: The folder is missing or not writable, the disk is full, or `path` is not a
                regular file.
        """
        if self._descriptor == NOT_OPEN:
            self._open()
        # As few calls as possible: each releases the interpreter lock and must reacquire it.
        pieces: Iterator[memoryview] = map(memoryview, filter(None, chunks))
        while views := list(islice(pieces, MOST_PIECES)):
            self._synced = False
            while views:
                try:
                    if hasattr(os, "writev"):
                        written = os.writev(self._descriptor, views)
                    else:
                        written = os.write(self._descriptor, views[0])
                except OSError as error:
                    raise self._naming_target(error) from None
                while views and written >= len(views[0]):
                    written -= len(views.pop(0))
                if written:
                    views[0] = views[0][written:]

    def begin_sync(self) -> None:
        """Start writing what was appended so far to the disk, without waiting."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def written(self, size: int) -> bytes:
        """Return the first `size` bytes that were written.

        Raises:
            OSError: They cannot be read.
        """
        if not size:
            return b""
        with open(self._temporary, "rb") as file:
            return file.read(size)

    def sync(self) -> None:
        """Wait until everything written is on the disk.

        Raises:
            OSError: The disk failed or is full.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._naming_target(error) from None
        self._synced = True

    def commit(self, last: Iterable[bytes] = ()) -> None:
        """Append `last`, sync to the disk and rename to `path`, replacing a file of that name.

        Raises:
            OSError: As for `write`.
        """
        if last or self._descriptor == NOT_OPEN:  # an empty file is one, too
            self.write(last)
        if not self._synced:
            self.sync()
        self._close()
        try:
            os.replace(self._temporary, self.path)
        except OSError as error:
            raise self._naming_target(error) from None

    def discard(self) -> None:
        """Remove the temporary file; does nothing after `commit`."""
        self._close()
        # A failure to remove it must not hide the error that led here.
        with suppress(OSError):
            os.unlink(self._temporary)

    def _naming_target(self, error: OSError) -> OSError:
        """Return an error that names `path`, instead of the temporary file or no file at all."""
        return OSError(error.errno, error.strerror, self.path)

    def _open(self) -> None:
        _check_target(self.path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            self._descriptor = os.open(self._temporary, flags, 0o666)
        except OSError as error:
            raise self._naming_target(error) from None

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, NOT_OPEN
        if descriptor != NOT_OPEN:
            os.close(descriptor)


class FileSink:
    """An `AtomicFile`, written in worker threads."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Write to `path`; the file is created by the first `write`."""
        self._file = AtomicFile(path)

    async def write(self, chunks: Sequence[bytes]) -> None:
        await in_thread(self._file.write, chunks)

    async def commit(self, last: Sequence[bytes]) -> Path:
        await in_thread(self._file.commit, last)
        return Path(self._file.path)

    async def discard(self) -> None:
        await in_thread(self._file.discard)


def write_atomically(path: str | os.PathLike[str], chunks: Iterable[bytes]) -> Path:
    """Write `chunks` to `path`, whole or not at all, and return the path.

    Raises:
        OSError: The folder is missing or not writable, the disk is full, or `path` is not a regular
            file. `path` is unchanged.
    """
    file = AtomicFile(path)
    try:
        file.commit(chunks)
        return Path(path)
    except BaseException:
        file.discard()
        raise


def prove_writable(path: str | os.PathLike[str]) -> None:
    """Check that a file can be stored at `path`: write, sync, rename and remove one beside it.

    Raises:
        OSError: The folder is missing or not writable, the disk is full, or `path` is not a regular
            file or too long.
    """
    target = Path(path)
    _check_target(os.fspath(path))
    # A rename to `path` itself would replace an existing file.
    probe = target.with_name(f".{getrandbits(64):016x}{TEMPORARY_SUFFIX}")
    try:
        write_atomically(probe, (b"probe",))
        probe.unlink()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from None


def _check_target(path: str) -> None:
    """Refuse a target that is there and no regular file: a rename would replace even a device.

    Raises:
        OSError: It is a folder, a pipe, a device, or its name is too long.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # the temporary file's name would be shorter
            raise
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise FileExistsError(errno.EEXIST, "not a regular file", path)


def state_of(status: os.stat_result) -> str:
    """Return inode, size and times of a file: these change when it is written or replaced."""
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Wait until the names in a folder are on the disk.

    Raises:
        OSError: The disk failed, or there is no such folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
