"""The limiter: lets requests leave as fast as a hard server-side quota allows."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from math import inf
from typing import TYPE_CHECKING, Self

from stable_async.config import Quota
from stable_async.errors import ConfigurationError, WrongEventLoopError
from stable_async.quota.dispatcher import Dispatcher
from stable_async.quota.homes.local import ProcessHome
from stable_async.quota.state import Snapshot

if TYPE_CHECKING:
    from stable_async.quota.fair_queue import Priority
    from stable_async.quota.homes.base import QuotaHome
    from stable_async.quota.shared import KeyQuota, SharedQuota
    from stable_async.quota.state import Slot

__all__ = ["Permit", "QuotaLimiter", "QuotaStatistics"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaStatistics(Snapshot):
    """The state of a limiter and its quota at one moment.

    All clients of one event loop that share a quota share these figures.

    Attributes:
        open: Requests that have a permit and have not left yet.
        in_window: Requests in the window that ends now, including open ones.
        requests: Maximum requests in one window at our current share.
        share: Our share of the limit, at most 1; less if other programs use the key.
        jitter: Jitter allowance, seconds.
        penalty_left: Seconds until the penalty ends; 0 when there is none.
        refusals: 429 answers so far.
        waiting: Calls that wait for a permit.
        waiting_bulk: Those with priority `bulk`.
        earliest_next: Seconds until one more request could leave; 0 means at once.
        granted: Permits granted so far.
        longest_wait: The longest that a call has waited for a permit, or waits now, seconds.
    """

    waiting: int = 0
    waiting_bulk: int = 0
    earliest_next: float = 0.0
    granted: int = 0
    longest_wait: float = 0.0


class Permit:
    """The right to send one request. Every method is cheap and may be called repeatedly.

    As a context manager it counts the request as sent on exit, unless it was marked or released
    before: an unknown outcome counts as sent. So does a lost permit.
    """

    __slots__ = ("__weakref__", "_dispatcher", "_may_leave", "_slot")

    def __init__(self, dispatcher: Dispatcher, slot: Slot) -> None:
        """Use `QuotaLimiter.acquire` instead."""
        self._dispatcher = dispatcher
        self._slot = slot
        self._may_leave: bool | None = None  # not known yet: the permit is open

    def mark_sent(self) -> bool:
        """Record that the request's headers are on the wire now, or may be.

        Returns:
            Whether the request may leave. It may not after `release`, nor if this process was
            stopped for so long that its slot has expired: then acquire another permit.
        """
        if self._may_leave is None:
            self._may_leave = False  # unless it is counted
            self._may_leave = self._dispatcher.mark_sent(self._slot)
        return self._may_leave

    def release(self) -> None:
        """Return the permit: the request never left. After `mark_sent` this does nothing."""
        if self._may_leave is None:
            self._may_leave = False
            self._dispatcher.release(self._slot)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Count the request as sent unless it was released."""
        self.mark_sent()

    def __del__(self) -> None:
        """Count the request as sent: otherwise a lost slot would stay open forever."""
        # The garbage collector may call this from any thread.
        loop = self._dispatcher.loop
        if self._may_leave is None and not loop.is_closed():
            loop.call_soon_threadsafe(self._dispatcher.mark_sent, self._slot)


