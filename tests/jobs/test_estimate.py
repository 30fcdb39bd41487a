"""What a run announces is what it does."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest

from stable_async.cli.app import run
from stable_async.cli.preview import start_lines
from stable_async.config import Quota
from stable_async.jobs import JobSettings, PromptFile, PromptRules
from stable_async.jobs.estimate import estimate_run
from stable_async.jobs.shard import Shard
from stable_async.jobs.storage import objects
from stable_async.jobs.storage.objects import Objects
from stable_async.jobs.storage.record import JobRecord, write_record
from tests import needs
from tests.raw_server import raw_server
from tests.samples import png_header

if TYPE_CHECKING:
    from pathlib import Path

    from stable_async.jobs.estimate import Estimate
    from tests.jobs.conftest import Bench
    from tests.raw_server import Connection


def estimate(path: Path, settings: JobSettings | None = None, **rules: object) -> Estimate:
    return estimate_run(PromptFile(str(path)), PromptRules(**rules), settings)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


async def test_it_tells_what_is_new_there_changed_gone_and_in_doubt(bench: Bench) -> None:
    shop = bench.shop
    shop.script["dropped"] = ["drop"]
    shop.script["refused"] = [400]
    shop.script["blurred"] = ["filtered"]
    shop.script["late"] = [500, 500, 500, 500]
    rows = [
        {"prompt": name, "id": name}
        for name in ("a", "b", "dropped", "refused", "blurred", "late", "gone")
    ]
    path = bench.write(*rows)
    await bench.run(path, passes=1)
    path = bench.write(*rows[:-1], {"prompt": "new", "id": "new"})
    before = contents(bench.out)
    found = estimate(path, JobSettings(folder=bench.out))
    assert contents(bench.out) == before
    assert (found.new, found.there, found.in_doubt) == (2, 3, 1)
    assert (found.gone, found.failed, found.changed) == (1, 1, 0)
    assert found.credits == 6
    assert [request["id"] for request in found.first_requests] == ["late", "new"]
    shop.asked.clear()
    shop.script.clear()
    async with bench.client() as client:
        job = bench.job(path)
        await job.run(client)
    assert job.estimate is not None
    assert (job.estimate.new, job.estimate.credits) == (found.new, found.credits)
    assert sorted(shop.asked) == ["late", "new"]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"resend_doubtful": True}, ["dropped", "late"]),
        ({"retry": "failed"}, ["refused", "late"]),
        ({"retry": "filtered"}, ["late", "blurred"]),
        ({"remake_missing": True}, ["a", "late"]),
    ],
)
async def test_it_prices_what_options_make_again(
    bench: Bench, options: dict[str, Any], names: list[str]
) -> None:
    """A dry run and the start of the run have the same figures, and the server charges them."""
    shop = bench.shop
    shop.script = {"dropped": ["drop"], "refused": [400], "blurred": ["filtered"]}
    shop.script["late"] = [500, 500, 500, 500]
    path = bench.write(*("a", "b", "dropped", "refused", "blurred", "late"))
    await bench.run(path, passes=1)
    bench.images()[0].unlink()
    before = contents(bench.out)
    found = estimate(path, JobSettings(folder=bench.out, **options))
    assert contents(bench.out) == before
    assert (found.new, found.credits) == (2, 6.0)
    assert sorted(str(request["prompt"]) for request in found.first_requests) == sorted(names)
    shop.asked.clear()
    shop.script.clear()
    async with bench.client() as client:
        job = bench.job(path, **options)
        await job.run(client)
    assert job.estimate == found
    assert sorted(shop.asked) == sorted(names)


async def test_a_budget_that_ends_the_run_before_its_last_row_is_told(bench: Bench) -> None:
    """By what earlier runs have left of it, doubts included."""
    bench.shop.script["dropped"] = ["drop"]
    await bench.run(bench.write("a", "dropped"))
    path = bench.write("a", "dropped", "b", "c")
    told = (
        "the budget has 3 credits left, and these rows cost 6: the run may end before its last row"
    )
    for budget, left, ending in ((9, 3, "budget"), (12, 3, "incomplete")):
        found = estimate(path, JobSettings(folder=bench.out, budget=budget))
        assert found.figures()["budget_left"] == left
        assert (told in list(start_lines(found))) == (ending == "budget")
        async with bench.client() as client:
            job = bench.job(path, budget=budget)
            assert (await job.run(client)).ending == ending
        assert job.estimate == found
    assert estimate(path, JobSettings(folder=bench.out)).budget_left is None
    assert estimate(path, JobSettings(folder=bench.out, budget=1)).budget_left == 0


def test_a_part_of_a_job_has_its_share_of_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("a\nb\nc\nd\n")
    settings = JobSettings(folder=tmp_path / "job", budget=6)
    assert estimate(path, settings, shard=Shard(1, 2)).budget_left == 3


def test_json_is_all_of_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(png_header(64, 64))
    (tmp_path / "photos/b.txt").write_text("x")
    words = ["run", "photos", "--service", "remove-background", "--out", "job", "--dry-run"]
    assert run([*words, "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["new"] == 1
    assert "1 .txt" in output.err
    assert run(words) == 0
    assert "1 .txt" in capsys.readouterr().out


async def test_changed_rows_are_told(bench: Bench) -> None:
    bench.shop.script["b"] = [500] * 8
    path = bench.write({"prompt": "a", "id": "1"}, {"prompt": "b", "id": "2"})
    await bench.run(path, passes=1)
    path = bench.write({"prompt": "a", "id": "1"}, {"prompt": "c", "id": "2"})
    found = estimate(path, JobSettings(folder=bench.out))
    assert (found.new, found.there, found.changed) == (1, 1, 1)


def test_the_time_counts_looks_at_results_that_are_fetched_later(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("".join(f'{{"prompt": "{n}"}}\n' for n in range(300)))
    found = estimate(path)
    assert (found.requests, found.credits, found.dollars) == (300, 900, 9.0)
    assert found.least_seconds(Quota()) == pytest.approx(10 + 150 * 10 / 150)
    sample_image = tmp_path / "a.png"
    sample_image.write_bytes(png_header(512, 512))
    path.write_text('{"prompt": "a", "image": "a.png"}\n')
    assert estimate(path, service="upscale-creative").requests == 2


async def test_a_sample_is_spread_over_the_file_and_part_of_the_whole(bench: Bench) -> None:
    path = bench.write(*(f"row {number:02}" for number in range(20)))
    rules = PromptRules(sample=4)
    assert estimate(path, sample=4).new == 4
    summary = await bench.run(path, rules)
    assert (summary.ending, summary.total, summary.done) == ("complete", 4, 4)
    made = sorted(bench.shop.asked)
    places = [int(prompt.split()[1]) for prompt in made]
    assert all(later - earlier == 5 for earlier, later in itertools.pairwise(places))
    again = await bench.run(path, rules)
    assert (again.done, again.skipped) == (0, 4)
    whole = await bench.run(path)
    assert (whole.total, whole.skipped, whole.done) == (20, 4, 16)
    assert (await bench.run(path, PromptRules(sample=50))).total == 20


async def test_the_same_request_with_the_same_seed_is_bought_once(bench: Bench) -> None:
    path = bench.write(
        {"prompt": "a", "seed": 7, "id": "x", "metadata": {"label": 1}},
        {"prompt": "a", "seed": 7, "id": "y", "metadata": {"label": 2}},
        {"prompt": "a", "seed": 8, "id": "z"},
        {"prompt": "a"},
        {"prompt": "a"},
        {"prompt": "b", "seed": 7},
        {"prompt": "b", "seed": 7},
    )
    assert estimate(path).duplicates == 2
    summary = await bench.run(path)
    assert (summary.total, summary.done) == (5, 5)
    assert len(bench.shop.asked) == 5
    lines = bench.lines()
    assert len(lines) == 7
    x, y = (next(line for line in lines if line["id"] == name) for name in "xy")
    assert x["file_name"] == y["file_name"]
    assert (x["label"], y["label"]) == (1, 2)
    # Given again, nothing is made, and nothing told anew.
    path = bench.write(*(json.loads(line) for line in path.read_text().splitlines()), "c")
    summary = await bench.run(path)
    assert (summary.total, summary.done) == (6, 1)
    assert len(bench.lines()) == 8
    summary = await bench.run(path, PromptRules(allow_duplicates=True))
    assert (summary.total, summary.done) == (8, 2)
    assert len({line["file_name"] for line in bench.lines()}) == 8


async def test_metadata_that_comes_later_is_taken_in_free(bench: Bench) -> None:
    await bench.run(bench.write({"prompt": "a", "id": "1"}, {"prompt": "b", "id": "2"}))
    path = bench.write(
        {"prompt": "a", "id": "1", "metadata": {"label": "fox"}}, {"prompt": "b", "id": "2"}
    )
    summary = await bench.run(path)
    assert (summary.done, summary.skipped) == (0, 2)
    assert {line["id"]: line.get("label") for line in bench.lines()} == {"1": "fox", "2": None}
    assert len(bench.shop.asked) == 2
    await bench.run(bench.write({"prompt": "a", "id": "1"}, {"prompt": "b", "id": "2"}))
    assert all("label" not in line for line in bench.lines())


def test_dry_run_needs_no_key_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("STABILITY_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.csv").write_text("Prompt,neg,note\na fox,people,x\na hare,,\n")
    words = ["run", "p.csv", "--out", "out", "--dry-run"]
    assert run([*words, "--json"]) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["suspicious"] == [{"column": "neg", "meant": "negative_prompt"}]
    assert "--map neg=negative_prompt" in told.err
    assert told.err.count("\n") == 1
    assert run([*words, "--json", "--map", "NEG=negative_prompt"]) == 0
    told = capsys.readouterr()
    facts = json.loads(told.out)
    assert (facts["new"], facts["there"], facts["gone"], facts["changed"]) == (2, 0, 0, 0)
    assert (facts["credits"], facts["dollars"], facts["in_doubt"]) == (6, 0.06, 0)
    assert facts["parameters"] == {"Prompt": "prompt", "neg": "negative_prompt"}
    assert facts["kept"] == ["note"]
    assert [request["prompt"] for request in facts["first_requests"]] == ["a fox", "a hare"]
    assert facts["first_requests"][0]["seed"] > 0
    assert run([*words, "--keep", "neg"]) == 0
    told = capsys.readouterr()
    assert "2 rows to make: 6 credits (0.06 US dollars)" in told.out
    assert "kept as metadata only: neg, note" in told.out
    assert list(tmp_path.iterdir()) == [tmp_path / "p.csv"]


def test_one_problem_of_many_rows_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "score": 1}\n' * 500)
    assert run(["estimate", str(path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "rows 1, 2, 3, 4, 5 and 495 more: score: no such parameter" in told


def test_other_words_than_the_jobs_are_refused_before_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs.module("PIL")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a fox\na hare\n")
    words = ["run", "p.txt", "--out", "out", "--sandbox"]
    assert run([*words, "--set", "aspect_ratio=16:9"]) == 0
    capsys.readouterr()
    assert run([*words, "--dry-run"]) == 2
    told = capsys.readouterr().err
    assert "set was aspect_ratio=16:9 and is nothing" in told
    assert "2 images would be new, for 6 credits" in told
    assert run([*words, "--dry-run", "--change"]) == 0
    assert "2 rows to make: 6 credits" in capsys.readouterr().out
    assert run(["run", "--out", "out", "--dry-run"]) == 0
    assert "0 rows to make; 2 already made" in capsys.readouterr().out


def photo_job(tmp_path: Path, *more: str) -> list[str]:
    (tmp_path / "p.txt").write_text("a fox\na hare\na hen\n")
    return ["run", "p.txt", "--out", "out", "--sandbox", *more]


def figures(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert run([*words, "--json"]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_job_goes_on_from_its_bucket_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs.module("PIL")
    needs.module("obstore")
    monkeypatch.chdir(tmp_path)
    place = ["--images", f"file://{tmp_path}/images"]
    assert figures(capsys, *photo_job(tmp_path), *place, "--dry-run")["new"] == 3
    assert not (tmp_path / "images").exists()
    assert run([*photo_job(tmp_path), *place, "--limit", "1"]) == 0
    assert figures(capsys, "estimate", "--out", place[1])["new"] == 2
    assert figures(capsys, "estimate", "p.txt", "--out", place[1])["there"] == 1
    new = ["run", "--out", "new", *place]
    assert figures(capsys, *new, "--dry-run")["new"] == 2
    assert figures(capsys, *photo_job(tmp_path), *place, "--dry-run")["there"] == 1
    shutil.rmtree("out")
    assert figures(capsys, *photo_job(tmp_path), *place, "--dry-run")["there"] == 1
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "out").exists()
    assert run([*new, "--shard", "1/2"]) == 2
    assert run([*new, "--service", "ultra"]) == 2
    assert figures(capsys, *new)["done"] == 2
    assert len([*(tmp_path / "images").rglob("*.png")]) == 3


@pytest.mark.parametrize("silent", [False, True])
async def test_a_bucket_that_does_not_answer_is_told_soon(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    silent: bool,
) -> None:
    needs.module("obstore")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(objects, "LONGEST_LOOK", 0.2 if silent else 30)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ALLOW_HTTP"):
        monkeypatch.setenv(name, "true")
    (tmp_path / "p.txt").write_text("a fox\n")
    gone = asyncio.Event()

    async def handle(connection: Connection) -> None:
        if silent:
            await gone.wait()

    async with raw_server(handle) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        words = ["run", "p.txt", "--out", "out", "--images", "s3://bucket/x", "--dry-run"]
        assert await asyncio.to_thread(run, words) == 1
        gone.set()
    told = capsys.readouterr().err
    assert "s3://bucket/x: the store does not answer" in told
    assert not silent or "within 0.2 s" in told


def test_a_part_goes_on_from_its_bucket_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs.module("PIL")
    needs.module("obstore")
    monkeypatch.chdir(tmp_path)
    place = ["--images", f"file://{tmp_path}/images"]
    for part in ("1/2", "2/2"):
        words = photo_job(tmp_path, *place, "--shard", part)
        words[3] = f"part-{part[0]}"
        assert run([*words, "--limit", "1"]) == 0
    parts = ["--out", "part-1", "--out", "part-2"]
    for words in (["estimate", *parts], ["estimate", "p.txt", *parts]):
        found = figures(capsys, *words)
        assert (found["there"], found["new"]) == (1, 2)
    assert run(["run", "--out", "new", *place]) == 2
    assert "--shard I/2" in capsys.readouterr().err
    assert figures(capsys, "run", "--out", "new", *place, "--shard", "1/2")["done"] == 1


def test_a_dry_run_is_refused_where_the_run_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs.module("PIL")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STABILITY_API_KEY", "sk-none")
    assert run([*photo_job(tmp_path), "--limit", "1"]) == 0
    for more in ([], ["--dry-run"], ["--dry-run", "--change"]):
        assert run(["run", "p.txt", "--out", "out", *more]) == 2
        assert "images of the sandbox and of the API" in capsys.readouterr().err
    assert figures(capsys, "run", "--out", "out", "--dry-run")["new"] == 2
    assert figures(capsys, "estimate", "p.txt", "--out", "out")["new"] == 2


def test_a_job_of_standard_input_is_looked_at_from_its_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs.module("PIL")
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    writer = threading.Thread(
        target=lambda: (tmp_path / "pipe").write_text(
            '{"prompt": "ok"}\n{"prompt": "sandbox:moderated x"}\n'
        )
    )
    writer.start()
    assert run(["run", "pipe", "--out", "out", "--sandbox"]) == 3
    writer.join()
    assert figures(capsys, "run", "--out", "out", "--dry-run")["there"] == 1
    assert figures(capsys, "estimate", "--out", "out")["there"] == 1


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    "url", ["images", "s3:/bucket/x", "s3://", "ftp://host/x", "file://folder/x", "s3://a b/x"]
)
def test_a_url_that_is_none_is_wrong_usage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    url: str,
    more: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STABILITY_API_KEY", "sk-none")
    (tmp_path / "p.txt").write_text("a fox\n")
    assert run(["run", "p.txt", "--out", "out", "--images", url, *more]) == 2
    assert f"images is {url!r}; allowed: s3://bucket/prefix" in capsys.readouterr().err


def test_another_part_than_the_jobs_is_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs.module("PIL")
    monkeypatch.chdir(tmp_path)
    assert run(photo_job(tmp_path, "--shard", "1/2")) == 0
    for words in (photo_job(tmp_path), ["run", "--out", "out"]):
        assert run([*words, "--shard", "2/2"]) == 2
        assert "part 1/2 of a job, not 2/2" in capsys.readouterr().err
    elsewhere = photo_job(tmp_path, "--images", f"file://{tmp_path}/b", "--shard", "1/2")
    for words in (elsewhere, [*elsewhere, "--dry-run"]):
        assert run(words) == 2
        assert "keeps its images in its folder" in capsys.readouterr().err
    assert run(photo_job(tmp_path, "--shard", "2/2", "--change", "--dry-run")) == 2
    assert "part 1/2 of a job, not 2/2" in capsys.readouterr().err


async def test_rows_beyond_a_limit_are_not_gone(bench: Bench) -> None:
    path = bench.write("a", "b", "c")
    await bench.run(path)
    settings = JobSettings(folder=bench.out)
    assert estimate(path, settings, limit=1).gone == 0
    assert estimate(path, settings, sample=1).gone == 0
    await bench.run(path, PromptRules(limit=1))
    assert estimate(path, settings).gone == 0


def test_a_bucket_whose_job_has_no_known_options_is_read(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/images"
    write_record(Objects(url), JobRecord("a job", 1, {}))
    path = tmp_path / "p.txt"
    path.write_text("a fox\n")
    settings = JobSettings(folder=tmp_path, images=url)
    found = estimate_run(PromptFile(path), PromptRules(), settings, parts=[url])
    assert found.new == 1
