"""What it costs to check a prompt file, and to begin a job again that has checked it.

`python -m benchmarks.checking [--rows ROWS] [--many ROWS] [--other CHECKOUT]` prints a table of all
formats, and then figures of a large file. The peer reads the same file by hand: a parser, a request
model for each row, and a table of SQLite. CPU time of processes of their own, taking turns; the
least of several runs, as other work only adds to it. `--other` names another checkout, with a
`.venv`, to be measured beside this one. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent.parent
RUNS = 3
SMALL = 10_000
NOBODY = "http://127.0.0.1:9"
RATIOS = ("16:9", "1:1", "2:3", "21:9")
FILES = (
    ("prompt, id", "jsonl"),
    ("prompt, id", "csv"),
    ("prompt", "txt"),
    ("prompt, seed, aspect_ratio", "jsonl"),
    ("prompt, seed, aspect_ratio", "parquet"),
    ("prompt, id, 3 of metadata", "csv"),
)


def rows_of(columns: str, count: int) -> Iterator[dict[str, object]]:
    """Yield the rows of a table."""
    for number in range(count):
        row: dict[str, object] = {
            "prompt": f"a photograph of lighthouse number {number} at dusk, long exposure, grain"
        }
        if "id" in columns:
            row["id"] = f"row-{number:07}"
        if "seed" in columns:
            row |= {"seed": number + 1, "aspect_ratio": RATIOS[number % len(RATIOS)]}
        if "metadata" in columns:
            row |= {"source": "diffusiondb", "score": number / 7, "license": "cc0"}
        yield row


def write(path: Path, columns: str, count: int) -> None:
    """Write a table in the format that the name of the file says."""
    rows = rows_of(columns, count)
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(list(rows)), path)
        return
    with path.open("w", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, list(next(rows_of(columns, 1))))
            writer.writeheader()
            writer.writerows(rows)
        else:
            as_text = path.suffix == ".txt"
            file.writelines(f"{row['prompt'] if as_text else json.dumps(row)}\n" for row in rows)


def by_hand(prompts: Path, folder: Path) -> None:
    """Do what a careful user writes in an hour."""
    from stable_async import GenerateCore

    known = GenerateCore.model_fields
    folder.mkdir()
    with sqlite3.connect(folder / "hand.sqlite") as db, prompts.open(newline="") as file:
        db.execute("CREATE TABLE jobs (id TEXT PRIMARY KEY, request TEXT, metadata TEXT)")
        read: Iterator[dict[str, object]]
        if prompts.suffix == ".parquet":
            from pyarrow import parquet

            batches = parquet.ParquetFile(prompts).iter_batches(1_000)
            read = (row for batch in batches for row in batch.to_pylist())
        elif prompts.suffix == ".csv":
            read = iter(csv.DictReader(file))
        elif prompts.suffix == ".txt":
            read = ({"prompt": line.rstrip("\n")} for line in file)
        else:
            read = map(json.loads, file)
        numbered = enumerate(read)
        while some := list(islice(numbered, 1_000)):
            values = []
            for number, row in some:
                request = GenerateCore.model_validate(
                    {name: row[name] for name in row if name in known}
                )
                rest = {name: row[name] for name in row if name not in known}
                fields = request.model_dump_json(exclude_none=True)
                values.append((row.get("id", str(number)), fields, json.dumps(rest)))
            db.executemany("INSERT INTO jobs VALUES (?, ?, ?)", values)


async def by_job(prompts: Path, folder: Path, url: str, what: str) -> float:
    """Check a file, and begin to send unless `what` is `check`; return the CPU seconds until then.

    If `what` is `kill`, this process kills itself at that moment.
    """
    from stable_async import StabilityClient
    from stable_async.jobs import Job, JobSettings, PromptFile, PromptRules

    settings = JobSettings(folder=folder, budget=0 if what == "check" else None)
    if hasattr(settings, "server"):  # that of a job does not change
        settings = replace(settings, server=NOBODY)
    job = Job(settings, PromptFile(str(prompts)), PromptRules())
    async with StabilityClient("sk-benchmark", base_url=url, quota=None) as client:
        running = asyncio.ensure_future(job.run(client))
        while not job.progress.requests and not running.done():
            await asyncio.sleep(0.002)
        first = cpu()
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        job.interrupt()
        await running
    return first


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_memory() -> float:
    """Return the peak memory of this process, MiB, since it began its program; Linux only.

    `ru_maxrss` would also count what the process that started it had at that moment.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def do(what: str, prompts: Path, folder: Path, url: str) -> None:
    """Run as a process that is measured.

    Print CPU seconds without imports, those from the start to the first request, and MiB.
    """
    from stable_async import GenerateCore, StabilityClient  # noqa: F401
    from stable_async.jobs import Job  # noqa: F401

    if prompts.suffix == ".parquet":
        from pyarrow import parquet  # noqa: F401

    imported, first = cpu(), 0.0
    if what == "hand":
        by_hand(prompts, folder)
    else:
        first = asyncio.run(by_job(prompts, folder, url, what))
    print(json.dumps({"cpu": cpu() - imported, "first": first, "memory": peak_memory()}))


def measure(checkout: Path, what: str, prompts: Path, folder: Path, url: str) -> dict[str, float]:
    """Return what a measured process printed."""
    result: dict[str, float] = json.loads(process(checkout, what, prompts, folder, url))
    return result


