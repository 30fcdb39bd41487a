"""The facts, as plain data, and the checks that each field of each operation calls for."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol, cast

import yaml

from tests.samples import mp3, png_header, sample_image, wav

if TYPE_CHECKING:
    from collections.abc import Iterator

Fact = dict[str, Any]
Values = dict[str, Any]

FACTS_YAML = resources.files("stable_async.sandbox.spec").joinpath("facts.yaml")

ABSENT = None


@functools.cache
def facts() -> Fact:
    return cast("Fact", yaml.load(FACTS_YAML.read_bytes(), yaml.CSafeLoader))


def operations() -> dict[str, Fact]:
    return {operation["id"]: operation for operation in facts()["endpoints"]}


@dataclass(frozen=True)
class Check:
    """One value of one field, and whether it is to be taken.

    Attributes:
        name: The field.
        what: What is checked, for the failure message.
        values: Fields that differ from the operation's smallest request; `ABSENT` leaves out.
        taken: Whether a request with them is valid.
        mirror_only: It is valid below a mirror's prefix only.
    """

    name: str
    what: str
    values: Values
    taken: bool
    mirror_only: bool = False


IMAGE = sample_image()
OTHER_IMAGE = sample_image(80, 70)
AUDIO = wav(7)
ENGINES = {
    "v1_text_to_image": "stable-diffusion-xl-beta-v2-2-2",
    "v1_image_to_image": "stable-diffusion-xl-beta-v2-2-2",
    "v1_image_to_image_masking": "stable-inpainting-512-v2-0",
    "v1_image_to_image_upscale": "stable-diffusion-x4-latent-upscaler",
}
# What the rules ask of the smallest request, beyond the required fields.
SMALLEST: dict[str, Values] = {
    "edit_outpaint": {"left": 1},
    "edit_replace_background_and_relight": {"background_prompt": "x"},
    "v1_image_to_image_masking": {"mask_source": "INIT_IMAGE_ALPHA"},
}
_IMAGE_TO_IMAGE: Values = {"mode": "image-to-image", "image": IMAGE, "strength": 0.5}
# What the rules ask of a request that has a certain field, or a certain value of it.
TOGETHER: dict[tuple[str, str] | tuple[str, str, str], Values] = {
    ("generate_ultra", "image"): {"strength": 0.5},
    ("generate_ultra", "strength"): {"image": IMAGE},
    ("generate_sd3", "image"): _IMAGE_TO_IMAGE,
    ("generate_sd3", "strength"): _IMAGE_TO_IMAGE,
    ("generate_sd3", "mode", "image-to-image"): _IMAGE_TO_IMAGE,
    ("edit_outpaint", "left"): {"right": 1},
    ("edit_replace_background_and_relight", "background_prompt"): {"background_reference": IMAGE},
    ("edit_replace_background_and_relight", "light_source_strength"): {
        "light_source_direction": "left"
    },
    ("v1_image_to_image", "step_schedule_start"): {"init_image_mode": "STEP_SCHEDULE"},
    ("v1_image_to_image", "step_schedule_end"): {"init_image_mode": "STEP_SCHEDULE"},
    ("v1_image_to_image_masking", "mask_image"): {"mask_source": "MASK_IMAGE_WHITE"},
    ("v1_image_to_image_masking", "mask_source", "MASK_IMAGE_WHITE"): {"mask_image": IMAGE},
    ("v1_image_to_image_masking", "mask_source", "MASK_IMAGE_BLACK"): {"mask_image": IMAGE},
}
# Every key that a field of the facts may have. Notes bind nobody; `variant` and `spec_values` say
# where a field or a value comes from.
KEYS = {
    *("name", "type", "in", "required", "default", "note", "variant", "spec_values", "form"),
    *("min", "max", "multiple_of", "per_model", "min_length", "max_length", "min_items", "items"),
    *("values", "accepted_by_mirrors", "formats", "min_side", "max_side", "min_pixels"),
    *("max_pixels", "aspect_ratio_range", "min_seconds", "max_seconds"),
}


def smallest(operation: str) -> Values:
    """Return the smallest valid request."""
    required = [fact for fact in operations()[operation]["fields"] if fact["required"]]
    values = {fact["name"]: _sample(operation, fact) for fact in required}
    return values | SMALLEST.get(operation, {})


def _sample(operation: str, fact: Fact) -> object:
    match fact["type"]:
        case "string" if fact["name"] == "engine_id":
            return ENGINES[operation]
        case "string" if "max_length" in fact and fact["max_length"] == fact.get("min_length"):
            return "a" * fact["max_length"]
        case "file":
            return AUDIO if "max_seconds" in fact else IMAGE
        case "array":
            return [{"text": "x"}]
        case "enum":
            return fact["values"][0]
        case _:
            return "x"


class CheckMaker(Protocol):
    """Makes a check of one field, with the other fields that it needs."""

    def __call__(
        self, what: str, value: object, taken: bool, *, mirror_only: bool = False, **more: object
    ) -> Check: ...


def checks(operation: str, fact: Fact) -> Iterator[Check]:
    """Return the checks that one field calls for."""
    name = fact["name"]
    together = TOGETHER.get((operation, name), {})

    def check(
        what: str, value: object, taken: bool, *, mirror_only: bool = False, **more: object
    ) -> Check:
        return Check(name, what, {**together, **more, name: value}, taken, mirror_only)

    if "in" not in fact:
        instead = together if name in SMALLEST.get(operation, {}) else {}
        yield Check(name, "absent", {**instead, name: ABSENT}, not fact["required"])
    if "default" in fact:
        yield check(
            "default", fact["default"], True, **_with_value(operation, fact["default"], name)
        )
    makers = {
        "string": _string_checks,
        "number": _number_checks,
        "integer": _number_checks,
        "enum": _enum_checks,
        "file": _file_checks,
        "array": _array_checks,
        "object": _object_checks,
    }
    yield from makers[fact["type"]](operation, fact, check)


def _with_value(operation: str, value: object, name: str) -> Values:
    return TOGETHER.get((operation, name, str(value)), {})


def _string_checks(operation: str, fact: Fact, check: CheckMaker) -> Iterator[Check]:
    shortest, longest = fact.get("min_length", 0), fact.get("max_length", 0)
    if fact["name"] == "engine_id":
        yield check("an engine", ENGINES[operation], True)
        for path in ("..", "a/../b", "a%2Fb", "a b", ""):
            yield check(f"a path, {path!r}", path, False)
        return
    yield check("shortest", "a" * shortest, True)
    if shortest:
        yield check("too short", "a" * (shortest - 1), False)
    if longest:
        yield check("longest", "a" * longest, True)
        yield check("too long", "a" * (longest + 1), False)
    if fact.get("in") == "path":
        yield check("a path", "../" + "a" * (longest - 3), False)


def _number_checks(operation: str, fact: Fact, check: CheckMaker) -> Iterator[Check]:
    yield check("no number", "many", False)
    limits = {None: fact} | fact.get("per_model", {})
    for model, limit in limits.items():
        more = {} if model is None else {"model": model}
        if "default" in limit:
            yield check(f"default of {model}", limit["default"], True, **more)
        low, high = limit.get("min"), limit.get("max")
        whole = fact["type"] == "integer" or (high or 0) - (low or 0) > 50
        step = fact.get("multiple_of") or (1 if whole else 1e-6)
        if low is not None:
            yield check(f"lowest of {model}", low, True, **more)
            yield check(f"too low for {model}", low - step, False, **more)
        if high is not None:
            yield check(f"highest of {model}", high, True, **more)
            yield check(f"too high for {model}", high + step, False, **more)
        if fact["type"] == "integer" and low is not None:
            yield check("no whole number", low + 0.5, False, **more)
        if "multiple_of" in fact:
            yield check("next multiple", low + step, True, **more)
            yield check("no multiple", low + 1, False, **more)


def _enum_checks(operation: str, fact: Fact, check: CheckMaker) -> Iterator[Check]:
    for value in fact["values"]:
        yield check(f"{value!r}", value, True, **_with_value(operation, value, fact["name"]))
    for value in fact.get("accepted_by_mirrors", ()):
        yield check(f"{value!r}", value, True, mirror_only=True)
    yield check("no such value", f"no-{fact['values'][0]}", False)


def _array_checks(operation: str, fact: Fact, check: CheckMaker) -> Iterator[Check]:
    longest = fact["items"]["text"]["max_length"]
    yield check("one item", [{"text": "x"}], True)
    yield check("two items", [{"text": "x", "weight": 0.5}, {"text": "y", "weight": -1}], True)
    yield check("longest text", [{"text": "x" * longest}], True)
    yield check("too long a text", [{"text": "x" * (longest + 1)}], False)
    yield check("weight is no number", [{"text": "x", "weight": "heavy"}], False)
    yield check("no text", [{"weight": 1}], False)
    if fact["required"]:
        yield check("no items", [], False)


def _object_checks(operation: str, fact: Fact, check: CheckMaker) -> Iterator[Check]:
    yield check("an object", {"a": [1, None, {"b": "ü"}]}, True)
    yield check("no object", [1], False)


def _file_checks(operation: str, fact: Fact, check: CheckMaker) -> Iterator[Check]:
    yield check("an empty file", b"", False)
    if "max_seconds" in fact:
        yield from _audio_checks(fact, check)
        return
    if "formats" in fact:
        for kind in fact["formats"]:
            yield check(kind, sample_image(kind=kind), True)
        yield check("gif", sample_image(kind="gif"), False)
        yield check("no image", b"GENERATED BY NOBODY " * 20, False)
    else:
        yield check("png", IMAGE, True)
    if "min_side" in fact:
        yield from _size_checks(fact, check)


def _audio_checks(fact: Fact, check: CheckMaker) -> Iterator[Check]:
    low, high = fact["min_seconds"], fact["max_seconds"]
    makers = {"wav": wav, "mp3": mp3}
    for kind in fact["formats"]:
        yield check(kind, makers[kind](7), True)
    yield check("no audio", IMAGE, False)
    yield check("shortest", wav(low), True)
    yield check("too short", wav(low - 0.1), False)
    yield check("longest", wav(high), True)
    yield check("too long", wav(high + 0.1), False)


def _size_checks(fact: Fact, check: CheckMaker) -> Iterator[Check]:
    low, high = fact["min_side"], fact.get("max_side")
    fewest, most = fact.get("min_pixels", 1), fact.get("max_pixels")
    ratios = fact.get("aspect_ratio_range")

    def size(what: str, width: int, height: int, taken: bool) -> Check:
        return check(f"{what}, {width} x {height}", png_header(width, height), taken)

    yield size("lowest side", low, low, True)
    yield size("too low a width", low - 1, low * 2, False)
    yield size("too low a height", low * 2, low - 1, False)
    assert fewest <= low**2, "pixels in all say more than the sides: this needs a check"
    if high is not None:
        if not ratios:
            yield size("highest side", high, low, True)
        yield size("too high a width", high + 1, low, False)
        yield size("too high a height", low, high + 1, False)
    if most is not None:
        side = round(most**0.5)
        assert side**2 == most
        yield size("most pixels", side, side, True)
        yield size("too many pixels", side + 1, side, False)
    if ratios:
        assert ratios == ["1:2.5", "2.5:1"]
        yield size("widest", 250, 100, True)
        yield size("too wide", 251, 100, False)
        yield size("narrowest", 100, 250, True)
        yield size("too narrow", 100, 251, False)
