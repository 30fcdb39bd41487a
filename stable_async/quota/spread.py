"""The spread allowance, measured: by how much the delays from departure to arrival differ."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SpreadEstimator"]

# Bounds of the allowance, seconds. Below the lower one a server's own hiccups decide; above the
# upper one stragglers are better left to the shut-out than paid for with every request.
LEAST = 0.1
MOST = 1.0

# What is remembered, and how much of it there must be before the allowance goes below its start.
SAMPLES = 200
ENOUGH = 50

# Stragglers left out, as a share of the samples: single late requests harm nobody, since the
# others of their window were on time.
STRAGGLERS = 0.02

# What was measured is raised by this factor and these seconds: the worst is yet to be seen.
FACTOR = 1.1
CUSHION = 0.02


class SpreadEstimator:
    """Follows the spread of measured delays, within bounds.

    The allowance starts at the configured value, rises with the measurements at once, and goes
    below the start when `ENOUGH` delays show that it may. What a refusal proved to be needed
    stays allowed.

    Attributes:
        current: Spread allowance, seconds.
        most: Upper bound of `current`, seconds: `MOST` or a quarter of the window, whichever is
            less, but never less than the start.
    """

    def __init__(self, start: float, window: float) -> None:
        """Begin at `start` seconds; `window` is the server's, seconds."""
        self.current = start
        self.most = max(start, min(MOST, window / 4))
        self._start = start
        self._least = min(start, LEAST)
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []

    @property
    def measured(self) -> float:
        """Spread of the remembered delays, stragglers included, seconds."""
        return self._sorted[-1] - self._sorted[0] if self._sorted else 0.0

    def state(self) -> tuple[float, float, float, list[float]]:
        """Give all that is remembered, to be stored or sent."""
        return self.current, self._start, self._least, list(self._latest)

    def restore(self, state: tuple[float, float, float, Sequence[float]]) -> None:
        """Take over what another estimator of the same quota remembered."""
        self.current, self._start, self._least, latest = state
        self._latest = deque(latest)
        self._sorted = sorted(latest)

    def observe(self, delay: float) -> None:
        """Take one delay: the set-up of a connection, or the round trip of a cheap request."""
        if len(self._latest) == SAMPLES:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]
        self._latest.append(delay)
        insort(self._sorted, delay)
        stragglers = int(len(self._sorted) * STRAGGLERS)
        spread = self._sorted[-1 - stragglers] - self._sorted[0]
        least = self._least if len(self._sorted) >= ENOUGH else self._start
        self.current = min(max(spread * FACTOR + CUSHION, least), self.most)

    def widen(self) -> bool:
        """Allow for all that was measured, from now on; say whether that is more than before."""
        needed = min(self.measured, self.most)
        if needed <= self.current:
            return False
        self.current = self._least = self._start = needed
        return True
