"""The base of every request model: its operation, its parts on the wire, its errors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import get_annotations
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    ClassVar,
    Generic,
    Literal,
    Self,
    TypeVar,
    cast,
    get_args,
)
from urllib.parse import quote

from annotated_types import Ge, Le, MaxLen, MinLen, MultipleOf
from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, model_validator
from pydantic import ValidationError as PydanticValidationError
from pydantic_core import PydanticCustomError, core_schema
from typing_extensions import is_typeddict

from stable_async.api.file_input import FileInput, FilePart, holds_pixels
from stable_async.api.file_limits import FileHead
from stable_async.api.verdict import Asked
from stable_async.arguments import unknown_word
from stable_async.errors import FieldProblem, InvalidRequestError
from stable_async.media import Image, Media
from stable_async.wording import as_given

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails, InitErrorDetails

    from stable_async.api.answers import Answer

__all__ = [
    "MAX_REQUEST_BYTES",
    "FieldLimits",
    "ImageRequest",
    "MediaRequest",
    "Operation",
    "PathPart",
    "Request",
    "ResultRequest",
    "WholeRequest",
    "limits_of",
    "stable_image",
]

ResultT = TypeVar("ResultT", covariant=True)
MediaT = TypeVar("MediaT", bound=Media, covariant=True)

MIB = 1024 * 1024
RULE = "broken_rule"
COERCED = frozenset((bool, bytes, bytearray, memoryview))

# Ids are 64 characters today.
MAX_ID = 1000

# OpenAPI document of api.stability.ai, read 2026-09-22: "payloads cannot be larger than 10MiB".
MAX_REQUEST_BYTES = 10 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of the API.

    Attributes:
        id: The operation's name in the facts, `group_operation`.
        path: Path below the base URL; `{name}` stands for the field of that name.
        credits: List price, credits; `None` where no source states one, or a field decides.
        output: What it returns, in words.
        method: HTTP method; with GET there is no body.
        body: How the body is encoded.
        accept: What the `accept` header may say, the default first; empty where the API declares
            none.
        max_bytes: The largest request body, bytes.
        result: The request for the result, where the operation itself answers with an id only.
        organization: Whether the `Organization` header applies.
    """

    id: str
    path: str
    credits: float | None
    output: str
    method: Literal["GET", "POST"] = "POST"
    body: Literal["multipart", "json"] = "multipart"
    accept: tuple[str, ...] = ("image/*", "application/json")
    max_bytes: int = MAX_REQUEST_BYTES
    result: type[ResultRequest[Media]] | None = None
    organization: bool = False


def stable_image(
    id: str,  # noqa: A002 - the API's word
    credits: float | None,  # noqa: A002 - the API's word
    output: str,
    *,
    result: type[ResultRequest[Media]] | None = None,
) -> Operation:
    """Return an operation of Stable Image, whose path consists of the words of its id.

    With `result` it is asynchronous: it answers with an id, and declares no `accept` header.
    """
    group, _, name = id.partition("_")
    path = f"/v2beta/stable-image/{group}/{name.replace('_', '-')}"
    accept = ("image/*", "application/json") if result is None else ()
    return Operation(id=id, path=path, credits=credits, output=output, accept=accept, result=result)


@dataclass(frozen=True, slots=True)
class PathPart:
    """Marks a field that goes into the path of the URL.

    Attributes:
        any_text: Whether any text is allowed and percent-encoded, as for an id that the API has
            made. Otherwise 1 to 128 letters, digits, `.`, `_` and `-`.
    """

    any_text: bool = False

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Reject a value that could lead to another path."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: str) -> str:
        if self.any_text:
            if (
                0 < len(value) <= MAX_ID
                and value.strip() not in {"", ".", ".."}
                and _encodes(value)
            ):
                return value
            raise PydanticCustomError("path_part", f"1 to {MAX_ID} characters, and not only dots")
        if re.fullmatch(r"(?!\.)[A-Za-z0-9._-]{1,128}", value):
            return value
        raise PydanticCustomError(
            "path_part", "1 to 128 letters, digits, dots, underscores or hyphens"
        )


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


