"""What a web page of another site, or another machine, can reach: nothing that is not allowed."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import aiohttp
import pytest

from stable_async.sandbox import Sandbox
from tests.sandbox.support import OPERATIONS, Caller, multipart

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CORE = OPERATIONS["generate_core"].path
EVIL = "http://evil.example"
TOKEN = "token-of-the-test"
PATHS = ("/", "/_sandbox/state", "/_sandbox/bill", "/_sandbox/thumbnails/1", "/v1/user/balance")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "x", "[", "a b"]
)
async def test_a_name_that_leads_here_reaches_nothing(
    sandbox: Sandbox, caller: Caller, host: str, path: str
) -> None:
    reply = await caller.send("GET", path, headers={"host": host})
    assert reply.status == 403
    assert reply.errors[0].startswith("host: is not a name of the sandbox")
    assert sandbox.statistics.requests == 0


@pytest.mark.parametrize("host", ["127.0.0.1:8787", "localhost", "app.localhost:1", "[::1]:5"])
async def test_the_machines_own_names_are_known(caller: Caller, host: str) -> None:
    assert (await caller.send("GET", "/_sandbox/state", headers={"host": host})).status == 200


@pytest.mark.parametrize("origin", [EVIL, "null", "http://localhost:3000", "http://127.0.0.1:1"])
async def test_forms_and_fetches_of_other_sites_are_refused_before_they_count(
    sandbox: Sandbox, caller: Caller, origin: str
) -> None:
    page = {"origin": origin}
    assert (await caller.core(origin=origin)).status == 403
    faults = json.dumps({"exhaust_credits": None}).encode()
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
        headers = {"content-type": kind, **page}
        assert (await caller.send("POST", "/_sandbox/faults", faults, headers)).status == 403
    asking = {**page, "access-control-request-method": "POST"}
    preflight = await caller.send("OPTIONS", CORE, headers=asking)
    assert preflight.status == 403
    assert "access-control-allow-origin" not in {name.lower() for name in preflight.headers}
    assert sandbox.statistics.requests == 0
    assert sandbox.statistics.credits_left == 1_000_000


async def test_images_and_frames_of_other_sites_are_refused_and_links_followed(
    caller: Caller,
) -> None:
    image = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    for path in ("/_sandbox/thumbnails/1", "/v1/engines/list", "/"):
        assert (await caller.send("GET", path, headers=image)).status == 403
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    page = await caller.send("GET", "/", headers=link)
    assert page.status == 200
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert (await caller.send("GET", "/_sandbox/state", headers=link)).status == 403
    own = {"sec-fetch-site": "same-origin", "origin": caller.url}
    assert (await caller.send("GET", "/_sandbox/state", headers=own)).status == 200


async def test_an_allowed_origin_may_call_the_api_and_read_its_answers() -> None:
    origin = "http://localhost:3000"
    async with (
        Sandbox(counting="off", cors=(origin,)) as sandbox,
        aiohttp.ClientSession() as session,
    ):
        caller = Caller(session, sandbox.url)
        asking = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }
        preflight = await caller.send("OPTIONS", CORE, headers=asking)
        assert preflight.status == 204
        assert preflight.headers["access-control-allow-origin"] == origin
        assert preflight.headers["access-control-allow-headers"] == "authorization"
        reply = await caller.core(origin=origin)
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, origin)
        assert "seed" in reply.headers["access-control-expose-headers"]
        assert (await caller.core("", origin=origin)).headers["access-control-allow-origin"]
        assert (await caller.core(origin=EVIL)).status == 403
        state = await caller.send("GET", "/_sandbox/state", headers={"origin": origin})
        assert state.status == 403
        assert sandbox.statistics.requests == 2


@pytest.fixture
async def public() -> AsyncIterator[Caller]:
    async with (
        Sandbox(counting="off", host="0.0.0.0", token=TOKEN) as sandbox,
        aiohttp.ClientSession() as session,
    ):
        yield Caller(session, sandbox.url.replace("0.0.0.0", "127.0.0.1"))


async def test_beyond_this_machine_the_control_addresses_ask_for_the_token(
    public: Caller,
) -> None:
    wrong = {"x-sandbox-token": "other"}
    assert (await public.send("GET", "/_sandbox/state?token=%ff%fe")).status == 401
    assert await raw_status(public.url, "\udcff\udcfe") == 401
    body = json.dumps({"exhaust_credits": None}).encode()
    kind = {"content-type": "application/json"}
    for path in PATHS[1:4]:
        assert (await public.send("GET", path)).status == 401
        assert (await public.send("GET", path, headers=wrong)).status == 401
    assert (await public.send("POST", "/_sandbox/faults", body, kind)).status == 401
    assert (await public.send("GET", "/")).status == 200
    assert (await public.send("GET", "/_sandbox/health")).json == {"status": "ok"}
    right = {"x-sandbox-token": TOKEN}
    assert (await public.send("GET", "/_sandbox/state", headers=right)).status == 200
    assert (await public.send("GET", f"/_sandbox/state?token={TOKEN}")).status == 200
    assert (await public.send("POST", "/_sandbox/faults", body, {**kind, **right})).status == 200
    assert (await public.core()).status == 402


async def raw_status(url: str, token: str) -> int:
    """Send a token of odd bytes, which no client library would."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"GET /_sandbox/state HTTP/1.1\r\nHost: {host}\r\nX-Sandbox-Token: {token}\r\n\r\n"
    writer.write(head.encode(errors="surrogateescape"))
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


