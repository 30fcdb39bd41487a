"""Everything that a file field takes."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, BinaryIO

import aiofiles
import aiohttp
import anyio
import numpy as np
import numpy.typing as npt
import PIL.Image
from aiohttp import web
from starlette.datastructures import UploadFile

from stable_async import FileInput, Image, MediaStream, StabilityClient, UpscaleFast


async def files(client: StabilityClient, binary: BinaryIO, typed: IO[bytes]) -> None:
    await client.upscale.fast("in.png")
    await client.upscale.fast(Path("in.png"))
    await client.upscale.fast(b"")
    await client.upscale.fast(bytearray())
    await client.upscale.fast(memoryview(b""))
    await client.upscale.fast(io.BytesIO())
    await client.upscale.fast(binary)
    await client.upscale.fast(typed)
    with open("in.png", "rb") as opened:
        await client.upscale.fast(opened)
    await client.upscale.fast([b"", b""])


async def asynchronous(client: StabilityClient) -> None:
    async with await anyio.open_file("in.png", "rb") as file:
        await client.upscale.fast(file)
    async with aiofiles.open("in.png", "rb") as handle:
        await client.upscale.fast(handle)


async def streams(
    client: StabilityClient,
    reader: asyncio.StreamReader,
    upload: UploadFile,
    pieces: Iterator[bytes],
    async_pieces: AsyncIterator[bytes],
    stream: MediaStream[Image],
) -> None:
    await client.upscale.fast(reader)
    await client.upscale.fast(upload)
    await client.upscale.fast(pieces)
    await client.upscale.fast(async_pieces)
    await client.upscale.fast(stream)


async def of_aiohttp(
    client: StabilityClient,
    request: web.Request,
    part: aiohttp.BodyPartReader,
    field: web.FileField,
) -> None:
    await client.upscale.fast(request.content)
    await client.upscale.fast(part)
    await client.upscale.fast(field)


async def pixels(
    client: StabilityClient, array: npt.NDArray[np.uint8], image: PIL.Image.Image
) -> None:
    await client.upscale.fast(array)
    await client.upscale.fast(image)
    await client.upscale.fast(await client.generate.core("x"))


def to_pil(image: Image) -> PIL.Image.Image:
    return image.to_pil()


def typed(value: FileInput) -> UpscaleFast:
    return UpscaleFast(image=value)
