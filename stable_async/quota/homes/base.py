"""The protocol of a quota's home: the interface between the limiter and the stored state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from stable_async.quota.fair_queue import Priority
    from stable_async.quota.state import Slot, Snapshot

__all__ = ["QuotaHome", "Waiters"]


class Waiters(Protocol):
    """The waiting calls of one event loop, as a home sees them."""

    def waiting(self, priority: Priority) -> int:
        """Return how many calls of `priority` wait now."""

    def gone(self) -> bool:
        """Return whether the event loop was closed without closing the home."""

    def wake(self) -> None:
        """Have `reserve` called again soon if any call waits; may be called from any thread."""


class QuotaHome(Protocol):
    """The home of a quota, as used by one event loop.

    All methods but `open` and `aclose` are synchronous and quick. `now` is in seconds on the clock
    of the event loop, the machine's monotonic one, and does not go back. Methods raise
    `ConfigurationError` when the state can no longer be read or written.
    """

    async def open(self, waiters: Waiters) -> None:
        """Open the home in the running event loop; does nothing when it is open.

        Raises:
            ConfigurationError: It cannot be opened, or belongs to another quota.
        """

    async def aclose(self) -> None:
        """Close the home; does nothing when it is closed. Open slots count as departures."""

    def reserve(self, now: float, *, bulk: bool = False) -> Slot | float:
        """Return an open slot, or the time at which to ask again, when others may be faster.

        Args:
            now: The time, seconds.
            bulk: Whether the request leaves room for interactive ones, if there are any.

        Returns:
            Infinity means that the home will call `Waiters.wake`. It may call it earlier than a
            time it has returned, too.
        """

    def mark_sent(self, slot: Slot, now: float) -> bool:
        """Count the request of an open slot as departing now; return `False` if it may no longer
        leave.
        """

    def release(self, slot: Slot, now: float) -> None:
        """Return an open slot: its request never left."""

    def penalise(self, now: float, retry_after: float | None, slot: Slot | None) -> None:
        """Begin a penalty for all users, of `retry_after` seconds or the quota's own length.

        Args:
            now: The time of the refusal, seconds.
            retry_after: What the server asked for, seconds.
            slot: The slot of the refused request, if known.
        """

    def observe(self, now: float, delay: float, *, set_up: bool = False) -> None:
        """Add a measured delay, seconds, to adapt the jitter allowance."""

    def earliest(self, now: float, ahead: int = 0) -> float:
        """Return the time from which a request with `ahead` others before it might leave,
        seconds.
        """

    def snapshot(self, now: float) -> Snapshot:
        """Return the current figures; when closed, the last ones."""
