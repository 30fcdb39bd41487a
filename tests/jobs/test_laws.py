"""Laws that hold for any input."""

from __future__ import annotations

import asyncio
import string
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, ClassVar

import pydantic_core
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stable_async.jobs import PromptFile, PromptFileError
from stable_async.jobs.budget import Budget
from stable_async.jobs.intake import Intake
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.plan import Plan
from stable_async.jobs.row import Result, Row, to_json
from stable_async.jobs.rules import Checker, PromptRules, check
from stable_async.jobs.storage.base import FILE_SUFFIXES, file_stem, parse_stem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stable_async.jobs.row import ChargeState, State

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
    for end in FILE_SUFFIXES:
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
    is_pipe = False

    def __init__(self, folder: Path, prompts: list[str]) -> None:
        self.folder = folder
        self._prompts = prompts

    def rows(self) -> Iterator[Row]:
        for number, prompt in enumerate(self._prompts, 1):
            yield Row(number, {"prompt": prompt})


texts = st.sampled_from(["", "a", " ", "é", "x" * 10_000, "x" * 10_001, 5, None, ["a"]])
numbers = st.sampled_from(
    [0, 1, True, 1.0, 0.5, -1, 7, "7", "07", " 7", "7.0", "0", "4294967294", "4294967295", "٣",
     4294967294, 4294967295, 10**30, None, "", "x"]
)  # fmt: skip
SOME_FIELDS = {
    "prompt": texts,
    "negative_prompt": texts,
    "seed": numbers,
    "cfg_scale": numbers,
    "steps": numbers,
    "strength": numbers,
    "aspect_ratio": st.sampled_from(["16:9", "1:1", "16/9", None]),
    "model": st.sampled_from(["sd3.5-large", "sd3.5-flash", "stable-audio-2.5", "x"]),
    "mode": st.sampled_from(["text-to-image", "image-to-image"]),
}


@pytest.mark.parametrize("service", ["core", "ultra", "sd3", "text-to-audio"])
@given(rows=st.lists(st.fixed_dictionaries({}, optional=SOME_FIELDS), min_size=2, max_size=12))
@example(rows=[{"cfg_scale": 1}, {"cfg_scale": True}])
@example(rows=[{"cfg_scale": True}, {"cfg_scale": 1}])
@settings(max_examples=60, deadline=None)
def test_rows_that_are_checked_together_are_checked_as_each_alone(
    service: str, rows: list[dict[str, object]]
) -> None:
    checker = Checker(PromptRules(), needs_prices=False)
    for number, fields in enumerate(rows):
        # Rows that share a shape, and rows that do not.
        for prompt in (fields.get("prompt", "a"), "b"):
            given_fields = {**fields, "prompt": prompt}
            alone = Row(number, dict(given_fields), service=service, id="i")
            together = Row(number, dict(given_fields), service=service, id="i")
            problems = check(alone, Path())
            assert checker.check(together, Path()) == problems
            assert together == alone
            assert to_json(together.fields) == to_json(alone.fields)
            if not problems:
                assert pydantic_core.to_json(alone.fields).decode() == to_json(alone.fields)


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


@pytest.mark.parametrize("known", [False, True])
def test_an_id_that_is_there_twice_is_refused_with_both_rows(tmp_path: Path, known: bool) -> None:
    ids = [f"x{number}" for number in range(1_500)]
    path = tmp_path / "prompts.csv"

    def read() -> None:
        path.write_text("id,prompt\n" + "".join(f"{identity},a\n" for identity in ids))
        with ledger.transaction():
            Intake(ledger, PromptFile(str(path)), PromptRules()).run()

    with closing(Ledger.temporary()) as ledger:
        if known:
            read()
        ids[1_200], ids[1_499] = "x1", "x1498"
        with pytest.raises(PromptFileError) as caught:
            read()
    assert [(problem.row, problem.text) for problem in caught.value.problems] == [
        (1_202, "id: 'x1' is taken by row 3"),
        (1_501, "id: 'x1498' is taken by row 1500"),
    ]


