"""Laws that hold for any input."""

from __future__ import annotations

import asyncio
import string
from typing import TYPE_CHECKING, ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st

from stable_async.jobs.budget import Budget
from stable_async.jobs.intake import Intake
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.row import Row
from stable_async.jobs.rules import PromptRules
from stable_async.jobs.storage.base import file_stem, parse_stem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

prices = st.sampled_from([2.0, 2.5, 3.0, 3.5, 4.0, 6.5, 8.0, 40.0, 60.0])


@given(
    limit=st.floats(0, 100),
    orders=st.lists(st.tuples(prices, st.booleans(), st.integers(0, 3)), max_size=40),
)
@settings(max_examples=60, deadline=None)
def test_a_budget_is_never_exceeded_whatever_is_in_flight(
    limit: float, orders: list[tuple[float, bool, int]]
) -> None:
    async def main() -> None:
        budget = Budget(limit)

        async def order(price: float, spent: bool, turns: int) -> None:
            if await budget.reserve(price):
                for _ in range(turns):
                    await asyncio.sleep(0)
                    assert budget.bill.total <= limit + 1e-3
                budget.settle(price, "spent" if spent else "returned")

        async with asyncio.timeout(10):
            await asyncio.gather(*(order(*one) for one in orders))
        assert budget.bill.reserved == 0
        assert budget.bill.spent <= limit + 1e-3

    asyncio.run(main())


@given(position=st.integers(1, 10**7), identity=st.text(min_size=1, max_size=200))
def test_file_names_are_plain_and_tell_position_and_id(position: int, identity: str) -> None:
    try:
        identity.encode()
    except UnicodeEncodeError:
        return  # such ids are refused
    stem = file_stem(position, identity)
    folder, _, name = stem.partition("/")
    assert int(folder) == position // 1000
    assert set(name) <= set(string.ascii_letters + string.digits + "._-=")
    assert len(name) < 160
    for end in (".png", ".filtered.jpg"):
        place = parse_stem(f"images/{stem}{end}")
        assert place is not None
        assert place[0] == position
        if len(name) < 120 and not identity.endswith(".filtered"):
            assert place[1] == identity


class Rows:
    """A prompt file that is not on a disk."""

    path = None
    name = "rows"
    format = "jsonl"
    reading: ClassVar[dict[str, object]] = {}
    has_inputs_inside = False

    def __init__(self, folder: Path, prompts: list[str]) -> None:
        self.folder = folder
        self._prompts = prompts

    def rows(self) -> Iterator[Row]:
        for number, prompt in enumerate(self._prompts, 1):
            yield Row(number, {"prompt": prompt})


few = st.lists(st.sampled_from("abcd"), min_size=1, max_size=30)


@given(first=few, second=few)
@settings(max_examples=60, deadline=None)
def test_a_changed_file_adds_only_what_was_not_there_before(
    first: list[str], second: list[str]
) -> None:
    """Ids that are not given do not depend on where a row stands."""
    from pathlib import Path

    ledger = Ledger.temporary()
    try:
        for prompts in (first, second):
            with ledger.transaction():
                source = Rows(Path(), prompts)
                report = Intake(ledger, source, PromptRules()).run()  # type: ignore[arg-type]
        new = sum(max(second.count(p) - first.count(p), 0) for p in set(second))
        gone = sum(max(first.count(p) - second.count(p), 0) for p in set(first))
        assert (report.added, report.gone) == (new, gone)
        assert ledger.counts().total == len(second)
    finally:
        ledger.close()
