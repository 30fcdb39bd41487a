"""This limiter beside others: what arrives at a server, what it refuses, who waits, the cost.

`python -m benchmarks.quota` takes about ten minutes, most of it waiting, and writes
docs/quota-benchmark.md and docs/quota.svg. Each limiter runs in a process of its own, against a
server of its own in another; all at the same time, started one after the other.

`--only PART` measures one part of `flow`, `enforced`, `bulk`, `cost`, and replaces only its table;
`flow` takes two minutes and a half, and draws quota.svg, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import numpy as np

from benchmarks import quota_counting as counting
from benchmarks.quota_limiters import REQUESTS, WINDOW, Aiometer, Ours, contenders
from stable_async.config import Quota
from stable_async.quota import Permit, ProcessHome, Slot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import SimpleNamespace

    from benchmarks.quota_limiters import Contender

DOCS = Path(__file__).parent.parent / "docs"

FLOW = 600
BULK = 450
ENFORCED = 900
ENFORCED_FOR = 600.0
SERVICE = 2.0
STAGGER = 2.0
# The network is measured for so long, seconds, and that counts so many times.
MEASURED_FOR, MEASURED_TIMES = 60.0, 11
PING_EVERY = 1 / 8


@dataclass
class Run:
    """What one limiter did in one part.

    Attributes:
        name: The limiter.
        arrivals: When requests arrived, from the first on, seconds.
        waits: How long interactive requests waited, seconds.
        served: How many requests were served.
        refused: How many were not.
        seconds: How long it took to get all of them served, or until it was stopped.
    """

    name: str
    arrivals: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    served: int = 0
    refused: int = 0
    seconds: float = 0.0

    @property
    def log(self) -> float:
        return counting.log(np.array(self.arrivals), WINDOW)

    @property
    def counter(self) -> float:
        return counting.worst_counter(np.array(self.arrivals), WINDOW)

    @property
    def fixed(self) -> float:
        return counting.worst_fixed(np.array(self.arrivals), WINDOW)

    @property
    def bucket(self) -> float:
        return counting.bucket(np.array(self.arrivals), REQUESTS, WINDOW)

    @property
    def breach(self) -> bool:
        return max(self.log, self.counter, self.fixed, self.bucket - 1e-6) > REQUESTS

    @property
    def use(self) -> float:
        count = len(self.arrivals)
        least = WINDOW + (count - REQUESTS) * WINDOW / REQUESTS
        return least / (self.arrivals[-1] - self.arrivals[0])


# ---- one client, one server


@asynccontextmanager
async def serving(
    *, delay: float = 0.1, new_connection: float = 0.2, penalty: float = 0.0
) -> AsyncIterator[str]:
    """Return the address of a server that runs meanwhile."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.quota_server",
        *map(str, (delay, new_connection, SERVICE, penalty)),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.terminate()
        await process.wait()


def session() -> aiohttp.ClientSession:
    """Make a session that marks permits as sent when the headers are on the wire."""

    async def mark_sent(
        _session: aiohttp.ClientSession,
        context: SimpleNamespace,
        _params: aiohttp.TraceRequestHeadersSentParams,
    ) -> None:
        permit = context.trace_request_ctx
        if isinstance(permit, Permit):
            permit.mark_sent()

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(mark_sent)
    return aiohttp.ClientSession(
        trace_configs=[trace],
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
    )


async def arrivals(http: aiohttp.ClientSession, url: str) -> list[float]:
    async with http.get(f"{url}/log") as answer:
        times = sorted(json.loads(await answer.text()))
    return [time - times[0] for time in times]


# ---- the parts


async def flow(contender: Contender, *, quiet: bool = False) -> Run:
    """Send 600 requests, all wanted at once."""
    network = {"delay": 0.02, "new_connection": 0.02} if quiet else {}
    async with serving(**network) as url, session() as http:

        async def send(permit: Permit | None = None) -> None:
            async with http.get(f"{url}/work", trace_request_ctx=permit) as answer:
                await answer.read()

        if isinstance(contender, Ours):
            if quiet:
                contender.home = await _measured(http, url)
            gate = contender.make()

            async def through() -> None:
                async with gate("interactive") as permit:
                    await send(permit)

            await asyncio.gather(*(through() for _ in range(FLOW)))
        else:
            await contender.run([send] * FLOW)
        return Run(contender.name, await arrivals(http, url))


