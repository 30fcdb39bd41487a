"""One attempt, whatever its client meets: what it leaves in ledger, budget, counts and gate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

import pytest

from stable_async.errors import (
    APIConnectionError,
    APIStatusError,
    PaymentRequiredError,
    RateLimitError,
    StabilityError,
    Verdict,
)
from stable_async.jobs import attempt
from stable_async.jobs.attempt import Attempt, RunContext
from stable_async.jobs.budget import Bill, Budget, DiskSpace
from stable_async.jobs.errors import JobError, LedgerError, StorageError
from stable_async.jobs.gate import REFUSALS, REFUSALS_OF_A_ROW, Gate, StoppedError
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.ledger_writer import LedgerWriter
from stable_async.jobs.lock import locked
from stable_async.jobs.metadata import MetadataFile
from stable_async.jobs.progress import Progress
from stable_async.jobs.row import Result
from stable_async.jobs.storage.bucket import BucketStore
from stable_async.jobs.storage.claims import Claims, RowClaimedError
from stable_async.jobs.storage.facts import RowFacts, read_facts
from stable_async.jobs.storage.folder import FolderStore
from stable_async.jobs.storage.objects import Objects
from tests.jobs.test_ledger import add, image_of, new_row
from tests.virtual_time import virtual_network_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from stable_async.client import StabilityClient
    from stable_async.jobs.row import Row

T = TypeVar("T")

PRICE = 3.0
OUTAGE_LIMIT = 20.0


def status(code: int, job: str, *, billed: str = "no", api: bool = True) -> APIStatusError:
    kind = {402: PaymentRequiredError, 429: RateLimitError}.get(code, APIStatusError)
    concerns = "account" if job == "stop" else "request" if api else "network"
    verdict = Verdict(from_api=api, billed=billed, concerns=concerns, job=job)  # type: ignore[arg-type]
    return kind(verdict=verdict, status=code)


def connection(job: str, *, billed: str = "no") -> APIConnectionError:
    verdict = Verdict(from_api=False, billed=billed, concerns="network", job=job)  # type: ignore[arg-type]
    return APIConnectionError("no connection", verdict=verdict)


@dataclass
class Bench:
    """A run of one row, and the client that it asks.

    Attributes:
        script: What the client does, a list for each time that it is asked.
        asked: How often it was.
        reported: The results that were reported.
    """

    context: RunContext
    stored: Ledger
    row: Row
    script: list[list[object]] = field(default_factory=list)
    asked: int = 0
    reported: list[tuple[Row, Result]] = field(default_factory=list)
    observer: Attempt | None = None

    async def make(
        self, _client: object, _images: object, _folder: object, _row: object, observer: Attempt
    ) -> Result:
        """Do what the script says, as `make_image` does."""
        self.observer = observer
        self.asked += 1
        for step in self.script.pop(0):
            match step:
                case "leave":
                    await observer.leaving()
                case ("refuse", APIStatusError() as error):
                    observer.refused(error)
                case ("accept", str(identity)):
                    self.row.generation_id = identity
                    await observer.accepted(identity)
                case Exception():
                    raise step
                case Result():
                    return step
                case asyncio.Event():
                    await step.wait()
                case float():
                    await asyncio.sleep(step)
                case _:
                    assert callable(step)
                    step()
        return Result("done", "spent", image_of(self.row))

    async def run(self, *steps: list[object]) -> Result | None:
        """Run an attempt as the runner does."""
        self.script = [*steps]
        assert await self.context.disk.reserve()
        if self.row.generation_id is None:
            assert await self.context.budget.reserve(self.row.price or 0.0)
        result = await Attempt(self.context, self.row).run()
        assert self.script == [], "it was not asked often enough"
        assert self.reported == ([] if result is None else [(self.row, result)])
        self.reported.clear()
        assert self.context.disk._in_use == 0
        if result is not None and result.image is not None:
            assert self.context.disk._largest == result.image.bytes
        assert self.progress.in_flight == 0
        await self.context.ledger.do(lambda _: None)  # after what was posted
        return result

    @property
    def progress(self) -> Progress:
        return self.context.progress

    @property
    def gate(self) -> Gate:
        return self.context.gate

    def state(self) -> tuple[str, list[str]]:
        """Return the state of the row and of its charges, in the ledger."""
        with self.stored.snapshot():
            [(state,)] = self.stored._db.execute("SELECT state FROM rows WHERE id = 'a'").fetchall()
            return state, [one.state for one in self.stored.charges(1)]

    @property
    def left(self) -> int:
        """Requests that left, as they will be counted in the ledger."""
        counted = [requests for _, requests, _ in self.stored.departures()]
        open_ones = self.context.progress.take_departures().values()
        return sum(counted) + sum(requests for requests, _ in open_ones)


@asynccontextmanager
async def opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, images: Path | None = None
) -> AsyncIterator[Bench]:
    row = new_row(1, "a", price=PRICE)
    path = tmp_path / "job.sqlite"
    store = FolderStore(tmp_path) if images is None else BucketStore(Objects(images.as_uri()))
    with locked(tmp_path) as lock:
        ledger = Ledger.open(path)
        stored = Ledger.open(path)
        add(ledger, row)
        metadata = MetadataFile(tmp_path / "metadata.jsonl", ledger)
        progress = Progress(0.0, total=10)
        gate = Gate(progress, address="https://x", outage_limit=OUTAGE_LIMIT, first_wait=1.0)
        gate.answered()
        reported: list[tuple[Row, Result]] = []
        try:
            async with LedgerWriter(ledger, metadata) as writer, store.writing() as to:
                context = RunContext(
                    client=cast("StabilityClient", None),
                    ledger=writer,
                    images=to,
                    budget=Budget(None),
                    disk=DiskSpace(lambda: None),
                    gate=gate,
                    progress=progress,
                    lock=lock,
                    folder=tmp_path,
                    max_in_flight=4,
                    on_result=lambda row, result: reported.append((row, result)),
                )
                bench = Bench(context, stored, row, reported=reported)
                monkeypatch.setattr(attempt, "make_image", bench.make)
                yield bench
        finally:
            metadata.close()
            stored.close()
            ledger.close()


Opening = Callable[[], AbstractAsyncContextManager[Bench]]


@pytest.fixture
def open_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opening:
    """Open a bench in the loop of the caller."""
    return partial(opened, tmp_path, monkeypatch)


@pytest.fixture
async def bench(open_bench: Opening) -> AsyncIterator[Bench]:
    async with open_bench() as bench:
        yield bench


def noting(look: Callable[[], T]) -> tuple[list[T], Callable[[], None]]:
    """Return a list, and a step of a script that adds to it what it sees."""
    seen: list[T] = []
    return seen, lambda: seen.append(look())


FINAL = status(400, "final")
AGAIN = status(500, "again")
DOUBT = connection("doubt", billed="maybe")
REFUSED = status(521, "pause", api=False)
UNCONNECTED = connection("pause")
DOUBTFUL_REFUSAL = status(500, "doubt", billed="maybe")


@pytest.mark.parametrize(
    ("steps", "state", "charges", "reason", "bill"),
    [
        (["leave"], "done", ["spent"], None, Bill(spent=3)),
        (["leave", ("refuse", FINAL), FINAL], "failed", ["returned"], "400", Bill()),
        (["leave", ("refuse", AGAIN), AGAIN], "again", ["returned"], "500", Bill()),
        (["leave", DOUBT], "in doubt", ["in doubt"], "connection broke", Bill(in_doubt=3)),
        (
            ["leave", ("refuse", AGAIN), "leave", ("refuse", AGAIN), "leave"],
            "done", ["returned", "returned", "spent"], None, Bill(spent=3),
        ),
        # The client sends again after what may have been billed: only when told to, but if so.
        (
            ["leave", ("refuse", DOUBTFUL_REFUSAL), DOUBTFUL_REFUSAL],
            "in doubt", ["in doubt"], "500", Bill(in_doubt=3),
        ),
        # An error before anything has left costs nothing.
        ([FINAL], "failed", [], "400", Bill()),
        # Once accepted, it is paid for, and fetched by a later run.
        (["leave", ("accept", "g")], "done", ["spent"], None, Bill(spent=3)),
        (["leave", ("accept", "g"), DOUBT], "again", ["spent"], "connection broke", Bill(spent=3)),
        (["leave", ("accept", "g"), FINAL], "failed", ["spent"], "400", Bill(spent=3)),
        (["leave", ("accept", "g"), REFUSED], "waiting", ["spent"], None, Bill(spent=3)),
        (
            ["leave", ("accept", "g"), "leave", ("refuse", AGAIN), "leave", AGAIN],
            "again", ["spent"], "500", Bill(spent=3),
        ),
    ],
)  # fmt: skip
async def test_an_attempt_ends_alike_in_ledger_and_budget(
    bench: Bench,
    steps: list[object],
    state: str,
    charges: list[str],
    reason: str | None,
    bill: Bill,
) -> None:
    result = await bench.run(steps)
    assert result is not None
    assert (result.state, result.reason) == (state, reason)
    assert not bench.gate.stopping
    assert bench.gate.blocked == set()
    assert bench.asked == 1
    assert bench.state() == (state, charges)
    assert bench.context.budget.bill == bill
    assert bench.progress.requests == bench.left == steps.count("leave")
    assert bench.progress.outage is None


@pytest.mark.parametrize(
    ("steps", "state", "charges", "words"),
    [
        # Trouble with the account.
        (["leave", ("refuse", s := status(402, "stop")), s], "waiting", ["returned"], "402"),
        ([s], "waiting", [], "402"),
        (["leave", ("accept", "g"), s], "waiting", ["spent"], "402"),
        # An image that is spooled is found by the next run.
        (["leave", StorageError("disk")], "in flight", ["spent"], "disk"),
        # Bugs, of ours or of a callback.
        ([ValueError("bug")], "waiting", [], "row 2 .a.: ValueError: bug"),
        (["leave", ValueError("bug")], "in doubt", ["in doubt"], "ValueError: bug"),
        (["leave", ("refuse", AGAIN), ValueError("bug")], "waiting", ["returned"], "bug"),
        (["leave", ("accept", "g"), ValueError("bug")], "again", ["spent"], "bug"),
        # A time-out that is not the gate's says nothing.
        (["leave", TimeoutError("other")], "in doubt", ["in doubt"], "TimeoutError: other"),
        ([JobError("cannot go on")], "waiting", [], "cannot go on"),
        # The ledger knows of a claim, and nothing left.
        (["leave", ("refuse", AGAIN), JobError("no more")], "waiting", ["returned"], "no more"),
    ],
)
async def test_what_concerns_the_job_stops_it(
    bench: Bench, steps: list[object], state: str, charges: list[str], words: str
) -> None:
    result = await bench.run(steps)
    assert result is not None
    assert result.state == state
    assert bench.state() == (state, charges)
    with pytest.raises(JobError, match=words):
        raise bench.gate.error or AssertionError
    expected = {"spent": Bill(spent=3), "in doubt": Bill(in_doubt=3)}
    assert bench.context.budget.bill == expected.get(charges[-1] if charges else "", Bill())


async def test_a_bug_says_how_much_it_may_have_cost(bench: Bench) -> None:
    text = "ValueError: bug"
    for steps, expected in (
        ([], Result("waiting", "returned")),
        (["leave"], Result("in doubt", "in doubt", reason="unexpected error", error=text)),
    ):
        assert await bench.run([*steps, ValueError("bug")]) == expected
        bench.gate.stopping = False


@pytest.mark.parametrize("steps", [["leave"], ["leave", ("accept", "g")]])
async def test_an_image_without_a_price_costs_nothing(bench: Bench, steps: list[object]) -> None:
    bench.row.price = None
    await bench.run(steps)
    assert bench.context.budget.bill == Bill()


async def test_a_generation_is_recorded_as_soon_as_it_is_accepted(bench: Bench) -> None:
    bills: list[float] = []
    kept: list[tuple[str, str | None]] = []

    def look() -> None:
        bills.append(bench.context.budget.bill.spent)
        with bench.stored.snapshot():
            [charge] = bench.stored.charges(1)
            [row] = bench.stored.rows("in flight")
            kept.append((charge.state, row.generation_id))

    await bench.run(["leave", look, ("accept", "g"), look])
    assert bills == [0.0, PRICE]
    assert kept == [("reserved", None), ("spent", "g")]


async def test_an_image_that_is_spooled_says_why(bench: Bench) -> None:
    result = await bench.run(["leave", StorageError("disk")])
    assert result == Result("in flight", "spent", reason="not stored", error="disk")


@pytest.mark.parametrize("accepted", [False, True])
async def test_an_attempt_that_was_stopped_says_nothing_to_the_ledger(
    bench: Bench, accepted: bool
) -> None:
    first: list[object] = ["leave", ("accept", "g")] if accepted else []
    result = await bench.run([*first, StoppedError()])
    assert result == Result("waiting", "spent" if accepted else "returned")
    assert bench.state() == ("waiting", ["spent"] if accepted else [])
    assert bench.context.budget.bill == Bill(spent=PRICE * accepted)


async def test_a_doubtful_row_that_was_not_sent_again_keeps_its_reason(bench: Bench) -> None:
    await bench.run(["leave", DOUBT])
    await bench.run([StoppedError()])
    assert bench.state() == ("in doubt", ["in doubt"])
    [(_, _, reason, error, _)] = bench.stored.failures()
    assert (reason, error) == ("connection broke", str(DOUBT))


async def test_a_generation_of_an_earlier_run_is_fetched_and_costs_nothing_more(
    bench: Bench,
) -> None:
    bench.row.generation_id = "g"
    result = await bench.run(["leave", ("refuse", AGAIN), "leave"])
    assert result is not None
    assert bench.state() == ("done", [])
    assert bench.context.budget.bill == Bill()
    assert bench.progress.requests == 2


async def test_a_ledger_that_fails_ends_the_attempt_as_a_doubt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise LedgerError("broken")

    monkeypatch.setattr(Ledger, "settle", broken)
    assert await bench.run(["leave", DOUBT]) is None
    assert str(bench.gate.error) == "broken"
    assert bench.context.budget.bill == Bill(in_doubt=PRICE)


# The network.


@virtual_network_time
async def test_a_request_that_was_not_connected_did_not_leave(open_bench: Opening) -> None:
    async with open_bench() as bench:
        flying, look = noting(lambda: bench.progress.in_flight)
        await bench.run(["leave", look, UNCONNECTED], [look, "leave"])
        assert flying == [1, 0]
        assert bench.state() == ("done", ["returned", "spent"])
        assert bench.progress.requests == bench.left == 1
        assert bench.context.budget.bill == Bill(spent=PRICE)


@virtual_network_time
async def test_a_request_that_was_refused_by_the_network_left(open_bench: Opening) -> None:
    async with open_bench() as bench:
        await bench.run(["leave", ("refuse", REFUSED), REFUSED], ["leave"])
        assert bench.state() == ("done", ["returned", "spent"])
        assert bench.progress.requests == bench.left == 2


@virtual_network_time
async def test_no_connection_before_anything_left_is_tried_again(open_bench: Opening) -> None:
    async with open_bench() as bench:
        await bench.run([UNCONNECTED], ["leave"])
        assert bench.state() == ("done", ["spent"])
        assert bench.progress.requests == 1


@virtual_network_time
async def test_a_stop_ends_what_was_not_connected(open_bench: Opening) -> None:
    async with open_bench() as bench:
        result = await bench.run(["leave", UNCONNECTED], [bench.gate.stop, asyncio.Event()])
        assert result == Result("waiting", "returned")
        assert bench.state() == ("waiting", ["returned"])


@virtual_network_time
async def test_another_row_probes_after_one_that_has_ended(open_bench: Opening) -> None:
    async with open_bench() as bench:
        for _ in range(REFUSALS):
            bench.gate.refused(REFUSED)
        await bench.run(["leave", DOUBT])
        await bench.gate.wait(object())


@virtual_network_time
async def test_a_doubt_about_the_network_is_not_tried_again(open_bench: Opening) -> None:
    async with open_bench() as bench:
        for _ in range(REFUSALS - 1):
            bench.gate.refused(REFUSED)
        result = await bench.run(["leave", DOUBT])
        assert result is not None
        assert result.state == "in doubt"
        assert bench.progress.outage is not None, "and counts as one of the network"


@virtual_network_time
async def test_a_stop_ends_the_waiting_after_a_refusal(open_bench: Opening) -> None:
    async with open_bench() as bench:
        result = await bench.run(["leave", ("refuse", REFUSED), bench.gate.stop, REFUSED])
        assert result == Result("waiting", "returned")
        assert bench.state() == ("waiting", ["returned"])
        assert bench.gate.error is None


@virtual_network_time
async def test_an_outage_holds_back_what_has_not_left(open_bench: Opening) -> None:
    async with open_bench() as bench:

        def break_off() -> None:
            for _ in range(REFUSALS):
                bench.gate.refused(REFUSED)

        began = asyncio.get_running_loop().time()
        await bench.run([break_off, "leave"], ["leave"])
        assert asyncio.get_running_loop().time() - began == pytest.approx(1.0), "the first probe"
        assert bench.state() == ("done", ["spent"])
        assert bench.progress.requests == 1


@virtual_network_time
async def test_an_answer_ends_an_outage(open_bench: Opening) -> None:
    async with open_bench() as bench:
        for _ in range(REFUSALS):
            bench.gate.refused(REFUSED)
        await asyncio.sleep(1)
        states, look = noting(lambda: bench.progress.outage)
        await bench.run(["leave", look])
        assert [*states, bench.progress.outage] == [str(REFUSED), None]


@virtual_network_time
@pytest.mark.parametrize("by", ["accept", "refuse"])
async def test_any_answer_of_the_api_ends_an_outage(open_bench: Opening, by: str) -> None:
    async with open_bench() as bench:
        for _ in range(REFUSALS):
            bench.gate.refused(REFUSED)
        await asyncio.sleep(1)
        answer = ("accept", "g") if by == "accept" else ("refuse", AGAIN)
        states, look = noting(lambda: bench.progress.outage)
        await bench.run(["leave", ("refuse", REFUSED), look, "leave", answer, look])
        assert states == [str(REFUSED), None]


@virtual_network_time
@pytest.mark.parametrize(
    "error", [DOUBTFUL_REFUSAL, REFUSED, status(404, "again", api=False)], ids=str
)
async def test_a_doubt_or_a_page_of_another_ends_no_outage(
    open_bench: Opening, error: APIStatusError
) -> None:
    async with open_bench() as bench:
        for _ in range(REFUSALS):
            bench.gate.refused(REFUSED)
        await asyncio.sleep(1)
        states, look = noting(lambda: bench.progress.outage)
        await bench.run(["leave", ("refuse", error), look, "leave"])
        assert states == [str(REFUSED)]


@virtual_network_time
async def test_a_look_says_more_of_the_network_than_the_submission(open_bench: Opening) -> None:
    """Looks leave later than the request whose generation they ask for."""
    async with open_bench() as bench:
        states, look = noting(lambda: bench.progress.outage)

        def break_off() -> None:
            for _ in range(REFUSALS):
                bench.gate.refused(REFUSED)

        await bench.run(["leave", ("accept", "g"), 1.0, break_off, look])
        assert [*states, bench.progress.outage] == [str(REFUSED), None]


@virtual_network_time
async def test_a_row_that_alone_is_refused_is_left_for_later(open_bench: Opening) -> None:
    async with open_bench() as bench:

        def answer_others() -> None:
            bench.gate.answered(asyncio.get_running_loop().time() + 0.001)

        refused: list[object] = ["leave", ("refuse", REFUSED), answer_others, REFUSED]
        result = await bench.run(*[refused] * REFUSALS_OF_A_ROW)
        assert result is not None
        assert (result.state, result.charge, result.reason) == ("again", "returned", "521")
        assert bench.gate.blocked == {1}
        assert bench.progress.outage is None
        assert bench.state() == ("again", ["returned"] * REFUSALS_OF_A_ROW)
        # In the next pass its refusals say nothing about the network, and it is not tried again.
        result = await bench.run(["leave", ("refuse", REFUSED), REFUSED])
        assert result is not None
        assert result.state == "again"
        assert bench.progress.outage is None


@virtual_network_time
async def test_a_row_that_is_refused_gives_way_to_the_others(open_bench: Opening) -> None:
    """It is queued again, without a word of why: all may be refused."""
    async with open_bench() as bench:
        bench.progress.total, bench.progress.done = 10, 5
        refused: list[object] = ["leave", ("refuse", REFUSED), REFUSED]
        result = await bench.run(*[refused] * REFUSALS_OF_A_ROW)
        assert result is not None
        assert (result.state, result.charge) == ("again", "returned")
        assert bench.gate.blocked == set()
        await asyncio.sleep(0.1)
        bench.gate.answered()
        assert bench.gate.is_refused_alone(1, is_last=False), "others were answered since"


@virtual_network_time
async def test_a_row_with_a_place_for_each_keeps_its_own(open_bench: Opening) -> None:
    async with open_bench() as bench:
        bench.progress.total, bench.progress.done = 10, 6
        refused: list[object] = ["leave", ("refuse", REFUSED), REFUSED]
        result = await bench.run(*[refused] * (REFUSALS_OF_A_ROW + 2), ["leave"])
        assert result is not None
        assert result.state == "done"
        assert bench.gate.blocked == set()


@virtual_network_time
async def test_the_last_row_is_tried_for_as_long_as_an_outage_may_last(open_bench: Opening) -> None:
    async with open_bench() as bench:
        bench.progress.total, bench.progress.done = 10, 9
        moment = asyncio.get_running_loop().time
        began = moment()
        bench.script = [["leave", ("refuse", REFUSED), REFUSED] for _ in range(50)]
        assert await bench.context.budget.reserve(PRICE)
        result = await Attempt(bench.context, bench.row).run()
        assert result is not None
        assert result.state == "again"
        assert bench.gate.blocked == {1}
        assert moment() - began == pytest.approx(OUTAGE_LIMIT, abs=1)
        assert not bench.gate.stopping


# Leaving.


async def test_a_claim_is_made_before_the_first_request_alone(bench: Bench) -> None:
    seen: list[tuple[str, list[str]]] = []
    times: list[float | None] = []

    def look() -> None:
        assert bench.observer is not None
        seen.append(bench.state())
        times.append(bench.observer.sent_at)

    await bench.run([look, "leave", look, "leave", look])
    assert seen == [("waiting", []), *[("in flight", ["reserved"])] * 2]
    assert [time is None for time in times] == [True, False, False]


async def test_a_permit_that_expired_leaves_one_request_in_flight(bench: Bench) -> None:
    await bench.run(["leave", "leave"])
    assert (bench.progress.requests, bench.progress.peak_in_flight) == (2, 1)


async def test_a_job_that_stops_lets_nothing_leave(bench: Bench) -> None:
    result = await bench.run([bench.gate.stop, "leave"])
    assert result == Result("waiting", "returned")
    assert bench.state() == ("waiting", [])
    assert bench.progress.requests == bench.left == 0


async def test_a_stop_while_a_row_is_claimed_lets_nothing_leave(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = Ledger.claim
    loop = asyncio.get_running_loop()

    def slow(ledger: Ledger, row: Row) -> None:
        claim(ledger, row)
        loop.call_soon_threadsafe(bench.gate.stop)

    monkeypatch.setattr(Ledger, "claim", slow)
    result = await bench.run(["leave"])
    assert result == Result("waiting", "returned")
    assert bench.state() == ("waiting", ["returned"])
    assert bench.progress.requests == bench.left == 0


async def test_a_lock_that_is_gone_lets_nothing_leave(bench: Bench) -> None:
    bench.context.lock.path.unlink()
    result = await bench.run(["leave"])
    assert result == Result("waiting", "returned")
    assert "was removed while this run held it" in str(bench.gate.error)
    assert bench.state() == ("waiting", [])


async def test_a_stop_as_the_claim_is_made_lets_nothing_leave(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    do = LedgerWriter.do

    async def stopping(writer: LedgerWriter, change: Callable[[Ledger], object]) -> object:
        result = await do(writer, change)
        bench.gate.stop()
        return result

    monkeypatch.setattr(LedgerWriter, "do", stopping)
    assert await bench.run(["leave"]) == Result("waiting", "returned")
    assert bench.progress.requests == 0


async def test_what_was_refused_is_not_on_its_way(bench: Bench) -> None:
    flying, look = noting(lambda: bench.progress.in_flight)
    await bench.run([look, "leave", look, ("refuse", AGAIN), look, "leave", look])
    assert flying == [0, 1, 0, 1]


@pytest.mark.parametrize("before", [[], ["leave", ("refuse", AGAIN)]])
async def test_a_stop_cancels_what_has_nothing_in_flight(
    bench: Bench, before: list[object]
) -> None:
    async with asyncio.timeout(10):
        result = await bench.run([*before, bench.gate.stop, asyncio.Event()])
    assert result == Result("waiting", "returned")
    assert bench.state() == ("waiting", ["returned"] if before else [])


async def test_a_stop_waits_for_what_has_left(bench: Bench) -> None:
    event = asyncio.Event()

    def stop() -> None:
        bench.gate.stop()
        asyncio.get_running_loop().call_later(0, event.set)

    result = await bench.run(["leave", stop, event])
    assert result is not None
    assert result.state == "done"


async def test_a_stop_waits_for_a_generation_that_was_accepted(bench: Bench) -> None:
    event = asyncio.Event()

    def stop() -> None:
        bench.gate.stop()
        asyncio.get_running_loop().call_later(0, event.set)

    result = await bench.run(["leave", ("accept", "g"), ("refuse", AGAIN), stop, event])
    assert result is not None
    assert result.state == "done"


async def test_a_probe_ends_with_its_attempt(bench: Bench) -> None:
    await bench.run(["leave", ("refuse", s := status(429, "again")), s])
    assert bench.progress.rate_limited == 1
    [(requests, limited)] = bench.context.progress.take_departures().values()
    assert (requests, limited) == (1, 1)
    await bench.run(["leave", ("refuse", AGAIN), AGAIN])
    assert bench.progress.rate_limited == 1


async def test_departures_reach_the_ledger_with_a_later_claim(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = [100.25]
    monkeypatch.setattr("time.time", lambda: second[0])
    await bench.run(["leave", ("refuse", AGAIN), AGAIN])
    assert bench.stored.departures() == []
    second[0] = 101.5
    await bench.run(["leave", ("refuse", AGAIN), AGAIN])
    assert bench.stored.departures() == [(100, 1, 0)]
    assert bench.context.progress.take_departures() == {101: (1, 0)}


# A bucket.


@pytest.fixture
async def in_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    async with opened(tmp_path, monkeypatch, images=tmp_path / "bucket") as bench:
        yield bench


async def test_a_claim_that_the_bucket_does_not_take_stops_the_job(
    in_bucket: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise OSError(28, "No space left")

    monkeypatch.setattr(Objects, "create", full)
    result = await in_bucket.run(["leave"])
    assert result == Result("waiting", "returned")
    assert str(in_bucket.gate.error) == "a claim cannot be stored: No space left"
    assert in_bucket.state() == ("waiting", ["returned"])
    assert in_bucket.progress.requests == 0


async def test_a_claim_that_only_the_bucket_took_is_no_claim(
    in_bucket: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise LedgerError("broken")

    monkeypatch.setattr(Ledger, "claim", broken)
    await in_bucket.run(["leave"])
    assert str(in_bucket.gate.error) == "broken"
    assert in_bucket.state() == ("waiting", [])


async def test_a_bug_in_a_claim_lets_nothing_leave(
    in_bucket: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bug(*_: object) -> None:
        raise ValueError("bug")

    monkeypatch.setattr(Objects, "create", bug)
    result = await in_bucket.run(["leave"])
    assert result is not None
    assert result.state == "in doubt", "the ledger has a claim, which nothing contradicts"
    assert in_bucket.progress.requests == 0


def in_store(bench: Bench) -> RowFacts:
    [file] = (bench.context.folder / "bucket").glob("*/*.json")
    return read_facts(file.read_bytes(), file.name)


@pytest.mark.parametrize(
    ("steps", "state", "charges", "generation"),
    [
        (["leave", ("refuse", AGAIN), AGAIN], "again", ["returned"], None),
        (["leave", ("refuse", AGAIN), "leave", FINAL], "failed", ["returned", "returned"], None),
        (["leave", DOUBT], "in doubt", ["in doubt"], None),
        (["leave", ("accept", "g"), AGAIN], "again", ["spent"], "g"),
        # The claim stays: the image that was spooled completes it.
        (["leave", StorageError("disk")], "in flight", ["reserved"], None),
    ],
)
async def test_the_bucket_learns_how_an_attempt_ended(
    in_bucket: Bench, steps: list[object], state: str, charges: list[str], generation: str | None
) -> None:
    await in_bucket.run(steps)
    facts = in_store(in_bucket)
    assert (facts.state, [charge.state for charge in facts.charges]) == (state, charges)
    assert facts.generation_id == generation


PAID = RowFacts.claim(new_row(1, "a", price=PRICE), "another process")


@pytest.mark.parametrize(
    ("facts", "result"),
    [
        (PAID.settled(Result("failed", "returned", None, "400", "no")), None),
        (PAID.settled(Result("in doubt", "in doubt", None, "cut", "off")), None),
        (PAID.accepted("g"), Result("waiting", "spent")),
        (replace(PAID, charges=(), image=image_of(new_row(1, "a"))).made(image_of(new_row(1, "a"))),
         Result("done", "returned")),
    ],
)  # fmt: skip
async def test_a_row_that_another_process_bought_is_taken_over(
    in_bucket: Bench, monkeypatch: pytest.MonkeyPatch, facts: RowFacts, result: Result | None
) -> None:
    """At no cost of this one's own: the budget counts what the other spent once."""

    facts = facts.resolved(has_image=True)

    async def claimed(*_: object) -> None:
        raise RowClaimedError(facts)

    monkeypatch.setattr(Claims, "claim", claimed)
    charge = facts.charges[-1].state if facts.charges else "returned"
    expected = result or Result(facts.state, charge, reason=facts.reason, error=facts.error)
    assert await in_bucket.run(["leave"]) == expected
    assert in_bucket.state() == (expected.state, [one.state for one in facts.charges])
    assert in_bucket.progress.requests == 0
    bill = in_bucket.context.budget.bill
    assert bill == in_bucket.stored.bill()
    assert in_bucket.stored.attempts(1) == len(facts.charges)


async def test_an_error_of_a_row_is_one_of_ours(bench: Bench) -> None:
    """Whatever is raised, no attempt raises: other rows are in flight."""
    for error in (StabilityError("x"), KeyError("x"), OSError(5, "x")):
        bench.row.generation_id = None
        assert await bench.run(["leave", error]) is not None
