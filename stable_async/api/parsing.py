"""JSON from a server that may send anything."""

from __future__ import annotations

import json
from typing import cast

__all__ = ["is_json", "parse_json"]

_BLANK = "\ufeff \t\r\n"  # among them the byte order mark


def parse_json(data: bytes | bytearray) -> object:
    """Return the value parsed from JSON text; stray bytes after an object or a list are ignored.

    Bytes that are not of its encoding become replacement characters: a message in Latin-1 must not
    hide the rest.

    Raises:
        ValueError: It is not JSON, or is nested too deeply.
    """
    encoding = json.detect_encoding(data)
    try:
        text = data.decode(encoding, "surrogatepass")
    except UnicodeDecodeError:
        text = data.decode(encoding, "replace")
    text = text.lstrip(_BLANK)
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if not isinstance(value, dict | list) and text[end:].strip():
        raise ValueError("text that only begins as JSON")
    return cast("object", value)


def is_json(data: bytes | bytearray) -> bool:
    """Return whether `data` is a complete JSON object or array."""
    try:
        return isinstance(parse_json(data), dict | list)
    except ValueError:
        return False
