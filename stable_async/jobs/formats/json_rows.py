"""JSON: an object on each line, or an array of objects."""

from __future__ import annotations

import json
import re
import reprlib
from typing import TYPE_CHECKING, cast

from stable_async.jobs.columns import (
    ColumnError,
    ColumnReport,
    ColumnRules,
    Target,
    is_parameter,
    own_name,
)
from stable_async.jobs.errors import RowProblem, UnreadableError
from stable_async.jobs.formats.decoding import MAX_LINE
from stable_async.jobs.formats.foreign import accepted
from stable_async.jobs.formats.table import checked_columns, row_of
from stable_async.jobs.row import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stable_async.jobs.formats.base import Rows
    from stable_async.jobs.formats.decoding import TextFile

__all__ = ["read_json"]

ALLOWED = "allowed: an array of objects or of texts, or an object on each line"
INSTEAD = "pandas: to_json(path, orient='records'); for an array inside it: jq .NAME"
# The beginning of an object whose first value is an array or an object.
NESTED = re.compile(r'\{\s*"[^"]*"\s*:\s*[\[{]')
UNKNOWN = "no such parameter; correct it, or --keep {0} (as metadata), --drop {0}, --map {1}=FIELD"
NOT_SPACE = re.compile(r"\S")
# What libraries write for a missing value.
MISSING = (None, "")
EXAMPLE = '{"prompt": "...", ...}'


def _refuse(constant: str) -> object:
    """Refuse `NaN` and the like, which `json` would read although they are not JSON."""
    raise ValueError(constant)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Refuse an object that has a key twice, of which `json` would take the last."""
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} occurs twice")
    return values


# Shared by all lines: `json.loads` creates a decoder for every call that has options.
DECODER = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_unique)


def read_json(text: TextFile, rules: ColumnRules, report: ColumnReport) -> Rows:
    """Read rows from either form.

    The keys of an array are columns, like those of a table; its texts are like lines of text. Lines
    accept only `id`, `service`, the fields of the API, `metadata` and the keys that `rules` name,
    so that a misspelt one costs nothing. Lines are a table too where every column is metadata.

    Raises:
        UnreadableError: The file is not JSON, or its columns are wrong.
    """
    first = text.first_line().lstrip()
    if first.startswith("["):
        return _read_array(text, rules, report)
    if first.rstrip() == "{" or _is_table(first):
        raise UnreadableError(1, f"one JSON object; {ALLOWED} ({INSTEAD})")
    return _read_lines(text, rules, report)


def _is_table(line: str) -> bool:
    """Return whether a line is a whole file: a table by columns, as of pandas, or COCO's arrays."""
    if len(line) > MAX_LINE:  # not all of it was read
        return NESTED.match(line) is not None
    try:
        value = DECODER.decode(line)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(value, dict)
        and bool(value)
        and value.keys().isdisjoint(("metadata", "text_prompts"))
        and all(isinstance(column, (dict, list)) for column in value.values())
    )


def _read_lines(text: TextFile, rules: ColumnRules, report: ColumnReport) -> Rows:
    lines = _Keys(rules, report) if rules.metadata_only else _Lines(rules, report)
    for number, line in text.lines():
        if not line or line.isspace():
            continue
        try:
            # `decode` looks for white space on both sides first, which nearly no line has.
            fields, end = DECODER.raw_decode(line) if line[0] == "{" else (None, 0)
            if end != len(line):
                fields = DECODER.decode(line)
        except (ValueError, RecursionError) as error:
            what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            place = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            yield RowProblem(number, f"not valid JSON: {what}{place}")
            continue
        if not isinstance(fields, dict):
            yield RowProblem(number, f"not a JSON object; allowed: {EXAMPLE}")
            continue
        yield lines.row(number, cast("dict[str, object]", fields))


