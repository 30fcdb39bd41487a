"""What an export costs: images and megabytes a second against plain loops by hand, and memory.

`python -m benchmarks.export [--large ROWS]` prints a table. Every measurement is made in a process
of its own, on images that are in the page cache. The loops by hand check nothing, sync nothing
and cannot be resumed; "checked" ones also take the SHA-256 of every image.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from benchmarks.checking import peak_memory
from stable_async.datasets import ExportFormat, export_job
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.plan import Plan
from stable_async.jobs.row import ImageFacts, Result, Row
from stable_async.jobs.storage.base import file_stem

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = {"1.5 MB": (1_500_000, 400), "20 KB": (20_000, 10_000)}
RUNS = 3
SMALL = 10_000
LARGE = 200_000
# File systems allow so many names of one file and no more.
NAMES_OF_A_FILE = 10_000
MB = 1_000_000


def make_job(folder: Path, rows: int, size: int, *, shared: bool = False) -> None:
    """Make the folder of a job; `shared`: many images are hard links to one file."""
    folder.mkdir()
    ledger = Ledger.open(folder / "job.sqlite")
    data, first = os.urandom(size), folder
    digest = sha256(data).hexdigest()
    with ledger.transaction():
        ledger.begin_plan(checked=True)
        for position in range(1, rows + 1):
            if not shared:
                data = position.to_bytes(8, "big") + data[8:]
                digest = sha256(data).hexdigest()
            name = f"images/{file_stem(position, f'id-{position}')}.png"
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if shared and position % NAMES_OF_A_FILE != 1:
                os.link(first, path)
            else:
                path.write_bytes(data)
                first = path
            prompt = {"prompt": f"lighthouse {position} at dusk, film grain", "aspect_ratio": "1:1"}
            row = Row(
                position,
                {**prompt},
                {"Category": "Abstract"},
                "core",
                f"id-{position}",
                seed=position,
                price=3.0,
                position=position,
            )
            image = ImageFacts(
                position, name, "image/png", size, digest, 1024, 1024, position, "SUCCESS",
                f"{position:032x}", 3.0, None, None,
            )  # fmt: skip
            ledger.apply(Plan(add=[row]))
            ledger.claim(row)
            ledger.settle(row, Result("done", "spent", image))
    ledger.close()


def rows_of(job: Path) -> Iterator[tuple[Path, str]]:
    ledger = Ledger.open(job / "job.sqlite")
    for _, row, image in ledger.images():
        yield job / image.file_name, str(row.fields["prompt"])
    ledger.close()


def by_hand(job: Path, target: Path, kind: str, *, checked: bool) -> None:
    """Do what a user writes in a few minutes."""
    target.mkdir()
    loops = {"imagefolder": _copy, "webdataset": _tar, "parquet": _parquet}
    loops[kind](job, target, checked)


def _copy(job: Path, target: Path, checked: bool) -> None:
    with (target / "metadata.jsonl").open("w") as lines:
        for path, text in rows_of(job):
            shutil.copy(path, target / path.name)
            if checked:
                sha256(path.read_bytes()).hexdigest()
            lines.write(json.dumps({"file_name": path.name, "text": text}) + "\n")


def _tar(job: Path, target: Path, checked: bool) -> None:
    with tarfile.open(target / "00000.tar", "w") as tar:
        for number, (path, text) in enumerate(rows_of(job)):
            tar.add(path, f"{number:09d}.png")
            if checked:
                sha256(path.read_bytes()).hexdigest()
            side = target / "side"
            for suffix, content in (("json", json.dumps({"text": text})), ("txt", text)):
                side.write_text(content)
                tar.add(side, f"{number:09d}.{suffix}")


def _parquet(job: Path, target: Path, checked: bool) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([("image", pa.struct([("bytes", pa.binary())])), ("text", pa.string())])
    with parquet.ParquetWriter(target / "0.parquet", schema) as writer:
        rows = []
        for path, text in rows_of(job):
            data = path.read_bytes()
            if checked:
                sha256(data).hexdigest()
            rows.append({"image": {"bytes": data}, "text": text})
            if len(rows) == 100:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema))


def measure(how: str, job: Path, kind: ExportFormat) -> dict[str, float]:
    """Export in this process, and return what it took."""
    target = job.parent / f"{how}-{kind}"
    started = time.perf_counter()
    if how == "export":
        export_job(job, target, kind)
    elif how == "again":
        target = job.parent / f"export-{kind}"
        export_job(job, target, kind)
    else:
        by_hand(job, target, kind, checked=how == "checked")
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "memory": peak_memory()}


def run(how: str, job: Path, kind: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.export", "--measure", how, str(job), kind]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(output)
    return result


def throughput(folder: Path) -> Iterator[str]:
    yield "| images | format | export | by hand | by hand, checked | export again |"
    yield "|---|---|---|---|---|---|"
    for title, (size, count) in SIZES.items():
        job = folder / "job"
        make_job(job, count, size)
        for kind in get_args(ExportFormat):
            cells = []
            times: dict[str, list[float]] = {}
            for _ in range(RUNS):
                for how in ("export", "hand", "checked"):
                    shutil.rmtree(folder / f"{how}-{kind}", ignore_errors=True)
                    times.setdefault(how, []).append(run(how, job, kind)["seconds"])
            times["again"] = [run("again", job, kind)["seconds"]]
            for how in ("export", "hand", "checked", "again"):
                seconds = statistics.median(times[how])
                cells.append(f"{count / seconds:,.0f}/s, {count * size / MB / seconds:,.0f} MB/s")
            yield f"| {count:,} of {title} | {kind} | {' | '.join(cells)} |"
            for path in folder.glob(f"*-{kind}"):
                shutil.rmtree(path)
        shutil.rmtree(job)


def memory(folder: Path, large: int) -> Iterator[str]:
    yield f"| format | {SMALL:,} rows | {large:,} rows | growth | rows/s | nothing new |"
    yield "|---|---|---|---|---|---|"
    for name, rows in (("small", SMALL), ("large", large)):
        (folder / name).mkdir()
        make_job(folder / name / "job", rows, 1_000, shared=True)
    for kind in get_args(ExportFormat):
        small, big = (run("export", folder / name / "job", kind) for name in ("small", "large"))
        again = run("again", folder / "large" / "job", kind)
        yield (
            f"| {kind} | {small['memory']:.0f} MiB | {big['memory']:.0f} MiB | "
            f"{big['memory'] - small['memory']:.0f} MiB | {large / big['seconds']:,.0f} | "
            f"{again['seconds']:.1f} s |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", type=int, default=LARGE, help="rows of the large job")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        how, job, kind = arguments.measure
        print(json.dumps(measure(how, Path(job), kind)))
        return
    with tempfile.TemporaryDirectory() as folder:
        print("\n".join(throughput(Path(folder))), "\n")
        print("\n".join(memory(Path(folder), arguments.large)))


if __name__ == "__main__":
    main()
