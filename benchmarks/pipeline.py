"""A pipeline of Ray under the real quota: what survives kills, and the cost against `run`.

`python -m benchmarks.pipeline [--rows 450]` takes about five minutes, most of it waiting for the
quota of 150 requests in 10 s, and writes docs/pipeline-benchmark.md; it needs the extra `[ray]`.
Ray runs on 127.0.0.1 alone. The server is the sandbox, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

from stable_async.sandbox import SandboxSettings
from stable_async.sandbox.process import SandboxProcess, start_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parent.parent / "docs" / "pipeline-benchmark.md"
KEY = "sk-pipeline-0123456789"
ACTORS = 3
MAKER = b"MakeImages"
LATENCY = 2.0
LONGEST = 240.0
# Parts of the rows that are made when an actor is killed, another one, and the driver with all.
KILLS = (0.5, 0.65, 0.8)
# How often the processes of a program are looked at, seconds.
LOOK = 0.1
MIB = 1024 * 1024

# A program of a user, with the address of this benchmark's server and cluster.
PROGRAM = """
import asyncio, json, sys
import ray
from stable_async import SharedQuota
from stable_async.integrations.ray import MakeImages
from stable_async.quota import QuotaLimiter

images, url, rows, actors, resend = json.loads(sys.argv[1])
ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=4,
         log_to_driver=False, configure_logging=False)
settings = {"images": images, "quota": SharedQuota.ray("pipeline"), "base_url": url,
            "resend_doubtful": resend}
pool = ray.data.ActorPoolStrategy(size=actors)
rows = [{"id": f"row {n}", "prompt": f"a lighthouse, take {n}"} for n in range(rows)]
facts = ray.data.from_items(rows).map_batches(
    MakeImages, fn_constructor_kwargs=settings, compute=pool, batch_size=30, num_cpus=0.1)
states = [one["state"] for one in facts.iter_rows()]

async def jitter():
    limiter = QuotaLimiter(SharedQuota.ray("pipeline"))
    await limiter.open()
    try:
        return limiter.statistics().jitter
    finally:
        await limiter.aclose()

print(json.dumps({"states": states, "jitter": asyncio.run(jitter())}), flush=True)
"""


class Printed(TypedDict):
    states: list[str]
    jitter: float


@dataclass
class Usage:
    """What all processes of one program took.

    Attributes:
        seconds: From start to end.
        cpu: Seconds of CPU of every process by its id.
        memory: The most at one time, bytes; what processes share is divided among them.
        processes: The most at one time.
    """

    seconds: float = 0.0
    cpu: dict[int, float] = field(default_factory=dict)
    memory: int = 0
    processes: int = 0


class Program:
    """A program and its descendants, which inherit a mark in their environment."""

    def __init__(self, arguments: list[str]) -> None:
        self._mark = f"STABLE_ASYNC_BENCHMARK={secrets.token_hex(8)}".encode()
        name, _, value = self._mark.decode().partition("=")
        environment = {**os.environ, "STABILITY_API_KEY": KEY, name: value}
        environment.pop("RAY_ADDRESS", None)
        self.usage = Usage()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `kill`
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `kill`
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            env=environment,
            stdout=self._output,
            stderr=self._errors,
        )
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()

    def wait(self) -> str:
        """Return what it printed, once it has ended."""
        if self._process.wait(LONGEST):
            raise RuntimeError(f"the program failed: {self.errors()}")
        self._output.seek(0)
        return self._output.read().decode()

    def status(self) -> int | None:
        return self._process.poll()

    def errors(self) -> str:
        """Return the end of what it wrote to stderr."""
        self._errors.seek(0)
        return self._errors.read().decode()[-2000:]

    def running(self) -> bool:
        return self._process.poll() is None

    def pids(self) -> list[int]:
        """Return its processes that run now."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if self._mark in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return found

    def actors(self) -> list[int]:
        """Return the actors that make images; some may only just have been started."""
        titles = {pid: _read(pid, "cmdline") for pid in self.pids()}
        return [
            pid for pid, title in titles.items() if title.startswith(b"ray::") and MAKER in title
        ]

    def kill(self) -> None:
        """Kill all of its processes; harmless when there is none."""
        while pids := self.pids():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.poll()
            time.sleep(0.05)
        self._ended.set()
        self._watcher.join()
        self._output.close()
        self._errors.close()

    def _watch(self) -> None:
        began = time.monotonic()
        while not self._ended.wait(LOOK):
            pids, memory = self.pids(), 0
            for pid in pids:
                with suppress(OSError, ValueError, IndexError):
                    self.usage.cpu[pid] = _cpu(pid)
                    memory += _memory(pid)
            if self.running():
                self.usage.seconds = time.monotonic() - began
            self.usage.memory = max(self.usage.memory, memory)
            self.usage.processes = max(self.usage.processes, len(pids))


