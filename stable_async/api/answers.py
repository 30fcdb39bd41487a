"""Answers of the API, read: results, error envelopes, headers. Pure: bytes and headers in."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from stable_async.api.base64_json import Base64Field
from stable_async.api.envelope import read_envelope
from stable_async.api.parsing import parse_json, parse_seed
from stable_async.api.texts import clean
from stable_async.api.verdict import judge, judge_unreadable, rule_of
from stable_async.errors import APIStatusError, InvalidResponseError
from stable_async.media import Audio, Image, Media, Model3D

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stable_async.api.verdict import Asked

__all__ = [
    "Answer",
    "MediaReader",
    "read_artifacts",
    "read_as",
    "read_error",
    "read_generation_id",
    "read_json",
]

MediaT = TypeVar("MediaT", bound=Media)
ContentT = TypeVar("ContentT")

# The families of media types an operation may answer with, and the name of the bytes in its JSON.
_FAMILY: dict[type[Media], tuple[str, str]] = {
    Image: ("image/", "image"),
    Audio: ("audio/", "audio"),
    Model3D: ("model/", "model"),
}


MAX_MESSAGES = 20
# An answer must not be able to stop a client for good.
MAX_RETRY_AFTER = 3600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of a server.

    Attributes:
        status: HTTP status.
        headers: Looked up without regard to case.
        body: The body, if it was read.
        asked: What was asked.
        key: The key that was sent; taken out of every text.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    asked: Asked = "submit"
    key: str = field(default="", repr=False)

    @property
    def content_type(self) -> str:
        """The media type without parameters, in small letters."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def request_id(self) -> str | None:
        """The answer's `x-request-id`, cleaned."""
        return clean(self.headers.get("x-request-id", ""), limit=100, key=self.key) or None

    def unreadable(self, what: str) -> InvalidResponseError:
        """Return the error of a success that is not what it should be."""
        envelope = read_envelope(self.body)
        if envelope is not None:
            messages = "; ".join(envelope.messages)
            what = clean(f"an error, {envelope.name}: {messages}", key=self.key)
        return InvalidResponseError(
            f"the server answered {self.status} with {what}",
            verdict=judge_unreadable(envelope, self.asked),
            request_id=self.request_id,
        )


def read_json(answer: Answer) -> object:
    """Give the JSON of an answer.

    Raises:
        InvalidResponseError: The body is not JSON.
    """
    try:
        return parse_json(answer.body)
    except ValueError:
        raise answer.unreadable(f"a body that is not JSON ({len(answer.body)} bytes)") from None


def read_generation_id(answer: Answer) -> str:
    """Give the id that an asynchronous operation answers with.

    Raises:
        InvalidResponseError: There is none in the answer.
    """
    content = read_json(answer)
    identity = content.get("id") if isinstance(content, dict) else None
    if not isinstance(identity, str):
        raise answer.unreadable("JSON without the id of a generation")
    return identity


def read_as(kind: type[ContentT], answer: Answer) -> ContentT:
    """Give the JSON of an answer as a value of `kind`.

    Raises:
        InvalidResponseError: The body is no JSON of this shape.
    """
    try:
        return TypeAdapter(kind).validate_json(answer.body)
    except ValidationError as error:
        where = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors())
        raise answer.unreadable(f"JSON that is not as documented ({where})") from None


@dataclass(frozen=True, slots=True)
class _Artifact:
    base64: str
    seed: int | None = None
    finishReason: str | None = None  # noqa: N815 - the API's word


@dataclass(frozen=True, slots=True)
class _Artifacts:
    artifacts: list[_Artifact]


def read_artifacts(answer: Answer) -> list[Image]:
    """Give the pictures of a v1 answer; no source states what v1 costs.

    Raises:
        InvalidResponseError: The body is not what v1 answers.
    """
    try:
        return [
            Image(
                data=(data := base64.b64decode(artifact.base64, validate=True)),
                content_type=sniff(data),
                seed=artifact.seed,
                finish_reason=artifact.finishReason,
                request_id=answer.request_id,
            )
            for artifact in read_as(_Artifacts, answer).artifacts
        ]
    except ValueError:
        raise answer.unreadable("an image that is no base64") from None


