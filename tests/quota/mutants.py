"""Rules that are wrong in one point each; the suite must catch every one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stable_async.quota import Rule

if TYPE_CHECKING:
    from collections.abc import Callable


class _WindowOnly(Rule):
    """`W` instead of `W + D`."""

    def __init__(self, requests: int, window: float, jitter: float) -> None:
        super().__init__(requests, window, 0.0)


class _NoPhases(Rule):
    """A sliding log over `W + D`: right for three of the four ways of counting."""

    def earliest(self, now: float, ahead: int = 0) -> float:
        if self.open >= self.limit:
            return super().earliest(now, ahead)
        index = self._sent + self.open + 1 - self.limit
        times = [time for time, before in self._history if before < index]
        return max(times, default=-1.0) + self._window + self.jitter

    def __init__(self, requests: int, window: float, jitter: float) -> None:
        super().__init__(requests, window, jitter)
        self._history: list[tuple[float, int]] = []

    def send(self, now: float, count: int = 1) -> None:
        self._history = [*self._history, (now, self._sent)][-self._requests - 1 :]
        super().send(now, count)


class _OpenIgnored(Rule):
    """Open slots do not count until they are marked."""

    def earliest(self, now: float, ahead: int = 0) -> float:
        held, self.open = self.open, 0
        try:
            return super().earliest(now, ahead)
        finally:
            self.open = held


class _SentWithThePermit(_OpenIgnored):
    """A request counts as sent when it gets its permit, however long it takes to leave."""

    def earliest(self, now: float, ahead: int = 0) -> float:
        earliest = super().earliest(now, ahead)
        if earliest <= now:
            super().send(now)
        return earliest

    def send(self, now: float, count: int = 1) -> None:
        pass


class _ItselfForgotten(Rule):
    """The request that asks does not count."""

    def earliest(self, now: float, ahead: int = 0) -> float:
        self.limit = self._requests + 1
        return super().earliest(now, ahead)


class _OnlyBelowDepartures(Rule):
    """No boundaries just below `W` after a departure, neither past nor to come."""

    def _add_line(self, boundary: float, departed: int, previous: int) -> None:
        if boundary == self._latest:
            super()._add_line(boundary, departed, previous)

    def _highest(self, now: float, ahead: int) -> float:
        recent, self._recent = self._recent, type(self._recent)()
        try:
            return super()._highest(now, ahead)
        finally:
            self._recent = recent


class _OnlyAfterDepartures(Rule):
    """No boundaries just below a departure."""

    def _add_line(self, boundary: float, departed: int, previous: int) -> None:
        if boundary < self._latest:
            super()._add_line(boundary, departed, previous)


class _NothingToCome(Rule):
    """Boundaries still to come are left out."""

    def _highest(self, now: float, ahead: int) -> float:
        recent, self._recent = self._recent, type(self._recent)()
        try:
            return super()._highest(now, ahead)
        finally:
            self._recent = recent


class _ShortMemory(Rule):
    """Boundaries are forgotten `D` too early."""

    def __init__(self, requests: int, window: float, jitter: float) -> None:
        super().__init__(requests, window, jitter)
        self._memory = window


class _HalfWeight(Rule):
    """The window before counts half."""

    def _add_line(self, boundary: float, departed: int, previous: int) -> None:
        super()._add_line(boundary, departed, max(previous // 2, 1))


class _BinsTooEarly(Rule):
    """A bin counts at the time of its first departure."""

    def send(self, now: float, count: int = 1) -> None:
        width = self._window / 16
        if now <= self._latest + width:
            self._cached = None
            self._sent += count
            return
        self._bin = 0.0
        super().send(now, count)


MUTANTS: dict[str, Callable[[int, float, float], Rule]] = {
    "W instead of W + D": _WindowOnly,
    "no phases": _NoPhases,
    "open slots ignored": _OpenIgnored,
    "sent with the permit": _SentWithThePermit,
    "itself forgotten": _ItselfForgotten,
    "only boundaries below departures": _OnlyBelowDepartures,
    "no boundaries below departures": _OnlyAfterDepartures,
    "no boundaries to come": _NothingToCome,
    "forgotten too early": _ShortMemory,
    "half the weight": _HalfWeight,
    "bins counted too early": _BinsTooEarly,
}
