"""Hugging Face `imagefolder`: pictures as files, and a `metadata.jsonl` that describes them."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from itertools import chain, islice
from typing import TYPE_CHECKING

from stable_async.datasets.pictures import Damage
from stable_async.datasets.target import STATE_FOLDER, numbers_in
from stable_async.files import TEMPORARY_SUFFIX, write_atomically
from stable_async.jobs.row import to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from stable_async.datasets.pictures import Pictures
    from stable_async.datasets.records import Column, Record, Records

__all__ = ["ImageFolder"]

METADATA = "metadata.jsonl"
LINES_AT_A_TIME = 100

LOADING = """from datasets import load_dataset

dataset = load_dataset("path/to/this/folder", split="train")"""


class ImageFolder:
    """Folders of 1,000 pictures each; hard links where the file system has them, else copies."""

    data_files = (METADATA, "images/**")
    config_has_features = True
    guesses_times = True
    records_per_shard = 1_000

    def __init__(self, target: Path, pictures: Pictures) -> None:
        """Write `pictures` to the folder `target`."""
        self._target = target
        self._pictures = pictures

    def report_path(self, number: int) -> Path:
        return self._target / STATE_FOLDER / f"{number:05d}.json"

    def numbers(self) -> set[int]:
        folders = numbers_in(self._target / "images", "", "")
        return folders | numbers_in(self._target / STATE_FOLDER, "", ".json")

    def is_whole(self, number: int, records: Sequence[Record], size: int) -> bool:
        # Read as well: damage to a picture of the job is damage to its hard link here.
        there = self._pictures.read(records, lambda record: self._path(number, record))
        return not any(isinstance(data, Damage) for _, data in there)

    def write(self, number: int, pictures: Iterator[tuple[Record, bytes]]) -> int:
        size = 0
        folder = self._folder(number)
        folder.mkdir(parents=True, exist_ok=True)
        kept = set()
        for record, data in pictures:
            path = self._path(number, record)
            source = self._pictures.path(record)
            if source is None or not _link(source, path):
                write_atomically(path, [data])
            kept.add(path.name)
            size += len(data)
        for other in {entry.name for entry in folder.iterdir()} - kept:
            (folder / other).unlink()
        return size

    def remove(self, number: int) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(self._folder(number))

    def finish(self, records: Records) -> None:
        """Write the metadata of every picture that is there.

        `datasets` guesses the types of columns from the first 10 MB and fails over a column that
        had no value there, so a picture with a value of it comes first.
        """
        head = {record.number: record for record in records.examples()}
        rest = (record for record in records if record.number not in head)
        lines = self._lines(chain(head.values(), rest))
        write_atomically(
            self._target / METADATA,
            (
                "".join(some).encode()
                for some in iter(lambda: [*islice(lines, LINES_AT_A_TIME)], [])
            ),
        )

    def loading(self, shards: int) -> str:
        return LOADING

    def features(self, columns: Sequence[Column], suffixes: Sequence[str]) -> list[object]:
        return [
            {"name": "image", "dtype": "image"},
            *({"name": column.name, "dtype": column.type} for column in columns),
        ]

    def _lines(self, records: Iterable[Record]) -> Iterator[str]:
        for record in records:
            path = self._path(record.index // self.records_per_shard, record)
            if path.exists():
                name = path.relative_to(self._target).as_posix()
                yield to_json({"file_name": name, **record.values}) + "\n"

    def _folder(self, number: int) -> Path:
        return self._target / "images" / f"{number:05d}"

    def _path(self, number: int, record: Record) -> Path:
        return self._folder(number) / record.name


def _link(source: Path, path: Path) -> bool:
    """Give a file another name; tell whether that could be done."""
    temporary = path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")
    try:
        os.link(source, temporary)
    except OSError:
        return False
    temporary.replace(path)
    temporary.unlink(missing_ok=True)  # it is still there if both are the same file already
    return True
