"""One part of a job, for one of several machines. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stable_async.errors import ConfigurationError

__all__ = ["WHOLE", "Shard"]

ALLOWED = (
    "allowed: I/N with I from 1 to N; where an index starts at 0, as in Kubernetes, "
    "$((JOB_COMPLETION_INDEX+1))/N"
)


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` of `count`: the rows whose place in the prompt file is congruent to it modulo N.

    Attributes:
        index: From 1 to `count`.
        count: Number of parts; 1 is the whole job.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        """Reject a part that does not exist.

        Raises:
            ConfigurationError: The part does not exist; the message says what is allowed.
        """
        if not 1 <= self.index <= self.count:
            raise ConfigurationError(f"shard is {self}; {ALLOWED}")

    def __str__(self) -> str:
        """Return `I/N`."""
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the part that `I/N` names.

        Raises:
            ConfigurationError: The text names no part.
        """
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip(), re.ASCII)
        if match is None:
            raise ConfigurationError(f"shard is {text!r}; {ALLOWED}")
        return cls(int(match[1]), int(match[2]))

    def has(self, position: int) -> bool:
        """Return whether the row at a position, counted from 1, is in this part."""
        return (position - self.index) % self.count == 0

    def share(self, count: int) -> int:
        """Return this part's share of `count` things."""
        return count // self.count + (self.index <= count % self.count)

    def share_of_budget(self, limit: float) -> float:
        """Return this part's share of the budget of the job, credits."""
        return limit / self.count

    def next_position(self, after: int) -> int:
        """Return the first position of this part after `after`."""
        return after + 1 + (self.index - after - 1) % self.count


WHOLE = Shard()
"""A job with one part."""
