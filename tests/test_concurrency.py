"""Concurrent calls: bounded, lazy, and nothing under way is lost."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stable_async.concurrency import for_each, map_as_completed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=30), st.integers(1, 8), st.booleans())
def test_every_item_has_one_result_and_no_more_than_the_limit_are_out(
    waits: list[int], limit: int, asynchronous: bool
) -> None:
    read = taken = running = 0

    def numbered() -> Iterator[tuple[int, int]]:
        nonlocal read
        for item in enumerate(waits):
            read += 1
            yield item

    async def numbered_later() -> AsyncIterator[tuple[int, int]]:
        for item in numbered():
            await asyncio.sleep(0)
            yield item

    async def work(item: tuple[int, int]) -> int:
        nonlocal running
        running += 1
        assert running <= limit
        for _ in range(item[1]):
            await asyncio.sleep(0)
        running -= 1
        return item[0]

    async def main() -> list[int]:
        nonlocal taken
        results = []
        items = numbered_later() if asynchronous else numbered()
        async for result in map_as_completed(work, items, limit):
            assert read - taken <= limit
            assert len(asyncio.all_tasks()) <= limit + 1
            taken += 1
            results.append(result)
        return results

    assert sorted(asyncio.run(main())) == list(range(len(waits)))


async def test_an_error_of_the_source_comes_after_the_results_under_way() -> None:
    def breaks() -> Iterator[int]:
        yield from range(3)
        raise ZeroDivisionError

    async def slow(item: int) -> int:
        await asyncio.sleep(0.01)
        return item

    results = map_as_completed(slow, breaks(), 8)
    assert sorted([await anext(results) for _ in range(3)]) == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        await anext(results)


async def test_closing_cancels_what_is_under_way() -> None:
    cancelled = 0

    async def never(item: int) -> int:
        nonlocal cancelled
        if item == 0:
            return item
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise
        return item

    async with aclosing(map_as_completed(never, range(100), 4)) as results:
        async for _ in results:
            break
        await asyncio.sleep(0)
    assert cancelled >= 3
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_slow_source_holds_no_result_back() -> None:
    more = asyncio.Event()

    async def source() -> AsyncIterator[int]:
        yield 1
        await more.wait()
        yield 2

    async def work(item: int) -> int:
        return item

    async with aclosing(map_as_completed(work, source(), 4)) as results:
        assert await anext(results) == 1
        more.set()
        assert await anext(results) == 2


async def test_for_each_is_bounded_and_ends_what_is_under_way_before_an_error() -> None:
    begun, ended, at_once = 0, 0, 0
    closed = False

    async def source() -> AsyncGenerator[int, None]:
        nonlocal closed
        try:
            for item in range(20):
                yield item
            raise ZeroDivisionError
        finally:
            closed = True

    async def work(item: int) -> None:
        nonlocal begun, ended, at_once
        begun += 1
        at_once = max(at_once, begun - ended)
        await asyncio.sleep(0)
        ended += 1

    with pytest.raises(ZeroDivisionError):
        await for_each(work, source(), 4)
    assert (begun, ended, at_once, closed) == (20, 20, 4, True)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_cancelling_for_each_cancels_what_is_under_way() -> None:
    cancelled: list[int] = []

    async def source() -> AsyncGenerator[int, None]:
        for item in range(20):
            yield item

    async def never(item: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(item)

    running = asyncio.create_task(for_each(never, source(), 3))
    await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(cancelled) == [0, 1, 2]


async def test_nothing_is_begun_after_a_cancellation_that_a_call_swallows() -> None:
    """As `asyncio.wait_for` does on Python 3.11 when its call has just ended."""
    begun: list[int] = []

    async def work(item: int) -> int:
        begun.append(item)
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass
        return item

    async def items() -> AsyncGenerator[int, None]:
        for item in range(10):
            yield item

    for cancelling in (for_each(work, items(), 2), _first(map_as_completed(work, range(10), 2))):
        task = asyncio.create_task(cancelling)
        while len(begun) < 2:
            await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(5.0):
            await asyncio.wait({task})
        assert begun == [0, 1]
        begun.clear()


async def _first(results: AsyncGenerator[int, None]) -> None:
    async with aclosing(results):
        await anext(results)
