"""Hands out the slots of one quota to the calls of one event loop, in fair order."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import suppress
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING

from stable_async.errors import QuotaTimeoutError, StabilityError
from stable_async.quota.burst import BurstLimit
from stable_async.quota.fair_queue import FairQueue, Priority, Waiter
from stable_async.quota.loop_lag import LoopLag
from stable_async.quota.state import Slot

if TYPE_CHECKING:
    from collections.abc import Callable

    from stable_async.config import Quota
    from stable_async.quota.homes.base import QuotaHome

__all__ = ["Dispatcher", "clock_of"]


class Dispatcher:
    """The fair queue of one event loop in front of one home.

    Attributes:
        home: The home of the quota.
        loop: The event loop.
        queue: The waiting calls.
        granted: Slots granted so far.
        is_open: Whether the home is open.
        now: The clock of the loop, seconds.
    """

    def __init__(self, home: QuotaHome, loop: asyncio.AbstractEventLoop) -> None:
        """Create an empty queue; `join` returns dispatchers that several limiters share."""
        self.home = home
        self.loop = loop
        self.queue: FairQueue = FairQueue()
        self.granted: int = 0
        self.is_open: bool = False
        self.now: Callable[[], float] = clock_of(loop)
        self._identity: str | None = None
        self._users = 0
        self._opening = asyncio.Lock()
        self._burst: BurstLimit  # that of the first limiter, until another one has a smaller one
        self._burst_size = inf
        self._deadlines: list[tuple[float, int, Waiter]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: float  # set with the timer
        # When to ask the home again; infinity while nobody waits, or the home or the burst limit
        # will call.
        self._earliest: float
        self._kicked = False
        self._longest_wait = 0.0
        self._lag: LoopLag | None = None

    @classmethod
    def join(
        cls,
        identity: str | None,
        home: Callable[[], QuotaHome],
        quota: Quota,
        loop: asyncio.AbstractEventLoop,
    ) -> Dispatcher:
        """Return the dispatcher of this quota in this loop; `leave` undoes this, `open` opens it.

        Args:
            identity: Identity of the quota; `None` if it is not shared.
            home: Returns the home, called for the first user of the quota in this loop.
            quota: The quota according to this user. The smallest burst of all users holds.
            loop: The running event loop.
        """
        with _shared_lock:
            for key, found in list(_shared.items()):
                if found.loop.is_closed():
                    del _shared[key]
            found_here = None if identity is None else _shared.get((identity, id(loop)))
            if found_here is None:
                found_here = cls(home(), loop)
                if identity is not None:
                    found_here._identity = identity
                    _shared[identity, id(loop)] = found_here
            found_here._users += 1
        burst = quota.burst or quota.requests
        if burst < found_here._burst_size:
            rate = quota.requests / quota.window
            found_here._burst_size = burst
            found_here._burst = BurstLimit(burst, rate, found_here._dispatch)
        if quota.adaptive and found_here._lag is None:
            found_here._lag = LoopLag(loop, found_here.now)
        return found_here

    async def open(self) -> None:
        """Open the home; does nothing when it is open."""
        async with self._opening:
            if not self.is_open:
                await self.home.open(self)
                self.is_open = True

    async def leave(self) -> None:
        """Undo one `join`, and close the home after the last one."""
        with _shared_lock:
            self._users -= 1
            if self._users:
                return
            if self._identity is not None:
                _shared.pop((self._identity, id(self.loop)), None)
        self._burst.close()
        if self._lag is not None:
            self._lag.close()
        try:
            await self.home.aclose()
        finally:
            if not self.loop.is_closed():
                # Waiting calls still learn that the home is closed, and the timer ends.
                self._dispatch()

    async def acquire(
        self, priority: Priority, deadline: float | None, tenant: str | None, max_waiting: float
    ) -> Slot:
        """Return a slot when it is this call's turn; see `QuotaLimiter.acquire`."""
        now = self.now()
        expires = inf
        if deadline is not None:
            expires = now + deadline
            earliest = self.home.earliest(now, self.queue.ahead(priority, tenant))
            if earliest > max(expires, now):
                raise _too_late(earliest - now)
        if not self.queue.size:
            slot = self._reserve(now, bulk=priority == "bulk")
            if isinstance(slot, Slot):
                if priority == "bulk":
                    self.queue.passed_over = 0
                return slot
        future: asyncio.Future[Slot] = self.loop.create_future()
        waiter = Waiter(priority, tenant, now, expires, future)
        self.queue.push(waiter)
        self._dispatch()
        if future.done():
            return future.result()
        self._check_queue(waiter, now, max_waiting)
        try:
            return await future
        except BaseException:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(future.result())
            self._remove(waiter)
            raise

    def mark_sent(self, slot: Slot) -> bool:
        """Count the request of a slot as departing now; return `False` if it may no longer
        leave.
        """
        may_leave = self.home.mark_sent(slot, self.now())
        self.kick()
        return may_leave

    def release(self, slot: Slot) -> None:
        """Return the slot: its request never left."""
        self.home.release(slot, self.now())
        self._burst.give_back()
        self.kick()

    def observe(self, delay: float, jitter: float, *, set_up: bool) -> None:
        """Add a measured delay, without what this event loop added by being busy.

        Args:
            delay: As measured, seconds.
            jitter: By how much delays differ in any case, seconds.
            set_up: It is that of the set-up of a connection.
        """
        now = self.now()
        if self._lag is not None:
            delay = self._lag.corrected(delay, now, jitter, set_up=set_up)
        self.home.observe(now, delay, set_up=set_up)
        self.kick()

    def kick(self) -> None:
        """Check the queue again, once per iteration of the loop however many changes there are."""
        if self.queue.size and not self._kicked:
            self._kicked = True
            self.loop.call_soon(self._dispatch)

    def longest_wait(self) -> float:
        """Return the longest that a call has waited, or waits now, seconds."""
        oldest = self.queue.oldest()
        return max(self._longest_wait, 0.0 if oldest is None else self.now() - oldest)

    # ---- the home's view

    def waiting(self, priority: Priority) -> int:
        """Return how many calls of `priority` wait now."""
        return self.queue.waiting[priority]

    def gone(self) -> bool:
        """Return whether the event loop was closed, so that nobody waits here any more."""
        return self.loop.is_closed()

    def wake(self) -> None:
        """Have the home asked again soon if any call waits; may be called from any thread."""
        if self.queue.size:
            with suppress(RuntimeError):  # the loop was closed
                self.loop.call_soon_threadsafe(self.kick)

    # ---- inside

    def _dispatch(self) -> None:
        """Grant slots to all calls whose turn has come, and set the timer for the next one."""
        self._kicked = False
        now = self.now()
        self._earliest = inf
        while (waiter := self.queue.head()) is not None:
            if waiter.future.done():
                self.queue.remove(waiter)
                continue
            try:
                # While interactive requests wait here, a bulk one whose turn it is takes its
                # guaranteed part, and need not leave room for those of other processes.
                slot = self._reserve(now, bulk=not self.queue.waiting["interactive"])
            except StabilityError as error:
                # The home can no longer be read.
                waiter.future.set_exception(error)
                continue
            if not isinstance(slot, Slot):
                self._earliest = slot
                break
            self.queue.pop(waiter.priority)
            self._longest_wait = max(self._longest_wait, now - waiter.since)
            waiter.future.set_result(slot)
        self._expire(now)
        self._set_timer()

    def _reserve(self, now: float, *, bulk: bool) -> Slot | float:
        """Return a slot, or when to ask again; see `QuotaHome.reserve` for `bulk`."""
        if not self._burst.ready():
            earliest = self.home.earliest(now)
            if earliest > now:
                return earliest
            self._burst.call()
            return inf
        slot = self.home.reserve(now, bulk=bulk)
        if isinstance(slot, Slot):
            self._burst.take()
            self.granted += 1
            if self._lag is not None:
                self._lag.watch(now)
        return slot

    def _remove(self, waiter: Waiter) -> None:
        self.queue.remove(waiter)
        self.kick()

    def _check_queue(self, waiter: Waiter, now: float, max_waiting: float) -> None:
        """Fail `waiter` if it may not wait, else set the time at which it fails."""
        if waiter.expires <= now:
            reason = _too_late(self.home.earliest(now) - now)
        elif self._must_not_wait(waiter, now, max_waiting):
            ahead = self.queue.ahead(waiter.priority, waiter.tenant) - 1
            retry_after = max(self.home.earliest(now, ahead) - now, 0.0)
            reason = QuotaTimeoutError(
                f"{max_waiting:,} interactive requests are waiting for the quota already",
                retry_after=retry_after,
            )
        else:
            if waiter.expires < inf:
                self._note_deadline(waiter)
            return
        self._remove(waiter)
        raise reason

    def _must_not_wait(self, waiter: Waiter, now: float, max_waiting: float) -> bool:
        """Return whether too many interactive calls wait already."""
        if waiter.priority != "interactive" or self.queue.waiting["interactive"] <= max_waiting:
            return False
        if self._earliest < inf or not self._burst.ready():
            return True
        # A remote home has been asked. Calls that it can serve at once do not count.
        ahead = self.queue.ahead(waiter.priority, waiter.tenant) - 1
        return self.home.earliest(now, ahead) > now

    def _note_deadline(self, waiter: Waiter) -> None:
        if len(self._deadlines) > 2 * self.queue.size + 64:
            self._deadlines = [entry for entry in self._deadlines if not entry[2].future.done()]
            heapify(self._deadlines)
        heappush(self._deadlines, (waiter.expires, next(self._order), waiter))
        self._set_timer()

    def _expire(self, now: float) -> None:
        """Fail calls that cannot be served in time, as soon as the home shows it."""
        deadlines = self._deadlines
        while deadlines and (
            deadlines[0][2].future.done()
            or deadlines[0][0] <= now
            or deadlines[0][0] < self._earliest < inf
        ):
            waiter = heappop(deadlines)[2]
            if not waiter.future.done():
                self.queue.remove(waiter)
                waiter.future.set_exception(_too_late(self._time_left(now)))

    def _time_left(self, now: float) -> float:
        try:
            return self.home.earliest(now) - now
        except StabilityError:
            return 0.0  # the home can no longer be read; calls that go on waiting get that error

    def _set_timer(self) -> None:
        """Set the one timer to the next slot or deadline."""
        when = min(self._earliest, self._deadlines[0][0]) if self._deadlines else self._earliest
        if self._timer is not None:
            if self._timer_at == when:
                return
            self._timer.cancel()
            self._timer = None
        if when < inf:
            # Not the timer's own `when()`: uvloop has none for a time that has passed.
            self._timer, self._timer_at = self.loop.call_at(when, self._on_timer), when

    def _on_timer(self) -> None:
        self._timer = None
        self._dispatch()


# The dispatchers that several limiters may share, by quota and event loop.
_shared: dict[tuple[str, int], Dispatcher] = {}
_shared_lock = threading.Lock()


def _forget_dispatchers() -> None:
    global _shared, _shared_lock
    _shared, _shared_lock = {}, threading.Lock()


# A forked process has none of these event loops.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_dispatchers)


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return the clock of a loop.

    Loops other than asyncio's own, such as uvloop's, read the same clock once per iteration. In a
    long iteration, departures would be counted too early.
    """
    return loop.time if isinstance(loop, asyncio.BaseEventLoop) else time.monotonic


def _too_late(retry_after: float) -> QuotaTimeoutError:
    retry_after = max(retry_after, 0.0)
    return QuotaTimeoutError(
        f"the quota cannot serve this request before its deadline; it could in {retry_after:.3g} s",
        retry_after=retry_after,
    )
