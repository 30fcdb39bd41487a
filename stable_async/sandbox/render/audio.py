"""Audio: short, valid WAV and MP3 files, as small as players accept.

They last at most a second, whatever the requested duration. A WAV has a tone whose pitch comes from
the seed; an MP3 is silent, and has its title and seed in its tag.
"""

from __future__ import annotations

import math
import struct
from array import array

__all__ = ["mp3", "wav"]

RATE = 44_100
LONGEST = 1.0

# An MPEG-1 layer III frame: 32 kbit/s, 44.1 kHz, stereo, no checksum. Its length is
# 144 * 32000 / 44100, rounded down. Its data is all zero, which means silence.
FRAME_HEADER = bytes((0xFF, 0xFB, 0x10, 0x00))
FRAME_BYTES = 104
FRAME_SAMPLES = 1152


def wav(seconds: float, seed: int, title: str) -> bytes:
    """Return a 16-bit stereo WAV at 44.1 kHz with a fading tone."""
    count = max(1, int(RATE * min(seconds, LONGEST)))
    # Two octaves of a pentatonic scale, from A3.
    step = (0, 2, 4, 7, 9, 12, 14, 16, 19, 21)[seed % 10]
    turn = 2 * math.pi * 220 * 2 ** (step / 12) / RATE
    samples = array("h")
    for number in range(count):
        value = int(9_000 * (1 - number / count) * math.sin(turn * number))
        samples.append(value)
        samples.append(value)
    if struct.pack("=h", 1) != struct.pack("<h", 1):
        samples.byteswap()
    layout = struct.pack("<HHIIHH", 1, 2, RATE, RATE * 4, 4, 16)
    name = title.encode()[:200] + b"\0"
    info = _chunk(b"LIST", b"INFO" + _chunk(b"INAM", name))
    body = b"WAVE" + _chunk(b"fmt ", layout) + info + _chunk(b"data", samples.tobytes())
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def mp3(seconds: float, seed: int, title: str) -> bytes:
    """Return an MP3 of silence with an ID3 tag."""
    count = max(2, int(RATE * min(seconds, LONGEST)) // FRAME_SAMPLES)
    frame = FRAME_HEADER.ljust(FRAME_BYTES, b"\0")
    return _id3({b"TIT2": title[:200], b"TSSE": f"sandbox seed {seed}"}) + frame * count


def _id3(texts: dict[bytes, str]) -> bytes:
    """Return an ID3v2.4 tag; its sizes have seven bits in each byte."""
    frames = b""
    for name, text in texts.items():
        data = b"\x03" + text.encode(errors="replace")
        frames += name + _seven_bits(len(data)) + b"\0\0" + data
    return b"ID3\x04\0\0" + _seven_bits(len(frames)) + frames


def _seven_bits(number: int) -> bytes:
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))
