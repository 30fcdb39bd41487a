"""The documented facts of the API, read from `facts.yaml`: operations, fields, limits, errors.

The file is data. Pydantic reads it into the types below; the rules that it states as sentences
are functions of `rules.py`.
"""

from __future__ import annotations

import functools
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias

import yaml
from pydantic import AliasChoices, AliasPath, BaseModel, BeforeValidator, ConfigDict
from pydantic import Field as Key

__all__ = ["Engine", "ErrorFact", "Facts", "Field", "Operation", "load_facts"]

Api = Literal["v1", "v2"]
Number: TypeAlias = int | float
Price: TypeAlias = Number | dict[str, Number | str] | None

# The three v2alpha operations have fewer fields than their v2beta equivalents.
ABSENT_FROM_V2ALPHA = {"grow_mask", "style_preset"}
MEGABYTE = 1_000_000


def _ratios(value: object) -> object:
    """Read `["1:2.5", "2.5:1"]` as two quotients."""
    if not isinstance(value, list):
        return value
    sides = [str(text).split(":") for text in value]
    return tuple(float(width) / float(height) for width, height in sides)


def _sizes(value: object) -> object:
    """Read `["1024x1024", ...]` as pairs of pixels."""
    if not isinstance(value, list):
        return value
    return tuple(tuple(str(size).split("x")) for size in value)


class _Fact(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="ignore", populate_by_name=True
    )


class Limits(_Fact):
    """Bounds of a field that differ for one model; only stated ones are set."""

    minimum: Number | None = Key(None, alias="min")
    maximum: Number | None = Key(None, alias="max")
    default: str | Number | None = None


class Field(_Fact):
    """One field of one operation; `None` or empty means that no such limit is stated.

    Attributes:
        place: `body`, or `path` for a part of the path.
        max_length: Characters; for a list of weighted prompts, of each text.
        min_side: Minimum width and height of an image, pixels; the other bounds likewise.
        aspect_range: Minimum and maximum of width / height.
        min_seconds: Minimum length of an audio file; `max_seconds` likewise.
    """

    name: str
    type: Literal["string", "number", "integer", "enum", "array", "object", "file"]
    place: str = Key("body", alias="in")
    required: bool = False
    default: str | Number | None = None
    minimum: Number | None = Key(None, alias="min")
    maximum: Number | None = Key(None, alias="max")
    min_length: int = 0
    max_length: int | None = Key(
        None,
        validation_alias=AliasChoices("max_length", AliasPath("items", "text", "max_length")),
    )
    values: tuple[str, ...] = ()
    accepted_by_mirrors: tuple[str, ...] = ()
    per_model: dict[str, Limits] = {}
    formats: tuple[str, ...] = ()
    min_side: int = 1
    max_side: int | None = None
    min_pixels: int = 1
    max_pixels: int | None = None
    aspect_range: Annotated[tuple[float, float] | None, BeforeValidator(_ratios)] = Key(
        None, alias="aspect_ratio_range"
    )
    min_seconds: float = 0.0
    max_seconds: float | None = None

    def for_model(self, model: str) -> Field:
        """Return the field with the limits it has for `model`."""
        limits = self.per_model.get(model)
        if limits is None:
            return self
        return self.model_copy(update=limits.model_dump(exclude_unset=True))


class _Run(_Fact):
    model: str | None = None
    latency_s: float | None = None
    aspect_ratio: str | None = None


class Observation(_Fact):
    """Live runs of an operation; `output_px` is such as `1344x768`."""

    latency_s: float | None = None
    output_px: str | None = None
    aspect_ratio: str | None = None
    runs: tuple[_Run, ...] = ()

    @property
    def ratio(self) -> str | None:
        """The aspect ratio that was asked for when `output_px` was observed."""
        return self.aspect_ratio or next(
            (r.aspect_ratio for r in self.runs if r.aspect_ratio), None
        )


class ResponseFact(_Fact):
    """A documented answer: its content types, and the keys that its JSON must have."""

    content_types: tuple[str, ...] = ()
    json_required: tuple[str, ...] = ()
    headers: dict[str, object] = {}


class Operation(_Fact):
    """One operation of the API.

    Attributes:
        submits: Whether the answer is an id and the result is fetched later.
        accept: The values the accept header may have; empty when none is declared.
        credits: The price: a figure, one for each model (a string is a formula), or `None` where
            no source states it.
        responses: The declared answers by status.
        results: Paths under which the result of an asynchronous operation is found.
        observed: What live runs have shown.
    """

    id: str
    method: Literal["GET", "POST"]
    path: str
    body: Literal["multipart", "json", "none"]
    submits: bool = Key(alias="async")
    submit_status: int = 200
    accept: tuple[str, ...]
    credits: Price
    fields: tuple[Field, ...]
    rules: tuple[str, ...]
    responses: dict[int, ResponseFact] = {}
    results: tuple[str, ...] = ()
    observed: Observation = Observation()

    @property
    def api(self) -> Api:
        """The generation of the interface: `v1`, or `v2` for v2beta and v2alpha."""
        return "v1" if self.path.startswith("/v1/") else "v2"

    def field(self, name: str) -> Field:
        """Return the field called `name`."""
        return next(field for field in self.fields if field.name == name)

    def latency(self, model: str) -> float | None:
        """Return the seconds that the real service needed; `None` if not measured."""
        for run in self.observed.runs:
            if model and run.model == model:
                return run.latency_s
        return self.observed.latency_s

    def pattern(self) -> re.Pattern[str]:
        """Return the pattern of this operation's paths, with a group for each path field."""
        return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]*)", re.escape(self.path)))


