"""Requests that change an image: erase, inpaint, outpaint, replace, recolor, backgrounds.

Facts: OpenAPI document of api.stability.ai and live runs, both of 2026-09-22.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stable_async.api.base import ImageRequest, Operation, stable_image
from stable_async.api.fields import (
    LARGE_IMAGE,
    MEDIUM_IMAGE,
    OBLONG_IMAGE,
    GrowMask,
    ImageFormat,
    NegativePrompt,
    Prompt,
    Seed,
    StylePreset,
    Text,
    UnitInterval,
)
from stable_async.api.file_input import FileInput, FilePart
from stable_async.api.results import ImageResult
from stable_async.errors import FieldProblem

__all__ = [
    "Erase",
    "Inpaint",
    "LightDirection",
    "Outpaint",
    "RemoveBackground",
    "ReplaceBackgroundAndRelight",
    "SearchAndRecolor",
    "SearchAndReplace",
]

LightDirection = Literal["left", "right", "above", "below"]
"""Where the light of a relit image comes from."""

Margin = Annotated[int, Field(ge=0, le=2_000)]


class Erase(ImageRequest):
    """The image without what the mask covers. 5 credits; the size of `image`.

    Attributes:
        image: JPEG, PNG or WebP; sides of 64 pixels or more, up to 9,437,184 pixels in all.
        mask: Black keeps, white erases; resized to `image`. Without one the transparency of
            `image` is the mask: transparent is erased.
        grow_mask: Pixels to grow the mask by, softly, 0 to 20; the API's default is 5.
        seed: 0 to 4294967294; 0 or not given is random.
        output_format: The API's default is png.
    """

    operation: ClassVar[Operation] = stable_image("edit_erase", 5, "size of the input")

    image: Annotated[FileInput, FilePart(LARGE_IMAGE)] = Field(repr=False)
    mask: Annotated[FileInput | None, FilePart()] = Field(default=None, repr=False)
    grow_mask: GrowMask | None = None
    seed: Seed | None = None
    output_format: ImageFormat | None = None


class Inpaint(ImageRequest):
    """The image with what the mask covers repainted. 5 credits; the size of `image`.

    Attributes:
        image: JPEG, PNG or WebP; sides of 64 pixels or more, up to 9,437,184 pixels in all.
        prompt: 1 to 10,000 characters; `(word:0.5)` weights a word, 0 to 1.
        negative_prompt: What should not be in the image, up to 10,000 characters.
        mask: Black keeps, white is painted; resized to `image`. Without one the transparency of
            `image` is the mask: transparent is painted.
        grow_mask: Pixels to grow the mask by, softly, 0 to 100; the API's default is 5.
        seed: 0 to 4294967294; 0 or not given is random.
        output_format: The API's default is png.
        style_preset: A style to guide the image towards.
    """

    operation: ClassVar[Operation] = stable_image("edit_inpaint", 5, "size of the input")

    image: Annotated[FileInput, FilePart(LARGE_IMAGE)] = Field(repr=False)
    prompt: Prompt
    negative_prompt: NegativePrompt | None = None
    mask: Annotated[FileInput | None, FilePart()] = Field(default=None, repr=False)
    grow_mask: Annotated[float, Field(ge=0, le=100)] | None = None
    seed: Seed | None = None
    output_format: ImageFormat | None = None
    style_preset: StylePreset | None = None


class Outpaint(ImageRequest):
    """The image, extended beyond its edges. 4 credits; the size of `image` and its new margins.

    Attributes:
        image: JPEG, PNG or WebP; sides of 64 pixels or more, up to 9,437,184 pixels in all, a
            width of 0.4 to 2.5 times the height.
        left: Pixels to add, 0 to 2,000; best no more than `image` has in that direction. At least
            one of the four must be more than 0, the API's default.
        right: As `left`.
        up: As `left`.
        down: As `left`.
        creativity: How much may be invented, 0 to 1; the API's default is 0.5.
        prompt: What to paint, up to 10,000 characters.
        seed: 0 to 4294967294; 0 or not given is random.
        output_format: The API's default is png.
        style_preset: A style to guide the image towards.
    """

    operation: ClassVar[Operation] = stable_image(
        "edit_outpaint", 4, "size of the input plus the new margins"
    )

    image: Annotated[FileInput, FilePart(OBLONG_IMAGE)] = Field(repr=False)
    left: Margin | None = None
    right: Margin | None = None
    up: Margin | None = None
    down: Margin | None = None
    creativity: UnitInterval | None = None
    prompt: Text | None = None
    seed: Seed | None = None
    output_format: ImageFormat | None = None
    style_preset: StylePreset | None = None

    def broken_rules(self) -> Iterator[FieldProblem]:
        if not (self.left or self.right or self.up or self.down):
            allowed = "at least one of left, right, up and down above 0"
            yield FieldProblem("", "no direction given", allowed)


class SearchAndReplace(ImageRequest):
    """One thing in the image, found by text, replaced by another. 5 credits; the size of `image`.

    Attributes:
        image: JPEG, PNG or WebP; sides of 64 pixels or more, up to 9,437,184 pixels in all, a
            width of 0.4 to 2.5 times the height.
        prompt: What to put there, 1 to 10,000 characters; `(word:0.5)` weights a word, 0 to 1.
        search_prompt: What to replace, up to 10,000 characters.
        negative_prompt: What should not be in the image, up to 10,000 characters.
        grow_mask: Pixels by which to grow what was found, 0 to 20; the API's default is 3.
        seed: 0 to 4294967294; 0 or not given is random.
        output_format: The API's default is png.
        style_preset: A style to guide the image towards.
    """

    operation: ClassVar[Operation] = stable_image("edit_search_and_replace", 5, "size of the input")

    image: Annotated[FileInput, FilePart(OBLONG_IMAGE)] = Field(repr=False)
    prompt: Prompt
    search_prompt: Text
    negative_prompt: NegativePrompt | None = None
    grow_mask: GrowMask | None = None
    seed: Seed | None = None
    output_format: ImageFormat | None = None
    style_preset: StylePreset | None = None


class SearchAndRecolor(ImageRequest):
    """One thing in the image, found by text, recolored. 5 credits; the size of `image`.

    Attributes:
        image: JPEG, PNG or WebP; sides of 64 pixels or more, up to 9,437,184 pixels in all, a
            width of 0.4 to 2.5 times the height.
        prompt: The new look, 1 to 10,000 characters; `(word:0.5)` weights a word, 0 to 1.
        select_prompt: What to recolor, up to 10,000 characters.
        negative_prompt: What should not be in the image, up to 10,000 characters.
        grow_mask: Pixels by which to grow what was found, 0 to 20; the API's default is 3.
        seed: 0 to 4294967294; 0 or not given is random.
        output_format: The API's default is png.
        style_preset: A style to guide the image towards.
    """

    operation: ClassVar[Operation] = stable_image("edit_search_and_recolor", 5, "size of the input")

    image: Annotated[FileInput, FilePart(OBLONG_IMAGE)] = Field(repr=False)
    prompt: Prompt
    select_prompt: Text
    negative_prompt: NegativePrompt | None = None
    grow_mask: GrowMask | None = None
    seed: Seed | None = None
    output_format: ImageFormat | None = None
    style_preset: StylePreset | None = None


class RemoveBackground(ImageRequest):
    """The subject of the image on a transparent background. 5 credits; the size of `image`.

    Attributes:
        image: JPEG, PNG or WebP; sides of 64 pixels or more, up to 4,194,304 pixels in all.
        output_format: png (the API's default) or webp: the others have no transparency.
    """

    operation: ClassVar[Operation] = stable_image(
        "edit_remove_background", 5, "size of the input, with a transparent background"
    )

    image: Annotated[FileInput, FilePart(MEDIUM_IMAGE)] = Field(repr=False)
    output_format: Literal["png", "webp"] | None = None


class ReplaceBackgroundAndRelight(ImageRequest):
    """The subject of the image in front of another background, lit to match. 8 credits; the size of
    `subject_image`. Asynchronous.

    At least one of `background_prompt` and `background_reference` is required.

    Attributes:
        subject_image: JPEG, PNG or WebP; sides of 64 pixels or more, up to 9,437,184 pixels in
            all, a width of 0.4 to 2.5 times the height.
        background_reference: An image of the new background, with the limits of `subject_image`
            except for its aspect ratio.
        background_prompt: The new background in words, up to 10,000 characters.
        foreground_prompt: The subject in words, up to 10,000 characters.
        negative_prompt: What should not be in the image, up to 10,000 characters.
        preserve_original_subject: How much of the subject to keep, 0 to 1; the API's default is
            0.6.
        original_background_depth: How far to match the depth of the original background, 0 to 1;
            the API's default is 0.5.
        keep_original_background: Change the light alone. Text, not a `bool`, as in the API; its
            default is "false".
        light_source_direction: Where the light comes from.
        light_reference: An image with the wanted light, with the limits of
            `background_reference`.
        light_source_strength: 0 to 1; the API's default is 0.3. Only with `light_reference` or
            `light_source_direction`.
        seed: 0 to 4294967294; 0 or not given is random.
        output_format: The API's default is png.
    """

    operation: ClassVar[Operation] = stable_image(
        "edit_replace_background_and_relight", 8, "size of the input", result=ImageResult
    )

    subject_image: Annotated[FileInput, FilePart(OBLONG_IMAGE)] = Field(repr=False)
    background_reference: Annotated[FileInput | None, FilePart(LARGE_IMAGE)] = Field(
        default=None, repr=False
    )
    background_prompt: Text | None = None
    foreground_prompt: Text | None = None
    negative_prompt: NegativePrompt | None = None
    preserve_original_subject: UnitInterval | None = None
    original_background_depth: UnitInterval | None = None
    keep_original_background: Literal["true", "false"] | None = None
    light_source_direction: LightDirection | None = None
    light_reference: Annotated[FileInput | None, FilePart(LARGE_IMAGE)] = Field(
        default=None, repr=False
    )
    light_source_strength: UnitInterval | None = None
    seed: Seed | None = None
    output_format: ImageFormat | None = None

    def broken_rules(self) -> Iterator[FieldProblem]:
        if self.background_prompt is None and self.background_reference is None:
            allowed = "at least one of background_prompt and background_reference"
            yield FieldProblem("", "no background given", allowed)
        if (
            self.light_source_strength is not None
            and self.light_reference is None
            and self.light_source_direction is None
        ):
            given = f"given {self.light_source_strength:g}"
            allowed = "only with light_reference or light_source_direction"
            yield FieldProblem("light_source_strength", given, allowed)
