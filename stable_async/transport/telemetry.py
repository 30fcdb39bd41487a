"""The interface for traces and metrics: costs nothing when off, and never loses an image."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from stable_async.api.base import Request
    from stable_async.quota import Priority, QuotaStatistics

__all__ = ["CallTelemetry", "GuardedTelemetry", "Telemetry"]

logger: logging.Logger = logging.getLogger("stable_async")


class CallTelemetry(Protocol):
    """Receives the events of one call: its attempts, one after the other, and its end."""

    def leaving(self, resend_count: int, waited: float) -> None:
        """Called when an attempt is sent, with the seconds that it waited for its permit."""

    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        """Called when the status and headers of a success have arrived."""

    def failed(self, error: BaseException) -> None:
        """Called when an attempt has ended in an error; another one may follow."""

    def ended(self, error: BaseException | None) -> None:
        """Called when the body was read or given up, or the call has failed."""


class Telemetry(Protocol):
    """Makes a `CallTelemetry` for each call of a client: `StabilityClient(telemetry=...)`."""

    def opened(self, statistics: Callable[[], QuotaStatistics | None]) -> None:
        """Called when a client opens; `statistics` may be called until it closes."""

    def closed(self, statistics: Callable[[], QuotaStatistics | None]) -> None:
        """Called when a client closes."""

    def call(self, request: Request[object], url: str, priority: Priority) -> CallTelemetry:
        """Called when a call begins."""


class GuardedTelemetry:
    """Wraps a telemetry and logs its errors: they must not lose a result that may be paid for."""

    def __init__(self, telemetry: Telemetry) -> None:
        """Guard `telemetry`."""
        self._telemetry = telemetry
        self._failed: set[str] = set()

    def opened(self, statistics: Callable[[], QuotaStatistics | None]) -> None:
        with self.guarding("opened"):
            self._telemetry.opened(statistics)

    def closed(self, statistics: Callable[[], QuotaStatistics | None]) -> None:
        with self.guarding("closed"):
            self._telemetry.closed(statistics)

    def call(self, request: Request[object], url: str, priority: Priority) -> CallTelemetry | None:
        """Called when a call begins; returns `None` if that fails."""
        calls: list[CallTelemetry] = []
        with self.guarding("call"):
            calls.append(_GuardedCall(self, self._telemetry.call(request, url, priority)))
        return calls[0] if calls else None

    @contextmanager
    def guarding(self, method: str) -> Iterator[None]:
        """Log an error inside, once for each method: all calls may have it."""
        try:
            yield
        except Exception:
            if method not in self._failed:
                self._failed.add(method)
                logger.exception("telemetry: %r has failed; it is not logged again", method)


class _GuardedCall:
    """The events of one call, guarded."""

    def __init__(self, guard: GuardedTelemetry, call: CallTelemetry) -> None:
        self._guard = guard
        self._call = call

    def leaving(self, resend_count: int, waited: float) -> None:
        with self._guard.guarding("leaving"):
            self._call.leaving(resend_count, waited)

    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        with self._guard.guarding("answered"):
            self._call.answered(status, headers)

    def failed(self, error: BaseException) -> None:
        with self._guard.guarding("failed"):
            self._call.failed(error)

    def ended(self, error: BaseException | None) -> None:
        with self._guard.guarding("ended"):
            self._call.ended(error)
