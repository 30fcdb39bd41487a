"""The client from the outside: settings, results, the key, cancellation."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import traceback
from inspect import signature
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import ClientResponse
from aioresponses import aioresponses

from stable_async import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ContentFilteredError,
    ContentModerationError,
    GenerateCore,
    Image,
    InvalidRequestError,
    NotFoundError,
    PayloadTooLargeError,
    PaymentRequiredError,
    PermissionDeniedError,
    Quota,
    RateLimitError,
    RetryPolicy,
    ServerError,
    StabilityClient,
    StabilityError,
    Timeouts,
    UnprocessableError,
    WrongEventLoopError,
)
from stable_async.quota import QuotaLimiter
from stable_async.transport.error_mapping import translate
from tests.raw_server import answer, raw_server
from tests.samples import png

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.raw_server import Connection

KEY = "sk-0123456789abcdefghij"
CORE = "https://api.stability.ai/v2beta/stable-image/generate/core"
IMAGE = png(100)
HEADERS = {"seed": "7", "finish-reason": "SUCCESS", "x-request-id": "abc"}


class OddResponse(ClientResponse):
    """aioresponses 0.7.9 does not know an argument that aiohttp 3.14 requires."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("stream_writer", SimpleNamespace(output_size=0))
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]


@pytest.fixture
def api() -> Iterator[aioresponses]:
    with aioresponses() as mocked:
        yield mocked


def reply(api: aioresponses, **answer: object) -> None:
    api.post(CORE, response_class=OddResponse, **answer)


def client(**settings: object) -> StabilityClient:
    return StabilityClient(KEY, retry=RetryPolicy(attempts=1), **settings)  # type: ignore[arg-type]


async def test_bytes_become_an_image_with_all_its_facts(api: aioresponses) -> None:
    reply(api, body=IMAGE, content_type="image/png", headers=HEADERS)
    async with client() as one:
        image = await one.generate.core("a lighthouse", seed=7)
    assert image == Image(
        data=IMAGE,
        content_type="image/png",
        seed=7,
        finish_reason="SUCCESS",
        request_id="abc",
        credits=3,
    )
    assert not image.filtered


async def test_json_becomes_the_same_image(api: aioresponses) -> None:
    body = {"image": base64.b64encode(IMAGE).decode(), "seed": 7, "finish_reason": "SUCCESS"}
    reply(
        api,
        body=json.dumps(body),
        content_type="application/json; type=image/png",
        headers={"x-request-id": "abc"},
    )
    async with client(accept="application/json") as one:
        image = await one.generate.core("a lighthouse")
    assert image.data == IMAGE
    assert (image.content_type, image.seed, image.finish_reason) == ("image/png", 7, "SUCCESS")


@pytest.mark.parametrize("content_type", ["image/png", "application/json"])
async def test_a_filtered_image_is_a_result_unless_an_error_is_asked_for(
    api: aioresponses, content_type: str
) -> None:
    fields = {"seed": "7", "finish-reason": "CONTENT_FILTERED"}
    body = IMAGE
    if content_type == "application/json":
        encoded = base64.b64encode(IMAGE).decode()
        fields = {}
        body = json.dumps({"image": encoded, "finish_reason": "CONTENT_FILTERED"}).encode()
    for _ in range(2):
        reply(api, body=body, content_type=content_type, headers=fields)
    async with client() as one:
        assert (await one.generate.core("x")).filtered
        with pytest.raises(ContentFilteredError) as caught:
            await one.generate.core("x", raise_on_filtered=True)
    assert isinstance(caught.value.result, Image)
    assert caught.value.result.data == IMAGE


