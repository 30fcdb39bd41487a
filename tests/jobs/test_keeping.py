"""Images are stored many at a time, and the fate of one does not affect another."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from stable_async.jobs.batch_thread import BatchThread
from stable_async.jobs.progress import MOST_TIMES, Progress
from stable_async.jobs.row import ImageFacts, Result, Row
from stable_async.jobs.storage.base import file_stem
from stable_async.jobs.storage.folder import FolderStore
from tests.samples import png

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

IMAGE = png(5_000)


def facts(row: Row) -> ImageFacts:
    return ImageFacts(row.position, content_type="image/png", finish_reason="SUCCESS")


async def test_one_image_that_cannot_be_kept_takes_no_other_along(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    (tmp_path / "images/0000/000002-b.png").mkdir(parents=True)
    async with store.writing() as images:
        rows = [Row(1, {}, id=name, position=position) for position, name in enumerate("abc", 1)]
        stored = [facts(row) for row in rows]
        sinks = [images.sink(row, image) for row, image in zip(rows, stored, strict=True)]
        for sink in sinks:
            await sink.write([IMAGE[:2_000]])
        results = await asyncio.gather(
            *(sink.commit([IMAGE[2_000:]]) for sink in sinks), return_exceptions=True
        )
        assert isinstance(results[1], OSError)
        await sinks[1].discard()
    assert (results[0], results[2]) == (None, None)
    for row, image in ((rows[0], stored[0]), (rows[2], stored[2])):
        assert image.file_name == f"images/{file_stem(row.position, row.id)}.png"
        assert image.sha256 == hashlib.sha256(IMAGE).hexdigest()
        assert (tmp_path / image.file_name).read_bytes() == IMAGE
        assert store.find(row.position, row.id) == replace(image, finished_at=None)
    names = sorted(path.name for path in (tmp_path / "images/0000").iterdir())
    assert names == ["000001-a.png", "000002-b.png", "000003-c.png"]


async def test_an_image_that_was_discarded_leaves_nothing(tmp_path: Path) -> None:
    """Or it is whole, where its caller was cancelled too late: never half a file."""
    async with FolderStore(tmp_path).writing() as images:
        for position in range(20):
            row = Row(1, {}, id="x", position=position)
            sink = images.sink(row, facts(row))
            await sink.write([IMAGE[:2_000]])
            commit = asyncio.create_task(sink.commit([IMAGE[2_000:]]))
            for _ in range(position % 4):
                await asyncio.sleep(0.001)
            commit.cancel()
            await sink.discard()
            await asyncio.gather(commit, return_exceptions=True)
    for path in (tmp_path / "images/0000").iterdir():
        assert path.suffix == ".png"
        assert path.read_bytes() == IMAGE


async def test_a_batch_is_all_that_came_meanwhile_and_each_item_has_its_own_result() -> None:
    batches: list[list[int]] = []
    begun, go_on = threading.Event(), threading.Event()

    def work(items: Sequence[int]) -> list[int | Exception]:
        batches.append(list(items))
        begun.set()
        assert go_on.wait(10)
        return [ValueError(item) if item == 3 else item * 10 for item in items]

    async with BatchThread(work, name="test") as thread:
        first = thread.do(1)
        await asyncio.to_thread(begun.wait, 10)
        others = [thread.do(item) for item in (2, 3, 4)]
        await asyncio.sleep(0)
        others[2].cancel()
        go_on.set()
        results = await asyncio.gather(first, *others, return_exceptions=True)
    assert batches == [[1], [2, 3, 4]]
    assert results[:2] == [10, 20]
    assert isinstance(results[2], ValueError)
    assert isinstance(results[3], asyncio.CancelledError)


async def test_leaving_a_batch_thread_does_what_waits_and_what_it_raises_goes_to_all() -> None:
    def work(items: Sequence[int]) -> list[int]:
        raise ValueError(len(items))

    async with BatchThread(work, name="test") as thread:
        waiting = [thread.do(item) for item in range(200)]
        await asyncio.sleep(0)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, ValueError) for result in results)


@pytest.mark.parametrize("looked_at", [False, True])
def test_progress_does_not_grow_with_the_job(looked_at: bool) -> None:
    """A million rows without a display must not be a million times in memory."""
    progress = Progress(0.0)
    for number in range(100_000):
        now = number / 15
        progress.left(now)
        progress.settle(Result("done", "spent"), now)
        if looked_at:
            assert progress.request_rate(now) <= 15.1
    assert len(progress._departures) <= (151 if looked_at else MOST_TIMES)
    assert len(progress._results) <= MOST_TIMES
    assert progress.request_rate(100_000 / 15) == pytest.approx(15, abs=0.2)
