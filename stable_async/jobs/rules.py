"""How rows of a prompt file become requests: expanded, checked, completed."""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from hashlib import blake2b
from itertools import product
from typing import TYPE_CHECKING, cast

from stable_async.api.base import limits_of
from stable_async.api.fields import MAX_SEED
from stable_async.api.file_limits import FileHead
from stable_async.api.prompt_texts import prompt_problem
from stable_async.api.services import SERVICES, UNPRICED, service_name
from stable_async.api.texts import clean
from stable_async.arguments import (
    UnfitError,
    at_least,
    checked_arguments,
    checked_setting,
    flag,
    instance,
    non_negative,
    or_none,
    text,
)
from stable_async.errors import InvalidRequestError
from stable_async.jobs.columns import NUMBERS
from stable_async.jobs.errors import RowProblem
from stable_async.jobs.kinds import kind_of_service
from stable_async.jobs.row import MAX_ID, Row, derive_seed, to_json
from stable_async.jobs.shard import WHOLE, Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from stable_async.api.base import MediaRequest
    from stable_async.jobs.ledger import Ledger
    from stable_async.media import Media

__all__ = ["Checker", "PromptRules", "check", "make_request"]

# Enough to show the size of nearly every image; more is read where it is not.
HEAD_SIZE = 4096
# How nearly all numbers are written.
PLAIN = re.compile(r"0|[1-9][0-9]*")
ALLOWED_SERVICES = f"allowed: {', '.join(SERVICES)}"
# Maximum shapes in memory; beyond that the cache is emptied and starts again.
MOST_SHAPES = 1_000
SEED_DIGITS = len(str(MAX_SEED))


def _part(value: object) -> Shard:
    if isinstance(value, Shard):
        return value
    if isinstance(value, str):
        return Shard.parse(value)
    raise UnfitError("I/N, such as '1/4', or a Shard")


def _values(value: object) -> Collection[object]:
    # The values of a string are its characters, and each would be bought.
    if isinstance(value, str) or not isinstance(value, Collection) or not len(value):
        raise UnfitError("a list of values")
    return value


# mypy takes no abstract class for a class.
_mapping = instance(Mapping, "a mapping with fields of the API as keys")  # type: ignore[type-abstract]

_RULES: dict[str, Callable[[object], object]] = {
    "service": text,
    "set": _mapping,
    "vary": _mapping,
    "limit": or_none(at_least(1)),
    "sample": or_none(at_least(1)),
    "allow_duplicates": flag,
    "shard": _part,
    "price": or_none(non_negative),
}


