"""The kinds of media that jobs make; each job makes one kind. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from stable_async.api.services import SERVICES, service_name
from stable_async.media import Audio, Model3D

__all__ = ["AUDIO", "IMAGE", "MODEL", "MediaKind", "kind_of", "kind_of_service"]


@dataclass(frozen=True, slots=True)
class MediaKind:
    """A kind of media.

    Attributes:
        column: Column for the media in a data set.
        folder: Folder for its files, in a job as in a data set.
        one: Singular noun.
        many: Plural noun.
        feature: Its class in `datasets`; `None` where there is none.
        task: The Hub's name of the task that makes it.
    """

    column: str
    folder: str
    one: str
    many: str
    feature: str | None
    task: str

    def count(self, number: int) -> str:
        """Return a number of them, such as `1 image`."""
        return f"{number:,} {self.one if number == 1 else self.many}"


IMAGE = MediaKind("image", "images", "image", "images", "Image", "text-to-image")
AUDIO = MediaKind("audio", "audio", "audio file", "audio files", "Audio", "text-to-audio")
MODEL = MediaKind("model", "models", "model", "models", None, "image-to-3d")


def kind_of(content_type: str) -> MediaKind:
    """Return the kind of a media type."""
    if content_type.startswith("audio/"):
        return AUDIO
    return MODEL if content_type.startswith("model/") else IMAGE


@cache
def kind_of_service(name: str) -> MediaKind:
    """Return the kind of media that a service makes; images for an unknown service."""
    service = SERVICES.get(service_name(name))
    media = None if service is None else service.media
    if media is Audio:
        return AUDIO
    return MODEL if media is Model3D else IMAGE
