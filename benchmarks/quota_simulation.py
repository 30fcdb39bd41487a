"""The quota in virtual time: networks with stalls and stragglers, and event loops that are busy.

`python -m benchmarks.quota_simulation [RUNS]` takes about ten minutes for 100 runs each, and prints
three tables. The first compares the adapted jitter allowance with the fixed one: the same requests
over the same network, after eleven minutes of measurements. The second shows what a busy event
loop loses, with several kinds of traffic, and the third what three processes lose whose loops are
busy and that share a file. Everything is decided by the state that all homes keep.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks import quota_counting as counting
from stable_async import Quota
from stable_async.quota import QuotaState, Rule, Slot
from stable_async.quota.homes.file import FileHome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.quota_counting import Times

REQUESTS, WINDOW = 150, 10.0
# Requests a second while the network is measured before a run, and for how long, seconds.
MEASURED_RATE, MEASURED_FOR = 15.0, 660.0
# CPU time of sending one request, seconds, and how late a timer is on average.
CPU, TIMER = 0.0003, 0.0005
# How many share a file.
PROCESSES = 3


@dataclass(frozen=True)
class Network:
    """Delays from departure to arrival.

    Attributes:
        kind: `quiet`: up to 0.02 s. `uniform`: up to 0.1 s. `hostile`: lognormal, median 0.1 s,
            sigma 0.6, and one in a hundred 0.2 to 1 s later still. `stragglers`: as `quiet`, and
            those as well.
        stall: Mean length of stalls, seconds; there is one every 30 s on average, both exponential.
            What leaves during a stall arrives at its end, besides its own delay.
    """

    kind: str
    stall: float = 0.0

    def delays(self, count: int, rng: np.random.Generator) -> Times:
        """Return delays of so many requests, in their order, without what stalls add."""
        if self.kind == "hostile":
            delays = rng.lognormal(np.log(0.1), 0.6, count)
        else:
            delays = rng.uniform(0, 0.1 if self.kind == "uniform" else 0.02, count)
        if self.kind in {"hostile", "stragglers"}:
            late = rng.uniform(0.2, 1.0, count)
            delays = delays + np.where(rng.random(count) < 0.01, late, 0.0)
        return delays

    def stalls(self, rng: np.random.Generator) -> Stalls:
        """Return the stalls of one run."""
        begins = np.cumsum(rng.exponential(30.0, 200))
        return Stalls(begins, begins + rng.exponential(self.stall or 1e-9, 200))


class Stalls(NamedTuple):
    """Times at which nothing arrives.

    Attributes:
        begins: When each begins, seconds, in order.
        ends: When each ends.
    """

    begins: Times
    ends: Times

    def delays(self, left: Times) -> Times:
        """Return what they add to the delays of requests that left at these times."""
        last = np.searchsorted(self.begins, left, side="right") - 1
        return np.where(last >= 0, np.maximum(self.ends[last] - left, 0.0), 0.0)


@dataclass(frozen=True)
class Outcome:
    """What one run came to.

    Attributes:
        exceeded: By how many requests the limit was exceeded, in any way of counting at its worst
            phase; 0 if it was kept.
        use: The least possible time under the limit, divided by the time it took.
        jitter: Mean allowance after the first burst, seconds.
    """

    exceeded: float
    use: float
    jitter: float


def judge(
    left: Times, arrivals: Times, jitter: float = 0.0, *, least: float | None = None
) -> Outcome:
    """Count arrivals in all four ways.

    Args:
        left: When requests left, seconds.
        arrivals: When they arrived.
        jitter: Mean allowance, seconds.
        least: The least possible time under the limit, seconds; `None`: all were wanted at once.
    """
    arrivals = np.sort(arrivals)
    most = max(
        counting.log(arrivals, WINDOW),
        counting.worst_counter(arrivals, WINDOW),
        counting.worst_fixed(arrivals, WINDOW),
        counting.bucket(arrivals, REQUESTS, WINDOW),
    )
    if least is None:
        least = WINDOW + (len(left) - REQUESTS) * WINDOW / REQUESTS
    exceeded = max(most - REQUESTS, 0.0)
    return Outcome(exceeded if exceeded > 1e-6 else 0.0, least / (left[-1] - left[0]), jitter)


def stalled(network: Network, *, adaptive: bool, seed: int, count: int = 1500) -> Outcome:
    """Send `count` requests that all wait, over a network that was measured before."""
    # The same for both allowances: a delay is drawn by the place of its request, and what a stall
    # adds by the time at which it leaves.
    ahead, own, stall, timer = np.random.default_rng(seed).spawn(4)
    stalls = network.stalls(stall)
    delays = network.delays(count, own).tolist()
    late = timer.exponential(TIMER, count).tolist()
    state = QuotaState(Quota(adaptive=adaptive))
    if adaptive:
        before = np.sort(ahead.uniform(0, MEASURED_FOR, int(MEASURED_FOR * MEASURED_RATE)))
        measured = network.delays(len(before), ahead) + stalls.delays(before)
        for place in np.argsort(before + measured):
            state.observe(
                float(before[place] + measured[place]), float(measured[place]), set_up=False
            )
    now = MEASURED_FOR + 5.0
    left: list[float] = []
    arrivals: list[float] = []
    jitter: list[float] = []
    answers: list[tuple[float, float]] = []
    waited = False
    for place, delay in enumerate(delays):
        while True:
            while answers and answers[0][0] <= now:
                state.observe(*heappop(answers), set_up=False)
            state.advance(now)
            if (due := state.due("one", now)) <= now:
                break
            waited, now = True, due + late[place]
        state.reserve("one", place, now, waited=waited)
        state.mark_sent("one", place, now)
        waited = False
        arrival = now + delay + float(stalls.delays(np.array([now]))[0])
        left.append(now)
        arrivals.append(arrival)
        jitter.append(state.snapshot().jitter)
        heappush(answers, (arrival, arrival - now))
    return judge(np.array(left), np.array(arrivals), float(np.mean(jitter[REQUESTS:])))


@dataclass(frozen=True)
class Loop:
    """An event loop that is busy with other things.

    Attributes:
        busy: For how long, seconds, in turn with
        free: for how long it is not.
        begin: How far it is into that at the beginning, seconds.
    """

    busy: float = 0.0
    free: float = 1.0
    begin: float = 0.0

    def turn(self, now: float) -> float:
        """Return when the loop next has time, seconds."""
        into = (now + self.begin) % (self.busy + self.free)
        return now if into >= self.busy else now + self.busy - into + 1e-6

    def begun(self, seed: int) -> Loop:
        """Return the same loop at a beginning drawn at random."""
        rng = np.random.default_rng([seed, 3])
        return replace(self, begin=float(rng.uniform(0, self.busy + self.free)))


def demand(traffic: str, count: int, seed: int) -> list[tuple[float, bool]]:
    """Return when requests come, seconds, and whether they are bulk."""
    rng = np.random.default_rng([seed, 1])
    if traffic == "backlog":
        return [(0.0, False)] * count
    if traffic == "bulk and interactive":
        few = count // 4
        own = [(float(time), False) for time in rng.uniform(0, count / 18, few)]
        return sorted([(0.0, True)] * (count - few) + own)
    if traffic == "bursts":
        return list(_bursts(rng, count))
    return [(number / 15.2, False) for number in range(count)]


def _bursts(rng: np.random.Generator, count: int) -> Iterator[tuple[float, bool]]:
    time, left = 0.0, count
    while left:
        size = min(int(rng.integers(1, 250)), left)
        yield from [(time, False)] * size
        left -= size
        time += float(rng.uniform(0, 1.6 * size / 15))


def busy(network: Network, loop: Loop, traffic: str, seed: int, count: int = 600) -> Outcome:
    """Send requests from a loop that is busy, interactive ones first but for the bulk's floor."""
    rng = np.random.default_rng([seed, 2])
    state = QuotaState(Quota(adaptive=False))
    coming = demand(traffic, count, seed)
    waiting: dict[bool, int] = {False: 0, True: 0}
    now, came, passed, waited, yielded = 0.0, 0, 0, False, False
    left: list[float] = []
    while len(left) < count:
        now = loop.turn(now)
        # All that are granted in one turn of the loop are granted at one moment, as a dispatcher
        # does it, and leave one after the other.
        while came < count and coming[came][0] <= now:
            waiting[coming[came][1]] += 1
            came += 1
        following = coming[came][0] if came < count else float("inf")
        if not any(waiting.values()):
            now = following
            continue
        bulk = not waiting[False]
        state.advance(now)
        due = state.due("one", now, bulk=bulk)
        if due > now:
            waited, yielded = waited or state.earliest() > now, True
            now = min(due + float(rng.exponential(TIMER)), max(following, now + 1e-9))
            continue
        served = bulk or (waiting[True] > 0 and passed >= 7)
        state.reserve("one", len(left), now, bulk=bulk, waited=waited, yielded=yielded)
        state.mark_sent("one", len(left), now)
        waited = yielded = False
        waiting[served] -= 1
        passed = 0 if served else passed + (waiting[True] > 0)
        left.append(max(now, left[-1] + CPU if left else now))
    times = np.array(left)
    least = None if traffic == "backlog" else least_time([time for time, _ in coming])
    delays = network.delays(count, rng) + network.stalls(rng).delays(times)
    return judge(times, times + delays, least=least)


