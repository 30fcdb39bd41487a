"""Nothing is paid for that cannot be stored, and other options do not buy a job again."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from stable_async.files import AtomicFile
from stable_async.jobs import (
    Job,
    JobChangedError,
    JobError,
    JobSettings,
    PromptRules,
    StorageError,
    budget,
)
from stable_async.jobs.budget import Budget
from stable_async.jobs.errors import LedgerError
from stable_async.jobs.job_options import JobOptions
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.ledger_writer import LedgerWriter
from stable_async.jobs.lock import locked
from stable_async.jobs.metadata import MetadataFile
from stable_async.jobs.recovery import read_options
from stable_async.jobs.row import ImageFacts, Result, Row, derive_seed
from stable_async.jobs.status import job_status
from stable_async.jobs.storage import folder as folder_store
from stable_async.jobs.storage.owner import owner, remove_left_over
from stable_async.report import write_report
from tests.jobs.shop import shop_image
from tests.jobs.test_crash import execute, fill
from tests.jobs.torture import Torture, check_job
from tests.needs import small_disk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.jobs.conftest import Bench

pytestmark = pytest.mark.usefixtures("nothing_leaks")


# The target is proved before the money goes.


@pytest.mark.parametrize("what", ["a file", "a broken link", "no room"])
async def test_a_target_that_cannot_be_written_costs_nothing(
    bench: Bench, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.write(*(f"p{n}" for n in range(5)))
    bench.out.mkdir()
    execute(bench.out / "job.sqlite", "VACUUM")
    if what == "a file":
        (bench.out / "images").write_text("")
    elif what == "a broken link":
        (bench.out / "images").symlink_to(bench.folder / "nowhere" / "at all")
    else:

        def refuse(self: AtomicFile, chunks: object) -> None:
            raise OSError(28, "No space left on device", self.path)

        monkeypatch.setattr(AtomicFile, "write", refuse)
    for _ in range(2):
        with pytest.raises(StorageError, match="images"):
            await bench.run(path)
    assert bench.shop.asked == []


async def test_the_probe_is_written_synced_renamed_and_removed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    for name in ("write", "sync", "commit"):
        whole = getattr(AtomicFile, name)

        def note(self: AtomicFile, *rest: Any, name: str = name, whole: Any = whole) -> None:
            done.append(name)
            whole(self, *rest)

        monkeypatch.setattr(AtomicFile, name, note)
    store = folder_store.FolderStore(bench.folder)
    store.probe()
    assert [name for name in done if name != "write"] == ["commit", "sync"]
    assert not [*(bench.folder / "images").iterdir()]


@pytest.mark.parametrize("step", ["write", "sync", "commit"])
async def test_an_image_that_cannot_be_stored_is_spooled_and_brought_in_later(
    bench: Bench, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder becomes read-only during the run: what came is kept, and nothing more is sent."""
    path = bench.write(*(f"p{n}" for n in range(30)))
    whole = getattr(AtomicFile, step)

    def refuse(self: AtomicFile, *rest: Any) -> None:
        if "/images/0000/" in self.path and sum(bench.shop.sold.values()) > 8:
            raise OSError(30, "Read-only file system", self.path)
        whole(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(AtomicFile, step, refuse)
        summary = await bench.run(path, max_in_flight=4)
    assert summary.ending == "stopped"
    assert "Read-only file system; it is spooled" in str(summary.error)
    sold = bench.shop.sold.total()
    assert sold <= 9 + 4
    spooled = [*bench.out.glob("spooled/*/*.png")]
    assert summary.done + len(spooled) == sold
    assert summary.spent == 3.0 * sold
    summary = await bench.run(path)
    assert (summary.ending, summary.done) == ("complete", 30 - sold)
    assert set(bench.shop.sold.values()) == {1}
    check_job(bench.out, 30)
    assert not [*bench.out.glob("spooled/*/*")]


async def test_a_large_image_is_spooled_whole_though_half_was_written_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = folder_store.FolderStore(bench.folder)
    store.probe()
    async with store.writing() as images:
        row = Row(1, {}, id="a", position=1)
        sink = images.sink(row, ImageFacts(1, content_type="image/png"))
        await sink.write([b"\x89PNG\r\n\x1a\n", b"first"])
        whole = AtomicFile.write

        def refuse(self: AtomicFile, chunks: Sequence[bytes]) -> None:
            if "/images/" in self.path:
                whole(self, [b"torn"])
                raise OSError(28, "No space left on device", self.path)
            whole(self, chunks)

        monkeypatch.setattr(AtomicFile, "write", refuse)
        await sink.write([b"second"])
        with pytest.raises(OSError, match="No space left"):
            await sink.commit([b"third"])
        await sink.discard()
    monkeypatch.undo()
    found = store.find(1, "a")
    assert found is not None
    data = (bench.folder / found.file_name).read_bytes()
    assert data == b"\x89PNG\r\n\x1a\nfirstsecondthird"


async def test_an_image_for_which_the_disk_has_no_room_at_all_is_spooled_elsewhere(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = bench.folder / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    bench.shop.script = {f"p{n}": ["slow"] for n in range(4, 8)}
    path = bench.write(*(f"p{n}" for n in range(12)))
    with small_disk(bench.folder / "disk", 48) as disk:
        out = disk / "out"
        async with bench.client() as client:
            job = bench.job(path, folder=out, max_in_flight=4)
            running = asyncio.ensure_future(job.run(client))
            await bench.shop.wait_for(8)
            while job.progress.done < 4:
                await asyncio.sleep(0.001)
            with pytest.raises(OSError, match="No space"):
                fill(disk / "filler")
            bench.shop.opened.set()
            summary = await running
        assert summary.ending == "stopped"
        (disk / "filler").unlink()
        summary = await bench.run(path, folder=out, resend_doubtful=True)
        assert summary.ending == "complete"
        check_job(out, 12)
    assert set(bench.shop.sold.values()) == {1}, "nothing that came was dropped"
    assert not [*elsewhere.glob("*/*/*")]


# A job knows what it was started with.


async def test_a_job_at_another_address_names_the_option_that_goes_back(bench: Bench) -> None:
    path = bench.write("a")
    await bench.run(path)
    async with bench.client(url="http://127.0.0.1:1") as client:
        with pytest.raises(JobChangedError) as caught:
            await bench.job(path).run(client)
    assert f"server was {bench.shop.url} (--base-url {bench.shop.url}) and is" in str(caught.value)


async def test_a_job_with_other_words_is_refused_with_the_differences_and_their_price(
    bench: Bench,
) -> None:
    path = bench.write("a", "b")
    rules = PromptRules(set={"aspect_ratio": "16:9"})
    await bench.run(path, rules)
    with pytest.raises(JobChangedError) as caught:
        await bench.run(path)
    text = str(caught.value)
    assert "set was aspect_ratio=16:9 and is nothing" in text
    assert "2 images would be new, for 6 credits" in text
    assert "--change" in text
    with pytest.raises(JobChangedError, match="service was core and is sd3"):
        await bench.run(path, PromptRules(service="sd3", set={"aspect_ratio": "16:9"}))
    with pytest.raises(JobChangedError, match="vary was nothing and is seed=1,2"):
        await bench.run(path, PromptRules(set=rules.set, vary={"seed": ("1", "2")}))
    assert len(bench.shop.asked) == 2
    assert (await bench.run(path, rules)).requests == 0, "nothing was changed by being refused"
    same = PromptRules(service=" Core", set=rules.set)
    assert (await bench.run(path, same)).requests == 0, "the same word is no other one"
    assert (await bench.run(path, change=True)).done == 2
    assert (await bench.run(path)).requests == 0, "the new words are the job's now"


async def test_words_may_change_while_nothing_is_paid(bench: Bench) -> None:
    path = bench.write("a")
    await bench.run(path, PromptRules(service="ultra"), budget=0)
    assert (await bench.run(path)).ending == "complete"


async def test_images_of_the_sandbox_never_count_as_real(bench: Bench) -> None:
    path = bench.write("a")
    await bench.run(path, server="sandbox")
    for change in (False, True):
        with pytest.raises(JobChangedError, match="do not go into one job"):
            await bench.run(path, change=change)
    assert len(bench.shop.asked) == 1


@pytest.mark.parametrize("server", [None, "sandbox"])
async def test_options_are_known_under_their_earlier_name(bench: Bench, server: str | None) -> None:
    """Otherwise a forgotten `--set` buys the job of an earlier version again."""
    path = bench.write("a")
    await bench.run(path, PromptRules(set={"aspect_ratio": "16:9"}), server=server)
    execute(bench.out / "job.sqlite", "UPDATE job SET name = 'begun' WHERE name = 'options'")
    with pytest.raises(JobChangedError, match="other options" if server is None else "sandbox"):
        await bench.run(path)
    found = read_options(bench.out)
    assert found is not None
    assert found[0].set == {"aspect_ratio": "16:9"}
    assert len(bench.shop.asked) == 1


async def test_a_job_continues_as_it_was_started(bench: Bench) -> None:
    path = bench.write("a", {"id": "x", "prompt": "b"})
    rules = PromptRules(set={"aspect_ratio": "16:9"}, vary={"seed": ("1", "2")})
    await bench.run(path, rules, budget=3)
    found = read_options(bench.out)
    assert found is not None
    options, images = found
    assert images is None
    prompts = options.prompt_file()
    assert prompts is not None
    assert options == replace(
        JobOptions.of(prompts, options.rules(), server=bench.shop.url), budget=3.0
    )
    settings = JobSettings(folder=bench.out)
    async with bench.client() as client:
        summary = await Job(settings, prompts, options.rules()).run(client)
    assert (summary.ending, summary.done, summary.skipped) == ("complete", 3, 1)
    path.unlink()
    async with bench.client() as client:
        summary = await Job(settings, None, options.rules()).run(client)
    assert (summary.ending, summary.skipped) == ("complete", 4)


async def test_a_folder_without_a_job_cannot_go_on(bench: Bench) -> None:
    async with bench.client() as client:
        with pytest.raises(JobError, match="name its prompts"):
            await Job(JobSettings(folder=bench.out), None, PromptRules()).run(client)


# Files that are missing, filtered images, failures.


async def test_missing_files_are_named_and_made_anew_only_when_asked_for(bench: Bench) -> None:
    path = bench.write("a", "b", "c")
    await bench.run(path)
    names = sorted(line["file_name"] for line in bench.lines())
    (bench.out / names[1]).unlink()
    async with bench.client() as client:
        job = bench.job(path)
        summary = await job.run(client)
    assert (summary.ending, summary.missing, summary.requests) == ("incomplete", 1, 0)
    [note] = [note for note in job.notes if "missing" in note]
    assert names[1] in note
    assert "3 credits" in note
    summary = await bench.run(path, PromptRules(limit=1), remake_missing=True)
    assert (summary.ending, summary.missing) == ("complete", 0), "the row is beyond the limit"
    assert (await bench.run(path)).missing == 1
    summary = await bench.run(path, remake_missing=True)
    assert (summary.ending, summary.missing, summary.done) == ("complete", 0, 1)
    assert summary.spent == 12.0
    check_job(bench.out, 3)
    shutil.rmtree(bench.out / "images")
    assert (await bench.run(path)).missing == 3


async def test_filtered_images_are_made_anew_with_another_seed(bench: Bench) -> None:
    bench.shop.script = {"a": ["filtered"], "b": ["filtered"]}
    path = bench.write("a", {"id": "b", "prompt": "b", "seed": 5}, "c")
    await bench.run(path)
    before = {line["text"]: line for line in bench.lines()}
    async with bench.client() as client:
        job = bench.job(path, retry="filtered")
        summary = await job.run(client)
    assert (summary.ending, summary.done, summary.filtered) == ("complete", 2, 0)
    assert any("2 filtered images" in note and "6 credits" in note for note in job.notes)
    after = {line["text"]: line for line in bench.lines()}
    assert after["b"]["seed"] == derive_seed("b", 1, 1)
    assert after["a"]["seed"] != before["a"]["seed"]
    assert after["c"] == before["c"]
    assert len([*(bench.out / "replaced").iterdir()]) == 2
    assert summary.spent == 15.0
    assert (await bench.run(path)).requests == 0


async def test_remakes_are_known_and_have_new_seeds_though_the_ledger_is_lost(
    bench: Bench,
) -> None:
    """A row that names its seed has not changed, and no seed that was filtered is bought again."""
    first, second = {"id": "a", "prompt": "a"}, {"id": "b", "prompt": "b", "seed": 5}
    bench.shop.script = {one: ["filtered"] * 3 for one in "ab"}
    path = bench.write(first, second)
    await bench.run(path)
    for remake in (1, 2, 3):
        for file in bench.out.glob("job.sqlite*"):
            file.unlink()
        assert (await bench.run(path)).requests == 0
        summary = await bench.run(path, retry="filtered")
        assert summary.requests == 2
        seeds = {line["id"]: line["seed"] for line in bench.lines()}
        assert seeds == {one: derive_seed(one, 1, remake) for one in "ab"}
    assert (await bench.run(path)).ending == "complete"
    assert set(bench.shop.sold.values()) == {1}


async def test_every_failure_is_in_a_file_that_each_run_writes_anew(bench: Bench) -> None:
    bench.shop.script = {f"p{n}": [400] for n in range(30)}
    bench.shop.script |= {"d": ["drop"], "f": ["filtered"], "g": [500] * 4}
    path = bench.write(*(f"p{n}" for n in range(30)), "d", "f", "g", "good")
    await bench.run(path)
    lines = [json.loads(line) for line in (bench.out / "failures.jsonl").read_text().splitlines()]
    states = {line["text"]: line["state"] for line in lines}
    assert states == {
        **{f"p{n}": "failed" for n in range(30)}, "d": "in doubt", "f": "filtered", "g": "again",
    }  # fmt: skip
    assert {line["credits_in_doubt"] for line in lines} == {0.0, 3.0}
    await bench.run(path, retry="failed", resend_doubtful=True)
    [line] = (bench.out / "failures.jsonl").read_text().splitlines()
    assert json.loads(line)["text"] == "f"


async def test_what_was_spent_is_one_number_wherever_it_is_told(bench: Bench) -> None:
    """Of the ledger: with what was replaced, is in doubt, failed, or is no longer in the file."""
    bench.shop.script = {"a": ["filtered"], "b": [400], "c": ["drop"]}
    await bench.run(bench.write("a", "b", "c", "d", "e"))
    path = bench.write("a", "b", "c", "d")
    summary = await bench.run(path, retry="filtered", resend_doubtful=True)
    told = {(summary.spent, summary.credits_in_doubt)}
    status = job_status(bench.out)
    told.add((status.spent, status.credits_in_doubt))
    page = write_report(bench.out).read_text()
    [spent] = re.findall(r'"credits":([\d.]+)', page)
    [in_doubt] = re.findall(r'"credits_in_doubt":([\d.]+)', page)
    told.add((float(spent), float(in_doubt)))
    [spending] = json.loads(re.findall(r'"spending":(\[\[.*?\]\])', page)[0])
    told.add((spending[3], spending[4]))
    assert told == {(15.0, 3.0)}
    assert bench.shop.sold.total() * 3.0 == 18.0
    again = await bench.run(path, budget=18.0)
    assert (again.credits, again.spent, again.ending) == (0.0, 15.0, "incomplete")


# The lock, and what the dead leave behind.


async def test_a_lock_that_is_a_link_is_not_followed(bench: Bench) -> None:
    precious = bench.folder / "precious"
    precious.write_text("thesis")
    bench.out.mkdir()
    (bench.out / ".lock").symlink_to(precious)
    with pytest.raises(JobError, match="symbolic link"):
        await bench.run(bench.write("a"))
    (bench.out / ".lock").unlink()
    os.link(precious, bench.out / ".lock")
    with pytest.raises(JobError, match="not the lock of a job"):
        await bench.run(bench.write("a"))
    assert precious.read_text() == "thesis"


async def test_a_run_whose_lock_was_removed_sends_nothing_more(bench: Bench) -> None:
    """A second run may have got in: it would pay for the same rows."""
    bench.shop.script = {f"p{n}": ["slow"] for n in range(4)}
    path = bench.write(*(f"p{n}" for n in range(20)))
    async with bench.client() as client:
        running = asyncio.ensure_future(bench.job(path, max_in_flight=4).run(client))
        await bench.shop.wait_for(4)
        (bench.out / ".lock").unlink()
        with locked(bench.out):
            bench.shop.opened.set()
            summary = await running
    assert (summary.ending, summary.done, summary.requests) == ("stopped", 4, 4)
    assert ".lock was removed" in str(summary.error)


def test_only_temporary_files_of_owners_that_are_gone_are_removed(tmp_path: Path) -> None:
    place = tmp_path / "0000"
    place.mkdir()
    with owner(tmp_path) as token:
        mine = AtomicFile(place / "a.png", owner=token)
        mine.write([b"half"])
        dead = AtomicFile(place / "b.png", owner="0123456789abcdef")
        dead.write([b"half"])
        dead._close()
        (place / ".c.png.0123456789abcdef.part").write_bytes(b"of an older version")
        # A process that was killed leaves the file of its token, and not its lock.
        (tmp_path / ".0123456789abcdef.owner").write_bytes(b"")
        assert remove_left_over(tmp_path, [tmp_path, place]) == 2
        assert [path.name for path in place.iterdir()] == [Path(mine._temporary).name]
        mine.commit()
    assert [path.name for path in tmp_path.iterdir()] == ["0000"]
    assert (place / "a.png").read_bytes() == b"half"


async def test_half_written_files_go_though_the_ledger_was_lost_as_well(bench: Bench) -> None:
    path = bench.write("a", "b")
    await bench.run(path)
    left = bench.out / "images" / "0000" / ".000009-x.png.0123456789abcdef-0123456789abcdef.part"
    left.write_bytes(b"half")
    (bench.out / "job.sqlite").unlink()
    await bench.run(path)
    assert not left.exists()


# What is on the disk before what.


def test_every_commit_of_a_ledger_is_on_the_disk(tmp_path: Path) -> None:
    with closing(Ledger.open(tmp_path / "job.sqlite")) as ledger:
        [(level,)] = ledger._db.execute("PRAGMA synchronous").fetchall()
        [(mode,)] = ledger._db.execute("PRAGMA journal_mode").fetchall()
    assert (level, mode) == (2, "wal")


async def test_each_step_of_an_image_is_on_the_disk_before_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claim, request, bytes, sync, name, folder, ledger, line of metadata.jsonl."""
    steps: list[str] = []
    descriptors: dict[int, str] = {}
    open_, fsync, replace = os.open, os.fsync, os.replace

    def noting_open(path: Any, *rest: Any, **words: Any) -> int:
        descriptor = open_(path, *rest, **words)
        descriptors[descriptor] = str(path)
        return descriptor

    def noting_fsync(descriptor: int) -> None:
        name = descriptors.get(descriptor, "")
        if ".png." in name:
            steps.append("sync image")
        elif name.endswith("/images/0000"):
            steps.append("sync folder")
        fsync(descriptor)

    def noting_replace(source: Any, target: Any) -> None:
        if str(target).endswith(".png"):
            steps.append("rename")
        replace(source, target)

    commit, append = LedgerWriter._commit, MetadataFile.append

    def committed() -> str:
        """Return the state of the row as another connection sees it."""
        with closing(sqlite3.connect(bench.out / "job.sqlite")) as seen:
            [(state,)] = seen.execute("SELECT state FROM rows").fetchall()
        return str(state)

    def noting_commit(self: LedgerWriter, changes: Any) -> Any:
        results = commit(self, changes)
        if (state := committed()) not in steps:
            steps.append(state)
        return results

    def noting_append(self: MetadataFile, fresh: Any) -> None:
        if fresh:
            steps.append(f"line of a row that is {committed()}")
        append(self, fresh)

    path = bench.write("a")
    job = bench.job(path)
    monkeypatch.setattr(LedgerWriter, "_commit", noting_commit)
    monkeypatch.setattr(MetadataFile, "append", noting_append)
    monkeypatch.setattr(os, "open", noting_open)
    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    bench.shop.on_request = lambda: steps.append("request")
    async with bench.client() as client:
        await job.run(client)
    monkeypatch.undo()
    steps = [step for step in steps if step != "waiting"]
    assert steps == [
        "in flight",
        "request",
        "sync image",
        "rename",
        "sync folder",
        "line of a row that is done",
        "done",
    ]


async def test_a_claim_is_on_the_disk_before_its_request_leaves(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the disk takes."""
    claiming, gate = asyncio.Event(), asyncio.Event()
    do = LedgerWriter.do

    async def slow(self: LedgerWriter, change: Any) -> Any:
        if getattr(change, "func", None) is Ledger.claim:
            claiming.set()
            await gate.wait()
        return await do(self, change)

    monkeypatch.setattr(LedgerWriter, "do", slow)
    async with bench.client() as client:
        running = asyncio.ensure_future(bench.job(bench.write("a")).run(client))
        await claiming.wait()
        for _ in range(500):  # turns of the loop, in which the request would arrive
            await asyncio.sleep(0)
        assert bench.shop.asked == []
        gate.set()
        assert (await running).ending == "complete"


async def test_an_image_that_could_not_be_noted_may_have_cost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that other jobs that share the budget do not spend its price again."""
    settled: list[tuple[float, str]] = []
    do, settle = LedgerWriter.do, Budget.settle

    async def failing(self: LedgerWriter, change: Any) -> Any:
        if getattr(change, "func", None) is Ledger.settle:
            raise LedgerError("the ledger cannot be written: disk I/O error")
        return await do(self, change)

    def noting(self: Budget, price: float, charge: Any) -> None:
        settled.append((price, charge))
        settle(self, price, charge)

    monkeypatch.setattr(LedgerWriter, "do", failing)
    monkeypatch.setattr(Budget, "settle", noting)
    assert (await bench.run(bench.write("a"), budget=3.0)).ending == "stopped"
    assert bench.shop.sold.total() == 1
    assert settled == [(3.0, "in doubt")]


async def test_room_is_kept_for_images_that_are_on_their_way(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk does not show them yet."""
    size = len(shop_image("p", "10"))
    monkeypatch.setattr(budget, "ASSUMED_IMAGE", size)
    monkeypatch.setattr(
        folder_store.FolderStore, "free_space", lambda _: budget.DISK_MARGIN + 3 * size
    )
    bench.shop.latency = 0.01
    path = bench.write(*({"prompt": "p", "seed": seed} for seed in range(10, 30)))
    summary = await bench.run(path, max_in_flight=8)
    assert (summary.ending, summary.done) == ("complete", 20)
    assert bench.shop.most_in_shop <= 3


# Signals.


async def test_a_closed_terminal_ends_a_run_as_sigterm_does(bench: Bench) -> None:
    bench.shop.latency = 0.02
    path = bench.write(*(f"p{n}" for n in range(600)))
    torture = Torture(path, bench.out, bench.shop.url, Random(2), ("--max-in-flight", "5"))
    process = await torture.start()
    await bench.shop.wait_for(8)
    process.send_signal(signal.SIGHUP)
    await process.communicate()
    assert process.returncode == 130
    assert len(bench.lines()) == bench.shop.sold.total() < 600
    assert torture.bill() == (3.0 * bench.shop.sold.total(), 0.0)


async def test_a_sighup_that_was_ignored_at_the_start_stays_ignored(bench: Bench) -> None:
    """As under `nohup`."""
    bench.shop.latency = 0.02
    path = bench.write(*(f"p{n}" for n in range(30)))
    torture = Torture(path, bench.out, bench.shop.url, Random(2), ("--max-in-flight", "5"))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = await torture.start()
    finally:
        signal.signal(signal.SIGHUP, before)
    await bench.shop.wait_for(8)
    process.send_signal(signal.SIGHUP)
    await process.communicate()
    assert process.returncode == 0
    check_job(bench.out, 30)


async def test_a_process_that_was_stopped_for_a_while_loses_nothing(bench: Bench) -> None:
    bench.shop.latency = 0.02
    path = bench.write(*(f"p{n}" for n in range(60)))
    torture = Torture(path, bench.out, bench.shop.url, Random(2), ("--max-in-flight", "5"))
    process = await torture.start()
    for sold in (8, 20):
        await bench.shop.wait_for(sold)
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.2)
        process.send_signal(signal.SIGCONT)
    await process.communicate()
    assert process.returncode == 0
    check_job(bench.out, 60)
    assert torture.bill() == (180.0, 0.0)
    assert set(bench.shop.sold.values()) == {1}


# A ledger that is damaged or old.


async def test_a_flipped_bit_in_the_schema_is_kept_aside_and_rebuilt(bench: Bench) -> None:
    path = bench.write("a", "b", "c")
    await bench.run(path)
    ledger = bench.out / "job.sqlite"
    execute(ledger, "PRAGMA wal_checkpoint(TRUNCATE)")
    whole = ledger.read_bytes()
    random, rebuilt = Random(7), 0
    tables = [whole.index(f"CREATE TABLE {name}".encode()) for name in ("rows", "charges")]
    schema = min(tables), max(tables) + 400
    for number in range(24):
        out = bench.folder / "copy"
        shutil.copytree(bench.out, out)
        broken = bytearray(whole)
        place = random.randrange(*(schema if number % 2 else (100, len(whole))))
        broken[place] ^= 1 << random.randrange(8)
        (out / "job.sqlite").write_bytes(broken)
        summary = await bench.run(path, folder=out)
        assert summary.requests == 0, place
        rebuilt += bool([*out.glob("job.sqlite.corrupt-*")])
        shutil.rmtree(out)
    assert rebuilt > 5


async def test_an_old_ledger_buys_nothing_that_came_since(bench: Bench) -> None:
    bench.shop.latency = 0.001
    path = bench.write(*(f"p{n}" for n in range(30)))
    await bench.run(path, budget=30)
    copy = bench.folder / "copy.sqlite"
    execute(bench.out / "job.sqlite", "PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(bench.out / "job.sqlite", copy)
    await bench.run(path, budget=60)
    for suffix in ("-wal", "-shm"):
        (bench.out / f"job.sqlite{suffix}").unlink(missing_ok=True)
    shutil.copy(copy, bench.out / "job.sqlite")
    summary = await bench.run(path)
    assert (summary.ending, summary.done, summary.spent) == ("complete", 10, 90.0)
    assert set(bench.shop.sold.values()) == {1}


def test_a_text_that_no_database_takes_spoils_no_other_change(tmp_path: Path) -> None:
    with closing(Ledger.open(tmp_path / "job.sqlite")) as ledger:
        execute(tmp_path / "job.sqlite", "INSERT INTO rows (position, id, row, service, "
                "parameters, state) VALUES (1, 'a', 1, 'core', '{}', 'waiting')")  # fmt: skip
        [row] = ledger.rows("waiting")
        with ledger.transaction():
            ledger.claim(row)
            ledger.accept(row, "id \ud83d")
            ledger.settle(row, Result("again", "spent", reason="\udcff", error="\ud83d torn"))
        [row] = ledger.rows("again")
        assert row.generation_id == "id ?"


def test_a_lock_is_held_by_one_process(tmp_path: Path) -> None:
    with locked(tmp_path) as lock:
        descriptor = os.open(lock.path, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
        lock.check()
        size = lock.path.stat().st_size
    assert lock.path.stat().st_size == size, "a lock is never truncated"


async def test_a_file_beside_an_image_is_not_taken_for_it(bench: Bench) -> None:
    """Trainers put captions beside images."""
    path = bench.write({"id": "x", "prompt": "a", "seed": 1})
    await bench.run(path)
    [image] = bench.images()
    for suffix in (".txt", ".caption", ".npz"):
        image.with_suffix(suffix).write_text("a caption")
    image.with_suffix(".webp").mkdir()
    for name in ("job.sqlite", "metadata.jsonl"):
        (bench.out / name).unlink()
    summary = await bench.run(path)
    assert (summary.ending, summary.requests) == ("complete", 0)
    [line] = bench.lines()
    assert bench.out / line["file_name"] == image
    assert line["sha256"] == hashlib.sha256(shop_image("a", "1")).hexdigest()
