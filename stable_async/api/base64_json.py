"""A JSON answer with one long base64 text, decoded as it arrives. Pure.

The API's JSON answers are small except for one field, `image` or `audio`: four thirds of a file
that may have 20 MB. The text and the bytes of a whole file are never in memory together.

The result is paid for, so that every spelling is accepted: another name of the field or shape of
the object, line breaks, a data URL, JSON escapes, the URL-safe alphabet, no padding.
"""

from __future__ import annotations

import binascii
import re
from functools import cache
from typing import TYPE_CHECKING, cast

from stable_async.api.parsing import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Base64Field", "decode_base64", "other_fields"]

# What may surround the base64 text: the other fields are a number and a word.
MAX_REST = 64 * 1024
# What a data URL may have before its comma.
MAX_DATA_URL = 256

# How files begin in base64: PNG, JPEG, WebP and WAV, glTF, MP3, FLAC, Ogg. A text that begins so is
# the one, whatever its name.
_FILE = (
    rb"data:(?:image|audio|model)/|iVBORw0KGgo|(?:\\)?/9j(?:\\)?/|_9j_"
    rb"|UklGR|Z2xURg|SUQz|ZkxhQ|T2dnU"
)
# Shorter text is a word, such as `"result": "success"`, and not a file.
SHORTEST = 20

_PLAIN = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_ESCAPES = re.compile(rb"\\(?:u([0-9A-Fa-f]{4})|(.))", re.DOTALL)
_HALF_ESCAPE = re.compile(rb"\\(?:u[0-9A-Fa-f]{0,3})?\Z")
_FROM_URL = bytes.maketrans(b"-_", b"+/")


class Base64Field:
    """Decodes the base64 text of one field of a JSON value, piece by piece.

    Raises:
        ValueError: From any method: the bytes are not such JSON, or the text is not base64.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        """Decode the first text that is in a field with one of these names, or begins as a file."""
        self._names = names
        self._opening = _opening(names)
        self._rest = bytearray()  # everything outside the text
        self._text = _Base64Text()
        self._inside = self._found = False

    def feed(self, chunk: bytes) -> bytes:
        """Decode the next piece of the answer, and return its bytes."""
        if self._inside:
            return self._decode(chunk)
        self._rest += chunk
        if self._found:
            # Perhaps another spelling of the same image: only its first bytes are kept.
            del self._rest[MAX_REST:]
            return b""
        position = 0
        while match := self._opening.search(self._rest, position):
            end = self._rest.find(b'"', match.end(), match.end() + SHORTEST)
            if end >= 0:
                position = end + 1
                continue
            if len(self._rest) < match.end() + SHORTEST:
                break  # too little of the text is here
            text = bytes(self._rest[match.end() :])
            del self._rest[match.end() :]
            self._inside = self._found = True
            return self._decode(text)
        if len(self._rest) > MAX_REST:
            raise ValueError(f"no base64 text in {self._allowed()} within {MAX_REST} bytes")
        return b""

    @property
    def rest(self) -> bytes:
        """What stands around the text, as far as it came."""
        return bytes(self._rest)

    @property
    def closed(self) -> bool:
        """Whether the whole text has been fed."""
        return self._found and not self._inside

    def finish(self) -> dict[str, object]:
        """Return the other fields, once the whole answer has been fed: the outermost of each name.

        A field that cannot be parsed is left out: a complete image is not lost because of it.
        """
        if not self.closed:
            raise ValueError(f"no complete base64 text in {self._allowed()}")
        try:
            return other_fields(self._rest)
        except ValueError:
            return {}

    def _decode(self, chunk: bytes) -> bytes:
        text, quote, rest = chunk.partition(b'"')
        data = self._text.feed(text)
        if quote:
            self._inside = False
            self._rest += (quote + rest)[:MAX_REST]
            data += self._text.finish()
        return data

    def _allowed(self) -> str:
        return " or ".join(map(repr, self._names))


@cache
def _opening(names: tuple[str, ...]) -> re.Pattern[bytes]:
    """Return what matches the beginning of a field with one of these names, or of a file."""
    either = b"|".join(re.escape(name.encode()) for name in names)
    return re.compile(rb'"(?:' + either + rb')"\s*:\s*"|"(?=' + _FILE + rb")")


def other_fields(text: bytes | bytearray) -> dict[str, object]:
    """Return the fields of a JSON value at any depth: the outermost, and first, of each name.

    Raises:
        ValueError: It is not JSON.
    """
    fields: dict[str, object] = {}
    level: list[object] = [parse_json(text)]
    while level:
        for value in level:
            if isinstance(value, dict):
                fields = cast("dict[str, object]", value) | fields
        level = [inner for value in level for inner in _within(value)]
    return fields


def _within(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def decode_base64(text: str) -> bytes:
    """Return the bytes of a base64 text in any of the spellings above.

    Raises:
        ValueError: It is not base64.
    """
    decoder = _Base64Text()
    return decoder.feed(text.encode("ascii", "replace")) + decoder.finish()


class _Base64Text:
    """The inside of a JSON string that is base64."""

    def __init__(self) -> None:
        self._pending = b""  # fewer than four letters, or half an escape
        self._begun = False
        self._padded = False

    def feed(self, chunk: bytes) -> bytes:
        text = self._pending + chunk
        if not self._begun:
            if b"data:".startswith(text[:5]) and len(text) < 5:
                self._pending = text
                return b""
            if text.startswith(b"data:"):
                head, comma, text = text.partition(b",")
                if not comma:
                    if len(head) > MAX_DATA_URL:
                        raise ValueError("a data URL without a comma")
                    self._pending = head
                    return b""
            self._begun = True
        half = b""
        if not _PLAIN.fullmatch(text):
            if match := _HALF_ESCAPE.search(text):
                text, half = text[: match.start()], match[0]
            text = _plain(text)
        whole = len(text) - len(text) % 4
        self._pending = text[whole:] + half
        return self._decoded(text[:whole])

    def finish(self) -> bytes:
        letters, self._pending = self._pending, b""
        if letters and not self._begun:
            letters = _plain(letters)
        return self._decoded(letters + b"=" * (-len(letters) % 4)) if letters else b""

    def _decoded(self, letters: bytes) -> bytes:
        bare = letters.rstrip(b"=")
        if bare and self._padded:
            raise ValueError("base64 text continues after its padding")
        if len(bare) < len(letters):  # any number of signs ends the text, not only those needed
            self._padded = True
            bare += b"=" * (-len(bare) % 4)
        return binascii.a2b_base64(bare, strict_mode=True)


def _plain(text: bytes) -> bytes:
    """Return base64 text without escapes and line breaks, in the common alphabet."""
    text = _ESCAPES.sub(_unescaped, text) if b"\\" in text else text
    return b"".join(text.split()).translate(_FROM_URL)


def _unescaped(match: re.Match[bytes]) -> bytes:
    code, letter = match.groups()
    if code is not None:
        return chr(int(code, 16)).encode()
    return {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"f": b" ", b"b": b" "}.get(letter, letter)
