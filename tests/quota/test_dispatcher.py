"""The queue that all limiters of one quota share in an event loop."""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from stable_async.errors import ConfigurationError, QuotaTimeoutError
from stable_async.quota import Permit, ProcessHome, Quota, QuotaLimiter, SharedQuota, dispatcher
from stable_async.quota.fair_queue import Waiter
from tests.virtual_time import VirtualTimeLoop, virtual_time

if TYPE_CHECKING:
    from stable_async.quota import Priority

QUOTA = Quota(requests=10, window=10.0, penalty=60.0, jitter=0.5)


@dataclass(frozen=True, kw_only=True)
class Shared(SharedQuota):
    """A quota that the limiters of one loop share."""

    quota: Quota = QUOTA
    name: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def identity(self) -> str:
        return self.name

    def home(self) -> ProcessHome:
        return ProcessHome(self.quota)


def clock() -> float:
    return asyncio.get_running_loop().time()


async def send(limiter: QuotaLimiter, count: int) -> None:
    for _ in range(count):
        (await limiter.acquire()).mark_sent()


# ---- who shares one


@virtual_time
async def test_limiters_of_one_quota_wait_in_one_queue() -> None:
    shared = Shared()
    one, other, apart = QuotaLimiter(shared), QuotaLimiter(shared), QuotaLimiter(Shared())
    await send(one, 10)
    order: list[str] = []

    async def wait(name: str, limiter: QuotaLimiter) -> None:
        await limiter.acquire()
        order.append(name)

    tasks = [
        asyncio.create_task(wait(name, limiter))
        for name, limiter in (("a", one), ("b", other), ("c", one), ("d", other))
    ]
    await asyncio.sleep(1)
    assert one.statistics() == other.statistics()
    assert (one.statistics().waiting, one.statistics().granted) == (4, 10)
    await asyncio.wait_for(send(apart, 10), 0.1)
    await asyncio.gather(*tasks)
    assert order == ["a", "b", "c", "d"]
    for limiter in (one, other):
        await limiter.aclose()
    # The last of them took the queue and its figures along.
    new = QuotaLimiter(shared)
    await new.open()
    assert new.statistics().granted == 0
    await new.aclose()
    await apart.aclose()


@virtual_time
async def test_the_smallest_burst_of_all_limiters_holds_and_is_had_once() -> None:
    name = uuid.uuid4().hex
    limiters = [
        QuotaLimiter(Shared(quota=Quota(10, 10.0, burst=burst), name=name))
        for burst in (4, 2, 3, 2)
    ]
    for limiter in limiters[:2]:
        await limiter.open()
    began = clock()
    await send(limiters[0], 2)
    assert clock() == began
    for limiter in limiters:
        await send(limiter, 1)
    assert clock() - began >= 4 * 0.99
    for limiter in limiters:
        await limiter.aclose()


def test_a_loop_that_ended_leaves_no_queue_behind() -> None:
    before = len(dispatcher._shared)
    limiters = [QuotaLimiter(Shared()) for _ in range(3)]
    for limiter in limiters:
        asyncio.run(send(limiter, 1))
    assert len(dispatcher._shared) == before + 1


def test_a_forked_process_has_none_of_its_parent_s_queues() -> None:
    async def fork() -> int:
        limiter = QuotaLimiter(Shared())
        await limiter.open()
        assert dispatcher._shared
        child = os.fork()
        if not child:
            os._exit(len(dispatcher._shared))
        await limiter.aclose()
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)

    assert asyncio.run(fork()) == 0


def test_queues_are_looked_up_only_while_their_lock_is_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Locked(dict[tuple[str, int], dispatcher.Dispatcher]):
        def __getattribute__(self, name: str) -> object:
            assert dispatcher._shared_lock.locked()
            return super().__getattribute__(name)

    monkeypatch.setattr(dispatcher, "_shared", Locked())

    async def use() -> None:
        limiter = QuotaLimiter(Shared())
        await send(limiter, 1)
        await limiter.aclose()

    asyncio.run(use())


@virtual_time
async def test_closing_leaves_no_timer() -> None:
    limiter = QuotaLimiter(QUOTA)
    await send(limiter, 10)
    waiting = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(5)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    assert loop.timers() == 1
    await limiter.aclose()
    assert loop.timers() == 0
    with pytest.raises(ConfigurationError, match="was closed"):
        await waiting