class Request(BaseModel, Generic[ResultT]):
    """A request that can be sent any number of times: `await client.send(request)`.

    One field per field of the API, with the API's name and limits. `None` means "not given": the
    field is left out and the API's own default holds.

    Attributes:
        asked: What it asks for: something that costs (`submit`), or something that is free.

    Raises:
        InvalidRequestError: A field or a rule between fields is broken; every problem is listed.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    asked: ClassVar[Asked] = "submit"
    file_parts: ClassVar[Mapping[str, FilePart]] = {}
    path_fields: ClassVar[frozenset[str]] = frozenset()
    body_fields: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        """Record once per class which fields are files, and which go into the path."""
        marked = [
            (name, mark) for name, field in cls.model_fields.items() for mark in field.metadata
        ]
        cls.file_parts = {name: mark for name, mark in marked if isinstance(mark, FilePart)}
        cls.path_fields = frozenset(name for name, mark in marked if isinstance(mark, PathPart))
        elsewhere = cls.file_parts.keys() | cls.path_fields
        cls.body_fields = tuple(name for name in cls.model_fields if name not in elsewhere)

    @property
    def operation(self) -> Operation:
        """The operation this request goes to."""
        raise NotImplementedError

    if not TYPE_CHECKING:  # so that type checkers see one parameter per field

        def __init__(self, /, **fields: object) -> None:
            """Check the fields; `model_validate` raises pydantic's `ValidationError` instead."""
            for name in self.file_parts:
                # Only text that a program passes becomes a path: see `FilePart`.
                if isinstance(value := fields.get(name), str):
                    fields[name] = Path(value)
            try:
                super().__init__(**fields)
            except PydanticValidationError as error:
                problems = [_problem(type(self), detail) for detail in error.errors()]
                raise InvalidRequestError(type(self).__name__, problems) from None

        # Without this, pydantic would call `__init__` for data as well, and not get its own errors.
        __init__.__pydantic_base_init__ = True

    def __eq__(self, other: object) -> bool:
        """Compare field by field; arrays and Pillow images only by identity.

        Comparing two arrays yields an array, and comparing two images reads every pixel.
        """
        if self is other:
            return True
        if type(self) is not type(other):
            return NotImplemented
        mine, theirs = self.__dict__, other.__dict__
        return all(
            value is theirs[name] or (not holds_pixels(value) and bool(value == theirs[name]))
            for name, value in mine.items()
        )

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, data: object, check_fields: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse what pydantic would coerce, and check the rules between fields."""
        problems: list[FieldProblem] = []
        if isinstance(data, dict) and not COERCED.isdisjoint(map(type, data.values())):
            problems += cls._coerced(data)
        if not problems:
            request = check_fields(data)
            problems += request.broken_rules()
            if not problems:
                return request
        raise PydanticValidationError.from_exception_data(
            cls.__name__, [_rule_error(problem) for problem in problems]
        )

    @classmethod
    def _coerced(cls, data: Mapping[str, object]) -> Iterator[FieldProblem]:
        """Yield bytes and bools, which pydantic would turn into text and numbers."""
        for name, value in data.items():
            field = cls.model_fields.get(name)
            if value.__class__ in COERCED and field is not None and name not in cls.file_parts:
                allowed = "a number" if _counts(field) else "text"
                yield FieldProblem(name, _given(name, value), allowed)

    def broken_rules(self) -> Iterator[FieldProblem]:
        """Yield the rules between fields that this request breaks."""
        yield from ()

    def broken_file_rules(self, heads: Mapping[str, FileHead]) -> Iterator[FieldProblem]:
        """Yield what is wrong with the files of this request, judged by their first bytes.

        Raises:
            EOFError: More than these bytes are needed.
        """
        for name, head in heads.items():
            limits = self.file_parts[name].image
            if limits is not None and (problem := limits.problem(name, head)):
                yield problem

    @property
    def credits(self) -> float | None:
        """List price, credits (1 credit is 0.01 US dollar); `None` where no source states one."""
        return self.operation.credits

    @property
    def path(self) -> str:
        """Path below the base URL."""
        if not self.path_fields:
            return self.operation.path
        return self.operation.path.format(
            **{name: quote(getattr(self, name), safe="") for name in self.path_fields}
        )

    def fields(self) -> dict[str, object]:
        """Return the given fields of the body that are not files, by name."""
        given = {}
        for name in self.body_fields:
            if (value := getattr(self, name)) is not None:
                given[name] = value
        return given

    def texts(self) -> list[tuple[str, str]]:
        """Return the text parts of a multipart body, in the order of the API."""
        texts = []
        for name, value in self.fields().items():
            match value:
                case str() | int():
                    texts.append((name, str(value)))
                case [*items]:
                    for index, item in enumerate(items):
                        for key, part in cast("Mapping[str, object]", item).items():
                            texts.append((f"{name}[{index}][{key}]", _text(part)))
                case _:
                    texts.append((name, _text(value)))
        return texts

    def json_body(self) -> bytes:
        """Return the body where it is JSON."""
        return json.dumps(self.fields()).encode()

    def files(self) -> Iterator[tuple[str, FileInput]]:
        """Yield name and source of every file that was given."""
        for name in self.file_parts:
            if (value := getattr(self, name)) is not None:
                yield name, value


class WholeRequest(Request[ResultT]):
    """A request whose answer is read whole, since it is small or has several parts."""

    def read(self, answer: Answer) -> ResultT:
        """Return the result that a successful answer holds.

        Raises:
            InvalidResponseError: The answer is not what this operation returns.
        """
        raise NotImplementedError


class MediaRequest(Request[MediaT]):
    """A request that is answered with one image, audio or model, as bytes or as base64.

    Attributes:
        media: The kind of its result.
        priced: Whether sources state what it costs.
        one_of: Fields of which each request needs one; empty where there are none.
    """

    media: ClassVar[type[Media]]
    priced: ClassVar[bool] = True
    one_of: ClassVar[tuple[str, ...]] = ()


class ImageRequest(MediaRequest[Image]):
    """A request that is answered with one image."""

    media: ClassVar[type[Media]] = Image


class ResultRequest(MediaRequest[MediaT]):
    """Asks for the result of a generation that was submitted before. Free, any number of times.

    `StabilityClient.submit` returns it: keep it, or its `id` alone, to fetch the result from
    wherever the same key is used.

    Attributes:
        asked: A look: the generation was paid for when it was submitted.
        id: The generation: any text, as the API returned it.
        paid: List price of the submission, credits, where it is known; not sent.
    """

    asked: ClassVar[Asked] = "look"

    id: Annotated[str, PathPart(any_text=True)]
    paid: float | None = None


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Mapping):
        return json.dumps(value)
    return str(value)


def _given(field: str, value: object) -> str:
    """Describe a value without quoting what is long or may be private."""
    if isinstance(value, str) and (len(value) > 60 or "prompt" in field):
        return f"given {len(value)} characters"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"given {len(value)} bytes"
    if isinstance(value, (list, tuple)):
        return f"given {len(value)} items"
    if isinstance(value, (str, int, float, bool, type(None))):
        return f"given {as_given(value)}"
    return f"given a value of type {type(value).__name__}"


@dataclass(slots=True)
class FieldLimits:
    """The bounds of a field's value and length, wherever its annotation states them."""

    low: float | None = None
    high: float | None = None
    step: float | None = None
    shortest: int | None = None
    longest: int | None = None


