"""Tasks of a queue, as Celery or RQ run them: each in an event loop of its own, in any process.

    STABILITY_API_KEY=... python -m examples.worker "a lighthouse" "a harbour" "a storm"

All of them keep to one quota: it belongs to the key, not to a client.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ProcessPoolExecutor

from stable_async import StabilityClient


async def make(prompt: str) -> str:
    async with StabilityClient(retry=8) as client:
        image = await client.generate.core(prompt, deadline=600)
        return str(await image.save(f"{prompt.replace(' ', '-')}.png"))


def task(prompt: str) -> str:
    """The body of a task: synchronous, as the workers of a queue are."""
    return asyncio.run(make(prompt))


if __name__ == "__main__":
    with ProcessPoolExecutor(2) as workers:
        print(*workers.map(task, sys.argv[1:]), sep="\n")
