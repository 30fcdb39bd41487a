"""The delays that one process has measured, as sent to a shared home."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import TypedDict

__all__ = ["Delays", "RecentDelays"]

SAMPLES = 200
# Older ones say nothing about the network of today, seconds.
MEMORY = 600.0


class Delays(TypedDict):
    """The measured delays of one kind in one process, seconds.

    Attributes:
        lowest: The shortest.
        highest: The longest that two delays in succession reached: a single late request does no
            harm, since the others of its window were on time.
        straggler: The longest of all.
    """

    lowest: float
    highest: float
    straggler: float


class RecentDelays:
    """The latest delays of one kind."""

    def __init__(self) -> None:
        """Start with none."""
        self._latest: deque[tuple[float, float]] = deque(maxlen=SAMPLES)
        self._summary: Delays | None = None

    def add(self, now: float, delay: float) -> None:
        """Remember a delay, seconds, that was measured at `now`."""
        self._latest.append((now, delay))
        self._summary = None

    def summary(self, now: float) -> Delays | None:
        """Return what is known; `None`: nothing."""
        while self._latest and self._latest[0][0] + MEMORY < now:
            self._latest.popleft()
            self._summary = None
        if self._summary is None and self._latest:
            delays = [delay for _, delay in self._latest]
            lowest = min(delays)
            self._summary = Delays(
                lowest=lowest,
                highest=max((min(pair) for pair in pairwise(delays)), default=lowest),
                straggler=max(delays),
            )
        return self._summary
