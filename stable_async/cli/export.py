"""`stable-async export`: a job's pictures as a data set for training."""

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

from stable_async.cli.failures import INTERRUPTED, OK, SOME_FAILED, UsageError
from stable_async.cli.options import Flag
from stable_async.datasets import DEFAULT_SHARD_SIZE, ExportFormat, ExportSummary, export_job
from stable_async.errors import ConfigurationError

__all__ = ["export"]

MB = 1_000_000


def export(
    folder: Annotated[Path, Parameter(name="DIR")],
    /,
    *,
    format: ExportFormat,  # noqa: A002 - the name of the option
    to: Annotated[Path, Parameter(metavar="PATH")],
    include_filtered: Flag = False,
    shard_size: Annotated[float, Parameter(metavar="MB")] = DEFAULT_SHARD_SIZE / MB,
    json_summary: Annotated[Flag, Parameter(name="--json")] = False,
) -> int:
    """Write the images of a job as a data set, with a card that describes it.

    Every picture is checked against its SHA-256 when it is written, those of an imagefolder each
    time. Given again, the command goes on where it was stopped, and takes in what is new.

    Exit status: 0 all pictures are in the data set; 1 it could not be written; 2 wrong usage; 3
    damaged pictures were left out; 130 interrupted.

    Args:
        folder: The folder of the job.
        format: imagefolder and parquet for Hugging Face datasets, webdataset for tar files.
        to: The folder of the data set, new or of an earlier export.
        include_filtered: Take in what the content filter blurred.
        shard_size: Megabytes of pictures in a tar or parquet file, at the most.
        json_summary: Print the summary as one JSON object.
    """
    if not math.isfinite(shard_size):
        raise UsageError(f"--shard-size is {shard_size}; allowed: a number of megabytes")
    try:
        with _progress() as on_progress:
            summary = export_job(
                folder,
                to,
                format,
                include_filtered=include_filtered,
                shard_size=round(shard_size * MB),
                on_progress=on_progress,
            )
    except ConfigurationError as error:
        raise UsageError(str(error)) from None
    except KeyboardInterrupt:
        print("stable-async: stopped; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    if json_summary:
        print(json.dumps(asdict(summary)))
    else:
        _show(summary, to)
    return SOME_FAILED if summary.damaged else OK


def _show(summary: ExportSummary, to: Path) -> None:
    for identity, file_name, what in summary.damage:
        print(f"left out: {identity}: {file_name}: {what}", file=sys.stderr)
    more = summary.damaged - len(summary.damage)
    if more:
        print(f"... and {more:,} more", file=sys.stderr)
    facts = [f"{summary.pictures:,} pictures", f"{summary.bytes / MB:,.1f} MB"]
    facts.append(f"{summary.shards:,} shards, {summary.kept:,} of them kept")
    if summary.filtered:
        facts.append(f"{summary.filtered:,} filtered left out")
    if summary.damaged:
        facts.append(f"{summary.damaged:,} damaged left out")
    print(", ".join(facts))
    print(f"data set: {to}, described in {to / 'README.md'}")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    console = Console(stderr=True)
    columns = (TextColumn("exporting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("exporting")
        yield lambda done, total: progress.update(task, completed=done, total=total)
