"""The books: who holds a slot, what has left, who is shut out; and the seam for shared ones."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from stable_async.quota.flow import COMPANY, Flow
from stable_async.quota.jitter import SpreadEstimator
from stable_async.quota.rule import Rule
from stable_async.quota.share import Share

if TYPE_CHECKING:
    from stable_async.config import Quota

__all__ = ["Books", "Extract", "MemoryBooks", "Slot"]

logger = logging.getLogger("stable_async.quota")


class Slot:
    """One place in the books.

    Attributes:
        number: Tells it from the other slots of the same books.
        left: When its request left, seconds; `None` while it is open.
    """

    __slots__ = ("left", "number")

    def __init__(self, number: int) -> None:
        """Make an open slot."""
        self.number = number
        self.left: float | None = None


@dataclass(frozen=True, slots=True)
class Extract:
    """What the books say at one moment.

    Attributes:
        open: Requests that have a slot and have not left yet.
        in_window: Requests of the window that ends now, the open ones included.
        requests: The most requests in one window at our present share.
        share: Our part of the ceiling, at most 1.
        spread: Spread allowance, seconds.
        penalty_left: Seconds until the shut-out ends; 0 when there is none.
        refusals: 429 answers so far.
    """

    open: int
    in_window: int
    requests: int
    share: float
    spread: float
    penalty_left: float
    refusals: int


class Books(Protocol):
    """Where slots are counted, for one event loop or for many.

    All methods are synchronous and quick. `now` is in seconds on a clock that all users of the
    books share, such as the machine's monotonic one, and does not decrease.
    """

    def reserve(self, now: float, *, bulk: bool = False) -> Slot | float:
        """Give an open slot, or the time at which to ask again; others may have been faster.

        Args:
            now: The time, seconds.
            bulk: The request is to leave room for interactive ones, if there are any.
        """
        ...

    def stamp(self, slot: Slot, now: float) -> bool:
        """Count the request of an open slot as left now; `False`: it may not leave any more."""
        ...

    def release(self, slot: Slot, now: float) -> None:
        """Take an open slot back: its request never left."""
        ...

    def penalise(self, now: float, retry_after: float | None, slot: Slot | None) -> None:
        """Shut everybody out, for `retry_after` seconds or the quota's penalty.

        Args:
            now: The time of the refusal, seconds.
            retry_after: What the server asked for, seconds.
            slot: The slot of the refused request, if known.
        """
        ...

    def observe(self, delay: float, *, set_up: bool = False) -> None:
        """Take a measured delay, seconds, to adapt the spread allowance."""
        ...

    def earliest(self, now: float, ahead: int = 0) -> float:
        """Give the time from which a request with `ahead` others before it might leave."""
        ...

    def extract(self, now: float) -> Extract:
        """Give the figures of this moment."""
        ...


class MemoryBooks:
    """Books of one event loop, in memory."""

    def __init__(self, quota: Quota) -> None:
        """Open empty books for `quota`."""
        self._quota = quota
        self._spread = SpreadEstimator(quota.spread, quota.window)
        self._rule = Rule(quota.requests, quota.window, quota.spread, max_spread=self._spread.most)
        self._share = Share()
        self._flow = Flow(quota.window, (quota.window + quota.spread) / quota.requests)
        self._slots = 0
        self._probe: Slot | None = None
        self._refusals = 0
        self._warned_of_spread = False

    def reserve(self, now: float, *, bulk: bool = False) -> Slot | float:
        """Give an open slot, or the time at which to ask again."""
        earliest = self.earliest(now)
        if not bulk:
            self._flow.company_until = now + COMPANY * self._quota.window
        if earliest > now:
            self._flow.waiting = True
            return earliest
        if bulk and (room := self._flow.earliest_bulk(now)) > now:
            return room
        self._slots += 1
        slot = Slot(self._slots)
        self._rule.open += 1
        if self._flow.leave(now):
            self._probe = slot
        return slot

    def stamp(self, slot: Slot, now: float) -> bool:
        """Count the request of an open slot as left now."""
        slot.left = now
        self._rule.open -= 1
        self._rule.send(now)
        return True

    def release(self, slot: Slot, now: float) -> None:
        """Take an open slot back: its request never left."""
        self._rule.open -= 1

    def penalise(self, now: float, retry_after: float | None, slot: Slot | None) -> None:
        """Shut everybody out; look for the cause unless the last shut-out explains it."""
        self._refusals += 1
        left = now if slot is None or slot.left is None else slot.left
        known = left < self._flow.until
        if known and retry_after is None:
            return
        self._flow.shut_out(now + (self._quota.penalty if retry_after is None else retry_after))
        if not known and (slot is None or slot is not self._probe):
            self._find_cause(now)

    def observe(self, delay: float, *, set_up: bool = False) -> None:
        """Take a measured delay, seconds; nothing unless the quota is adaptive."""
        if not self._quota.adaptive:
            return
        self._spread.observe(delay, set_up=set_up)
        self._use_spread()

    def earliest(self, now: float, ahead: int = 0) -> float:
        """Give the time from which a request with `ahead` others before it might leave."""
        self._use_share(now)
        return max(self._rule.earliest(now, ahead), self._flow.earliest(now, ahead))

    def extract(self, now: float) -> Extract:
        """Give the figures of this moment."""
        self._use_share(now)
        return Extract(
            open=self._rule.open,
            in_window=self._rule.in_window(now),
            requests=self._rule.limit,
            share=self._share.at(now),
            spread=self._rule.spread,
            penalty_left=max(self._flow.until - now, 0.0),
            refusals=self._refusals,
        )

    def _find_cause(self, now: float) -> None:
        if self._quota.adaptive and self._spread.widen():
            self._use_spread()
            return
        if self._share.value == 1.0:
            logger.warning(
                "429 although our own count is within the quota: somebody else may use the key; "
                "using a smaller share of it, to be won back slowly"
            )
        self._share.cut(now, self._flow.until)

    def _use_spread(self) -> None:
        self._rule.spread = self._spread.current
        self._use_rate()
        if self._rule.spread > self._quota.spread and not self._warned_of_spread:
            self._warned_of_spread = True
            logger.warning(
                "delays differ by more than the %.3g s allowed for; allowing for %.3g s now",
                self._quota.spread,
                self._rule.spread,
            )

    def _use_share(self, now: float) -> None:
        if self._share.value == 1.0:
            return
        share = self._share.at(now)
        if share == 1.0:
            self._share = Share()
            logger.warning("no further refusal: using all of the quota again")
        self._rule.limit = max(int(self._quota.requests * share), 1)
        self._use_rate()

    def _use_rate(self) -> None:
        self._flow.interval = (self._quota.window + self._rule.spread) / self._rule.limit
