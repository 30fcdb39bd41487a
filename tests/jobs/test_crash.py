"""Whatever ends a job, however suddenly: nothing that was paid is lost or bought twice."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from random import Random
from typing import TYPE_CHECKING

import pytest

from stable_async.jobs import JournalError, PromptRules, StorageError
from stable_async.jobs.journal import Journal
from tests.jobs.shop import make_picture
from tests.jobs.torture import Torture, check_job
from tests.needs import small_disk

if TYPE_CHECKING:
    from pathlib import Path

    from tests.jobs.conftest import Bench


def execute(path: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(path) as journal:
        journal.execute(statement, values)
    journal.close()


async def test_kill_9_at_random_moments_loses_at_most_what_was_in_flight(bench: Bench) -> None:
    rows = 150
    bench.shop.latency, bench.shop.fail_rate, bench.shop.drop_rate = 0.02, 0.01, 0.005
    path = bench.write(*(f"p{n}" for n in range(rows)))
    options = ("--max-in-flight", "8", "--passes", "9")
    torture = Torture(path, bench.out, bench.shop.url, Random(1), options)
    killed = 0
    for _ in range(5):
        killed += await torture.end(signal.SIGKILL, within=0.15) == -signal.SIGKILL
    await torture.finish()
    assert killed
    check_job(bench.out, rows)
    assert len(bench.shop.sold) == rows, "a prompt keeps its seed"
    twice = sum(bench.shop.sold.values()) - rows
    assert twice <= torture.in_flight + bench.shop.dropped


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_a_polite_signal_loses_nothing_at_all(bench: Bench, how: signal.Signals) -> None:
    rows = 60
    bench.shop.latency = 0.02
    path = bench.write(*(f"p{n}" for n in range(rows)))
    torture = Torture(path, bench.out, bench.shop.url, Random(2), ("--max-in-flight", "5"))
    process = await torture.start()
    await bench.shop.wait_for(8)
    process.send_signal(how)
    await process.communicate()
    assert process.returncode == 130
    sold = sum(bench.shop.sold.values())
    assert 8 <= sold < rows
    lines = bench.lines()
    assert len(lines) == sold, "all that was in flight was brought in"
    await torture.finish()
    check_job(bench.out, rows)
    assert set(bench.shop.sold.values()) == {1}


async def test_a_picture_that_was_renamed_but_not_journalled_is_adopted(bench: Bench) -> None:
    """As after a power cut between the two."""
    path = bench.write("a", "b")
    await bench.run(path, budget=3)
    [made] = bench.lines()
    journal = bench.out / "job.sqlite"
    execute(journal, "DELETE FROM images")
    execute(journal, "UPDATE prompts SET state = 'in flight' WHERE id = ?", made["id"])
    (bench.out / "metadata.jsonl").unlink()
    summary = await bench.run(path)
    assert (summary.ending, summary.done, summary.skipped) == ("complete", 1, 1)
    assert set(bench.shop.sold.values()) == {1}
    [line] = [line for line in bench.lines() if line["id"] == made["id"]]
    assert line == {**made, "request_id": None}


async def test_a_half_written_file_is_cleared_away(bench: Bench) -> None:
    path = bench.write("a")
    await bench.run(path, budget=0)
    execute(bench.out / "job.sqlite", "UPDATE prompts SET state = 'in flight'")
    with sqlite3.connect(bench.out / "job.sqlite") as journal:
        [(identity,)] = journal.execute("SELECT id FROM prompts")
    journal.close()
    folder = bench.out / "images" / "0000"
    folder.mkdir(parents=True)
    (folder / f".000001-{identity}.png.0123456789abcdef.part").write_bytes(b"half")
    summary = await bench.run(path)
    assert (summary.ending, summary.done, summary.maybe_billed) == ("complete", 1, 1)
    check_job(bench.out, 1)


@pytest.mark.parametrize("damage", ["missing", "torn", "short", "long"])
async def test_metadata_is_brought_up_to_date_from_the_journal(bench: Bench, damage: str) -> None:
    path = bench.write("a", "b", "c")
    await bench.run(path)
    file = bench.out / "metadata.jsonl"
    whole = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "long":
        file.write_bytes(whole + b'{"file_name": "ima')
    else:
        file.write_bytes(whole[: -20 if damage == "torn" else len(whole) // 2])
    await bench.run(path)
    assert file.read_bytes() == whole


async def test_lines_that_were_written_after_the_last_mark_are_written_once(bench: Bench) -> None:
    """A crash leaves lines behind the mark that the journal has as well."""
    path = bench.write("a", "b", "c")
    await bench.run(path)
    file = bench.out / "metadata.jsonl"
    whole = file.read_bytes()
    size = whole.index(b"\n") + 1
    journal = bench.out / "job.sqlite"
    execute(journal, "UPDATE job SET value = ? WHERE name = 'metadata_size'", size)
    execute(journal, "UPDATE job SET value = 1 WHERE name = 'metadata_number'")
    await bench.run(path)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("damage", ["garbage", "missing", "truncated"])
async def test_a_lost_journal_is_rebuilt_from_files_and_metadata(bench: Bench, damage: str) -> None:
    bench.shop.script["b"] = ["filtered"]
    path = bench.write("a", "b", {"id": "my/c", "prompt": "c"}, "d")
    await bench.run(path, PromptRules(limit=3))
    before = bench.lines()
    journal = bench.out / "job.sqlite"
    if damage == "missing":
        journal.unlink()
    elif damage == "garbage":
        journal.write_bytes(b"x" * 5000)
    else:
        journal.write_bytes(journal.read_bytes()[:6000])
    lines = (bench.out / "metadata.jsonl").read_text().splitlines(keepends=True)
    (bench.out / "metadata.jsonl").write_text("".join(lines[:-1]) + lines[-1][:30])
    async with bench.client() as client:
        job = bench.job(path)
        summary = await job.run(client)
    assert (summary.total, summary.skipped, summary.filtered, summary.done) == (4, 2, 1, 1)
    assert sum(bench.shop.sold.values()) == 4
    assert any("rebuilt" in note for note in job.notes)
    aside = list(bench.out.glob("job.sqlite.corrupt-*"))
    assert bool(aside) == (damage != "missing")
    after = {line["id"]: line for line in bench.lines()}
    for line in before[:-1]:
        assert after[line["id"]] == line
    last = before[-1]
    assert after[last["id"]] == {**last, "seed": None, "request_id": None}
    assert (await bench.run(path)).requests == 0


async def test_a_journal_of_a_newer_version_is_left_alone(bench: Bench) -> None:
    path = bench.write("a")
    await bench.run(path)
    execute(bench.out / "job.sqlite", "PRAGMA user_version = 99")
    before = (bench.out / "job.sqlite").read_bytes()
    with pytest.raises(JournalError, match=r"newer.*version 99"):
        await bench.run(path)
    assert (bench.out / "job.sqlite").read_bytes() == before


async def test_a_database_of_another_program_is_left_alone(bench: Bench) -> None:
    bench.out.mkdir()
    execute(bench.out / "job.sqlite", "CREATE TABLE mine (x)")
    with pytest.raises(JournalError, match="no journal of stable-async"):
        await bench.run(bench.write("a"))


def fill(path: Path) -> None:
    with path.open("wb", 0) as file:
        while True:
            file.write(bytes(4096))


async def test_a_disk_that_fills_up_stops_the_job_and_tears_nothing(bench: Bench) -> None:
    rows = 12
    with small_disk(bench.folder / "disk", 48) as disk:
        out = disk / "out"
        bench.shop.script = {f"p{n}": ["slow"] for n in range(4, 8)}
        path = bench.write(*(f"p{n}" for n in range(rows)))
        async with bench.client() as client:
            job = bench.job(path, folder=out, max_in_flight=4)
            running = asyncio.ensure_future(job.run(client))
            await bench.shop.wait_for(8)
            while job.progress.done < 4:
                await asyncio.sleep(0.001)
            filler = disk / "filler"
            with pytest.raises(OSError, match="No space"):
                fill(filler)
            bench.shop.opened.set()
            summary = await running
        assert summary.ending == "stopped"
        assert "No space" in str(summary.error) or "full" in str(summary.error)
        files = [path for path in out.glob("images/*/*") if path.suffix != ".part"]
        for file_ in files:
            prompt, seed = file_.read_bytes().rpartition(b"p")[2].decode().split()[:2]
            assert file_.read_bytes() == make_picture(f"p{prompt}", seed)
        filler.unlink()
        assert (await bench.run(path, folder=out)).ending == "complete"
        check_job(out, rows)
        assert len(bench.shop.sold) == rows
        assert sum(bench.shop.sold.values()) <= rows + 4


async def test_nothing_is_sent_when_the_disk_is_nearly_full(bench: Bench) -> None:
    with small_disk(bench.folder / "disk", 2) as disk:
        summary = await bench.run(bench.write("a"), folder=disk / "out")
    assert (summary.ending, summary.requests) == ("stopped", 0)
    assert "disk" in str(summary.error)


async def test_a_folder_that_may_not_be_written_is_told_before_anything_is_sent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, *arguments: object, **keywords: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    path = bench.write("a")
    job = bench.job(path)
    monkeypatch.setattr("stable_async.jobs.lock.os.open", refuse)
    async with bench.client() as client:
        with pytest.raises(StorageError, match=r"\.lock: Permission denied"):
            await job.run(client)
    assert bench.shop.asked == []


async def test_an_aborted_run_leaves_a_job_that_can_go_on(bench: Bench) -> None:
    bench.shop.script = {"a": ["slow"]}
    path = bench.write("a", "b")
    async with bench.client() as client:
        running = asyncio.ensure_future(bench.job(path).run(client))
        await bench.shop.wait_for(2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    bench.shop.opened.set()
    summary = await bench.run(path)
    assert summary.ending == "complete"
    assert summary.maybe_billed >= 1
    check_job(bench.out, 2)


async def test_the_journal_counts_what_left_by_the_second(bench: Bench) -> None:
    await bench.run(bench.write(*(f"p{n}" for n in range(5))))
    journal = Journal.open(bench.out / "job.sqlite")
    [(requests,)] = journal.db.execute("SELECT sum(requests) FROM departures")
    journal.close()
    assert requests == 5