async def test_services_of_docker_have_names_without_dots(public: Caller) -> None:
    for host, status in (("sandbox:8787", 200), ("evil.example", 403), ("", 200)):
        reply = await public.send("GET", "/_sandbox/health", headers={"host": host})
        assert reply.status == status


async def test_names_can_be_allowed() -> None:
    async with (
        Sandbox(allowed_hosts=("api.test",)) as sandbox,
        aiohttp.ClientSession() as session,
    ):
        caller = Caller(session, sandbox.url)
        for host, status in (("API.test:80", 200), ("other.test", 403)):
            reply = await caller.send("GET", "/_sandbox/state", headers={"host": host})
            assert reply.status == status


def test_beyond_this_machine_there_must_be_a_token() -> None:
    with pytest.raises(ValueError, match="token is not set"):
        Sandbox(host="0.0.0.0")
    assert TOKEN not in repr(Sandbox(host="0.0.0.0", token=TOKEN).settings)


@pytest.mark.parametrize(
    "path",
    [
        "/_sandbox/../_sandbox/state/../../etc/passwd",
        "/_sandbox/thumbnails/..%2f..%2fetc%2fpasswd",
        "/_sandbox/thumbnails/1/../../state",
        "//_sandbox/state",
        "/v2beta/results/..%2f..%2f_sandbox%2fstate",
        "/%5f_sandbox/state",
    ],
)
async def test_tricks_with_paths_find_nothing(caller: Caller, path: str) -> None:
    host, port = caller.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    assert b" 40" in answer.splitlines()[0]
    assert b"root:" not in answer
    assert b'"statistics"' not in answer


async def test_bombs_are_refused_within_their_bounds(caller: Caller) -> None:
    # Ten thousand parts; a header without end; JSON nested without end; a form in a form.
    parts = multipart({str(number): "" for number in range(10_000)})
    kind = {"content-type": "multipart/form-data; boundary=8c1f0a2bd34e"}
    assert (await caller.send("POST", CORE, parts, kind)).status == 400
    long = multipart({"p" * 100_000: "x"})
    assert (await caller.send("POST", CORE, long, kind)).status == 400
    path = OPERATIONS["v1_text_to_image"].path.replace("{engine_id}", "stable-diffusion-v1-5")
    nested = b"[" * 100_000
    reply = await caller.send("POST", path, nested, {"content-type": "application/json"})
    assert reply.status == 400
    reply = await caller.send(
        "POST", "/_sandbox/faults", nested, {"content-type": "application/json"}
    )
    assert reply.status == 400
    gzip = {**kind, "content-encoding": "gzip"}
    assert (await caller.send("POST", CORE, b"\x1f\x8b" + b"\0" * 1000, gzip)).status == 400
