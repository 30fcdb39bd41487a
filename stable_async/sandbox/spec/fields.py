"""The fields of a request checked against the facts, one by one; see `rules.py` for the rest.

Problems are worded like the API's, `field: problem`, and all of them are reported at once.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stable_async.sandbox.forms import Form, Upload
from stable_async.sandbox.media_info import AudioInfo, ImageInfo, audio_info, image_info

if TYPE_CHECKING:
    from stable_async.sandbox.spec.facts import Field, Operation

__all__ = ["Parameters", "Prompt", "read_parameters"]

# Longer numerals are refused unparsed: no field needs them, and Python parses them slowly.
NUMBER = re.compile(r"\s*[+-]?(\d{1,30}\.?\d{0,30}|\.\d{1,30})(e[+-]?\d{1,3})?\s*", re.IGNORECASE)
# Where the facts state no maximum of pixels, more than this is taken for a decompression bomb.
UNBOUNDED_PIXELS = 1 << 26
PROMPT_PART = re.compile(r"text_prompts\[(-?\d{1,9})\]\[(text|weight)\]")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One of v1's weighted prompts."""

    text: str
    weight: float = 1.0


@dataclass(slots=True)
class Parameters:
    """The fields of a request, checked and typed.

    Attributes:
        given: Fields that the client sent, without defaults.
        defaults: The documented defaults of the other fields.
        images: Facts of the uploaded images.
        audio: Facts of the uploaded audio files.
        prompts: v1's `text_prompts`.
    """

    given: dict[str, str | float | Upload] = field(default_factory=dict)
    defaults: dict[str, str | float] = field(default_factory=dict)
    images: dict[str, ImageInfo] = field(default_factory=dict)
    audio: dict[str, AudioInfo] = field(default_factory=dict)
    prompts: tuple[Prompt, ...] = ()

    def text(self, name: str) -> str:
        """Return the text or choice; empty when it was not sent and has no default."""
        value = self.given.get(name, self.defaults.get(name, ""))
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> float:
        """Return a number; 0 when it was not sent and has no default."""
        value = self.given.get(name, self.defaults.get(name, 0))
        return value if isinstance(value, int | float) else 0

    def upload(self, name: str) -> Upload | None:
        """Return a file; `None` when it was not sent."""
        value = self.given.get(name)
        return value if isinstance(value, Upload) else None


def read_parameters(
    operation: Operation, form: Form, *, mirror: bool = False
) -> tuple[Parameters, list[str]]:
    """Return the typed parameters of a form, and all problems of its fields.

    Args:
        operation: The operation, which defines the fields.
        form: The form that was received.
        mirror: Whether the path has a mirror's prefix; mirrors accept older model names.
    """
    parameters = Parameters()
    problems = list(form.problems)
    model = form.texts.get("model", "")
    for fact in operation.fields:
        if fact.name == "model" and not model:
            model = str(fact.default)
    for fact in operation.fields:
        if fact.place != "body":
            continue
        limits = fact.for_model(model)
        if limits.default is not None:
            parameters.defaults[limits.name] = limits.default
        if limits.type == "array":
            problem = _read_prompts(limits, form, parameters)
        elif limits.type == "file":
            problem = _read_file(limits, form, parameters)
        else:
            problem = _read_value(limits, form, parameters, mirror=mirror)
        if problem:
            problems.append(f"{limits.name}: {problem}")
    return parameters, problems


def _read_value(fact: Field, form: Form, parameters: Parameters, *, mirror: bool) -> str | None:
    text = form.texts.get(fact.name)
    if text is None:
        if fact.name in form.files:
            return "must be a text field, not a file"
        return "required" if fact.required else None
    if fact.type == "string":
        problem = _check_length(fact, text)
        parameters.given[fact.name] = text
    elif fact.type == "enum":
        allowed = fact.values + (fact.accepted_by_mirrors if mirror else ())
        problem = None if text in allowed else f"must be one of: {', '.join(allowed)}"
        parameters.given[fact.name] = text
    elif fact.type == "object":
        problem = _check_object(text)
        parameters.given[fact.name] = text
    else:
        problem, number = _check_number(fact, text)
        parameters.given[fact.name] = number
    return problem