@checked_arguments(_RULES)
@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRules:
    """How rows become images.

    Attributes:
        service: The service of rows that name none.
        set: Values that replace those of every row.
        vary: Values that every row is made with, once each; several fields make all combinations.
        limit: Make only this many images from the start of the file; `None` means all.
        sample: Make only this many images, spread over the file; `None` means all.
        allow_duplicates: Make the same request with the same seed as often as it occurs; otherwise
            it is made once.
        shard: Make only this part of them, such as `1/4`; positions and names are those of the
            whole file.
        price: Credits to count for a row whose price no source states.
    """

    service: str = "core"
    set: Mapping[str, str] = field(default_factory=dict)
    vary: Mapping[str, Sequence[str]] = field(default_factory=dict)
    limit: int | None = None
    sample: int | None = None
    allow_duplicates: bool = False
    shard: Shard = WHOLE
    price: float | None = None

    def __post_init__(self) -> None:
        """Reject texts for lists of values."""
        for name, values in self.vary.items():
            checked_setting(f"vary: {name}", values, _values)

    @property
    def are_whole(self) -> bool:
        """Whether all rows of the file become images, and not only the first or a sample."""
        return self.limit is None and self.sample is None

    def problems(self) -> Iterator[RowProblem]:
        """Return the problems of the rules themselves."""
        if service_name(self.service) not in SERVICES:
            yield RowProblem(0, f"service is {self.service!r}; {ALLOWED_SERVICES}")
        if both := sorted(self.set.keys() & self.vary.keys()):
            yield RowProblem(0, f"{', '.join(both)}: both set and varied")

    def price_problem(self, service: str) -> RowProblem | None:
        """Return the problem of a service whose price is not known."""
        if self.price is not None or service_name(service) not in UNPRICED:
            return None
        return RowProblem(
            0,
            f"{service}: no source states its price; --price CREDITS says what to count for each "
            "row in budget and bill",
        )

    def reprice(self, ledger: Ledger, before: float | None) -> None:
        """Count this price for rows of a ledger that were read with the one `before`."""
        if self.price is not None and self.price != before:
            ledger.reprice(UNPRICED, self.price)

    def expand(self, row: Row) -> list[Row | RowProblem]:
        """Return one row for each image that a row of the file asks for."""
        fields = {**row.fields, **self.set}
        given_id = fields.pop("id", None)
        if isinstance(given_id, float) and given_id.is_integer():
            given_id = int(given_id)  # pandas has such numbers where one is missing
        service, problem = _service_of(str(fields.pop("service", self.service)), self.service)
        if problem is None and given_id is not None:
            problem = _id_problem(given_id)
        if problem is not None:
            return [RowProblem(row.number, problem)]
        identity = "" if given_id is None else str(given_id)
        model = SERVICES[service].model
        found: list[Row | RowProblem] = []
        try:
            if row.metadata:
                to_json(row.metadata).encode()
            for values in product(*self.vary.values()):
                own_fields, own_id = fields, identity
                if values:
                    variant = dict(zip(self.vary, values, strict=True))
                    choice = ",".join(f"{name}={value}" for name, value in variant.items())
                    own_fields, own_id = {**fields, **variant}, identity and f"{identity}[{choice}]"
                own_id.encode()
                if isinstance(prompts := own_fields.get("text_prompts"), str):
                    own_fields["text_prompts"] = _parsed(prompts)
                if blank := prompt_problem(model, own_fields):
                    found.append(RowProblem(row.number, str(blank)))
                    continue
                content = _digest(service, own_fields)
                found.append(Row(row.number, own_fields, row.metadata, service, own_id, content))
        except ValueError as error:
            unreadable = isinstance(error, UnicodeEncodeError)
            what = "not valid UTF-8" if unreadable else _infinite(row.metadata)
            found.append(RowProblem(row.number, what))
        return found


def check(row: Row, folder: Path, price: float | None = None) -> list[RowProblem]:
    """Check a row, and fill in its fields in the API's form, its seed and its price.

    Args:
        row: From `PromptRules.expand`; left unchanged if it has problems.
        folder: The folder that input files are relative to.
        price: Credits to count where no source states the price.

    Returns:
        All problems of the row.
    """
    file_fields = [name for name in SERVICES[row.service].model.file_parts if name in row.fields]
    has_files = bool(file_fields)
    problems = list(_missing_files(row, folder)) if has_files else []
    try:
        request = make_request(row.service, row.fields, folder)
        if has_files and not problems:
            problems += map(str, _unfit_files(request))
    except InvalidRequestError as error:
        problems += map(str, error.problems)
    if problems:
        files = clean(", ".join(str(row.fields[name]) for name in file_fields))
        return [RowProblem(row.number, problem, files) for problem in problems]
    row.fields = {
        name: row.fields[name] if name in request.file_parts else value
        for name in row.fields
        if name != "seed" and (value := getattr(request, name)) is not None
    }
    if "seed" in type(request).model_fields:
        given = getattr(request, "seed", None)
        row.seed = given or derive_seed(row.id, row.copy, row.remake)
    row.price = price if request.credits is None else request.credits
    return []


