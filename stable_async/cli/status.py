"""`stable-async status`: the progress of a job, from another terminal."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stable_async.cli.exit_status import OK, UsageError
from stable_async.cli.options import JsonFlag, reflowed
from stable_async.jobs.estimate import DOLLARS_PER_CREDIT
from stable_async.jobs.status import JobStatus, job_status
from stable_async.wording import amount, count, duration

__all__ = ["status"]

REASONS_SHOWN = 5


@reflowed
def status(
    *folders: Annotated[str, Parameter(name="DIR")],  # cyclopts reads a Path as JSON after "["
    json_summary: JsonFlag = False,
) -> int:
    """Print the progress of a job, running or not, from its ledger.

    Args:
        folders: Folder of the job, or folders of all its parts.
        json_summary: Print one JSON object.
    """
    if not folders:
        raise UsageError("status: DIR is missing; see stable-async status --help")
    found = job_status(*map(Path, folders))
    if json_summary:
        facts = asdict(found)
        print(json.dumps(facts.pop("counts") | {"total": found.counts.total} | facts))
        return OK
    for line in _lines(", ".join(folders), found):
        print(line)
    return OK


def _lines(name: str, found: JobStatus) -> list[str]:
    counts = found.counts
    left = counts.waiting + counts.in_flight + counts.again
    share = f" ({100 * counts.done // counts.total} %)" if counts.total else ""
    lines = [f"{name}: {'running' if found.running else 'not running'}"]
    lines.append(f"{counts.done:,} of {count(counts.total, 'row')} done{share}, {left:,} left")
    others = [
        f"{number:,} {what}"
        for number, what in (
            (counts.in_flight if found.running else 0, "in flight"),
            (counts.failed, "failed"),
            (counts.filtered, "filtered"),
            (counts.in_doubt, "in doubt"),
        )
        if number
    ]
    if others:
        lines.append(", ".join(others))
    dollars = found.spent * DOLLARS_PER_CREDIT
    money = [f"{count(found.spent, 'credit')} spent ({dollars:,.2f} US dollars)"]
    if found.credits_in_doubt:
        money.append(f"{amount(found.credits_in_doubt)} in doubt")
    if found.credits_left:
        money.append(f"{amount(found.credits_left)} to go")
    lines.append(", ".join(money))
    if found.running:
        pace = f"{found.requests_per_second:g} requests/s in the last minute"
        ahead = "" if found.seconds_left is None else f", {duration(found.seconds_left)} left"
        lines.append(pace + ahead)
    if found.failures:
        reasons = list(found.failures.items())[:REASONS_SHOWN]
        lines.append("without a result: " + ", ".join(f"{why} ({n:,})" for why, n in reasons))
    return lines
