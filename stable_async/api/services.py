"""The services that make pictures, by the names that prompt files and the command line use."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

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
from stable_async.api.upscale import UpscaleConservative, UpscaleCreative, UpscaleFast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stable_async.api.base import ImageRequest

__all__ = ["SERVICES", "fields_of_all", "service_name"]

SERVICES: Mapping[str, type[ImageRequest]] = MappingProxyType(
    {
        "core": GenerateCore,
        "ultra": GenerateUltra,
        "sd3": GenerateSD3,
        "erase": Erase,
        "inpaint": Inpaint,
        "outpaint": Outpaint,
        "search-and-replace": SearchAndReplace,
        "search-and-recolor": SearchAndRecolor,
        "remove-background": RemoveBackground,
        "replace-background-and-relight": ReplaceBackgroundAndRelight,
        "upscale-fast": UpscaleFast,
        "upscale-conservative": UpscaleConservative,
        "upscale-creative": UpscaleCreative,
        "sketch": ControlSketch,
        "structure": ControlStructure,
        "style": ControlStyle,
        "style-transfer": StyleTransfer,
    }
)


def service_name(name: str) -> str:
    """Give the name as `SERVICES` has it: `search_and_replace` is `search-and-replace`."""
    return name.strip().lower().replace("_", "-")


def fields_of_all() -> frozenset[str]:
    """Give the names of the fields of all services."""
    return frozenset(name for model in SERVICES.values() for name in model.model_fields)
