"""The peculiarities of v1: its engines, its own error names, and its JSON bodies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stable_async.sandbox.forms import Form
from stable_async.sandbox.media_info import image_info
from stable_async.sandbox.refusals import RefusalError
from stable_async.sandbox.spec.sizes import output_size

if TYPE_CHECKING:
    from stable_async.sandbox.spec.facts import Engine, Facts, Operation
    from stable_async.sandbox.spec.fields import Parameters

__all__ = ["check", "check_files", "engines_list", "find_engine", "form_of_json"]

# "samples > 1 while accept is not application/json", the only names v1 has for a wrong size, and
# so on: v1 specification, revisions of 2022 and 2023, and its last documentation.
SIDE_STEP = 64
SQUARE_768 = 768
# The last revision allows 10 to 50 steps on these; the older two allowed 150 on all.
FIFTY_STEPS = {"stable-diffusion-xl-1024-v1-0", "stable-diffusion-v1-6"}
BETA_SIDE = 512
USES = {
    "v1_text_to_image": {"generation"},
    "v1_image_to_image": {"generation"},
    "v1_image_to_image_masking": {"generation", "masking"},
    "v1_image_to_image_upscale": {"upscale"},
}


def find_engine(facts: Facts, operation: Operation, engine_id: str) -> Engine:
    """Return the engine of a path.

    Raises:
        RefusalError: 404: there is no such engine, or not for this operation.
    """
    engine = facts.engines.get(engine_id)
    if engine is None or engine.use not in USES[operation.id]:
        message = f"The specified engine (ID {engine_id[:200]}) was not found."
        raise RefusalError(404, message, name="not_found")
    return engine


def engines_list(facts: Facts) -> list[dict[str, str]]:
    """Return v1's list of engines."""
    return [
        {
            "id": engine.id,
            "name": engine.id.replace("-", " ").title(),
            "description": f"Known from v1; used for {engine.use}.",
            "type": "PICTURE",
        }
        for engine in facts.engines.values()
    ]


def form_of_json(operation: Operation, body: dict[str, object]) -> Form:
    """Return a JSON body in the form of a `Form`, and the fields that have the wrong type."""
    form = Form()
    for name, value in body.items():
        field = next((field for field in operation.fields if field.name == name), None)
        if value is None:
            continue
        if field is None:
            form.texts[name] = value if isinstance(value, str) else json.dumps(value)
        elif field.type == "array":
            _take_prompts(form, value)
        elif field.type in {"integer", "number"}:
            if isinstance(value, bool) or not isinstance(value, int | float):
                form.problems.append(f"{name}: must be a number")
            form.texts[name] = json.dumps(value)
        elif field.type == "object":
            form.texts[name] = json.dumps(value)
        elif isinstance(value, str):
            form.texts[name] = value
        else:
            form.problems.append(f"{name}: must be a string")
    return form


def _take_prompts(form: Form, value: object) -> None:
    if not isinstance(value, list):
        form.problems.append("text_prompts: must be an array")
        return
    for index, prompt in enumerate(value):
        if not isinstance(prompt, dict) or not isinstance(prompt.get("text"), str):
            form.problems.append(f"text_prompts[{index}].text: must be a string")
            continue
        form.texts[f"text_prompts[{index}][text]"] = prompt["text"]
        weight = prompt.get("weight")
        if weight is not None:
            form.texts[f"text_prompts[{index}][weight]"] = json.dumps(weight)


def check_files(form: Form) -> None:
    """Refuse files that are not images, under v1's own error name.

    Raises:
        RefusalError: 400 `invalid_mime_type`.
    """
    for name, upload in form.files.items():
        if image_info(upload.file) is None:
            message = f"{name}: must be an image of one of these formats: jpeg, png, webp"
            raise RefusalError(400, message, name="invalid_mime_type")


def check(operation: Operation, engine: Engine, parameters: Parameters, accept: str) -> None:
    """Refuse requests that break a rule with an error name of its own in v1.

    Raises:
        RefusalError: 400.
    """
    if parameters.number("samples") > 1 and accept == "image/png":
        message = "samples: only 1 is possible unless accept is application/json"
        raise RefusalError(400, message, name="invalid_samples")
    if engine.id in FIFTY_STEPS and parameters.number("steps") > 50:
        if "steps" in parameters.given:
            message = "steps: must be a whole number between 10 and 50"
            raise RefusalError(400, message, name="bad_request")
        parameters.given["steps"] = 50
    match operation.id:
        case "v1_text_to_image":
            _check_size(engine, parameters)
        case "v1_image_to_image_masking":
            _check_mask(parameters)
        case "v1_image_to_image_upscale":
            _check_upscaled(operation, engine, parameters)


def _check_size(engine: Engine, parameters: Parameters) -> None:
    for name, default in zip(("width", "height"), _default_size(engine), strict=True):
        parameters.defaults[name] = default
    width, height = int(parameters.number("width")), int(parameters.number("height"))
    for name, side in (("width", width), ("height", height)):
        if side % SIDE_STEP:
            message = f"{name}: must be a multiple of {SIDE_STEP}"
            raise RefusalError(400, message, name="invalid_height_or_width")
    if not _makes(engine, width, height):
        message = f"{width}x{height} is not a size that {engine.id} makes"
        raise RefusalError(400, message, name=engine.error or "bad_request")


def _default_size(engine: Engine) -> tuple[int, int]:
    """Return the size made by default: 512x512, or the engine's own smallest square."""
    if engine.dimensions.allowed:
        return engine.dimensions.allowed[0]
    side = SQUARE_768 if engine.dimensions.min_pixels > 512 * 512 else 512
    return side, side


def _makes(engine: Engine, width: int, height: int) -> bool:
    if engine.dimensions.allowed:
        return (width, height) in engine.dimensions.allowed
    if engine.error == "invalid_sdxl_v222_dimensions" and min(width, height) > BETA_SIDE:
        return False
    longest = engine.dimensions.max_side or max(width, height)
    most = engine.dimensions.max_pixels or width * height
    return (
        engine.dimensions.min_side <= min(width, height)
        and max(width, height) <= longest
        and engine.dimensions.min_pixels <= width * height <= most
    )


def _check_mask(parameters: Parameters) -> None:
    image, mask = parameters.images["init_image"], parameters.images.get("mask_image")
    if parameters.text("mask_source") == "INIT_IMAGE_ALPHA":
        return
    if mask is None:
        message = "mask_image: is required when mask_source is MASK_IMAGE_WHITE or MASK_IMAGE_BLACK"
        raise RefusalError(400, message, name="invalid_mask_image")
    if (image.width, image.height) != (mask.width, mask.height):
        message = "init_image and mask_image must have the same dimensions"
        raise RefusalError(400, message, name="invalid_image_dimensions")


def _check_upscaled(operation: Operation, engine: Engine, parameters: Parameters) -> None:
    width, height = output_size(operation, parameters)
    if (
        engine.dimensions.max_output_pixels is not None
        and width * height > engine.dimensions.max_output_pixels
    ):
        message = f"the output would have more than {engine.dimensions.max_output_pixels} pixels"
        raise RefusalError(400, message, name="invalid_pixel_count")
