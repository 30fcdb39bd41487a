"""What the API accepts as images and audio, judged by the first bytes of a file. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from stable_async.api.media_types import sniff
from stable_async.errors import FieldProblem
from stable_async.image_header import read_image_header

__all__ = ["AudioLimits", "FileHead", "ImageLimits", "wav_seconds"]

FORMATS = "a JPEG, PNG or WebP image"
# Streaming writers, which cannot know the length, leave these values in the header.
UNKNOWN_LENGTHS = frozenset({0, 0xFFFFFFFF})


@dataclass(frozen=True, slots=True)
class FileHead:
    """The first bytes of a file.

    Attributes:
        data: The bytes.
        complete: Whether they are the whole file.
        size: Length of the whole file, bytes; `None` when it is not known yet.
    """

    data: bytes
    complete: bool
    size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What the API accepts as an image: JPEG, PNG or WebP, by content, within limits of size.

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
        """Return what is wrong with the file in `field`.

        Raises:
            EOFError: The header continues after `head`.
        """
        try:
            image = read_image_header(head.data)
        except EOFError:
            if not head.complete:
                raise
            return FieldProblem(field, "given a file that ends in its header", FORMATS)
        if image is None:
            return FieldProblem(field, "given another kind of file", FORMATS)
        if allowed := self._broken(image.width, image.height):
            given = f"given {image.width} x {image.height} pixels"
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


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """What the API accepts as audio: MP3 or WAV, judged by content, within limits of length.

    The duration is checked for WAV only: an MP3 file would have to be read whole.

    Attributes:
        min_seconds: The shortest.
        max_seconds: The longest.
    """

    min_seconds: float
    max_seconds: float

    def problem(self, field: str, head: FileHead) -> FieldProblem | None:
        """Return what is wrong with the file in `field`.

        Raises:
            EOFError: The header continues after `head`.
        """
        media_type = sniff(head.data)
        if media_type not in {"audio/mpeg", "audio/wav"}:
            return FieldProblem(field, "given another kind of file", "an MP3 or WAV file")
        seconds = wav_seconds(head) if media_type == "audio/wav" else None
        if seconds is None or self.min_seconds <= seconds <= self.max_seconds:
            return None
        allowed = f"{self.min_seconds:g} to {self.max_seconds:g} seconds"
        return FieldProblem(field, f"given {seconds:.4g} seconds", allowed)


def wav_seconds(head: FileHead) -> float | None:
    """Return the length of a WAV file; `None` where its header does not say it.

    Raises:
        EOFError: The header continues after `head`.
    """
    position, bytes_per_second = 12, 0
    try:
        while True:
            name, length = struct.unpack_from("<4sI", head.data, position)
            position += 8
            if name == b"data":
                break
            if name == b"fmt ":
                (bytes_per_second,) = struct.unpack_from("<I", head.data, position + 8)
            position += length + length % 2
    except struct.error:
        if head.complete:
            return None
        raise EOFError from None
    if length in UNKNOWN_LENGTHS:
        if head.size is None:
            return None
        length = head.size - position
    return length / bytes_per_second if bytes_per_second else None
