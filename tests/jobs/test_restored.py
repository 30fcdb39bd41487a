"""What a new ledger learns of a job from its folder or its bucket, to the row."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from stable_async.jobs import JobError, LedgerError, PromptRules, StorageError
from stable_async.jobs.clean_mark import has_clean_mark
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.recovery import (
    METADATA_NAME,
    Repair,
    Restored,
    close_ledger,
    is_outdated,
    open_ledger,
    read_options,
    read_options_of_bucket,
    repair,
    restore,
    retire_replaced,
)
from stable_async.jobs.shard import WHOLE, Shard
from stable_async.jobs.storage.bucket import BucketStore
from stable_async.jobs.storage.folder import FolderStore
from stable_async.jobs.storage.objects import Objects
from tests.jobs.test_crash import execute
from tests.jobs.test_ledger import add, make, new_row, stored

if TYPE_CHECKING:
    from pathlib import Path

    from stable_async.jobs.row import State
    from stable_async.jobs.storage.base import Store
    from tests.jobs.conftest import Bench

STATES = {
    "a": "done", "b": "filtered", "c": "failed", "d": "in doubt", "e": "again", "f": "failed",
}  # fmt: skip


@pytest.fixture(params=["folder", "bucket"])
def images(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """The URL of the images; `None` keeps them in the folder."""
    return None if request.param == "folder" else (tmp_path / "store" / "images").as_uri()


def store_of(bench: Bench, images: str | None) -> Store:
    return FolderStore(bench.out) if images is None else BucketStore(Objects(images))


async def run(bench: Bench, images: str | None) -> None:
    """Run a job with a row for each way to end."""
    bench.shop.script = {
        "b": ["filtered"], "c": [400], "d": ["drop"], "e": [500] * 9, "f": [422],
    }  # fmt: skip
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
        assert restored == Restored(images=2, in_doubt=1, others=3)
        assert str(restored) == "2 images, 1 row in doubt"
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
        ledger.set(run=store.last_run(WHOLE))  # as when both are of one run
        assert is_outdated(ledger, bench.out, store)
        assert is_outdated(ledger, bench.out, store, Shard(1, 2)), "the fifth row is its"
        assert not is_outdated(ledger, bench.out, store, Shard(2, 2))


async def test_a_copy_of_the_failures_outdates_no_ledger(bench: Bench) -> None:
    await run(bench, None)
    failures = bench.out / "failures.jsonl"
    content = failures.read_bytes()
    failures.unlink()
    failures.write_bytes(content)
    with closing(Ledger.open(bench.out / "job.sqlite")) as ledger:
        assert not is_outdated(ledger, bench.out, FolderStore(bench.out))


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
        (("images", "notes.txt", "images/.last-run"), True),
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
    assert read_options(bench.out) is None
    await bench.run(bench.write("a"), PromptRules(limit=1), images=images)
    found = read_options(bench.out)
    assert found is not None
    assert found[1] == images
    if images is None:
        return
    assert read_options_of_bucket(f"{images}-of-nobody") is None
    place = bench.folder / "store" / "images"
    before = place.stat().st_mtime_ns
    assert read_options_of_bucket(images) == (found[0], 1)
    assert place.stat().st_mtime_ns == before, "nothing was written"
    shutil.rmtree(place)
    place.mkdir()
    assert read_options_of_bucket(images) is None
    shutil.rmtree(place)
    place.write_text("a file")
    with pytest.raises(StorageError, match="store/images"):
        read_options_of_bucket(images)


async def test_a_line_brings_back_its_row_whole(bench: Bench) -> None:
    """The words of the API apart from those of the user, whatever the service calls them."""
    one = {"id": "x", "prompt": "a", "seed": 7, "aspect_ratio": "16:9", "model": "sd3.5-flash"}
    path = bench.write({**one, "service": "sd3", "metadata": {"author": "me"}}, "b")
    await bench.run(path)
    store = FolderStore(bench.out)
    with closing(Ledger.open(bench.out / "job.sqlite")) as ledger:
        before = [*ledger.images()]
    assert before[0][1].metadata == {"author": "me"}
    with closing(Ledger.temporary()) as ledger:
        with ledger.transaction():
            assert restore(ledger, bench.out, store) == Restored(images=2)
        after = [*ledger.images()]
    for (_, row, image), (_, old_row, old_image) in zip(after, before, strict=True):
        known = {"number": 0, "content": b"", "copy": row.copy, "attempts": 1}
        assert row == replace(old_row, **known)  # type: ignore[arg-type]
        assert image == replace(old_image, sent_at=None, finished_at=None)


def put_lines(folder: Path, *lines: str) -> None:
    (folder / "images" / "0000").mkdir(parents=True)
    (folder / METADATA_NAME).write_text("".join(line + "\n" for line in lines))


def test_lines_of_weighted_prompts_have_no_prompt_of_their_own(tmp_path: Path) -> None:
    texts = '[{"text":"a","weight":1}]'
    name = "images/0000/000001-x.png"
    put_lines(
        tmp_path,
        '{"file_name":"images/0000/000001-x.jpg","id":"torn',
        f'{{"file_name":"{name}","id":"x","text":"a","service":"v1-text-to-image",'
        f'"text_prompts":{texts}}}',
        '{"file_name":"images/0000/000002-y.jpg","id":"y","text":"b","service":"of another day"}',
        '{"file_name":"images/other.png","id":"z","text":"c","service":"core"}',
        '["a list"]',
        '{"file_name":"images/0000/000004-w.png","id":"gone","text":"c","service":"core"}',
    )
    for name in ("0000/000001-x.png", "0000/000002-y.jpg", "other.png"):
        (tmp_path / "images" / name).write_bytes(b"image")
    with closing(Ledger.temporary()) as ledger:
        with ledger.transaction():
            assert restore(ledger, tmp_path, FolderStore(tmp_path)) == Restored(images=2)
        rows, found = zip(*((row, image) for _, row, image in ledger.images()), strict=True)
    assert [image.content_type for image in found] == ["image/png", "image/jpeg"]
    assert [(row.id, row.service, row.fields, row.metadata) for row in rows] == [
        ("x", "v1-text-to-image", {"text_prompts": [{"text": "a", "weight": 1}]}, {}),
        ("y", "of another day", {"prompt": "b"}, {}),
    ]


def test_images_that_are_elsewhere_belong_to_another_job(tmp_path: Path) -> None:
    put_lines(tmp_path, '{"file_name":"s3://bucket/0000/000001-x.png","id":"x"}')
    with (
        closing(Ledger.temporary()) as ledger,
        pytest.raises(JobError, match="elsewhere, such as s3://bucket"),
    ):
        restore(ledger, tmp_path, FolderStore(tmp_path))


async def test_a_line_without_its_image_in_the_ledger_outdates_it(bench: Bench) -> None:
    await bench.run(bench.write("a", "b"))
    store = FolderStore(bench.out)
    with closing(Ledger.open(bench.out / "job.sqlite")) as ledger:
        line = (bench.out / METADATA_NAME).read_text().splitlines()[0]
        for name in ("no name of ours", "000002-b.png", "000009-new.png"):
            with (bench.out / METADATA_NAME).open("a") as file:
                file.write(line.replace("000001-", "x", 1) + "\n")
                file.write(f'{{"file_name":"images/0000/{name}"}}\n')
            assert is_outdated(ledger, bench.out, store) == (name == "000009-new.png")
        assert store.last_run(WHOLE) == ledger.get("run")


def test_the_ledger_of_a_run_counts_as_not_closed(tmp_path: Path) -> None:
    store, path = FolderStore(tmp_path), tmp_path / "job.sqlite"
    ledger, _ = open_ledger(tmp_path, store)
    close_ledger(ledger, tmp_path)
    assert has_clean_mark(path)
    ledger, _ = open_ledger(tmp_path, store)
    ledger.close()
    assert not has_clean_mark(path)
    mark = tmp_path / ".job.sqlite.clean"
    mark.mkdir()
    with pytest.raises(OSError, match=mark.name):
        open_ledger(tmp_path, store)
    assert not path.with_name("job.sqlite-wal").exists(), "it was closed"
    ledger = Ledger.open(path)
    close_ledger(ledger, tmp_path)  # without a mark, the next run checks the whole file


def test_a_ledger_that_cannot_be_read_is_not_taken_for_a_corrupt_one(tmp_path: Path) -> None:
    open_ledger(tmp_path, FolderStore(tmp_path))[0].close()
    (tmp_path / "job.sqlite-wal").mkdir()
    with pytest.raises(LedgerError, match="unable to open"):
        open_ledger(tmp_path, FolderStore(tmp_path))
    with pytest.raises(LedgerError, match="unable to open"):
        read_options(tmp_path)
    assert not [*tmp_path.glob("*corrupt*")]


def test_a_corrupt_ledger_has_no_options(tmp_path: Path) -> None:
    path = tmp_path / "job.sqlite"
    path.write_bytes(b"")
    assert read_options(tmp_path) is None
    path.write_bytes(b"x" * 5000)
    with pytest.raises(LedgerError, match="name PROMPTS, and the run repairs it"):
        read_options(tmp_path)
    path.unlink()
    Ledger.open(path).close()
    assert read_options(tmp_path) is None


def test_what_a_killed_rebuild_left_is_not_read(tmp_path: Path) -> None:
    (tmp_path / ".job.sqlite.rebuilt").write_bytes(b"x" * 5000)
    (tmp_path / ".job.sqlite.rebuilt-wal").write_bytes(b"x" * 5000)
    ledger, rebuilt = open_ledger(tmp_path, FolderStore(tmp_path))
    assert rebuilt is None
    assert ledger.counts().total == 0
    ledger.close()


def test_a_generation_that_was_accepted_is_fetched_by_the_next_run(bench: Bench) -> None:
    bench.out.mkdir()
    with closing(Ledger.open(bench.out / "job.sqlite")) as ledger:
        rows = [new_row(n, identity) for n, identity in enumerate("ab", 1)]
        add(ledger, *rows)
        with ledger.transaction():
            for row in rows:
                ledger.claim(row)
            ledger.accept(rows[0], "g")
        ledger.list_all()
        ledger.unlist_all()
        with ledger.transaction():
            assert repair(ledger, FolderStore(bench.out)) == Repair(adopted=0, in_doubt=1)
        assert [row.generation_id for row in ledger.rows("waiting", gone=True)] == ["g"]
        assert stored(ledger, "reason, error")[1] == (
            "in flight at the end",
            "the last run ended while the request was on its way",
        )
        assert [one.state for n in (1, 2) for one in ledger.charges(n)] == ["spent", "in doubt"]


def test_an_image_is_moved_where_replaced_ones_are(tmp_path: Path) -> None:
    put_lines(tmp_path)
    row = new_row(1, "a")
    with closing(Ledger.temporary()) as ledger:
        add(ledger, row)
        make(ledger, row, file_name="images/0000/000001-a.png")
        (tmp_path / "images" / "0000" / "000001-a.png").write_bytes(b"image")
        with ledger.transaction():
            ledger.remake(row, 7, 2)
            retire_replaced(ledger, FolderStore(tmp_path))
        assert stored(ledger, "file_name", "images") == ["replaced/000001-a.png"]
    assert (tmp_path / "replaced" / "000001-a.png").read_bytes() == b"image"


async def test_facts_of_a_bucket_say_why_a_row_is_in_doubt(bench: Bench, tmp_path: Path) -> None:
    images = (tmp_path / "store" / "images").as_uri()
    bench.shop.script = {"a": ["drop"]}
    await bench.run(bench.write({"id": "a", "prompt": "a"}), images=images)
    store = BucketStore(Objects(images))
    with closing(Ledger.open(bench.out / "job.sqlite")) as ledger:
        [(row, _, reason, error, _)] = ledger.failures()
        assert reason == "connection broke"
        execute(bench.out / "job.sqlite", "UPDATE rows SET state = 'in flight', error = NULL")
        execute(bench.out / "job.sqlite", "UPDATE charges SET state = 'reserved'")
        with ledger.transaction():
            assert repair(ledger, store) == Repair(adopted=0, in_doubt=1)
        [(_, state, reason, now, _)] = ledger.failures()
        assert (state, reason, now) == ("in doubt", "in flight at the end", error)
        # An attempt of which the bucket knows nothing yet.
        with ledger.transaction():
            ledger.claim(row)
        with ledger.transaction():
            assert repair(ledger, store) == Repair(adopted=0, in_doubt=1)
        assert [one.state for one in ledger.charges(1)] == ["in doubt", "in doubt"]


async def test_an_older_refusal_does_not_answer_the_last_attempt(
    bench: Bench, tmp_path: Path
) -> None:
    images = (tmp_path / "store" / "images").as_uri()
    bench.shop.script = {"a": [400]}
    await bench.run(bench.write({"id": "a", "prompt": "a"}), images=images)
    with closing(Ledger.open(bench.out / "job.sqlite")) as ledger:
        [(row, *_)] = ledger.failures()
        with ledger.transaction():
            ledger.claim(row)
        with ledger.transaction():
            assert repair(ledger, BucketStore(Objects(images))) == Repair(0, in_doubt=1)
        assert [one.state for one in ledger.charges(1)] == ["returned", "in doubt"]


def test_an_empty_ledger_is_a_lost_one(tmp_path: Path) -> None:
    """A full disk or a power cut leaves one."""
    put_lines(tmp_path, '{"file_name":"images/0000/000001-x.png","id":"x","service":"core"}')
    (tmp_path / "images" / "0000" / "000001-x.png").write_bytes(b"image")
    (tmp_path / "job.sqlite").touch()
    ledger, rebuilt = open_ledger(tmp_path, FolderStore(tmp_path))
    ledger.close()
    assert rebuilt is not None
    assert rebuilt.startswith("job.sqlite was missing; rebuilt from")
    assert ": 1 image. " in rebuilt


def test_the_log_of_a_lost_ledger_does_not_belong_to_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "job.sqlite"
    with closing(Ledger.open(path)) as ledger:
        add(ledger, new_row(1, "a"))
        log = path.with_name("job.sqlite-wal").read_bytes()
    path.unlink()
    path.with_name("job.sqlite-wal").write_bytes(log)
    ledger, rebuilt = open_ledger(tmp_path, FolderStore(tmp_path))
    assert rebuilt is None
    assert ledger.counts().total == 0
    ledger.close()


async def test_an_image_completes_the_facts_of_its_claim(bench: Bench, tmp_path: Path) -> None:
    images = (tmp_path / "store" / "images").as_uri()
    await bench.run(bench.write({"id": "a", "prompt": "a"}), images=images)
    [file] = (tmp_path / "store").rglob("000001-a.json")
    whole = json.loads(file.read_text())
    [charge] = whole["charges"]
    claim = {"state": "in flight", "image": None, "charges": [{**charge, "state": "reserved"}]}
    file.write_text(json.dumps(whole | claim))
    ledger_file = bench.out / "job.sqlite"
    execute(ledger_file, "DELETE FROM images")
    execute(ledger_file, "UPDATE rows SET state = 'in flight'")
    execute(ledger_file, "UPDATE charges SET state = 'reserved'")
    with closing(Ledger.open(ledger_file)) as ledger:
        with ledger.transaction():
            assert repair(ledger, BucketStore(Objects(images))) == Repair(adopted=1, in_doubt=0)
        assert states(ledger) == {"a": "done"}
    completed = json.loads(file.read_text())
    assert (completed["state"], completed["charges"]) == ("done", [charge])
    assert completed["image"]["sha256"] == whole["image"]["sha256"]
