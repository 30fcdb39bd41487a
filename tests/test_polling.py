"""A generation is polled at most every ten seconds, and no paid id is lost."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
from base64 import b64encode
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_async import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    Audio,
    AudioResult,
    AuthenticationError,
    ConfigurationError,
    ContentFilteredError,
    Image,
    ImageResult,
    InvalidRequestError,
    InvalidResponseError,
    NotFoundError,
    RetryPolicy,
    StabilityClient,
    StabilityError,
    TextToAudio,
    UpscaleCreative,
    UpscaleFast,
)
from stable_async.api.answers import Answer, read_error
from stable_async.api.verdict import judge_broken_connection
from stable_async.transport.polling import Polling
from tests.errors_of import api_error, envelope
from tests.raw_server import Connection, answer, raw_server
from tests.samples import mp3, png, sample_image

if TYPE_CHECKING:
    from pathlib import Path

UNAUTHORIZED = envelope("unauthorized")
ID = "a6dc6c6e20acda010fe14d71f180658f2896ed9b4ec25aa99a6ff06c796987c4"
REQUEST = UpscaleCreative(image=sample_image(), prompt="a lighthouse")
SUBMITTED = answer(b'{"id": "%s"}' % ID.encode(), content_type="application/json")
RUNNING = answer(
    b'{"id": "%s", "status": "in-progress"}' % ID.encode(),
    status="202 Accepted",
    content_type="application/json",
)
IMAGE = png(100)
FINISHED = answer(IMAGE, headers="seed: 7\r\nfinish-reason: SUCCESS\r\n")
FILTERED = answer(IMAGE, headers="finish-reason: CONTENT_FILTERED\r\n")
BROKEN = b""
TORN = answer(IMAGE[:90], length=100)
GONE = answer(
    b'{"id": "x", "name": "generation_not_found", "errors": ["id: expired"]}',
    status="404 Not Found",
    content_type="application/json",
)


class VirtualTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    def polling(self) -> Polling:
        return Polling(10.0, clock=self.clock, sleep=self.sleep)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 15), st.floats(0, 25)), max_size=30),
)
def test_two_looks_at_a_generation_are_never_less_than_the_interval_apart(
    calls: list[tuple[str, float, float]],
) -> None:
    time = VirtualTime()
    polling = time.polling()
    ended: dict[str, float] = {}

    async def look(generation: str, duration: float) -> None:
        assert time.now >= ended.get(generation, 0.0) + 10.0
        time.now += duration
        ended[generation] = time.now

    async def run() -> None:
        for generation, pause, duration in calls:
            time.now += pause
            await polling.once(generation, partial(look, generation, duration))

    asyncio.run(run())


async def test_the_first_look_is_an_interval_after_the_submission() -> None:
    time = VirtualTime()
    polling = time.polling()
    looks: list[float] = []

    async def look() -> str | None:
        looks.append(time.now - 1_000.0)
        return "found" if len(looks) == 3 else None

    polling.rest(ID)
    assert await polling.until_found(ID, look) == "found"
    assert looks == [10.0, 20.0, 30.0]


async def test_looks_of_several_waiters_share_the_interval() -> None:
    time = VirtualTime()
    polling = time.polling()
    looks: list[float] = []

    async def look() -> bool:
        looks.append(time.now)
        return True

    await asyncio.gather(*(polling.once(ID, look) for _ in range(4)))
    assert all(later - earlier >= 10.0 for earlier, later in pairwise(looks))


async def test_generations_that_may_be_looked_at_again_are_forgotten() -> None:
    time = VirtualTime()
    polling = time.polling()
    for number in range(1_000):
        polling.rest(str(number))
        time.now += 1.0
    assert len(polling._next) <= 11


async def test_whatever_the_way_says_is_looked_at_again_until_the_limit() -> None:
    time = VirtualTime()
    started = time.now
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        raise look_error(looks)

    with pytest.raises(APITimeoutError, match=rf"1800 s.*generation {ID}") as caught:
        await time.polling().until_found(ID, look)
    assert 1780 < time.now - started <= 1800
    assert looks > 100
    assert caught.value.generation_id == ID
    assert (caught.value.verdict.billed, caught.value.verdict.job) == ("yes", "look")


def look_error(number: int) -> StabilityError:
    """Return an error of a look, another one for each number."""
    statuses = (404, 502, 503, 504, 520, 521, 522, 523, 524, 403, 401, 407, 301, 408, 425, 429, 500)
    if number % 3 == 0:
        return APIConnectionError(
            "broken", verdict=judge_broken_connection(sent=number % 2 == 0, asked="look")
        )
    return read_error(Answer(statuses[number % len(statuses)], {}, b"<html>no</html>", "look"))


async def test_a_running_generation_is_not_waited_for_longer_than_the_limit() -> None:
    time = VirtualTime()

    async def look() -> None:
        return None

    with pytest.raises(APITimeoutError, match="still running") as caught:
        await time.polling().until_found(ID, look)
    assert caught.value.generation_id == ID


async def test_a_look_that_says_when_to_come_back_is_obeyed() -> None:
    time = VirtualTime()
    looks = []

    async def look() -> str | None:
        looks.append(time.now)
        if len(looks) == 1:
            raise read_error(Answer(503, {"Retry-After": "42.5"}, b"", "look"))
        return "found"

    await time.polling().until_found(ID, look)
    assert looks[1] - looks[0] == 42.5


@pytest.mark.parametrize("name", ["generation_not_found", "bad_request", "unauthorized"])
async def test_the_word_of_the_api_ends_a_generation_at_once(name: str) -> None:
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        raise read_error(Answer(404, {}, envelope(name), "look"))

    with pytest.raises(APIStatusError) as caught:
        await VirtualTime().polling().until_found(ID, look)
    assert looks == 1
    assert ID in str(caught.value)


class Script:
    """A server that answers one request after the other with what it was given."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.requests: list[str] = []

    async def __call__(self, connection: Connection) -> None:
        head = await connection.head()
        self.requests.append(head.partition(" HTTP/")[0])
        length = head.lower().partition("content-length: ")[2].partition("\r\n")[0]
        await connection.reader.readexactly(int(length or 0))
        # One request for each connection, so that a broken one is not mistaken for a stale one.
        reply = self.answers.pop(0).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        await connection.send(reply)


