"""`make bench`: what a request costs, stable_async beside bare aiohttp, httpx and openai-python.

Every figure is a ratio against a peer in the same run, on the same server in a process of its own:
medians of RUNS runs, the clients taking turns. Prints how each figure compares with the one in
docs/benchmarks.md, and writes the new ones there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.answering import answering_server

RUNS = 5
# Two runs of the same code differ by less than this on a quiet machine.
NOISE = 0.07
MIB = 1024 * 1024
DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"

# Task, what it is, requests a run, clients beside ours.
TASKS = [
    ("small", "1 KB image into memory", 2000, ["aiohttp", "httpx", "openai"]),
    ("large", "1.5 MB image, synced to disk", 300, ["aiohttp", "httpx", "openai"]),
    ("small-json", "1 KB image, base64 in JSON", 2000, []),
]
UNSYNCED = "aiohttp, not synced"
UPLOADS = 64
INTRODUCTION = """# Benchmarks

What a request costs: CPU time of the client's process, 32 requests at a time, quota off, the server
in another process; medians of {runs} runs in which the clients take turns. "Against bare" is the
ratio to the same by hand with aiohttp, or to `import aiohttp, pydantic`. openai-python is measured
on its own images API, which returns base64 in JSON. Written by `make bench`; {machine}.

"""
# What takes time is loaded when it is asked for, so the client is measured as well.
IMPORTS = {
    "import stable_async": "import stable_async",
    "from stable_async import StabilityClient": "from stable_async import StabilityClient",
    "import aiohttp, pydantic": "import aiohttp, pydantic",
    "import aiohttp; a pydantic model": (
        "import aiohttp, pydantic\nclass Model(pydantic.BaseModel): x: int = 0"
    ),
    "import openai": "import openai",
    "stable-async --help": "from stable_async.cli.app import run\nrun(['--help'])",
}


def run(client: str, task: str, url: str, count: int, *options: str) -> dict[str, float]:
    """Return what one run of a client in a process of its own measured."""
    command = [sys.executable, "-m", "benchmarks.clients", client, task, url, str(count), *options]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(output)
    return result


def import_time(code: str) -> float:
    """Return the CPU seconds an interpreter takes to start and import."""
    timed = f"{code}\nimport time; print(time.process_time())"
    # With compiled modules, as they are installed.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", timed]
    output = subprocess.run(command, check=True, capture_output=True, env=environment).stdout
    return float(output.split()[-1])


def median(runs: list[dict[str, float]], figure: str) -> float:
    return statistics.median(one[figure] for one in runs)


def cost_rows(url: str) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for task, title, count, peers in TASKS:
        measured: dict[str, list[dict[str, float]]] = {}
        base = task.partition("-")[0]
        for _ in range(RUNS):
            for client in ["aiohttp", *[peer for peer in peers if peer != "aiohttp"]]:
                measured.setdefault(client, []).append(run(client, base, url, count))
            if task == "large":
                measured.setdefault(UNSYNCED, []).append(
                    run("aiohttp", "large-unsynced", url, count)
                )
            measured.setdefault("stable_async", []).append(run("stable_async", task, url, count))
            uvloop = run("stable_async", task, url, count, "--uvloop")
            measured.setdefault("stable_async on uvloop", []).append(uvloop)
        bare, bare_wall = (median(measured["aiohttp"], figure) for figure in ("cpu", "wall"))
        for client in ["stable_async", "stable_async on uvloop", *peers, UNSYNCED]:
            if client in measured:
                cpu, wall = (median(measured[client], figure) for figure in ("cpu", "wall"))
                ratios = (f"{cpu / bare:.2f}", f"{wall / bare_wall:.2f}")
                rows.append((title, client, f"{cpu * 1e6:,.0f} µs", *ratios))
    return rows


def upload_rows(url: str) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    title = f"{UPLOADS} uploads of 10 MiB at once, from a file"
    for client in ("stable_async", "aiohttp", "httpx", "openai"):
        runs = [run(client, "upload", url, UPLOADS) for _ in range(RUNS)]
        rows.append((title, client, f"{median(runs, 'memory') / MIB:,.0f} MiB above idle", "", ""))
    return rows


def import_rows() -> list[tuple[str, ...]]:
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(RUNS * 3):
        for name, code in IMPORTS.items():
            times[name].append(import_time(code))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    bare = medians["import aiohttp, pydantic"]
    return [
        ("start and import", name, f"{taken * 1e3:,.0f} ms", f"{taken / bare:.2f}", "")
        for name, taken in medians.items()
    ]


def table(rows: list[tuple[str, ...]]) -> str:
    lines = [
        "| task | client | CPU, median | against bare | wall, against bare |",
        "|---|---|--:|--:|--:|",
    ]
    return "\n".join([*lines, *[f"| {' | '.join(row)} |" for row in rows]])


def kept(text: str) -> dict[tuple[str, str], float]:
    """Return the figures of a table, by task and client: the ratio, else the median."""
    figures = {}
    for line in text.splitlines():
        task, client, median_text, ratio = (
            [*map(str.strip, line.strip("|").split("|"))] + [""] * 4
        )[:4]
        number = re.match(r"[\d,.]+", ratio or median_text)
        if line.startswith("|") and number:
            figures[task, client] = float(number[0].replace(",", ""))
    return figures


def compared(before: str, after: str) -> str:
    """Return a line for each of our own figures: what it was, what it is, whether it is worse."""
    old = kept(before)
    lines = []
    for (task, client), now in kept(after).items():
        if not re.search("stable.async", client):
            continue
        was = old.get((task, client))
        if was is None:
            lines.append(f"new    {task}, {client}: {now:g}")
            continue
        word = (
            "WORSE" if now > was * (1 + NOISE) else "better" if now < was * (1 - NOISE) else "same"
        )
        lines.append(f"{word:6} {task}, {client}: {was:g} -> {now:g}")
    return "\n".join(lines)


def machine() -> str:
    libraries = ("aiohttp", "pydantic", "tenacity", "uvloop", "httpx", "openai")
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    return (
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}; {versions}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--no-write", action="store_true", help="print the table only")
    arguments = parser.parse_args()
    with answering_server() as url:
        rows = [*cost_rows(url), *upload_rows(url), *import_rows()]
    text = INTRODUCTION.format(runs=RUNS, machine=machine()) + table(rows) + "\n"
    print(text)
    print(compared(DOCUMENT.read_text(encoding="utf-8"), text))
    if not arguments.no_write:
        DOCUMENT.write_text(text)


if __name__ == "__main__":
    main()
