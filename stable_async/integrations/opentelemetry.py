"""Traces and metrics with OpenTelemetry: `StabilityClient(telemetry=OpenTelemetry())`.

It needs the extra `[otel]`. docs/observability.md lists what is measured. It never includes prompts
or the key.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry import context, metrics, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from stable_async._version import __version__
from stable_async.api.answers import read_finish_reason
from stable_async.errors import APIConnectionError, APIStatusError, InvalidResponseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, MeterProvider
    from opentelemetry.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue

    from stable_async.api.base import Request
    from stable_async.quota import Priority, QuotaStatistics

__all__ = ["OpenTelemetry"]

SCOPE = "stable_async"

# Bucket boundaries, seconds. Of requests: images take longer than the web pages that the semantic
# conventions for HTTP (read 2026-11-20) assume. Of waits: a window, a penalty.
DURATIONS = (0.1, 0.25, 0.5, 1, 2.5, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 180)
WAITS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120)


class OpenTelemetry:
    """Makes a span for every call and every attempt, and records metrics, for any number of
    clients.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """Use these providers; `None` means the global ones."""
        self._tracer = trace.get_tracer(SCOPE, __version__, tracer_provider)
        meter = metrics.get_meter(SCOPE, __version__, meter_provider)
        self._clients: list[Callable[[], QuotaStatistics | None]] = []
        self.duration: metrics.Histogram = meter.create_histogram(
            "http.client.request.duration",
            "s",
            "Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=DURATIONS,
        )
        self.active: metrics.UpDownCounter = meter.create_up_down_counter(
            "http.client.active_requests", "{request}", "Requests in flight."
        )
        self.wait: metrics.Histogram = meter.create_histogram(
            "stable_async.quota.wait",
            "s",
            "Wait for the quota's permit.",
            explicit_bucket_boundaries_advisory=WAITS,
        )
        self.refusals: metrics.Counter = meter.create_counter(
            "stable_async.quota.refusals", "{request}", "429 responses: the key is blocked."
        )
        self.credits: metrics.Counter = meter.create_counter(
            "stable_async.credits", "{credit}", "List price of the successes."
        )
        self.filtered: metrics.Counter = meter.create_counter(
            "stable_async.results.filtered", "{result}", "Results blurred by the content filter."
        )
        for name, unit, description, value in (
            ("in_window", "{request}", "Requests of the last window.", "in_window"),
            (
                "limit",
                "{request}",
                "Requests that our share of the quota allows in a window.",
                "requests",
            ),
            ("share", "1", "Our share of the quota.", "share"),
            ("waiting", "{request}", "Calls that wait for a permit.", "waiting"),
            ("penalty", "s", "Time until the penalty ends.", "penalty_left"),
        ):
            meter.create_observable_gauge(
                f"stable_async.quota.{name}", [self._gauge(value)], unit, description
            )

    def opened(self, statistics: Callable[[], QuotaStatistics | None]) -> None:
        """Add a client that opens."""
        self._clients.append(statistics)

    def closed(self, statistics: Callable[[], QuotaStatistics | None]) -> None:
        """Remove a client that closes."""
        if statistics in self._clients:
            self._clients.remove(statistics)

    def call(self, request: Request[object], url: str, priority: Priority) -> _Call:
        """Begin the span of a call."""
        return _Call(self, self._tracer, request, url, priority)

    def _gauge(self, value: str) -> Callable[[CallbackOptions], Iterable[metrics.Observation]]:
        def observe(options: CallbackOptions) -> Iterator[metrics.Observation]:
            for statistics in list(self._clients):
                if (now := statistics()) is not None:
                    yield metrics.Observation(getattr(now, value))

        return observe


class _Call:
    """One call: a span of its own, and one for each attempt."""

    def __init__(
        self,
        telemetry: OpenTelemetry,
        tracer: trace.Tracer,
        request: Request[object],
        url: str,
        priority: Priority,
    ) -> None:
        operation = request.operation
        parts = urlsplit(url)
        self._telemetry = telemetry
        self._tracer = tracer
        self._request = request
        self._priority = priority
        self._span = tracer.start_span(
            f"stable_async {operation.id}",
            attributes={"stable_async.operation": operation.id, "stable_async.priority": priority},
        )
        self._context: Context = trace.set_span_in_context(self._span, context.get_current())
        self._common: dict[str, AttributeValue] = {
            "http.request.method": operation.method,
            "server.address": parts.hostname or "",
            "server.port": parts.port or {"https": 443}.get(parts.scheme, 80),
        }
        self._url = url
        self._name = f"{operation.method} {operation.path}"
        self._attempt: Span | None = None
        self._began = 0.0
        self._outcome: dict[str, AttributeValue] = {}

    def leaving(self, resend_count: int, waited: float) -> None:
        """Begin the span of an attempt."""
        self._telemetry.wait.record(waited, {"stable_async.priority": self._priority})
        self._telemetry.active.add(1, self._common)
        attributes = {
            **self._common,
            "url.full": self._url,
            "url.template": self._request.operation.path,
            "stable_async.quota.wait": waited,
        }
        if resend_count:
            attributes["http.request.resend_count"] = resend_count
        self._attempt = self._tracer.start_span(
            self._name,
            context=self._context,
            kind=SpanKind.CLIENT,
            attributes=attributes,
        )
        self._began = time.perf_counter()
        self._outcome = {}

    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        """Record the head of the answer; its body is still to come."""
        self._outcome["http.response.status_code"] = status
        operation = {"stable_async.operation": self._request.operation.id}
        if price := self._request.credits:
            self._span.set_attribute("stable_async.credits", price)
            self._telemetry.credits.add(price, operation)
        if reason := read_finish_reason(headers.get("finish-reason"), key=""):
            self._span.set_attribute("stable_async.finish_reason", reason)
            if reason == "CONTENT_FILTERED":
                self._telemetry.filtered.add(1, operation)

    def failed(self, error: BaseException) -> None:
        """End the attempt."""
        if isinstance(error, APIStatusError):
            self._outcome["http.response.status_code"] = error.status
            if error.verdict.penalty:
                self._telemetry.refusals.add(1, self._common)
        self._end_attempt(error)

    def ended(self, error: BaseException | None) -> None:
        """End the call."""
        self._end_attempt(error)
        _end(self._span, error)

    def _end_attempt(self, error: BaseException | None) -> None:
        span, self._attempt = self._attempt, None
        if span is None:
            return
        self._telemetry.active.add(-1, self._common)
        if error is not None:
            self._outcome["error.type"] = _error_type(error)
        span.set_attributes(self._outcome)
        _end(span, error)
        self._telemetry.duration.record(
            time.perf_counter() - self._began, {**self._common, **self._outcome}
        )


def _end(span: Span, error: BaseException | None) -> None:
    if error is not None:
        span.set_attribute("error.type", _error_type(error))
        if isinstance(error, APIStatusError | APIConnectionError | InvalidResponseError):
            span.set_attribute("stable_async.from_api", error.from_api)
            span.set_attribute("stable_async.concerns", error.concerns)
            span.set_attribute("stable_async.maybe_billed", error.maybe_billed)
        # A caller that goes away is not a failure of the call.
        if not isinstance(error, asyncio.CancelledError | GeneratorExit):
            span.set_status(Status(StatusCode.ERROR))
    span.end()


def _error_type(error: BaseException) -> str:
    return str(error.status) if isinstance(error, APIStatusError) else type(error).__name__
