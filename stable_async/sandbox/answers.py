"""Answers: their parts, and the shapes in which the API returns results."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stable_async.sandbox.render.output import Output

__all__ = ["Answer", "Drop", "json_answer", "output_answer", "v1_answer", "wants_json"]

# How a connection is cut; `stray_bytes` sends the whole answer and then extra bytes.
Drop = Literal["before_headers", "mid_headers", "mid_body", "stray_bytes"]


@dataclass(slots=True)
class Answer:
    """A complete answer.

    Attributes:
        status: HTTP status.
        content_type: Content type of `body`; empty sends no such header.
        body: The bytes.
        headers: Further headers, in order; a name may occur several times.
        drop: How the connection is cut while the answer is sent; `None` sends all of it.
    """

    status: int
    content_type: str
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=list)
    drop: Drop | None = None

    def set_default(self, name: str, value: str) -> None:
        """Add a header unless there is one of that name."""
        if all(known.lower() != name for known, _ in self.headers):
            self.headers.append((name, value))


def json_answer(status: int, value: object, content_type: str = "application/json") -> Answer:
    """Return an answer with `value` as JSON, as compact as the API's."""
    return Answer(status, content_type, json.dumps(value, separators=(",", ":")).encode())


def wants_json(accept: str) -> bool:
    """Whether an accept header asks for JSON, ignoring parameters such as `; type=image/png`."""
    return accept.partition(";")[0].strip() == "application/json"


def output_answer(output: Output, accept: str, *, looked_up: bool = False) -> Answer:
    """Return an output as bytes with its facts in headers, or all of it as JSON.

    Args:
        output: The output of the operation.
        accept: The request's accept header, lower case.
        looked_up: It is the result of an asynchronous operation. Public clients read its JSON
            under `result`, the documentation says `image` or `audio`: both are sent.
    """
    if not wants_json(accept):
        headers = [("finish-reason", output.finish_reason), ("seed", str(output.seed))]
        return Answer(200, output.content_type, output.data, headers)
    kind = output.content_type.partition("/")[0]
    data = base64.b64encode(output.data).decode()
    body: dict[str, object] = {
        kind: data,
        "finish_reason": output.finish_reason,
        "seed": output.seed,
    }
    if looked_up:
        body["result"] = data
    return json_answer(200, body, f"application/json; type={output.content_type}")


def v1_answer(outputs: Sequence[Output], accept: str) -> Answer:
    """Return v1's outputs: one as PNG, or all as JSON."""
    if accept.partition(";")[0].strip() == "image/png":
        output = outputs[0]
        headers = [("Finish-Reason", output.finish_reason), ("Seed", str(output.seed))]
        return Answer(200, output.content_type, output.data, headers)
    artifacts = [
        {
            "base64": base64.b64encode(output.data).decode(),
            "finishReason": output.finish_reason,
            "seed": output.seed,
        }
        for output in outputs
    ]
    return json_answer(200, {"artifacts": artifacts})
