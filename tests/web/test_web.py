"""Errors as HTTP answers, requests from JSON, images with their states."""

from __future__ import annotations

import asyncio
import inspect
import json
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from stable_async import (
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ConfigurationError,
    ContentFilteredError,
    ContentModerationError,
    FieldProblem,
    GenerateCore,
    GenerateUltra,
    InvalidRequestError,
    NotFoundError,
    PayloadTooLargeError,
    PaymentRequiredError,
    PermissionDeniedError,
    QuotaTimeoutError,
    RateLimitError,
    ServerError,
    StabilityClient,
    StabilityError,
    UnprocessableError,
    WrongEventLoopError,
    errors,
)
from stable_async.integrations.starlette import MediaResponse
from stable_async.sandbox import Sandbox
from stable_async.web import request_from_json, stream_with_states, to_http_answer, to_http_status
from tests.errors_of import api_error, broken, edge_error, timed_out, unreadable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, MutableMapping

KEY = "sk-0123456789abcdefghij"
SECRET = f"{KEY} at /srv/app/main.py on 10.0.0.7"


def refused(kind: type[APIStatusError], status: int, name: str = "") -> APIStatusError:
    error = api_error(status, name, SECRET)
    assert type(error) is kind
    error.errors, error.request_id = (SECRET,), SECRET
    return error


ANSWERS: list[tuple[StabilityError, int, str]] = [
    (InvalidRequestError("X", [FieldProblem("seed", SECRET, "0 to 9")]), 422, "invalid_request"),
    (refused(BadRequestError, 400), 422, "invalid_request"),
    (refused(ContentModerationError, 403), 422, "content_refused"),
    (refused(UnprocessableError, 422), 422, "content_refused"),
    (ContentFilteredError(SECRET), 422, "content_refused"),
    (refused(PayloadTooLargeError, 413), 413, "too_large"),
    (refused(NotFoundError, 404), 404, "not_found"),
    (QuotaTimeoutError(SECRET, retry_after=7.2), 503, "busy"),
    (refused(RateLimitError, 429), 503, "busy"),
    (refused(PaymentRequiredError, 402), 503, "busy"),
    (BudgetExceededError(SECRET), 503, "busy"),
    (refused(ServerError, 500), 502, "failed"),
    (broken(SECRET), 502, "failed"),
    (timed_out(SECRET), 504, "failed"),
    (unreadable(SECRET), 502, "failed"),
    (refused(AuthenticationError, 401), 503, "busy"),
    (refused(PermissionDeniedError, 403, "forbidden"), 503, "busy"),
    (edge_error(400, SECRET), 502, "failed"),
    (edge_error(403, SECRET), 502, "failed"),
    (edge_error(404, SECRET), 502, "failed"),
    (edge_error(413, SECRET), 502, "failed"),
    (edge_error(422, SECRET), 502, "failed"),
    (edge_error(503, SECRET), 503, "busy"),
    (edge_error(524, SECRET), 504, "failed"),
    (ConfigurationError(SECRET), 500, "failed"),
    (WrongEventLoopError(SECRET), 500, "failed"),
]


@pytest.mark.parametrize(
    ("error", "status", "word"), ANSWERS, ids=lambda value: type(value).__name__
)
def test_every_error_has_an_answer_that_gives_nothing_away(
    error: StabilityError, status: int, word: str
) -> None:
    answer = to_http_answer(error)
    assert to_http_status(error) == answer.status == status
    content = json.loads(answer.body)
    assert content["error"] == word
    assert content["message"].endswith(".")
    assert answer.headers["content-type"] == "application/json"
    for secret in (KEY, "/srv", "10.0.0.7"):
        assert secret not in answer.body.decode() + str(answer.headers)


def test_no_error_is_forgotten() -> None:
    """A new class of error needs a decision about what a service answers for it."""
    known = {type(error) for error, _, _ in ANSWERS}
    classes = {
        value
        for _, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, StabilityError)
    }
    assert classes - known == {StabilityError, APIStatusError}


