"""The options of a job that was started before, for commands without PROMPTS."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

from stable_async.cli.exit_status import UsageError
from stable_async.cli.prompt_options import PromptOptions
from stable_async.jobs import PromptFile, PromptFileError, PromptRules
from stable_async.jobs.job_options import JobOptions
from stable_async.jobs.recovery import read_options, read_options_of_bucket

__all__ = ["StartedJob", "started_job"]


@dataclass(frozen=True, slots=True)
class StartedJob:
    """A job as it was started.

    Attributes:
        source: Its prompt file; `None` if that could be read only once.
        rules: How its rows become requests.
        server: Address of the API, or `SANDBOX`.
        images: URL of its images; `None`: they are in its folder.
    """

    source: PromptFile | None
    rules: PromptRules
    server: str
    images: str | None


def started_job(out: Path | None, options: PromptOptions, images: str | None = None) -> StartedJob:
    """Return the job in a folder, or, if the folder is new or lost, the job with images at a URL.

    Only `limit` and `sample` of the options apply, and `shard` if the folder is lost. Others may
    only be those of the job, as defaults in `stable-async.toml` are.

    Raises:
        UsageError: There is no job, or it has other options.
    """
    found = None if out is None else read_options(out)
    if found is not None:
        started, images = found
        if options.shard not in {None, started.shard}:
            raise UsageError(
                f"{out} is part {started.shard or '1/1'} of a job, not {options.shard}"
            )
    elif images is not None:
        started = _of_bucket(images, options, parted=out is not None)
    else:
        raise UsageError(f"{out} is not a job yet; name PROMPTS")
    if others := _others(options, started):
        raise UsageError(
            "PROMPTS is missing; without it, the job continues with its own options, which differ "
            f"in {', '.join(others)}"
        )
    rules = started.rules(options.limit, options.sample)
    try:
        source = started.prompt_file()
    except PromptFileError as error:
        raise UsageError(f"{error}; if it was moved, name it as PROMPTS") from None
    return StartedJob(source, rules, started.server, images)


def _others(options: PromptOptions, started: JobOptions) -> list[str]:
    """Return the options that are given and differ from those of a job."""
    default, own = PromptOptions(), ("limit", "sample", "shard")
    given = [field.name for field in fields(options) if field.name not in own]
    given = [name for name in given if getattr(options, name) != getattr(default, name)]
    if not given:
        return []
    now = JobOptions.of(*options.read(started.prompts), server=started.server)

    def value(of: JobOptions, name: str) -> object:
        return of.reading[name] if name in of.reading else getattr(of, name)

    return [
        f"--{name.replace('_', '-')}" for name in given if value(now, name) != value(started, name)
    ]


def _of_bucket(images: str, options: PromptOptions, *, parted: bool) -> JobOptions:
    found = read_options_of_bucket(images)
    if found is None:
        raise UsageError(f"{images} has no job yet; name PROMPTS")
    started, parts = found
    if options.shard is None:
        if parted and parts > 1:
            raise UsageError(f"the job at {images} has {parts} parts: name one, --shard I/{parts}")
        return started
    shard = options.parse_shard()
    if shard.count != parts:
        raise UsageError(f"the job at {images} has {parts} parts: --shard I/{parts}, not {shard}")
    return replace(started, shard=str(shard))
