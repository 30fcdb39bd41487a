"""The quota as servers count it: four methods, each simple, with the clock passed in.

A server counts arrivals. Once the counting method refuses a request of a key, `Quota` refuses all
of them for the penalty; during it nothing is counted. `PeakUsage` shows how close a stream of
arrivals came to the ceiling by each of the four methods, at the worst phase of the server's clock,
whichever method is enforced.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from stable_async.sandbox.settings import Counting

__all__ = [
    "CountingMethod",
    "FixedWindow",
    "KeyQuotas",
    "PeakUsage",
    "Quota",
    "SlidingCounter",
    "SlidingLog",
    "TokenBucket",
]

# Each key has its own count; the number is bounded because fuzzers invent keys endlessly.
MAX_KEYS = 1_000
# Tolerance for rounding in differences of times, seconds.
ROUNDING = 1e-9


class CountingMethod(Protocol):
    """Counts the arrivals of one key. Times never go back."""

    def admit(self, now: float) -> bool:
        """Count an arrival, unless it would exceed the limit; return whether it was counted."""

    def level(self, now: float) -> float:
        """Return the current count, in requests."""


class FixedWindow:
    """A counter that is reset on the clock."""

    def __init__(self, requests: int, window: float, phase: float) -> None:
        """Start a window at `phase` seconds of the clock, and every `window` seconds after it."""
        self._requests = requests
        self._window = window
        self._phase = phase
        self._index = -1
        self._count = 0

    def _turn(self, now: float) -> None:
        index = int((now - self._phase) // self._window)
        if index != self._index:
            self._index, self._count = index, 0

    def admit(self, now: float) -> bool:
        """Count an arrival, unless the window is full."""
        self._turn(now)
        if self._count >= self._requests:
            return False
        self._count += 1
        return True

    def level(self, now: float) -> float:
        """Return the count of the current window."""
        self._turn(now)
        return self._count


class SlidingLog:
    """A log of every arrival of the last window."""

    def __init__(self, requests: int, window: float, phase: float = 0.0) -> None:
        """Remember the arrivals of the last `window` seconds; it has no phase."""
        self._requests = requests
        self._window = window
        self._arrivals: deque[float] = deque()

    def _forget(self, now: float) -> None:
        while self._arrivals and self._arrivals[0] <= now - self._window:
            self._arrivals.popleft()

    def admit(self, now: float) -> bool:
        """Count an arrival, unless the last window is full."""
        self._forget(now)
        if len(self._arrivals) >= self._requests:
            return False
        self._arrivals.append(now)
        return True

    def level(self, now: float) -> float:
        """Return the arrivals of the last window."""
        self._forget(now)
        return len(self._arrivals)


class SlidingCounter:
    """Two counters: the last window counts by the share of it that is still within the window."""

    def __init__(self, requests: int, window: float, phase: float) -> None:
        """Start a window at `phase` seconds of the clock, and every `window` seconds after it."""
        self._requests = requests
        self._window = window
        self._phase = phase
        self._index = -1
        self._previous = 0
        self._current = 0

    def _estimate(self, now: float) -> float:
        index, into = divmod(now - self._phase, self._window)
        turns = int(index) - self._index
        if turns > 0:
            self._previous = self._current if turns == 1 else 0
            self._current = 0
            self._index = int(index)
        return self._previous * (1 - into / self._window) + self._current

    def admit(self, now: float) -> bool:
        """Count an arrival, unless the estimate would pass the ceiling with it."""
        if self._estimate(now) + 1 > self._requests:
            return False
        self._current += 1
        return True

    def level(self, now: float) -> float:
        """Return the estimate."""
        return self._estimate(now)


class TokenBucket:
    """A bucket of tokens that refills evenly; a full one allows a whole window's requests."""

    def __init__(self, requests: int, window: float, phase: float = 0.0) -> None:
        """Start with a full bucket; it has no phase."""
        self._requests = requests
        self._rate = requests / window
        self._used = 0.0
        self._at = float("-inf")

    def _drain(self, now: float) -> None:
        self._used = max(0.0, self._used - (now - self._at) * self._rate)
        self._at = now

    def admit(self, now: float) -> bool:
        """Take a token, if there is a whole one."""
        self._drain(now)
        if self._used + 1 > self._requests:
            return False
        self._used += 1
        return True

    def level(self, now: float) -> float:
        """Return the tokens that are taken."""
        self._drain(now)
        return self._used


_METHODS: dict[Counting, Callable[[int, float, float], CountingMethod]] = {
    "counter": SlidingCounter,
    "log": SlidingLog,
    "fixed": FixedWindow,
    "bucket": TokenBucket,
}


