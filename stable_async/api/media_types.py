"""The media type of a file, by its first bytes and not by its label. Pure."""

from __future__ import annotations

import html
import re

from stable_async.api.parsing import parse_json
from stable_async.api.texts import clean

__all__ = [
    "ENOUGH",
    "describe",
    "is_exact",
    "is_packed",
    "is_readable",
    "is_whole",
    "page_title",
    "sniff",
]

# This many bytes identify every format below.
ENOUGH = 16

UNKNOWN = "application/octet-stream"

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"glTF", "model/gltf-binary"),
    (b"ID3", "audio/mpeg"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
)
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}
# Brands of the ISO base media file format, bytes 8 to 12.
_BRANDS = {b"avif": "image/avif", b"avis": "image/avif", b"M4A ": "audio/mp4"}

MAX_TITLE = 200
_TITLES = re.compile(rb"<(title|h1)\b[^>]*>(.*?)</\1\s*>", re.IGNORECASE | re.DOTALL)
_INVISIBLE = re.compile(
    rb"<(script|style|head)\b.*?(?:</\1\s*>|$)|<!--.*?(?:-->|$)", re.IGNORECASE | re.DOTALL
)
_TAGS = re.compile(rb"<[^>]*(?:>|$)")


def sniff(data: bytes | bytearray) -> str:
    """Return the media type of a file by its first bytes; `application/octet-stream` if unknown."""
    for signature, media_type in _SIGNATURES:
        if data.startswith(signature):
            return media_type
    if data.startswith(b"RIFF"):
        return _RIFF.get(bytes(data[8:12]), UNKNOWN)
    if data[4:8] == b"ftyp":
        return _BRANDS.get(bytes(data[8:12]), UNKNOWN)
    # Eleven set bits begin a frame; the next four say MPEG version and layer III.
    if len(data) > 1 and data[0] == 0xFF and data[1] & 0xE6 == 0xE2:
        return "audio/mpeg"
    return UNKNOWN


def is_packed(head: bytes) -> bool:
    """Return whether a body begins as gzip (RFC 1952) or zlib (RFC 1950) does."""
    return head.startswith(b"\x1f\x8b") or (
        len(head) > 1 and head[0] & 0x8F == 0x08 and int.from_bytes(head[:2], "big") % 31 == 0
    )


def is_readable(head: bytes) -> bool:
    """Return whether a body begins as a result, JSON, a page or another text does: unpacked."""
    return sniff(head) != UNKNOWN or _is_text(head)


def is_whole(media_type: str, head: bytes, tail: bytes, size: int) -> bool:
    """Return whether a file is complete, as far as its format shows.

    Args:
        media_type: What `sniff` returned.
        head: Its first 16 bytes.
        tail: Its last bytes, 64 or more unless it is shorter.
        size: Its length, bytes.
    """
    match media_type:
        case "image/png":
            return b"IEND\xaeB`\x82" in tail
        case "image/jpeg":
            return b"\xff\xd9" in tail
        case "image/webp":
            return size >= int.from_bytes(head[4:8], "little") + 8
        case "model/gltf-binary":
            return size >= int.from_bytes(head[8:12], "little")
        case _:
            return True  # audio is written as it is made, without its length


def is_exact(media_type: str, head: bytes, tail: bytes, size: int) -> bool:
    """Return whether a file ends exactly where its format says; arguments as for `is_whole`.

    Of audio, only WAV states its length.
    """
    match media_type:
        case "image/png":
            return tail.endswith(b"IEND\xaeB`\x82")
        case "image/jpeg":
            return tail.endswith(b"\xff\xd9")
        case "image/webp" | "audio/wav":
            return size == int.from_bytes(head[4:8], "little") + 8
        case "model/gltf-binary":
            return size == int.from_bytes(head[8:12], "little")
        case _:
            return False


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
    if _is_text(data):
        return f"a text{said}"
    return f"{len(data):,} bytes of an unknown kind"


def page_title(data: bytes, key: str = "") -> str:
    """Return the title or the first words of a page, cleaned of `key`; empty if it is no text.

    Nothing else is returned: a page may echo what was sent.
    """
    text = data.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<"):
        found = _TITLES.search(text)
        words = found[2] if found else _TAGS.sub(b" ", _INVISIBLE.sub(b" ", text))
        return clean(html.unescape(words.decode("utf-8", "replace")), limit=MAX_TITLE, key=key)
    if text.startswith(b"{"):
        return _json_title(text, key)
    if not _is_text(text):
        return ""
    return clean(text.partition(b"\n")[0].decode("utf-8", "replace"), limit=MAX_TITLE, key=key)


def _json_title(text: bytes, key: str) -> str:
    try:
        content = parse_json(text)
    except ValueError:
        return ""
    for name in ("message", "error", "detail", "title"):
        if isinstance(content, dict) and isinstance(said := content.get(name), str):
            return clean(said, limit=MAX_TITLE, key=key)
    return ""


def _is_text(data: bytes) -> bool:
    """Return whether the first bytes are UTF-8 text, possibly cut in the middle of a character."""
    try:
        text = data[:200].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(data[:200]) - 3:
            return False
        text = data[: error.start].decode("utf-8")
    return bool(text.strip()) and all(one.isprintable() or one in "\t\r\n\x1b" for one in text)
