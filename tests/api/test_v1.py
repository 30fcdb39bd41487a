"""Answers of v1 and of the account, and what only v1 requests carry."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from stable_async import (
    ContentFilteredError,
    GenerateCore,
    InvalidResponseError,
    StabilityClient,
    V1Engines,
    V1TextToImage,
)
from stable_async.api.account import Account, AccountBalance, AccountDetails, Balance, Organization
from stable_async.api.answers import Answer
from stable_async.api.v1 import Engine
from tests.raw_server import Connection, answer, raw_server
from tests.samples import PNG_HEAD, sample_image

REQUEST = V1TextToImage(engine_id="stable-diffusion-v1-6", text_prompts=[{"text": "x"}])
ENGINE = {"id": "a", "name": "b", "description": "c", "type": "PICTURE"}
ACCOUNT: dict[str, Any] = {
    "id": "user-1",
    "email": "a@example.com",
    "organizations": [{"id": "org-1", "name": "One", "role": "ADMIN", "is_default": True}],
}


def json_answer(content: object) -> Answer:
    return Answer(200, {"x-request-id": "r"}, json.dumps(content).encode())


def artifact(reason: str = "SUCCESS", seed: float = 7) -> dict[str, Any]:
    data = base64.b64encode(sample_image()).decode()
    return {"base64": data, "finishReason": reason, "seed": seed}


def test_several_images_are_a_list() -> None:
    images = REQUEST.read(json_answer({"artifacts": [artifact(), artifact(seed=8)]}))
    assert [image.seed for image in images] == [7, 8]
    for image in images:
        assert (image.data, image.content_type, image.finish_reason) == (
            sample_image(),
            "image/png",
            "SUCCESS",
        )
        assert (image.request_id, image.credits) == ("r", None)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        {"artifacts": None},
        {"artifacts": [{"seed": 7}]},
        {"artifacts": [{"base64": "?!"}]},
        {"artifacts": [{"base64": "abc"}]},
    ],
)
def test_what_is_no_v1_answer_is_said_to_be_none(content: object) -> None:
    with pytest.raises(InvalidResponseError) as caught:
        REQUEST.read(json_answer(content))
    assert caught.value.request_id == "r"


@pytest.mark.parametrize("content", [[ENGINE], {"engines": [ENGINE]}])
def test_engines_come_bare_or_under_a_key(content: object) -> None:
    assert V1Engines().read(json_answer(content)) == [Engine("a", "b", "c", "PICTURE")]


def test_an_account_may_have_no_image() -> None:
    organizations = (Organization("org-1", "One", "ADMIN", is_default=True),)
    account = Account("user-1", "a@example.com", organizations)
    assert AccountDetails().read(json_answer(ACCOUNT)) == account
    more = ACCOUNT | {"profile_picture": "https://example.com/me", "new": 1}
    assert AccountDetails().read(json_answer(more)).profile_picture == "https://example.com/me"


def test_a_balance_has_fractions() -> None:
    assert AccountBalance().read(json_answer({"credits": 0.5})) == Balance(0.5)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "no bytes instead of JSON"),
        (b"<html><title>Log in</title>", 'a web page that says "Log in" instead of JSON'),
        (b"\xff", "1 bytes of an unknown kind instead of JSON"),
        (b"{}", "not as documented (credits)"),
        (b"[]", "not as documented (its type)"),
        (b'{"credits": "many"}', "not as documented (credits)"),
        (b'{"credits": NaN}', "not as documented (credits)"),
    ],
)
def test_another_balance_is_said_to_be_none(body: bytes, says: str) -> None:
    with pytest.raises(InvalidResponseError, match=re.escape(says)):
        AccountBalance().read(Answer(200, {}, body))


async def test_only_v1_carries_the_organization_and_asks_for_json() -> None:
    heads: list[str] = []

    async def serve(connection: Connection) -> None:
        while True:
            head = await connection.head()
            heads.append(head.lower())
            length = heads[-1].partition("content-length: ")[2].partition("\r\n")[0]
            await connection.reader.readexactly(int(length or 0))
            replies = {
                "/v1/generation": {"artifacts": [artifact()]},
                "/v1/engines": [ENGINE],
                "/v1/user/balance": {"credits": 1},
                "/v1/user/account": ACCOUNT,
            }
            reply = next((r for path, r in replies.items() if path in head), None)
            body = json.dumps(reply).encode() if reply is not None else PNG_HEAD
            media = "application/json" if reply is not None else "image/png"
            await connection.send(answer(body, content_type=media))

    async with (
        raw_server(serve) as url,
        StabilityClient(
            "sk-key", base_url=url, quota=None, organization="org-7", accept="image/*"
        ) as client,
    ):
        await client.send(REQUEST)
        await client.v1.engines()
        await client.account.balance()
        await client.account.details()
        await client.send(GenerateCore(prompt="x"))
    assert ["organization: org-7" in head for head in heads] == [True, True, True, False, False]
    assert ["accept: application/json" in head for head in heads] == [True] * 4 + [False]
    assert "content-type: application/json" in heads[0]


async def test_one_filtered_image_of_several_is_an_error_for_those_who_want_it() -> None:
    content = {"artifacts": [artifact(), artifact("CONTENT_FILTERED")]}

    async def serve(connection: Connection) -> None:
        for _ in range(2):
            await connection.request()
            body = json.dumps(content).encode()
            await connection.send(answer(body, content_type="application/json"))

    async with (
        raw_server(serve) as url,
        StabilityClient("sk-key", base_url=url, quota=None) as client,
    ):
        images = await client.send(REQUEST)
        assert [image.filtered for image in images] == [False, True]
        with pytest.raises(ContentFilteredError) as caught:
            await client.send(REQUEST, raise_on_filtered=True)
    assert caught.value.result == images
