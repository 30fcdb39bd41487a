"""The flow beyond the rule: shut-outs, those who wait, and bulk beside interactive requests."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Flow"]

# How long the first request after a shut-out goes alone, seconds: a refusal comes back within it.
PROBE = 1.0

# How much of a delay is made good, seconds: timers and busy event loops are late by less.
CATCH_UP = 0.05

# By how much bulk requests may be ahead of the even flow while interactive ones are about, as a
# part of a window. The others may be locked out for that long at its end: after a burst of the
# whole ceiling it would be for all of it. Throughput is the same.
BULK_BURST = 0.03

# Interactive requests are about for this many windows after the last one asked.
COMPANY = 6

NEVER = float("-inf")


@dataclass(slots=True)
class Flow:
    """When requests may leave as far as the rule does not say.

    During a shut-out nobody leaves; after it one goes ahead alone. Otherwise requests that need
    not wait leave at once, and those that wait leave evenly, at the rate that can be kept up: the
    rule would let them go a little faster and then make them pause, which wins nothing and leaves
    less room for requests that arrive late. While interactive requests are about, bulk ones leave
    only as long as the total keeps to that rate.

    Attributes:
        window: The server's window, seconds.
        interval: Time between two departures at the rate that can be kept up, seconds.
        until: End of the last shut-out, seconds; minus infinity before the first.
        probe_due: Nobody has left since the shut-out began.
        next: When the next of those who wait is due, seconds.
        waiting: The next one to leave has had to wait.
        bulk_due: When the total allows a bulk request beside interactive ones, seconds.
        company_until: How long interactive requests are taken to be about, seconds.
    """

    window: float
    interval: float
    until: float = NEVER
    probe_due: bool = False
    next: float = NEVER
    waiting: bool = False
    bulk_due: float = NEVER
    company_until: float = NEVER

    def shut_out(self, until: float) -> None:
        """Let nobody leave until then, or until the end of a shut-out that lasts longer."""
        self.until = max(self.until, until)
        self.probe_due = True

    def earliest(self, now: float, ahead: int = 0) -> float:
        """Give the time from which a request with `ahead` others before it may leave."""
        if self.probe_due:
            start = max(now, self.until)
            return start + PROBE + (ahead - 1) * self.interval if ahead else start
        return self.next + ahead * self.interval if self.next > now else self.next

    def earliest_bulk(self, now: float) -> float:
        """Give the time from which interactive requests leave room for a bulk one."""
        return self.bulk_due if now < self.company_until else NEVER

    def leave(self, now: float) -> bool:
        """Note that a request leaves now; say whether it is the first since a shut-out."""
        probe = self.probe_due
        if probe:
            self.next = now + PROBE
        elif self.waiting:
            self.next = max(self.next, now - CATCH_UP) + self.interval
        self.bulk_due = max(self.bulk_due, now - BULK_BURST * self.window) + self.interval
        self.probe_due = self.waiting = False
        return probe
