"""Probes derived from the facts: requests that each decide one claim.

A probe changes the smallest valid request of an operation in one respect, and says whether the API
should find it valid. Nothing is sent here; `prober.py` says why sending costs nothing.
"""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from PIL import Image

from stable_async.sandbox.probing.claims import rule_claim
from stable_async.sandbox.probing.requests import Value, companions, image, mp3, smallest, wav

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stable_async.sandbox.spec.facts import Field, Operation

__all__ = ["Probe", "probes"]

Side = Literal["valid", "invalid"]


@dataclass(frozen=True, slots=True)
class Probe:
    """A request that decides a claim.

    Attributes:
        claim: Id of the claim, without the operation's.
        field: The field in question; empty for a rule across fields.
        what: What is tried, for the report.
        changes: Fields that differ from the smallest request; `None` leaves one out.
        side: Whether the request is valid according to the facts.
        headers: Headers that differ.
    """

    claim: str
    field: str
    what: str
    changes: Mapping[str, Value]
    side: Side
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


def probes(operation: Operation) -> Iterator[Probe]:
    """Return the probes of an operation that make it do no work."""
    if operation.method == "GET":
        return
    base = smallest(operation)
    for one in operation.fields:
        if one.place != "body":
            continue
        yield from _field_probes(operation, one, base)
    yield from _header_probes(operation)
    for sentence in operation.rules:
        for field_name, changes, side in RULES.get(sentence, ()):
            claim = rule_claim(operation, sentence)
            yield Probe(claim, field_name, sentence, changes, side)


def _header_probes(operation: Operation) -> Iterator[Probe]:
    if not operation.accept or "*/*" in operation.accept:
        return
    for value in operation.accept:
        yield Probe(f"accept.{value}", "accept", value, {}, "valid", {"accept": value})
    yield Probe("accept", "accept", "text/plain", {}, "invalid", {"accept": "text/plain"})


def _field_probes(operation: Operation, one: Field, base: Mapping[str, Value]) -> Iterator[Probe]:
    def probe(claim: str, what: str, value: Value, side: Side, **more: Value) -> Probe:
        changes = {**companions(operation, one.name, value), **more, one.name: value}
        return Probe(f"{one.name}.{claim}", one.name, what, changes, side)

    if one.required:
        yield Probe(f"{one.name}.required", one.name, "absent", {one.name: None}, "invalid")
    elif one.name not in base:
        yield Probe(f"{one.name}.required", one.name, "absent", {}, "valid")
    match one.type:
        case "string":
            yield from _string_probes(one, probe)
        case "number" | "integer":
            for model in one.per_model or [""]:
                yield from _number_probes(one, model, probe)
            yield probe("type", "no number", "banana", "invalid")
            if one.type == "integer":
                limits = one.for_model(next(iter(one.per_model), ""))
                within = f"{(limits.minimum or 0) + 0.5:g}"
                more = _model_of(next(iter(one.per_model), ""))
                yield probe("type", "no whole number", within, "invalid", **more)
        case "enum":
            for value in one.values:
                yield probe(f"values.{value}", value, value, "valid")
            yield probe("values", "another value", "no-such-value", "invalid")
        case "array" | "object":
            yield from _structure_probes(one, probe)
        case "file":
            yield from _file_probes(one, probe)


def _structure_probes(one: Field, probe: _Maker) -> Iterator[Probe]:
    match one.type:
        case "array":
            yield probe("max_length", "longest", "x" * (one.max_length or 1), "valid")
            yield probe("max_length", "too long", "x" * ((one.max_length or 1) + 1), "invalid")
        case "object":
            yield probe("type", "no object", "banana", "invalid")


def _model_of(model: str) -> dict[str, Value]:
    return {"model": model} if model else {}


