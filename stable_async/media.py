"""What the API makes: pictures, sounds and models, whole in memory.

For a result that goes straight to a file or a browser use `StabilityClient.stream` instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stable_async.files import in_thread, write_atomically

if TYPE_CHECKING:
    import os
    from pathlib import Path

__all__ = ["Audio", "Image", "Media", "Model3D"]

CONTENT_FILTERED = "CONTENT_FILTERED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """One result of an operation.

    Attributes:
        data: The bytes, exactly as the API made them.
        content_type: Media type of `data`, such as `image/png`.
        seed: The seed that makes this result again; `None` where the API gives none.
        finish_reason: `SUCCESS` or `CONTENT_FILTERED`; `None` where the API gives none.
        request_id: The answer's `x-request-id`.
        credits: List price of what was asked for; `None` where no source states one.
    """

    data: bytes = field(repr=False)
    content_type: str
    seed: int | None = None
    finish_reason: str | None = None
    request_id: str | None = None
    credits: float | None = None

    @property
    def filtered(self) -> bool:
        """Whether the content filter blurred the result; it is billed like any other."""
        return self.finish_reason == CONTENT_FILTERED

    async def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the bytes to `path`, whole or not at all, replacing a file of that name.

        Raises:
            OSError: The folder is missing or not writable, or the disk is full.
        """
        return await in_thread(write_atomically, path, (self.data,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Image(Media):
    """A picture: PNG, JPEG or WebP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audio(Media):
    """A sound: MP3 or WAV, 44.1 kHz stereo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model3D(Media):
    """A textured model: binary glTF (.glb)."""
