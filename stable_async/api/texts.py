"""Server texts made safe to show: the one place that they all pass through; blank texts. Pure."""

from __future__ import annotations

import base64
import re
import unicodedata
from functools import lru_cache

__all__ = ["MAX_TEXT", "clean", "is_blank", "redact"]

MAX_TEXT = 1000

# Escape sequences of terminals (ECMA-48): CSI, OSC and the other strings, and two-byte escapes;
# whole, or cut off in the middle.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
# A masked echo of a key, as the v1 API writes it: its first characters, asterisks, its last ones.
_V1_ECHO = re.compile(r"(?<=API key provided: )\S+(?=\.(?:\s|$))")
_KEY_LIKE = re.compile(r"\bsk-[\w*-]{6,}")
# Fewer base64 letters of a key are not searched for: they would match other text.
_LEAST_BASE64 = 8
SHORTEST_FORM = 8
_SPACE = " ?"
# Characters that are letters or symbols by category but invisible: Hangul fillers, the Braille
# blank.
_INVISIBLE = frozenset("\u115f\u1160\u2800\u3164\uffa0")


def is_blank(text: str) -> bool:
    """Return whether text is invisible: white space, zero-width and control characters only."""
    if "!" <= text[:1] <= "~":
        return False  # the common case
    rest = text.strip()
    return all(unicodedata.category(sign)[0] in "ZC" or sign in _INVISIBLE for sign in rest)


def clean(text: str, *, limit: int = MAX_TEXT, key: str = "") -> str:
    """Return `text` on one line, without control characters, and without `key`.

    Lone surrogates become question marks; characters that cannot be printed (among them those that
    turn the direction of writing) become spaces; runs of spaces become one.

    Args:
        text: Any text from a server.
        limit: Maximum characters; a longer text ends in an ellipsis.
        key: The API key, removed in every form it may have; see `redact`.
    """
    # Cut first, to limit the work, but so far back that no half of a key is left at the end.
    text = text[: 4 * limit + 4096]
    if not text.isprintable():
        text = _ESCAPES.sub(" ", text.encode("utf-8", "replace").decode("utf-8"))
        text = "".join(character if character.isprintable() else " " for character in text)
    text = redact(" ".join(text.split()), key)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def redact(text: str, key: str) -> str:
    """Return `text` without `key` in any form, and without what looks like another key of the API.

    Forms: plain, masked, percent-encoded, as entities or backslash escapes, hexadecimal, base64.
    """
    if len(text) < SHORTEST_FORM or (len(text) < len(key) and text.isalnum()):
        return text  # such as a finish reason, or a request id
    if "API key provided" in text:
        text = _V1_ECHO.sub("[key]", text)
    if len(key) > 3:
        text = _forms_of(key).sub("[key]", text)
    return _KEY_LIKE.sub("[key]", text) if "sk-" in text else text


@lru_cache(maxsize=16)
def _forms_of(key: str) -> re.Pattern[str]:
    """Return a pattern for every form of `key`."""
    characters = [_character(character) for character in key]
    # A form may be mixed, such as a percent-encoded hyphen among plain letters, and broken by what
    # has become a space: a line break, an escape sequence, an invisible character.
    forms = [_SPACE.join(characters), _SPACE.join(key.encode().hex())]
    if len(key) >= 16:
        forms.append("".join(characters[:4]) + r"\S{0,12}?[*•·….]{3,}\S{0,12}")
    for lead in range(3):
        # The key may stand anywhere in what was encoded, such as "Bearer KEY": three alignments; of
        # each, the letters that depend on the key alone.
        text = base64.b64encode(b"\0" * lead + key.encode()).decode().rstrip("=")
        inner = text[(lead * 8 + 5) // 6 : (lead + len(key.encode())) * 8 // 6]
        if len(inner) >= _LEAST_BASE64:
            letters = _SPACE.join(map(re.escape, inner))
            forms.append(letters.replace(r"\+", "[+-]").replace("/", "[/_]") + "[=]{0,2}")
    return re.compile("|".join(forms), re.IGNORECASE)


def _character(character: str) -> str:
    code = ord(character)
    return (
        rf"(?:{re.escape(character)}|%(?:25)*{code:02x}|\\u{code:04x}|\\x{code:02x}"
        rf"|&\#0*{code};|&\#x0*{code:x};)"
    )
