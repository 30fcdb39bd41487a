"""What a run of a prompt file will do and cost, and how long the quota makes it take."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from stable_async.api.services import SERVICES, UNPRICED
from stable_async.config import Quota
from stable_async.jobs.clean_mark import has_clean_mark
from stable_async.jobs.columns import ColumnReport
from stable_async.jobs.errors import LedgerError, storage_errors
from stable_async.jobs.intake import Intake
from stable_async.jobs.job_options import (
    JobOptions,
    budget_of,
    changed_error,
    check_chosen,
    check_place,
    find_differences,
)
from stable_async.jobs.job_view import reading_job
from stable_async.jobs.kinds import kind_of_service
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.recovery import LEDGER_NAME, read_options_of_bucket
from stable_async.jobs.requeue import requeue
from stable_async.jobs.shard import WHOLE
from stable_async.jobs.storage.bucket import BucketStore
from stable_async.jobs.storage.folder import FolderStore
from stable_async.jobs.storage.objects import Objects

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from stable_async.jobs.prompt_file import PromptFile
    from stable_async.jobs.row import State
    from stable_async.jobs.rules import PromptRules
    from stable_async.jobs.settings import JobSettings
    from stable_async.jobs.shard import Shard

__all__ = ["DOLLARS_PER_CREDIT", "Estimate", "Share", "describe", "estimate_run"]

# https://platform.stability.ai/pricing, read 2026-09-22: one credit is one US cent.
DOLLARS_PER_CREDIT = 0.01
FIRST_REQUESTS = 3
WAITING: tuple[State, ...] = ("waiting", "again")
# Claimed, without a result: what was in flight when a run was killed is in doubt in the next one.
IN_DOUBT: tuple[State, ...] = ("in doubt", "in flight")


@dataclass(frozen=True, slots=True)
class Share:
    """The share of one service and model in a run.

    Attributes:
        service: Its name.
        model: The model, where rows name one.
        rows: How many.
        credits: Their price; `None` where no source states one. Accepted generations are already
            paid for.
    """

    service: str
    model: str | None
    rows: int
    credits: float | None

    @property
    def requests(self) -> int:
        """The fewest requests: one for each row, and one poll for each asynchronous result."""
        service = SERVICES.get(self.service)
        return self.rows * (2 if service is not None and service.asynchronous else 1)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will do.

    Attributes:
        shares: The rows that it sends, by service and model.
        there: Rows that have a result, filtered ones included.
        changed: Known rows whose content has changed, and which are made from it.
        gone: Results of the job that are no longer in the prompt file.
        in_doubt: Rows that may have been billed; included in `shares` only if they are resent.
        failed: Rows that were refused for good in earlier runs.
        duplicates: Rows that repeat an earlier one, seed included; made once.
        budget_left: Credits that earlier runs have left of the budget; `None` without a budget.
        columns: How the columns of the file are used.
        first_requests: The first rows that it sends, in full.
        notes: Messages to the user, in whole sentences.
    """

    shares: tuple[Share, ...]
    there: int = 0
    changed: int = 0
    gone: int = 0
    in_doubt: int = 0
    failed: int = 0
    duplicates: int = 0
    budget_left: float | None = None
    columns: ColumnReport = field(default_factory=ColumnReport)
    first_requests: tuple[Mapping[str, object], ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def new(self) -> int:
        """Rows that it sends."""
        return sum(share.rows for share in self.shares)

    @property
    def requests(self) -> int:
        """The fewest requests that the run takes."""
        return sum(share.requests for share in self.shares)

    @property
    def credits(self) -> float:
        """The price, as far as it is known."""
        return round(sum(share.credits or 0.0 for share in self.shares), 6)

    @property
    def assumed_credits(self) -> float:
        """The part of the price that no source states: what the rules say to count."""
        assumed = (share.credits or 0.0 for share in self.shares if share.service in UNPRICED)
        return round(sum(assumed), 6)

    @property
    def dollars(self) -> float:
        """The price in US dollars."""
        return round(self.credits * DOLLARS_PER_CREDIT, 4)

    @property
    def over_budget(self) -> bool:
        """Whether the budget may end the run before its last row."""
        return self.budget_left is not None and self.credits > self.budget_left

    def figures(self) -> dict[str, object]:
        """Return everything but the notes as JSON values; docs/events.md has the schema."""
        return {
            "new": self.new,
            "there": self.there,
            "gone": self.gone,
            "changed": self.changed,
            "in_doubt": self.in_doubt,
            "failed": self.failed,
            "duplicates": self.duplicates,
            "requests": self.requests,
            "credits": self.credits,
            "assumed_credits": self.assumed_credits,
            "dollars": self.dollars,
            "budget_left": self.budget_left,
            "least_seconds": round(self.least_seconds(Quota()), 1),
            "services": [asdict(share) for share in self.shares],
            **asdict(self.columns),
            "first_requests": list(self.first_requests),
        }

    def least_seconds(self, quota: Quota) -> float:
        """Return the seconds from the first to the last request at the full rate of a quota."""
        waiting = self.requests - quota.requests
        if waiting <= 0:
            return 0.0
        return quota.window + waiting * quota.window / quota.requests


def estimate_run(
    prompts: PromptFile | None,
    rules: PromptRules,
    settings: JobSettings | None = None,
    *,
    parts: Sequence[str] = (),
    server: str | None = None,
    needs_prices: bool = True,
) -> Estimate:
    """Read and check a whole prompt file, and return what a run of it would do. Nothing is written.

    If the job's folder is gone or new and its images are in a bucket, the bucket is read.

    Args:
        prompts: The file; `None` works from the ledger.
        rules: How its rows become requests.
        settings: Settings of the run, whose job may exist already; `None` means a new job.
        parts: Folders of all parts of the job; empty if it is in one.
        server: Address of the API, or `SANDBOX`; `None` means that of the job, wherever its images
            are.
        needs_prices: Refuse rows of unknown prices, as a run does.

    Raises:
        ConfigurationError: The rules choose rows, and a run could not follow them.
        PromptFileError: The prompts cannot be used as they are.
        JobChangedError: The job was started with other options, and a run would be refused.
        LedgerError: The job's ledger cannot be read.
        StorageError: The bucket of its images cannot be read.
    """
    check_chosen(prompts, rules, check=settings is None or settings.check)
    with (
        TemporaryDirectory(prefix="stable-async-") as temporary,
        _opened(settings, rules, parts, Path(temporary)) as ledger,
        ledger.transaction(),
    ):
        if settings is not None and server is not None and not parts:
            check_place(ledger, settings, rules.shard)
        before, changed, last = JobOptions.load(ledger), 0, ledger.last_position()
        if prompts is not None:
            if before is not None:
                rules.reprice(ledger, before.price)
            intake = Intake(
                ledger,
                prompts,
                rules,
                replace_changed=settings is not None and settings.replace_changed,
                change=settings is not None and settings.change,
                only_look=True,
                needs_prices=needs_prices,
            )
            changed = intake.run().changed
        budget: float | None = None
        notes: list[str] = []
        if settings is not None:
            budget, notes = budget_of(before, settings)
            if before is not None:
                now = replace(before, server=server or before.server)
                if prompts is not None:
                    now = JobOptions.of(prompts, rules, server=now.server)
                if differences := find_differences(ledger, before, now, settings):
                    raise changed_error(settings.folder, differences, *ledger.price_after(last))
            missing = partial(_missing, ledger, settings, rules)
            notes += requeue(ledger, settings, rules.shard, missing)
        if prompts is not None:
            notes[:0] = prompts.notes
        return describe(
            ledger,
            ColumnReport() if prompts is None else prompts.columns,
            is_whole=rules.are_whole,
            changed=changed,
            resends=settings is not None and settings.resend_doubtful,
            budget=budget,
            shard=rules.shard,
            notes=notes,
        )


def _missing(
    ledger: Ledger, settings: JobSettings, rules: PromptRules, names: Iterable[str]
) -> list[str]:
    """Return which image files of a job are gone."""
    url = ledger.get("images") or settings.images
    if not url:
        return FolderStore(settings.folder, kind_of_service(rules.service)).missing(names)
    with storage_errors(str(url)):
        return BucketStore(Objects(str(url), probe=False)).missing(names)


def describe(
    ledger: Ledger,
    columns: ColumnReport,
    *,
    is_whole: bool = True,
    changed: int = 0,
    resends: bool = False,
    budget: float | None = None,
    shard: Shard = WHOLE,
    notes: Sequence[str] = (),
) -> Estimate:
    """Return what a run of the rows in a ledger does.

    Args:
        ledger: The ledger.
        columns: How the columns of the file are used.
        is_whole: Whether rows that are not listed are not in the file; otherwise a limit or a
            sample may leave them out.
        changed: Known rows whose content has changed.
        resends: Whether doubtful rows are sent.
        budget: Credits that all runs of the job may spend; `None` means no limit.
        shard: The part of the job, which has its share of the budget.
        notes: Messages to the user.
    """
    counts = ledger.counts()
    left = None if budget is None else shard.share_of_budget(budget) - ledger.bill().total
    states = (*IN_DOUBT, *WAITING) if resends else WAITING
    return Estimate(
        shares=tuple(Share(*values) for values in ledger.outstanding(*states)),
        there=counts.done + counts.filtered,
        changed=changed,
        gone=ledger.count_gone() if is_whole else 0,
        in_doubt=counts.in_doubt + counts.in_flight,
        failed=counts.failed,
        duplicates=ledger.count_duplicates(),
        budget_left=None if left is None else round(max(left, 0.0), 6),
        columns=columns,
        first_requests=tuple(islice(_requests(ledger, states), FIRST_REQUESTS)),
        notes=tuple(notes),
    )


def _requests(ledger: Ledger, states: Iterable[State]) -> Iterator[dict[str, object]]:
    """Yield the first requests of a run, in the order in which it sends them."""
    for state in states:
        for row in ledger.rows(state, limit=FIRST_REQUESTS):
            request: dict[str, object] = {"id": row.id, "service": row.service, **row.fields}
            if row.seed is not None:
                request["seed"] = row.seed
            yield request | {"credits": row.price if row.generation_id is None else 0.0}


@contextmanager
def _opened(
    settings: JobSettings | None, rules: PromptRules, parts: Sequence[str], temporary: Path
) -> Iterator[Ledger]:
    """Open a ledger that may be changed, with what is known of a job."""
    if parts:
        with reading_job(parts) as view:
            options = JobOptions.load(view.ledger)
            if options is not None:
                replace(options, shard="").store(view.ledger)
            yield view.ledger
        return
    path = None if settings is None else settings.folder / LEDGER_NAME
    if path is not None and path.exists() and path.stat().st_size:
        with closing(_copy(path, temporary)) as ledger:
            yield ledger
        return
    with closing(Ledger.temporary()) as ledger:
        if settings is not None and settings.images is not None:
            _take_in_bucket(ledger, settings.images, rules.shard)
        yield ledger


def _take_in_bucket(ledger: Ledger, url: str, shard: Shard) -> None:
    found = read_options_of_bucket(url)
    if found is None:
        return
    options, _ = found
    with ledger.transaction(), storage_errors(url):
        for facts, replaced in BucketStore(Objects(url, probe=False)).all_facts(shard.has):
            ledger.adopt(facts, replaced=replaced)
        replace(options, shard="" if shard == WHOLE else str(shard)).store(ledger)


def _copy(path: Path, temporary: Path) -> Ledger:
    """Return a copy of a ledger."""
    copy = temporary / LEDGER_NAME
    log = path.with_name(f"{path.name}-wal")
    # Without a write-ahead log nobody has it open, and SQLite need not create one to read.
    how = "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"
    try:
        # A snapshot: the job may be running.
        with (
            closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        return Ledger.open(copy, is_whole=has_clean_mark(path))
    except sqlite3.Error as error:
        raise LedgerError(f"{path}: {error}") from error
