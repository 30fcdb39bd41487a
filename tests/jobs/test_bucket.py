"""Images in a bucket of a real S3-compatible server."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import tracemalloc
import urllib.request
from collections import Counter
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from stable_async import GenerateCore, StabilityClient
from stable_async.cli.app import run
from stable_async.cli.display import progress_line
from stable_async.datasets import export_job
from stable_async.jobs import JobError, PromptRules, StorageError
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.row import ImageFacts, Row
from stable_async.jobs.storage import objects
from stable_async.jobs.storage.base import file_stem
from stable_async.jobs.storage.bucket import BucketStore
from stable_async.jobs.storage.objects import Objects, Version
from tests import needs
from tests.jobs.shop import shop_image
from tests.jobs.test_crash import execute
from tests.jobs.torture import Torture
from tests.raw_server import answer, raw_server
from tests.samples import png, sample_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.jobs.conftest import Bench
    from tests.raw_server import Connection

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
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:40]
    urllib.request.urlopen(urllib.request.Request(f"{server}/{name}", method="PUT")).close()
    return f"s3://{name}/images"


def read(url: str) -> bytes:
    store = obstore.store.from_url(url.rpartition("/")[0])
    return bytes(obstore.get(store, url.rpartition("/")[2]).bytes())


async def test_images_go_to_the_bucket_and_the_ledger_stays(bench: Bench, bucket: str) -> None:
    bench.shop.script["b"] = ["filtered"]
    path = bench.write({"prompt": "a", "seed": 3, "id": "x"}, "b")
    summary = await bench.run(path, images=bucket)
    assert (summary.done, summary.filtered) == (1, 1)
    lines = {line["text"]: line for line in bench.lines()}
    assert lines["a"]["file_name"] == f"{bucket}/0000/000001-x.png"
    assert read(lines["a"]["file_name"]) == shop_image("a", "3")
    assert not (bench.out / "images").exists()
    assert (await bench.run(path, images=bucket)).requests == 0


async def test_an_image_that_just_came_is_found_in_the_bucket(bench: Bench, bucket: str) -> None:
    path = bench.write("a")
    await bench.run(path, images=bucket)
    [made] = bench.lines()
    ledger = bench.out / "job.sqlite"
    execute(ledger, "DELETE FROM images")
    execute(ledger, "UPDATE rows SET state = 'in flight'")
    (bench.out / "metadata.jsonl").unlink()
    summary = await bench.run(path, images=bucket)
    assert (summary.ending, summary.skipped) == ("complete", 1)
    assert bench.lines() == [made]


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


async def test_a_replaced_image_is_put_aside_in_the_bucket(bench: Bench, bucket: str) -> None:
    await bench.run(bench.write({"id": "x", "prompt": "old", "seed": 1}), images=bucket)
    path = bench.write({"id": "x", "prompt": "new", "seed": 1})
    await bench.run(path, images=bucket, replace_changed=True)
    assert [line["text"] for line in bench.lines()] == ["new"]
    assert read(f"{bucket}/replaced/000001-x.png") == shop_image("old", "1")


async def test_a_bucket_that_is_not_there_is_told_before_anything_is_sent(
    bench: Bench, bucket: str
) -> None:
    with pytest.raises(StorageError, match=r"404 Not Found$"):
        await bench.run(bench.write("a"), images="s3://no-such-bucket/x")
    with pytest.raises(StorageError, match="ftp://x"):
        await bench.run(bench.write("a"), images="ftp://x")
    assert bench.shop.asked == []


async def test_a_run_says_that_it_waits_for_a_silent_bucket_and_gives_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "LONGEST_PROBE", 0.3)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ALLOW_HTTP"):
        monkeypatch.setenv(name, "true")
    asked, gone = asyncio.Event(), asyncio.Event()

    async def handle(_: Connection) -> None:
        asked.set()
        await gone.wait()

    async with raw_server(handle) as url, bench.client() as client:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        job = bench.job(bench.write("a"), images="s3://bucket/x")
        running = asyncio.ensure_future(job.run(client))
        await asked.wait()
        assert progress_line(job.progress, client, 0.0) == (
            "opening the job: waiting for s3://bucket/x"
        )
        with pytest.raises(StorageError, match=r"s3://bucket/x: the store does not answer within"):
            await running
        gone.set()
    assert not bench.shop.asked


async def test_images_are_spooled_when_the_bucket_goes_away_during_the_run(
    bench: Bench, server: str, bucket: str
) -> None:
    root = f"{server}/{bucket.split('/')[2]}"
    bench.shop.script = {prompt: ["slow"] for prompt in "bcde"}
    path = bench.write("a", "b", "c", "d", "e")
    async with bench.client() as client:
        job = bench.job(path, images=bucket, max_in_flight=4)
        running = asyncio.ensure_future(job.run(client))
        await bench.shop.wait_for(5)  # all are claimed: nothing more is written until they answer
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
    spooled = sorted(file.name for file in bench.out.glob("spooled/*/*.png"))
    assert len(spooled) == len(bench.shop.sold) - 1

    urllib.request.urlopen(urllib.request.Request(root, method="PUT")).close()
    summary = await bench.run(path, images=bucket)
    assert (summary.done + summary.skipped, summary.in_doubt, summary.missing) == (5, 0, 1)
    assert set(bench.shop.sold.values()) == {1}
    assert not [*bench.out.glob("spooled/*/*")]
    for line in bench.lines():
        if line["text"] != "a":  # which went with the bucket
            assert read(line["file_name"]) == shop_image(line["text"], str(line["seed"]))


def stored(url: str) -> dict[str, bytes]:
    """Return every object of a job in a bucket, by path."""
    store = obstore.store.from_url(url)
    paths = [entry["path"] for some in obstore.list(store) for entry in some]
    return {path: bytes(obstore.get(store, path).bytes()) for path in sorted(paths)}


def bill(folder: Path) -> tuple[float, float, float]:
    ledger = Ledger.open(folder / "job.sqlite")
    try:
        found = ledger.bill()
    finally:
        ledger.close()
    return found.spent, found.in_doubt, found.reserved


@pytest.fixture(params=["s3", "file"])
def place(request: pytest.FixtureRequest) -> str:
    """A store of each kind: its URL."""
    if request.param == "s3":
        return str(request.getfixturevalue("bucket"))
    folder: Path = request.getfixturevalue("tmp_path")
    return (folder / "a store" / "images").as_uri()


async def test_a_lost_folder_is_made_anew_from_the_bucket_and_nothing_is_bought_again(
    bench: Bench, place: str
) -> None:
    bench.shop.script = {"b": ["filtered"], "c": [400], "d": ["drop"], "f": [500, 500, 500, 500]}
    path = bench.write({"prompt": "a", "seed": 3, "id": "x", "metadata": {"k": [1]}}, *"bcdefg")
    before = await bench.run(path, images=place)
    assert (before.done, before.failed, before.in_doubt, before.again) == (3, 1, 1, 1)
    lines, objects, bought = bench.lines(), stored(place), bench.shop.sold.copy()
    costs = bill(bench.out)
    shutil.rmtree(bench.out)
    bench.shop.script = {"f": [500, 500, 500, 500]}

    after = await bench.run(path, images=place)
    assert (after.skipped, after.failed, after.in_doubt, after.again) == (3, 1, 1, 1)
    assert bench.shop.sold == bought
    assert bill(bench.out) == costs
    assert sorted(map(str, bench.lines())) == sorted(map(str, lines))
    images = {path: data for path, data in objects.items() if path.endswith(".png")}
    assert {path: stored(place).get(path) for path in images} == images
    assert not [path for path in stored(place) if path.startswith("replaced/")]

    shutil.rmtree(bench.out)
    again = await bench.run(path, images=place, resend_doubtful=True)
    assert (again.done, again.in_doubt, again.again) == (2, 0, 0)
    assert bill(bench.out)[:2] == (costs[0] + 6, costs[1])


async def test_a_slash_at_the_end_of_the_url_is_no_other_place(
    bench: Bench, tmp_path: Path
) -> None:
    path, url = bench.write("a", "b"), f"file://{tmp_path}/images"
    await bench.run(path, PromptRules(limit=1), images=f"{url}/")
    assert (await bench.run(path, images=url)).skipped == 1
    assert (await bench.run(path, images=f"{url}/")).skipped == 2


async def test_a_claim_without_an_image_is_in_doubt_though_the_folder_is_gone(
    bench: Bench, place: str
) -> None:
    bench.shop.script = {"a": ["slow"], "b": ["slow"]}
    path = bench.write("a", "b", "c")
    async with bench.client() as client:
        running = asyncio.ensure_future(bench.job(path, images=place).run(client))
        await bench.shop.wait_for(3)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    shutil.rmtree(bench.out)
    summary = await bench.run(path, images=place)
    assert summary.in_doubt >= 2
    assert bench.shop.asked.count("a") == bench.shop.asked.count("b") == 1


async def test_an_old_backup_of_the_folder_learns_what_the_bucket_knows(
    bench: Bench, place: str
) -> None:
    bench.shop.script = {"c": ["drop"]}
    path = bench.write("a", "b", "c", "d")
    await bench.run(bench.write("a", name="first.jsonl"), images=place)
    backup = bench.folder / "backup"
    shutil.copytree(bench.out, backup)
    await bench.run(path, images=place)
    costs, bought = bill(bench.out), bench.shop.sold.copy()
    shutil.rmtree(bench.out)
    backup.rename(bench.out)
    job = bench.job(path, images=place)
    async with bench.client() as client:
        summary = await job.run(client)
    assert (summary.skipped, summary.in_doubt, summary.requests) == (3, 1, 0)
    assert bench.shop.sold == bought
    assert bill(bench.out) == costs
    assert any("older copy; found: 2 images, 1 row in doubt" in note for note in job.notes)


async def test_a_row_that_another_folder_has_claimed_meanwhile_is_not_sent(
    bench: Bench, place: str
) -> None:
    """Two runs work on one bucket: each row is bought by one of them."""
    path = bench.write(*map(str, range(20)))
    bench.shop.latency = 0.01
    one, other = await asyncio.gather(
        bench.run(path, images=place, max_in_flight=4),
        bench.run(path, images=place, max_in_flight=4, folder=bench.folder / "other"),
    )
    assert set(bench.shop.sold.values()) == {1}
    assert len(bench.shop.sold) == 20
    assert one.requests + other.requests == 20
    images = [path for path in stored(place) if path.endswith(".png")]
    assert len(images) == 20


async def test_an_image_is_never_written_over(bench: Bench, place: str) -> None:
    """One that comes to stand at the same name while the request is away is moved."""
    bench.shop.script = {"a": ["slow"]}
    path = bench.write({"prompt": "a", "id": "x", "seed": 1})
    running = asyncio.ensure_future(bench.run(path, images=place))
    await bench.shop.wait_for(1)
    obstore.put(obstore.store.from_url(place), "0000/000001-x.png", b"another's")
    bench.shop.opened.set()
    assert (await running).done == 1
    kept = stored(place)
    assert kept["0000/000001-x.png"] == shop_image("a", "1")
    assert kept["replaced/000001-x.png"] == b"another's"


async def test_an_image_is_held_once_while_it_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With hundreds in flight a second copy decides whether the machine has enough memory."""
    size, stored = 8 * 1024 * 1024, asyncio.Event()
    image, held = png(size), []

    async def create(*_: object) -> Version:
        held.append(tracemalloc.get_traced_memory()[0])
        stored.set()
        return {}

    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(image))
        await stored.wait()

    store = BucketStore(Objects(tmp_path.as_uri()))
    async with (
        raw_server(serve) as url,
        StabilityClient("sk", base_url=url, quota=None) as client,
        store.writing() as images,
    ):
        row = Row(1, {"prompt": "a"}, service="core", id="x", position=1)
        await images.claims.claim(file_stem(1, "x"), row)
        monkeypatch.setattr(store.objects, "create", create)
        sink = images.sink(row, ImageFacts(1, content_type="image/png"))
        tracemalloc.start()
        try:
            async with client.stream(GenerateCore(prompt="a")) as stream:
                await stream.save_to(sink)
        finally:
            tracemalloc.stop()
    assert size < held[0] < 1.5 * size


