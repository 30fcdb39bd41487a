"""`metadata.jsonl`: the images of the ledger, one line each, in the order in which they came."""

from __future__ import annotations

import os
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING

from stable_async.files import write_atomically
from stable_async.jobs.row import metadata_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stable_async.jobs.ledger import Ledger, StoredImageRow

__all__ = ["MetadataFile", "marked"]

LINES_AT_A_TIME = 100
DIGESTED = 4096


class MetadataFile:
    """The file, kept up to date with the ledger. All calls block.

    The ledger knows a mark: a size up to which the file is on the disk, the number of the last
    image before it, and a digest of its last bytes, by which a file is known that was edited.
    What lies behind the mark is written again after a crash.
    """

    def __init__(self, path: Path, ledger: Ledger) -> None:
        """Bring the file up to date, and open it to append."""
        self._path = path
        self._ledger = ledger
        self._number = 0
        if mark := marked(path, ledger):
            size, self._number = mark
            os.truncate(path, size)
        else:
            write_atomically(path, self._missing())
        self._file = path.open("a+b", buffering=0)
        for lines in self._missing():
            self._write(lines)
        self._marked = -1

    def append(self, fresh: Sequence[StoredImageRow]) -> None:
        """Add lines for images that the ledger has."""
        if fresh:
            self._write(_lines(fresh))
            self._number = fresh[-1][0]

    @property
    def unmarked(self) -> int:
        """How many lines are behind the mark."""
        return self._number - self._marked

    def mark(self) -> None:
        """Set the mark to the end of the file; inside a transaction of the ledger."""
        os.fsync(self._file.fileno())
        size = self._file.tell()
        self._ledger.set(
            metadata_size=size,
            metadata_number=self._number,
            metadata_digest=_digest_before(self._file.fileno(), size),
        )
        self._marked = self._number

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _missing(self) -> Iterator[bytes]:
        """Give the lines that the file does not have yet, many at a time."""
        images = self._ledger.images(after=self._number)
        while some := list(islice(images, LINES_AT_A_TIME)):
            yield _lines(some)
            self._number = some[-1][0]

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]


def _lines(fresh: Sequence[StoredImageRow]) -> bytes:
    return "".join(metadata_line(row, image) for _, row, image in fresh).encode()


def marked(path: Path, ledger: Ledger) -> tuple[int, int] | None:
    """Give size and number of the ledger's mark; `None` if it was set in no such file."""
    size, number = ledger.get("metadata_size"), ledger.get("metadata_number")
    if not (isinstance(size, int) and isinstance(number, int) and path.exists()):
        return None
    with path.open("rb") as file:
        digest = _digest_before(file.fileno(), size)
    return (size, number) if digest == ledger.get("metadata_digest") else None


def _digest_before(descriptor: int, size: int) -> str:
    """Give a digest of the bytes before a place in the file, and of how many there are."""
    length = min(size, DIGESTED)
    data = os.pread(descriptor, length, size - length)
    return blake2b(data, digest_size=16, salt=len(data).to_bytes(8)).hexdigest()
