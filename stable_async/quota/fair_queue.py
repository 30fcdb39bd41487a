"""The order of waiting calls: first in first out, tenants in turn, interactive before bulk."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stable_async.quota.flow import BULK_TURN

if TYPE_CHECKING:
    import asyncio

    from stable_async.quota.state import Slot

__all__ = ["FairQueue", "Priority", "Waiter"]

Priority = Literal["interactive", "bulk"]


@dataclass(eq=False, slots=True)
class Waiter:
    """A call that waits for a slot.

    Attributes:
        priority: Its priority.
        tenant: Its tenant.
        since: When it began to wait, seconds.
        expires: When it stops waiting, seconds; infinity means never.
        future: Resolves to the slot.
    """

    priority: Priority
    tenant: str | None
    since: float
    expires: float
    future: asyncio.Future[Slot]


# The waiters of one priority: tenants in the order of their turns, the oldest of each first.
_Turns = OrderedDict[str | None, OrderedDict[Waiter, None]]


class FairQueue:
    """All waiters, and the order in which they leave.

    Attributes:
        size: How many there are.
        waiting: How many there are, by priority.
        passed_over: Interactive requests served since the last bulk one, while bulk ones waited.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.size: int = 0
        self.waiting: dict[Priority, int] = {"interactive": 0, "bulk": 0}
        self._turns: dict[Priority, _Turns] = {"interactive": OrderedDict(), "bulk": OrderedDict()}
        self.passed_over: int = 0

    def push(self, waiter: Waiter) -> None:
        """Add `waiter` behind the others of its priority and tenant."""
        turns = self._turns[waiter.priority]
        turns.setdefault(waiter.tenant, OrderedDict())[waiter] = None
        self.waiting[waiter.priority] += 1
        self.size += 1

    def remove(self, waiter: Waiter) -> None:
        """Remove `waiter`; does nothing if it is not in the queue."""
        turns = self._turns[waiter.priority]
        waiters = turns.get(waiter.tenant)
        if waiters is None or waiter not in waiters:
            return
        del waiters[waiter]
        self.waiting[waiter.priority] -= 1
        self.size -= 1
        if not waiters:
            del turns[waiter.tenant]

    def head(self) -> Waiter | None:
        """Return the waiter whose turn it is without removing it; `None` if the queue is empty."""
        waiting = self.waiting
        bulk_due = waiting["bulk"] and self.passed_over >= BULK_TURN - 1
        turns = self._turns["interactive" if waiting["interactive"] and not bulk_due else "bulk"]
        for waiters in turns.values():
            return next(iter(waiters))
        return None

    def pop(self, priority: Priority) -> Waiter:
        """Remove and return the next waiter of `priority`, to be served; count for the floor."""
        turns = self._turns[priority]
        tenant, waiters = turns.popitem(last=False)
        waiter, _ = waiters.popitem(last=False)
        self.waiting[priority] -= 1
        self.size -= 1
        if waiters:
            turns[tenant] = waiters  # its next turn is after all others
        if priority == "bulk":
            self.passed_over = 0
        elif self.waiting["bulk"]:
            self.passed_over += 1
        return waiter

    def oldest(self) -> float | None:
        """Return when the longest-waiting call began to wait; `None` if the queue is empty."""
        return min(
            (
                next(iter(waiters)).since
                for turns in self._turns.values()
                for waiters in turns.values()
            ),
            default=None,
        )

    def ahead(self, priority: Priority, tenant: str | None) -> int:
        """Return how many would leave before a new waiter, if no others came."""
        turns = self._turns[priority]
        rounds = len(turns.get(tenant, ())) + 1
        same = 0
        for name, waiters in turns.items():
            if name == tenant:  # the tenants behind it have one turn less before its last
                rounds -= 1
            same += min(len(waiters), rounds)
        if priority == "interactive":
            bulk = (self.passed_over + same) // (BULK_TURN - 1)
            return same + min(bulk, self.waiting["bulk"])
        interactive = (same + 1) * (BULK_TURN - 1) - self.passed_over
        return same + min(interactive, self.waiting["interactive"])