@pytest.mark.parametrize(
    ("status", "name", "error"),
    [
        (400, "bad_request", BadRequestError),
        (401, "unauthorized", AuthenticationError),
        (402, "payment_required", PaymentRequiredError),
        (403, "content_moderation", ContentModerationError),
        (403, "permission_denied", PermissionDeniedError),
        (404, "generation_not_found", NotFoundError),
        (413, "payload_too_large", PayloadTooLargeError),
        (422, "invalid_language", UnprocessableError),
        (429, "rate_limit_exceeded", RateLimitError),
        (500, "internal_error", ServerError),
        (503, "unavailable", ServerError),
        (302, "moved", APIStatusError),
        (409, "conflict", APIStatusError),
    ],
)
async def test_every_status_has_its_class_and_carries_the_envelope(
    api: aioresponses, status: int, name: str, error: type[APIStatusError]
) -> None:
    envelope = {"id": "req-1", "name": name, "errors": ["prompt: required", "seed: too large"]}
    reply(api, status=status, payload=envelope, headers={"Retry-After": "41"})
    async with client() as one:
        with pytest.raises(error) as caught:
            await one.generate.core("x")
    assert type(caught.value) is error
    assert (caught.value.status, caught.value.name) == (status, name)
    assert caught.value.errors == ("prompt: required", "seed: too large")
    assert (caught.value.request_id, caught.value.retry_after) == ("req-1", 41)
    assert "prompt: required" in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"<html>bad gateway</html>", b"[]", b"\xff\xfe", b'{"a":1}'])
async def test_an_error_page_of_an_edge_is_an_error_too(api: aioresponses, body: bytes) -> None:
    reply(api, status=502, body=body)
    async with client() as one:
        with pytest.raises(ServerError) as caught:
            await one.generate.core("x")
    assert caught.value.status == 502


ECHOES = [
    f"Incorrect API key provided: {KEY}. You can find your API key at https://stability.ai.",
    f"Incorrect API key provided: {KEY[:7]}{'*' * 12}{KEY[-4:]}. You can find it at https://s.ai.",
    f"the header was Bearer {KEY}, it seems",
]


@pytest.mark.parametrize("message", ECHOES)
async def test_the_key_is_taken_out_of_whatever_the_api_echoes(
    api: aioresponses, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    reply(api, status=401, payload={"id": "1", "name": "unauthorized", "message": message})
    async with client() as one:
        with pytest.raises(AuthenticationError) as caught:
            await one.generate.core("x")
    shown = [
        str(caught.value),
        repr(caught.value),
        "".join(traceback.format_exception(caught.value)),
        caplog.text,
        repr(one),
    ]
    for text in shown:
        assert KEY not in text
        assert not re.search(r"sk-\w", text)


async def test_a_broken_answer_shows_no_key_in_its_causes() -> None:
    async def is_not_http(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"nonsense\r\n\r\n")

    async with raw_server(is_not_http) as url, client(base_url=url) as one:
        with pytest.raises(StabilityError) as caught:
            await one.generate.core("x")
    error: BaseException | None = caught.value
    while error is not None:
        assert KEY not in f"{error!r} {error}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


async def test_redirects_are_not_followed_with_the_key() -> None:
    heads: list[str] = []

    async def elsewhere(connection: Connection) -> None:
        heads.append(await connection.head())

    async with raw_server(elsewhere) as other:

        async def redirects(connection: Connection) -> None:
            await connection.request()
            location = f"Location: {other}/there\r\n"
            await connection.send(answer(b"", status="307 Temporary Redirect", headers=location))

        async with raw_server(redirects) as url, client(base_url=url) as one:
            with pytest.raises(APIStatusError) as caught:
                await one.generate.core("x")
    assert caught.value.status == 307
    assert heads == []


async def test_what_is_sent_is_multipart_with_the_documented_headers() -> None:
    heads: list[str] = []
    bodies: list[bytes] = []

    async def serve(connection: Connection) -> None:
        heads.append(await connection.head())
        length = int(re.findall(r"(?i)content-length: (\d+)", heads[0])[0])
        bodies.append(await connection.reader.readexactly(length))
        await connection.send(answer())

    async with raw_server(serve) as url:
        settings = {"client_id": "app", "client_user_id": "u-1", "client_version": "2.0"}
        async with client(base_url=f"{url}/sd/", **settings) as one:
            await one.generate.core("hé", seed=4, aspect_ratio="16:9")
    (head,) = heads
    assert head.startswith("POST /sd/v2beta/stable-image/generate/core HTTP/1.1\r\n")
    for line in (
        f"Authorization: Bearer {KEY}",
        "Accept: image/*",
        "Content-Type: multipart/form-data; boundary=",
        "stability-client-id: app",
        "stability-client-user-id: u-1",
        "stability-client-version: 2.0",
    ):
        assert line.lower() in head.lower()
    assert re.findall(rb'name="(\w+)"\r\n\r\n(.*)\r\n', bodies[0]) == [
        (b"prompt", "hé".encode()),
        (b"aspect_ratio", b"16:9"),
        (b"seed", b"4"),
    ]


def test_without_a_key_the_error_names_the_variable_before_any_request() -> None:
    with pytest.raises(StabilityError, match="STABILITY_API_KEY"):
        StabilityClient()


async def test_key_and_base_url_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(connection: Connection) -> None:
        assert "Bearer sk-from-environment\r\n" in await connection.head()
        await connection.send(answer())

    async with raw_server(serve) as url:
        monkeypatch.setenv("STABILITY_API_KEY", "sk-from-environment\n")
        monkeypatch.setenv("STABILITY_BASE_URL", url)
        async with StabilityClient() as one:
            await one.generate.core("x")


def test_the_scheme_of_an_address_counts_in_any_case() -> None:
    """Proxies and certificates are chosen by it."""
    assert StabilityClient(KEY, base_url="HTTPS://Host/Prefix/").base_url == "https://Host/Prefix"


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": ""},
        {"api_key": "sk-with\r\nX-Injected: header"},
        {"api_key": "schlüssel"},
        {"base_url": "api.stability.ai"},
        {"base_url": "ftp://api.stability.ai"},
        {"base_url": "https://user:hunter2@api.stability.ai"},
        {"base_url": "ftp://user:hunter2@api.stability.ai"},
        {"base_url": "http://[::1"},
        {"base_url": "http://host:port"},
        {"base_url": "https://api.stability.ai?x=1"},
        {"base_url": "HTTP://API.stability.ai"},
        {"max_in_flight": 0},
        {"client_id": "x" * 257},
        {"client_user_id": "line\r\nbreak"},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        StabilityClient(**{"api_key": KEY, **settings})  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"requests": 0},
        {"window": 0},
        {"window": float("inf")},
        {"penalty": -1},
        {"jitter": -0.1},
        {"burst": 0},
        {"burst": 151},
    ],
)
def test_a_quota_of_no_limit_or_no_progress_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=f"Quota.{next(iter(settings))}"):
        Quota(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Quota, RetryPolicy, Timeouts])
