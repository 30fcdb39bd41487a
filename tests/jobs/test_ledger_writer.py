"""Changes from an event loop to the ledger, in one thread, and the lines that follow them."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import pytest

from stable_async.jobs.errors import LedgerError, StorageError
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.ledger_writer import LedgerWriter
from stable_async.jobs.metadata import MetadataFile, find_mark
from stable_async.jobs.row import Result
from tests.jobs.test_ledger import add, image_of, new_row, states, stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from stable_async.jobs.row import Row


@asynccontextmanager
async def writing(folder: Path, *rows: Row) -> AsyncIterator[tuple[LedgerWriter, Ledger]]:
    with closing(Ledger.open(folder / "job.sqlite")) as ledger:
        if rows:
            add(ledger, *rows)
        with closing(MetadataFile(folder / "metadata.jsonl", ledger)) as metadata:
            async with LedgerWriter(ledger, metadata) as writer:
                yield writer, ledger


def make(ledger: Ledger, row: Row) -> int:
    ledger.claim(row)
    ledger.settle(row, Result("done", "spent", image_of(row)))
    return row.position


def fail(ledger: Ledger, error: Exception) -> NoReturn:
    ledger.set(name="lost")
    raise error


ROWS = [new_row(n, identity) for n, identity in enumerate("abc", 1)]


async def test_a_change_is_on_the_disk_once_it_returns(tmp_path: Path) -> None:
    async with writing(tmp_path, *ROWS) as (writer, _):
        assert await writer.do(partial(make, row=ROWS[0])) == 1
        with closing(Ledger.open(tmp_path / "job.sqlite")) as other:
            assert states(other)["a"] == "done"
        assert (tmp_path / "metadata.jsonl").read_text().count('"id":"a"') == 1


async def test_changes_that_wait_are_committed_together(tmp_path: Path) -> None:
    async with writing(tmp_path, *ROWS) as (writer, ledger):
        commits: list[str] = []
        ledger._db.set_trace_callback(commits.append)
        busy = asyncio.Event()
        loop = asyncio.get_running_loop()
        first = writer.do(lambda _: asyncio.run_coroutine_threadsafe(busy.wait(), loop).result())
        waiting = [writer.do(partial(make, row=row)) for row in ROWS]
        busy.set()
        await asyncio.gather(first, *waiting)
        assert commits.count("COMMIT") <= 2
        ledger._db.set_trace_callback(None)


@pytest.mark.parametrize("error", [ValueError("a bug"), LedgerError("two rows at one place")])
async def test_a_change_that_fails_is_undone_and_spoils_no_other(
    tmp_path: Path, error: Exception
) -> None:
    async with writing(tmp_path, *ROWS) as (writer, ledger):
        made = [writer.do(partial(make, row=row)) for row in ROWS[:2]]
        failed = writer.do(partial(fail, error=error))
        made.append(writer.do(partial(make, row=ROWS[2])))
        writer.post(partial(fail, error=error))
        await asyncio.gather(*made)
        with pytest.raises(type(error), match=str(error)):
            await failed
        assert await writer.do(lambda ledger: ledger.get("name")) is None
        assert states(ledger) == dict.fromkeys("abc", "done")
    assert (tmp_path / "metadata.jsonl").read_text().count("\n") == 3


async def test_a_change_is_made_though_its_caller_was_cancelled(tmp_path: Path) -> None:
    async with writing(tmp_path, *ROWS) as (writer, ledger):
        writer.do(partial(make, row=ROWS[0])).cancel()
        writer.post(partial(make, row=ROWS[1]))
        await writer.do(lambda _: None)
        assert states(ledger) == {"a": "done", "b": "done", "c": "waiting"}


async def test_what_waits_at_the_end_is_written(tmp_path: Path) -> None:
    async with writing(tmp_path, *ROWS) as (writer, _):
        for row in ROWS:
            writer.post(partial(make, row=row))
    assert "ledger" not in [thread.name for thread in threading.enumerate()]
    with closing(Ledger.open(tmp_path / "job.sqlite")) as ledger:
        assert states(ledger) == dict.fromkeys("abc", "done")
        assert ledger.get("metadata_number") == 3


async def test_an_error_of_a_change_that_nobody_awaits_is_no_noise(tmp_path: Path) -> None:
    noise: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    async with writing(tmp_path, *ROWS) as (writer, _):
        writer.post(partial(fail, error=ValueError("a bug")))
        await writer.do(lambda _: None)
    gc.collect()
    await asyncio.sleep(0)
    assert noise == []


async def test_a_ledger_that_cannot_be_written_takes_no_later_change(tmp_path: Path) -> None:
    async with writing(tmp_path, *ROWS) as (writer, ledger):
        writer.post(partial(fail, error=sqlite3.OperationalError("disk is full")))
        for _ in range(2):
            with pytest.raises(LedgerError, match="the ledger cannot be written: disk is full"):
                await writer.do(partial(make, row=ROWS[0]))
        assert states(ledger)["a"] == "waiting"
    with closing(Ledger.open(tmp_path / "job.sqlite")) as ledger:
        assert find_mark(tmp_path / "metadata.jsonl", ledger) is None


async def test_a_line_that_cannot_be_written_ends_the_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: MetadataFile, _data: bytes) -> None:
        raise OSError(28, "No space left")

    async with writing(tmp_path, *ROWS) as (writer, ledger):
        monkeypatch.setattr(MetadataFile, "_write", full)
        for row in ROWS[:2]:
            with pytest.raises(StorageError, match=r"metadata.jsonl cannot be .* No space left"):
                await writer.do(partial(make, row=row))
        assert states(ledger) == {"a": "done", "b": "waiting", "c": "waiting"}
    with closing(Ledger.open(tmp_path / "job.sqlite")) as ledger:
        assert find_mark(tmp_path / "metadata.jsonl", ledger) is None


async def test_the_end_of_the_metadata_is_marked_now_and_then_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stable_async.jobs.ledger_writer.MARK_EVERY", 2)
    marks = []
    async with writing(tmp_path, *ROWS) as (writer, ledger):
        for row in ROWS:
            await writer.do(partial(make, row=row))
            marks.append(ledger.get("metadata_number"))
        await writer.do(lambda _: None)
        marks.append(ledger.get("metadata_number"))
    with closing(Ledger.open(tmp_path / "job.sqlite")) as ledger:
        marks.append(ledger.get("metadata_number"))
    assert marks == [None, None, 2, 2, 3]


@pytest.mark.parametrize("error", [OSError(5, "gone"), sqlite3.OperationalError("locked")])
async def test_a_mark_that_is_missing_at_the_end_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(_file: MetadataFile) -> None:
        raise error

    async with writing(tmp_path, *ROWS) as (writer, ledger):
        await writer.do(partial(make, row=ROWS[0]))
        monkeypatch.setattr(MetadataFile, "mark", broken)
    with closing(Ledger.open(tmp_path / "job.sqlite")) as ledger:
        assert stored(ledger, "state")[0] == "done"
        assert ledger.get("metadata_number") is None
