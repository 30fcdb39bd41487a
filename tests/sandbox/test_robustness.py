"""Any bytes on the socket get an answer or a closed connection, never an internal error."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import tracemalloc
from typing import TYPE_CHECKING

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stable_async.sandbox import Sandbox
from stable_async.sandbox.request_log import RequestLog, RequestRecord
from tests.sandbox.support import BOUNDARY, OPERATIONS, Caller, multipart, sample_image

if TYPE_CHECKING:
    from collections.abc import Iterator

CORE = OPERATIONS["generate_core"].path.encode()
ERASE = OPERATIONS["edit_erase"].path.encode()
HEAD = (
    b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: sk-x\r\n"
    b"Content-Type: multipart/form-data; boundary=" + BOUNDARY.encode() + b"\r\n"
)


@pytest.fixture(autouse=True)
def no_faults_are_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """aiohttp answers 500 and logs a traceback when a handler raises."""
    yield
    assert not [record for record in caplog.get_records("call") if record.exc_info]


async def exchange(url: str, data: bytes) -> bytes:
    """Send bytes and return the beginning of the answer, if one comes within a moment."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        # Some requests are not whole, and the server rightly waits for the rest.
        async with asyncio.timeout(0.05):
            return await reader.read(1000)
    except (ConnectionError, TimeoutError):
        return b""
    finally:
        writer.close()


def faults(answer: bytes) -> list[int]:
    return [status for status in statuses(answer) if status >= 500]


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3})", answer)]


mutations = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 6), st.binary(max_size=12)), min_size=1, max_size=5
)
REQUESTS = [
    (HEAD % CORE) + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    for body in (multipart({"prompt": "", "seed": "-1"}), multipart({"prompt": "x", "model": "é"}))
] + [
    (HEAD % ERASE)
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + b"%x\r\n%s\r\n0\r\n\r\n"
    % (len(body := multipart({"seed": "1"}, {"image": ("a", b"\x89PNG")})), body),
    b"GET /v2beta/results/%s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % (b"0" * 64),
    b"GET /_sandbox/state HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=st.sampled_from(REQUESTS), changes=mutations)
async def test_mutated_requests_are_answered_or_cut_off_and_never_500(
    sandbox: Sandbox, request: bytes, changes: list[tuple[float, int, bytes]]
) -> None:
    for place, length, replacement in changes:
        at = int(place * len(request))
        request = request[:at] + replacement + request[at + length :]
    assert not [
        status for status in statuses(await exchange(sandbox.url, request)) if status >= 500
    ]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=300))
async def test_noise_is_answered_or_cut_off(sandbox: Sandbox, noise: bytes) -> None:
    assert not faults(await exchange(sandbox.url, noise))


