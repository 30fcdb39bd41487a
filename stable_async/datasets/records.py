"""What goes into a data set: the pictures of a ledger as records with the same columns each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING, Literal

from stable_async.jobs.row import metadata_of, to_json
from stable_async.jobs.storage.base import extension
from stable_async.media import CONTENT_FILTERED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from stable_async.datasets.target import Origin
    from stable_async.jobs.ledger import Ledger
    from stable_async.jobs.row import ImageFacts

__all__ = ["Column", "ColumnType", "Record", "Records", "Shard", "shards"]

ColumnType = Literal["string", "int64", "float64", "bool"]

# The facts of every picture; what else there is, the rows of the prompt file tell.
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
        name: In the data set.
        source: Key of `metadata.jsonl` that it comes from.
        type: What all its values are, apart from missing ones.
    """

    name: str
    source: str
    type: ColumnType

    def value(self, given: object) -> object:
        """Give a value as the type of the column."""
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
    """A picture and its row.

    Attributes:
        number: Of the picture, in the ledger.
        index: How many records are before this one.
        key: Names the picture: digits alone, since a dot ends the key of a WebDataset sample, and
            `datasets` would take a file named `test` or `train` for a split.
        suffix: Extension by media type.
        image: As the ledger has it.
        values: By column, every column being there.
    """

    number: int
    index: int
    key: str
    suffix: str
    image: ImageFacts
    values: dict[str, object]

    @property
    def name(self) -> str:
        """File name of the picture."""
        return self.key + self.suffix


@dataclass(frozen=True, slots=True)
class Shard:
    """Records that are written together."""

    number: int
    records: list[Record]

    def digest(self, columns: Sequence[Column]) -> str:
        """Give a digest of all that is written: a shard with the same one need not be made anew."""
        digest = blake2b(repr(columns).encode(), digest_size=16)
        for record in self.records:
            digest.update(f"{record.name} {to_json(record.values)}\n".encode())
        return digest.hexdigest()


class Records:
    """The pictures of a ledger that are exported, in the order in which they came.

    Attributes:
        columns: What every record has.
        count: How many there are.
        filtered_left_out: How many are left out because the content filter blurred them.
    """

    def __init__(self, ledger: Ledger, *, include_filtered: bool) -> None:
        """Look through `ledger` once."""
        self._ledger = ledger
        self._include_filtered = include_filtered
        self.count = self.filtered_left_out = 0
        # By key of metadata.jsonl, and in the order in which columns appear.
        types: dict[str, set[ColumnType]] = {}
        self._examples: dict[int, int] = {}
        for number, prompt, image in ledger.images():
            if self._leaves_out(image):
                self.filtered_left_out += 1
                continue
            for key, value in metadata_of(prompt, image).items():
                seen = types.setdefault(key, set())
                if value is not None:
                    if not seen:
                        self._examples[number] = self.count
                    seen.add(_type_of(value))
            self.count += 1
        self.columns = _columns(types)

    def __iter__(self) -> Iterator[Record]:
        """Give the records; memory does not grow with their number."""
        return self._records(0, 0)

    def examples(self) -> Iterator[Record]:
        """Give records that together have a value in every column that has one at all."""
        for number, index in self._examples.items():
            yield next(self._records(number - 1, index))

    def origins(self) -> list[Origin]:
        """Give some pictures that tell the job from others."""
        return [
            (image.sha256, image.request_id)
            for _, _, image in islice(self._ledger.images(), ORIGINS)
        ]

    def has_origin(self, origin: Origin) -> bool:
        """Tell whether the job has, or had, a picture; a ledger made anew lacks request ids."""
        return self._ledger.has_image_of(*origin)

    def _records(self, after: int, index: int) -> Iterator[Record]:
        for number, prompt, image in self._ledger.images(after):
            if self._leaves_out(image):
                continue
            facts = metadata_of(prompt, image)
            values = {
                column.name: column.value(facts.get(column.source)) for column in self.columns
            }
            suffix = f".{extension(image.content_type)}"
            yield Record(number, index, f"{image.position:09d}", suffix, image, values)
            index += 1

    def _leaves_out(self, image: ImageFacts) -> bool:
        return image.finish_reason == CONTENT_FILTERED and not self._include_filtered


def shards(records: Iterable[Record], size: float, count: int) -> Iterator[Shard]:
    """Give shards of at least one record: no more than `size` bytes of pictures, and `count`."""
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
            return "float64"  # JSON has no other ones
        case _:
            return "string"


def _columns(types: Mapping[str, set[ColumnType]]) -> list[Column]:
    taken = {"image"}
    columns = []
    others = [key for key in types if key not in {"file_name", *FACTS_BEFORE, *FACTS_AFTER}]
    for key in [*FACTS_BEFORE, *others, *FACTS_AFTER]:
        known = FACTS_BEFORE.get(key) or FACTS_AFTER.get(key)
        name = _column_name(key, taken)
        taken.add(name)
        columns.append(Column(name, key, known or _common(types[key])))
    return columns


def _common(types: set[ColumnType]) -> ColumnType:
    if len(types) == 1:
        return next(iter(types))
    return "float64" if types == {"int64", "float64"} else "string"


def _column_name(key: str, taken: Collection[str]) -> str:
    """Give a name that is free, and that `datasets` does not take for that of a picture."""
    name = key
    while name in taken or name.endswith(("file_name", "file_names")):
        name += "_source"
    return name
