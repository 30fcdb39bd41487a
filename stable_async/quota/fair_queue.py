"""The order of waiting calls: first in first out, tenants in turn, interactive before bulk."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Literal

from stable_async.quota.state import BULK_TURN

if TYPE_CHECKING:
    import asyncio

    from stable_async.quota.state import Slot

__all__ = ["FairQueue", "Priority", "Waiter"]

Priority = Literal["interactive", "bulk"]


class Waiter:
    """A call that waits for a slot.

    Attributes:
        priority: Its priority.
        tenant: Its tenant.
        since: When it began to wait, seconds.
        expires: When it stops waiting, seconds; infinity means never.
        future: Resolves to the slot.
    """

    __slots__ = ("expires", "future", "priority", "since", "tenant")

    def __init__(
        self,
        priority: Priority,
        tenant: str | None,
        since: float,
        expires: float,
        future: asyncio.Future[Slot],
    ) -> None:
        """Create a waiter that is not in a queue yet."""
        self.priority = priority
        self.tenant: str | None = tenant
        self.since: float = since
        self.expires: float = expires
        self.future: asyncio.Future[Slot] = future


class _Line:
    """The waiters of one priority: tenants in turn, the oldest of each first."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[str | None, OrderedDict[Waiter, None]] = OrderedDict()
        self.length = 0

    def push(self, waiter: Waiter) -> None:
        self._tenants.setdefault(waiter.tenant, OrderedDict())[waiter] = None
        self.length += 1

    def head(self) -> Waiter:
        return next(iter(next(iter(self._tenants.values()))))

    def remove(self, waiter: Waiter) -> None:
        waiters = self._tenants.get(waiter.tenant)
        if waiters is None or waiter not in waiters:
            return
        del waiters[waiter]
        self.length -= 1
        if not waiters:
            del self._tenants[waiter.tenant]

    def pop(self) -> Waiter:
        tenant, waiters = self._tenants.popitem(last=False)
        waiter, _ = waiters.popitem(last=False)
        self.length -= 1
        if waiters:
            self._tenants[tenant] = waiters  # its next turn is after all others
        return waiter

    def oldest(self) -> float | None:
        heads = (next(iter(waiters)).since for waiters in self._tenants.values())
        return min(heads, default=None)

    def ahead(self, tenant: str | None) -> int:
        """Return how many would leave before a new waiter of `tenant`."""
        turns = len(self._tenants.get(tenant, ())) + 1
        count = 0
        for name, waiters in self._tenants.items():
            if name == tenant:  # the tenants behind it have one turn less before its last
                turns -= 1
            count += min(len(waiters), turns)
        return count


class FairQueue:
    """All waiters, and the order in which they leave."""

    def __init__(self) -> None:
        """Start empty."""
        self._interactive = _Line()
        self._bulk = _Line()
        self._lines: dict[Priority, _Line] = {"interactive": self._interactive, "bulk": self._bulk}
        # Interactive requests served since the last bulk one, while bulk ones waited.
        self._passed_over = 0

    def __len__(self) -> int:
        return self._interactive.length + self._bulk.length

    def count(self, priority: Priority) -> int:
        """Count the waiters of `priority`."""
        return self._lines[priority].length

    def push(self, waiter: Waiter) -> None:
        """Add `waiter` behind the others of its priority and tenant."""
        self._lines[waiter.priority].push(waiter)

    def remove(self, waiter: Waiter) -> None:
        """Remove `waiter`; does nothing if it is not in the queue."""
        self._lines[waiter.priority].remove(waiter)

    def head(self) -> Waiter | None:
        """Return the waiter whose turn it is without removing it; `None` if the queue is empty."""
        line = self._interactive
        if not line.length or (self._bulk.length and self._passed_over >= BULK_TURN - 1):
            line = self._bulk
        return line.head() if line.length else None

    def pop(self, priority: Priority) -> Waiter:
        """Remove and return the next waiter of `priority`, to be served; count for the floor."""
        waiter = self._lines[priority].pop()
        if priority == "bulk":
            self._passed_over = 0
        elif self._bulk.length:
            self._passed_over += 1
        return waiter

    def oldest(self) -> float | None:
        """Return when the longest-waiting call began to wait; `None` if the queue is empty."""
        times = (self._interactive.oldest(), self._bulk.oldest())
        return min((time for time in times if time is not None), default=None)

    def ahead(self, priority: Priority, tenant: str | None) -> int:
        """Return how many would leave before a new waiter, if no others came."""
        same = self._lines[priority].ahead(tenant)
        if priority == "interactive":
            return same + min((self._passed_over + same) // (BULK_TURN - 1), self._bulk.length)
        turns = (same + 1) * (BULK_TURN - 1) - self._passed_over
        return same + min(turns, self._interactive.length)
