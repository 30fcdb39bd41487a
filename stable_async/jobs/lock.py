"""One process at a time works in a folder."""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stable_async.jobs.errors import JobLockedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["is_locked", "locked"]

LOCK_NAME = ".lock"


@contextmanager
def locked(folder: Path, doing: str = "works on this job") -> Iterator[None]:
    """Hold the lock of a folder. The system lets go of it when the process ends, however it ends.

    Args:
        folder: Where the lock is.
        doing: What whoever holds it does, for the message.

    Raises:
        JobLockedError: Another process holds it; the message names it.
        OSError: The folder cannot be written.
    """
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            raise JobLockedError(
                f"{folder}: another process {doing}: {holder or 'it gives no name'}"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        # The file stays: to remove it would let a third process lock another one.
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Return whether another process holds the lock of a folder. Nothing is written."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
