"""Media files read back from where a job keeps them, and checked against the ledger."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from stable_async.extras import install_command
from stable_async.jobs.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from obstore.store import ObjectStore as Bucket

    from stable_async.datasets.records import Record

__all__ = ["Damage", "MediaFiles", "path_inside"]

T = TypeVar("T")

READERS = 4
READ_AHEAD = 8


class Damage(str):
    """What is wrong with a file, in a word or two."""

    __slots__ = ()


class MediaFiles:
    """Reads the media files of a job, some ahead in threads, as a context manager."""

    def __init__(self, folder: Path) -> None:
        """Read the files of the job in `folder`."""
        self._folder = folder
        self._buckets: dict[str, Bucket] = {}
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="export")

    def __enter__(self) -> Self:
        """Return the reader."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def path(self, record: Record) -> Path | None:
        """Return where a file is; `None` if it is in a bucket."""
        return path_inside(self._folder, record.image.file_name)

    def read(
        self, records: Iterable[Record], place: Callable[[Record], Path] | None = None
    ) -> Iterator[tuple[Record, bytes | Damage]]:
        """Yield the bytes of files, in order, or what is wrong with them.

        Args:
            records: Of the files.
            place: Returns where a file is; `None` reads those of the job.

        Raises:
            StorageError: A bucket cannot be read at all.
        """
        return self.process(records, lambda record: self.read_one(record, place))

    def process(
        self, records: Iterable[Record], function: Callable[[Record], T]
    ) -> Iterator[tuple[Record, T]]:
        """Yield records in order, each with what `function` returns, called ahead in threads."""
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
        """Return the bytes of a file, or what is wrong with it; see `read`."""
        try:
            data = place(record).read_bytes() if place else self._fetch(record)
        except FileNotFoundError:
            return Damage("missing")
        except OSError as error:
            return Damage(f"unreadable: {error.strerror or error}")
        if sha256(data).hexdigest() != record.image.sha256:
            return Damage("sha256 differs")
        return data

    def _fetch(self, record: Record) -> bytes:
        path = self.path(record)
        if path is not None:
            return path.read_bytes()
        name = record.image.file_name
        if "://" not in name:
            raise FileNotFoundError(name)  # outside the job's folder, where nothing of ours is
        return self._fetch_object(name)

    def _fetch_object(self, url: str) -> bytes:
        try:
            import obstore
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError:
            raise StorageError(f"{url} needs obstore: {install_command('storage')}") from None
        scheme, _, rest = url.partition("://")
        bucket, _, path = rest.partition("/")
        root = f"{scheme}://{bucket}"
        try:
            if root not in self._buckets:
                self._buckets[root] = from_url(root)
            return bytes(obstore.get(self._buckets[root], path).bytes())
        except FileNotFoundError:
            raise
        except BaseError as error:
            raise StorageError(f"{root} cannot be read: {error}") from error


def path_inside(folder: Path, name: str) -> Path | None:
    """Return the path of a file by its name; `None` for a URL, and for what is not in `folder`."""
    place = PurePosixPath(name)
    if "://" in name or "\0" in name or "\\" in name or place.is_absolute() or ".." in place.parts:
        return None
    return folder / place
