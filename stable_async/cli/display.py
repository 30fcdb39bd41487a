"""The progress of a job: redrawn on a terminal, one line every few seconds elsewhere."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stable_async.cli.preview import start_lines
from stable_async.client import StabilityClient
from stable_async.config import Quota
from stable_async.jobs import Job, Progress, Summary
from stable_async.jobs.kinds import IMAGE, MediaKind
from stable_async.jobs.progress import Left
from stable_async.wording import amount, count, duration

__all__ = ["progress_line", "progress_panel", "show_progress", "show_summary"]

FRAMES_PER_SECOND = 5
SECONDS_BETWEEN_LINES = 5.0
REASONS_SHOWN = 3
CEILING = Quota().requests / Quota().window


@asynccontextmanager
async def show_progress(job: Job, client: StabilityClient) -> AsyncIterator[None]:
    """Show the progress of `job` on stderr while in the block."""
    messages = _Messages(Console(stderr=True, highlight=False), job)
    show = _draw if messages.console.is_terminal else _write_lines
    task = asyncio.ensure_future(show(messages, job, client))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        messages.print()


class _Messages:
    """Prints what a run will do once it is known, and its notes."""

    def __init__(self, console: Console, job: Job) -> None:
        self.console = console
        self._job = job
        self._has_started = False

    def print(self) -> None:
        """Print what is new."""
        job = self._job
        if job.estimate is not None and not self._has_started:
            self._has_started = True
            job.notes.extend(start_lines(job.estimate))
        while job.notes:
            self.console.print(job.notes.pop(0), markup=False, soft_wrap=True)


async def _draw(messages: _Messages, job: Job, client: StabilityClient) -> None:
    def frame() -> RenderableType:
        return progress_panel(job.progress, client, asyncio.get_running_loop().time())

    with Live(frame(), console=messages.console, auto_refresh=False) as live:
        try:
            while True:
                await asyncio.sleep(1 / FRAMES_PER_SECOND)
                messages.print()
                live.update(frame(), refresh=True)
        finally:
            live.update(frame(), refresh=True)


async def _write_lines(messages: _Messages, job: Job, client: StabilityClient) -> None:
    last = ""
    while True:
        await asyncio.sleep(SECONDS_BETWEEN_LINES)
        messages.print()
        line = progress_line(job.progress, client, asyncio.get_running_loop().time())
        if line != last:
            print(line, file=sys.stderr, flush=True)
        last = line


def progress_line(progress: Progress, client: StabilityClient, now: float) -> str:
    """Return the progress of a job as one line."""
    if progress.phase in {"opening", "checking"}:
        return _start(progress)
    parts = [
        f"{progress.settled:,} of {progress.total:,}",
        _counts(progress),
        _requests(progress, client, now),
        _credits(progress),
        _time_left(progress, now),
        _outage(progress),
        _penalty(client),
    ]
    return ", ".join(part for part in parts if part)


def progress_panel(progress: Progress, client: StabilityClient, now: float) -> RenderableType:
    """Return the progress of a job for a terminal."""
    if progress.phase in {"opening", "checking"}:
        return Text(_start(progress))
    head = Table.grid(padding=(0, 1), expand=True)
    head.add_column(ratio=1)
    head.add_column(justify="right")
    head.add_row(
        ProgressBar(total=max(progress.total, 1), completed=progress.settled),
        Text(f"{progress.settled:,} of {progress.total:,}"),
    )
    lines: list[RenderableType] = [head, Text(_counts(progress))]
    lines.append(
        Text(
            " · ".join(
                part
                for part in (
                    _requests(progress, client, now),
                    _credits(progress),
                    _time_left(progress, now),
                )
                if part
            )
        )
    )
    if reasons := progress.failures.most_common(REASONS_SHOWN):
        failures = ", ".join(f"{reason} ({count:,})" for reason, count in reasons)
        lines.append(Text(f"failures: {failures}", style="yellow"))
    if progress.outage is not None:
        lines.append(Text(_outage(progress), style="bold red"))
    if penalty := _penalty(client):
        lines.append(Text(penalty, style="bold red"))
    if progress.phase == "stopping":
        lines.append(
            Text(
                f"stopping: waiting for {progress.in_flight:,} in flight; Ctrl-C again aborts",
                "yellow",
            )
        )
    return Group(*lines)


def _start(progress: Progress) -> str:
    """Return what a job does before its first request."""
    if progress.phase == "opening" and progress.store is not None:
        return f"opening the job: waiting for {progress.store}"
    return f"checking prompts: {progress.total:,}"


def _counts(progress: Progress) -> str:
    skipped = f", {progress.skipped:,} before" if progress.skipped else ""
    counts = [f"{progress.done:,} done{skipped}", f"{progress.failed + progress.again:,} failed"]
    if progress.in_doubt:
        counts.append(f"{progress.in_doubt:,} in doubt")
    counts += [f"{progress.filtered:,} filtered", f"{progress.in_flight:,} in flight"]
    return ", ".join(counts)


def _requests(progress: Progress, client: StabilityClient, now: float) -> str:
    rate = f"{progress.request_rate(now):.1f} requests/s"
    if client.quota_statistics() is None:
        return rate
    return f"{rate} of {CEILING:g}"


def _credits(progress: Progress) -> str:
    budget = "" if progress.budget is None else f" of {amount(progress.budget)}"
    doubt = f", {amount(progress.bill.in_doubt)} in doubt" if progress.bill.in_doubt else ""
    return f"{amount(progress.bill.spent)}{budget} credits{doubt}"


def _time_left(progress: Progress, now: float) -> str:
    seconds = progress.seconds_left(now)
    return f"{duration(seconds)} left" if seconds else ""


def _outage(progress: Progress) -> str:
    return f"no results are arriving; nothing is sent: {progress.outage}" if progress.outage else ""


def _penalty(client: StabilityClient) -> str:
    statistics = client.quota_statistics()
    if statistics is None or not statistics.penalty_left:
        return ""
    return f"penalty: nothing is sent for another {duration(statistics.penalty_left)}"


def show_summary(summary: Summary, job: Job, folder: Path) -> None:
    """Print the summary of a job and its first failures."""
    for identity, row, error in job.refused:
        # A row that is not a valid request may have no id.
        name = "" if identity == f"row\u00a0{row}" else f" ({identity})"
        what = error or "blurred by the content filter"
        print(f"row {row}{name}: {what}", file=sys.stderr)
    without = summary.failed + summary.again + summary.in_doubt + summary.filtered
    more = without - len(job.refused)
    if more > 0:
        print(f"... and {more:,} more", file=sys.stderr)
    if summary.ending == "interrupted" and job.estimate is None and not summary.requests:
        print("interrupted while the prompt file was being read: nothing was sent")
        return
    for line in summary_lines(summary, job.left, kind=job.kind):
        print(line)
    if summary.done or summary.skipped or summary.filtered:
        print(f"{job.kind.many}: {job.images}; metadata: {folder / 'metadata.jsonl'}")


def summary_lines(summary: Summary, left: Left, *, kind: MediaKind = IMAGE) -> Iterator[str]:
    """Yield the lines of a summary: results, costs, and what to do next."""
    made = [f"{kind.count(summary.done)} made"]
    for number, what in (
        (summary.skipped, "made before"),
        (summary.failed, "failed"),
        (summary.again, "to be retried"),
        (summary.filtered, "filtered"),
        (summary.in_doubt, "in doubt"),
        (summary.missing, "without " + ("its file" if summary.missing == 1 else "their files")),
    ):
        if number:
            made.append(f"{number:,} {what}")
    yield ", ".join(made)
    spent = f"{count(summary.credits, 'credit')} spent"
    if summary.spent != summary.credits:
        spent += f" ({amount(summary.spent)} by all runs)"
    requests = count(summary.requests, "request")
    if summary.rate_limited:
        requests += f", {summary.rate_limited:,} of them answered with 429"
    yield f"{spent}, {requests}, {duration(summary.seconds)}"
    if summary.in_doubt or summary.credits_in_doubt:
        yield (
            f"in doubt: {count(summary.credits_in_doubt, 'credit')} may have been billed without "
            "a result; --resend-doubtful sends these rows again and may cost as much again"
        )
    if summary.filtered:
        yield "--retry filtered makes blurred results again with other seeds, at the full price"
    if left.rows and summary.ending == "budget":
        reached = (
            f"the budget is reached: {count(left.rows, 'row')} left, for "
            f"{count(left.credits, 'credit')}"
        )
        if left.parts is not None:
            enough = summary.spent + summary.credits_in_doubt + left.credits
            reached += f"; --budget {enough * left.parts:.12g} is enough for all"
        yield reached
    elif left.rows:
        yield (
            f"{count(left.rows, 'row')} left, for {count(left.credits, 'credit')}: run the same "
            "command again"
        )
