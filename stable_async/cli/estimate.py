"""`stable-async estimate`: what a file of prompts will cost, and how long it takes at least."""

import json
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from stable_async.cli.failures import OK
from stable_async.cli.options import Flag
from stable_async.cli.prompt_options import PromptOptions, PromptsArgument
from stable_async.cli.texts import duration
from stable_async.config import Quota
from stable_async.jobs.estimate import Estimate, estimate_prompts

__all__ = ["estimate"]


def estimate(
    prompts: PromptsArgument,
    /,
    *,
    prompt_options: PromptOptions = PromptOptions(),  # noqa: B008 - frozen
    json_summary: Annotated[Flag, Parameter(name="--json")] = False,
) -> int:
    """Tell requests, credits, dollars, and the least time that the quota makes them take.

    The whole file is checked; nothing is sent.

    Args:
        prompts: A .jsonl, .csv, .tsv, .txt or .parquet file, .gz or not, or - for standard input.
        prompt_options: How prompts become requests.
        json_summary: Print one JSON object.
    """
    source, rules = prompt_options.read(prompts)
    found = estimate_prompts(source, rules)
    seconds = found.least_seconds(Quota())
    if json_summary:
        print(
            json.dumps(
                {
                    "requests": found.requests,
                    "credits": found.credits,
                    "dollars": found.dollars,
                    "seconds": round(seconds, 1),
                }
            )
        )
    else:
        _show(found, seconds)
    return OK


def _show(found: Estimate, seconds: float) -> None:
    table = Table("service", "model", box=None, pad_edge=False)
    for name in ("images", "credits"):
        table.add_column(name, justify="right")
    for share in found.shares:
        price = "unknown" if share.credits is None else f"{share.credits:,.2f}"
        table.add_row(share.service, share.model or "", f"{share.images:,}", price)
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"{found.requests:,} requests, {found.credits:,.2f} credits, "
        f"{found.dollars:,.2f} US dollars, {duration(seconds)} at least"
    )
