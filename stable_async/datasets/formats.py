"""The protocol of data set writers, and the part of a data set that each writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stable_async.datasets.records import Column, Record

__all__ = ["STATE_FOLDER", "DataSetWriter", "Part", "numbers_in"]

STATE_FOLDER = ".export"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a data set.

    Attributes:
        target: The folder of the data set.
        split: Its name.
        alone: Whether it is the only split: then folders are not named after it.
    """

    target: Path
    split: str
    alone: bool

    @property
    def folder(self) -> Path:
        """The folder for files of the part."""
        return self.target if self.alone else self.target / self.split

    @property
    def prefix(self) -> str:
        """The prefix of patterns of its files."""
        return "" if self.alone else f"{self.split}/"

    def report_path(self, number: int) -> Path:
        """Return the path of a shard's report."""
        return self.target / STATE_FOLDER / f"{self.split}-{number:05d}.json"

    def reported(self) -> set[int]:
        """Return the numbers of all shards that have a report."""
        return numbers_in(self.target / STATE_FOLDER, f"{self.split}-", ".json")


class DataSetWriter(Protocol):
    """Writes a part of a data set, shard by shard."""

    @property
    def data_files(self) -> Sequence[str]:
        """Patterns of its files."""

    @property
    def config_has_features(self) -> bool:
        """Whether `datasets` needs the columns under `configs` as well as `dataset_info`."""

    @property
    def guesses_times(self) -> bool:
        """Whether `datasets` takes some text for times."""

    @property
    def records_per_shard(self) -> int:
        """The most records in a shard."""

    def report_path(self, number: int) -> Path:
        """Return the path of a shard's report."""

    def numbers(self) -> set[int]:
        """Return the numbers of all shards of which any file exists."""

    def is_whole(self, number: int, records: Sequence[Record], size: int) -> bool:
        """Return whether a shard that was written still exists."""

    def write(self, number: int, media: Iterator[tuple[Record, bytes]]) -> int:
        """Write a shard, whole or not at all, and return its size."""

    def remove(self, number: int) -> None:
        """Remove a shard."""

    def finish(self, examples: Iterator[Record], records: Iterator[Record]) -> None:
        """Write the files beside the shards."""

    def loading(self, shards: int) -> str:
        """Return code that loads a data set of so many shards."""

    def features(self, columns: Sequence[Column], suffixes: Sequence[str]) -> list[object]:
        """Return the columns as `datasets` describes them."""


def numbers_in(folder: Path, before: str, after: str) -> set[int]:
    """Return the numbers between a prefix and a suffix in the names of a folder's entries."""
    middles = (
        path.name.removeprefix(before).removesuffix(after)
        for path in folder.glob(f"{before}*{after}")
    )
    return {int(middle) for middle in middles if middle.isascii() and middle.isdigit()}
