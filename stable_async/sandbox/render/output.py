"""The outputs of operations: images, audio and 3D models, rendered outside the event loop."""

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

__all__ = ["Output", "RenderTask", "given", "render"]

SUCCESS = "SUCCESS"
FILTERED = "CONTENT_FILTERED"


@dataclass(frozen=True, slots=True)
class RenderTask:
    """What to render.

    Attributes:
        operation: Which operation.
        parameters: Its parameters, checked.
        seed: Determines the output together with the parameters.
        filtered: Whether the content filter blurs it.
    """

    operation: Operation
    parameters: Parameters
    seed: int
    filtered: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """What was rendered.

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


def render(task: RenderTask) -> Output:
    """Return the output of `task`. The same task returns the same bytes.

    Raises:
        UnreadableError: An uploaded image cannot be decoded.
    """
    kind = _content_type(task)
    if kind.startswith("audio/"):
        return Output(kind, _audio(task, kind), SUCCESS, task.seed)
    if kind.startswith("model/"):
        return _model(task, kind)
    return _image(task, kind)


def given(task: RenderTask, data: bytes, content_type: str | None) -> Output:
    """Return an output made of bytes from a test, with the content type that was asked for."""
    return Output(content_type or _content_type(task), data, _finish_reason(task), task.seed)


def _content_type(task: RenderTask) -> str:
    asked = task.parameters.text("output_format")
    if task.operation.id.startswith("stable_audio"):
        return "audio/wav" if asked == "wav" else "audio/mpeg"
    if task.operation.id in {"stable_fast_3d", "stable_point_aware_3d"}:
        return "model/gltf-binary"
    return f"image/{asked or 'png'}"


def _finish_reason(task: RenderTask) -> str:
    return FILTERED if task.filtered else SUCCESS


def _image(task: RenderTask, kind: str) -> Output:
    parameters = task.parameters
    width, height = output_size(task.operation, parameters)
    spec = images.ImageSpec(
        width,
        height,
        prompt=_prompt(parameters),
        note=_note(task),
        style=parameters.text("style_preset"),
        identity=_identity(task),
    )
    if parameters.images:
        image = edits.edit(task.operation, parameters, spec)
    else:
        image = images.paint(spec)
    if task.filtered:
        image = images.blur(image)
    data = images.encode(image, kind.removeprefix("image/"))
    return Output(kind, data, _finish_reason(task), task.seed, images.thumbnail(image))


def _audio(task: RenderTask, kind: str) -> bytes:
    seconds = task.parameters.number("duration")
    if kind == "audio/wav":
        return audio.wav(seconds, task.seed)
    return audio.mp3(seconds, task.seed, _prompt(task.parameters))


def _model(task: RenderTask, kind: str) -> Output:
    parameters = task.parameters
    image = parameters.images["image"]
    side = int(parameters.text("texture_resolution"))
    texture = edits.load(parameters, "image").convert("RGB").resize((side, side))
    data = images.encode(texture, "jpeg")
    name = f"{task.operation.id} seed {task.seed}"
    model = models.glb(data, "image/jpeg", image.width, image.height, name)
    return Output(kind, model, SUCCESS, task.seed, images.thumbnail(texture))


def _prompt(parameters: Parameters) -> str:
    prompts = [prompt.text for prompt in parameters.prompts if prompt.weight > 0]
    return parameters.text("prompt") or parameters.text("background_prompt") or " ".join(prompts)


def _note(task: RenderTask) -> str:
    parameters = task.parameters
    name = task.operation.id.partition("_")[2].replace("_", " ")
    parts = [
        "sandbox",
        parameters.text("model") or name,
        f"seed {task.seed}",
        parameters.text("aspect_ratio"),
        parameters.text("style_preset"),
    ]
    return "   ".join(part for part in parts if part)


def _identity(task: RenderTask) -> str:
    """Return everything that the content depends on, which excludes the file format."""
    given = {
        name: value.sha256 if isinstance(value, Upload) else value
        for name, value in task.parameters.given.items()
        if name not in {"seed", "output_format"}
    }
    prompts = [(prompt.text, prompt.weight) for prompt in task.parameters.prompts]
    return json.dumps([task.operation.id, task.seed, given, prompts], sort_keys=True)
