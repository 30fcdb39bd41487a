"""`python -m tests.jobs.soak [KILLS]`: `kill -9` at random moments, against a server that fails."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
from pathlib import Path

from tests.jobs.shop import Shop
from tests.jobs.torture import Torture, check_bill, check_job

ROWS = 1_000
KILLS = 1_000


async def main(kills: int) -> None:
    """Run jobs until there were enough kills."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    done = job = in_doubt = 0
    with tempfile.TemporaryDirectory() as folder:
        while done < kills:
            job += 1
            room = Path(folder) / str(job)
            room.mkdir()
            prompts = room / "prompts.jsonl"
            rows = [{"prompt": f"job {job}, image {n}"} for n in range(ROWS)]
            prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
            async with Shop().open() as shop:
                shop.latency, shop.fail_rate, shop.drop_rate = 0.02, 0.02, 0.01
                torture = Torture(prompts, room / "out", shop.url, random.Random(seed + job))
                while done < kills and await torture.kill(within=0.15):
                    done += 1
                    check_bill(torture, 3.0 * shop.sold.total())
                    assert max(shop.sold.values(), default=0) <= 1, "something was paid twice"
                summary = await torture.finish()
                in_doubt += summary["in_doubt"]
                check_bill(torture, 3.0 * shop.sold.total())
                assert set(shop.sold.values()) == {1}
                await torture.finish_all()
                check_job(room / "out", ROWS)
                check_bill(torture, 3.0 * shop.sold.total())
            print(f"job {job}: {done} kills, {in_doubt} rows in doubt, {summary}", flush=True)
    print(f"{done} kills: no torn file, nothing finished or doubtful sent again, all bills agree")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else KILLS))
