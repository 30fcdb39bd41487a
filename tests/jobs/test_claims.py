"""Claims of rows in a store that several processes share: one of them gets each row."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import pytest

from stable_async.jobs.errors import StorageError
from stable_async.jobs.row import Result
from stable_async.jobs.storage.claims import Claims, RowClaimedError
from stable_async.jobs.storage.facts import Charge, RowFacts, read_facts
from tests.jobs.test_ledger import image_of, new_row

if TYPE_CHECKING:
    from stable_async.jobs.row import ImageFacts, State
    from stable_async.jobs.storage.objects import Objects, Version

STEM = "0000/000001-a"
ROW = new_row(1, "a")
IMAGE = image_of(ROW, file_name="s3://b/0000/000001-a.png")


class Shelf:
    """A store in memory with conditional writes, as `Objects` offers them.

    Attributes:
        objects: The bytes and the version of each object.
        written: What was written, in order.
        reads: How often an object was read.
        failing: Raised instead of writing.
        gate: Writing waits for it.
        first: The next write waits for this alone.
    """

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.written: list[bytes] = []
        self.failing: OSError | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.reads = 0
        self.first: asyncio.Event | None = None

    def put(self, facts: RowFacts) -> None:
        """Store facts as another process does."""
        self.objects[f"{STEM}.json"] = (facts.to_json(), len(self.written) + 100)

    def facts(self) -> RowFacts:
        return read_facts(self.objects[f"{STEM}.json"][0], STEM)

    def add_image(self, image: ImageFacts = IMAGE) -> None:
        self.objects["0000/000001-a.png"] = (b"x" * image.bytes, 1)

    async def _write(self, path: str, data: bytes) -> Version:
        await self.gate.wait()
        if (first := self.first) is not None:
            self.first = None
            await first.wait()
        if self.failing is not None:
            raise self.failing
        self.written.append(data)
        self.objects[path] = (data, len(self.written))
        return cast("Version", {"e_tag": str(len(self.written))})

    async def create(self, path: str, data: bytes) -> Version:
        if path in self.objects and self.objects[path][0] != data:
            raise FileExistsError(errno.EEXIST, "is there already")
        return await self._write(path, data)

    async def replace(self, path: str, data: bytes, version: Version) -> Version:
        if version and self.objects[path][1] != int(str(version["e_tag"])):
            raise FileExistsError(errno.EEXIST, "is there already")
        return await self._write(path, data)

    async def read(self, path: str) -> tuple[bytes, Version]:
        self.reads += 1
        if path not in self.objects:
            raise FileNotFoundError(path)
        data, version = self.objects[path]
        return data, cast("Version", {"e_tag": str(version)})

    async def size(self, path: str) -> int | None:
        return len(self.objects[path][0]) if path in self.objects else None

    def name(self, path: str) -> str:
        return f"s3://b/{path}"

    def path(self, name: str) -> str | None:
        return name.removeprefix("s3://b/")


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def claims(shelf: Shelf) -> Claims:
    return Claims(cast("Objects", shelf))


def charged(facts: RowFacts) -> list[str]:
    return [charge.state for charge in facts.charges]


async def test_a_claim_is_stored_before_it_returns(shelf: Shelf, claims: Claims) -> None:
    assert await claims.resolved(STEM) is None
    shelf.reads = 0
    facts = await claims.claim(STEM, ROW)
    assert (shelf.reads, len(shelf.written)) == (0, 1), "one request"
    assert shelf.facts() == facts
    assert (facts.state, charged(facts)) == ("in flight", ["reserved"])
    resolved = await claims.resolved(STEM)
    assert resolved is not None
    assert resolved.state == "in doubt"


async def test_of_two_processes_one_gets_a_row(shelf: Shelf, claims: Claims) -> None:
    await claims.claim(STEM, ROW)
    with pytest.raises(RowClaimedError, match="a was claimed elsewhere: in doubt") as caught:
        await Claims(cast("Objects", shelf)).claim(STEM, ROW)
    assert charged(caught.value.facts) == ["in doubt"]
    assert len(shelf.written) == 1


async def test_attempts_of_one_process_follow_one_another(shelf: Shelf, claims: Claims) -> None:
    await claims.claim(STEM, ROW)
    claims.settle(STEM, Result("again", "returned", reason="500", error="x"))
    second = await claims.claim(STEM, replace(ROW, attempts=1))
    for _ in range(5):
        await asyncio.sleep(0)
    assert shelf.facts() == second, "nothing older is written after it"
    assert shelf.reads == 0
    claims.accept(STEM, "g")
    await claims.forget(STEM)
    facts = shelf.facts()
    assert charged(facts) == ["returned", "spent"]
    assert [charge.attempt for charge in facts.charges] == [1, 2]
    assert facts.generation_id == "g"
    assert len(shelf.written) == 4


async def test_what_is_written_later_is_written_in_order(shelf: Shelf, claims: Claims) -> None:
    await claims.claim(STEM, ROW)
    shelf.gate.clear()
    claims.accept(STEM, "g")
    claims.settle(STEM, Result("again", "spent", reason="500", error="x"))
    await asyncio.sleep(0)
    assert len(shelf.written) == 1, "nobody waits for it"
    closing = asyncio.ensure_future(claims.aclose())
    await asyncio.sleep(0)
    assert not closing.done()
    shelf.gate.set()
    await closing
    assert [read_facts(data, "x").state for data in shelf.written] == [
        "in flight", "in flight", "again",
    ]  # fmt: skip


async def test_a_slow_write_is_not_overtaken(shelf: Shelf, claims: Claims) -> None:
    await claims.claim(STEM, ROW)
    shelf.first = slow = asyncio.Event()
    claims.accept(STEM, "g")
    await asyncio.sleep(0)
    claims.settle(STEM, Result("failed", "spent", reason="404", error="x"))
    for _ in range(5):
        await asyncio.sleep(0)
    slow.set()
    await claims.aclose()
    for _ in range(5):
        await asyncio.sleep(0)
    assert shelf.facts().state == "failed"


@pytest.mark.parametrize("attempts", [0, 1])
async def test_a_claim_that_is_refused_for_no_reason_is_an_error(
    shelf: Shelf, claims: Claims, attempts: int
) -> None:
    """A store that says that there is something, and then that there is nothing."""
    if attempts:
        await claims.claim(STEM, ROW)
        shelf.objects[f"{STEM}.json"] = (b"other", 77)
    shelf.failing = FileExistsError(errno.EEXIST, "is there already")
    real = shelf.read

    async def read(path: str) -> tuple[bytes, Version]:
        shelf.objects.clear()
        return await real(path)

    shelf.read = read  # type: ignore[method-assign]
    with pytest.raises(FileExistsError):
        await claims.claim(STEM, replace(ROW, attempts=attempts))


async def test_a_fact_that_cannot_be_written_is_logged(
    shelf: Shelf, claims: Claims, caplog: pytest.LogCaptureFixture
) -> None:
    await claims.claim(STEM, ROW)
    shelf.failing = OSError(28, "No space left")
    claims.settle(STEM, Result("failed", "returned"))
    await claims.forget(STEM)
    assert "facts of a could not be written: No space left" in caplog.text
    assert shelf.facts().state == "in flight", "to others it is in doubt"


async def test_a_claim_that_cannot_be_stored_is_none(shelf: Shelf, claims: Claims) -> None:
    shelf.failing = OSError(28, "No space left")
    with pytest.raises(OSError, match="No space left"):
        await claims.claim(STEM, ROW)
    shelf.failing = None
    facts = await claims.claim(STEM, ROW)
    assert charged(facts) == ["reserved"], "its first attempt"


def left(state: State, *charges: Charge, **values: object) -> RowFacts:
    return replace(RowFacts.of(ROW, state, charges, None, None), **values)  # type: ignore[arg-type]


RETURNED = Charge(1, 3.0, "returned")
SPENT = Charge(1, 3.0, "spent", "g")
DOUBT = Charge(1, 3.0, "in doubt")


@pytest.mark.parametrize(
    ("there", "attempts", "is_claimed"),
    [
        # The ledger knows no attempt: that of another process decides.
        (left("again", RETURNED), 0, True),
        (left("waiting", RETURNED), 0, True),
        (left("failed", RETURNED), 0, False),
        (left("in doubt", DOUBT), 0, False),
        (left("in flight", Charge(1, 3.0, "reserved")), 0, False),
        (left("waiting", SPENT), 0, False),
        (left("done", Charge(1, 3.0, "spent"), image=IMAGE), 0, False),
        # The ledger knows this attempt, and sends the row again on purpose.
        (left("failed", RETURNED), 1, True),
        (left("in doubt", DOUBT), 1, True),
        (left("again", SPENT), 1, True),
        (left("done", Charge(1, 3.0, "spent"), image=IMAGE), 1, False),
        # It knows one, and there were two.
        (left("in doubt", RETURNED, replace(DOUBT, attempt=2)), 1, False),
        (left("again", RETURNED, replace(RETURNED, attempt=2)), 1, True),
    ],
)
async def test_a_row_that_was_attempted_is_claimed_unless_it_may_have_been_paid(
    shelf: Shelf, claims: Claims, there: RowFacts, attempts: int, is_claimed: bool
) -> None:
    shelf.put(there)
    shelf.add_image()
    row = replace(ROW, attempts=attempts)
    if is_claimed:
        facts = await claims.claim(STEM, row)
        assert shelf.reads == 1
        assert shelf.facts() == facts
        assert charged(facts) == [*charged(there), "reserved"]
    else:
        with pytest.raises(RowClaimedError) as caught:
            await claims.claim(STEM, row)
        assert caught.value.facts.charges[:1] == there.resolved(has_image=True).charges[:1]
        assert shelf.facts() == there


async def test_a_remake_replaces_what_was_made(shelf: Shelf, claims: Claims) -> None:
    shelf.put(left("done", Charge(1, 3.0, "spent"), image=IMAGE))
    shelf.add_image()
    facts = await claims.claim(STEM, replace(ROW, remake=1))
    assert (charged(facts), facts.remake) == (["spent", "reserved"], 1)


async def test_a_lost_store_is_begun_anew(shelf: Shelf, claims: Claims) -> None:
    facts = await claims.claim(STEM, replace(ROW, attempts=2))
    assert [charge.attempt for charge in facts.charges] == [3]


@pytest.mark.parametrize("size", [None, 3, 10])
async def test_an_image_counts_if_it_is_whole(
    shelf: Shelf, claims: Claims, size: int | None
) -> None:
    shelf.put(left("in flight", Charge(1, 3.0, "reserved"), image=IMAGE))
    if size is not None:
        shelf.add_image(replace(IMAGE, bytes=size))
    resolved = await claims.resolved(STEM)
    assert resolved is not None
    assert resolved.state == ("done" if size == IMAGE.bytes else "in doubt")


async def test_a_claim_that_another_process_replaces_meanwhile_is_lost(
    shelf: Shelf, claims: Claims
) -> None:
    await claims.claim(STEM, ROW)
    claims.settle(STEM, Result("again", "returned"))
    await claims.forget("another row")
    await claims._wait_for(STEM)
    shelf.put(left("in flight", RETURNED, Charge(2, 3.0, "reserved")))
    with pytest.raises(RowClaimedError) as caught:
        await claims.claim(STEM, replace(ROW, attempts=1))
    assert charged(caught.value.facts) == ["returned", "in doubt"]


async def test_facts_are_complete_before_their_image(shelf: Shelf, claims: Claims) -> None:
    await claims.claim(STEM, ROW)
    shelf.gate.clear()
    claims.accept(STEM, "g")
    making = asyncio.ensure_future(claims.made(STEM, ROW, IMAGE))
    await asyncio.sleep(0)
    shelf.gate.set()
    facts = await making
    assert shelf.facts().generation_id == "g", "what was to be written is written"
    assert shelf.facts().image is None
    await claims.complete(STEM, facts)
    assert shelf.facts() == facts
    assert (facts.state, facts.image) == ("done", IMAGE)
    claims.settle(STEM, Result("failed", "returned"))
    await claims.aclose()
    assert shelf.facts() == facts, "an image is the last word"


async def test_an_image_of_an_earlier_run_completes_what_that_wrote(
    shelf: Shelf, claims: Claims
) -> None:
    shelf.put(left("waiting", RETURNED, replace(SPENT, attempt=2)))
    facts = await claims.made(STEM, ROW, IMAGE)
    await claims.complete(STEM, facts)
    assert charged(shelf.facts()) == ["returned", "spent"]
    other = await claims.made("0000/000002-b", new_row(2, "b"), IMAGE)
    assert charged(other) == ["spent"], "of a row that was never claimed"


async def test_what_is_settled_without_a_claim_is_not_written(shelf: Shelf, claims: Claims) -> None:
    claims.settle(STEM, Result("failed", "returned"))
    await claims.aclose()
    assert shelf.written == []


async def test_what_is_forgotten_is_read_again(shelf: Shelf, claims: Claims) -> None:
    await claims.claim(STEM, ROW)
    claims.accept(STEM, "g")
    await claims.forget(STEM)
    await claims.forget(STEM)
    with pytest.raises(RowClaimedError):
        await claims.claim(STEM, ROW)


async def test_what_are_no_facts_is_no_claim(shelf: Shelf, claims: Claims) -> None:
    shelf.objects[f"{STEM}.json"] = (b"not JSON", 1)
    for ask in (claims.resolved(STEM), claims.claim(STEM, ROW)):
        with pytest.raises(StorageError, match=r"s3://b/0000/000001-a.json is not readable"):
            await ask
