"""`stable-async report`: what became of a job, to look at."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stable_async.cli.failures import OK, UsageError
from stable_async.errors import ConfigurationError
from stable_async.report import write_report

__all__ = ["report"]


def report(
    *sources: Annotated[str, Parameter(name="DIR")],
    to: Annotated[Path | None, Parameter(metavar="FILE")] = None,
) -> int:
    """Write report.html into the folder of a job: its images, requests, failures and costs.

    It is one file that needs no server; images are shown from where they are on this machine.

    Args:
        sources: The folder of the job; those of all its parts, or where its images are.
        to: The file, which a report of several folders or of a bucket needs.
    """
    if not sources:
        raise UsageError("report needs the folder of a job: DIR")
    try:
        print(write_report(*sources, to=to))
    except ConfigurationError as error:
        raise UsageError(f"--{error}") from None
    return OK
