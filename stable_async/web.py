"""For web services: errors as HTTP answers, requests from JSON, and results with progress.

Nothing here needs a framework; docs/web.md shows how Starlette, FastAPI and aiohttp use it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Unpack

import anyio

from stable_async.api.prompt_texts import prompt_problem
from stable_async.api.services import SERVICES, service_name
from stable_async.config import DOCUMENTED_PENALTY
from stable_async.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    BudgetExceededError,
    ConfigurationError,
    ContentFilteredError,
    ContentModerationError,
    FieldProblem,
    InvalidRequestError,
    InvalidResponseError,
    NotFoundError,
    PayloadTooLargeError,
    QuotaTimeoutError,
    StabilityError,
    UnprocessableError,
    WrongEventLoopError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from anyio.streams.memory import MemoryObjectSendStream

    from stable_async.api.base import MediaRequest
    from stable_async.client import StabilityClient
    from stable_async.media import Media
    from stable_async.transport.options import CallOptions

__all__ = [
    "HTTPAnswer",
    "request_from_json",
    "stream_with_states",
    "to_http_answer",
    "to_http_status",
]

logger: logging.Logger = logging.getLogger("stable_async")

MAX_REPORTED = 100

# How many parts `stream_with_states` may be ahead of its consumer.
AHEAD = 8

# A JSON request cannot carry a file.
TEXT_SERVICES = {name: service for name, service in SERVICES.items() if service.takes_text_alone}

_INVALID = (422, "The request is not valid.")
_MODERATED = (422, "The request was refused by the content rules.")
_BUSY = (503, "There are too many requests right now; try again later.")
_CLOSED = (503, "The service is not available at present.")
_FAILED = (502, "The result could not be made; try again.")
_UNAVAILABLE = (503, "The result could not be made; try again later.")
_TOO_SLOW = (504, "The result took too long; try again.")
_OWN_FAULT = (500, "Something went wrong on our side.")

# Answers to users for what the API said about their request, by the class of error. They reveal
# neither the key's owner nor how the service works.
_REFUSED: dict[type[StabilityError], tuple[int, str]] = {
    ContentModerationError: _MODERATED,
    UnprocessableError: (422, "The request was refused; try other words, in English."),
    PayloadTooLargeError: (413, "The request is too large."),
    NotFoundError: (404, "There is no such result."),
}
_REFUSED_OTHERWISE = (422, "The request was refused because of its parameters.")

# Statuses of a server that gave up waiting for another one.
_TIMEOUTS = frozenset({408, 504, 522, 524})


@dataclass(frozen=True, slots=True)
class HTTPAnswer:
    """The answer of a service to its user for an error.

    Attributes:
        status: HTTP status.
        headers: `content-type`, and `retry-after` where waiting helps.
        body: JSON: `error` in one word (`invalid_request`, `content_refused`, `not_found`,
            `too_large`, `busy` or `failed`), `message` in plain words, and `fields` with what is
            allowed where single fields are wrong.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def to_http_status(error: BaseException) -> int:
    """Return the HTTP status that a service answers with for an error.

    422 is for requests that the user can correct, 503 (with `Retry-After`) for those that can wait,
    502 and 504 for failures of the API, 500 for what only the service's operator can fix: the key,
    the settings, the code.
    """
    return _answer(error)[0]


def to_http_answer(error: BaseException) -> HTTPAnswer:
    """Return the answer of a service for an error; safe to show, whatever the error says."""
    _report(error)
    status, message = _answer(error)
    headers = {"content-type": "application/json"}
    if (seconds := _retry_after(error)) is not None:
        headers["retry-after"] = str(seconds)
    content: dict[str, object] = {"error": _word(error, status), "message": message}
    if isinstance(error, InvalidRequestError):
        # Without the value: it may be a path on this machine.
        content["fields"] = {problem.field: problem.allowed for problem in error.problems}
    return HTTPAnswer(status, headers, json.dumps(content).encode())


def request_from_json(content: object) -> MediaRequest[Media]:
    """Return the request that a JSON object describes: `prompt`, `service` and its parameters.

    Files are refused: text would be taken for a path on this machine.

    Raises:
        InvalidRequestError: It is not such an object, breaks a documented rule, or its prompt is
            blank.
    """
    if not isinstance(content, dict):
        raise InvalidRequestError(
            "request", [FieldProblem("", "given another type", "a JSON object")]
        )
    fields = dict(content)
    name = fields.pop("service", "core")
    service = TEXT_SERVICES.get(service_name(name)) if isinstance(name, str) else None
    if service is None:
        raise InvalidRequestError(
            "request", [FieldProblem("service", "no such service", ", ".join(TEXT_SERVICES))]
        )
    model = service.model
    if files := sorted(model.file_parts.keys() & fields.keys()):
        raise InvalidRequestError(
            model.__name__, [FieldProblem(name, "given", "no files in JSON") for name in files]
        )
    if problem := prompt_problem(model, fields):
        raise InvalidRequestError(model.__name__, [problem])
    return model(**{str(name): value for name, value in fields.items()})