def client_of(url: str) -> StabilityClient:
    retry = RetryPolicy(attempts=2, initial_backoff=0)
    return StabilityClient("sk-key", base_url=url, quota=None, retry=retry, poll_interval=0)


POLL = f"GET /v2beta/results/{ID}"
SUBMIT = "POST /v2beta/stable-image/upscale/creative"


async def test_a_coroutine_submits_waits_and_gives_the_image() -> None:
    script = Script(SUBMITTED, RUNNING, RUNNING, FINISHED)
    async with raw_server(script) as url, client_of(url) as client:
        image = await client.upscale.creative(sample_image(), "a lighthouse")
    assert (image.data, image.seed, image.credits) == (IMAGE, 7, 60)
    assert script.requests == [SUBMIT, POLL, POLL, POLL]


async def test_a_submission_is_a_request_that_another_process_can_send() -> None:
    script = Script(SUBMITTED, RUNNING, FINISHED)
    async with raw_server(script) as url:
        async with client_of(url) as client:
            submission = await client.submit(REQUEST)
        assert (submission.id, submission.paid, submission.credits) == (ID, 60, 0)
        stored = pickle.dumps(submission)
        async with client_of(url) as client:
            image = await client.send(pickle.loads(stored))
    assert isinstance(image, Image)
    assert image.credits == 60


async def test_an_id_alone_is_enough_for_the_result() -> None:
    async with raw_server(Script(RUNNING, FINISHED)) as url, client_of(url) as client:
        image = await client.results.get(ID)
    assert (image.data, image.credits) == (IMAGE, None)


