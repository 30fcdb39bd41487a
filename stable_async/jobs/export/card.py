"""The data set card: `README.md` with the YAML head that the Hub and `datasets` read."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stable_async.jobs.estimate import DOLLARS_PER_CREDIT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from stable_async.jobs.export.records import Column, Record

__all__ = ["Census", "card"]

# Columns with no more values than these are listed with their values.
VALUES_LISTED = 12
LONGEST_VALUE = 60
# https://github.com/huggingface/hub-docs/blob/main/datasetcard.md, read 2026-09-22.
SIZE_NAMES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")

SAME_AGAIN = (
    "`sha256` is that of the picture's bytes, which are as the API sent them. The same service, "
    "model, parameters and seed make the same picture again."
)


@dataclass(slots=True)
class Census:
    """What the records of a data set have in common; memory does not grow with them.

    Attributes:
        pictures: How many there are.
        bytes: Of all pictures.
        spent: Pictures and credits by service and model.
        suffixes: Extensions of the pictures.
        values: By column, how often each value is there; `None`: there are too many.
        filled: By column, how many pictures have a value.
    """

    pictures: int = 0
    bytes: int = 0
    spent: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)
    suffixes: set[str] = field(default_factory=set)
    values: dict[str, Counter[str] | None] = field(default_factory=dict)
    filled: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        """Count a record."""
        image, values = record.image, record.values
        self.pictures += 1
        self.bytes += image.bytes
        self.suffixes.add(record.suffix)
        maker = (str(values["service"]), str(values.get("model") or ""))
        pictures, cost = self.spent.get(maker, (0, 0.0))
        self.spent[maker] = (pictures + 1, cost + (image.credits or 0.0))
        for name, value in values.items():
            if value is None:
                continue
            self.filled[name] += 1
            if name not in self.values:
                self.values[name] = Counter()
            counter = self.values[name]
            if counter is not None:
                counter[str(value)] += 1
                if len(counter) > VALUES_LISTED:
                    self.values[name] = None

    @property
    def credits(self) -> float:
        """What the pictures cost."""
        return sum(cost for _, cost in self.spent.values())


def card(
    name: str,
    census: Census,
    columns: Sequence[Column],
    *,
    data_files: str | Sequence[str],
    features: Sequence[object],
    config_has_features: bool,
    loading: str,
    left_out: Mapping[str, int],
) -> str:
    """Give the text of the card.

    Args:
        name: Of the data set.
        census: Of what is in it.
        columns: Its columns, that of the pictures apart.
        data_files: Patterns of its files.
        features: Its columns as the YAML head has them.
        config_has_features: Whether `datasets` wants them under `configs` too.
        loading: Code that loads it.
        left_out: How many pictures of the job are not in it, and why.
    """
    head = {
        "pretty_name": name,
        "size_categories": [_size_category(census.pictures)],
        "task_categories": ["text-to-image"],
        "tags": ["synthetic", "stability-ai"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": data_files}],
                **({"features": features} if config_has_features else {}),
            }
        ],
        "dataset_info": {
            "features": features,
            "splits": [
                {"name": "train", "num_bytes": census.bytes, "num_examples": census.pictures}
            ],
        },
    }
    dollars = census.credits * DOLLARS_PER_CREDIT
    made = (
        f"{census.pictures:,} pictures ({census.bytes / 1e6:,.1f} MB), made with the Stability AI "
        f"API for {census.credits:,.2f} credits ({dollars:,.2f} US dollars)."
    )
    sections = [
        f"# {_cell(name)}",
        made,
        *(f"{count:,} pictures are left out: {why}." for why, count in left_out.items() if count),
        "## Made with",
        "\n".join(_makers(census)),
        "## Columns",
        "\n".join(_columns(census, columns)),
        SAME_AGAIN,
        "## Load it",
        f"```python\n{loading}\n```",
        "## Licence",
        "Not stated here: state it under `license:` in the head of this file before publishing.",
    ]
    return "---\n" + "\n".join(_yaml(head)) + "\n---\n\n" + "\n\n".join(sections) + "\n"


def _makers(census: Census) -> Iterator[str]:
    yield "| service | model | pictures | credits |"
    yield "|---|---|---:|---:|"
    for (service, model), (pictures, cost) in sorted(census.spent.items()):
        yield f"| {_cell(service)} | {_cell(model)} | {pictures:,} | {cost:,.2f} |"


def _columns(census: Census, columns: Sequence[Column]) -> Iterator[str]:
    yield "| column | type | filled | values |"
    yield "|---|---|---:|---|"
    for column in columns:
        counter = census.values.get(column.name, Counter())
        if counter is None:
            values = "many"
        else:
            values = ", ".join(
                f"{_cell(value)} ({count:,})" for value, count in counter.most_common()
            )
        filled = census.filled[column.name]
        yield f"| `{_cell(column.name)}` | {column.type} | {filled:,} | {values} |"


def _cell(text: str) -> str:
    """Give a text as part of a line of Markdown."""
    short = text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
    line = " ".join(short.split())
    for sign, safe in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "'")):
        line = line.replace(sign, safe)
    return line


def _size_category(count: int) -> str:
    smaller = None
    for power, name in enumerate(SIZE_NAMES, start=3):
        if count < 10**power:
            return f"n<{name}" if smaller is None else f"{smaller}<n<{name}"
        smaller = name
    return f"n>{smaller}"


def _yaml(value: object, indent: str = "") -> Iterator[str]:
    """Give lines of YAML; texts stand in JSON's quotes, which are YAML's too."""
    match value:
        case dict():
            for key, item in value.items():
                if isinstance(item, (dict, list)):
                    yield f"{indent}{key}:"
                    yield from _yaml(item, indent + "  ")
                else:
                    yield f"{indent}{key}: {json.dumps(item)}"
        case list():
            for item in value:
                first, *rest = _yaml(item, indent + "  ")
                yield f"{indent}- {first.lstrip()}"
                yield from rest
        case _:
            yield f"{indent}{json.dumps(value)}"
