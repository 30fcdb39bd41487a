"""Requests that make an image from a prompt: Stable Image Core, Ultra and Stable Diffusion 3.5.

Facts: OpenAPI document of api.stability.ai and live runs, both of 2026-09-22.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stable_async.api.base import ImageRequest, Operation, stable_image
from stable_async.api.fields import (
    AspectRatio,
    ImageFormat,
    NegativePrompt,
    Prompt,
    Seed,
    StylePreset,
    UnitInterval,
)
from stable_async.api.file_input import FileInput, FilePart
from stable_async.api.file_limits import ImageLimits
from stable_async.errors import FieldProblem

__all__ = ["GenerateCore", "GenerateSD3", "GenerateUltra", "SD3Model"]

SD3Model = Literal[
    "sd3.5-large",
    "sd3.5-large-turbo",
    "sd3.5-medium",
    "sd3.5-flash",
    "sd3-large",
    "sd3-large-turbo",
    "sd3-medium",
]
"""Models of `GenerateSD3`. The `sd3-*` names are known from mirrors only, and are unproven on
api.stability.ai."""


class GenerateCore(ImageRequest):
    """Stable Image Core: fast and affordable. 3 credits; 1.5 megapixels (observed: 1536 x 1536).

    Attributes:
        prompt: 1 to 10,000 characters; `(word:0.5)` weights a word, 0 to 1.
        aspect_ratio: Width to height; the API's default is 1:1.
        negative_prompt: What should not be in the image, up to 10,000 characters.
        seed: 0 to 4294967294; 0 or not given is random.
        style_preset: A style to guide the image towards.
        output_format: The API's default is png.
    """

    operation: ClassVar[Operation] = stable_image("generate_core", 3, "1.5 megapixels")

    prompt: Prompt
    aspect_ratio: AspectRatio | None = None
    negative_prompt: NegativePrompt | None = None
    seed: Seed | None = None
    style_preset: StylePreset | None = None
    output_format: ImageFormat | None = None


class GenerateUltra(ImageRequest):
    """Stable Image Ultra: the best quality. 8 credits; 1 megapixel, 1024 x 1024 at 1:1.

    Attributes:
        prompt: 1 to 10,000 characters; `(word:0.5)` weights a word, 0 to 1.
        negative_prompt: What should not be in the image, up to 10,000 characters.
        aspect_ratio: Width to height; the API's default is 1:1.
        seed: 0 to 4294967294; 0 or not given is random.
        output_format: The API's default is png.
        image: An image to start from (JPEG, PNG or WebP; sides 64 to 16,384 pixels); needs
            `strength`.
        style_preset: A style to guide the image towards.
        strength: How far to move away from `image`: 0 keeps it, 1 ignores it. Only with `image`.
    """

    operation: ClassVar[Operation] = stable_image("generate_ultra", 8, "1 megapixel")

    prompt: Prompt
    negative_prompt: NegativePrompt | None = None
    aspect_ratio: AspectRatio | None = None
    seed: Seed | None = None
    output_format: ImageFormat | None = None
    image: Annotated[
        FileInput | None,
        FilePart(ImageLimits(min_side=64, max_side=16_384, min_pixels=4_096)),
    ] = Field(default=None, repr=False)
    style_preset: StylePreset | None = None
    strength: UnitInterval | None = None

    def broken_rules(self) -> Iterator[FieldProblem]:
        if self.image is not None and self.strength is None:
            yield FieldProblem("strength", "required with image, not given", "0 to 1")
        if self.image is None and self.strength is not None:
            yield FieldProblem("strength", f"given {self.strength:g}", "only with image")


class GenerateSD3(ImageRequest):
    """Stable Diffusion 3.5, from text or from an image. 2.5 to 6.5 credits by model; 1 megapixel.

    Attributes:
        prompt: 1 to 10,000 characters.
        mode: The API's default is text-to-image. image-to-image needs `image` and `strength`, and
            takes no `aspect_ratio`.
        image: The image to start from (JPEG, PNG or WebP; sides of 64 pixels or more).
        strength: 0 to 1; 0.94 to 0.97 is advised for sd3.5-flash, where live runs kept the input
            at 0.6.
        aspect_ratio: Width to height; the API's default is 1:1. Only text-to-image.
        model: The API's default is sd3.5-large; see `SD3Model`.
        seed: 0 to 4294967294; 0 or not given is random.
        output_format: The API's default is png.
        style_preset: A style to guide the image towards.
        negative_prompt: What should not be in the image, up to 10,000 characters.
        cfg_scale: How closely to follow the prompt, 1 to 10; the API's default is 4 for large and
            medium, 1 for large-turbo and flash.
    """

    operation: ClassVar[Operation] = stable_image("generate_sd3", None, "1 megapixel")

    prompt: Prompt
    mode: Literal["text-to-image", "image-to-image"] | None = None
    image: Annotated[FileInput | None, FilePart(ImageLimits(min_side=64))] = Field(
        default=None, repr=False
    )
    strength: UnitInterval | None = None
    aspect_ratio: AspectRatio | None = None
    model: SD3Model | None = None
    seed: Seed | None = None
    output_format: ImageFormat | None = None
    style_preset: StylePreset | None = None
    negative_prompt: NegativePrompt | None = None
    cfg_scale: Annotated[float, Field(ge=1, le=10)] | None = None

    # Price list of 2026-09.
    _CREDITS: ClassVar[dict[SD3Model, float]] = {
        "sd3.5-large": 6.5,
        "sd3.5-large-turbo": 4,
        "sd3.5-medium": 3.5,
        "sd3.5-flash": 2.5,
        "sd3-large": 6.5,
        "sd3-large-turbo": 4,
        "sd3-medium": 3.5,
    }

    @property
    def credits(self) -> float:
        """List price by model: large 6.5, large-turbo 4, medium 3.5, flash 2.5 credits."""
        return self._CREDITS[self.model or "sd3.5-large"]

    def broken_rules(self) -> Iterator[FieldProblem]:
        if self.mode == "image-to-image":
            for name in ("image", "strength"):
                if getattr(self, name) is None:
                    given = "required with mode='image-to-image', not given"
                    yield FieldProblem(name, given, "a file" if name == "image" else "0 to 1")
            if self.aspect_ratio is not None:
                yield FieldProblem(
                    "aspect_ratio", f"given {self.aspect_ratio!r}", "only with mode='text-to-image'"
                )
        else:
            for name in ("image", "strength"):
                if getattr(self, name) is not None:
                    yield FieldProblem(name, "given", "only with mode='image-to-image'")
