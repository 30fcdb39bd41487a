"""Rules across fields: one function for each rule that the facts state as a sentence.

`RULES` holds every sentence of every operation's `rules` in the facts. Those that require no check
of the parameters have a reason instead. A test finds sentences that are not in the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stable_async.sandbox.spec.facts import Operation
    from stable_async.sandbox.spec.fields import Parameters

    Rule = Callable[[Parameters], Iterator[str]]

__all__ = ["RULES", "broken_rules"]


def broken_rules(operation: Operation, parameters: Parameters) -> list[str]:
    """Return the broken rules of `operation`, as `field: problem`."""
    problems: list[str] = []
    for sentence in operation.rules:
        # Another facts file may have sentences without code.
        rule = RULES.get(sentence)
        if callable(rule):
            problems += rule(parameters)
    return problems


def _strength_with_image(parameters: Parameters) -> Iterator[str]:
    if "image" in parameters.given and "strength" not in parameters.given:
        yield "strength: required when image is given"


def _image_to_image_needs(parameters: Parameters) -> Iterator[str]:
    if parameters.text("mode") == "image-to-image":
        for name in ("image", "strength"):
            if name not in parameters.given:
                yield f"{name}: required when mode is image-to-image"


def _image_to_image_only(parameters: Parameters) -> Iterator[str]:
    if parameters.text("mode") == "text-to-image":
        for name in ("image", "strength"):
            if name in parameters.given:
                yield f"{name}: only allowed when mode is image-to-image"


def _text_to_image_only(parameters: Parameters) -> Iterator[str]:
    if parameters.text("mode") == "image-to-image" and "aspect_ratio" in parameters.given:
        yield "aspect_ratio: only allowed when mode is text-to-image"


def _some_direction(parameters: Parameters) -> Iterator[str]:
    if not any(parameters.number(side) for side in ("left", "right", "up", "down")):
        yield "body: at least one of left, right, up, down must be greater than 0"


def _some_background(parameters: Parameters) -> Iterator[str]:
    if not {"background_prompt", "background_reference"} & parameters.given.keys():
        yield "body: at least one of background_prompt, background_reference is required"


def _some_light(parameters: Parameters) -> Iterator[str]:
    lights = {"light_reference", "light_source_direction"}
    if "light_source_strength" in parameters.given and not lights & parameters.given.keys():
        yield ("light_source_strength: only allowed with light_reference or light_source_direction")


def _one_of_width_and_height(parameters: Parameters) -> Iterator[str]:
    if {"width", "height"} <= parameters.given.keys():
        yield "width: only one of width and height may be given"


def _mode_of_init_image(parameters: Parameters) -> Iterator[str]:
    mode = parameters.text("init_image_mode")
    takes = {
        "IMAGE_STRENGTH": {"image_strength"},
        "STEP_SCHEDULE": {"step_schedule_start", "step_schedule_end"},
    }
    for other, names in takes.items():
        if other != mode:
            for name in sorted(names & parameters.given.keys()):
                yield f"{name}: only allowed when init_image_mode is {other}"


_NOTE = "asks for no check of the parameters"
_POLLING = "polls that come too soon are counted, not refused"
_RESULTS = "kept by results.py"
_MASKS = "kept where the image is made"
_LIMIT = "kept where the body is read"
_UNDOCUMENTED = "not covered by the facts, so not refused"
_FIELD = "kept by the field itself"
_ENGINE = "kept by v1.py, which has the v1 names of errors"

RULES: dict[str, Rule | str] = {
    # generate
    "image given -> strength required": _strength_with_image,
    "strength without image: not covered by the spec (the reference client refuses it)": (
        _UNDOCUMENTED
    ),
    "mode text-to-image (default): only prompt required": _FIELD,
    "mode image-to-image: prompt, image and strength required": _image_to_image_needs,
    "image and strength are valid only with mode image-to-image": _image_to_image_only,
    "aspect_ratio is valid only with mode text-to-image (rejected in image-to-image)": (
        _text_to_image_only
    ),
    "image alone does not switch the mode: send mode=image-to-image": _FIELD,
    # upscale
    "prompt required (confirmed live: 400 without it)": _FIELD,
    "poll at most once per 10 s": _POLLING,
    "accept undeclared; some samples send image/* and still read JSON {id}": _FIELD,
    "same key as the submit, otherwise 404": _RESULTS,
    "202 = in progress, 200 = finished": _RESULTS,
    # edit
    "no prompt: the spec's required list names prompt but no such property exists, and the server "
    "does not ask for it": _FIELD,
    "mask absent -> mask derived from image's alpha channel (transparent = erase, opaque = keep)": (
        _MASKS
    ),
    "mask absent -> mask derived from image's alpha channel (transparent = inpaint, opaque = "
    "keep)": (_MASKS),
    "mask and alpha both present -> mask wins": _MASKS,
    "mask of another size than image is resized by the server": _MASKS,
    "neither mask nor alpha: not covered by the spec": _UNDOCUMENTED,
    "at least one of left, right, up, down must be non-zero": _some_direction,
    "advice: each direction no larger than the source's dimensions": _NOTE,
    "no negative_prompt; the spec's curl sample sends a field `bottom`, which does not exist "
    "(use down)": _FIELD,
    "the field is select_prompt here, search_prompt on search-and-replace": _FIELD,
    "at least one of background_prompt, background_reference required (both allowed)": (
        _some_background
    ),
    "light_source_strength requires light_reference or light_source_direction": _some_light,
    "light_reference or light_source_direction: the spec words them as alternatives; sending both "
    "is not covered": _UNDOCUMENTED,
    "the spec's text once calls the file light_reference_image; the field is light_reference": (
        _FIELD
    ),
    # control
    "no style_preset and no aspect_ratio here": _FIELD,
    # results
    "202 = in progress (JSON {id, status: in-progress}), 200 = finished; no other progress "
    "information": _RESULTS,
    "403 and 429 are not declared here; a filtered output arrives as 200 with finish-reason "
    "CONTENT_FILTERED": _RESULTS,
    "202 = in progress (JSON {id, status: in-progress}), 200 = finished": _RESULTS,
    "samples wait 10 s between polls": _POLLING,
    # 3d
    "target_count takes effect through target_type vertex or face": _NOTE,
    # audio
    "steps: 30..100 with stable-audio-2, 4..8 with stable-audio-2.5": _FIELD,
    "strength at least 0.01 with stable-audio-2.5": _FIELD,
    "request at most 50Mb": _LIMIT,
    "Stable Audio 2.5 only; no model and no cfg_scale field": _FIELD,
    "order of mask_start and mask_end: not covered by the spec": _UNDOCUMENTED,
    "submit answers 202 with JSON {id} whatever accept says": _RESULTS,
    "request at most 100Mb": _LIMIT,
    # v1
    "height and width must satisfy v1_engines[engine_id].dimensions": _ENGINE,
    "samples > 1 only with accept application/json": _ENGINE,
    "512x512, the stated default, is outside the SDXL 0.9 / 1.0 list: send dimensions "
    "(third-party notes on v1_r3 say the default is 512 or 1024 by engine)": _ENGINE,
    "init_image_mode IMAGE_STRENGTH takes image_strength; STEP_SCHEDULE takes "
    "step_schedule_start and step_schedule_end": _mode_of_init_image,
    "step_schedule_start = 1 - image_strength": _NOTE,
    "mask_source MASK_IMAGE_WHITE or MASK_IMAGE_BLACK -> mask_image required (else "
    "invalid_mask_image)": _ENGINE,
    "mask_source INIT_IMAGE_ALPHA -> no mask_image; fully transparent pixels are replaced, opaque "
    "kept": _MASKS,
    "MASK_IMAGE_WHITE replaces white pixels and keeps black; MASK_IMAGE_BLACK the reverse": _MASKS,
    "mask_image and init_image must have equal dimensions (else invalid_image_dimensions)": (
        _ENGINE
    ),
    "at most one of width, height": _one_of_width_and_height,
    "result above 4,194,304 pixels -> invalid_pixel_count": _ENGINE,
}
