"""A file to which several processes add lines, and which all of them read in the same order.

Nothing is locked. A line is added with one `write` to a file opened for appending: the kernel
holds the file for that moment, so that lines never mix, and their order is the same for every
reader. Whoever is stopped or killed holds nothing that another one needs. A line cut short by a
kill is known by its check sum; the line break that every line begins with keeps it from spoiling
the next one.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Self
from zlib import crc32

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Journal", "NotAJournalError"]

READ_SIZE = 64 * 1024


class NotAJournalError(Exception):
    """A file begins with something else than a journal does."""


class Journal:
    """One file, open for appending and for reading on.

    Attributes:
        size: How much of it was read, bytes.
    """

    def __init__(self, descriptor: int) -> None:
        """Journals come from `open`."""
        self._descriptor = descriptor
        self._tail = b""
        self.size = 0

    @classmethod
    def open(cls, path: Path, magic: bytes, *, create: bool = True) -> Self:
        """Open the journal at `path`; a new one can be read and written by its owner only.

        Args:
            path: The file.
            magic: What the first line of such a journal begins with.
            create: Make an empty one where there is none.

        Raises:
            NotAJournalError: The file holds something else; it is left as it was.
            OSError: It cannot be opened.
        """
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            # After a power cut a file may be all zeros. The first line may be cut short.
            start = os.pread(descriptor, READ_SIZE, 0).lstrip(b"\0\n").split(b"\n")[0]
            if not magic.startswith(start[: len(magic)]):
                raise NotAJournalError
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def append(self, text: str) -> None:
        """Add a line.

        Raises:
            OSError: It did not go in, or not as a whole.
        """
        data = text.encode()
        line = b"\n%s %08x\n" % (data, crc32(data))
        written = os.write(self._descriptor, line)
        if written < len(line):
            raise OSError(f"only {written} of {len(line)} bytes were written")

    def read(self) -> list[str]:
        """Give the lines that nobody has read here before, in order; broken ones are left out."""
        lines = []
        while data := os.pread(self._descriptor, READ_SIZE, self.size):
            self.size += len(data)
            *complete, self._tail = (self._tail + data).split(b"\n")
            lines += [text for line in complete if (text := _checked(line)) is not None]
        return lines

    def is_at(self, path: Path) -> bool:
        """Say whether this is the file that `path` names."""
        try:
            return os.path.samestat(path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            os.close(self._descriptor)


def _checked(line: bytes) -> str | None:
    data, _, checksum = line.rpartition(b" ")
    return data.decode() if checksum == b"%08x" % crc32(data) else None
