"""A job: a file of prompts that becomes a folder of images, in as many runs as it takes."""

from __future__ import annotations

import asyncio
import json
import secrets
import sqlite3
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from stable_async.errors import ConfigurationError, StabilityError
from stable_async.files import in_thread
from stable_async.jobs.attempt import RunContext
from stable_async.jobs.budget import Budget
from stable_async.jobs.errors import JobError, LedgerError, StorageError
from stable_async.jobs.estimate import describe
from stable_async.jobs.events import JobEvents
from stable_async.jobs.gate import Gate
from stable_async.jobs.intake import Intake
from stable_async.jobs.kinds import kind_of_service
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.ledger_writer import LedgerWriter
from stable_async.jobs.lock import locked
from stable_async.jobs.metadata import MetadataFile
from stable_async.jobs.open_files import make_room_for_files
from stable_async.jobs.progress import Departures, Progress, Summary
from stable_async.jobs.recovery import (
    METADATA_NAME,
    RUN,
    SPOOLED,
    is_outdated,
    open_ledger,
    repair,
    restore,
    retire_replaced,
)
from stable_async.jobs.runner import Runner
from stable_async.jobs.storage.bucket import BucketStore
from stable_async.jobs.storage.folder import FolderStore
from stable_async.jobs.storage.objects import Objects
from stable_async.jobs.storage.record import JobRecord, write_record

if TYPE_CHECKING:
    from pathlib import Path

    from stable_async.client import StabilityClient
    from stable_async.jobs.budget import Bill
    from stable_async.jobs.errors import RowProblem
    from stable_async.jobs.estimate import Estimate
    from stable_async.jobs.ledger import Counts
    from stable_async.jobs.progress import Ending
    from stable_async.jobs.prompt_file import PromptFile
    from stable_async.jobs.row import Row, State
    from stable_async.jobs.rules import PromptRules
    from stable_async.jobs.settings import JobSettings
    from stable_async.jobs.storage.base import Store

__all__ = ["Job"]

REFUSED_LISTED = 20


