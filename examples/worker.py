"""Tasks of a queue, as Celery or RQ run them: each in an event loop of its own, in any process.

    STABILITY_API_KEY=... python -m examples.worker "a lighthouse" "a harbour" "a storm"

All of them keep to one quota: it belongs to the key, not to a client. A queue delivers a task again
when its worker dies, so a task looks for its file before it pays for an image.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from stable_async import StabilityClient


async def make(prompt: str, path: Path) -> None:
    async with StabilityClient(priority="bulk") as client:
        image = await client.generate.core(prompt)
        await image.save(path)


def task(prompt: str) -> Path:
    """The body of a task: synchronous, as the workers of a queue are."""
    path = Path(f"{prompt.replace(' ', '-')}.png")
    if not path.exists():
        asyncio.run(make(prompt, path))
    return path


if __name__ == "__main__":
    with ProcessPoolExecutor(2) as workers:
        print(*workers.map(task, sys.argv[1:]), sep="\n")
