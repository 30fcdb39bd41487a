"""Hands every waiting row to an attempt, within budget and disk space, until none waits."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from stable_async.concurrency import for_each
from stable_async.jobs.attempt import Attempt
from stable_async.jobs.errors import StorageError
from stable_async.jobs.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from stable_async.jobs.attempt import RunContext
    from stable_async.jobs.row import Result, Row

__all__ = ["Runner"]

logger: logging.Logger = logging.getLogger("stable_async")

READ_AHEAD = 256
# Disk space reserved for ledger and metadata, and for each image in flight before the first one has
# arrived.
DISK_MARGIN = 4 * 1024 * 1024
ASSUMED_IMAGE = 4 * 1024 * 1024
DISK_LOOKS = 32


class Runner:
    """Sends the rows that wait in the ledger until none does, or until the gate is closed.

    Attributes:
        over_budget: Whether it stopped because the budget was spent.
    """

    def __init__(
        self,
        context: RunContext,
        *,
        free_space: Callable[[], int | None],
        max_in_flight: int,
        passes: int,
        resend_doubtful: bool = False,
        read_more: Callable[[], Awaitable[bool]] | None = None,
        on_result: Callable[[Row, Result], None] = lambda row, result: None,
    ) -> None:
        """Prepare.

        Args:
            context: What attempts share.
            free_space: Returns the bytes that are free for images; `None` if not known.
            max_in_flight: The most rows that are worked on at a time.
            passes: How often the run tries rows that failed without being billed.
            resend_doubtful: Send the rows that are in doubt at the start, once each.
            on_result: Called with each row and the result of its attempt.
            read_more: Stores more rows and returns whether there were any; `None` if all are
                stored.
        """
        self._context = context
        self._free_space = free_space
        self._max_in_flight = max_in_flight
        self._passes = passes
        self._resend_doubtful = resend_doubtful
        self._read_more = read_more
        self._on_result = on_result
        self.over_budget: bool = False
        self._out = 0
        self._landed = asyncio.Event()
        self._places = 0
        self._largest: int | None = None
        self._clock = asyncio.get_running_loop().time

    async def run(self) -> None:
        """Work until all is done, or until everything in flight has arrived after a stop.

        Raises:
            JobError: The ledger cannot be written.
        """
        context = self._context
        ledger, progress = context.ledger, context.progress
        for number in range(self._passes):
            if number:
                taken = await ledger.do(lambda ledger: ledger.requeue("again"))
                progress.again -= taken
                if not taken:
                    break
            progress.failures = Counter(await ledger.do(Ledger.failures_by_reason))
            if not number and self._resend_doubtful:
                await self._make(self._doubtful())
            if not self._at_end:
                await self._make_all()
            if self._at_end:
                break
        seconds = progress.take_departures()
        await ledger.do(partial(Ledger.count_departures, seconds=seconds))

    @property
    def _at_end(self) -> bool:
        return self._context.gate.stopping or self.over_budget

    async def _make_all(self) -> None:
        """Work until nothing waits: rows read later may precede those that were sent."""
        waits = partial(Ledger.rows, state="waiting", limit=1)
        while True:
            await self._make(self._waiting())
            if self._at_end or not await self._context.ledger.do(waits):
                return

    async def _make(self, rows: AsyncGenerator[Row, None]) -> None:
        await for_each(self._attempt, rows, self._max_in_flight)

    async def _attempt(self, row: Row) -> None:
        progress = self._context.progress
        try:
            result = await Attempt(self._context, row).run()
        finally:
            self._out -= 1
            self._landed.set()
        if result is not None:
            progress.settle(result, self._clock())
            try:
                self._on_result(row, result)
            except Exception:  # other rows are in flight, and paid for
                logger.exception("a callback for results has failed")
            if result.image is not None:
                self._largest = max(self._largest or 0, result.image.bytes)

    async def _waiting(self) -> AsyncGenerator[Row, None]:
        """Return rows whose price is reserved and for whose images there is space."""
        position = 0
        while not self._context.gate.stopping:
            read = partial(Ledger.rows, state="waiting", after=position, limit=READ_AHEAD)
            rows = await self._context.ledger.do(read)
            for row in rows:
                position = row.position
                if not await self._has_room(row):
                    return
                yield row
            if not rows and (self._read_more is None or not await self._read_more()):
                return

    async def _doubtful(self) -> AsyncGenerator[Row, None]:
        """Return the rows that are in doubt now: this run does not resend a new doubt."""
        ledger, progress = self._context.ledger, self._context.progress
        last, position = await ledger.do(Ledger.last_position), 0
        while position < last:
            read = partial(Ledger.rows, state="in doubt", after=position, limit=READ_AHEAD)
            rows = await ledger.do(read)
            for row in rows:
                position = row.position
                if not await self._has_room(row):
                    return
                progress.in_doubt -= 1
                yield row
            if not rows:
                return

    async def _has_room(self, row: Row) -> bool:
        gate = self._context.gate
        while not self._places and not gate.stopping:
            self._places = self._free_places()
            if not self._places and not self._out:
                gate.stop(StorageError("the disk is full or nearly full: nothing more is sent"))
            elif not self._places:
                self._landed.clear()
                await self._landed.wait()
        if gate.stopping:
            return False
        self._places -= 1
        if row.generation_id is None and not await self._context.budget.reserve(row.price or 0.0):
            self.over_budget = True
            return False
        self._out += 1
        return True

    def _free_places(self) -> int:
        """Return how many more rows may start before the disk is checked again."""
        free = self._free_space()
        if free is None:
            return DISK_LOOKS
        image = ASSUMED_IMAGE if self._largest is None else self._largest
        return min(max((free - DISK_MARGIN) // max(image, 1) - self._out, 0), DISK_LOOKS)
