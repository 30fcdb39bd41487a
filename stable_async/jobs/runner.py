"""Hands every waiting row to an attempt, within budget and disk space, until none waits."""

from __future__ import annotations

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
    from stable_async.jobs.row import State

__all__ = ["Runner"]

READ_AHEAD = 256


class Runner:
    """Sends the rows that wait in the ledger until none does, or until the gate is closed.

    Attributes:
        over_budget: Whether it stopped because the budget was spent.
    """

    def __init__(
        self,
        context: RunContext,
        *,
        passes: int,
        resend_doubtful: bool = False,
        read_more: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        """Prepare.

        Args:
            context: What attempts share.
            passes: How many times the run tries rows that failed without being billed.
            resend_doubtful: Send the rows that are in doubt at the start, once each.
            read_more: Stores more rows and returns whether there were any; `None` if all are
                stored.
        """
        self._context = context
        self._passes = passes
        self._resend_doubtful = resend_doubtful
        self._read_more = read_more
        self.over_budget: bool = False

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
                await self._make("in doubt")
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
            await self._make("waiting")
            if self._at_end or not await self._context.ledger.do(waits):
                return

    async def _make(self, state: State) -> None:
        await for_each(Attempt.run, self._attempts(state), self._context.max_in_flight)

    async def _attempts(self, state: State) -> AsyncGenerator[Attempt, None]:
        """Yield an attempt for each row in a state, once it has its space and its price.

        Rows are read in order: one that is in doubt again is not sent again.
        """
        context = self._context
        gate, progress, position = context.gate, context.progress, 0
        read_more = self._read_more if state == "waiting" else None
        while True:
            read = partial(Ledger.rows, state=state, after=position, limit=READ_AHEAD)
            rows = await context.ledger.do(read)
            for row in rows:
                position = row.position
                if not await context.disk.reserve():
                    gate.stop(StorageError("the disk is full or nearly full: nothing more is sent"))
                if gate.stopping:
                    return
                if row.generation_id is None and not await context.budget.reserve(row.price or 0.0):
                    self.over_budget = True
                    return
                if state == "in doubt":
                    progress.in_doubt -= 1
                yield Attempt(context, row)
            if not rows and (read_more is None or not await read_more()):
                return
