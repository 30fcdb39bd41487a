"""A time limit takes what has arrived first: a busy loop or a stopped process loses no image."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from stable_async import APITimeoutError, GenerateUltra, StabilityClient, Timeouts
from stable_async.transport.time_limits import TimeLimit
from tests.raw_server import answer, raw_server
from tests.samples import png
from tests.virtual_time import virtual_network_time

if TYPE_CHECKING:
    from tests.raw_server import Connection

SHORT = Timeouts(connect=5, first_byte=0.3, between_bytes=0.3)

# Reads its base URL, says that the request was sent, and prints how many bytes came.
PROGRAM = """
import asyncio, sys
from stable_async import StabilityClient, Timeouts

async def main():
    limits = Timeouts(connect=1, first_byte=1, between_bytes=1)
    async with StabilityClient("sk-key", base_url=sys.argv[1], quota=None, timeout=limits) as one:
        print(len((await one.generate.core("x")).data))

asyncio.run(main())
"""


@pytest.mark.parametrize("in_halves", [False, True])
async def test_a_stopped_process_takes_what_has_arrived_when_it_goes_on(in_halves: bool) -> None:
    image = png(60_000)
    asked, going_on = asyncio.Event(), asyncio.Event()

    async def serve(connection: Connection) -> None:
        await connection.request()
        whole = answer(image)
        if in_halves:
            await connection.send(whole[:30_000])
            await asyncio.sleep(0.05)  # it is being read
        asked.set()
        await going_on.wait()
        await connection.send(whole[30_000 if in_halves else 0 :])

    async with raw_server(serve) as url:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        await asked.wait()
        os.kill(process.pid, signal.SIGSTOP)
        going_on.set()
        await asyncio.sleep(1.5)  # for real: all limits of the process expire meanwhile
        os.kill(process.pid, signal.SIGCONT)
        out, err = await process.communicate()
    assert out.decode().strip() == str(len(image)), err.decode()


@pytest.mark.parametrize("upload", [False, True])
async def test_a_busy_loop_takes_what_has_arrived_when_it_is_free(upload: bool) -> None:
    image = png(150_000)

    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(image)[:50_000])
        await connection.send(answer(image)[50_000:])
        # The client's limits expire while nothing of its loop can run.
        time.sleep(0.5)

    async with (
        raw_server(serve) as url,
        StabilityClient("sk-key", base_url=url, quota=None, timeout=SHORT) as one,
    ):
        if upload:
            request = GenerateUltra(prompt="x", image=png(1_000), strength=0.5)
            result = await one.send(request)
        else:
            result = await one.generate.core("x")
    assert result.data == image


async def test_a_total_that_expires_while_the_loop_is_busy_takes_what_has_arrived() -> None:
    image = png(50_000)

    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(image))
        time.sleep(0.5)

    async with (
        raw_server(serve) as url,
        StabilityClient("sk-key", base_url=url, quota=None, timeout=0.3) as one,
    ):
        assert (await one.generate.core("x")).data == image


@virtual_network_time
async def test_a_total_lets_an_answer_come_slowly_until_then() -> None:
    limits = Timeouts(between_bytes=50, total=60)

    async def pauses(connection: Connection) -> None:
        await connection.request()
        whole = answer(png(50_000))
        await connection.send(whole[:30_000])
        await asyncio.sleep(40)
        await connection.send(whole[30_000:])

    async with (
        raw_server(pauses) as url,
        StabilityClient("sk-key", base_url=url, quota=None, timeout=limits) as one,
    ):
        assert (await one.generate.core("x")).data == png(50_000)


@pytest.mark.parametrize("begun", [False, True])
async def test_a_total_ends_an_answer_that_takes_longer(begun: bool) -> None:
    async def trickles(connection: Connection) -> None:
        await connection.request()
        if begun:
            await connection.send(answer(png(100), length=10**6))
        while True:
            await connection.send(bytes(20_000) if begun else b"")
            await asyncio.sleep(0.02)

    async with (
        raw_server(trickles) as url,
        StabilityClient("sk-key", base_url=url, quota=None, timeout=0.2) as one,
    ):
        with pytest.raises(APITimeoutError) as caught:
            await one.generate.core("x")
    assert caught.value.maybe_billed


async def test_what_is_ready_when_a_limit_expires_is_taken() -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[str] = loop.create_future()

    def late() -> None:
        # In the turn in which the limit expires, as the data of a socket do.
        loop.call_soon(ready.set_result, "in time")
        time.sleep(0.05)

    async with TimeLimit(0.02):
        loop.call_soon(late)
        assert await ready == "in time"


async def outlast(limit: TimeLimit, *restarts: float) -> None:
    async with limit:
        for seconds in restarts:
            limit.restart(seconds)
        await asyncio.Event().wait()


@pytest.mark.parametrize("restarts", [(0.01,), (60, 0.01)])
async def test_a_limit_can_begin_later_and_anew(restarts: tuple[float, ...]) -> None:
    limit = TimeLimit(None)
    with pytest.raises(TimeoutError):
        await outlast(limit, *restarts)
    limit.restart(0.01)  # after its end it limits nothing
    await asyncio.sleep(0.02)


async def test_nothing_ready_is_a_time_out() -> None:
    with pytest.raises(TimeoutError):
        await outlast(TimeLimit(0.01))
