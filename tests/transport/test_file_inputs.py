"""An image can be sent in any form: files, uploads, streams, pixels, results."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import aiofiles
import aiohttp
import anyio
import numpy as np
import PIL.Image
import pytest
from aiohttp import web
from starlette.datastructures import UploadFile

from stable_async import (
    Image,
    InvalidRequestError,
    RetryPolicy,
    StabilityClient,
    UpscaleFast,
)
from stable_async.sandbox import Sandbox
from tests.raw_server import Connection, answer, raw_server
from tests.samples import sample_image

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stable_async import FileInput

    Opened = Callable[[AsyncExitStack, Path], Awaitable[FileInput]]

FILE = sample_image(70, 80) + bytes(150_000)  # more than one piece


class Receiver:
    """Keeps the files it is sent; the first attempt of each request is refused with a 500."""

    def __init__(self) -> None:
        self.files: list[bytes] = []

    async def __call__(self, connection: Connection) -> None:
        while True:
            body = await connection.request()
            part = body.partition(b'filename="')[2].partition(b"\r\n\r\n")[2]
            self.files.append(part.rpartition(b"\r\n--")[0])
            refused = len(self.files) % 2 == 1
            await connection.send(
                answer(b"{}", status="500 Oops") if refused else answer(sample_image())
            )


def client(url: str) -> StabilityClient:
    return StabilityClient("sk-key", base_url=url, retry=RetryPolicy(initial_backoff=0), quota=None)


async def of_anyio(stack: AsyncExitStack, path: Path) -> FileInput:
    return await stack.enter_async_context(await anyio.open_file(path, "rb"))


async def of_aiofiles(stack: AsyncExitStack, path: Path) -> FileInput:
    return await stack.enter_async_context(aiofiles.open(path, "rb"))


async def of_starlette(stack: AsyncExitStack, path: Path) -> FileInput:
    file = cast("BinaryIO", stack.enter_context(tempfile.SpooledTemporaryFile()))  # noqa: SIM115
    upload = UploadFile(file, filename="in.png")
    await upload.write(path.read_bytes())
    await upload.seek(0)
    return upload


async def of_asyncio(stack: AsyncExitStack, path: Path) -> FileInput:
    reader = asyncio.StreamReader()
    reader.feed_data(path.read_bytes())
    reader.feed_eof()
    return reader


async def of_a_named_temporary_file(stack: AsyncExitStack, path: Path) -> FileInput:
    file = stack.enter_context(tempfile.NamedTemporaryFile())  # noqa: SIM115
    file.write(path.read_bytes())
    file.seek(0)
    return file


async def of_a_result(stack: AsyncExitStack, path: Path) -> FileInput:
    return Image(data=path.read_bytes(), content_type="image/png")


OPENED: list[Opened] = [
    of_anyio,
    of_aiofiles,
    of_starlette,
    of_asyncio,
    of_a_named_temporary_file,
    of_a_result,
]


@pytest.mark.parametrize("opened", OPENED, ids=lambda function: function.__name__[3:])
async def test_a_file_arrives_whole_and_again_after_a_500(opened: Opened, tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(FILE)
    receiver = Receiver()
    async with AsyncExitStack() as stack, raw_server(receiver) as url, client(url) as one:
        await one.upscale.fast(await opened(stack, path))
    assert receiver.files == [FILE, FILE]


@pytest.mark.parametrize("opened", [of_anyio, of_starlette, of_a_named_temporary_file, of_a_result])
async def test_a_request_with_a_file_that_can_seek_is_sent_any_number_of_times(
    opened: Opened, tmp_path: Path
) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(FILE)
    receiver = Receiver()
    async with AsyncExitStack() as stack, raw_server(receiver) as url, client(url) as one:
        request = UpscaleFast(image=await opened(stack, path))
        await one.send(request)
        await one.send(request)
    assert receiver.files == [FILE] * 4


@pytest.mark.parametrize("kind", ["content", "part", "field"])
async def test_an_upload_is_passed_on_as_it_arrives(kind: str) -> None:
    """A handler of aiohttp passes on its body, a part of it, or a field that it has parsed."""
    receiver = Receiver()

    async def handler(request: web.Request) -> web.Response:
        image: object = request.content
        if kind == "part":
            image = await (await request.multipart()).next()
        elif kind == "field":
            image = (await request.post())["image"]
        await request.app[CLIENT].upscale.fast(cast("FileInput", image))
        return web.Response()

    async with raw_server(receiver) as url, client(url) as one:
        application = web.Application()
        application[CLIENT] = one
        application.router.add_post("/", handler)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        data = FILE if kind == "content" else {"image": io.BytesIO(FILE)}
        async with aiohttp.ClientSession() as session, session.post(site.name, data=data) as sent:
            assert sent.status == 200
        await runner.cleanup()
    assert receiver.files == [FILE, FILE]


CLIENT: web.AppKey[StabilityClient] = web.AppKey("client")


def decoded(data: bytes) -> tuple[str, Any]:
    image = PIL.Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return image.mode, np.asarray(image)


@pytest.mark.parametrize(
    ("shape", "mode"), [((70, 80), "L"), ((70, 80, 3), "RGB"), ((70, 80, 4), "RGBA")]
)
async def test_an_array_is_sent_as_png_pixel_by_pixel(shape: tuple[int, ...], mode: str) -> None:
    array = np.random.default_rng(7).integers(0, 256, shape, np.uint8)
    receiver = Receiver()
    async with raw_server(receiver) as url, client(url) as one:
        await one.upscale.fast(array)
        await one.upscale.fast(array[::-1, ::-1])  # a view that is not contiguous
    found_mode, pixels = decoded(receiver.files[0])
    assert (found_mode, pixels.shape) == (mode, shape)
    assert (pixels == array).all()
    assert (decoded(receiver.files[2])[1] == array[::-1, ::-1]).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
async def test_a_pillow_image_is_sent_as_png(mode: str) -> None:
    image = PIL.Image.new("RGB", (70, 80), (10, 200, 30)).convert(mode)
    receiver = Receiver()
    async with raw_server(receiver) as url, client(url) as one:
        await one.upscale.fast(image)
    sent = PIL.Image.open(io.BytesIO(receiver.files[0]))
    assert sent.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


async def test_one_opened_image_serves_requests_at_a_time(tmp_path: Path) -> None:
    """Pillow reads a file when its pixels are first used, and is not made for two threads."""
    PIL.Image.fromarray(np.random.default_rng(1).integers(0, 256, (160, 160, 3), np.uint8)).save(
        tmp_path / "in.png"
    )
    with PIL.Image.open(tmp_path / "in.png") as image:
        async with Sandbox() as sandbox, client(sandbox.url) as one:
            requests = [UpscaleFast(image=image)] * 12
            outcomes = [outcome async for outcome in one.map(requests)]
    assert [outcome.error for outcome in outcomes] == [None] * 12


class Hostile:
    """Raises errors of its own wherever it is touched."""

    closed = False

    @property
    def __array_interface__(self) -> dict[str, object]:
        raise KeyError("sk-secret")

    def read(self, size: int) -> bytes:
        raise KeyError("sk-secret")


def with_odd_profile() -> PIL.Image.Image:
    image = PIL.Image.new("RGB", (64, 64))
    image.info["icc_profile"] = "no bytes"
    return image


def released() -> memoryview:
    view = memoryview(bytearray(FILE))
    view.release()
    return view


RAISING: dict[str, object] = {
    "a class": io.BytesIO,
    "no pixels": PIL.Image.new("RGB", (0, 0)),
    "odd profile": with_odd_profile(),
    "released": released(),
    "hostile": Hostile(),
}


@pytest.mark.parametrize("name", RAISING)
async def test_a_foreign_error_of_a_file_is_one_failed_outcome(name: str) -> None:
    image = cast("FileInput", RAISING[name])
    async with Sandbox() as sandbox, client(sandbox.url) as one:
        requests = [UpscaleFast(image=image), UpscaleFast(image=sample_image())]
        outcomes = [outcome async for outcome in one.map(requests)]
        assert sandbox.statistics.requests == 1
    (error,) = [outcome.error for outcome in outcomes if outcome.error]
    assert isinstance(error, InvalidRequestError)
    assert "image: reading it raised" in str(error)
    assert "secret" not in str(error)


async def test_a_view_with_gaps_is_sent_as_it_reads() -> None:
    spread = bytearray(2 * len(FILE))
    spread[::2] = FILE
    receiver = Receiver()
    async with raw_server(receiver) as url, client(url) as one:
        await one.upscale.fast(memoryview(spread)[::2])
    assert receiver.files == [FILE, FILE]


UNFIT: dict[str, object] = {
    "float": np.zeros((64, 64, 3)),
    "bool": np.zeros((64, 64), np.bool_),
    "two channels": np.zeros((64, 64, 2), np.uint8),
    "channels first": np.zeros((3, 64, 64), np.uint8),
    "batch": np.zeros((1, 64, 64, 3), np.uint8),
    "empty": np.zeros((0, 64, 3), np.uint8),
    "scalar": np.uint8(3),
    "CMYK": PIL.Image.new("CMYK", (64, 64)),
    "text": io.StringIO("x"),
    "texts": iter(["x"]),
    "numbers": iter([1, 2]),
    "wrong": [1, 2],
    "number": 7,
    "mapping": {"path": "x"},
    "nothing": None,
    "closed": io.BytesIO(FILE),
    "broken image": PIL.Image.open(io.BytesIO(sample_image(64, 64)[:-30])),
    "bomb": PIL.Image.open(io.BytesIO(sample_image(64, 64)[:60])),
}
cast("io.BytesIO", UNFIT["closed"]).close()
# No file at all: found when the request is made, as any other value of a wrong type.
AT_ONCE = {"wrong", "number", "mapping", "nothing"}


@pytest.mark.parametrize("name", UNFIT)
async def test_what_is_no_image_is_one_failed_outcome(name: str) -> None:
    image = cast("FileInput", UNFIT[name])
    if name in AT_ONCE:
        with pytest.raises(InvalidRequestError, match="image: given"):
            UpscaleFast(image=image)
        return
    async with Sandbox() as sandbox, client(sandbox.url) as one:
        requests = [UpscaleFast(image=image), UpscaleFast(image=sample_image())]
        outcomes = [outcome async for outcome in one.map(requests)]
        assert sandbox.statistics.requests == 1
    errors = [outcome.error for outcome in outcomes if outcome.error]
    assert [type(error) for error in errors] == [InvalidRequestError]
    assert "image: given" in str(errors[0]), errors


def test_neither_pillow_nor_numpy_is_loaded_for_those_who_do_not_use_them(
    tmp_path: Path,
) -> None:
    program = """
import asyncio, sys
from stable_async import StabilityClient
from tests.raw_server import answer, raw_server
from pathlib import Path

async def main(png):
    async def handler(connection):
        await connection.request()
        await connection.send(answer(png))
    async with raw_server(handler) as url, StabilityClient("sk-key", base_url=url) as client:
        image = await client.upscale.fast(png)
        assert (image.width, image.height) == (64, 64)
        await image.save("out.png")

asyncio.run(main(Path("in.png").read_bytes()))
print({"PIL", "numpy"} & set(sys.modules))
"""
    (tmp_path / "in.png").write_bytes(sample_image())
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "set()"
