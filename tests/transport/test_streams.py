"""Results as they come: in bounded memory, off the event loop, under uvloop as well."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import tracemalloc
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from stable_async import GenerateCore, GenerateUltra, StabilityClient
from stable_async.api.answers import Answer
from stable_async.api.base64_json import Base64Field
from stable_async.transport import streams
from stable_async.transport.streams import MediaStream
from tests.raw_server import answer, raw_server
from tests.samples import PNG_HEAD, png

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path


from tests.raw_server import Connection

KEY = "sk-0123456789abcdef"
MIB = 1024 * 1024


def client(url: str, accept: str | None = None) -> StabilityClient:
    return StabilityClient(
        KEY, base_url=url, quota=None, accept="application/json" if accept else None
    )


def json_answer(image: bytes) -> bytes:
    fields = {"seed": 7, "image": base64.b64encode(image).decode(), "finish_reason": "SUCCESS"}
    return answer(json.dumps(fields).encode(), content_type="application/json; type=image/png")


@pytest.mark.parametrize("accept", [None, "application/json"])
async def test_an_image_in_memory_is_held_once(accept: str | None) -> None:
    size = 12 * MIB
    whole = json_answer(png(size)) if accept else answer(png(size))

    async def serve(connection: Connection) -> None:
        await connection.request()
        for start in range(0, len(whole), MIB):
            await connection.send(whole[start : start + MIB])

    async with raw_server(serve) as url, client(url, accept) as one:
        tracemalloc.start()
        try:
            image = await one.generate.core("x")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert image.data == png(size)
    # One image, the chunks under way on both sides, and what the buffer grows by.
    assert peak < 1.25 * size + 5 * MIB


@pytest.mark.parametrize("accept", [None, "application/json"])
async def test_an_image_to_disk_is_never_held_whole(accept: str | None, tmp_path: Path) -> None:
    size = 24 * MIB
    whole = json_answer(png(size)) if accept else answer(png(size))

    async def serve(connection: Connection) -> None:
        await connection.request()
        for start in range(0, len(whole), MIB):
            await connection.send(whole[start : start + MIB])

    async with raw_server(serve) as url, client(url, accept) as one:
        tracemalloc.start()
        try:
            async with one.stream(GenerateCore(prompt="x")) as stream:
                path = await stream.save(tmp_path / "picture.png")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert path.read_bytes() == png(size)
    assert peak < size / 2


PART = 64 * 1024


class Tally:
    """A sink that counts what it is handed, and what all streams hold."""

    held = most = 0

    def __init__(self) -> None:
        self.writes = 0

    async def image(self, parts: int, together: asyncio.Barrier) -> AsyncGenerator[bytes, None]:
        """Yield an image, as far as the others have come."""
        for number in range(parts):
            await together.wait()
            Tally.held += PART
            Tally.most = max(Tally.most, Tally.held)
            yield (PNG_HEAD if number == 0 else b"").ljust(PART, b"x")

    async def write(self, chunks: Sequence[bytes]) -> None:
        self.writes += 1
        Tally.held -= sum(map(len, chunks))

    async def commit(self, last: Sequence[bytes]) -> int:
        Tally.held -= sum(map(len, last))
        return self.writes

    async def discard(self) -> None:
        """Nothing was kept."""


async def writes_of(parts: int, together: asyncio.Barrier) -> int:
    """Stream an image into a sink, and return in how many pieces it was written before its end."""
    sink = Tally()
    head = Answer(200, {"Content-Length": str(parts * PART)})
    stream = MediaStream(GenerateCore(prompt="x"), head, sink.image(parts, together))
    return await stream.save_to(sink)


async def test_many_images_on_their_way_to_a_disk_hold_a_bounded_amount(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "GATHERED_AT_MOST", 4 * MIB)
    count, parts = 50, 20
    together = asyncio.Barrier(count)
    stopped = [asyncio.create_task(writes_of(parts, together)) for _ in range(count)]
    await asyncio.sleep(0.01)
    for task in stopped:
        task.cancel()
    await asyncio.gather(*stopped, return_exceptions=True)

    monkeypatch.setattr(Tally, "held", 0)
    monkeypatch.setattr(Tally, "most", 0)
    together = asyncio.Barrier(count)
    await asyncio.gather(*(writes_of(parts, together) for _ in range(count)))
    assert Tally.most < 4 * MIB + 2 * count * PART < count * parts * PART / 5
    # One alone is written in one go: nothing of the others is counted any more.
    assert await writes_of(parts, asyncio.Barrier(1)) == 0


async def test_nobody_taking_the_chunks_holds_the_server_back() -> None:
    sent = 0

    async def serve(connection: Connection) -> None:
        nonlocal sent
        await connection.request()
        await connection.send(answer(b"", length=64 * MIB))
        for _ in range(64):
            await connection.send(png(MIB))
            sent += 1

    received = 0
    async with (
        raw_server(serve) as url,
        client(url) as one,
        one.stream(GenerateCore(prompt="x")) as stream,
    ):
        chunks = aiter(stream)
        await anext(chunks)
        before = -1
        while before < sent:  # until the connection is full
            before = sent
            await asyncio.sleep(0.05)
        assert sent < 32
        async for chunk in chunks:
            received += len(chunk)
    assert received > 63 * MIB


class WatchedFile(io.BytesIO):
    """Refuses to be read on the event loop."""

    def read(self, size: int | None = -1) -> bytes:
        assert threading.current_thread() is not threading.main_thread()
        return super().read(size)


async def test_files_are_read_off_the_event_loop() -> None:
    async def serve(connection: Connection) -> None:
        assert PNG_HEAD in await connection.request()
        await connection.send(answer())

    async with raw_server(serve) as url, client(url) as one:
        await one.generate.ultra("x", image=WatchedFile(PNG_HEAD + bytes(MIB)), strength=0.5)


def test_everything_works_on_uvloop(tmp_path: Path) -> None:
    async def serve(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(answer(png(3 * MIB)))

    async def main() -> None:
        source = tmp_path / "in.png"
        source.write_bytes(PNG_HEAD + bytes(MIB))
        async with raw_server(serve) as url, StabilityClient(KEY, base_url=url) as one:
            requests = (GenerateCore(prompt="x", seed=number) for number in range(20))
            outcomes = [outcome async for outcome in one.map(requests, max_in_flight=4)]
            assert all(outcome.error is None for outcome in outcomes)
            request = GenerateUltra(prompt="x", image=source, strength=0.5)
            async with one.stream(request) as stream:
                saved = await stream.save(tmp_path / "out.png")
            assert saved.stat().st_size == 3 * MIB

    uvloop.run(main())


@given(
    data=st.binary(min_size=16, max_size=500),
    cuts=st.lists(st.integers(0, 1000), max_size=12),
    escaped=st.booleans(),
    before=st.booleans(),
)
def test_base64_in_json_decodes_however_it_is_cut(
    data: bytes, cuts: list[int], escaped: bool, before: bool
) -> None:
    text = json.dumps(base64.b64encode(data).decode())
    if escaped:
        text = text.replace("/", "\\/")
    rest = '"seed": 7, "finish_reason": "SUCCESS"'
    body = (f'{{{rest}, "image": {text}}}' if before else f'{{"image":{text}, {rest}}}').encode()
    field = Base64Field(("image",))
    decoded = b""
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    for start, end in pairwise(edges):
        decoded += field.feed(body[start:end])
    assert field.finish() == {"image": "", "seed": 7, "finish_reason": "SUCCESS"}
    assert decoded == data


@pytest.mark.parametrize("cut", range(9, 62))
def test_base64_that_continues_after_its_padding_is_refused_wherever_it_is_cut(cut: int) -> None:
    """Two texts in one: the bytes of the second would follow those of the first as its own."""
    text = base64.b64encode(bytes(16)).decode()
    body = f'{{"image":"{text}{text}"}}'.encode()
    field = Base64Field(("image",))
    with pytest.raises(ValueError, match=r"after its padding|Excess data after padding"):
        b"".join(map(field.feed, (body[:cut], body[cut:])))