class _Lines:
    """Rows of JSON Lines."""

    def __init__(self, rules: ColumnRules, report: ColumnReport) -> None:
        self._rules = rules
        self._report = report
        self._seen: set[str] = set()
        # Keys that are not passed on unchanged.
        self._moved: dict[str, Target] = {}
        self._unknown: set[str] = set()

    def row(self, number: int, fields: dict[str, object]) -> Row | RowProblem:
        metadata: dict[str, object] = {}
        if "metadata" in fields:
            given = fields.pop("metadata")
            if given is None:
                given = {}
            if not isinstance(given, dict):
                what = f"metadata: given {reprlib.repr(given)}; allowed: a JSON object"
                return RowProblem(number, what)
            metadata = {own_name(name): value for name, value in given.items()}
        if not fields.keys() <= self._seen:
            self._learn(number, fields)
        if self._moved:
            for name in self._moved.keys() & fields.keys():
                target, value = self._moved[name], fields.pop(name)
                if target.kind == "field":
                    fields[target.name] = value
                elif target.kind == "kept" and value is not None:
                    metadata[target.name] = value
        if self._unknown and (unknown := sorted(self._unknown & fields.keys())):
            what = UNKNOWN.format(",".join(unknown), unknown[0])
            return RowProblem(number, f"{', '.join(unknown)}: {what}")
        if None in fields.values() or "" in fields.values():  # as an empty cell of a table
            fields = {name: value for name, value in fields.items() if value not in MISSING}
        return Row(number, fields, metadata)

    def _learn(self, number: int, fields: dict[str, object]) -> None:
        first = not self._seen
        for name in sorted(fields.keys() - self._seen):
            target = self._rules.target_of_key(name)
            self._seen.add(name)
            if target == Target("field", name) and not is_parameter(name):
                self._unknown.add(name)
            else:
                self._report.add(name, target)
            if (target.kind, target.name) != ("field", name):
                self._moved[name] = target
        if first and "service" not in fields and not self._rules.fields.issuperset(fields):
            found = {self._moved[name].name if name in self._moved else name for name in fields}
            try:
                self._rules.check_required(found, list(fields), what="key")
            except ColumnError as error:
                raise UnreadableError(number, str(error)) from None


def _read_array(text: TextFile, rules: ColumnRules, report: ColumnReport) -> Rows:
    keys = _Keys(rules, report)
    for number, value in enumerate(_Array(text.pieces()), start=1):
        if isinstance(value, dict):
            yield keys.row(number, value)
        elif isinstance(value, str):
            yield accepted(Row(number, {rules.line_field: value} if value else {}))
        else:
            yield RowProblem(number, f"not a JSON object or text; allowed: {EXAMPLE}")


class _Keys:
    """Rows of an array, whose keys are columns."""

    def __init__(self, rules: ColumnRules, report: ColumnReport) -> None:
        self._rules = rules
        self._report = report
        self._targets: dict[str, Target] = {}

    def row(self, number: int, values: dict[str, object]) -> Row | RowProblem:
        own = values.pop("metadata", {})
        if not isinstance(own, dict):
            values["metadata"], own = own, {}
        if not values.keys() <= self._targets.keys():
            self._learn(number, values)
        row = row_of(number, [self._targets[name] for name in values], list(values.values()))
        row.metadata.update({own_name(name): value for name, value in own.items()})
        return accepted(row)

    def _learn(self, number: int, values: dict[str, object]) -> None:
        """Classify all keys seen so far: the meaning of one depends on which others exist."""
        names = [*self._targets, *(name for name in values if name not in self._targets)]
        targets, found = checked_columns(
            names, self._rules, number, partial=bool(self._targets), what="key"
        )
        self._targets = dict(zip(names, targets, strict=True))
        fields = [target.name for target in targets if target.kind == "field"]
        for name, value in values.items():
            if isinstance(value, dict):
                try:
                    self._rules.check_inside(name, self._targets[name], value, fields)
                except ColumnError as error:
                    raise UnreadableError(number, str(error)) from None
        self._report.take(found)


class _Array:
    """Elements of an array read from pieces of text; memory does not grow with their number."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self._buffer = ""
        self._place = 0
        self._number = 0

    def __iter__(self) -> Iterator[object]:
        self._step("[")
        if self._next_character() == "]":
            return
        while True:
            yield self._element()
            if self._step(",]") == "]":
                break
        if found := self._next_character():
            raise UnreadableError(0, f"not valid JSON: {found!r} after the array")

    def _element(self) -> object:
        self._next_character()
        self._number += 1
        while True:
            try:
                value, self._place = DECODER.raw_decode(self._buffer, self._place)
            except json.JSONDecodeError as error:
                # The rest of it may be in the next piece.
                if len(self._buffer) - self._place > MAX_LINE or not self._more():
                    what = f"not valid JSON: {error.msg}"
                    raise UnreadableError(self._number, what) from None
            except (ValueError, RecursionError) as error:
                raise UnreadableError(self._number, f"not valid JSON: {error}") from None
            else:
                return value

    def _step(self, allowed: str) -> str:
        character = self._next_character()
        if not character or character not in allowed:
            found = repr(character) if character else "the end of the file"
            wanted = " or ".join(map(repr, allowed))
            raise UnreadableError(self._number, f"not valid JSON: {found} instead of {wanted}")
        self._place += 1
        return character

    def _next_character(self) -> str:
        """Return the next character that is not white space; empty text at the end."""
        while True:
            if found := NOT_SPACE.search(self._buffer, self._place):
                self._place = found.start()
                return found[0]
            self._place = len(self._buffer)
            if not self._more():
                return ""

    def _more(self) -> bool:
        piece = next(self._pieces, "")
        self._buffer, self._place = self._buffer[self._place :] + piece, 0
        return bool(piece)
