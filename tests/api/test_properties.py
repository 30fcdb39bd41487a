"""What a request model sends is what a server reads: every text, file name and file."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stable_async import (
    AuthenticationError,
    Erase,
    GenerateCore,
    Inpaint,
    InvalidRequestError,
    StabilityClient,
    V1ImageToImage,
    V1TextToImage,
)
from stable_async.api.base import MAX_REQUEST_BYTES
from stable_async.sandbox import Sandbox
from tests.samples import sample_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stable_async.api.base import Request
    from stable_async.sandbox.request_log import RequestRecord

IMAGE = sample_image()

module_loop = pytest.mark.asyncio(loop_scope="module")
few = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Wire:
    """A client whose requests are read and logged, and refused for their key."""

    def __init__(self, sandbox: Sandbox, client: StabilityClient) -> None:
        self._sandbox = sandbox
        self._client = client

    async def read(self, request: Request[Any]) -> RequestRecord:
        with pytest.raises(AuthenticationError):
            await self._client.send(request)
        return self._sandbox.log[-1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def wire() -> AsyncIterator[Wire]:
    async with (
        Sandbox(counting="off", latency=0.0) as sandbox,
        StabilityClient("invalid-key", base_url=sandbox.url, quota=None) as client,
    ):
        yield Wire(sandbox, client)


# All text that UTF-8 can encode.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
PROMPTS = TEXTS.filter(bool)
NUMBERS = st.floats(0, 20)


@module_loop
@few
@given(prompt=PROMPTS, negative=TEXTS, grow=NUMBERS, seed=st.integers(0, 4_294_967_294))
async def test_every_text_and_number_arrives(
    wire: Wire, prompt: str, negative: str, grow: float, seed: int
) -> None:
    request = Inpaint(
        image=IMAGE, prompt=prompt, negative_prompt=negative, grow_mask=grow, seed=seed
    )
    fields = dict((await wire.read(request)).fields)
    assert float(fields.pop("grow_mask")) == grow
    assert fields == {"prompt": prompt, "negative_prompt": negative, "seed": str(seed)}


@module_loop
@few
@given(prompt=PROMPTS)
async def test_a_text_alone_is_multipart_too(wire: Wire, prompt: str) -> None:
    record = await wire.read(GenerateCore(prompt=prompt))
    assert record.headers["content-type"].startswith("multipart/form-data")
    assert record.fields == {"prompt": prompt}
    assert not record.files


NAMES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
    st.text(st.sampled_from("\"'\\\r\n;:=% \t\0éß漢😀.-"), min_size=1, max_size=20),
).filter(lambda name: Path(name).name == name)


def unescaped(name: str) -> str:
    """Undo what is escaped, and what looks like it in a name that was not."""
    for escape, character in (("%22", '"'), ("%0D", "\r"), ("%0A", "\n"), ("%5C", "\\")):
        name = name.replace(escape, character)
    return name


class Named(io.BytesIO):
    """A file object with a name, as `open` returns it."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


@module_loop
@few
@given(name=NAMES, data=st.binary(min_size=1, max_size=3_000))
async def test_a_file_arrives_under_any_name(wire: Wire, name: str, data: bytes) -> None:
    padded = IMAGE + data
    record = await wire.read(Erase(image=Named(padded, name)))
    file = record.files["image"]
    assert unescaped(file.filename) == unescaped(name)
    assert (file.size, file.content) == (len(padded), padded)
    assert set(record.files) == {"image"}
    assert record.fields == {}


@module_loop
async def test_a_name_that_is_no_utf8_does_not_stop_a_file(wire: Wire, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    path.write_bytes(IMAGE)
    record = await wire.read(Erase(image=path))
    assert record.files["image"].content == IMAGE


def largest(request: Request[Any]) -> int:
    """Return how much a file may be padded before the request is too large."""
    name = 'filename="picture.png"'
    texts = sum(len(f'Content-Disposition: form-data; name="{n}"') for n, _ in request.texts())
    return MAX_REQUEST_BYTES - len(IMAGE) - 300 - len(name) - texts


@module_loop
async def test_a_file_as_large_as_the_api_takes_arrives(wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    request = Erase(image=path)
    content = IMAGE + os.urandom(largest(request))
    path.write_bytes(content)
    file = (await wire.read(request)).files["image"]
    assert (file.size, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())

    path.write_bytes(content + bytes(1_000))
    with pytest.raises(InvalidRequestError, match="10485760 bytes"):
        await wire.read(request)


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@module_loop
@few
@given(data=st.binary(max_size=400_000), size=st.integers(1, 150_000))
async def test_a_source_that_is_read_once_loses_nothing_to_the_look_at_its_head(
    wire: Wire, data: bytes, size: int
) -> None:
    content = IMAGE + data
    file = (await wire.read(Erase(image=pieces(content, max(size, len(content) // 50))))).files
    assert file["image"].sha256 == hashlib.sha256(content).hexdigest()


@module_loop
@pytest.mark.parametrize("kind", ["bytes", "path", "file", "list", "generator", "async generator"])
async def test_an_empty_file_is_refused_before_anything_is_sent(
    wire: Wire, tmp_path: Path, kind: str
) -> None:
    empty = tmp_path / "empty.png"
    empty.touch()
    sources: dict[str, Any] = {
        "bytes": b"",
        "path": empty,
        "file": io.BytesIO(),
        "list": [],
        "generator": (bytes(piece) for piece in range(0)),
        "async generator": pieces(b"", 1),
    }
    with pytest.raises(InvalidRequestError) as caught:
        await wire.read(Erase(image=sources[kind]))
    assert [problem.field for problem in caught.value.problems] == ["image"]


WEIGHTED = st.lists(
    st.fixed_dictionaries({"text": TEXTS}, optional={"weight": st.floats(-10, 10)}),
    min_size=1,
    max_size=4,
)
EXTRAS = st.dictionaries(
    TEXTS, st.recursive(st.none() | st.booleans() | TEXTS, lambda kind: st.lists(kind, max_size=3))
)


@module_loop
@few
@given(prompts=WEIGHTED, extras=EXTRAS)
async def test_weighted_prompts_arrive_as_json_and_as_form_fields(
    wire: Wire, prompts: list[Any], extras: dict[str, Any]
) -> None:
    engine = "stable-diffusion-v1-6"
    for request in (
        V1TextToImage(engine_id=engine, text_prompts=prompts, extras=extras),
        V1ImageToImage(engine_id=engine, text_prompts=prompts, init_image=IMAGE, extras=extras),
    ):
        fields = dict((await wire.read(request)).fields)
        assert json.loads(fields.pop("extras")) == extras
        for index, prompt in enumerate(prompts):
            assert fields.pop(f"text_prompts[{index}][text]") == prompt["text"]
            if "weight" in prompt:
                assert float(fields.pop(f"text_prompts[{index}][weight]")) == prompt["weight"]
        assert fields == {}


@pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
def test_half_a_character_is_refused_when_the_request_is_made(text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        GenerateCore(prompt=text)
    assert caught.value.problems[0].field == "prompt"
