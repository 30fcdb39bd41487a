"""A job under the real quota in virtual time: limiter and sandbox count by one clock.

`VIRTUAL_ROWS=10000` runs the job of ten thousand rows, which the clock of the wall would need more
than eleven minutes for.
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
from tests.sandbox.support import picture
from tests.virtual_time import VirtualNetworkLoop

if TYPE_CHECKING:
    from pathlib import Path

    from stable_async.sandbox.settings import Counting

ROWS = int(os.environ.get("VIRTUAL_ROWS", "300"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("counting", ["log", "counter"])
def test_a_job_under_the_real_quota_takes_virtual_minutes(
    tmp_path: Path, counting: Counting
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"a fox {n}"}) + "\n" for n in range(ROWS)))

    async def run() -> tuple[float, Sandbox]:
        loop = asyncio.get_running_loop()
        async with Sandbox(counting=counting, latency=8.2) as sandbox:
            sandbox.produce("generate_core", picture(), times=None)
            quota = Quota(scope="client")
            async with StabilityClient("sk-x", base_url=sandbox.url, quota=quota) as client:
                began = loop.time()
                job = Job(
                    JobSettings(folder=tmp_path / "out"), PromptFile(str(path)), PromptRules()
                )
                await job.run(client)
                return loop.time() - began, sandbox

    with asyncio.Runner(loop_factory=VirtualNetworkLoop) as runner:
        took, sandbox = runner.run(run())
    statistics = sandbox.statistics
    assert statistics.answered == {200: ROWS}
    assert statistics.refused == 0
    assert max(statistics.most_in_window.values()) <= 150
    assert sandbox.charges().credits == 3 * ROWS
    # All that the quota leaves room for is used, but for the answers of the last.
    assert took - 8.2 < ROWS / 15 * 1.15 + 1
