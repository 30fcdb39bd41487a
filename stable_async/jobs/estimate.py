"""What a run of a prompt file will do and cost, and how long the quota makes it take."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from stable_async.api.services import SERVICES
from stable_async.jobs.begun import Begun, changed_error
from stable_async.jobs.columns import ColumnReport
from stable_async.jobs.errors import LedgerError, StorageError
from stable_async.jobs.intake import Intake
from stable_async.jobs.kinds import kind_of_service
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.recovery import LEDGER_NAME
from stable_async.jobs.storage.bucket import BucketStore
from stable_async.jobs.storage.folder import FolderStore
from stable_async.jobs.storage.objects import Objects
from stable_async.jobs.take_up import take_up

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from stable_async.config import Quota
    from stable_async.jobs.prompt_file import PromptFile
    from stable_async.jobs.row import State
    from stable_async.jobs.rules import PromptRules
    from stable_async.jobs.settings import JobSettings

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
        columns: How the columns of the file are used.
        first_requests: The first rows that it sends, in full.
    """

    shares: tuple[Share, ...]
    there: int = 0
    changed: int = 0
    gone: int = 0
    in_doubt: int = 0
    failed: int = 0
    duplicates: int = 0
    columns: ColumnReport = field(default_factory=ColumnReport)
    first_requests: tuple[Mapping[str, object], ...] = ()

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
    def dollars(self) -> float:
        """The price in US dollars."""
        return round(self.credits * DOLLARS_PER_CREDIT, 4)

    def least_seconds(self, quota: Quota) -> float:
        """Return the seconds from the first to the last request at the full rate of a quota."""
        waiting = self.requests - quota.requests
        if waiting <= 0:
            return 0.0
        return quota.window + waiting * quota.window / quota.requests


def estimate_run(
    prompts: PromptFile,
    rules: PromptRules,
    settings: JobSettings | None = None,
    *,
    needs_prices: bool = True,
) -> Estimate:
    """Read and check a whole prompt file, and return what a run of it would do. Nothing is written.

    Args:
        prompts: The file.
        rules: How its rows become requests.
        settings: Settings of the run, whose job may exist already; `None` means a new job.
        needs_prices: Refuse rows of unknown prices, as a run does.

    Raises:
        PromptFileError: The prompts cannot be used as they are.
        JobChangedError: The job was begun with other options, and a run would be refused.
        LedgerError: The job's ledger cannot be read.
        StorageError: The bucket of its images cannot be read.
    """
    with (
        TemporaryDirectory(prefix="stable-async-") as temporary,
        closing(_copy_of_ledger(settings, Path(temporary))) as ledger,
        ledger.transaction(),
    ):
        replace_changed = settings is not None and settings.replace_changed
        intake = Intake(
            ledger,
            prompts,
            rules,
            replace_changed=replace_changed,
            only_look=True,
            needs_prices=needs_prices,
        )
        last = ledger.last_position()
        intake.run()
        before = Begun.load(ledger)
        if settings is not None:
            if before is not None and ledger.has_charges() and not settings.change:
                now = Begun.of(prompts, rules, server=before.server)
                if differences := before.differences(now):
                    raise changed_error(settings.folder, differences, *ledger.price_after(last))
            missing = partial(_missing, ledger, settings, rules)
            prompts.notes += take_up(ledger, settings, rules.shard, missing)
        return describe(
            ledger,
            prompts.columns,
            changed=intake.report.changed,
            resends=settings is not None and settings.resend_doubtful,
        )


def _missing(
    ledger: Ledger, settings: JobSettings, rules: PromptRules, names: Iterable[str]
) -> list[str]:
    """Return which image files of a job are gone."""
    url = ledger.get("images") or settings.images
    if not url:
        return FolderStore(settings.folder, kind_of_service(rules.service)).missing(names)
    try:
        return BucketStore(Objects(str(url), prove=False)).missing(names)
    except OSError as error:
        raise StorageError(f"{url}: {error.strerror or error}") from error


def describe(
    ledger: Ledger, columns: ColumnReport, *, changed: int = 0, resends: bool = False
) -> Estimate:
    """Return what a run does whose prompt file has been read into a ledger.

    Args:
        ledger: The ledger of the job.
        columns: The columns of the prompt file.
        changed: Known rows whose content has changed.
        resends: Whether it also sends the rows that are in doubt.
    """
    counts = ledger.counts()
    states = (*IN_DOUBT, *WAITING) if resends else WAITING
    return Estimate(
        shares=tuple(Share(*values) for values in ledger.outstanding(*states)),
        there=counts.done + counts.filtered,
        changed=changed,
        gone=ledger.count_gone(),
        in_doubt=counts.in_doubt + counts.in_flight,
        failed=counts.failed,
        duplicates=ledger.count_duplicates(),
        columns=columns,
        first_requests=tuple(islice(_requests(ledger, states), FIRST_REQUESTS)),
    )


def _requests(ledger: Ledger, states: Iterable[State]) -> Iterator[dict[str, object]]:
    """Yield the first requests of a run, in the order in which it sends them."""
    for state in states:
        for row in ledger.rows(state, limit=FIRST_REQUESTS):
            request: dict[str, object] = {"id": row.id, "service": row.service, **row.fields}
            if row.seed is not None:
                request["seed"] = row.seed
            yield request | {"credits": row.price if row.generation_id is None else 0.0}


def _copy_of_ledger(settings: JobSettings | None, temporary: Path) -> Ledger:
    """Return a copy of the ledger of a job, or an empty one."""
    path = None if settings is None else settings.folder / LEDGER_NAME
    if path is None or not path.exists() or not path.stat().st_size:
        return Ledger.temporary()
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
        return Ledger.open(copy)
    except sqlite3.Error as error:
        raise LedgerError(f"{path}: {error}") from error
