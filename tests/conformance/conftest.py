"""One sandbox for the suite, and a line that says how much was checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest
import pytest_asyncio

from stable_async.sandbox import Sandbox
from tests.conformance.harness import Harness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

CHECKS = "conformance checks"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    async with (
        Sandbox(counting="off", latency=0.0) as sandbox,
        aiohttp.ClientSession() as session,
    ):
        yield Harness(sandbox, session, tmp_path_factory.mktemp("audio"))


@pytest.fixture
def harness(shared: Harness, record_property: Callable[[str, object], None]) -> Iterator[Harness]:
    """Both sides; all checks of a test are made before it fails with all that went wrong."""
    before = shared.count
    shared.failures.clear()
    yield shared
    assert shared.count > before
    record_property(CHECKS, shared.count - before)
    if shared.failures:
        pytest.fail("\n".join(shared.failures), pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many checks ran, in all processes."""
    counts = [
        int(str(value))
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport)
        for name, value in report.user_properties
        if name == CHECKS and report.when == "teardown"
    ]
    if counts:
        terminalreporter.write_line(f"conformance with the facts: {sum(counts)} checks")
