"""However suddenly a job ends, nothing that was paid for is lost or bought twice."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
import zlib
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from stable_async.jobs import LedgerError, PromptFileError, PromptRules, StorageError
from stable_async.jobs.clean_mark import leave_clean_mark
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.metadata import MetadataFile
from stable_async.jobs.recovery import Restored, restore
from tests.jobs.shop import shop_image
from tests.jobs.torture import Torture, check_bill, check_job
from tests.needs import small_disk

if TYPE_CHECKING:
    from stable_async.jobs.shard import Shard
    from stable_async.jobs.storage.base import Store
    from tests.jobs.conftest import Bench


def execute(path: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(path) as ledger:
        ledger.execute(statement, values)
    ledger.close()


def put_in_flight(path: Path) -> None:
    """Leave a ledger as a kill does that came while all rows were on their way."""
    execute(path, "UPDATE rows SET state = 'in flight', attempts = attempts + 1")
    execute(
        path,
        "INSERT INTO charges (position, attempt, price, state) "
        "SELECT position, attempts, price, 'reserved' FROM rows",
    )


@pytest.mark.timeout(240)  # thirty processes, which a busy machine makes slow
async def test_kill_9_at_random_moments_sends_nothing_twice_that_may_be_paid(
    bench: Bench,
) -> None:
    """Against a server that fails and cuts: after every kill all bills agree but for the doubts."""
    rows, kills = 300, 30
    shop = bench.shop
    shop.latency, shop.fail_rate, shop.drop_rate = 0.02, 0.02, 0.01
    path = bench.write(*(f"p{n}" for n in range(rows)))
    torture = Torture(path, bench.out, shop.url, Random(1))
    killed = 0
    while killed < kills and await torture.kill(within=0.1):
        killed += 1
        check_bill(torture, 3.0 * shop.sold.total())
        assert max(shop.sold.values(), default=0) <= 1, "something was paid twice"
    assert killed > kills / 2
    summary = await torture.finish()
    spent, in_doubt = torture.bill()
    assert (summary["spent"], summary["credits_in_doubt"]) == (spent, in_doubt)
    assert summary["in_doubt"] * 3 == in_doubt
    assert set(shop.sold.values()) == {1}
    await torture.finish_all()
    check_job(bench.out, rows)
    check_bill(torture, 3.0 * shop.sold.total())
    assert len(shop.sold) == rows, "a row keeps its seed"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_a_polite_signal_loses_nothing_at_all(bench: Bench, how: signal.Signals) -> None:
    rows = 60
    bench.shop.latency = 0.02
    path = bench.write(*(f"p{n}" for n in range(rows)))
    torture = Torture(path, bench.out, bench.shop.url, Random(2), ("--max-in-flight", "5"))
    process = await torture.start()
    await bench.shop.wait_for(8)
    process.send_signal(how)
    await process.communicate()
    assert process.returncode == 130
    sold = sum(bench.shop.sold.values())
    assert 8 <= sold < rows
    lines = bench.lines()
    assert len(lines) == sold, "all that was in flight was brought in"
    await torture.finish()
    check_job(bench.out, rows)
    assert set(bench.shop.sold.values()) == {1}


async def test_an_image_that_was_renamed_but_not_noted_is_adopted(bench: Bench) -> None:
    """As after a power cut between the two."""
    path = bench.write("a", "b")
    await bench.run(path, budget=3)
    [made] = bench.lines()
    ledger = bench.out / "job.sqlite"
    execute(ledger, "DELETE FROM images")
    execute(ledger, "UPDATE rows SET state = 'in flight' WHERE id = ?", made["id"])
    execute(ledger, "UPDATE charges SET state = 'reserved'")
    (bench.out / "metadata.jsonl").unlink()
    summary = await bench.run(path)
    assert (summary.ending, summary.done, summary.skipped) == ("complete", 1, 1)
    assert set(bench.shop.sold.values()) == {1}
    [line] = [line for line in bench.lines() if line["id"] == made["id"]]
    assert line == {**made, "request_id": None}


async def test_a_half_written_file_is_cleared_away(bench: Bench) -> None:
    path = bench.write("a")
    await bench.run(path, budget=0)
    put_in_flight(bench.out / "job.sqlite")
    with sqlite3.connect(bench.out / "job.sqlite") as ledger:
        [(identity,)] = ledger.execute("SELECT id FROM rows")
    ledger.close()
    folder = bench.out / "images" / "0000"
    folder.mkdir(parents=True)
    (folder / f".000001-{identity}.png.0123456789abcdef.part").write_bytes(b"half")
    summary = await bench.run(path)
    assert (summary.ending, summary.done, summary.in_doubt) == ("incomplete", 0, 1)
    assert not [*folder.iterdir()]
    summary = await bench.run(path, resend_doubtful=True)
    assert (summary.ending, summary.done, summary.credits_in_doubt) == ("complete", 1, 3.0)
    check_job(bench.out, 1)


@pytest.mark.parametrize("damage", ["missing", "torn", "short", "long"])
async def test_metadata_is_brought_up_to_date_from_the_ledger(bench: Bench, damage: str) -> None:
    path = bench.write("a", "b", "c")
    await bench.run(path)
    file = bench.out / "metadata.jsonl"
    whole = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "long":
        file.write_bytes(whole + b'{"file_name": "ima')
    else:
        file.write_bytes(whole[: -20 if damage == "torn" else len(whole) // 2])
    await bench.run(path)
    assert file.read_bytes() == whole


async def test_lines_that_were_written_after_the_last_mark_are_written_once(bench: Bench) -> None:
    """A crash leaves lines behind the mark that the ledger has as well."""
    path = bench.write("a", "b", "c")
    await bench.run(path)
    file = bench.out / "metadata.jsonl"
    whole = file.read_bytes()
    size = whole.index(b"\n") + 1
    ledger = bench.out / "job.sqlite"
    execute(ledger, "UPDATE job SET value = ? WHERE name = 'metadata_size'", size)
    execute(ledger, "UPDATE job SET value = 1 WHERE name = 'metadata_number'")
    checksum = zlib.crc32(whole[:size])
    execute(ledger, "UPDATE job SET value = ? WHERE name = 'metadata_checksum'", checksum)
    await bench.run(path)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("damage", ["garbage", "missing", "truncated", "empty"])
async def test_a_lost_ledger_is_rebuilt_from_files_and_metadata(bench: Bench, damage: str) -> None:
    bench.shop.script["b"] = ["filtered"]
    path = bench.write({"prompt": "a", "seed": 0}, "b", {"id": "my/c", "prompt": "c"}, "d")
    await bench.run(path, PromptRules(limit=3))
    before = bench.lines()
    ledger = bench.out / "job.sqlite"
    if damage == "missing":
        ledger.unlink()
    elif damage == "garbage":
        ledger.write_bytes(b"x" * 5000)
    elif damage == "empty":
        ledger.write_bytes(b"")
    else:
        ledger.write_bytes(ledger.read_bytes()[:6000])
    lines = (bench.out / "metadata.jsonl").read_text().splitlines(keepends=True)
    (bench.out / "metadata.jsonl").write_text("".join(lines[:-1]) + lines[-1][:30])
    async with bench.client() as client:
        job = bench.job(path)
        summary = await job.run(client)
    assert (summary.total, summary.skipped, summary.filtered, summary.done) == (4, 2, 1, 1)
    assert sum(bench.shop.sold.values()) == 4
    [note] = [note for note in job.notes if "rebuilt from metadata.jsonl" in note]
    assert "and files: 3 images." in note
    assert ("was missing" in note) == (damage in {"missing", "empty"})
    assert ("is kept as job.sqlite.corrupt-1" in note) == (damage in {"garbage", "truncated"})
    aside = list(bench.out.glob("job.sqlite.corrupt-*"))
    assert bool(aside) == (damage in {"garbage", "truncated"})
    after = {line["id"]: line for line in bench.lines()}
    for line in before[:-1]:
        assert after[line["id"]] == line
    last = before[-1]
    assert after[last["id"]] == {**last, "seed": None, "request_id": None}
    assert (await bench.run(path)).requests == 0


@pytest.mark.parametrize("damage", ["missing", "garbage", "older copy"])
async def test_a_ledger_that_is_lost_takes_doubts_from_the_failures(
    bench: Bench, damage: str
) -> None:
    """What may be billed is not sent again unasked, and the budget still counts it."""
    shop = bench.shop
    shop.script = {"c": ["drop"], "d": [400], "e": ["filtered"]}
    first = bench.write("a", "b", name="first.jsonl")
    path = bench.write("a", "b", "c", "d", "e")
    await bench.run(first)
    ledger = bench.out / "job.sqlite"
    older = ledger.read_bytes()
    await bench.run(path)
    if damage == "missing":
        ledger.unlink()
    else:
        ledger.write_bytes(older if damage == "older copy" else b"x" * 5000)
    shop.asked.clear()
    async with bench.client() as client:
        job = bench.job(path, budget=15.0)
        summary = await job.run(client)
    assert shop.asked == []
    assert any(", 1 row in doubt" in note for note in job.notes), job.notes
    assert (summary.ending, summary.in_doubt, summary.failed) == ("incomplete", 1, 1)
    assert (summary.spent, summary.credits_in_doubt) == (9.0, 3.0)
    await bench.run(path, resend_doubtful=True)
    assert shop.asked == ["c"]
    again = await bench.run(path)
    assert (again.done, again.skipped) == (0, 3)
    assert again.spent <= 3.0 * shop.sold.total() <= again.spent + again.credits_in_doubt


async def test_a_failures_file_that_was_edited_is_read_as_far_as_it_can_be(bench: Bench) -> None:
    bench.shop.script = {"a": ["drop"], "b": ["drop"]}
    path = bench.write("a", "b")
    await bench.run(path)
    file = bench.out / "failures.jsonl"
    line = file.read_text().splitlines()[1]
    odd = ['{"facts": {}}', "[]", "{", '{"facts": 1}', "\x00", line[:-9], line]
    file.write_text("\n".join(odd))
    (bench.out / "job.sqlite").unlink()
    summary = await bench.run(path)
    assert (summary.done, summary.in_doubt) == (1, 1)


async def test_other_comments_in_its_schema_make_no_ledger_corrupt(bench: Bench) -> None:
    bench.shop.script = {"a": ["drop"]}
    path = bench.write("a", "b")
    await bench.run(path)
    with closing(sqlite3.connect(bench.out / "job.sqlite", isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema = ON")
        changed = db.execute(
            "UPDATE sqlite_schema SET sql = replace(sql, '-- NULL: not known', '-- may be NULL')"
        )
        assert changed.rowcount
    summary = await bench.run(path)
    assert (summary.in_doubt, summary.credits_in_doubt, summary.requests) == (1, 3.0, 0)
    assert not [*bench.out.glob("job.sqlite.corrupt-*")]


@pytest.fixture
def whole_checks(monkeypatch: pytest.MonkeyPatch) -> list[Ledger]:
    """Return the ledgers that were checked from end to end."""
    checked: list[Ledger] = []
    check = Ledger._check_all

    def note(ledger: Ledger) -> None:
        checked.append(ledger)
        check(ledger)

    monkeypatch.setattr(Ledger, "_check_all", note)
    return checked


async def test_a_ledger_that_was_closed_in_order_is_not_checked_as_a_whole(
    bench: Bench, whole_checks: list[Ledger]
) -> None:
    await bench.run(bench.write("a"))
    whole_checks.clear()
    path = bench.write("a", "b")
    await bench.run(path)
    await bench.run(path)
    assert not whole_checks
    shutil.copytree(bench.out, bench.folder / "copy")
    assert (await bench.run(path, folder=bench.folder / "copy")).skipped == 2
    assert len(whole_checks) == 1


async def test_a_ledger_that_is_not_closed_in_order_is_checked_as_a_whole(
    bench: Bench, whole_checks: list[Ledger]
) -> None:
    path = bench.write("a", "b")
    await bench.run(path)
    with closing(sqlite3.connect(bench.out / "job.sqlite")) as other:
        other.execute("SELECT count(*) FROM rows").fetchone()
        await bench.run(path)  # the log stays, as another process has it open
    whole_checks.clear()
    await bench.run(path)
    assert len(whole_checks) == 1
    process = Torture(path, bench.out, bench.shop.url, Random(1))
    bench.write("a", "b", "c")
    assert await process.kill(within=0.0)
    whole_checks.clear()
    await bench.run(path)
    assert len(whole_checks) == 1


async def test_a_ledger_in_which_an_error_was_met_is_checked_as_a_whole(
    bench: Bench, whole_checks: list[Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.write("a")

    def fail(*_: object, **__: object) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "refused", fail)
        assert (await bench.run(path)).ending == "stopped"
    whole_checks.clear()
    assert (await bench.run(path)).skipped == 1
    assert len(whole_checks) == 1


@pytest.mark.parametrize("is_noticed", [True, False])
@pytest.mark.parametrize("seed", range(4))
async def test_bits_that_flip_in_a_closed_ledger_cost_nothing(
    bench: Bench, seed: int, is_noticed: bool
) -> None:
    """Nothing is bought again, though the disk has changed a page and no time of the file."""
    path = bench.write(*(f"p{n}" for n in range(60)))
    await bench.run(path)
    ledger = bench.out / "job.sqlite"
    content = bytearray(ledger.read_bytes())
    random = Random(seed)
    page = random.randrange(1, len(content) // 4096) * 4096
    for _ in range(20):  # its header and its list of cells
        content[page + random.randrange(200)] ^= 1 << random.randrange(8)
    ledger.write_bytes(content)
    if not is_noticed:
        leave_clean_mark(ledger)
    before = bench.shop.sold.total()
    for _ in range(2):
        with suppress(LedgerError):
            await bench.run(path)
    assert bench.shop.sold.total() == before
    assert (await bench.run(path)).skipped == 60


async def test_a_rebuild_that_is_killed_is_begun_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty ledger in its place would have every image bought and written over again."""
    left = bench.folder / "left"

    def copy_and_restore(ledger: Ledger, folder: Path, store: Store, shard: Shard) -> Restored:
        if not left.exists():
            shutil.copytree(folder, left)  # what `kill -9` would leave
        return restore(ledger, folder, store, shard)

    path = bench.write("a", "b")
    await bench.run(path)
    (bench.out / "job.sqlite").write_bytes(b"x" * 5000)
    monkeypatch.setattr("stable_async.jobs.recovery.restore", copy_and_restore)
    for folder in (bench.out, left):
        summary = await bench.run(path, folder=folder)
        assert (summary.ending, summary.skipped, summary.requests) == ("complete", 2, 0)
        check_job(folder, 2)


