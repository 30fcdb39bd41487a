"""`python -m tests.jobs.soak [KILLS]`: `kill -9` at random moments, against the sandbox."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import tempfile
from pathlib import Path

from stable_async.sandbox import SandboxSettings
from stable_async.sandbox.process import start_sandbox
from tests.jobs.torture import Torture, check_job

ROWS = 1_000
KILLS = 100
# Few at a time: a picture takes the sandbox a while, and there must be some between two kills.
OPTIONS = ("--passes", "9", "--max-in-flight", "8")


async def main(kills: int) -> None:
    """Run jobs until there were enough kills."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    settings = SandboxSettings(counting="off", latency=0.1, fail_rate=0.01, drop_rate=0.005)
    done = job = 0
    with tempfile.TemporaryDirectory() as folder:
        async with start_sandbox(settings) as sandbox:
            while done < kills:
                job += 1
                room = Path(folder) / str(job)
                room.mkdir()
                prompts = room / "prompts.jsonl"
                rows = [
                    {"prompt": f"job {job}, picture {n}", "service": "sd3"} for n in range(ROWS)
                ]
                prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
                torture = Torture(
                    prompts, room / "out", sandbox.url, random.Random(seed + job), OPTIONS
                )
                while done < kills:
                    status = await torture.end(signal.SIGKILL, within=1.5)
                    if status in {0, 3}:
                        break
                    assert status == -signal.SIGKILL, status
                    done += 1
                summary = await torture.finish()
                await torture.finish_all()
                check_job(room / "out", ROWS)
                print(f"job {job}: {done} kills, {summary}")
    print(f"{done} kills: no torn file, nothing finished made again, all agree")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else KILLS))