async def test_a_pod_that_is_killed_and_loses_its_folder_buys_nothing_again(
    bench: Bench, place: str
) -> None:
    """After each kill: done rows are left alone, a claim without an image is in doubt."""
    rows, shop, random = 40, bench.shop, Random(5)
    shop.latency, shop.fail_rate, shop.drop_rate = 0.03, 0.02, 0.01
    path = bench.write(*(f"p{n}" for n in range(rows)))
    options = ("--max-in-flight", "6", "--passes", "9", "--images", place)
    torture = Torture(path, bench.out, shop.url, random, options)
    images: dict[str, bytes] = {}
    for turn in range(3):
        process = await torture.start()
        ended = asyncio.ensure_future(process.communicate())
        asked = asyncio.ensure_future(shop.wait_for(len(shop.asked) + random.randrange(1, 12)))
        await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
        assert asked.done(), (await ended)[1].decode()
        process.kill()
        await ended
        now = images_in(place)
        assert images.items() <= now.items(), "an image was written over"
        images = now
        if turn % 2:
            shutil.rmtree(bench.out)
        else:
            (bench.out / "job.sqlite").unlink()
            (bench.out / "metadata.jsonl").unlink(missing_ok=True)

    summary = await torture.run_to_end()
    assert set(shop.sold.values()) == {1}, "nothing was paid twice unasked"
    objects = stored(place)
    claims = {name.removesuffix(".json") for name in objects if re.match(r"\d+/.*json", name)}
    there = {name.removesuffix(".png") for name in objects if name.endswith(".png")}
    assert len(claims - there) == summary["in_doubt"] == rows - len(there)
    spent, in_doubt = torture.bill()
    assert (summary["spent"], summary["credits_in_doubt"]) == (spent, in_doubt)
    assert spent <= 3 * sum(shop.sold.values()) <= spent + in_doubt

    shutil.rmtree(bench.out)
    shop.fail_rate = shop.drop_rate = 0.0
    summary = await torture.run_to_end("--resend-doubtful")
    assert summary["ending"] == "complete"
    assert len(shop.sold) == rows, "a row keeps its seed"
    spent, in_doubt = torture.bill()
    assert spent <= 3 * sum(shop.sold.values()) <= spent + in_doubt
    after = stored(place)
    assert all(after[f"{stem}.png"] == objects[f"{stem}.png"] for stem in there)
    assert len(bench.lines()) == rows


