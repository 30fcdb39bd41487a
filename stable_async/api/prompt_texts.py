"""Prompts that the API takes, and charges for, although they say nothing. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stable_async.api.texts import is_blank
from stable_async.errors import FieldProblem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stable_async.api.base import MediaRequest
    from stable_async.media import Media

__all__ = ["NEEDED_PROMPTS", "prompt_problem"]

# The prompts that services require.
NEEDED_PROMPTS = ("prompt", "search_prompt", "select_prompt")
# Fields that say what is made. Blank, they buy an arbitrary result.
NAMES = (*NEEDED_PROMPTS, "background_prompt")


def prompt_problem(
    model: type[MediaRequest[Media]], fields: Mapping[str, object]
) -> FieldProblem | None:
    """Return the problem of a prompt that is blank or has a NUL character.

    An empty text counts as not given if the field is not required.
    """
    for name in NAMES:
        text = fields.get(name)
        if not isinstance(text, str) or (not text and not _is_required(model, name)):
            continue
        if is_blank(text):
            return FieldProblem(name, "given blank text", "text that is not blank")
        if "\0" in text:
            return FieldProblem(name, "given text with a NUL character", "text without one")
    return None


def _is_required(model: type[MediaRequest[Media]], name: str) -> bool:
    return name in model.model_fields and model.model_fields[name].is_required()
