"""Traces and metrics, taken by the real SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from stable_async import BadRequestError, ContentModerationError, RetryPolicy, StabilityClient
from stable_async.integrations.opentelemetry import OpenTelemetry
from stable_async.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentelemetry.sdk.trace import ReadableSpan

KEY = "sk-telemetry-0123456789"


class Telescope:
    """A client that is watched, and what was seen."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.client = StabilityClient(
            KEY,
            base_url=sandbox.url,
            retry=RetryPolicy(initial_backoff=0),
            telemetry=OpenTelemetry(
                tracer_provider=tracers, meter_provider=MeterProvider([self._reader])
            ),
        )

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._spans.get_finished_spans()

    def metrics(self) -> dict[str, list[object]]:
        """Return the values of each metric: sums, gauges, or counts of histograms."""
        data = self._reader.get_metrics_data()
        found: dict[str, list[object]] = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = [
                        getattr(point, "value", None) if hasattr(point, "value") else point.count
                        for point in metric.data.data_points
                    ]
        return found


@pytest.fixture
async def telescope() -> AsyncIterator[Telescope]:
    async with Sandbox() as sandbox:
        one = Telescope(sandbox)
        async with one.client:
            yield one


async def test_a_call_is_a_span_with_one_of_an_http_client_in_it(telescope: Telescope) -> None:
    await telescope.client.generate.core("a secret lighthouse")
    attempt, call = telescope.spans
    assert call.name == "stable_async generate_core"
    assert attempt.kind is SpanKind.CLIENT
    assert attempt.parent is not None
    assert attempt.parent.span_id == call.context.span_id
    attributes = dict(attempt.attributes or {})
    port = int(telescope.sandbox.url.rpartition(":")[2])
    path = "/v2beta/stable-image/generate/core"
    assert attempt.name == f"POST {path}"
    assert attributes.pop("stable_async.quota.wait") == pytest.approx(0, abs=1)
    assert attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": port,
        "url.full": telescope.sandbox.url + path,
        "url.template": path,
    }
    assert (call.attributes or {})["stable_async.credits"] == 3
    assert (call.attributes or {})["stable_async.finish_reason"] == "SUCCESS"


async def test_each_resend_is_a_span_with_its_number(telescope: Telescope) -> None:
    telescope.sandbox.fail_next(500, 2)
    await telescope.client.generate.core("x")
    *attempts, call = telescope.spans
    facts = [dict(span.attributes or {}) for span in attempts]
    assert [fact.get("http.request.resend_count") for fact in facts] == [None, 1, 2]
    assert [fact["http.response.status_code"] for fact in facts] == [500, 500, 200]
    assert [fact.get("error.type") for fact in facts] == ["500", "500", None]
    assert [span.status.status_code for span in attempts] == [
        StatusCode.ERROR,
        StatusCode.ERROR,
        StatusCode.UNSET,
    ]
    assert call.status.status_code is StatusCode.UNSET


async def test_a_failed_call_says_how_it_failed(telescope: Telescope) -> None:
    with pytest.raises(ContentModerationError):
        await telescope.client.generate.core("a sandbox:moderated thing")
    attempt, call = telescope.spans
    assert call.status.status_code is StatusCode.ERROR
    assert (call.attributes or {})["error.type"] == "403"
    assert (attempt.attributes or {})["error.type"] == "403"
    assert telescope.metrics()["http.client.active_requests"] == [0]


async def test_what_was_sent_waited_paid_and_filtered_is_counted(telescope: Telescope) -> None:
    await telescope.client.generate.core("a lighthouse")
    await telescope.client.generate.core("a sandbox:filtered thing")
    metrics = telescope.metrics()
    assert metrics["http.client.request.duration"] == [2]
    assert metrics["stable_async.quota.wait"] == [2]
    assert metrics["stable_async.credits"] == [6]
    assert metrics["stable_async.results.filtered"] == [1]
    assert metrics["http.client.active_requests"] == [0]
    assert metrics["stable_async.quota.in_window"] == [2]
    assert metrics["stable_async.quota.limit"] == [150]
    assert metrics["stable_async.quota.share"] == [1]
    assert metrics["stable_async.quota.waiting"] == [0]
    assert metrics["stable_async.quota.penalty"] == [0]


async def test_a_penalty_is_counted(telescope: Telescope) -> None:
    telescope.sandbox.fail_next(429, retry_after=0)
    await telescope.client.generate.core("x")
    assert telescope.metrics()["stable_async.quota.refusals"] == [1]


async def test_neither_prompt_nor_key_is_in_it(telescope: Telescope) -> None:
    telescope.sandbox.fail_next(400)
    with pytest.raises(BadRequestError):
        await telescope.client.generate.core("a secret lighthouse")
    seen = "".join(span.to_json() for span in telescope.spans)
    assert "secret" not in seen
    assert KEY not in seen


async def test_a_closed_client_is_measured_no_more(telescope: Telescope) -> None:
    await telescope.client.aclose()
    assert "stable_async.quota.share" not in telescope.metrics()
