"""The results of a job as a data set for training."""

from stable_async.datasets.exporter import (
    DEFAULT_SHARD_SIZE,
    ExportFormat,
    ExportSummary,
    export_job,
)
from stable_async.datasets.selection import Selection

__all__ = ["DEFAULT_SHARD_SIZE", "ExportFormat", "ExportSummary", "Selection", "export_job"]
