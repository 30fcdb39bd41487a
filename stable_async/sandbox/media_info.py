"""The facts of uploaded files, read from their headers: images with Pillow, audio with tinytag."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from os import SEEK_END
from typing import BinaryIO

from PIL import Image
from tinytag import TinyTag, TinyTagException

__all__ = ["AudioInfo", "ImageInfo", "audio_info", "image_info"]

IMAGE_FORMATS = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png", "WEBP": "webp"}


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image's format (`jpeg`, `png`, `webp`), and its width and height in pixels."""

    format: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """The format of an audio file (`mp3`, `wav`) and its length in seconds."""

    format: str
    seconds: float


def image_info(file: BinaryIO) -> ImageInfo | None:
    """Return the facts in the header; `None` if it is not an image that the API accepts."""
    file.seek(0)
    try:
        with warnings.catch_warnings():
            # The size is checked against the API's limits before any pixel is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=("JPEG", "PNG", "WEBP"))
    # Whatever Pillow raises for hostile bytes, it is not an image.
    except Exception:  # noqa: BLE001
        return None
    return ImageInfo(IMAGE_FORMATS[image.format or ""], image.width, image.height)


def audio_info(file: BinaryIO) -> AudioInfo | None:
    """Return the facts in the headers; `None` if it is not audio that the API accepts."""
    file.seek(0)
    head = file.read(12)
    kind = "wav" if head[:4] == b"RIFF" and head[8:] == b"WAVE" else "mp3"
    if kind == "mp3" and head[:3] != b"ID3" and not (head[:1] == b"\xff" and head[1:2] >= b"\xe0"):
        return None
    try:
        tag = TinyTag.get(filename=f"upload.{kind}", file_obj=file, tags=False)
        seconds = tag.duration
        if seconds and tag.bitrate and kind == "wav":
            # Streaming writers leave the length at its maximum; the actual bytes count.
            seconds = min(seconds, file.seek(0, SEEK_END) * 8 / (tag.bitrate * 1000))
    except TinyTagException:
        return None
    # tinytag reads hostile bytes with plain struct and arithmetic.
    except Exception:  # noqa: BLE001
        return None
    return AudioInfo(kind, seconds) if seconds else None