async def test_an_older_copy_of_the_ledger_learns_of_the_images_that_came_since(
    bench: Bench,
) -> None:
    """As from a backup: metadata.jsonl knows images that the ledger does not."""
    path = bench.write("a", {"id": "b.filtered", "prompt": "b"}, "c", "d")
    await bench.run(path, PromptRules(limit=1))
    copy = (bench.out / "job.sqlite").read_bytes()
    await bench.run(path, PromptRules(limit=3))
    lines = bench.lines()
    keep_only(bench.out / "job.sqlite", copy)
    async with bench.client() as client:
        job = bench.job(path)
        summary = await job.run(client)
    assert (summary.ending, summary.skipped, summary.done) == ("complete", 3, 1)
    assert any("older copy; found: 2 images" in note for note in job.notes)
    assert bench.lines()[:3] == lines
    check_job(bench.out, 4)


@pytest.mark.parametrize("planned", [False, True])
async def test_a_folder_restored_without_its_newer_images_does_not_buy_them_again(
    bench: Bench, *, planned: bool
) -> None:
    """As from a backup that leaves `images/` out, which is on the disk as it was."""
    path = bench.write("a", "b", "c", "d")
    await bench.run(path, *([] if planned else [PromptRules(limit=1)]), budget=3)
    before = {file.name: file.read_bytes() for file in bench.out.iterdir() if file.is_file()}
    await bench.run(path, PromptRules(limit=3))
    made = {line["sha256"] for line in bench.lines()}
    keep_only(bench.out / "job.sqlite", before["job.sqlite"])
    (bench.out / "metadata.jsonl").write_bytes(before["metadata.jsonl"])
    (bench.out / "failures.jsonl").write_bytes(before["failures.jsonl"])
    async with bench.client() as client:
        job = bench.job(path)
        summary = await job.run(client)
    assert (summary.ending, summary.skipped, summary.done) == ("complete", 3, 1)
    assert any("older copy; found: 2 images" in note for note in job.notes)
    assert made < {line["sha256"] for line in bench.lines()}
    assert set(bench.shop.sold.values()) == {1}
    assert summary.spent == sum(line["credits"] for line in bench.lines()) == 12
    check_job(bench.out, 4)


