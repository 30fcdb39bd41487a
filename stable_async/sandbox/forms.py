"""Bodies of requests: multipart forms read as they come, with bounded memory.

Files go to a temporary file once they are large, so a body costs memory only up to
`SPOOL_BYTES` per file, whatever its size. A body over the limit is refused as soon as that is
known: by its declared length before a byte of it is read, or at the byte that is one too many.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from email.message import Message
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["BodyError", "BodyTooLargeError", "Form", "Upload", "read_form", "read_json"]

SPOOL_BYTES = 1 << 20
# The longest text the API takes has 10,000 characters, at most four bytes each. A text beyond this
# is too long whatever it says, and so is its beginning, which is kept.
TEXT_BYTES = 1 << 16
JSON_BYTES = 1 << 20
MAX_PARTS = 1_000
MAX_PART_HEADER_BYTES = 16 << 10
# The official Python samples send an empty part of this name, to make `requests` send multipart.
IGNORED_PART = "none"


class BodyError(Exception):
    """The body cannot be read; the text says why, as `field: problem`."""


class BodyTooLargeError(Exception):
    """The body is larger than the operation takes."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a form.

    Attributes:
        filename: As the client wrote it, decoded.
        content_type: As the client declared it; the sandbox goes by the content.
        size: Bytes.
        sha256: Of the content, hexadecimal.
        file: The content.
    """

    filename: str
    content_type: str
    size: int
    sha256: str
    file: BinaryIO

    def read(self, size: int = -1) -> bytes:
        """Give the first `size` bytes, or all."""
        self.file.seek(0)
        return self.file.read(size)


@dataclass(slots=True)
class Form:
    """The fields of a body. Of two parts with one name the later one counts.

    Attributes:
        texts: Text fields.
        files: Files; an empty file without a name, as browsers send for "no file", is left out.
        problems: What cannot be read, as `field: problem`.
    """

    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, Upload] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def close(self) -> None:
        """Delete the files."""
        for upload in self.files.values():
            upload.file.close()


class _Part:
    """A part of a form while it comes in."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.header_name = b""
        self.header_value = b""
        self.header_bytes = 0
        self.name = ""
        self.filename: str | None = None
        self.size = 0
        self.digest = hashlib.sha256()
        self.file = SpooledTemporaryFile[bytes](SPOOL_BYTES)

    def finish_header(self) -> None:
        name = self.header_name.decode().lower()
        self.headers[name] = self.header_value.decode().strip()
        self.header_name = self.header_value = b""

    def finish_headers(self) -> None:
        options = _disposition(self.headers.get("content-disposition", ""))
        if "name" not in options:
            raise BodyError("body: a part has no name")
        self.name = options["name"]
        self.filename = options.get("filename")

    def write(self, data: bytes) -> None:
        if self.filename is None:
            self.file.write(data[: max(0, TEXT_BYTES - self.size)])
        else:
            self.digest.update(data)
            self.file.write(data)
        self.size += len(data)

    def finish(self, form: Form) -> None:
        if self.filename is not None and self.name != IGNORED_PART and (self.filename or self.size):
            self._finish_file(form, self.filename)
            return
        if self.filename is None and self.name != IGNORED_PART:
            self._finish_text(form)
        self.file.close()

    def _finish_text(self, form: Form) -> None:
        self.file.seek(0)
        # Where a text was cut off, its last character may have been cut as well.
        errors = "ignore" if self.size > TEXT_BYTES else "strict"
        try:
            form.texts[self.name] = self.file.read().decode(errors=errors)
        except UnicodeDecodeError:
            form.problems.append(f"{self.name}: must be UTF-8 text")

    def _finish_file(self, form: Form, filename: str) -> None:
        if self.name in form.files:
            form.files[self.name].file.close()
        form.files[self.name] = Upload(
            filename=filename,
            content_type=self.headers.get("content-type", "application/octet-stream"),
            size=self.size,
            sha256=self.digest.hexdigest(),
            file=cast("BinaryIO", self.file),
        )


