"""What an operation gives back: pictures, sounds and models, made away from the event loop."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stable_async.sandbox.forms import Upload
from stable_async.sandbox.render import audio, edits, images, models
from stable_async.sandbox.spec.sizes import output_size

if TYPE_CHECKING:
    from stable_async.sandbox.spec.facts import Operation
    from stable_async.sandbox.spec.fields import Parameters

__all__ = ["Job", "Product", "make"]

SUCCESS = "SUCCESS"
FILTERED = "CONTENT_FILTERED"


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be made.

    Attributes:
        operation: Which operation.
        parameters: Its parameters, checked.
        seed: Decides with the parameters what comes out.
        filtered: The content filter has something against it.
    """

    operation: Operation
    parameters: Parameters
    seed: int
    filtered: bool = False


@dataclass(frozen=True, slots=True)
class Product:
    """What was made.

    Attributes:
        content_type: Of `data`.
        data: The file.
        finish_reason: `SUCCESS` or `CONTENT_FILTERED`.
        seed: The seed used.
        thumbnail: A small JPEG; empty where there is nothing to see.
    """

    content_type: str
    data: bytes
    finish_reason: str
    seed: int
    thumbnail: bytes = b""


def make(job: Job) -> Product:
    """Give the product of `job`. The same job gives the same bytes.

    Raises:
        UnreadableError: An uploaded picture cannot be decoded.
    """
    kind = job.operation.id
    if kind.startswith("stable_audio"):
        return _sound(job)
    if kind in {"stable_fast_3d", "stable_point_aware_3d"}:
        return _model(job)
    return _picture(job)


def _picture(job: Job) -> Product:
    parameters = job.parameters
    width, height = output_size(job.operation, parameters)
    brief = images.Brief(
        width,
        height,
        prompt=_prompt(parameters),
        note=_note(job),
        style=parameters.text("style_preset"),
        identity=_identity(job),
    )
    if parameters.pictures:
        image = edits.develop(job.operation, parameters, brief)
    else:
        image = images.paint(brief)
    if job.filtered:
        image = images.blur(image)
    output_format = parameters.text("output_format") or "png"
    return Product(
        f"image/{output_format}",
        images.encode(image, output_format),
        FILTERED if job.filtered else SUCCESS,
        job.seed,
        images.thumbnail(image),
    )


def _sound(job: Job) -> Product:
    seconds, title = job.parameters.number("duration"), _prompt(job.parameters)
    if job.parameters.text("output_format") == "wav":
        return Product("audio/wav", audio.wav(seconds, job.seed, title), SUCCESS, job.seed)
    return Product("audio/mpeg", audio.mp3(seconds, job.seed, title), SUCCESS, job.seed)


def _model(job: Job) -> Product:
    parameters = job.parameters
    picture = parameters.pictures["image"]
    side = int(parameters.text("texture_resolution"))
    texture = edits.load(parameters, "image").convert("RGB").resize((side, side))
    data = images.encode(texture, "jpeg")
    name = f"{job.operation.id} seed {job.seed}"
    model = models.glb(data, "image/jpeg", picture.width, picture.height, name)
    thumbnail = images.thumbnail(texture)
    return Product("model/gltf-binary", model, SUCCESS, job.seed, thumbnail)


def _prompt(parameters: Parameters) -> str:
    prompts = [prompt.text for prompt in parameters.prompts if prompt.weight > 0]
    return parameters.text("prompt") or parameters.text("background_prompt") or " ".join(prompts)


def _note(job: Job) -> str:
    parameters = job.parameters
    name = job.operation.id.partition("_")[2].replace("_", " ")
    parts = [
        "sandbox",
        parameters.text("model") or name,
        f"seed {job.seed}",
        parameters.text("aspect_ratio"),
        parameters.text("style_preset"),
    ]
    return "   ".join(part for part in parts if part)


def _identity(job: Job) -> str:
    """Give everything that the content depends on; the file format is not part of it."""
    given = {
        name: value.sha256 if isinstance(value, Upload) else value
        for name, value in job.parameters.given.items()
        if name not in {"seed", "output_format"}
    }
    prompts = [(prompt.text, prompt.weight) for prompt in job.parameters.prompts]
    return json.dumps([job.operation.id, job.seed, given, prompts], sort_keys=True)