async def stream_with_states(
    client: StabilityClient, request: MediaRequest[Media], **options: Unpack[CallOptions[Media]]
) -> AsyncGenerator[bytes, None]:
    """Yield the states of a request as they change, then its result, for a page that shows both.

    Each state is a JSON object on a line: `{"state": "waiting"}` for the quota, `"generating"`, and
    finally `"done"` or `"filtered"` with `headers`, followed by the result's bytes, or
    `"refused"` with `status` and `message`. Closing the generator (`contextlib.aclosing`) cancels
    the request.

    Raises:
        StabilityError: The result broke off.
    """
    parts, received = anyio.create_memory_object_stream[bytes](AHEAD)
    reporter = _StateReporter(parts)
    options["observer"] = reporter
    task = asyncio.create_task(reporter.send(client, request, options))
    try:
        async with received:
            async for part in received:
                yield part
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _StateReporter:
    """Sends one request, and reports its states as long as `parts` is open."""

    def __init__(self, parts: MemoryObjectSendStream[bytes]) -> None:
        self._parts = parts

    async def send(
        self, client: StabilityClient, request: MediaRequest[Media], options: CallOptions[Media]
    ) -> None:
        begun = False
        async with self._parts:
            try:
                await self._state("waiting")
                async with client.stream(request, **options) as stream:
                    begun = True
                    state = "filtered" if stream.filtered else "done"
                    await self._state(state, headers=stream.headers)
                    async for chunk in stream:
                        await self._parts.send(chunk)
            except StabilityError as error:
                if begun:
                    raise
                _report(error)
                status, message = _answer(error)
                await self._state("refused", status=status, message=message)

    async def leaving(self) -> None:
        await self._state("generating")

    def refused(self, error: APIStatusError) -> None:
        pass  # the next attempt reports its own state, and the error of the last one is raised

    async def _state(self, state: str, **facts: object) -> None:
        await self._parts.send(json.dumps({"state": state, **facts}).encode() + b"\n")


def _answer(error: BaseException) -> tuple[int, str]:
    """Return status and message: 422 and the like only for errors about the request itself."""
    match error:
        case InvalidRequestError():
            return _INVALID
        case ContentFilteredError():
            return (422, "The result was held back by the content filter.")
        case QuotaTimeoutError():
            return _BUSY
        case BudgetExceededError():
            return _CLOSED
        case APIStatusError():
            return _answer_to_status(error)
        case APITimeoutError():
            return _TOO_SLOW
        case APIConnectionError() | InvalidResponseError():
            return _FAILED
        case _:
            return _OWN_FAULT


def _answer_to_status(error: APIStatusError) -> tuple[int, str]:
    if error.verdict.penalty:
        return _BUSY
    if error.concerns == "request":
        return _REFUSED.get(type(error), _REFUSED_OTHERWISE)
    if error.concerns == "account":
        return _CLOSED
    if error.status in _TIMEOUTS:
        return _TOO_SLOW
    return _UNAVAILABLE if error.status == 503 else _FAILED


def _word(error: BaseException, status: int) -> str:
    if isinstance(error, ContentModerationError | ContentFilteredError | UnprocessableError) and (
        status == 422
    ):
        return "content_refused"
    return {404: "not_found", 413: "too_large", 422: "invalid_request", 503: "busy"}.get(
        status, "failed"
    )


# What has been logged for the operator: a wrong key would be logged with every request.
_reported: set[tuple[str, str]] = set()


def _report(error: BaseException) -> None:
    """Log what only the operator of the service can fix, once each."""
    account = isinstance(error, APIStatusError) and (
        error.concerns == "account" and not error.verdict.penalty
    )
    if not account and not isinstance(error, ConfigurationError | WrongEventLoopError):
        return
    what = (type(error).__name__, str(getattr(error, "name", error)))
    if what not in _reported and len(_reported) < MAX_REPORTED:
        _reported.add(what)
        logger.error("requests fail until this is fixed: %s: %s", type(error).__name__, error)


def _retry_after(error: BaseException) -> int | None:
    """Return whole seconds, at least 1; `None` if waiting alone does not help."""
    if isinstance(error, APIStatusError) and error.verdict.penalty:
        return ceil(max(DOCUMENTED_PENALTY if error.retry_after is None else error.retry_after, 1))
    if isinstance(error, QuotaTimeoutError):
        return ceil(max(error.retry_after, 1))
    return None
