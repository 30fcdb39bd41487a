"""Parquet: media and columns in files that `datasets` and the Hub's viewer recognise."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stable_async.datasets.formats import Part, numbers_in
from stable_async.datasets.shard_files import ShardFiles
from stable_async.extras import install_command
from stable_async.jobs.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stable_async.datasets.records import Column, Record
    from stable_async.files import AtomicFile
    from stable_async.jobs.kinds import MediaKind

__all__ = ["Parquet"]

# Streaming readers fetch one row group at a time, and the Hub's viewer one for each page.
ROW_GROUP_BYTES = 32 * 1024 * 1024
ROW_GROUP_ROWS = 1_000

LOADING = """from datasets import load_dataset

dataset = load_dataset("path/to/this/folder", split="{split}", streaming=True)"""


class Parquet(ShardFiles):
    """Shards named after their split: `data/train-00000.parquet` and so on."""

    def __init__(self, part: Part, kind: MediaKind, columns: Sequence[Column]) -> None:
        """Write a part of a data set with media of one kind, and `columns`.

        Raises:
            JobError: pyarrow is not installed.
        """
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError:
            raise JobError(f"parquet needs pyarrow: {install_command('export')}") from None
        self._pa, self._parquet = pa, parquet
        self._part = part
        self._column = kind.column
        self._columns = columns
        types = {
            "string": pa.string(),
            "int64": pa.int64(),
            "float64": pa.float64(),
            "bool": pa.bool_(),
        }
        features = {kind.column: {"_type": kind.feature}} | {
            column.name: {"dtype": column.type, "_type": "Value"} for column in columns
        }
        media = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        self._schema = pa.schema(
            [(kind.column, media), *((column.name, types[column.type]) for column in columns)],
            metadata={"huggingface": json.dumps({"info": {"features": features}})},
        )

    @property
    def data_files(self) -> Sequence[str]:
        return [f"data/{self._part.split}-*.parquet"]

    def report_path(self, number: int) -> Path:
        return self._part.report_path(number)

    def numbers(self) -> set[int]:
        prefix = f"{self._part.split}-"
        written = numbers_in(self._part.target / "data", prefix, ".parquet")
        return written | self._part.reported()

    def _write(self, file: AtomicFile, media: Iterator[tuple[Record, bytes]]) -> None:
        stream = _Stream(file)
        bytes_ = f"{self._column}.bytes"
        try:
            with self._parquet.ParquetWriter(
                self._pa.PythonFile(stream, mode="w"),
                self._schema,
                # Media are already compressed, have no order and do not repeat.
                compression={bytes_: "none"}
                | {path: "zstd" for path in self._paths() if path != bytes_},
                use_dictionary=[column.name for column in self._columns],
                write_statistics=[column.name for column in self._columns],
            ) as writer:
                for group in _row_groups(media):
                    writer.write_batch(self._batch(group), row_group_size=len(group))
        except BaseException:
            stream.abandoned = True
            raise

    def loading(self, shards: int) -> str:
        return LOADING.format(split=self._part.split)

    def features(self, columns: Sequence[Column], suffixes: Sequence[str]) -> list[object]:
        return [
            {"name": self._column, "dtype": self._column},
            *({"name": column.name, "dtype": column.type} for column in columns),
        ]

    def _path(self, number: int) -> Path:
        return self._part.target / "data" / f"{self._part.split}-{number:05d}.parquet"

    def _paths(self) -> list[str]:
        names = (f"{self._column}.bytes", f"{self._column}.path")
        return [*names, *(column.name for column in self._columns)]

    def _batch(self, group: list[tuple[Record, bytes]]) -> object:
        rows = [
            {self._column: {"bytes": data, "path": record.name}, **record.values}
            for record, data in group
        ]
        return self._pa.RecordBatch.from_pylist(rows, schema=self._schema)


def _row_groups(
    media: Iterator[tuple[Record, bytes]],
) -> Iterator[list[tuple[Record, bytes]]]:
    group: list[tuple[Record, bytes]] = []
    left = ROW_GROUP_BYTES
    for record, data in media:
        group.append((record, data))
        left -= len(data)
        if left <= 0 or len(group) == ROW_GROUP_ROWS:
            yield group
            group, left = [], ROW_GROUP_BYTES
    if group:
        yield group


class _Stream:
    """The file object that pyarrow writes to."""

    closed = False

    def __init__(self, file: AtomicFile) -> None:
        self._file = file
        self._size = 0
        self.abandoned = False

    def write(self, data: bytes) -> int:
        # pyarrow writes the end of an abandoned file when its writer is garbage collected.
        if not self.abandoned:
            self._file.write([data])
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass
