"""The records of a data set: the results of a ledger, each with the same columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING, Literal

from stable_async.datasets.selection import Selection, Splits
from stable_async.jobs.errors import JobError
from stable_async.jobs.kinds import IMAGE, MediaKind, kind_of
from stable_async.jobs.row import metadata_of, to_json
from stable_async.jobs.storage.base import file_suffix
from stable_async.media import CONTENT_FILTERED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from stable_async.jobs.ledger import Ledger
    from stable_async.jobs.row import ImageFacts

__all__ = ["Column", "ColumnType", "Origin", "Record", "Records", "Shard", "shards"]

ColumnType = Literal["string", "int64", "float64", "bool"]

Origin = tuple[str, str | None]
"""SHA-256 and request id of a result, which identify its job."""

# The facts of every result; rows of the prompt file add more columns.
FACTS_BEFORE: dict[str, ColumnType] = {"id": "string", "text": "string", "service": "string"}
FACTS_AFTER: dict[str, ColumnType] = {
    "seed": "int64",
    "finish_reason": "string",
    "sha256": "string",
    "width": "int64",
    "height": "int64",
    "credits": "float64",
    "request_id": "string",
}
INT64_LIMIT = 2**63
ORIGINS = 10


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the data set.

    Attributes:
        name: Name in the data set.
        source: Key of `metadata.jsonl` that it comes from.
        type: Type of all its values, except missing ones.
    """

    name: str
    source: str
    type: ColumnType

    def value(self, given: object) -> object:
        """Return a value converted to the type of the column."""
        if given is None:
            return None
        match self.type:
            case "string":
                return given if isinstance(given, str) else to_json(given)
            case "float64":
                return float(given) if isinstance(given, int) else given
            case _:
                return given


@dataclass(frozen=True, slots=True)
class Record:
    """A result and its row.

    Attributes:
        number: Number of the result in the ledger.
        index: How many records of its split are before this one.
        key: Names the file: digits only, since a dot ends the key of a WebDataset sample, and
            `datasets` would take a file named `test` or `train` for a split.
        suffix: Extension by media type.
        image: The facts of the file in the ledger.
        values: Values of all columns, by column.
    """

    number: int
    index: int
    key: str
    suffix: str
    image: ImageFacts
    values: dict[str, object]

    @property
    def name(self) -> str:
        return self.key + self.suffix


@dataclass(frozen=True, slots=True)
class Shard:
    """Records that are written together."""

    number: int
    records: list[Record]

    def digest(self, columns: Sequence[Column]) -> str:
        """Return a digest of all that is written: a shard with the same digest can be kept."""
        digest = blake2b(repr(columns).encode(), digest_size=16)
        for record in self.records:
            digest.update(f"{record.name} {to_json(record.values)}\n".encode())
        return digest.hexdigest()