def _string_probes(one: Field, probe: _Maker) -> Iterator[Probe]:
    if one.min_length:
        yield probe("min_length", "shortest", "x" * one.min_length, "valid")
        yield probe("min_length", "too short", "x" * (one.min_length - 1), "invalid")
    if one.max_length is not None:
        yield probe("max_length", "longest", "x" * one.max_length, "valid")
        yield probe("max_length", "too long", "x" * (one.max_length + 1), "invalid")


def _number_probes(one: Field, model: str, probe: _Maker) -> Iterator[Probe]:
    limits, more = one.for_model(model), _model_of(model)
    where = f".{model}" if model else ""
    bounds = [bound for bound in (limits.minimum, limits.maximum) if bound is not None]
    # A hundredth is finer than any documented limit of a number that is not an integer.
    whole = one.type == "integer" or all(float(bound).is_integer() for bound in bounds)
    step = 1 if one.type == "integer" or (whole and max(bounds, default=0) > 1000) else 0.01
    if limits.minimum is not None:
        yield probe(f"min{where}", "least", _text(limits.minimum), "valid", **more)
        yield probe(f"min{where}", "too low", _text(limits.minimum - step), "invalid", **more)
    if limits.maximum is not None:
        yield probe(f"max{where}", "greatest", _text(limits.maximum), "valid", **more)
        yield probe(f"max{where}", "too high", _text(limits.maximum + step), "invalid", **more)


