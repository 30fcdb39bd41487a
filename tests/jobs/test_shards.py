"""Parts of one job on several machines: `--shard I/N`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stable_async import Quota, SharedQuota
from stable_async.datasets import export_job
from stable_async.errors import ConfigurationError
from stable_async.jobs import JobError, PromptFileError, PromptRules
from stable_async.jobs.budget import Budget
from stable_async.jobs.redis_budget import RedisBudget
from stable_async.jobs.shard import Shard
from tests import needs
from tests.machines.servers import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stable_async.jobs import Summary
    from tests.jobs.conftest import Bench
    from tests.machines.servers import Server

obstore = needs.module("obstore")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("redis")) as server:
        yield server


ROWS: list[str | dict[str, Any]] = [
    "a", "b", "a", {"id": "x", "prompt": "c"}, "a", {"prompt": "d", "seed": 5}, "b", "e", "f", "a",
]  # fmt: skip


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


async def made(bench: Bench, path: Path, count: int, **settings: object) -> list[dict[str, Any]]:
    """Run all parts of a job, each in a folder of its own; return what they made."""
    found = []
    for index in range(1, count + 1):
        folder = bench.folder / f"{count}-{index}"
        rules = PromptRules(shard=Shard(index, count))
        summary = await bench.run(path, rules, folder=folder, **settings)
        assert summary.ending == "complete"
        found += lines(folder)
    return found


def named(rows: list[dict[str, Any]]) -> dict[str, tuple[object, ...]]:
    return {row["file_name"]: (row["id"], row["text"], row["seed"], row["credits"]) for row in rows}


@pytest.mark.parametrize("count", [2, 3, 16])
async def test_names_ids_seeds_and_prices_are_those_of_the_whole_file(
    bench: Bench, count: int
) -> None:
    path = bench.write(*ROWS)
    whole = named(await made(bench, path, 1))
    assert len(whole) == len(ROWS)
    assert named(await made(bench, path, count)) == whole


async def test_a_part_has_every_nth_row_after_vary(bench: Bench) -> None:
    path = bench.write("a", "b", "c")
    rules = PromptRules(vary={"aspect_ratio": ("1:1", "16:9")}, shard=Shard(2, 4))
    await bench.run(path, rules)
    assert [(row["text"], row["aspect_ratio"]) for row in bench.lines()] == [
        ("a", "16:9"),
        ("c", "16:9"),
    ]


async def test_the_limit_and_a_sample_are_those_of_the_whole_job(bench: Bench) -> None:
    path = bench.write(*map(str, range(20)))
    total = 0
    for index in (1, 2, 3):
        rules = PromptRules(limit=10, sample=5, shard=Shard(index, 3))
        total += (await bench.run(path, rules, folder=bench.folder / str(index))).done
    assert total == 5
    assert {int(prompt) for prompt, _ in bench.shop.sold} <= set(range(10))


async def test_one_id_in_two_parts_is_refused_by_all(bench: Bench) -> None:
    rows = [{"id": f"x{number}", "prompt": "a"} for number in range(2_500)]
    rows[2_400]["id"] = "x1"
    path = bench.write(*rows)
    for index in (1, 2, 3):
        with pytest.raises(PromptFileError, match=r"row 2401: id: 'x1' is taken by row 2"):
            await bench.run(
                path, PromptRules(shard=Shard(index, 3)), folder=bench.folder / str(index)
            )
    assert bench.shop.asked == []


async def test_rows_may_be_added_at_the_end_and_nowhere_else(bench: Bench) -> None:
    """A row that moves may change its part, and be bought by two machines."""
    rules = [PromptRules(shard=Shard(index, 2)) for index in (1, 2)]
    folders = [bench.folder / "1", bench.folder / "2"]
    path = bench.write("a", "b", "c", "d")
    for rule, folder in zip(rules, folders, strict=True):
        await bench.run(path, rule, folder=folder)
    longer = bench.write("a", "b", "c", "d", "e", "f", name="longer.jsonl")
    moved = bench.write("new", "a", "b", "c", "d", "e", "f", name="moved.jsonl")
    for rule, folder in zip(rules, folders, strict=True):
        with pytest.raises(PromptFileError, match="new rows at the end of the file"):
            await bench.run(moved, rule, folder=folder)
        assert (await bench.run(longer, rule, folder=folder)).done == 1
    assert sorted(prompt for prompt, _ in bench.shop.sold) == list("abcdef")
    assert set(bench.shop.sold.values()) == {1}


async def test_parts_share_a_store_and_a_lost_part_is_made_anew_from_it(
    bench: Bench, tmp_path: Path
) -> None:
    url = (tmp_path / "images").as_uri()
    path = bench.write(*ROWS)
    bench.shop.script = {"e": ["drop"]}
    rules = [PromptRules(shard=Shard(index, 3)) for index in (1, 2, 3)]
    folders = [bench.folder / str(index) for index in (1, 2, 3)]
    summaries = await asyncio.gather(
        *(
            bench.run(path, rule, folder=folder, images=url)
            for rule, folder in zip(rules, folders, strict=True)
        )
    )
    assert sum(summary.done for summary in summaries) == len(ROWS) - 1
    bought = bench.shop.sold.copy()
    for rule, folder, before in zip(rules, folders, summaries, strict=True):
        shutil.rmtree(folder)
        after = await bench.run(path, rule, folder=folder, images=url)
        assert (after.total, after.skipped) == (before.total, before.done)
        assert (after.in_doubt, after.spent) == (before.in_doubt, before.spent)
    assert bench.shop.sold == bought
    store = obstore.store.from_url(url)
    names = [entry["path"] for some in obstore.list(store) for entry in some]
    assert sum(name.endswith(".png") for name in names) == len(ROWS) - 1


async def test_a_folder_and_a_store_belong_to_one_way_to_part_the_job(
    bench: Bench, tmp_path: Path
) -> None:
    url = (tmp_path / "images").as_uri()
    path = bench.write(*ROWS)
    await bench.run(path, PromptRules(shard=Shard(1, 2)), images=url)
    for other in (Shard(2, 2), Shard(1, 3), Shard()):
        with pytest.raises(JobError, match="part 1/2 of a job"):
            await bench.run(path, PromptRules(shard=other), images=url)
    for other in (Shard(1, 3), Shard()):
        with pytest.raises(JobError, match="the job there has 2 parts"):
            await bench.run(path, PromptRules(shard=other), images=url, folder=tmp_path / "new")
    await bench.run(path, PromptRules(shard=Shard(2, 2)), images=url, folder=tmp_path / "2")
    shutil.rmtree(tmp_path / "images")
    await bench.run(path, folder=tmp_path / "other job", images=url)
    with pytest.raises(JobError, match="the job there has 1 parts"):
        await bench.run(path, PromptRules(shard=Shard(1, 2)), images=url)


async def test_a_part_may_spend_its_share_of_the_budget(bench: Bench) -> None:
    path = bench.write(*map(str, range(20)))
    job = bench.job(path, PromptRules(shard=Shard(1, 2)), budget=18.0)
    async with bench.client() as client:
        summary = await job.run(client)
    assert (summary.ending, summary.done, summary.spent) == ("budget", 3, 9.0)
    assert "part 1/2 may spend 9 of the 18 credits of the job" in job.notes
    assert (job.left.rows, job.left.parts) == (7, 2)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2", "", "١/٤"])
def test_a_part_that_does_not_exist_is_refused_with_what_kubernetes_needs(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\$\(\(JOB_COMPLETION_INDEX\+1\)\)/N"):
        Shard.parse(text)


@given(st.integers(1, 50), st.integers(0, 200), st.integers(0, 500))
def test_parts_together_are_the_whole(count: int, things: int, after: int) -> None:
    parts = [Shard(index, count) for index in range(1, count + 1)]
    assert sum(part.share(things) for part in parts) == things
    for position in range(1, 100):
        owners = [part for part in parts if part.has(position)]
        assert owners == [parts[(position - 1) % count]]
    for part in parts:
        found = part.next_position(after)
        assert part.has(found)
        assert after < found <= after + count


async def test_the_parts_of_a_job_are_exported_as_one(bench: Bench, tmp_path: Path) -> None:
    """From their folders, from the store of their images alone, and from both."""
    url = (tmp_path / "images").as_uri()
    path = bench.write(*ROWS)
    kept_here = [bench.folder / f"3-{index}" for index in (1, 2, 3)]
    await made(bench, path, 3)
    kept_there = [bench.folder / f"2-{index}" for index in (1, 2)]
    await made(bench, path, 2, images=url)
    whole = bench.out
    await bench.run(path)
    sets = []
    sources: list[list[str | Path]] = [
        [whole], [*kept_here], [*kept_there], [url], [*kept_there, url], [kept_there[0], url],
    ]  # fmt: skip
    for number, source in enumerate(sources):
        target = tmp_path / f"set-{number}"
        summary = await asyncio.to_thread(export_job, source, target, "files")
        assert (summary.media, summary.damaged) == (len(ROWS), 0)
        lines = (target / "metadata.jsonl").read_text().splitlines()
        facts = [json.loads(line) for line in lines]
        sets.append({row["id"]: (row["text"], row["seed"], row["sha256"]) for row in facts})
    assert all(found == sets[0] for found in sets)


@pytest.mark.parametrize("which", ["the same twice", "two jobs", "another count", "no job"])
async def test_what_are_no_parts_of_one_job_is_refused(
    bench: Bench, which: str, tmp_path: Path
) -> None:
    path = bench.write("a", "b", "c")
    await made(bench, path, 2)
    await made(bench, path, 3)
    await bench.run(path)
    sources: dict[str, list[str | Path]] = {
        "the same twice": [bench.folder / "2-1", bench.folder / "2-1"],
        "two jobs": [bench.out, bench.folder / "2-1"],
        "another count": [bench.folder / "2-1", bench.folder / "3-2"],
        "no job": [tmp_path.as_uri()],
    }
    with pytest.raises(JobError, match=r"not parts of one job|has no images of a job"):
        await asyncio.to_thread(export_job, sources[which], tmp_path / "set", "files")


async def test_a_folder_from_elsewhere_cannot_have_other_files_exported(
    bench: Bench, tmp_path: Path
) -> None:
    """Its ledger may name any place: only the job's own folder and store are read."""
    path = bench.write(*"abcde")
    await bench.run(path)
    secret = tmp_path / "private" / "secret.png"
    secret.parent.mkdir()
    names = sorted(file.relative_to(bench.out) for file in bench.out.glob("images/*/*"))
    data = (bench.out / names[0]).read_bytes()
    secret.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    (bench.out / names[1]).unlink()
    (bench.out / names[1]).symlink_to(secret)
    (bench.out / "link").symlink_to(secret.parent)
    claims = [secret.as_uri(), names[1].as_posix(), "link/secret.png", "../private/secret.png"]
    with sqlite3.connect(bench.out / "job.sqlite") as ledger:
        for position, name in enumerate(claims, 1):
            ledger.execute(
                "UPDATE images SET file_name = ?, sha256 = ? WHERE position = ?",
                (name, digest, position),
            )
        for name, value in (("images", secret.parent.as_uri()), ("job_id", "x")):
            ledger.execute("INSERT OR REPLACE INTO job VALUES (?, ?)", (name, value))
    ledger.close()
    summary = await asyncio.to_thread(export_job, bench.out, tmp_path / "set", "files")
    assert (summary.media, summary.damaged) == (1, 4)


