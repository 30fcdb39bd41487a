"""The pictures of a job as a data set for training: image folder, parquet or WebDataset."""

from stable_async.datasets.exporter import (
    DEFAULT_SHARD_SIZE,
    ExportFormat,
    ExportSummary,
    export_job,
)

__all__ = ["DEFAULT_SHARD_SIZE", "ExportFormat", "ExportSummary", "export_job"]