@dataclass(frozen=True, slots=True)
class _Shape:
    """What rows have in common that differ only in prompts and seeds.

    Attributes:
        fields: As the API takes them, in the order of the row; the prompts are those of one row.
        texts: Names of the fields to be replaced by those of each row.
        price: Credits; `None` where no source states them.
        has_seed: Whether the service takes a seed.
    """

    fields: dict[str, object]
    texts: tuple[str, ...]
    price: float | None
    has_seed: bool


class Checker:
    """Checks the rows of a job as `check` does, and completes them. Each shape is checked once."""

    def __init__(self, rules: PromptRules, *, needs_prices: bool) -> None:
        """Start without shapes; `needs_prices` refuses rows whose price is not known."""
        self._rules = rules
        self._needs_prices = needs_prices
        self._shapes: dict[tuple[object, ...], _Shape] = {}

    def check(self, row: Row, folder: Path) -> list[RowProblem]:
        """Check a row that `PromptRules.expand` returned, and complete it unless it has problems.

        Returns:
            All problems of the row.
        """
        fields, free = row.fields, _free_fields(row.service)
        key: list[object] = [row.service]
        seed = 0
        for name, value in fields.items():
            if (allowed := free.get(name)) is None or value is None:
                key += (name, value.__class__, value)  # True equals 1, and is not a number
                continue
            if name == "seed":
                size = seed = _plain_seed(value)
            else:
                size = len(value) if isinstance(value, str) else -1
            if size not in allowed:
                return self._check_alone(row, folder)
            key.append(name)
        try:
            shape = self._shapes.get(shared := tuple(key))
        except TypeError:  # a list, say
            return self._check_alone(row, folder)
        if shape is None:
            return self._learn(row, folder, shared)
        row.fields = shape.fields.copy()
        for name in shape.texts:
            row.fields[name] = fields[name]
        if shape.has_seed:
            row.seed = seed or derive_seed(row.id, row.copy, row.remake)
        row.price = shape.price
        return []

    def _check_alone(self, row: Row, folder: Path) -> list[RowProblem]:
        unknown = self._rules.price_problem(row.service) if self._needs_prices else None
        if unknown is not None:
            return [replace(unknown, row=row.number)]
        return check(row, folder, self._rules.price)

    def _learn(self, row: Row, folder: Path, shared: tuple[object, ...]) -> list[RowProblem]:
        model = SERVICES[row.service].model
        has_files = not model.file_parts.keys().isdisjoint(row.fields)
        problems = self._check_alone(row, folder)
        if not problems and not has_files:  # every file must be checked
            if len(self._shapes) == MOST_SHAPES:
                self._shapes.clear()
            texts = tuple(name for name in _free_fields(row.service) if name in row.fields)
            has_seed = "seed" in model.model_fields
            self._shapes[shared] = _Shape(row.fields, texts, row.price, has_seed)
        return problems


@cache
def _free_fields(service: str) -> Mapping[str, range]:
    """Return the allowed lengths of the text fields of a service, and its seeds, by field.

    No rule between fields reads them.
    """
    found: dict[str, range] = {}
    for name, info in SERVICES[service].model.model_fields.items():
        limits = limits_of(info)
        if name == "seed":
            found[name] = range(MAX_SEED + 1)
        elif name.endswith("prompt") and limits.longest is not None:
            found[name] = range(limits.shortest or 0, limits.longest + 1)
    return found


def _plain_seed(value: object) -> int:
    """Return a seed; -1 for a value that the model decides about."""
    if isinstance(value, str):
        plain = value.isdecimal() and value.isascii() and value[0] != "0"
        return int(value) if plain and len(value) <= SEED_DIGITS else -1
    return value if type(value) is int else -1


def make_request(service: str, fields: Mapping[str, object], folder: Path) -> MediaRequest[Media]:
    """Return the request of a row, whose files are paths relative to `folder`.

    Raises:
        InvalidRequestError: A rule of the API is broken.
    """
    model = SERVICES[service].model
    given = dict(fields)
    for name in model.file_parts:
        if isinstance(path := given.get(name), str):
            given[name] = folder / path
    return model(**given)