def limits_of(field: FieldInfo) -> FieldLimits:
    """Return the limits that the type of a field states."""
    limits = FieldLimits()
    pending: list[object] = [*field.metadata, field.annotation]
    while pending:
        item = pending.pop()
        match item:
            case Ge(ge=float() | int() as bound):
                limits.low = bound
            case Le(le=float() | int() as bound):
                limits.high = bound
            case MultipleOf(multiple_of=float() | int() as step):
                limits.step = step
            case MinLen(min_length=length):
                limits.shortest = length
            case MaxLen(max_length=length):
                limits.longest = length
            case _:
                pending.extend(getattr(item, "metadata", ()))
                pending.extend(getattr(item, "__metadata__", ()))
                pending.extend(getattr(item, "__args__", ()))
    return limits


def _allowed(field: FieldInfo, detail: ErrorDetails) -> str:
    """Return what a field accepts, in words."""
    kind, limits, context = detail["type"], limits_of(field), detail.get("ctx", {})
    if kind == "literal_error":
        return str(context["expected"])
    if kind == "too_short":
        return f"{context['min_length']} or more items"
    if kind == "string_unicode":
        return "text without lone surrogates"
    if kind.startswith("string") and limits.longest is not None:
        return f"{limits.shortest or 0} to {limits.longest} characters"
    if kind == "string_too_long":
        return f"up to {context['max_length']} characters"
    if limits.low is not None:
        number = "a whole number" if int in _types(field.annotation) else "a number"
        multiple = f", a multiple of {limits.step:g}" if limits.step else ""
        if limits.high is None:
            return f"{number}, {limits.low} or more{multiple}"
        return f"{number} from {limits.low} to {limits.high}{multiple}"
    return detail["msg"]


