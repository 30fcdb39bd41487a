"""The table of all operations in docs/operations.md, generated from the models.

`python -m tests.operations_table` writes it between the markers of the page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from stable_async.api.account import AccountBalance, AccountDetails
from stable_async.api.audio import AudioInpaint, AudioToAudio, TextToAudio
from stable_async.api.control import ControlSketch, ControlStructure, ControlStyle, StyleTransfer
from stable_async.api.edit import (
    Erase,
    Inpaint,
    Outpaint,
    RemoveBackground,
    ReplaceBackgroundAndRelight,
    SearchAndRecolor,
    SearchAndReplace,
)
from stable_async.api.generate import GenerateCore, GenerateSD3, GenerateUltra
from stable_async.api.model3d import StableFast3D, StablePointAware3D
from stable_async.api.results import AudioResult, ImageResult
from stable_async.api.upscale import (
    UpscaleConservative,
    UpscaleCreative,
    UpscaleCreativeResult,
    UpscaleFast,
)
from stable_async.api.v1 import (
    V1Engines,
    V1ImageToImage,
    V1Masking,
    V1TextToImage,
    V1Upscale,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stable_async.api.base import Operation, Request

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "operations.md"
BEGIN, END = "<!-- operations: begin -->", "<!-- operations: end -->"
REFERENCE = "https://platform.stability.ai/docs/api-reference"

COROUTINES: dict[str, type[Request[Any]]] = {
    "generate.core": GenerateCore,
    "generate.ultra": GenerateUltra,
    "generate.sd3": GenerateSD3,
    "upscale.fast": UpscaleFast,
    "upscale.conservative": UpscaleConservative,
    "upscale.creative": UpscaleCreative,
    "upscale.creative_result": UpscaleCreativeResult,
    "edit.erase": Erase,
    "edit.inpaint": Inpaint,
    "edit.outpaint": Outpaint,
    "edit.search_and_replace": SearchAndReplace,
    "edit.search_and_recolor": SearchAndRecolor,
    "edit.remove_background": RemoveBackground,
    "edit.replace_background_and_relight": ReplaceBackgroundAndRelight,
    "control.sketch": ControlSketch,
    "control.structure": ControlStructure,
    "control.style": ControlStyle,
    "control.style_transfer": StyleTransfer,
    "model3d.fast": StableFast3D,
    "model3d.point_aware": StablePointAware3D,
    "audio.text_to_audio": TextToAudio,
    "audio.audio_to_audio": AudioToAudio,
    "audio.inpaint": AudioInpaint,
    "results.get": ImageResult,
    "results.get_audio": AudioResult,
    "v1.text_to_image": V1TextToImage,
    "v1.image_to_image": V1ImageToImage,
    "v1.masking": V1Masking,
    "v1.upscale": V1Upscale,
    "v1.engines": V1Engines,
    "account.balance": AccountBalance,
    "account.details": AccountDetails,
}
# The sections of Stability's reference, by the names that its links use.
TAGS = {
    "generate": "Generate",
    "upscale": "Upscale",
    "edit": "Edit",
    "control": "Control",
    "model3d": "3D",
    "results": "Results",
    "v1": "SDXL-1.0-and-SD1.6",
    "account": "User",
}


def operations_of(model: type[Request[Any]]) -> tuple[Operation, ...]:
    """Return the operations of a model: one, or one for each version of Stable Audio."""
    several: tuple[Operation, ...] | None = getattr(model, "operations", None)
    return several or (cast("Operation", model.operation),)


def link(group: str, operation: Operation) -> str:
    """Return the address of an operation's documentation."""
    if "stable-audio-2/" in operation.path:
        tag = "Stable-Audio-2"
    elif operation.path.endswith("/result/{id}"):
        tag = "Results"
    elif group not in TAGS or "/audio/" in operation.path:
        return REFERENCE
    else:
        tag = TAGS[group]
    if not operation.path.startswith("/v2beta/"):
        return f"{REFERENCE}#tag/{tag}"
    path = operation.path.replace("/", "~1")
    return f"{REFERENCE}#tag/{tag}/paths/{path}/{operation.method.lower()}"


def price(model: type[Request[Any]], operation: Operation) -> str:
    """Return what an operation costs, over all its models and steps."""
    if operation.path.startswith("/v1/generation"):
        return "not stated"
    if operation.credits is not None:
        return f"{operation.credits:g}" if operation.credits else "free"
    models = {
        value
        for member in get_args(model.model_fields["model"].annotation)
        for value in get_args(member)
    }
    prices = set()
    for name in models:
        for steps in (None, 30, 100):
            # Built unchecked: the price needs neither prompt nor files.
            values: dict[str, Any] = {"model": name, "steps": steps}
            request = model.model_construct(**values)
            if request.operation.id == operation.id and request.credits is not None:
                prices.add(request.credits)
    return f"{min(prices):g} to {max(prices):g}"


def rows() -> Iterator[str]:
    """Return the lines of the table."""
    yield "| `await client.` | request | credits | returns | operation |"
    yield "|---|---|--:|---|---|"
    for path, model in COROUTINES.items():
        group = path.partition(".")[0]
        for operation in operations_of(model):
            waits = "; waits for the result" if operation.result is not None else ""
            yield (
                f"| `{path}` | `{model.__name__}` | {price(model, operation)} "
                f"| {operation.output}{waits} "
                f"| [{operation.method} {operation.path}]({link(group, operation)}) |"
            )


def table() -> str:
    """Return the table with its markers."""
    return "\n".join([BEGIN, "", *rows(), "", END])


def with_table(page: str) -> str:
    """Return a page with the current table between its markers."""
    return re.sub(f"{BEGIN}.*{END}", lambda _: table(), page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