def keep_only(ledger: Path, content: bytes) -> None:
    """Put an older ledger in the place of the present one."""
    for suffix in ("", "-wal", "-shm"):
        ledger.with_name(ledger.name + suffix).unlink(missing_ok=True)
    ledger.write_bytes(content)


@pytest.mark.parametrize("damage", ["older", "lost"])
async def test_a_ledger_learns_what_an_image_was_made_from(bench: Bench, damage: str) -> None:
    """Its row was changed after the backup, and made then."""
    old = bench.write({"id": "a", "prompt": "a"}, {"id": "b", "prompt": "old"})
    await bench.run(old, budget=3)
    copy = (bench.out / "job.sqlite").read_bytes()
    new = bench.write({"id": "a", "prompt": "a"}, {"id": "b", "prompt": "new"}, name="new.jsonl")
    await bench.run(new)
    lines = bench.lines()
    keep_only(bench.out / "job.sqlite", copy if damage == "older" else b"")
    with pytest.raises(PromptFileError, match="'b' was made from other content"):
        await bench.run(old)
    summary = await bench.run(new)
    assert (summary.ending, summary.requests) == ("complete", 0)
    assert bench.lines() == lines


async def test_an_older_ledger_learns_of_images_that_were_replaced(bench: Bench) -> None:
    rows = [{"id": "a", "prompt": "cat"}, {"id": "b", "prompt": "b"}]
    await bench.run(bench.write(*rows))
    copy = (bench.out / "job.sqlite").read_bytes()
    path = bench.write({"id": "a", "prompt": "dog"}, rows[1])
    await bench.run(path, replace_changed=True)
    lines = sorted(bench.lines(), key=lambda line: str(line["id"]))
    keep_only(bench.out / "job.sqlite", copy)
    summary = await bench.run(path, replace_changed=True)
    assert (summary.ending, summary.requests) == ("complete", 0)
    assert sorted(bench.lines(), key=lambda line: str(line["id"])) == lines
    assert set(bench.shop.sold.values()) == {1}


