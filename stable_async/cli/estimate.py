"""`stable-async estimate`: what a prompt file will cost, and how long it takes at least."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stable_async.cli.exit_status import OK, UsageError
from stable_async.cli.options import JsonFlag, option_text, reflowed
from stable_async.cli.preview import preview
from stable_async.cli.prompt_options import PromptOptions, PromptsArgument
from stable_async.cli.started_job import started_job
from stable_async.errors import ConfigurationError
from stable_async.jobs import JobSettings, PromptFile
from stable_async.jobs.shard import WHOLE

__all__ = ["estimate"]


@reflowed
def estimate(
    prompts: PromptsArgument | None = None,
    /,
    *,
    out: Annotated[list[str], Parameter(metavar="DIR", negative="", show_default=False)] = [],  # noqa: B006 - only read
    prompt_options: PromptOptions = PromptOptions(),  # noqa: B008 - frozen
    json_summary: JsonFlag = False,
) -> int:
    """Print requests, credits, dollars and the minimum time under the quota.

    The whole file is checked; nothing is sent or written, and no key is needed.

    Exit status: 0 the file can be used; 2 it cannot.

    Args:
        prompts: A .jsonl, .json, .csv, .tsv, .txt or .parquet file, a folder of input files, a glob
            pattern, or - for standard input. Default: those that the job was started with.
        prompt_options: How prompts become requests.
        out: Folder of a job, or the URL of its images: price only what is missing; repeatable.
        json_summary: Print one JSON object.
    """
    if not out and prompts is None:
        raise UsageError("PROMPTS is missing; without it, --out DIR names the job")
    source: PromptFile | None
    first = next(iter(out), None)
    url = first if first is not None and "://" in first else None
    folder = Path(first) if first is not None and url is None else None
    if prompts is None:
        job = started_job(folder, prompt_options, url)
        source, rules = job.source, job.rules
    else:
        source, rules = prompt_options.read(prompts)
    if len(out) > 1:
        rules = replace(rules, shard=WHOLE)
    settings = None if first is None else JobSettings(folder=folder or Path(), images=url)
    parts = out if len(out) > 1 else ()
    try:
        preview(source, rules, settings, parts=parts, as_json=json_summary, needs_prices=False)
    except ConfigurationError as error:
        raise UsageError(option_text(error)) from None
    return OK
