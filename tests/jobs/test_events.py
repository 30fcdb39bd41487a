"""Events of a run, and the status of a job from another terminal."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from stable_async.cli.app import run
from stable_async.errors import StabilityError
from stable_async.jobs import JobError, PromptFileError
from stable_async.jobs.events import EventFile
from stable_async.jobs.job_view import reading_job
from stable_async.jobs.status import job_status
from tests import needs
from tests.samples import sample_image

if TYPE_CHECKING:
    from pathlib import Path

    from tests.jobs.conftest import Bench


def events(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_each_row_has_its_event_between_start_and_end(bench: Bench) -> None:
    bench.shop.script = {"bad": [400], "blurred": ["filtered"], "cut": ["drop"]}
    path = bench.folder / "events.jsonl"
    async with bench.client() as client:
        job = bench.job(bench.write("good", "bad", "blurred", "cut"))
        job.events = EventFile(path)
        await job.run(client)
    told = events(path)
    assert {line["v"] for line in told} == {1}
    assert [line["event"] for line in told] == ["start", *["row"] * 4, "end"]
    assert (told[0]["new"], told[0]["credits"]) == (4, 12.0)
    rows = {line["row"]: line for line in told if line["event"] == "row"}
    assert {number: (row["state"], row["charge"]) for number, row in rows.items()} == {
        1: ("done", "spent"),
        2: ("failed", "returned"),
        3: ("filtered", "spent"),
        4: ("in doubt", "in doubt"),
    }
    assert (bench.out / str(rows[1]["file_name"])).is_file()
    assert "400" in str(rows[2]["error"])
    assert told[-1]["ending"] == "incomplete"
    assert told[-1]["done"] == 1


def test_a_file_with_other_content_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a"}\n')
    arguments = ["run", str(prompts), "--out", str(tmp_path / "job"), "--sandbox", "--events"]
    assert run([*arguments, str(prompts)]) == 2
    assert "--events is " in capsys.readouterr().err
    assert prompts.read_text() == '{"prompt": "a"}\n'
    for _ in range(2):
        assert run([*arguments, str(tmp_path / "events")]) == 0
    told = events(tmp_path / "events")
    assert [line["event"] for line in told] == ["start", "row", "end", "start", "end"]


async def test_a_run_that_cannot_begin_says_why(bench: Bench) -> None:
    path = bench.folder / "events.jsonl"
    async with bench.client() as client:
        job = bench.job(bench.write({"prompt": "a", "seed": -1}))
        job.events = EventFile(path)
        with pytest.raises(PromptFileError):
            await job.run(client)
    [line] = events(path)
    assert line["event"] == "error"
    assert "seed" in str(line["error"])


def test_a_pipe_without_a_reader_is_named_while_it_is_awaited(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    told, readers = [], []

    class Reader(logging.Handler):
        """A reader that comes once it is asked for."""

        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())
            readers.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))

    handler = Reader()
    logging.getLogger("stable_async").addHandler(handler)
    try:
        file = EventFile(path)
    finally:
        logging.getLogger("stable_async").removeHandler(handler)
    file.failed(StabilityError("x"))
    assert told == [f"{path} is a named pipe that nothing reads: waiting for a reader"]
    assert b'"event": "error"' in os.read(readers[0], 1000)
    os.close(readers[0])


def test_ctrl_c_while_a_pipe_has_no_reader_says_that_nothing_was_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "p.txt").write_text("a\n")

    class Interruption(logging.Handler):
        """A user who reads the message and gives up."""

        def emit(self, record: logging.LogRecord) -> None:
            raise KeyboardInterrupt

    handler = Interruption()
    logging.getLogger("stable_async").addHandler(handler)
    paths = [str(tmp_path / name) for name in ("p.txt", "job", "pipe")]
    try:
        assert run(["run", paths[0], "--out", paths[1], "--events", paths[2], "--sandbox"]) == 130
    finally:
        logging.getLogger("stable_async").removeHandler(handler)
    assert capsys.readouterr().err == "stable-async: interrupted: nothing was sent\n"


async def test_a_pipe_that_is_read_slowly_loses_no_event(bench: Bench) -> None:
    path = bench.folder / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = EventFile(path)
    os.set_blocking(reader, True)
    text = "x" * 200_000  # more than a pipe holds
    writing = asyncio.create_task(asyncio.to_thread(file.failed, StabilityError(text)))
    with open(reader, "rb") as pipe:  # noqa: PTH123 - a descriptor
        read = await asyncio.to_thread(pipe.read)
    await writing
    assert file.error is None
    assert json.loads(read)["error"] == text


async def test_a_reader_that_goes_away_does_not_stop_the_job(bench: Bench) -> None:
    path = bench.folder / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    async with bench.client() as client:
        job = bench.job(bench.write("a", "b"))
        job.events = events_of_job = EventFile(path)
        os.close(reader)
        assert (await job.run(client)).done == 2
    assert events_of_job.error is not None


async def test_status_is_told_while_a_job_runs_and_after(bench: Bench) -> None:
    shop = bench.shop
    shop.script = {"slow": ["slow"], "bad": [400]}
    async with bench.client() as client:
        job = bench.job(bench.write("slow", "bad", "good"))
        task = asyncio.ensure_future(job.run(client))
        await shop.wait_for(3)
        while job.progress.done < 1 or job.progress.failed < 1:
            await asyncio.sleep(0.01)
        status = await asyncio.to_thread(job_status, bench.out)
        assert status.counts.in_flight == 1
        assert (status.counts.done, status.counts.failed) == (1, 1)
        assert status.spent == 3
        shop.opened.set()
        await task
    status = job_status(bench.out)
    assert not status.running
    assert (status.counts.done, status.counts.total, status.requests) == (2, 3, 3)
    assert (status.spent, status.credits_left, status.credits_in_doubt) == (6, 0, 0)
    assert status.failures == {"400 bad_request": 1}
    with pytest.raises(JobError, match="is not a job"):
        job_status(bench.folder)


async def test_what_was_in_flight_when_a_run_was_killed_is_in_doubt_for_all_who_ask(
    bench: Bench,
) -> None:
    """A folder that is copied during a run is that of a run which was killed at that moment."""
    shop = bench.shop
    (bench.folder / "fox.png").write_bytes(sample_image())
    shop.script = {"slow": ["slow"]}
    shop.not_ready = 10**9
    accepted = {"prompt": "accepted", "service": "upscale-creative", "image": "fox.png"}
    killed = bench.folder / "killed"
    path = bench.write("good", "slow", accepted)
    async with bench.client() as client:
        job = bench.job(path)
        task = asyncio.ensure_future(job.run(client))
        await shop.wait_for(3)
        while (status := await asyncio.to_thread(job_status, bench.out)).spent < 63:
            assert status.credits_in_doubt == 0
            await asyncio.sleep(0.01)
        await asyncio.to_thread(shutil.copytree, bench.out, killed)
        shop.opened.set()
        shop.generations.clear()
        await task
    status = job_status(killed)
    counts = status.counts
    assert (counts.done, counts.in_doubt, counts.waiting, counts.in_flight) == (1, 1, 1, 0)
    assert (status.spent, status.credits_in_doubt, status.credits_left) == (63, 3, 0)
    assert status.failures == {"in flight at the end": 1}
    with reading_job([killed]) as view:
        assert [share[3:] for share in view.ledger.spending()] == [(60, 0), (3, 3)]
    async with bench.client() as client:
        job = bench.job(path, folder=killed)
        summary = await job.run(client)
    assert job.estimate is not None
    assert (job.estimate.new, job.estimate.credits) == (1, 0.0)
    assert [request["credits"] for request in job.estimate.first_requests] == [0.0]
    assert (summary.spent, summary.credits_in_doubt, summary.in_doubt) == (63, 3, 1)


def test_the_commands_tell_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs.module("PIL")
    monkeypatch.chdir(tmp_path)
    out = "[2026] out"  # which is no JSON
    (tmp_path / "p.txt").write_text("a fox\n")
    assert run(["run", "p.txt", "--out", out, "--sandbox", "--events", "e.jsonl"]) == 0
    assert [line["event"] for line in events(tmp_path / "e.jsonl")] == ["start", "row", "end"]
    capsys.readouterr()
    assert run(["status", out]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == [f"{out}: not running", "1 of 1 row done (100 %), 0 left"]
    assert run(["status", out, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["running"], facts["total"], facts["done"], facts["spent"]) == (False, 1, 1, 3)
    assert run(["status", "none"]) == 1
