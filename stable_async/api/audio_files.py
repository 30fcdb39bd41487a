"""Format and length of an audio file, read from its first bytes. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from stable_async.api.heads import FileHead
from stable_async.errors import FieldProblem

__all__ = ["AudioLimits", "audio_format", "wav_seconds"]

# Streaming writers, which cannot know the length, leave these values in the header.
UNKNOWN_LENGTHS = frozenset({0, 0xFFFFFFFF})


def audio_format(head: bytes) -> Literal["mp3", "wav"] | None:
    """Return the format: WAV, MP3 with or without an ID3 tag, or `None` for something else."""
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        return "wav"
    if head.startswith(b"ID3"):
        return "mp3"
    # Eleven set bits begin a frame; the next four say MPEG version and layer III.
    if len(head) >= 2 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2:
        return "mp3"
    return None


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
        match audio_format(head.data):
            case None:
                return FieldProblem(field, "given another kind of file", "an MP3 or WAV file")
            case "wav":
                seconds = wav_seconds(head)
                if seconds is not None and not self.min_seconds <= seconds <= self.max_seconds:
                    allowed = f"{self.min_seconds:g} to {self.max_seconds:g} seconds"
                    return FieldProblem(field, f"given {seconds:.4g} seconds", allowed)
        return None
