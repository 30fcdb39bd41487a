"""Requests that make an image larger: fast, conservative and creative.

Facts: OpenAPI document of api.stability.ai and live runs, both of 2026-09-22.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from stable_async.api.base import ImageRequest, Operation, ResultRequest, stable_image
from stable_async.api.fields import (
    OBLONG_IMAGE,
    ImageFormat,
    NegativePrompt,
    Prompt,
    Seed,
    StylePreset,
)
from stable_async.api.file_input import FileInput, FilePart
from stable_async.api.file_limits import ImageLimits
from stable_async.api.results import ImageResult
from stable_async.media import Image, Media

__all__ = ["UpscaleConservative", "UpscaleCreative", "UpscaleCreativeResult", "UpscaleFast"]


class UpscaleFast(ImageRequest):
    """Four times the width and height within seconds. 2 credits; up to 16 megapixels.

    Attributes:
        image: JPEG, PNG or WebP; sides of 32 to 1,536 pixels, 1,024 to 1,048,576 pixels in all.
        output_format: The API's default is png.
    """

    operation: ClassVar[Operation] = stable_image(
        "upscale_fast", 2, "4 times the width and height, up to 16 megapixels"
    )

    image: Annotated[
        FileInput,
        FilePart(ImageLimits(min_side=32, max_side=1_536, min_pixels=1_024, max_pixels=1_048_576)),
    ] = Field(repr=False)
    output_format: ImageFormat | None = None


class UpscaleConservative(ImageRequest):
    """A large image that keeps to the original. 40 credits; 3112 x 3112 observed for 512 x 512.

    Attributes:
        image: JPEG, PNG or WebP; sides of 64 pixels or more, up to 9,437,184 pixels in all, a
            width of 0.4 to 2.5 times the height.
        prompt: What the image shows, 1 to 10,000 characters; `(word:0.5)` weights a word.
        negative_prompt: What should not be in the image, up to 10,000 characters.
        seed: 0 to 4294967294; 0 or not given is random.
        output_format: The API's default is png.
        creativity: How much may be invented, 0.2 to 0.5; the API's default is 0.35.
    """

    operation: ClassVar[Operation] = stable_image("upscale_conservative", 40, "4 to 10 megapixels")

    image: Annotated[FileInput, FilePart(OBLONG_IMAGE)] = Field(repr=False)
    prompt: Prompt
    negative_prompt: NegativePrompt | None = None
    seed: Seed | None = None
    output_format: ImageFormat | None = None
    creativity: Annotated[float, Field(ge=0.2, le=0.5)] | None = None


class UpscaleCreative(ImageRequest):
    """A large image regenerated from a small or poor one. 60 credits; up to 4K. Asynchronous.

    Attributes:
        image: JPEG, PNG or WebP; sides of 64 pixels or more, up to 1,048,576 pixels in all.
        prompt: What the image shows, 1 to 10,000 characters; `(word:0.5)` weights a word.
        negative_prompt: What should not be in the image, up to 10,000 characters.
        output_format: The API's default is png.
        seed: 0 to 4294967294; 0 or not given is random.
        creativity: How much may be invented, 0.1 to 0.5; the API's default is 0.3.
        style_preset: A style to guide the image towards.
    """

    operation: ClassVar[Operation] = stable_image(
        "upscale_creative", 60, "up to 4K", result=ImageResult
    )

    image: Annotated[
        FileInput,
        FilePart(ImageLimits(min_side=64, min_pixels=4_096, max_pixels=1_048_576)),
    ] = Field(repr=False)
    prompt: Prompt
    negative_prompt: NegativePrompt | None = None
    output_format: ImageFormat | None = None
    seed: Seed | None = None
    creativity: Annotated[float, Field(ge=0.1, le=0.5)] | None = None
    style_preset: StylePreset | None = None


class UpscaleCreativeResult(ResultRequest[Image]):
    """The image of a creative upscale, by an older path; otherwise the same as `ImageResult`. Free.

    Attributes:
        id: The generation: any text, as the API returned it.
        paid: List price of the submission, credits, where it is known; not sent.
    """

    operation: ClassVar[Operation] = Operation(
        id="upscale_creative_result",
        path="/v2beta/stable-image/upscale/creative/result/{id}",
        credits=0,
        output="the finished image",
        method="GET",
    )
    media: ClassVar[type[Media]] = Image
