"""The same work by hand with each library, set up as its documentation recommends.

`python -m benchmarks.clients CLIENT TASK URL COUNT [--uvloop]` does COUNT requests, 32 at a time,
and prints one JSON object: CPU seconds of this process, wall seconds, and the peak of its resident
memory above what it was before the first request, bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from benchmarks.checking import peak_memory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Work = Callable[[int], Awaitable[None]]

KEY = "sk-benchmark"
AT_A_TIME = 32
# What a reader of the header takes for a PNG of 1024 x 1024; the rest of the file is zeros.
PNG_HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\0\0\x04\0" * 2 + b"\x08\x02\0\0\0"
UPLOADS_AT_A_TIME = 64
PROMPT = "a lighthouse on a cliff at dusk, long exposure"
PATH = "/v2beta/stable-image/generate/core"


async def stable_async(stack: AsyncExitStack, task: str, url: str, folder: Path) -> Work:
    from stable_async import GenerateCore, StabilityClient

    accept = "application/json" if task.endswith("json") else None
    base = f"{url}/{task if accept else task.partition('-')[0]}"
    if task == "upload":
        base = f"{url}/small"
    client = await stack.enter_async_context(
        StabilityClient(KEY, base_url=base, quota=None, accept=accept)  # type: ignore[arg-type]
    )

    async def small(number: int) -> None:
        await client.generate.core(PROMPT, seed=number + 1, aspect_ratio="16:9")

    async def large(number: int) -> None:
        async with client.stream(GenerateCore(prompt=PROMPT, seed=number + 1)) as stream:
            await stream.save(folder / f"{number % AT_A_TIME}.png")

    async def upload(number: int) -> None:
        await client.generate.ultra(PROMPT, image=folder / "upload.png", strength=0.5)

    return {
        "small": small,
        "small-json": small,
        "large": large,
        "large-json": small,
        "upload": upload,
    }[task]


async def aiohttp(stack: AsyncExitStack, task: str, url: str, folder: Path) -> Work:
    import aiohttp

    session = await stack.enter_async_context(
        aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {KEY}"},
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=180),
        )
    )
    headers = {"Accept": "image/*"}

    def form(number: int) -> aiohttp.FormData:
        data = aiohttp.FormData(default_to_multipart=True)
        data.add_field("prompt", PROMPT)
        data.add_field("seed", str(number + 1))
        data.add_field("aspect_ratio", "16:9")
        return data

    async def small(number: int) -> None:
        target = f"{url}/small{PATH}"
        async with session.post(target, data=form(number), headers=headers) as response:
            response.raise_for_status()
            assert len(await response.read()) > 900

    async def large(number: int) -> None:
        final = folder / f"{number % AT_A_TIME}.png"
        temporary = folder / f"{number}.part"
        target = f"{url}/large{PATH}"
        async with session.post(target, data=form(number), headers=headers) as response:
            response.raise_for_status()
            with temporary.open("wb") as file:
                async for chunk in response.content.iter_chunked(64 * 1024):
                    file.write(chunk)
                if task != "large-unsynced":
                    file.flush()
                    os.fsync(file.fileno())
            temporary.rename(final)

    async def upload(number: int) -> None:
        data = form(number)
        with (folder / "upload.png").open("rb") as file:
            data.add_field("image", file, filename="upload.png")
            async with session.post(f"{url}/small{PATH}", data=data, headers=headers) as response:
                response.raise_for_status()
                await response.read()

    return {"small": small, "large": large, "large-unsynced": large, "upload": upload}[task]


async def httpx(stack: AsyncExitStack, task: str, url: str, folder: Path) -> Work:
    import httpx

    client = await stack.enter_async_context(
        httpx.AsyncClient(
            headers={"Authorization": f"Bearer {KEY}", "Accept": "image/*"},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            timeout=httpx.Timeout(180, connect=15),
        )
    )

    def files(number: int) -> dict[str, tuple[None, str]]:
        fields = {"prompt": PROMPT, "seed": str(number + 1), "aspect_ratio": "16:9"}
        return {name: (None, value) for name, value in fields.items()}

    async def small(number: int) -> None:
        response = await client.post(f"{url}/small{PATH}", files=files(number))
        response.raise_for_status()
        assert len(response.content) > 900

    async def large(number: int) -> None:
        final = folder / f"{number % AT_A_TIME}.png"
        temporary = folder / f"{number}.part"
        async with client.stream("POST", f"{url}/large{PATH}", files=files(number)) as response:
            response.raise_for_status()
            with temporary.open("wb") as file:
                async for chunk in response.aiter_bytes():
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(final)

    async def upload(number: int) -> None:
        with (folder / "upload.png").open("rb") as file:
            parts: list[tuple[str, tuple[str | None, str | BinaryIO]]] = [
                *files(number).items(),
                ("image", ("upload.png", file)),
            ]
            response = await client.post(f"{url}/small{PATH}", files=parts)
            response.raise_for_status()

    return {"small": small, "large": large, "upload": upload}[task]


async def openai(stack: AsyncExitStack, task: str, url: str, folder: Path) -> Work:
    """The same image from its own images API, which returns base64 in JSON."""
    import base64

    from openai import AsyncOpenAI

    size = "small" if task == "upload" else task
    client = await stack.enter_async_context(
        AsyncOpenAI(api_key=KEY, base_url=f"{url}/{size}-openai/v1", max_retries=0)
    )

    async def small(number: int) -> None:
        answer = await client.images.generate(prompt=PROMPT, model="gpt-image-1", n=1)
        assert answer.data
        assert answer.data[0].b64_json
        base64.b64decode(answer.data[0].b64_json)

    async def large(number: int) -> None:
        answer = await client.images.generate(prompt=PROMPT, model="gpt-image-1", n=1)
        assert answer.data
        assert answer.data[0].b64_json
        temporary = folder / f"{number}.part"
        with temporary.open("wb") as file:
            file.write(base64.b64decode(answer.data[0].b64_json))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(folder / f"{number % AT_A_TIME}.png")

    async def upload(number: int) -> None:
        image = folder / "upload.png"
        await client.images.edit(image=image, prompt=PROMPT, model="gpt-image-1")

    return {"small": small, "large": large, "upload": upload}[task]


CLIENTS = {"stable_async": stable_async, "aiohttp": aiohttp, "httpx": httpx, "openai": openai}


async def measure(client: str, task: str, url: str, count: int) -> dict[str, float]:
    at_a_time = UPLOADS_AT_A_TIME if task == "upload" else AT_A_TIME
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "upload.png").write_bytes(PNG_HEAD + bytes(10 * 1024 * 1024 - 4096))
        async with AsyncExitStack() as stack:
            work = await CLIENTS[client](stack, task, url, folder)
            numbers = iter(range(at_a_time * 2))

            async def worker() -> None:
                for number in numbers:
                    await work(number)

            if task != "upload":  # warm connections and caches; uploads are measured for memory
                await asyncio.gather(*[worker() for _ in range(at_a_time)])
            numbers = iter(range(count))
            before = peak_memory()
            cpu, wall = time.process_time(), time.perf_counter()
            await asyncio.gather(*[worker() for _ in range(at_a_time)])
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            grown = peak_memory() - before
    return {"cpu": cpu / count, "wall": wall / count, "memory": grown * 1024 * 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("task")
    parser.add_argument("url")
    parser.add_argument("count", type=int)
    parser.add_argument("--uvloop", action="store_true")
    arguments = parser.parse_args()
    work = measure(arguments.client, arguments.task, arguments.url, arguments.count)
    if arguments.uvloop:
        import uvloop

        result = uvloop.run(work)
    else:
        result = asyncio.run(work)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
