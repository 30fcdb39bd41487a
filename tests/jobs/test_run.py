"""Jobs from beginning to end, against a shop that records its own charges."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import resource
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stable_async import ConfigurationError, Quota
from stable_async.jobs import (
    JobError,
    JobLockedError,
    JobSettings,
    PromptFile,
    PromptFileError,
    PromptRules,
)
from stable_async.jobs.estimate import estimate_run
from stable_async.jobs.events import JobEvents
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.lock import locked
from stable_async.jobs.row import derive_seed
from tests.jobs.shop import shop_image
from tests.samples import sample_image

if TYPE_CHECKING:
    from stable_async.jobs.row import Result, Row
    from tests.jobs.conftest import Bench

pytestmark = pytest.mark.usefixtures("nothing_leaks")


async def test_a_run_that_is_refused_leaves_no_new_job(bench: Bench) -> None:
    wrong = bench.write({"prompt": "a", "seed": "x"})
    with pytest.raises(PromptFileError):
        await bench.run(wrong)
    assert not bench.out.exists()
    bench.out.mkdir()
    with pytest.raises(PromptFileError):
        await bench.run(wrong)
    assert not [*bench.out.iterdir()], "the folder is the user's"
    assert (await bench.run(bench.write("a"))).done == 1
    before = {path.name for path in bench.out.iterdir()}
    with pytest.raises(PromptFileError):
        await bench.run(bench.write({"prompt": "a", "seed": "x"}))
    assert {path.name for path in bench.out.iterdir()} | {".job.sqlite.clean"} == before


async def test_every_prompt_becomes_a_file_and_a_line_that_describes_it(bench: Bench) -> None:
    path = bench.write(
        {"id": "light", "prompt": "a lighthouse", "seed": 7, "aspect_ratio": "16:9"}, "a fox"
    )
    summary = await bench.run(path)
    assert (summary.ending, summary.total, summary.done) == ("complete", 2, 2)
    assert (summary.credits, summary.requests) == (6.0, 2)
    lines = {line["text"]: line for line in bench.lines()}
    light = lines["a lighthouse"]
    data = shop_image("a lighthouse", "7")
    assert (bench.out / light["file_name"]).read_bytes() == data
    assert light == {
        "file_name": "images/0000/000001-light.png",
        "id": "light",
        "text": "a lighthouse",
        "service": "core",
        "aspect_ratio": "16:9",
        "seed": 7,
        "finish_reason": "SUCCESS",
        "sha256": hashlib.sha256(data).hexdigest(),
        "width": 76,
        "height": 64,
        "credits": 3.0,
        "request_id": light["request_id"],
    }
    assert len(bench.images()) == 2


async def test_a_second_run_sends_nothing_and_skips_all(bench: Bench) -> None:
    path = bench.write("a", "b", "c")
    await bench.run(path)
    again = await bench.run(path)
    assert (again.ending, again.done, again.skipped, again.requests) == ("complete", 0, 3, 0)
    assert len(bench.shop.asked) == 3


async def test_a_row_without_seed_has_one_in_the_ledger_before_it_is_sent(bench: Bench) -> None:
    bench.shop.script["a"] = ["slow"]
    path = bench.write("a")
    async with bench.client() as client:
        running = asyncio.ensure_future(bench.job(path).run(client))
        await bench.shop.wait_for(1)
        with sqlite3.connect(bench.out / "job.sqlite") as ledger:
            state, seed = ledger.execute("SELECT state, seed FROM rows").fetchone()
        ledger.close()
        assert (state, str(seed)) == ("in flight", bench.shop.forms[0]["seed"])
        bench.shop.opened.set()
        await running
    assert bench.lines()[0]["seed"] == seed


@pytest.mark.parametrize("status", [400, 403, 422])
async def test_a_refusal_is_final_and_told(bench: Bench, status: int) -> None:
    bench.shop.script["bad"] = [status]
    path = bench.write("good", "bad")
    async with bench.client() as client:
        job = bench.job(path)
        summary = await job.run(client)
    assert (summary.ending, summary.done, summary.failed) == ("incomplete", 1, 1)
    [(_, row, error)] = job.refused
    assert row == 2
    assert error is not None
    assert error.startswith(str(status))
    assert bench.shop.asked.count("bad") == 1
    again = await bench.run(path)
    assert (again.ending, again.requests, again.failed) == ("incomplete", 0, 1)
    retried = await bench.run(path, retry="failed")
    assert (retried.ending, retried.done) == ("complete", 1)


@pytest.mark.parametrize("what", ["drop", "cut"])
async def test_what_broke_on_the_way_is_in_doubt_and_sent_again_only_when_asked_for(
    bench: Bench, what: str
) -> None:
    bench.shop.script["a"] = [what]
    path = bench.write("a", "b")
    for _ in range(2):
        summary = await bench.run(path, passes=9)
        assert (summary.ending, summary.in_doubt, summary.failed) == ("incomplete", 1, 0)
        assert (summary.spent, summary.credits_in_doubt) == (3.0, 3.0)
        assert sorted(bench.shop.asked) == ["a", "b"]
    summary = await bench.run(path, resend_doubtful=True)
    assert (summary.ending, summary.done, summary.in_doubt) == ("complete", 1, 0)
    assert (summary.spent, summary.credits_in_doubt) == (6.0, 3.0), "both charges stand"
    assert sorted(bench.shop.asked) == ["a", "a", "b"]
    assert len(bench.shop.sold) == 2, "the same seed both times"
    assert len(bench.images()) == 2


async def test_a_new_doubt_waits_for_the_next_run_that_sends_doubtful_rows(bench: Bench) -> None:
    bench.shop.script |= {"a": ["drop", "drop"], "b": ["drop"]}
    path = bench.write("a")
    await bench.run(path)
    path = bench.write("a", "b")
    summary = await bench.run(path, resend_doubtful=True, passes=9)
    assert (summary.ending, summary.in_doubt) == ("incomplete", 2)
    assert (summary.spent, summary.credits_in_doubt) == (0.0, 9.0)
    assert sorted(bench.shop.asked) == ["a", "a", "b"]


async def test_a_doubtful_row_whose_second_attempt_was_refused_stays_in_doubt(
    bench: Bench,
) -> None:
    """It may still be billed: only the user can say that it is sent once more."""
    bench.shop.script["a"] = ["drop", 500, 500]
    path = bench.write("a")
    await bench.run(path)
    for settings in ({"resend_doubtful": True}, {}, {"passes": 5}):
        summary = await bench.run(path, **settings)
        assert (summary.ending, summary.in_doubt, summary.again) == ("incomplete", 1, 0)
        assert len(bench.shop.asked) == 3
        assert summary.credits_in_doubt == 3.0


async def test_passes_bound_how_often_what_was_not_billed_is_sent(bench: Bench) -> None:
    bench.shop.script["a"] = [500] * 18
    summary = await bench.run(bench.write("a"), passes=3)
    assert (summary.ending, summary.again, len(bench.shop.asked)) == ("incomplete", 1, 6)
    later = await bench.run(bench.write("a"), passes=1)
    assert later.again == 1
    assert len(bench.shop.asked) == 8, "a later run takes it up by itself"


async def test_exhausted_retries_are_tried_again_and_were_not_billed(bench: Bench) -> None:
    bench.shop.script["a"] = [500, 500]
    summary = await bench.run(bench.write("a"))
    assert (summary.ending, summary.requests, summary.credits_in_doubt) == ("complete", 3, 0)


async def test_a_filtered_image_is_kept_and_is_no_success(bench: Bench) -> None:
    bench.shop.script["a"] = ["filtered"]
    path = bench.write("a", "b")
    summary = await bench.run(path)
    assert (summary.ending, summary.done, summary.filtered) == ("incomplete", 1, 1)
    assert summary.credits == 6.0
    [line] = [line for line in bench.lines() if line["text"] == "a"]
    assert line["finish_reason"] == "CONTENT_FILTERED"
    assert line["file_name"].endswith(".filtered.png")
    again = await bench.run(path, retry="failed")
    assert (again.requests, again.filtered, again.skipped) == (0, 1, 1)


@pytest.mark.parametrize("status", [401, 402])
async def test_trouble_with_the_account_stops_the_job_and_keeps_what_is_in_flight(
    bench: Bench, status: int
) -> None:
    bench.shop.script |= {"a": ["slow"], "b": [status]}
    path = bench.write("a", "b", *(f"later {n}" for n in range(20)))
    async with bench.client() as client:
        running = asyncio.ensure_future(bench.job(path, max_in_flight=2).run(client))
        await bench.shop.wait_for(2)
        while bench.shop.in_shop > 1:
            await asyncio.sleep(0.001)
        bench.shop.opened.set()
        summary = await running
    assert summary.ending == "stopped"
    assert str(status) in str(summary.error)
    assert summary.done >= 1
    assert len(bench.shop.asked) <= 4
    assert summary.failed == 0
    assert (await bench.run(path)).ending == "complete"
    assert set(bench.shop.sold.values()) == {1}


async def test_an_interrupted_job_brings_in_what_is_in_flight_and_sends_nothing_more(
    bench: Bench,
) -> None:
    prompts = [f"p{n}" for n in range(30)]
    bench.shop.script = {prompt: ["slow"] for prompt in prompts}
    path = bench.write(*prompts)
    async with bench.client() as client:
        job = bench.job(path, max_in_flight=5)
        running = asyncio.ensure_future(job.run(client))
        await bench.shop.wait_for(5)
        job.interrupt()
        bench.shop.opened.set()
        summary = await running
    assert (summary.ending, summary.done, summary.failed) == ("interrupted", 5, 0)
    assert summary.peak_in_flight == 5
    assert len(bench.shop.asked) == 5
    assert (await bench.run(path)).done == 25
    assert set(bench.shop.sold.values()) == {1}


async def test_interrupting_at_any_moment_loses_nothing(bench: Bench) -> None:
    path = bench.write(*(f"p{n}" for n in range(8)))
    endings = set()
    for moment in range(30):
        bench.shop.sold.clear()
        out = bench.folder / str(moment)
        async with bench.client() as client:
            job = bench.job(path, folder=out, max_in_flight=4)
            running = asyncio.ensure_future(job.run(client))
            while job.progress.phase in {"opening", "checking"}:
                await asyncio.sleep(0.001)
            while job.progress.requests < moment % 9 and not running.done():
                await asyncio.sleep(0)
            for _ in range(moment):
                await asyncio.sleep(0)
            job.interrupt()
            summary = await running
        endings.add(summary.done)
        assert sum(bench.shop.sold.values()) == summary.done == summary.requests
        assert (await bench.run(path, folder=out)).skipped == summary.done
        assert set(bench.shop.sold.values()) == {1}
    assert len(endings) > 2, "the moments were not spread over the run"


async def test_interrupting_does_not_wait_for_requests_that_the_quota_holds_back(
    bench: Bench,
) -> None:
    bench.shop.script = {f"p{n}": ["slow"] for n in range(2)}
    path = bench.write(*(f"p{n}" for n in range(10)))
    async with bench.client(quota=Quota(requests=2, window=1000.0)) as client:
        job = bench.job(path)
        running = asyncio.ensure_future(job.run(client))
        await bench.shop.wait_for(2)
        for _ in range(3):  # once is enough, and more often does no harm
            job.interrupt()
            await asyncio.sleep(0)
        bench.shop.opened.set()
        async with asyncio.timeout(10):
            summary = await running
    assert (summary.ending, summary.done, summary.requests) == ("interrupted", 2, 2)


async def test_interrupting_does_not_wait_for_the_end_of_a_penalty(bench: Bench) -> None:
    """What was in flight and is answered 429 after the interrupt does not leave any more."""
    bench.shop.script = {"a": ["slow 429"]}
    path = bench.write("a")
    async with bench.client(quota=Quota(penalty=1000.0)) as client:
        job = bench.job(path)
        running = asyncio.ensure_future(job.run(client))
        await bench.shop.wait_for(1)
        job.interrupt()
        bench.shop.opened.set()
        async with asyncio.timeout(10):
            summary = await running
    assert (summary.ending, summary.done, summary.rate_limited) == ("interrupted", 0, 1)
    assert (await bench.run(path)).ending == "complete"


async def test_what_was_refused_and_waits_is_not_on_its_way(bench: Bench) -> None:
    bench.shop.script = {"a": ["slow 429"]}
    async with bench.client(quota=Quota(penalty=1000.0)) as client:
        job = bench.job(bench.write("a"))
        running = asyncio.ensure_future(job.run(client))
        await bench.shop.wait_for(1)
        assert job.progress.in_flight == 1
        bench.shop.opened.set()
        while not job.progress.rate_limited:
            await asyncio.sleep(0.001)
        assert job.progress.in_flight == 0
        job.interrupt()
        await running


async def test_429_stops_nobody_and_is_counted(bench: Bench) -> None:
    bench.shop.script["a"] = [429]
    path = bench.write("a", "b")
    async with bench.client(quota=Quota(penalty=0.01)) as client:
        summary = await bench.job(path).run(client)
    assert (summary.ending, summary.rate_limited, summary.requests) == ("complete", 1, 3)


async def test_a_server_that_is_not_there_ends_the_job_at_once(bench: Bench) -> None:
    path = bench.write(*(f"p{n}" for n in range(50)))
    async with bench.client(url="http://127.0.0.1:9") as client:
        summary = await bench.job(path, outage_limit=60.0).run(client)
    assert (summary.ending, summary.failed, summary.requests) == ("stopped", 0, 0)
    assert "cannot connect" in str(summary.error)
    assert (await bench.run(path)).done == 50
    with contextlib.closing(sqlite3.connect(bench.out / "job.sqlite")) as ledger:
        [(left,)] = ledger.execute("SELECT sum(requests) FROM departures").fetchall()
    assert left == 50


async def test_a_job_waits_for_a_server_that_was_there(bench: Bench) -> None:
    """Requests that never left cost nothing: they are tried again until the server is back."""
    shop = bench.shop
    shop.keep_alive = False
    shop.script["p1"] = ["slow"]
    path = bench.write(*(f"p{n}" for n in range(6)))
    async with bench.client() as client:
        job = bench.job(path, max_in_flight=1, outage_limit=60.0)
        running = asyncio.ensure_future(job.run(client))
        await shop.wait_for(2)
        await shop.close_door()
        shop.opened.set()
        while job.progress.done < 2:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        assert not running.done()
        await shop.open_door()
        summary = await running
    assert (summary.ending, summary.done, summary.failed) == ("complete", 6, 0)
    assert (summary.requests, summary.in_doubt) == (6, 0)


async def test_prompts_that_are_wrong_are_told_all_together_and_nothing_is_sent(
    bench: Bench,
) -> None:
    path = bench.folder / "bad.jsonl"
    path.write_text(
        '{"prompt": "fine"}\n'
        '{"prompt": ""}\n'
        "nonsense\n"
        '{"prompt": "x", "aspect_ratio": "7:7"}\n'
        '{"prompt": "x", "colour": "red"}\n'
        '{"prompt": "x", "id": "one"}\n'
        '{"prompt": "y", "id": "one"}\n'
        '{"prompt": "x", "service": "oil"}\n'
        '{"service": "erase", "image": "none.png"}\n'
        f'{{"prompt": "{"x" * 10001}"}}\n'
        "[1]\n"
        '{"prompt": "\\ud800"}\n'
        '{"prompt": "x", "metadata": {"score": NaN}}\n'
        '{"prompt": "x", "metadata": {"score": 1e999}}\n'
    )
    with pytest.raises(PromptFileError) as caught:
        await bench.run(path)
    rows = {problem.row: problem.text for problem in caught.value.problems}
    assert sorted(rows) == [2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14]
    assert rows[2] == "prompt: required, not given; allowed: text of up to 10000 characters"
    assert "JSON" in rows[3]
    assert "16:9" in rows[4]
    assert "colour" in rows[5]
    assert "row 6" in rows[7]
    assert "core" in rows[8]
    assert "no such file" in rows[9]
    assert "not valid JSON: NaN" in rows[13]
    assert "not a finite number" in rows[14]
    assert bench.shop.asked == []
    assert (await bench.run(bench.write("fine"))).ending == "complete"


async def test_a_job_raises_its_limit_of_open_files_or_says_that_it_cannot(bench: Bench) -> None:
    """An image that comes when no file can be opened is paid for, and lost."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    path = bench.write("a")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, before[1]))
        assert (await bench.run(path, max_in_flight=256)).ending == "complete"
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 400
        with pytest.raises(JobError, match=rf"max_in_flight is {2**40}, .* may have {before[1]};"):
            await bench.run(path, max_in_flight=2**40)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_job_is_run_once_and_with_an_open_client(bench: Bench) -> None:
    path = bench.write("a", "b")
    summary = await bench.job(path).run(bench.client())
    assert (summary.ending, summary.failed) == ("stopped", 0)
    assert "not open" in str(summary.error)
    async with bench.client() as client:
        job = bench.job(path)
        assert (await job.run(client)).done == 2
        with pytest.raises(ConfigurationError, match="another one"):
            await job.run(client)


