"""What an uploaded file is, told from its content: pictures and sounds, by their headers only."""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Picture", "Sound", "probe_picture", "probe_sound"]

FORMATS = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png", "WEBP": "webp"}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture's format (`jpeg`, `png`, `webp`), and its width and height in pixels."""

    format: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Sound:
    """A sound's format (`mp3`, `wav`) and its length in seconds."""

    format: str
    seconds: float


def probe_picture(file: BinaryIO) -> Picture | None:
    """Give what the header says; `None` when it is no picture of a format that the API takes."""
    file.seek(0)
    try:
        with warnings.catch_warnings():
            # The size is judged by the API's own limits, before any pixel is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=("JPEG", "PNG", "WEBP"))
    # Whatever Pillow makes of hostile bytes, to the caller it is no picture.
    except Exception:  # noqa: BLE001
        return None
    return Picture(FORMATS[image.format or ""], image.width, image.height)


def probe_sound(file: BinaryIO, size: int) -> Sound | None:
    """Give what the headers say; `None` when it is no sound of a format that the API takes."""
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        seconds = _wav_seconds(file, size)
        return None if seconds is None else Sound("wav", seconds)
    seconds = _mp3_seconds(file, size)
    return None if seconds is None else Sound("mp3", seconds)


def _wav_seconds(file: BinaryIO, size: int) -> float | None:
    """Give the length: the data chunk's size over the format chunk's bytes per second."""
    rate = 0
    for name, length in _riff_chunks(file, size):
        if name == b"fmt " and length >= 16:
            rate = struct.unpack("<I", file.read(16)[8:12])[0]
        elif name == b"data":
            # Writers of streams leave the length at its largest; what is there counts.
            return min(length, size - file.tell()) / rate if rate else None
    return None


def _riff_chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    position = 12
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(8))
        yield name, length
        position += 8 + length + length % 2


# MPEG audio frame headers, ISO/IEC 11172-3 and 13818-3, layer III: kbit/s by the header's bitrate
# index, samples per second by its rate index.
_KBITS_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_SEARCH_BYTES = 64 << 10


def _mp3_seconds(file: BinaryIO, size: int) -> float | None:
    """Give the length by the first frame: its Xing count of frames, else its constant bit rate."""
    file.seek(0)
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:
        # The tag's size has seven bits in each of four bytes.
        start = 10 + sum(
            (byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True)
        )
    file.seek(start)
    data = file.read(_SEARCH_BYTES)
    for offset in range(len(data) - 4):
        frame = _mp3_frame(data[offset : offset + 4])
        # A chance match of the eleven bits is unmasked by the lack of a second frame.
        if frame and (
            len(data) < offset + frame.bytes + 4
            or _mp3_frame(data[offset + frame.bytes : offset + frame.bytes + 4])
        ):
            count = _xing_frames(data[offset : offset + 200])
            if count:
                return count * frame.samples / frame.rate
            return (size - start - offset) * 8 / frame.bits_per_second
    return None


@dataclass(frozen=True, slots=True)
class _Frame:
    bytes: int
    samples: int
    rate: int
    bits_per_second: int


def _mp3_frame(header: bytes) -> _Frame | None:
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    bitrate, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer != 1 or bitrate in {0, 15} or rate == 3:
        return None
    hertz = _RATES[version][rate]
    bits = (_KBITS_MPEG1 if version == 3 else _KBITS_MPEG2)[bitrate] * 1000
    samples = 1152 if version == 3 else 576
    padding = header[2] >> 1 & 1
    return _Frame(samples // 8 * bits // hertz + padding, samples, hertz, bits)


def _xing_frames(frame: bytes) -> int:
    for tag in (b"Xing", b"Info"):
        at = frame.find(tag)
        if at >= 0 and len(frame) >= at + 12 and frame[at + 7] & 1:
            return int.from_bytes(frame[at + 8 : at + 12], "big")
    return 0