class Records:
    """The results of a ledger that are exported, in order of arrival.

    Attributes:
        columns: The columns of every record.
        kind: Kind of their media.
        splits: Parts of the data set.
        counts: How many there are, by split.
        filtered: How many are left out because the content filter blurred them.
        unlisted: How many are left out because they are no longer in the prompt file.
    """

    def __init__(
        self,
        ledger: Ledger,
        name: str,
        selection: Selection,
        left_out: Collection[int] = frozenset(),
    ) -> None:
        """Read through a ledger once; `name` is that of the job, for messages.

        Raises:
            JobError: The job has nothing to export, or results of several kinds.
        """
        self._ledger = ledger
        self._name = name
        self._selection = selection
        self._left_out = left_out
        self.splits: Splits = Splits.of(selection.splits)
        splits, only_listed = self.splits, selection.only_listed
        self.filtered: int = 0
        self.unlisted: int = ledger.count_unlisted_images() if only_listed else 0
        kinds: set[MediaKind] = set()
        # By key of metadata.jsonl, and in the order in which columns appear.
        types: dict[str, set[ColumnType]] = {}
        filled: dict[str, set[str]] = {name: set() for name in splits.names}
        self._examples: dict[str, dict[int, int]] = {name: {} for name in splits.names}
        counts = dict.fromkeys(splits.names, 0)
        for number, row, image in ledger.images(only_listed=only_listed):
            if self._is_filtered(image):
                self.filtered += 1
                continue
            if number in left_out:
                continue
            kinds.add(kind_of(image.content_type))
            split = splits.of_id(row.id)
            for key, value in metadata_of(row, image).items():
                seen = types.setdefault(key, set())
                if value is not None:
                    seen.add(_type_of(value))
                    if key not in filled[split]:
                        filled[split].add(key)
                        self._examples[split][number] = counts[split]
            counts[split] += 1
        self.counts = counts
        if not self.count:
            raise JobError(f"{name} has nothing to export")
        if len(kinds) > 1:
            several = " and ".join(sorted(kind.many for kind in kinds))
            raise JobError(f"{name} has {several}: a data set has one kind of media")
        self.kind: MediaKind
        [self.kind] = kinds
        self.columns: list[Column] = _columns(types, self.kind)

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    def without(self, left_out: Collection[int]) -> Records:
        """Return the records without those with these numbers."""
        return Records(self._ledger, self._name, self._selection, left_out)

    def all(self) -> Iterator[Record]:
        """Yield the records of all splits, in order of arrival."""
        return self._records(None, 0, 0)

    def of(self, split: str) -> Iterator[Record]:
        """Yield the records of a split; memory does not grow with their number."""
        return self._records(split, 0, 0)

    def examples(self, split: str) -> Iterator[Record]:
        """Yield records that together have a value in every column that has any in the split."""
        for number, index in self._examples[split].items():
            yield next(self._records(split, number - 1, index))

    def origins(self) -> list[Origin]:
        """Return some results that identify the job."""
        return [
            (image.sha256, image.request_id)
            for _, _, image in islice(self._ledger.images(), ORIGINS)
        ]

    def has_origin(self, origin: Origin) -> bool:
        """Return whether the job has, or had, a result; a rebuilt ledger lacks request ids."""
        return self._ledger.has_image_of(*origin)

    def _records(self, split: str | None, after: int, index: int) -> Iterator[Record]:
        only_listed = self._selection.only_listed
        for number, row, image in self._ledger.images(after, only_listed=only_listed):
            if self._is_filtered(image) or number in self._left_out:
                continue
            if split is not None and self.splits.of_id(row.id) != split:
                continue
            facts = metadata_of(row, image)
            values = {
                column.name: column.value(facts.get(column.source)) for column in self.columns
            }
            suffix = file_suffix(image.content_type)
            yield Record(number, index, f"{image.position:09d}", suffix, image, values)
            index += 1

    def _is_filtered(self, image: ImageFacts) -> bool:
        """Return whether an image is to be left out because the content filter blurred it."""
        return image.finish_reason == CONTENT_FILTERED and not self._selection.include_filtered


def shards(records: Iterable[Record], size: float, count: int) -> Iterator[Shard]:
    """Yield shards of one or more records, with at most `size` bytes of media and `count`
    records.
    """
    number, some, left = 0, list[Record](), size
    for record in records:
        if some and (record.image.bytes > left or len(some) == count):
            yield Shard(number, some)
            number, some, left = number + 1, [], size
        some.append(record)
        left -= record.image.bytes
    if some:
        yield Shard(number, some)


def _type_of(value: object) -> ColumnType:
    match value:
        case bool():
            return "bool"
        case int() if -INT64_LIMIT <= value < INT64_LIMIT:
            return "int64"
        case float() if math.isfinite(value):
            return "float64"  # JSON has no other types
        case _:
            return "string"


def _columns(types: Mapping[str, set[ColumnType]], kind: MediaKind) -> list[Column]:
    taken = {kind.column}
    columns = []
    facts = {**FACTS_BEFORE, **FACTS_AFTER}
    others = [key for key in types if key not in facts and key != "file_name"]
    after = [key for key in FACTS_AFTER if kind is IMAGE or key not in {"width", "height"}]
    for key in [*FACTS_BEFORE, *others, *after]:
        known = facts.get(key)
        name = _column_name(key, taken)
        taken.add(name)
        columns.append(Column(name, key, known or _common(types[key])))
    return columns


def _common(types: set[ColumnType]) -> ColumnType:
    if len(types) == 1:
        return next(iter(types))
    return "float64" if types == {"int64", "float64"} else "string"


def _column_name(key: str, taken: Collection[str]) -> str:
    """Return a free name that `datasets` does not take for the name of a file."""
    name = key
    while name in taken or name.endswith(("file_name", "file_names")):
        name += "_source"
    return name