class Job:
    """One run of a job.

    Attributes:
        progress: How far it is; may be looked at any time.
        notes: What a user should be told about the start, in whole sentences.
        estimate: What it does, known once the prompt file is checked; `None` without a check.
        events: Receives what happens.
        refused: Id, row and error of the first prompts that failed; without error: filtered.
    """

    def __init__(self, settings: JobSettings, prompts: PromptFile, rules: PromptRules) -> None:
        """Prepare; nothing is read or written before `run`."""
        self._settings = settings
        self._prompts = prompts
        self._rules = rules
        self._kind = kind_of_service(rules.service)
        self._gate: Gate | None = None
        self._interrupted = threading.Event()
        self._task: asyncio.Task[object] | None = None
        self._cancelled_before = 0
        self.notes: list[str] = []
        self.progress: Progress = Progress(0.0, budget=self._share_of_budget())
        self.estimate: Estimate | None = None
        self.events: JobEvents = JobEvents()
        self.refused: list[tuple[str, int, str | None]] = []

    @property
    def images(self) -> str:
        """Where the images are."""
        return self._settings.images or str(self._settings.folder / self._kind.folder)

    @property
    def interrupted(self) -> bool:
        """Whether `interrupt` was called."""
        return self._interrupted.is_set()

    def interrupt(self) -> None:
        """Let nothing new leave, so that `run` ends when all in flight is brought in.

        To be called in the event loop of `run`. To end at once, cancel `run` instead.
        """
        self._interrupted.set()
        if self._gate is not None:
            self._gate.stop()

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
            summary = await self._run(client, await in_thread(self._open, stack))
        except _InterruptedError:
            summary = self._summary("interrupted")
        except StabilityError as error:
            self.events.failed(error)
            raise
        finally:
            await in_thread(stack.close)
        self.events.ended(summary)
        return summary

    async def _run(self, client: StabilityClient, opened: _Opened) -> Summary:
        settings, progress, store = self._settings, self.progress, opened.store
        budget = Budget(progress.budget, opened.bill)
        spent_before = opened.bill.spent
        self._count(opened.counts)
        progress.bill = budget.bill
        gate = Gate(
            progress,
            address=client.base_url,
            outage_limit=settings.outage_limit,
            first_wait=settings.probe_after,
        )
        self._gate = gate
        if self._interrupted.is_set():
            gate.stop()
        async with (
            LedgerWriter(opened.ledger, opened.metadata) as writer,
            store.writing() as images,
        ):
            context = RunContext(
                client=client,
                ledger=writer,
                images=images,
                budget=budget,
                gate=gate,
                progress=progress,
                departures=Departures(),
                folder=self._prompts.folder,
            )
            runner = Runner(
                context,
                free_space=store.free_space,
                max_in_flight=settings.max_in_flight,
                passes=settings.passes,
                resend_doubtful=settings.resend_doubtful,
                read_more=None
                if settings.check
                else partial(self._read_more, opened.intake, writer),
                on_result=self.events.settled,
            )
            if not gate.stopping:
                progress.phase = "running"
            try:
                await runner.run()
                self.refused = await writer.do(partial(Ledger.refused, limit=REFUSED_LISTED))
                self._settle(await writer.do(Ledger.counts))
                progress.bill = await writer.do(Ledger.bill)
            except JobError as error:
                gate.stop(error)
        ending: Ending = "complete"
        if self._interrupted.is_set():
            ending = "interrupted"
        elif gate.error is not None:
            ending = "stopped"
        elif runner.over_budget:
            ending = "budget"
        elif progress.failed or progress.again or progress.in_doubt or progress.filtered:
            ending = "incomplete"
        return self._summary(ending, gate.error, spent_before)

    def _summary(
        self, ending: Ending, error: JobError | None = None, spent_before: float = 0.0
    ) -> Summary:
        progress = self.progress
        bill = progress.bill
        return Summary(
            ending=ending,
            total=progress.total,
            done=progress.done,
            skipped=progress.skipped,
            failed=progress.failed,
            again=progress.again,
            in_doubt=progress.in_doubt,
            filtered=progress.filtered,
            credits=round(bill.spent - spent_before, 6),
            spent=round(bill.spent, 6),
            credits_in_doubt=round(bill.in_doubt, 6),
            requests=progress.requests,
            rate_limited=progress.rate_limited,
            seconds=round(asyncio.get_running_loop().time() - progress.started, 3),
            peak_in_flight=progress.peak_in_flight,
            error=None if error is None else str(error),
        )

    def _count(self, counts: Counts) -> None:
        self.progress.total = counts.total
        self.progress.skipped = counts.done
        self._settle(counts)

    def _settle(self, counts: Counts) -> None:
        """Count what has no good image as the ledger does."""
        progress = self.progress
        progress.filtered, progress.failed = counts.filtered, counts.failed
        progress.again, progress.in_doubt = counts.again, counts.in_doubt

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
        shard = self._rules.shard
        store = self._open_store(folder)
        ledger, rebuilt = open_ledger(folder, store, shard)
        stack.callback(ledger.close)
        self._keep_place(ledger)
        self._keep_record(ledger, store)
        if rebuilt:
            self.notes.append(rebuilt)
        elif is_outdated(ledger, folder, store, shard):
            with ledger.transaction():
                restored = restore(ledger, folder, store, shard)
                ledger.set(prompts=None)  # the prompt file is to be compared anew
            if restored:
                self.notes.append(f"the ledger is an older copy: {restored} were found")
        ledger.set(**{RUN: store.begin_run(shard)})
        with ledger.transaction():
            repaired = repair(ledger, store)
        if repaired.adopted:
            self.notes.append(f"{repaired.adopted:,} images were found that had just come")
        if repaired.in_doubt:
            self.notes.append(
                f"{repaired.in_doubt:,} requests were in flight when the last run ended and may "
                "have been billed; they are in doubt, and sent again only with --resend-doubtful"
            )
        if self._prompts.has_inputs_inside:
            self._prompts.keep_inputs(folder)
        intake = Intake(
            ledger, self._prompts, self._rules, replace_changed=settings.replace_changed
        )
        stack.callback(intake.close)
        again: list[State] = ["again", "failed"] if settings.retry_failed else ["again"]
        with ledger.transaction():
            if settings.check:
                report = intake.run(self._on_rows)
                ledger.take_up(*again)
                self.notes += self._prompts.notes
                self.estimate = describe(ledger, self._prompts.columns, changed=report.changed)
                self.events.started(self.estimate)
            else:
                ledger.take_up(*again, gone=True)
                intake.begin_unchecked()
        with ledger.transaction():
            retire_replaced(ledger, store)
        metadata = MetadataFile(folder / METADATA_NAME, ledger)
        stack.callback(metadata.close)
        return _Opened(ledger, metadata, store, intake, ledger.counts(), ledger.bill())

    def _open_store(self, folder: Path) -> Store:
        if self._settings.images is None:
            return FolderStore(folder, self._kind)
        objects = Objects(self._settings.images)
        if not objects.conditional:
            self.notes.append(
                f"{objects.url} cannot refuse to overwrite an object, so each name is looked up "
                "first: let no two processes work on the same rows"
            )
        store = BucketStore(objects, spool=folder / SPOOLED)
        if count := store.bring_over():
            self.notes.append(f"{count:,} spooled images were put into the bucket")
        return store

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

    def _keep_record(self, ledger: Ledger, store: Store) -> None:
        """Hold the job to its number of parts, and to the record of it in the bucket."""
        shard, folder = self._rules.shard, self._settings.folder
        present = ledger.get("shard")
        if present not in {None, str(shard)}:
            raise JobError(f"{folder}: this is part {present} of a job, not {shard}")
        if not isinstance(store, BucketStore):
            ledger.set(shard=str(shard))
            return
        begun = json.loads(str(ledger.get("begun") or "{}"))
        own = ledger.get("job_id") or secrets.token_hex(16)
        record = write_record(store.objects, JobRecord(str(own), shard.count, begun))
        where = store.objects.url
        if record.shards != shard.count:
            raise JobError(f"{where}: the job there has {record.shards} parts, not {shard.count}")
        if ledger.get("job_id") not in {None, record.id}:
            raise JobError(f"{where} has the images of another job than {folder}")
        ledger.set(shard=str(shard), job_id=record.id)

    def _share_of_budget(self) -> float | None:
        budget, shard = self._settings.budget, self._rules.shard
        if budget is None or shard.count == 1:
            return budget
        share = budget / shard.count
        self.notes.append(f"part {shard} may spend {share:g} of the {budget:g} credits of the job")
        return share

    def _on_rows(self, count: int) -> None:
        self.progress.total = count
        cancelled = self._task is not None and self._task.cancelling() > self._cancelled_before
        if cancelled or self._interrupted.is_set():
            raise _InterruptedError

    async def _read_more(self, intake: Intake, writer: LedgerWriter) -> bool:
        """Store the rows that have come, or wait for some; return whether there were any."""
        progress, report = self.progress, intake.report
        before = report.states.copy()
        rows: list[Row | RowProblem] = []
        while not (rows or intake.exhausted or progress.phase == "stopping"):
            rows = await in_thread(intake.take)
        if not rows:
            return False
        await writer.do(lambda ledger: intake.add_unchecked(rows))
        progress.total = report.added + report.known + report.bad
        progress.skipped = report.states["done"]
        new = report.states - before
        progress.failed += new["failed"]
        progress.in_doubt += new["in doubt"]
        progress.filtered += new["filtered"]
        return True


class _InterruptedError(Exception):
    """The user does not want to go on, while prompts are still being checked."""


@dataclass(frozen=True, slots=True)
class _Opened:
    ledger: Ledger
    metadata: MetadataFile
    store: Store
    intake: Intake
    counts: Counts
    bill: Bill
