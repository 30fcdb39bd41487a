"""A JSON answer with one long base64 text, decoded while it comes in. Pure.

The API's JSON answers are small but for one field, `image` or `audio`: four thirds of a file that
may have 20 MB. Text and bytes of the whole file are never held side by side.
"""

from __future__ import annotations

import binascii
import re
from typing import cast

from stable_async.api.parsing import parse_json

__all__ = ["Base64Field"]

# What may stand around the base64 text: the other fields are a number and a word.
MAX_REST = 64 * 1024


class Base64Field:
    """Decodes the base64 text of one field of a JSON object, piece by piece.

    Raises:
        ValueError: From any method: the bytes are no such JSON, or the text is no base64.
    """

    def __init__(self, field: str) -> None:
        """Decode the field named `field`."""
        self._opening = re.compile(rb'"' + re.escape(field.encode()) + rb'"\s*:\s*"')
        self._field = field
        self._rest = bytearray()  # everything outside the text
        self._inside = self._found = False
        self._quantum = b""  # base64 letters that do not fill four yet
        self._padded = False

    def feed(self, chunk: bytes) -> bytes:
        """Take the next piece of the answer, give the bytes it decodes to."""
        if self._inside:
            return self._decode(chunk)
        self._rest += chunk
        if not self._found and (match := self._opening.search(self._rest)):
            text = bytes(self._rest[match.end() :])
            del self._rest[match.end() :]
            self._inside = self._found = True
            return self._decode(text)
        if len(self._rest) > MAX_REST:
            raise ValueError(f"no base64 text in {self._field!r} within {MAX_REST} bytes")
        return b""

    def finish(self) -> dict[str, object]:
        """Give the object's other fields, once the whole answer was fed."""
        if not self._found or self._inside:
            raise ValueError(f"the answer ends before the text of {self._field!r} does")
        content = parse_json(self._rest)
        # The text was cut out, so that an empty one is left where it stood.
        if not isinstance(content, dict) or content.pop(self._field, None) != "":
            raise ValueError(f"{self._field!r} is no field of the answer's object")
        return cast("dict[str, object]", content)

    def _decode(self, text: bytes) -> bytes:
        text, quote, rest = text.partition(b'"')
        # Some encoders write / as \/, which a piece may end in the middle of.
        letters = (self._quantum + text).replace(b"\\/", b"/")
        if quote:
            self._inside = False
            self._rest += quote + rest
            whole = len(letters)
        else:
            ready = len(letters) - letters.endswith(b"\\")
            whole = ready - ready % 4
        self._quantum = letters[whole:]
        if whole and self._padded:
            raise ValueError("base64 text goes on after its padding")
        self._padded = letters.endswith(b"=", 0, whole)
        return binascii.a2b_base64(letters[:whole], strict_mode=True)