async def test_what_a_lost_ledger_leaves_beside_it_is_not_taken_for_the_new_one(
    bench: Bench,
) -> None:
    path = bench.write(*(f"p{n}" for n in range(30)))
    left = bench.folder / "left"
    bench.shop.script = {f"p{n}": ["slow"] for n in range(20, 30)}
    async with bench.client() as client:
        job = bench.job(path, max_in_flight=10)
        running = asyncio.ensure_future(job.run(client))
        while job.progress.done < 20:
            await asyncio.sleep(0.001)
        shutil.copytree(bench.out, left)  # what `kill -9` would leave
        bench.shop.opened.set()
        await running
    assert (left / "job.sqlite-wal").stat().st_size
    (left / "job.sqlite").unlink()
    summary = await bench.run(path, folder=left)
    assert (summary.ending, summary.skipped, summary.done) == ("complete", 20, 10)
    check_job(left, 30)


async def test_a_row_may_have_an_id_that_looks_like_a_mark(bench: Bench) -> None:
    path = bench.write({"id": "x.filtered", "prompt": "a"})
    await bench.run(path)
    execute(bench.out / "job.sqlite", "DELETE FROM images")
    execute(bench.out / "job.sqlite", "UPDATE rows SET state = 'in flight'")
    (bench.out / "metadata.jsonl").unlink()
    summary = await bench.run(path)
    assert (summary.ending, summary.skipped, summary.requests) == ("complete", 1, 0)
    for name in ("job.sqlite", "metadata.jsonl"):
        (bench.out / name).unlink()
    (bench.out / "metadata.jsonl").touch()
    summary = await bench.run(path)
    assert (summary.ending, summary.skipped, summary.requests) == ("complete", 1, 0)


