"""Clients of one key in loops, threads, processes and handlers: what arrives, and what it costs.

`python -m benchmarks.quota_sharing` takes about three minutes, most of it waiting, and prints a
table. Every way makes its clients as programs do, without naming a shared quota. The sandbox, in
this process, logs when requests arrive; nothing is refused.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import quota_counting as counting
from stable_async import Quota, StabilityClient
from stable_async.quota import ProcessHome, Slot
from stable_async.quota.homes.file import FileHome
from stable_async.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from stable_async.quota.homes.local import LocalHome

KEY = "sk-benchmark"


@dataclass(frozen=True)
class Load:
    """What is sent, and under which quota.

    Attributes:
        url: Where to.
        calls: How many requests in all.
        quota: The quota of every client.
    """

    url: str
    calls: int = 240
    quota: Quota = Quota()  # noqa: RUF009 - frozen


async def send(load: Load, calls: int) -> None:
    """Make a client and send that many requests with it, all at once."""
    async with StabilityClient(KEY, base_url=load.url, quota=load.quota) as client:
        await asyncio.gather(*(client.account.balance() for _ in range(calls)))


def threads(load: Load, count: int = 4) -> None:
    """Send from that many event loops, each in a thread."""
    workers = [
        Thread(target=lambda: asyncio.run(send(load, load.calls // count))) for _ in range(count)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def loops(load: Load) -> None:
    """Send from three event loops in three threads."""
    threads(load, 3)


def processes(load: Load, count: int = 4) -> None:
    """Send from that many processes, each started when the one before it has ended."""
    for _ in range(count):
        quota = load.quota
        arguments = [load.url, load.calls // count, quota.requests, quota.window, quota.jitter]
        subprocess.run(
            [sys.executable, "-m", "benchmarks.quota_sharing", *map(str, arguments)], check=True
        )


def handlers(load: Load, count: int = 200) -> None:
    """Send from handlers of one event loop that make a client each."""

    async def serve() -> None:
        sizes = [load.calls // count + (number < load.calls % count) for number in range(count)]
        await asyncio.gather(*(send(load, size) for size in sizes))

    asyncio.run(serve())


def runs(load: Load, each: int = 4) -> None:
    """Send from one `asyncio.run` after the other, with a client and four calls each."""
    for _ in range(load.calls // each):
        asyncio.run(send(load, each))


WAYS: dict[str, tuple[Callable[[Load], None], int]] = {
    "3 event loops": (loops, 240),
    "4 threads": (threads, 240),
    "4 processes, one after the other": (processes, 240),
    "200 handlers with a client each": (handlers, 240),
    "45 times asyncio.run, 4 calls each": (runs, 180),
}


@dataclass(frozen=True)
class Seen:
    """What arrived.

    Attributes:
        calls: How many requests.
        most: The most that any way of counting showed at its worst phase.
        use: The least possible time under the limit, divided by the time it took.
    """

    calls: int
    most: float
    use: float


def judge(arrivals: list[float], requests: int, window: float) -> Seen:
    """Count arrivals, in seconds, in all four ways at their worst phase."""
    times = np.sort(np.array(arrivals))
    most = max(
        counting.log(times, window),
        counting.worst_counter(times, window),
        counting.worst_fixed(times, window),
        counting.bucket(times, requests, window),
    )
    beyond = max(len(times) - requests, 0)
    least = (window + beyond * window / requests) if beyond else 0.0
    return Seen(len(times), most, least / float(times[-1] - times[0]) if beyond else 1.0)


def permit_cost(home: LocalHome, permits: int = 2000) -> float:
    """Return the CPU time of one permit, microseconds: reserved, marked as sent, and observed."""
    home.open_now()
    begun = time.process_time()
    for _ in range(permits):
        slot = home.reserve(time.monotonic())
        assert isinstance(slot, Slot)
        home.mark_sent(slot, time.monotonic())
    spent = time.process_time() - begun
    home.close_now()
    return spent / permits * 1e6


def client_cost(path: Path, clients: int = 100) -> float:
    """Return the CPU time of opening and closing a home of a file in use, microseconds."""
    quota = Quota(100_000)
    permit_cost(FileHome(path, quota), 300)
    begun = time.process_time()
    for _ in range(clients):
        home = FileHome(path, quota)
        home.open_now()
        home.close_now()
    return (time.process_time() - begun) / clients * 1e6


async def measure() -> None:
    """Run all ways, one after the other, and print what arrived."""
    print("| clients | calls | most in 10 s, any way | use |")
    print("|---|---:|---:|---:|")
    for name, (way, calls) in WAYS.items():
        async with Sandbox(counting="off") as sandbox:
            await asyncio.to_thread(way, Load(sandbox.url, calls))
            seen = judge([record.arrival for record in sandbox.log], 150, 10.0)
        print(f"| {name} | {seen.calls} | {seen.most:.1f} | {seen.use:.3f} |", flush=True)


def main() -> None:
    """Print the table and the costs."""
    if len(sys.argv) > 1:
        url, calls, requests, window, jitter = sys.argv[1:]
        quota = Quota(int(requests), float(window), jitter=float(jitter))
        asyncio.run(send(Load(url, int(calls), quota), int(calls)))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        asyncio.run(measure())
        path = Path(folder) / "measured"
        many = Quota(100_000, adaptive=False)
        costs = {
            "permit in memory": permit_cost(ProcessHome(many)),
            "permit in a file": permit_cost(FileHome(path, many)),
            "opening and closing a file in use": client_cost(path),
        }
        for name, cost in costs.items():
            print(f"{name}: {cost:.0f} us of CPU")


if __name__ == "__main__":
    main()
