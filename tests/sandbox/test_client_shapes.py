"""Requests of third-party clients, replayed as bytes."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from tests.sandbox.client_shapes import CREATIVE, PROMPT, SHAPES, Part, Shape
from tests.sandbox.support import sample_image

if TYPE_CHECKING:
    from stable_async.sandbox import Sandbox


async def exchange(url: str, data: bytes) -> tuple[int, dict[str, str], bytes]:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.client}: {shape.what}"[:60])
async def test_it_gets_the_answer_that_the_facts_give(sandbox: Sandbox, shape: Shape) -> None:
    host = sandbox.url.removeprefix("http://")
    result_id = ""
    if shape.result:
        image = Part("image", sample_image(96, 96), "in.png")
        submit = Shape("", "", CREATIVE, ("Authorization: sk-MYAPIKEY",), (image, PROMPT))
        _, _, body = await exchange(sandbox.url, submit.encode(host))
        result_id = json.loads(body)["id"]
    status, headers, body = await exchange(sandbox.url, shape.encode(host, result_id))
    assert (status, headers["content-type"]) == (shape.status, shape.kind), body[:300]
    if shape.keys:
        assert tuple(json.loads(body)) == shape.keys
    elif shape.kind == "application/json":
        assert isinstance(json.loads(body), list)
    else:
        assert "seed" in headers
    if shape.kind.startswith("application/json"):
        # As compact as recorded answers.
        assert b'": ' not in body[:200]
