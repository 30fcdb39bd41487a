"""The limiter: hands out permits in order, when the books say so."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Self

from stable_async.config import Quota
from stable_async.errors import QuotaTimeoutError, StabilityError, WrongEventLoopError
from stable_async.quota.fair_queue import Priority, Waiter, WaitingRoom
from stable_async.quota.pace import Pace
from stable_async.quota.state import Books, MemoryBooks, Slot

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Permit", "QuotaLimiter", "QuotaStatistics"]


@dataclass(frozen=True, slots=True)
class QuotaStatistics:
    """What the limiter and its books say at one moment.

    Attributes:
        waiting: Calls that wait for a permit.
        waiting_bulk: Those of them with priority `bulk`.
        open: Requests that have a permit and have not left yet.
        in_window: Requests of the window that ends now, the open ones included.
        requests: The most requests in one window at our present share.
        share: Our part of the ceiling, at most 1; less when somebody else uses the key.
        spread: Spread allowance, seconds.
        earliest_next: Seconds until the books could let one more request leave; 0: at once.
        penalty_left: Seconds until the shut-out ends; 0 when there is none.
        granted: Permits given so far.
        refusals: 429 answers so far.
        longest_wait: The longest that anybody has waited for a permit, or waits now, seconds.
    """

    waiting: int
    waiting_bulk: int
    open: int
    in_window: int
    requests: int
    share: float
    spread: float
    earliest_next: float
    penalty_left: float
    granted: int
    refusals: int
    longest_wait: float


class Permit:
    """The right to send one request. Every method is cheap and may be called again.

    As a context manager it counts the request as sent at the end, if nobody has said so or has
    released it before: what is not known counts as sent. So does a permit that is lost.
    """

    __slots__ = ("__weakref__", "_limiter", "_open", "_slot")

    def __init__(self, limiter: QuotaLimiter, slot: Slot) -> None:
        """Permits come from `QuotaLimiter.acquire`."""
        self._limiter = limiter
        self._slot = slot
        self._open = True

    def stamp(self) -> bool:
        """Say that the request's headers are on the wire now, or may be.

        Returns:
            Whether the request may leave. With shared books it may not if this process was stopped
            for so long that the others count on it no more: then ask for another permit.
        """
        if not self._open:
            return True
        self._open = False
        return self._limiter._stamp(self._slot)  # noqa: SLF001 - one subject, two classes

    def release(self) -> None:
        """Give the slot back: the request never left. After `stamp` this does nothing."""
        if self._open:
            self._open = False
            self._limiter._release(self._slot)  # noqa: SLF001

    def __enter__(self) -> Self:
        """Give the permit."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Count the request as sent unless it was released."""
        self.stamp()

    def __del__(self) -> None:
        """Count the request as sent: a slot that nobody can close would stay open for ever."""
        if self._open:
            self._limiter._abandon(self._slot)  # noqa: SLF001


