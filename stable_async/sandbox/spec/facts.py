"""The documented facts of the API, read from `facts.yaml`: operations, fields, limits, errors.

The file is data that came with the project; this module gives it types and leaves the prose to
`rules.py`, which has one function for each rule that the file writes as a sentence.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING, cast

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Engine", "ErrorFact", "Facts", "Field", "Operation", "load_facts"]

Raw = dict[str, object]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of one operation; `None` or empty means that no such limit is stated."""

    name: str
    type: str
    place: str = "body"
    required: bool = False
    default: str | float | None = None
    minimum: float | None = None
    maximum: float | None = None
    min_length: int = 0
    max_length: int | None = None
    values: tuple[str, ...] = ()
    accepted_by_mirrors: tuple[str, ...] = ()
    per_model: tuple[tuple[str, Field], ...] = ()
    formats: tuple[str, ...] = ()
    min_side: int = 1
    max_side: int | None = None
    min_pixels: int = 1
    max_pixels: int | None = None
    aspect_range: tuple[float, float] | None = None
    min_seconds: float = 0.0
    max_seconds: float | None = None

    def for_model(self, model: str) -> Field:
        """Give the field with the limits it has for `model`."""
        return dict(self.per_model).get(model, self)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the API.

    Attributes:
        api: The generation of the interface: `v1`, or `v2` for v2beta and v2alpha.
        body: `multipart`, `json` or `none`.
        submits: The answer is an id; the result is fetched later.
        accept: The values the accept header may have; empty when none is declared.
        credits: The price: a figure, one for each model (a text is a formula), or `None` where
            no source states it.
        latency: Seconds the real service needed; `None` where nobody has measured it.
    """

    id: str
    api: str
    method: str
    path: str
    body: str
    submits: bool
    submit_status: int
    accept: tuple[str, ...]
    credits: float | Mapping[str, float | str] | None
    fields: tuple[Field, ...]
    rules: tuple[str, ...]
    latency: float | None
    latency_per_model: Mapping[str, float]

    def field(self, name: str) -> Field:
        """Give the field called `name`."""
        return next(field for field in self.fields if field.name == name)

    def pattern(self) -> re.Pattern[str]:
        """Give the pattern of this operation's paths, with a group for each field in the path."""
        return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]*)", re.escape(self.path)))


