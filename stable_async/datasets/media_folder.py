"""Media as files, and a `metadata.jsonl` that describes them: `imagefolder`, `audiofolder`."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from itertools import chain, islice
from typing import TYPE_CHECKING

from stable_async.datasets.media_files import Damage
from stable_async.datasets.writer import DataSetWriter, numbers_in
from stable_async.files import TEMPORARY_SUFFIX, write_atomically
from stable_async.jobs.row import to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from stable_async.datasets.media_files import MediaFiles
    from stable_async.datasets.records import Record
    from stable_async.jobs.kinds import MediaKind

__all__ = ["MediaFolder"]

METADATA = "metadata.jsonl"
LINES_AT_A_TIME = 100

LOADING = """from datasets import load_dataset

dataset = load_dataset("path/to/this/folder", split="{split}")"""
LOADING_FILES = """import json
from pathlib import Path

folder = Path("path/to/this/folder")
with (folder / "{prefix}metadata.jsonl").open() as lines:
    rows = [json.loads(line) for line in lines]  # row["file_name"] is relative to that file"""


class MediaFolder(DataSetWriter):
    """Writes folders of 1,000 files; hard links where the file system has them, else copies."""

    guesses_times = True
    records_per_shard = 1_000

    def __init__(
        self, target: Path, split: str, kind: MediaKind, files: MediaFiles, *, is_only: bool
    ) -> None:
        """Write `files` of one kind."""
        super().__init__(target, split, kind, is_only=is_only)
        self._files = files
        self.config_has_features: bool = kind.feature is not None

    @property
    def data_files(self) -> Sequence[str]:
        # Without a feature, `datasets` has no reader for the files, only for the table.
        media = [f"{self._prefix}{self._kind.folder}/**"] if self._kind.feature else []
        return [f"{self._prefix}{METADATA}", *media]

    def numbers(self) -> set[int]:
        return numbers_in(self._folder / self._kind.folder, "", "") | self._reported()

    def is_whole(self, number: int, records: Sequence[Record], size: int) -> bool:
        # Also read: damage to a file of the job is damage to its hard link here.
        there = self._files.read(records, lambda record: self._path(number, record))
        return not any(isinstance(data, Damage) for _, data in there)

    def write(self, number: int, media: Iterator[tuple[Record, bytes]]) -> int:
        size = 0
        folder = self._shard_folder(number)
        folder.mkdir(parents=True, exist_ok=True)
        kept = set()
        for record, data in media:
            path = self._path(number, record)
            source = self._files.path(record)
            if source is None or not _link(source, path):
                write_atomically(path, [data])
            kept.add(path.name)
            size += len(data)
        for other in {entry.name for entry in folder.iterdir()} - kept:
            (folder / other).unlink()
        return size

    def remove(self, number: int) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(self._shard_folder(number))

    def finish(self, examples: Iterator[Record], records: Iterator[Record]) -> None:
        """Write the metadata of every file that exists.

        `datasets` guesses the types of columns from the first 10 MB and fails on a column without a
        value there, so records with values come first.
        """
        head = {record.number: record for record in examples}
        rest = (record for record in records if record.number not in head)
        lines = self._lines(chain(head.values(), rest))
        self._folder.mkdir(exist_ok=True)
        write_atomically(
            self._folder / METADATA,
            (
                "".join(some).encode()
                for some in iter(lambda: [*islice(lines, LINES_AT_A_TIME)], [])
            ),
        )

    def loading(self, shards: int) -> str:
        text = LOADING if self._kind.feature else LOADING_FILES
        return text.format(split=self._split, prefix=self._prefix)

    def _lines(self, records: Iterable[Record]) -> Iterator[str]:
        for record in records:
            path = self._path(record.index // self.records_per_shard, record)
            if path.exists():
                name = path.relative_to(self._folder).as_posix()
                yield to_json({"file_name": name, **record.values}) + "\n"

    def _shard_folder(self, number: int) -> Path:
        return self._folder / self._kind.folder / f"{number:05d}"

    def _path(self, number: int, record: Record) -> Path:
        return self._shard_folder(number) / record.name


def _link(source: Path, path: Path) -> bool:
    """Link a file to another name, and return whether that succeeded."""
    temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
    try:
        os.link(source, temporary)
    except OSError:
        return False
    temporary.replace(path)
    temporary.unlink(missing_ok=True)  # it still exists if both are the same file already
    return True
