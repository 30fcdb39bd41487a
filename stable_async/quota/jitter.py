"""The jitter allowance, measured: how much the delays from departure to arrival differ. Pure.

What breaks a quota is not one late request but several in a row: those that a stall holds back
arrive together with the ones behind them. So lateness counts above the start only if neighbouring
delays share it, and most of the time. Below the start there is less room, and a stall that comes
every half a minute must have had many occasions to show: there every single delay of ten minutes
counts. docs/quota.md says what was simulated.
"""

from __future__ import annotations

from collections import deque
from math import inf
from statistics import median_low
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["JitterDump", "JitterEstimator"]

# Bounds of the allowance, seconds. Below the lower one a server's own hiccups decide; above the
# upper one stragglers cost less as a rare penalty than as a part of every second.
LEAST = 0.18
MOST = 1.0

# Delays are summed up by periods of this length, seconds, and so many periods are remembered, for
# no longer than `FORGET` seconds.
PERIOD = 30.0
PERIODS = 20
FORGET = 3600.0

# A period with so many delays shows a stall of a fifth of a second wherever in it the stall was.
DENSE = 150
# With so many it shows how much the delays usually differ.
ENOUGH = 50

# So many delays in a row must be late together, and in most of so many periods, to count above the
# start.
NEIGHBOURS = 4
RECENT = 5

# What was measured is raised by a factor and these seconds: the worst is yet to be seen. Below the
# start a stall twice as long as the longest of ten minutes must still do no harm.
FACTOR_ABOVE = 1.25
FACTOR_BELOW = 2.0
CUSHION = 0.02


class _Period(NamedTuple):
    """The delays of one period, seconds.

    Attributes:
        period: The time divided by `PERIOD`.
        delays: How many there were.
        lowest: The shortest.
        highest: The longest.
        together: The longest that `NEIGHBOURS` in a row exceeded or had.
    """

    period: int
    delays: int = 0
    lowest: float = inf
    highest: float = -inf
    together: float = -inf


# What `dump` returns: allowance, start, least; then the periods and the latest delays of round
# trips, and of set-ups.
_Kind = tuple["Sequence[Sequence[float]]", "Sequence[float]"]
JitterDump = tuple[float, float, float, _Kind, _Kind]


class JitterEstimator:
    """Follows the jitter of measured delays, within bounds.

    The allowance starts at the configured value. It rises when neighbouring delays differ by more
    most of the time, and falls below the start once ten minutes of dense measurements show that
    it may. The set-up of connections only proves that more is needed: behind a proxy it is quick
    while requests are slow. What a refusal proved to be needed stays allowed.

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
        """Jitter of the remembered delays, every single one counted, seconds."""
        return max(self._round_trips.jitter(), self._set_ups.jitter())

    def dump(self) -> JitterDump:
        """Return all that is remembered, to be stored or sent."""
        round_trips, set_ups = self._round_trips.dump(), self._set_ups.dump()
        return self.current, self._start, self._least, round_trips, set_ups

    def load(self, dumped: JitterDump) -> None:
        """Restore what `dump` returned."""
        self.current, self._start, self._least, round_trips, set_ups = dumped
        self._round_trips, self._set_ups = _Delays(*round_trips), _Delays(*set_ups)

    def observe(self, now: float, delay: float, *, set_up: bool = False) -> None:
        """Add the round trip of a cheap request, or with `set_up` the set-up of a connection."""
        (self._set_ups if set_up else self._round_trips).add(now, delay)
        usual = max(self._round_trips.usual(), self._set_ups.usual())
        needed = usual * FACTOR_ABOVE + CUSHION
        least = self._start
        if self._round_trips.is_evidence():
            least = min(max(self.measured * FACTOR_BELOW + CUSHION, self._least), self._start)
        self.current = min(max(needed, least), self.most)

    def widen(self) -> bool:
        """Allow for all that was measured, for good; return whether that is more than before."""
        needed = min(self.measured, self.most)
        if needed <= self.current:
            return False
        self.current = self._least = self._start = needed
        return True


class _Delays:
    """The delays of one kind, by periods."""

    def __init__(
        self, periods: Iterable[Sequence[float]] = (), latest: Iterable[float] = ()
    ) -> None:
        self._periods = deque(
            (_Period(int(number), int(count), *rest) for number, count, *rest in periods),
            PERIODS + 1,
        )
        self._latest = deque(latest, NEIGHBOURS)

    def dump(self) -> _Kind:
        return list(self._periods), list(self._latest)

    def add(self, now: float, delay: float) -> None:
        number = int(now // PERIOD)
        periods = self._periods
        if not periods or periods[-1].period < number:
            while periods and periods[0].period < number - FORGET / PERIOD:
                periods.popleft()
            periods.append(_Period(number))
        self._latest.append(delay)
        together = min(self._latest) if len(self._latest) == NEIGHBOURS else -inf
        last = periods[-1]
        periods[-1] = _Period(
            last.period,
            last.delays + 1,
            min(last.lowest, delay),
            max(last.highest, delay),
            max(last.together, together),
        )

    def jitter(self) -> float:
        """Return the longest less the shortest."""
        if not self._periods:
            return 0.0
        return max(one.highest for one in self._periods) - self._lowest()

    def usual(self) -> float:
        """Return by how much neighbouring delays exceed the shortest, in most of the periods."""
        together = [one.together for one in self._periods if one.delays >= ENOUGH]
        return max(median_low(together[-RECENT:]) - self._lowest(), 0.0) if together else 0.0

    def is_evidence(self) -> bool:
        """Return whether there are enough of them, for long enough, to show what is not there."""
        if len(self._periods) <= PERIODS:
            return False
        return all(self._periods[place].delays >= DENSE for place in range(PERIODS))

    def _lowest(self) -> float:
        return min(one.lowest for one in self._periods)