def _text(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else f"{number:.10g}"


def _file_probes(one: Field, probe: _Maker) -> Iterator[Probe]:
    if one.max_seconds is not None:
        least, most = one.min_seconds, one.max_seconds
        for fmt, make in (("wav", wav), ("mp3", mp3)):
            if fmt in one.formats:
                yield probe(f"formats.{fmt}", fmt, make(least + 1), "valid")
        yield probe("formats", "an image", image(), "invalid")
        yield probe("min_seconds", "shortest", wav(least), "valid")
        yield probe("min_seconds", "too short", wav(least - 0.1), "invalid")
        yield probe("max_seconds", "longest", wav(most), "valid")
        yield probe("max_seconds", "too long", wav(most + 0.5), "invalid")
        return
    for fmt in one.formats:
        yield probe(f"formats.{fmt}", fmt, image(fmt=fmt), "valid")
    if one.formats:
        yield probe("formats", "gif", _gif(), "invalid")
    yield from _size_probes(one, probe)


def _gif() -> bytes:
    out = io.BytesIO()
    Image.new("L", (96, 96)).save(out, "GIF")
    return out.getvalue()


def _size_probes(one: Field, probe: _Maker) -> Iterator[Probe]:
    low, high, most = one.min_side, one.max_side, one.max_pixels
    if low > 1:
        yield probe("min_side", "least side", image(low, low), "valid")
        yield probe("min_side", "too low a width", image(low - 1, low * 2), "invalid")
        yield probe("min_side", "too low a height", image(low * 2, low - 1), "invalid")
    if high is not None:
        if one.aspect_range is None:
            yield probe("max_side", "greatest side", image(high, low), "valid")
        yield probe("max_side", "too great a width", image(high + 1, low), "invalid")
    if most is not None:
        side = round(most**0.5)
        yield probe("max_pixels", "most pixels", image(side, side), "valid")
        yield probe("max_pixels", "too many pixels", image(side + 1, side), "invalid")
    if one.aspect_range is not None:
        yield probe("aspect_ratio", "widest", image(250, 100), "valid")
        yield probe("aspect_ratio", "too wide", image(251, 100), "invalid")
        yield probe("aspect_ratio", "narrowest", image(100, 250), "valid")
        yield probe("aspect_ratio", "too narrow", image(100, 251), "invalid")


if TYPE_CHECKING:
    from typing import Protocol

    class _Maker(Protocol):
        def __call__(
            self, claim: str, what: str, value: Value, side: Side, **more: Value
        ) -> Probe: ...


_I2I: dict[str, Value] = {"mode": "image-to-image", "image": image(), "strength": "0.5"}
_Tries = tuple[tuple[str, "Mapping[str, Value]", Side], ...]
_MODES: _Tries = (
    ("strength", {**_I2I, "strength": None}, "invalid"),
    ("image", {**_I2I, "image": None}, "invalid"),
    ("prompt", {**_I2I, "prompt": None}, "invalid"),
    ("", _I2I, "valid"),
)
# For each sentence: the field that a refusal names, the changes, and whether they are valid.
RULES: dict[str, _Tries] = {
    "image given -> strength required": (
        ("strength", {"image": image()}, "invalid"),
        ("", {"image": image(), "strength": "0.5"}, "valid"),
    ),
    "mode text-to-image (default): only prompt required": (
        ("", {"mode": "text-to-image"}, "valid"),
    ),
    "mode image-to-image: prompt, image and strength required": _MODES,
    "image and strength are valid only with mode image-to-image": (
        ("image", {"mode": "text-to-image", "image": image()}, "invalid"),
        ("strength", {"mode": "text-to-image", "strength": "0.5"}, "invalid"),
    ),
    "aspect_ratio is valid only with mode text-to-image (rejected in image-to-image)": (
        ("aspect_ratio", {**_I2I, "aspect_ratio": "1:1"}, "invalid"),
    ),
    "image alone does not switch the mode: send mode=image-to-image": (
        ("image", {"image": image(), "strength": "0.5"}, "invalid"),
    ),
    "prompt required (confirmed live: 400 without it)": (("prompt", {"prompt": None}, "invalid"),),
    "no prompt: the spec's required list names prompt but no such property exists, and the server "
    "does not ask for it": (("prompt", {}, "valid"),),
    "mask of another size than image is resized by the server": (
        ("mask", {"mask": image(80, 70)}, "valid"),
    ),
    "mask and alpha both present -> mask wins": (("mask", {"mask": image()}, "valid"),),
    "at least one of left, right, up, down must be non-zero": (
        ("*", {"left": "0", "right": "0", "up": "0", "down": "0"}, "invalid"),
        ("*", {"left": None}, "invalid"),
        ("", {"left": None, "down": "1"}, "valid"),
    ),
    "advice: each direction no larger than the source's dimensions": (
        ("left", {"left": "2000"}, "valid"),
    ),
    "at least one of background_prompt, background_reference required (both allowed)": (
        ("*", {"background_prompt": None}, "invalid"),
        ("", {"background_prompt": None, "background_reference": image()}, "valid"),
        ("", {"background_reference": image()}, "valid"),
    ),
    "light_source_strength requires light_reference or light_source_direction": (
        ("light_source_strength", {"light_source_strength": "0.5"}, "invalid"),
        ("", {"light_source_strength": "0.5", "light_reference": image()}, "valid"),
    ),
    "target_count takes effect through target_type vertex or face": (
        ("target_count", {"target_count": "500"}, "valid"),
    ),
    "steps: 30..100 with stable-audio-2, 4..8 with stable-audio-2.5": (
        ("steps", {"model": "stable-audio-2", "steps": "8"}, "invalid"),
        ("steps", {"model": "stable-audio-2.5", "steps": "30"}, "invalid"),
    ),
    "strength at least 0.01 with stable-audio-2.5": (
        ("strength", {"model": "stable-audio-2.5", "strength": "0"}, "invalid"),
        ("strength", {"model": "stable-audio-2", "strength": "0"}, "valid"),
    ),
    "at most one of width, height": (("width", {"width": "512", "height": "512"}, "invalid"),),
    "init_image_mode IMAGE_STRENGTH takes image_strength; STEP_SCHEDULE takes "
    "step_schedule_start and step_schedule_end": (
        (
            "image_strength",
            {"init_image_mode": "STEP_SCHEDULE", "image_strength": "0.5"},
            "invalid",
        ),
        ("step_schedule_start", {"step_schedule_start": "0.5"}, "invalid"),
    ),
}
