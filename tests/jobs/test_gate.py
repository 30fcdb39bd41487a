"""The gate alone: what may leave, when an outage begins and ends, and what a stop cancels."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from stable_async.errors import APIConnectionError, APIStatusError, Verdict
from stable_async.jobs.errors import JobError
from stable_async.jobs.gate import LONGEST_WAIT, REFUSALS, Gate
from stable_async.jobs.progress import Progress
from tests.virtual_time import virtual_time

if TYPE_CHECKING:
    from collections.abc import Iterator


def refusal() -> APIStatusError:
    verdict = Verdict(from_api=False, billed="no", concerns="network", job="pause")
    return APIStatusError(verdict=verdict, status=521)


def gate(progress: Progress, *, limit: float = 120.0) -> Gate:
    made = Gate(progress, address="https://x", outage_limit=limit, first_wait=1.0)
    made.answered()
    return made


@contextmanager
def probing(one: Gate, who: object) -> Iterator[None]:
    try:
        yield
    finally:
        one.end(who, asyncio.timeout(None))


@virtual_time
async def test_one_request_at_a_time_probes_at_growing_intervals() -> None:
    clock = asyncio.get_running_loop().time
    one = gate(Progress(0.0), limit=10_000.0)
    for _ in range(REFUSALS):
        one.refused(refusal())
    left: list[float] = []

    async def send() -> None:
        me = object()
        with probing(one, me):
            await one.wait(me)
            left.append(clock())
            await asyncio.sleep(0)
            if len(left) <= 10:
                one.refused(refusal())
            else:
                one.answered()

    began = clock()
    await asyncio.gather(*(send() for _ in range(30)))
    waits = [round(b - a) for a, b in zip([began, *left], left, strict=False)][:11]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]
    assert len(left) == 30, "all go on when the probe is answered"
    assert max(left) - left[10] < 0.01


@virtual_time
async def test_an_outage_ends_the_job_after_its_limit_and_not_before() -> None:
    clock = asyncio.get_running_loop().time
    one = gate(Progress(0.0))
    for _ in range(REFUSALS):
        one.refused(refusal())
    began = clock()
    while not one.stopping:
        me = object()
        with probing(one, me):
            await one.wait(me)
            one.refused(refusal())
    assert clock() - began == pytest.approx(120.0, abs=0.1)
    assert "https://x" in str(one.error)
    assert "521" in str(one.error)


@virtual_time
async def test_an_answer_between_refusals_is_no_outage() -> None:
    one = gate(Progress(0.0))
    for _ in range(10):
        for _ in range(REFUSALS - 1):
            one.refused(refusal())
        assert one.lets_pass(object())
        one.answered()


@virtual_time
async def test_an_answer_to_what_left_before_the_first_refusal_ends_no_outage() -> None:
    """A slow answer says nothing about the network now."""
    one = gate(Progress(0.0))
    before = asyncio.get_running_loop().time()
    await asyncio.sleep(1)
    for _ in range(REFUSALS):
        one.refused(refusal())
        one.answered(before)
    assert not one.lets_pass(object())
    await asyncio.sleep(1)
    one.answered(before)
    assert not one.lets_pass(object())
    one.answered(asyncio.get_running_loop().time())
    assert one.lets_pass(object())


@virtual_time
async def test_a_probe_that_is_cancelled_lets_another_one_probe() -> None:
    one = gate(Progress(0.0))
    for _ in range(REFUSALS):
        one.refused(refusal())

    async def send() -> None:
        with probing(one, me := object()):
            await one.wait(me)

    first = asyncio.create_task(send())
    await asyncio.sleep(0.5)
    second = asyncio.create_task(send())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    async with asyncio.timeout(100):
        await second


@virtual_time
async def test_no_connection_at_the_start_is_a_wrong_address() -> None:
    one = Gate(Progress(0.0), address="https://x", outage_limit=120.0, first_wait=1.0)
    verdict = Verdict(from_api=False, billed="no", concerns="network", job="pause")
    one.refused(APIConnectionError("cannot connect", verdict=verdict))
    assert one.stopping


@virtual_time
async def test_only_the_first_word_of_the_network_may_say_that_the_address_is_wrong() -> None:
    def connection(billed: str) -> APIConnectionError:
        verdict = Verdict(from_api=False, billed=billed, concerns="network", job="pause")  # type: ignore[arg-type]
        return APIConnectionError("cannot connect", verdict=verdict)

    for first, stops in (
        (connection("no"), True),
        (connection("maybe"), False),
        (refusal(), False),
    ):
        one = Gate(Progress(0.0), address="https://x", outage_limit=120.0, first_wait=1.0)
        one.refused(first)
        assert one.stopping == stops
        assert (str(one.error) == str(first)) == stops
        one.refused(connection("no"))
        assert one.stopping == stops, "later ones are an outage"
    one = gate(Progress(0.0))
    one.refused(connection("no"))
    assert not one.stopping


@virtual_time
async def test_an_outage_begins_with_several_refusals_and_is_shown() -> None:
    progress = Progress(0.0)
    one = gate(progress)
    who = object()
    for number in range(1, REFUSALS + 1):
        one.refused(refusal())
        assert one.lets_pass(who) == (number < REFUSALS)
        assert (progress.outage is None) == (number < REFUSALS)
    seen = [progress.outage]
    one.answered()
    seen.append(progress.outage)
    assert seen == [str(refusal()), None]
    assert one.lets_pass(who)
    assert not one.stopping


@virtual_time
async def test_an_outage_ends_at_its_limit_whatever_the_wait_to_the_next_probe() -> None:
    clock = asyncio.get_running_loop().time
    one = gate(Progress(0.0), limit=5.5)
    began = clock()
    waits = []
    for _ in range(REFUSALS):
        one.refused(refusal())
    while not one.stopping:
        with probing(one, me := object()):
            before = clock()
            await one.wait(me)
            waits.append(round(clock() - before, 2))
            one.refused(refusal())
    assert waits == [1.0, 2.0, 2.5]
    assert clock() - began == pytest.approx(5.5, abs=0.01)
    assert "for 5.5 s" in str(one.error)


@virtual_time
async def test_the_next_outage_is_probed_as_soon_as_the_first() -> None:
    clock = asyncio.get_running_loop().time
    one = gate(Progress(0.0), limit=1000.0)
    for _ in range(2):
        for _ in range(REFUSALS):
            one.refused(refusal())
        waits = []
        for _ in range(3):
            with probing(one, me := object()):
                before = clock()
                await one.wait(me)
                waits.append(round(clock() - before))
        assert waits == [1, 2, 4]
        one.answered()


@virtual_time
async def test_a_row_that_probed_in_vain_leaves_the_next_probe_to_another() -> None:
    one = gate(Progress(0.0), limit=1000.0)
    for _ in range(REFUSALS):
        one.refused(refusal())
    order: list[str] = []

    async def send(name: str) -> None:
        for _ in range(2):
            await one.wait(name)
            order.append(name)
            one.refused(refusal())
        one.end(name, asyncio.timeout(None))

    async with asyncio.timeout(10 * LONGEST_WAIT):
        await asyncio.gather(send("a"), send("b"))
    assert order == ["a", "b", "a", "b"]


@virtual_time
async def test_one_row_alone_probes_again_after_twice_the_time() -> None:
    clock = asyncio.get_running_loop().time
    one = gate(Progress(0.0), limit=1000.0)
    for _ in range(REFUSALS):
        one.refused(refusal())
    began, left = clock(), []
    for _ in range(3):
        await one.wait("a")
        left.append(round(clock() - began, 2))
        one.refused(refusal())
    assert left == [1.0, 3.0, 7.0]


@virtual_time
async def test_an_answer_lets_all_go_on_though_the_probe_has_not_ended() -> None:
    """Its image may be long."""
    clock = asyncio.get_running_loop().time
    one = gate(Progress(0.0), limit=1000.0)
    for _ in range(REFUSALS):
        one.refused(refusal())
    probe = asyncio.create_task(one.wait("a"))
    await asyncio.sleep(0)
    others = asyncio.gather(*(one.wait(name) for name in "bcd"))
    await probe
    one.answered()
    began = clock()
    async with asyncio.timeout(100):
        await others
    assert clock() == began


@virtual_time
async def test_who_does_not_probe_ends_no_probe() -> None:
    one = gate(Progress(0.0), limit=1000.0)
    for _ in range(REFUSALS):
        one.refused(refusal())
    await one.wait("a")
    assert one.lets_pass("a")
    one.end("b", asyncio.timeout(None))
    assert one.lets_pass("a")
    one.end("a", asyncio.timeout(None))
    assert not one.lets_pass("a")


@virtual_time
async def test_a_stop_keeps_its_first_reason_and_cancels_what_waits() -> None:
    progress = Progress(0.0)
    one = gate(progress)
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            async with asyncio.timeout(None) as scope:
                one.hold(scope)
                if name == "away":
                    one.let_go(scope)
                elif name == "back":
                    one.end(name, scope)
                await asyncio.sleep(5)
        except TimeoutError:
            ended.append(f"{name} cancelled")
        else:
            ended.append(name)

    waiting = asyncio.gather(work("held"), work("away"), work("back"))
    await asyncio.sleep(1)
    one.stop()
    assert (one.stopping, one.error, progress.phase) == (True, None, "stopping")
    one.stop(JobError("first"))
    await asyncio.sleep(0.1)
    one.stop(JobError("second"))  # and does not touch what has been cancelled
    assert str(one.error) == "first"
    assert ended == ["held cancelled"]
    await work("late")
    assert ended == ["held cancelled", "late cancelled"]
    await waiting
    assert sorted(ended[2:]) == ["away", "back"]


@virtual_time
async def test_a_row_alone_is_refused_if_others_were_answered_since_it_gave_way() -> None:
    clock = asyncio.get_running_loop().time
    one = gate(Progress(0.0))
    assert not one.is_refused_alone(1, is_last=False)
    await asyncio.sleep(1)
    one.give_way(1)
    assert not one.is_refused_alone(1, is_last=False), "the answer came before"
    one.answered()
    assert not one.is_refused_alone(1, is_last=False), "at the same moment"
    await asyncio.sleep(1)
    one.answered(clock())
    one.answered(clock() - 2)
    assert one.is_refused_alone(1, is_last=False)
    assert not one.is_refused_alone(2, is_last=False)
    assert one.answers_since(clock() - 0.5)
    assert not one.answers_since(clock())


@virtual_time
async def test_the_last_row_alone_is_refused_after_a_whole_outage() -> None:
    for answered in (True, False):
        one = Gate(Progress(0.0), address="https://x", outage_limit=10.0, first_wait=1.0)
        if answered:
            one.answered()
        assert not one.is_refused_alone(1, is_last=True)
        for _ in range(REFUSALS):
            one.refused(refusal())
        await asyncio.sleep(9)
        assert not one.is_refused_alone(1, is_last=True)
        await asyncio.sleep(1)
        assert one.is_refused_alone(1, is_last=True) == answered
        assert not one.is_refused_alone(1, is_last=False)
