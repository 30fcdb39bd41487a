"""Bodies of requests: multipart forms and JSON, read as they arrive.

python-multipart parses them. A file with a name goes to a temporary file once it is large. A body
over the limit is refused as early as possible: by its declared length before it is read, or at the
first byte over the limit.
"""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, cast

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import FormParser, parse_options_header

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    from python_multipart.multipart import Field, File

__all__ = ["BodyError", "BodyTooLargeError", "Form", "Upload", "read_form", "read_json"]

SPOOL_BYTES = 1 << 20
# The longest text that the API accepts has 10,000 characters of at most four bytes. A text beyond
# this is too long, and so is its beginning, which is kept.
TEXT_BYTES = 1 << 16
JSON_BYTES = 1 << 20
PREAMBLE_BYTES = 1 << 16
MAX_PARTS = 1_000
# The official Python samples send an empty part of this name to make `requests` send multipart.
IGNORED_PART = "none"


class BodyError(Exception):
    """The body cannot be read; the message says why, as `field: problem`."""


class BodyTooLargeError(Exception):
    """The body is larger than the operation accepts."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a form.

    Attributes:
        filename: The client's name for it, decoded; empty if the part had none.
        content_type: The type that the client declared; the sandbox goes by the content.
        size: Bytes.
        sha256: Digest of the content, hexadecimal.
        file: The content.
    """

    filename: str
    content_type: str
    size: int
    sha256: str
    file: BinaryIO

    def read(self, size: int = -1) -> bytes:
        """Return the first `size` bytes, or all."""
        self.file.seek(0)
        return self.file.read(size)


@dataclass(slots=True)
class Form:
    """The fields of a body. Of several parts with one name the last one counts.

    Attributes:
        texts: Text fields.
        files: Files, without the empty, nameless file that browsers send for "no file".
        problems: Parts that cannot be read, as `field: problem`.
    """

    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, Upload] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def close(self) -> None:
        """Delete the files."""
        for upload in self.files.values():
            upload.file.close()


class _FormReader:
    """Collects the parts that the parser finds."""

    def __init__(self, boundary: bytes, file_fields: Collection[str]) -> None:
        self.form = Form()
        self.ended = False
        self._boundary = boundary
        self._file_fields = file_fields
        self._parts = 0
        self._parser = FormParser(
            "multipart/form-data",
            self._take_field,
            self._take_file,
            self._end,
            boundary=boundary,
            config={"MAX_MEMORY_FILE_SIZE": SPOOL_BYTES},
        )

    def write(self, data: bytes) -> None:
        self._parser.write(data)

    def abandon(self) -> None:
        """Close every file, including the one being received."""
        # The parser hands over a file only at its end.
        with suppress(FormParserError, BodyError):
            self._parser.write(b"\r\n--" + self._boundary + b"--\r\n")
        self.form.close()

    def _end(self) -> None:
        self.ended = True

    def _count(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BodyError(f"body: must have at most {MAX_PARTS} parts")

    def _take_field(self, part: Field) -> None:
        self._count()
        name, value = _text_of(part.field_name), part.value or b""
        if name == IGNORED_PART:
            return
        if name in self._file_fields:
            # Six of the API's own samples send a file without a file name.
            if value:
                self._keep_file(name, "", part.content_type, io.BytesIO(value), len(value))
            return
        # The last character of a truncated text may be cut as well.
        errors = "ignore" if len(value) > TEXT_BYTES else "strict"
        try:
            self.form.texts[name] = value[:TEXT_BYTES].decode(errors=errors)
        except UnicodeDecodeError:
            self.form.problems.append(f"{name}: must be UTF-8 text")

    def _take_file(self, part: File) -> None:
        file = cast("BinaryIO", part.file_object)
        try:
            self._count()
            name, filename = _text_of(part.field_name), _text_of(part.file_name)
        except BaseException:
            file.close()
            raise
        if name == IGNORED_PART or not (filename or part.size):
            file.close()
            return
        self._keep_file(name, filename, part.content_type, file, part.size)

    def _keep_file(
        self, name: str, filename: str, content_type: str | None, file: BinaryIO, size: int
    ) -> None:
        if name in self.form.files:
            self.form.files[name].file.close()
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        declared = content_type or "application/octet-stream"
        self.form.files[name] = Upload(filename, declared, size, digest, file)


def _text_of(name: bytes | None) -> str:
    r"""Return the name of a field or file as text.

    Browsers escape three characters (WHATWG HTML, "multipart/form-data encoding algorithm"), and
    this package the backslash. Others write `\"` and `\\` (RFC 9110, quoted-string), which the
    parser undoes; it keeps any other backslash. Names that are not UTF-8 are read as Latin-1.
    """
    raw = name or b""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    for escape, character in (("%22", '"'), ("%0D", "\r"), ("%0A", "\n"), ("%5C", "\\")):
        text = text.replace(escape, character)
    return text


def _boundary(content_type: str) -> bytes:
    if not content_type:
        # Recorded: the answer to a body without a content type.
        raise BodyError("content-type: required")
    try:
        kind, options = parse_options_header(content_type)
    except UnicodeError:
        kind, options = b"", {}
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise BodyError("content-type: must be multipart/form-data")
    return boundary


async def _bounded(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise BodyTooLargeError
        yield chunk


async def _without_preamble(chunks: AsyncIterator[bytes], boundary: bytes) -> AsyncIterator[bytes]:
    """Skip the preamble before the first boundary, which the parser refuses."""
    delimiter = b"--" + boundary
    head = b""
    async for chunk in chunks:
        head += chunk
        start = 0 if head.startswith(delimiter) else head.find(b"\r\n" + delimiter)
        if start >= 0:
            yield head[start:]
            break
        if len(head) > PREAMBLE_BYTES:
            break
    async for chunk in chunks:
        yield chunk


async def read_form(
    content_type: str,
    chunks: AsyncIterator[bytes],
    limit: int,
    file_fields: Collection[str] = frozenset(),
) -> Form:
    """Return the form of a multipart body.

    Args:
        content_type: The request's content type.
        chunks: The body.
        limit: The largest body, bytes.
        file_fields: Names whose parts are files even without a file name.

    Raises:
        BodyError: It is not a multipart form, or a broken one.
        BodyTooLargeError: It has more than `limit` bytes.
    """
    boundary = _boundary(content_type)
    try:
        reader = _FormReader(boundary, file_fields)
    except FormParserError as error:
        raise BodyError("content-type: has a boundary that is too long") from error
    try:
        async for chunk in _without_preamble(_bounded(chunks, limit), boundary):
            reader.write(chunk)
        if not reader.ended:
            raise BodyError("body: ends before its last boundary")
    except BaseException as error:
        reader.abandon()
        if isinstance(error, FormParserError | UnicodeError):
            raise BodyError("body: is not valid multipart/form-data") from error
        raise
    return reader.form


async def read_json(chunks: AsyncIterator[bytes]) -> dict[str, object]:
    """Return the object of a JSON body.

    Raises:
        BodyError: It is not a JSON object.
        BodyTooLargeError: It is larger than any request that the API accepts needs to be.
    """
    body = b"".join([chunk async for chunk in _bounded(chunks, JSON_BYTES)])
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BodyError("body: is not valid JSON") from error
    if not isinstance(value, dict):
        raise BodyError("body: must be a JSON object")
    return value
