"""Scripted answers, given outputs, the clock, reset, and what a failed assertion shows."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

from stable_async.sandbox import Sandbox
from tests.sandbox.support import OPERATIONS, Caller, sample_image

if TYPE_CHECKING:
    from stable_async.sandbox.request_log import RequestRecord

RELIGHT = OPERATIONS["edit_replace_background_and_relight"]


async def test_a_scripted_answer_is_sent_as_it_is_and_charges_nothing(
    sandbox: Sandbox, caller: Caller
) -> None:
    sandbox.respond("generate_core", 200, {"X-Odd": "1"}, '{"errors":[', times=2)
    for _ in range(2):
        reply = await caller.core()
        assert (reply.status, reply.body) == (200, b'{"errors":[')
        assert reply.headers["x-odd"] == "1"
    assert (await caller.core()).status == 200
    assert sandbox.charges().requests == 1
    sandbox.respond(status=418, body={"short": "stout"})
    reply = await caller.send("GET", "/v1/user/balance")
    assert (reply.status, reply.json) == (418, {"short": "stout"})
    assert reply.headers["content-type"] == "application/json"


async def test_a_predicate_says_which_requests_are_meant(sandbox: Sandbox, caller: Caller) -> None:
    def about_boats(record: RequestRecord) -> bool:
        return "boat" in record.fields.get("prompt", "")

    sandbox.respond("generate_core", 503, when=about_boats, times=None)
    statuses = [(await caller.core(prompt)).status for prompt in ("a boat", "a fox", "two boats")]
    assert statuses == [503, 200, 503]


async def test_a_given_output_is_checked_and_charged_as_any_other(
    sandbox: Sandbox, caller: Caller
) -> None:
    sandbox.produce(
        "generate_core", sample_image(), seed=7, finish_reason="CONTENT_FILTERED", times=2
    )
    assert (await caller.core("")).status == 400
    reply = await caller.core(output_format="png")
    assert (reply.body, reply.headers["content-type"]) == (sample_image(), "image/png")
    assert (reply.headers["seed"], reply.headers["finish-reason"]) == ("7", "CONTENT_FILTERED")
    assert sandbox.charges().credits == 3
    sandbox.produce(None, sample_image(), times=1)
    sandbox.produce("edit_replace_background_and_relight", sample_image(80, 70))
    result_id = (await caller.operate(RELIGHT)).json["id"]
    sandbox.clear()
    assert (await caller.send("GET", f"/v2beta/results/{result_id}")).body in {
        sample_image(),
        sample_image(80, 70),
    }


async def test_a_result_can_be_kept_running_for_so_many_looks(
    sandbox: Sandbox, caller: Caller
) -> None:
    sandbox.keep_running(3)
    result_id = (await caller.operate(RELIGHT)).json["id"]
    looks = [(await caller.send("GET", f"/v2beta/results/{result_id}")).status for _ in range(4)]
    assert looks == [202, 202, 202, 200]


async def test_every_status_can_be_failed_with(sandbox: Sandbox, caller: Caller) -> None:
    for status in range(400, 600):
        sandbox.fail_next(status)
        reply = await caller.send("GET", "/v2beta/results/" + "0" * 64)
        assert reply.status == status
        assert reply.json.keys() == {"errors", "id", "name"}
        assert reply.json["name"]


async def test_the_clock_moves_work_results_penalties_and_the_balance() -> None:
    async with (
        Sandbox(latency=30, requests=2, counting="log", balance_lag=60, credits=100) as sandbox,
        aiohttp.ClientSession() as session,
    ):
        caller = Caller(session, sandbox.url)
        working = asyncio.create_task(caller.operate(RELIGHT))
        async with asyncio.timeout(5):
            while not sandbox.statistics.in_flight:
                await asyncio.sleep(0)
        sandbox.advance(30)
        result_id = (await working).json["id"]
        path = f"/v2beta/results/{result_id}"
        assert (await caller.send("GET", path)).status == 200
        assert (await caller.send("GET", path)).status == 200
        assert (await caller.send("GET", path)).status == 429
        sandbox.advance(59.5)
        assert (await caller.send("GET", path)).status == 429
        sandbox.advance(0.5)
        assert (await caller.send("GET", "/v1/user/balance")).json == {"credits": 92.0}
        sandbox.advance(24 * 3600 - 200)
        assert (await caller.send("GET", path)).status == 200
        sandbox.advance(200)
        assert (await caller.send("GET", path)).status == 404


async def test_a_charge_shows_in_the_balance_after_its_lag() -> None:
    async with (
        Sandbox(counting="off", balance_lag=60, credits=100) as sandbox,
        aiohttp.ClientSession() as session,
    ):
        caller = Caller(session, sandbox.url)
        await caller.core()
        assert (await caller.send("GET", "/v1/user/balance")).json == {"credits": 100.0}
        assert sandbox.statistics.credits_left == 97
        sandbox.advance(60)
        assert (await caller.send("GET", "/v1/user/balance")).json == {"credits": 97.0}


async def test_the_clock_is_moved_over_http_too(sandbox: Sandbox, caller: Caller) -> None:
    headers = {"content-type": "application/json"}
    body = json.dumps({"advance": {"seconds": 5}}).encode()
    assert (await caller.send("POST", "/_sandbox/clock", body, headers)).status == 200
    assert (await caller.send("GET", "/_sandbox/clock")).json["advanced"] == 5
    body = json.dumps({"advance": {"seconds": -5}}).encode()
    assert (await caller.send("POST", "/_sandbox/clock", body, headers)).status == 400
    with pytest.raises(ValueError, match="seconds"):
        sandbox.advance(float("inf"))


async def test_a_reset_begins_again_and_what_is_in_flight_ends_with_the_old(
    sandbox: Sandbox, caller: Caller
) -> None:
    sandbox.delay(3600, times=1)
    waiting = asyncio.create_task(caller.core())
    async with asyncio.timeout(5):
        while not len(sandbox.log):
            await asyncio.sleep(0)
    sandbox.fail_next(500, times=9, operation="v1_user_balance")
    sandbox.reset()
    assert (len(sandbox.log), sandbox.statistics.requests) == (0, 0)
    assert (await caller.core(seed="0")).status == 200
    sandbox.advance(3600)
    assert (await waiting).status == 200
    assert sandbox.statistics.in_flight == 0
    assert sandbox.charges().requests == 1
    headers = {"content-type": "application/json"}
    assert (await caller.send("POST", "/_sandbox/reset", None, headers)).status == 200
    assert sandbox.charges().requests == 0


async def test_the_log_reads_well_where_an_assertion_fails(
    sandbox: Sandbox, caller: Caller
) -> None:
    await caller.core("a lighthouse " * 20, seed="7")
    await caller.core("")
    await caller.operate(OPERATIONS["edit_erase"])
    lines = repr(sandbox.log).splitlines()
    assert lines[0] == "<3 requests"
    assert lines[1].startswith("  <#1 generate_core -> 200, prompt='a lighthouse a lighthouse")
    assert "…'" in lines[1]
    assert "seed used 7, 3 credits>" in lines[1]
    assert "problems: ['prompt: must be at least 1 character long']" in lines[2]
    assert "#3 edit_erase -> 200, image='in.png', seed used" in lines[3]
    assert all(len(line) < 300 for line in lines)


async def test_a_fraction_is_no_retry_after_and_an_operation_must_exist(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match=r"retry_after is 1\.5; allowed: whole seconds"):
        sandbox.fail_next(429, retry_after=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="operation is 'core'; allowed: generate_ultra"):
        sandbox.fail_next(500, operation="core")
    for wrong in ({"rate": 0}, {"rate": 1.1}, {"seconds": 0}, {"times": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            sandbox.edge("firewall", **wrong)
    with pytest.raises(ValueError, match="seconds"):
        sandbox.unreachable(0)
    with pytest.raises(ValueError, match="looks"):
        sandbox.keep_running(0)
    with pytest.raises(ValueError, match="printable"):
        sandbox.respond(headers={"x-odd": "one\r\ntwo: three"})
