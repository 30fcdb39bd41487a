"""Network outages during a job: nothing is lost, and nothing is paid twice."""

from __future__ import annotations

import asyncio
from math import log2
from typing import TYPE_CHECKING

import pytest

from stable_async.jobs.gate import REFUSALS
from stable_async.transport import polling
from tests.raw_server import answer, raw_server
from tests.samples import sample_image

if TYPE_CHECKING:
    from stable_async.jobs import Summary
    from tests.jobs.conftest import Bench
    from tests.raw_server import Connection

pytestmark = pytest.mark.usefixtures("nothing_leaks")

ROWS = 160
AT_A_TIME = 16
PROBE_AFTER = 0.01


async def run_through(bench: Bench, edge: int | str) -> tuple[Summary, int]:
    """Run a job whose network goes away and comes back after a few probes.

    Return also the most probes that fit into the outage, each wait being twice the one before.
    """
    clock = asyncio.get_running_loop().time
    shop = bench.shop
    shop.latency = 0.002
    path = bench.write(*(f"p{n}" for n in range(ROWS)))
    async with bench.client() as client:
        job = bench.job(
            path,
            max_in_flight=AT_A_TIME,
            budget=3.0 * ROWS,
            probe_after=PROBE_AFTER,
            outage_limit=60.0,
        )
        running = asyncio.ensure_future(job.run(client))
        await shop.wait_for(ROWS // 4)
        began = clock()
        if edge == "closed":
            shop.keep_alive = False
            await shop.close_door()
        else:
            shop.edge = edge
        while job.progress.outage is None:
            await asyncio.sleep(0.001)
        before = len(shop.asked)
        while edge != "closed" and len(shop.asked) < before + 3:
            await asyncio.sleep(0.001)
        most = int(log2((clock() - began) / PROBE_AFTER + 1)) + 1
        shop.edge = None
        if edge == "closed":
            await shop.open_door()
        return await running, most


@pytest.mark.parametrize("edge", [403, 404, 521, 523, 525, 526, 530, "closed"])
async def test_an_outage_that_bills_nothing_costs_nothing(bench: Bench, edge: int | str) -> None:
    """A budget that is just enough is enough, and every row is made."""
    summary, _ = await run_through(bench, edge)
    assert (summary.ending, summary.done) == ("complete", ROWS)
    assert (summary.spent, summary.credits_in_doubt) == (3.0 * ROWS, 0.0)
    assert set(bench.shop.sold.values()) == {1}
    assert len(bench.shop.sold) == ROWS


@pytest.mark.parametrize("edge", [502, 503, 504, 520, 524, "cut"])
async def test_an_outage_that_may_bill_leaves_few_rows_in_doubt(
    bench: Bench, edge: int | str
) -> None:
    """What was in flight, a few that tell an outage, and one for each probe."""
    bench.shop.edge_sells = 0.5
    summary, most_probes = await run_through(bench, edge)
    assert summary.done + summary.in_doubt == ROWS
    assert summary.in_doubt <= AT_A_TIME + REFUSALS + most_probes
    sold = bench.shop.sold
    assert max(sold.values()) == 1
    assert summary.spent <= 3.0 * sold.total() <= summary.spent + summary.credits_in_doubt


async def test_images_that_are_all_cut_off_leave_few_rows_in_doubt(bench: Bench) -> None:
    """A proxy may cut each answer in the middle: its beginning proves nothing."""
    image = sample_image()

    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(image[:-20], length=len(image)))

    path = bench.write(*(f"p{n}" for n in range(50)))
    async with raw_server(serve) as url, bench.client(url=url) as client:
        summary = await bench.job(path, max_in_flight=4).run(client)
    assert (summary.ending, summary.done) == ("stopped", 0)
    assert summary.in_doubt <= REFUSALS + 4


@pytest.mark.parametrize("status", ["504 Gateway Timeout", "200 OK"])
async def test_doubtful_answers_of_the_api_itself_leave_few_rows_in_doubt(
    bench: Bench, status: str
) -> None:
    body = b'{"id": "x", "name": "timed_out", "errors": ["took too long"]}'

    async def serve(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(answer(body, status=status, content_type="application/json"))

    path = bench.write(*(f"p{n}" for n in range(50)))
    async with raw_server(serve) as url, bench.client(url=url) as client:
        summary = await bench.job(path, max_in_flight=4).run(client)
    assert (summary.ending, summary.done) == ("stopped", 0)
    assert summary.in_doubt <= REFUSALS + 4
    assert f"no result from {url}" in str(summary.error)


async def test_an_outage_that_does_not_end_stops_the_job_and_names_address_and_answer(
    bench: Bench,
) -> None:
    bench.shop.edge = 404
    path = bench.write(*(f"p{n}" for n in range(50)))
    async with bench.client() as client:
        job = bench.job(path, max_in_flight=8, probe_after=0.01, outage_limit=0.1)
        summary = await job.run(client)
    assert (summary.ending, summary.failed, summary.in_doubt) == ("stopped", 0, 0)
    assert bench.shop.url in str(summary.error)
    assert "404" in str(summary.error)
    assert summary.requests < 8 + REFUSALS + 8
    bench.shop.edge = None
    assert (await bench.run(path, change=True)).ending == "complete"


async def test_whatever_the_way_says_to_looks_every_generation_is_fetched(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "FIRST_PAUSE", 1e-6)  # it doubles with each look that fails
    (bench.folder / "fox.png").write_bytes(sample_image())
    rows = [
        {"service": "upscale-creative", "prompt": f"p{number}", "image": "fox.png"}
        for number in range(8)
    ]
    statuses = ("404 x", "502 x", "503 x", "504 x", "521 x", "524 x", "403 x", "200 x", "500 x")
    image = answer(sample_image())
    ways = [*(answer(b"<html>", status=status) for status in statuses), b"", image[:-9]]
    looks: dict[str, int] = {}
    submitted = 0

    async def serve(connection: Connection) -> None:
        nonlocal submitted
        head = await connection.head()
        length = head.lower().partition("content-length: ")[2].partition("\r\n")[0]
        await connection.reader.readexactly(int(length or 0))
        if head.startswith("POST"):
            submitted += 1
            reply = answer(b'{"id": "g%d"}' % submitted, content_type="application/json")
        else:
            generation = head.partition(" HTTP")[0]
            looks[generation] = looks.get(generation, -1) + 1
            reply = ([*ways, image])[min(looks[generation], len(ways))]
        await connection.send(reply.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))

    path = bench.write(*rows)
    async with raw_server(serve) as url, bench.client(url=url) as client:
        summary = await bench.job(path).run(client)
    assert (summary.ending, summary.done, summary.in_doubt) == ("complete", 8, 0)
    assert submitted == 8
    assert set(looks.values()) == {len(ways)}


