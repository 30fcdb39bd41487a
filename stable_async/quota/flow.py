"""What refusals and waiting change about when a request may leave, besides the rule. Pure.

`QuotaState` and `CentralState` keep one each; quota.lua computes the same. Times are seconds on the
clock of the state that keeps it.
"""

from __future__ import annotations

from math import inf

__all__ = ["BULK_TURN", "COMPANY", "MAKE_UP", "Flow"]

# While both wait, every eighth permit at least goes to a bulk request: their floor is 12.5 %.
BULK_TURN = 8

# How long the first request after a penalty goes alone, seconds: a refusal arrives within it.
PROBE = 1.0

# How much of what a late event loop has lost is made up at most, in windows. The rule holds all the
# same.
MAKE_UP = 1.0

# How far bulk requests may be ahead of the even flow while interactive ones are expected, as a part
# of a window. At its end interactive requests may have to wait for that long; after a burst of the
# whole limit they would wait for all of it. Throughput is the same.
BULK_BURST = 0.03

# For this many windows after the last interactive request, more of them are expected.
COMPANY = 6

# After a refusal that our own count does not explain, this part of our share is left, and never
# less than `LEAST_SHARE` of the limit.
CUT = 0.75
LEAST_SHARE = 0.1

# The part of the limit regained per second: one hundredth a minute. A further refusal costs a whole
# penalty, so that regaining it faster would cost more than it gains.
REGAINED = 0.01 / 60


class Flow:
    """The penalty and the share that refusals lead to, and the even flow of those that wait.

    Attributes:
        interval: Seconds between two requests at the sustainable rate.
        next: When the next waiting request may leave.
        bulk_due: When the total allows a bulk request while interactive ones are expected.
        company_until: How long interactive requests are expected.
        passed_over: Interactive requests that left since the last bulk one while bulk ones waited
            elsewhere.
        penalty_until: When the penalty ends.
        probe_due: Whether the probe is still to leave: one request after a penalty goes alone.
        probe: The slot of the latest probe; `None` before the first.
        refusals: 429 answers so far.
        share: Our share of the limit at `share_since`; from then on it grows.
        share_since: See `share`.
    """

    def __init__(self) -> None:
        """Start without refusals."""
        self.interval: float  # set by `use`
        self.next: float = -inf
        self.bulk_due: float = -inf
        self.company_until: float = -inf
        self.passed_over: int = 0
        self.penalty_until: float = -inf
        self.probe_due: bool = False
        self.probe: object = None
        self.refusals: int = 0
        self.share: float = 1.0
        self.share_since: float = 0.0
        self._window: float  # set by `use`

    def use(self, now: float, requests: int, window: float, jitter: float) -> int:
        """Set the rate for the share of now; return the limit: requests per window.

        Args:
            now: The time, seconds.
            requests: The server's limit.
            window: The server's window, seconds.
            jitter: Jitter allowance, seconds.
        """
        share = self.share_at(now)
        if share == 1.0:
            self.share = 1.0
        limit = max(int(requests * share), 1)
        self._window, self.interval = window, (window + jitter) / limit
        return limit

    def earliest(self, now: float, ahead: int = 0) -> float:
        """Return the time from which a request with `ahead` others before it might leave."""
        if self.probe_due:
            start = max(now, self.penalty_until)
            return start + PROBE + (ahead - 1) * self.interval if ahead else start
        return self.next + ahead * self.interval if self.next > now else self.next

    def leave(
        self, slot: object, at: float, since: float | None, *, evenly: bool, bulk: bool
    ) -> None:
        """Count a request that is to leave.

        Args:
            slot: Its slot.
            at: When it is to leave.
            since: When it could have left, if it has waited: what was lost since then, because
                event loops, processes or messages are late, is made up. `None` if it has not.
            evenly: It waited for the quota, so that the next one that waits leaves an interval
                later.
            bulk: Its priority.
        """
        began = at if since is None else since
        if self.probe_due:
            self.probe, self.probe_due = slot, False
            self.next = at + PROBE
        elif evenly:
            self.next = max(self.next, began) + self.interval
        ahead = (BULK_BURST if bulk else MAKE_UP) * self._window
        self.bulk_due = max(self.bulk_due, began - ahead) + self.interval

    def refuse(
        self, at: float, left: float, retry_after: float | None, penalty: float, slot: object
    ) -> bool:
        """Count a refusal, and begin a penalty unless the last one explains it.

        Args:
            at: When it arrived.
            left: When the refused request left.
            retry_after: The wait that the server asked for, seconds, if it did.
            penalty: The length of a penalty else, seconds.
            slot: The slot of the refused request; `None` if not known.

        Returns:
            Whether neither the last penalty nor the probe after it explains the refusal.
        """
        self.refusals += 1
        explained = left < self.penalty_until
        if explained and retry_after is None:
            return False
        self.begin_penalty(at + (penalty if retry_after is None else retry_after))
        return not explained and (slot is None or slot != self.probe)

    def begin_penalty(self, until: float) -> None:
        """Let nothing leave until a time, and one request alone after it."""
        self.penalty_until = max(self.penalty_until, until)
        self.probe_due = True

    def share_at(self, now: float) -> float:
        """Return our share of the limit, at most 1."""
        return min(self.share + max(now - self.share_since, 0.0) * REGAINED, 1.0)

    def cut_share(self, now: float) -> None:
        """Leave more of the limit to others; it grows back from the end of the penalty."""
        self.share = max(self.share_at(now) * CUT, LEAST_SHARE)
        self.share_since = self.penalty_until