@virtual_time
async def test_a_bulk_call_that_need_not_wait_counts_as_the_turn_of_bulk_calls() -> None:
    limiter = QuotaLimiter(QUOTA)
    permits = [await limiter.acquire() for _ in range(10)]
    order: list[str] = []

    async def wait(priority: Priority) -> None:
        permits.append(await limiter.acquire(priority=priority))
        order.append(priority)

    async def free(count: int) -> None:
        for _ in range(count):
            permits.pop(0).release()
        await asyncio.sleep(0.1)

    # Seven interactive calls are served while a bulk one waits, which then gives up.
    gives_up = asyncio.create_task(wait("bulk"))
    tasks = [asyncio.create_task(wait("interactive")) for _ in range(7)]
    await asyncio.sleep(0.1)
    await free(7)
    gives_up.cancel()
    await free(1)
    await asyncio.sleep(60)  # when interactive calls are expected no longer
    await wait("bulk")
    tasks += [asyncio.create_task(wait(priority)) for priority in ("bulk", "interactive")]
    await asyncio.sleep(0.1)
    await free(1)
    assert order == ["interactive"] * 7 + ["bulk", "interactive"]
    await free(1)
    await asyncio.gather(*tasks)


# ---- deadlines


@virtual_time
async def test_a_deadline_at_the_very_moment_is_kept() -> None:
    limiter = QuotaLimiter(QUOTA)
    await limiter.open()
    limiter.penalise(60.0)
    await limiter.acquire(deadline=60.0)
    assert clock() == pytest.approx(1060.0)


@virtual_time
async def test_a_deadline_leaves_time_for_the_pace() -> None:
    limiter = QuotaLimiter(Quota(10, 10.0, burst=1))
    await send(limiter, 1)
    (await limiter.acquire(deadline=5.0)).mark_sent()
    assert clock() == pytest.approx(1001.0, abs=0.01)


@virtual_time
async def test_deadlines_of_calls_that_wait_for_the_pace_alone_are_kept() -> None:
    limiter = QuotaLimiter(Quota(10, 10.0, burst=1))
    await send(limiter, 1)
    for permit in await asyncio.gather(*(limiter.acquire(deadline=5.0) for _ in range(3))):
        permit.mark_sent()
    assert clock() == pytest.approx(1003.0, abs=0.01)


@virtual_time
async def test_a_deadline_that_passes_before_the_pace_allows_a_call_is_told_then() -> None:
    limiter = QuotaLimiter(Quota(10, 10.0, burst=1))
    await send(limiter, 1)
    with pytest.raises(QuotaTimeoutError):
        await limiter.acquire(deadline=0.5)
    assert clock() == pytest.approx(1000.5, abs=0.01)


@virtual_time
async def test_an_error_says_in_how_many_seconds_it_could_be_served() -> None:
    limiter = QuotaLimiter(QUOTA)
    await send(limiter, 10)
    await asyncio.sleep(limiter.statistics().earliest_next - 0.5)
    with pytest.raises(QuotaTimeoutError, match=r"in 0\.5 s") as refused:
        await limiter.acquire(deadline=0.1)
    assert refused.value.retry_after == pytest.approx(0.5, abs=1e-3)


@virtual_time
async def test_deadlines_of_served_calls_are_forgotten_and_the_others_kept() -> None:
    limiter = QuotaLimiter(QUOTA)
    rng = random.Random(5)
    await send(limiter, 10)
    late: list[float] = []

    async def patient(deadline: float) -> None:
        expires = clock() + deadline
        try:
            (await limiter.acquire(priority="bulk", deadline=deadline)).mark_sent()
        except QuotaTimeoutError:
            late.append(clock() - expires)

    bulk = [asyncio.create_task(patient(rng.uniform(1000, 2000))) for _ in range(50)]
    await asyncio.sleep(0)
    most = 0
    for _ in range(250):
        (await limiter.acquire(deadline=rng.uniform(500, 2000))).mark_sent()
        most = max(most, len(limiter._attached()._deadlines))
    assert most <= 2 * 51 + 64 + 1
    held = [await limiter.acquire() for _ in range(10)]
    await asyncio.gather(*bulk)
    assert len(held) == 10
    assert len(late) > 10
    assert max(late) < 1e-3


