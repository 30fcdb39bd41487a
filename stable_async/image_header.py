"""Format and size of an image, read from its first bytes without decoding it. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

__all__ = ["ImageHeader", "read_image_header"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Markers of JPEG segments, ITU-T T.81 table B.1: those that state the size, and those without a
# length. Start of scan and end of image come after the size, or there is none.
JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_BARE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
JPEG_LAST = frozenset({0xD9, 0xDA})


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Format of an image, and its width and height in pixels."""

    format: Literal["jpeg", "png", "webp"]
    width: int
    height: int


def read_image_header(head: bytes) -> ImageHeader | None:
    """Return the format and size; `None` if this is not the header of a JPEG, PNG or WebP.

    Raises:
        EOFError: The header continues after `head`.
    """
    try:
        if head.startswith(PNG_SIGNATURE):
            chunk, width, height = struct.unpack_from(">4sII", head, 12)
            return ImageHeader("png", width, height) if chunk == b"IHDR" else None
        if head.startswith(b"\xff\xd8\xff"):
            return _read_jpeg(head)
        if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            return _read_webp(head)
    except struct.error:
        raise EOFError from None
    if len(head) < 12:
        raise EOFError
    return None


def _read_jpeg(head: bytes) -> ImageHeader | None:
    position = 2
    while True:
        # Decoders skip fill bytes, and anything between segments that is not a marker.
        position = head.find(b"\xff", position)
        if position < 0 or position + 1 >= len(head):
            raise EOFError
        marker = head[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in JPEG_BARE:
            position += 2
        elif marker in JPEG_LAST:
            return None
        elif marker in JPEG_SIZES:
            height, width = struct.unpack_from(">HH", head, position + 5)
            return ImageHeader("jpeg", width, height)
        else:
            (length,) = struct.unpack_from(">H", head, position + 2)
            position += 2 + length


def _read_webp(head: bytes) -> ImageHeader | None:
    """Read a WebP container's first chunk: lossy, lossless or extended (RFC 9649)."""
    (chunk,) = struct.unpack_from("4s", head, 12)
    if chunk == b"VP8 ":
        start, width, height = struct.unpack_from("<3sHH", head, 23)
        # The two highest bits are a scale for display, which does not change the size.
        return (
            ImageHeader("webp", width & 0x3FFF, height & 0x3FFF) if start == b"\x9d\x01*" else None
        )
    if chunk == b"VP8L":
        signature, bits = struct.unpack_from("<BI", head, 20)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        return ImageHeader("webp", width, height) if signature == 0x2F else None
    if chunk == b"VP8X":
        sides = struct.unpack_from("6s", head, 24)[0]
        width, height = (int.from_bytes(sides[at : at + 3], "little") + 1 for at in (0, 3))
        return ImageHeader("webp", width, height)
    return None
