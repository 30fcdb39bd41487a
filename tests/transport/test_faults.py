"""Servers that misbehave: each raises its typed error in bounded time and leaks nothing."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from base64 import b64encode
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from stable_async import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    GenerateCore,
    GenerateUltra,
    InvalidResponseError,
    PayloadTooLargeError,
    RateLimitError,
    RetryPolicy,
    StabilityClient,
    StabilityError,
    Timeouts,
    UpscaleFast,
    V1TextToImage,
)
from stable_async.transport import connections as connections_module
from tests.raw_server import Answering, answer, raw_server
from tests.samples import PNG_HEAD, png
from tests.virtual_time import virtual_network_time

if TYPE_CHECKING:
    from pathlib import Path

    from stable_async import Request
    from tests.raw_server import Connection

pytestmark = pytest.mark.usefixtures("nothing_leaks")

KEY = "sk-0123456789abcdef"
SHORT = Timeouts(connect=1, first_byte=0.1, between_bytes=0.1)


def client(url: str, *, attempts: int = 1, accept: str | None = None) -> StabilityClient:
    assert accept in {None, "application/json"}
    return StabilityClient(
        KEY,
        base_url=url,
        quota=None,
        retry=RetryPolicy(attempts=attempts, initial_backoff=0),
        timeout=SHORT,
        accept="application/json" if accept else None,
    )


async def closes_before_the_answer(connection: Connection) -> None:
    await connection.request()


async def closes_in_mid_header(connection: Connection) -> None:
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: ima")


async def closes_in_mid_body(connection: Connection) -> None:
    await connection.request()
    await connection.send(answer(b"half", length=1000))


async def resets_in_mid_body(connection: Connection) -> None:
    await connection.request()
    await connection.send(answer(b"half", length=1000))
    connection.writer.transport.abort()


async def closes_in_mid_chunk(connection: Connection) -> None:
    await connection.request()
    await connection.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"400\r\nnot that many"
    )


async def sends_a_chunk_without_a_length(connection: Connection) -> None:
    await connection.request()
    await connection.send(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nxyz\r\n"
    )
    await connection.reader.read()


async def is_not_http(connection: Connection) -> None:
    await connection.request()
    await connection.send(b"220 mail.example ESMTP\r\n\r\n")


@pytest.mark.parametrize(
    "misbehaves",
    [
        closes_before_the_answer,
        closes_in_mid_header,
        closes_in_mid_body,
        resets_in_mid_body,
        closes_in_mid_chunk,
        sends_a_chunk_without_a_length,
        is_not_http,
    ],
)
async def test_a_broken_answer_may_have_been_billed_and_is_not_tried_again(
    misbehaves: object,
) -> None:
    connections = 0

    async def serve(connection: Connection) -> None:
        nonlocal connections
        connections += 1
        assert callable(misbehaves)
        await misbehaves(connection)

    async with raw_server(serve) as url, client(url, attempts=3) as one:
        with pytest.raises(APIConnectionError) as caught:
            await one.generate.core("a lighthouse")
    assert caught.value.maybe_billed
    assert type(caught.value) is APIConnectionError, "no time limit had to expire"
    assert connections == 1


@pytest.mark.parametrize("last_words", [b"", answer(b"", status="408 Request Time-out")])
async def test_a_connection_that_ends_while_the_loop_is_busy_is_not_used_again(
    last_words: bytes,
) -> None:
    """As after `time.sleep`, in a stopped process, or under a closed lid."""
    ended = threading.Event()
    requests = 0

    def serve(listening: socket.socket) -> None:
        nonlocal requests
        for _ in range(2):
            accepted, _ = listening.accept()
            with accepted, accepted.makefile("rwb") as file:
                while (line := file.readline()).strip():
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                file.read(length)
                requests += 1
                file.write(answer())
                file.flush()
                answered.wait(10)
                file.write(last_words)
            ended.set()

    answered = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=serve, args=(listening,), daemon=True)
        server.start()
        async with client(f"http://127.0.0.1:{listening.getsockname()[1]}") as one:
            await one.generate.core("x")
            answered.set()
            assert ended.wait(10)  # the event loop sees nothing of it
            await one.generate.core("x")
        server.join()
    assert requests == 2


async def test_a_connection_is_not_used_again_after_the_machine_slept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The event loop's clock stands still then, and the end of a connection is not seen."""
    connections = 0

    async def serve(connection: Connection) -> None:
        nonlocal connections
        connections += 1
        await Answering(answer())(connection)

    async with raw_server(serve) as url, client(url) as one:
        for slept in (0, 1, 3600):
            monkeypatch.setattr(connections_module, "time", lambda slept=slept: time.time() + slept)
            await one.generate.core("x")
    assert connections == 2


