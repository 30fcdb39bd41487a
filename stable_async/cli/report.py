"""`stable-async report`: what became of a job, to look at."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stable_async.cli.failures import OK
from stable_async.report import write_report

__all__ = ["report"]


def report(folder: Annotated[Path, Parameter(name="DIR")], /) -> int:
    """Write report.html into the folder of a job: its images, requests, failures and costs.

    It is one file that needs no server; images are shown from images/ beside it.

    Args:
        folder: The folder of the job.
    """
    print(write_report(folder))
    return OK
