"""Parquet: pictures and columns in files that `datasets` and the Hub's viewer know at sight."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stable_async.datasets.target import STATE_FOLDER, numbers_in
from stable_async.extras import install_command
from stable_async.files import AtomicFile
from stable_async.jobs.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from stable_async.datasets.records import Column, Record, Records

__all__ = ["Parquet"]

# Readers that stream fetch a row group at a time, and the Hub's viewer one for each page.
ROW_GROUP_BYTES = 32 * 1024 * 1024
ROW_GROUP_ROWS = 1_000

LOADING = """from datasets import load_dataset

dataset = load_dataset("path/to/this/folder", split="train", streaming=True)"""


class Parquet:
    """Shards named `data/train-00000.parquet` and on."""

    data_files = "data/train-*.parquet"
    config_has_features = False
    guesses_times = False
    records_per_shard = 10_000

    def __init__(self, target: Path, columns: Sequence[Column]) -> None:
        """Write `columns` to the folder `target`.

        Raises:
            JobError: pyarrow is not installed.
        """
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError:
            raise JobError(f"parquet needs pyarrow: {install_command('export')}") from None
        self._pa, self._parquet = pa, parquet
        self._target = target
        self._columns = columns
        types = {
            "string": pa.string(),
            "int64": pa.int64(),
            "float64": pa.float64(),
            "bool": pa.bool_(),
        }
        features = {"image": {"_type": "Image"}} | {
            column.name: {"dtype": column.type, "_type": "Value"} for column in columns
        }
        picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        self._schema = pa.schema(
            [("image", picture), *((column.name, types[column.type]) for column in columns)],
            metadata={"huggingface": json.dumps({"info": {"features": features}})},
        )

    def report_path(self, number: int) -> Path:
        return self._target / STATE_FOLDER / f"{number:05d}.json"

    def numbers(self) -> set[int]:
        shards = numbers_in(self._target / "data", "train-", ".parquet")
        return shards | numbers_in(self._target / STATE_FOLDER, "", ".json")

    def is_whole(self, number: int, records: Sequence[Record], size: int) -> bool:
        path = self._path(number)
        return path.exists() and path.stat().st_size == size

    def write(self, number: int, pictures: Iterator[tuple[Record, bytes]]) -> int:
        path = self._path(number)
        path.parent.mkdir(exist_ok=True)
        file = AtomicFile(path)
        stream = _Stream(file)
        try:
            with self._parquet.ParquetWriter(
                self._pa.PythonFile(stream, mode="w"),
                self._schema,
                # Pictures are compressed already, and have no order and no repetition.
                compression={"image.bytes": "none"}
                | {path: "zstd" for path in self._paths() if path != "image.bytes"},
                use_dictionary=[column.name for column in self._columns],
                write_statistics=[column.name for column in self._columns],
            ) as writer:
                for group in _row_groups(pictures):
                    writer.write_batch(self._batch(group), row_group_size=len(group))
            file.commit()
            return path.stat().st_size
        except BaseException:
            stream.discard()
            raise

    def remove(self, number: int) -> None:
        self._path(number).unlink(missing_ok=True)

    def finish(self, records: Records) -> None:
        """There is nothing besides the shards."""

    def loading(self, shards: int) -> str:
        return LOADING

    def features(self, columns: Sequence[Column], suffixes: Sequence[str]) -> list[object]:
        return [
            {"name": "image", "dtype": "image"},
            *({"name": column.name, "dtype": column.type} for column in columns),
        ]

    def _path(self, number: int) -> Path:
        return self._target / "data" / f"train-{number:05d}.parquet"

    def _paths(self) -> list[str]:
        return ["image.bytes", "image.path", *(column.name for column in self._columns)]

    def _batch(self, group: list[tuple[Record, bytes]]) -> object:
        rows = [
            {"image": {"bytes": data, "path": record.name}, **record.values}
            for record, data in group
        ]
        return self._pa.RecordBatch.from_pylist(rows, schema=self._schema)


def _row_groups(
    pictures: Iterator[tuple[Record, bytes]],
) -> Iterator[list[tuple[Record, bytes]]]:
    group: list[tuple[Record, bytes]] = []
    left = ROW_GROUP_BYTES
    for record, data in pictures:
        group.append((record, data))
        left -= len(data)
        if left <= 0 or len(group) == ROW_GROUP_ROWS:
            yield group
            group, left = [], ROW_GROUP_BYTES
    if group:
        yield group


class _Stream:
    """What pyarrow writes to, as a file object."""

    closed = False

    def __init__(self, file: AtomicFile) -> None:
        self._file = file
        self._size = 0
        self._discarded = False

    def discard(self) -> None:
        self._discarded = True
        self._file.discard()

    def write(self, data: bytes) -> int:
        # pyarrow writes the end of a file that was given up when its writer is collected.
        if not self._discarded:
            self._file.write([data])
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass
