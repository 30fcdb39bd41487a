"""How each fact is known: documented, seen, or assumed."""

from __future__ import annotations

import functools
from datetime import date  # noqa: TC003 - pydantic reads the annotation
from fnmatch import fnmatchcase
from importlib import resources
from typing import ClassVar, Literal

import yaml
from pydantic import BaseModel, ConfigDict

__all__ = ["Evidence", "load_evidence"]

Known = Literal["documented", "seen", "assumed"]


class _Strict(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


class _Seen(_Strict):
    claim: str
    when: date


class _Assumed(_Strict):
    claim: str
    why: str


class Evidence(_Strict):
    """The evidence for claims that are not simply documented."""

    assumed: tuple[_Assumed, ...]
    seen: tuple[_Seen, ...]

    def known(self, claim: str) -> Known:
        """Return how a claim is known."""
        if any(fnmatchcase(claim, mark.claim) for mark in self.assumed):
            return "assumed"
        if any(fnmatchcase(claim, mark.claim) for mark in self.seen):
            return "seen"
        return "documented"


@functools.cache
def load_evidence() -> Evidence:
    """Return the evidence for the package's own facts."""
    text = resources.files(__package__).joinpath("evidence.yaml").read_bytes()
    return Evidence.model_validate(yaml.safe_load(text))
