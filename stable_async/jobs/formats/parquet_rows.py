"""Parquet files of pandas, polars, DuckDB, Hugging Face `datasets` and others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from stable_async.extras import install_command
from stable_async.jobs.columns import ColumnReport, ColumnRules, Target, folded, own_name
from stable_async.jobs.errors import UnreadableError
from stable_async.jobs.formats.foreign import accepted
from stable_async.jobs.formats.table import checked_columns, row_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stable_async.jobs.formats.base import Rows
    from stable_async.jobs.formats.embedded import InputStore
    from stable_async.jobs.row import Row

__all__ = ["embedded_columns", "read_parquet"]

ROWS_AT_A_TIME = 1_000
# Small, because in files that hold images a row may have megabytes.
ROWS_WITH_FILES_AT_A_TIME = 16


@dataclass(frozen=True, slots=True)
class _Schema:
    """The columns of a file.

    Attributes:
        plain: Those whose values are not files.
        files: Those whose values are files: bytes, or `{bytes, path}` as in `datasets`.
        bare: Those of `files` that are bytes alone. Hive and Spark write text in this way.
        other_bytes: Those with bytes anywhere in their values.
        inside: The keys of those of `plain` whose values are objects.
    """

    plain: list[str]
    files: list[str]
    bare: list[str]
    other_bytes: list[str]
    inside: dict[str, list[str]]


def embedded_columns(path: Path, rules: ColumnRules) -> dict[str, str]:
    """Return the columns whose values are input files, and the field that each goes to.

    Raises:
        UnreadableError: The file is not parquet.
    """
    pyarrow, parquet = _library()
    try:
        with parquet.ParquetFile(path) as file:
            return _inputs(_schema(file.schema_arrow), rules)
    except (pyarrow.ArrowException, ValueError) as error:
        raise UnreadableError(0, f"not valid parquet: {error}") from None


def read_parquet(
    path: Path, rules: ColumnRules, report: ColumnReport, store: InputStore, *, after: int = 0
) -> Rows:
    """Read rows, numbered `after` others; input files that are embedded go into the store.

    Raises:
        UnreadableError: The file is not parquet, or its columns are wrong.
    """
    pyarrow, parquet = _library()
    number = after
    try:
        with parquet.ParquetFile(path) as file:
            schema = _schema(file.schema_arrow)
            inputs = _inputs(schema, rules)
            texts = _texts(schema, rules, inputs)
            names = [*schema.plain, *texts, *inputs]
            rules = replace(rules, map={**rules.map, **inputs}) if inputs else rules
            targets, found = checked_columns(names, rules, 0)
            for name in sorted((*schema.files, *schema.other_bytes)):
                if name not in names:
                    found.add(name, Target("left out", name))
            fields = [target.name for target in targets if target.kind == "field"]
            for name, target in zip(names, targets, strict=True):
                rules.check_inside(name, target, schema.inside.get(name, ()), fields)
            report.take(found)
            at_a_time = ROWS_WITH_FILES_AT_A_TIME if inputs else ROWS_AT_A_TIME
            for batch in file.iter_batches(at_a_time, columns=names):
                columns = batch.to_pydict()
                for name in texts:
                    columns[name] = [_text(value) for value in columns[name]]
                for values in zip(*(columns[name] for name in names), strict=True):
                    number += 1
                    row = row_of(number, targets, values)
                    for name, field in inputs.items():
                        _extract(row, name, field, path.absolute().parent, store)
                    yield accepted(row)
    except (
        pyarrow.ArrowException,
        OverflowError,
        ValueError,
    ) as error:  # or a time that Python cannot represent
        what = f"not valid parquet after row {number:,}: {error}"
        raise UnreadableError(0, what) from None


def _extract(row: Row, column: str, field: str, folder: Path, store: InputStore) -> None:
    """Replace an embedded input file by its path."""
    value = row.fields.get(field)
    parts = cast("Mapping[str, object]", value) if isinstance(value, dict) else {"bytes": value}
    value, name = parts.get("bytes"), parts.get("path")
    if isinstance(value, bytes):
        row.fields[field] = store.keep(value)
    elif name:
        row.fields[field] = str(folder / str(name))
    else:
        row.fields.pop(field, None)
    if name:
        row.metadata.setdefault(own_name(f"{column}_path"), str(name))


def _inputs(schema: _Schema, rules: ColumnRules) -> dict[str, str]:
    others = frozenset(map(folded, [*schema.plain, *schema.files]))
    inputs: dict[str, str] = {}
    for name in schema.files:
        target = rules.target(name, others, any_service=False)
        if target.kind == "field" and target.name in rules.file_fields:
            inputs[name] = target.name
        elif rules.metadata_only and folded(name) in rules.file_fields:
            inputs[name] = folded(name)
    wanted = rules.required & rules.file_fields
    if not inputs and len(schema.files) == len(wanted) == 1 and not wanted & others:
        inputs[schema.files[0]] = next(iter(wanted))
    return inputs


def _texts(schema: _Schema, rules: ColumnRules, inputs: Mapping[str, str]) -> list[str]:
    """Return the columns of bytes that are parameters, and so text."""
    others = frozenset(map(folded, [*schema.plain, *schema.files]))
    any_service = "service" in others
    return [
        name
        for name in schema.bare
        if name not in inputs
        and rules.target(name, others, any_service=any_service).kind == "field"
    ]


def _text(value: object) -> object:
    """Return text that was written as bytes; what is not UTF-8 is left for the API's rules."""
    if isinstance(value, UUID):
        return str(value)
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


def _library() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        what = f"parquet needs pyarrow: {install_command('export')}"
        raise UnreadableError(0, what) from None
    return pyarrow, parquet


def _schema(schema: Any) -> _Schema:  # noqa: ANN401 - pyarrow has no types
    found = _Schema([], [], [], [], {})
    for name in schema.names:
        if schema.names.count(name) > 1:  # pyarrow finds neither of them by its name
            raise UnreadableError(
                0, f"two columns are named {name!r}; the columns are: {', '.join(schema.names)}"
            )
        kind = schema.field(name).type
        if not _has_bytes(kind):
            found.plain.append(name)
            found.inside[name] = [kind.field(place).name for place in range(kind.num_fields)]
        elif _is_file(kind):
            found.files.append(name)
            if kind.num_fields == 0:
                found.bare.append(name)
        else:
            found.other_bytes.append(name)
    return found


def _is_file(kind: Any) -> bool:  # noqa: ANN401
    """Return whether values are files: bytes, or a struct of bytes and path."""
    import pyarrow as pa

    if not pa.types.is_struct(kind):
        return bool(kind.num_fields == 0)
    parts = {kind.field(place).name: kind.field(place).type for place in range(kind.num_fields)}
    return parts.keys() == {"bytes", "path"} and _has_bytes(parts["bytes"])


def _has_bytes(kind: Any) -> bool:  # noqa: ANN401
    """Return whether values of a type contain bytes, which JSON cannot represent."""
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