async def test_images_whose_folder_cannot_be_synced_are_found_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path | str) -> None:
        if [*Path(folder).glob("*.png")]:
            raise OSError(24, "Too many open files")

    path = bench.write(*(f"p{n}" for n in range(5)))
    with monkeypatch.context() as patch:
        patch.setattr("stable_async.jobs.storage.folder.sync_folder", refuse)
        summary = await bench.run(path)
    assert summary.ending == "stopped"
    assert "Too many open files" in str(summary.error)
    assert (await bench.run(path)).ending == "complete"
    assert set(bench.shop.sold.values()) == {1}
    check_job(bench.out, 5)


async def test_a_metadata_file_that_was_edited_is_written_anew(bench: Bench) -> None:
    path = bench.write("a", "b", "c")
    await bench.run(path)
    file = bench.out / "metadata.jsonl"
    whole = file.read_text()
    file.write_text(whole.replace('{"file_name"', '{"note":"hello","file_name"'))
    await bench.run(path)
    assert file.read_text() == whole


async def test_one_letter_changed_long_before_the_end_of_the_metadata_is_noticed(
    bench: Bench,
) -> None:
    path = bench.write(*(f"p{n}" for n in range(40)))
    await bench.run(path)
    file = bench.out / "metadata.jsonl"
    whole = file.read_bytes()
    assert len(whole) > 8_000
    for place in (0, 10, 100):
        file.write_bytes(whole[:place] + b"#" + whole[place + 1 :])
        await bench.run(path)
        assert file.read_bytes() == whole


