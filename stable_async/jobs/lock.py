"""The lock that lets one process at a time work in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stable_async.jobs.errors import JobError, JobLockedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["FolderLock", "is_locked", "locked"]

LOCK_NAME = ".lock"
# The holder's name is padded to this, so that the file is never truncated.
NAME_LENGTH = 200
HOLDER = b"process "


class FolderLock:
    """A held lock of a folder.

    Attributes:
        path: Its file.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        """Describe the open file of a lock."""
        self.path = path
        self._status = os.fstat(descriptor)

    def check(self) -> None:
        """Check that this lock still keeps other processes out.

        Raises:
            JobError: Its file was removed or replaced, so that another run may be working here.
        """
        try:
            held = os.path.samestat(os.lstat(self.path), self._status)
        except OSError:
            held = False
        if not held:
            raise JobError(
                f"{self.path} was removed while this run held it, so nothing more is sent: "
                "another run may have started here"
            )


@contextmanager
def locked(folder: Path, doing: str = "works on this job") -> Iterator[FolderLock]:
    """Hold the lock of a folder, which the system releases when the process ends.

    The message to another process says what this one is `doing`.

    Raises:
        JobLockedError: Another process holds it; the message names it.
        JobError: The lock is a link, or a file of another program.
        OSError: The folder cannot be written.
    """
    path = folder / LOCK_NAME
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EMLINK}:
            raise JobError(f"{path} is a symbolic link; remove it") from None
        raise
    try:
        # A lock is never truncated: whatever this file is, its content is kept.
        if not _is_lock(descriptor):
            raise JobError(f"{path} is not the lock of a job; remove it")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, NAME_LENGTH, 0).decode(errors="replace").strip()
            raise JobLockedError(f"{folder}: another run {doing}: {holder or 'unnamed'}") from None
        _write_name(descriptor, f"process {os.getpid()} on {socket.gethostname()}")
        try:
            yield FolderLock(path, descriptor)
        finally:
            _write_name(descriptor, "")
    finally:
        # The file stays: removing it would let a third process lock another one.
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Return whether another process holds the lock of a folder. Nothing is written."""
    # Whatever lies there in the folder of somebody else: opening a pipe would wait for its writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(folder / LOCK_NAME, flags)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_lock(descriptor: int) -> bool:
    """Return whether an open file is empty or names a holder, under this name alone."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        return False
    before = os.pread(descriptor, NAME_LENGTH, 0)
    return not before.strip() or before.startswith(HOLDER)


def _write_name(descriptor: int, name: str) -> None:
    os.pwrite(descriptor, name.encode()[: NAME_LENGTH - 1].ljust(NAME_LENGTH - 1) + b"\n", 0)
