"""`stable-async estimate`: what a prompt file will cost, and how long it takes at least."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stable_async.cli.failures import OK
from stable_async.cli.options import Flag
from stable_async.cli.preview import preview
from stable_async.cli.prompt_options import PromptOptions, PromptsArgument
from stable_async.jobs import JobSettings

__all__ = ["estimate"]


def estimate(
    prompts: PromptsArgument,
    /,
    *,
    out: Annotated[Path | None, Parameter(metavar="DIR")] = None,
    prompt_options: PromptOptions = PromptOptions(),  # noqa: B008 - frozen
    json_summary: Annotated[Flag, Parameter(name="--json")] = False,
) -> int:
    """Print requests, credits, dollars and the least time under the quota.

    The whole file is checked; nothing is sent or written, and no key is needed.

    Exit status: 0 the file can be used; 2 it cannot.

    Args:
        prompts: A .jsonl, .json, .csv, .tsv, .txt or .parquet file, a folder of input files, a glob
            pattern, or - for standard input.
        prompt_options: How prompts become requests.
        out: The folder of a job: then only what it does not have yet is priced.
        json_summary: Print one JSON object.
    """
    source, rules = prompt_options.read(prompts)
    settings = None if out is None else JobSettings(folder=out)
    preview(source, rules, settings, as_json=json_summary, needs_prices=False)
    return OK