def _read(pid: int, name: str) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def _cpu(pid: int) -> float:
    user, system = _read(pid, "stat").rpartition(b") ")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> int:
    lines = _read(pid, "smaps_rollup").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:"))


@contextmanager
def started(arguments: list[str]) -> Iterator[Program]:
    program = Program(arguments)
    try:
        yield program
    finally:
        program.kill()


@contextmanager
def place() -> Iterator[tuple[Path, SandboxProcess]]:
    """Yield an empty folder and a sandbox that counts as the real service does."""
    with (
        tempfile.TemporaryDirectory(prefix="pipeline-") as folder,
        start_sandbox(SandboxSettings(latency=LATENCY)) as sandbox,
    ):
        yield Path(folder), sandbox


class Store:
    """The images of a pipeline, and the facts beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def images(self) -> int:
        return len(list(self.folder.glob("*/*.png")))

    def claims(self) -> int:
        """Count the facts, of images and of what was in flight."""
        return len(list(self.folder.glob("*/*.json")))


def charged(sandbox: SandboxProcess) -> int:
    callers = cast("list[dict[str, int]]", sandbox.bill()["callers"])
    return sum(caller["requests"] for caller in callers)


def most(sandbox: SandboxProcess) -> tuple[int, float]:
    """Return the refusals so far, and the most in one window in the worst way of counting."""
    statistics = cast("dict[str, object]", sandbox.state()["statistics"])
    windows = cast("dict[str, float]", statistics["most_in_window"])
    return cast("int", statistics["refused"]), max(windows.values())


def ray_program(store: Store, sandbox: SandboxProcess, rows: int, *, resend: bool) -> list[str]:
    settings = [str(store.folder), sandbox.url, rows, ACTORS, resend]
    return ["-c", PROGRAM, json.dumps(settings)]


def cost_of_ray(rows: int) -> tuple[Usage, float]:
    """Make all rows without kills; return what it took, and the jitter allowed for at the end."""
    with place() as (folder, sandbox):
        store = Store(folder / "images")
        with started(ray_program(store, sandbox, rows, resend=False)) as program:
            printed = cast("Printed", json.loads(program.wait()))
        refused, worst = most(sandbox)
        assert printed["states"] == ["done"] * rows
        assert (store.images(), charged(sandbox), refused) == (rows, rows, 0)
        print(f"ray: {_usage(program.usage)}, at most {worst:.1f} in 10 s", flush=True)
        return program.usage, printed["jitter"]


def cost_of_run(rows: int) -> Usage:
    """Make the same rows by `stable-async run`."""
    with place() as (folder, sandbox):
        prompts = folder / "prompts.jsonl"
        with prompts.open("w") as file:
            for number in range(rows):
                row = {"id": f"row {number}", "prompt": f"a lighthouse, take {number}"}
                file.write(json.dumps(row) + "\n")
        images = folder / "images"
        arguments = ["-m", "stable_async", "run", str(prompts), "--out", str(folder / "job")]
        arguments += ["--images", images.as_uri(), "--base-url", sandbox.url]
        arguments += ["--shared-quota", str(folder / "quota")]
        with started(arguments) as program:
            program.wait()
        assert Store(images).images() == rows
        print(f"run: {_usage(program.usage)}", flush=True)
        return program.usage


@dataclass
class Killed:
    """What was seen of a pipeline whose actors and driver were killed.

    Attributes:
        rows: How many there were.
        made: Images when the driver was killed.
        open_claims: Facts without an image then.
        states: What the second program returned for the rows.
        charged: Requests that were charged by then, and at the end.
        images: At the end.
        refused: 429 answers of all three programs.
        worst: The most in 10 s in the worst way of counting.
    """

    rows: int
    made: int = 0
    open_claims: int = 0
    states: Counter[str] = field(default_factory=Counter)
    charged: tuple[int, int] = (0, 0)
    images: int = 0
    refused: int = 0
    worst: float = 0.0

    def check(self) -> None:
        """Raise AssertionError unless nothing was lost, and nothing paid twice unasked."""
        doubtful = self.states["in doubt"]
        assert doubtful == self.open_claims, self
        assert self.states["done"] == self.rows - doubtful, self
        # A claim may be of a request that did not leave any more.
        assert self.rows - doubtful <= self.charged[0] <= self.rows, self
        assert self.images == self.rows, self
        assert self.charged[1] == self.charged[0] + doubtful, self
        assert self.refused == 0, self


def kill(rows: int) -> Killed:
    """Kill two actors and then the driver with all, go on, and then send what is in doubt."""
    seen = Killed(rows)
    with place() as (folder, sandbox):
        store = Store(folder / "images")
        with started(ray_program(store, sandbox, rows, resend=False)) as program:
            *actors, driver = (int(rows * part) for part in KILLS)
            for count in actors:
                _until(program, store, count)
                victim = min(program.actors())
                os.kill(victim, signal.SIGKILL)
                print(f"killed an actor at {store.images()} images", flush=True)
            _until(program, store, driver)
            program.kill()
        # What had left is answered, whether anybody listens or not.
        time.sleep(LATENCY + 1.0)
        seen.made = store.images()
        seen.open_claims = store.claims() - seen.made
        print(f"killed all at {seen.made} images, {seen.open_claims} claims open", flush=True)
        with started(ray_program(store, sandbox, rows, resend=False)) as program:
            seen.states.update(cast("Printed", json.loads(program.wait()))["states"])
        before = charged(sandbox)
        print(f"went on: {dict(seen.states)}, {before} charged", flush=True)
        with started(ray_program(store, sandbox, rows, resend=True)) as program:
            states = cast("Printed", json.loads(program.wait()))["states"]
        assert states == ["done"] * rows, Counter(states)
        seen.charged = before, charged(sandbox)
        seen.images = store.images()
        seen.refused, seen.worst = most(sandbox)
    return seen


def _until(program: Program, store: Store, count: int) -> None:
    deadline = time.monotonic() + LONGEST
    while store.images() < count:
        if not program.running():
            raise RuntimeError(f"the program ended with {program.status()}: {program.errors()}")
        assert time.monotonic() < deadline, "the program makes no images"
        time.sleep(0.05)


def _usage(usage: Usage) -> str:
    cpu = sum(usage.cpu.values())
    return (
        f"{usage.seconds:.0f} s, {cpu:.1f} s of CPU, {usage.memory / MIB:.0f} MiB, "
        f"{usage.processes} processes"
    )


TEXT = """# A Ray pipeline, measured

