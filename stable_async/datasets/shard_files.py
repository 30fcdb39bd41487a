"""Writers of data sets with one file per shard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from stable_async.files import AtomicFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stable_async.datasets.records import Record

__all__ = ["ShardFiles"]


class ShardFiles(ABC):
    """The common part of writers with one file per shard; see `DataSetWriter`."""

    config_has_features = False
    guesses_times = False
    records_per_shard = 10_000

    @abstractmethod
    def _path(self, number: int) -> Path:
        """Return the path of a shard."""

    @abstractmethod
    def _write(self, file: AtomicFile, media: Iterator[tuple[Record, bytes]]) -> None:
        """Write the content of a shard."""

    def is_whole(self, number: int, records: Sequence[Record], size: int) -> bool:
        path = self._path(number)
        return path.exists() and path.stat().st_size == size

    def write(self, number: int, media: Iterator[tuple[Record, bytes]]) -> int:
        path = self._path(number)
        path.parent.mkdir(exist_ok=True)
        file = AtomicFile(path)
        try:
            self._write(file, media)
            file.commit()
            return path.stat().st_size
        except BaseException:
            file.discard()
            raise

    def remove(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)

    def finish(  # noqa: B027 - no writer of shards has more to do
        self, examples: Iterator[Record], records: Iterator[Record]
    ) -> None:
        """Do nothing: such a data set consists of shards only."""
