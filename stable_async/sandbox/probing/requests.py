"""Requests for probing: the smallest valid one of each operation, and files of any size."""

from __future__ import annotations

import functools
import io
import json
import wave
from typing import TYPE_CHECKING, TypeAlias

from PIL import Image

from stable_async.sandbox.probing.messages import ProbeRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stable_async.sandbox.spec.facts import Field, Operation

__all__ = ["Value", "companions", "image", "mp3", "request_for", "smallest", "wav"]

Value: TypeAlias = str | bytes | None
"""Text, a file, or `None` for a field that is left out."""

SIDE = 96
SECONDS = 7.0
ENGINE = "stable-diffusion-xl-1024-v1-0"


@functools.lru_cache(maxsize=32)
def image(width: int = SIDE, height: int = SIDE, fmt: str = "png") -> bytes:
    """Return a plain image file that can be decoded."""
    out = io.BytesIO()
    Image.new("RGB" if fmt == "jpeg" else "L", (width, height), 96).save(out, fmt.upper())
    return out.getvalue()


@functools.lru_cache(maxsize=8)
def wav(seconds: float = SECONDS) -> bytes:
    """Return a silent 8-bit mono WAV of 8 kHz."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(b"\x80" * round(8000 * seconds))
    return out.getvalue()


@functools.cache
def mp3(seconds: float = SECONDS) -> bytes:
    """Return silent MPEG-1 layer III frames of 32 kbit/s."""
    frame = bytes((0xFF, 0xFB, 0x10, 0x00)).ljust(104, b"\0")
    return frame * round(seconds * 44_100 / 1152)


# Fields that the rules across fields require in the smallest request.
ALSO: dict[str, dict[str, Value]] = {
    "edit_outpaint": {"left": "8"},
    "edit_replace_background_and_relight": {"background_prompt": "x"},
    "v1_image_to_image_masking": {"mask_source": "INIT_IMAGE_ALPHA"},
}
_IMAGE_TO_IMAGE: dict[str, Value] = {
    "mode": "image-to-image",
    "image": image(),
    "strength": "0.5",
}
# Fields that they require once a field is sent.
WITH: dict[tuple[str, str], dict[str, Value]] = {
    ("generate_ultra", "image"): {"strength": "0.5"},
    ("generate_ultra", "strength"): {"image": image()},
    ("generate_sd3", "image"): _IMAGE_TO_IMAGE,
    ("generate_sd3", "strength"): _IMAGE_TO_IMAGE,
    ("generate_sd3", "mode=image-to-image"): _IMAGE_TO_IMAGE,
    ("edit_outpaint", "left"): {"right": "8"},
    ("edit_replace_background_and_relight", "background_prompt"): {"background_reference": image()},
    ("edit_replace_background_and_relight", "light_source_strength"): {
        "light_source_direction": "left"
    },
    ("v1_image_to_image", "step_schedule_start"): {"init_image_mode": "STEP_SCHEDULE"},
    ("v1_image_to_image", "step_schedule_end"): {"init_image_mode": "STEP_SCHEDULE"},
    ("v1_image_to_image_masking", "mask_image"): {"mask_source": "MASK_IMAGE_WHITE"},
    ("v1_image_to_image_masking", "mask_source=MASK_IMAGE_WHITE"): {"mask_image": image()},
    ("v1_image_to_image_masking", "mask_source=MASK_IMAGE_BLACK"): {"mask_image": image()},
}


def companions(operation: Operation, field: str, value: Value) -> Mapping[str, Value]:
    """Return the fields that a rule requires together with `field`."""
    more = WITH.get((operation.id, field), {})
    return WITH.get((operation.id, f"{field}={value!s}"), more)


def smallest(operation: Operation) -> dict[str, Value]:
    """Return the fewest and smallest values that the facts call a valid request."""
    values: dict[str, Value] = {}
    for field in operation.fields:
        if field.required and field.place == "body":
            values[field.name] = _sample(field)
    if "prompt" not in values and any(field.name == "none" for field in operation.fields):
        values["none"] = ""
    return {**values, **ALSO.get(operation.id, {})}


def _sample(field: Field) -> Value:
    if field.type == "file":
        return wav() if field.max_seconds is not None else image()
    if field.type == "enum":
        return field.values[0]
    return "x"


def request_for(
    operation: Operation,
    changes: Mapping[str, Value],
    *,
    keyed: bool,
    headers: Mapping[str, str] | None = None,
    engine: str | None = None,
) -> ProbeRequest:
    """Return the smallest request of an operation with some changes.

    Args:
        operation: The operation.
        changes: Fields that differ; `None` leaves one out.
        keyed: Whether to send the key.
        headers: Headers that differ.
        engine: The v1 engine instead of the usual one.
    """
    values = {**smallest(operation), **changes}
    path = operation.path.replace("{engine_id}", engine or _engine(operation))
    accept = next((value for value in operation.accept if value != "*/*"), "")
    named = {**({"accept": accept} if accept else {}), **(headers or {})}
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    files = {name: value for name, value in values.items() if isinstance(value, bytes)}
    if operation.body == "json":
        content = {name: _json(operation, name, text) for name, text in texts.items()}
        return ProbeRequest("POST", path, keyed, named, json=content)
    if "text_prompts" in texts:
        texts["text_prompts[0][text]"] = texts.pop("text_prompts")
    return ProbeRequest("POST", path, keyed, named, texts, files)


def _engine(operation: Operation) -> str:
    if operation.id.endswith("masking"):
        return "stable-inpainting-512-v2-0"
    return "stable-diffusion-x4-latent-upscaler" if operation.id.endswith("upscale") else ENGINE


def _json(operation: Operation, name: str, text: str) -> object:
    field = operation.field(name)
    if field.type == "array":
        return [{"text": text}]
    if field.type in {"number", "integer"}:
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text
