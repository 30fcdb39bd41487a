"""Requests that make an image guided by another one: by its sketch, structure or style.

Facts: OpenAPI document of api.stability.ai and live runs, both of 2026-09-22.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from stable_async.api.base import ImageRequest, Operation, stable_image
from stable_async.api.fields import (
    OBLONG_IMAGE,
    AspectRatio,
    ImageFormat,
    NegativePrompt,
    Prompt,
    Seed,
    StylePreset,
    Text,
    UnitInterval,
)
from stable_async.api.file_input import FileInput, FilePart
from stable_async.api.file_limits import ImageLimits

__all__ = ["ControlSketch", "ControlStructure", "ControlStyle", "StyleTransfer"]


class ControlSketch(ImageRequest):
    """An image from a sketch, or from the lines of an image. 5 credits; the size of `image`.

    Attributes:
        prompt: 1 to 10,000 characters; `(word:0.5)` weights a word, 0 to 1.
        image: JPEG, PNG or WebP; sides of 64 pixels or more, up to 9,437,184 pixels in all, a
            width of 0.4 to 2.5 times the height.
        control_strength: How far to follow `image`, 0 to 1; the API's default is 0.7.
        negative_prompt: What should not be in the image, up to 10,000 characters.
        seed: 0 to 4294967294; 0 or not given is random.
        output_format: The API's default is png.
        style_preset: A style to guide the image towards.
    """

    operation: ClassVar[Operation] = stable_image("control_sketch", 5, "size of the input")

    prompt: Prompt
    image: Annotated[
        FileInput,
        FilePart(ImageLimits(min_side=64, max_pixels=9_437_184, aspect_ratio=(0.4, 2.5))),
    ] = Field(repr=False)
    control_strength: UnitInterval | None = None
    negative_prompt: NegativePrompt | None = None
    seed: Seed | None = None
    output_format: ImageFormat | None = None
    style_preset: StylePreset | None = None


class ControlStructure(ImageRequest):
    """An image with the structure of another one. 5 credits; the size of `image`.

    Attributes:
        prompt: 1 to 10,000 characters; `(word:0.5)` weights a word, 0 to 1.
        image: JPEG, PNG or WebP; sides of 64 pixels or more, up to 9,437,184 pixels in all, a
            width of 0.4 to 2.5 times the height.
        control_strength: How far to follow `image`, 0 to 1; the API's default is 0.7.
        negative_prompt: What should not be in the image, up to 10,000 characters.
        seed: 0 to 4294967294; 0 or not given is random.
        output_format: The API's default is png.
        style_preset: A style to guide the image towards.
    """

    operation: ClassVar[Operation] = stable_image("control_structure", 5, "size of the input")

    prompt: Prompt
    image: Annotated[FileInput, FilePart(OBLONG_IMAGE)] = Field(repr=False)
    control_strength: UnitInterval | None = None
    negative_prompt: NegativePrompt | None = None
    seed: Seed | None = None
    output_format: ImageFormat | None = None
    style_preset: StylePreset | None = None


class ControlStyle(ImageRequest):
    """A new image in the style of another one. 5 credits; 1 megapixel, 1024 x 1024 at 1:1.

    Attributes:
        prompt: 1 to 10,000 characters; `(word:0.5)` weights a word, 0 to 1.
        image: JPEG, PNG or WebP; sides of 64 pixels or more, up to 9,437,184 pixels in all, a
            width of 0.4 to 2.5 times the height.
        negative_prompt: What should not be in the image, up to 10,000 characters.
        aspect_ratio: Width to height; the API's default is 1:1.
        fidelity: How closely to follow the style of `image`, 0 to 1; the API's default is 0.5.
        seed: 0 to 4294967294; 0 or not given is random.
        output_format: The API's default is png.
        style_preset: A style to guide the image towards.
    """

    operation: ClassVar[Operation] = stable_image("control_style", 5, "1 megapixel")

    prompt: Prompt
    image: Annotated[FileInput, FilePart(OBLONG_IMAGE)] = Field(repr=False)
    negative_prompt: NegativePrompt | None = None
    aspect_ratio: AspectRatio | None = None
    fidelity: UnitInterval | None = None
    seed: Seed | None = None
    output_format: ImageFormat | None = None
    style_preset: StylePreset | None = None


class StyleTransfer(ImageRequest):
    """An image in the style of another one. 8 credits; 1 megapixel, shaped like `init_image`.

    Attributes:
        init_image: JPEG, PNG or WebP; sides of 64 to 16,383 pixels, up to 9,437,184 pixels in
            all, a width of 0.4 to 2.5 times the height.
        style_image: The style, with the limits of `init_image` except for its aspect ratio.
        prompt: Up to 10,000 characters; `(word:0.5)` weights a word, 0 to 1.
        negative_prompt: What should not be in the image, up to 10,000 characters.
        seed: 0 to 4294967294; 0 or not given is random.
        style_strength: How far to follow `style_image`, 0 to 1; the API's default is 1.
        composition_fidelity: How closely to follow the composition of `init_image`, 0 to 1; the
            API's default is 0.9.
        change_strength: How much of `init_image` to change, 0.1 to 1; the API's default is 0.9.
        output_format: The API's default is png.
    """

    operation: ClassVar[Operation] = stable_image(
        "control_style_transfer", 8, "1 megapixel, with the aspect ratio of the input"
    )

    init_image: Annotated[
        FileInput,
        FilePart(
            ImageLimits(
                min_side=64,
                max_side=16_383,
                min_pixels=4_096,
                max_pixels=9_437_184,
                aspect_ratio=(0.4, 2.5),
            )
        ),
    ] = Field(repr=False)
    style_image: Annotated[
        FileInput,
        FilePart(ImageLimits(min_side=64, max_side=16_383, min_pixels=4_096, max_pixels=9_437_184)),
    ] = Field(repr=False)
    prompt: Text | None = None
    negative_prompt: NegativePrompt | None = None
    seed: Seed | None = None
    style_strength: UnitInterval | None = None
    composition_fidelity: UnitInterval | None = None
    change_strength: Annotated[float, Field(ge=0.1, le=1)] | None = None
    output_format: ImageFormat | None = None
