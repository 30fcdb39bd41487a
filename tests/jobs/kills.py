"""`kill -9` at random moments, against a server that fails, over and over."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from pathlib import Path
from random import Random

from tests.jobs.shop import Shop
from tests.jobs.torture import Torture, check_bill, check_job

ROWS = 1_000
KILLS = 125


def kill_jobs(seed: int) -> Counter[str]:
    """Run jobs to their ends, killed `KILLS` times on the way.

    Raises:
        AssertionError: A law does not hold.
    """
    random = Random(seed)
    counts = Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        while counts["kills"] < KILLS:
            room = Path(folder) / str(counts["jobs"])
            room.mkdir()
            counts.update(asyncio.run(_kill_job(room, random, KILLS - counts["kills"])))
    return counts


async def _kill_job(folder: Path, random: Random, kills: int) -> Counter[str]:
    prompts = folder / "prompts.jsonl"
    rows = ({"prompt": f"image {n}"} for n in range(ROWS))
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = 0
    async with Shop().open() as shop:
        shop.latency, shop.fail_rate, shop.drop_rate = 0.02, 0.02, 0.01
        torture = Torture(prompts, folder / "out", shop.url, random)
        while done < kills and await torture.kill(within=0.15):
            done += 1
            check_bill(torture, 3.0 * shop.sold.total())
            assert max(shop.sold.values(), default=0) <= 1, "something was paid twice"
        summary = await torture.finish()
        check_bill(torture, 3.0 * shop.sold.total())
        assert set(shop.sold.values()) == {1}
        await torture.finish_all()
        check_job(folder / "out", ROWS)
        check_bill(torture, 3.0 * shop.sold.total())
    return Counter(kills=done, jobs=1, images=shop.sold.total(), in_doubt=int(summary["in_doubt"]))
