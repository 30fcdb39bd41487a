"""A row: one image to be made, from the prompt file to `metadata.jsonl`. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Literal, cast

from stable_async.api.fields import MAX_SEED
from stable_async.media import CONTENT_FILTERED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stable_async.api.v1 import TextPrompt

__all__ = [
    "FACTS",
    "MAX_ID",
    "ChargeState",
    "ImageFacts",
    "KnownInput",
    "Result",
    "Row",
    "State",
    "derive_seed",
    "metadata_of",
    "text_of",
    "to_json",
]

State = Literal["waiting", "in flight", "in doubt", "done", "filtered", "again", "failed"]
"""docs/jobs.md says what each means and what a later run does with it."""

ChargeState = Literal["reserved", "spent", "returned", "in doubt"]

# Characters of an id.
MAX_ID = 200
# Keys of a line of metadata.jsonl besides the fields of the API and the metadata of its row.
FACTS = frozenset(
    (
        "file_name",
        "id",
        "text",
        "service",
        "seed",
        "finish_reason",
        "sha256",
        "width",
        "height",
        "credits",
        "request_id",
    )
)


@dataclass(slots=True)
class Row:
    """One image to be made; each stage of the pipeline fills in what it finds out.

    Attributes:
        number: Row of the prompt file, as a text editor or a spreadsheet counts.
        fields: Fields of the API. As in the file, `id` and `service` included, until
            `PromptRules.expand`; as the API takes them, without the seed, after `rules.check`.
            Files are paths.
        metadata: The rest of the row, which is kept with its image.
        service: Name in `SERVICES`; set by `expand`.
        id: As given, or derived from the content by the plan.
        content: Digest of service and fields, independent of the format they are written in. Set by
            `expand`.
        seed: Given or derived; `None` where the service takes none. Set by `check`.
        price: Credits; `None` where no source states them. Set by `check`.
        position: Place in the ledger, part of the image's file name; 0 if not in the ledger.
        copy: Number of the row among those with the same content and no id of their own, from 1.
        attempts: How many times the row has been claimed.
        remake: How many times its image has been replaced.
        generation_id: Id of an asynchronous operation that was accepted, and so is paid for.
    """

    number: int
    fields: dict[str, object]
    metadata: dict[str, object] = field(default_factory=dict)
    service: str = ""
    id: str = ""
    content: bytes = b""
    seed: int | None = None
    price: float | None = None
    position: int = 0
    copy: int = 1
    attempts: int = 0
    remake: int = 0
    generation_id: str | None = None


@dataclass(frozen=True, slots=True)
class KnownInput:
    """An input file as it was when it was last read.

    Attributes:
        name: Relative to the folder of the prompt file.
        size: Bytes.
        mtime_ns: Time of its last change, nanoseconds since 1970.
        sha256: Digest of its bytes.
    """

    name: str
    size: int
    mtime_ns: int
    sha256: bytes


@dataclass(slots=True)
class ImageFacts:
    """The facts of an image; see the table `images` of the ledger.

    Those of its row and its answer are known first. Its store fills in those of its file.
    """

    position: int
    file_name: str = ""
    content_type: str = ""
    bytes: int = 0
    sha256: str = ""
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    finish_reason: str | None = None
    request_id: str | None = None
    credits: float | None = None
    sent_at: float | None = None
    finished_at: float | None = None

    @property
    def filtered(self) -> bool:
        """Whether the content filter blurred it."""
        return self.finish_reason == CONTENT_FILTERED


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of an attempt to make a row.

    Attributes:
        state: The new state of the row. `in flight` means that its image is spooled.
        charge: The state of the price that was reserved.
        image: The image, if it was stored.
        reason: Why there is no image, in a word or two by which failures are counted.
        error: The same in full.
    """

    state: State
    charge: ChargeState
    image: ImageFacts | None = None
    reason: str | None = None
    error: str | None = None


def derive_seed(identity: str, copy: int, remake: int) -> int:
    """Return the seed of a row that has none: the same on every machine, and never 0.

    Args:
        identity: The row's id.
        copy: Number of the row among those with the same content, from 1.
        remake: How many times its image has been replaced.
    """
    # For the API a seed of 0 means a random one, which only the answer would show.
    digest = sha256(f"{identity}\x1f{copy}\x1f{remake}".encode()).digest()
    return int.from_bytes(digest) % MAX_SEED + 1


def metadata_of(row: Row, image: ImageFacts) -> dict[str, object]:
    """Return what `metadata.jsonl` records about an image."""
    fields = dict(row.fields)
    text = text_of(fields)
    fields.pop("prompt", None)
    return {
        "file_name": image.file_name,
        "id": row.id,
        "text": text,
        "service": row.service,
        **fields,
        "seed": image.seed,
        "finish_reason": image.finish_reason,
        "sha256": image.sha256,
        "width": image.width,
        "height": image.height,
        "credits": image.credits,
        "request_id": image.request_id,
        **row.metadata,
    }


def text_of(fields: Mapping[str, object]) -> str | None:
    """Return the text of an image: its prompt, or its prompts with weights above 0."""
    prompt = fields.get("prompt")
    if isinstance(prompt, str):
        return prompt
    prompts = cast("list[TextPrompt]", fields.get("text_prompts") or [])
    return ", ".join(one["text"] for one in prompts if one.get("weight", 1) > 0) or None


# Writes compact JSON, without escaping letters of any language; a number that is not finite is a
# `ValueError`. Shared by all values: `json.dumps` creates an encoder for every call with options.
to_json: Callable[[object], str] = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), default=str, allow_nan=False
).encode
