"""A job as a data set: streamed, checked picture by picture, and gone on with after a stop."""

from __future__ import annotations

import math
import os
import shutil
import sqlite3
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, Protocol

from stable_async.datasets.card import Census, card, with_edits
from stable_async.datasets.imagefolder import ImageFolder
from stable_async.datasets.parquet import Parquet
from stable_async.datasets.pictures import Damage, Pictures
from stable_async.datasets.records import Records, shards
from stable_async.datasets.target import ShardReport, claimed
from stable_async.datasets.webdataset import WebDataset
from stable_async.errors import ConfigurationError
from stable_async.files import write_atomically
from stable_async.jobs.errors import JobError, LedgerError
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.recovery import LEDGER_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stable_async.datasets.records import Column, Record, Shard

__all__ = ["DEFAULT_SHARD_SIZE", "ExportFormat", "ExportSummary", "export_job"]

ExportFormat = Literal["imagefolder", "webdataset", "parquet"]

DEFAULT_SHARD_SIZE = 500_000_000
CARD = "README.md"
DAMAGED_LISTED = 100


@dataclass(slots=True)
class ExportSummary:
    """What became of an export.

    Attributes:
        pictures: In the data set.
        bytes: Of all its pictures.
        shards: Of the data set; folders, for `imagefolder`.
        kept: Shards that an export before had finished.
        filtered: Pictures left out because the content filter blurred them.
        damaged: Pictures left out because they are missing, or not what the ledger says.
        damage: Id, file name and what is wrong, of the first damaged ones.
    """

    pictures: int = 0
    bytes: int = 0
    shards: int = 0
    kept: int = 0
    filtered: int = 0
    damaged: int = 0
    damage: list[tuple[str, str, str]] = field(default_factory=list)


class _Format(Protocol):
    """A kind of data set, written shard by shard to a folder."""

    @property
    def data_files(self) -> str | Sequence[str]:
        """Patterns of the files."""

    @property
    def config_has_features(self) -> bool:
        """Whether `datasets` wants the columns under `configs` as well as `dataset_info`."""

    @property
    def guesses_times(self) -> bool:
        """Whether `datasets` takes texts for times."""

    @property
    def records_per_shard(self) -> int:
        """The most records in a shard."""

    def report_path(self, number: int) -> Path:
        """Give where the report of a shard is."""

    def numbers(self) -> set[int]:
        """Give the numbers of all shards of which there is something."""

    def is_whole(self, number: int, records: Sequence[Record], size: int) -> bool:
        """Tell whether a shard that was written is still there."""

    def write(self, number: int, pictures: Iterator[tuple[Record, bytes]]) -> int:
        """Write a shard, whole or not at all, and give its size."""

    def remove(self, number: int) -> None:
        """Remove a shard."""

    def finish(self, records: Records) -> None:
        """Write what stands beside the shards."""

    def loading(self, shards: int) -> str:
        """Give code that loads a data set of so many shards."""

    def features(self, columns: Sequence[Column], suffixes: Sequence[str]) -> list[object]:
        """Give the columns as `datasets` describes them."""


