"""The results of a job as a data set for training."""

from stable_async.datasets.exporter import (
    DEFAULT_SHARD_SIZE,
    ExportFormat,
    ExportSummary,
    Selection,
    export_job,
)

__all__ = ["DEFAULT_SHARD_SIZE", "ExportFormat", "ExportSummary", "Selection", "export_job"]