Written by `python -m benchmarks.pipeline --rows {rows}` on {machine}.

{rows} rows of one image each, {actors} actors, the real quota of 150 requests in 10 s. The server
is the sandbox in another process, which answers after {latency:g} s.

| | time | CPU, all processes | peak memory | processes |
|---|---:|---:|---:|---:|
{costs}

Memory is divided among the processes that share it. The time of Ray includes the start of a cluster
and the first start of its quota, which waits 12.3 s. The jitter allowance, pooled over the actors,
was {jitter:.2f} s at the end.

Then the same rows with kills: one actor at {first:.0%} of the images, another at {second:.0%}, and
the driver with all processes when {made} images were stored.

- {open_claims} rows were claimed and had no image. The next program returned them as in doubt, and
  the other {done} as done. {before} requests had been charged by then, none of them twice.
- With `resend_doubtful=True` all {rows} images were there. {after} requests had been charged,
  {twice} of them for rows that may have been paid for before, as requested.
- No request was refused; the most in 10 s, in the worst of four ways of counting, was {worst:.1f}.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=450, help="images to make")
    parser.add_argument("--no-page", action="store_true", help="print only")
    arguments = parser.parse_args()
    rows = arguments.rows
    killed = kill(rows)
    print(killed, flush=True)
    killed.check()
    run, (pipeline, jitter) = cost_of_run(rows), cost_of_ray(rows)
    page = TEXT.format(
        rows=rows,
        machine=f"{os.cpu_count()} cores ({platform.machine()}), {platform.system()}, "
        f"Python {platform.python_version()}, Ray {version('ray')}",
        actors=ACTORS,
        latency=LATENCY,
        costs="\n".join(
            f"| {name} | {usage.seconds:.0f} s | {sum(usage.cpu.values()):.1f} s "
            f"| {usage.memory / MIB:.0f} MiB | {usage.processes} |"
            for name, usage in (("`stable-async run --images`", run), ("Ray", pipeline))
        ),
        jitter=jitter,
        first=KILLS[0],
        second=KILLS[1],
        made=killed.made,
        open_claims=killed.open_claims,
        done=killed.states["done"],
        before=killed.charged[0],
        after=killed.charged[1],
        twice=killed.charged[1] - rows,
        worst=killed.worst,
    )
    if arguments.no_page:
        print(page)
    else:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
