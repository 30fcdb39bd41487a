"""How programs call the client: every word and value is checked before anything is sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest

from stable_async import (
    APITimeoutError,
    ConfigurationError,
    Failure,
    GenerateCore,
    ImageResult,
    InvalidRequestError,
    Quota,
    RetryPolicy,
    ServerError,
    StabilityClient,
    Success,
    Timeouts,
    UpscaleCreative,
    V1Engines,
)
from tests.raw_server import Connection, answer, raw_server
from tests.samples import sample_image
from tests.virtual_time import virtual_network_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stable_async.transport.options import ResponseHead

IMAGE = sample_image()
REQUEST = GenerateCore(prompt="x")
GENERATION = "a" * 64


class Server:
    """Answers with an image, after as many refusals as it was told."""

    def __init__(self, *refusals: int) -> None:
        self.refusals = list(refusals)
        self.heads: list[str] = []

    async def __call__(self, connection: Connection) -> None:
        while True:
            head = await connection.head()
            self.heads.append(head)
            length = head.lower().partition("content-length: ")[2].partition("\r\n")[0]
            await connection.reader.readexactly(int(length or 0))
            if self.refusals:
                status = f"{self.refusals.pop(0)} No"
                await connection.send(answer(b"{}", status=status, headers="x-request-id: no\r\n"))
            else:
                await connection.send(answer(IMAGE, headers="x-request-id: yes\r\n"))


def client(url: str, **settings: Any) -> StabilityClient:
    settings.setdefault("quota", Quota(scope="client"))
    return StabilityClient("sk-key", base_url=url, **settings)


async def coroutine(one: StabilityClient, **options: Any) -> None:
    await one.generate.core("x", **options)


async def send(one: StabilityClient, **options: Any) -> None:
    await one.send(REQUEST, **options)


async def stream(one: StabilityClient, **options: Any) -> None:
    async with one.stream(REQUEST, **options):
        pass


async def mapped(one: StabilityClient, **options: Any) -> None:
    async for outcome in one.map([REQUEST], **options):
        if outcome.error is not None:
            raise AssertionError("a wrong word is no failed outcome")


async def submit(one: StabilityClient, **options: Any) -> None:
    await one.submit(UpscaleCreative(image=IMAGE, prompt="x"), **options)


async def poll(one: StabilityClient, **options: Any) -> None:
    await one.poll(ImageResult(id=GENERATION), **options)


async def derived(one: StabilityClient, **options: Any) -> None:
    one.with_options(**options)


CALLS = [coroutine, send, stream, mapped, submit, poll, derived]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
@pytest.mark.parametrize(
    ("word", "right"),
    [("deadlin", "deadline"), ("max_retry", "max_retries"), ("priorty", "priority")],
)
async def test_an_unknown_word_is_an_error_with_the_nearest_right_one(
    call: Callable[..., Awaitable[None]], word: str, right: str
) -> None:
    server = Server()
    async with raw_server(server) as url, client(url) as one:
        with pytest.raises(InvalidRequestError, match=f"{word}: .*did you mean {right}") as caught:
            await call(one, **{word: 1})
    assert [problem.field for problem in caught.value.problems] == [word]
    assert server.heads == []


@pytest.mark.parametrize(
    ("word", "right"),
    [("negative_promt", "negative_prompt"), ("asepct_ratio", "aspect_ratio"), ("Seed", "seed")],
)
async def test_a_misspelt_field_is_found_as_well(word: str, right: str) -> None:
    async with client("http://127.0.0.1:1") as one:
        with pytest.raises(InvalidRequestError, match=f"{word}: .*did you mean {right}"):
            await one.generate.core("x", **{word: "y"})  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match=f"{word}: .*did you mean {right}"):
        GenerateCore(prompt="x", **{word: "y"})  # type: ignore[arg-type]


async def test_a_word_that_resembles_none_is_told_what_there_is() -> None:
    async with client("http://127.0.0.1:1") as one:
        with pytest.raises(InvalidRequestError, match=r"zzz: no such argument; .*prompt.*timeout"):
            await one.generate.core("x", zzz=512)  # type: ignore[call-arg]
        with pytest.raises(InvalidRequestError, match="did you mean max_in_flight"):
            one.map([], max_inflight=2)  # type: ignore[call-arg]


WRONG: list[tuple[str, object]] = [
    ("timeout", "5"),
    ("timeout", 0),
    ("timeout", True),
    ("timeout", float("nan")),
    ("max_retries", -1),
    ("max_retries", 1.5),
    ("max_retries", RetryPolicy()),
    ("deadline", "5"),
    ("deadline", -1),
    ("priority", "bulkk"),
    ("priority", None),
    ("tenant", 1.5),
    ("tenant", b"u7"),
    ("tenant", True),
    ("extra_headers", "x: y"),
    ("extra_headers", {"x": 1}),
    ("extra_headers", {"x y": "1"}),
    ("extra_headers", {"x": "1\r\nHost: other"}),
    ("extra_headers", {"authorization": "Bearer other"}),
    ("raise_on_filtered", 1),
    ("on_response", 7),
    ("observer", 7),
    ("on_disconnect", "finnish"),
    ("on_disconnect", "finish"),  # without on_finished
    ("on_finished", 7),
]


@pytest.mark.parametrize(("word", "value"), WRONG)
async def test_a_value_of_a_wrong_type_is_an_error_that_names_what_is_allowed(
    word: str, value: object
) -> None:
    server = Server()
    async with raw_server(server) as url, client(url) as one:
        for call in CALLS:
            with pytest.raises(InvalidRequestError, match="allowed: "):
                await call(one, **{word: value})
    assert server.heads == []


async def test_everything_wrong_with_a_call_is_told_at_once() -> None:
    async with client("http://127.0.0.1:1") as one:
        with pytest.raises(InvalidRequestError) as caught:
            await one.send(REQUEST, priority="bulkk", deadlin=1)  # type: ignore[arg-type,call-arg]
    assert [problem.field for problem in caught.value.problems] == ["priority", "deadlin"]
    assert "did you mean 'bulk'" in str(caught.value)


@pytest.mark.parametrize("request_", ["a lighthouse", None, 7, GenerateCore, {"prompt": "x"}])
async def test_what_is_no_request_is_refused(request_: object) -> None:
    server = Server()
    async with raw_server(server) as url, client(url) as one:
        for call in (one.send, one.submit, one.poll):
            with pytest.raises(InvalidRequestError, match="allowed: a "):
                await cast("Any", call)(request_)
        with pytest.raises(InvalidRequestError, match="allowed: a "):
            async with one.stream(cast("Any", request_)):
                pass
        outcomes = [outcome async for outcome in one.map([cast("Any", request_), REQUEST])]
    kinds = {type(outcome.error) for outcome in outcomes}
    assert kinds == {InvalidRequestError, type(None)}
    assert len(server.heads) == 1


async def test_a_request_of_another_kind_is_refused() -> None:
    server = Server()
    async with raw_server(server) as url, client(url) as one:
        with pytest.raises(InvalidRequestError, match="ResultRequest"):
            await one.poll(REQUEST)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequestError, match="one image, audio or model"):
            async with one.stream(V1Engines()):  # type: ignore[arg-type]
                pass
        with pytest.raises(InvalidRequestError, match="requests: given a value of type Generate"):
            one.map(REQUEST)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequestError, match="requests: given a value of type int"):
            one.map(7)  # type: ignore[arg-type]
    assert server.heads == []


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 30},
        {"timeout": None},
        {"timeout": Timeouts(total=30)},
        {"retry": 3},
        {"retry": 0},
        {"max_in_flight": 1},
        {"poll_interval": 0},
        {"ssl": None},
    ],
)
def test_a_setting_takes_what_is_clear(settings: dict[str, Any]) -> None:
    StabilityClient("sk-key", **settings)


SETTINGS: list[tuple[type, dict[str, Any]]] = [
    (StabilityClient, {"timeout": "30"}),
    (StabilityClient, {"timeout": 0}),
    (StabilityClient, {"timeout": 10**400}),
    (StabilityClient, {"retry": "3"}),
    (StabilityClient, {"retry": -1}),
    (StabilityClient, {"retry": True}),
    (StabilityClient, {"tenant_ids": "none"}),
    (StabilityClient, {"priority": "bulkk"}),
    (StabilityClient, {"accept": "image/png"}),
    (StabilityClient, {"max_in_flight": "2"}),
    (StabilityClient, {"max_waiting": -1}),
    (StabilityClient, {"poll_interval": "10"}),
    (StabilityClient, {"raise_on_filtered": "yes"}),
    (StabilityClient, {"log_prompts": 1}),
    (StabilityClient, {"api_key": 7}),
    (StabilityClient, {"base_url": 7}),
    (StabilityClient, {"quota": 150}),
    (StabilityClient, {"client_id": 7}),
    (StabilityClient, {"tiemout": 3}),
    (Quota, {"requests": "150"}),
    (Quota, {"reqests": 150}),
    (Quota, {"window": None}),
    (Quota, {"adaptive": "yes"}),
    (RetryPolicy, {"attempts": 1.5}),
    (RetryPolicy, {"atempts": 3}),
    (Timeouts, {"connect": "3"}),
    (Timeouts, {"totl": 3}),
]


@pytest.mark.parametrize(("kind", "settings"), SETTINGS)
def test_a_setting_that_means_nothing_is_one_configuration_error(
    kind: type, settings: dict[str, Any]
) -> None:
    arguments = {"api_key": "sk-key", **settings} if kind is StabilityClient else settings
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        kind(**arguments)


def test_the_address_is_that_without_the_version() -> None:
    """With it, the API answers 404 to each row of a job, which is final."""
    for url in ("https://API.stability.ai/v1/", "http://127.0.0.1:9/mirror/v2beta"):
        with pytest.raises(ConfigurationError, match="the version is part of each operation"):
            StabilityClient("sk-key", base_url=url)
    for url in ("https://api.stability.ai/", "https://gateway.test/v1"):
        StabilityClient("sk-key", base_url=url)


def test_an_unknown_setting_is_told_the_nearest_right_one() -> None:
    with pytest.raises(ConfigurationError, match=r"tiemout: .*did you mean timeout"):
        StabilityClient("sk-key", tiemout=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (2, 3)])
async def test_max_retries_of_a_call_is_one_attempt_less(retries: int, attempts: int) -> None:
    server = Server(*[500] * 10)
    async with raw_server(server) as url, client(url, retry=RetryPolicy(initial_backoff=0)) as one:
        with pytest.raises(ServerError) as caught:
            await one.generate.core("x", max_retries=retries)
        assert caught.value.attempts == len(server.heads) == attempts
        with pytest.raises(ServerError):
            await one.generate.core("x")
        assert len(server.heads) == attempts + 5


async def test_a_number_is_the_number_of_retries() -> None:
    server = Server(*[500] * 10)
    quick = RetryPolicy.of(1)
    assert quick.attempts == 2
    async with raw_server(server) as url, client(url, retry=0) as one:
        with pytest.raises(ServerError):
            await one.generate.core("x")
    assert len(server.heads) == 1


@pytest.mark.parametrize("stalled", ["before the answer", "within the answer"])
@pytest.mark.parametrize("as_timeouts", [False, True])
@virtual_network_time
async def test_the_timeout_of_a_call_is_the_total_of_one_attempt(
    stalled: str, as_timeouts: bool
) -> None:
    stopped = asyncio.Event()

    async def stalls(connection: Connection) -> None:
        await connection.request()
        if stalled == "within the answer":
            await connection.send(answer(IMAGE)[:-10])
        await stopped.wait()

    limit = Timeouts(total=0.25) if as_timeouts else 0.25
    async with raw_server(stalls) as url, client(url) as one:
        with pytest.raises(APITimeoutError, match="time limit") as caught:
            await one.generate.core("x", timeout=limit)
        with pytest.raises(APITimeoutError, match="time limit"):
            await one.with_options(timeout=limit).generate.core("x")
        stopped.set()
    assert caught.value.maybe_billed


@virtual_network_time
async def test_the_timeout_does_not_include_the_wait_for_the_quota() -> None:
    quota = Quota(requests=1, window=1.2, jitter=0, adaptive=False, scope="client")
    async with raw_server(Server()) as url, client(url, quota=quota, timeout=1) as one:
        for _ in range(2):  # the second one waits for longer than that
            await one.generate.core("x")


async def test_a_timeout_of_none_and_a_long_one_have_no_limit_of_their_own() -> None:
    assert Timeouts.of(None) == Timeouts(None, None, None, None)
    assert Timeouts.of(600).first_byte == 600


async def test_extra_headers_go_with_the_call_and_replace_the_clients() -> None:
    server = Server()
    async with raw_server(server) as url, client(url, client_id="ours") as one:
        headers = {"X-Trace": "7", "user-agent": "theirs", "Stability-Client-ID": "other"}
        await one.generate.core("x", extra_headers=headers)
        await one.generate.core("x")
    first, second = server.heads
    assert "X-Trace: 7\r\n" in first
    assert "user-agent: theirs\r\n" in first
    assert "stable_async/" not in first
    assert "Stability-Client-ID: other\r\n" in first
    assert "ours" not in first
    assert "ours" in second


async def test_on_response_sees_status_and_headers_of_every_response() -> None:
    heads: list[ResponseHead] = []
    server = Server(500)
    async with raw_server(server) as url, client(url, retry=RetryPolicy(initial_backoff=0)) as one:
        await one.generate.core("x", on_response=heads.append)
        async with one.stream(REQUEST, on_response=heads.append):
            pass
    assert [head.status for head in heads] == [500, 200, 200]
    assert [head.headers["X-REQUEST-ID"] for head in heads] == ["no", "yes", "yes"]


async def test_a_mistake_in_on_response_loses_no_image(caplog: pytest.LogCaptureFixture) -> None:
    def fails(head: ResponseHead) -> None:
        raise ZeroDivisionError

    async with raw_server(Server()) as url, client(url) as one:
        assert (await one.generate.core("x", on_response=fails)).data == IMAGE
    assert "on_response raised an error" in caplog.text


async def test_with_options_has_the_same_connections_and_the_same_quota() -> None:
    server = Server()
    async with raw_server(server) as url, client(url) as one:
        named = one.with_options(tenant=7, extra_headers={"X-Who": "7"})
        await one.generate.core("x")
        await named.generate.core("x")
        await named.with_options(extra_headers={"X-Who": "8"}).generate.core("x")
        await one.generate.core("x")
        before, after = one.quota_statistics(), named.quota_statistics()
    assert before is not None
    assert after is not None
    assert before.granted == after.granted == 4
    who = [head.partition("X-Who: ")[2][:1] for head in server.heads]
    assert who == ["", "7", "8", ""]
    tenants = ["client-user-id" in head for head in server.heads]
    assert tenants == [False, True, True, False]


async def test_a_map_is_bulk_unless_a_priority_was_named() -> None:
    """Seen from the calls in flight, with a quota that serves none of them."""
    quota = Quota(requests=1, window=600, scope="client")
    async with raw_server(Server()) as url, client(url, quota=quota) as one:
        await one.generate.core("x")
        for named, bulk in ((one, 1), (one.with_options(priority="interactive"), 0)):
            waiting = asyncio.ensure_future(anext(named.map([REQUEST])))
            while not (statistics := one.quota_statistics()) or not statistics.waiting:
                await asyncio.sleep(0)
            assert statistics.waiting_bulk == bulk
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


async def test_an_outcome_is_a_success_or_a_failure() -> None:
    async with raw_server(Server(400)) as url, client(url) as one:
        outcomes = [outcome async for outcome in one.map([REQUEST, REQUEST], max_in_flight=1)]
    match outcomes:
        case [Failure(request=first, error=error), Success(request=second, result=image)]:
            assert first is second is REQUEST
            assert error.status == 400  # type: ignore[attr-defined]
            assert image.data == IMAGE
        case _:
            raise AssertionError(outcomes)


async def test_open_and_aclose_do_what_a_block_does() -> None:
    async with raw_server(Server()) as url:
        one = await client(url).open()
        assert (await one.generate.core("x")).data == IMAGE
        await one.aclose()
        await one.aclose()
        with pytest.raises(ConfigurationError, match="not open"):
            await one.generate.core("x")


@pytest.mark.parametrize("awaited", [True, False])
async def test_a_submission_that_has_left_is_finished_and_kept_as_any_call(
    nothing_leaks: None, awaited: bool, caplog: pytest.LogCaptureFixture
) -> None:
    asked, told = asyncio.Event(), asyncio.Event()
    kept: list[object] = []

    async def accepts(connection: Connection) -> None:
        await connection.request()
        asked.set()
        await told.wait()
        body = f'{{"id": "{GENERATION}"}}'.encode()
        await connection.send(answer(body, status="202 Yes", content_type="application/json"))

    async def keep(result: object) -> None:
        kept.append(result)

    async with raw_server(accepts) as url, client(url) as one:
        request = UpscaleCreative(image=IMAGE, prompt="x")
        receiver = cast("Any", keep if awaited else kept.append)
        submitting = asyncio.ensure_future(
            one.submit(request, on_disconnect="finish", on_finished=receiver)
        )
        await asked.wait()
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting
        told.set()
        await one.aclose()
    assert kept == [ImageResult(id=GENERATION, paid=60)]
    assert not caplog.records


async def test_a_misspelt_word_within_a_field_is_told_from_those_around_it() -> None:
    async with client("http://127.0.0.1:1") as one:
        with pytest.raises(InvalidRequestError) as caught:
            await one.v1.text_to_image("e", cast("Any", [{"text": "x", "wieght": 1}]))
    (problem,) = caught.value.problems
    assert problem.field == "text_prompts.0.wieght"
    assert problem.given == "no such argument, did you mean weight?"
    assert problem.allowed == "text, weight"


@pytest.mark.parametrize("host", ["a..b", "a" * 64, ""])
@pytest.mark.parametrize("setting", ["base_url", "proxy"])
def test_a_host_that_cannot_be_looked_up_is_refused_at_once(setting: str, host: str) -> None:
    settings: dict[str, Any] = {"base_url": "https://api.test", setting: f"http://{host}"}
    with pytest.raises(ConfigurationError, match="allowed: http://"):
        StabilityClient("sk-key", **settings)
