"""Results of the API: images, audio and models, whole in memory.

To write a result straight to a file or a browser, use `StabilityClient.stream`.
"""

from __future__ import annotations

import os
import warnings
from base64 import b64encode
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

from stable_async.errors import ConfigurationError, InvalidResponseError, Verdict
from stable_async.files import in_thread, write_atomically
from stable_async.image_header import ImageHeader, read_image_header

if TYPE_CHECKING:
    from pathlib import Path

    import PIL.Image

__all__ = ["Audio", "Image", "Media", "Model3D", "warn_of_other_format"]

CONTENT_FILTERED = "CONTENT_FILTERED"
# The verdict on a result that has arrived but whose bytes are invalid.
KEPT = Verdict(from_api=True, billed="yes", concerns="service", job="keep")

# Media types by file suffix.
MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".avif": "image/avif",
    ".mp3": "audio/mpeg",
    ".wav": "audio/wav",
    ".ogg": "audio/ogg",
    ".flac": "audio/flac",
    ".m4a": "audio/mp4",
    ".glb": "model/gltf-binary",
    ".gltf": "model/gltf+json",
    ".obj": "model/obj",
}
# Suffixes by media type, of the types that are recognised as a result: those that the API returns,
# and those that a CDN may make of them.
SUFFIXES = {
    MEDIA_TYPES[name]: name
    for name in (
        *(".png", ".jpg", ".webp", ".mp3", ".wav", ".glb"),
        *(".gif", ".avif", ".ogg", ".flac", ".m4a"),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """One result of an operation. It can be sent as a file of another request.

    Attributes:
        data: The bytes, exactly as received.
        content_type: Media type of `data`, such as `image/png`.
        seed: The seed that reproduces this result; `None` if the API returned none.
        finish_reason: `SUCCESS` or `CONTENT_FILTERED`; `None` if the API returned none.
        request_id: The response's `x-request-id`.
        credits: List price of the request, credits; `None` if no source states one.
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

        The bytes are not converted: warns if the suffix of `path` is that of another format.

        Raises:
            OSError: The folder is missing or not writable, the disk is full, or `path` is not a
                regular file.
        """
        warn_of_other_format(path, self.content_type, stacklevel=2)
        return await in_thread(write_atomically, path, (self.data,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Image(Media):
    """An image: PNG, JPEG or WebP. Jupyter shows it when it is the last value of a cell."""

    @property
    def width(self) -> int:
        """Width, pixels.

        Raises:
            InvalidResponseError: The bytes are not a PNG, JPEG or WebP image.
        """
        return self._header().width

    @property
    def height(self) -> int:
        """Height, pixels.

        Raises:
            InvalidResponseError: As for `width`.
        """
        return self._header().height

    def to_pil(self) -> PIL.Image.Image:
        """Return a Pillow image, which decodes the bytes when its pixels are first used.

        Raises:
            ConfigurationError: Pillow is not installed.
            InvalidResponseError: The bytes are not an image.
        """
        try:
            import PIL.Image
        except ImportError:
            raise ConfigurationError("to_pil() needs Pillow: pip install pillow") from None
        try:
            return PIL.Image.open(BytesIO(self.data))
        except OSError as error:
            raise self._unreadable() from error

    def _header(self) -> ImageHeader:
        try:
            header = read_image_header(self.data)
        except EOFError:
            header = None
        if header is None:
            raise self._unreadable()
        return header

    def _unreadable(self) -> InvalidResponseError:
        return InvalidResponseError(
            f"the {len(self.data)} bytes of this result are not a PNG, JPEG or WebP image",
            verdict=KEPT,
            request_id=self.request_id,
        )

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, str]:
        """Return what Jupyter shows: not every front end renders `image/webp` outside of HTML."""
        shown = {"text/plain": repr(self)}
        encoded = b64encode(self.data).decode()
        if self.content_type in {"image/png", "image/jpeg"}:
            shown[self.content_type] = encoded
        else:
            shown["text/html"] = f'<img src="data:{self.content_type};base64,{encoded}">'
        return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Audio(Media):
    """Audio: MP3 or WAV, 44.1 kHz stereo. Jupyter shows a player."""

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, str]:
        """Return what Jupyter shows."""
        player = f'<audio controls src="{_data_url(self)}"></audio>'
        return {"text/plain": repr(self), "text/html": player}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model3D(Media):
    """A textured model: binary glTF (.glb). Jupyter shows a link that saves it."""

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, str]:
        """Return what Jupyter shows: no front end renders models without loading a remote
        script.
        """
        size = f"{len(self.data) / 1e6:.1f} MB"
        link = f'<a download="model.glb" href="{_data_url(self)}">model.glb, {size}</a>'
        return {"text/plain": repr(self), "text/html": link}


def warn_of_other_format(
    path: str | os.PathLike[str], content_type: str, *, stacklevel: int
) -> None:
    """Warn if the suffix of `path` is that of another format than `content_type`."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()  # noqa: PTH122 - a quarter of the time
    named = MEDIA_TYPES.get(suffix, content_type)
    if named != content_type and content_type in MEDIA_TYPES.values():
        warnings.warn(
            f"{content_type} saved under a name that ends in {suffix}; nothing is converted: "
            "see output_format",
            stacklevel=stacklevel + 1,
        )


def _data_url(media: Media) -> str:
    return f"data:{media.content_type};base64,{b64encode(media.data).decode()}"