class ErrorFact(_Fact):
    """A documented error: its name and its messages."""

    api: Api
    name: str
    errors: tuple[str, ...] = ()
    message: str | None = None

    @property
    def messages(self) -> tuple[str, ...]:
        """The messages, as a tuple in both generations of the interface."""
        return self.errors or (() if self.message is None else (self.message,))


class Dimensions(_Fact):
    """Image sizes that a v1 engine makes; all bounds are pixels."""

    allowed: Annotated[tuple[tuple[int, int], ...], BeforeValidator(_sizes)] = ()
    min_side: int = 1
    max_side: int | None = None
    min_pixels: int = 1
    max_pixels: int | None = None
    max_output_pixels: int | None = None


class Engine(_Fact):
    """A v1 engine; `error` is the name of the refusal of a size that it does not make."""

    id: str
    use: Literal["generation", "masking", "upscale"]
    error: str | None
    dimensions: Annotated[Dimensions, BeforeValidator(lambda value: value or {})]


class _Discriminator(_Fact):
    field: str
    values: tuple[str, ...]


class _Equivalents(_Fact):
    mask: str
    search: str


class _Alias(_Fact):
    """A superseded v2alpha operation: its own path and price, its equivalent's behaviour."""

    id: str
    path: str
    equivalent: str | _Equivalents
    price_cents: Number | dict[str, Number | str] | None = None
    results: tuple[str, ...] = ()
    discriminator: _Discriminator | None = None

    def operation(self, known: dict[str, Operation]) -> Operation:
        base = known[self.equivalent if isinstance(self.equivalent, str) else self.equivalent.mask]
        # One credit is one US cent.
        price = base.credits if self.price_cents is None else self.price_cents
        fields = base.fields
        if not isinstance(self.equivalent, str) and self.discriminator is not None:
            search = known[self.equivalent.search].field("search_prompt")
            mode = Field(
                name=self.discriminator.field,
                type="enum",
                required=True,
                values=self.discriminator.values,
            )
            kept = (field for field in fields if field.name not in ABSENT_FROM_V2ALPHA)
            fields = (*kept, search.model_copy(update={"required": False}), mode)
        changes = {"id": self.id, "path": self.path, "credits": price, "fields": fields}
        return base.model_copy(update={**changes, "results": self.results})


class _RequestLimit(_Fact):
    text: str
    exact: int | None = Key(None, alias="bytes")

    @property
    def bytes(self) -> int:
        # `Mb` in `50Mb` is read as 10**6 bytes, the smaller of its meanings.
        return self.exact or int(self.text.removesuffix("Mb")) * MEGABYTE


class _Header(_Fact):
    name: str
    max_length: int | None = None


class _Meta(_Fact):
    max_request: dict[str, _RequestLimit]
    request_headers: tuple[_Header, ...] = ()


class _Removed(_Fact):
    paths: tuple[str, ...]


class _Envelope(_Fact):
    required: tuple[str, ...]


class Facts(_Fact):
    """The whole file, with v2alpha aliases among the operations."""

    meta: _Meta
    errors: dict[int, tuple[ErrorFact, ...]]
    endpoints: tuple[Operation, ...]
    aliases: tuple[_Alias, ...]
    v1_engines: tuple[Engine, ...]
    removed: tuple[_Removed, ...] = ()
    error_envelopes: dict[Api, _Envelope] = {}

    @functools.cached_property
    def operations(self) -> tuple[Operation, ...]:
        """Every operation."""
        known = {operation.id: operation for operation in self.endpoints}
        return (*self.endpoints, *(alias.operation(known) for alias in self.aliases))

    @functools.cached_property
    def engines(self) -> dict[str, Engine]:
        """The v1 engines by id."""
        return {engine.id: engine for engine in self.v1_engines}

    def errors_of(self, status: int, api: str) -> list[ErrorFact]:
        """Return the documented errors of a status."""
        return [error for error in self.errors.get(status, ()) if error.api == api]

    def max_request(self, name: str = "default") -> int:
        """Return the maximum size of a request, bytes."""
        return self.meta.max_request[name].bytes


@functools.cache
def load_facts(path: str | None = None) -> Facts:
    """Return the package's facts, or those of another file of the same shape; read once.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a facts file; the message names the place.
    """
    source = resources.files(__package__).joinpath("facts.yaml") if path is None else Path(path)
    loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        raw = yaml.load(source.read_bytes(), Loader=loader)  # noqa: S506 - both are safe loaders
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: is not YAML: {error}") from error
    return Facts.model_validate(raw)