def _check_length(fact: Field, text: str) -> str | None:
    if len(text) < fact.min_length:
        return f"must be at least {fact.min_length} character long"
    if fact.max_length is not None and len(text) > fact.max_length:
        return f"must be at most {fact.max_length} characters long"
    return None


def _check_object(text: str) -> str | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    return None if isinstance(value, dict) else "must be a JSON object"


def _check_number(fact: Field, text: str) -> tuple[str | None, float]:
    kind = "a whole number" if fact.type == "integer" else "a number"
    if not NUMBER.fullmatch(text):
        return f"must be {kind}", 0
    number = float(text)
    if number.is_integer():
        number = int(number)
    elif fact.type == "integer":
        return f"must be {kind}", 0
    low, high = fact.minimum, fact.maximum
    if (low is not None and number < low) or (high is not None and number > high):
        if high is None:
            return f"must be {kind} of at least {low}", 0
        return f"must be {kind} between {low} and {high}", 0
    return None, number


def _read_file(fact: Field, form: Form, parameters: Parameters) -> str | None:
    upload = form.files.get(fact.name)
    if upload is None:
        if fact.name in form.texts:
            return "must be a file"
        return "required" if fact.required else None
    parameters.given[fact.name] = upload
    if fact.max_seconds is not None:
        return _check_audio(fact, upload, parameters)
    return _check_image(fact, upload, parameters)


def _check_audio(fact: Field, upload: Upload, parameters: Parameters) -> str | None:
    audio = audio_info(upload.file)
    if audio is None or audio.format not in fact.formats:
        return f"must be audio of one of these formats: {', '.join(fact.formats)}"
    parameters.audio[fact.name] = audio
    longest = fact.max_seconds or float("inf")
    if not fact.min_seconds <= audio.seconds <= longest:
        return f"must be {fact.min_seconds:g} to {longest:g} seconds long"
    return None


def _check_image(fact: Field, upload: Upload, parameters: Parameters) -> str | None:
    image = image_info(upload.file)
    formats = fact.formats or ("jpeg", "png", "webp")
    if image is None or image.format not in formats:
        return f"must be an image of one of these formats: {', '.join(formats)}"
    parameters.images[fact.name] = image
    sides = (image.width, image.height)
    if min(sides) < fact.min_side:
        return f"width and height must be at least {fact.min_side} pixels"
    if fact.max_side is not None and max(sides) > fact.max_side:
        return f"width and height must be at most {fact.max_side} pixels"
    pixels = image.width * image.height
    if pixels < fact.min_pixels:
        return f"total pixel count must be at least {fact.min_pixels} pixels"
    most = UNBOUNDED_PIXELS if fact.max_pixels is None else fact.max_pixels
    if pixels > most:
        return f"total pixel count must be at most {most} pixels"
    if fact.aspect_range is not None:
        narrowest, widest = fact.aspect_range
        if not narrowest <= image.width / image.height <= widest:
            return "aspect ratio must be between 1:2.5 and 2.5:1"
    return None


def _read_prompts(fact: Field, form: Form, parameters: Parameters) -> str | None:
    """Read `text_prompts[i][text]` and `text_prompts[i][weight]`; `i` need not be sequential."""
    found: dict[int, dict[str, str]] = {}
    for name, text in form.texts.items():
        if match := PROMPT_PART.fullmatch(name):
            found.setdefault(int(match[1]), {})[match[2]] = text
    if not found:
        return "is required" if fact.required else None
    prompts: list[Prompt] = []
    for index, parts in found.items():
        weight = parts.get("weight", "1")
        if "text" not in parts:
            return f"text is required in text_prompts[{index}]"
        if fact.max_length is not None and len(parts["text"]) > fact.max_length:
            return f"text must be at most {fact.max_length} characters long"
        if not NUMBER.fullmatch(weight):
            return f"weight must be a number in text_prompts[{index}]"
        prompts.append(Prompt(parts["text"], float(weight)))
    parameters.prompts = tuple(prompts)
    return None
