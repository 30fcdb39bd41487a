"""What a file field of a request accepts, in a program and in JSON."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import AsyncIterable, Awaitable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeGuard, get_args, runtime_checkable

from pydantic_core import PydanticCustomError, core_schema

from stable_async.api.file_limits import ImageLimits
from stable_async.media import Media

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue

__all__ = [
    "FileInput",
    "FilePart",
    "SupportsArrayInterface",
    "SupportsFile",
    "SupportsRead",
    "SupportsReadChunk",
    "UnfitSourceError",
    "holds_pixels",
]


class UnfitSourceError(Exception):
    """A file field was given something that cannot be read as a file.

    Attributes:
        given: What it is.
        allowed: What could be given instead.
    """

    def __init__(self, given: str, allowed: str = "a readable binary file") -> None:
        """Describe what was given and what is allowed."""
        super().__init__(given)
        self.given = given
        self.allowed = allowed


@runtime_checkable
class SupportsRead(Protocol):
    """A binary file object or stream, synchronous or asynchronous.

    Among them: open files, `anyio.AsyncFile`, handles of aiofiles, `asyncio.StreamReader`,
    `aiohttp.StreamReader` (`request.content` and `response.content`).
    """

    def read(self, size: int, /) -> bytes | Awaitable[bytes]:
        """Return up to `size` bytes, none at the end."""


@runtime_checkable
class SupportsReadChunk(Protocol):
    """A part of a multipart body that a server is receiving: `aiohttp.BodyPartReader`."""

    def read_chunk(self, size: int = ...) -> Awaitable[bytes]:
        """Return up to `size` bytes, none at the end."""


@runtime_checkable
class SupportsFile(Protocol):
    """An upload that a server has received: Starlette's `UploadFile`, aiohttp's `FileField`."""

    @property
    def file(self) -> SupportsRead:
        """The file that holds it."""


class SupportsArrayInterface(Protocol):
    """A numpy array or a Pillow image."""

    @property
    def __array_interface__(self) -> Mapping[str, object]:
        """Shape, type and memory, as numpy's array interface (version 3) describes them."""


FileInput = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | Media
    | SupportsRead
    | SupportsReadChunk
    | SupportsFile
    | SupportsArrayInterface
    | Iterable[bytes]
    | AsyncIterable[bytes]
)
"""A file to send:

- a path (text or path object), or the bytes themselves;
- a result of this client (`Image`, `Audio`);
- a Pillow image, or a numpy array of uint8 (H x W, H x W x 3 or H x W x 4): sent as PNG, which
  needs Pillow;
- a binary file object, synchronous or asynchronous, read from its position; an upload that a server
  has received (Starlette's `UploadFile`, aiohttp's `FileField` and `BodyPartReader`);
- a stream: anything with `read`, or an iterable or asynchronous iterable of bytes.

What can be read only once is buffered, so that the request can be retried; the request itself can
then be sent only once.
"""

_SOURCES = (
    bytes,
    bytearray,
    memoryview,
    Media,
    os.PathLike,
    Iterable,
    AsyncIterable,
    SupportsRead,
    SupportsReadChunk,
    SupportsFile,
)
_DATA_URL = re.compile(r"data:[^,]{0,200};base64,")
ALLOWED = (
    "a path, bytes, a result of this client, a Pillow image, a numpy array, a binary file object, "
    "or an (async) iterable of bytes"
)


@dataclass(frozen=True, slots=True)
class FilePart:
    """Marks a field of a request model that is sent as a file.

    Attributes:
        image: What the API accepts as an image here; `None` where no source states limits.
    """

    image: ImageLimits | None = None

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Check the kind of source only; its content is checked when it is opened."""
        optional = type(None) in get_args(source)
        return core_schema.no_info_plain_validator_function(
            self._check_optional if optional else self._check,
            serialization=core_schema.plain_serializer_function_ser_schema(
                _to_json, when_used="json"
            ),
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the field in JSON: the content in base64."""
        return {"type": "string", "contentEncoding": "base64"}

    @classmethod
    def _check_optional(cls, value: object) -> object:
        return None if value is None else cls._check(value)

    @staticmethod
    def _check(value: object) -> object:
        if isinstance(value, str):
            # From a program, text is a path: `Request` has made it a `Path` already. This text
            # comes from data, perhaps a stranger's: it must not name a file on this machine.
            return _from_base64(value)
        if _is_file(value):
            return value
        raise PydanticCustomError("file_type", "{allowed}", {"allowed": ALLOWED})


def _is_file(value: object) -> bool:
    if isinstance(value, Mapping):
        return False
    if isinstance(value, list | tuple):
        return all(isinstance(piece, bytes | bytearray | memoryview) for piece in value)
    return holds_pixels(value) or isinstance(value, _SOURCES)


def holds_pixels(value: object) -> TypeGuard[SupportsArrayInterface]:
    """Return whether `value` is a Pillow image or a numpy array, without loading either library."""
    # Looked up on the class: reading the property of a Pillow image would copy its pixels.
    return hasattr(type(value), "__array_interface__")


def _from_base64(text: str) -> bytes:
    encoded = text[match.end() :] if (match := _DATA_URL.match(text)) else text
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:
        raise PydanticCustomError("base64", "the content of the file in base64") from None


def _to_json(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, Media):
        value = value.data
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    raise ValueError(
        "only a file given as bytes, or a result of this client, can be written as JSON"
    )
