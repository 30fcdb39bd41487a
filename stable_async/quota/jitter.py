"""The measured jitter allowance: how much the delays from departure to arrival differ. Pure.

What breaks a quota is not one late request but several in a row: those that a stall holds back
arrive together with the ones behind them. So lateness counts above the start only if neighbouring
delays share it, and most of the time. Below the start there is less room, and a stall that comes
every half minute must have had many occasions to show: there every single delay of ten minutes
counts. docs/quota.md says what was simulated.
"""

from __future__ import annotations

from collections import deque
from math import inf
from statistics import median_low
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "DelayHistory",
    "Delays",
    "JitterDump",
    "JitterEstimator",
    "Measured",
    "allowance",
    "jitter_of",
    "neutral",
]

# Bounds of the allowance, seconds. Below the lower one, hiccups of the server dominate; above the
# upper one, stragglers cost less as a rare penalty than as a part of every second.
LEAST = 0.18
MOST = 1.0

# Delays are summarised by periods of this length, seconds; this many periods are remembered, for no
# longer than `FORGET` seconds.
PERIOD = 30.0
PERIODS = 20
FORGET = 3600.0

# A period with this many delays shows a stall of a fifth of a second anywhere in it.
DENSE = 150
# With this many it shows how much the delays usually differ.
ENOUGH = 50

# This many delays in a row must be late together, in most of this many periods, to count above the
# start.
NEIGHBOURS = 4
RECENT = 5

# Measurements are raised by a factor and these seconds, since the worst may be yet to come. Below
# the start a stall twice as long as the longest of ten minutes must still do no harm.
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


class Delays(TypedDict):
    """The delays of one kind that one process has measured, seconds.

    Attributes:
        lowest: The shortest.
        highest: The longest.
        together: What neighbouring delays usually reach: the median of the latest periods.
        dense: Minimum number of delays in a period; 0 before there are enough periods.
    """

    lowest: float
    highest: float
    together: float
    dense: int


class Measured(TypedDict, total=False):
    """The measurements of one process; a kind without measurements is absent.

    Attributes:
        round_trips: The round trips of cheap requests.
        set_ups: The set-ups of connections.
    """

    round_trips: Delays
    set_ups: Delays


def jitter_of(
    measured: Sequence[Measured], upper: Literal["highest", "together"] = "highest"
) -> float:
    """Return how much the delays of all processes differ, seconds.

    One host's own delays differ by less than those of hosts near and far.
    """
    jitter = 0.0
    for kind in ("round_trips", "set_ups"):
        known = [one[kind] for one in measured if kind in one]
        if known:
            lowest = min(delays["lowest"] for delays in known)
            jitter = max(jitter, max(delays[upper] for delays in known) - lowest)
    return jitter


def allowance(measured: Sequence[Measured], start: float, least: float) -> float:
    """Return the allowance for the delays of all processes, seconds, without an upper bound.

    Args:
        measured: What each process has measured.
        start: The configured allowance, or what a refusal proved to be needed, seconds.
        least: Lower bound, seconds.
    """
    counts = [one["round_trips"]["dense"] if "round_trips" in one else 0 for one in measured]
    # Below the start only if each process has measured for long, and all together enough.
    if sum(counts) >= DENSE and min(counts) > 0:
        start = min(max(jitter_of(measured) * FACTOR_BELOW + CUSHION, least), start)
    return max(jitter_of(measured, "together") * FACTOR_ABOVE + CUSHION, start)


# What `dump` returns: allowance, start, least; then the periods and the latest delays of round
# trips, and of set-ups.
_Kind = tuple["Sequence[Sequence[float]]", "Sequence[float]"]
JitterDump = tuple[float, float, float, _Kind, _Kind]


def neutral(start: float) -> float:
    """Return by how much a delay may exceed the shortest and leave the allowance at `start`."""
    return max(start - CUSHION, 0.0) / FACTOR_ABOVE


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
        self._history = DelayHistory()

    @property
    def measured(self) -> float:
        """Jitter of the remembered delays, every single one counted, seconds."""
        return jitter_of([self._history.summary()])

    def dump(self) -> JitterDump:
        """Return everything remembered, to be stored or sent."""
        return self.current, self._start, self._least, *self._history.dump()

    def load(self, dumped: JitterDump) -> None:
        """Restore what `dump` returned."""
        self.current, self._start, self._least, *kinds = dumped
        self._history = DelayHistory(*kinds)

    def observe(self, now: float, delay: float, *, set_up: bool = False) -> None:
        """Add the round trip of a cheap request, or with `set_up` the set-up of a connection."""
        self._history.add(now, delay, set_up=set_up)
        needed = allowance([self._history.summary()], self._start, self._least)
        self.current = min(needed, self.most)

    def widen(self) -> bool:
        """Permanently allow for all measured delays; return whether that is more than before."""
        needed = min(self.measured, self.most)
        if needed <= self.current:
            return False
        self.current = self._least = self._start = needed
        return True


class DelayHistory:
    """The delays that one process has measured, by periods."""

    def __init__(self, round_trips: _Kind = ((), ()), set_ups: _Kind = ((), ())) -> None:
        """Start with none, or with what `dump` returned."""
        self._round_trips, self._set_ups = _Delays(*round_trips), _Delays(*set_ups)

    def dump(self) -> tuple[_Kind, _Kind]:
        """Return everything remembered, to be stored or sent."""
        return self._round_trips.dump(), self._set_ups.dump()

    def add(self, now: float, delay: float, *, set_up: bool) -> None:
        """Add the round trip of a cheap request, or with `set_up` the set-up of a connection."""
        (self._set_ups if set_up else self._round_trips).add(now, delay)

    def summary(self, enough: int = ENOUGH) -> Measured:
        """Return the summary.

        Args:
            enough: Minimum number of delays of a period that shows how much they usually differ.
        """
        measured = Measured()
        if round_trips := self._round_trips.summary(enough):
            measured["round_trips"] = round_trips
        if set_ups := self._set_ups.summary(enough):
            measured["set_ups"] = set_ups
        return measured


class _Delays:
    """The delays of one kind, by periods."""

    def __init__(self, periods: Iterable[Sequence[float]], latest: Iterable[float]) -> None:
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

    def summary(self, enough: int) -> Delays | None:
        periods = self._periods
        if not periods:
            return None
        lowest = min(one.lowest for one in periods)
        together = [one.together for one in periods if one.delays >= enough][-RECENT:]
        # The last period is not over yet.
        dense = min(one.delays for one in [*periods][:-1]) if len(periods) > PERIODS else 0
        return Delays(
            lowest=lowest,
            highest=max(one.highest for one in periods),
            together=max(median_low(together), lowest) if together else lowest,
            dense=dense,
        )
