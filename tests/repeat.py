"""The suite again and again, in another order each time, beside processes that keep the CPU busy.

    python -m tests.repeat [--times N] [--busy N] [PYTEST OPTION ...]

Prints the seed of each run and what failed; `pytest --randomly-seed=SEED` repeats an order. Ends
with status 1 if anything failed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack

BUSY = "while True: sum(range(10_000))"
FAILED = re.compile(r"^(?:FAILED|ERROR) .*", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.repeat")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--busy", type=int, default=2, help="processes beside the suite")
    arguments, options = parser.parse_known_args()
    failed = 0
    with ExitStack() as stack:
        for _ in range(arguments.busy):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
            stack.callback(process.kill)
        for number in range(1, arguments.times + 1):
            seed = int(time.time())
            began = time.monotonic()
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "pytest", "-q", "-n", "2", "--tb=short"),
                    f"--randomly-seed={seed}",
                    *options,
                ],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "COLUMNS": "240"},  # what failed is cut to the width
            )
            failures = FAILED.findall(done.stdout)
            failed += done.returncode != 0
            last = done.stdout.strip().splitlines()[-1:]
            print(f"{number}: seed {seed}, {time.monotonic() - began:.0f} s, {last}", flush=True)
            for failure in failures:
                print(f"  {failure}", flush=True)
            if done.returncode and not failures:
                print(done.stdout[-3000:], done.stderr[-3000:], flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
