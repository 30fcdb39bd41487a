"""Asynchronous operations: submit, poll, fetch; by the submitting key, for 24 hours."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from stable_async.sandbox import Sandbox
from stable_async.sandbox.render.output import Output
from stable_async.sandbox.results import RETENTION, Result, ResultStore
from tests.sandbox.support import OPERATIONS, Caller

RELIGHT = OPERATIONS["edit_replace_background_and_relight"]


@pytest.mark.parametrize(
    ("submit", "path", "kind"),
    [
        ("upscale_creative", "/v2beta/results/", "image/png"),
        ("upscale_creative", "/v2beta/stable-image/upscale/creative/result/", "image/png"),
        ("edit_replace_background_and_relight", "/v2beta/results/", "image/png"),
        ("stable_audio_text_to_audio", "/v2beta/audio/results/", "audio/mpeg"),
        ("stable_audio_inpaint", "/v2beta/audio/results/", "audio/mpeg"),
        ("v2alpha_upscale", "/v2alpha/generation/stable-image/upscale/result/", "image/png"),
    ],
)
async def test_a_result_is_found_at_its_own_paths(
    caller: Caller, submit: str, path: str, kind: str
) -> None:
    submitted = await caller.operate(OPERATIONS[submit])
    assert submitted.status == OPERATIONS[submit].submit_status
    assert submitted.json.keys() == {"id"}
    result = await caller.send("GET", path + str(submitted.json["id"]))
    assert (result.status, result.headers["Content-Type"]) == (200, kind)
    assert result.headers["finish-reason"] == "SUCCESS"
    other = "/v2beta/results/" if "audio" in path else "/v2beta/audio/results/"
    assert (await caller.send("GET", other + str(submitted.json["id"]))).status == 404


async def test_a_running_result_is_202_until_its_time() -> None:
    async with (
        Sandbox(counting="off", latency=0.3) as sandbox,
        aiohttp.ClientSession() as session,
    ):
        caller = Caller(session, sandbox.url)
        result_id = (await caller.operate(RELIGHT)).json["id"]
        running = await caller.send("GET", f"/v2beta/results/{result_id}")
        assert (running.status, running.json) == (202, {"id": result_id, "status": "in-progress"})
        async with asyncio.timeout(5):
            while (await caller.send("GET", f"/v2beta/results/{result_id}")).status == 202:
                await asyncio.sleep(0.02)
        assert (await caller.send("GET", f"/v2beta/results/{result_id}")).status == 200
        statistics = sandbox.statistics
        assert statistics.polls >= 3
        assert statistics.polls_too_soon == statistics.polls - 1


async def test_a_result_is_another_keys_secret(caller: Caller) -> None:
    result_id = (await caller.operate(RELIGHT)).json["id"]
    path = f"/v2beta/results/{result_id}"
    other = await caller.send("GET", path, headers={"authorization": "sk-other"})
    assert (other.status, other.json["name"]) == (404, "generation_not_found")
    assert (await caller.send("GET", path)).status == 200
    assert (await caller.send("GET", path, headers={"authorization": ""})).status == 401


async def test_an_id_of_another_length_is_a_bad_request(caller: Caller) -> None:
    for wrong in ("0" * 63, "0" * 65, "x"):
        reply = await caller.send("GET", f"/v2beta/results/{wrong}")
        assert (reply.status, reply.errors) == (400, ["id: must be 64 characters long"])


async def test_a_filtered_result_arrives_as_such(caller: Caller) -> None:
    changes = {"background_prompt": "sandbox:filtered"}
    result_id = (await caller.operate(RELIGHT, changes)).json["id"]
    result = await caller.send("GET", f"/v2beta/results/{result_id}")
    assert result.headers["finish-reason"] == "CONTENT_FILTERED"


def made(size: int, ready_at: float = 0.0) -> Result:
    return Result("upscale_creative", "key", Output("image/png", b"", "SUCCESS", 1), size, ready_at)


def test_results_are_kept_for_24_hours_from_when_they_were_ready() -> None:
    store = ResultStore()
    store.put("one", made(1, ready_at=50.0), now=0.0)
    assert store.get("one", "key", now=50.0 + RETENTION) is not None
    assert store.get("one", "key", now=50.1 + RETENTION) is None


def test_the_oldest_results_make_room_beyond_a_bound_of_memory() -> None:
    store = ResultStore(max_bytes=100)
    for name in ("one", "two", "three"):
        store.put(name, made(40), now=0.0)
    assert [store.get(name, "key", 1.0) is not None for name in ("one", "two", "three")] == [
        False,
        True,
        True,
    ]
