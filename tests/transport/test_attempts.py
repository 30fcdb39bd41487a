"""Each attempt of a call: what the quota and the observer learn of it, and when it ends."""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from stable_async import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ConfigurationError,
    Quota,
    QuotaTimeoutError,
    RetryPolicy,
    StabilityClient,
    Timeouts,
)
from stable_async.quota import QuotaLimiter
from tests.raw_server import Answering, answer, raw_server
from tests.samples import png
from tests.transport.test_telemetry import Watching
from tests.virtual_time import virtual_network_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.raw_server import Connection

pytestmark = pytest.mark.usefixtures("nothing_leaks")

KEY = "sk-0123456789abcdef"
ONCE = RetryPolicy(attempts=1)
TWICE = RetryPolicy(attempts=2, initial_backoff=0)
ENVELOPE = b'{"id": "1", "name": "n", "errors": ["the reason"]}'
BALANCE = b'{"credits": 1.0}'
refusal = partial(answer, ENVELOPE, content_type="application/json")


@pytest.fixture
def own_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the quota of each client in memory, where it follows the clock of the loop."""

    def quota_of(quota: Quota, _key: str, _url: str) -> Quota:
        return quota

    monkeypatch.setattr("stable_async.client.quota_of", quota_of)


def core(one: StabilityClient) -> Awaitable[object]:
    return one.generate.core("x")


def upload(one: StabilityClient) -> Awaitable[object]:
    return one.generate.ultra("x", image=png(2_000), strength=0.5)


def balance(one: StabilityClient) -> Awaitable[object]:
    return one.account.balance()


@pytest.mark.usefixtures("own_quota")
@pytest.mark.parametrize(
    ("call", "status", "counts"),
    [
        (core, 200, False),
        (core, 300, False),
        (core, 400, True),
        (core, 499, True),
        (core, 500, False),
        (upload, 400, False),
        (balance, 200, True),
        (balance, 500, True),
    ],
)
def test_the_quota_learns_the_delays_of_cheap_requests_alone(
    call: Callable[[StabilityClient], Awaitable[object]],
    status: int,
    counts: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delays = []

    def observe(_limiter: QuotaLimiter, delay: float, *, set_up: bool = False) -> None:
        if not set_up:
            delays.append(delay)

    monkeypatch.setattr(QuotaLimiter, "observe", observe)

    async def serve(connection: Connection) -> None:
        await connection.request()
        await asyncio.sleep(0.25)
        if status >= 300:
            await connection.send(refusal(status=f"{status} Refused"))
        elif call is balance:
            await connection.send(answer(BALANCE, content_type="application/json"))
        else:
            await connection.send(answer())

    @virtual_network_time
    async def main() -> None:
        async with (
            raw_server(serve) as url,
            StabilityClient(KEY, base_url=url, retry=ONCE) as one,
        ):
            if status == 200:
                await call(one)
            else:
                with pytest.raises(APIStatusError) as caught:
                    await call(one)
                assert caught.value.status == status

    main()
    assert len(delays) == counts
    assert all(0.25 <= delay < 0.5 for delay in delays)


@pytest.mark.usefixtures("own_quota")
@virtual_network_time
async def test_an_observer_sees_each_attempt_before_it_leaves_and_each_refusal() -> None:
    seen: list[object] = []

    async def serve(connection: Connection) -> None:
        for status in (500, 429, 200):
            await connection.request()
            seen.append("arrived")
            if status == 200:
                await connection.send(answer())
            else:
                await connection.send(
                    refusal(status=f"{status} Refused", headers="Retry-After: 1\r\n")
                )

    class Observer:
        async def leaving(self) -> None:
            await asyncio.sleep(0.1)
            seen.append("leaving")

        def refused(self, error: APIStatusError) -> None:
            seen.append(error.status)

    async with raw_server(serve) as url, StabilityClient(KEY, base_url=url) as one:
        await one.generate.core("x", observer=Observer())
    sent = ["leaving", "arrived"]
    assert seen == [*sent, 500, *sent, 429, *sent]


@pytest.mark.usefixtures("own_quota")
@virtual_network_time
async def test_what_an_observer_stops_is_not_sent_and_its_slot_is_free() -> None:
    class Observer:
        async def leaving(self) -> None:
            raise LookupError

        def refused(self, error: APIStatusError) -> None:
            raise error

    async def serve(_connection: Connection) -> None:
        raise AssertionError("sent")

    async with raw_server(serve) as url, StabilityClient(KEY, base_url=url) as one:
        with pytest.raises(LookupError):
            await one.generate.core("x", observer=Observer())
        statistics = one.quota_statistics()
        assert statistics is not None
        assert (statistics.open, statistics.in_window) == (0, 0)


@pytest.mark.usefixtures("own_quota")
@pytest.mark.parametrize(
    ("deadline", "served"),
    [(30.0, True), (5.0, False), (2.0, False)],
    ids=["kept", "expired while it waits", "expired before"],
)
def test_a_deadline_holds_for_all_attempts_together(deadline: float, served: bool) -> None:
    """The first is answered after 3 s, and the penalty takes 10 s."""
    arrived = 0

    async def serve(connection: Connection) -> None:
        nonlocal arrived
        await connection.request()
        arrived += 1
        await asyncio.sleep(3)
        await connection.send(refusal(status="429 Refused", headers="Retry-After: 10\r\n"))
        await connection.request()
        arrived += 1
        await connection.send(answer())

    @virtual_network_time
    async def main() -> None:
        async with raw_server(serve) as url, StabilityClient(KEY, base_url=url) as one:
            if served:
                await one.generate.core("x", deadline=deadline)
            else:
                with pytest.raises(QuotaTimeoutError):
                    await one.generate.core("x", deadline=deadline)

    main()
    assert arrived == 1 + served


@pytest.mark.usefixtures("own_quota")
@virtual_network_time
async def test_a_deadline_of_zero_waits_for_no_slot() -> None:
    """The next one is less than half a second away."""
    serve = Answering(answer())
    quota = Quota(requests=1, window=0.2, jitter=0.01, adaptive=False)
    async with raw_server(serve) as url, StabilityClient(KEY, base_url=url, quota=quota) as one:
        await one.generate.core("x", deadline=0)
        with pytest.raises(QuotaTimeoutError):
            await one.generate.core("x", deadline=0)
    assert serve.requests == 1


@pytest.mark.usefixtures("own_quota")
@pytest.mark.parametrize("requests", [1, 10], ids=["half a second later", "at once"])
@virtual_network_time
async def test_a_deadline_that_has_passed_lets_no_further_attempt_leave(requests: int) -> None:
    """The quota would let it leave."""
    serve = Answering(refusal(status="500 Refused"), delay=3.5)
    quota = Quota(requests=requests, window=2, jitter=0.01, adaptive=False)
    async with (
        raw_server(serve) as url,
        StabilityClient(KEY, base_url=url, quota=quota, retry=TWICE) as one,
    ):
        with pytest.raises(QuotaTimeoutError) as caught:
            await one.generate.core("x", deadline=2)
    assert caught.value.retry_after == 0
    assert serve.requests == 1


@pytest.mark.usefixtures("own_quota")
@virtual_network_time
async def test_an_attempt_leaves_with_its_number_and_how_long_it_waited() -> None:
    telemetry = Watching()

    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(status="500 x"))
        await connection.request()
        await connection.send(answer())

    quota = Quota(requests=1, window=2, jitter=0.01, adaptive=False)
    retry = RetryPolicy(initial_backoff=0)
    async with (
        raw_server(serve) as url,
        StabilityClient(KEY, base_url=url, quota=quota, retry=retry, telemetry=telemetry) as client,
    ):
        await client.generate.core("x")
    [(first, at_once), (second, a_window)] = telemetry.left
    assert (first, second) == (0, 1)
    assert 0 <= at_once < 1 < a_window < 5


async def test_each_attempt_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(refusal(status="500 Refused"))
        await connection.request()
        await connection.send(answer())

    caplog.set_level("DEBUG", "stable_async")
    async with (
        raw_server(serve) as url,
        StabilityClient(KEY, base_url=url, quota=None, retry=TWICE) as one,
    ):
        await one.generate.core("x")
    lines = [record.getMessage() for record in caplog.records if record.name == "stable_async"]
    assert [line.partition(" in ")[0] for line in lines] == [
        "generate_core: ServerError",
        "generate_core: 200",
    ]
    assert ["attempt 1," in lines[0], "attempt 2," in lines[1]] == [True, True]


async def test_a_connection_that_breaks_at_a_retry_says_how_many_attempts_there_were() -> None:
    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(refusal(status="500 Refused"))
        await connection.request()

    async with (
        raw_server(serve) as url,
        StabilityClient(KEY, base_url=url, quota=None, retry=TWICE) as one,
    ):
        with pytest.raises(APIConnectionError) as caught:
            await one.generate.core("x")
    assert caught.value.attempts == 2


async def test_a_call_that_waited_while_its_client_was_closed_returns_its_slot() -> None:
    serve = Answering(answer(BALANCE, content_type="application/json"))
    quota = Quota(requests=1, window=0.3, jitter=0.01, adaptive=False)
    async with raw_server(serve) as url, StabilityClient(KEY, base_url=url, quota=quota) as other:
        await other.account.balance()
        async with StabilityClient(KEY, base_url=url, quota=quota) as one:
            waits = asyncio.create_task(one.account.balance())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        with pytest.raises(ConfigurationError, match="the client was closed while this call"):
            await waits
        statistics = other.quota_statistics()
        assert statistics is not None
        assert (statistics.open, statistics.waiting, statistics.in_window) == (0, 0, 0)
        await other.account.balance()
    assert serve.requests == 2


@pytest.mark.parametrize("quota", [None, Quota(scope="client")])
@pytest.mark.parametrize("waits_for", ["its observer", "its file"])
async def test_a_call_whose_client_is_closed_before_it_leaves_says_so(
    quota: Quota | None, waits_for: str
) -> None:
    begun, closed = asyncio.Event(), asyncio.Event()

    class Waiting:
        async def leaving(self) -> None:
            begun.set()
            await closed.wait()

        def refused(self, error: APIStatusError) -> None:
            raise AssertionError(error)

    async def waiting() -> AsyncIterator[bytes]:
        begun.set()
        await closed.wait()
        yield png(100)

    serve = Answering(answer(png(100)))
    async with raw_server(serve) as url:
        async with StabilityClient(KEY, base_url=url, quota=quota) as one:
            if waits_for == "its file":
                call = asyncio.create_task(one.upscale.fast(waiting()))
            else:
                call = asyncio.create_task(one.generate.core("x", observer=Waiting()))
            await begun.wait()
        closed.set()
        with pytest.raises(ConfigurationError, match="the client was closed while this call"):
            await call
    assert serve.requests == 0


@pytest.mark.usefixtures("own_quota")
@pytest.mark.parametrize(("status", "read"), [(429, False), (400, True)])
def test_a_refusal_is_read_to_its_end_but_that_of_a_penalty_is_not_waited_for(
    status: int, read: bool
) -> None:
    whole = refusal(status=f"{status} Refused")

    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(whole[:-30])
        await asyncio.sleep(3)
        await connection.send(whole[-30:])

    @virtual_network_time
    async def main() -> None:
        async with (
            raw_server(serve) as url,
            StabilityClient(KEY, base_url=url, retry=ONCE) as one,
        ):
            began = asyncio.get_running_loop().time()
            with pytest.raises(APIStatusError) as caught:
                await one.generate.core("x")
            took = asyncio.get_running_loop().time() - began
        assert ("the reason" in str(caught.value)) is read
        assert (took < 2) is not read

    main()


@virtual_network_time
async def test_an_endless_page_is_cut_and_its_connection_closed_before_the_next_attempt() -> None:
    events = []

    async def serve(connection: Connection) -> None:
        await connection.request()
        if "refused" in events:
            await asyncio.sleep(1)
            events.append("answered")
            await connection.send(answer())
            return
        events.append("refused")
        page = answer(b"", length=10**9, status="500 Refused", content_type="text/html")
        with suppress(ConnectionError):
            await connection.send(page + bytes(200_000))
            await connection.reader.read()
        events.append("closed")

    async with (
        raw_server(serve) as url,
        StabilityClient(KEY, base_url=url, quota=None, retry=TWICE) as one,
    ):
        began = asyncio.get_running_loop().time()
        await one.generate.core("x")
        assert asyncio.get_running_loop().time() - began < 2
    assert events == ["refused", "closed", "answered"]


@pytest.mark.parametrize("call", [core, upload, balance])
@pytest.mark.parametrize(
    ("connect", "first_byte"), [(None, None), (None, 9.0), (9.0, None), (9.0, 9.0)]
)
def test_a_total_holds_whatever_else_is_limited(
    call: Callable[[StabilityClient], Awaitable[object]],
    connect: float | None,
    first_byte: float | None,
) -> None:
    async def never(connection: Connection) -> None:
        await connection.request()
        await asyncio.Event().wait()

    @virtual_network_time
    async def main() -> None:
        limits = Timeouts(connect=connect, first_byte=first_byte, between_bytes=None, total=2)
        async with (
            raw_server(never) as url,
            StabilityClient(KEY, base_url=url, quota=None, timeout=limits) as one,
        ):
            began = asyncio.get_running_loop().time()
            with pytest.raises(APITimeoutError):
                await call(one)
            assert asyncio.get_running_loop().time() - began < 2.5

    main()


@pytest.mark.usefixtures("own_quota")
def test_a_log_says_how_long_the_wait_and_the_attempt_took(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def serve(connection: Connection) -> None:
        for _ in range(2):
            await connection.request()
            await asyncio.sleep(1)
            await connection.send(answer(BALANCE, content_type="application/json"))

    @virtual_network_time
    async def main() -> None:
        quota = Quota(requests=1, window=10, jitter=0.01, adaptive=False)
        async with raw_server(serve) as url, StabilityClient(KEY, base_url=url, quota=quota) as one:
            await one.account.balance()
            await one.account.balance()

    with caplog.at_level(logging.DEBUG, "stable_async"):
        main()
    found = re.findall(r"200 in ([\d.]+) s, attempt 1, waited ([\d.]+) s", caplog.text)
    (took, waited), (took_next, waited_next) = ((float(a), float(b)) for a, b in found)
    assert took == pytest.approx(1, abs=0.2)
    assert took_next == pytest.approx(1, abs=0.2)
    assert waited < 0.2
    assert 18 < waited_next < 20
