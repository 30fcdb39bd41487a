"""Requests that make a textured 3D model of what an image shows.

Facts: OpenAPI document of api.stability.ai, read 2026-09-22.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stable_async.api.base import MediaRequest, Operation
from stable_async.api.fields import MEDIUM_IMAGE, Seed
from stable_async.api.file_input import FileInput, FilePart
from stable_async.media import Media, Model3D

__all__ = ["Remesh", "StableFast3D", "StablePointAware3D", "TextureResolution"]

TextureResolution = Literal["512", "1024", "2048"]
"""Width and height of a texture, pixels; text, not numbers, as in the API."""

Remesh = Literal["none", "triangle", "quad"]
"""How the surface is remeshed; `quad` suits animation."""


class StableFast3D(MediaRequest[Model3D]):
    """A textured model within a second. 10 credits; binary glTF.

    Attributes:
        image: JPEG, PNG or WebP; sides of 64 pixels or more, up to 4,194,304 pixels in all.
        texture_resolution: The API's default is 1024.
        foreground_ratio: How much of the frame the object fills, 0.1 to 1; the API's default is
            0.85.
        remesh: The API's default is none.
        vertex_count: Maximum vertices, up to 20,000; -1, the API's default, means no limit.
    """

    operation: ClassVar[Operation] = Operation(
        id="stable_fast_3d",
        path="/v2beta/3d/stable-fast-3d",
        credits=10,
        output="binary glTF with textures",
        accept=(),
    )
    media: ClassVar[type[Media]] = Model3D

    image: Annotated[FileInput, FilePart(MEDIUM_IMAGE)] = Field(repr=False)
    texture_resolution: TextureResolution | None = None
    foreground_ratio: Annotated[float, Field(ge=0.1, le=1)] | None = None
    remesh: Remesh | None = None
    vertex_count: Annotated[int, Field(ge=-1, le=20_000)] | None = None


class StablePointAware3D(MediaRequest[Model3D]):
    """A textured model with better hidden sides; a preview. 4 credits; binary glTF.

    Attributes:
        image: JPEG, PNG or WebP; sides of 64 pixels or more, up to 4,194,304 pixels in all.
        texture_resolution: The API's default is 1024.
        foreground_ratio: Room around the object, 1 to 2, on another scale than that of
            `StableFast3D`; the API's default is 1.3.
        remesh: The API's default is none.
        target_type: What `target_count` counts; the API's default is none.
        target_count: About how many, 100 to 20,000 (1,000 to 10,000 are advised); the API's
            default is 1,000. It takes effect with `target_type` vertex or face.
        guidance_scale: How closely to follow `image`, 1 to 10; the API's default is 3.
        seed: 0 to 4294967294; 0 or not given is random.
    """

    operation: ClassVar[Operation] = Operation(
        id="stable_point_aware_3d",
        path="/v2beta/3d/stable-point-aware-3d",
        credits=4,
        output="binary glTF with textures",
        accept=(),
    )
    media: ClassVar[type[Media]] = Model3D

    image: Annotated[FileInput, FilePart(MEDIUM_IMAGE)] = Field(repr=False)
    texture_resolution: TextureResolution | None = None
    foreground_ratio: Annotated[float, Field(ge=1, le=2)] | None = None
    remesh: Remesh | None = None
    target_type: Literal["none", "vertex", "face"] | None = None
    target_count: Annotated[int, Field(ge=100, le=20_000)] | None = None
    guidance_scale: Annotated[float, Field(ge=1, le=10)] | None = None
    seed: Seed | None = None