async def test_a_short_body_never_becomes_a_file(tmp_path: Path) -> None:
    async with raw_server(closes_in_mid_body) as url, client(url) as one:
        with pytest.raises(APIConnectionError):
            async with one.stream(GenerateCore(prompt="x")) as stream:
                await stream.save(tmp_path / "picture.png")
    assert list(tmp_path.iterdir()) == []


async def test_a_server_that_is_not_there_has_billed_nothing() -> None:
    async with raw_server(closes_before_the_answer) as url:
        pass
    async with client(url) as one:
        with pytest.raises(APIConnectionError) as caught:
            await one.generate.core("x")
    assert not caught.value.maybe_billed
    assert "cannot connect to 127.0.0.1" in str(caught.value)


@virtual_network_time
async def test_a_server_that_never_answers_times_out() -> None:
    async def never_answers(connection: Connection) -> None:
        await connection.request()
        await asyncio.Event().wait()

    async with raw_server(never_answers) as url, client(url) as one:
        with pytest.raises(APITimeoutError) as caught:
            await one.generate.core("x")
    assert caught.value.maybe_billed


@pytest.mark.parametrize("total", [None, 60])
async def test_a_trickle_of_single_bytes_times_out(total: float | None) -> None:
    async def trickles(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(b"", length=1000))
        while True:
            await connection.send(b"x")
            await asyncio.sleep(0.01)

    limits = replace(SHORT, total=total)
    async with raw_server(trickles) as url, client(url) as one:
        with pytest.raises(APITimeoutError, match="stalled"):
            await one.generate.core("x", timeout=limits)


async def test_a_server_that_takes_no_upload_times_out() -> None:
    async def does_not_read(connection: Connection) -> None:
        connection.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async with raw_server(does_not_read) as url, client(url) as one:
        with pytest.raises(APITimeoutError):
            await one.generate.ultra("x", image=png(9_000_000), strength=0.5)


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b'{"image": "aGVsbG8=", "seed": 1',
        b'{"image": "aGVs',
        b'{"image": "???", "seed": 1}',
        b'{"image": "%b?", "seed": 1}' % b64encode(png(900)),
        b'{"image": "%b' % b64encode(png(900)),
        b'{"seed": 1}',
        b"[]",
        b"",
        b'{"inner": {"image": "aGVsbG8="}}',
        b"{" + b" " * 100_000,
    ],
)
async def test_json_that_is_not_what_it_should_be_is_an_invalid_response(body: bytes) -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(body, content_type="application/json; type=image/png"))

    async with raw_server(serve) as url, client(url, accept="application/json") as one:
        with pytest.raises(InvalidResponseError):
            await one.generate.core("x")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("413 Payload Too Large", PayloadTooLargeError),
        ("401 Unauthorized", AuthenticationError),
        ("429 Too Many Requests", RateLimitError),
    ],
)
@pytest.mark.parametrize("then", ["closes", "waits"])
async def test_an_answer_before_the_upload_is_over_is_understood_and_ends_it(
    status: str, error: type[Exception], then: str
) -> None:
    read = 0

    async def answers_early(connection: Connection) -> None:
        nonlocal read
        await connection.head()
        await connection.send(answer(b"{}", status=status, content_type="application/json"))
        if then == "closes":
            return
        while chunk := await connection.reader.read(65536):
            read += len(chunk)

    async with raw_server(answers_early) as url, client(url) as one:
        with pytest.raises(error):
            await one.generate.ultra("x", image=png(9_000_000), strength=0.5)
    assert read < 9_000_000


@pytest.mark.parametrize(
    "request_",
    [
        GenerateCore(prompt="x"),
        UpscaleFast(image=png(2_000)),
        V1TextToImage(engine_id="x", text_prompts=[{"text": "x"}]),
    ],
    ids=["texts", "files", "json"],
)
async def test_what_is_too_large_for_a_proxy_says_how_large_it_is(request_: Request[Any]) -> None:
    lengths: list[int] = []

    async def proxy(connection: Connection) -> None:
        lengths.append(len(await connection.request()))
        await connection.send(answer(b"", status="413 Too Large", content_type="text/html"))

    async with raw_server(proxy) as url, client(url) as one:
        with pytest.raises(PayloadTooLargeError) as caught:
            await one.send(request_)
    assert f"a request of {lengths[0]:,} bytes is too large for it; the API itself accepts" in str(
        caught.value
    )


