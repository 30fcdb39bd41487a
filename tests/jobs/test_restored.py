"""What a new ledger learns of a job from its folder or its bucket, to the row."""

from __future__ import annotations

import shutil
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from stable_async.jobs import JobError, PromptRules, StorageError
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.recovery import (
    METADATA_NAME,
    Repair,
    Restored,
    is_outdated,
    open_ledger,
    read_begun,
    read_begun_of_bucket,
    repair,
    restore,
)
from stable_async.jobs.shard import Shard
from stable_async.jobs.storage.bucket import BucketStore
from stable_async.jobs.storage.folder import FolderStore
from stable_async.jobs.storage.objects import Objects
from tests.jobs.test_crash import execute

if TYPE_CHECKING:
    from pathlib import Path

    from stable_async.jobs.row import State
    from stable_async.jobs.storage.base import Store
    from tests.jobs.conftest import Bench

STATES = {"a": "done", "b": "filtered", "c": "failed", "d": "in doubt", "e": "again"}


@pytest.fixture(params=["folder", "bucket"])
def images(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """The URL of the images; `None` keeps them in the folder."""
    return None if request.param == "folder" else (tmp_path / "store" / "images").as_uri()


def store_of(bench: Bench, images: str | None) -> Store:
    return FolderStore(bench.out) if images is None else BucketStore(Objects(images))


async def run(bench: Bench, images: str | None) -> None:
    """Run a job with a row for each way to end."""
    bench.shop.script = {"b": ["filtered"], "c": [400], "d": ["drop"], "e": [500] * 9}
    path = bench.write(*({"id": one, "prompt": one} for one in STATES))
    await bench.run(path, images=images)


def states(ledger: Ledger) -> dict[str, str]:
    every: tuple[State, ...] = ("done", "filtered", "failed", "in doubt", "again")
    return {row.id: state for state in every for row in ledger.rows(state, gone=True)}


@pytest.mark.parametrize("lines", [True, False], ids=["lines", "no lines"])
async def test_a_new_ledger_learns_each_row_once(
    bench: Bench, images: str | None, lines: bool
) -> None:
    await run(bench, images)
    if not lines:
        (bench.out / METADATA_NAME).unlink()
    store = store_of(bench, images)
    with closing(Ledger.temporary()) as ledger:
        with ledger.transaction():
            restored = restore(ledger, bench.out, store)
        assert restored == Restored(images=2, in_doubt=1, others=2)
        assert str(restored) == "2 images, 1 rows in doubt"
        assert states(ledger) == STATES
        with ledger.transaction():
            again = restore(ledger, bench.out, store)
        assert again == Restored()
        assert not again
        assert states(ledger) == STATES
        assert is_outdated(ledger, bench.out, store)  # it is not that of the last run


@pytest.mark.parametrize("index", [1, 2])
async def test_a_part_learns_its_own_rows_alone(
    bench: Bench, images: str | None, index: int
) -> None:
    await run(bench, images)
    (bench.out / METADATA_NAME).unlink()
    with closing(Ledger.temporary()) as ledger:
        with ledger.transaction():
            restore(ledger, bench.out, store_of(bench, images), Shard(index, 2))
        own = dict(list(STATES.items())[index - 1 :: 2])
        assert states(ledger) == own


async def test_what_was_in_flight_is_settled_by_what_its_store_knows(
    bench: Bench, images: str | None
) -> None:
    """A bucket knows each answer; without one, only an image proves that nothing is in doubt."""
    await run(bench, images)
    file = bench.out / "job.sqlite"
    execute(file, "DELETE FROM images")
    execute(file, "UPDATE rows SET state = 'in flight', reason = NULL, error = NULL")
    execute(
        file,
        "UPDATE charges SET state = 'reserved' WHERE attempt = "
        "(SELECT attempts FROM rows WHERE rows.position = charges.position)",
    )
    known = STATES if images else dict.fromkeys(STATES, "in doubt") | {"a": "done", "b": "filtered"}
    doubts = [*known.values()].count("in doubt")
    with closing(Ledger.open(file)) as ledger:
        with ledger.transaction():
            found = repair(ledger, store_of(bench, images))
        assert found == Repair(adopted=2, in_doubt=doubts)
        assert states(ledger) == known
        bill = ledger.bill()
        assert (bill.spent, bill.in_doubt, bill.reserved) == (6.0, 3.0 * doubts, 0.0)
        reasons = {row.id: reason for row, _, reason, *_ in ledger.failures()}
        assert reasons.pop("b") is None
        if images is None:
            assert set(reasons.values()) == {"in flight at the end"}
        else:
            assert (reasons["c"], reasons["e"]) == ("400 bad_request", "500 internal_error")
        with ledger.transaction():
            assert repair(ledger, store_of(bench, images)) == Repair(adopted=0, in_doubt=0)


@pytest.mark.parametrize("news", ["images", "in_doubt", "others"])
def test_anything_found_is_news(news: str) -> None:
    assert Restored(**{news: 1})
    assert str(Restored(images=1234)) == "1,234 images"


async def test_a_ledger_without_the_latest_failures_is_outdated(bench: Bench) -> None:
    await run(bench, None)
    store = FolderStore(bench.out)
    with closing(Ledger.open(bench.out / "job.sqlite")) as ledger:
        assert not is_outdated(ledger, bench.out, store)
    older = (bench.out / "job.sqlite").read_bytes()
    path = bench.write(*({"id": one, "prompt": one} for one in STATES))
    bench.shop.script = {"e": [500] * 9}
    await bench.run(path)
    with closing(Ledger.open(bench.out / "job.sqlite")) as ledger:
        assert not is_outdated(ledger, bench.out, store)
    (bench.out / "job.sqlite").write_bytes(older)
    with closing(Ledger.open(bench.out / "job.sqlite")) as ledger:
        assert is_outdated(ledger, bench.out, store)


async def test_a_bucket_knows_that_another_run_came_later(bench: Bench, tmp_path: Path) -> None:
    images = (tmp_path / "store" / "images").as_uri()
    await bench.run(bench.write("a"), images=images)
    store = BucketStore(Objects(images))
    other = bench.folder / "other"
    with closing(Ledger.open(bench.out / "job.sqlite")) as ledger:
        assert not is_outdated(ledger, bench.out, store)
        await bench.run(bench.write("a"), images=images, folder=other)
        assert is_outdated(ledger, bench.out, store)


@pytest.mark.parametrize(
    ("others", "is_job"),
    [
        ((), True),
        (("notes.txt",), False),
        (("metadata.jsonl",), False),
        (("images",), False),
        (("metadata.jsonl", "images"), True),
        (("metadata.jsonl", "images", "notes.txt"), True),
        (("notes.txt", "job.sqlite.corrupt-1"), True),
        (("job.sqlite-wal", "spooled", ".hidden"), True),
    ],
)
def test_a_folder_of_something_else_is_no_job(
    tmp_path: Path, others: tuple[str, ...], is_job: bool
) -> None:
    for name in others:
        if name in {"images", "spooled"}:
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).touch()
    if not is_job:
        with pytest.raises(JobError, match="is not a job"):
            open_ledger(tmp_path, FolderStore(tmp_path))
        assert not (tmp_path / "job.sqlite").exists()
        return
    ledger, rebuilt = open_ledger(tmp_path, FolderStore(tmp_path))
    ledger.close()
    strange = [name for name in others if name not in {"job.sqlite-wal", "spooled", ".hidden"}]
    assert (rebuilt is not None) == bool(strange)
    assert rebuilt is None or "job.sqlite was missing; rebuilt from metadata.jsonl" in rebuilt


