"""What watches calls can cost no result: it is logged, and goes no further."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stable_async import ServerError, StabilityClient
from tests.raw_server import answer, raw_server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stable_async.api.base import Request
    from stable_async.quota import Priority, QuotaStatistics
    from stable_async.transport.telemetry import CallTelemetry
    from tests.raw_server import Connection

METHODS = ["opened", "call", "leaving", "answered", "failed", "ended", "closed"]


class Watching:
    """A telemetry, and that of its calls, of which one method may raise."""

    def __init__(self, method: str = "") -> None:
        self.method = method
        self.called: list[str] = []
        self.left: list[tuple[int, float]] = []

    def happened(self, method: str) -> None:
        self.called.append(method)
        if method == self.method:
            raise KeyError(method)

    def opened(self, statistics: Callable[[], QuotaStatistics | None]) -> None:
        self.happened("opened")

    def closed(self, statistics: Callable[[], QuotaStatistics | None]) -> None:
        self.happened("closed")

    def call(self, request: Request[object], url: str, priority: Priority) -> CallTelemetry:
        self.happened("call")
        return self

    def leaving(self, resend_count: int, waited: float) -> None:
        self.left.append((resend_count, waited))
        self.happened("leaving")

    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        self.happened("answered")

    def failed(self, error: BaseException) -> None:
        self.happened("failed")

    def ended(self, error: BaseException | None) -> None:
        self.happened("ended")


@pytest.mark.parametrize("method", METHODS)
async def test_a_telemetry_that_raises_is_logged_once_and_costs_nothing(
    method: str, caplog: pytest.LogCaptureFixture, nothing_leaks: None
) -> None:
    telemetry = Watching(method)
    refused = False

    async def serve(connection: Connection) -> None:
        nonlocal refused
        while True:
            await connection.request()
            await connection.send(answer(status="503 x" if refused else "200 OK"))

    async with (
        raw_server(serve) as url,
        StabilityClient("sk-key", base_url=url, telemetry=telemetry) as client,
    ):
        for _ in range(2):
            assert (await client.generate.core("x")).data
        refused = True
        with pytest.raises(ServerError):
            await client.generate.core("x")
    assert telemetry.called.count(method) >= 1
    logged = [record for record in caplog.records if "telemetry" in record.getMessage()]
    assert [record.levelname for record in logged] == ["ERROR"]
    assert method in logged[0].getMessage()