def _needed(model: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """Return what the required field at `place` accepts, in words."""
    if len(place) > 1:
        return "text"  # of a weighted prompt
    name = str(place[0])
    field = model.model_fields[name]
    if choices := [one for one in _types(field.annotation) if isinstance(one, str)]:
        return ", ".join(choices)
    if issubclass(model, Request) and name in model.file_parts:
        return "a file"
    longest = limits_of(field).longest
    return "text" if longest is None else f"text of up to {longest} characters"


def _counts(field: FieldInfo) -> bool:
    return not {int, float}.isdisjoint(_types(field.annotation))


def _types(annotation: object) -> Iterator[object]:
    yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _types(argument)


def _rule_error(problem: FieldProblem) -> InitErrorDetails:
    template = "{given}; allowed: {allowed}" if problem.given else "allowed: {allowed}"
    context = {"given": problem.given, "allowed": problem.allowed}
    return {
        "type": PydanticCustomError(RULE, template, context),
        "loc": (problem.field,) if problem.field else (),
        "input": None,
    }


def _fields_at(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Return the names that are known at `place`: in the request, or in a dictionary within it."""
    if len(place) == 1:
        return list(model.model_fields)
    kinds: list[object] = [model.model_fields[str(place[0])].annotation]
    for kind in kinds:  # grows
        if is_typeddict(kind):
            return list(get_annotations(cast("type", kind)))
        kinds += get_args(kind)
    return []


def _problem(model: type[BaseModel], detail: ErrorDetails) -> FieldProblem:
    name = ".".join(map(str, detail["loc"]))
    top = str(detail["loc"][0]) if detail["loc"] else ""
    if detail["type"] == RULE:
        return FieldProblem(name, detail["ctx"]["given"], detail["ctx"]["allowed"])
    if detail["type"] == "extra_forbidden":
        fields = _fields_at(model, detail["loc"])
        return FieldProblem(name, unknown_word(str(detail["loc"][-1]), fields), ", ".join(fields))
    field = model.model_fields.get(top)
    if detail["type"] == "missing":
        return FieldProblem(name, "required, not given", _needed(model, detail["loc"]))
    if field is None:
        return FieldProblem(name, _given(name, detail["input"]), detail["msg"])
    return FieldProblem(name, _given(name, detail["input"]), _allowed(field, detail))