class MediaReader(Generic[MediaT]):
    """Turns an answer into one result: `image/*` bytes as they are, or base64 within JSON.

    Attributes:
        content_type: Media type of the result; for JSON that does not say, empty until the end.
        seed: The result's seed; with JSON known at the end only.
        finish_reason: The result's finish reason; with JSON known at the end only.
    """

    def __init__(self, kind: type[MediaT], answer: Answer) -> None:
        """Read the headers of `answer`.

        Raises:
            InvalidResponseError: The content type is neither.
        """
        family, field = _FAMILY[kind]
        self._kind = kind
        self._answer = answer
        self.content_type = answer.content_type
        self.seed = parse_seed(answer.headers.get("seed"))
        self.finish_reason = answer.headers.get("finish-reason")
        self._empty = True
        self._json: Base64Field | None = None
        if answer.content_type == "application/json":
            self._json = Base64Field(field)
            self.content_type = _inner_media_type(answer.headers.get("Content-Type", ""))
        elif not answer.content_type.startswith(family):
            raise self._unreadable(
                f"content type {answer.content_type!r}, not {family}* or application/json"
            )

    @property
    def asked(self) -> Asked:
        """What was asked."""
        return self._answer.asked

    @property
    def content_length(self) -> int | None:
        """Length of the result, bytes, where the headers say it; `None` with JSON."""
        headers = self._answer.headers
        length = headers.get("Content-Length", "")
        as_it_is = self._json is None and "Content-Encoding" not in headers
        return int(length) if as_it_is and length.isdigit() else None

    @property
    def request_id(self) -> str | None:
        """The answer's `x-request-id`."""
        return self._answer.request_id

    def feed(self, chunk: bytes) -> bytes:
        """Take the next piece of the body, give the bytes of the result in it.

        Raises:
            InvalidResponseError: The JSON is not what it should be.
        """
        if self._json is None:
            self._empty = self._empty and not chunk
            return chunk
        try:
            data = self._json.feed(chunk)
        except ValueError as error:
            raise self._unreadable(str(error)) from None
        self._empty = self._empty and not data
        if data and not self.content_type:
            self.content_type = sniff(data)
        return data

    def finish(self) -> None:
        """Note what the end of the body says.

        Raises:
            InvalidResponseError: The JSON is not what it should be.
        """
        if self._json is not None:
            self._read_fields(self._json)
        if self._empty:
            raise self._unreadable("no bytes")

    def _read_fields(self, json: Base64Field) -> None:
        try:
            fields = json.finish()
        except ValueError as error:
            raise self._unreadable(str(error)) from None
        seed, finish_reason = fields.get("seed"), fields.get("finish_reason")
        self.seed = parse_seed(seed)
        self.finish_reason = finish_reason if isinstance(finish_reason, str) else None

    def result(self, data: bytes, credits: float | None) -> MediaT:  # noqa: A002 - the API's word
        """Make the result of all its bytes, after `finish`."""
        return self._kind(
            data=data,
            content_type=self.content_type,
            seed=self.seed,
            finish_reason=self.finish_reason,
            request_id=self.request_id,
            credits=credits,
        )

    def _unreadable(self, what: str) -> InvalidResponseError:
        return self._answer.unreadable(what)


def _inner_media_type(content_type: str) -> str:
    """Give the type of the bytes inside a JSON answer: `application/json; type=image/png`."""
    match = re.search(r";\s*type=\"?([\w.+-]+/[\w.+-]+)", content_type)
    return match[1].lower() if match else ""


def sniff(data: bytes) -> str:
    """Give the media type of a file by its first bytes, `application/octet-stream` when unknown."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"RIFF"):
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(
            data[8:12], "application/octet-stream"
        )
    if data.startswith(b"glTF"):
        return "model/gltf-binary"
    if data.startswith(b"ID3") or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0):
        return "audio/mpeg"
    return "application/octet-stream"


def read_error(answer: Answer, *, attempts: int = 1, address: str = "") -> APIStatusError:
    """Return the error of an answer that is no success; its texts are cleaned."""
    envelope = read_envelope(answer.body)
    name, messages, identity = "", _page_texts(answer), ""
    if envelope is not None:
        name, messages, identity = envelope.name, envelope.messages, envelope.id
    return rule_of(answer.status, envelope).error(
        verdict=judge(answer.status, envelope, answer.asked),
        status=answer.status,
        name=clean(name, limit=100, key=answer.key),
        errors=[clean(text, key=answer.key) for text in messages[:MAX_MESSAGES]],
        request_id=answer.request_id or clean(identity, limit=100, key=answer.key) or None,
        attempts=attempts,
        retry_after=read_retry_after(answer.headers),
        address=address,
    )


def _page_texts(answer: Answer) -> Sequence[str]:
    """Return what is worth saying of a page that is not the API's: its title or first words."""
    text = " ".join(answer.body[:1000].decode("utf-8", "replace").split())
    return [text] if text else []


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Give `Retry-After` in seconds: a number, or a date taken against the answer's own `Date`.

    At most an hour: longer than any shut-out that is known.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        seconds = float(text[:10])
    else:
        try:
            then, now = parsedate_to_datetime(text), parsedate_to_datetime(headers.get("Date", ""))
            seconds = (then - now).total_seconds()
        except (TypeError, ValueError):
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
