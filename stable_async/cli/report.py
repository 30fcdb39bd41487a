"""`stable-async report`: a page about a job."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stable_async.cli.exit_status import OK, UsageError
from stable_async.cli.options import reflowed
from stable_async.errors import ConfigurationError
from stable_async.report import write_report

__all__ = ["report"]


@reflowed
def report(
    *sources: Annotated[str, Parameter(name="DIR")],
    to: Annotated[Path | None, Parameter(metavar="FILE")] = None,
) -> int:
    """Write report.html: the images, requests, failures and costs of a job.

    It is one file that needs no server; images are shown from where they are on this machine.

    Args:
        sources: Folder of the job, folders of all its parts, or the URL of its images.
        to: File to write, .html; required for several folders or a bucket.
    """
    if not sources:
        raise UsageError("report: DIR is missing; see stable-async report --help")
    try:
        print(write_report(*sources, to=to))
    except ConfigurationError as error:
        raise UsageError(f"--{error}") from None
    return OK
