"""The kind of a file by its first bytes, whatever its label, and where it ends. Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ENOUGH", "TAIL", "UNKNOWN", "FileEnd", "is_packed", "is_readable", "is_text", "sniff"]

# This many bytes identify every format below.
ENOUGH = 16
# How many of the last bytes are searched for the end of a file.
TAIL = 64
PNG_END = b"IEND\xaeB`\x82"
JPEG_END = b"\xff\xd9"

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
    return sniff(head) != UNKNOWN or is_text(head)


@dataclass(frozen=True, slots=True)
class FileEnd:
    """What shows whether a file is complete, as far as its format states it.

    Attributes:
        media_type: What `sniff` returned.
        head: Its first `ENOUGH` bytes.
        tail: The last `TAIL` bytes that have come.
        size: How many bytes have come.
    """

    media_type: str
    head: bytes
    tail: bytes
    size: int

    def is_whole(self) -> bool:
        """Return whether the file is complete; stray bytes may follow."""
        match self.media_type:
            case "image/png":
                return PNG_END in self.tail
            case "image/jpeg":
                return JPEG_END in self.tail
            case "image/webp" | "model/gltf-binary":
                return self.size >= self._stated_size()
            case _:
                return True  # audio is written as it is made, without its length

    def is_exact(self) -> bool:
        """Return whether the file ends exactly where its format says; of audio, only WAV does."""
        match self.media_type:
            case "image/png":
                return self.tail.endswith(PNG_END)
            case "image/jpeg":
                return self.tail.endswith(JPEG_END)
            case "image/webp" | "audio/wav" | "model/gltf-binary":
                return self.size == self._stated_size()
            case _:
                return False

    def _stated_size(self) -> int:
        if self.media_type == "model/gltf-binary":
            return int.from_bytes(self.head[8:12], "little")
        return int.from_bytes(self.head[4:8], "little") + 8  # RIFF


def is_text(data: bytes) -> bool:
    """Return whether the first bytes are UTF-8 text, possibly cut in the middle of a character."""
    try:
        text = data[:200].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(data[:200]) - 3:
            return False
        text = data[: error.start].decode("utf-8")
    return bool(text.strip()) and all(one.isprintable() or one in "\t\r\n\x1b" for one in text)
