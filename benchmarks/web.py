"""A web service in four processes with one key: who breaches, who waits, what is left behind.

`python -m benchmarks.web` takes eight minutes and prints what is in docs/web-benchmark.md. Parts:
`users` (300 users in bursts, with and without a bulk job, beside the same service built by hand),
`blows` (workers killed and stopped), `leavers` (1,000 browsers that leave at random).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import numpy as np

from benchmarks import quota_counting as counting
from benchmarks.web_server import SERVICE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REQUESTS, WINDOW = 150, 10.0
WORKERS = 4
USERS = 300
SECONDS = 60.0
KEY = "sk-benchmark-0123456789"


@dataclass
class Outcome:
    """What one service did.

    Attributes:
        name: The service.
        arrivals: When requests arrived at the API, seconds.
        waits: How much longer than the API itself users waited, seconds.
        memory: Memory of the workers, each, MB.
    """

    name: str
    arrivals: list[float]
    waits: list[float]
    memory: list[float]

    def row(self) -> str:
        times = np.array(self.arrivals)
        log = counting.log(times, WINDOW)
        counter = counting.worst_counter(times, WINDOW)
        bucket = counting.bucket(times, REQUESTS, WINDOW)
        fixed = counting.worst_fixed(times, WINDOW)
        breach = max(log, counter, fixed, bucket - 1e-6) > REQUESTS
        waits = (
            f"{statistics.median(self.waits):.2f} s | {max(self.waits):.1f} s"
            if self.waits
            else "- | -"
        )
        memory = f"{max(self.memory):.0f} MB" if self.memory else "-"
        return (
            f"| {self.name} | {len(times)} | {log:.0f} | {counter:.1f} | {fixed:.0f} | "
            f"{bucket:.1f} | {'**breach**' if breach else 'no'} | {use(self.arrivals):.3f} | "
            f"{waits} | {memory} |"
        )


def use(arrivals: list[float]) -> float:
    """Least possible time under the ceiling, against the time it took."""
    return (WINDOW + (len(arrivals) - REQUESTS) * WINDOW / REQUESTS) / (arrivals[-1] - arrivals[0])


HEADER = (
    "| service | requests | most in 10 s | two counters | fixed | bucket | breach | use | "
    "median wait | worst wait | memory per worker |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


@asynccontextmanager
async def process(*arguments: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a Python process during the block."""
    one = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=subprocess.PIPE, env={**os.environ, **environment}
    )
    try:
        yield one
    finally:
        with suppress(ProcessLookupError):
            one.terminate()
        await one.wait()


async def line(one: asyncio.subprocess.Process) -> str:
    assert one.stdout is not None
    return (await one.stdout.readline()).decode().strip()


async def logged(url: str) -> list[float]:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/log") as answer:
        return sorted(json.loads(await answer.text()))


def sharing(url: str, folder: str) -> dict[str, str]:
    """Return the environment of processes that share one key's quota."""
    return {
        "STABILITY_API_KEY": KEY,
        "STABILITY_BASE_URL": url,
        "STABILITY_SHARED_QUOTA": str(Path(folder) / "quota"),
    }


# ---- users in bursts


