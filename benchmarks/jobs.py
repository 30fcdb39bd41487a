"""What bulk jobs cost: rows per second, memory, and the start of a large job.

`python -m benchmarks.jobs [--large ROWS]` prints a table. The server answers at once, in a process
of its own; every measurement is made in a process of its own as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.answering import answering_server
from benchmarks.checking import peak_memory

if TYPE_CHECKING:
    from stable_async.jobs import Summary

KEY = "sk-benchmark"
AT_A_TIME = 64
RATE_ROWS = 10_000
RATE_RUNS = 3
SMALL = 10_000
MADE = 100_000
LEFT = 2_000
PATH = "/v2beta/stable-image/generate/core"


def write_prompts(path: Path, rows: int) -> None:
    """Write a file of `rows` different prompts."""
    with path.open("w") as file:
        for number in range(rows):
            prompt = (
                f"a photograph of lighthouse number {number} at dusk, long exposure, film grain"
            )
            row = {"prompt": prompt, "aspect_ratio": "16:9", "style_preset": "cinematic"}
            file.write(json.dumps(row) + "\n")


async def by_hand(url: str, prompts: Path, folder: Path) -> None:
    """Do what a careful user writes in an afternoon: workers on a queue, a file for each row."""
    import aiohttp

    rows = iter(prompts.open())
    numbers = iter(range(10**9))

    async def work() -> None:
        for line in rows:
            data = aiohttp.FormData(default_to_multipart=True)
            for name, value in json.loads(line).items():
                data.add_field(name, value)
            async with session.post(url + PATH, data=data) as response:
                response.raise_for_status()
                image = await response.read()
            (folder / f"{next(numbers)}.png").write_bytes(image)

    folder.mkdir(exist_ok=True)
    async with aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {KEY}", "Accept": "image/*"},
        connector=aiohttp.TCPConnector(limit=0),
    ) as session:
        await asyncio.gather(*(work() for _ in range(AT_A_TIME)))


async def by_job(url: str, prompts: Path, folder: Path) -> None:
    """Do the same with a job."""
    summary = await run_job(url, prompts, folder, budget=None)
    assert summary.ending == "complete", summary


async def lay_down(url: str, prompts: Path, folder: Path) -> None:
    """Check the prompts and note them in the ledger; send nothing."""
    summary = await run_job(url, prompts, folder, budget=0)
    assert summary.ending == "budget", summary


async def run_job(url: str, prompts: Path, folder: Path, budget: float | None) -> Summary:
    from stable_async import StabilityClient
    from stable_async.jobs import Job, JobSettings, PromptFile, PromptRules

    settings = JobSettings(folder=folder, max_in_flight=AT_A_TIME, budget=budget)
    job = Job(settings, PromptFile(str(prompts)), PromptRules())
    async with StabilityClient(KEY, base_url=url, quota=None) as client:
        running = asyncio.ensure_future(job.run(client))
        while not job.progress.requests and not running.done():
            await asyncio.sleep(0.01)
        STARTED.append(time.perf_counter())
        return await running


WORK = {"hand": by_hand, "job": by_job, "plan": lay_down}
# When the first request of this process left.
STARTED: list[float] = []


def measure(what: str, url: str, prompts: Path, folder: Path) -> dict[str, float]:
    """Return wall seconds, CPU seconds and peak memory, MiB, of a run in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.jobs", "--do", what, url, prompts, folder]
    output = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(output.stdout)
    return result


def do(what: str, url: str, prompts: Path, folder: Path) -> None:
    """Run as such a process."""
    began = time.perf_counter()
    asyncio.run(WORK[what](url, prompts, folder))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "seconds": time.perf_counter() - began,
        "start": (STARTED or [began])[0] - began,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": peak_memory(),
    }
    print(json.dumps(figures))


def mark_done(folder: Path, left: int) -> None:
    """Prepare a job of which only the last rows are left; the others have one image file."""
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images" / "x.png").touch()
    with sqlite3.connect(folder / "job.sqlite") as ledger:
        (last,) = ledger.execute("SELECT max(position) FROM rows").fetchone()
        ledger.execute(
            "INSERT INTO images SELECT NULL, position, 'images/x.png', 'image/png', 1000, "
            "hex(randomblob(32)), 1024, 1024, seed, 'SUCCESS', 'x', 3.0, 0, 0 FROM rows "
            "WHERE position <= ?",
            (last - left,),
        )
        ledger.execute("UPDATE rows SET state = 'done' WHERE position <= ?", (last - left,))
    ledger.close()


def rates(url: str, room: Path) -> None:
    """Print rows per second, ours against the hand-written loop."""
    prompts = room / "rate.jsonl"
    write_prompts(prompts, RATE_ROWS)
    seconds: dict[str, list[float]] = {"hand": [], "job": []}
    cpu: dict[str, list[float]] = {"hand": [], "job": []}
    for number in range(RATE_RUNS):
        for what in seconds:
            figures = measure(what, url, prompts, room / f"{what}-{number}")
            seconds[what].append(figures["seconds"])
            cpu[what].append(figures["cpu"])
    hand, job = (RATE_ROWS / statistics.median(seconds[what]) for what in ("hand", "job"))
    print(f"rows per second: by hand {hand:,.0f}, job {job:,.0f}, ratio {job / hand:.2f}")
    more = statistics.median(cpu["job"]) / statistics.median(cpu["hand"])
    print(f"CPU: {more:.2f} times that by hand")


def made(url: str, room: Path) -> None:
    """Print the memory of a job all of whose rows are made."""
    memory = []
    for size in (SMALL, MADE):
        prompts = room / f"made-{size}.jsonl"
        write_prompts(prompts, size)
        memory.append(measure("job", url, prompts, room / f"made-{size}")["memory"])
    small, big = memory
    print(
        f"memory, making all: {small:.0f} MiB of {SMALL:,} rows, {big:.0f} MiB of {MADE:,}: "
        f"{big - small:+.0f} MiB"
    )


def large(url: str, room: Path, rows: int) -> None:
    """Print the cost of a large job against a small one, and when a resumed one sends."""
    figures: dict[str, dict[int, dict[str, float]]] = {"plan": {}, "job": {}}
    for size in (SMALL, rows):
        prompts, folder = room / f"{size}.jsonl", room / f"{size}"
        write_prompts(prompts, size)
        figures["plan"][size] = measure("plan", url, prompts, folder)
        mark_done(folder, left=LEFT)
        measure("plan", url, prompts, folder)  # writes metadata.jsonl for what was not made
        figures["job"][size] = measure("job", url, prompts, folder)
    for what, name in (("plan", "checking all"), ("job", f"making the last {LEFT:,}")):
        small, big = (figures[what][size]["memory"] for size in (SMALL, rows))
        print(
            f"memory, {name}: {small:.0f} MiB of {SMALL:,} rows, {big:.0f} MiB of {rows:,}: "
            f"{big - small:+.0f} MiB"
        )
    print(f"checking {rows:,} rows: {figures['plan'][rows]['seconds']:.1f} s")
    print(f"resumed job of {rows:,} rows, first request: {figures['job'][rows]['start']:.1f} s")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--do", nargs=4)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--no-rates", action="store_true")
    options = parser.parse_args()
    if options.do:
        what, url, prompts, folder = options.do
        do(what, url, Path(prompts), Path(folder))
        return
    with answering_server() as server, tempfile.TemporaryDirectory() as temporary:
        url = f"{server}/small"
        room = Path(temporary)
        if not options.no_rates:
            rates(url, room)
            made(url, room)
        large(url, room, options.large)


if __name__ == "__main__":
    main()