def test_every_corrupt_ledger_is_kept(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        content = bytes([64 + number]) * 5000
        (tmp_path / "job.sqlite").write_bytes(content)
        ledger, rebuilt = open_ledger(tmp_path, FolderStore(tmp_path))
        ledger.close()
        assert rebuilt is not None
        assert f"is kept as job.sqlite.corrupt-{number}" in rebuilt
        assert (tmp_path / f"job.sqlite.corrupt-{number}").read_bytes() == content
        assert not [*tmp_path.glob(".job.sqlite.rebuilt*")]


async def test_what_a_job_was_begun_with_is_read_from_folder_or_bucket(
    bench: Bench, images: str | None
) -> None:
    assert read_begun(bench.out) is None
    await bench.run(bench.write("a"), PromptRules(limit=1), images=images)
    found = read_begun(bench.out)
    assert found is not None
    assert found[1] == images
    if images is None:
        return
    assert read_begun_of_bucket(images) == (found[0], 1)
    assert read_begun_of_bucket(f"{images}-of-nobody") is None
    place = bench.folder / "store" / "images"
    shutil.rmtree(place)
    place.mkdir()
    assert read_begun_of_bucket(images) is None
    shutil.rmtree(place)
    place.write_text("a file")
    with pytest.raises(StorageError, match="store/images"):
        read_begun_of_bucket(images)
