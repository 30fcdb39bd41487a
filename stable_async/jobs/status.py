"""The progress of a job, read from its ledger: from another terminal, running or not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stable_async.jobs.job_view import reading_job
from stable_async.jobs.lock import is_locked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stable_async.jobs.ledger import Counts

__all__ = ["JobStatus", "job_status"]

# Rates are averaged over this many seconds.
RATE_WINDOW = 60


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The progress of a job.

    Attributes:
        running: Whether a process is working on it.
        counts: Rows of the current prompt file, by state.
        spent: Credits that all runs have spent.
        credits_in_doubt: Credits that may have been billed without a result.
        credits_left: Price of the rows that are still to be sent, as far as it is known.
        requests: Requests sent by all runs.
        rate_limited: 429 answers to all runs.
        requests_per_second: Average over the last minute.
        seconds_left: Time until the rest is done at the pace of the last minute; `None` if not
            known.
        failures: Rows without a result, by reason.
    """

    running: bool
    counts: Counts
    spent: float
    credits_in_doubt: float
    credits_left: float
    requests: int
    rate_limited: int
    requests_per_second: float
    seconds_left: float | None
    failures: Mapping[str, int]


def job_status(*folders: Path) -> JobStatus:
    """Return the progress of the job in a folder, or in those of all its parts. Changes nothing.

    Raises:
        JobError: A folder is not a job, the folders are not parts of one job, or a ledger cannot be
            read.
    """
    running = any(map(is_locked, folders))
    with reading_job(folders) as view:
        ledger = view.ledger
        counts, bill, departures = ledger.counts(), ledger.bill(), ledger.departures()
        failures = ledger.failures_by_reason()
        left = sum(price or 0.0 for *_, price in ledger.outstanding())
        recent = ledger.finished_since(time.time() - RATE_WINDOW)
    begin = int(time.time()) - RATE_WINDOW
    rate = sum(sent for second, sent, _ in departures if second > begin) / RATE_WINDOW
    waiting = counts.waiting + counts.in_flight
    return JobStatus(
        running=running,
        counts=counts,
        spent=round(bill.spent, 6),
        credits_in_doubt=round(bill.in_doubt, 6),
        credits_left=round(left, 6),
        requests=sum(sent for _, sent, _ in departures),
        rate_limited=sum(refused for *_, refused in departures),
        requests_per_second=round(rate, 2),
        seconds_left=waiting * RATE_WINDOW / recent if running and recent else None,
        failures=failures,
    )
