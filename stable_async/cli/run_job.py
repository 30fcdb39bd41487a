"""`stable-async run`: a file of prompts becomes a folder of images."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, replace
from math import inf
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from stable_async.cli.connection import Connection, open_client
from stable_async.cli.display import show_progress, show_summary
from stable_async.cli.exit_status import (
    BUDGET_REACHED,
    CANNOT_WORK,
    INTERRUPTED,
    OK,
    SOME_FAILED,
    UsageError,
)
from stable_async.cli.options import Flag, JsonFlag, WholeNumber, option_text, reflowed
from stable_async.cli.preview import preview
from stable_async.cli.prompt_options import PromptOptions, PromptsArgument
from stable_async.cli.started_job import started_job
from stable_async.config import resolve_base_url
from stable_async.errors import ConfigurationError
from stable_async.jobs import Job, JobSettings, Summary
from stable_async.jobs.events import EventFile
from stable_async.jobs.job_options import SANDBOX

__all__ = ["run"]

SECONDS_BETWEEN_EVENTS = 5.0
STATUSES = {
    "complete": OK,
    "stopped": CANNOT_WORK,
    "incomplete": SOME_FAILED,
    "budget": BUDGET_REACHED,
    "interrupted": INTERRUPTED,
}


@reflowed
def run(
    prompts: PromptsArgument | None = None,
    /,
    *,
    out: Annotated[Path, Parameter(metavar="DIR")],
    prompt_options: PromptOptions = PromptOptions(),  # noqa: B008 - frozen
    connection: Connection = Connection(),  # noqa: B008 - frozen
    images: Annotated[str | None, Parameter(metavar="URL")] = None,
    max_in_flight: WholeNumber = 256,
    budget: Annotated[float | None, Parameter(metavar="CREDITS")] = None,
    passes: WholeNumber = 2,
    retry: Literal["failed", "filtered"] | None = None,
    resend_doubtful: Flag = False,
    remake_missing: Flag = False,
    change: Flag = False,
    replace_changed: Flag = False,
    no_check: Flag = False,
    dry_run: Flag = False,
    events: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    outage_limit: Annotated[float, Parameter(metavar="SECONDS")] = 120.0,
    json_summary: JsonFlag = False,
) -> int:
    """Make an image for every prompt in a file. A later run makes only what is missing.

    After the first Ctrl-C nothing new is sent and the run waits for what is in flight; the second
    aborts.

    Exit status: 0 every row has its result; 1 the job could not start or continue; 2 wrong usage;
    3 some rows failed, were filtered or are in doubt; 4 the budget is reached; 130 interrupted.

    Args:
        prompts: A .jsonl, .json, .csv, .tsv, .txt or .parquet file, a folder of input files, a glob
            pattern, or - for standard input. Default: all options that the job was started with.
        prompt_options: How prompts become requests.
        connection: Where requests go.
        out: Folder of the job, new or from an earlier run.
        images: Store images in a bucket: s3://bucket/prefix, gs://..., az://... or file:///...
        max_in_flight: Maximum requests in flight; 1,000 take 0.6 GB, into a bucket 1.5 GB.
        budget: Credits that all runs of this job together may spend, later ones included; inf
            removes it.
        passes: How many times to try rows that fail without being billed, including the first.
        retry: failed: also send rows that were refused for good; filtered: replace blurred images.
        resend_doubtful: Send rows again that may have been billed and have no image.
        remake_missing: Make images again whose files are gone.
        change: Accept options and row ids other than those that the job was started with.
        replace_changed: Make images again whose row changed under the same id.
        events: Append one JSON line for each event to this file or named pipe.
        dry_run: Show what the run would do and cost. Sends and writes nothing; needs no key.
        no_check: Send while the file is still being read; invalid rows fail one by one, and rows
            that come again under other ids are bought again.
        outage_limit: Seconds of network outage after which the job stops.
        json_summary: Print the summary as one JSON object.
    """
    if prompts is None:
        job = started_job(out, prompt_options, images)
        source, rules, images = job.source, job.rules, images or job.images
        if job.server == SANDBOX:
            connection = replace(connection, sandbox=True)
    else:
        source, rules = prompt_options.read(prompts)
    try:
        settings = JobSettings(
            folder=out,
            images=images,
            budget=None if budget == inf else budget,
            same_budget=budget is None,
            max_in_flight=max_in_flight,
            passes=passes,
            retry=retry,
            remake_missing=remake_missing,
            change=change,
            server=SANDBOX if connection.sandbox else None,
            resend_doubtful=resend_doubtful,
            outage_limit=outage_limit,
            replace_changed=replace_changed,
            check=not no_check,
        )
        running = Job(settings, source, rules)
    except ConfigurationError as error:
        raise UsageError(option_text(error)) from None
    if dry_run:
        server = settings.server or resolve_base_url(connection.base_url)
        preview(source, rules, settings, server=server, as_json=json_summary)
        return OK
    if events is not None:
        try:
            running.events = EventFile(events)
        except ConfigurationError as error:
            raise UsageError(option_text(error)) from None
        except KeyboardInterrupt:  # while it waited for the reader of a pipe
            print("stable-async: interrupted: nothing was sent", file=sys.stderr)
            return INTERRUPTED
    summary = asyncio.run(_run(running, connection))
    if json_summary:
        figures = asdict(summary)
        print(json.dumps({name: value for name, value in figures.items() if value is not None}))
    else:
        show_summary(summary, running, out)
    if summary.error:
        print(f"stable-async: {summary.error}", file=sys.stderr)
    return STATUSES[summary.ending]


async def _run(job: Job, connection: Connection) -> Summary:
    async with (
        open_client(connection) as client,
        show_progress(job, client),
        _report_progress(job),
    ):
        running = asyncio.ensure_future(job.run(client))
        with _interruptible(job, running):
            return await running


@asynccontextmanager
async def _report_progress(job: Job) -> AsyncIterator[None]:
    """Report the progress of a job every few seconds."""

    async def report() -> None:
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_EVENTS)
            job.events.progressed(job.progress)

    task = asyncio.ensure_future(report())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextmanager
def _interruptible(job: Job, running: asyncio.Future[Summary]) -> Iterator[None]:
    """Let the first SIGINT, SIGTERM or SIGHUP interrupt the job, and the second abort it.

    A SIGHUP that was ignored at the start, as under `nohup`, stays ignored.
    """
    loop = asyncio.get_running_loop()
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.append(signal.SIGHUP)

    def on_signal() -> None:
        if job.interrupted:
            running.cancel()
        job.interrupt()

    for number in signals:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
