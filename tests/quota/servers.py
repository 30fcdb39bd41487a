"""Four servers that count, one request after the other, each written as its description says."""

from __future__ import annotations

from typing import Protocol


class Server(Protocol):
    """Counts what arrives."""

    def arrive(self, now: float) -> bool:
        """Return whether the request is served; one that is not does not count."""
        ...


class FixedWindow:
    """A counter that is reset on the clock."""

    def __init__(self, requests: int, window: float, phase: float) -> None:
        self.requests, self.window, self.phase = requests, window, phase
        self.number = -1
        self.count = 0

    def arrive(self, now: float) -> bool:
        number = int((now - self.phase) // self.window)
        if number != self.number:
            self.number, self.count = number, 0
        if self.count + 1 > self.requests:
            return False
        self.count += 1
        return True


class SlidingLog:
    """Every arrival of the last `window` seconds is remembered."""

    def __init__(self, requests: int, window: float) -> None:
        self.requests, self.window = requests, window
        self.times: list[float] = []

    def arrive(self, now: float) -> bool:
        self.times = [time for time in self.times if time > now - self.window]
        if len(self.times) + 1 > self.requests:
            return False
        self.times.append(now)
        return True


class TwoCounters:
    """This window's count, and the last one's weighted by how much of it the sliding one covers."""

    def __init__(self, requests: int, window: float, phase: float) -> None:
        self.requests, self.window, self.phase = requests, window, phase
        self.counts: dict[int, int] = {}

    def arrive(self, now: float) -> bool:
        number = int((now - self.phase) // self.window)
        elapsed = (now - self.phase) - number * self.window
        before = self.counts.get(number - 1, 0)
        current = self.counts.get(number, 0) + 1
        if before * (1 - elapsed / self.window) + current > self.requests:
            return False
        self.counts[number] = current
        return True


class TokenBucket:
    """A token for each request; `requests` at first and at most, refilled evenly."""

    def __init__(self, requests: int, window: float) -> None:
        self.requests, self.rate = requests, requests / window
        self.tokens = float(requests)
        self.last: float | None = None

    def arrive(self, now: float) -> bool:
        if self.last is not None:
            self.tokens = min(self.tokens + (now - self.last) * self.rate, self.requests)
        self.last = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True
