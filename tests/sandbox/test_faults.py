"""The switches: what a test asks for happens, so often, and then no more."""

from __future__ import annotations

import aiohttp
import pytest

from stable_async.sandbox import Sandbox
from tests.sandbox.support import OPERATIONS, Caller


async def test_faults_without_a_number_apply_until_they_are_cleared(
    sandbox: Sandbox, caller: Caller
) -> None:
    sandbox.fail_next(500, times=None)
    assert [(await caller.core()).status for _ in range(3)] == [500, 500, 500]
    sandbox.clear()
    sandbox.drop_next(times=None)
    for _ in range(2):
        with pytest.raises(aiohttp.ClientError):
            await caller.core()
    sandbox.clear()
    assert (await caller.core()).status == 200


async def test_the_next_requests_fail_and_then_no_more(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.fail_next(500, times=2)
    sandbox.fail_next(429, retry_after=2)
    sandbox.fail_next(503, name="overloaded")
    replies = [await caller.core() for _ in range(5)]
    assert [reply.status for reply in replies] == [500, 500, 429, 503, 200]
    assert replies[0].errors == ["An unexpected server error has occurred, please try again later."]
    assert replies[2].headers["Retry-After"] == "2"
    assert replies[3].json["name"] == "overloaded"
    assert sandbox.statistics.credits_spent == 3
    assert sandbox.statistics.refused == 0


async def test_a_failure_may_be_for_one_operation(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.fail_next(500, operation="v1_user_balance")
    assert (await caller.core()).status == 200
    reply = await caller.send("GET", "/v1/user/balance")
    assert (reply.status, reply.json["name"]) == (500, "server_error")
    assert (await caller.send("GET", "/v1/user/balance")).status == 200


@pytest.mark.parametrize("when", ["before_headers", "mid_headers", "mid_body"])
async def test_a_dropped_answer_was_made_and_charged(
    sandbox: Sandbox, caller: Caller, when: str
) -> None:
    sandbox.drop_next(when)  # type: ignore[arg-type]
    with pytest.raises(aiohttp.ClientError):
        await caller.core()
    record = sandbox.log[-1]
    assert (record.status, record.dropped, record.credits) == (None, when, 3)
    assert sandbox.statistics.dropped == 1
    assert (await caller.core()).status == 200


async def test_half_of_the_body_comes_before_a_drop_in_the_body(
    sandbox: Sandbox, caller: Caller
) -> None:
    whole = await caller.core(seed="7")
    sandbox.drop_next("mid_body")
    async with caller.session.post(
        caller.url + OPERATIONS["generate_core"].path,
        data=aiohttp.FormData(
            {"prompt": "a lighthouse", "output_format": "jpeg", "seed": "7"},
            default_to_multipart=True,
        ),
        headers={"authorization": "sk-x", "accept": "image/*"},
    ) as reply:
        assert reply.content_length == len(whole.body)
        half = len(whole.body) // 2
        assert await reply.content.readexactly(half) == whole.body[:half]
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.content.read()


async def test_a_trigger_word_drops_too(sandbox: Sandbox, caller: Caller) -> None:
    with pytest.raises(aiohttp.ClientError):
        await caller.core("a boat sandbox:drop")
    assert sandbox.statistics.credits_spent == 3


async def test_a_delay_is_for_so_many_answers(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.delay(0.05, times=1)
    await caller.core()
    await caller.core()
    first, second = (record.duration or 0 for record in sandbox.log)
    assert first >= 0.05
    sandbox.delay(0.05)
    await caller.core("")
    assert (sandbox.log[-1].duration or 0) >= 0.05
    assert second > 0


async def test_a_penalty_shuts_everybody_out_until_it_is_cleared(
    sandbox: Sandbox, caller: Caller
) -> None:
    sandbox.penalty(60)
    assert (await caller.core()).status == 429
    assert (await caller.core(authorization="sk-two")).status == 429
    sandbox.clear()
    assert (await caller.core()).status == 200


async def test_clear_takes_every_switch_back(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.fail_next(500, times=10)
    sandbox.drop_next(times=10)
    sandbox.delay(30)
    sandbox.exhaust_credits()
    sandbox.clear()
    assert (await caller.core()).status == 200


async def test_rates_fail_and_drop_that_share_of_the_work() -> None:
    async with (
        Sandbox(counting="off", fail_rate=1.0) as sandbox,
        aiohttp.ClientSession() as session,
    ):
        assert (await Caller(session, sandbox.url).core()).status == 500
    async with (
        Sandbox(counting="off", drop_rate=1.0) as sandbox,
        aiohttp.ClientSession() as session,
    ):
        with pytest.raises(aiohttp.ClientError):
            await Caller(session, sandbox.url).core()


@pytest.mark.parametrize(
    "call",
    [
        lambda sandbox: sandbox.fail_next(200),
        lambda sandbox: sandbox.fail_next(500, times=0),
        lambda sandbox: sandbox.drop_next("later"),
        lambda sandbox: sandbox.drop_next(times=0),
        lambda sandbox: sandbox.delay(-1),
    ],
)
async def test_switches_refuse_what_means_nothing(sandbox: Sandbox, call: object) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match="allowed"):
        call(sandbox)
