"""Jobs under the real quota in virtual time: limiter and sandbox count by one clock.

`VIRTUAL_ROWS=10000` runs the job of ten thousand rows, which the clock of the wall would need more
than eleven minutes for; it also takes every kind of edge fault through its outage.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

import pytest

from stable_async import Quota, StabilityClient
from stable_async.jobs import Job, JobSettings, PromptFile, PromptRules
from stable_async.sandbox import Sandbox
from tests.sandbox.support import sample_image
from tests.virtual_time import VirtualNetworkLoop

if TYPE_CHECKING:
    from pathlib import Path

    from stable_async.jobs import Summary
    from stable_async.sandbox.settings import Counting

ROWS = int(os.environ.get("VIRTUAL_ROWS", "300"))


# What an outage of these kinds may leave in doubt: nothing, or what was in flight.
UNBILLED = ["firewall", "unreachable"]
BILLED = ["bad_gateway", "cut_after_request"]
if "VIRTUAL_ROWS" in os.environ:
    UNBILLED += ["not_found_page", "cdn_521", "cdn_523", "cdn_525", "cdn_526", "cdn_530"]
    BILLED += ["unavailable", "gateway_timeout", "cdn_520", "cdn_522", "cdn_524", "cut_body"]


async def run_job(
    folder: Path, sandbox: Sandbox, rows: int, *, budget: float | None = None
) -> tuple[float, Summary]:
    """Run a job of so many rows; return the virtual seconds that it took, and its summary."""
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"a fox {n}"}) + "\n" for n in range(rows)))
    sandbox.produce("generate_core", sample_image(), times=None)
    quota, loop = Quota(scope="client"), asyncio.get_running_loop()
    async with StabilityClient("sk-x", base_url=sandbox.url, quota=quota) as client:
        began = loop.time()
        settings = JobSettings(folder=folder / "out", budget=budget)
        summary = await Job(settings, PromptFile(str(path)), PromptRules()).run(client)
        return loop.time() - began, summary


@pytest.mark.timeout(600)
@pytest.mark.parametrize("counting", ["log", "counter"])
def test_a_job_under_the_real_quota_takes_virtual_minutes(
    tmp_path: Path, counting: Counting
) -> None:
    async def run() -> tuple[float, Sandbox]:
        async with Sandbox(counting=counting, latency=8.2) as sandbox:
            took, _ = await run_job(tmp_path, sandbox, ROWS)
            return took, sandbox

    with asyncio.Runner(loop_factory=VirtualNetworkLoop) as runner:
        took, sandbox = runner.run(run())
    statistics = sandbox.statistics
    assert statistics.answered == {200: ROWS}
    assert statistics.refused == 0
    assert max(statistics.most_in_window.values()) <= 150
    assert sandbox.charges().credits == 3 * ROWS
    # All that the quota leaves room for is used, but for the answers of the last.
    assert took - 8.2 < ROWS / 15 * 1.15 + 2


@pytest.mark.parametrize("kind", [*UNBILLED, *BILLED])
def test_a_job_comes_through_an_outage_of_twenty_seconds(tmp_path: Path, kind: str) -> None:
    rows = 240

    async def run() -> tuple[Summary, Sandbox]:
        async with Sandbox(counting="log", latency=5.0) as sandbox:

            async def outage() -> None:
                while sandbox.statistics.answered.get(200, 0) < 50:
                    await asyncio.sleep(0.5)
                if kind == "unreachable":
                    sandbox.unreachable(20)
                else:
                    sandbox.edge(kind, seconds=20)

            going = asyncio.create_task(outage())
            _, summary = await run_job(tmp_path, sandbox, rows, budget=3 * rows)
            await going
            return summary, sandbox

    with asyncio.Runner(loop_factory=VirtualNetworkLoop) as runner:
        summary, sandbox = runner.run(run())
    charged = sandbox.charges().credits
    assert summary.done + summary.in_doubt == rows
    assert sandbox.statistics.refused == 0
    if kind in UNBILLED:
        assert summary.in_doubt == 0
        assert summary.spent == charged == 3 * rows
    else:
        assert 0 < summary.in_doubt <= sandbox.statistics.peak_in_flight + 8
        assert summary.spent <= charged <= summary.spent + 3 * summary.in_doubt
