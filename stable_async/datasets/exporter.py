"""A job as a data set: streamed, each file checked, and resumed after a stop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stable_async.datasets.card import Census, SplitFiles, card, with_edits
from stable_async.datasets.media_files import Damage, MediaFiles
from stable_async.datasets.media_folder import MediaFolder
from stable_async.datasets.near_duplicates import find_near_duplicates
from stable_async.datasets.parquet import Parquet
from stable_async.datasets.records import Records, shards
from stable_async.datasets.selection import Selection
from stable_async.datasets.target import ShardReport, claimed
from stable_async.datasets.webdataset import WebDataset
from stable_async.datasets.writer import STATE_FOLDER, DataSetWriter
from stable_async.errors import ConfigurationError
from stable_async.files import write_atomically
from stable_async.jobs.errors import JobError
from stable_async.jobs.job_view import reading_job
from stable_async.jobs.kinds import AUDIO, IMAGE, MediaKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stable_async.datasets.records import Record, Shard
    from stable_async.jobs.job_view import JobView

__all__ = ["DEFAULT_SHARD_SIZE", "ExportFormat", "ExportSummary", "export_job"]

ExportFormat = Literal["imagefolder", "audiofolder", "files", "webdataset", "parquet"]

DEFAULT_SHARD_SIZE = 500_000_000
CARD = "README.md"
DAMAGED_LISTED = 100


@dataclass(slots=True)
class ExportSummary:
    """The outcome of an export.

    Attributes:
        kind: Kind of the media.
        media: Images, audio files or models in the data set.
        bytes: Size of all of them.
        shards: Number of shards; of folders, where media are files.
        kept: Shards that an earlier export finished.
        splits: Media by split.
        filtered: Media left out because the content filter blurred them.
        unlisted: Media left out because they are no longer in the prompt file.
        duplicates: Images left out because an earlier one looks alike.
        damaged: Media left out because they are missing, or differ from the ledger.
        damage: Id, file name and problem of the first damaged ones.
    """

    kind: MediaKind = IMAGE
    media: int = 0
    bytes: int = 0
    shards: int = 0
    kept: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    filtered: int = 0
    unlisted: int = 0
    duplicates: int = 0
    damaged: int = 0
    damage: list[tuple[str, str, str]] = field(default_factory=list)


def export_job(
    job: Path | str | Sequence[Path | str],
    target: Path,
    format: ExportFormat,  # noqa: A002 - the name of the option
    *,
    selection: Selection = Selection(),  # noqa: B008 - frozen
    shard_size: int = DEFAULT_SHARD_SIZE,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ExportSummary:
    """Write the results of a job as a data set with a card, and return a summary.

    Every file is checked against its SHA-256 in the ledger when it is written; damaged ones are
    left out and reported. A repeated export adds what is new: shards that would be the same are
    kept, and files of folders too after another check. This blocks. Memory does not grow with the
    number of results, except by 500 bytes each with `drop_duplicates`.

    Args:
        job: The folder of the job, which may be running, or those of all its parts; or the URL of
            its images.
        target: The folder of the data set; created if missing.
        format: `imagefolder` and `audiofolder` of Hugging Face, `files` of any kind, tar files, or
            parquet files.
        selection: What to include.
        shard_size: Maximum bytes of media in a tar or parquet file.
        on_progress: Called with the number of results done so far, and the total.

    Raises:
        ConfigurationError: `shard_size` is invalid.
        JobLockedError: Another process exports to `target`.
        JobError: `job` is not a job or has nothing to export, the format is for other media,
            `target` belongs to something else, what the format needs is not installed, or it is not
            known which rows are listed.
        OSError: `target` cannot be written.
    """
    if shard_size < 1:
        raise ConfigurationError(f"shard_size is {shard_size}; allowed: 1 byte or more")
    sources = [job] if isinstance(job, (str, Path)) else list(job)
    with reading_job(sources) as view:
        return _export(view, target, format, selection, shard_size, on_progress)


def _export(
    view: JobView,
    target: Path,
    format_: ExportFormat,
    selection: Selection,
    shard_size: int,
    on_progress: Callable[[int, int], None],
) -> ExportSummary:
    if selection.only_listed and view.is_partial:
        raise JobError(
            f"{', '.join(view.sources)}: the last run read only a part of the prompt file, so it "
            "is not known which rows are still there: run it without --limit, --sample and "
            "--no-check"
        )
    records = Records(view.ledger, " ".join(view.sources), selection)
    _check_kind(format_, records.kind)
    layout = {"format": format_, "splits": [list(share) for share in records.splits.shares]}
    claim = claimed(target, view.folders, layout, records.origins(), records.has_origin)
    with claim, MediaFiles(view) as files:
        duplicates = frozenset[int]()
        if selection.drop_duplicates:
            hashes = target / STATE_FOLDER / "hashes.txt"
            duplicates = find_near_duplicates(records.all(), files, hashes)
            records = records.without(duplicates)
        export = _Export(records, files, target, format_, on_progress)
        export.summary.duplicates = len(duplicates)
        return export.run(shard_size, sandbox=view.is_of_sandbox)


def _check_kind(format_: ExportFormat, kind: MediaKind) -> None:
    allowed = {
        "imagefolder": kind is IMAGE,
        "audiofolder": kind is AUDIO,
        "parquet": kind.feature is not None,
        "webdataset": True,
        "files": True,
    }
    if not allowed[format_]:
        formats = ", ".join(name for name, fits in allowed.items() if fits)
        raise JobError(f"{format_} is not for {kind.many}; allowed: {formats}")


class _Export:
    def __init__(
        self,
        records: Records,
        files: MediaFiles,
        target: Path,
        format_: ExportFormat,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self._records = records
        self._files = files
        self._target = target
        self._format = format_
        self._on_progress = on_progress
        self._census = Census()
        self._done = 0
        self.summary = ExportSummary(
            kind=records.kind, filtered=records.filtered, unlisted=records.unlisted
        )

    def run(self, shard_size: int, *, sandbox: bool) -> ExportSummary:
        records, census, summary = self._records, self._census, self.summary
        is_sharded = self._format in {"webdataset", "parquet"}
        written: list[SplitFiles] = []
        shards_of_first = 0
        for split in records.splits.names:
            writer = self._writer(split)
            media, size = census.media, census.bytes
            count = self._write_split(split, writer, shard_size if is_sharded else math.inf)
            summary.shards += count
            summary.splits[split] = census.media - media
            if not written or (count and not shards_of_first):
                first, shards_of_first = writer, count
            written.append(
                SplitFiles(split, writer.data_files, summary.splits[split], census.bytes - size)
            )
        summary.media, summary.bytes = census.media, census.bytes
        text = card(
            self._target.resolve().name,
            census,
            records.columns,
            kind=records.kind,
            sandbox=sandbox,
            splits=written,
            writer=first,
            shards=shards_of_first,
            left_out={
                "blurred by the content filter": summary.filtered,
                "no longer in the prompt file": summary.unlisted,
                "too similar to an earlier one": summary.duplicates,
                "missing or damaged": summary.damaged,
            },
        )
        path = self._target / CARD
        if path.exists():
            text = with_edits(text, path.read_text("utf-8-sig", "surrogateescape"))
        write_atomically(path, [text.encode("utf-8", "surrogateescape")])
        return summary

    def _writer(self, split: str) -> DataSetWriter:
        records, target = self._records, self._target
        kind, is_only = records.kind, not records.splits.shares
        match self._format:
            case "webdataset":
                return WebDataset(target, split, kind, is_only=is_only)
            case "parquet":
                return Parquet(target, split, kind, records.columns, is_only=is_only)
            case _:
                return MediaFolder(target, split, kind, self._files, is_only=is_only)

    def _write_split(self, split: str, writer: DataSetWriter, shard_limit: float) -> int:
        """Write a split, and return its number of shards."""
        count = 0
        for shard in shards(self._records.of(split), shard_limit, writer.records_per_shard):
            self._write_shard(writer, shard)
            count += 1
        for number in writer.numbers():
            if number >= count:
                writer.remove(number)
                writer.report_path(number).unlink(missing_ok=True)
        writer.finish(self._records.examples(split), self._records.of(split))
        return count

    def _write_shard(self, writer: DataSetWriter, shard: Shard) -> None:
        """Write a shard, unless it exists."""
        number, records = shard.number, shard.records
        digest = shard.digest(self._records.columns)
        path = writer.report_path(number)
        before = ShardReport.load(path)
        if (
            before is not None
            and before.digest == digest
            and before.written == before.count
            and writer.is_whole(number, records, before.bytes)
        ):
            self.summary.kept += 1
            for record in records:
                self._count(record)
            return
        path.unlink(missing_ok=True)
        report = ShardReport(digest, len(records))
        report.bytes = writer.write(number, self._good(records, report))
        report.save(path)

    def _good(self, records: list[Record], report: ShardReport) -> Iterator[tuple[Record, bytes]]:
        """Yield the files that match the ledger, and record the others."""
        for record, data in self._files.read(records):
            if isinstance(data, Damage):
                report.outcomes[data] += 1
                summary, identity = self.summary, str(record.values["id"])
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
