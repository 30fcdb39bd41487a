"""Small files for tests: images of any size in a few bytes, audio of any length."""

from __future__ import annotations

import io
import struct
import wave
import zlib


def png_header(width: int, height: int) -> bytes:
    """Return a PNG of that size without its pixels: enough for code that reads headers only."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checked = name + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


# What begins like a PNG of 1024 x 1024; what follows does not matter to a reader of headers.
PNG_HEAD = png_header(1024, 1024)


def png(size: int) -> bytes:
    """Return `size` bytes that begin like a PNG."""
    return PNG_HEAD + bytes(size - len(PNG_HEAD))


def sample_image(width: int = 64, height: int = 64, kind: str = "png", mode: str = "RGB") -> bytes:
    """Return a gray image; `kind` is one of Pillow's names of formats."""
    import PIL.Image

    file = io.BytesIO()
    color = 128 if mode == "L" else (128,) * len(mode)
    PIL.Image.new(mode, (width, height), color).save(file, kind)
    return file.getvalue()


def wav(seconds: float, rate: int = 1_000) -> bytes:
    """Return silence, one byte for each sample."""
    file = io.BytesIO()
    with wave.open(file, "wb") as audio:
        audio.setnchannels(1)
        audio.setsampwidth(1)
        audio.setframerate(rate)
        audio.writeframes(b"\x80" * round(seconds * rate))
    return file.getvalue()


def mp3(seconds: float) -> bytes:
    """Return frames of MPEG 1 layer III, 32 kbit/s at 44.1 kHz."""
    frame = b"\xff\xfb\x10\x00" + bytes(100)
    return frame * round(seconds * 44_100 / 1_152)