def export_job(
    job: Path,
    target: Path,
    format: ExportFormat,  # noqa: A002 - the name of the option
    *,
    include_filtered: bool = False,
    shard_size: int = DEFAULT_SHARD_SIZE,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ExportSummary:
    """Write the pictures of a job as a data set, with a card, and tell what became of it.

    Every picture is held against its SHA-256 in the ledger when it is written; damaged ones are
    left out and reported. Exported again, a data set gets what is new: shards that would be the
    same are kept, pictures of an `imagefolder` once they are checked again.
    All this blocks; memory does not grow with the number of pictures.

    Args:
        job: The folder of the job; it may be running.
        target: The folder of the data set; made if it is not there.
        format: What `load_dataset("imagefolder")` loads, tar files, or parquet files.
        include_filtered: Take in what the content filter blurred.
        shard_size: Bytes of pictures in a tar or parquet file, at the most.
        on_progress: Called with the pictures done so far, and all.

    Raises:
        ConfigurationError: `shard_size` makes no sense.
        JobLockedError: Another process exports to `target`.
        JobError: `job` is no job or has no pictures, `target` belongs to something else, or what
            the format needs is not installed.
        OSError: `target` cannot be written.
    """
    if shard_size < 1:
        raise ConfigurationError(f"shard_size is {shard_size}; allowed: 1 byte or more")
    path = job / LEDGER_NAME
    if not path.exists():
        raise JobError(f"{job} is no job: it has no {LEDGER_NAME}")
    try:
        with _opened(path) as ledger, ledger.snapshot():
            records = Records(ledger, include_filtered=include_filtered)
            if not records.count:
                raise JobError(f"{job} has no pictures to export")
            claim = claimed(target, job, format, records.origins(), records.has_origin)
            with claim, Pictures(job) as pictures:
                writer: _Format
                match format:
                    case "imagefolder":
                        writer, shard_limit = ImageFolder(target, pictures), math.inf
                    case "webdataset":
                        writer, shard_limit = WebDataset(target), shard_size
                    case "parquet":
                        writer, shard_limit = Parquet(target, records.columns), shard_size
                export = _Export(records, pictures, writer, on_progress)
                return export.run(target, shard_limit)
    except sqlite3.OperationalError as error:
        raise LedgerError(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise LedgerError(f"{path}: {error}; the next run of the job repairs it") from error


@contextmanager
def _opened(path: Path) -> Iterator[Ledger]:
    """Open a ledger: a copy of it where its folder cannot be written, as SQLite must to read."""
    with ExitStack() as stack:
        try:
            ledger = Ledger.open(path)
        except sqlite3.OperationalError:
            if os.access(path.parent, os.W_OK):
                raise
            folder = stack.enter_context(TemporaryDirectory(prefix="stable-async-"))
            copy = Path(folder, path.name)
            for suffix in ("", "-wal"):
                with suppress(FileNotFoundError):
                    shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
            ledger = Ledger.open(copy)
        stack.callback(ledger.close)
        yield ledger


class _Export:
    def __init__(
        self,
        records: Records,
        pictures: Pictures,
        writer: _Format,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._records = records
        self._pictures = pictures
        self._writer = writer
        self._on_progress = on_progress
        self._census = Census()
        self._done = 0
        self._summary = ExportSummary(filtered=records.filtered_left_out)

    def run(self, target: Path, shard_limit: float) -> ExportSummary:
        writer, census, summary = self._writer, self._census, self._summary
        for shard in shards(self._records, shard_limit, writer.records_per_shard):
            self._bring(shard)
            summary.shards += 1
        for number in writer.numbers():
            if number >= summary.shards:
                writer.remove(number)
                writer.report_path(number).unlink(missing_ok=True)
        writer.finish(self._records)
        summary.pictures, summary.bytes = census.pictures, census.bytes
        text = card(
            target.resolve().name,
            census,
            self._records.columns,
            data_files=writer.data_files,
            features=writer.features(self._records.columns, sorted(census.suffixes)),
            config_has_features=writer.config_has_features,
            guesses_times=writer.guesses_times,
            loading=writer.loading(summary.shards),
            left_out={
                "blurred by the content filter": summary.filtered,
                "missing, or not what the ledger says": summary.damaged,
            },
        )
        path = target / CARD
        if path.exists():
            text = with_edits(text, path.read_text("utf-8-sig", "surrogateescape"))
        write_atomically(path, [text.encode("utf-8", "surrogateescape")])
        return summary

    def _bring(self, shard: Shard) -> None:
        """Write a shard, unless it is there."""
        number, records = shard.number, shard.records
        digest = shard.digest(self._records.columns)
        path = self._writer.report_path(number)
        before = ShardReport.load(path)
        if (
            before is not None
            and before.digest == digest
            and before.written == before.count
            and self._writer.is_whole(number, records, before.bytes)
        ):
            self._summary.kept += 1
            for record in records:
                self._count(record)
            return
        path.unlink(missing_ok=True)
        report = ShardReport(digest, len(records))
        report.bytes = self._writer.write(number, self._good(records, report))
        report.save(path)

    def _good(self, records: list[Record], report: ShardReport) -> Iterator[tuple[Record, bytes]]:
        """Give the pictures that are what the ledger says, and note the others."""
        for record, data in self._pictures.read(records):
            if isinstance(data, Damage):
                report.outcomes[data] += 1
                summary, identity = self._summary, str(record.values["id"])
                summary.damaged += 1
                if len(summary.damage) < DAMAGED_LISTED:
                    summary.damage.append((identity, record.image.file_name, data))
                self._advance()
            else:
                report.outcomes["success"] += 1
                yield record, data
                self._count(record)

    def _count(self, record: Record) -> None:
        self._census.add(record)
        self._advance()

    def _advance(self) -> None:
        self._done += 1
        self._on_progress(self._done, self._records.count)
