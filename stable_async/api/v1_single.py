"""Requests of v1 for one image each, as jobs, commands and web services make them.

`V1TextToImage` and the others return a list. These return one image, as bytes, like any other
service. Their prompts may be written as everywhere else: `prompt` and `negative_prompt`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, JsonValue
from pydantic_core import PydanticCustomError

from stable_async.api.base import ImageRequest, Operation
from stable_async.api.texts import is_blank
from stable_async.api.v1 import (
    ImageToImageFields,
    MaskingFields,
    TextPrompts,
    TextToImageFields,
    V1Generation,
    V1ImageToImage,
    V1Masking,
    V1TextToImage,
)
from stable_async.errors import FieldProblem
from stable_async.media import Image

__all__ = ["V1SingleImageToImage", "V1SingleMasking", "V1SingleTextToImage"]

# The weights of prompts and negative prompts in the examples of the API.
WEIGHT, NEGATIVE_WEIGHT = 1, -1


def _from_json(allowed: str) -> BeforeValidator:
    """Return what reads a cell of a table, or an option, that is JSON."""

    def read(value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise PydanticCustomError("json_text", "{allowed}", {"allowed": allowed}) from None

    return BeforeValidator(read)


def _for_one(operation: Operation) -> Operation:
    """Return the same operation, answered with the bytes of one image."""
    return replace(operation, accept=("image/png", "application/json"))


class _SingleImage(V1Generation[Image], ImageRequest):
    """What is answered with one image.

    Attributes:
        prompt: Up to 2,000 characters, of the weight 1. This or `text_prompts` is required.
        negative_prompt: Up to 2,000 characters, of the weight -1.
        text_prompts: Prompts with weights: `[{"text": "...", "weight": 0.5}]`, or this as JSON.
        samples: 1, or not given.
        extras: Experimental parameters of the engine: an object, or one as JSON.
    """

    priced: ClassVar[bool] = False
    one_of: ClassVar[tuple[str, ...]] = ("prompt", "text_prompts")

    prompt: Annotated[str, Field(min_length=1, max_length=2_000)] | None = None
    negative_prompt: Annotated[str, Field(max_length=2_000)] | None = None
    text_prompts: Annotated[
        TextPrompts | None, _from_json('a list such as [{"text": "a fox", "weight": 1}]')
    ] = None
    extras: Annotated[dict[str, JsonValue] | None, _from_json("a JSON object")] = None

    def broken_rules(self) -> Iterator[FieldProblem]:
        yield from super().broken_rules()
        if self.text_prompts is None and self.prompt is None:
            yield FieldProblem("prompt", "not given", "prompt or text_prompts")
        if self.text_prompts is not None:
            if all(is_blank(prompt["text"]) for prompt in self.text_prompts):
                yield FieldProblem("text_prompts", "given only blank text", "one that is not blank")
            for name in ("prompt", "negative_prompt"):
                if getattr(self, name) is not None:
                    yield FieldProblem("text_prompts", "given", f"text_prompts or {name}, not both")
        if self.samples not in {None, 1}:
            allowed = "1; request each image separately, with its own seed"
            yield FieldProblem("samples", f"given {self.samples}", allowed)

    def fields(self) -> dict[str, object]:
        fields = super().fields()
        prompt, negative = fields.pop("prompt", None), fields.pop("negative_prompt", None)
        if prompt is not None:
            prompts = [{"text": prompt, "weight": WEIGHT}]
            if negative:
                prompts.append({"text": negative, "weight": NEGATIVE_WEIGHT})
            fields["text_prompts"] = prompts
        return fields


class V1SingleTextToImage(TextToImageFields[Image], _SingleImage):
    """An image of SDXL or an earlier engine from a prompt; the price is not stated."""

    operation: ClassVar[Operation] = _for_one(V1TextToImage.operation)


class V1SingleImageToImage(ImageToImageFields[Image], _SingleImage):
    """An image of SDXL or an earlier engine from a prompt and an image; the price is not stated."""

    operation: ClassVar[Operation] = _for_one(V1ImageToImage.operation)


class V1SingleMasking(MaskingFields[Image], _SingleImage):
    """An image with what a mask covers repainted by an engine of v1; the price is not stated."""

    operation: ClassVar[Operation] = _for_one(V1Masking.operation)