async def test_what_was_made_anew_is_moved_with_its_facts(bench: Bench, place: str) -> None:
    """So the bill of a job that was lost is whole, replaced images and missing ones included."""
    bench.shop.script = {"b": ["filtered", "filtered"], "c": ["filtered"]}
    path = bench.write("a", {"prompt": "b", "id": "b"}, "c")
    await bench.run(path, images=place)
    await bench.run(path, images=place, retry="filtered")
    summary = await bench.run(path, images=place, retry="filtered")
    assert (summary.ending, summary.spent) == ("complete", 18.0)
    lines, costs, objects = bench.lines(), bill(bench.out), images_in(place)
    assert sum(name.startswith("replaced/") for name in objects) == 3

    shutil.rmtree(bench.out)
    assert (await bench.run(path, images=place)).requests == 0
    assert bill(bench.out) == costs
    assert sorted(map(str, bench.lines())) == sorted(map(str, lines))
    assert images_in(place) == objects

    gone = next(name for name in objects if name.startswith("0000/000001-"))
    obstore.delete(obstore.store.from_url(place), gone)
    summary = await bench.run(path, images=place)
    assert (summary.missing, summary.requests) == (1, 0)
    summary = await bench.run(path, images=place, remake_missing=True)
    assert (summary.ending, summary.done, summary.spent) == ("complete", 1, 21.0)
    shutil.rmtree(bench.out)
    summary = await bench.run(path, images=place)
    assert (summary.ending, summary.requests, summary.spent) == ("complete", 0, 21.0)
    assert 3 * sum(bench.shop.sold.values()) == 21