@pytest.mark.parametrize("damage", ["shorter", "gone"])
async def test_a_metadata_file_that_is_replaced_during_a_run_is_written_anew(
    bench: Bench, damage: str
) -> None:
    """An editor saves under another name, and so puts another file in its place."""
    bench.shop.script["b"] = ["slow"]
    path = bench.write("a", "b")
    file = bench.out / "metadata.jsonl"
    async with bench.client() as client:
        job = bench.job(path)
        running = asyncio.ensure_future(job.run(client))
        while job.progress.done < 1:
            await asyncio.sleep(0.001)
        file.unlink()
        if damage == "shorter":
            file.write_text("{}\n")
        bench.shop.opened.set()
        assert (await running).ending == "complete"
    await bench.run(path)
    assert [line["text"] for line in bench.lines()] == ["a", "b"]
    check_job(bench.out, 2)


async def test_half_a_line_is_no_end_of_the_metadata(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk may take half a line, which must not be taken for written later."""

    def half(self: MetadataFile, fresh: object) -> None:
        self._file.write(b'{"file_name":"images/0000/00')
        raise OSError(28, "No space left on device")

    path = bench.write("a", "b")
    with monkeypatch.context() as patch:
        patch.setattr(MetadataFile, "append", half)
        assert (await bench.run(path)).ending == "stopped"
    assert (await bench.run(path)).ending == "complete"
    check_job(bench.out, 2)


async def test_a_ledger_of_a_newer_version_is_left_alone(bench: Bench) -> None:
    path = bench.write("a")
    await bench.run(path)
    execute(bench.out / "job.sqlite", "PRAGMA user_version = 99")
    before = (bench.out / "job.sqlite").read_bytes()
    with pytest.raises(LedgerError, match=r"newer.*version 99"):
        await bench.run(path)
    assert (bench.out / "job.sqlite").read_bytes() == before


async def test_a_database_of_another_program_is_left_alone(bench: Bench) -> None:
    bench.out.mkdir()
    execute(bench.out / "job.sqlite", "CREATE TABLE mine (x)")
    with pytest.raises(LedgerError, match="not a ledger of stable-async"):
        await bench.run(bench.write("a"))


def fill(path: Path) -> None:
    with path.open("wb", 0) as file:
        while True:
            file.write(bytes(4096))


async def test_a_disk_that_fills_up_stops_the_job_and_tears_nothing(bench: Bench) -> None:
    rows = 12
    with small_disk(bench.folder / "disk", 48) as disk:
        out = disk / "out"
        bench.shop.script = {f"p{n}": ["slow"] for n in range(4, 8)}
        path = bench.write(*(f"p{n}" for n in range(rows)))
        async with bench.client() as client:
            job = bench.job(path, folder=out, max_in_flight=4)
            running = asyncio.ensure_future(job.run(client))
            await bench.shop.wait_for(8)
            while job.progress.done < 4:
                await asyncio.sleep(0.001)
            filler = disk / "filler"
            with pytest.raises(OSError, match="No space"):
                fill(filler)
            bench.shop.opened.set()
            summary = await running
        assert summary.ending == "stopped"
        assert "No space" in str(summary.error) or "full" in str(summary.error)
        files = [path for path in out.glob("images/*/*") if path.suffix != ".part"]
        for file_ in files:
            prompt, seed = file_.read_bytes().rpartition(b"p")[2].decode().split()[:2]
            assert file_.read_bytes() == shop_image(f"p{prompt}", seed)
        filler.unlink()
        later = await bench.run(path, folder=out)
        assert later.in_doubt <= 4
        assert sum(bench.shop.sold.values()) == rows
        again = await bench.run(path, folder=out, resend_doubtful=True)
        assert again.ending == "complete"
        check_job(out, rows)
        assert len(bench.shop.sold) == rows
        assert sum(bench.shop.sold.values()) <= rows + 4


async def test_the_disk_behind_a_link_is_the_one_that_counts(bench: Bench) -> None:
    with small_disk(bench.folder / "disk", 2) as disk:
        bench.out.mkdir()
        (bench.out / "images").symlink_to(disk)
        execute(bench.out / "job.sqlite", "VACUUM")
        summary = await bench.run(bench.write("a"))
    assert (summary.ending, summary.requests) == ("stopped", 0)
    assert "disk" in str(summary.error)


async def test_nothing_is_sent_when_the_disk_is_nearly_full(bench: Bench) -> None:
    with small_disk(bench.folder / "disk", 2) as disk:
        summary = await bench.run(bench.write("a"), folder=disk / "out")
    assert (summary.ending, summary.requests) == ("stopped", 0)
    assert "disk" in str(summary.error)


async def test_a_folder_that_may_not_be_written_is_told_before_anything_is_sent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, *arguments: object, **keywords: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    path = bench.write("a")
    job = bench.job(path)
    monkeypatch.setattr("stable_async.jobs.lock.os.open", refuse)
    async with bench.client() as client:
        with pytest.raises(StorageError, match=r"\.lock: Permission denied"):
            await job.run(client)
    assert bench.shop.asked == []


async def test_an_aborted_run_leaves_a_job_that_can_go_on(bench: Bench) -> None:
    bench.shop.script = {"a": ["slow"]}
    path = bench.write("a", "b")
    async with bench.client() as client:
        running = asyncio.ensure_future(bench.job(path).run(client))
        await bench.shop.wait_for(2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    bench.shop.opened.set()
    summary = await bench.run(path)
    assert (summary.ending, summary.requests) == ("incomplete", 0)
    assert summary.in_doubt >= 1
    assert summary.credits_in_doubt == 3.0 * summary.in_doubt
    assert (await bench.run(path, resend_doubtful=True)).ending == "complete"
    check_job(bench.out, 2)


async def test_the_ledger_counts_what_left_by_the_second(bench: Bench) -> None:
    await bench.run(bench.write(*(f"p{n}" for n in range(5))))
    ledger = Ledger.open(bench.out / "job.sqlite")
    departures = ledger.departures()
    ledger.close()
    assert sum(requests for _, requests, _ in departures) == 5