async def _measured(http: aiohttp.ClientSession, url: str) -> ProcessHome:
    """Return a home that has measured the network: one minute of it, as if it were eleven."""
    delays: list[float] = []
    end = time.monotonic() + MEASURED_FOR
    while time.monotonic() < end:
        await asyncio.sleep(PING_EVERY)
        begun = time.perf_counter()
        async with http.get(f"{url}/ping") as answer:
            await answer.read()
        delays.append(time.perf_counter() - begun)
    home = ProcessHome(Quota())
    home.open_now()
    begin = time.monotonic() - MEASURED_FOR * MEASURED_TIMES
    step = MEASURED_FOR / len(delays)
    for number, delay in enumerate(delays * MEASURED_TIMES):
        home.observe(begin + number * step, delay)
    home.close_now()
    return home


async def bulk(contender: Contender) -> Run:
    """Send 450 requests of a bulk job, with an interactive one every half second."""
    async with serving() as url, session() as http:
        gate = contender.make()
        waits: list[float] = []

        async def request(priority: str) -> None:
            asked = time.perf_counter()
            async with gate("bulk" if priority == "bulk" else "interactive") as permit:
                if priority == "interactive":
                    waits.append(time.perf_counter() - asked)
                async with http.get(f"{url}/work", trace_request_ctx=permit) as answer:
                    await answer.read()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(request("interactive"))
            await asyncio.sleep(0.25)
            for _ in range(BULK):
                tasks.create_task(request("bulk"))
            for _ in range(60):
                tasks.create_task(request("interactive"))
                await asyncio.sleep(0.5)
        return Run(contender.name, await arrivals(http, url), waits)


async def enforced(contender: Contender) -> Run:
    """Get 900 requests served by a server that refuses the key for 60 s after a breach."""
    run = Run(contender.name)
    async with serving(penalty=60.0) as url, session() as http:
        begun = time.perf_counter()

        async def send(permit: Permit | None = None) -> float:
            async with http.get(f"{url}/work", trace_request_ctx=permit) as answer:
                await answer.read()
                if answer.status == 200:
                    run.served += 1
                    run.seconds = time.perf_counter() - begun
                    return 0.0
                run.refused += 1
                return float(answer.headers["retry-after"])

        async def batched() -> None:
            while wait := await send():
                await asyncio.sleep(wait)

        async def gated() -> None:
            while True:
                async with gate("bulk") as permit:
                    wait = await send(permit)
                if not wait:
                    return
                if isinstance(contender, Ours) and contender.limiter is not None:
                    contender.limiter.penalise(wait, permit)
                else:
                    await asyncio.sleep(wait)

        try:
            async with asyncio.timeout(ENFORCED_FOR):
                if isinstance(contender, Aiometer):
                    await contender.run([batched] * ENFORCED)
                else:
                    gate = contender.make()
                    await asyncio.gather(*(gated() for _ in range(ENFORCED)))
        except TimeoutError:
            run.seconds = ENFORCED_FOR
        return run


async def cost(contender: Contender) -> float:
    """Return the microseconds of one permit that needs no waiting: the best of 300 bursts of 15."""
    best = float("inf")
    for _ in range(300):
        gate = contender.make()
        begun = time.process_time()
        for _ in range(15):
            async with gate("interactive") as permit:
                if permit is not None:
                    permit.mark_sent()
        best = min(best, time.process_time() - begun)
        await asyncio.sleep(0)
    return best / 15 * 1e6


def decision(requests: int) -> float:
    """Return the microseconds of one decision of ours with a full history, asked at the ceiling."""
    home = ProcessHome(Quota(requests=requests))
    home.open_now()
    now, spent, asked = 0.0, 0.0, 0
    while now < 35.0:
        begun = time.perf_counter()
        answer = home.reserve(now)
        passed = time.perf_counter() - begun
        if isinstance(answer, Slot):
            home.mark_sent(answer, now)
        else:
            now = answer
        if now > 25.0:
            spent, asked = spent + passed, asked + 1
    return spent / asked * 1e6


# ---- all of it


def _in_a_process(part: str, number: int, quiet: bool) -> Run:
    time.sleep(STAGGER * number)
    contender = contenders()[number] if not quiet else Ours("stable_async.quota, adapted")
    if part == "flow":
        return asyncio.run(flow(contender, quiet=quiet))
    return asyncio.run(bulk(contender) if part == "bulk" else enforced(contender))


def measure(part: str) -> list[Run]:
    """Run one part with every limiter that can take it, at the same time."""
    everybody = contenders()
    numbers = [
        number
        for number, contender in enumerate(everybody)
        if not (part == "bulk" and isinstance(contender, Aiometer))
    ]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(numbers) + 1, mp_context=spawn) as pool:
        runs = [pool.submit(_in_a_process, part, number, False) for number in numbers]
        if part == "flow":
            runs.insert(1, pool.submit(_in_a_process, part, len(everybody), True))
        return [run.result() for run in runs]