def images_in(url: str) -> dict[str, bytes]:
    return {name: data for name, data in stored(url).items() if name.endswith(".png")}


class _Forgetful:
    """An S3-compatible server that takes no notice of conditions: a relay before a real one."""

    def __init__(self, behind: str, status: int | None = None) -> None:
        self._behind = behind
        self._status = status
        self.writes: Counter[str] = Counter()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._relay)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with aiohttp.ClientSession(auto_decompress=False) as self._session:
                yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _relay(self, request: web.Request) -> web.Response:
        headers = request.headers.copy()
        if self._status is not None and ("If-None-Match" in headers or "If-Match" in headers):
            text = "<Error><Code>NotImplemented</Code><Message>A header</Message></Error>"
            return web.Response(status=self._status, text=text, content_type="application/xml")
        for name in ("If-None-Match", "If-Match"):
            headers.popall(name, None)
        if request.method == "PUT":
            self.writes[request.path] += 1
        url = URL(self._behind + request.raw_path, encoded=True)
        data = await request.read()
        async with self._session.request(request.method, url, headers=headers, data=data) as answer:
            drop = {"Transfer-Encoding", "Connection", "Date", "Server"}
            kept = CIMultiDict((k, v) for k, v in answer.headers.items() if k not in drop)
            if request.method != "HEAD":
                kept.popall("Content-Length", None)
            return web.Response(status=answer.status, headers=kept, body=await answer.read())


