"""The rule: whether one more request may leave now and, if not, when. Pure; the clock is passed in.

With `N` requests, window `W` and jitter `D`, a request may leave at `t` if, counting itself, for
every `e` in `[0, W]`

    cur(e) + (1 - e/W) * prev(e) <= N
    cur(e)  = departures in (t - e - D, t]
    prev(e) = departures in (t - e - D - W, t - e - D]

docs/quota.md says why this satisfies every way of counting. This is how it is computed.

Fix a boundary `b = t - e - D`. With `C(b)` departures up to `b`, and `m` of them up to now with the
new one, less `N`, the condition is a lower bound on `t`:

    t >= b + W + D - (C(b) - m) * W / prev(b)

and never more than `b + W + D`. The bound rises with `b` while `C` and `prev` stay as they are, so
only boundaries just below a departure, or just below `W` after one, can bind. Once `b` is past,
its bound is a line in `m` that never changes. The earliest time is the highest line at today's
`m`. A line expires `W + D` after its boundary.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from math import ceil
from typing import NamedTuple

__all__ = ["Rule", "RuleState"]

# With more requests per window than this, departures less than `W / BINS` apart are merged, at the
# latest time any of them can have. Too late is the safe side, and costs `W / BINS` of jitter.
BINS = 256

# Seconds added to every earliest time, against rounding, here and in the server's own sums. After
# 30 years of uptime a double still resolves 0.12 microseconds.
MARGIN = 1e-6


class _Departures(NamedTuple):
    time: float
    before: int  # departures before these


class _Line(NamedTuple):
    boundary: float
    departed: int  # departures up to the boundary
    slope: float  # W / prev


class RuleState(NamedTuple):
    """All that a `Rule` remembers: plain numbers, bounded in size, to be stored or sent.

    Attributes:
        sent: Departures so far.
        latest: Time of the latest departures.
        recent: `(time, departures before it)` of the last window.
        lines: `(boundary, departures up to it, slope)`.
    """

    sent: int
    latest: float
    recent: tuple[tuple[float, int], ...]
    lines: tuple[tuple[float, int, float], ...]


class Rule:
    """Computes when the next request may leave. Asking changes nothing.

    Attributes:
        limit: Requests per window; may change, up to the `requests` the rule was made with.
        jitter: Jitter allowance, seconds; may change, up to `max_jitter`.
        open: Requests that have a permit and have not left yet. They always count as leaving now.
    """

    def __init__(
        self, requests: int, window: float, jitter: float, *, max_jitter: float | None = None
    ) -> None:
        """Start with an empty history.

        Args:
            requests: Maximum requests in one window, 1 or more.
            window: The server's window, seconds.
            jitter: Jitter allowance, seconds.
            max_jitter: The most that `jitter` will ever be; `None` if it will not change.
        """
        self.limit = requests
        self.jitter = jitter
        self.open = 0
        self._requests = requests
        self._window = window
        self._memory = window + (jitter if max_jitter is None else max_jitter)
        self._bin = window / BINS if requests > BINS else 0.0
        self._sent = 0
        self._latest = float("-inf")
        self._recent: deque[_Departures] = deque()
        self._lines: deque[_Line] = deque()
        self._cached: tuple[int, float] | None = None

    @property
    def window(self) -> float:
        """The server's window, seconds."""
        return self._window

    def earliest(self, now: float, ahead: int = 0) -> float:
        """Return the time from which a request may leave, if none leaves before it.

        Args:
            now: The time, seconds; not before the latest departure.
            ahead: How many others leave before it. The result is then a lower bound.

        Returns:
            A time at or before `now` means at once. While open slots alone fill the limit, the
            time is a lower bound as well: ask again when one of them is sent or released.
        """
        rounds, place = divmod(ahead + self.open, self.limit)
        interval = self._window + self.jitter
        place -= self.open
        first = self._highest(now, place) + interval + MARGIN if place >= 0 else now
        return max(first, now) + rounds * interval if rounds else first

    def send(self, now: float, count: int = 1) -> None:
        """Count departures at `now`; times must not decrease."""
        self._cached = None
        if now > self._latest:
            time = self._latest = now + self._bin
            recent, lines, before = self._recent, self._lines, self._sent
            while recent and recent[0].time + self._window <= time:
                oldest = recent.popleft()
                self._add_line(oldest.time + self._window, before, before - oldest.before)
            while lines and lines[0].boundary + self._memory + MARGIN <= now:
                lines.popleft()
            if recent:
                self._add_line(time, before, before - recent[0].before)
            recent.append(_Departures(time, before))
        self._sent += count

    def in_window(self, now: float) -> int:
        """Count the requests of the window that ends now, open slots included."""
        return self._sent - self._older(now) + self.open

    def state(self) -> RuleState:
        """Return everything remembered; the caller stores `limit`, `jitter` and `open`."""
        return RuleState(self._sent, self._latest, tuple(self._recent), tuple(self._lines))

    def restore(self, state: RuleState) -> None:
        """Restore what another rule of the same quota remembered."""
        self._sent, self._latest = state.sent, state.latest
        self._recent = deque(_Departures(*entry) for entry in state.recent)
        self._lines = deque(_Line(*entry) for entry in state.lines)
        self._cached = None

    def revised(
        self, now: float, requests: int, window: float, jitter: float, *, max_jitter: float
    ) -> Rule:
        """Return a rule with other terms whose history allows no more than this one's.

        What left before the last window is remembered only as far as it bound under the old
        terms. It is taken to have left at the end of each window before, `requests` at a time:
        as late and as many as the old terms allowed.
        """
        revised = Rule(requests, window, jitter, max_jitter=max_jitter)
        revised.open = self.open
        older = self._older(now)
        if now < self._latest + 2 * window + max_jitter:
            lumps = ceil((2 * window + max_jitter) / self._window)
            counts = [max(min(older - self._requests * i, self._requests), 0) for i in range(lumps)]
            for age in range(lumps, 0, -1):
                if counts[age - 1]:
                    revised.send(min(now - age * self._window, self._latest), counts[age - 1])
        recent = [one for one in self._recent if one.before >= older]
        for one, following in pairwise([*recent, _Departures(now, self._sent)]):
            revised.send(one.time, following.before - one.before)
        return revised

    def _highest(self, now: float, ahead: int) -> float:
        """Return the highest line for the request after `ahead` others, without `W + D`."""
        index = self._sent + self.open + ahead + 1 - self.limit
        if not ahead and self._cached is not None and self._cached[0] == index:
            return self._cached[1]
        window = self._window
        best = float("-inf")
        for boundary, departed, slope in reversed(self._lines):
            if departed < index:
                # The departures since fill the limit by themselves. So they do at all older
                # boundaries, and the one `W` after the oldest of them binds for longer.
                break
            fall = slope * (departed - index)
            if fall < window and boundary - fall > best:
                best = boundary - fall
        for time, before in self._recent:
            if before >= index:
                break
            if ahead and time + window > now:
                # Less is known: those ahead may leave before this boundary. The limit alone holds.
                best = max(best, time)
                continue
            # The boundary just below `W` after these. It binds only now that nothing that has left
            # since then fits beside the new request.
            fall = window / (self._sent - before) * (self._sent - index)
            best = max(best, time + window - fall)
        if not ahead:
            self._cached = (index, best)
        return best

    def _older(self, now: float) -> int:
        """Return how many left before the window that ends now."""
        for time, before in self._recent:
            if time + self._window > now:
                return before
        return self._sent

    def _add_line(self, boundary: float, departed: int, previous: int) -> None:
        self._lines.append(_Line(boundary, departed, self._window / previous))