def machine() -> str:
    processor = platform.processor() or platform.machine()
    versions = ", ".join(
        f"{contender.package} {contender.version}"
        for contender in {c.package: c for c in contenders() if c.package}.values()
    )
    return (
        f"{os.cpu_count()} cores ({processor}), {platform.system()}, "
        f"Python {platform.python_version()}, aiohttp {aiohttp.__version__}, {versions}"
    )


def flow_table(runs: list[Run]) -> str:
    lines = [
        "| limiter | sliding log | two counters | fixed window | token bucket | use | verdict |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for run in runs:
        verdict = "**breach**" if run.breach else "kept"
        lines.append(
            f"| {run.name} | {run.log:.0f} | {run.counter:.1f} | {run.fixed:.0f} "
            f"| {run.bucket:.1f} | {run.use:.3f} | {verdict} |"
        )
    return "\n".join(lines)


def bulk_table(runs: list[Run]) -> str:
    lines = [
        "| limiter | median wait | longest wait | most in 10 s |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {run.name} | {np.median(run.waits):.2f} s | {max(run.waits):.2f} s "
        f"| {run.counter:.1f} |"
        for run in runs
    ]
    return "\n".join(lines)


def enforced_table(runs: list[Run]) -> str:
    lines = ["| limiter | served | refused | time |", "|---|---:|---:|---:|"]
    for run in runs:
        finished = run.served == ENFORCED
        taken = f"{run.seconds:.0f} s" if finished else f"stopped after {run.seconds:.0f} s"
        lines.append(f"| {run.name} | {run.served} | {run.refused} | {taken} |")
    return "\n".join(lines)


def cost_table() -> str:
    lines = ["| limiter | microseconds per permit |", "|---|---:|"]
    lines += [
        f"| {contender.name} | {asyncio.run(cost(contender)):.1f} |"
        for contender in contenders()
        if not isinstance(contender, Aiometer)
    ]
    decisions = ", ".join(f"{decision(n):.0f} at N = {n:,}" for n in (150, 1500, 15000))
    return "\n".join(lines) + (
        f"\n\nOne decision of ours with a full history, in microseconds: {decisions}."
    )


PAGE = """# Limiters against a hard quota, measured

Written by `python -m benchmarks.quota` on {machine}.

The quota: 150 requests in 10 s. The server, in another process, logs when requests arrive: a
network delay of up to 0.1 s after they left, and on a new connection up to 0.2 s more. It answers
after 2 s. How each limiter is used: benchmarks/quota_limiters.py.

## What arrives

{flow_count} requests, all wanted at once. The most that each way of counting shows at its worst
phase, of 150 allowed; use is the least possible time under the ceiling divided by the time between
the first and the last arrival. "Adapted" is stable_async on a quiet network (delays of up to 0.02
s) that was measured before: a minute of round trips, counted eleven times, as ten minutes are
needed.

{flow}

![Requests in the last ten seconds, per limiter, against the ceiling](quota.svg)

## Against a server with a penalty

{enforced_count} requests against a server that counts with two counters and refuses the key
for 60 s after a breach. Its phase is drawn at random: a small breach may go unnoticed. Refused
requests are sent again after the `Retry-After` of their 429. Stopped after {enforced_for:.0f} s.

{enforced}

## Who waits

A bulk job of {bulk_count} requests, and an interactive request every half second. How long the
interactive ones waited for their turn. aiometer is left out: it runs a batch, and
offers nothing that another request could wait for.

{bulk}

## What a permit costs

CPU time of one permit that need not wait.

{cost}
"""


def kept_tables(page: str) -> dict[str, str]:
    """Return the tables of a page that was written before, by part."""
    tables = re.findall(r"^\|.*(?:\n\|.*)*(?:\n\nOne decision .*)?", page, re.MULTILINE)
    return dict(zip(("flow", "enforced", "bulk", "cost"), tables, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=["flow", "enforced", "bulk", "cost"])
    only = parser.parse_args().only
    document = DOCS / "quota-benchmark.md"
    tables = kept_tables(document.read_text(encoding="utf-8")) if only else {}
    if only in {None, "cost"}:
        tables["cost"] = cost_table()
    for part, table in (("flow", flow_table), ("enforced", enforced_table), ("bulk", bulk_table)):
        if only in {None, part}:
            runs = measure(part)
            tables[part] = table(runs)
            if part == "flow":
                from benchmarks.quota_drawing import draw

                draw({run.name: run.arrivals for run in runs}, DOCS / "quota.svg")
    page = PAGE.format(
        machine=machine(),
        flow_count=FLOW,
        bulk_count=BULK,
        enforced_count=ENFORCED,
        enforced_for=ENFORCED_FOR,
        **tables,
    )
    document.write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
