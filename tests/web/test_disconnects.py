"""Browsers that go away: what is not sent costs nothing, the rest is cut or finished and kept."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, cast

import pytest

from stable_async import (
    GenerateCore,
    Image,
    InvalidRequestError,
    Quota,
    QuotaTimeoutError,
    RetryPolicy,
    SharedQuota,
    StabilityClient,
    StabilityError,
    UpscaleCreative,
)
from stable_async.quota import QuotaLimiter
from stable_async.sandbox import Sandbox
from stable_async.transport.send_state import AttemptTrace, ExpiredPermitError, SendState
from tests.raw_server import answer, raw_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from stable_async.transport.options import CallOptions
    from tests.raw_server import Connection

    Keep = Callable[[object], Awaitable[None]]

KEY = "sk-0123456789abcdefghij"
IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(200_000)
REQUEST = GenerateCore(prompt="a lighthouse")


class Kept(list[object]):
    """What was finished for nobody."""

    async def __call__(self, result: object) -> None:
        self.append(result)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as one:
        yield one


def finishing(kept: Keep) -> CallOptions[object]:
    return {"on_disconnect": "finish", "on_finished": kept}


class Slow:
    """A server that holds back its answer, and half of the image, until a test releases it."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.headers = asyncio.Event()
        self.rest = asyncio.Event()
        self.status = "200 OK"
        self.image = IMAGE

    async def __call__(self, connection: Connection) -> None:
        await connection.request()
        self.asked.set()
        await self.headers.wait()
        headers = "seed: 7\r\nfinish-reason: SUCCESS\r\nConnection: close\r\n"
        whole = answer(self.image, status=self.status, headers=headers)
        await connection.send(whole[:100_000])
        await self.rest.wait()
        await connection.send(whole[100_000:])


async def arrival(sandbox: Sandbox, task: asyncio.Task[Image]) -> None:
    """Wait until a request has arrived."""
    while not len(sandbox.log):
        assert not task.done(), task.result()
        await asyncio.sleep(0)


async def send(client: StabilityClient, **options: object) -> None:
    await client.send(REQUEST, **cast("CallOptions[object]", options))


async def stream(client: StabilityClient, **options: object) -> None:
    async with client.stream(REQUEST, **cast("CallOptions[object]", options)) as one:
        async for _ in one:
            pass


@pytest.mark.parametrize(
    ("size", "quota"), [(200_000, Quota()), (2_000_000, Quota()), (200_000, None)]
)
@pytest.mark.parametrize("call", [send, stream])
async def test_a_call_that_has_left_is_finished_and_kept_if_the_service_wants(
    call: Callable[..., Awaitable[None]], size: int, quota: Quota | None, nothing_leaks: None
) -> None:
    slow, kept = Slow(), Kept()
    slow.image = IMAGE.ljust(size, b"\0")
    async with raw_server(slow) as url:
        async with StabilityClient(KEY, base_url=url, quota=quota) as client:
            task = asyncio.ensure_future(call(client, **finishing(kept)))
            await slow.asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            slow.headers.set()
            slow.rest.set()
            async with asyncio.timeout(30):  # the client waits for it before it closes
                await client.aclose()
        (image,) = kept
        assert isinstance(image, Image)
        assert (image.data, image.seed) == (slow.image, 7)


async def test_a_stream_left_in_the_middle_is_kept_whole(nothing_leaks: None) -> None:
    slow, kept = Slow(), Kept()
    slow.headers.set()
    async with raw_server(slow) as url, StabilityClient(KEY, base_url=url) as client:
        async with client.stream(REQUEST, **finishing(kept)) as one:
            assert one.headers["content-length"] == str(len(IMAGE))
            async for _ in one:
                break
        slow.rest.set()
        await client.aclose()
    assert [cast("Image", image).data for image in kept] == [IMAGE]


async def test_a_stream_read_to_its_end_is_kept_by_nobody(nothing_leaks: None) -> None:
    slow, kept = Slow(), Kept()
    slow.headers.set()
    slow.rest.set()
    async with raw_server(slow) as url, StabilityClient(KEY, base_url=url) as client:
        async with client.stream(REQUEST, **finishing(kept)) as one:
            assert (await one.read()).data == IMAGE
        assert (await client.send(REQUEST, **finishing(kept))).data == IMAGE
    assert kept == []


