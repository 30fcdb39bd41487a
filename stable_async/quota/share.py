"""Our share of the ceiling: all of it, until somebody else is found to use the same key."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Share"]

# A refusal that our own count does not explain leaves us this part of what we had, and never less
# than `LEAST` of the ceiling.
CUT = 0.75
LEAST = 0.1

# Won back per second, as a part of the ceiling: one hundredth a minute. A further refusal costs a
# whole shut-out, so trying again sooner would cost more than it wins.
WON_BACK = 0.01 / 60


@dataclass(slots=True)
class Share:
    """The part of the ceiling that we use.

    Attributes:
        value: The part at `since`, above 0, at most 1.
        since: When it begins to grow again, seconds.
    """

    value: float = 1.0
    since: float = 0.0

    def at(self, now: float) -> float:
        """Give the share at `now`, above 0, at most 1."""
        if self.value == 1.0:
            return 1.0
        return min(self.value + max(now - self.since, 0.0) * WON_BACK, 1.0)

    def cut(self, now: float, until: float) -> None:
        """Take less, and win it back from `until` on."""
        self.value = max(self.at(now) * CUT, LEAST)
        self.since = until
