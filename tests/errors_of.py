"""Errors as the client makes them of answers, for tests of what reads them."""

from __future__ import annotations

import json

from stable_async import APIConnectionError, APIStatusError, APITimeoutError, InvalidResponseError
from stable_async.api.answers import Answer, read_error
from stable_async.api.verdict import judge_broken_connection, judge_unreadable


def envelope(name: str, *messages: str) -> bytes:
    """Return an error envelope of v2beta."""
    return json.dumps({"id": "a1", "name": name, "errors": messages or ("x",)}).encode()


NAMES = {
    400: "bad_request",
    401: "unauthorized",
    402: "payment_required",
    403: "content_moderation",
    404: "not_found",
    413: "payload_too_large",
    422: "public_figure",
    429: "rate_limit_exceeded",
    500: "internal_error",
}


def api_error(status: int, name: str = "", message: str = "x", **headers: str) -> APIStatusError:
    """Return the error of an answer of the API."""
    body = envelope(name or NAMES.get(status, "some_error"), message)
    return read_error(Answer(status, headers, body))


def edge_error(status: int, page: str = "<html>no</html>", **headers: str) -> APIStatusError:
    """Return the error of an answer of something on the way."""
    return read_error(Answer(status, headers, page.encode()))


def broken(message: str = "broken", *, sent: bool = True) -> APIConnectionError:
    """Return the error of a connection that broke."""
    return APIConnectionError(message, verdict=judge_broken_connection(sent=sent, asked="submit"))


def timed_out(message: str = "no answer") -> APITimeoutError:
    """Return the error of a time limit that expired after the request was sent."""
    return APITimeoutError(message, verdict=judge_broken_connection(sent=True, asked="submit"))


def unreadable(message: str = "no image") -> InvalidResponseError:
    """Return the error of a success that holds no result."""
    return InvalidResponseError(message, verdict=judge_unreadable(None, "submit"))
