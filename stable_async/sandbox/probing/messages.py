"""The requests and answers of probing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NO_ANSWER", "ProbeAnswer", "ProbeRequest"]

# The status of a request that got no answer; the body says why.
NO_ANSWER = 599
SHOWN = 400
HIDDEN = re.compile(r"sk-[\w*-]{4,}|[\w-]+\*{4,}[\w-]*")


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """A request to send.

    Attributes:
        method: HTTP method.
        path: Path, without the base URL.
        keyed: Whether to send the key.
        headers: Headers besides the key and the content type.
        texts: Text fields of a form.
        files: Files of a form.
        json: A JSON body instead of a form; `None` sends none.
        key: A key to send instead of the user's.
        size: Bytes of filler, for a body that is refused for its size; 0 for none.
    """

    method: str
    path: str
    keyed: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    json: Mapping[str, object] | None = None
    key: str | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """An answer; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content(self) -> dict[str, object]:
        """The JSON object in the body; empty if there is none."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def problems(self) -> list[str]:
        """The messages of an error answer."""
        errors = self.content.get("errors")
        if isinstance(errors, list):
            return [str(error) for error in errors]
        message = self.content.get("message")
        return str(message).split("; ") if message else []

    @property
    def names(self) -> set[str]:
        """The fields that the messages name."""
        return {problem.partition(":")[0].strip() for problem in self.problems}

    @property
    def from_api(self) -> bool:
        """Whether the answer comes from the API: a success, or its error envelope."""
        return self.status < 300 or ("name" in self.content and "id" in self.content)

    def recorded(self, key: str) -> str:
        """Return the answer for a report, without keys."""
        kind = self.headers.get("content-type", "")
        text = self.body[:4000].decode(errors="replace") if "json" in kind else f"[{kind}]"
        if key:
            text = text.replace(key, "[key]")
        return f"{self.status} {HIDDEN.sub('[key]', text)}"[:SHOWN]
