"""How far a job is: figures for displays and for the summary."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Ending", "Progress", "Summary"]

Ending = Literal["complete", "incomplete", "budget", "stopped", "interrupted"]

# Rates are of so many seconds.
RATE_WINDOW = 10.0
# The time that is left is told from the results of so many seconds.
FORECAST_WINDOW = 60.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a job.

    Attributes:
        ending: `complete`: every prompt has its image. `incomplete`: some failed or were
            filtered, the others are done. `budget`: it is spent. `stopped`: the job could not go
            on, `error` says why. `interrupted`: all that was in flight was brought in.
        total: Images that the prompt file asks for.
        done: Made by this run.
        skipped: Made by runs before.
        failed: Without an image, and not to be tried again by itself.
        filtered: Blurred by the content filter.
        credits: Spent by this run.
        requests: Sent by this run, every attempt.
        rate_limited: 429 answers to this run.
        maybe_billed: Attempts of this run that may have been billed without an image coming.
        seconds: How long this run took.
        peak_in_flight: The most requests that were on their way at one time.
        error: Why the job could not go on.
    """

    ending: Ending
    total: int
    done: int
    skipped: int
    failed: int
    filtered: int
    credits: float
    requests: int
    rate_limited: int
    maybe_billed: int
    seconds: float
    peak_in_flight: int
    error: str | None = None


@dataclass(slots=True)
class Progress:
    """Figures that change while a job runs; times are those of the event loop, seconds.

    Attributes:
        started: When the run began.
        phase: What the job is doing.
        total, done, skipped, failed, filtered: As in `Summary`, so far.
        in_flight: Requests that left and are not answered in full.
        peak_in_flight: The most of them at one time.
        requests, rate_limited, maybe_billed, credits: As in `Summary`, so far.
        spent: Credits of the whole job, the runs before included.
        budget: Credits it may spend; `None` is no limit.
        failures: Failed ones, by reason.
    """

    started: float
    phase: Literal["checking", "running", "stopping"] = "checking"
    total: int = 0
    done: int = 0
    skipped: int = 0
    failed: int = 0
    filtered: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    requests: int = 0
    rate_limited: int = 0
    maybe_billed: int = 0
    credits: float = 0.0
    spent: float = 0.0
    budget: float | None = None
    failures: Counter[str] = field(default_factory=Counter)
    _departures: deque[float] = field(default_factory=deque)
    _results: deque[float] = field(default_factory=deque)

    @property
    def settled(self) -> int:
        """How many images are decided."""
        return self.done + self.skipped + self.failed + self.filtered

    def left(self, now: float) -> None:
        """Count a request that leaves."""
        self.requests += 1
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        _add(self._departures, now, RATE_WINDOW)

    def settle(self, now: float) -> None:
        """Note the time of a result."""
        _add(self._results, now, FORECAST_WINDOW)

    def request_rate(self, now: float) -> float:
        """Give the requests per second of the last seconds."""
        return _recent(self._departures, now, RATE_WINDOW) / RATE_WINDOW

    def seconds_left(self, now: float) -> float | None:
        """Tell how long the rest will take at the present pace; `None` before there is one."""
        results = _recent(self._results, now, FORECAST_WINDOW)
        if not results:
            return None
        return (self.total - self.settled) * min(FORECAST_WINDOW, now - self.started) / results


def _add(times: deque[float], now: float, window: float) -> None:
    """Add a time and forget those before the window: nobody may ever look."""
    _recent(times, now, window)
    times.append(now)


def _recent(times: deque[float], now: float, window: float) -> int:
    while times and times[0] <= now - window:
        times.popleft()
    return len(times)
