"""The real client of the home and the real limiter, in virtual time, behind a bad network.

Messages are late, lost and repeated; processes are killed with slots in their hands; the home is
gone for a while, or loses all it knew, or its clock is set; clocks of hosts run at rates of their
own.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import quota_counting as counting
from stable_async.config import Quota
from stable_async.quota import QuotaLimiter
from stable_async.quota.homes.central import Answer, CentralState, Message
from stable_async.quota.homes.remote import RemoteHome
from tests.virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    from collections.abc import Callable

    from stable_async.quota import Permit, Priority

REQUESTS = 150
WINDOW = 10.0
JITTER = 0.3
QUOTA = Quota(requests=REQUESTS, window=WINDOW, jitter=JITTER, adaptive=False)
FOREVER = 10_000.0


class Central:
    """Where the state is: an actor that may go away, forget, or have its clock set."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.loop = asyncio.get_running_loop()
        # A clock of its own: at another rate, and set now and then.
        self.rate = 1 + rng.uniform(-1e-4, 1e-4)
        self.offset = 500.0
        self.down = False
        self.losses = 0
        self.state: CentralState | None = None

    def forget(self) -> None:
        self.state = None
        self.losses += 1

    def exchange(self, message: Message) -> Answer:
        now = self.loop.time() * self.rate + self.offset
        if self.state is None:
            self.state = CentralState(message["terms"], now, secrets.token_hex(4))
        return self.state.exchange(message, now)


@dataclass
class Link:
    """The way of one host to the state, there and back."""

    central: Central
    delay: float = 0.0
    more: float = 0.0
    loss: float = 0.0
    where: str = "here"
    cut: bool = False

    async def connect(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    async def exchange(self, message: Message) -> Answer:
        central, rng = self.central, self.central.rng
        await self._travel()
        if central.down or rng.random() < self.loss:
            await asyncio.sleep(FOREVER)
        if rng.random() < self.loss:
            central.loop.call_later(rng.uniform(0.1, 4), self._again, message)
        answer = central.exchange(message)
        if rng.random() < self.loss:
            await asyncio.sleep(FOREVER)
        await self._travel()
        return answer

    async def _travel(self) -> None:
        if self.cut:
            await asyncio.sleep(FOREVER)
        rng = self.central.rng
        await asyncio.sleep(self.delay + (rng.expovariate(1 / self.more) if self.more else 0.0))

    def _again(self, message: Message) -> None:
        if not self.central.down:
            self.central.exchange(message)


class Host:
    """A process with requests of both priorities; `kill` ends it without a word."""

    def __init__(self, link: Link, depart: Callable[[], None], per_second: float) -> None:
        self.link, self._depart, self._per_second = link, depart, per_second
        self._home = RemoteHome(QUOTA, link)
        self._limiter = QuotaLimiter(QUOTA, home=self._home)
        self._tasks: set[asyncio.Task[None]] = set()
        self._alive = True
        self.expired = 0
        self._feeding = asyncio.ensure_future(self._feed())

    def kill(self) -> None:
        self._alive = False
        self._feeding.cancel()
        if self._home._task is not None:
            self._home._task.cancel()
        for task in self._tasks:
            task.cancel()

    async def _feed(self) -> None:
        rng = self.link.central.rng
        await self._limiter.open()
        while True:
            burst = rng.choice([1, 1, 5, 60])
            for _ in range(burst):
                task = asyncio.ensure_future(self._request(rng.choice(["bulk", "interactive"])))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(burst / self._per_second * rng.uniform(0.2, 1.8))

    async def _request(self, priority: Priority) -> None:
        rng = self.link.central.rng
        while True:
            permit: Permit = await self._limiter.acquire(priority=priority)
            fate = rng.random()
            if fate > 0.5:
                await asyncio.sleep(rng.uniform(0, 0.3) if fate < 0.97 else rng.uniform(1, 4))
            if rng.random() < 0.03:
                permit.release()
                return
            if not self._alive:
                return
            if permit.mark_sent():
                self._depart()
                return
            self.expired += 1


@dataclass
class Outcome:
    """What a scenario showed: the most in each way of counting, and how much went wrong."""

    log: float
    counter: float
    bucket: float
    departures: int
    kills: int = 0
    losses: int = 0
    expired: int = 0
    hosts: int = field(default=0)

    @property
    def breach(self) -> bool:
        return max(self.log, self.counter, self.bucket - 1e-6) > REQUESTS


async def scenario(seed: int, seconds: float = 240.0) -> Outcome:
    """Run hosts on a bad network for so long."""
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()
    central = Central(rng)
    departures: list[float] = []
    loss = rng.choice([0, 0.01, 0.05])
    kills = 0

    def start() -> Host:
        delay, more = rng.choice([0.0005, 0.005, 0.04, 0.1]), rng.choice([0, 0.002, 0.03])
        link = Link(central, delay, more, loss)
        return Host(link, lambda: departures.append(loop.time()), rng.choice([3, 10, 30]))

    hosts = [start() for _ in range(rng.choice([1, 3, 8, 16]))]
    end = loop.time() + seconds
    while loop.time() < end:
        await asyncio.sleep(rng.expovariate(1 / 8))
        event = rng.random()
        if event < 0.45:
            index = rng.randrange(len(hosts))
            hosts[index].kill()
            await asyncio.sleep(0)
            hosts[index] = start()
            kills += 1
        elif event < 0.55:
            central.forget()
        elif event < 0.7:
            central.down = True
            await asyncio.sleep(rng.uniform(0.2, 6))
            central.down = False
            if rng.random() < 0.5:
                central.forget()
        elif event < 0.8:
            host = rng.choice(hosts)
            host.link.cut = True
            await asyncio.sleep(rng.uniform(0.5, 6))
            host.link.cut = False
        elif event < 0.85:
            central.offset += rng.choice([-3600, -20, 20, 3600])
    expired = sum(host.expired for host in hosts)
    for host in hosts:
        host.kill()
    await asyncio.sleep(0.1)
    arrivals = np.sort([at + rng.uniform(0, JITTER) for at in departures])
    return Outcome(
        counting.log(arrivals, WINDOW),
        counting.worst_counter(arrivals, WINDOW),
        counting.bucket(arrivals, REQUESTS, WINDOW),
        len(arrivals),
        kills,
        central.losses,
        expired,
        len(hosts),
    )


def run(seed: int, seconds: float = 240.0) -> Outcome:
    """Run a scenario in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(scenario(seed, seconds))


def run_scenario(seed: int) -> Counter[str]:
    """Run a scenario, its log off.

    Raises:
        AssertionError: It breaches the quota.
    """
    logging.disable()
    outcome = run(seed)
    assert not outcome.breach, outcome
    return Counter(
        scenarios=1, departures=outcome.departures, kills=outcome.kills, losses=outcome.losses
    )
