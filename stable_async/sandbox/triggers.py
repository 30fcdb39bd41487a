"""Trigger words that make the sandbox refuse, filter or fail a request like the real service.

A word counts anywhere in a prompt (not in a negative one), or in the name of an uploaded file,
in any case, with `:` or `-` after `sandbox`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from stable_async.sandbox.refusals import RefusalError

if TYPE_CHECKING:
    from stable_async.sandbox.spec.facts import Operation
    from stable_async.sandbox.spec.fields import Parameters

__all__ = ["TRIGGERS", "moderate", "triggered"]

TRIGGERS = {
    "moderated": "403 content_moderation, not charged",
    "filtered": "200 with finish reason CONTENT_FILTERED and a blurred image, charged",
    "language": "422 invalid_language, not charged",
    "public-figure": "422 public_figure, not charged (images)",
    "copyrighted": "422 copyrighted_content, not charged (audio)",
    "error": "500 internal_error, not charged",
    "drop": "the image is made and charged, and the connection cut before the answer",
}

WORD = re.compile(rf"\bsandbox[:-]({'|'.join(TRIGGERS)})\b", re.IGNORECASE)


def triggered(parameters: Parameters) -> set[str]:
    """Return the trigger words of a request, without their `sandbox:`."""
    texts = [
        value if isinstance(value, str) else value.filename
        for name, value in parameters.given.items()
        if not isinstance(value, int | float) and name != "negative_prompt"
    ]
    texts += [prompt.text for prompt in parameters.prompts if prompt.weight > 0]
    return {word.lower() for text in texts for word in WORD.findall(text)}


def moderate(operation: Operation, words: set[str]) -> None:
    """Refuse prompts with trigger words that ask for it."""
    if operation.api == "v1":
        if "moderated" in words:
            text = "One of the prompts contains filtered words."
            raise RefusalError(400, text, name="invalid_prompts")
        return
    audio = operation.id.startswith("stable_audio")
    if "moderated" in words:
        raise RefusalError(403)
    for word, name, applies in (
        ("language", "invalid_language", True),
        ("public-figure", "public_figure", not audio),
        ("copyrighted", "copyrighted_content", audio),
    ):
        if word in words and applies:
            raise RefusalError(422, name=name)