async def test_a_page_of_a_firewall_refuses_no_row_for_good(bench: Bench) -> None:
    bench.shop.edge = 403
    path = bench.write("a", "b", "c", "d", "e")
    summary = await bench.run(path)
    assert (summary.ending, summary.failed, summary.credits) == ("stopped", 0, 0.0)


@pytest.mark.parametrize("status", [403, 400, 406, 521])
async def test_rows_that_alone_are_blocked_hold_up_no_others(bench: Bench, status: int) -> None:
    """A firewall may dislike the words of a prompt: the others are made, and it can wait."""

    async def serve(connection: Connection) -> None:
        while True:
            if b"<script>" in await connection.request():
                await connection.send(answer(b"<html>", status=f"{status} x"))
            else:
                await connection.send(answer(sample_image()))

    path = bench.write(*("<script> 1", "<script> 2"), *(f"p{n}" for n in range(40)))
    async with raw_server(serve) as url, bench.client(url=url) as client:
        job = bench.job(path, max_in_flight=4, probe_after=0.01, outage_limit=20.0)
        async with asyncio.timeout(20):
            summary = await job.run(client)
        assert (summary.ending, summary.done, summary.again) == ("incomplete", 40, 2)
        assert (summary.spent, summary.credits_in_doubt, summary.failed) == (120.0, 0.0, 0)
        assert summary.requests < 40 + 2 * 20
        assert str(status) in str(job.refused[0][2])


async def blocking(connection: Connection) -> None:
    """Answer as the API does, behind a firewall that dislikes some words."""
    while True:
        if b"<script>" in await connection.request():
            await connection.send(answer(b"<html>", status="403 x"))
        else:
            await connection.send(answer(sample_image()))


async def test_a_blocked_row_that_is_the_last_one_does_not_fail_the_job(bench: Bench) -> None:
    path = bench.write("p1", "p2", "<script>")
    async with raw_server(blocking) as url, bench.client(url=url) as client:
        job = bench.job(path, probe_after=0.01, outage_limit=0.1)
        async with asyncio.timeout(20):
            summary = await job.run(client)
    assert (summary.ending, summary.done, summary.again) == ("incomplete", 2, 1)
    assert (summary.spent, summary.credits_in_doubt) == (6.0, 0.0)
    assert "403" in str(job.refused[0][2])
    assert (await bench.run(path, change=True)).ending == "complete"


@pytest.mark.parametrize("max_in_flight", [1, 2])
async def test_blocked_rows_that_take_every_place_leave_it_to_others(
    bench: Bench, max_in_flight: int
) -> None:
    path = bench.write("<script> 1", "<script> 2", *(f"p{n}" for n in range(10)))
    async with raw_server(blocking) as url, bench.client(url=url) as client:
        job = bench.job(path, probe_after=0.001, outage_limit=60.0, max_in_flight=max_in_flight)
        async with asyncio.timeout(20):
            summary = await job.run(client)
    assert (summary.ending, summary.done, summary.again) == ("incomplete", 10, 2)
    assert summary.credits_in_doubt == 0.0


async def test_an_outage_with_one_row_at_a_time_is_waited_for(bench: Bench) -> None:
    refused = 0

    async def serve(connection: Connection) -> None:
        nonlocal refused
        while True:
            await connection.request()
            refused += 1
            if refused in range(3, 9):
                await connection.send(answer(b"<html>", status="521 x"))
            else:
                await connection.send(answer(sample_image()))

    path = bench.write(*(f"p{n}" for n in range(6)))
    async with raw_server(serve) as url, bench.client(url=url) as client:
        job = bench.job(path, probe_after=0.001, outage_limit=60.0, max_in_flight=1)
        summary = await job.run(client)
    assert (summary.ending, summary.done, summary.spent) == ("complete", 6, 18.0)


async def test_an_interrupt_ends_the_waiting_for_the_end_of_an_outage(bench: Bench) -> None:
    bench.shop.edge = 521
    path = bench.write(*(f"p{n}" for n in range(20)))
    async with bench.client() as client:
        job = bench.job(path, probe_after=1000.0, outage_limit=1000.0)
        running = asyncio.ensure_future(job.run(client))
        while job.progress.outage is None:
            await asyncio.sleep(0.001)
        job.interrupt()
        async with asyncio.timeout(10):
            assert (await running).ending == "interrupted"
