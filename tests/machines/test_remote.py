"""The client's side of a quota in a remote home, in virtual time."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks import quota_counting as counting
from stable_async.config import Quota
from stable_async.errors import ConfigurationError, QuotaTimeoutError
from stable_async.quota import QuotaLimiter
from stable_async.quota.homes import remote
from stable_async.quota.homes.central import LEASE
from stable_async.quota.homes.remote import RemoteHome, UnreachableError
from tests.machines import bad_network
from tests.machines.bad_network import FOREVER, JITTER, QUOTA, REQUESTS, WINDOW, Central, Link
from tests.virtual_time import VirtualTimeLoop, virtual_time

if TYPE_CHECKING:
    from stable_async.quota import Priority
    from stable_async.quota.homes.central import Answer, Message

HOLD = 13.0


class Machines:
    """Limiters of several processes that share one quota, which has been known for long."""

    def __init__(self, *links: Link) -> None:
        self.links = links
        self.homes = [RemoteHome(QUOTA, link) for link in links]
        self.limiters = [QuotaLimiter(QUOTA, home=home) for home in self.homes]

    @classmethod
    async def settled(cls, *links: Link) -> Machines:
        machines = cls(*links)
        for limiter in machines.limiters:
            await limiter.open()
        await asyncio.sleep(2 * HOLD)
        return machines

    async def aclose(self) -> None:
        for limiter in self.limiters:
            await limiter.aclose()


def central() -> Central:
    return Central(random.Random(1))


async def take(
    limiter: QuotaLimiter, count: int, priority: Priority = "interactive"
) -> list[float]:
    """Send so many requests; return when they left."""
    loop = asyncio.get_running_loop()
    left: list[float] = []

    async def request() -> None:
        while not (await limiter.acquire(priority=priority)).mark_sent():
            pass
        left.append(loop.time())

    await asyncio.gather(*(request() for _ in range(count)))
    return sorted(left)


@virtual_time
async def test_a_burst_leaves_at_once_and_the_rest_at_the_rate_that_can_be_kept_up() -> None:
    shared = central()
    machines = await Machines.settled(Link(shared, 0.005), Link(shared, 0.02))
    began = asyncio.get_running_loop().time()
    one, other = await asyncio.gather(*(take(limiter, 150) for limiter in machines.limiters))
    left = np.sort([*one, *other])
    assert left[REQUESTS - 1] - began < 0.2
    assert left[-1] - began < 1.02 * (WINDOW + JITTER) * 2
    assert counting.worst_counter(left, WINDOW) <= REQUESTS
    await machines.aclose()


@virtual_time
async def test_requests_of_a_single_caller_do_not_wait_for_each_other() -> None:
    machines = await Machines.settled(Link(central(), 0.002))
    began = asyncio.get_running_loop().time()
    for _ in range(20):
        await take(machines.limiters[0], 1)
    assert asyncio.get_running_loop().time() - began < 20 * 0.02
    await machines.aclose()


class Swallowing(Link):
    """A link that answers a message although the exchange was cancelled, as libraries do."""

    async def exchange(self, message: Message) -> Answer:
        answering = asyncio.ensure_future(super().exchange(message))
        try:
            return await asyncio.shield(answering)
        except asyncio.CancelledError:
            return await answering


@virtual_time
async def test_a_home_closes_whatever_becomes_of_the_cancellation() -> None:
    machines = await Machines.settled(Swallowing(central(), 0.1))
    permit = await machines.limiters[0].acquire()
    waiting = asyncio.ensure_future(machines.limiters[0].acquire())
    await asyncio.sleep(0.05)  # an exchange is on its way
    assert permit.mark_sent()
    async with asyncio.timeout(5.0):
        await machines.aclose()
        await waiting  # it was granted by the answer that still came


@pytest.mark.parametrize(("lease", "breach"), [(2.0, False), (8.0, True)])
def test_a_process_that_was_cut_off_sends_nothing_after_its_lease(
    monkeypatch: pytest.MonkeyPatch, lease: float, breach: bool
) -> None:
    """What it holds counts as sent at the end of the lease, and not later."""
    monkeypatch.setattr(remote, "LEASE", lease)

    async def cut_off() -> list[float]:
        shared = central()
        cut, other = Link(shared, 0.005), Link(shared, 0.005)
        machines = await Machines.settled(cut, other)
        loop = asyncio.get_running_loop()
        permits = [await machines.limiters[0].acquire() for _ in range(REQUESTS)]
        cut.cut = True
        began = loop.time()
        others = asyncio.ensure_future(take(machines.limiters[1], REQUESTS))
        await asyncio.sleep(7.5)
        left = [loop.time() for permit in permits if permit.mark_sent()]
        left += await others
        assert loop.time() - began < 25.0
        await machines.aclose()
        return sorted(left)

    # Without the refusal of messages that name another lease, which is the first line of defence.
    monkeypatch.setattr(Central, "exchange", _same_lease(Central.exchange))
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        left = np.array(runner.run(cut_off()))
    assert (counting.log(left, WINDOW) > REQUESTS) is breach


def _same_lease(exchange: object) -> object:
    def same(self: Central, message: Message) -> Answer:
        terms = {**message["terms"], "lease": 2.0}
        return exchange(self, {**message, "terms": terms})  # type: ignore[operator, no-any-return]

    return same


@virtual_time
async def test_a_slot_that_expired_while_its_holder_was_cut_off_stays_void() -> None:
    """Not even when the home can be reached again, and the lease is new."""
    shared = central()
    link = Link(shared, 0.005)
    machines = await Machines.settled(link, Link(shared, 0.005))
    permit = await machines.limiters[0].acquire()
    link.cut = True
    await asyncio.sleep(4.0)
    await take(machines.limiters[1], 1)
    link.cut = False
    await asyncio.sleep(4.0)
    assert machines.homes[0].snapshot(0.0).open == 0
    assert not permit.mark_sent()
    await machines.aclose()


@virtual_time
async def test_a_held_slot_outlives_many_leases_while_its_holder_is_heard() -> None:
    machines = await Machines.settled(Link(central(), 0.05))
    permit = await machines.limiters[0].acquire()
    await asyncio.sleep(60.0)
    assert permit.mark_sent()
    await machines.aclose()


@virtual_time
async def test_a_killed_process_costs_a_lease_and_a_window_of_what_it_held() -> None:
    shared = central()
    machines = await Machines.settled(Link(shared, 0.005), Link(shared, 0.005))
    held = [await machines.limiters[0].acquire() for _ in range(REQUESTS)]
    assert machines.homes[0]._task is not None
    machines.homes[0]._task.cancel()
    machines.homes[0]._task = None
    began = asyncio.get_running_loop().time()
    (left,) = await take(machines.limiters[1], 1)
    assert 2.0 + WINDOW < left - began < 2.0 + WINDOW + JITTER + 0.2
    assert not held[0].mark_sent()
    await machines.aclose()


@virtual_time
async def test_a_process_that_was_stopped_sends_nothing_once_its_lease_is_over() -> None:
    """It looks before each request; the task that talks to the home has not run meanwhile."""
    machines = await Machines.settled(Link(central(), 0.005))
    early, late = [await machines.limiters[0].acquire() for _ in range(2)]
    talk = machines.homes[0]._task
    assert talk is not None
    talk.cancel()
    await asyncio.sleep(LEASE - 0.2)
    assert early.mark_sent()
    await asyncio.sleep(0.2)
    assert not late.mark_sent()
    await machines.aclose()


@virtual_time
async def test_one_penalty_holds_for_all() -> None:
    shared = central()
    machines = await Machines.settled(Link(shared, 0.005), Link(shared, 0.005))
    one, other = machines.limiters
    permit = await one.acquire()
    permit.mark_sent()
    one.penalise(20.0, permit)
    began = asyncio.get_running_loop().time()
    left = await take(other, 3)
    # One goes ahead alone; a refusal of it would come back within a second.
    assert 20.0 <= left[0] - began < 20.1
    assert left[1] - left[0] >= 1.0
    assert other.statistics().share == pytest.approx(0.75, abs=0.01)
    await machines.aclose()


@pytest.mark.parametrize(("asked", "bounded"), [(0.0, 1.0), (1e12, 3600.0)])
@virtual_time
async def test_a_penalty_is_bounded_on_all_machines(asked: float, bounded: float) -> None:
    shared = central()
    machines = await Machines.settled(Link(shared, 0.005), Link(shared, 0.005))
    one, other = machines.limiters
    permit = await one.acquire()
    permit.mark_sent()
    one.penalise(asked, permit)
    began = asyncio.get_running_loop().time()
    for limiter in one, other:
        (left,) = await take(limiter, 1)
        assert bounded - 0.1 <= left - began < bounded + 2.0
    await machines.aclose()


@virtual_time
async def test_a_penalty_is_told_again_to_a_home_that_lost_it() -> None:
    shared = central()
    machines = await Machines.settled(Link(shared, 0.005), Link(shared, 0.005))
    one, other = machines.limiters
    permit = await one.acquire()
    permit.mark_sent()
    one.penalise(60.0, permit)
    began = asyncio.get_running_loop().time()
    await asyncio.sleep(1.0)
    shared.forget()
    waiting = asyncio.ensure_future(take(one, 1))
    (left,) = await take(other, 1)
    await waiting
    assert left - began >= 60.0
    await machines.aclose()


@virtual_time
async def test_interactive_requests_leave_before_bulk_ones_of_other_processes() -> None:
    shared = central()
    machines = await Machines.settled(*(Link(shared, 0.005) for _ in range(4)))
    job = [asyncio.ensure_future(take(limiter, 300, "bulk")) for limiter in machines.limiters[:3]]
    await asyncio.sleep(0.3)
    waits = []
    for _ in range(40):
        await asyncio.sleep(0.5)
        asked = asyncio.get_running_loop().time()
        (left,) = await take(machines.limiters[3], 1)
        waits.append(left - asked)
    # The first may come when the job has taken the whole window; afterwards bulk leaves room.
    assert max(waits[5:]) < 0.5
    assert np.median(waits[5:]) < 0.2
    for task in job:
        task.cancel()
    await asyncio.sleep(0)
    await machines.aclose()


@virtual_time
async def test_bulk_requests_get_their_floor_beside_interactive_ones_of_others() -> None:
    shared = central()
    machines = await Machines.settled(Link(shared, 0.005), Link(shared, 0.005))
    await take(machines.limiters[0], 1)
    interactive = asyncio.ensure_future(take(machines.limiters[0], 900))
    bulk = asyncio.ensure_future(take(machines.limiters[1], 900, "bulk"))
    await asyncio.sleep(60.0)
    left = machines.limiters[1].statistics().granted
    total = left + machines.limiters[0].statistics().granted
    assert 0.10 * total < left < 0.2 * total
    for task in (interactive, bulk):
        task.cancel()
    await asyncio.sleep(0)
    await machines.aclose()


@virtual_time
async def test_who_has_waited_longest_is_next_on_any_machine() -> None:
    shared = central()
    machines = await Machines.settled(*(Link(shared, 0.01) for _ in range(5)))
    await take(machines.limiters[0], REQUESTS)
    order: list[int] = []

    async def one(index: int) -> None:
        await take(machines.limiters[index], 1)
        order.append(index)

    tasks = []
    for index in (3, 1, 4, 2):
        tasks.append(asyncio.ensure_future(one(index)))
        await asyncio.sleep(1.5)
    await asyncio.gather(*tasks)
    assert order == [3, 1, 4, 2]
    await machines.aclose()


class Forgetful(Link):
    """A way on which one message is lost."""

    lost = False

    async def exchange(self, message: Message) -> Answer:
        if self.lost:
            self.lost = False
            await asyncio.sleep(FOREVER)
        return await super().exchange(message)


@virtual_time
async def test_a_lost_message_is_made_up_for_before_the_lease_is_over() -> None:
    link = Forgetful(central(), 0.005)
    machines = await Machines.settled(link)
    link.lost = True
    began = asyncio.get_running_loop().time()
    await take(machines.limiters[0], 1)
    assert not link.lost
    assert asyncio.get_running_loop().time() - began < LEASE - 0.1
    await machines.aclose()


class Unreachable(Link):
    """A home that refuses connections until a test allows them."""

    down = True

    async def connect(self) -> None:
        if self.down:
            raise UnreachableError("connection refused")


@virtual_time
async def test_requests_wait_for_a_home_that_cannot_be_reached() -> None:
    link = Unreachable(central(), 0.001)
    limiter = QuotaLimiter(QUOTA, home=RemoteHome(QUOTA, link))
    await limiter.open()
    waiting = asyncio.ensure_future(limiter.acquire())
    await asyncio.sleep(100.0)
    assert not waiting.done()
    with pytest.raises(QuotaTimeoutError):
        await limiter.acquire(deadline=5.0)
    link.down = False
    began = asyncio.get_running_loop().time()
    (await waiting).mark_sent()
    assert asyncio.get_running_loop().time() - began < HOLD
    await limiter.aclose()


def test_an_outage_is_told_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    async def outage() -> None:
        link = Unreachable(central(), 0.001)
        limiter = QuotaLimiter(QUOTA, home=RemoteHome(QUOTA, link))
        await limiter.open()
        waiting = asyncio.ensure_future(limiter.acquire())
        await asyncio.sleep(30.0)
        link.down = False
        await waiting
        await limiter.aclose()

    with caplog.at_level(logging.WARNING), asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(outage())
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "the shared quota at here cannot be reached",
        "the shared quota at here is reachable again after 30.3 s",
        (
            "the shared quota at here starts over because it was empty: earlier requests are "
            "unknown, and nothing is sent for 12.3 s"
        ),
    ]


@virtual_time
async def test_other_terms_are_refused_and_named() -> None:
    shared = central()
    machines = await Machines.settled(Link(shared, 0.001))
    other = Quota(requests=100, window=WINDOW, jitter=JITTER, adaptive=False)
    limiter = QuotaLimiter(other, home=RemoteHome(other, Link(shared, 0.001)))
    with pytest.raises(ConfigurationError, match="requests 150 there and 100 here"):
        await limiter.open()
    await machines.aclose()


@virtual_time
async def test_closing_tells_what_was_sent_and_gives_back_what_was_not() -> None:
    shared = central()
    machines = await Machines.settled(Link(shared, 0.005), Link(shared, 0.005))
    permits = [await machines.limiters[0].acquire() for _ in range(3)]
    permits[0].mark_sent()
    permits[1].release()
    permits[2].mark_sent()
    await machines.limiters[0].aclose()
    await take(machines.limiters[1], 1)
    await asyncio.sleep(0.1)
    snapshot = machines.homes[1].snapshot(0.0)
    assert (snapshot.open, snapshot.in_window) == (0, 3)
    await machines.aclose()


@virtual_time
async def test_calls_that_wait_are_told_when_the_limiter_closes() -> None:
    machines = await Machines.settled(Link(central(), 0.005))
    (limiter,) = machines.limiters
    left = await take(limiter, REQUESTS)
    waiting = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(1)
    await limiter.aclose()
    with pytest.raises(ConfigurationError, match="was closed"):
        await waiting
    # It can be opened again, and remembers nothing of that.
    await limiter.open()
    assert (await take(limiter, 1))[0] > left[0] + WINDOW
    await limiter.aclose()


@virtual_time
async def test_calls_do_not_wait_for_an_exchange_that_was_cancelled() -> None:
    """Some programs cancel all tasks when they end, and then send once more."""
    machines = await Machines.settled(Link(central(), 0.005))
    (limiter,) = machines.limiters
    await take(limiter, REQUESTS)
    waiting = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(1)
    for task in asyncio.all_tasks() - {asyncio.current_task(), waiting}:
        task.cancel()
    with pytest.raises(ConfigurationError, match="cancelled"):
        await waiting
    with pytest.raises(ConfigurationError, match="cancelled"):
        await limiter.acquire()
    await limiter.aclose()
    await limiter.open()
    await take(limiter, 1)
    await limiter.aclose()


@virtual_time
async def test_calls_that_can_be_served_at_once_do_not_count_as_waiting() -> None:
    """The home has not answered yet, but what it said last leaves room for them."""
    home = RemoteHome(QUOTA, Link(central(), 0.005))
    limiter = QuotaLimiter(QUOTA, home=home, max_waiting=5)
    await limiter.open()
    await asyncio.sleep(2 * HOLD)
    await take(limiter, 1)
    await asyncio.sleep(WINDOW)
    await take(limiter, 100)
    results = await asyncio.gather(*(take(limiter, 1) for _ in range(100)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, QuotaTimeoutError)]
    assert 45 <= len(refused) <= 51
    await limiter.aclose()


@virtual_time
async def test_a_closed_limiter_leaves_no_task_behind() -> None:
    machines = await Machines.settled(Link(central(), 0.005))
    await take(machines.limiters[0], 3)
    await machines.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("step", [-3600.0, -20.0, 1.0, 20.0, 3600.0])
def test_a_step_of_the_homes_clock_neither_breaches_nor_stops_the_flow(step: float) -> None:
    async def stepped() -> tuple[list[float], float]:
        shared = central()
        machines = await Machines.settled(Link(shared, 0.005), Link(shared, 0.02))
        loop = asyncio.get_running_loop()
        began = loop.time()
        sending = asyncio.gather(*(take(limiter, 150) for limiter in machines.limiters))
        await asyncio.sleep(3.0)
        shared.offset += step
        one, other = await sending
        await machines.aclose()
        return sorted([*one, *other]), loop.time() - began

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        left, took = runner.run(stepped())
    assert counting.worst_counter(np.array(left), WINDOW) <= REQUESTS
    assert took < 2 * (WINDOW + JITTER) + 1.0


@pytest.mark.parametrize("seed", range(6))
def test_a_bad_network_breaches_nothing(seed: int) -> None:
    outcome = bad_network.run(seed, 60.0)
    assert not outcome.breach
    assert outcome.departures > 50