@lru_cache
def _service_of(given: str, service: str) -> tuple[str, str | None]:
    """Return the name of a row's service in a job of another, and what is wrong with it."""
    name = service_name(given)
    if name not in SERVICES:
        return name, f"service: given {given!r}; {ALLOWED_SERVICES}"
    if (kind := kind_of_service(name)) is not (wanted := kind_of_service(service)):
        what = f"service: {name} makes {kind.many}, and this job makes {wanted.many}"
        return name, f"{what}; name a service for all rows with --service"
    return name, None


def _missing_files(row: Row, folder: Path) -> Iterator[str]:
    for name in SERVICES[row.service].model.file_parts:
        value = row.fields.get(name)
        if value is None:
            continue
        if not isinstance(value, str) or "\0" in value:
            yield f"{name}: given {reprlib.repr(value)}; allowed: the path of a file"
        elif "://" in value:
            yield f"{name}: given {reprlib.repr(value)}; allowed: the path of a downloaded file"
        elif not os.path.isfile(folder / value):  # noqa: PTH113 - also of what cannot be named
            yield f"{name}: no such file: {folder / value}"


def _unfit_files(request: MediaRequest[Media]) -> Iterator[object]:
    """Return the problems of the images of a request, judged by their headers only."""
    heads: dict[str, FileHead] = {}
    size = HEAD_SIZE
    while True:
        try:
            for name, path in request.files():
                heads[name] = _head(cast("Path", path), size)
            yield from request.broken_file_rules(heads)
            total = sum(head.size or 0 for head in heads.values())
            if total > request.operation.max_bytes:
                yield f"{total:,} bytes of files; allowed: up to {request.operation.max_bytes:,}"
            return
        except EOFError:
            size *= 16
        except OSError as error:
            yield error
            return


def _head(path: Path, size: int) -> FileHead:
    with path.open("rb") as file:
        whole = os.fstat(file.fileno()).st_size
        return FileHead(file.read(size), whole <= size, whole)


def _digest(service: str, fields: Mapping[str, object]) -> bytes:
    parts = [service]
    for name in sorted(fields):
        value = fields[name]
        if value is None:
            continue
        text = value if isinstance(value, str) else _wire_text(value)
        if name in NUMBERS and not PLAIN.fullmatch(text):
            text = _plain(text)
        if name != "seed" or text != "0":  # 0 is the same as no seed
            parts += (name, text)
    return blake2b("\x1f".join(parts).encode(), digest_size=16).digest()


def _parsed(text: str) -> object:
    """Return the value of JSON text, which a cell of a table may have; other text unchanged."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _plain(text: str) -> str:
    """Return a number as JSON has it.

    Programs that read a table and save it write `7.0` for `7`, and it is the same row.
    """
    try:
        return _wire_text(float(text))
    except ValueError:
        return text


def _wire_text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return to_json(value)
    return str(value)


def _infinite(metadata: Mapping[str, object]) -> str:
    """Return the problem of metadata with a number that JSON does not have."""
    for name, value in metadata.items():
        try:
            to_json(value)
        except ValueError as error:
            if not isinstance(error, UnicodeEncodeError):
                return (
                    f"{name}: given {reprlib.repr(value)}, not a finite number; allowed: what JSON "
                    "has, or leave the column out with --drop"
                )
    return "metadata: not JSON"


def _id_problem(value: object) -> str | None:
    text = str(value) if isinstance(value, str | int) else ""
    if text and len(text) <= MAX_ID and text.isprintable() and not isinstance(value, bool):
        return None
    return (
        f"id: given {reprlib.repr(value)}; allowed: 1 to {MAX_ID} characters that can be printed, "
        "or a whole number"
    )
