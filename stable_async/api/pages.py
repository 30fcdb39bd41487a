"""What answered in the API's place, in words: a page, its title, other JSON. Pure."""

from __future__ import annotations

import html
import re

from stable_async.api.media_types import UNKNOWN, is_text, sniff
from stable_async.api.parsing import parse_json
from stable_async.api.texts import clean

__all__ = ["describe", "message_in", "page_title"]

MAX_TITLE = 200
# Where servers put the message of an error, and how deep.
MESSAGES = ("message", "error", "detail", "title", "errors", "msg", "fault", "faultstring")
MOST_LEVELS = 4
_TITLES = re.compile(rb"<(title|h1)\b[^>]*>(.*?)</\1\s*>", re.IGNORECASE | re.DOTALL)
_INVISIBLE = re.compile(
    rb"<(script|style|head)\b.*?(?:</\1\s*>|$)|<!--.*?(?:-->|$)", re.IGNORECASE | re.DOTALL
)
_TAGS = re.compile(rb"<[^>]*(?:>|$)")


def describe(data: bytes, key: str = "") -> str:
    """Return what the first bytes of an unexpected answer look like; `key` is taken out."""
    if not data:
        return "no bytes"
    media_type = sniff(data)
    if media_type != UNKNOWN:
        return f"a file of type {media_type}"
    text = data.lstrip(b"\xef\xbb\xbf \t\r\n")
    title = page_title(data, key)
    said = f' that says "{title}"' if title else ""
    if text.startswith(b"<"):
        return f"a web page{said}"
    if text.startswith((b"{", b"[")):
        return f"JSON{said}"
    if is_text(data):
        return f"text{said}"
    return f"{len(data):,} bytes of an unknown kind"


def page_title(data: bytes, key: str = "") -> str:
    """Return the title or the first words of a page, cleaned of `key`; empty if it is not text.

    Nothing else is returned: a page may echo what was sent.
    """
    text = data.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<"):
        found = _TITLES.search(text)
        words = found[2] if found else _TAGS.sub(b" ", _INVISIBLE.sub(b" ", text))
        return clean(html.unescape(words.decode("utf-8", "replace")), limit=MAX_TITLE, key=key)
    if text.startswith((b"{", b"[")):
        return _json_title(text, key)
    if not is_text(text):
        return ""
    return clean(text.partition(b"\n")[0].decode("utf-8", "replace"), limit=MAX_TITLE, key=key)


def _json_title(text: bytes, key: str) -> str:
    try:
        content = parse_json(text)
    except ValueError:
        return ""
    return clean(message_in(content), limit=MAX_TITLE, key=key)


def message_in(content: object, levels: int = MOST_LEVELS) -> str:
    """Return the message in JSON of any shape, such as `{"error": {"message": ...}}`, if any."""
    match content:
        case str():
            return content
        case [first, *_] if levels:
            return message_in(first, levels - 1)
        case dict() if levels:
            fields = {str(name).lower(): value for name, value in content.items()}
            found = (message_in(fields.get(name), levels - 1) for name in MESSAGES)
            return next(filter(None, found), "")
    return ""