def test_an_error_of_the_service_itself_is_its_own() -> None:
    assert to_http_status(KeyError(SECRET)) == 500
    assert "sk-" not in to_http_answer(KeyError(SECRET)).body.decode()


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (QuotaTimeoutError("x", retry_after=7.2), "8"),
        (QuotaTimeoutError("x", retry_after=0.0), "1"),
        (api_error(429, **{"Retry-After": "12"}), "12"),
        (api_error(429), "60"),
        (edge_error(429), "60"),
    ],
)
def test_those_who_can_wait_are_told_how_long(error: StabilityError, seconds: str) -> None:
    assert to_http_answer(error).headers["retry-after"] == seconds


def test_wrong_fields_are_named_with_what_they_take() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        request_from_json({"prompt": "x", "aspect_ratio": "7:1", "seed": -1})
    content = json.loads(to_http_answer(caught.value).body)
    assert set(content["fields"]) == {"aspect_ratio", "seed"}
    assert "16:9" in content["fields"]["aspect_ratio"]


def test_a_json_object_becomes_a_request() -> None:
    assert request_from_json({"prompt": "x"}) == GenerateCore(prompt="x")
    asked = request_from_json({"prompt": "x", "service": "ultra", "seed": 7})
    assert asked == GenerateUltra(prompt="x", seed=7)


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        "x",
        {},
        {"prompt": 7},
        {"prompt": "x", "service": "video"},
        {"prompt": "x", "service": []},
        {"prompt": "x", "no_such_field": 1},
        {"prompt": "x", 5: 1},
        {"prompt": "x", "self": 1},
        {"prompt": " \u200b\n"},
        {"prompt": "", "service": "text-to-audio"},
        {"prompt": "a\0b"},
        # A text would be taken for a path of the service's machine, and the file sent away.
        {"prompt": "x", "service": "sd3", "mode": "image-to-image", "image": "/etc/passwd"},
    ],
)
def test_anything_else_is_refused(content: object) -> None:
    with pytest.raises(InvalidRequestError):
        request_from_json(content)


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (api_error(401), True),
        (api_error(402), True),
        (api_error(403, "forbidden"), True),
        (ConfigurationError("no key"), True),
        (edge_error(401), False),
        (edge_error(403), False),
        (api_error(400), False),
        (api_error(429), False),
        (api_error(500), False),
    ],
    ids=str,
)
def test_what_only_the_operator_can_mend_is_logged_once(
    error: StabilityError,
    logged: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stable_async.web._reported", set())
    for _ in range(3):
        to_http_answer(error)
    assert [record.levelname for record in caplog.records] == ["ERROR"] * logged


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as one:
        yield one


async def test_an_image_that_breaks_off_is_an_error_after_its_states(sandbox: Sandbox) -> None:
    sandbox.drop_next("mid_body")
    async with StabilityClient(KEY, base_url=sandbox.url) as client:
        parts = stream_with_states(client, GenerateCore(prompt="x"))
        states = [json.loads(await anext(parts))["state"] for _ in range(3)]
        assert states == ["waiting", "generating", "done"]
        with pytest.raises(APIConnectionError):
            b"".join([part async for part in parts])


@pytest.mark.parametrize("taken", range(4))
async def test_leaving_the_states_anywhere_leaves_nothing_behind(
    sandbox: Sandbox, taken: int, nothing_leaks: None
) -> None:
    async with StabilityClient(KEY, base_url=sandbox.url) as client:
        parts = stream_with_states(client, GenerateCore(prompt="x"))
        for _ in range(taken):
            await anext(parts)
        await parts.aclose()


@pytest.mark.parametrize(("method", "bought"), [("GET", 1), ("HEAD", 0)])
async def test_asking_for_headers_alone_buys_nothing(
    sandbox: Sandbox, method: str, bought: int
) -> None:
    """As previews of links do; Starlette routes HEAD like GET."""
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return await asyncio.Future()

    async with StabilityClient(KEY, base_url=sandbox.url) as client:
        app = Starlette(
            routes=[Route("/", lambda _: MediaResponse(client, GenerateCore(prompt="x")))]
        )
        scope = {"type": "http", "method": method, "path": "/", "headers": [], "query_string": b""}
        await app(scope, receive, send)
    assert sent[0]["status"] == 200
    assert bool(b"".join(message.get("body", b"") for message in sent)) is bool(bought)
    assert len(sandbox.log) == bought
