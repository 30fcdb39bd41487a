"""A preview of a run: for `estimate`, `run --dry-run` and the start of `run`."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from stable_async.config import Quota
from stable_async.jobs import JobSettings, PromptFile, PromptRules
from stable_async.jobs.columns import ColumnReport
from stable_async.jobs.estimate import Estimate, estimate_run
from stable_async.jobs.prompt_file import SuspiciousFileError
from stable_async.wording import amount, count, duration

__all__ = ["column_lines", "preview", "start_lines"]


def preview(
    source: PromptFile | None,
    rules: PromptRules,
    settings: JobSettings | None,
    *,
    parts: Sequence[str] = (),
    server: str | None = None,
    as_json: bool,
    needs_prices: bool = True,
) -> None:
    """Print what a run will do to stdout; see `estimate_run`. With JSON, notes go to stderr.

    Raises:
        PromptFileError: The file would be refused.
        JobChangedError: The job was started with other options.
    """
    try:
        found = estimate_run(
            source, rules, settings, parts=parts, server=server, needs_prices=needs_prices
        )
    except SuspiciousFileError as error:
        if as_json:
            print(json.dumps(asdict(error.columns)))
        raise
    if as_json:
        print(json.dumps(found.figures(), default=str))
    else:
        _show(found)
    for note in found.notes:
        print(note, file=sys.stderr if as_json else sys.stdout)


def start_lines(found: Estimate) -> Iterator[str]:
    """Yield the lines that a run prints at its start."""
    price = ""
    if found.new:
        price = (
            f": {count(found.credits, 'credit')} ({found.dollars:,.2f} US dollars), "
            f"at least {duration(found.least_seconds(Quota()))}"
        )
        if found.requests != found.new:  # each asynchronous result is polled
            price += f", {count(found.requests, 'request')}"
        if found.assumed_credits:
            price += f" (assumed, as --price says: {count(found.assumed_credits, 'credit')})"
    parts = [f"{count(found.new, 'row')} to make{price}"]
    for number, what in (
        (found.there, "already made"),
        (found.changed, "changed"),
        (found.gone, "no longer in the file"),
        (found.in_doubt, "in doubt"),
        (found.failed, "failed before"),
        (found.duplicates, "the same as an earlier row, made once"),
    ):
        if number:
            parts.append(f"{number:,} {what}")
    yield "; ".join(parts)
    if found.budget_left is not None and found.over_budget:
        yield (
            f"the budget has {count(found.budget_left, 'credit')} left, and these rows cost "
            f"{amount(found.credits)}: the run may end before its last row"
        )
    yield from column_lines(found.columns)


def column_lines(columns: ColumnReport) -> Iterator[str]:
    """Yield what is done with columns, where that is not obvious."""
    others = (
        ("kept as metadata only", columns.kept),
        ("dropped", columns.dropped),
        ("left out because they contain bytes", columns.left_out),
    )
    if any(names for _, names in others) or set(columns.parameters) != set(
        columns.parameters.values()
    ):
        named = (
            column if column.lower() == target else f"{column} ({target})"
            for column, target in columns.parameters.items()
        )
        yield f"parameters: {', '.join(named)}"
    for what, names in others:
        if names:
            yield f"{what}: {', '.join(names)}"


def _show(found: Estimate) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if found.shares:
        table = Table("service", "model", box=None, pad_edge=False)
        for name in ("rows", "credits"):
            table.add_column(name, justify="right")
        for share in found.shares:
            price = "unknown" if share.credits is None else f"{share.credits:,.2f}"
            table.add_row(share.service, share.model or "", f"{share.rows:,}", price)
        console.print(table)
    for service in sorted({share.service for share in found.shares if share.credits is None}):
        if problem := PromptRules().price_problem(service):
            console.print(problem.text, markup=False)
    for line in start_lines(found):
        console.print(line, markup=False)
    for number, request in enumerate(found.first_requests, start=1):
        text = json.dumps(request, ensure_ascii=False, default=str)
        console.print(f"request {number}: {text}", markup=False)
