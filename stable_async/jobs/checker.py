"""Rows checked in bulk: what rows that differ only in texts and seeds share is checked once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, cast

from stable_async.api.base import limits_of
from stable_async.api.fields import MAX_SEED
from stable_async.api.services import SERVICES
from stable_async.jobs.row import derive_seed
from stable_async.jobs.rules import check

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stable_async.jobs.errors import RowProblem
    from stable_async.jobs.row import Row

__all__ = ["Checker"]

# Maximum shapes in memory; beyond that the cache is emptied and starts again.
MOST_SHAPES = 1_000
SEED_DIGITS = len(str(MAX_SEED))


@dataclass(frozen=True, slots=True)
class _Text:
    """The limits of a text that no rule between fields reads."""

    shortest: int
    longest: int

    def takes(self, value: object) -> bool:
        """Return whether a value is certainly valid."""
        return isinstance(value, str) and self.shortest <= len(value) <= self.longest


class _Seed:
    """A seed, which no rule between fields reads."""

    def takes(self, value: object) -> bool:
        """Return whether a value is certainly valid; the model decides about all others."""
        if isinstance(value, str):
            plain = value.isdecimal() and value.isascii() and value[0] != "0"
            return plain and len(value) <= SEED_DIGITS and int(value) <= MAX_SEED
        return type(value) is int and 0 <= value <= MAX_SEED


@dataclass(frozen=True, slots=True)
class _Shape:
    """What rows have in common.

    Attributes:
        fields: As the API takes them, in the order of the row; the texts are those of one row.
        texts: Names of the fields to be replaced by those of each row.
        price: Credits; `None` where no source states them.
        has_seed: Whether the service takes a seed.
    """

    fields: dict[str, object]
    texts: tuple[str, ...]
    price: float | None
    has_seed: bool


class Checker:
    """Checks the rows of a job as `rules.check` does, and fills them in."""

    def __init__(self, price: float | None = None) -> None:
        """Start without shapes; `price` is counted where no source states one, credits."""
        self._price = price
        self._shapes: dict[tuple[object, ...], _Shape] = {}

    def check(self, row: Row, folder: Path) -> list[RowProblem]:
        """Check a row that `PromptRules.expand` returned, and fill it in unless it has problems.

        Returns:
            All problems of the row.
        """
        fields, free = row.fields, _free_fields(row.service)
        key: list[object] = [row.service]
        for name, value in fields.items():
            if (limits := free.get(name)) is None or value is None:
                key += (name, value.__class__, value)  # True equals 1, and is no number
            elif limits.takes(value):
                key.append(name)
            else:
                return check(row, folder, self._price)
        try:
            shape = self._shapes.get(shared := tuple(key))
        except TypeError:  # a list, say
            return check(row, folder, self._price)
        if shape is None:
            return self._learn(row, folder, shared)
        row.fields = shape.fields.copy()
        for name in shape.texts:
            row.fields[name] = fields[name]
        if shape.has_seed:
            given = int(cast("int | str", fields.get("seed") or 0))
            row.seed = given or derive_seed(row.id, row.copy, row.remake)
        row.price = shape.price
        return []

    def _learn(self, row: Row, folder: Path, shared: tuple[object, ...]) -> list[RowProblem]:
        model = SERVICES[row.service].model
        has_files = not model.file_parts.keys().isdisjoint(row.fields)
        problems = check(row, folder, self._price)
        if not problems and not has_files:  # every file must be checked
            if len(self._shapes) == MOST_SHAPES:
                self._shapes.clear()
            texts = tuple(name for name in _free_fields(row.service) if name in row.fields)
            has_seed = "seed" in model.model_fields
            self._shapes[shared] = _Shape(row.fields, texts, row.price, has_seed)
        return problems


@cache
def _free_fields(service: str) -> Mapping[str, _Text | _Seed]:
    """Return the limits of the seed and the texts of a service, by field."""
    found: dict[str, _Text | _Seed] = {}
    for name, info in SERVICES[service].model.model_fields.items():
        limits = limits_of(info)
        if name == "seed":
            found[name] = _Seed()
        elif name.endswith("prompt") and limits.longest is not None:
            found[name] = _Text(limits.shortest or 0, limits.longest)
    return found