class Charges:
    """A ledger and the budget of a run, under one random operation after the other."""

    def __init__(self, path: Path, rows: int) -> None:
        self.random = Random(13)
        self.limit = 700.0
        self.over_budget = 0
        self.runner = asyncio.Runner()
        self.ledger = Ledger.open(path)
        prices = [2.0, 3.5, 6.5, 8.0]
        with self.ledger.transaction():
            self.ledger.begin_plan(checked=True)
            self.ledger.apply(
                Plan(
                    add=[
                        Row(n, {}, id=f"r{n}", price=self.random.choice(prices), position=n)
                        for n in range(1, rows + 1)
                    ]
                )
            )
        self.begin()

    def begin(self) -> None:
        self.budget = Budget(self.limit, self.ledger.bill())
        self.free = {row.position: row for row in self.ledger.rows("waiting", gone=True)}
        self.reserved: dict[int, Row] = {}
        self.claimed: dict[int, Row] = {}
        self.accepted: dict[int, Row] = {}

    def take(self, rows: dict[int, Row]) -> Row | None:
        return rows.pop(self.random.choice(list(rows))) if rows else None

    def settle(self, row: Row, state: State, charge: ChargeState) -> None:
        self.ledger.settle(row, Result(state, charge))
        if row.generation_id is None:
            self.budget.settle(row.price or 0.0, charge)

    def reserve(self) -> None:
        if row := self.take(self.free):
            fits = self.runner.run(_try_to_reserve(self.budget, row.price or 0.0))
            (self.reserved if fits else self.free)[row.position] = row
            self.over_budget += not fits

    def claim(self) -> None:
        if row := self.take(self.reserved):
            self.ledger.claim(row)
            self.claimed[row.position] = row

    def accept(self) -> None:
        if row := self.take(self.claimed):
            self.ledger.accept(row, "generation")
            self.budget.settle(row.price or 0.0, "spent")
            row.generation_id = "generation"
            self.accepted[row.position] = row

    def spend(self) -> None:
        if row := self.take(self.claimed) or self.take(self.accepted):
            self.settle(row, "failed", "spent")
            self.ledger.requeue("failed", gone=True)
            self.free[row.position] = replace(row, generation_id=None)

    def give_back(self) -> None:
        if row := self.take(self.claimed):
            self.settle(row, "waiting", "returned")
            self.free[row.position] = row

    def doubt(self) -> None:
        if row := self.take(self.claimed):
            self.settle(row, "in doubt", "in doubt")

    def resend(self) -> None:
        for row in self.ledger.rows("in doubt", gone=True):
            self.free.setdefault(row.position, row)

    def crash(self) -> None:
        """End without a word; `recovery.repair` settles what was in flight."""
        if self.random.random() > 0.05:
            return
        for row in self.ledger.rows("in flight", gone=True):
            if row.generation_id is None:
                self.ledger.settle(row, Result("in doubt", "in doubt"))
            else:  # a generation that the API does not have any more
                self.ledger.settle(row, Result("failed", "spent"))
        self.ledger.requeue("failed", gone=True)
        self.begin()

    def raise_limit(self) -> None:
        if self.random.random() < 0.02:
            self.limit += 40.0
            self.budget.limit = self.limit

    def close(self) -> None:
        self.runner.close()
        self.ledger.close()


def test_a_budget_holds_through_10000_charges_in_any_order(tmp_path: Path) -> None:
    """`budget >= spent + reserved + in doubt`, in memory and in the ledger, crashes included."""
    charges = Charges(tmp_path / "job.sqlite", rows=60)
    operations = (
        charges.reserve, charges.claim, charges.accept, charges.spend, charges.give_back,
        charges.doubt, charges.resend, charges.crash, charges.raise_limit,
    )  # fmt: skip
    for _ in range(10_000):
        with charges.ledger.transaction():
            charges.random.choice(operations)()
        bill, budget = charges.ledger.bill(), charges.budget.bill
        assert bill.total <= charges.limit + 1e-6
        assert budget.total <= charges.limit + 1e-6
        assert bill.spent == pytest.approx(budget.spent)
        assert bill.in_doubt == pytest.approx(budget.in_doubt)
        assert bill.reserved <= budget.reserved + 1e-6
    bill = charges.ledger.bill()
    assert charges.over_budget > 100
    assert min(bill.spent, bill.in_doubt) > 100
    charges.close()


async def _try_to_reserve(budget: Budget, price: float) -> bool:
    """Reserve without waiting for what is on its way."""
    try:
        async with asyncio.timeout(0):
            return await budget.reserve(price)
    except TimeoutError:
        return False