async def serve_users(name: str, app: str, *, bulk: bool, rate: int = REQUESTS) -> Outcome:
    """Have 300 users arrive in bursts to a service of four workers."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        free.close()
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(process("-m", "benchmarks.web_server"))
            url = f"http://127.0.0.1:{await line(api)}"
            environment = {**sharing(url, folder), "BENCHMARK_RATE": str(rate)}
            uvicorn = ("-m", "uvicorn", app, "--port", port, "--log-level", "error")
            workers = ("--workers", str(WORKERS), "--timeout-graceful-shutdown", "1")
            service = await stack.enter_async_context(process(*uvicorn, *workers, **environment))
            await ready(port)
            if bulk:
                kind = "ours" if app.startswith("examples") else "tutorial"
                job = ("-m", "benchmarks.web", "--bulk", kind)
                await stack.enter_async_context(process(*job, **environment))
                await asyncio.sleep(WINDOW + 2)  # past the burst it begins with
            waits = await visit(port)
            memory = [resident(pid) for pid in children(service.pid)]
            return Outcome(name, await logged(url), waits, memory)


async def ready(port: str) -> None:
    async with aiohttp.ClientSession() as http:
        while True:
            try:
                async with http.get(f"http://127.0.0.1:{port}/quota") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)


async def visit(port: str) -> list[float]:
    """Have the users arrive: ten bursts, two images each, from any worker."""
    rng = random.Random(3)
    waits: list[float] = []
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:

        async def user(number: int, begin: float) -> None:
            await asyncio.sleep(begin + rng.uniform(0, 1.0))
            for _ in range(2):
                asked = time.perf_counter()
                async with http.post(
                    f"http://127.0.0.1:{port}/images",
                    json={"prompt": "x"},
                    headers={"x-user": str(number)},
                ) as answer:
                    await answer.read()
                    assert answer.status == 200, answer.status
                waits.append(time.perf_counter() - asked - SERVICE)
                await asyncio.sleep(rng.uniform(0, 2.0))

        bursts = sorted(rng.uniform(0, SECONDS) for _ in range(10))
        await asyncio.gather(*(user(one, bursts[one * 10 // USERS]) for one in range(USERS)))
    return waits


async def bulk_job(kind: str) -> None:
    """Request images without end."""
    if kind == "tutorial":
        from aiolimiter import AsyncLimiter

        limiter = AsyncLimiter(float(os.environ["BENCHMARK_RATE"]), 10)
        url = os.environ["STABILITY_BASE_URL"] + "/v2beta/stable-image/generate/core"
        async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as tasks:

            async def image() -> None:
                async with http.post(url, data=b"x") as answer:
                    await answer.read()

            while True:
                async with limiter:
                    tasks.create_task(image())
    from stable_async import GenerateCore, SharedQuota, StabilityClient

    quota = SharedQuota.file(os.environ["STABILITY_SHARED_QUOTA"])
    async with StabilityClient(quota=quota) as client:
        endless = (GenerateCore(prompt=str(number)) for number in iter(int, 1))
        async for outcome in client.map(endless):
            assert outcome.error is None, outcome.error


def children(pid: int) -> list[int]:
    return [
        int(child)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def users() -> None:
    print("### 300 users in bursts, four workers, one key\n")
    print(HEADER)
    for name, app, bulk, rate in (
        ("ours, no bulk job", "examples.fastapi_app:app", False, REQUESTS),
        ("ours, with a bulk job", "examples.fastapi_app:app", True, REQUESTS),
        ("by hand, 150 in each process", "benchmarks.web_tutorial:app", True, REQUESTS),
        ("by hand, 30 in each of five", "benchmarks.web_tutorial:app", True, 30),
    ):
        print((await serve_users(name, app, bulk=bulk, rate=rate)).row(), flush=True)


# ---- workers killed and stopped


async def blows() -> None:
    """Four workers saturate the quota; one is killed, one stopped for 30 s, while they do."""
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(process("-m", "benchmarks.web_server"))
            url = f"http://127.0.0.1:{await line(api)}"
            environment = sharing(url, folder)
            jobs = [
                await stack.enter_async_context(
                    process("-m", "benchmarks.web", "--bulk", "ours", **environment)
                )
                for _ in range(WORKERS)
            ]
            await asyncio.sleep(16.0)
            jobs[0].send_signal(signal.SIGKILL)
            await asyncio.sleep(4.0)
            jobs[1].send_signal(signal.SIGSTOP)
            await asyncio.sleep(30.0)
            jobs[1].send_signal(signal.SIGCONT)
            await asyncio.sleep(25.0)
            arrivals = await logged(url)
    print("\n### One of four workers killed after 16 s, one stopped from 20 s to 50 s\n")
    print(HEADER)
    print(Outcome("ours, shared quota", arrivals, [], []).row())
    gaps = np.diff([time for time in arrivals if time > arrivals[0] + WINDOW + 2])
    print(f"\nLongest time without an arrival after the first window: {max(gaps):.2f} s.")


# ---- browsers that leave


async def leavers(count: int) -> None:
    """Let browsers leave a service of one process at random moments, and count what is left."""
    import uvicorn

    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            api = await stack.enter_async_context(process("-m", "benchmarks.web_server"))
            url = f"http://127.0.0.1:{await line(api)}"
            os.environ["STABILITY_API_KEY"], os.environ["STABILITY_BASE_URL"] = KEY, url
            os.environ["STABILITY_SHARED_QUOTA"] = str(Path(folder) / "quota")
            from examples.fastapi_app import app

            with socket.socket() as listening:
                listening.bind(("127.0.0.1", 0))
                server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
                serving = asyncio.create_task(server.serve([listening]))
                while not server.started:
                    await asyncio.sleep(0.01)
                tasks, sockets = len(asyncio.all_tasks()), open_sockets()
                done = await leave(listening.getsockname()[1], count)
                await asyncio.sleep(0.5)
                gc.collect()
                left = app.state.client.quota_statistics()
                idle = app.state.client._session.pool.connector  # noqa: SLF001
                await idle.close()  # what is kept alive on purpose
                await asyncio.sleep(0.1)
                more_tasks = len(asyncio.all_tasks()) - tasks
                more_sockets = open_sockets() - sockets
                arrivals = await logged(url)
                server.should_exit = True
                await serving
    print(f"\n### {count:,} browsers that leave at random moments\n")
    print(f"{done} stayed to the end; {len(arrivals)} requests left, {count - done} browsers went.")
    print(
        f"Left behind: {more_tasks} tasks, {more_sockets} connections, {left.open} open slots, "
        f"{left.waiting} waiting calls."
    )


async def leave(port: int, count: int) -> int:
    rng = random.Random(11)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as http:

        async def browse() -> bool:
            await asyncio.sleep(rng.uniform(0, 20))
            try:
                async with asyncio.timeout(rng.expovariate(1 / 3)):
                    async with http.post(
                        f"http://127.0.0.1:{port}/images", json={"prompt": "x"}
                    ) as answer:
                        await answer.read()
                        return answer.status == 200
            except TimeoutError:
                return False

        return sum(await asyncio.gather(*(browse() for _ in range(count))))


def open_sockets() -> int:
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found += str(entry.readlink()).startswith("socket:")
    return found


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=["users", "blows", "leavers"])
    parser.add_argument("--bulk", choices=["ours", "tutorial"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bulk:
        await bulk_job(arguments.bulk)
        return
    if arguments.only in {None, "users"}:
        await users()
    if arguments.only in {None, "blows"}:
        await blows()
    if arguments.only in {None, "leavers"}:
        await leavers(1000)


if __name__ == "__main__":
    asyncio.run(main())
