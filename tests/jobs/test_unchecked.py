"""Rows that are sent while the file or pipe is still being read."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from stable_async.datasets import Selection, export_job
from stable_async.jobs import JobError, PromptFileError, PromptRules
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.plan import Plan
from stable_async.jobs.read_ahead import ReadAhead
from stable_async.jobs.row import Row
from tests.jobs.test_crash import execute

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from stable_async.jobs import Job
    from tests.jobs.conftest import Bench


class Pipe:
    """A named pipe that a job reads, and that is silent until a test writes to it."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR)  # so that nobody waits for the other end

    def write(self, *prompts: str) -> None:
        for prompt in prompts:
            os.write(self._descriptor, json.dumps({"prompt": prompt}).encode() + b"\n")

    def close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1

    def end(self) -> None:
        if self._descriptor >= 0:
            self.close()
        for thread in threading.enumerate():
            if thread.name == "prompts":
                thread.join(5)
                assert not thread.is_alive()


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Pipe]:
    pipe = Pipe(tmp_path / "pipe")
    yield pipe
    pipe.end()


async def until_done(job: Job, count: int) -> None:
    async with asyncio.timeout(20):
        while job.progress.done < count:
            await asyncio.sleep(0.001)


def write(bench: Bench, *lines: str) -> Path:
    path = bench.folder / "p.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    return path


async def test_rows_are_sent_and_kept_while_the_pipe_is_silent(bench: Bench, pipe: Pipe) -> None:
    job = bench.job(pipe.path, check=False)
    async with bench.client() as client:
        running = asyncio.ensure_future(job.run(client))
        pipe.write("a", "b")
        await until_done(job, 2)
        assert len(bench.lines()) == 2
        pipe.write("c")
        await until_done(job, 3)
        assert not running.done()
        pipe.close()
        summary = await running
    assert (summary.ending, summary.total, summary.done) == ("complete", 3, 3)


async def test_an_interrupt_ends_a_run_though_the_pipe_is_silent(bench: Bench, pipe: Pipe) -> None:
    job = bench.job(pipe.path, check=False)
    async with bench.client() as client, asyncio.timeout(20):
        running = asyncio.ensure_future(job.run(client))
        pipe.write("a")
        await until_done(job, 1)
        job.interrupt()
        summary = await running
    assert (summary.ending, summary.done) == ("interrupted", 1)


@pytest.mark.parametrize("check", [True, False])
async def test_cancelling_ends_a_run_though_the_pipe_is_silent(
    bench: Bench, pipe: Pipe, check: bool
) -> None:
    job = bench.job(pipe.path, check=check)
    async with bench.client() as client, asyncio.timeout(20):
        running = asyncio.ensure_future(job.run(client))
        pipe.write("a")
        while not job.progress.total:
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_rows_that_are_known_are_sent_in_whatever_order_they_are_read(
    bench: Bench, pipe: Pipe
) -> None:
    await bench.run(bench.write("a", "b", "c", "d"), budget=0)
    job = bench.job(pipe.path, check=False)
    async with bench.client() as client, asyncio.timeout(20):
        running = asyncio.ensure_future(job.run(client))
        pipe.write("d", "c")
        await until_done(job, 2)
        pipe.write("b", "a")
        pipe.close()
        summary = await running
    assert (summary.ending, summary.total, summary.done) == ("complete", 4, 4)


async def test_an_interrupt_ends_a_check_though_the_pipe_is_silent(
    bench: Bench, pipe: Pipe
) -> None:
    job = bench.job(pipe.path)
    async with bench.client() as client, asyncio.timeout(20):
        running = asyncio.ensure_future(job.run(client))
        pipe.write("a")
        while not job.progress.total:
            await asyncio.sleep(0.001)
        job.interrupt()
        summary = await running
    assert (summary.ending, summary.requests) == ("interrupted", 0)


async def test_what_stops_a_job_ends_it_though_the_pipe_is_silent(bench: Bench, pipe: Pipe) -> None:
    bench.shop.script["a"] = [401]
    pipe.write("a")
    async with asyncio.timeout(20):
        summary = await bench.run(pipe.path, check=False)
    assert summary.ending == "stopped"
    assert "401" in str(summary.error)