@pytest.mark.parametrize(
    "data",
    [
        (HEAD % CORE) + b"Content-Length: -5\r\n\r\n",
        (HEAD % CORE) + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        (HEAD % CORE) + b"Content-Length: 99999999999999999999\r\n\r\n",
        (HEAD % CORE) + b"Content-Length: 100\r\n\r\nends early",
        (HEAD % CORE) + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        (HEAD % CORE) + b"X-Long: " + b"x" * 100_000 + b"\r\n\r\n",
        (HEAD % CORE) + b"X-Bad: \xff\xfe\r\nContent-Length: 0\r\n\r\n",
        (HEAD % CORE).replace(b"sk-x", b"\xff\xfe\x80") + b"Content-Length: 0\r\n\r\n",
        (HEAD % (b"/v1/" + b"%ff" * 40)) + b"Content-Length: 0\r\n\r\n",
        (HEAD % b"/v2beta/../../etc/passwd") + b"Content-Length: 0\r\n\r\n",
        b"GET http://other.example/v2beta/results/x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ],
)
async def test_malformed_requests_get_an_answer_or_an_end(sandbox: Sandbox, data: bytes) -> None:
    assert not faults(await exchange(sandbox.url, data))
    async with aiohttp.ClientSession() as session:
        assert (await Caller(session, sandbox.url).core("")).status == 400


async def test_what_is_no_http_is_a_bad_request_like_any_other(sandbox: Sandbox) -> None:
    answer = await exchange(sandbox.url, b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n")
    assert statuses(answer) == [400]
    assert b'{"errors":["request: is not valid HTTP"],' in answer


async def test_a_declared_size_over_the_limit_is_refused_before_the_body_comes(
    sandbox: Sandbox,
) -> None:
    host, port = sandbox.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write((HEAD % ERASE) + b"Content-Length: 1000000000\r\n\r\n")
    answer = await reader.readuntil(b"\r\n\r\n")
    assert statuses(answer) == [413]
    length = int(re.findall(rb"Content-Length: (\d+)", answer)[0])
    assert b"payloads cannot be larger than 10MiB" in await reader.readexactly(length)
    writer.close()


async def test_a_client_that_waits_for_100_continue_is_told_413_or_to_go_on(
    sandbox: Sandbox,
) -> None:
    for size, status in ((11 << 20, 413), (1 << 20, 100)):
        host, port = sandbox.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % size
        writer.write((HEAD % ERASE) + head)
        assert statuses(await reader.readline()) == [status]
        writer.close()


async def test_a_body_without_a_declared_size_is_not_read_beyond_the_limit(
    sandbox: Sandbox,
) -> None:
    host, port = sandbox.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write((HEAD % ERASE) + b"Transfer-Encoding: chunked\r\n\r\n")
    chunk = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    start = multipart({}, {"image": ("a.png", b"")})[: -len(BOUNDARY) - 8]
    writer.write(b"%x\r\n%s\r\n" % (len(start), start))
    sent = 0
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):
            while sent < 200:
                writer.write(chunk)
                await writer.drain()
                sent += 1
    assert 10 <= sent < 60, "megabytes"
    writer.close()
    assert sandbox.log[-1].status == 413


@pytest.mark.parametrize(
    ("operation", "status", "limit"),
    [("edit_erase", 413, 10 << 20), ("v1_image_to_image", 400, 10 << 20)],
)
async def test_the_limit_is_exact(caller: Caller, operation: str, status: int, limit: int) -> None:
    name = "image" if operation == "edit_erase" else "init_image"
    empty = len(multipart({}, {name: ("a.png", b"")}))
    path = OPERATIONS[operation].path.replace("{engine_id}", "x")
    fits = await caller.post(path, {}, {name: ("a.png", b"\0" * (limit - empty))})
    assert f"{name}: must be an image" in fits.body.decode()
    over = await caller.post(path, {}, {name: ("a.png", b"\0" * (limit - empty + 1))})
    assert over.status == status
    assert over.json["name"] in {"payload_too_large", "invalid_file_size"}


async def test_clients_that_break_off_leave_nothing_behind(nothing_leaks: None) -> None:
    async with Sandbox(counting="off", latency=0.05) as sandbox:
        host, port = sandbox.url.removeprefix("http://").split(":")
        body = multipart({"prompt": "x", "output_format": "jpeg"})
        upload = multipart({}, {"image": ("a.png", b"\0" * 3_000_000)})
        for data in (
            b"POST",
            (HEAD % CORE) + b"Content-Length: 500\r\n\r\nhalf",
            (HEAD % CORE) + b"Content-Length: %d\r\n\r\n%s" % (len(body), body),
            (HEAD % ERASE) + b"Content-Length: %d\r\n\r\n%s" % (len(upload), upload[:2_000_000]),
        ):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(data)
            await writer.drain()
            writer.transport.abort()
        async with asyncio.timeout(5):
            while sandbox.statistics.requests < 3 or sandbox.statistics.in_flight:
                await asyncio.sleep(0.01)
        assert sandbox.statistics.broken_off >= 2


async def test_stopping_does_not_wait_for_slow_answers(nothing_leaks: None) -> None:
    async with aiohttp.ClientSession() as session:
        async with Sandbox(counting="off", latency=60) as sandbox:
            asked = asyncio.create_task(Caller(session, sandbox.url).core())
            async with asyncio.timeout(5):
                while not sandbox.statistics.in_flight:
                    await asyncio.sleep(0.01)
        with pytest.raises(aiohttp.ClientError):
            await asked


def test_the_log_is_bounded_in_records_and_in_bytes() -> None:
    log = RequestLog(max_records=10, max_bytes=100_000)
    for number in range(50):
        log.append(RequestRecord(number, 0.0, "POST", "/", fields={"prompt": "x" * 20_000}))
    assert [record.number for record in log] == [46, 47, 48, 49]
    for number in range(50):
        log.append(RequestRecord(number, 0.0, "POST", "/"))
    assert len(log) == 10
    log.clear()
    assert not log


async def test_memory_does_not_grow_with_the_number_of_uploads(
    sandbox: Sandbox, caller: Caller
) -> None:
    file = ("in.png", sample_image() + b"\0" * 4_000_000)

    async def upload(times: int) -> int:
        for _ in range(times):
            await caller.operate(OPERATIONS["edit_erase"], {"image": file, "seed": "-1"})
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = await upload(3)
        after = await upload(12)
    finally:
        tracemalloc.stop()
    assert after - before < 4_000_000
    assert sandbox.log[-1].files["image"].size == len(file[1])


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_an_answer_without_a_body_leaves_its_connection_usable(
    sandbox: Sandbox, method: str
) -> None:
    sandbox.respond("v1_user_balance", 204, body=b"none", times=1)
    host = sandbox.url.removeprefix("http://")
    head = f"/v1/user/balance HTTP/1.1\r\nHost: {host}\r\nAuthorization: sk-x\r\n"
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write(f"{method} {head}\r\nGET {head}Connection: close\r\n\r\n".encode())
    second = (await reader.read()).partition(b"\r\n\r\n")[2]
    writer.close()
    assert second.startswith(b"HTTP/1.1 20"), second
