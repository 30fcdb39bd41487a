"""Opening of a job's folder for a run: lock it, repair it, check it, read the prompt file."""

from __future__ import annotations

import json
import secrets
import sqlite3
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stable_async.jobs.errors import JobChangedError, JobError, LedgerError, StorageError
from stable_async.jobs.estimate import describe
from stable_async.jobs.intake import Intake
from stable_async.jobs.job_options import (
    JobOptions,
    budget_of,
    changed_error,
    check_place,
    find_differences,
)
from stable_async.jobs.kinds import kind_of_service
from stable_async.jobs.lock import locked
from stable_async.jobs.metadata import MetadataFile
from stable_async.jobs.recovery import (
    METADATA_NAME,
    RUN,
    is_outdated,
    open_ledger,
    remove_unused,
    repair,
    restore,
    retire_replaced,
)
from stable_async.jobs.requeue import requeue
from stable_async.jobs.row import to_json
from stable_async.jobs.shard import WHOLE
from stable_async.jobs.storage.bucket import BucketStore
from stable_async.jobs.storage.folder import FolderStore
from stable_async.jobs.storage.objects import Objects
from stable_async.jobs.storage.record import JobRecord, write_record
from stable_async.jobs.storage.spool import SPOOLED
from stable_async.wording import count

if TYPE_CHECKING:
    from collections.abc import Callable

    from stable_async.jobs.budget import Bill
    from stable_async.jobs.estimate import Estimate
    from stable_async.jobs.kinds import MediaKind
    from stable_async.jobs.ledger import Counts, Ledger
    from stable_async.jobs.lock import FolderLock
    from stable_async.jobs.prompt_file import PromptFile
    from stable_async.jobs.rules import PromptRules
    from stable_async.jobs.settings import JobSettings
    from stable_async.jobs.shard import Shard
    from stable_async.jobs.storage.base import Store

__all__ = ["OpenJob", "open_job"]


def open_job(
    stack: ExitStack,
    settings: JobSettings,
    prompts: PromptFile | None,
    rules: PromptRules,
    *,
    server: str,
    on_rows: Callable[[int], None],
    on_start: Callable[[Estimate], None],
    notes: list[str],
) -> OpenJob:
    """Open a job's folder. This blocks.

    Args:
        stack: Closes what is opened.
        settings: How the job is run.
        prompts: The prompt file; `None` works from the ledger.
        rules: How its rows become images.
        server: Address of the API, or `SANDBOX`.
        on_rows: As for `Intake.run`.
        on_start: Called with what the run will do, once the prompt file is checked.
        notes: Receives messages to the user, in whole sentences.

    Raises:
        PromptFileError: The prompts cannot be used as they are; nothing was changed.
        JobChangedError: The job was started with other options.
        JobLockedError: Another process works on the job.
        JobError: The job cannot begin.
    """
    folder = settings.folder
    refused = ExitStack()  # what to undo if the run is refused
    try:
        if is_new := not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context(locked(folder))
        if [entry.name for entry in folder.iterdir()] == [lock.path.name]:
            stack.enter_context(refused)
            kind = kind_of_service(rules.service)
            refused.callback(remove_unused, folder, kind.folder, itself=is_new)
        options = None
        if prompts is not None:
            if prompts.has_inputs_inside:
                prompts.keep_inputs(folder)
            options = JobOptions.of(prompts, rules, server=server)
        job = OpenJob(stack, lock, settings, rules, options, notes)
        job.plan(prompts, options or job.earlier_options(server), on_rows)
        job.requeue()
        if job.intake is not None and prompts is not None and settings.check:
            on_start(
                describe(
                    job.ledger,
                    prompts.columns,
                    is_whole=rules.are_whole,
                    changed=job.intake.report.changed,
                    resends=settings.resend_doubtful,
                    budget=job.budget,
                    shard=rules.shard,
                )
            )
        job.metadata = MetadataFile(folder / METADATA_NAME, job.ledger)
        stack.callback(job.metadata.close)
        job.counts, job.bill = job.ledger.counts(), job.ledger.bill()
        refused.pop_all()
        return job
    except OSError as error:
        where = error.filename or folder
        raise StorageError(f"{where}: {error.strerror or error}") from error
    except sqlite3.OperationalError as error:
        raise LedgerError(f"{folder}: the ledger cannot be used: {error}") from error
    except sqlite3.Error as error:  # noticed late: see `clean_mark`
        raise LedgerError(
            f"{folder}: the ledger is corrupt ({error}); nothing was sent, and the next run "
            "repairs it"
        ) from error


