"""Parquet: media and columns in files that `datasets` and the Hub's viewer recognise."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stable_async.datasets.writer import ShardFileWriter, numbers_in
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


class Parquet(ShardFileWriter):
    """Writes `data/train-00000.parquet` and so on, named after their split."""

    def __init__(
        self,
        target: Path,
        split: str,
        kind: MediaKind,
        columns: Sequence[Column],
        *,
        is_only: bool,
    ) -> None:
        """Write media of one kind, and `columns`.

        Raises:
            JobError: pyarrow is not installed.
        """
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError:
            raise JobError(f"parquet needs pyarrow: {install_command('export')}") from None
        super().__init__(target, split, kind, is_only=is_only)
        self._pa, self._parquet = pa, parquet
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
        return [f"data/{self._split}-*.parquet"]

    def numbers(self) -> set[int]:
        written = numbers_in(self._target / "data", f"{self._split}-", ".parquet")
        return written | self._reported()

    def _write(self, file: AtomicFile, media: Iterator[tuple[Record, bytes]]) -> None:
        stream = _Stream(file)
        columns = [column.name for column in self._columns]
        # Media are already compressed, have no order and do not repeat.
        compression = dict.fromkeys([f"{self._column}.path", *columns], "zstd")
        try:
            with self._parquet.ParquetWriter(
                self._pa.PythonFile(stream, mode="w"),
                self._schema,
                compression={f"{self._column}.bytes": "none", **compression},
                use_dictionary=columns,
                write_statistics=columns,
            ) as writer:
                for group in _row_groups(media):
                    writer.write_batch(self._batch(group), row_group_size=len(group))
        except BaseException:
            stream.abandoned = True
            raise

    def loading(self, shards: int) -> str:
        return LOADING.format(split=self._split)

    def _path(self, number: int) -> Path:
        return self._target / "data" / f"{self._split}-{number:05d}.parquet"

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
