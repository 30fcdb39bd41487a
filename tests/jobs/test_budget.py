"""A job spends no more than its budget, alone or with its other parts."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_async.jobs.budget import (
    ASSUMED_IMAGE,
    DISK_LOOKS,
    DISK_MARGIN,
    TOLERANCE,
    Bill,
    Budget,
    DiskSpace,
)

PRICES = st.sampled_from([0.1, 0.2, 3.0, 6.5])


class Home:
    """What the parts of a job hold together; `others` is what the other parts do."""

    def __init__(self, others: float = 0.0) -> None:
        self.others = others
        self.lost = False
        self.held = 0.0
        self.closed = False

    async def hold(self, total: float, limit: float, otherwise: float) -> bool:
        fits = self.others + total <= limit
        self.held = total if fits else otherwise
        return fits

    async def aclose(self) -> None:
        self.closed = True


async def at_once(budget: Budget, price: float) -> bool | None:
    """Return whether `price` fits; `None` if that is not known yet."""
    asked = asyncio.ensure_future(budget.reserve(price))
    for _ in range(5):
        await asyncio.sleep(0)
    if asked.done():
        return asked.result()
    asked.cancel()
    return None


@given(
    st.floats(0, 20),
    st.lists(st.tuples(PRICES, st.sampled_from(["spent", "in doubt", "returned", None]))),
)
async def test_what_is_spent_in_doubt_and_reserved_never_exceeds_the_limit(
    limit: float, steps: list[tuple[float, str | None]]
) -> None:
    budget = Budget(limit)
    bill = budget.bill
    sums = {"spent": 0.0, "in doubt": 0.0, "returned": 0.0, None: 0.0}
    for price, charge in steps:
        gone = sums["spent"] + sums["in doubt"]
        fits = await at_once(budget, price)
        if fits:
            sums[charge] += price
            if charge is not None:
                budget.settle(price, charge)  # type: ignore[arg-type]
        else:
            # It is refused for good only if what is on its way cannot make room.
            makes_room = sums[None] > 0 and gone + price <= limit + TOLERANCE
            assert (fits is None) is makes_room
            assert bill.total + price > limit
        assert bill.total <= limit + 2 * TOLERANCE
        assert bill.spent == pytest.approx(sums["spent"])
        assert bill.in_doubt == pytest.approx(sums["in doubt"])
        assert bill.reserved == pytest.approx(sums[None])
        if not sums[None]:
            assert bill.reserved == 0.0


async def test_a_price_that_fills_the_budget_to_the_last_decimal_fits() -> None:
    budget = Budget(0.3)
    for _ in range(3):
        assert await budget.reserve(0.1)
    assert await at_once(budget, 0.01) is None
    for _ in range(3):
        budget.settle(0.1, "spent")
    assert budget.bill.reserved == 0.0
    assert not await budget.reserve(0.01)


async def test_whoever_waits_goes_on_when_something_is_settled() -> None:
    budget = Budget(10.0)
    assert await budget.reserve(6.0)
    waiting = asyncio.ensure_future(budget.reserve(6.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    budget.settle(6.0, "returned")
    assert await waiting
    refused = asyncio.ensure_future(budget.reserve(6.0))
    await asyncio.sleep(0)
    budget.settle(6.0, "in doubt")
    assert not await refused
    assert budget.bill == Bill(spent=0.0, in_doubt=6.0, reserved=0.0)


async def test_without_a_limit_everything_fits_and_is_counted() -> None:
    home = Home()
    budget = Budget(None, Bill(spent=1e9), shared=home)
    assert await budget.reserve(1e9)
    budget.settle(1e9, "spent")
    assert (budget.bill.total, home.held) == (2e9, 0.0)


async def test_parts_share_the_limit_and_hold_what_they_reserve() -> None:
    home = Home(others=5.0)
    budget = Budget(10.0, shared=home, share=2.0)
    assert await budget.reserve(3.0)
    assert home.held == 3.0
    assert await at_once(budget, 3.0) is None  # it fits once what is on its way has come to nothing
    assert home.held == 3.0
    budget.settle(3.0, "in doubt")
    assert not await budget.reserve(3.0)
    assert await budget.reserve(2.0)
    assert home.held == 5.0
    budget.settle(2.0, "spent")
    await budget.aclose()
    assert (home.held, home.closed) == (5.0, True)


async def test_a_part_reports_what_it_has_spent_even_beyond_the_limit() -> None:
    home = Home(others=100.0)
    await Budget(10.0, Bill(spent=20.0), shared=home).aclose()
    assert (home.held, home.closed) == (20.0, True)
    await Budget(10.0).aclose()


async def test_a_shared_budget_is_disconnected_though_it_cannot_be_reached() -> None:
    class Gone(Home):
        async def hold(self, total: float, limit: float, otherwise: float) -> bool:
            raise ConnectionError

    home = Gone()
    with pytest.raises(ConnectionError):
        await Budget(10.0, shared=home).aclose()
    assert home.closed


@pytest.mark.parametrize(("share", "fits"), [(4.0, False), (5.0, True), (50.0, True), (None, True)])
async def test_when_the_shared_budget_is_lost_each_part_keeps_to_its_share(
    share: float | None, fits: bool
) -> None:
    home = Home()
    budget = Budget(10.0, Bill(spent=3.0), shared=home, share=share)
    home.lost = True
    assert await budget.reserve(2.0) is fits
    assert not await budget.reserve(20.0)


async def test_the_loss_of_a_shared_budget_is_noticed_while_it_is_asked() -> None:
    class Losing(Home):
        async def hold(self, total: float, limit: float, otherwise: float) -> bool:
            self.lost = True
            return await super().hold(total, limit, otherwise)

    budget = Budget(10.0, Bill(spent=3.0), shared=Losing(), share=4.0)
    assert not await budget.reserve(2.0)
    assert await budget.reserve(1.0)


# Space on the disk.


async def test_rows_start_as_long_as_there_is_space_for_their_images() -> None:
    free = DISK_MARGIN + 2 * ASSUMED_IMAGE
    disk = DiskSpace(lambda: free)
    assert [await disk.reserve() for _ in range(2)] == [True, True]
    third = asyncio.ensure_future(disk.reserve())
    await asyncio.sleep(0)
    assert not third.done(), "the disk does not show yet what is in flight"
    disk.release(0)
    assert await third
    # From the first image on, the largest one counts; the disk has become fuller.
    free = DISK_MARGIN + 1_999
    disk.release(1_000)
    disk.release(10)
    assert await disk.reserve()
    fifth = asyncio.ensure_future(disk.reserve())
    await asyncio.sleep(0)
    assert not fifth.done()
    free = DISK_MARGIN + 999
    disk.release(0)
    assert not await fifth, "nothing is in flight that could make place"
    free = 0
    assert not await disk.reserve()
    assert not await DiskSpace(lambda: free).reserve()


async def test_the_disk_is_looked_at_once_for_many_rows() -> None:
    for free in (None, 10**15):
        looks: list[int] = []

        def look(free: int | None = free, looks: list[int] = looks) -> int | None:
            looks.append(1)
            return free

        disk = DiskSpace(look)
        for _ in range(2 * DISK_LOOKS):
            assert await disk.reserve()
        assert len(looks) == 2
