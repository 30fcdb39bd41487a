"""A job that is ended at random moments, and the laws that must hold."""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import os
import signal
import sqlite3
import sys
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stable_async import RetryPolicy, StabilityClient
from stable_async.files import TEMPORARY_SUFFIX
from stable_async.jobs import Job, JobSettings, PromptFile, PromptRules

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

QUICK = RetryPolicy(attempts=2, initial_backoff=0.001, max_backoff=0.001)


@dataclass
class Torture:
    """One job, run as a command in a process of its own, over and over.

    Attributes:
        options: Of every run.
        finished: Inode and time of every file whose row was done after some run.
        doubtful: Attempts of every row that was in doubt after some run.
        claimed: Attempts of every row that was left in flight without an image.
    """

    prompts: Path
    out: Path
    url: str
    random: Random
    options: tuple[str, ...] = ()
    finished: dict[str, tuple[int, int]] = field(default_factory=dict)
    doubtful: dict[int, int] = field(default_factory=dict)
    claimed: dict[int, int] = field(default_factory=dict)

    async def start(self, *options: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "stable_async",
            "run",
            str(self.prompts),
            "--out",
            str(self.out),
            "--base-url",
            self.url,
            "--no-quota",
            "--json",
            *self.options,
            *options,
            env={**os.environ, "STABILITY_API_KEY": "sk-test"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def end(self, how: signal.Signals, *, within: float) -> int:
        """Start the job, end it before `within` seconds of work have gone by; return its status."""
        process = await self.start()
        await self._working(process)
        try:
            async with asyncio.timeout(self.random.uniform(0, within)):
                await process.wait()
        except TimeoutError:
            process.send_signal(how)
        await process.communicate()
        self.look()
        assert process.returncode is not None
        return process.returncode

    async def kill(self, *, within: float) -> bool:
        """Run the job in a forked process, `kill -9` it, and return whether that was in time.

        A fork of a process that has all modules loaded begins to work at once, so that many kills
        take little time.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.jobs.torture", "stable_async.jobs"])
        process = context.Process(target=run_job, args=(self.prompts, self.out, self.url))
        process.start()
        assert process.pid is not None
        while process.is_alive() and not self._has_begun(process.pid):
            await asyncio.sleep(0.002)
        ends = asyncio.get_running_loop().time() + self.random.uniform(0, within)
        while process.is_alive() and asyncio.get_running_loop().time() < ends:
            await asyncio.sleep(0.001)
        process.kill()
        await asyncio.to_thread(process.join)
        killed = process.exitcode == -signal.SIGKILL
        process.close()
        self.look()
        return killed

    async def finish(self, *options: str) -> dict[str, Any]:
        """Run the job to its end and look at it; return its summary."""
        summary = await self.run_to_end(*options)
        if "--resend-doubtful" in options:
            self.doubtful.clear()
        self.look()
        return summary

    async def run_to_end(self, *options: str) -> dict[str, Any]:
        """Run the job to its end; return its summary."""
        process = await self.start(*options)
        output, errors = await process.communicate()
        assert process.returncode in {0, 3}, errors.decode()
        summary: dict[str, Any] = json.loads(output)
        assert (process.returncode == 0) == (summary["ending"] == "complete")
        return summary

    async def finish_all(self) -> None:
        """Run the job until every row has its image, doubtful ones sent again as long as needed."""
        for _ in range(50):
            if (await self.finish("--resend-doubtful"))["ending"] == "complete":
                return
        raise AssertionError("the job does not come to its end")

    async def _working(self, process: asyncio.subprocess.Process) -> None:
        """Wait until the process has the ledger open: what it does before cannot hurt."""
        while process.returncode is None and not self._has_begun(process.pid):
            await asyncio.sleep(0.01)

    def _has_begun(self, pid: int) -> bool:
        """Return whether a process has lock and ledger."""
        lock = self.out / ".lock"
        if lock.exists() and f"process {pid} " in lock.read_text():
            with suppress(sqlite3.Error):
                return bool(self.query("SELECT count(*) FROM charges"))
        return False

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        path = self.out / "job.sqlite"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as ledger:
            return ledger.execute(statement).fetchall()

    def look(self) -> None:
        """Check what must hold whenever a process has ended."""
        for (name,) in self.query("SELECT file_name FROM images"):
            status = (self.out / name).stat()
            mark = (status.st_ino, status.st_mtime_ns)
            assert self.finished.setdefault(name, mark) == mark, f"{name} was made again"
        attempts = {p: (state, n) for p, state, n in self.query(
            "SELECT position, state, attempts FROM rows"
        )}  # fmt: skip
        for position, number in self.doubtful.items():
            assert attempts[position] == ("in doubt", number), "sent again unasked"
        for position, number in self.claimed.items():
            # Nothing else may have become of it: its process is gone.
            state, now = attempts[position]
            held = state in {"in doubt", "in flight"}  # the last kill may have come at once
            assert (held, now) == (True, number), "claimed, and neither made nor held"
        self.doubtful = {p: n for p, (state, n) in attempts.items() if state == "in doubt"}
        files = {int(path.name[:6]) for path in self.out.glob("images/*/*.png")}
        self.claimed = {
            p: n for p, (state, n) in attempts.items() if state == "in flight" and p not in files
        }
        # A row is in flight, or in doubt, only where its charge says so.
        claimed = "SELECT position FROM charges WHERE state IN ('reserved', 'in doubt', 'spent')"
        assert not self.query(
            "SELECT id, state FROM rows WHERE state IN ('in flight', 'in doubt', 'done') "
            f"AND position NOT IN ({claimed})"
        )

    def bill(self) -> tuple[float, float]:
        """Return the credits spent, and those in doubt or reserved."""
        sums = dict(self.query("SELECT state, total(price) FROM charges GROUP BY state"))
        return sums.get("spent", 0.0), sums.get("in doubt", 0.0) + sums.get("reserved", 0.0)


def run_job(prompts: Path, out: Path, url: str) -> None:
    """Run a job to its end; for a process that is killed."""

    async def run() -> None:
        settings = JobSettings(folder=out, max_in_flight=8, passes=9)
        client = StabilityClient("sk-test", base_url=url, quota=None, retry=QUICK)
        async with client:
            await Job(settings, PromptFile(str(prompts)), PromptRules()).run(client)

    asyncio.run(run())


def check_bill(torture: Torture, charged: float) -> None:
    """What the ledger says was spent, and what the server has charged, agree but for doubts."""
    spent, in_doubt = torture.bill()
    assert spent <= charged <= spent + in_doubt


def check_job(out: Path, rows: int) -> None:
    """Ledger, files and `metadata.jsonl` of a complete job agree."""
    with closing(sqlite3.connect(out / "job.sqlite")) as ledger:
        states = dict(ledger.execute("SELECT state, count(*) FROM rows GROUP BY state"))
        images = dict(ledger.execute("SELECT file_name, sha256 FROM images"))
        [(verdict,)] = ledger.execute("PRAGMA integrity_check")
        [(unpaid,)] = ledger.execute(
            "SELECT count(*) FROM images WHERE position NOT IN "
            "(SELECT position FROM charges WHERE state = 'spent')"
        )
    assert verdict == "ok"
    assert unpaid == 0
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