def least_time(wanted: list[float]) -> float:
    """Return the least time from the first to the last departure, seconds.

    That of a loop that is never busy, on a network whose delays do not differ.
    """
    rule = Rule(REQUESTS, WINDOW, 0.0)
    now = wanted[0]
    for time in wanted:
        now = max(now, time)
        while (earliest := rule.earliest(now)) > now:
            now = earliest
        rule.send(now)
    return now - wanted[0]


def processes(network: Network, loop: Loop, seed: int, count: int = 600) -> Outcome:
    """Send a third of the requests from each of three processes that share a file.

    Each has a loop of its own that is busy, from a random moment of it.
    """
    rng = np.random.default_rng([seed, 4])
    now = 1000.0
    loops = [loop.begun(PROCESSES * seed + number) for number in range(PROCESSES)]
    turns = [one.turn(now) for one in loops]
    waiting = [count // PROCESSES] * PROCESSES
    left: list[float] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        homes = [
            FileHome(Path(folder) / "quota", Quota(adaptive=False), clock=lambda: now, shared=False)
            for _ in range(PROCESSES)
        ]
        for home in homes:
            home.open_now()
            stack.callback(home.close_now)
        while any(waiting):
            number = min((turn, number) for number, turn in enumerate(turns) if waiting[number])[1]
            now = max(now, turns[number])
            while waiting[number]:
                slot = homes[number].reserve(now)
                if not isinstance(slot, Slot):
                    late = float(rng.exponential(TIMER))
                    turns[number] = loops[number].turn(max(slot, now) + late)
                    break
                homes[number].mark_sent(slot, now)
                waiting[number] -= 1
                left.append(now)
    times = np.array(left)
    delays = network.delays(len(left), rng) + network.stalls(rng).delays(times - times[0])
    return judge(times, times + delays)


NETWORKS = [Network(kind, stall) for kind in ("hostile", "quiet") for stall in (0.0, 0.05, 0.1)]
LOOPS = [Loop(), Loop(0.2, 0.2), Loop(0.5, 0.5), Loop(1.5, 0.5)]
TRAFFIC = ["backlog", "bursts", "steady", "bulk and interactive"]


def _stalled(arguments: tuple[Network, bool, int]) -> Outcome:
    network, adaptive, seed = arguments
    logging.disable(logging.WARNING)
    return stalled(network, adaptive=adaptive, seed=seed)


def _busy(arguments: tuple[Network, Loop, str, int]) -> Outcome:
    network, loop, traffic, seed = arguments
    return busy(network, loop.begun(seed), traffic, seed)


def _processes(arguments: tuple[Network, Loop, int]) -> Outcome:
    return processes(*arguments)


def summary(outcomes: list[Outcome]) -> str:
    """Return the cells of one row."""
    over = [one.exceeded for one in outcomes]
    use = float(np.mean([one.use for one in outcomes]))
    return f"{sum(map(bool, over))} of {len(over)} | {max(over):.2f} | {use:.3f}"


def main() -> None:
    """Print the tables."""
    runs = range(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
    with ProcessPoolExecutor() as pool:
        print(
            "| network | mean stall | allowance | runs over | by at most | use | mean allowance |"
        )
        print("|---|---:|---|---:|---:|---:|---:|")
        for network in NETWORKS:
            for adaptive in (False, True):
                arguments = [(network, adaptive, seed) for seed in runs]
                outcomes = list(pool.map(_stalled, arguments, chunksize=5))
                jitter = np.mean([one.jitter for one in outcomes])
                print(
                    f"| {network.kind} | {network.stall} s | {'adapted' if adaptive else 'fixed'} "
                    f"| {summary(outcomes)} | {jitter:.3f} s |",
                    flush=True,
                )
        print("\n| traffic | network | busy / free | runs over | by at most | use |")
        print("|---|---|---|---:|---:|---:|")
        for traffic in TRAFFIC:
            for network in (Network("uniform"), Network("hostile")):
                for loop in LOOPS:
                    outcomes = list(
                        pool.map(_busy, [(network, loop, traffic, seed) for seed in runs])
                    )
                    times = f"{loop.busy} / {loop.free} s" if loop.busy else "never"
                    print(
                        f"| {traffic} | {network.kind} | {times} | {summary(outcomes)} |",
                        flush=True,
                    )
        print("\n| three processes, network | busy / free | runs over | by at most | use |")
        print("|---|---|---:|---:|---:|")
        for network in (Network("uniform"), Network("hostile")):
            for loop in LOOPS:
                outcomes = list(pool.map(_processes, [(network, loop, seed) for seed in runs[:10]]))
                times = f"{loop.busy} / {loop.free} s" if loop.busy else "never"
                print(f"| {network.kind} | {times} | {summary(outcomes)} |", flush=True)


if __name__ == "__main__":
    main()
