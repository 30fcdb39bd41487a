"""How long the event loop was blocked, and what that adds to measured delays.

A busy loop sees an answer late. Without a correction it would look like a network with jitter, and
the allowance for jitter costs throughput.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from stable_async.quota.jitter import neutral

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["LoopLag"]

# How often the loop is checked, seconds. Lateness of less than twice this is not noticed.
TICK = 0.02

# It is checked for this long after a permit was granted, seconds. A request that takes longer is
# not a cheap one, and is not measured.
WATCHED = 3.0

# An answer reaches its caller an iteration or two after the loop has read it: for this long after
# the loop was blocked, seconds, an answer may have arrived during the block.
GRACE = 0.05


class LoopLag:
    """Watches one event loop with a timer, while requests are on their way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        """Prepare; `clock` is that of the loop, seconds."""
        self._loop = loop
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._until = -inf
        self._ticked = -inf
        # The last block: the ticks before and after it, and the longest gap between two ticks.
        self._stood = -inf, -inf, 0.0
        # The shortest delays so far, of requests and of set-ups.
        self._shortest = [inf, inf]

    def watch(self, now: float) -> None:
        """Watch the loop for the next seconds."""
        self._until = now + WATCHED
        if self._timer is None:
            self._ticked = now
            self._timer = self._loop.call_later(TICK, self._tick)

    def close(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def lag(self, now: float) -> float:
        """Return how long an answer that is seen now may have waited for the loop, seconds."""
        before, after, _ = self._stood
        latest = now if self._timer is None else self._ticked
        since = before if now - after < GRACE else latest
        return max(now - since - 2 * TICK, 0.0)

    def corrected(self, delay: float, now: float, jitter: float, *, set_up: bool) -> float:
        """Return a measured delay minus the lag, as far as that is safe.

        A delay that may include lag does not prove that delays differ by more than `jitter`, the
        quota's own. Nor does it prove that they differ by less: the result is at least the delay
        that proves neither.
        """
        shortest = self._shortest[set_up] = min(self._shortest[set_up], delay)
        return max(delay - self.lag(now), min(delay, shortest + neutral(jitter)))

    def _tick(self) -> None:
        now = self._clock()
        gap = now - self._ticked
        before, after, longest = self._stood
        longest = max(longest, gap)
        if self._ticked == after and gap > 1.5 * TICK and now - before < 2 * longest:
            # The loop is working off its backlog.
            self._stood = before, now, longest
        elif gap > 3 * TICK:
            self._stood = self._ticked, now, gap
        self._ticked = now
        self._timer = self._loop.call_later(TICK, self._tick) if now < self._until else None
