"""One simulated account: its quota, bill, results, faults and log."""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

from stable_async.sandbox.billing import Bill
from stable_async.sandbox.counting import KeyQuotas
from stable_async.sandbox.faults import Faults
from stable_async.sandbox.request_log import RequestLog, Statistics
from stable_async.sandbox.results import ResultStore

if TYPE_CHECKING:
    from stable_async.sandbox.clock import Clock
    from stable_async.sandbox.settings import SandboxSettings

__all__ = ["Account"]

THUMBNAILS = 64


class Account:
    """The state of an account. A reset creates a new one."""

    def __init__(self, settings: SandboxSettings, clock: Clock) -> None:
        """Start with an empty quota and the settings' credits."""
        self.settings = settings
        self.clock = clock
        self.faults: Faults = Faults(clock.now, settings.seed)
        self.log: RequestLog = RequestLog()
        self.counts: Statistics = Statistics()
        self.bill: Bill = Bill(settings.credits, settings.balance_lag)
        self.results: ResultStore = ResultStore()
        self.thumbnails: OrderedDict[int, bytes] = OrderedDict()
        self.random: random.Random = random.Random(settings.seed)  # noqa: S311
        phase = self.random.uniform(0, settings.window)
        self.quota: KeyQuotas = KeyQuotas(
            settings.counting, settings.requests, settings.window, settings.penalty, phase
        )

    def balance(self) -> float:
        """Return the credits that the balance endpoint shows."""
        return 0.0 if self.faults.exhausted else self.bill.balance(self.clock.now())

    def left(self) -> float:
        """Return the credits that are left."""
        return 0.0 if self.faults.exhausted else self.bill.left

    def begin(self) -> int:
        """Count a request in, and return its number."""
        counts = self.counts
        counts.requests += 1
        counts.in_flight += 1
        counts.peak_in_flight = max(counts.peak_in_flight, counts.in_flight)
        return counts.requests

    def statistics(self) -> Statistics:
        """Return the figures since the start or the last reset."""
        return replace(
            self.counts,
            answered=dict(sorted(self.counts.answered.items())),
            edge_faults=dict(sorted(self.counts.edge_faults.items())),
            most_in_window=self.quota.most(),
            credits_spent=self.bill.spent,
            credits_left=self.left(),
        )

    def penalty(self, seconds: float) -> None:
        """Refuse the requests of every key for this many seconds from now."""
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"seconds is {seconds!r}; allowed: 0 or more")
        self.quota.penalise_all(self.clock.now() + seconds)

    def clear(self) -> None:
        """Remove every fault, the penalty of all keys included."""
        self.faults.clear()
        self.quota.penalise_all(float("-inf"))

    def keep_thumbnail(self, number: int, thumbnail: bytes) -> None:
        """Store the thumbnail of a request for the page."""
        if thumbnail:
            self.thumbnails[number] = thumbnail
            while len(self.thumbnails) > THUMBNAILS:
                self.thumbnails.popitem(last=False)

    def draw_id(self, length: int) -> str:
        """Return a random hexadecimal id."""
        return f"{self.random.getrandbits(length * 4):0{length}x}"
