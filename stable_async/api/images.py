"""What a picture is, by its first bytes: format and size, without decoding it. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from stable_async.api.heads import FileHead
from stable_async.errors import FieldProblem

__all__ = ["Picture", "PictureLimits", "read_picture"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Markers of JPEG segments, ITU-T T.81 table B.1: those that state the size, and those without a
# length. Start of scan and end of image come after the size, or there is none.
JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_BARE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
JPEG_LAST = frozenset({0xD9, 0xDA})


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture's format, and its width and height in pixels."""

    format: Literal["jpeg", "png", "webp"]
    width: int
    height: int


def read_picture(head: bytes) -> Picture | None:
    """Give what the header says; `None` when it is no header of a JPEG, PNG or WebP.

    Raises:
        EOFError: The header goes on after `head`.
    """
    try:
        if head.startswith(PNG_SIGNATURE):
            return _read_png(head)
        if head.startswith(b"\xff\xd8\xff"):
            return _read_jpeg(head)
        if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
            return _read_webp(head)
    except struct.error:
        raise EOFError from None
    if len(head) < 12:
        raise EOFError
    return None


def _read_png(head: bytes) -> Picture | None:
    chunk, width, height = struct.unpack_from(">4sII", head, 12)
    return Picture("png", width, height) if chunk == b"IHDR" else None


def _read_jpeg(head: bytes) -> Picture | None:
    position = 2
    while True:
        # Between segments decoders skip whatever is no marker, and any number of fill bytes.
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
            return Picture("jpeg", width, height)
        else:
            (length,) = struct.unpack_from(">H", head, position + 2)
            position += 2 + length


def _read_webp(head: bytes) -> Picture | None:
    """Read a WebP container's first chunk: lossy, lossless or extended (RFC 9649)."""
    (chunk,) = struct.unpack_from("4s", head, 12)
    if chunk == b"VP8 ":
        start, width, height = struct.unpack_from("<3sHH", head, 23)
        # The two highest bits are a scale for display, which does not change the size.
        return Picture("webp", width & 0x3FFF, height & 0x3FFF) if start == b"\x9d\x01*" else None
    if chunk == b"VP8L":
        signature, bits = struct.unpack_from("<BI", head, 20)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        return Picture("webp", width, height) if signature == 0x2F else None
    if chunk == b"VP8X":
        sides = struct.unpack_from("6s", head, 24)[0]
        width, height = (int.from_bytes(sides[at : at + 3], "little") + 1 for at in (0, 3))
        return Picture("webp", width, height)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLimits:
    """What the API takes as a picture: JPEG, PNG or WebP, told by content, of a certain size.

    Attributes:
        min_side: Lowest width and height, pixels.
        max_side: Highest width and height, pixels; `None` where no source states one.
        min_pixels: Lowest width times height.
        max_pixels: Highest width times height; `None` where no source states one.
        aspect_ratio: Lowest and highest width to height; `None` where no source states them.
    """

    min_side: int = 64
    max_side: int | None = None
    min_pixels: int = 1
    max_pixels: int | None = None
    aspect_ratio: tuple[float, float] | None = None

    def problem(self, field: str, head: FileHead) -> FieldProblem | None:
        """Give what is wrong with the file in `field`.

        Raises:
            EOFError: The header goes on after what there is of `head`.
        """
        try:
            picture = read_picture(head.data)
        except EOFError:
            if not head.complete:
                raise
            return FieldProblem(field, "given a file that ends in its header", FORMATS)
        if picture is None:
            return FieldProblem(field, "given another kind of file", FORMATS)
        if allowed := self._broken(picture.width, picture.height):
            given = f"given {picture.width} x {picture.height} pixels"
            return FieldProblem(field, given, allowed)
        return None

    def _broken(self, width: int, height: int) -> str | None:
        shorter, longer = sorted((width, height))
        pixels = width * height
        if shorter < self.min_side:
            return f"sides of {self.min_side} pixels or more"
        if self.max_side is not None and longer > self.max_side:
            return f"sides of up to {self.max_side} pixels"
        if pixels < self.min_pixels:
            return f"{self.min_pixels} pixels or more in all"
        if self.max_pixels is not None and pixels > self.max_pixels:
            return f"up to {self.max_pixels} pixels in all"
        if self.aspect_ratio is not None:
            lowest, highest = self.aspect_ratio
            if not lowest <= width / height <= highest:
                return f"a width of {lowest:g} to {highest:g} times the height"
        return None


FORMATS = "a JPEG, PNG or WebP picture"
