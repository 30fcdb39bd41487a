"""Requests over a simulated network, under a `Rule`: what leaves when, and arrives when."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import quota_counting as counting
from stable_async.quota import Rule

if TYPE_CHECKING:
    from benchmarks.quota_counting import Times

__all__ = [
    "Scenario",
    "breaches",
    "demand",
    "draw",
    "leave",
    "simulate",
    "travel",
]


@dataclass(frozen=True)
class Scenario:
    """One run.

    Attributes:
        requests: `N`.
        window: `W`, seconds.
        jitter: By how much network delays differ at most, seconds.
        shape: How requests come: `burst`, `bursts`, `steady`, `sparse`, `gaps` or `mixed`.
        setup: How long a request stays open at most, seconds; 0: it leaves with its permit.
        lost: The part of the requests that never leave.
        network: Which delays within `jitter`: `uniform`, `extremes` or `shift`.
        count: How many requests.
        seed: Makes it repeatable.
    """

    requests: int
    window: float
    jitter: float
    shape: str
    setup: float
    lost: float
    network: str
    count: int
    seed: int


def draw(rng: np.random.Generator, count: int, *, requests: int | None = None) -> Scenario:
    """Draw a scenario of `count` requests."""
    window = float(rng.choice([1.0, 7.3, 10.0, 60.0]))
    return Scenario(
        requests=requests or int(rng.choice([1, 2, 5, 17, 40, 150])),
        window=window,
        jitter=window * float(rng.choice([0.0, 0.01, 0.03, 0.1, 0.5])),
        shape=str(rng.choice(["burst", "bursts", "steady", "sparse", "gaps", "mixed"])),
        setup=window * float(rng.choice([0.0, 0.02, 0.3])),
        lost=float(rng.choice([0.0, 0.1])),
        network=str(rng.choice(["uniform", "extremes", "shift"])),
        count=count,
        seed=int(rng.integers(2**32)),
    )


def demand(scenario: Scenario, rng: np.random.Generator) -> Times:
    """Return the times at which requests are made, in order."""
    n, count = scenario.requests, scenario.count
    mean = scenario.window / n
    if scenario.shape == "burst":
        gaps = np.zeros(count)
    elif scenario.shape == "bursts":
        gaps = np.where(rng.random(count) < 1 / n, rng.uniform(0, 3 * scenario.window, count), 0.0)
    elif scenario.shape == "steady":
        gaps = np.full(count, mean * float(rng.choice([0.95, 1.0, 1.02])))
    elif scenario.shape == "sparse":
        gaps = rng.exponential(1.3 * mean, count)
    elif scenario.shape == "gaps":
        pauses = rng.uniform(0, 2.5 * scenario.window, count)
        gaps = np.where(rng.random(count) < 2 / n, pauses, mean * 0.3)
    else:
        regime = rng.integers(3, size=count // 50 + 1).repeat(50)[:count]
        gaps = np.choose(regime, [np.zeros(count), rng.exponential(mean, count), mean * 1.5])
    return 1e5 + np.cumsum(gaps)


def leave(rule: Rule, scenario: Scenario, rng: np.random.Generator) -> Times:
    """Let all requests leave as early as `rule` allows, and return the times, in order."""
    due = demand(scenario, rng).tolist()
    opening = (rng.random(len(due)) * scenario.setup).tolist()
    lost = (rng.random(len(due)) < scenario.lost).tolist()
    left: list[float] = []
    opened: list[tuple[float, bool]] = []
    now = due[0]

    def settle() -> None:
        nonlocal now
        time, gone = heappop(opened)
        now = max(now, time)
        rule.open -= 1
        if not gone:
            rule.send(now)
            left.append(now)

    for wanted, delay, gone in zip(due, opening, lost, strict=True):
        while opened and opened[0][0] <= wanted:
            settle()
        now = max(now, wanted)
        while (earliest := rule.earliest(now)) > now:
            if opened and opened[0][0] <= earliest:
                settle()
            else:
                now = earliest
        if delay or gone:
            rule.open += 1
            heappush(opened, (now + delay, gone))
        else:
            rule.send(now)
            left.append(now)
    while opened:
        settle()
    return np.array(left)


def travel(left: Times, scenario: Scenario, rng: np.random.Generator) -> Times:
    """Return the arrivals, sorted: delays differ by `jitter` at most."""
    if scenario.network == "uniform":
        part = rng.random(len(left))
    elif scenario.network == "extremes":
        part = rng.integers(2, size=len(left)).astype(float)
    else:
        # Late for a while, then early: this is what brings departures together.
        period = scenario.window * rng.uniform(0.5, 3)
        part = (np.sin(left * (np.pi / period)) > 0).astype(float)
    # A little less, since the sum is rounded.
    return np.sort(left + 0.05 + part * scenario.jitter * (1 - 1e-9))


def breaches(arrivals: Times, scenario: Scenario, rng: np.random.Generator) -> list[str]:
    """Name the ways of counting that would refuse one of the arrivals, at phases drawn and bad."""
    n, window = scenario.requests, scenario.window
    found = []
    if counting.log(arrivals, window) > n:
        found.append("log")
    # The sums of a server are rounded, too; the rule's margin is a thousand times this.
    if counting.bucket(arrivals, n, window) > n + 1e-7:
        found.append("bucket")
    bad = rng.choice(arrivals, min(4, len(arrivals)))
    for phase in (*rng.uniform(0, window, 4), *bad, *(bad + window)):
        if counting.fixed(arrivals, window, phase) > n:
            found.append("fixed")
        if counting.counter(arrivals, window, phase) > n:
            found.append("counter")
    return found


def simulate(seed: int) -> Counter[str]:
    """Let a million requests or more leave, in random scenarios.

    Raises:
        AssertionError: One is refused.
    """
    rng = np.random.default_rng(seed)
    counts = Counter(requests=0, scenarios=0)
    while counts["requests"] < 1_000_000:
        scenario = draw(rng, int(rng.choice([500, 4000, 40_000])))
        own = np.random.default_rng(scenario.seed)
        rule = Rule(scenario.requests, scenario.window, scenario.jitter)
        left = leave(rule, scenario, own)
        found = breaches(travel(left, scenario, own), scenario, own)
        assert not found, f"refused by {', '.join(found)}: {scenario}"
        counts.update(requests=len(left), scenarios=1)
    return counts