class Quota:
    """The quota of one key: a counting method, and the penalty after a breach."""

    def __init__(
        self, counting: Counting, requests: int, window: float, penalty: float, phase: float
    ) -> None:
        """Count by the method named `counting`; `off` refuses nothing."""
        self._method = None if counting == "off" else _METHODS[counting](requests, window, phase)
        self._penalty = penalty
        self._penalty_until = float("-inf")
        self._now = float("-inf")
        self.peak: PeakUsage = PeakUsage(requests, window)

    def admit(self, now: float) -> bool:
        """Count an arrival; false when it is refused with 429."""
        # Arrivals are timestamped when their bytes arrive and counted a little later, so that two
        # of them may be out of order; the clock of a server does not run backwards either.
        self._now = now = max(now, self._now)
        self.peak.arrived(now)
        if self._method is None or now < self._penalty_until:
            return self._method is None
        if self._method.admit(now):
            return True
        self._penalty_until = now + self._penalty
        return False

    def level(self, now: float) -> float:
        """Return the requests counted now; with counting off, the last window's arrivals."""
        now = max(now, self._now)
        return self.peak.in_window(now) if self._method is None else self._method.level(now)

    def penalty_left(self, now: float) -> float:
        """Return the remaining seconds of the penalty."""
        return max(0.0, self._penalty_until - now)


class KeyQuotas:
    """The quotas of all keys, and a penalty for all keys that a test may set."""

    def __init__(
        self, counting: Counting, requests: int, window: float, penalty: float, phase: float
    ) -> None:
        """Take what `Quota` takes."""
        self._settings = (counting, requests, window, penalty, phase)
        self._quotas: OrderedDict[str, Quota] = OrderedDict()
        self._all_penalty_until = float("-inf")
        self._most = dict.fromkeys(_METHODS, 0.0)

    def admit(self, key: str, now: float) -> bool:
        """Count an arrival of `key`; false when it is refused with 429."""
        quota = self._quotas.get(key)
        if quota is None:
            quota = self._quotas[key] = Quota(*self._settings)
            if len(self._quotas) > MAX_KEYS:
                _, oldest = self._quotas.popitem(last=False)
                self._note(oldest)
        self._quotas.move_to_end(key)
        admitted = quota.admit(now)
        return admitted and now >= self._all_penalty_until

    def penalise_all(self, until: float) -> None:
        """Penalise every key until the time `until`."""
        self._all_penalty_until = until

    def _note(self, quota: Quota) -> None:
        for method, most in quota.peak.most.items():
            self._most[method] = max(self._most[method], most)

    def most(self) -> dict[Counting, float]:
        """Return the most that any key had in the window, by each method, at its worst phase."""
        for quota in self._quotas.values():
            self._note(quota)
        return dict(self._most)

    def busiest(self, now: float) -> tuple[float, float]:
        """Return the highest level of any key, and the longest remaining penalty."""
        level = max((quota.level(now) for quota in self._quotas.values()), default=0.0)
        left = max((quota.penalty_left(now) for quota in self._quotas.values()), default=0.0)
        return level, max(left, self._all_penalty_until - now, 0.0)


class PeakUsage:
    """The most that a stream of arrivals had in the window, by every method at its worst phase.

    Attributes:
        most: The most so far, by method.
    """

    def __init__(self, requests: int, window: float) -> None:
        """Judge by a ceiling of `requests` in `window` seconds."""
        self._requests = requests
        self._window = window
        self._rate = requests / window
        self._arrivals: list[float] = []  # of the last two windows
        self._level = 0.0
        self.most: dict[Counting, float] = dict.fromkeys(_METHODS, 0.0)

    def arrived(self, now: float) -> None:
        """Take an arrival into account."""
        arrivals = self._arrivals
        since = now - arrivals[-1] if arrivals else float("inf")
        self._level = max(0.0, self._level - since * self._rate) + 1
        arrivals.append(now)
        if arrivals[0] <= now - 4 * self._window:
            del arrivals[: bisect_right(arrivals, now - 2 * self._window)]
        recent = self.in_window(now)
        # Far above the ceiling every method sees a breach, so the exact figure is not computed.
        far_over = recent > 4 * self._requests
        now_counted: dict[Counting, float] = {
            "counter": recent if far_over else self._two_counters(now),
            "log": recent,
            "fixed": recent,  # at its worst phase it equals a sliding log
            "bucket": self._level,
        }
        for method, counted in now_counted.items():
            self.most[method] = max(self.most[method], counted)

    def in_window(self, now: float) -> float:
        """Return the arrivals of the last window."""
        since = now - self._window + ROUNDING
        return len(self._arrivals) - bisect_right(self._arrivals, since)

    def _two_counters(self, now: float) -> float:
        """Return the two-counter estimate at the phase that makes it largest.

        As the start of the current window moves back, the estimate falls, except where one more
        arrival enters the current window or the one before: just after an arrival, or one window
        after it. Only these phases need trying.
        """
        window = self._window
        ages = [now - at for at in reversed(self._arrivals) if now - at < 2 * window - ROUNDING]
        largest = 0.0
        for age in ages:
            into = age if age < window - ROUNDING else max(0.0, age - window)
            current = bisect_right(ages, into + ROUNDING)
            previous = bisect_right(ages, into + window + ROUNDING) - current
            largest = max(largest, current + (1 - into / window) * previous)
        return largest
