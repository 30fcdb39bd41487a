"""Results of asynchronous operations: kept for 24 hours, for the key that submitted them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stable_async.sandbox.render.output import Output

__all__ = ["POLL_INTERVAL", "RETENTION", "Result", "ResultStore"]

# "kept 24 h after generation", and polling at most once in 10 s: OpenAPI document of
# api.stability.ai, read 2026-09-22.
RETENTION = 24 * 3600.0
POLL_INTERVAL = 10.0
MAX_BYTES = 256 << 20


@dataclass(slots=True)
class Result:
    """A result, finished at `ready_at`.

    Attributes:
        operation: Id of the operation that was submitted.
        key: Fingerprint of the submitting key.
        output: The output.
        size: Its size, bytes.
        ready_at: When it can be fetched, seconds of the sandbox's clock.
        polled_at: When it was last polled for.
        looks: How many times it was polled for.
        running_looks: How many looks find it running, whatever the time.
    """

    operation: str
    key: str
    output: Output
    size: int
    ready_at: float
    polled_at: float = float("-inf")
    looks: int = 0
    running_looks: int = 0

    def poll(self, now: float) -> bool:
        """Record a poll; return false if it came too soon after the last one."""
        in_time = now - self.polled_at >= POLL_INTERVAL
        self.polled_at = now
        return in_time


class ResultStore:
    """Results by id. Beyond a bound of memory the oldest are dropped early."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        """Hold at most this many bytes of results."""
        self._results: OrderedDict[str, Result] = OrderedDict()
        self._held = 0
        self._max_bytes = max_bytes

    def put(self, result_id: str, result: Result, now: float) -> None:
        """Keep a result."""
        self._expire(now)
        self._results[result_id] = result
        self._held += result.size
        while self._held > self._max_bytes and len(self._results) > 1:
            self._forget_oldest()

    def get(self, result_id: str, key: str, now: float) -> Result | None:
        """Return a result; `None` if there is none, or it belongs to another key."""
        self._expire(now)
        result = self._results.get(result_id)
        if result is None or result.key != key or now - result.ready_at > RETENTION:
            return None
        return result

    def _expire(self, now: float) -> None:
        while self._results:
            oldest = next(iter(self._results.values()))
            if now - oldest.ready_at <= RETENTION:
                return
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, oldest = self._results.popitem(last=False)
        self._held -= oldest.size
