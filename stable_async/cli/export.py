"""`stable-async export`: a job's results as a data set for training."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stable_async.cli.exit_status import INTERRUPTED, OK, SOME_FAILED, UsageError
from stable_async.cli.options import Flag, JsonFlag, reflowed
from stable_async.datasets import (
    DEFAULT_SHARD_SIZE,
    ExportFormat,
    ExportSummary,
    Selection,
    export_job,
)
from stable_async.errors import ConfigurationError
from stable_async.wording import count

__all__ = ["export"]

MB = 1_000_000


@reflowed
def export(
    folders: Annotated[list[str], Parameter(name="DIR", negative="")],
    /,
    *,
    format: ExportFormat,  # noqa: A002 - the name of the option
    to: Annotated[Path, Parameter(metavar="PATH")],
    include_filtered: Flag = False,
    only_listed: Flag = False,
    drop_duplicates: Flag = False,
    split: Annotated[str | None, Parameter(metavar="NAME=SHARE,...")] = None,
    shard_size: Annotated[float, Parameter(metavar="MB")] = DEFAULT_SHARD_SIZE / MB,
    json_summary: JsonFlag = False,
) -> int:
    """Write the images of a job as a data set, with a card that describes it.

    Every file is checked against its SHA-256 when it is written; files of a folder are checked each
    time. The same command resumes an export that was stopped, and adds what is new.

    Exit status: 0 everything is in the data set; 1 it could not be written; 2 wrong usage; 3
    damaged files were left out; 130 interrupted.

    Args:
        folders: Folder of the job, folders of all its parts, or the URL of its images.
        format: webdataset writes tar files; files is for media that the others do not take: models.
        to: Folder of the data set, new or from an earlier export.
        include_filtered: Include what the content filter blurred.
        only_listed: Leave out rows that are no longer in the prompt file.
        drop_duplicates: Of images that look alike, export only the first.
        split: Splits and their shares, such as train=0.9,test=0.1; a row's id decides its split.
        shard_size: Maximum megabytes of media in a tar or parquet file.
        json_summary: Print the summary as one JSON object.
    """
    if not 0 < shard_size < math.inf:
        raise UsageError(f"--shard-size is {shard_size}; allowed: a number of megabytes above 0")
    try:
        selection = Selection(
            include_filtered=include_filtered,
            only_listed=only_listed,
            drop_duplicates=drop_duplicates,
            splits=_shares(split),
        )
        with _progress() as on_progress:
            summary = export_job(
                folders,
                to,
                format,
                selection=selection,
                shard_size=round(shard_size * MB),
                on_progress=on_progress,
            )
    except ConfigurationError as error:
        raise UsageError(str(error)) from None
    except KeyboardInterrupt:
        print("stable-async: stopped; the same command resumes from here", file=sys.stderr)
        return INTERRUPTED
    if json_summary:
        print(json.dumps({**asdict(summary), "kind": summary.kind.column}))
    else:
        _show(summary, to)
    return SOME_FAILED if summary.damaged else OK


def _shares(text: str | None) -> dict[str, float]:
    shares: dict[str, float] = {}
    for part in (text or "").split(","):
        if not part:
            continue
        name, separator, share = part.partition("=")
        try:
            number = float(share) if separator else math.nan
        except ValueError:
            number = math.nan
        if math.isnan(number) or name.strip() in shares:
            raise UsageError(
                f"--split is {text!r}; allowed: NAME=SHARE,..., such as train=0.9,test=0.1"
            )
        shares[name.strip()] = number
    return shares


def _show(summary: ExportSummary, to: Path) -> None:
    for identity, file_name, what in summary.damage:
        print(f"left out: {identity}: {file_name}: {what}", file=sys.stderr)
    more = summary.damaged - len(summary.damage)
    if more:
        print(f"... and {more:,} more", file=sys.stderr)
    facts = [summary.kind.count(summary.media), f"{summary.bytes / MB:,.1f} MB"]
    facts.append(f"{count(summary.shards, 'shard')}, {summary.kept:,} of them unchanged")
    if len(summary.splits) > 1:
        facts += [f"{name} {media:,}" for name, media in summary.splits.items()]
    for number, why in (
        (summary.filtered, "filtered"),
        (summary.unlisted, "not in the prompt file"),
        (summary.duplicates, "near duplicates"),
        (summary.damaged, "damaged"),
    ):
        if number:
            facts.append(f"{number:,} {why} left out")
    print(", ".join(facts))
    print(f"data set: {to}, described in {to / 'README.md'}")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    console = Console(stderr=True)
    columns = (TextColumn("exporting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("exporting")
        yield lambda done, total: progress.update(task, completed=done, total=total)