class QuotaLimiter:
    """Lets requests leave as fast as a hard server-side quota allows, and never faster.

    Interactive requests leave before bulk ones, which get at least an eighth of the permits while
    both wait. Inside a priority, tenants take turns; the requests of one tenant leave in the order
    in which they came. One limiter belongs to one event loop: that of its first use.

    See docs/quota.md for the rule it keeps and for how to use it without the client.
    """

    def __init__(
        self,
        quota: Quota = Quota(),  # noqa: B008 - frozen
        *,
        books: Books | None = None,
        max_waiting: int | None = None,
    ) -> None:
        """Make a limiter; no event loop is needed yet.

        Args:
            quota: What the server allows.
            books: Where slots are counted; `None`: in memory, for this limiter alone.
            max_waiting: The most interactive calls that may wait at one time; `None` means no
                limit, and 0 that none waits. Bulk calls are there to wait.
        """
        self._books: Books = MemoryBooks(quota) if books is None else books
        self._most_waiting = inf if max_waiting is None else max_waiting
        rate = quota.requests / quota.window
        self._pace = Pace(quota.burst or quota.requests, rate, self._dispatch)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._room = WaitingRoom()
        self._deadlines: list[tuple[float, int, Waiter]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        # When the books were last told to be asked again; infinity while a pace will call.
        self._earliest = -inf
        self._kicked = False
        self._granted = 0
        self._longest_wait = 0.0

    async def acquire(
        self,
        *,
        priority: Priority = "interactive",
        deadline: float | None = None,
        tenant: str | None = None,
    ) -> Permit:
        """Give a permit to send one request, when it is this call's turn and the quota allows it.

        A cancelled call leaves the books as they were, and the next in line moves up.

        Args:
            priority: `interactive` requests leave before `bulk` ones.
            deadline: Seconds from now within which the permit must be given; 0 means now or never,
                `None` whenever it comes.
            tenant: Whom the request is for. Tenants of one priority take turns.

        Raises:
            QuotaTimeoutError: The permit cannot be given before the deadline: at once when the
                books show it, else as soon as they do. Or too many interactive calls are waiting.
            WrongEventLoopError: The limiter belongs to another event loop.
        """
        loop = self._bind()
        now = loop.time()
        future: asyncio.Future[Permit] = loop.create_future()
        expires = inf if deadline is None else now + deadline
        waiter = Waiter(priority, tenant, now, expires, future)
        if deadline is not None:
            self._check_deadline(waiter, now)
        self._room.push(waiter)
        self._dispatch()
        if future.done():
            return future.result()
        self._check_room(waiter, now)
        try:
            return await future
        except BaseException:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().release()
            self._leave(waiter)
            raise

    def penalise(self, retry_after: float | None = None, permit: Permit | None = None) -> None:
        """Shut everybody out: the server answered 429.

        Requests that had left before the shut-out was known change nothing by being refused, too.

        Args:
            retry_after: What the answer asked for, seconds; `None`: the quota's penalty.
            permit: The permit of the refused request.
        """
        slot = None if permit is None else permit._slot  # noqa: SLF001
        self._books.penalise(self._now(), retry_after, slot)
        self._kick()

    def observe(self, delay: float, *, set_up: bool = False) -> None:
        """Take a measured delay, seconds: of setting up a connection, or of a cheap request."""
        self._books.observe(delay, set_up=set_up)
        self._kick()

    def statistics(self) -> QuotaStatistics:
        """Give the figures of this moment, for progress displays and metrics."""
        now = self._now()
        books = self._books.extract(now)
        oldest = self._room.oldest()
        return QuotaStatistics(
            waiting=len(self._room),
            waiting_bulk=self._room.count("bulk"),
            open=books.open,
            in_window=books.in_window,
            requests=books.requests,
            share=books.share,
            spread=books.spread,
            earliest_next=max(self._books.earliest(now) - now, 0.0),
            penalty_left=books.penalty_left,
            granted=self._granted,
            refusals=books.refusals,
            longest_wait=max(self._longest_wait, 0.0 if oldest is None else now - oldest),
        )

    def _bind(self) -> asyncio.AbstractEventLoop:
        running = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = running
        elif self._loop is not running:
            raise WrongEventLoopError(
                "this quota limiter belongs to another event loop; make one for each loop"
            )
        return running

    def _now(self) -> float:
        if self._loop is not None:
            return self._loop.time()
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:
            return time.monotonic()  # asyncio's own clock

    def _dispatch(self) -> None:
        """Give permits to all whose turn has come, and set the timer for the next one."""
        self._kicked = False
        now = self._now()
        earliest = -inf
        while self._room:
            if not self._pace.ready():
                earliest = self._books.earliest(now)
                if earliest <= now:
                    earliest = inf
                    self._pace.call()
                break
            priority = self._room.next_priority()
            waiter = self._room.head(priority)
            if waiter.future.done():
                self._room.remove(waiter)
                continue
            # Whose turn it is by the floor need not leave room for those who wait beside him.
            try:
                slot = self._books.reserve(now, bulk=not self._room.count("interactive"))
            except StabilityError as error:
                # Shared books that cannot be read any more.
                self._room.remove(waiter)
                waiter.future.set_exception(error)
                continue
            if isinstance(slot, float):
                earliest = slot
                break
            self._grant(priority, slot, now)
        self._earliest = earliest
        self._expire(now)
        self._set_timer()

    def _grant(self, priority: Priority, slot: Slot, now: float) -> None:
        self._pace.take()
        waiter = self._room.pop(priority)
        self._granted += 1
        self._longest_wait = max(self._longest_wait, now - waiter.since)
        waiter.future.set_result(Permit(self, slot))

    def _stamp(self, slot: Slot) -> bool:
        may_leave = self._books.stamp(slot, self._now())
        self._kick()
        return may_leave

    def _release(self, slot: Slot) -> None:
        self._books.release(slot, self._now())
        self._pace.give_back()
        self._kick()

    def _abandon(self, slot: Slot) -> None:
        # The garbage collector calls, from any thread.
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stamp, slot)

    def _kick(self) -> None:
        """Look again, once however many changes there are in this turn of the loop."""
        if self._room and not self._kicked and self._loop is not None:
            self._kicked = True
            self._loop.call_soon(self._dispatch)

    def _leave(self, waiter: Waiter) -> None:
        self._room.remove(waiter)
        self._kick()

    def _check_deadline(self, waiter: Waiter, now: float) -> None:
        earliest = self._books.earliest(now, self._room.ahead(waiter.priority, waiter.tenant))
        if earliest > max(waiter.expires, now):
            raise self._too_late(earliest - now)

    def _check_room(self, waiter: Waiter, now: float) -> None:
        """Send `waiter` away if it may not wait, else note when to tell it that it is too late."""
        if waiter.expires <= now:
            reason = self._too_late(self._books.earliest(now) - now)
        elif (
            waiter.priority == "interactive"
            and self._room.count("interactive") > self._most_waiting
        ):
            ahead = self._room.ahead(waiter.priority, waiter.tenant) - 1
            retry_after = max(self._books.earliest(now, ahead) - now, 0.0)
            reason = QuotaTimeoutError(
                f"{self._most_waiting:,} interactive requests are waiting for the quota already",
                retry_after=retry_after,
            )
        else:
            if waiter.expires < inf:
                self._note_deadline(waiter)
            return
        self._leave(waiter)
        raise reason

    def _note_deadline(self, waiter: Waiter) -> None:
        if len(self._deadlines) > 2 * len(self._room) + 64:
            self._deadlines = [entry for entry in self._deadlines if not entry[2].future.done()]
            heapify(self._deadlines)
        heappush(self._deadlines, (waiter.expires, next(self._order), waiter))
        self._set_timer()

    def _expire(self, now: float) -> None:
        """Tell those who wait in vain, as soon as the books show it."""
        deadlines = self._deadlines
        while deadlines and (
            deadlines[0][2].future.done()
            or deadlines[0][0] <= now
            or deadlines[0][0] < self._earliest < inf
        ):
            waiter = heappop(deadlines)[2]
            if not waiter.future.done():
                self._room.remove(waiter)
                waiter.future.set_exception(self._too_late(self._books.earliest(now) - now))

    def _set_timer(self) -> None:
        """Have the one timer fire when a permit or a deadline is due next."""
        when = min(self._earliest, self._deadlines[0][0]) if self._deadlines else self._earliest
        if self._timer is not None:
            if self._timer_at == when:
                return
            self._timer.cancel()
            self._timer = None
        if self._room and when < inf and self._loop is not None:
            # Not the timer's own `when()`: uvloop gives none for a time that has come.
            self._timer, self._timer_at = self._loop.call_at(when, self._on_timer), when

    def _on_timer(self) -> None:
        self._timer = None
        self._dispatch()

    @staticmethod
    def _too_late(retry_after: float) -> QuotaTimeoutError:
        retry_after = max(retry_after, 0.0)
        return QuotaTimeoutError(
            f"the quota cannot serve this request before its deadline; "
            f"it could in {retry_after:.3g} s",
            retry_after=retry_after,
        )
