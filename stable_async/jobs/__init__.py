"""Bulk jobs: files of prompts that become folders of images. Nothing lost, nothing paid twice."""

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

__all__ = [
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
    "StorageError",
    "Summary",
]