@pytest.mark.parametrize("check", [True, False])
async def test_a_pipe_is_read_once(bench: Bench, pipe: Pipe, check: bool) -> None:
    pipe.write("a", "b")
    job = bench.job(pipe.path, check=check)
    async with bench.client() as client, asyncio.timeout(20):
        running = asyncio.ensure_future(job.run(client))
        while not job.progress.total:
            await asyncio.sleep(0.001)
        pipe.close()
        summary = await running
    assert (summary.ending, summary.total, summary.done) == ("complete", 2, 2)


@pytest.mark.parametrize("options", [(), ("--no-check",)])
async def test_a_signal_ends_the_command_though_standard_input_is_silent(
    bench: Bench, options: tuple[str, ...]
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stable_async", "run", "-", "--out", str(bench.out)),
        *("--base-url", bench.shop.url, *options),
        env={**os.environ, "STABILITY_API_KEY": "sk-test"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(b'{"prompt": "a"}\n')
    ledger = bench.out / "job.sqlite-wal"
    async with asyncio.timeout(20):
        while not (ledger.exists() and ledger.stat().st_size):
            await asyncio.sleep(0.001)
        if options:
            await bench.shop.wait_for(1)
        process.send_signal(signal.SIGINT)
        await process.wait()
    assert process.stderr is not None
    assert b"Fatal" not in await process.stderr.read()
    assert process.returncode == 130


@pytest.mark.usefixtures("nothing_leaks")
async def test_a_run_that_ends_early_leaves_no_reader_behind(bench: Bench) -> None:
    path = bench.write(*(f"p{number}" for number in range(5_000)))
    summary = await bench.run(path, check=False, budget=6)
    assert (summary.ending, summary.done) == ("budget", 2)
    assert "prompts" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("checked", [True, False])
def test_what_others_add_to_the_ledger_is_not_taken_for_seen_in_the_file(checked: bool) -> None:
    """As long as rows are sent while they are read, a bucket may add some."""
    ledger = Ledger.temporary()
    ledger.begin_plan(checked=checked)
    ledger.apply(Plan(add=[Row(7, {}, id="there", position=1)]))
    assert ledger.known(["there"])["there"].seen_in_row == (7 if checked else 0)
    ledger.close()


def test_reading_ahead_is_bounded_and_gives_everything_in_order() -> None:
    read: list[int] = []

    def items() -> Generator[int, None, None]:
        for number in range(1000):
            read.append(number)
            yield number

    source = ReadAhead(items(), 10)
    taken: list[int] = []
    while not source.exhausted:
        taken += source.take(5)
        assert len(read) <= len(taken) + 11
    assert taken == read == list(range(1000))
    assert source.take(5) == []


def test_reading_ahead_raises_what_broke_after_what_came_before() -> None:
    def items() -> Generator[int, None, None]:
        yield 1
        raise ValueError("torn")

    source = ReadAhead(items(), 10)
    assert source.take(5) == [1]
    with pytest.raises(ValueError, match="torn"):
        source.take(5)


@pytest.mark.parametrize("service", ["core", "Core"])
async def test_a_wrong_row_is_never_sent(bench: Bench, service: str) -> None:
    path = write(bench, '{"prompt": "a", "seed": -1}', '{"prompt": "b"}')
    rules = PromptRules(service=service)
    for retry_failed in (False, True, True):
        async with bench.client() as client:
            job = bench.job(path, rules, check=False, retry="failed" if retry_failed else None)
            summary = await job.run(client)
        assert (summary.ending, summary.total, summary.failed) == ("incomplete", 2, 1)
        [(_, row, error)] = job.refused
        assert row == 1
        assert str(error).startswith("seed: given -1")
    assert bench.shop.asked == ["b"]


async def test_rows_are_counted_and_not_what_is_wrong_with_them(bench: Bench) -> None:
    wrong = '{"prompt": "", "seed": -1, "aspect_ratio": "7:7"}'
    path = write(bench, wrong, '{"prompt": "b"}', wrong)
    async with bench.client() as client:
        job = bench.job(path, check=False)
        summary = await job.run(client)
    assert (summary.total, summary.done, summary.failed) == (3, 1, 2)
    assert [row for _, row, _ in job.refused] == [1, 3]
    for _, _, error in job.refused:
        assert "seed" in str(error)
        assert "aspect_ratio" in str(error)


async def test_no_wrong_row_is_lost_however_much_is_wrong(bench: Bench) -> None:
    path = write(bench, *['{"prompt": "", "seed": -1, "aspect_ratio": "7:7"}'] * 900)
    summary = await bench.run(path, check=False)
    assert (summary.total, summary.failed) == (900, 900)


async def test_a_wrong_row_of_many_images_is_counted_once(bench: Bench) -> None:
    path = write(bench, '{"prompt": ""}')
    rules = PromptRules(vary={"seed": [str(seed) for seed in range(1, 2501)]})
    summary = await bench.run(path, rules, check=False)
    assert (summary.total, summary.failed) == (1, 1)


@pytest.mark.parametrize("check", [True, False])
async def test_a_row_that_was_corrected_is_made_whatever_its_id(bench: Bench, check: bool) -> None:
    await bench.run(write(bench, "nonsense", '{"prompt": "b"}'), check=False)
    path = write(bench, '{"prompt": "a", "id": "row 1"}', '{"prompt": "b"}')
    async with bench.client() as client:
        job = bench.job(path, check=check)
        summary = await job.run(client)
    assert (summary.ending, summary.total, summary.done) == ("complete", 2, 1)
    assert sorted(bench.shop.asked) == ["a", "b"]
    assert not job.notes, "a wrong row is no image of the job"


async def test_only_an_image_that_is_there_is_taken_for_the_rebuilt_one(bench: Bench) -> None:
    path = write(bench, '{"prompt": "a", "id": "x"}')
    await bench.run(path, budget=0)
    ledger = Ledger.open(bench.out / "job.sqlite")
    with ledger.transaction():
        ledger.set(prompts=None)
    ledger.close()
    execute(bench.out / "job.sqlite", "UPDATE rows SET content = NULL, state = 'failed'")
    summary = await bench.run(path)
    assert (summary.ending, summary.done) == ("complete", 1)


async def test_a_file_without_prompts_is_refused(bench: Bench) -> None:
    path = write(bench, "", " ")
    with pytest.raises(PromptFileError, match="no prompts"):
        await bench.run(path)
    summary = await bench.run(path, check=False)
    assert summary.ending == "stopped"
    assert summary.error == f"{path}: no prompts"


async def test_what_no_file_system_can_name_fails_alone(bench: Bench) -> None:
    row = json.dumps({"service": "upscale-fast", "image": "x" * 5000})
    summary = await bench.run(write(bench, row, '{"prompt": "b"}'), check=False)
    assert (summary.done, summary.failed) == (1, 1)


async def test_only_listed_rows_are_exported_where_the_whole_file_was_read(
    bench: Bench, tmp_path: Path
) -> None:
    """Rows beyond a limit would be left out as if they were no longer in the file."""
    path = bench.write("a", "b", "c")
    chosen = Selection(only_listed=True)

    def export() -> int:
        return export_job(bench.out, tmp_path / "set", "imagefolder", selection=chosen).media

    await bench.run(path)
    assert await asyncio.to_thread(export) == 3
    for rules in (PromptRules(limit=1), PromptRules(sample=1)):
        await bench.run(path, rules)
        with pytest.raises(JobError, match="read only a part of the prompt file"):
            await asyncio.to_thread(export)
    await bench.run(path, PromptRules(limit=1), check=False)
    with pytest.raises(JobError, match="read only a part of the prompt file"):
        await asyncio.to_thread(export)
    for check in (False, True):
        await bench.run(bench.write("a", "c"), check=check)
        assert await asyncio.to_thread(export) == 2
