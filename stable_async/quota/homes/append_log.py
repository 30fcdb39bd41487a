"""A file that several processes append lines to and that all of them read in the same order.

Nothing is locked. A line is added with one `write` to a file opened for appending: the kernel locks
the file for that moment, so that lines never mix and have the same order for every reader. A
process that is stopped or killed holds nothing that another one needs. A line cut short by a kill
is recognised by its checksum; the line break at the start of every line keeps it from corrupting
the next one.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Self
from weakref import finalize
from zlib import crc32

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["AppendLog", "NotALogError"]

READ_SIZE = 64 * 1024

# Bytes that are read again before new ones, to verify that the file is still the same.
OVERLAP = 16


class NotALogError(Exception):
    """A file does not begin like a log."""


class AppendLog:
    """One file, open for appending and reading.

    Attributes:
        status: As it was when it was opened.
        size: How much of it has been read, bytes.
        cut: Whether the file was truncated in place, so that what was read is gone.
    """

    def __init__(self, descriptor: int) -> None:
        """Use `open` instead."""
        self._descriptor = descriptor
        self._close = finalize(self, _close, descriptor)
        self.status: os.stat_result = os.fstat(descriptor)
        self._tail = b""
        self._read_last = b""
        self.size: int = 0
        self.cut: bool = False

    @classmethod
    def open(
        cls, path: Path, magic: bytes, *, create: bool = True, like: AppendLog | None = None
    ) -> Self:
        """Open the log at `path`; a new one is accessible to its owner only.

        Args:
            path: The file.
            magic: The beginning of the first line of such a log.
            create: Create an empty file if there is none.
            like: A log to be replaced by a new one, which is accessible to the same group.

        Raises:
            NotALogError: The file holds something else; it is left unchanged.
            OSError: It cannot be opened.
        """
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # /dev/null never has a first line
                raise NotALogError
            # After a power cut a file may be all zeros. The first line may be cut short.
            start = os.pread(descriptor, READ_SIZE, 0).lstrip(b"\0\n").split(b"\n")[0]
            if not magic.startswith(start[: len(magic)]):
                raise NotALogError
            if like is not None:
                # Not of that group, or a file system without groups and modes.
                with suppress(OSError):
                    os.fchown(descriptor, -1, like.status.st_gid)
                    os.fchmod(descriptor, stat.S_IMODE(like.status.st_mode))
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def append(self, text: str) -> None:
        """Add a line.

        Raises:
            OSError: The line was not written, or not completely.
        """
        data = text.encode()
        line = b"\n%s %08x\n" % (data, crc32(data))
        written = os.write(self._descriptor, line)
        if written < len(line):
            raise OSError(f"only {written} of {len(line)} bytes were written")

    def read(self) -> list[str]:
        """Return the lines not read here before, in order, without broken ones."""
        lines: list[str] = []
        while True:
            known = len(self._read_last)
            data = os.pread(self._descriptor, READ_SIZE, self.size - known)
            if not data.startswith(self._read_last):
                self.cut = True
            if self.cut:
                return lines
            self.size += len(data) - known
            self._read_last = data[-OVERLAP:]
            *complete, self._tail = (self._tail + data[known:]).split(b"\n")
            for line in complete:
                text, _, checksum = line.rpartition(b" ")
                if checksum == b"%08x" % crc32(text):
                    lines.append(text.decode())
            if len(data) < READ_SIZE:
                return lines

    def is_at(self, path: Path) -> bool:
        """Return whether `path` names this file."""
        try:
            # Not `path.stat()`: this happens at every look, and takes a third of the time.
            return os.path.samestat(os.stat(path), self.status)  # noqa: PTH116
        except FileNotFoundError:
            return False

    def move_away(self, path: Path, aside: Path) -> None:
        """Remove this file from `path`, if it is still there; `aside` is a free name beside it."""
        if self.is_at(path):
            with suppress(FileNotFoundError):
                path.rename(aside)
                try:
                    if not self.is_at(aside):
                        # Another process was faster, and this is the file that it put in its place.
                        with suppress(FileExistsError):
                            os.link(aside, path)
                finally:
                    aside.unlink()

    def close(self) -> None:
        """Close the file."""
        self._close()


def _close(descriptor: int) -> None:
    with suppress(OSError):
        os.close(descriptor)
