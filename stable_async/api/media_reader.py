"""One answer turned into one result: bytes as they are, or base64 within JSON. Pure."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVar

from stable_async.api.answers import read_finish_reason, read_generation_id, read_seed
from stable_async.api.base64_json import Base64Field, other_fields
from stable_async.api.media_types import ENOUGH, TAIL, FileEnd, sniff
from stable_async.api.pages import describe
from stable_async.api.verdict import FAILED_REASON
from stable_async.errors import InvalidResponseError
from stable_async.media import CONTENT_FILTERED, Audio, Image, Media, Model3D

if TYPE_CHECKING:
    from stable_async.api.answers import Answer

__all__ = ["MediaReader", "holds_result"]

MediaT = TypeVar("MediaT", bound=Media)

# The family of media types of each kind, and the names of its bytes in JSON. The document has
# `image` where three independent public clients read `result`.
_FAMILY: dict[type[Media], tuple[str, tuple[str, ...]]] = {
    Image: ("image/", ("image", "result")),
    Audio: ("audio/", ("audio", "result")),
    Model3D: ("model/", ("model", "result")),
}
_ARTICLE = {Image: "an image", Audio: "audio", Model3D: "a model"}

WHITESPACE = b"\xef\xbb\xbf \t\r\n"
PARTIAL_CONTENT = 206
# How far an answer that is not a result is read, to find out what it is.
MAX_PAGE = 64 * 1024


def holds_result(kind: type[Media], answer: Answer) -> bool:
    """Return whether the body of an answer is a whole result of this kind."""
    reader = MediaReader(kind, answer)
    try:
        reader.feed(answer.body)
        reader.finish()
    except InvalidResponseError:
        return False
    return True


class MediaReader(Generic[MediaT]):
    """Turns an answer into one result, recognised by its first bytes whatever its content type.

    Attributes:
        content_type: Media type of the result; empty until it is `recognised`.
        recognised: Whether the first bytes have come, and are those of a result.
        known_at_end: Whether seed and finish reason are known at the end only, as with JSON.
        seed: The result's seed; with JSON known at the end only.
        finish_reason: The result's finish reason; with JSON known at the end only.
        request_id: The answer's `x-request-id`.
    """

    def __init__(self, kind: type[MediaT], answer: Answer) -> None:
        """Read the headers of `answer`."""
        self._family, self._names = _FAMILY[kind]
        self._kind = kind
        self._answer = answer
        self.content_type: str = ""
        self.recognised: bool = False
        self.known_at_end: bool = False
        self.seed = read_seed(answer.headers.get("seed"))
        self.finish_reason = self._word(answer.headers.get("finish-reason"))
        self.request_id: str | None = answer.request_id
        self._page = bytearray()  # what came before the result was recognised
        self._data = bytearray()  # the first bytes of what may be the result
        self._json: Base64Field | None = None
        self._head = self._tail = b""  # of the result
        self._size = 0
        self._blanks = 0  # how many bytes came before the first of the result

    @property
    def content_length(self) -> int | None:
        """Length of the result, bytes, where the headers say it; `None` with JSON."""
        headers = self._answer.headers
        length = headers.get("Content-Length", "")
        as_it_is = self._json is None and "Content-Encoding" not in headers
        if not (as_it_is and length.isascii() and length.isdigit()):
            return None
        return int(length) - self._blanks

    def feed(self, chunk: bytes) -> bytes:
        """Read the next piece of the body, and return the bytes of the result in it.

        Nothing is returned before the result is recognised.

        Raises:
            InvalidResponseError: It is not a result of this kind.
        """
        if not self.recognised:
            data = self._recognise(chunk)
        elif self._json is None:
            data = chunk
        else:
            data = self._decoded(self._json, chunk)
        self._tail = (self._tail + data[-TAIL:])[-TAIL:]
        self._size += len(data)
        return data

    @property
    def has_all(self) -> bool:
        """Whether the whole result has been fed, as far as its format shows."""
        if self._json is not None:
            return self.recognised and self._json.closed
        return self.recognised and self._end().is_exact()

    def finish(self) -> None:
        """Check the result at the end of the body.

        Raises:
            InvalidResponseError: It is not a result of this kind.
        """
        if self._json is not None:
            try:
                fields = self._json.finish()
            except ValueError:
                raise self._unreadable() from None
            if (seed := read_seed(fields.get("seed"))) is not None:
                self.seed = seed
            # v1 writes it in its own way.
            reason = fields.get("finish_reason") or fields.get("finishReason")
            self.finish_reason = self._word(reason) or self.finish_reason
            if self.finish_reason == FAILED_REASON:
                raise self._answer.failed()
        if not self.recognised:
            raise self._unreadable()
        headers = self._answer.headers
        # A body that ends with its connection may have been cut anywhere.
        framed = "Content-Length" in headers or "Transfer-Encoding" in headers
        cut = not framed and not self._end().is_whole()
        if cut or (self._answer.status == PARTIAL_CONTENT and self._is_part()):
            raise self._answer.unreadable(f"part of {_ARTICLE[self._kind]}")

    def result(self, data: bytes, credits: float | None) -> MediaT:  # noqa: A002 - the API's word
        """Return the result made of `data`, all its bytes; call `finish` first."""
        return self._kind(
            data=data,
            content_type=self.content_type,
            seed=self.seed,
            finish_reason=self.finish_reason,
            request_id=self.request_id,
            credits=credits,
        )

    def _recognise(self, chunk: bytes) -> bytes:
        """Return the first bytes of the result once they show what it is."""
        if len(self._page) <= MAX_PAGE:
            self._page += chunk
        held = self._page
        if self._json is None:
            # Scripts that pass answers on print blank lines, or a byte order mark, before them.
            held = self._page.lstrip(WHITESPACE)
            self._blanks = len(self._page) - len(held)
            if held.startswith((b"{", b"[")):
                self._json, self.known_at_end = Base64Field(self._names), True
                chunk = bytes(held)
        if self._json is not None:
            self._data += self._decoded(self._json, chunk)
            held = self._data
        too_long = self._json is None and len(self._page) > MAX_PAGE
        if len(held) < ENOUGH and not too_long:
            return b""
        media_type = sniff(held)
        if media_type.startswith(self._family):
            self.content_type, self.recognised = media_type, True
            if self.finish_reason == FAILED_REASON:
                raise self._answer.failed()
            data = bytes(held)
            self._head = data[:ENOUGH]
            self._data, self._page = bytearray(), bytearray()
            return data
        # A page is read further for its title, or for the API's envelope.
        if self._json is not None or too_long:
            raise self._unreadable()
        return b""

    def _end(self) -> FileEnd:
        return FileEnd(self.content_type, self._head, self._tail, self._size)

    def _decoded(self, json: Base64Field, chunk: bytes) -> bytes:
        try:
            return json.feed(chunk)
        except ValueError:
            raise self._unreadable() from None

    def _unreadable(self) -> InvalidResponseError:
        if self.recognised:
            return self._answer.unreadable(f"part of {_ARTICLE[self._kind]}, in base64")
        held = bytes(self._page)
        if reason := self._failure():
            if reason in {FAILED_REASON, CONTENT_FILTERED}:
                return self._answer.failed(reason)
            said = f"no {self._family.rstrip('/')} (finish reason {reason})"
            return replace(self._answer, body=held).unreadable(said)
        what = (
            f"JSON with {describe(bytes(self._data), self._answer.key)}"
            if self._data
            else describe(held, self._answer.key)
        )
        label = self._answer.content_type
        labelled = f", labelled {label!r}," if label and held else ""
        answer = replace(self._answer, body=held)
        error = answer.unreadable(f"{what}{labelled} instead of {_ARTICLE[self._kind]}")
        # An operation that has become asynchronous: the result can be fetched by its id.
        if answer.asked == "submit":
            with suppress(InvalidResponseError):
                error.attach_generation(read_generation_id(answer))
        return error

    def _failure(self) -> str | None:
        """Return the finish reason of an answer without a result."""
        if self._json is None:
            return None if self._page else self.finish_reason
        if self._data:
            return None
        try:
            fields = other_fields(self._json.rest)
        except ValueError:
            return None
        return self._word(fields.get("finish_reason") or fields.get("finishReason"))

    def _is_part(self) -> bool:
        """Return whether an answer of status 206 says that it is a part, as it may."""
        ranged = re.fullmatch(
            r"bytes (\d{1,12})-(\d{1,12})/(\d{1,12})", self._answer.headers.get("Content-Range", "")
        )
        if ranged is None:
            return False
        first, last, size = map(int, ranged.groups())
        return first > 0 or last + 1 < size

    def _word(self, reason: object) -> str | None:
        return read_finish_reason(reason, self._answer.key)