async def test_audio_has_a_path_of_its_own() -> None:
    submitted = SUBMITTED.replace(b"200 OK", b"202 Accepted")
    sample_audio = answer(mp3(0.1), content_type="audio/mpeg")
    script = Script(submitted, sample_audio, sample_audio)
    async with raw_server(script) as url, client_of(url) as client:
        submission = await client.submit(TextToAudio(prompt="rain", model="stable-audio-3"))
        assert isinstance(submission, AudioResult)
        assert isinstance(await client.send(submission), Audio)
        assert isinstance(await client.results.get_audio(ID), Audio)
    assert script.requests == [
        "POST /v2beta/audio/stable-audio/text-to-audio",
        f"GET /v2beta/audio/results/{ID}",
        f"GET /v2beta/audio/results/{ID}",
    ]


async def test_poll_looks_once() -> None:
    async with raw_server(Script(RUNNING, FINISHED)) as url, client_of(url) as client:
        assert await client.poll(ImageResult(id=ID)) is None
        image = await client.poll(ImageResult(id=ID, paid=60))
    assert image is not None
    assert image.credits == 60


async def test_a_stream_of_an_asynchronous_operation_is_the_finished_result(tmp_path: Path) -> None:
    script = Script(SUBMITTED, RUNNING, FINISHED)
    async with (
        raw_server(script) as url,
        client_of(url) as client,
        client.stream(REQUEST) as stream,
    ):
        assert (stream.generation_id, stream.seed, stream.content_length) == (ID, 7, 100)
        path = await stream.save(tmp_path / "picture.png")
    assert path.read_bytes() == IMAGE


async def test_a_connection_that_breaks_while_polling_costs_nothing() -> None:
    script = Script(SUBMITTED, BROKEN, TORN, FINISHED)
    async with raw_server(script) as url, client_of(url) as client:
        image = await client.send(REQUEST)
    assert image.data == IMAGE
    assert script.requests == [SUBMIT, POLL, POLL, POLL]


PAGES = [
    answer(b"<html>no</html>", status=f"{status} x", content_type="text/html")
    for status in (
        200,
        301,
        401,
        403,
        404,
        407,
        408,
        425,
        451,
        500,
        502,
        503,
        504,
        520,
        521,
        522,
        523,
        524,
        525,
        526,
        530,
        599,
        999,
    )
]
OTHERS = [
    BROKEN,
    TORN,
    IMAGE,  # no HTTP
    answer(b"", status="204 x"),
    answer(b"\x8b" * 50, headers="Content-Encoding: br\r\n"),
    answer(envelope("internal_error"), status="500 x"),
    answer(envelope("internal_error"), status="200 x"),
    answer(envelope("rate_limit_exceeded"), status="429 x"),
]


@pytest.mark.parametrize("streams", [False, True])
async def test_nothing_that_the_way_says_ends_a_generation_or_buys_it_again(streams: bool) -> None:
    # A stream that has begun cannot begin again by itself: its error says to look again.
    answers = [*PAGES, *(one for one in OTHERS if one != TORN or not streams), RUNNING]
    script = Script(SUBMITTED, *answers, FINISHED)
    async with raw_server(script) as url, client_of(url) as client:
        client._session.polling = VirtualTime().polling()
        image = await (streamed(client) if streams else client.send(REQUEST))
    assert image.data == IMAGE
    assert script.requests == [SUBMIT, *[POLL] * (len(answers) + 1)]


async def test_a_submission_that_breaks_is_never_sent_again() -> None:
    script = Script(BROKEN)
    async with raw_server(script) as url, client_of(url) as client:
        with pytest.raises(APIConnectionError) as caught:
            await client.send(REQUEST)
    assert caught.value.maybe_billed
    assert caught.value.generation_id is None


async def streamed(client: StabilityClient) -> Image:
    async with client.stream(REQUEST) as stream:
        return await stream.read()


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([GONE], NotFoundError),
        ([answer(UNAUTHORIZED, status="401 Unauthorized")], AuthenticationError),
    ],
)
async def test_what_is_raised_while_polling_carries_the_id(
    answers: list[bytes], error: type[StabilityError], streams: bool
) -> None:
    async with raw_server(Script(SUBMITTED, *answers)) as url, client_of(url) as client:
        with pytest.raises(error) as caught:
            await (streamed(client) if streams else client.send(REQUEST))
    assert caught.value.generation_id == ID
    assert pickle.loads(pickle.dumps(caught.value)).generation_id == ID


