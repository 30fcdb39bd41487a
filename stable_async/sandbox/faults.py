"""Switches for faults: what a test asks the sandbox to do wrong. Usable from any thread."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Literal, get_args

__all__ = ["Drop", "Failure", "Faults"]

Drop = Literal["before_headers", "mid_headers", "mid_body"]


@dataclass(slots=True)
class Failure:
    """Error answers to give.

    Attributes:
        status: HTTP status.
        times: How many requests are left to fail.
        name: The error's name; `None` takes the documented one.
        retry_after: Seconds for a `Retry-After` header; `None` sends none.
        operation: Id of the only operation meant; `None` means all.
    """

    status: int
    times: int
    name: str | None
    retry_after: float | None
    operation: str | None


class Faults:
    """The switches that are set."""

    def __init__(self) -> None:
        """Start with none."""
        self._lock = Lock()
        self._failures: list[Failure] = []
        self._drops: list[tuple[Drop, int]] = []
        self._delay = 0.0
        self._delays_left: int | None = 0
        self._exhausted = False

    def fail_next(
        self,
        status: int,
        times: int = 1,
        *,
        name: str | None = None,
        retry_after: float | None = None,
        operation: str | None = None,
    ) -> None:
        """Answer the next `times` requests with an error."""
        if not 400 <= status <= 599:
            raise ValueError(f"status is {status!r}; allowed: 400 to 599")
        if times < 1:
            raise ValueError(f"times is {times!r}; allowed: 1 or more")
        with self._lock:
            self._failures.append(Failure(status, times, name, retry_after, operation))

    def drop_next(self, when: Drop = "before_headers", times: int = 1) -> None:
        """Cut the connection of the next `times` answers."""
        if when not in get_args(Drop):
            raise ValueError(f"when is {when!r}; allowed: {', '.join(get_args(Drop))}")
        if times < 1:
            raise ValueError(f"times is {times!r}; allowed: 1 or more")
        with self._lock:
            self._drops.append((when, times))

    def delay(self, seconds: float, times: int | None = None) -> None:
        """Answer so much later; `times` requests, or all from now on."""
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"seconds is {seconds!r}; allowed: 0 or more")
        with self._lock:
            self._delay, self._delays_left = seconds, times

    def exhaust_credits(self) -> None:
        """Make the balance 0."""
        self._exhausted = True

    def clear(self) -> None:
        """Take every switch back."""
        with self._lock:
            self._failures.clear()
            self._drops.clear()
            self._delay, self._delays_left = 0.0, 0
            self._exhausted = False

    @property
    def exhausted(self) -> bool:
        """Whether the balance is made 0."""
        return self._exhausted

    def take_failure(self, operation: str) -> Failure | None:
        """Give the error that this request is to have, and count it down."""
        with self._lock:
            for failure in self._failures:
                if failure.operation in {None, operation}:
                    failure.times -= 1
                    if not failure.times:
                        self._failures.remove(failure)
                    return failure
        return None

    def take_drop(self) -> Drop | None:
        """Give how this answer is to be cut off."""
        with self._lock:
            if not self._drops:
                return None
            drop, times = self._drops.pop(0)
            if times > 1:
                self._drops.insert(0, (drop, times - 1))
            return drop

    def take_delay(self) -> float:
        """Give the seconds by which this answer is late."""
        with self._lock:
            if self._delays_left is None:
                return self._delay
            if self._delays_left == 0:
                return 0.0
            self._delays_left -= 1
            return self._delay
