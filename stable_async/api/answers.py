"""Parse answers: errors, generation ids, JSON, headers.

Pure: bytes and headers in; only `Retry-After` takes this machine's clock for a missing `Date`.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from stable_async.api.base64_json import decode_base64
from stable_async.api.envelope import read_envelope
from stable_async.api.media_types import sniff
from stable_async.api.pages import describe, page_title
from stable_async.api.parsing import parse_json
from stable_async.api.texts import clean
from stable_async.api.verdict import FAILED_REASON, judge, judge_failed, judge_unreadable, rule_of
from stable_async.errors import APIStatusError, InvalidResponseError
from stable_async.media import CONTENT_FILTERED, Image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stable_async.api.envelope import Envelope
    from stable_async.api.verdict import Asked, Verdict

__all__ = [
    "Answer",
    "SentSize",
    "read_artifacts",
    "read_as",
    "read_error",
    "read_finish_reason",
    "read_generation_id",
    "read_json",
    "read_seed",
]

ContentT = TypeVar("ContentT")

logger: logging.Logger = logging.getLogger("stable_async")

MAX_MESSAGES = 20
MOST_SEED_DIGITS = 10
FINISH_REASONS = ("SUCCESS", CONTENT_FILTERED, FAILED_REASON)
# No answer may stop a client for good, or make it retry in a tight loop.
MIN_RETRY_AFTER = 1.0
MAX_RETRY_AFTER = 3600.0
_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(?:\.[0-9]{0,30})?")


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer.

    Attributes:
        status: HTTP status.
        headers: The headers; names are looked up without regard to case.
        body: The body, if it was read.
        asked: What kind of request it answers.
        key: The key that was sent; removed from all text.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    asked: Asked = "submit"
    key: str = field(default="", repr=False)

    @property
    def content_type(self) -> str:
        """The media type without parameters, in lower case, cleaned."""
        label = self.headers.get("Content-Type", "").partition(";")[0]
        return clean(label, limit=60, key=self.key).lower()

    @property
    def encoding(self) -> str:
        """How the body is compressed, cleaned."""
        return clean(self.headers.get("Content-Encoding", ""), limit=30, key=self.key)

    @property
    def request_id(self) -> str | None:
        """The answer's `x-request-id`, cleaned."""
        sent = self.headers.get("x-request-id")
        return clean(sent, limit=100, key=self.key) or None if sent else None

    @property
    def reported_error(self) -> Envelope | None:
        """The API's envelope in the body of a success, unless it has no message: a generation that
        is well may have a name and an empty list of errors.
        """
        envelope = read_envelope(self.body)
        return envelope if envelope is not None and any(envelope.messages) else None

    def unreadable(self, what: str) -> InvalidResponseError:
        """Return the error for a success that is not what it should be."""
        envelope = self.reported_error
        if envelope is not None:
            messages = "; ".join(envelope.messages)
            what = f"an error, {envelope.name}: {messages}"
        return self._invalid(what, judge_unreadable(envelope, self.asked))

    def failed(self, reason: str = FAILED_REASON) -> InvalidResponseError:
        """Return the error for a finish reason with which there is no result."""
        what = "failed" if reason == FAILED_REASON else "has no result"
        return self._invalid(
            f"a generation that {what} (finish reason {reason})", judge_failed(self.asked)
        )

    def _invalid(self, what: str, verdict: Verdict) -> InvalidResponseError:
        return InvalidResponseError(
            clean(f"the server answered {self.status} with {what}", key=self.key),
            verdict=verdict,
            request_id=self.request_id,
        )


@dataclass(frozen=True, slots=True)
class SentSize:
    """Size of a request body, and the most that the API accepts, bytes."""

    sent: int
    limit: int


def read_json(answer: Answer) -> object:
    """Return the JSON of an answer.

    Raises:
        InvalidResponseError: The body is not JSON.
    """
    try:
        return parse_json(answer.body)
    except ValueError:
        raise answer.unreadable(f"{describe(answer.body, answer.key)} instead of JSON") from None


def read_generation_id(answer: Answer) -> str:
    """Return the id that an asynchronous operation answers with, whatever its form.

    Raises:
        InvalidResponseError: The answer has none.
    """
    content = read_json(answer)
    identity = content.get("id") if isinstance(content, dict) else None
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    if not isinstance(identity, str) or not identity or answer.reported_error is not None:
        raise answer.unreadable("JSON without the id of a generation")
    return identity.encode("utf-8", "replace").decode("utf-8")


def read_as(kind: type[ContentT], answer: Answer) -> ContentT:
    """Return the JSON of an answer as a value of `kind`.

    Raises:
        InvalidResponseError: The body is not JSON, or not of this shape.
    """
    content = read_json(answer)
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        where = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors())
        raise answer.unreadable(f"JSON that is not as documented ({where or 'its type'})") from None