class QuotaLimiter:
    """Lets requests leave as fast as a hard server-side quota allows, and never faster.

    Interactive requests leave before bulk ones, which get at least an eighth of the permits while
    both wait. Within a priority, tenants take turns; the requests of one tenant leave in order of
    arrival. One limiter belongs to one event loop: that of its first use. Limiters of one
    `SharedQuota` share it in whatever event loop, thread or process they are.

    docs/quota.md has the rule that it enforces, and how to use it without the client.
    """

    def __init__(
        self,
        quota: Quota | SharedQuota | KeyQuota = Quota(),  # noqa: B008 - frozen
        *,
        home: QuotaHome | None = None,
        max_waiting: int | None = None,
    ) -> None:
        """Create a limiter; no event loop is needed yet.

        Args:
            quota: What the server allows; a `Quota` is not shared with other limiters.
            home: The home of the quota, instead of the one that `quota` implies.
            max_waiting: Maximum interactive calls that may wait at a time; `None` means no limit,
                and 0 that none may wait. Bulk calls do not count.
        """
        self._shared = None if isinstance(quota, Quota) or home is not None else quota
        self._quota = quota if isinstance(quota, Quota) else quota.quota
        self._home = home
        self._most_waiting = inf if max_waiting is None else max_waiting
        self._dispatcher: Dispatcher | None = None
        self._closed = False

    async def open(self) -> None:
        """Open the quota's home in the running event loop; the first `acquire` also does this.

        Raises:
            ConfigurationError: The home cannot be opened, or belongs to another quota.
            WrongEventLoopError: It is open in another event loop.
        """
        self._closed = False
        await self._attach()

    async def aclose(self) -> None:
        """Close the home, unless other limiters of this event loop use it. Does nothing when
        closed.
        """
        self._closed = True
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            await dispatcher.leave()

    async def acquire(
        self,
        *,
        priority: Priority = "interactive",
        deadline: float | None = None,
        tenant: str | None = None,
    ) -> Permit:
        """Return a permit to send one request, when it is this call's turn and the quota allows it.

        A cancelled call leaves the quota unchanged, and the next in line moves up.

        Args:
            priority: `interactive` requests leave before `bulk` ones.
            deadline: Seconds from now within which the permit must be granted; 0 means at once,
                `None` means no limit.
            tenant: The user of the request. Tenants of one priority take turns.

        Raises:
            QuotaTimeoutError: The permit cannot be granted before the deadline (raised as soon as
                the quota's state shows it), or too many interactive calls are waiting.
            ConfigurationError: The limiter is closed, or the quota's home can no longer be used.
            WrongEventLoopError: The limiter belongs to another event loop.
        """
        dispatcher = self._dispatcher
        if (
            dispatcher is None
            or not dispatcher.is_open
            or dispatcher.loop is not asyncio.get_running_loop()
        ):
            dispatcher = await self._attach()
        slot = await dispatcher.acquire(priority, deadline, tenant, self._most_waiting)
        return Permit(dispatcher, slot)

    def penalise(self, retry_after: float | None = None, permit: Permit | None = None) -> None:
        """Begin a penalty for all users of the quota, because the server answered 429.

        Further refusals of requests that left before the penalty was known change nothing, except
        that a later `retry_after` prolongs the penalty.

        Args:
            retry_after: The wait that the answer asked for, seconds; `None` means the quota's
                penalty.
            permit: The permit of the refused request.
        """
        dispatcher = self._attached()
        slot = None if permit is None else permit._slot  # noqa: SLF001 - one subject, two classes
        dispatcher.home.penalise(dispatcher.now(), retry_after, slot)
        dispatcher.kick()

    def observe(self, delay: float, *, set_up: bool = False) -> None:
        """Add a delay that was measured until now, of a cheap request with a permit.

        While the event loop was busy with other things, the delay does not count as the network's.

        Args:
            delay: Seconds from the departure to the answer.
            set_up: It is that of the set-up of a connection.
        """
        self._attached().observe(delay, self._quota.jitter, set_up=set_up)

    def statistics(self) -> QuotaStatistics:
        """Return the current figures, for progress displays and metrics."""
        dispatcher = self._dispatcher
        if dispatcher is None:
            return QuotaStatistics(**asdict(self._own_home().snapshot(time.monotonic())))
        now = dispatcher.now()
        return QuotaStatistics(
            **asdict(dispatcher.home.snapshot(now)),
            waiting=dispatcher.queue.size,
            waiting_bulk=dispatcher.queue.waiting["bulk"],
            earliest_next=max(dispatcher.home.earliest(now) - now, 0.0),
            granted=dispatcher.granted,
            longest_wait=dispatcher.longest_wait(),
        )

    def _own_home(self) -> QuotaHome:
        if self._home is None:
            shared = self._shared
            self._home = ProcessHome(self._quota) if shared is None else shared.home()
        return self._home

    def _attached(self) -> Dispatcher:
        if self._dispatcher is None:
            raise ConfigurationError("this quota limiter is not open")
        return self._dispatcher

    async def _attach(self) -> Dispatcher:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise ConfigurationError("this quota limiter was closed")
        if self._dispatcher is None:
            identity = None if self._shared is None else self._shared.identity
            self._dispatcher = Dispatcher.join(identity, self._own_home, self._quota, loop)
        dispatcher = self._dispatcher
        if dispatcher.loop is not loop:
            raise WrongEventLoopError(
                "this quota limiter is in use by another event loop; make one for each loop (those "
                "of one SharedQuota, and of clients with one key and address, share one quota)"
            )
        await dispatcher.open()
        return dispatcher
