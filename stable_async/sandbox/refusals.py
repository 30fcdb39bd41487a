"""What the API says no with: statuses, names, texts and the two shapes of error bodies."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from stable_async.sandbox.spec.facts import load_facts

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RefusalError", "refusal"]


class RefusalError(Exception):
    """An error answer.

    Attributes:
        status: HTTP status.
        name: The API's name of the error.
        messages: What is wrong; v2 sends them as a list, v1 as one text.
        error_id: The body's `id`, where it is a documented text and not a drawn one.
        retry_after: Seconds for a `Retry-After` header. The API documents none.
    """

    def __init__(
        self,
        status: int,
        name: str,
        messages: Sequence[str],
        *,
        error_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Take the parts of the answer."""
        super().__init__(status, name, tuple(messages))
        self.status = status
        self.name = name
        self.messages = tuple(messages)
        self.error_id = error_id
        self.retry_after = retry_after

    def body(self, api: str, drawn_id: str) -> dict[str, object]:
        """Give the JSON body in the shape of `api`, `v1` or `v2`."""
        error_id = self.error_id or drawn_id
        if api == "v1":
            return {"id": error_id, "name": self.name, "message": "; ".join(self.messages)}
        return {"id": error_id, "name": self.name, "errors": list(self.messages)}


def refusal(
    status: int, api: str, *messages: str, name: str | None = None, retry_after: float | None = None
) -> RefusalError:
    """Give an error answer with the documented name and text of `status`, unless told otherwise."""
    documented = load_facts().errors.get((status, api), ())
    fact = next((fact for fact in documented if name in {None, fact.name}), None)
    if name is None:
        name = fact.name if fact else HTTPStatus(status).phrase.lower().replace(" ", "_")
    if not messages:
        texts = fact.messages if fact else ()
        messages = texts or (f"{name.replace('_', ' ')}",)
    error_id = name if name == "rate_limit_exceeded" else None
    return RefusalError(status, name, messages, error_id=error_id, retry_after=retry_after)
