"""Error answers of the API: statuses, names, messages and the two shapes of error bodies."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stable_async.sandbox.spec.facts import Facts

__all__ = ["ErrorBody", "RefusalError"]


class RefusalError(Exception):
    """The request is answered with an error.

    Attributes:
        status: HTTP status.
        messages: The problems; empty means the documented ones of the status.
        name: The API's name of the error; `None` means the documented one of the status.
        retry_after: Seconds for a `Retry-After` header. The API documents none.
    """

    def __init__(
        self, status: int, *messages: str, name: str | None = None, retry_after: int | None = None
    ) -> None:
        """Take the parts of the answer."""
        super().__init__(status, *messages)
        self.status = status
        self.messages = messages
        self.name = name
        self.retry_after = retry_after

    def body(self, facts: Facts, api: str, drawn_id: str) -> ErrorBody:
        """Return the body; missing parts come from the facts."""
        documented = facts.errors_of(self.status, api)
        fact = next((fact for fact in documented if self.name in {None, fact.name}), None)
        name = self.name or (fact.name if fact else _phrase(self.status))
        messages = self.messages or (fact.messages if fact else ()) or (name.replace("_", " "),)
        # The documented id of this error is its name.
        error_id = name if name == "rate_limit_exceeded" else drawn_id
        return ErrorBody(api, error_id, name, messages)


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """The body of an error answer."""

    api: str
    id: str
    name: str
    messages: tuple[str, ...]

    def json(self) -> dict[str, object]:
        """Return the body with its keys in the order of recorded answers."""
        if self.api == "v1":
            return {"id": self.id, "message": "; ".join(self.messages), "name": self.name}
        return {"errors": list(self.messages), "id": self.id, "name": self.name}


def _phrase(status: int) -> str:
    """Return a name for a status that has no documented one."""
    try:
        return HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")
    except ValueError:
        return f"status_{status}"
