"""The progress of a job: figures for displays and for the summary."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from stable_async.jobs.budget import Bill

if TYPE_CHECKING:
    from stable_async.jobs.row import Result

__all__ = ["Ending", "Left", "Progress", "Summary"]

Ending = Literal["complete", "incomplete", "budget", "stopped", "interrupted"]

# Rates are averaged over this many seconds.
RATE_WINDOW = 10.0
# The time left is estimated from the results of this many seconds.
FORECAST_WINDOW = 60.0
# Maximum departures and results whose times are in memory: more than any account allows in a
# window.
MOST_TIMES = 20_000


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of a job.

    Attributes:
        ending: `complete`: every row has its image. `incomplete`: some failed, were filtered or are
            in doubt, the others are done. `budget`: it is spent. `stopped`: the job could not
            continue; `error` says why. `interrupted`: the user stopped it; all that was in flight
            was finished.
        total: Images that the prompt file asks for.
        done: Images made by this run.
        skipped: Images made by earlier runs.
        failed: Rows refused for good.
        again: Rows that failed without being billed: the next run sends them.
        in_doubt: Rows that may have been billed and have no image: sent again only on request.
        filtered: Images blurred by the content filter.
        missing: Images that arrived and whose files are gone.
        credits: Credits spent by this run.
        spent: Credits spent by all runs of the job.
        credits_in_doubt: Credits of all runs that may have been billed without an image.
        requests: Requests sent by this run, every attempt.
        rate_limited: 429 answers to this run.
        seconds: How long this run took.
        peak_in_flight: Maximum number of requests in flight.
        error: Why the job could not continue.
    """

    ending: Ending
    total: int
    done: int
    skipped: int
    failed: int
    again: int
    in_doubt: int
    filtered: int
    missing: int
    credits: float
    spent: float
    credits_in_doubt: float
    requests: int
    rate_limited: int
    seconds: float
    peak_in_flight: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """What a run leaves for the next one to send.

    Attributes:
        rows: How many.
        credits: Their price, as far as it is known.
        parts: How many parts share the budget evenly; `None` where they spend one together, of
            which this one knows only its own charges.
    """

    rows: int = 0
    credits: float = 0.0
    parts: int | None = 1


@dataclass(slots=True)
class Progress:
    """Figures that change while a job runs; times are in seconds of the event loop's clock.

    Attributes:
        started: When the run began.
        phase: What the job is doing now.
        store: URL of the images, if they are in a bucket.
        total, done, skipped, failed, again, in_doubt, filtered: As in `Summary`, so far.
        in_flight: Requests that have left and whose answer is not complete.
        peak_in_flight: Maximum in flight at any time.
        requests, rate_limited: As in `Summary`, so far.
        bill: The charges of the whole job, earlier runs included.
        budget: Credits it may spend; `None` is no limit.
        failures: Rows without an image, by reason.
        missing: As in `Summary`, as far as files have been checked.
        outage: The last error of the network while nothing leaves; otherwise `None`.
    """

    started: float
    phase: Literal["opening", "checking", "running", "stopping"] = "opening"
    store: str | None = None
    total: int = 0
    done: int = 0
    skipped: int = 0
    failed: int = 0
    again: int = 0
    in_doubt: int = 0
    filtered: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    requests: int = 0
    rate_limited: int = 0
    bill: Bill = field(default_factory=Bill)
    budget: float | None = None
    failures: Counter[str] = field(default_factory=Counter)
    missing: int = 0
    outage: str | None = None
    _departures: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_TIMES))
    _results: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_TIMES))
    # Requests and 429 answers by second since 1970, until they are returned.
    _by_second: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def without_image(self) -> int:
        """The number of rows that are settled without a good image."""
        return self.failed + self.again + self.in_doubt + self.filtered

    @property
    def settled(self) -> int:
        """The number of rows that are settled."""
        return self.done + self.skipped + self.without_image

    def left(self, now: float) -> dict[int, tuple[int, int]]:
        """Count a request that leaves.

        Returns:
            Once a second, what `take_departures` returns, of the seconds that are over.
        """
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        self._departures.append(now)
        over = {} if int(time.time()) in self._by_second else self.take_departures()
        self.count(requests=1)
        return over

    def count(self, *, requests: int = 0, rate_limited: int = 0) -> None:
        """Count requests that leave in this second, or have not left after all, and 429 answers."""
        self.requests += requests
        self.rate_limited += rate_limited
        second = int(time.time())
        before = self._by_second.get(second, (0, 0))
        self._by_second[second] = (before[0] + requests, before[1] + rate_limited)

    def take_departures(self) -> dict[int, tuple[int, int]]:
        """Return, once, the requests and 429 answers of every second since 1970 that had any."""
        taken, self._by_second = self._by_second, {}
        return taken

    def settle(self, result: Result, now: float) -> None:
        """Count the result of an attempt."""
        match result.state:
            case "done":
                self.done += 1
            case "filtered":
                self.filtered += 1
            case "failed":
                self.failed += 1
            case "again":
                self.again += 1
            case "in doubt":
                self.in_doubt += 1
            case _:
                return
        if result.reason is not None:
            self.failures[result.reason] += 1
        self._results.append(now)

    def request_rate(self, now: float) -> float:
        """Return the requests per second over the last seconds."""
        return _recent(self._departures, now, RATE_WINDOW) / RATE_WINDOW

    def seconds_left(self, now: float) -> float | None:
        """Return how long the rest will take at the current pace; `None` while that is unknown."""
        results = _recent(self._results, now, FORECAST_WINDOW)
        if not results:
            return None
        return (self.total - self.settled) * min(FORECAST_WINDOW, now - self.started) / results


def _recent(times: deque[float], now: float, window: float) -> int:
    """Forget the times before the window, and count the others."""
    while times and times[0] <= now - window:
        times.popleft()
    return len(times)