@pytest.mark.parametrize("options", [{}, finishing(Kept())], ids=["cut", "finish"])
async def test_a_stream_that_was_held_is_read_like_any_other_and_once(
    options: CallOptions[object], nothing_leaks: None
) -> None:
    """A second reading would otherwise store an empty image."""
    slow = Slow()
    slow.headers.set()
    slow.rest.set()
    async with (
        raw_server(slow) as url,
        StabilityClient(KEY, base_url=url) as client,
        client.stream(REQUEST, **options) as one,
    ):
        await one.hold()
        assert (await one.read()).data == IMAGE
        with pytest.raises(StabilityError, match="can be read once"):
            await one.read()


@pytest.mark.parametrize("call", [send, stream])
async def test_a_call_that_has_not_left_gives_its_slot_back(
    call: Callable[..., Awaitable[None]], sandbox: Sandbox, nothing_leaks: None
) -> None:
    kept = Kept()
    quota = Quota(requests=1, adaptive=False)
    async with StabilityClient(KEY, base_url=sandbox.url, quota=quota) as client:
        await send(client)
        task = asyncio.ensure_future(call(client, **finishing(kept)))
        await asyncio.sleep(0)
        while not (statistics := client.quota_statistics()) or not statistics.waiting:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        statistics = client.quota_statistics()
        assert statistics is not None
        assert (statistics.waiting, statistics.open, statistics.in_window) == (0, 0, 1)
    assert len(sandbox.log) == 1
    assert kept == []


async def test_a_call_is_cut_when_nothing_else_is_said(nothing_leaks: None) -> None:
    slow = Slow()
    async with raw_server(slow) as url, StabilityClient(KEY, base_url=url) as client:
        task = asyncio.create_task(send(client))
        await slow.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_call_refused_after_its_caller_has_gone_is_not_sent_again(
    nothing_leaks: None,
) -> None:
    slow, kept = Slow(), Kept()
    slow.status = "500 Internal Server Error"
    slow.rest.set()
    retry = RetryPolicy(initial_backoff=0)
    async with raw_server(slow) as url, StabilityClient(KEY, base_url=url, retry=retry) as client:
        task = asyncio.create_task(client.send(REQUEST, **finishing(kept)))
        await slow.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        slow.asked.clear()
        slow.headers.set()
        await client.aclose()
    assert not slow.asked.is_set()
    assert kept == []


async def test_a_call_that_was_refused_is_cut_while_it_waits_to_be_sent_again() -> None:
    """What was refused is not on its way any more: nobody waits for the end of the penalty."""
    asked, kept = asyncio.Event(), Kept()

    async def refuse(connection: Connection) -> None:
        await connection.request()
        await connection.send(
            answer(b"{}", status="429 Too Many Requests", headers="Retry-After: 3000\r\n")
        )
        asked.set()

    async with raw_server(refuse) as url:
        client = await StabilityClient(KEY, base_url=url).open()
        task = asyncio.ensure_future(send(client, **finishing(kept)))
        await asked.wait()
        while not (statistics := client.quota_statistics()) or not statistics.waiting:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(30):
            await client.aclose()
    assert kept == []