async def test_a_look_carries_the_id_that_was_asked_for() -> None:
    other = answer(b'{"id": "another", "status": "unknown"}', content_type="application/json")
    async with raw_server(Script(other)) as url, client_of(url) as client:
        with pytest.raises(InvalidResponseError) as caught:
            await client.poll(ImageResult(id=ID))
    assert caught.value.generation_id == ID


async def test_a_stream_that_breaks_after_it_was_recognised_carries_the_id() -> None:
    async with raw_server(Script(SUBMITTED, TORN)) as url, client_of(url) as client:
        with pytest.raises(APIConnectionError) as caught:
            await streamed(client)
    assert caught.value.generation_id == ID
    assert caught.value.verdict.job == "look"


async def test_errors_of_other_requests_within_a_stream_are_not_its_own() -> None:
    async with raw_server(Script(SUBMITTED, FINISHED)) as url, client_of(url) as client:
        with pytest.raises(APIStatusError) as caught:
            async with client.stream(REQUEST):
                raise api_error(418)
    assert caught.value.generation_id is None


async def test_a_cancelled_wait_logs_the_id_that_nobody_has_seen(
    caplog: pytest.LogCaptureFixture,
) -> None:
    polled = asyncio.Event()

    async def never_ready(connection: Connection) -> None:
        head = await connection.head()
        if head.startswith("POST"):
            length = head.lower().partition("content-length: ")[2].partition("\r\n")[0]
            await connection.reader.readexactly(int(length))
            await connection.send(SUBMITTED)
        else:
            polled.set()
            await connection.reader.read()

    async with raw_server(never_ready) as url, client_of(url) as client:
        waiting = asyncio.create_task(client.send(REQUEST))
        await polled.wait()
        waiting.cancel()
        with caplog.at_level(logging.WARNING), pytest.raises(asyncio.CancelledError):
            await waiting
    assert ID in caplog.text


async def test_a_filtered_result_is_an_error_only_for_those_who_want_it() -> None:
    script = Script(SUBMITTED, FILTERED, SUBMITTED, FILTERED)
    async with raw_server(script) as url, client_of(url) as client:
        assert (await client.send(REQUEST)).filtered
        with pytest.raises(ContentFilteredError) as caught:
            await client.send(REQUEST, raise_on_filtered=True)
    assert isinstance(caught.value.result, Image)


IN_JSON = json.dumps({"image": b64encode(IMAGE).decode(), "seed": 7, "finish_reason": "SUCCESS"})


@pytest.mark.parametrize(
    "reply", [FINISHED, answer(IN_JSON.encode(), content_type="application/json")]
)
async def test_a_result_in_place_of_its_id_is_kept(reply: bytes, tmp_path: Path) -> None:
    """As an operation answers that has become synchronous."""
    script = Script(reply, reply, reply)
    async with raw_server(script) as url, client_of(url) as client:
        image = await client.send(REQUEST)
        assert isinstance(image, Image)
        assert (image.data, image.seed, image.credits) == (IMAGE, 7, 60)
        async with client.stream(REQUEST) as stream:
            path = await stream.save(tmp_path / "a.png")
        assert (path.read_bytes(), stream.seed, stream.generation_id) == (IMAGE, 7, None)
        with pytest.raises(InvalidResponseError, match="the result itself") as caught:
            await client.submit(REQUEST)
        assert caught.value.result == image
    assert script.requests == [SUBMIT] * 3


