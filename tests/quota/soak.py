"""The simulation for as long as one likes: `python -m tests.quota.soak [MINUTES] [SEED]`.

Draws scenarios until the time is over; ends with status 1 at the first refusal, and names its
scenario.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from stable_async.quota import Rule
from tests.quota import simulation


def main(minutes: float = 10.0, seed: int = 0) -> int:
    """Run for `minutes`; return the exit status."""
    rng = np.random.default_rng(seed)
    end = time.monotonic() + 60 * minutes
    sent = scenarios = 0
    while time.monotonic() < end:
        scenario = simulation.draw(rng, int(rng.choice([500, 4000, 40_000])))
        own = np.random.default_rng(scenario.seed)
        rule = Rule(scenario.requests, scenario.window, scenario.jitter)
        left = simulation.leave(rule, scenario, own)
        arrivals = simulation.travel(left, scenario, own)
        if found := simulation.breaches(arrivals, scenario, own):
            print(f"refused by {', '.join(found)}: {scenario}")
            return 1
        sent += len(left)
        scenarios += 1
    print(f"{sent:,} requests in {scenarios:,} scenarios, none refused")
    return 0


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(float(given[0]) if given else 10.0, int(given[1]) if len(given) > 1 else 0))
