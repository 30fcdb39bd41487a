"""The examples are services that work: each against a sandbox, over HTTP."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

import aiohttp
import pytest

from examples import fastapi_app
from stable_async.sandbox import SandboxSettings
from stable_async.sandbox.process import SandboxProcess, start_sandbox
from tests.examples.running import example

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

WITH_STATES = {"accept": fastapi_app.WITH_STATES}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with start_sandbox(SandboxSettings()) as one:
        yield one


@pytest.fixture(scope="module", params=["fastapi", "aiohttp"])
def url(request: pytest.FixtureRequest, sandbox: SandboxProcess) -> Iterator[str]:
    with example(cast("str", request.param), sandbox.url) as one:
        yield one


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_an_image_comes_as_bytes_with_its_facts_as_headers(
    url: str, http: aiohttp.ClientSession
) -> None:
    wanted = {"prompt": "a lighthouse", "seed": 7, "output_format": "webp"}
    async with http.post(f"{url}/images", json=wanted) as answer:
        data = await answer.read()
        assert answer.status == 200
        assert answer.headers["content-type"] == "image/webp"
        assert answer.headers["content-length"] == str(len(data))
        assert answer.headers["seed"] == "7"
        assert answer.headers["finish-reason"] == "SUCCESS"
        assert data[8:12] == b"WEBP"


@pytest.mark.parametrize(
    ("wanted", "status", "word"),
    [
        ({"prompt": "a sandbox:moderated thing"}, 422, "content_refused"),
        ({"prompt": "x", "aspect_ratio": "7:1"}, 422, "invalid_request"),
        ({"prompt": "x", "service": "video"}, 422, "invalid_request"),
        ({"prompt": "x", "service": "ultra", "image": "/etc/passwd"}, 422, "invalid_request"),
        ([], 422, "invalid_request"),
    ],
)
async def test_what_cannot_be_made_is_answered_in_plain_words(
    url: str, http: aiohttp.ClientSession, wanted: object, status: int, word: str
) -> None:
    async with http.post(f"{url}/images", json=wanted) as answer:
        content = await answer.json()
        assert (answer.status, content["error"]) == (status, word)
        assert content["message"].endswith(".")
        assert "/etc" not in json.dumps(content)
        assert "sk-" not in json.dumps(content)


@pytest.mark.parametrize("body", [b"{bad", b"\xff\xfe", b"[" * 100_000])
async def test_what_is_no_json_is_no_error_of_the_service(
    url: str, http: aiohttp.ClientSession, body: bytes
) -> None:
    kind = {"content-type": "application/json"}
    async with http.post(f"{url}/images", data=body, headers=kind) as answer:
        assert answer.status in {400, 422}


async def test_the_page_is_told_each_state_and_then_gets_the_image(
    url: str, http: aiohttp.ClientSession
) -> None:
    wanted = {"prompt": "a sandbox:filtered thing", "service": "sd3"}
    async with http.post(f"{url}/images", json=wanted, headers=WITH_STATES) as answer:
        *lines, last = [json.loads(await answer.content.readline()) for _ in range(3)]
        assert [line["state"] for line in lines] == ["waiting", "generating"]
        assert last["state"] == "filtered"
        data = await answer.read()
        assert last["headers"]["content-length"] == str(len(data))
        assert data.startswith(b"\x89PNG")


async def test_the_page_is_told_of_a_refusal(url: str, http: aiohttp.ClientSession) -> None:
    wanted = {"prompt": "a sandbox:moderated thing"}
    async with http.post(f"{url}/images", json=wanted, headers=WITH_STATES) as answer:
        lines = [json.loads(line) for line in (await answer.read()).splitlines()]
    assert [line["state"] for line in lines] == ["waiting", "generating", "refused"]
    assert lines[-1]["status"] == 422


async def test_the_quota_is_shown(url: str, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{url}/quota") as answer:
        assert (await answer.json())["requests"] == 150


async def test_the_page_is_served_and_asks_for_what_the_service_offers(
    url: str, http: aiohttp.ClientSession
) -> None:
    async with http.get(url) as answer:
        page = await answer.text()
        assert answer.headers["content-type"].startswith("text/html")
    assert fastapi_app.WITH_STATES in page
    assert set(re.findall(r'fetch\("(\w+)"', page)) == {"images", "quota"}


def test_the_page_never_makes_html_of_what_it_is_given() -> None:
    page = Path(fastapi_app.PAGE).read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", page)


async def test_a_user_who_goes_away_leaves_nothing_behind(
    http: aiohttp.ClientSession,
) -> None:
    """The browser leaves while the image is made: the connection to the API is cut as well."""
    with start_sandbox(SandboxSettings(latency=300.0)) as slow:
        for name in ("fastapi", "aiohttp"):
            with example(name, slow.url) as url:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await http.post(f"{url}/images", json={"prompt": "x"})
                await asyncio.sleep(0.05)  # the loop must run for the socket to be closed
            # A graceful end waits for what is under way: it would not have come.


async def test_four_workers_share_one_quota(
    http: aiohttp.ClientSession, sandbox: SandboxProcess, tmp_path: Path
) -> None:
    path = str(tmp_path / "quota")
    with example("fastapi", sandbox.url, workers=2, quota_path=path) as url:

        async def image() -> None:
            headers = {"connection": "close"}  # any worker takes it
            async with http.post(f"{url}/images", json={"prompt": "x"}, headers=headers) as answer:
                assert answer.status == 200

        await asyncio.gather(*(image() for _ in range(12)))
        async with http.get(f"{url}/quota", headers={"connection": "close"}) as answer:
            assert (await answer.json())["in_window"] == 12
