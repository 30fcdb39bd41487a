"""The limiter, on virtual time: order, deadlines, cancellation, penalty, adaptation."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import replace
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks import quota_counting as counting
from stable_async.errors import ConfigurationError, QuotaTimeoutError, WrongEventLoopError
from stable_async.quota import (
    Permit,
    ProcessHome,
    Quota,
    QuotaLimiter,
    QuotaStatistics,
    Slot,
)
from stable_async.quota.flow import BULK_BURST, BULK_TURN
from stable_async.quota.jitter import LEAST
from stable_async.quota.loop_lag import LoopLag
from tests.virtual_time import VirtualTimeLoop, virtual_time

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stable_async.quota import Priority
    from stable_async.quota.homes.base import Waiters

QUOTA = Quota(requests=10, window=10.0, penalty=60.0, jitter=0.5)


def clock() -> float:
    return asyncio.get_running_loop().time()


class Sent:
    """Requests sent through a limiter: who, and when."""

    def __init__(self, limiter: QuotaLimiter) -> None:
        self.limiter = limiter
        self.start = clock()
        self.log: list[tuple[str, float]] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def send(
        self, name: str, priority: Priority = "interactive", tenant: str | None = None
    ) -> None:
        permit = await self.limiter.acquire(priority=priority, tenant=tenant)
        permit.mark_sent()
        self.log.append((name, clock() - self.start))

    def begin(
        self,
        name: str,
        count: int = 1,
        priority: Priority = "interactive",
        tenant: str | None = None,
    ) -> None:
        self.tasks += [asyncio.create_task(self.send(name, priority, tenant)) for _ in range(count)]

    async def done(self) -> None:
        await asyncio.gather(*self.tasks)

    def names(self) -> str:
        return "".join(name for name, _ in self.log)

    def times(self, name: str = "") -> list[float]:
        return [time for who, time in self.log if name in who]


async def use_up(limiter: QuotaLimiter, count: int = QUOTA.requests) -> list[Permit]:
    permits = [await limiter.acquire() for _ in range(count)]
    for permit in permits:
        permit.mark_sent()
    return permits


async def waiting_for_a_place() -> tuple[QuotaLimiter, asyncio.Task[Permit]]:
    """Return a limiter that lets one request leave at a time, and a call that waits for it."""
    limiter = QuotaLimiter(Quota(requests=10, window=10.0, burst=1))
    await use_up(limiter, 1)
    waiting = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0.5)
    return limiter, waiting


# ---- the flow


@virtual_time
async def test_a_burst_from_idle_leaves_at_once() -> None:
    sent = Sent(QuotaLimiter())
    sent.begin("a", 150)
    await sent.done()
    assert sent.times() == [0.0] * 150


@virtual_time
async def test_a_load_that_never_ends_uses_the_ceiling_and_breaks_no_way_of_counting() -> None:
    sent = Sent(QuotaLimiter())
    sent.begin("a", 600)
    await sent.done()
    times = np.array(sent.times())
    assert counting.log(times, 10.0) <= 150
    assert counting.worst_counter(times, 10.0) <= 150
    assert counting.bucket(times, 150, 10.0) <= 150 + 1e-7
    assert (10 + 450 / 15) / times[-1] >= 0.965


async def measure(limiter: QuotaLimiter, *delays: float, seconds: float = 30.0) -> None:
    """Observe these delays again and again, six times a second, for so long."""
    await limiter.open()
    for _, delay in zip(range(int(seconds * 6)), cycle(delays), strict=False):
        limiter.observe(delay)
        await asyncio.sleep(1 / 6)


TEN_MINUTES = 630.0


@virtual_time
async def test_on_a_quiet_network_the_measured_jitter_wins_what_the_default_gives_away() -> None:
    limiter = QuotaLimiter()
    await measure(limiter, 0.04, 0.05, 0.06, seconds=TEN_MINUTES)
    sent = Sent(limiter)
    sent.begin("a", 600)
    await sent.done()
    assert limiter.statistics().jitter == LEAST
    assert (10 + 450 / 15) / sent.times()[-1] >= 0.975


@virtual_time
async def test_what_a_busy_event_loop_has_lost_is_made_up() -> None:
    """It has a turn now and then, in which all leave that should have left since the last one."""
    limiter = QuotaLimiter()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    for busy, free, least in ((0.2, 0.2, 0.95), (0.5, 0.5, 0.93), (1.5, 0.5, 0.85)):
        await asyncio.sleep(60)
        sent = Sent(limiter)
        sent.begin("a", 600)
        done = asyncio.gather(*sent.tasks)
        while not done.done():
            await asyncio.sleep(free)
            loop.stand_still(busy)
        times = np.array(sent.times())
        assert (10 + 450 / 15) / times[-1] >= least
        assert counting.log(times, 10.0) <= 150
        assert counting.worst_counter(times, 10.0) <= 150
        assert counting.bucket(times, 150, 10.0) <= 150 + 1e-7


@virtual_time
async def test_those_who_wait_leave_evenly() -> None:
    sent = Sent(QuotaLimiter(QUOTA))
    sent.begin("a", 30)
    await sent.done()
    gaps = np.diff(sent.times()[10:])
    assert min(gaps) > 10.5 / 10 - 0.06
    assert max(gaps) < 2.5


@virtual_time
async def test_a_slot_stays_open_until_the_headers_are_on_the_wire() -> None:
    limiter = QuotaLimiter(QUOTA)
    permits = [await limiter.acquire() for _ in range(10)]
    sent = Sent(limiter)
    sent.begin("late")
    await asyncio.sleep(100)
    assert sent.log == []
    for permit in permits:
        permit.mark_sent()
    await sent.done()
    assert sent.times()[0] > 100 + QUOTA.window + QUOTA.jitter


@virtual_time
async def test_a_released_slot_goes_to_the_next_in_line_at_once() -> None:
    limiter = QuotaLimiter(QUOTA)
    permits = [await limiter.acquire() for _ in range(10)]
    sent = Sent(limiter)
    sent.begin("next", 2)
    await asyncio.sleep(3)
    permits[0].release()
    await asyncio.sleep(0.01)
    assert sent.times() == [pytest.approx(3.0, abs=0.01)]
    permits[1].release()
    await sent.done()


@virtual_time
async def test_released_slots_can_all_be_used_again_at_once() -> None:
    limiter = QuotaLimiter(QUOTA)
    for _ in range(50):
        for permit in [await limiter.acquire() for _ in range(10)]:
            permit.release()
    assert clock() == 1000.0
    assert limiter.statistics().in_window == 0


@virtual_time
async def test_a_permit_may_be_closed_again_and_the_first_word_counts() -> None:
    limiter = QuotaLimiter(QUOTA)
    marked, released = await limiter.acquire(), await limiter.acquire()
    assert marked.mark_sent()
    marked.release()
    assert marked.mark_sent()
    released.release()
    # What was given back is no longer counted: its request must not leave.
    assert not released.mark_sent()
    assert (limiter.statistics().in_window, limiter.statistics().open) == (1, 0)


@virtual_time
async def test_a_permit_that_has_expired_or_could_not_be_counted_never_allows_its_request() -> None:
    class Lost(ProcessHome):
        def mark_sent(self, slot: Slot, now: float) -> bool:
            if slot is slots[1]:
                raise ConfigurationError("the file is gone")
            return False

    limiter = QuotaLimiter(QUOTA, home=Lost(QUOTA))
    expired, unknown = await limiter.acquire(), await limiter.acquire()
    slots = expired._slot, unknown._slot
    with pytest.raises(ConfigurationError, match="gone"):
        unknown.mark_sent()
    for permit in (expired, expired, unknown):
        assert not permit.mark_sent()


@virtual_time
async def test_what_is_not_known_counts_as_sent() -> None:
    limiter = QuotaLimiter(QUOTA)
    with pytest.raises(ConnectionError), await limiter.acquire():
        raise ConnectionError
    with await limiter.acquire() as permit:
        permit.release()
    lost = await limiter.acquire()
    assert limiter.statistics().open == 1
    del lost  # nothing else refers to it; a collection would blame this test for others' garbage
    await asyncio.sleep(0)
    assert (limiter.statistics().in_window, limiter.statistics().open) == (2, 0)


# ---- the pace


@virtual_time
async def test_a_smaller_burst_makes_the_flow_smoother_not_slower() -> None:
    quota = Quota(requests=10, window=10.0, jitter=0.0, burst=2)
    sent = Sent(QuotaLimiter(quota))
    sent.begin("a", 40)
    await sent.done()
    times = sent.times()
    assert times[:2] == [0.0, 0.0]
    assert min(np.diff(times[1:])) > 0.9
    assert (10 + 30) / times[-1] > 0.9


@virtual_time
async def test_priorities_hold_with_a_burst_of_one() -> None:
    sent = Sent(QuotaLimiter(Quota(requests=10, window=10.0, jitter=0.0, burst=1)))
    sent.begin("b", 5, "bulk")
    await asyncio.sleep(0.5)
    sent.begin("i", 3)
    await sent.done()
    assert sent.names() == "biiibbbb"


@virtual_time
async def test_a_pace_does_not_forget_slots_that_came_back() -> None:
    limiter = QuotaLimiter(Quota(requests=10, window=10.0, burst=3))
    for _ in range(20):
        for permit in [await limiter.acquire() for _ in range(3)]:
            permit.release()
    assert clock() == 1000.0
    await asyncio.sleep(60)
    sent = Sent(limiter)
    sent.begin("a", 6)
    await sent.done()
    assert sum(time == 0 for time in sent.times()) == 3


@virtual_time
async def test_a_slot_that_came_back_gives_the_pace_one_place_and_no_more() -> None:
    limiter = QuotaLimiter(Quota(requests=10, window=10.0, burst=3))
    (await limiter.acquire()).release()
    sent = Sent(limiter)
    sent.begin("a", 6)
    await sent.done()
    assert sum(time == 0 for time in sent.times()) == 3


@virtual_time
async def test_the_wait_for_a_place_in_the_pace_goes_on_when_its_task_is_cancelled() -> None:
    """Some programs cancel all tasks when they end, and then send once more."""
    limiter, waiting = await waiting_for_a_place()
    for task in asyncio.all_tasks() - {asyncio.current_task(), waiting}:
        task.cancel()
    assert (await waiting).mark_sent()
    await limiter.aclose()


@virtual_time
async def test_closing_ends_the_wait_for_a_place_in_the_pace() -> None:
    limiter, waiting = await waiting_for_a_place()
    await limiter.aclose()
    with pytest.raises(ConfigurationError, match="was closed"):
        await waiting
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


# ---- who is next


@virtual_time
async def test_first_come_first_served_inside_a_priority() -> None:
    limiter = QuotaLimiter(QUOTA)
    await use_up(limiter)
    sent = Sent(limiter)
    for name in "abcdefghijkl":
        sent.begin(name)
        await asyncio.sleep(0.1)
    await sent.done()
    assert sent.names() == "abcdefghijkl"


@virtual_time
async def test_interactive_requests_leave_before_bulk_ones_that_came_earlier() -> None:
    limiter = QuotaLimiter(QUOTA)
    await use_up(limiter)
    sent = Sent(limiter)
    sent.begin("b", 3, "bulk")
    await asyncio.sleep(1)
    sent.begin("i", 3)
    await sent.done()
    assert sent.names() == "iiibbb"


@virtual_time
async def test_bulk_gets_its_floor_however_many_interactive_requests_wait() -> None:
    limiter = QuotaLimiter(QUOTA)
    await use_up(limiter)
    sent = Sent(limiter)
    sent.begin("b", 20, "bulk")
    sent.begin("i", 80)
    await sent.done()
    first = sent.names()[:80]
    assert first == ("i" * (BULK_TURN - 1) + "b") * (80 // BULK_TURN)


@virtual_time
async def test_a_bulk_request_whose_turn_it_is_leaves_no_room_for_those_it_waits_with() -> None:
    """Nor do other processes hear that only bulk requests wait here."""
    asked: list[tuple[int, bool]] = []

    class Recording(ProcessHome):
        def reserve(self, now: float, *, bulk: bool = False) -> Slot | float:
            assert self.waiters is not None
            asked.append((self.waiters.waiting("interactive"), bulk))
            return super().reserve(now, bulk=bulk)

    limiter = QuotaLimiter(QUOTA, home=Recording(QUOTA))
    await use_up(limiter)
    sent = Sent(limiter)
    sent.begin("b", 3, "bulk")
    sent.begin("i", 20)
    await sent.done()
    assert sent.names().index("b") < 20
    assert [bulk for waiting, bulk in asked if waiting] == [False] * sum(
        waiting > 0 for waiting, _ in asked
    )
    assert asked[-1] == (0, True)


@virtual_time
async def test_an_interactive_request_finds_room_while_bulk_ones_run() -> None:
    limiter = QuotaLimiter()
    sent = Sent(limiter)
    sent.begin("i")
    await asyncio.sleep(1)
    sent.begin("b", 450, "bulk")
    waits = []
    for _ in range(300):
        await asyncio.sleep(0.1)
        asked = clock()
        await sent.send("i")
        waits.append(clock() - asked)
    await sent.done()
    assert max(waits) < 0.5
    assert max(sent.times()) < 1 + (10.3 / 150) * 751 * 1.02


@virtual_time
async def test_bulk_alone_has_the_whole_burst_and_beside_others_a_part_of_it() -> None:
    alone = Sent(QuotaLimiter())
    alone.begin("b", 150, "bulk")
    await alone.done()
    assert alone.times() == [0.0] * 150
    beside = Sent(QuotaLimiter())
    beside.begin("i")
    await asyncio.sleep(0.001)
    beside.begin("b", 150, "bulk")
    await beside.done()
    assert 1 <= sum(time < 0.05 for time in beside.times("b")) <= 150 * BULK_BURST + 2
    assert max(np.diff(beside.times("b"))) < 0.55


@virtual_time
async def test_tenants_take_turns_inside_a_priority() -> None:
    limiter = QuotaLimiter(QUOTA)
    await use_up(limiter)
    sent = Sent(limiter)
    for tenant, count in (("a", 5), ("b", 2), ("c", 1)):
        sent.begin(tenant, count, tenant=tenant)
    await sent.done()
    assert sent.names() == "abcabaaa"


# ---- deadlines and bounds


@virtual_time
async def test_a_deadline_that_cannot_be_kept_is_refused_at_once() -> None:
    limiter = QuotaLimiter(QUOTA)
    await use_up(limiter)
    with pytest.raises(QuotaTimeoutError) as refused:
        await limiter.acquire(deadline=10.0)
    assert clock() == 1000.0
    await asyncio.sleep(refused.value.retry_after + 1e-3)
    (await limiter.acquire(deadline=0)).mark_sent()


@virtual_time
async def test_a_place_far_back_in_the_line_counts_against_the_deadline() -> None:
    limiter = QuotaLimiter(QUOTA)
    await use_up(limiter)
    sent = Sent(limiter)
    sent.begin("a", 20)
    await asyncio.sleep(0)
    with pytest.raises(QuotaTimeoutError) as refused:
        await limiter.acquire(deadline=25.0)
    assert clock() == 1000.0
    await sent.done()
    assert 1000.0 + refused.value.retry_after <= clock() + 1.1


@virtual_time
async def test_a_deadline_that_is_missed_by_surprise_is_told_when_it_passes() -> None:
    limiter = QuotaLimiter(QUOTA)
    held = [await limiter.acquire() for _ in range(10)]
    waiting = asyncio.create_task(limiter.acquire(deadline=12.0))
    await asyncio.sleep(5)
    held[0].mark_sent()
    with pytest.raises(QuotaTimeoutError):
        await waiting
    assert clock() <= 1012.0 + 1e-3
    assert limiter.statistics().waiting == 0


@virtual_time
async def test_a_penalty_is_told_at_once_to_those_whose_deadline_it_breaks() -> None:
    limiter = QuotaLimiter(QUOTA)
    await use_up(limiter)
    hopeless = asyncio.create_task(limiter.acquire(deadline=20.0))
    patient = asyncio.create_task(limiter.acquire(deadline=100.0))
    await asyncio.sleep(1)
    limiter.penalise(60.0)
    with pytest.raises(QuotaTimeoutError) as refused:
        await hopeless
    assert clock() == pytest.approx(1001.0, abs=1e-3)
    assert refused.value.retry_after == pytest.approx(60.0, abs=1e-3)
    (await patient).mark_sent()
    assert clock() == pytest.approx(1061.0, abs=1e-3)


@virtual_time
async def test_a_deadline_of_zero_means_now_or_never() -> None:
    limiter = QuotaLimiter(Quota(requests=10, window=10.0, burst=1))
    (await limiter.acquire(deadline=0)).mark_sent()
    with pytest.raises(QuotaTimeoutError):
        await limiter.acquire(deadline=0)
    assert limiter.statistics().waiting == 0


@virtual_time
async def test_served_deadlines_are_forgotten_long_before_they_pass() -> None:
    limiter = QuotaLimiter(QUOTA)
    await use_up(limiter)
    for _ in range(300):
        (await limiter.acquire(deadline=1e6)).mark_sent()
    assert len(limiter._attached()._deadlines) < 100


@virtual_time
async def test_the_line_is_bounded_when_asked() -> None:
    limiter = QuotaLimiter(QUOTA, max_waiting=2)
    await use_up(limiter)
    sent = Sent(limiter)
    sent.begin("a", 2)
    await asyncio.sleep(0)
    with pytest.raises(QuotaTimeoutError) as refused:
        await limiter.acquire()
    assert refused.value.retry_after > 10
    await sent.done()
    (await limiter.acquire()).mark_sent()


@virtual_time
async def test_bulk_calls_wait_without_bound_and_take_no_interactive_place() -> None:
    """A `map` in a web back end bounds itself, and is there to wait."""
    limiter = QuotaLimiter(QUOTA, max_waiting=2)
    await use_up(limiter)
    sent = Sent(limiter)
    sent.begin("b", 5, priority="bulk")
    await asyncio.sleep(0)
    sent.begin("i", 2)
    await asyncio.sleep(0)
    with pytest.raises(QuotaTimeoutError, match="2 interactive requests"):
        await limiter.acquire()
    sent.begin("b", priority="bulk")
    await sent.done()
    assert sorted(sent.names()) == list("bbbbbbii")


# ---- cancellation


@virtual_time
async def test_a_cancelled_waiter_leaves_no_hole() -> None:
    limiter = QuotaLimiter(QUOTA)
    await use_up(limiter)
    sent = Sent(limiter)
    for name in "abcde":
        sent.begin(name)
    await asyncio.sleep(1)
    sent.tasks[0].cancel()
    sent.tasks[2].cancel()
    await asyncio.gather(*sent.tasks, return_exceptions=True)
    assert sent.names() == "bde"
    assert sent.times()[0] == pytest.approx(10.5 + 1, abs=1e-3)
    assert limiter.statistics().waiting == 0


@virtual_time
async def test_a_permit_given_to_a_call_that_is_cancelled_meanwhile_comes_back() -> None:
    limiter = QuotaLimiter(QUOTA)
    permits = [await limiter.acquire() for _ in range(10)]
    sent = Sent(limiter)
    sent.begin("a")
    sent.begin("b")
    await asyncio.sleep(0)
    permits[0].release()
    # The permit goes to "a" in the next turn of the loop; before "a" runs, it is cancelled.
    asyncio.get_running_loop().call_soon(sent.tasks[0].cancel)
    await asyncio.sleep(0.01)
    assert sent.names() == "b"
    assert limiter.statistics().open == 9


@virtual_time
async def test_cancelling_anybody_at_any_turn_keeps_the_state_right() -> None:
    rng = np.random.default_rng(7)
    limiter = QuotaLimiter(QUOTA)
    left: list[float] = []

    async def request() -> None:
        permit = await limiter.acquire(priority="bulk" if rng.random() < 0.5 else "interactive")
        try:
            await asyncio.sleep(float(rng.exponential(0.3)))
        except asyncio.CancelledError:
            permit.release()
            raise
        permit.mark_sent()
        left.append(clock())

    tasks = []
    for _ in range(400):
        tasks.append(asyncio.create_task(request()))
        await asyncio.sleep(float(rng.exponential(0.4)) if rng.random() < 0.8 else 0)
        if rng.random() < 0.5:
            tasks[rng.integers(len(tasks))].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    statistics = limiter.statistics()
    assert (statistics.waiting, statistics.open) == (0, 0)
    assert counting.worst_counter(np.sort(left), QUOTA.window) <= QUOTA.requests
    await asyncio.sleep(21)
    assert limiter.statistics().in_window == 0
    await use_up(limiter)


# ---- the penalty


@virtual_time
async def test_nobody_leaves_during_a_penalty_and_one_goes_ahead_after_it() -> None:
    limiter = QuotaLimiter(QUOTA)
    sent = Sent(limiter)
    limiter.penalise(permit=(await use_up(limiter, 1))[0])
    sent.begin("i", 5)
    sent.begin("b", 5, "bulk")
    await asyncio.sleep(30)
    assert sent.log == []
    assert limiter.statistics().penalty_left == pytest.approx(30.0, abs=1e-3)
    assert limiter.statistics().earliest_next == pytest.approx(30.0, abs=1e-3)
    await sent.done()
    times = sent.times()
    assert times[0] == pytest.approx(60.0, abs=1e-3)
    assert times[1] - times[0] >= 1.0
    assert min(np.diff(times[1:])) > 1.0
    assert limiter.statistics().penalty_left == 0


@virtual_time
async def test_the_server_s_own_waiting_time_is_kept() -> None:
    limiter = QuotaLimiter(QUOTA)
    await limiter.open()
    limiter.penalise(retry_after=7.0)
    (await limiter.acquire()).mark_sent()
    assert clock() == pytest.approx(1007.0, abs=1e-3)


@virtual_time
async def test_refusals_of_one_breach_are_one_penalty_and_one_cut() -> None:
    limiter = QuotaLimiter(QUOTA)
    permits = await use_up(limiter)
    for permit in permits:
        await asyncio.sleep(0.1)
        limiter.penalise(permit=permit)
    statistics = limiter.statistics()
    assert statistics.refusals == 10
    assert statistics.share == pytest.approx(0.75)
    assert statistics.penalty_left == pytest.approx(60.0 - 0.9, abs=1e-3)


@virtual_time
async def test_a_refused_probe_shuts_out_again_without_another_cut() -> None:
    limiter = QuotaLimiter(QUOTA)
    limiter.penalise(permit=(await use_up(limiter))[0])
    share = limiter.statistics().share
    probe = await limiter.acquire()
    probe.mark_sent()
    limiter.penalise(permit=probe)
    assert limiter.statistics().penalty_left == pytest.approx(60.0, abs=1e-3)
    assert limiter.statistics().share == pytest.approx(share, abs=1e-3)


@virtual_time
async def test_an_unexplained_refusal_shrinks_the_share_which_is_won_back_slowly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limiter = QuotaLimiter()
    permits = await use_up(limiter, 150)
    with caplog.at_level(logging.WARNING, logger="stable_async.quota"):
        limiter.penalise(permit=permits[0])
        assert limiter.statistics().requests == 112
        await asyncio.sleep(60)
        again = await use_up(limiter, 20)
        limiter.penalise(permit=again[-1])
        assert limiter.statistics().requests == 84
        assert len(caplog.records) == 1
        await asyncio.sleep(60 + 600)
        assert limiter.statistics().requests == 84 + 15
        sent = Sent(limiter)
        sent.begin("a", 150)
        await asyncio.sleep(30)
        assert counting.log(np.array(sent.times()), 10.0) <= 101
        await sent.done()
        await asyncio.sleep(3600)
        assert limiter.statistics().requests == 150
        assert limiter.statistics().share == 1.0
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


@virtual_time
async def test_however_often_it_is_cut_a_share_remains() -> None:
    limiter = QuotaLimiter(QUOTA)
    await limiter.open()
    for _ in range(20):
        limiter.penalise(retry_after=1.0)
        await asyncio.sleep(2)
    assert limiter.statistics().requests == 1
    (await limiter.acquire()).mark_sent()


# ---- the jitter


@virtual_time
async def test_the_jitter_allowed_for_falls_only_after_ten_minutes_of_dense_measurements() -> None:
    limiter = QuotaLimiter()
    await measure(limiter, 0.1, seconds=TEN_MINUTES - 31)
    assert limiter.statistics().jitter == 0.3
    await measure(limiter, 0.1, seconds=31)
    assert limiter.statistics().jitter == LEAST
    # One stall that is nearly as long brings it back at once, and for as long.
    limiter.observe(0.25)
    assert limiter.statistics().jitter == 0.3
    await measure(limiter, 0.1, seconds=TEN_MINUTES - 31)
    assert limiter.statistics().jitter == 0.3
    await measure(limiter, 0.1, seconds=62)
    assert limiter.statistics().jitter == LEAST
    # Sparse measurements would not have seen it.
    sparse = QuotaLimiter()
    await sparse.open()
    for _ in range(300):
        sparse.observe(0.1)
        await asyncio.sleep(3)
    assert sparse.statistics().jitter == 0.3


@virtual_time
async def test_the_jitter_allowed_for_rises_with_what_neighbours_share_within_bounds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limiter = QuotaLimiter()
    with caplog.at_level(logging.WARNING, logger="stable_async.quota"):
        await measure(limiter, *[0.0] * 5, *[0.4] * 5)
        assert limiter.statistics().jitter == pytest.approx(0.4 * 1.25 + 0.02)
        await measure(limiter, *[0.0] * 5, *[9.0] * 5, seconds=120)
    assert limiter.statistics().jitter == 1.0
    assert len(caplog.records) == 1
    await measure(limiter, 0.1, seconds=180)
    assert limiter.statistics().jitter == 0.3


@virtual_time
async def test_the_set_up_of_connections_only_proves_that_more_is_needed() -> None:
    """Behind a proxy it is quick, while what the server counts arrives much later."""
    limiter = QuotaLimiter()
    await limiter.open()
    for _ in range(4000):
        limiter.observe(0.001, set_up=True)
        await asyncio.sleep(1 / 6)
    assert limiter.statistics().jitter == 0.3
    for number in range(500):
        limiter.observe(0.5 * (number % 10 > 5), set_up=True)
        await asyncio.sleep(1 / 6)
    assert limiter.statistics().jitter == pytest.approx(0.499 * 1.25 + 0.02, abs=0.01)


@virtual_time
async def test_stragglers_that_come_alone_do_not_raise_the_jitter() -> None:
    limiter = QuotaLimiter()
    await measure(limiter, *[0.1] * 59, 0.9, 0.9, seconds=TEN_MINUTES)
    assert limiter.statistics().jitter == 0.3


@virtual_time
async def test_a_stall_now_and_then_does_not_raise_the_jitter_of_all_other_minutes() -> None:
    limiter = QuotaLimiter()
    await measure(limiter, *[0.1] * 355, *[0.9] * 5, seconds=TEN_MINUTES)
    assert limiter.statistics().jitter == 0.3


@virtual_time
async def test_a_fixed_jitter_is_not_touched() -> None:
    limiter = QuotaLimiter(Quota(adaptive=False))
    await limiter.open()
    for delay in (0.0, 5.0) * 100:
        limiter.observe(delay)
    assert limiter.statistics().jitter == 0.3


@virtual_time
async def test_a_refusal_that_stragglers_explain_widens_the_jitter_for_good() -> None:
    limiter = QuotaLimiter()
    await limiter.open()
    await measure(limiter, *[0.1] * 59, 0.9, seconds=60)
    limiter.penalise(permit=(await use_up(limiter, 1))[0])
    assert limiter.statistics().share == 1.0
    assert limiter.statistics().jitter == pytest.approx(0.8)
    await measure(limiter, 0.1, seconds=700)
    assert limiter.statistics().jitter == pytest.approx(0.8)


@virtual_time
async def test_a_refusal_widens_the_jitter_no_further_than_its_bound() -> None:
    limiter = QuotaLimiter()
    await measure(limiter, *[0.1] * 59, 7.0, seconds=60)
    limiter.penalise(permit=(await use_up(limiter, 1))[0])
    assert limiter.statistics().jitter == 1.0


# ---- whose it is


@virtual_time
async def test_calls_that_come_while_the_home_is_being_opened_wait_for_it() -> None:
    class Slow(ProcessHome):
        opened = 0

        async def open(self, waiters: Waiters | None = None) -> None:
            self.opened += 1
            await asyncio.sleep(1)
            await super().open(waiters)

    home = Slow(QUOTA)
    limiter = QuotaLimiter(QUOTA, home=home)
    await asyncio.gather(*(use_up(limiter, 1) for _ in range(3)))
    assert clock() == pytest.approx(1001)
    assert (home.opened, limiter.statistics().in_window) == (1, 3)


def test_a_second_event_loop_is_told_so() -> None:
    limiter = QuotaLimiter()

    async def use() -> None:
        (await limiter.acquire()).mark_sent()

    asyncio.run(use())
    with pytest.raises(WrongEventLoopError, match="another event loop"):
        asyncio.run(use())


async def test_figures_need_no_open_limiter_and_what_changes_them_does() -> None:
    limiter = QuotaLimiter()
    assert limiter.statistics() == QuotaStatistics(
        waiting=0, waiting_bulk=0, open=0, in_window=0, requests=150, share=1.0, jitter=0.3,
        earliest_next=0.0, penalty_left=0.0, granted=0, refusals=0, longest_wait=0.0,
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match="not open"):
        limiter.penalise(30.0)
    await limiter.open()
    assert (limiter.statistics().earliest_next, limiter.statistics().longest_wait) == (0.0, 0.0)
    limiter.penalise(30.0)
    assert 29 < limiter.statistics().penalty_left <= 30
    await limiter.aclose()
    with pytest.raises(ConfigurationError, match="was closed"):
        await limiter.acquire()


@virtual_time
async def test_the_figures_add_up() -> None:
    limiter = QuotaLimiter(QUOTA)
    await use_up(limiter, 8)
    held = [await limiter.acquire(), await limiter.acquire()]
    sent = Sent(limiter)
    sent.begin("i", 2)
    sent.begin("b", 3, "bulk")
    await asyncio.sleep(4)
    figures = limiter.statistics()
    assert (figures.waiting, figures.waiting_bulk, figures.open) == (5, 3, 2)
    assert (figures.in_window, figures.requests, figures.granted) == (10, 10, 10)
    assert figures.longest_wait == pytest.approx(4.0, abs=1e-3)
    for permit in held:
        permit.mark_sent()
    await sent.done()
    assert 10 < limiter.statistics().longest_wait < 30
    assert Counter(sent.names()) == {"i": 2, "b": 3}


@virtual_time
async def test_one_timer_serves_all_who_wait() -> None:
    limiter = QuotaLimiter(replace(QUOTA, adaptive=False))  # which does not watch the loop
    await use_up(limiter)
    sent = Sent(limiter)
    sent.begin("a", 500)
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    assert loop.timers() == 1
    for task in sent.tasks:
        task.cancel()
    await asyncio.gather(*sent.tasks, return_exceptions=True)


# ---- a busy event loop


async def converse(
    limiter: QuotaLimiter, count: int, *, busy: float, free: float, delays: Iterable[float]
) -> list[float]:
    """Send requests from a loop that is busy, measure their delays, and return when they left."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    own, left = iter(cycle(delays)), []

    async def request() -> None:
        permit = await limiter.acquire()
        permit.mark_sent()
        left.append(sent := clock())
        await asyncio.sleep(next(own))
        limiter.observe(clock() - sent)

    done = asyncio.gather(*(request() for _ in range(count)))
    while not done.done():
        await asyncio.sleep(free)
        loop.stand_still(busy)
    return left