@dataclass(frozen=True, slots=True)
class ErrorFact:
    """A documented error: its name and its texts."""

    name: str
    messages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Engine:
    """A v1 engine and the picture sizes it makes."""

    id: str
    use: str
    error: str | None
    allowed: tuple[tuple[int, int], ...] = ()
    min_side: int = 1
    max_side: int | None = None
    min_pixels: int = 1
    max_pixels: int | None = None
    max_output_pixels: int | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it."""

    operations: tuple[Operation, ...]
    errors: Mapping[tuple[int, str], tuple[ErrorFact, ...]]
    engines: Mapping[str, Engine]
    max_request: Mapping[str, int]


def _integer(value: object, default: int) -> int:
    return default if value is None else int(cast("int", value))


def _ratio(text: str) -> float:
    width, height = text.split(":")
    return float(width) / float(height)


def _field(raw: Raw) -> Field:
    aspect = cast("list[str] | None", raw.get("aspect_ratio_range"))
    # Of an array of texts with weights, the length that is limited is each text's.
    text = cast("dict[str, Raw]", raw.get("items", {})).get("text", raw)
    field = Field(
        name=cast("str", raw["name"]),
        type=cast("str", raw["type"]),
        place=cast("str", raw.get("in", "body")),
        required=raw.get("required") is True,
        default=cast("str | float | None", raw.get("default")),
        minimum=cast("float | None", raw.get("min")),
        maximum=cast("float | None", raw.get("max")),
        min_length=_integer(raw.get("min_length"), 0),
        max_length=cast("int | None", text.get("max_length")),
        values=tuple(cast("list[str]", raw.get("values", []))),
        accepted_by_mirrors=tuple(cast("list[str]", raw.get("accepted_by_mirrors", []))),
        formats=tuple(cast("list[str]", raw.get("formats", []))),
        min_side=_integer(raw.get("min_side"), 1),
        max_side=cast("int | None", raw.get("max_side")),
        min_pixels=_integer(raw.get("min_pixels"), 1),
        max_pixels=cast("int | None", raw.get("max_pixels")),
        aspect_range=(_ratio(aspect[0]), _ratio(aspect[1])) if aspect else None,
        min_seconds=cast("float", raw.get("min_seconds", 0.0)),
        max_seconds=cast("float | None", raw.get("max_seconds")),
    )
    per_model = cast("dict[str, dict[str, float]]", raw.get("per_model", {}))
    return replace(
        field,
        per_model=tuple(
            (
                model,
                replace(
                    field,
                    minimum=limits.get("min", field.minimum),
                    maximum=limits.get("max", field.maximum),
                    default=limits.get("default", field.default),
                ),
            )
            for model, limits in per_model.items()
        ),
    )


def _latencies(observed: Raw) -> tuple[float | None, dict[str, float]]:
    per_model: dict[str, float] = {}
    for run in cast("list[Raw]", observed.get("runs", [])):
        if "model" in run:
            per_model.setdefault(cast("str", run["model"]), cast("float", run["latency_s"]))
    return cast("float | None", observed.get("latency_s")), per_model


def _operation(raw: Raw) -> Operation:
    latency, latency_per_model = _latencies(cast("Raw", raw.get("observed", {})))
    path = cast("str", raw["path"])
    return Operation(
        id=cast("str", raw["id"]),
        api="v1" if path.startswith("/v1/") else "v2",
        method=cast("str", raw["method"]),
        path=path,
        body=cast("str", raw["body"]),
        submits=raw["async"] is True,
        submit_status=_integer(raw.get("submit_status"), 200),
        accept=tuple(cast("list[str]", raw["accept"])),
        credits=cast("float | dict[str, float | str] | None", raw["credits"]),
        fields=tuple(_field(field) for field in cast("list[Raw]", raw["fields"])),
        rules=tuple(cast("list[str]", raw["rules"])),
        latency=latency,
        latency_per_model=latency_per_model,
    )


def _error(raw: Raw) -> ErrorFact:
    messages = raw.get("errors") or ([raw["message"]] if "message" in raw else [])
    return ErrorFact(cast("str", raw["name"]), tuple(cast("Sequence[str]", messages)))


def _errors(raw: Mapping[int, list[Raw]]) -> dict[tuple[int, str], tuple[ErrorFact, ...]]:
    return {
        (status, api): tuple(_error(error) for error in errors if error["api"] == api)
        for status, errors in raw.items()
        for api in ("v1", "v2")
    }


def _engine(raw: Raw) -> Engine:
    limits = cast("Raw", raw["dimensions"] or {})
    allowed = cast("list[str]", limits.get("allowed", []))
    return Engine(
        id=cast("str", raw["id"]),
        use=cast("str", raw["use"]),
        error=cast("str | None", raw["error"]),
        allowed=tuple((int(w), int(h)) for w, h in (size.split("x") for size in allowed)),
        min_side=_integer(limits.get("min_side"), 1),
        max_side=cast("int | None", limits.get("max_side")),
        min_pixels=_integer(limits.get("min_pixels"), 1),
        max_pixels=cast("int | None", limits.get("max_pixels")),
        max_output_pixels=cast("int | None", limits.get("max_output_pixels")),
    )


def _alias(raw: Raw, equivalents: Mapping[str, Operation]) -> Operation:
    """Give a superseded v2alpha operation: its own path, its equivalent's behaviour."""
    equivalent = raw["equivalent"]
    if isinstance(equivalent, str):
        base = equivalents[equivalent]
        price: float | Mapping[str, float | str] | None = base.credits
        fields = base.fields
    else:
        modes = cast("dict[str, str]", equivalent)
        base = equivalents[modes["mask"]]
        search = equivalents[modes["search"]].field("search_prompt")
        discriminator = cast("Raw", raw["discriminator"])
        mode = Field(
            name=cast("str", discriminator["field"]),
            type="enum",
            required=True,
            values=tuple(cast("list[str]", discriminator["values"])),
        )
        absent = {"grow_mask", "style_preset"}
        kept = [field for field in base.fields if field.name not in absent]
        fields = (*kept, replace(search, required=False), mode)
        price = None
    if "price_cents" in raw:
        # One credit is one US cent.
        price = cast("float | Mapping[str, float | str]", raw["price_cents"])
    return replace(
        base,
        id=cast("str", raw["id"]),
        path=cast("str", raw["path"]),
        credits=price,
        fields=fields,
    )


@functools.cache
def load_facts() -> Facts:
    """Give the facts; the file is read once."""
    loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = resources.files(__package__).joinpath("facts.yaml").read_bytes()
    raw = cast("Raw", yaml.load(text, Loader=loader))  # noqa: S506 - both are safe loaders
    operations = [_operation(endpoint) for endpoint in cast("list[Raw]", raw["endpoints"])]
    by_id = {operation.id: operation for operation in operations}
    aliases = [_alias(alias, by_id) for alias in cast("list[Raw]", raw["aliases"])]
    meta = cast("Raw", raw["meta"])
    limits = cast("dict[str, Raw]", meta["max_request"])
    return Facts(
        operations=(*operations, *aliases),
        errors=_errors(cast("dict[int, list[Raw]]", raw["errors"])),
        engines={
            engine.id: engine for engine in map(_engine, cast("list[Raw]", raw["v1_engines"]))
        },
        max_request={
            name: cast("int", limit["bytes"]) if "bytes" in limit else _megabytes(limit["text"])
            for name, limit in limits.items()
        },
    )


def _megabytes(text: object) -> int:
    """Read `50Mb`. The unit is taken for 10**6 bytes, the smaller of its meanings in bytes."""
    return int(str(text).removesuffix("Mb")) * 1_000_000
