"""Bulk jobs: a file of prompts becomes a folder of images. Nothing is lost or paid twice."""

try:
    import fcntl  # noqa: F401 - what the lock of a folder needs
except ImportError:
    raise ImportError(
        "stable_async.jobs needs POSIX (Linux, macOS, BSD): it locks its folder with flock; "
        "the client itself works without"
    ) from None

from stable_async.jobs.columns import ColumnRules
from stable_async.jobs.errors import (
    JobChangedError,
    JobError,
    JobLockedError,
    LedgerError,
    PromptFileError,
    RowProblem,
    StorageError,
)
from stable_async.jobs.job import Job
from stable_async.jobs.progress import Progress, Summary
from stable_async.jobs.prompt_file import PromptFile
from stable_async.jobs.rules import PromptRules
from stable_async.jobs.settings import JobSettings
from stable_async.jobs.shard import Shard

__all__ = [
    "ColumnRules",
    "Job",
    "JobChangedError",
    "JobError",
    "JobLockedError",
    "JobSettings",
    "LedgerError",
    "Progress",
    "PromptFile",
    "PromptFileError",
    "PromptRules",
    "RowProblem",
    "Shard",
    "StorageError",
    "Summary",
]
