"""Parquet files of pandas, polars, DuckDB, Hugging Face `datasets` and others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stable_async.extras import install_command
from stable_async.jobs.columns import ColumnReport, ColumnRules, Target
from stable_async.jobs.formats.base import UnreadableError, blank_problem
from stable_async.jobs.formats.table import checked_columns, row_of

if TYPE_CHECKING:
    from pathlib import Path

    from stable_async.jobs.formats.base import Rows

__all__ = ["read_parquet"]

ROWS_AT_A_TIME = 1_000


def read_parquet(path: Path, rules: ColumnRules, report: ColumnReport) -> Rows:
    """Read rows.

    Args:
        path: The file.
        rules: What options say about columns.
        report: Gets the columns.

    Raises:
        UnreadableError: The file is not parquet, or its columns are wrong.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        what = f"parquet needs pyarrow: {install_command('export')}"
        raise UnreadableError(0, what) from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            with_bytes = {name for name in schema.names if _has_bytes(schema.field(name).type)}
            names = [name for name in schema.names if name not in with_bytes]
            targets, found = checked_columns(names, rules, 0)
            for name in sorted(with_bytes):
                found.add(name, Target("left out", name))
            report.take(found)
            for batch in file.iter_batches(ROWS_AT_A_TIME, columns=names):
                for values in zip(*batch.to_pydict().values(), strict=True):
                    number += 1
                    row = row_of(number, targets, values)
                    yield blank_problem(row) or row
    except (ArrowException, OverflowError, ValueError) as error:  # or a time Python has not
        what = f"not valid parquet after row {number:,}: {error}"
        raise UnreadableError(0, what) from None


def _has_bytes(kind: Any) -> bool:  # noqa: ANN401 - pyarrow has no types
    """Return whether values of a type have bytes anywhere in them, which JSON cannot have."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _has_bytes(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return _has_bytes(kind.storage_type)
    return any(
        is_such(kind)
        for is_such in (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_fixed_size_binary,
            pa.types.is_binary_view,
        )
    ) or any(_has_bytes(kind.field(place).type) for place in range(kind.num_fields))
