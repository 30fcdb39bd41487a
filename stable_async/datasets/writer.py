"""The common part of the writers of data sets, and of those with one file for each shard."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from stable_async.files import AtomicFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stable_async.datasets.records import Column, Record
    from stable_async.jobs.kinds import MediaKind

__all__ = ["STATE_FOLDER", "DataSetWriter", "ShardFileWriter", "numbers_in"]

STATE_FOLDER = ".export"


class DataSetWriter(ABC):
    """Writes a split of a data set, shard by shard.

    Attributes:
        config_has_features: Whether `datasets` needs the columns under `configs` as well as
            `dataset_info`.
        guesses_times: Whether `datasets` takes some text for times.
        records_per_shard: Maximum records in a shard.
    """

    config_has_features = False
    guesses_times = False
    records_per_shard: int

    def __init__(self, target: Path, split: str, kind: MediaKind, *, is_only: bool) -> None:
        """Write media of one kind.

        Args:
            target: The folder of the data set.
            split: Name of the split.
            kind: Kind of the media.
            is_only: Whether there is no other split: then folders are not named after it.
        """
        self._target = target
        self._split = split
        self._kind = kind
        self._folder = target if is_only else target / split
        self._prefix = "" if is_only else f"{split}/"

    @property
    @abstractmethod
    def data_files(self) -> Sequence[str]:
        """Patterns of its files."""

    @abstractmethod
    def numbers(self) -> set[int]:
        """Return the numbers of all shards of which any file exists."""

    @abstractmethod
    def is_whole(self, number: int, records: Sequence[Record], size: int) -> bool:
        """Return whether a shard that was written still exists."""

    @abstractmethod
    def write(self, number: int, media: Iterator[tuple[Record, bytes]]) -> int:
        """Write a shard, whole or not at all, and return its size."""

    @abstractmethod
    def remove(self, number: int) -> None:
        """Remove a shard."""

    @abstractmethod
    def loading(self, shards: int) -> str:
        """Return code that loads a data set of so many shards."""

    def finish(  # noqa: B027 - most have none
        self, examples: Iterator[Record], records: Iterator[Record]
    ) -> None:
        """Write the files beside the shards."""

    def report_path(self, number: int) -> Path:
        """Return the path of a shard's report."""
        return self._target / STATE_FOLDER / f"{self._split}-{number:05d}.json"

    def features(self, columns: Sequence[Column], suffixes: Sequence[str]) -> list[object]:
        """Return the columns as `datasets` describes them; `suffixes` are those of the media."""
        media = (
            {"name": self._kind.column, "dtype": self._kind.column}
            if self._kind.feature
            else {"name": "file_name", "dtype": "string"}
        )
        return [media, *({"name": column.name, "dtype": column.type} for column in columns)]

    def _reported(self) -> set[int]:
        """Return the numbers of all shards that have a report."""
        return numbers_in(self._target / STATE_FOLDER, f"{self._split}-", ".json")


class ShardFileWriter(DataSetWriter):
    """Writes one file for each shard."""

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


def numbers_in(folder: Path, before: str, after: str) -> set[int]:
    """Return the numbers between a prefix and a suffix in the names of a folder's entries."""
    middles = (
        path.name.removeprefix(before).removesuffix(after)
        for path in folder.glob(f"{before}*{after}")
    )
    return {int(middle) for middle in middles if middle.isascii() and middle.isdigit()}