@pytest.mark.parametrize(
    "begun",
    [b"", answer(png(50_000), length=10**6), b"HTTP/1.1 200 OK\r\n\r\n" + png(50_000)],
    ids=["before the answer", "within it", "within one without a length"],
)
async def test_closing_a_client_ends_its_calls_at_once(begun: bytes) -> None:
    sent = asyncio.Event()

    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(begun)
        sent.set()
        await connection.reader.read()

    async with raw_server(serve) as url:
        async with client(url).with_options(timeout=5) as one:
            call = asyncio.create_task(one.generate.core("x"))
            await sent.wait()
            await asyncio.sleep(0.01)
        with pytest.raises(APIConnectionError, match="the client was closed") as caught:
            await call
    assert caught.value.maybe_billed


async def test_a_stream_left_early_closes_its_connection_and_says_nothing() -> None:
    closed = asyncio.Event()

    async def endless(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(png(100_000), length=10**9))
        try:
            while True:
                await connection.send(b"x" * 100_000)
        except ConnectionError:
            closed.set()

    async with raw_server(endless) as url, client(url) as one:
        async with one.stream(GenerateCore(prompt="x")) as stream:
            async for _ in stream:
                break
        await closed.wait()


async def test_a_call_cancelled_while_it_uploads_leaves_nothing_behind(tmp_path: Path) -> None:
    source = tmp_path / "in.png"
    source.write_bytes(png(5_000_000))
    begun = asyncio.Event()

    async def reads_slowly(connection: Connection) -> None:
        await connection.head()
        begun.set()
        await asyncio.Event().wait()

    async with raw_server(reads_slowly) as url, client(url) as one:
        for image in (source, io.BytesIO(png(5_000_000)), iter([png(100_000)] * 50)):
            begun.clear()
            request = GenerateUltra(prompt="x", image=image, strength=0.5)
            call = asyncio.create_task(one.send(request))
            await begun.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call


@virtual_network_time
async def test_headers_that_trickle_in_time_out_as_well() -> None:
    async def trickles(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while True:
            await connection.send(b"x")
            await asyncio.sleep(0.02)

    limits = Timeouts(connect=0.1, first_byte=0.1, between_bytes=0.1)
    async with (
        raw_server(trickles) as url,
        StabilityClient(KEY, base_url=url, quota=None, timeout=limits) as one,
    ):
        with pytest.raises(APITimeoutError):
            await one.generate.core("x")
        with pytest.raises(APITimeoutError):
            await one.generate.ultra("x", image=png(1000), strength=0.5)


@pytest.mark.parametrize("accept", [None, "application/json"])
async def test_a_success_without_bytes_is_no_image(accept: str | None) -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        kind = "application/json; type=image/png" if accept else "image/png"
        await connection.send(answer(b'{"image": ""}' if accept else b"", content_type=kind))

    async with raw_server(serve) as url, client(url, accept=accept) as one:
        with pytest.raises(InvalidResponseError, match=r"no bytes|JSON"):
            await one.generate.core("x")


async def test_a_stream_can_be_read_once(tmp_path: Path) -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer())

    async with (
        raw_server(serve) as url,
        client(url) as one,
        one.stream(GenerateCore(prompt="x")) as stream,
    ):
        path = await stream.save(tmp_path / "picture.png")
        with pytest.raises(StabilityError, match="once"):
            await stream.save(path)
    assert path.read_bytes() == PNG_HEAD


async def test_a_refusal_shuts_everybody_out_before_its_body_is_read() -> None:
    heads = 0

    async def stalls(connection: Connection) -> None:
        nonlocal heads
        await connection.request()
        heads += 1
        limited = answer(
            b"", length=100, status="429 Too Many Requests", content_type="application/json"
        )
        await connection.send(limited)
        await asyncio.Event().wait()

    async with (
        raw_server(stalls) as url,
        StabilityClient(KEY, base_url=url, timeout=SHORT, retry=RetryPolicy(attempts=1)) as one,
    ):
        first = asyncio.create_task(one.generate.core("x"))
        while heads == 0 or one.quota_statistics().penalty_left == 0:  # type: ignore[union-attr]
            await asyncio.sleep(0.001)
        second = asyncio.create_task(one.generate.core("x"))
        with pytest.raises(RateLimitError):
            await first
        assert heads == 1
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
