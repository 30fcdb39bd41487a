"""The one registry of services: what can be made, by the names that jobs, commands and web use."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from stable_async.api.audio import AudioInpaint, AudioToAudio, TextToAudio
from stable_async.api.control import ControlSketch, ControlStructure, ControlStyle, StyleTransfer
from stable_async.api.edit import (
    Erase,
    Inpaint,
    Outpaint,
    RemoveBackground,
    ReplaceBackgroundAndRelight,
    SearchAndRecolor,
    SearchAndReplace,
)
from stable_async.api.generate import GenerateCore, GenerateSD3, GenerateUltra
from stable_async.api.model3d import StableFast3D, StablePointAware3D
from stable_async.api.upscale import UpscaleConservative, UpscaleCreative, UpscaleFast
from stable_async.api.v1 import V1ImageToImage, V1Masking, V1TextToImage
from stable_async.api.v1_single import (
    V1SingleImageToImage,
    V1SingleMasking,
    V1SingleTextToImage,
)
from stable_async.media import Image

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stable_async.api.base import MediaRequest, Request
    from stable_async.media import Media

__all__ = ["IMAGE_SERVICES", "SERVICES", "Service", "fields_of_all", "service_name"]


@dataclass(frozen=True, slots=True)
class Service:
    """One service.

    Attributes:
        name: Its name, such as `search-and-replace`.
        model: The class of its requests.
        coroutine: The client's coroutine for it, `group.name`.
        several: What that coroutine sends where it returns a list of results; its docstring
            describes the fields.
    """

    name: str
    model: type[MediaRequest[Media]]
    coroutine: str
    several: type[Request[list[Image]]] | None = None

    @property
    def media(self) -> type[Media]:
        """The kind of its results: `Image`, `Audio` or `Model3D`."""
        return self.model.media

    @property
    def asynchronous(self) -> bool:
        """Whether it answers with an id, and the result is fetched later."""
        return getattr(self.model.operation, "result", None) is not None

    @property
    def takes_text_alone(self) -> bool:
        """Whether a request needs no file."""
        fields = self.model.model_fields
        return not any(fields[name].is_required() for name in self.model.file_parts)


def _registry(*services: Service) -> Mapping[str, Service]:
    return MappingProxyType({service.name: service for service in services})


SERVICES = _registry(
    Service("core", GenerateCore, "generate.core"),
    Service("ultra", GenerateUltra, "generate.ultra"),
    Service("sd3", GenerateSD3, "generate.sd3"),
    Service("erase", Erase, "edit.erase"),
    Service("inpaint", Inpaint, "edit.inpaint"),
    Service("outpaint", Outpaint, "edit.outpaint"),
    Service("search-and-replace", SearchAndReplace, "edit.search_and_replace"),
    Service("search-and-recolor", SearchAndRecolor, "edit.search_and_recolor"),
    Service("remove-background", RemoveBackground, "edit.remove_background"),
    Service(
        "replace-background-and-relight",
        ReplaceBackgroundAndRelight,
        "edit.replace_background_and_relight",
    ),
    Service("upscale-fast", UpscaleFast, "upscale.fast"),
    Service("upscale-conservative", UpscaleConservative, "upscale.conservative"),
    Service("upscale-creative", UpscaleCreative, "upscale.creative"),
    Service("sketch", ControlSketch, "control.sketch"),
    Service("structure", ControlStructure, "control.structure"),
    Service("style", ControlStyle, "control.style"),
    Service("style-transfer", StyleTransfer, "control.style_transfer"),
    Service("text-to-audio", TextToAudio, "audio.text_to_audio"),
    Service("audio-to-audio", AudioToAudio, "audio.audio_to_audio"),
    Service("audio-inpaint", AudioInpaint, "audio.inpaint"),
    Service("stable-fast-3d", StableFast3D, "model3d.fast"),
    Service("stable-point-aware-3d", StablePointAware3D, "model3d.point_aware"),
    Service("v1-text-to-image", V1SingleTextToImage, "v1.text_to_image", V1TextToImage),
    Service("v1-image-to-image", V1SingleImageToImage, "v1.image_to_image", V1ImageToImage),
    Service("v1-masking", V1SingleMasking, "v1.masking", V1Masking),
)
"""All services that make something, by name, except for v1's upscaling, which v2 has replaced."""

IMAGE_SERVICES = _registry(*(one for one in SERVICES.values() if one.media is Image))
"""Those that make images."""

UNPRICED = frozenset(name for name, one in SERVICES.items() if not one.model.priced)
"""Names of those whose price no source states: what they cost is assumed, as `--price` says."""


def service_name(name: str) -> str:
    """Return the name as in the registry: `search_and_replace` is `search-and-replace`."""
    return name.strip().lower().replace("_", "-")


def fields_of_all() -> frozenset[str]:
    """Return the names of the fields of all services."""
    return frozenset(name for one in SERVICES.values() for name in one.model.model_fields)