async def test_the_parts_share_one_budget_in_redis(
    bench: Bench, redis: Server, tmp_path: Path
) -> None:
    """A part that finds nothing to do leaves its share to the others."""
    url = (tmp_path / "images").as_uri()
    path = bench.write(*map(str, range(40)))
    generous = Quota(requests=10_000, window=0.5)
    quota = SharedQuota.redis(redis.url, tmp_path.name, generous)
    bench.shop.script = {"3": ["drop"], "4": [500, 500]}

    async def run(index: int) -> Summary:
        async with bench.client(quota=quota) as client:
            return await bench.job(
                path,
                PromptRules(shard=Shard(index, 3), limit=None if index == 1 else 12),
                folder=bench.folder / str(index),
                images=url,
                budget=45.0,
                max_in_flight=4,
            ).run(client)

    summaries = [await run(2)]
    summaries += await asyncio.gather(run(1), run(3))
    spent = sum(summary.spent + summary.credits_in_doubt for summary in summaries)
    assert spent == 45.0
    assert "budget" in {summary.ending for summary in summaries}
    assert 3 * sum(bench.shop.sold.values()) <= 45
    again = await run(1)
    assert (again.ending, again.requests) == ("budget", 0)


async def test_a_budget_that_redis_has_lost_leaves_each_part_its_share(
    redis: Server,
) -> None:
    homes = [RedisBudget(redis.url, "lost", Shard(index, 2)) for index in (1, 2)]
    budgets = [Budget(20.0, shared=home, share=10.0) for home in homes]
    assert await budgets[0].reserve(8.0)
    assert await budgets[1].reserve(8.0)
    assert not await homes[1].hold(13.0, 20.0, 8.0)
    with redis.client() as client:
        client.delete("{stable_async:lost}:budget")
    assert not await asyncio.wait_for(_tried(budgets[1], 4.0), 10)
    assert homes[1].lost
    assert await budgets[1].reserve(2.0)
    for home in homes:
        await home.aclose()


async def _tried(budget: Budget, price: float) -> bool:
    budget.settle(8.0, "spent")
    return await budget.reserve(price)