class _Reader:
    """Puts together what the parser finds."""

    def __init__(self, boundary: str, form: Form) -> None:
        self.ended = False
        self.part: _Part | None = None
        self._form = form
        self._parts = 0
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": lambda: self._current.finish_header(),
                "on_headers_finished": lambda: self._current.finish_headers(),
                "on_part_data": lambda data, start, end: self._current.write(data[start:end]),
                "on_part_end": self._finish,
                "on_end": self._end,
            },
        )

    @property
    def _current(self) -> _Part:
        if self.part is None:
            raise BodyError("body: is no valid multipart/form-data")
        return self.part

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BodyError(f"body: must have at most {MAX_PARTS} parts")
        self.part = _Part()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._current.header_name += self._bounded(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._current.header_value += self._bounded(data[start:end])

    def _bounded(self, data: bytes) -> bytes:
        self._current.header_bytes += len(data)
        if self._current.header_bytes > MAX_PART_HEADER_BYTES:
            raise BodyError(f"body: a part has more than {MAX_PART_HEADER_BYTES} bytes of headers")
        return data

    def _finish(self) -> None:
        self._current.finish(self._form)
        self.part = None

    def _end(self) -> None:
        self.ended = True


# Browsers and most libraries write `%22` for a quote within a quoted value, so that it ends at the
# next quote (WHATWG HTML, "multipart/form-data encoding algorithm"). Older curls and aiohttp write
# `\\"`; a header is read in their way only where it cannot be read in the other.
# Nothing is tried twice (`*+`), or a hostile header would take its time squared.
_OPTION = r";\s*+([\w-]++)(\*?)\s*+=\s*+"
_PLAIN = re.compile(_OPTION + r'("[^"]*+"|[^;"]*+)')
_ESCAPED = re.compile(_OPTION + r'("(?:\\.|[^"\\])*+"|[^;"]*+)', re.DOTALL)
_ALL_PLAIN = re.compile(rf"[\w-]++\s*+(?:{_PLAIN.pattern}\s*+)*+;?")


def _disposition(header: str) -> dict[str, str]:
    """Give the options of a Content-Disposition header, decoded."""
    escaped = not _ALL_PLAIN.fullmatch(header)
    options: dict[str, str] = {}
    for name, star, written in (_ESCAPED if escaped else _PLAIN).findall(header):
        value = written.strip()
        if star:
            # RFC 5987, from libraries of before 2020; a plain value beside it comes first.
            _, _, encoded = value.partition("''")
            options.setdefault(name.lower(), unquote(encoded, errors="replace"))
            continue
        if value.startswith('"'):
            value = value[1:-1]
        if escaped:
            value = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        for escape, character in (("%22", '"'), ("%0D", "\r"), ("%0A", "\n")):
            value = value.replace(escape, character)
        options[name.lower()] = value
    return options


def _boundary(content_type: str) -> str:
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_boundary()
    if message.get_content_type() != "multipart/form-data" or not boundary:
        raise BodyError("content-type: must be multipart/form-data")
    return boundary


async def _bounded(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise BodyTooLargeError
        yield chunk


async def read_form(content_type: str, chunks: AsyncIterator[bytes], limit: int) -> Form:
    """Give the form of a multipart body.

    Raises:
        BodyError: It is no multipart form, or a broken one.
        BodyTooLargeError: It has more than `limit` bytes.
    """
    form = Form()
    reader: _Reader | None = None
    try:
        reader = _Reader(_boundary(content_type), form)
        async for chunk in _bounded(chunks, limit):
            reader.parser.write(chunk)
        if not reader.ended:
            raise BodyError("body: ends before its last boundary")
    except BaseException as error:
        if reader is not None and reader.part is not None:
            reader.part.file.close()
        form.close()
        if isinstance(error, FormParserError | UnicodeError):
            raise BodyError("body: is no valid multipart/form-data") from error
        raise
    return form


async def read_json(chunks: AsyncIterator[bytes]) -> dict[str, object]:
    """Give the object of a JSON body.

    Raises:
        BodyError: It is no JSON object.
        BodyTooLargeError: It is larger than any request that the API takes needs to be.
    """
    body = b"".join([chunk async for chunk in _bounded(chunks, JSON_BYTES)])
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BodyError("body: is no valid JSON") from error
    if not isinstance(value, dict):
        raise BodyError("body: must be a JSON object")
    return value
