"""The data set card: `README.md` with the YAML front matter that the Hub and `datasets` read."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stable_async.api.services import UNPRICED
from stable_async.jobs.estimate import DOLLARS_PER_CREDIT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from stable_async.datasets.records import Column, Record
    from stable_async.datasets.writer import DataSetWriter
    from stable_async.jobs.kinds import MediaKind

__all__ = ["Census", "SplitFiles", "card", "with_edits"]

# Columns with at most this many values are listed with them.
VALUES_LISTED = 12
LONGEST_VALUE = 60
# https://github.com/huggingface/hub-docs/blob/main/datasetcard.md, read 2026-09-22.
SIZE_NAMES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")

# Keys of the front matter that describe the files; the others are the user's to change.
KEYS_WRITTEN_ANEW = ("size_categories", "configs", "dataset_info")
BEGIN = "<!-- Every export rewrites what follows; it keeps what comes before. -->"
END = "<!-- Every export keeps what follows. -->"
HEAD = re.compile(r"---\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)
KEY = re.compile(r"^(?=[^\s#\-\]}])", re.MULTILINE)

# Matches what pyarrow takes for a time in JSON, and more.
TIME = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d.*)?")

SAME_AGAIN = (
    "`sha256` is the digest of the file's bytes, which are exactly as received. The same service, "
    "model, parameters and seed give the same result."
)


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """A split that was written.

    Attributes:
        name: Name of the split.
        data_files: Patterns of its files.
        count: Media in it.
        bytes: Size of all of them.
    """

    name: str
    data_files: Sequence[str]
    count: int
    bytes: int


@dataclass(slots=True)
class Census:
    """Figures over the records of a data set; memory does not grow with them.

    Attributes:
        media: How many there are.
        bytes: Size of all of them.
        spent: Media and credits by service and model.
        suffixes: Extensions of the media.
        values: By column, how often each value occurs; `None` if there are too many values.
        filled: By column, how many records have a value.
        times: Columns with text that looks like times.
    """

    media: int = 0
    bytes: int = 0
    spent: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)
    suffixes: set[str] = field(default_factory=set)
    values: dict[str, Counter[str] | None] = field(default_factory=dict)
    filled: Counter[str] = field(default_factory=Counter)
    times: set[str] = field(default_factory=set)

    def add(self, record: Record) -> None:
        """Count a record."""
        image, values = record.image, record.values
        self.media += 1
        self.bytes += image.bytes
        self.suffixes.add(record.suffix)
        maker = (str(values["service"]), str(values.get("model") or ""))
        count, cost = self.spent.get(maker, (0, 0.0))
        self.spent[maker] = (count + 1, cost + (image.credits or 0.0))
        for name, value in values.items():
            if value is None:
                continue
            self.filled[name] += 1
            if isinstance(value, str) and TIME.fullmatch(value):
                self.times.add(name)
            if name not in self.values:
                self.values[name] = Counter()
            counter = self.values[name]
            if counter is not None:
                counter[str(value)] += 1
                if len(counter) > VALUES_LISTED:
                    self.values[name] = None

    @property
    def credits(self) -> float:
        """What they cost."""
        return sum(cost for _, cost in self.spent.values())


def card(
    name: str,
    census: Census,
    columns: Sequence[Column],
    *,
    kind: MediaKind,
    sandbox: bool,
    splits: Sequence[SplitFiles],
    writer: DataSetWriter,
    shards: int,
    left_out: Mapping[str, int],
) -> str:
    """Return the text of the card.

    `writer` has written the first split with any media, in so many shards.
    """
    # `datasets` loads nothing at all if a split has no files.
    filled = [split for split in splits if split.count] or splits
    features = writer.features(columns, sorted(census.suffixes))
    head = {
        "pretty_name": name,
        "size_categories": [_size_category(census.media)],
        "task_categories": [kind.task],
        "tags": ["synthetic", "sandbox" if sandbox else "stability-ai"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split.name, "path": list(split.data_files)} for split in filled
                ],
                **({"features": features} if writer.config_has_features else {}),
            }
        ],
        "dataset_info": {
            "features": features,
            "splits": [
                {"name": split.name, "num_bytes": split.bytes, "num_examples": split.count}
                for split in filled
            ],
        },
    }
    sections = [
        f"# {_cell(name)}",
        BEGIN,
        _made(census, kind, sandbox=sandbox),
        *(
            f"{kind.count(count)} {'is' if count == 1 else 'are'} left out: {why}."
            for why, count in left_out.items()
            if count
        ),
        *(["## Splits", "\n".join(_splits(splits, kind))] if len(splits) > 1 else []),
        "## Made with",
        "\n".join(_makers(census, kind)),
        "## Columns",
        "\n".join(_columns(census, columns)),
        SAME_AGAIN,
        *([_caution(census.times)] if writer.guesses_times and census.times else []),
        "## Load it",
        f"```python\n{writer.loading(shards)}\n```",
        END,
        "## Licence",
        "Not stated here: state it under `license:` at the top of this file before publishing.",
    ]
    return "---\n" + "\n".join(_yaml(head)) + "\n---\n\n" + "\n\n".join(sections) + "\n"


def _made(census: Census, kind: MediaKind, *, sandbox: bool) -> str:
    what = f"{kind.count(census.media)} ({census.bytes / 1e6:,.1f} MB)"
    if sandbox:
        return (
            f"{what}, made by the sandbox of stable_async and not by the Stability AI API: they "
            "are for testing. Nothing was paid for them."
        )
    dollars = census.credits * DOLLARS_PER_CREDIT
    return (
        f"{what}, made with the Stability AI API for {census.credits:,.2f} credits "
        f"({dollars:,.2f} US dollars).{_assumed(census)}"
    )


def _assumed(census: Census) -> str:
    """Return the sentence about prices that no source states."""
    assumed = {maker: cost for maker, (_, cost) in census.spent.items() if maker[0] in UNPRICED}
    if not assumed:
        return ""
    names = ", ".join(sorted({service for service, _ in assumed}))
    return (
        f" {sum(assumed.values()):,.2f} of these credits are assumed: no source states the price "
        f"of {names}."
    )


def _splits(splits: Sequence[SplitFiles], kind: MediaKind) -> Iterator[str]:
    yield f"| split | {kind.many} |"
    yield "|---|---:|"
    for split in splits:
        yield f"| {split.name} | {split.count:,} |"


def with_edits(new: str, old: str) -> str:
    """Return a new card with the edits that somebody may have made to an old one.

    These are keys of its front matter that do not describe the files, and its text outside the
    marks; without the marks, all its text.
    """
    if not old.strip():
        return new
    new_head, new_text = _parts(new)
    old_head, text = _parts(old)
    head = old_head | {key: new_head[key] for key in KEYS_WRITTEN_ANEW} if old_head else new_head
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        written = new_text.partition(BEGIN)[2].partition(END)[0]
        text = f"{before}{BEGIN}{written}{END}{after}"
    return f"---\n{''.join(head.values())}---{text}"


def _parts(text: str) -> tuple[dict[str, str], str]:
    """Return the front matter of a card, as lines by their key, and the text after it."""
    found = HEAD.match(text)
    if not found:
        return {}, f"\n{text}"
    lines = {some.partition(":")[0].strip(" \"'"): some for some in KEY.split(found[1])}
    return lines, text[found.end() :]


def _caution(times: set[str]) -> str:
    names = ", ".join(f"`{_cell(name)}`" for name in sorted(times))
    return (
        f"{names}: some values look like times. `datasets` may read such a column of a metadata "
        "table as times, and return `2024-01-04` as `2024-01-04 00:00:00`. `metadata.jsonl` has "
        "the original text."
    )


def _makers(census: Census, kind: MediaKind) -> Iterator[str]:
    yield f"| service | model | {kind.many} | credits |"
    yield "|---|---|---:|---:|"
    for (service, model), (count, cost) in sorted(census.spent.items()):
        assumed = " (assumed)" if service in UNPRICED else ""
        yield f"| {_cell(service)} | {_cell(model)} | {count:,} | {cost:,.2f}{assumed} |"


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
    """Return text as part of a line of Markdown."""
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
    """Return lines of YAML."""
    match value:
        case dict():
            for key, item in value.items():
                if isinstance(item, (dict, list)):
                    yield f"{indent}{key}:"
                    yield from _yaml(item, indent + "  ")
                else:
                    yield f"{indent}{key}: {_scalar(item)}"
        case list():
            for item in value:
                first, *rest = _yaml(item, indent + "  ")
                yield f"{indent}- {first.lstrip()}"
                yield from rest
        case _:
            yield f"{indent}{_scalar(value)}"


def _scalar(value: object) -> str:
    """Return a value in JSON, which YAML reads too, except two escapes that make one character."""
    return re.sub(
        r"[^ -~]", lambda sign: f"\\U{ord(sign[0]):08x}", json.dumps(value, ensure_ascii=False)
    )
