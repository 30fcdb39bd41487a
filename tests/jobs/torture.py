"""A job that is ended at random moments, and what must hold all the same."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stable_async.files import TEMPORARY_SUFFIX

if TYPE_CHECKING:
    import signal
    from pathlib import Path
    from random import Random


@dataclass
class Torture:
    """One job, run as a command in a process of its own, over and over.

    Attributes:
        in_flight: How many prompts were in flight when a process was ended, in all.
        finished: Inode and time of every file whose prompt was done after some run.
    """

    prompts: Path
    out: Path
    url: str
    random: Random
    options: tuple[str, ...] = ()
    in_flight: int = 0
    finished: dict[str, tuple[int, int]] = field(default_factory=dict)

    async def start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "stable_async.cli",
            "run",
            str(self.prompts),
            "--out",
            str(self.out),
            "--base-url",
            self.url,
            "--no-quota",
            "--json",
            *self.options,
            env={**os.environ, "STABILITY_API_KEY": "sk-test"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def end(self, how: signal.Signals, *, within: float) -> int:
        """Start the job, end it before `within` seconds of work have gone by; give its status."""
        process = await self.start()
        await self._working(process)
        try:
            async with asyncio.timeout(self.random.uniform(0, within)):
                await process.wait()
        except TimeoutError:
            process.send_signal(how)
        await process.communicate()
        self._look()
        assert process.returncode is not None
        return process.returncode

    async def finish(self) -> dict[str, object]:
        """Run the job to its end; give its summary."""
        process = await self.start()
        output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        self._look()
        summary: dict[str, object] = json.loads(output)
        return summary

    async def _working(self, process: asyncio.subprocess.Process) -> None:
        """Wait until the process has the ledger open: what it does before cannot hurt."""
        lock = self.out / ".lock"
        while process.returncode is None:
            if lock.exists() and f"process {process.pid} " in lock.read_text():
                return
            await asyncio.sleep(0.01)

    def _look(self) -> None:
        with sqlite3.connect(self.out / "job.sqlite") as ledger:
            [(count,)] = ledger.execute("SELECT count(*) FROM prompts WHERE state = 'in flight'")
            names = [name for (name,) in ledger.execute("SELECT file_name FROM images")]
        ledger.close()
        self.in_flight += count
        for name in names:
            status = (self.out / name).stat()
            mark = (status.st_ino, status.st_mtime_ns)
            assert self.finished.setdefault(name, mark) == mark, f"{name} was made again"


def check_job(out: Path, rows: int) -> None:
    """Ledger, files and `metadata.jsonl` of a complete job agree."""
    with sqlite3.connect(out / "job.sqlite") as ledger:
        states = dict(ledger.execute("SELECT state, count(*) FROM prompts GROUP BY state"))
        images = dict(ledger.execute("SELECT file_name, sha256 FROM images"))
        [(verdict,)] = ledger.execute("PRAGMA integrity_check")
    ledger.close()
    assert verdict == "ok"
    assert states == {"done": rows}
    assert len(images) == rows
    files = {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (out / "images").glob("*/*")
    }
    assert not [name for name in files if name.endswith(TEMPORARY_SUFFIX)]
    assert files == images
    lines = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert {line["file_name"]: line["sha256"] for line in lines} == images
    assert len(lines) == rows