async def test_an_asynchronous_operation_is_fetched_for_whoever_keeps_it(
    sandbox: Sandbox, nothing_leaks: None
) -> None:
    async with StabilityClient(KEY, base_url=sandbox.url) as client:
        image = (await client.generate.sd3("x")).data
    sandbox.log.clear()
    kept = Kept()
    async with StabilityClient(KEY, base_url=sandbox.url, poll_interval=0.01) as client:
        sandbox.delay(0.05)
        task = asyncio.create_task(
            client.send(UpscaleCreative(image=image, prompt="x"), **finishing(kept))
        )
        await arrival(sandbox, task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(kept) == 1


async def test_a_result_that_nobody_could_keep_is_logged(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture, nothing_leaks: None
) -> None:
    async def lose(result: object) -> None:
        raise OSError("the disk is full")

    sandbox.delay(0.02)
    async with StabilityClient(KEY, base_url=sandbox.url) as client:
        task = asyncio.create_task(client.send(REQUEST, **finishing(lose)))
        await arrival(sandbox, task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError), caplog.at_level(logging.ERROR):
            await task
        await client.aclose()
    assert "the disk is full" in caplog.text


async def test_finishing_needs_somebody_to_keep_the_result() -> None:
    async with StabilityClient(KEY, base_url="http://127.0.0.1:1") as client:
        with pytest.raises(InvalidRequestError, match="on_finished"):
            await client.send(REQUEST, on_disconnect="finish")


@pytest.mark.parametrize("on_disconnect", ["cut", "finish"])
async def test_browsers_that_leave_at_random_leave_nothing_behind(
    tmp_path: Path, on_disconnect: str, nothing_leaks: None
) -> None:
    """No task, no connection, no slot; and every image that is made is had by somebody."""
    rng = random.Random(5)
    kept, had = Kept(), 0
    quota = SharedQuota.file(tmp_path / "quota", Quota(requests=60, window=0.5, adaptive=False))
    asked = 0

    async def send_image(connection: Connection) -> None:
        nonlocal asked
        while True:
            await connection.request()
            asked += 1
            await asyncio.sleep(rng.uniform(0, 0.1))
            await connection.send(answer(IMAGE))

    options = finishing(kept) if on_disconnect == "finish" else {}
    async with (
        raw_server(send_image) as url,
        StabilityClient(KEY, base_url=url, quota=quota) as client,
    ):

        async def browse(*, streaming: bool) -> None:
            nonlocal had
            given = cast("CallOptions[object]", {"tenant": str(rng.randrange(9)), **options})
            async with asyncio.timeout(rng.expovariate(1 / 0.4)):
                if streaming:
                    async with client.stream(REQUEST, **given) as one:
                        async for _ in one:
                            pass
                        had += 1  # all of it, even if the time is up while the block is left
                else:
                    await client.send(REQUEST, **given)
                    had += 1

        calls = [browse(streaming=rng.random() < 0.5) for _ in range(200)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {TimeoutError, type(None)}
        statistics = client.quota_statistics()
        assert statistics is not None
        assert (statistics.waiting, statistics.open) == (0, 0)
        await client.aclose()
        assert had >= outcomes.count(None) > 0
        if on_disconnect == "finish":
            assert len(kept) + had == asked


async def test_what_was_abandoned_does_not_leave_a_turn_of_the_loop_later() -> None:
    """aiohttp writes in a task of its own: it was paid for then, and nobody had it."""
    limiter = QuotaLimiter()
    state = SendState()
    with await limiter.acquire() as permit:
        trace = AttemptTrace(permit, state)
        state.abandoned = True
        with pytest.raises(ExpiredPermitError):
            trace.mark_sent()
        assert trace.sent_at is None
        assert not state.sent
        permit.release()
    assert limiter.statistics().in_window == 0


# --- what the client passes on to the quota and to the API -----------------------------------


async def test_a_deadline_that_cannot_be_kept_ends_a_call_before_it_is_sent(
    sandbox: Sandbox,
) -> None:
    quota = Quota(requests=1, adaptive=False)
    async with StabilityClient(KEY, base_url=sandbox.url, quota=quota) as client:
        await send(client)
        with pytest.raises(QuotaTimeoutError) as caught:
            await send(client, deadline=5.0)
    assert 9 < caught.value.retry_after < 21
    assert len(sandbox.log) == 1


async def test_a_full_queue_takes_nobody_in(sandbox: Sandbox) -> None:
    quota = Quota(requests=1, adaptive=False)
    async with StabilityClient(KEY, base_url=sandbox.url, quota=quota, max_waiting=0) as client:
        await send(client)
        with pytest.raises(QuotaTimeoutError):
            await send(client)


@pytest.mark.parametrize(
    ("tenant_ids", "sent"),
    [
        ("hashed", "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90"),
        ("plain", "alice"),
        ("off", "everybody"),
    ],
)
async def test_a_tenant_is_sent_hashed_unless_told_otherwise(
    sandbox: Sandbox, tenant_ids: str, sent: str
) -> None:
    async with StabilityClient(
        KEY,
        base_url=sandbox.url,
        client_user_id="everybody",
        tenant_ids=tenant_ids,  # type: ignore[arg-type]  # a parameter of the test
    ) as client:
        await send(client, tenant="alice")
    assert sandbox.log[-1].headers["stability-client-user-id"] == sent


@pytest.mark.parametrize("log_prompts", [False, True])
async def test_prompts_are_logged_only_when_asked_for(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture, log_prompts: bool
) -> None:
    caplog.set_level(logging.DEBUG, "stable_async")
    async with StabilityClient(KEY, base_url=sandbox.url, log_prompts=log_prompts) as client:
        await send(client)
    (record,) = [record for record in caplog.records if record.name == "stable_async"]
    assert record.getMessage().startswith("generate_core: 200 in ")
    assert ("lighthouse" in caplog.text) is log_prompts
    assert KEY not in caplog.text
