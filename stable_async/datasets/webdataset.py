"""WebDataset: tar files in which a sample is several files of one base name."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

from stable_async.datasets.writer import ShardFileWriter, numbers_in
from stable_async.jobs.kinds import IMAGE
from stable_async.jobs.row import to_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stable_async.datasets.records import Column, Record
    from stable_async.files import AtomicFile

__all__ = ["WebDataset"]

LOADING = """import webdataset

pattern = "path/to/this/folder/{prefix}{{00000..{last:05d}}}.tar"
dataset = webdataset.WebDataset(pattern, shardshuffle=False){decoding}"""
END = b"\0" * (2 * tarfile.BLOCKSIZE)


class WebDataset(ShardFileWriter):
    """Writes `00000.tar` and so on, each with `00000_stats.json` as img2dataset has it.

    The files of a sample end in the suffix of the media, `.json` and `.txt`.
    """

    @property
    def data_files(self) -> Sequence[str]:
        return [f"{self._prefix}*.tar"]

    def report_path(self, number: int) -> Path:
        return self._folder / f"{number:05d}_stats.json"

    def numbers(self) -> set[int]:
        return numbers_in(self._folder, "", ".tar") | numbers_in(self._folder, "", "_stats.json")

    def _write(self, file: AtomicFile, media: Iterator[tuple[Record, bytes]]) -> None:
        # Headers are written by hand: the same job makes the same bytes, and no file is copied
        # twice.
        for record, data in media:
            text = str(record.values["text"] or "")
            entries = {
                record.name: data,
                f"{record.key}.json": to_json(record.values).encode(),
                f"{record.key}.txt": text.encode(),
            }
            file.write(piece for name in entries for piece in _entry(name, entries[name]))
        file.write([END])

    def loading(self, shards: int) -> str:
        decoding = '.decode("pil")' if self._kind is IMAGE else ""
        return LOADING.format(prefix=self._prefix, last=shards - 1, decoding=decoding)

    def features(self, columns: Sequence[Column], suffixes: Sequence[str]) -> list[object]:
        media = self._kind.column if self._kind.feature else "binary"
        return [
            *({"name": suffix.removeprefix("."), "dtype": media} for suffix in suffixes),
            {
                "name": "json",
                "struct": [{"name": column.name, "dtype": column.type} for column in columns],
            },
            *({"name": name, "dtype": "string"} for name in ("txt", "__key__", "__url__")),
        ]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:05d}.tar"


def _entry(name: str, data: bytes) -> list[bytes]:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    return [header.tobuf(tarfile.USTAR_FORMAT), data, b"\0" * (-len(data) % tarfile.BLOCKSIZE)]