@pytest.mark.parametrize("status", [None, 501])
async def test_a_server_without_conditions_is_noticed_and_each_name_looked_up(
    bench: Bench, server: str, bucket: str, status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = _Forgetful(server, status)
    async with relay.open() as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        bench.shop.script = {"b": ["drop"], "c": [500, 500]}
        path = bench.write("a", "b", "c")
        job = bench.job(path, images=bucket)
        async with bench.client() as client:
            await job.run(client)
        assert any("cannot refuse to overwrite" in note for note in job.notes)
        shutil.rmtree(bench.out)
        summary = await bench.run(path, images=bucket)
        assert (summary.skipped, summary.in_doubt, summary.requests) == (2, 1, 0)
        assert set(bench.shop.sold.values()) == {1}
    assert {count for name, count in relay.writes.items() if name.endswith(".png")} == {1}


async def test_an_export_reads_the_bucket(bench: Bench, bucket: str, tmp_path: Path) -> None:
    path = bench.write({"prompt": "a", "id": "a"}, "b")
    await bench.run(path, images=bucket)
    obstore.delete(obstore.store.from_url(bucket), ["0000/000001-a.png"])
    summary = await asyncio.to_thread(export_job, bench.out, tmp_path / "set", "imagefolder")
    assert (summary.media, summary.damaged) == (1, 1)
    [file] = (tmp_path / "set/images/00000").iterdir()
    [line] = [line for line in bench.lines() if line["text"] == "b"]
    assert file.read_bytes() == shop_image("b", str(line["seed"]))


async def test_a_job_keeps_its_images_in_one_place(bench: Bench, bucket: str) -> None:
    path = bench.write("a")
    await bench.run(path)
    with pytest.raises(JobError, match="in its folder, not in s3://"):
        await bench.run(path, images=bucket)


def make_one_of_two(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the first of two rows in the sandbox, with images in a bucket in `folder`."""
    needs.module("PIL")
    monkeypatch.chdir(folder)
    (folder / "p.txt").write_text("a fox\na hare\n")
    words = ["run", "p.txt", "--out", "out", "--sandbox", "--images", f"file://{folder}/images"]
    assert run([*words, "--limit", "1"]) == 0


def test_a_job_goes_on_where_its_images_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_one_of_two(tmp_path, monkeypatch)
    assert run(["run", "--out", "out", "--json"]) == 0
    assert '"done": 1, "skipped": 1' in capsys.readouterr().out
    assert len([*(tmp_path / "images").rglob("*.png")]) == 2


def test_the_record_of_an_earlier_version_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_one_of_two(tmp_path, monkeypatch)
    record = tmp_path / "images" / "stable-async-job.json"
    record.write_text(record.read_text().replace('"options":', '"begun":'))
    execute(tmp_path / "out" / "job.sqlite", "UPDATE job SET name = 'begun' WHERE name = 'options'")
    assert run(["run", "--out", "out", "--json"]) == 0
    assert '"done": 1, "skipped": 1' in capsys.readouterr().out


# What stands where an image belongs.


async def test_a_folder_where_an_image_belongs_is_named_and_the_image_is_spooled(
    bench: Bench, tmp_path: Path
) -> None:
    """No row is done without its image, however often the run is started again."""
    url = (tmp_path / "store").as_uri()
    in_the_way = tmp_path / "store/0000/000001-x.png"
    in_the_way.mkdir(parents=True)
    path = bench.write({"id": "x", "prompt": "a", "seed": 1})
    first = await bench.run(path, images=url)
    assert (first.ending, first.done, first.spent) == ("stopped", 0, 3.0)
    assert "it is spooled" in str(first.error)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"000001-x\.png is in the way: move it away"):
            await bench.run(path, images=url)
    in_the_way.rmdir()
    assert (await bench.run(path, images=url)).ending == "complete"
    assert in_the_way.read_bytes() == shop_image("a", "1")
    assert bench.shop.sold.total() == 1


async def test_an_image_is_spooled_though_its_facts_are_unreadable(
    bench: Bench, tmp_path: Path
) -> None:
    store = (tmp_path / "store").as_uri()
    (bench.folder / "fox.png").write_bytes(sample_image())
    row = {"id": "x", "service": "upscale-creative", "prompt": "a", "seed": 1, "image": "fox.png"}
    path = bench.write(row)
    bench.shop.not_ready = 1_000_000
    async with StabilityClient(
        "sk", base_url=bench.shop.url, poll_interval=0.0, result_timeout=0.01
    ) as hasty:
        await bench.job(path, images=store).run(hasty)
    (tmp_path / "store/0000/000001-x.json").write_bytes(b"no facts")
    [generation] = bench.shop.generations.values()
    generation[2] = 0
    summary = await bench.run(path, images=store)
    assert (summary.ending, summary.spent) == ("stopped", 60.0)
    assert "000001-x.json is not readable" in str(summary.error)
    [spooled] = bench.out.glob("spooled/0000/*.png")
    assert spooled.read_bytes() == shop_image("a", "1")