@virtual_time
async def test_a_call_is_served_when_one_that_was_cancelled_would_have_been() -> None:
    limiter = QuotaLimiter(QUOTA)
    await send(limiter, 10)
    gives_up = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(1)
    gives_up.cancel()
    await asyncio.sleep(1)
    (await asyncio.wait_for(limiter.acquire(), 15.0)).mark_sent()


def test_who_wakes_a_loop_that_was_closed_is_told_nothing() -> None:
    limiter = QuotaLimiter(QUOTA)
    asyncio.run(send(limiter, 1))
    waiting = limiter._attached()
    future = waiting.loop.create_future()
    waiting.queue.push(Waiter("bulk", None, 0.0, 1.0, future))
    waiting.wake()
    assert waiting.gone()


@virtual_time
async def test_calls_whose_deadline_is_broken_wait_no_longer() -> None:
    limiter = QuotaLimiter(QUOTA)
    await send(limiter, 10)
    calls = [asyncio.create_task(limiter.acquire(deadline=deadline)) for deadline in (20, 20, None)]
    await asyncio.sleep(0)
    assert limiter.statistics().waiting == 3
    assert len(limiter._attached()._deadlines) == 2
    limiter.penalise(60.0)
    # Before any of them is told.
    waiting = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: waiting.set_result(limiter.statistics().waiting))
    assert await waiting == 1
    *late, patient = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in late] == [QuotaTimeoutError] * 2
    assert isinstance(patient, Permit)
    patient.release()


@virtual_time
async def test_a_call_that_is_cancelled_leaves_the_queue_at_once() -> None:
    limiter = QuotaLimiter(QUOTA)
    permits = [await limiter.acquire() for _ in range(10)]
    tasks = [asyncio.create_task(limiter.acquire()) for _ in range(3)]
    await asyncio.sleep(0.1)
    tasks[2].cancel()
    await asyncio.sleep(0)
    assert limiter.statistics().waiting == 2
    # And is passed over if its turn comes before it has gone.
    permits[0].release()
    tasks[0].cancel()
    await asyncio.wait_for(tasks[1], 0.1)
    assert limiter.statistics().waiting == 0
    assert (await asyncio.gather(*tasks, return_exceptions=True)).count(tasks[1].result()) == 1


@virtual_time
async def test_a_deadline_passes_also_when_the_home_can_no_longer_be_read() -> None:
    class Unreadable(ProcessHome):
        broken = False

        def earliest(self, now: float, ahead: int = 0) -> float:
            if self.broken:
                raise ConfigurationError("the file is gone")
            return super().earliest(now, ahead)

    home = Unreadable(QUOTA)
    limiter = QuotaLimiter(QUOTA, home=home)
    held = [await limiter.acquire() for _ in range(10)]
    waiting = asyncio.create_task(limiter.acquire(deadline=15.0))
    await asyncio.sleep(1)
    home.broken = True
    with pytest.raises(QuotaTimeoutError) as refused:
        await waiting
    assert refused.value.retry_after == 0.0
    assert len(held) == 10


# ---- too many who wait


@virtual_time
async def test_a_call_that_waits_for_the_pace_alone_counts_as_waiting() -> None:
    limiter = QuotaLimiter(Quota(10, 10.0, burst=1), max_waiting=0)
    await send(limiter, 1)
    with pytest.raises(QuotaTimeoutError, match="0 interactive requests are waiting"):
        await limiter.acquire()
    await asyncio.sleep(1.01)
    await send(limiter, 1)


@virtual_time
async def test_one_too_many_is_told_when_its_place_would_be_served() -> None:
    limiter = QuotaLimiter(QUOTA, max_waiting=10)
    await send(limiter, 10)
    waiting = [asyncio.create_task(limiter.acquire()) for _ in range(10)]
    await asyncio.sleep(0)
    with pytest.raises(QuotaTimeoutError) as refused:
        await limiter.acquire()
    foretold = limiter._attached().home.earliest(clock(), 10) - clock()
    assert refused.value.retry_after == pytest.approx(foretold)
    assert foretold > 21.0
    for permit in await asyncio.gather(*waiting):
        permit.mark_sent()