async def test_a_cancellation_that_was_swallowed_before_ends_no_job(bench: Bench) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    assert (await bench.run(bench.write("a"))).ending == "complete"
    task.uncancel()


async def test_giving_up_twice_waits_for_what_is_being_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the lock is free, and the ledger closed, while a thread still writes it."""
    committing, go_on = threading.Event(), threading.Event()
    claim = Ledger.claim

    def slow(ledger: Ledger, row: Row) -> None:
        committing.set()
        assert go_on.wait(10)
        claim(ledger, row)

    monkeypatch.setattr(Ledger, "claim", slow)
    async with bench.client() as client:
        running = asyncio.ensure_future(bench.job(bench.write("a")).run(client))
        await asyncio.to_thread(committing.wait, 10)
        for _ in range(5):
            running.cancel()
            await asyncio.sleep(0.01)
        with pytest.raises(JobLockedError), locked(bench.out):
            pass
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await running
    with locked(bench.out):
        assert not [one for one in threading.enumerate() if one.name in {"ledger", "images"}]


async def test_a_job_is_worked_on_by_one_process_at_a_time(bench: Bench) -> None:
    import os

    bench.shop.script["a"] = ["slow"]
    path = bench.write("a")
    async with bench.client() as client:
        running = asyncio.ensure_future(bench.job(path).run(client))
        await bench.shop.wait_for(1)
        with pytest.raises(JobLockedError, match=str(os.getpid())):
            await bench.job(path).run(client)
        bench.shop.opened.set()
        await running
    assert len(bench.shop.asked) == 1


async def test_rows_may_move_come_and_go_without_being_made_again(bench: Bench) -> None:
    await bench.run(bench.write("a", "b", "b", "c"))
    path = bench.write("new", "c", "b", "a", "b")
    async with bench.client() as client:
        job = bench.job(path)
        summary = await job.run(client)
    assert (summary.total, summary.done, summary.skipped) == (5, 1, 4)
    assert job.estimate is not None
    assert job.estimate.gone == 0
    path = bench.write("c", {"prompt": "d", "id": "d"})
    async with bench.client() as client:
        job = bench.job(path)
        summary = await job.run(client)
    assert (summary.total, summary.done, summary.skipped) == (2, 1, 1)
    assert job.estimate is not None
    assert (job.estimate.gone, job.estimate.there, job.estimate.new) == (4, 1, 1)
    assert len(bench.lines()) == 6


async def test_a_row_that_is_gone_is_not_sent(bench: Bench) -> None:
    bench.shop.script["b"] = ["drop"] * 2
    await bench.run(bench.write("a", "b"))
    summary = await bench.run(bench.write("a"))
    assert (summary.ending, summary.total, summary.requests) == ("complete", 1, 0)


async def test_changed_content_under_an_id_is_refused_unless_it_is_to_be_replaced(
    bench: Bench,
) -> None:
    await bench.run(bench.write({"id": "x", "prompt": "old"}, {"id": "y", "prompt": "same"}))
    [old] = [line for line in bench.lines() if line["id"] == "x"]
    path = bench.write({"id": "x", "prompt": "new"}, {"id": "y", "prompt": "same"})
    with pytest.raises(PromptFileError, match=r"row 1.*replace-changed"):
        await bench.run(path)
    summary = await bench.run(path, replace_changed=True)
    assert (summary.total, summary.done, summary.skipped) == (2, 1, 1)
    assert sorted((line["id"], line["text"]) for line in bench.lines()) == [
        ("x", "new"),
        ("y", "same"),
    ]
    assert not (bench.out / old["file_name"]).exists()
    kept = bench.out / "replaced" / Path(old["file_name"]).name
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == old["sha256"]


async def test_rows_under_other_ids_are_not_bought_again_unless_that_is_accepted(
    bench: Bench,
) -> None:
    """As after a column of ids was added."""
    await bench.run(bench.write({"prompt": "a", "seed": 7}, "b"))
    named: list[dict[str, object]] = [
        {"id": "1", "prompt": "a", "seed": 7},
        {"id": "2", "prompt": "b"},
        {"id": "3", "prompt": "c"},
    ]
    path = bench.write(*named)
    wrong = r"2 rows would be bought again, for 6 credits: .* under other ids.* --change"
    with pytest.raises(PromptFileError, match=wrong):
        estimate_run(PromptFile(path), PromptRules(), JobSettings(folder=bench.out))
    with pytest.raises(PromptFileError, match=wrong):
        await bench.run(path)
    assert bench.shop.sold.total() == 2
    summary = await bench.run(bench.write({"prompt": "a", "seed": 7}, "b", *named[1:]))
    assert summary.done == 2, "a row beside the one that is there is another"
    path = bench.write(*named)
    assert (await bench.run(path, change=True)).done == 1
    assert (await bench.run(path)).ending == "complete"


async def test_a_row_that_was_refused_may_be_corrected_under_its_id(bench: Bench) -> None:
    bench.shop.script["bad"] = [400]
    await bench.run(bench.write({"id": "x", "prompt": "bad"}))
    summary = await bench.run(bench.write({"id": "x", "prompt": "better"}))
    assert (summary.ending, summary.done) == ("complete", 1)


async def test_the_budget_of_all_runs_together_is_never_exceeded(bench: Bench) -> None:
    bench.shop.script["p1"] = [500, 500]
    path = bench.write(*(f"p{n}" for n in range(9)))
    summary = await bench.run(path, budget=13)
    assert (summary.ending, summary.credits) == ("budget", 12.0)
    assert sum(bench.shop.sold.values()) == 4
    again = await bench.run(path, budget=13)
    assert (again.ending, again.requests) == ("budget", 0)
    assert (await bench.run(path, budget=27)).ending == "complete"
    assert sum(bench.shop.sold.values()) == 9


async def test_a_row_that_does_not_fit_the_budget_stops_none_that_does(bench: Bench) -> None:
    """Those that wait for the quota have their price reserved."""
    path = bench.write("a", "b", "c", {"prompt": "dear", "service": "ultra"})
    async with bench.client(quota=Quota(requests=2, window=0.2, jitter=0.05)) as client:
        summary = await bench.job(path, budget=12.0).run(client)
    assert (summary.ending, summary.done, summary.credits) == ("budget", 3, 9.0)


async def test_a_ledger_that_fails_ends_a_run_that_waits_for_its_budget(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(Ledger, "settle", fail)
    async with asyncio.timeout(10):
        summary = await bench.run(bench.write("a", "b", "c"), budget=6.0)
    assert summary.ending == "stopped"
    assert "database is locked" in str(summary.error)


async def test_what_may_have_been_billed_counts_against_the_budget(bench: Bench) -> None:
    bench.shop.script["a"] = ["drop"]
    summary = await bench.run(bench.write("a", "b", "c"), budget=6)
    assert (summary.ending, summary.done, summary.in_doubt) == ("budget", 1, 1)
    assert sum(bench.shop.sold.values()) == 2


async def test_limit_makes_the_first_rows_and_a_later_run_the_others(bench: Bench) -> None:
    path = bench.write(*(f"p{n}" for n in range(5)))
    summary = await bench.run(path, PromptRules(limit=2))
    assert (summary.ending, summary.total, sorted(bench.shop.asked)) == (
        "complete",
        2,
        ["p0", "p1"],
    )
    summary = await bench.run(path)
    assert (summary.total, summary.done, summary.skipped) == (5, 3, 2)


async def test_set_and_vary_make_products(bench: Bench) -> None:
    path = bench.write("a", {"id": "b", "prompt": "b"})
    rules = PromptRules(
        set={"output_format": "png"},
        vary={"style_preset": ("anime", "cinematic"), "seed": ("1", "2")},
    )
    summary = await bench.run(path, rules)
    assert (summary.total, summary.done) == (8, 8)
    wanted = {(p, s, n) for p in "ab" for s in ("anime", "cinematic") for n in (1, 2)}
    assert {(line["text"], line["style_preset"], line["seed"]) for line in bench.lines()} == wanted
    assert "b[style_preset=anime,seed=1]" in {line["id"] for line in bench.lines()}
    assert (await bench.run(path, rules)).requests == 0


async def test_services_may_be_mixed_and_input_files_are_found_beside_the_prompts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (bench.folder / "in").mkdir()
    (bench.folder / "in" / "fox.png").write_bytes(sample_image())
    path = bench.write(
        "a",
        {"service": "upscale_fast", "image": "in/fox.png"},
        {"service": "sd3", "prompt": "b", "model": "sd3.5-medium"},
        {
            "service": "search-and-replace",
            "prompt": "c",
            "search_prompt": "d",
            "image": "in/fox.png",
        },
    )
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    summary = await bench.run(path)
    assert (summary.ending, summary.done, summary.credits) == ("complete", 4, 3 + 2 + 3.5 + 5)
    [upscaled] = [line for line in bench.lines() if line["service"] == "upscale-fast"]
    assert (upscaled["text"], upscaled["seed"], upscaled["image"]) == (None, 5, "in/fox.png")
    ledger = Ledger.open(bench.out / "job.sqlite")
    spending = ledger.spending()
    ledger.close()
    assert ("sd3", "sd3.5-medium", 1, 3.5, 0.0) in spending


async def test_an_unfit_input_image_is_found_before_anything_is_sent(bench: Bench) -> None:
    (bench.folder / "small.png").write_bytes(sample_image(16, 16))
    path = bench.write("a", {"service": "upscale-fast", "image": "small.png"})
    with pytest.raises(PromptFileError, match=r"row 2 \(small\.png\): image: given 16 x 16 pixels"):
        await bench.run(path)
    assert bench.shop.asked == []


async def test_asynchronous_operations_are_jobs_as_well(bench: Bench) -> None:
    (bench.folder / "fox.png").write_bytes(sample_image())
    path = bench.write({"service": "upscale-creative", "prompt": "a", "image": "fox.png"})
    summary = await bench.run(path)
    assert (summary.ending, summary.done, summary.credits) == ("complete", 1, 60)
    assert bench.lines()[0]["text"] == "a"


async def test_a_generation_that_was_paid_is_fetched_and_not_bought_again(bench: Bench) -> None:
    (bench.folder / "fox.png").write_bytes(sample_image())
    path = bench.write({"service": "upscale-creative", "prompt": "a", "image": "fox.png"})
    bench.shop.not_ready = 10**9
    async with bench.client() as client:
        running = asyncio.ensure_future(bench.job(path).run(client))
        await bench.shop.wait_for(1)
        while True:  # until its id is in the ledger
            with sqlite3.connect(bench.out / "job.sqlite") as ledger:
                [(identity,)] = ledger.execute("SELECT generation_id FROM rows")
            ledger.close()
            if identity:
                break
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    bench.shop.generations[identity][2] = 0
    summary = await bench.run(path, budget=60)
    assert (summary.ending, summary.done, summary.requests) == ("complete", 1, 0)
    assert sum(bench.shop.sold.values()) == 1


async def test_an_expired_generation_fails_and_may_be_bought_again(bench: Bench) -> None:
    (bench.folder / "fox.png").write_bytes(sample_image())
    path = bench.write({"service": "upscale-creative", "prompt": "a", "image": "fox.png"})
    await bench.run(path, budget=0)
    with sqlite3.connect(bench.out / "job.sqlite") as ledger:
        ledger.execute("UPDATE rows SET state = 'in flight', generation_id = ?", ("0" * 64,))
        ledger.execute("INSERT INTO charges VALUES (1, 1, 60, 'spent', ?)", ("0" * 64,))
        ledger.execute("UPDATE rows SET attempts = 1")
    ledger.close()
    summary = await bench.run(path)
    assert (summary.failed, summary.spent, summary.requests) == (1, 60.0, 0)
    summary = await bench.run(path, retry="failed")
    assert (summary.ending, summary.done, summary.spent) == ("complete", 1, 120.0)
    with sqlite3.connect(bench.out / "job.sqlite") as ledger:
        ids = [id_ for (id_,) in ledger.execute("SELECT generation_id FROM charges")]
    ledger.close()
    assert ids[0] == "0" * 64, "its id is never forgotten"


async def test_rows_are_sent_while_they_are_read_when_they_are_not_checked(bench: Bench) -> None:
    path = bench.folder / "p.jsonl"
    rows = [json.dumps({"prompt": f"p{n}"}) for n in range(1500)]
    rows[700] = "nonsense"
    rows[1200] = '{"prompt": "x", "seed": -1}'
    path.write_text("\n".join(rows))
    async with bench.client() as client:
        job = bench.job(path, check=False)
        summary = await job.run(client)
    assert (summary.ending, summary.total) == ("incomplete", 1500)
    assert (summary.done, summary.failed) == (1498, 2)
    assert sorted(row for _, row, _ in job.refused) == [701, 1201]
    assert (await bench.run(path, check=False)).requests == 0
    folders = [len(list(folder.iterdir())) for folder in (bench.out / "images").glob("[0-9]*")]
    assert max(folders) <= 1000
    assert len(folders) == 2


async def test_a_prompt_file_that_changes_during_the_run_changes_nothing_in_it(
    bench: Bench,
) -> None:
    bench.shop.script["a"] = ["slow"]
    path = bench.write("a", "b")
    async with bench.client() as client:
        running = asyncio.ensure_future(bench.job(path, max_in_flight=1).run(client))
        await bench.shop.wait_for(1)
        bench.write("something else")
        bench.shop.opened.set()
        summary = await running
    assert (summary.ending, sorted(bench.shop.asked)) == ("complete", ["a", "b"])


async def test_a_folder_with_other_things_in_it_is_left_alone(bench: Bench) -> None:
    bench.out.mkdir()
    (bench.out / "thesis.txt").write_text("x")
    with pytest.raises(JobError, match="is not a job"):
        await bench.run(bench.write("a"))
    assert {path.name for path in bench.out.iterdir()} <= {"thesis.txt", ".lock"}


async def test_a_folder_that_cannot_be_made_is_told_in_one_line(bench: Bench) -> None:
    (bench.folder / "file").write_text("")
    with pytest.raises(JobError, match="Not a directory"):
        await bench.run(bench.write("a"), folder=bench.folder / "file" / "job")


async def test_a_seed_is_the_same_wherever_and_whenever_a_row_is_made(bench: Bench) -> None:
    """Derived from id, copy and remake: another machine, folder or order makes the same image."""
    path = bench.write("a", {"id": "x", "prompt": "b"}, "a", {"prompt": "c", "seed": 7})
    await bench.run(path)
    rows: list[str | dict[str, Any]] = [
        {"id": "x", "prompt": "b"}, "a", {"prompt": "c", "seed": 7}, "a",
    ]  # fmt: skip
    other = bench.write(*rows, name="other.jsonl")
    await bench.run(other, folder=bench.folder / "elsewhere")
    assert len(bench.shop.sold) == 4
    assert set(bench.shop.sold.values()) == {2}
    seeds = {int(seed) for _, seed in bench.shop.sold}
    assert len(seeds) == 4
    assert all(1 <= seed <= 4_294_967_294 for seed in seeds)
    assert derive_seed("x", 1, 0) in seeds
    assert derive_seed("x", 1, 0) != derive_seed("x", 1, 1) != derive_seed("x", 2, 0)


@pytest.mark.parametrize("where", ["progress.Progress.count", "row_image.make_request"])
async def test_a_bug_or_a_callback_that_raises_leaves_no_row_in_flight(
    bench: Bench, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("broken callback")

    path = bench.write("a", "b", "c")
    with monkeypatch.context() as patch:
        patch.setattr(f"stable_async.jobs.{where}", fail)
        summary = await bench.run(path)
    assert summary.ending == "stopped"
    assert "ZeroDivisionError: broken callback" in str(summary.error)
    with sqlite3.connect(bench.out / "job.sqlite") as ledger:
        states = {state for (state,) in ledger.execute("SELECT state FROM rows")}
    ledger.close()
    assert "in flight" not in states
    assert (await bench.run(path, resend_doubtful=True)).ending == "complete"


async def test_a_generation_is_fetched_later_though_something_raised_when_it_was_accepted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("broken")

    (bench.folder / "fox.png").write_bytes(sample_image())
    path = bench.write({"service": "upscale-creative", "prompt": "a", "image": "fox.png"})
    with monkeypatch.context() as patch:
        patch.setattr("stable_async.jobs.gate.Gate.answered", fail)
        summary = await bench.run(path)
    price = summary.spent
    assert (summary.ending, summary.in_doubt) == ("stopped", 0)
    assert price > 0
    summary = await bench.run(path)
    assert (summary.ending, summary.done, summary.spent) == ("complete", 1, price)
    assert bench.shop.sold.total() == 1


async def test_a_receiver_of_events_that_raises_ends_no_run(bench: Bench) -> None:
    class Broken(JobEvents):
        def settled(self, row: Row, result: Result) -> None:
            raise ZeroDivisionError("broken receiver")

    path = bench.write("a", "b", "c")
    async with bench.client() as client:
        job = bench.job(path)
        job.events = Broken()
        summary = await job.run(client)
    assert (summary.ending, summary.done, summary.in_doubt) == ("complete", 3, 0)


async def test_a_time_out_that_is_not_ours_is_no_word_that_nothing_left(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TimeoutError("of a callback")

    path = bench.write("a")
    with monkeypatch.context() as patch:
        patch.setattr("stable_async.jobs.progress.Progress.count", fail)
        summary = await bench.run(path)
    assert (summary.ending, summary.in_doubt) == ("stopped", 1)
    assert (await bench.run(path)).requests == 0
