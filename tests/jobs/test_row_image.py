"""Requesting and storing the image of one row, step by step, without a job around it."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from stable_async.errors import NotFoundError
from stable_async.files import AtomicFile
from stable_async.jobs.errors import StorageError
from stable_async.jobs.row import ImageFacts
from stable_async.jobs.row_image import make_image
from stable_async.jobs.storage.folder import FolderStore
from tests.jobs.shop import shop_image
from tests.jobs.test_ledger import new_row
from tests.raw_server import Connection, answer, raw_server
from tests.samples import sample_image

if TYPE_CHECKING:
    from stable_async.errors import APIStatusError
    from stable_async.jobs.row import Result, Row
    from tests.jobs.conftest import Bench


class Noted:
    """Notes the steps to an image."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.sent_at: float | None = None

    async def leaving(self) -> None:
        self.steps.append("leaving")
        self.sent_at = 7.5

    def refused(self, error: APIStatusError) -> None:
        self.steps.append(f"refused {error.status}")

    async def accepted(self, generation_id: str) -> None:
        self.steps.append(f"accepted {generation_id}")


async def make(bench: Bench, row: Row, *, url: str | None = None) -> tuple[Result, list[str]]:
    noted = Noted()
    async with bench.client(url=url) as client, FolderStore(bench.out).writing() as images:
        result = await make_image(client, images, bench.folder, row, noted)
    return result, noted.steps


@pytest.mark.parametrize("seed", [None, 9])
@pytest.mark.parametrize("filtered", [False, True])
async def test_an_image_comes_with_all_that_is_known_of_it(
    bench: Bench, seed: int | None, filtered: bool
) -> None:
    bench.shop.script = {"a": ["filtered"]} if filtered else {}
    row = new_row(1, "a", seed=seed)
    result, steps = await make(bench, row)
    assert (result.state, result.charge) == ("filtered" if filtered else "done", "spent")
    assert steps == ["leaving"]
    assert bench.shop.forms[0].get("seed") == (None if seed is None else "9")
    assert result.image is not None
    image = result.image
    assert image.finished_at is not None
    assert image == ImageFacts(
        position=1,
        file_name=f"images/0000/000001-a{'.filtered' if filtered else ''}.png",
        content_type="image/png",
        bytes=len(shop_image("a", "9" if seed else "")),
        sha256=image.sha256,
        width=65,
        height=64,
        seed=seed or 5,  # what the answer says
        finish_reason="CONTENT_FILTERED" if filtered else "SUCCESS",
        request_id="request-1",
        credits=3.0,
        sent_at=7.5,
        finished_at=image.finished_at,
    )
    assert (bench.out / image.file_name).is_file()


@pytest.mark.parametrize("in_json", [False, True])
async def test_an_answer_may_say_less_or_late(bench: Bench, in_json: bool) -> None:
    """With JSON all is known at the end only; an answer without a seed has that of its row."""
    facts = {
        "image": base64.b64encode(sample_image()).decode(),
        "finish_reason": "CONTENT_FILTERED",
    }

    async def serve(connection: Connection) -> None:
        await connection.request()
        body = json.dumps(facts).encode() if in_json else sample_image()
        kind = "application/json" if in_json else "image/png"
        await connection.send(answer(body, content_type=kind))

    async with raw_server(serve) as url:
        result, _ = await make(bench, new_row(1, "a", seed=9), url=url)
    assert result.state == ("filtered" if in_json else "done")
    assert result.image is not None
    assert result.image.seed == 9
    assert (bench.out / result.image.file_name).read_bytes() == sample_image()


async def test_a_generation_is_submitted_once(bench: Bench) -> None:
    (bench.folder / "in.png").write_bytes(sample_image())
    row = new_row(1, "a", service="upscale-creative")
    row.fields = {"prompt": "a", "image": "in.png"}
    result, steps = await make(bench, row)
    identity = row.generation_id
    assert identity is not None
    assert result.state == "done"
    assert steps == ["leaving", f"accepted {identity}"]
    assert bench.shop.sold.total() == 1
    result, steps = await make(bench, row)
    assert (result.state, steps) == ("done", []), "it is only fetched"
    assert bench.shop.sold.total() == 1
    row.generation_id = "0" * 64
    with pytest.raises(NotFoundError):
        await make(bench, row)


async def test_a_result_in_place_of_its_id_is_stored(bench: Bench) -> None:
    (bench.folder / "in.png").write_bytes(sample_image())
    row = new_row(1, "a", service="upscale-creative", seed=9)
    row.fields = {"prompt": "a", "image": "in.png"}

    async def serve(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer(sample_image(), headers="finish-reason: SUCCESS\r\n"))

    async with raw_server(serve) as url:
        result, steps = await make(bench, row, url=url)
    assert (result.state, result.charge, steps) == ("done", "spent", ["leaving"])
    assert row.generation_id is None
    assert result.image is not None
    assert (result.image.seed, result.image.content_type) == (9, "image/png")
    assert (bench.out / result.image.file_name).read_bytes() == sample_image()


@pytest.mark.parametrize("spooled", [False, True])
async def test_an_image_that_cannot_be_stored_says_where_it_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, spooled: bool
) -> None:
    write = AtomicFile.write

    def refuse(self: AtomicFile, *rest: object) -> None:
        if not (spooled and "/spooled/" in self.path):
            raise OSError(28, "No space left", self.path)
        write(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(AtomicFile, "write", refuse)
    with pytest.raises(StorageError, match="an image cannot be stored: No space left") as caught:
        await make(bench, new_row(1, "a"))
    assert caught.value.spooled == spooled
    monkeypatch.undo()
