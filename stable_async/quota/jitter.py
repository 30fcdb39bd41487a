"""The jitter allowance, measured: how much the delays from departure to arrival differ."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["JitterEstimator"]

# Bounds of the allowance, seconds. Below the lower one a server's own hiccups decide; above the
# upper one stragglers cost less as a rare penalty than as a part of every second.
LEAST = 0.12
MOST = 1.0

# How many delays are remembered, and how many are needed before the allowance falls below its
# start.
SAMPLES = 200
ENOUGH = 50

# Stragglers left out, as a share of the samples: a single late request does no harm, since the
# others of its window were on time.
STRAGGLERS = 0.02

# The measured jitter is raised by this factor and these seconds: the worst is yet to be seen.
FACTOR = 1.1
CUSHION = 0.02


class JitterEstimator:
    """Follows the jitter of measured delays, within bounds.

    The allowance starts at the configured value, rises with the measurements at once, and falls
    below the start once `ENOUGH` round trips show that it may. The set-up of connections only
    proves that more is needed: behind a proxy it is quick while requests are slow. What a refusal
    proved to be needed stays allowed.

    Attributes:
        current: Jitter allowance, seconds.
        most: Upper bound of `current`, seconds: `MOST` or a quarter of the window, whichever is
            less, but never less than the start.
    """

    def __init__(self, start: float, window: float) -> None:
        """Begin at `start` seconds; `window` is the server's, seconds."""
        self.current: float = start
        self.most: float = max(start, min(MOST, window / 4))
        self._start = start
        self._least = min(start, LEAST)
        self._round_trips = _Delays()
        self._set_ups = _Delays()

    @property
    def measured(self) -> float:
        """Jitter of the remembered delays, stragglers included, seconds."""
        return max(self._round_trips.jitter(), self._set_ups.jitter())

    def dump(self) -> tuple[float, float, float, list[float], list[float]]:
        """Return all that is remembered, to be stored or sent."""
        round_trips, set_ups = list(self._round_trips.latest), list(self._set_ups.latest)
        return self.current, self._start, self._least, round_trips, set_ups

    def load(self, dumped: tuple[float, float, float, Sequence[float], Sequence[float]]) -> None:
        """Restore what `dump` returned."""
        self.current, self._start, self._least, round_trips, set_ups = dumped
        self._round_trips, self._set_ups = _Delays(round_trips), _Delays(set_ups)

    def observe(self, delay: float, *, set_up: bool = False) -> None:
        """Add the round trip of a cheap request, or with `set_up` the set-up of a connection."""
        (self._set_ups if set_up else self._round_trips).add(delay)
        jitter = max(
            self._round_trips.jitter(STRAGGLERS),
            self._set_ups.jitter(STRAGGLERS),
        )
        least = self._least if len(self._round_trips.latest) >= ENOUGH else self._start
        self.current = min(max(jitter * FACTOR + CUSHION, least), self.most)

    def widen(self) -> bool:
        """Allow for all that was measured, for good; return whether that is more than before."""
        needed = min(self.measured, self.most)
        if needed <= self.current:
            return False
        self.current = self._least = self._start = needed
        return True


class _Delays:
    """The latest delays of one kind."""

    def __init__(self, latest: Sequence[float] = ()) -> None:
        self.latest = deque(latest)
        self._sorted = sorted(latest)

    def add(self, delay: float) -> None:
        if len(self.latest) == SAMPLES:
            del self._sorted[bisect_left(self._sorted, self.latest.popleft())]
        self.latest.append(delay)
        insort(self._sorted, delay)

    def jitter(self, stragglers: float = 0.0) -> float:
        """Return the longest less the shortest, a share of the longest left out."""
        if not self._sorted:
            return 0.0
        return self._sorted[-1 - int(len(self._sorted) * stragglers)] - self._sorted[0]