def test_every_setting_is_checked_whether_named_or_not(kind: type[Any]) -> None:
    names = [*signature(kind).parameters]
    assert kind(**{name: getattr(kind(), name) for name in names}) == kind()
    for place, name in enumerate(names):
        defaults = [getattr(kind(), name) for name in names[:place]]
        message = rf"{kind.__name__}\.{name} is object; allowed: "
        with pytest.raises(ConfigurationError, match=message):
            kind(*defaults, object())
        with pytest.raises(ConfigurationError, match=message):
            kind(**{name: object()})
    with pytest.raises(TypeError, match="positional"):
        kind(*(getattr(kind(), name) for name in names), "one too many")


@pytest.mark.parametrize("name", signature(StabilityClient).parameters)
def test_every_setting_of_a_client_is_checked(name: str) -> None:
    settings: dict[str, Any] = {"api_key": KEY, name: object()}
    with pytest.raises(ConfigurationError, match=f"^{name} is (a )?object; allowed: "):
        StabilityClient(**settings)


async def test_a_client_that_is_not_open_says_so() -> None:
    with pytest.raises(ConfigurationError, match="async with"):
        await client().generate.core("x")


def test_a_client_of_another_loop_says_so() -> None:
    one = client(quota=None)
    asyncio.run(one.__aenter__())

    async def from_another_loop() -> None:
        try:
            with pytest.raises(WrongEventLoopError):
                await one.generate.core("x")
        finally:
            await one.aclose()

    asyncio.run(from_another_loop())


