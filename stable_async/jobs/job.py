"""A job: a file of prompts that becomes a folder of images, in as many runs as it takes."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from stable_async.arguments import checked_setting, instance, or_none
from stable_async.errors import ConfigurationError, StabilityError
from stable_async.files import in_thread
from stable_async.jobs.attempt import RunContext
from stable_async.jobs.budget import Budget, DiskSpace
from stable_async.jobs.errors import JobError
from stable_async.jobs.events import JobEvents
from stable_async.jobs.failure_file import FAILURES_NAME, write_failures
from stable_async.jobs.gate import Gate
from stable_async.jobs.job_options import check_chosen
from stable_async.jobs.kinds import kind_of_service
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.ledger_writer import LedgerWriter
from stable_async.jobs.open_files import raise_file_limit
from stable_async.jobs.opening import open_job
from stable_async.jobs.progress import Left, Progress, Summary
from stable_async.jobs.prompt_file import PromptFile
from stable_async.jobs.recovery import close_ledger
from stable_async.jobs.rules import PromptRules
from stable_async.jobs.runner import Runner
from stable_async.jobs.settings import JobSettings
from stable_async.quota.shared import RedisQuota
from stable_async.wording import amount, count

if TYPE_CHECKING:
    from stable_async.client import StabilityClient
    from stable_async.jobs.budget import Bill
    from stable_async.jobs.errors import RowProblem
    from stable_async.jobs.estimate import Estimate
    from stable_async.jobs.intake import Intake
    from stable_async.jobs.kinds import MediaKind
    from stable_async.jobs.ledger import Counts
    from stable_async.jobs.opening import OpenJob
    from stable_async.jobs.progress import Ending
    from stable_async.jobs.row import Row
    from stable_async.jobs.storage.base import Store

__all__ = ["Job"]

REFUSED_LISTED = 20
# How many image files are looked up at a time.
NAMES_AT_A_TIME = 1_000


class Job:
    """One run of a job.

    Attributes:
        progress: Its progress; may be read at any time.
        notes: Messages to the user about the start, in whole sentences.
        estimate: What the run does, known once the prompt file is checked; `None` without a check.
        events: Receives what happens.
        kind: The kind of media that it makes.
        left: What is left for the next run; known at the end.
        refused: Id, row and error of the first rows that failed; a filtered one has no error.
    """

    def __init__(
        self, settings: JobSettings, prompts: PromptFile | None, rules: PromptRules
    ) -> None:
        """Prepare; nothing is read or written before `run`.

        Without `prompts` the job works from the rows in its ledger.

        Raises:
            ConfigurationError: An argument is something else, or they contradict each other.
        """
        checked_setting("settings", settings, instance(JobSettings, "JobSettings"))
        checked_setting("prompts", prompts, or_none(instance(PromptFile, "a PromptFile")))
        checked_setting("rules", rules, instance(PromptRules, "PromptRules"))
        check_chosen(prompts, rules, check=settings.check)
        self._settings = settings
        self._prompts = prompts
        self._rules = rules
        self.kind: MediaKind = kind_of_service(rules.service)
        self._gate: Gate | None = None
        self._interrupted = threading.Event()
        self._task: asyncio.Task[object] | None = None
        self._cancelled_before = 0
        self.notes: list[str] = []
        self.progress: Progress = Progress(0.0, budget=settings.budget, store=settings.images)
        self.estimate: Estimate | None = None
        self.events: JobEvents = JobEvents()
        self.refused: list[tuple[str, int, str | None]] = []
        self.left: Left = Left()
        self._budget_parts: int | None = 1

    @property
    def images(self) -> str:
        """The folder or URL of the images."""
        return self._settings.images or str(self._settings.folder / self.kind.folder)

    @property
    def interrupted(self) -> bool:
        """Whether `interrupt` was called."""
        return self._interrupted.is_set()

    def interrupt(self) -> None:
        """Send nothing new, so that `run` ends once everything in flight has arrived.

        Call it in the event loop of `run`. To end at once, cancel `run` instead.
        """
        self._interrupted.set()
        if self._gate is not None:
            self._gate.stop()

    async def run(self, client: StabilityClient) -> Summary:
        """Make what is missing, and return a summary.

        Raises:
            ConfigurationError: `run` was called before.
            PromptFileError: The prompts cannot be used as they are; nothing was sent.
            JobLockedError: Another process works on the job.
            JobError: The job cannot begin.
        """
        if self._task is not None:
            raise ConfigurationError("a Job can be run once: create another one to run it again")
        self._task = asyncio.current_task()
        self._cancelled_before = self._task.cancelling() if self._task is not None else 0
        self.progress.started = asyncio.get_running_loop().time()
        raise_file_limit(self._settings.max_in_flight)
        stack = ExitStack()
        try:
            opened = await in_thread(
                open_job,
                stack,
                self._settings,
                self._prompts,
                self._rules,
                server=self._settings.server or client.base_url,
                on_rows=self._on_rows,
                on_start=self._on_start,
                notes=self.notes,
            )
            summary = await self._run(client, opened)
            if summary.error is None:
                await in_thread(close_ledger, opened.ledger, self._settings.folder)
        except _InterruptedError:
            summary = self._summary("interrupted")
        except StabilityError as error:
            self.events.failed(error)
            raise
        finally:
            await in_thread(stack.close)
        self.events.ended(summary)
        return summary

    async def _run(self, client: StabilityClient, opened: OpenJob) -> Summary:
        settings, progress, store = self._settings, self.progress, opened.store
        budget = self._budget(client, opened)
        spent_before = opened.bill.spent
        progress.total, progress.skipped = opened.counts.total, opened.counts.done
        self._settle(opened.counts, opened.bill)
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
                client=client.with_options(priority="bulk"),
                ledger=writer,
                images=images,
                budget=budget,
                disk=DiskSpace(store.free_space),
                gate=gate,
                progress=progress,
                lock=opened.lock,
                folder=opened.folder,
                max_in_flight=settings.max_in_flight,
                on_result=self.events.settled,
            )
            runner = Runner(
                context,
                passes=settings.passes,
                resend_doubtful=settings.resend_doubtful,
                read_more=None
                if settings.check or opened.intake is None
                else partial(self._read_more, opened.intake, writer),
            )
            if not gate.stopping:
                progress.phase = "running"
            files = asyncio.create_task(self._look_at_files(store, writer))
            try:
                await runner.run()
                await self._finish(files)
                await writer.do(self._settle_all)
                await budget.aclose()
            except JobError as error:
                gate.stop(error)
            finally:
                files.cancel()
                await asyncio.gather(files, return_exceptions=True)
        ending: Ending = "complete"
        if self._interrupted.is_set():
            ending = "interrupted"
        elif gate.error is not None:
            ending = "stopped"
        elif runner.over_budget:
            ending = "budget"
        elif progress.without_image or progress.missing:
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
            missing=progress.missing,
            credits=round(bill.spent - spent_before, 6),
            spent=round(bill.spent, 6),
            credits_in_doubt=round(bill.in_doubt, 6),
            requests=progress.requests,
            rate_limited=progress.rate_limited,
            seconds=round(asyncio.get_running_loop().time() - progress.started, 3),
            peak_in_flight=progress.peak_in_flight,
            error=None if error is None else str(error),
        )

    def _settle_all(self, ledger: Ledger) -> None:
        """Write the failures, and say how the run leaves the job; in the thread of the ledger."""
        try:
            write_failures(self._settings.folder, ledger)
        except OSError as error:
            self.notes.append(f"{FAILURES_NAME} could not be written: {error.strerror or error}")
        self.refused = ledger.refused(limit=REFUSED_LISTED)
        outstanding = ledger.outstanding()
        self.left = Left(
            sum([rows for _, _, rows, _ in outstanding]),
            sum([price or 0.0 for *_, price in outstanding]),
            self._budget_parts,
        )
        self._settle(ledger.counts(), ledger.bill())

    def _settle(self, counts: Counts, bill: Bill) -> None:
        """Count rows without a good image, and charges, as the ledger does."""
        progress = self.progress
        progress.bill = bill
        progress.filtered, progress.failed = counts.filtered, counts.failed
        progress.again, progress.in_doubt = counts.again, counts.in_doubt

    async def _look_at_files(self, store: Store, writer: LedgerWriter) -> None:
        """Remove what a crash has left, and find images whose files are gone."""
        await in_thread(store.tidy)
        after, first, price = 0, "", 0.0
        # Without a check the rows of the file are not known yet.
        names = partial(Ledger.image_names, limit=NAMES_AT_A_TIME, gone=not self._settings.check)
        while some := await writer.do(partial(names, after=after)):
            after = some[-1][0]
            missing = await in_thread(store.missing, [name for _, name, _ in some])
            if missing:
                gone = set(missing)
                first = first or missing[0]
                price += sum(cost or 0.0 for _, name, cost in some if name in gone)
                self.progress.missing += len(missing)
        if first:
            self.notes.append(
                f"missing: {self.progress.missing:,} of the image files, such as {first}; "
                f"--remake-missing makes these again, for {count(price, 'credit')}"
            )

    async def _finish(self, files: asyncio.Task[None]) -> None:
        """Wait for the check of the files, unless the user has interrupted twice."""
        if self._interrupted.is_set():
            return
        try:
            await files
        except OSError as error:
            self.notes.append(f"the image files could not be checked: {error}")

    def _on_start(self, estimate: Estimate) -> None:
        self.estimate = estimate
        self.events.started(estimate)

    def _budget(self, client: StabilityClient, opened: OpenJob) -> Budget:
        """Return what this part of the job may spend.

        The budget of the whole job is stored beside the quota of its parts, under the id that they
        have in common. Without a shared quota each part has its share.
        """
        limit, shard = opened.budget, self._rules.shard
        self.progress.budget = limit
        if limit is None or shard.count == 1:
            return Budget(limit, opened.bill)
        share = shard.share_of_budget(limit)
        quota = client.shared_quota
        if isinstance(quota, RedisQuota) and opened.id is not None:
            from stable_async.jobs.redis_budget import RedisBudget

            shared = RedisBudget(quota.url, opened.id, shard)
            self._budget_parts = None
            return Budget(limit, opened.bill, shared=shared, share=share)
        self.progress.budget = share
        self._budget_parts = shard.count
        self.notes.append(
            f"part {shard} may spend {amount(share)} of the {count(limit, 'credit')} of the job"
        )
        return Budget(share, opened.bill)

    def _on_rows(self, count: int) -> None:
        self.progress.total = count
        if self.progress.phase == "opening":
            self.progress.phase = "checking"
        cancelled = self._task is not None and self._task.cancelling() > self._cancelled_before
        if cancelled or self._interrupted.is_set():
            raise _InterruptedError

    async def _read_more(self, intake: Intake, writer: LedgerWriter) -> bool:
        """Store the rows that have arrived, or wait for some; return whether there were any."""
        progress, report = self.progress, intake.report
        before = report.states.copy()
        rows: list[Row | RowProblem] = []
        while not (rows or intake.exhausted or progress.phase == "stopping"):
            rows = await in_thread(intake.take)
        if not rows:
            if intake.exhausted:
                await writer.do(lambda ledger: intake.end_unchecked())
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
    """The user interrupted while prompts were still being checked."""