@virtual_time
async def test_a_busy_event_loop_is_not_taken_for_a_network_whose_delays_differ() -> None:
    for busy, free, least in ((0.2, 0.2, 0.95), (0.5, 0.5, 0.93), (1.5, 0.5, 0.85)):
        limiter = QuotaLimiter()
        left = await converse(limiter, 600, busy=busy, free=free, delays=(0.3, 0.32, 0.35))
        assert limiter.statistics().jitter == Quota().jitter
        assert (10 + 450 / 15) / (left[-1] - left[0]) >= least
        await limiter.aclose()


@virtual_time
async def test_delays_that_differ_are_seen_from_a_busy_event_loop_too() -> None:
    limiter = QuotaLimiter()
    late = [0.1] * 20 + [0.9] * 20
    await converse(limiter, 600, busy=0.2, free=0.2, delays=late)
    assert limiter.statistics().jitter > 0.9
    await limiter.aclose()


@virtual_time
async def test_what_a_busy_event_loop_hides_is_no_proof_that_less_is_enough() -> None:
    """Ten minutes of the same delay, but twice a minute the loop stands still."""
    limiter = QuotaLimiter()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    for _ in range(21):
        await measure(limiter, 0.05, seconds=29.0)
        permit = await limiter.acquire()
        permit.mark_sent()
        sent = clock()
        await asyncio.sleep(0.05)
        loop.stand_still(1.0)
        await asyncio.sleep(0)
        limiter.observe(clock() - sent)
    assert limiter.statistics().jitter == Quota().jitter


@virtual_time
async def test_the_event_loop_is_watched_only_while_requests_are_on_their_way() -> None:
    limiter = QuotaLimiter()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    (await limiter.acquire()).mark_sent()
    assert loop.timers() == 1
    await asyncio.sleep(5)
    assert loop.timers() == 0
    (await limiter.acquire()).mark_sent()
    await limiter.aclose()
    assert loop.timers() == 0
    fixed = QuotaLimiter(Quota(adaptive=False))
    (await fixed.acquire()).mark_sent()
    assert loop.timers() == 0


@virtual_time
async def test_how_late_the_event_loop_is_shows_before_its_timers_have_their_turn() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    lag = LoopLag(loop, loop.time)
    lag.watch(loop.time())
    loop.stand_still(0.5)
    assert lag.lag(loop.time()) == pytest.approx(0.5, abs=0.05)
    await asyncio.sleep(0.1)
    assert lag.lag(loop.time()) == 0
    lag.close()
