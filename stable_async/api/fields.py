"""Types of fields that many operations share, with the API's limits.

Source: OpenAPI document of api.stability.ai, read 2026-09-22.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stable_async.api.file_limits import ImageLimits

__all__ = [
    "LARGE_IMAGE",
    "MEDIUM_IMAGE",
    "OBLONG_IMAGE",
    "AspectRatio",
    "GrowMask",
    "ImageFormat",
    "NegativePrompt",
    "Prompt",
    "Seed",
    "StylePreset",
    "Text",
    "UnitInterval",
]

AspectRatio = Literal["21:9", "16:9", "3:2", "5:4", "1:1", "4:5", "2:3", "9:16", "9:21"]
"""Width to height of a generated image."""

ImageFormat = Literal["jpeg", "png", "webp"]
"""Format of a generated image."""

StylePreset = Literal[
    "enhance",
    "anime",
    "photographic",
    "digital-art",
    "comic-book",
    "fantasy-art",
    "line-art",
    "analog-film",
    "neon-punk",
    "isometric",
    "low-poly",
    "origami",
    "modeling-compound",
    "cinematic",
    "3d-model",
    "pixel-art",
    "tile-texture",
]
"""A style to guide an image towards."""

MAX_PROMPT_LENGTH = 10_000
MAX_SEED = 4_294_967_294

Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_LENGTH)]
Text = Annotated[str, Field(max_length=MAX_PROMPT_LENGTH)]
NegativePrompt = Text
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
UnitInterval = Annotated[float, Field(ge=0, le=1)]
GrowMask = Annotated[float, Field(ge=0, le=20)]

MEDIUM_IMAGE = ImageLimits(min_side=64, min_pixels=4_096, max_pixels=4_194_304)
LARGE_IMAGE = ImageLimits(min_side=64, min_pixels=4_096, max_pixels=9_437_184)
OBLONG_IMAGE = ImageLimits(
    min_side=64, min_pixels=4_096, max_pixels=9_437_184, aspect_ratio=(0.4, 2.5)
)
