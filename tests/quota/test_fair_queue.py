"""Who leaves next: the floor of bulk requests, tenants in turn, and the place foretold."""

from __future__ import annotations

from itertools import product
from math import inf
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_async.quota.fair_queue import FairQueue, Priority, Waiter
from stable_async.quota.flow import BULK_TURN

if TYPE_CHECKING:
    import asyncio

    from stable_async.quota.state import Slot

PRIORITIES: list[Priority] = ["interactive", "bulk"]
# Who asks next: priority and tenant. `None`: the next one leaves. Several in a row do the same.
EVENTS = st.lists(
    st.tuples(
        st.integers(1, 2 * BULK_TURN),
        st.none() | st.tuples(st.sampled_from(PRIORITIES), st.sampled_from(["a", "b", None])),
    ),
    max_size=8,
).map(lambda events: [event for count, event in events for _ in range(count)])


def waiter(priority: Priority, tenant: str | None = None, since: float = 0.0) -> Waiter:
    return Waiter(priority, tenant, since, inf, cast("asyncio.Future[Slot]", None))


def next_priority(queue: FairQueue) -> Priority:
    head = queue.head()
    assert head is not None
    return head.priority


def leave(queue: FairQueue) -> Waiter:
    head = queue.head()
    left = queue.pop(next_priority(queue))
    assert left is head
    return left


@given(EVENTS, st.sampled_from(PRIORITIES), st.sampled_from(["a", "b", None]))
def test_the_place_of_a_new_waiter_is_foretold_exactly(
    events: list[tuple[Priority, str | None] | None], priority: Priority, tenant: str | None
) -> None:
    queue = FairQueue()
    for event in events:
        if event is not None:
            queue.push(waiter(*event))
        elif queue.size:
            leave(queue)
    foretold = queue.ahead(priority, tenant)
    new = waiter(priority, tenant)
    queue.push(new)
    before = 0
    while leave(queue) is not new:
        before += 1
    assert before == foretold


@pytest.mark.parametrize("priority", PRIORITIES)
@pytest.mark.parametrize("served", [0, 1, BULK_TURN - 2, BULK_TURN - 1])
def test_the_place_foretold_counts_the_turns_of_the_other_priority(
    priority: Priority, served: int
) -> None:
    for interactive, bulk in product(range(0, 3 * BULK_TURN, 5), (1, 2, 5)):
        queue = FairQueue()
        queue.push(waiter("bulk"))
        for _ in range(served):
            queue.push(waiter("interactive"))
            assert leave(queue).priority == "interactive"
        for _ in range(interactive):
            queue.push(waiter("interactive"))
        for _ in range(bulk - 1):
            queue.push(waiter("bulk"))
        foretold = queue.ahead(priority, None)
        new = waiter(priority)
        queue.push(new)
        before = 0
        while leave(queue) is not new:
            before += 1
        assert before == foretold


@given(EVENTS)
def test_all_leave_once_and_bulk_requests_have_their_floor(
    events: list[tuple[Priority, str | None] | None],
) -> None:
    queue = FairQueue()
    waiting: list[Waiter] = []
    passed_over = 0
    for number, event in enumerate(events):
        if event is not None:
            waiting.append(waiter(*event, since=float(number)))
            queue.push(waiting[-1])
        elif waiting:
            left = leave(queue)
            # The oldest of its priority and tenant.
            same = [
                one for one in waiting if (one.priority, one.tenant) == (left.priority, left.tenant)
            ]
            assert left is same[0]
            waiting.remove(left)
            if left.priority == "bulk":
                passed_over = 0
            elif queue.waiting["bulk"]:
                passed_over += 1
                assert passed_over < BULK_TURN
        bulk = [one for one in waiting if one.priority == "bulk"]
        assert (queue.size, queue.waiting["bulk"]) == (len(waiting), len(bulk))
        assert queue.waiting["interactive"] == len(waiting) - len(bulk)
        assert queue.oldest() == (waiting[0].since if waiting else None)


def test_bulk_leaves_only_when_due_while_interactive_requests_wait() -> None:
    queue = FairQueue()
    for priority in PRIORITIES:
        for _ in range(3 * BULK_TURN):
            queue.push(waiter(priority))
    left = "".join(leave(queue).priority[0] for _ in range(6 * BULK_TURN))
    assert left.startswith(("i" * (BULK_TURN - 1) + "b") * 3)
    assert left.endswith("b" * (3 * BULK_TURN - 3))


def test_interactive_requests_count_for_the_floor_only_while_bulk_ones_wait() -> None:
    queue = FairQueue()
    for _ in range(2 * BULK_TURN):
        queue.push(waiter("interactive"))
        leave(queue)
    queue.push(waiter("bulk"))
    queue.push(waiter("interactive"))
    assert next_priority(queue) == "interactive"


def test_a_tenant_whose_last_call_goes_away_has_no_turn() -> None:
    queue = FairQueue()
    one, other, third = (waiter("interactive", tenant, at) for at, tenant in enumerate("abb"))
    for each in (one, other, third):
        queue.push(each)
    assert queue.ahead("interactive", "a") == 2
    queue.remove(one)
    assert queue.head() is other
    assert queue.oldest() == 1
    assert queue.ahead("interactive", "a") == 1
    queue.remove(third)
    queue.remove(other)
    assert queue.head() is None
    assert queue.oldest() is None


def test_tenants_leave_in_turn_and_who_goes_away_leaves_no_gap() -> None:
    queue = FairQueue()
    waiters = [waiter("bulk", tenant, float(at)) for at, tenant in enumerate("aaabbc")]
    for one in waiters:
        queue.push(one)
    queue.remove(waiters[3])
    queue.remove(waiters[3])
    queue.remove(waiter("bulk", "a"))
    queue.remove(waiter("bulk", "z"))
    assert queue.size == queue.waiting["bulk"] == 5
    assert [leave(queue).tenant for _ in range(5)] == ["a", "b", "c", "a", "a"]
    assert (queue.size, queue.oldest()) == (0, None)