@pytest.mark.parametrize("errors", [b"[]", b"{}", b"null", b'""'])
async def test_a_generation_with_a_name_and_no_errors_goes_on(errors: bytes) -> None:
    body = b'{"id": "%b", "name": "upscale", "errors": %b}' % (ID.encode(), errors)
    well = answer(body, content_type="application/json")
    script = Script(well, well, FINISHED)
    async with raw_server(script) as url, client_of(url) as client:
        image = await client.send(REQUEST)
    assert isinstance(image, Image)
    assert script.requests == [SUBMIT, POLL, POLL]


@pytest.mark.parametrize("reason", ["ERROR", "error", "CONTENT_FILTERED"])
@pytest.mark.parametrize("in_json", [True, False])
async def test_a_finish_reason_without_a_result_ends_a_generation(
    reason: str, in_json: bool
) -> None:
    body = b'{"finish_reason": "%b", "seed": 7}' % reason.encode()
    reply = answer(body, content_type="application/json")
    if not in_json:
        reply = answer(b"", headers=f"finish-reason: {reason}\r\n")
    async with raw_server(Script(RUNNING, reply)) as url, client_of(url) as client:
        with pytest.raises(InvalidResponseError, match=reason.upper()) as caught:
            await client.results.get(ID)
    assert (caught.value.verdict.job, caught.value.generation_id) == ("final", ID)


async def test_a_synchronous_operation_cannot_be_submitted() -> None:
    async with client_of("http://127.0.0.1:1") as client:
        for request in (UpscaleFast(image=b"x"), TextToAudio(prompt="rain")):
            with pytest.raises(InvalidRequestError, match="synchronous"):
                await client.submit(request)


@pytest.mark.parametrize(
    "content",
    [b"{}", b"[]", b'{"id": null}', b'{"id": ""}', b'{"id": true}', b"no json", UNAUTHORIZED],
)
async def test_a_submission_without_an_id_is_no_success(content: bytes) -> None:
    script = Script(answer(content, content_type="application/json"))
    async with raw_server(script) as url, client_of(url) as client:
        with pytest.raises(InvalidResponseError) as caught:
            await client.submit(REQUEST)
    assert caught.value.verdict.job == "doubt"


@pytest.mark.parametrize(
    "identity", ["7f", "a/b?c=%20#d", "../secret", "caf\u00e9", "two words", "x" * 500]
)
async def test_an_id_of_any_form_is_kept_and_fetched(identity: str) -> None:
    submitted = answer(json.dumps({"id": identity}).encode(), content_type="application/json")
    script = Script(submitted, FINISHED)
    async with raw_server(script) as url, client_of(url) as client:
        await client.send(REQUEST)
    (_, looked) = script.requests
    assert "/" not in looked.removeprefix("GET /v2beta/results/")
    assert unquote(looked) == f"GET /v2beta/results/{identity}"


async def test_an_id_that_is_a_number_is_kept() -> None:
    script = Script(answer(b'{"id": 7}', content_type="application/json"))
    async with raw_server(script) as url, client_of(url) as client:
        assert (await client.submit(REQUEST)).id == "7"


@pytest.mark.parametrize("identity", ['".."', '"."', f'"{"x" * 5000}"'])
async def test_an_id_that_cannot_be_fetched_is_still_told_to_the_caller(identity: str) -> None:
    script = Script(answer(b'{"id": %s}' % identity.encode(), content_type="application/json"))
    async with raw_server(script) as url, client_of(url) as client:
        with pytest.raises(StabilityError) as caught:
            await client.send(REQUEST, max_retries=0)
    assert caught.value.generation_id
    assert caught.value.generation_id.encode()


@pytest.mark.parametrize("identity", ["", " ", ".", "..", "x" * 1001, "\ud83d"])
def test_an_id_is_checked_before_it_goes_into_a_url(identity: str) -> None:
    for model in (ImageResult, AudioResult):
        with pytest.raises(InvalidRequestError, match="1 to 1000 characters"):
            model(id=identity)


@pytest.mark.parametrize("interval", [-1, float("inf"), float("nan")])
def test_an_interval_that_makes_no_sense_is_refused(interval: float) -> None:
    with pytest.raises(ConfigurationError, match="poll_interval"):
        StabilityClient("sk-key", poll_interval=interval)
