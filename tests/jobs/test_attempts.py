"""However the attempts of a row end: ledger, bucket, budget and counts say the same of them."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from stable_async import Quota
from stable_async.jobs.budget import Budget
from stable_async.jobs.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from tests.jobs.conftest import Bench

PRICE = 3.0


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    """The folder of a store that is used as a bucket."""
    return tmp_path / "store" / "images"


def claim_of(bucket: Path, stem: str) -> tuple[str, list[str]]:
    """Return the state of a row and of its charges as the bucket has them."""
    facts = json.loads((bucket / "0000" / f"{stem}.json").read_text())
    return facts["state"], [charge["state"] for charge in facts["charges"]]


def row_of(folder: Path, identity: str) -> tuple[str, str | None, list[str]]:
    """Return the state of a row, its reason, and the states of its charges in the ledger."""
    with closing(sqlite3.connect(folder / "job.sqlite")) as db:
        query = "SELECT position, state, reason FROM rows WHERE id = ?"
        [(position, state, reason)] = db.execute(query, [identity]).fetchall()
    with closing(Ledger.open(folder / "job.sqlite")) as ledger:
        return state, reason, [charge.state for charge in ledger.charges(position)]


@pytest.mark.parametrize("in_bucket", [False, True], ids=["folder", "bucket"])
@pytest.mark.parametrize(
    ("script", "state", "charges", "ending"),
    [
        ([], "done", ["spent"], "complete"),
        (["filtered"], "filtered", ["spent"], "incomplete"),
        ([429], "done", ["returned", "spent"], "complete"),
        ([500], "done", ["returned", "spent"], "complete"),
        ([429, 500, 429, 429], "done", ["returned"] * 4 + ["spent"], "complete"),
        ([500] * 9, "again", ["returned"] * 6, "incomplete"),
        ([400], "failed", ["returned"], "incomplete"),
        ([500, 403], "failed", ["returned", "returned"], "incomplete"),
        ([402], "waiting", ["returned"], "stopped"),
        (["drop"], "in doubt", ["in doubt"], "incomplete"),
        ([429, "drop"], "in doubt", ["returned", "in doubt"], "incomplete"),
    ],
)
async def test_all_accounts_of_a_row_agree(
    bench: Bench,
    bucket: Path,
    in_bucket: bool,
    script: list[int | str],
    state: str,
    charges: list[str],
    ending: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settled: list[tuple[float, str]] = []
    settle = Budget.settle

    def noting(self: Budget, price: float, charge: object) -> None:
        settled.append((price, str(charge)))
        settle(self, price, charge)  # type: ignore[arg-type]

    monkeypatch.setattr(Budget, "settle", noting)
    bench.shop.script = {"a": [*script]}
    path = bench.write({"id": "x", "prompt": "a"})
    where = bucket.as_uri() if in_bucket else None
    quota = Quota(penalty=0.05, jitter=0.01, adaptive=False)
    async with bench.client(quota=quota) as client:
        job = bench.job(path, passes=3, budget=PRICE, images=where)
        summary = await job.run(client)
    assert job.progress.in_flight == 0
    assert summary.ending == ending
    found, reason, kept = row_of(bench.out, "x")
    assert found == state
    assert (reason is None) == (state in {"done", "filtered", "waiting"})
    assert kept == charges
    if in_bucket:
        assert claim_of(bucket, "000001-x") == (state, charges)
    sent = len(bench.shop.asked)
    limited = script[:sent].count(429)
    assert (summary.requests, summary.rate_limited) == (sent, limited)
    with closing(Ledger.open(bench.out / "job.sqlite")) as ledger:
        left = ledger.departures()
    assert (sum(one for _, one, _ in left), sum(one for *_, one in left)) == (sent, limited)
    paid = PRICE * (charges[-1] == "spent")
    doubt = PRICE * (charges[-1] == "in doubt")
    assert (summary.spent, summary.credits_in_doubt) == (paid, doubt)
    assert {price for price, _ in settled} == {PRICE}
    assert settled[-1][1] == charges[-1]


@pytest.mark.parametrize("what", ["done", "filtered", "drop"])
async def test_a_row_that_was_bought_elsewhere_meanwhile_is_taken_over_with_its_cost(
    bench: Bench, bucket: Path, what: str
) -> None:
    """This run has begun, and waits for another row: its ledger does not know."""
    shop = bench.shop
    shop.script = {"a": ["slow"], "b": [what]}
    path = bench.write(*({"id": prompt, "prompt": prompt} for prompt in "abc"))
    async with bench.client() as client:
        job = bench.job(path, images=bucket.as_uri(), max_in_flight=1, budget=2 * PRICE)
        running = asyncio.ensure_future(job.run(client))
        await shop.wait_for(1)
        other = bench.folder / "other"
        await bench.run(path, images=bucket.as_uri(), budget=2 * PRICE, folder=other)
        assert shop.asked == ["a", "b"], "the claim of the first counts"
        shop.opened.set()
        summary = await running
    assert shop.asked == ["a", "b"], "and the cost of the second"
    assert summary.requests == 1
    state, _, charges = row_of(bench.out, "b")
    assert (state, charges) == row_of(other, "b")[::2]
    assert state == ("in doubt" if what == "drop" else what)
    assert claim_of(bucket, "000002-b") == (state, charges)
    assert len(bench.lines()) == (1 if what == "drop" else 2)
    doubt = PRICE * (what == "drop")
    assert (summary.spent, summary.credits_in_doubt) == (2 * PRICE - doubt, doubt)