async def test_save_writes_the_whole_file_or_none(tmp_path: Path) -> None:
    image = Image(data=IMAGE, content_type="image/png")
    path = await image.save(tmp_path / "picture.png")
    assert path.read_bytes() == IMAGE
    with pytest.raises(OSError, match="No such file"):
        await image.save(tmp_path / "missing" / "picture.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["picture.png"]


async def test_map_gives_an_outcome_for_every_request_and_reads_no_further_ahead() -> None:
    async def serve(connection: Connection) -> None:
        while True:
            body = await connection.request()
            refused = b"fails" in body
            status = "400 Bad Request" if refused else "200 OK"
            kind = "application/json" if refused else "image/png"
            await connection.send(answer(status=status, content_type=kind))

    read = 0

    def requests() -> Iterator[GenerateCore]:
        nonlocal read
        for number in range(60):
            read += 1
            yield GenerateCore(prompt="fails" if number % 3 == 0 else "works", seed=number)

    taken: list[int] = []
    failed = 0
    async with raw_server(serve) as url, client(base_url=url, quota=None) as one:
        async for outcome in one.map(requests(), max_in_flight=5):
            assert isinstance(outcome.request, GenerateCore)
            assert outcome.request.seed is not None
            taken.append(outcome.request.seed)
            assert read - len(taken) < 5
            if outcome.error is not None:
                assert isinstance(outcome.error, BadRequestError)
                assert outcome.result is None
                failed += 1
            else:
                assert isinstance(outcome.result, Image)
    assert sorted(taken) == list(range(60))
    assert failed == 20


async def test_a_429_shuts_everybody_out_at_once_and_costs_no_other_attempt() -> None:
    """The second request asks for its permit after the 429: it waits without being sent."""
    requests = 0

    async def serve(connection: Connection) -> None:
        nonlocal requests
        while True:
            await connection.request()
            requests += 1
            limited = answer(b"{}", status="429 Too Many Requests", content_type="application/json")
            await connection.send(limited)

    quota = Quota(penalty=30)
    async with raw_server(serve) as url, client(base_url=url, quota=quota) as one:
        with pytest.raises(RateLimitError):
            await one.generate.core("x")
        statistics = one.quota_statistics()
        assert statistics is not None
        assert 29 < statistics.penalty_left <= 30
        second = asyncio.create_task(one.generate.core("x"))
        await asyncio.sleep(0.05)
        assert requests == 1
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second


async def test_a_request_that_gets_no_connection_gives_its_slot_back() -> None:
    async with client(base_url="http://127.0.0.1:1") as one:
        for _ in range(3):
            with pytest.raises(StabilityError, match="cannot connect"):
                await one.generate.core("x")
        statistics = one.quota_statistics()
    assert statistics is not None
    assert (statistics.in_window, statistics.open) == (0, 0)


async def test_a_request_cut_off_after_it_left_counts_as_sent() -> None:
    async def closes(connection: Connection) -> None:
        await connection.request()

    async with raw_server(closes) as url, client(base_url=url) as one:
        with pytest.raises(StabilityError):
            await one.generate.core("x")
        statistics = one.quota_statistics()
    assert statistics is not None
    assert (statistics.in_window, statistics.open) == (1, 0)


async def test_the_priority_of_a_client_is_that_of_its_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    acquire = QuotaLimiter.acquire

    async def noting(self: QuotaLimiter, **options: object) -> object:
        asked.append(str(options["priority"]))
        return await acquire(self, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(QuotaLimiter, "acquire", noting)

    async def serve(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(answer())

    async with raw_server(serve) as url, client(base_url=url, priority="bulk") as one:
        await one.generate.core("x")
        await one.generate.core("x", priority="interactive")
    async with raw_server(serve) as url, client(base_url=url) as one:
        await one.generate.core("x")
        async for _ in one.map([GenerateCore(prompt="x")]):
            pass
    assert asked == ["bulk", "interactive", "interactive", "bulk"]


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_map_of_nothing_at_a_time_is_refused(limit: int) -> None:
    async with client(quota=None) as one:
        with pytest.raises(InvalidRequestError, match=f"max_in_flight: given {limit}; allowed"):
            one.map([GenerateCore(prompt="x")], max_in_flight=limit)


async def test_a_tenant_that_no_header_can_carry_is_an_error_of_its_call() -> None:
    async with client(tenant_ids="plain") as one:
        with pytest.raises(InvalidRequestError, match="tenant: given 'zoë'; allowed: printable"):
            await one.generate.core("x", tenant="zoë")


@pytest.mark.parametrize(("word", "meant"), [("max_retries", "retry"), ("key", "api_key")])
def test_a_word_of_other_clients_is_pointed_to_ours(word: str, meant: str) -> None:
    settings: dict[str, Any] = {word: 3}
    with pytest.raises(ConfigurationError, match=f"did you mean {meant}\\?"):
        StabilityClient(**settings)


def test_a_connection_error_without_a_number_has_none_in_its_text() -> None:
    error = translate(aiohttp.ClientOSError(None, "Can not write"), sent=True, asked="submit")
    assert str(error).startswith("the connection broke: Can not write;")
