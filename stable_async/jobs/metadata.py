"""`metadata.jsonl`: the images of the ledger, one line each, in order of arrival."""

from __future__ import annotations

import os
import zlib
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from stable_async.files import state_of, write_atomically
from stable_async.jobs.row import metadata_of, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stable_async.jobs.ledger import Ledger, StoredImageRow
    from stable_async.jobs.row import Row

__all__ = ["Mark", "MetadataFile", "find_mark"]

LINES_AT_A_TIME = 100
READ_AT_A_TIME = 1024 * 1024


class Mark(NamedTuple):
    """How much of the file is known to be on the disk.

    Attributes:
        size: Bytes.
        number: Number, in the ledger, of the last image before the mark.
        checksum: CRC-32 of these bytes.
    """

    size: int = 0
    number: int = 0
    checksum: int = 0


class MetadataFile:
    """The metadata file, kept in step with the ledger. All calls block.

    The ledger has a mark, and the state of the file when it was set. A file that was edited,
    truncated or replaced since does not match its mark, and is rewritten. What follows the mark is
    rewritten after a crash.

    Attributes:
        unmarked: The number of lines after the mark.
    """

    def __init__(self, path: Path, ledger: Ledger) -> None:
        """Update the file, and open it for appending."""
        self._ledger = ledger
        self._has_duplicates = bool(ledger.count_duplicates())  # no run adds any
        self._number = self._checksum = 0
        if mark := find_mark(path, ledger):
            _, self._number, self._checksum = mark
            os.truncate(path, mark.size)
        else:
            write_atomically(path, self._missing())
        self._file = path.open("a+b", buffering=0)
        for lines in self._missing():
            self._write(lines)
        self.unmarked: int = self._number

    def append(self, fresh: Sequence[StoredImageRow]) -> None:
        """Add lines for images that are in the ledger."""
        data = self._lines(fresh)
        self._checksum = zlib.crc32(data, self._checksum)
        self._write(data)
        self._number = fresh[-1][0]
        self.unmarked += len(fresh)

    def mark(self) -> None:
        """Set the mark to the end of the file; call it inside a transaction of the ledger."""
        os.fsync(self._file.fileno())
        self._ledger.set(
            metadata_size=self._file.tell(),
            metadata_number=self._number,
            metadata_checksum=self._checksum,
            metadata_state=state_of(os.fstat(self._file.fileno())),
        )
        self.unmarked = 0

    def close(self) -> None:
        self._file.close()

    def _missing(self) -> Iterator[bytes]:
        """Yield the lines that the file does not have yet, many at a time."""
        images = self._ledger.images(after=self._number)
        while some := list(islice(images, LINES_AT_A_TIME)):
            data = self._lines(some)
            self._checksum = zlib.crc32(data, self._checksum)
            yield data
            self._number = some[-1][0]

    def _lines(self, fresh: Sequence[StoredImageRow]) -> bytes:
        """Return the lines of images, and of the rows that repeat theirs."""
        others: dict[int, list[Row]] = {}
        if self._has_duplicates:
            others = self._ledger.duplicates([row.position for _, row, _ in fresh])
        text = ""
        for _, row, image in fresh:
            text += to_json(metadata_of(row, image)) + "\n"
            for other in others.get(row.position, ()):
                alike = replace(row, id=other.id, metadata=other.metadata)
                text += to_json(metadata_of(alike, image)) + "\n"
        return text.encode()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]


def find_mark(path: Path, ledger: Ledger) -> Mark | None:
    """Return the ledger's mark; `None` if it does not match the file."""
    size, number, checksum = (
        ledger.get(f"metadata_{name}") for name in ("size", "number", "checksum")
    )
    if not (isinstance(size, int) and isinstance(number, int) and isinstance(checksum, int)):
        return None
    mark = Mark(size, number, checksum)
    try:
        status = path.stat()
        if status.st_size < size:
            return None
        # The file was not touched since, so it need not be read.
        if state_of(status) == ledger.get("metadata_state") or _checksum(path, size) == checksum:
            return mark
    except FileNotFoundError:
        pass
    return None


def _checksum(path: Path, size: int) -> int:
    checksum = 0
    with path.open("rb") as file:
        while size and (data := file.read(min(READ_AT_A_TIME, size))):
            checksum = zlib.crc32(data, checksum)
            size -= len(data)
    return checksum
