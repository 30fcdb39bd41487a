"""The seam for traces and metrics: who is told of what a call does. Off, it costs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stable_async.api.base import Request
    from stable_async.quota import Priority, QuotaStatistics

__all__ = ["CallTelemetry", "Telemetry"]


class CallTelemetry(Protocol):
    """Is told of one call: its attempts, one after the other, and its end."""

    def leaving(self, resend_count: int, waited: float) -> None:
        """Called when an attempt is sent, after it has waited for its permit, seconds."""

    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        """Called when the status and the headers of a success are there."""

    def failed(self, error: BaseException) -> None:
        """Called when an attempt has ended in an error; another one may follow."""

    def ended(self, error: BaseException | None) -> None:
        """Called when the body was read or given up, or the call has failed."""


class Telemetry(Protocol):
    """Makes a `CallTelemetry` for each call of a client: `StabilityClient(telemetry=...)`."""

    def opened(self, statistics: Callable[[], QuotaStatistics | None]) -> None:
        """Called when a client opens; `statistics` may be asked until it is closed."""

    def closed(self, statistics: Callable[[], QuotaStatistics | None]) -> None:
        """Called when a client closes."""

    def call(self, request: Request[object], url: str, priority: Priority) -> CallTelemetry:
        """Called when a call begins."""