class OpenJob:
    """A job that `open_job` has made ready to run.

    Attributes:
        lock: The lock of its folder.
        ledger: Has every row, unless the prompt file is read during the run.
        metadata: Up to date.
        store: Checked to be writable.
        intake: Reads the prompt file; `None` if the run works from the ledger.
        counts: Rows by state at the start of the run.
        bill: Charges at the start of the run.
        budget: Credits that all runs of the job may spend; `None` means no limit.
        folder: The folder that input files of rows are relative to.
    """

    store: Store
    ledger: Ledger
    metadata: MetadataFile
    counts: Counts
    bill: Bill
    budget: float | None
    folder: Path

    def __init__(
        self,
        stack: ExitStack,
        lock: FolderLock,
        settings: JobSettings,
        rules: PromptRules,
        options: JobOptions | None,
        notes: list[str],
    ) -> None:
        """Open ledger and store, and settle what the last run left unfinished."""
        folder = settings.folder
        self._stack = stack
        self._settings = settings
        self._rules = rules
        self._notes = notes
        self._record: JobRecord | None = None
        self.lock = lock
        self.intake: Intake | None = None
        self.store = self._open_store(kind_of_service(rules.service))
        self.ledger, rebuilt = open_ledger(folder, self.store, rules.shard)
        stack.callback(self.ledger.close)
        check_place(self.ledger, settings, rules.shard)
        if self.ledger.get("images") is None:
            self.ledger.set(images=settings.images or "")
        self._check_record(rules.shard, options)
        self.store.probe()
        if rebuilt:
            notes.append(rebuilt)
        elif is_outdated(self.ledger, folder, self.store, rules.shard):
            with self.ledger.transaction():
                restored = restore(self.ledger, folder, self.store, rules.shard)
                self.ledger.set(prompts=None)  # the prompt file is to be compared again
            if restored:
                notes.append(f"the ledger is an older copy; found: {restored}")
        self.ledger.set(**{RUN: self.store.begin_run(rules.shard)})
        with self.ledger.transaction():
            repaired = repair(self.ledger, self.store)
        if repaired.adopted:
            notes.append(f"found: {count(repaired.adopted, 'image')} that had just arrived")
        if repaired.in_doubt:
            notes.append(
                f"in doubt: {count(repaired.in_doubt, 'request')} in flight when the last run "
                "ended, which may have been billed; sent again only with --resend-doubtful"
            )

    @property
    def id(self) -> str | None:
        """Id that the parts of the job share; `None` if no bucket has its record."""
        return None if self._record is None else self._record.id

    def _open_store(self, kind: MediaKind) -> Store:
        settings = self._settings
        if settings.images is None:
            return FolderStore(settings.folder, kind)
        objects = Objects(settings.images)
        if not objects.conditional:
            self._notes.append(
                f"{objects.url} cannot refuse to overwrite an object, so each name is looked up "
                "first: let no two processes work on the same rows"
            )
        store = BucketStore(objects, spool=settings.folder / SPOOLED)
        if put := store.upload_spooled():
            self._notes.append(f"put into the bucket: {count(put, 'spooled image')}")
        return store

    def _check_record(self, shard: Shard, options: JobOptions | None) -> None:
        """Refuse another number of parts, or another job in the bucket."""
        ledger, folder = self.ledger, self._settings.folder
        if not isinstance(self.store, BucketStore):
            ledger.set(shard=str(shard))
            return
        known = JobOptions.load(ledger) or options
        shared = {} if known is None else _shared(known)
        identity = str(ledger.get("job_id") or secrets.token_hex(16))
        record = write_record(self.store.objects, JobRecord(identity, shard.count, shared))
        where = self.store.objects.url
        if record.shards != shard.count:
            what = f"{where}: the job there has {record.shards} parts, not {shard.count}"
            raise JobChangedError(what)
        if ledger.get("job_id") not in {None, record.id}:
            raise JobError(f"{where} has the images of another job than {folder}")
        ledger.set(shard=str(shard), job_id=record.id)
        self._record = record
        if record.options and JobOptions.load(ledger) is None:
            # The folder is gone, but the bucket has the record.
            own = "" if shard == WHOLE else str(shard)
            JobOptions.parse({**record.options, "shard": own}).store(ledger)

    def _store_options(self, options: JobOptions) -> None:
        """Store the options of the job in the ledger and in the bucket."""
        options.store(self.ledger)
        record, shared = self._record, _shared(options)
        if record is not None and shared != record.options and isinstance(self.store, BucketStore):
            self._record = replace(record, options=shared)
            write_record(self.store.objects, self._record, replaces=True)

    def earlier_options(self, server: str) -> JobOptions:
        """Return the options that the job was started with, for a run without its own."""
        before = JobOptions.load(self.ledger)
        if before is None:
            raise JobError(f"{self._settings.folder} is not a job yet: name its prompts")
        return replace(before, server=server)

    def plan(
        self,
        prompts: PromptFile | None,
        options: JobOptions,
        on_rows: Callable[[int], None],
    ) -> None:
        """Read the prompt file into the ledger, unless the job was started with other options."""
        ledger, settings, rules = self.ledger, self._settings, self._rules
        self.folder = Path(options.folder)
        before = JobOptions.load(ledger)
        self.budget, notes = budget_of(before, settings)
        self._notes += notes
        options = replace(options, budget=self.budget)
        differences = find_differences(ledger, before, options, settings)
        if prompts is None or not settings.check:
            if differences:
                raise changed_error(settings.folder, differences)
            with ledger.transaction():
                self._store_options(options)
        if prompts is None:
            return
        self.intake = Intake(
            ledger,
            prompts,
            rules,
            replace_changed=settings.replace_changed,
            change=settings.change,
        )
        self._stack.callback(self.intake.close)
        with ledger.transaction():
            if before is not None:
                rules.reprice(ledger, before.price)
            if not settings.check:
                self.intake.begin_unchecked()
                return
            last = ledger.last_position()
            self.intake.run(on_rows)
            if differences:
                # This also rolls back what was read.
                raise changed_error(settings.folder, differences, *ledger.price_after(last))
            self._store_options(options)
        self._notes += prompts.notes

    def requeue(self) -> None:
        """Queue earlier rows that this run makes again, and report the price."""
        ledger, settings = self.ledger, self._settings
        with ledger.transaction():
            self._notes += requeue(ledger, settings, self._rules.shard, self.store.missing)
        with ledger.transaction():
            retire_replaced(ledger, self.store)
        in_doubt = ledger.counts().in_doubt
        if in_doubt and settings.resend_doubtful:
            price = sum(row.price or 0.0 for row in ledger.rows("in doubt"))
            self._notes.append(
                f"{count(in_doubt, 'row')} in doubt: sent again, for {count(price, 'credit')}; may "
                "have been billed already"
            )


def _shared(options: JobOptions) -> dict[str, object]:
    """Return the options that all parts of a job share, as JSON values."""
    shared: dict[str, object] = json.loads(to_json({**asdict(options), "shard": ""}))
    return shared
