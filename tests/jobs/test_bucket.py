"""Pictures in a bucket of a real S3-compatible server."""

from __future__ import annotations

import asyncio
import urllib.request
from typing import TYPE_CHECKING

import pytest

from stable_async.datasets import export_job
from stable_async.jobs import JobError, StorageError
from tests import needs
from tests.jobs.shop import make_picture
from tests.jobs.test_crash import execute

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.jobs.conftest import Bench

obstore = needs.module("obstore")
moto = needs.module("moto.server")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    name = request.node.name.replace("_", "-")[:60].strip("-")
    urllib.request.urlopen(urllib.request.Request(f"{server}/{name}", method="PUT")).close()
    return f"s3://{name}/pictures"


def read(url: str) -> bytes:
    store = obstore.store.from_url(url.rpartition("/")[0])
    return bytes(obstore.get(store, url.rpartition("/")[2]).bytes())


async def test_pictures_go_to_the_bucket_and_the_ledger_stays(bench: Bench, bucket: str) -> None:
    bench.shop.script["b"] = ["filtered"]
    path = bench.write({"prompt": "a", "seed": 3, "id": "x"}, "b")
    summary = await bench.run(path, images=bucket)
    assert (summary.done, summary.filtered) == (1, 1)
    lines = {line["text"]: line for line in bench.lines()}
    assert lines["a"]["file_name"] == f"{bucket}/0000/000001-x.png"
    assert read(lines["a"]["file_name"]) == make_picture("a", "3")
    assert not (bench.out / "images").exists()
    assert (await bench.run(path, images=bucket)).requests == 0


async def test_a_picture_that_just_came_is_found_in_the_bucket(bench: Bench, bucket: str) -> None:
    path = bench.write("a")
    await bench.run(path, images=bucket)
    [made] = bench.lines()
    ledger = bench.out / "job.sqlite"
    execute(ledger, "DELETE FROM images")
    execute(ledger, "UPDATE rows SET state = 'in flight'")
    (bench.out / "metadata.jsonl").unlink()
    summary = await bench.run(path, images=bucket)
    assert (summary.ending, summary.skipped) == ("complete", 1)
    assert bench.lines() == [{**made, "request_id": None}]


async def test_a_lost_ledger_is_rebuilt_from_the_bucket(bench: Bench, bucket: str) -> None:
    path = bench.write("a", "b")
    await bench.run(path, images=bucket)
    (bench.out / "job.sqlite").write_bytes(b"x" * 100)
    (bench.out / "metadata.jsonl").unlink()
    summary = await bench.run(path, images=bucket)
    assert (summary.ending, summary.skipped, summary.requests) == ("complete", 2, 0)
    (bench.out / "job.sqlite").unlink()
    summary = await bench.run(path, images=bucket)
    assert (summary.ending, summary.skipped, summary.requests) == ("complete", 2, 0)
    (bench.out / "job.sqlite").unlink()
    (bench.out / "images").mkdir()
    with pytest.raises(JobError, match="images of this job are elsewhere"):
        await bench.run(path)


async def test_a_replaced_picture_is_put_aside_in_the_bucket(bench: Bench, bucket: str) -> None:
    await bench.run(bench.write({"id": "x", "prompt": "old", "seed": 1}), images=bucket)
    path = bench.write({"id": "x", "prompt": "new", "seed": 1})
    await bench.run(path, images=bucket, replace_changed=True)
    assert [line["text"] for line in bench.lines()] == ["new"]
    assert read(f"{bucket}/replaced/000001-x.png") == make_picture("old", "1")


async def test_a_bucket_that_is_not_there_is_told_before_anything_is_sent(
    bench: Bench, bucket: str
) -> None:
    with pytest.raises(StorageError, match=r"404 Not Found$"):
        await bench.run(bench.write("a"), images="s3://no-such-bucket/x")
    with pytest.raises(StorageError, match="ftp://x"):
        await bench.run(bench.write("a"), images="ftp://x")
    assert bench.shop.asked == []


async def test_pictures_are_spooled_when_the_bucket_goes_away_during_the_run(
    bench: Bench, server: str, bucket: str
) -> None:
    root = f"{server}/{bucket.split('/')[2]}"
    bench.shop.script = {prompt: ["slow"] for prompt in "bcd"}
    path = bench.write("a", "b", "c", "d", "e")
    async with bench.client() as client:
        job = bench.job(path, images=bucket, max_in_flight=4)
        running = asyncio.ensure_future(job.run(client))
        await bench.shop.wait_for(4)
        while job.progress.done < 1:
            await asyncio.sleep(0.001)
        store = obstore.store.from_url(bucket)
        obstore.delete(store, [entry["path"] for some in obstore.list(store) for entry in some])
        urllib.request.urlopen(urllib.request.Request(root, method="DELETE")).close()
        bench.shop.opened.set()
        summary = await running
    assert (summary.ending, summary.in_doubt) == ("stopped", 0)
    assert "404" in str(summary.error)
    assert "spooled" in str(summary.error)
    spooled = sorted(file.name for file in bench.out.glob("spooled/*/*"))
    assert len(spooled) == len(bench.shop.sold) - 1

    urllib.request.urlopen(urllib.request.Request(root, method="PUT")).close()
    assert (await bench.run(path, images=bucket)).ending == "complete"
    assert set(bench.shop.sold.values()) == {1}
    assert not [*bench.out.glob("spooled/*/*")]
    for line in bench.lines():
        if line["text"] != "a":  # which went with the bucket
            assert read(line["file_name"]) == make_picture(line["text"], str(line["seed"]))


async def test_an_export_reads_the_bucket(bench: Bench, bucket: str, tmp_path: Path) -> None:
    path = bench.write({"prompt": "a", "id": "a"}, "b")
    await bench.run(path, images=bucket)
    obstore.delete(obstore.store.from_url(bucket), ["0000/000001-a.png"])
    summary = await asyncio.to_thread(export_job, bench.out, tmp_path / "set", "imagefolder")
    assert (summary.media, summary.damaged) == (1, 1)
    [file] = (tmp_path / "set/images/00000").iterdir()
    [line] = [line for line in bench.lines() if line["text"] == "b"]
    assert file.read_bytes() == make_picture("b", str(line["seed"]))


async def test_a_job_keeps_its_pictures_in_one_place(bench: Bench, bucket: str) -> None:
    path = bench.write("a")
    await bench.run(path)
    with pytest.raises(JobError, match="in its folder, not in s3://"):
        await bench.run(path, images=bucket)
