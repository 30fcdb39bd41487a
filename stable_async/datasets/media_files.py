"""Media files read back from where a job stores them, and checked against the ledger."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import Self

    from stable_async.datasets.records import Record
    from stable_async.jobs.job_view import JobView

__all__ = ["Damage", "MediaFiles"]

T = TypeVar("T")

READERS = 4
READ_AHEAD = 8


class Damage(str):
    """The problem of a file, in a word or two."""

    __slots__ = ()


class MediaFiles:
    """Reads the media files of a job, some ahead in threads, as a context manager."""

    def __init__(self, view: JobView) -> None:
        """Read the files of a job."""
        self._view = view
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="export")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def path(self, record: Record) -> Path | None:
        """Return the path of a file; `None` if it is in a bucket."""
        return self._view.path(record.image.position, record.image.file_name)

    def read(
        self, records: Iterable[Record], place: Callable[[Record], Path] | None = None
    ) -> Iterator[tuple[Record, bytes | Damage]]:
        """Yield the bytes of files in order, or their damage; `place` names other paths.

        Raises:
            StorageError: A bucket cannot be read at all.
        """
        return self.process(records, lambda record: self.read_one(record, place))

    def process(
        self, records: Iterable[Record], function: Callable[[Record], T]
    ) -> Iterator[tuple[Record, T]]:
        """Yield records in order, each with the result of `function`, called ahead in threads."""
        ahead: deque[tuple[Record, Future[T]]] = deque()
        for record in records:
            ahead.append((record, self._pool.submit(function, record)))
            if len(ahead) > READ_AHEAD:
                record_, future = ahead.popleft()
                yield record_, future.result()
        for record_, future in ahead:
            yield record_, future.result()

    def read_one(
        self, record: Record, place: Callable[[Record], Path] | None = None
    ) -> bytes | Damage:
        """Return the bytes of a file, or its damage; see `read`."""
        image = record.image
        try:
            if place is not None:
                data = place(record).read_bytes()
            else:
                data = self._view.fetch(image.position, image.file_name)
        except FileNotFoundError:
            return Damage("missing")
        except OSError as error:
            return Damage(f"unreadable: {error.strerror or error}")
        if sha256(data).hexdigest() != image.sha256:
            return Damage("sha256 differs")
        return data
