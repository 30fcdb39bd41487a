"""Audio: short, valid WAV and MP3 files, as small as players accept.

They last at most a second, whatever the requested duration. A WAV has a tone whose pitch comes from
the seed; an MP3 is silent, and has its title and seed in its tag.
"""

from __future__ import annotations

import io
import math
import wave
from array import array

__all__ = ["mp3", "wav"]

RATE = 44_100
LONGEST = 1.0

# An MPEG-1 layer III frame: 32 kbit/s, 44.1 kHz, stereo, no checksum. Its length is
# 144 * 32000 / 44100, rounded down. Its data is all zero, which means silence.
FRAME = bytes((0xFF, 0xFB, 0x10, 0x00)).ljust(104, b"\0")
FRAME_SAMPLES = 1152


def wav(seconds: float, seed: int) -> bytes:
    """Return a 16-bit stereo WAV at 44.1 kHz with a fading tone."""
    count = max(1, int(RATE * min(seconds, LONGEST)))
    # Two octaves of a pentatonic scale, from A3.
    step = (0, 2, 4, 7, 9, 12, 14, 16, 19, 21)[seed % 10]
    turn = 2 * math.pi * 220 * 2 ** (step / 12) / RATE
    tone = (int(9_000 * (1 - n / count) * math.sin(turn * n)) for n in range(count))
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(array("h", (value for value in tone for _ in range(2))).tobytes())
    return out.getvalue()


def mp3(seconds: float, seed: int, title: str) -> bytes:
    """Return an MP3 of silence with an ID3 tag."""
    count = max(2, int(RATE * min(seconds, LONGEST)) // FRAME_SAMPLES)
    tag = _text_frame(b"TIT2", title[:200]) + _text_frame(b"TSSE", f"sandbox seed {seed}")
    return b"ID3\x04\0\0" + _seven_bits(len(tag)) + tag + FRAME * count


def _text_frame(name: bytes, text: str) -> bytes:
    """Return a frame of ID3v2.4, whose sizes have seven bits in each byte."""
    data = b"\x03" + text.encode(errors="replace")
    return name + _seven_bits(len(data)) + b"\0\0" + data


def _seven_bits(number: int) -> bytes:
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))