def process(checkout: Path, what: str, prompts: Path, folder: Path, url: str) -> str:
    """Run a process to be measured, and return what it printed."""
    python = checkout / ".venv/bin/python" if checkout != HERE else Path(sys.executable)
    ended = subprocess.run(
        [python, __file__, "--do", what, prompts, folder, url],
        stdout=subprocess.PIPE,
        text=True,
        cwd=checkout,
        env={"PYTHONPATH": str(checkout), "TMPDIR": tempfile.gettempdir()},
    )
    if what != "kill":
        ended.check_returncode()
    return ended.stdout


def least(runs: list[dict[str, float]], figure: str) -> float:
    return min(run[figure] for run in runs)


def formats(room: Path, rows: int, other: Path | None) -> None:
    """Print what it costs to check files of every format."""
    ways = [("hand", HERE, "hand"), ("job", HERE, "check")]
    if other is not None:
        ways.append(("other", other, "check"))
    print("| file | CPU per row | against by hand |" + (" against other |" if other else ""))
    for columns, suffix in FILES:
        prompts = room / f"prompts.{suffix}"
        write(prompts, columns, rows)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name, *_ in ways}
        for number in range(RUNS):
            for name, checkout, what in ways if number % 2 else ways[::-1]:
                with tempfile.TemporaryDirectory(dir=room) as folder:
                    run = measure(checkout, what, prompts, Path(folder, "job"), NOBODY)
                runs[name].append(run)
        job = least(runs["job"], "cpu")
        cells = [f".{suffix}: {columns}", f"{job / rows * 1e6:.1f} µs"]
        cells += [f"{job / least(runs[name], 'cpu'):.2f}" for name in runs if name != "job"]
        print(f"| {' | '.join(cells)} |", flush=True)


def large(room: Path, rows: int, other: Path | None) -> None:
    """Print CPU time and memory of checking many rows, against few."""
    write(small := room / "small.jsonl", FILES[3][0], SMALL)
    write(prompts := room / "prompts.jsonl", FILES[3][0], rows)
    took = {}
    for name, checkout in (("job", HERE), ("other", other)):
        if checkout is None:
            continue
        few, many = (
            measure(checkout, "check", path, room / f"{name}-{path.stem}", NOBODY)
            for path in (small, prompts)
        )
        took[name] = many["cpu"]
        against = f", {took['job'] / took['other']:.2f} of other" if name == "other" else ""
        print(
            f"{name}, checking {rows:,} rows: {many['cpu'] / rows * 1e6:.1f} µs a row, "
            f"{many['memory']:.0f} MiB; {SMALL:,} rows: {few['memory']:.0f} MiB{against}",
            flush=True,
        )


def resumed(room: Path, rows: int, left: int, other: Path | None) -> None:
    """Print how long a checked job with `left` rows to make takes to start."""
    from benchmarks.answering import answering_server

    prompts = room / "prompts.jsonl"
    write(prompts, "prompt, id", rows)
    first = {}
    with answering_server() as server:
        url = f"{server}/small"
        for name, checkout in (("job", HERE), ("other", other)):
            if checkout is None:
                continue
            folder = room / f"resumed-{name}"
            measure(checkout, "check", prompts, folder, NOBODY)
            mark_done(folder / "job.sqlite", rows - left)
            measure(checkout, "check", prompts, folder, NOBODY)  # writes metadata.jsonl
            runs = [measure(checkout, "run", prompts, folder, url) for _ in range(RUNS)]
            first[name] = least(runs, "first")
            against = f", {first['job'] / first['other']:.2f} of other" if name == "other" else ""
            print(
                f"{name}, resuming {rows:,} rows: {first[name]:.2f} s CPU to the first request, "
                f"{least(runs, 'memory'):.0f} MiB{against}",
                flush=True,
            )
        killed = []
        for _ in range(RUNS):
            process(HERE, "kill", prompts, room / "resumed-job", url)
            killed.append(measure(HERE, "run", prompts, room / "resumed-job", url))
    print(f"job, resuming after kill -9: {least(killed, 'first'):.2f} s CPU to the first request")


def mark_done(path: Path, last: int) -> None:
    """Mark the first rows of a job as made."""
    started = time.time()
    with sqlite3.connect(path) as ledger:
        (old,) = ledger.execute(
            "SELECT count(*) FROM sqlite_schema WHERE name = 'prompts'"
        ).fetchone()
        table = "prompts" if old else "rows"
        ledger.execute(
            "INSERT INTO images SELECT NULL, position, printf('images/%d.png', position), "
            "'image/png', 1000, hex(randomblob(32)), 1024, 1024, seed, 'SUCCESS', 'x', 3.0, "
            f"?1, ?1 FROM {table} WHERE position <= ?2",
            (started, last),
        )
        ledger.execute(f"UPDATE {table} SET state = 'done' WHERE position <= ?", (last,))
    ledger.close()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--do", nargs=4)
    parser.add_argument("--rows", type=int, default=100_000, help="of files of every format")
    parser.add_argument("--many", type=int, default=1_000_000, help="of a large file")
    parser.add_argument("--other", type=Path)
    parser.add_argument("--only", choices=["formats", "large", "resumed"])
    options = parser.parse_args()
    if options.do:
        what, prompts, folder, url = options.do
        do(what, Path(prompts), Path(folder), url)
        return
    with tempfile.TemporaryDirectory() as temporary:
        room = Path(temporary)
        if options.only in {None, "formats"}:
            formats(room, options.rows, options.other)
        if options.only in {None, "large"}:
            large(room, options.many, options.other)
        if options.only in {None, "resumed"}:
            resumed(room, options.many, options.many // 500, options.other)


if __name__ == "__main__":
    main()
