"""What stands between a client and the API: pages, labels and cuts, and who pays for them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from socket import socket

import aiohttp
import pytest
from PIL import Image

from stable_async.sandbox import Sandbox
from stable_async.sandbox.edge import EDGE_FAULTS
from stable_async.sandbox.settings import LOOPBACK
from tests.sandbox.support import OPERATIONS, Caller

RELIGHT = OPERATIONS["edit_replace_background_and_relight"]
UNREACHED = {
    "cdn_521": 521,
    "cdn_523": 523,
    "cdn_525": 525,
    "cdn_526": 526,
    "cdn_530": 530,
    "firewall": 403,
    "not_found_page": 404,
    "login_page": 200,
    "busy_page": 429,
    "redirect": 302,
    "proxy_login": 407,
    "too_large_page": 413,
    "blocked_page": 451,
}
LOST = {
    "bad_gateway": 502,
    "unavailable": 503,
    "gateway_timeout": 504,
    "cdn_520": 520,
    "cdn_522": 522,
    "cdn_524": 524,
    "no_content": 204,
    "login_after": 200,
}
CUT = {"reset": 0, "cut_after_request": 3, "cut_headers": 3, "cut_body": 3}


async def raw(caller: Caller) -> aiohttp.ClientResponse:
    """Ask for an image; redirects are not followed, and headers may be long."""
    form = aiohttp.MultipartWriter("form-data")
    form.append("a lighthouse").set_content_disposition("form-data", name="prompt")
    # aiohttp reads no more than 128 header lines unless it is told to.
    return await caller.session.post(
        caller.url + OPERATIONS["generate_core"].path,
        data=form,
        headers={"authorization": "Bearer sk-sandbox", "accept": "image/*"},
        allow_redirects=False,
        max_line_size=32_000,
        max_field_size=32_000,
        max_headers=400,
    )


@pytest.mark.parametrize(("kind", "status"), [*UNREACHED.items(), *LOST.items()])
async def test_a_page_in_the_apis_place_is_charged_where_the_api_was_reached(
    sandbox: Sandbox, caller: Caller, kind: str, status: int
) -> None:
    sandbox.edge(kind)
    reply = await raw(caller)
    body = await reply.read()
    assert reply.status == status
    assert not body.startswith(b"{")
    assert b'"errors"' not in body
    assert "x-request-id" not in {name.lower() for name in reply.headers}
    assert sandbox.charges().credits == (3 if kind in LOST else 0)
    assert (sandbox.log[-1].edge, sandbox.log[-1].fields["prompt"]) == (kind, "a lighthouse")
    assert sandbox.statistics.edge_faults == {kind: 1}
    assert (await caller.core()).status == 200


@pytest.mark.parametrize(("kind", "charged"), CUT.items())
async def test_a_cut_connection_is_charged_after_the_api_was_reached(
    sandbox: Sandbox, caller: Caller, kind: str, charged: float
) -> None:
    sandbox.edge(kind)
    with pytest.raises(aiohttp.ClientError):
        await (await raw(caller)).read()
    assert sandbox.charges().credits == charged


async def test_whether_lost_work_was_charged_can_be_said(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.edge("bad_gateway", charged=False)
    assert (await caller.core()).status == 502
    assert sandbox.charges().credits == 0
    sandbox.edge("firewall", charged=True)
    assert (await caller.core()).status == 403
    assert sandbox.charges().credits == 3
    with pytest.raises(ValueError, match="charged"):
        sandbox.edge("wrong_label", charged=False)


async def test_altered_answers_have_what_was_made_in_them(sandbox: Sandbox, caller: Caller) -> None:
    whole = await caller.core(seed="7")
    seen: dict[str, tuple[int, str, bytes]] = {}
    for kind, fault in EDGE_FAULTS.items():
        if fault.alter is None or kind.startswith(("cut_", "stray_", "fat_")):
            continue
        sandbox.edge(kind)
        reply = await caller.core(seed="7")
        seen[kind] = (reply.status, reply.headers.get("content-type", ""), reply.body)
    assert seen["generic_label"] == (200, "application/octet-stream", whole.body)
    assert seen["no_label"] == (200, "", whole.body)
    assert seen["wrong_label"] == (200, "image/png", whole.body)
    assert seen["status_201"][0] == 201
    assert seen["status_206"][0] == 206
    assert seen["page_as_image"][1] == "image/png"
    assert seen["page_as_image"][2].startswith(b"<!DOCTYPE html>")
    assert seen["empty_body"] == (200, "image/jpeg", b"")
    assert whole.body.startswith(seen["short_body"][2])
    assert len(seen["short_body"][2]) < len(whole.body)
    assert sandbox.charges().requests == len(seen) + 1


async def test_stray_bytes_come_after_the_length(sandbox: Sandbox) -> None:
    sandbox.edge("stray_bytes")
    host, port = sandbox.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /v1/user/balance HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: sk-x\r\n\r\n")
    answer = await reader.read()
    body = answer.partition(b"\r\n\r\n")[2]
    assert body.startswith(b'{"credits":1000000.0}')
    assert len(body) > len(b'{"credits":1000000.0}')
    writer.close()


async def test_fat_headers_are_fat(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.edge("fat_headers")
    reply = await raw(caller)
    assert len(reply.headers["set-cookie"]) > 9_000
    assert len(reply.headers) > 200
    assert (await reply.read()).startswith(b"\x89PNG")


async def test_base64_comes_in_lines_or_as_a_data_url(sandbox: Sandbox, caller: Caller) -> None:
    plain = await caller.core(seed="7", accept="application/json")
    sandbox.edge("base64_lines")
    lines = await caller.core(seed="7", accept="application/json")
    assert "\n" in str(lines.json["image"])
    assert base64.decodebytes(str(lines.json["image"]).encode()) == base64.b64decode(
        str(plain.json["image"])
    )
    sandbox.edge("data_url")
    url = await caller.core(seed="7", accept="application/json")
    assert url.json["image"] == f"data:image/jpeg;base64,{plain.json['image']}"


async def test_the_first_look_at_each_result_finds_a_page(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.edge("first_look")
    for _ in range(2):
        result_id = (await caller.operate(RELIGHT)).json["id"]
        looks = [await caller.send("GET", f"/v2beta/results/{result_id}") for _ in range(2)]
        assert [look.status for look in looks] == [404, 200]
        assert looks[0].headers["content-type"].startswith("text/html")
    assert sandbox.log[-1].look == 2


async def test_an_outage_lasts_for_its_time_by_the_sandboxs_clock(
    sandbox: Sandbox, caller: Caller
) -> None:
    sandbox.edge("cdn_521", seconds=20)
    assert [(await caller.core()).status for _ in range(3)] == [521] * 3
    sandbox.advance(19)
    assert (await caller.core()).status == 521
    sandbox.advance(1)
    assert (await caller.core()).status == 200


async def test_a_rate_is_that_share_and_the_same_for_the_same_seed() -> None:
    def count(statuses: list[int]) -> int:
        return sum(status == 403 for status in statuses)

    runs = []
    for _ in range(2):
        async with (
            Sandbox(counting="off", edge_rates={"firewall": 0.3}, seed=5) as sandbox,
            aiohttp.ClientSession() as session,
        ):
            caller = Caller(session, sandbox.url)
            runs.append([(await caller.core("")).status for _ in range(60)])
            sandbox.edge("cdn_521", rate=0.5)
            more = [(await caller.core("")).status for _ in range(60)]
            assert 15 <= more.count(521) <= 45
    assert runs[0] == runs[1]
    assert 8 <= count(runs[0]) <= 30


async def test_faults_may_be_for_one_caller_only(sandbox: Sandbox, caller: Caller) -> None:
    mine = {"stability-client-id": "worker-1"}
    sandbox.edge("firewall", headers=mine)
    sandbox.fail_next(500, headers={"Authorization": "Bearer sk-two"})
    sandbox.drop_next(headers=mine)
    assert (await caller.core()).status == 200
    assert (await caller.core(authorization="Bearer sk-two")).status == 500
    assert (await caller.core(stability_client_id="worker-2")).status == 200
    assert (await caller.core(stability_client_id="worker-1")).status == 403
    with pytest.raises(aiohttp.ClientError):
        await caller.core(stability_client_id="worker-1")


async def outcome_but(caller: Caller, before: object) -> object:
    """Ask until the answer's status, or the error's type, is another one than before."""
    async with asyncio.timeout(10):
        while True:
            outcome: object
            try:
                outcome = (await caller.core("")).status
            except aiohttp.ClientConnectorError:
                outcome = aiohttp.ClientConnectorError
            except aiohttp.ClientError:
                continue  # the connection that was kept alive is closed
            if outcome != before:
                return outcome
            await asyncio.sleep(0)


async def test_an_unreachable_sandbox_refuses_connections_and_comes_back(
    sandbox: Sandbox, caller: Caller
) -> None:
    assert (await caller.core("")).status == 400
    sandbox.unreachable(3600)
    assert await outcome_but(caller, 400) is aiohttp.ClientConnectorError
    with socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((LOOPBACK, int(sandbox.url.rpartition(":")[2])))
    sandbox.advance(3600)
    assert await outcome_but(caller, aiohttp.ClientConnectorError) == 400


async def test_what_was_charged_is_exact_for_each_caller(sandbox: Sandbox, caller: Caller) -> None:
    audio = OPERATIONS["stable_audio_2_text_to_audio"]
    for _ in range(7):
        await caller.operate(audio, {"steps": "33"}, stability_client_id="a")
    await caller.core(authorization="Bearer sk-two", stability_client_id="a")
    await caller.core("", stability_client_id="b")
    assert sandbox.charges(client_id="a", key="sk-sandbox").credits == 132.86
    assert sandbox.charges(client_id="a").credits == 135.86
    assert sandbox.charges(key="sk-two").by_operation == {"generate_core": 3}
    assert sandbox.charges(client_id="b").requests == 0
    assert sandbox.statistics.credits_spent == 135.86
    bill = (await caller.send("GET", "/_sandbox/bill")).json
    assert bill["credits"] == 135.86
    assert [row["credits"] for row in bill["callers"]] == pytest.approx(  # type: ignore[attr-defined]
        [3, 132.86], abs=0
    ) or [row["credits"] for row in bill["callers"]] == [132.86, 3]  # type: ignore[attr-defined]


async def test_faults_are_set_over_http_as_well(sandbox: Sandbox, caller: Caller) -> None:
    async def set_faults(**faults: object) -> int:
        body = json.dumps(faults).encode()
        headers = {"content-type": "application/json"}
        return (await caller.send("POST", "/_sandbox/faults", body, headers)).status

    assert await set_faults(edge={"kind": "cdn_521", "times": 2}) == 200
    assert await set_faults(edge={"kind": "no_such"}) == 400
    assert await set_faults(respond={"operation": "generate_core", "when": "x"}) == 400
    assert [(await caller.core()).status for _ in range(3)] == [521, 521, 200]
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "PNG")
    data = base64.b64encode(image.getvalue()).decode()
    assert await set_faults(produce={"data_base64": data, "seed": 5}) == 200
    reply = await caller.core(output_format="png")
    assert (reply.body, reply.headers["seed"]) == (image.getvalue(), "5")
    assert await set_faults(respond={"status": 599, "body_base64": data}) == 200
    scripted = await caller.core()
    assert (scripted.status, scripted.body) == (599, image.getvalue())


def test_every_kind_is_listed_in_the_error_for_another_one() -> None:
    sandbox = Sandbox(edge_rates={"no_such": 0.5})
    with pytest.raises(ValueError, match="firewall"):
        asyncio.run(_enter(sandbox))


async def _enter(sandbox: Sandbox) -> None:
    async with sandbox:
        raise AssertionError(time.monotonic())
