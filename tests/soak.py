"""The long versions of the quota and crash tests, on all cores.

    python -m tests.soak [PART ...] [--times FACTOR] [--seed SEED] [--processes N]

Each part is cut into portions with seeds of their own. Prints one line per part. Ends with status 1
if a portion failed, and shows the command that repeats it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING, NamedTuple

from tests.jobs.kills import kill_jobs
from tests.machines.bad_network import run_scenario
from tests.machines.exchanges import compare_exchanges
from tests.quota.simulation import simulate

if TYPE_CHECKING:
    from collections.abc import Callable


class Part(NamedTuple):
    """One of the long tests.

    Attributes:
        run: Runs the portion with a seed and returns what it counted; raises what is wrong.
        portions: How many, unless the command line says otherwise.
        result: What to print of the counts when no portion failed.
    """

    run: Callable[[int], Counter[str]]
    portions: int
    result: str


# They take about 3, 450, 340 and 400 seconds of CPU.
PARTS = {
    "exchanges": Part(
        compare_exchanges,
        10,
        "{exchanges:,} exchanges, the script in Redis and its Python twin answer alike",
    ),
    "bad_network": Part(
        run_scenario,
        200,
        "{scenarios:,} scenarios, {departures:,} requests, {kills:,} processes killed, "
        "state lost {losses:,} times, no breach",
    ),
    "quota": Part(simulate, 40, "{requests:,} requests in {scenarios:,} scenarios, none refused"),
    "kills": Part(
        kill_jobs,
        8,
        "{kills:,} kills in {jobs:,} jobs, {images:,} images sold, {in_doubt:,} rows in doubt: "
        "no image lost, nothing sent again unasked, all bills agree",
    ),
}


def run(name: str, seeds: range, processes: int) -> bool:
    """Run portions of a part, print the result, and return whether none failed."""
    part = PARTS[name]
    began = time.monotonic()
    counts: Counter[str] = Counter()
    # Processes that are forked would share what others have open.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        portions = {pool.submit(part.run, seed): seed for seed in seeds}
        for portion in as_completed(portions):
            if error := portion.exception():
                pool.shutdown(wait=False, cancel_futures=True)
                traceback.print_exception(error)
                repeat = f"python -m tests.soak {name} --portions 1 --seed {portions[portion]}"
                print(f"{name}: FAILED, repeat it: {repeat}", flush=True)
                return False
            counts.update(portion.result())
    took = time.monotonic() - began
    print(f"{name}: {part.result.format(**counts)} ({took:.0f} s)", flush=True)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--times", type=float, default=1.0, help="as many portions as usual")
    parser.add_argument("--portions", type=int, help="of each part")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    names = arguments.parts or list(PARTS)
    if unknown := set(names) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    print(f"seed {arguments.seed}, {arguments.processes} processes", flush=True)
    well = True
    for name in names:
        count = arguments.portions or max(1, round(PARTS[name].portions * arguments.times))
        seeds = range(arguments.seed, arguments.seed + count)
        well &= run(name, seeds, arguments.processes)
    sys.exit(not well)


if __name__ == "__main__":
    main()