def read_artifacts(answer: Answer) -> list[Image]:
    """Return the images of a v1 answer; no source states what v1 costs.

    An artifact that failed (finish reason `ERROR`), with or without bytes, is left out, which is
    logged.

    Raises:
        InvalidResponseError: The body is not what v1 answers, or has no image.
    """
    if sniff(answer.body).startswith("image/"):
        seed = answer.headers.get("seed")
        reason = read_finish_reason(answer.headers.get("finish-reason"), answer.key)
        if reason == FAILED_REASON:
            raise answer.failed()
        return [_v1_image(answer, answer.body, seed, reason)]
    content = read_json(answer)
    # The documents have a bare list, the official samples read it from a key.
    artifacts = content.get("artifacts") if isinstance(content, dict) else content
    if not isinstance(artifacts, list):
        raise answer.unreadable("JSON without a list of artifacts")
    images, failed = [], []
    for artifact in artifacts:
        # One malformed artifact is no reason to lose the others, which are paid for.
        fields = artifact if isinstance(artifact, dict) else {}
        reason = read_finish_reason(fields.get("finishReason"), answer.key)
        try:
            data = decode_base64(str(fields.get("base64") or ""))
        except ValueError:
            data = b""
        if sniff(data).startswith("image/") and reason != FAILED_REASON:
            images.append(_v1_image(answer, data, fields.get("seed"), reason))
        else:
            failed.append(str(reason))
    if not images:
        if failed[:1] == [FAILED_REASON]:
            raise answer.failed()
        raise answer.unreadable(f"no image (finish reasons: {', '.join(failed[:10]) or 'none'})")
    if failed:
        logger.warning(
            "%d of %d images failed (finish reasons: %s)",
            len(failed),
            len(artifacts),
            ", ".join(failed[:10]),
        )
    return images


def _v1_image(answer: Answer, data: bytes, seed: object, reason: str | None) -> Image:
    return Image(
        data=data,
        content_type=sniff(data),
        seed=read_seed(seed),
        finish_reason=reason,
        request_id=answer.request_id,
    )


def read_seed(seed: object) -> int | None:
    """Return the seed in a header or in JSON; `None` if there is none that could be one."""
    match seed:
        case str() if seed.isascii() and seed.isdigit() and len(seed) <= MOST_SEED_DIGITS:
            return int(seed)
        case bool():
            return None
        case int() | float() if 0 <= seed < 10**MOST_SEED_DIGITS and seed == int(seed):
            return int(seed)
        case _:
            return None


def read_finish_reason(reason: object, key: str) -> str | None:
    """Return a finish reason, cleaned; the documented ones in capitals, as the API writes them."""
    if reason is None or reason in FINISH_REASONS:
        return reason
    if not isinstance(reason, str):
        return None
    word = clean(reason, limit=100, key=key)
    return word.upper() if word.upper() in FINISH_REASONS else word


def read_error(
    answer: Answer, *, attempts: int = 1, address: str = "", size: SentSize | None = None
) -> APIStatusError:
    """Return the error for an answer that is not a success; its text is cleaned.

    Args:
        answer: The answer.
        attempts: How many attempts were made, this one included.
        address: Where the request was sent.
        size: Size of the request; `None` when it is not known.
    """
    envelope = read_envelope(answer.body)
    name, messages, identity = "", _page_texts(answer, size), ""
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


def _page_texts(answer: Answer, size: SentSize | None) -> Sequence[str]:
    """Return the messages for an answer that did not come from the API."""
    texts = []
    if 300 <= answer.status < 400 and "Location" in answer.headers:
        texts.append(f"redirected to {_target_of(answer)}, which is not followed with the key")
    elif answer.status == 413:
        what = "the request is too large for it"
        if size is not None:
            what = (
                f"a request of {size.sent:,} bytes is too large for it; "
                f"the API itself accepts {size.limit:,}"
            )
        texts.append(what)
    if title := page_title(answer.body, answer.key):
        texts.append(title)
    return texts


def _target_of(answer: Answer) -> str:
    """Return the host of a redirect's target."""
    try:
        host = urlsplit(answer.headers.get("Location", "")).hostname
    except ValueError:
        host = None
    return clean(host or "another path", limit=100)


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return `Retry-After` in seconds: a number, or a date taken against the answer's own `Date`.

    The time of arrival stands in for a `Date` that is missing (RFC 9110, section 6.6.1).

    At least a second: 0, or a date in the past, would mean retrying in a tight loop. At most an
    hour, longer than any known penalty; a cut is logged.
    """
    text = headers.get("Retry-After", "").strip()
    try:
        seconds = float(text) if _NUMBER.fullmatch(text) else _until(text, headers.get("Date", ""))
    except (TypeError, ValueError, OverflowError):
        return None
    if seconds > MAX_RETRY_AFTER:
        logger.warning(
            "the server asked for a wait of %.4g s; trying again after %g s",
            seconds,
            MAX_RETRY_AFTER,
        )
    return min(max(seconds, MIN_RETRY_AFTER), MAX_RETRY_AFTER)


def _until(date: str, now: str) -> float:
    since = parsedate_to_datetime(now) if now else datetime.now(UTC)
    return (parsedate_to_datetime(date) - since).total_seconds()
