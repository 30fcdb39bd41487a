"""The page and the figures behind it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib import resources
from typing import TYPE_CHECKING, cast

import pytest

from tests.sandbox.support import OPERATIONS, Caller, sample_image

if TYPE_CHECKING:
    from stable_async.sandbox import Sandbox

HOSTILE = '<img src=x onerror=alert(1)></script><b>"&amp;'


Shown = dict[str, dict[str, object]]


def page() -> str:
    return resources.files("stable_async.sandbox").joinpath("dashboard.html").read_text()


async def test_the_page_allows_its_own_script_and_nothing_from_elsewhere(caller: Caller) -> None:
    reply = await caller.send("GET", "/")
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    (script,) = re.findall(r"<script>(.*?)</script>", reply.body.decode(), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy


def test_the_page_needs_nothing_from_elsewhere_and_makes_no_markup_of_text() -> None:
    text = page().replace("http://127.0.0.1", "")
    assert not re.findall(r"https?://|@import|url\(|<link|<iframe", text)
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text)


def test_every_control_of_the_page_can_be_reached_and_is_named() -> None:
    text = page()
    assert '<html lang="en">' in text
    assert "onclick" not in re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL)
    for button in re.findall(r"<button[^>]*>([^<]*)<", text):
        assert button.strip()
    assert all(
        "aria-label" in tag for tag in re.findall(r"<[^>]*role=\"(?:img|meter)\"[^>]*>", text)
    )


async def test_the_state_gives_the_last_requests_with_text_as_text(
    sandbox: Sandbox, caller: Caller
) -> None:
    await caller.core(HOSTILE)
    await caller.operate(OPERATIONS["edit_erase"], {"image": (HOSTILE, sample_image())})
    reply = await caller.send("GET", "/_sandbox/state")
    assert reply.headers["Content-Type"] == "application/json"
    erase, core = cast("list[Shown]", reply.json["requests"])
    assert core["fields"]["prompt"] == HOSTILE
    assert cast("dict[str, object]", erase["files"]["image"])["filename"] == HOSTILE
    for request in (erase, core):
        thumbnail = await caller.send("GET", str(request["thumbnail"]))
        assert thumbnail.headers["Content-Type"] == "image/jpeg"
        assert max(thumbnail.size) <= 320
    assert cast("list[int]", reply.json["per_second"])[-1] == 2
    assert sandbox.log[0].key in reply.body.decode()
    assert "sk-sandbox" not in reply.body.decode()


async def test_the_state_is_bounded_whatever_was_sent(caller: Caller) -> None:
    for _ in range(60):
        await caller.core("x" * 60_000, **{"seed": "y" * 60_000, "a" * 8_000: "z"})
    assert len((await caller.send("GET", "/_sandbox/state")).body) < 200_000


async def test_there_is_no_thumbnail_where_there_was_no_image(caller: Caller) -> None:
    await caller.core("")
    for number in ("1", "99", "x", "9" * 30):
        assert (await caller.send("GET", f"/_sandbox/thumbnails/{number}")).status == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"no_such": {}}',
        b'{"fail_next": {"status": 200}}',
        b'{"fail_next": {}}',
        b'{"fail_next": 5}',
        b'{"delay": {"seconds": "x"}}',
        b'{"penalty": {"seconds": null}}',
        b'{"penalty": {"seconds": NaN}}',
        b'{"fail_next": {"status": 500, "times": "2"}}',
        b"x" * 100_000,
    ],
)
async def test_switches_over_http_refuse_nonsense(caller: Caller, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    reply = await caller.send("POST", "/_sandbox/faults", body, headers)
    assert reply.status == 400
    assert reply.errors
    assert (await caller.core("")).status == 400


async def test_switches_over_http_need_a_json_type(caller: Caller) -> None:
    body = json.dumps({"exhaust_credits": None}).encode()
    plain = await caller.send("POST", "/_sandbox/faults", body, {"content-type": "text/plain"})
    assert plain.status == 400
    reply = await caller.send(
        "POST", "/_sandbox/faults", body, {"content-type": "application/json"}
    )
    assert reply.json == {"set": ["exhaust_credits"]}
    assert (await caller.core()).status == 402
