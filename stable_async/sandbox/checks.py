"""Checks of a request other than those of its fields: headers, path and size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stable_async.sandbox.answers import wants_json
from stable_async.sandbox.refusals import RefusalError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stable_async.sandbox.spec.facts import Facts, Operation

__all__ = ["body_limit", "header_problems", "path_problems", "too_large"]


def body_limit(facts: Facts, operation: Operation) -> int:
    """Return the most bytes that a request of `operation` may have."""
    if "request at most 50Mb" in operation.rules:
        return facts.max_request("stable_audio_2")
    if "request at most 100Mb" in operation.rules:
        return facts.max_request("stable_audio_3")
    return facts.max_request()


def too_large(facts: Facts, operation: Operation, limit: int) -> RefusalError:
    if operation.api == "v1":
        return RefusalError(400, "request is too large", name="invalid_file_size")
    if limit == facts.max_request():
        return RefusalError(413)
    text = f"body: payloads cannot be larger than {limit // 1_000_000}MB in size"
    return RefusalError(413, text)


def header_problems(facts: Facts, operation: Operation, headers: Mapping[str, str]) -> list[str]:
    problems = []
    accept = headers.get("accept", "").strip().lower()
    # v1's GETs answer with JSON whatever the accept header says, as its curl samples show.
    judged = operation.accept and not (operation.api == "v1" and operation.method == "GET")
    anything = not judged or "*/*" in operation.accept
    # v1 allows clients that do not say what they accept, such as curl.
    allowed = {"", *operation.accept, *(["*/*"] if operation.api == "v1" else [])}
    media = "application/json" if wants_json(accept) else accept
    if not anything and media not in allowed:
        problems.append(f"accept: must be one of: {', '.join(operation.accept)}")
    problems += [
        f"{one.name}: must be at most {one.max_length} characters long"
        for one in facts.meta.request_headers
        if operation.api == "v2"
        and one.max_length is not None
        and len(headers.get(one.name, "")) > one.max_length
    ]
    return problems


def path_problems(operation: Operation, variables: Mapping[str, str]) -> list[str]:
    """Return the problems of the parts of the path, as `field: problem`."""
    return [
        f"{field.name}: must be {field.min_length} characters long"
        for field in operation.fields
        if field.place == "path"
        and field.max_length is not None
        and len(variables[field.name]) != field.max_length
    ]
