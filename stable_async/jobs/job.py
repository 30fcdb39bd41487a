"""A job: a file of prompts that becomes a folder of images, in as many runs as it takes."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from stable_async.errors import ConfigurationError
from stable_async.files import in_thread
from stable_async.jobs.budget import Budget
from stable_async.jobs.errors import JobError, LedgerError, StorageError
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.ledger_writer import LedgerWriter
from stable_async.jobs.lock import locked
from stable_async.jobs.metadata import MetadataFile
from stable_async.jobs.open_files import make_room_for_files
from stable_async.jobs.plan import Planner
from stable_async.jobs.progress import Progress, Summary
from stable_async.jobs.recovery import (
    METADATA_NAME,
    is_outdated,
    open_ledger,
    repair,
    restore_images,
    retire_replaced,
)
from stable_async.jobs.runner import OUTAGE_WAITS, Runner
from stable_async.jobs.storage.bucket import BucketStore
from stable_async.jobs.storage.folder import IMAGES, FolderStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stable_async.client import StabilityClient
    from stable_async.jobs.errors import RowProblem
    from stable_async.jobs.ledger import Counts
    from stable_async.jobs.progress import Ending
    from stable_async.jobs.prompt_file import PromptFile
    from stable_async.jobs.row import Item, PromptRules
    from stable_async.jobs.storage.base import Store

__all__ = ["Job", "JobSettings"]

REFUSED_LISTED = 20
# What a bucket did not take, below the job's folder.
SPOOLED = "spooled"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSettings:
    """How a job is run.

    Attributes:
        folder: The job's folder; made if it is not there.
        images: Where images go, such as `s3://bucket/prefix`; `None`: `images/` in `folder`.
        budget: Credits that all runs of the job together may spend; `None` is no limit.
        max_in_flight: The most prompts that are worked on at a time.
        passes: How often a run goes over what broke on the way, the first time included.
        retry_failed: Take up the prompts that were refused in earlier runs as well.
        replace_changed: Make prompts anew whose content changed under the same id.
        check: Check the whole prompt file before anything is sent.
        outage_waits: Seconds between attempts to connect, before the job gives up.
    """

    folder: Path
    images: str | None = None
    budget: float | None = None
    max_in_flight: int = 256
    passes: int = 2
    retry_failed: bool = False
    replace_changed: bool = False
    check: bool = True
    outage_waits: Sequence[float] = OUTAGE_WAITS

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigurationError: Says what, and what is allowed.
        """
        for name in ("max_in_flight", "passes"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; allowed: 1 or more")
        if self.replace_changed and not self.check:
            raise ConfigurationError("replace_changed needs the check of the prompt file")
        if self.budget is not None and not 0 <= self.budget < float("inf"):
            raise ConfigurationError(f"budget is {self.budget}; allowed: 0 or more credits")


class Job:
    """One run of a job.

    Attributes:
        progress: How far it is; may be looked at any time.
        notes: What a user should be told about the start, in whole sentences.
        refused: Id, row and error of the first prompts that failed; without error: filtered.
    """

    def __init__(self, settings: JobSettings, prompts: PromptFile, rules: PromptRules) -> None:
        """Prepare; nothing is read or written before `run`."""
        self._settings = settings
        self._prompts = prompts
        self._rules = rules
        self._runner: Runner | None = None
        self._interrupted = threading.Event()
        self._task: asyncio.Task[object] | None = None
        self._cancelled_before = 0
        self.progress = Progress(0.0, budget=settings.budget)
        self.notes: list[str] = []
        self.refused: list[tuple[str, int, str | None]] = []

    @property
    def images(self) -> str:
        """Where the images are."""
        return self._settings.images or str(self._settings.folder / IMAGES)

    @property
    def interrupted(self) -> bool:
        """Whether `interrupt` was called."""
        return self._interrupted.is_set()

    def interrupt(self) -> None:
        """Let nothing new leave, so that `run` ends when all in flight is brought in.

        To be called in the event loop of `run`. To end at once, cancel `run` instead.
        """
        self._interrupted.set()
        if self._runner is not None:
            self._runner.stop()

    async def run(self, client: StabilityClient) -> Summary:
        """Make what is missing, and tell what became of the job.

        Raises:
            ConfigurationError: It was run before.
            PromptFileError: The prompts cannot be used as they are; nothing was sent.
            JobLockedError: Another process works on the job.
            JobError: The job cannot begin.
        """
        if self._task is not None:
            raise ConfigurationError("a Job is one run: make another one to run it again")
        self._task = asyncio.current_task()
        self._cancelled_before = self._task.cancelling() if self._task is not None else 0
        self.progress.started = asyncio.get_running_loop().time()
        make_room_for_files(self._settings.max_in_flight)
        stack = ExitStack()
        try:
            return await self._run(client, await in_thread(self._open, stack))
        except _InterruptedError:
            return self._summary("interrupted", None)
        finally:
            await in_thread(stack.close)

    async def _run(self, client: StabilityClient, opened: _Opened) -> Summary:
        settings, progress, store = self._settings, self.progress, opened.store
        budget = Budget(settings.budget, opened.spent)
        self._count(opened.counts)
        progress.spent = opened.spent
        async with (
            LedgerWriter(opened.ledger, opened.metadata) as writer,
            store.writing() as images,
        ):
            runner = Runner(
                client,
                writer,
                images,
                budget,
                progress,
                free_space=store.free_space,
                folder=self._prompts.folder,
                max_in_flight=settings.max_in_flight,
                passes=settings.passes,
                read_more=None
                if settings.check
                else partial(self._read_more, opened.planner, writer),
                outage_waits=settings.outage_waits,
            )
            self._runner = runner
            progress.phase = "running"
            if self._interrupted.is_set():
                runner.stop()
            try:
                await runner.run()
                self.refused = await writer.do(partial(Ledger.refused, limit=REFUSED_LISTED))
            except JobError as error:
                runner.stop(error)
        if self._interrupted.is_set():
            return self._summary("interrupted", runner.error)
        if runner.error is not None:
            return self._summary("stopped", runner.error)
        if runner.over_budget:
            return self._summary("budget", None)
        return self._summary(
            "incomplete" if progress.failed or progress.filtered else "complete", None
        )

    def _summary(self, ending: Ending, error: JobError | None) -> Summary:
        progress = self.progress
        return Summary(
            ending=ending,
            total=progress.total,
            done=progress.done,
            skipped=progress.skipped,
            failed=progress.failed,
            filtered=progress.filtered,
            credits=round(progress.credits, 6),
            requests=progress.requests,
            rate_limited=progress.rate_limited,
            maybe_billed=progress.maybe_billed,
            seconds=round(asyncio.get_running_loop().time() - progress.started, 3),
            peak_in_flight=progress.peak_in_flight,
            error=None if error is None else str(error),
        )

    def _count(self, counts: Counts) -> None:
        self.progress.total = counts.total
        self.progress.skipped = counts.done
        self.progress.filtered = counts.filtered
        self.progress.failed = counts.failed

    def _open(self, stack: ExitStack) -> _Opened:
        folder = self._settings.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
            return self._open_locked(folder, stack)
        except OSError as error:
            where = error.filename or folder
            raise StorageError(f"{where}: {error.strerror or error}") from error
        except sqlite3.Error as error:
            raise LedgerError(f"{folder}: the ledger cannot be used: {error}") from error

    def _open_locked(self, folder: Path, stack: ExitStack) -> _Opened:
        settings = self._settings
        store: Store
        if settings.images is None:
            store = FolderStore(folder)
        else:
            store = BucketStore(settings.images, spool=folder / SPOOLED)
        ledger, rebuilt = open_ledger(folder, store)
        stack.callback(ledger.close)
        self._keep_place(ledger)
        if rebuilt:
            self.notes.append(rebuilt)
        elif is_outdated(ledger, folder):
            with ledger.transaction():
                count = restore_images(ledger, folder, store)
                ledger.set(prompts=None)  # the prompt file is to be compared anew
            self.notes.append(f"the ledger is an older copy: {count:,} images were found")
        with ledger.transaction():
            repaired = repair(ledger, store)
        if repaired.adopted:
            self.notes.append(f"{repaired.adopted:,} images were found that had just come")
        if repaired.maybe_billed:
            self.progress.maybe_billed = repaired.maybe_billed
            self.notes.append(
                f"{repaired.maybe_billed:,} requests were in flight when the last run ended; "
                "they are sent again and may have been billed before"
            )
        planner = Planner(
            ledger, self._prompts, self._rules, replace_changed=settings.replace_changed
        )
        stack.callback(planner.close)
        with ledger.transaction():
            if settings.check:
                report = planner.run(self._on_rows)
                ledger.take_up_failed(final=settings.retry_failed)
                if report.gone:
                    self.notes.append(
                        f"{report.gone:,} images of this job are not in {self._prompts.name} any "
                        "more; they are left as they are"
                    )
            else:
                ledger.take_up_failed(final=settings.retry_failed, gone=True)
                planner.begin_unchecked()
        with ledger.transaction():
            retire_replaced(ledger, store)
        metadata = MetadataFile(folder / METADATA_NAME, ledger)
        stack.callback(metadata.close)
        return _Opened(ledger, metadata, store, planner, ledger.counts(), ledger.spent())

    def _keep_place(self, ledger: Ledger) -> None:
        """Hold the job to the place where its images are."""
        wanted = self._settings.images or ""
        present = ledger.get("images")
        if present is None:
            ledger.set(images=wanted)
        elif present != wanted:
            raise JobError(
                f"{self._settings.folder}: this job keeps its images in "
                f"{present or 'its folder'}, not in {wanted or 'its folder'}"
            )

    def _on_rows(self, count: int) -> None:
        self.progress.total = count
        cancelled = self._task is not None and self._task.cancelling() > self._cancelled_before
        if cancelled or self._interrupted.is_set():
            raise _InterruptedError

    async def _read_more(self, planner: Planner, writer: LedgerWriter) -> bool:
        """Lay down the rows that have come, or wait for some; tell whether there were any."""
        progress, report = self.progress, planner.report
        failed, filtered = report.states["failed"], report.states["filtered"]
        items: list[Item | RowProblem] = []
        while not (items or planner.exhausted or progress.phase == "stopping"):
            items = await in_thread(planner.take)
        if not items:
            return False
        await writer.do(lambda ledger: planner.add_unchecked(items))
        progress.total = report.added + report.known + report.bad
        progress.skipped = report.states["done"]
        progress.failed += report.states["failed"] - failed
        progress.filtered += report.states["filtered"] - filtered
        return True


class _InterruptedError(Exception):
    """The user does not want to go on, while prompts are still being checked."""


@dataclass(frozen=True, slots=True)
class _Opened:
    ledger: Ledger
    metadata: MetadataFile
    store: Store
    planner: Planner
    counts: Counts
    spent: float
