"""Images of rows for pipelines of any engine, against a sandbox; only the store has state."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from stable_async import Quota, StabilityClient
from stable_async.errors import AuthenticationError
from stable_async.jobs.errors import StorageError
from stable_async.jobs.maker import ImageMaker
from stable_async.jobs.storage.objects import Objects
from stable_async.sandbox import Sandbox
from tests.samples import sample_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROWS = [{"id": f"row {n}", "prompt": f"a lighthouse, take {n}", "weather": "fog"} for n in range(8)]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(counting="off") as one:
        yield one


@asynccontextmanager
async def maker_for(
    sandbox: Sandbox, folder: Path, **settings: object
) -> AsyncIterator[ImageMaker]:
    quota = Quota(scope="client")
    client = StabilityClient("sk-test", base_url=sandbox.url, quota=quota, poll_interval=0.02)
    async with client, ImageMaker(client, folder, **settings) as maker:  # type: ignore[arg-type]
        yield maker


def facts_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*/*.json"))]


async def test_rows_become_images_with_facts_beside_them(sandbox: Sandbox, tmp_path: Path) -> None:
    async with maker_for(sandbox, tmp_path) as maker:
        made = await asyncio.gather(*map(maker.make, ROWS))
    assert {one["state"] for one in made} == {"done"}
    assert all(one["made"] for one in made)
    for one in made:
        assert one["file_name"] is not None
        assert one["file_name"].startswith(tmp_path.as_uri())
    assert len(list(tmp_path.glob("*/*.png"))) == len(ROWS)
    assert all(facts["metadata"] == {"weather": "fog"} for facts in facts_of(tmp_path))


async def test_what_is_there_is_found_and_not_made_again(sandbox: Sandbox, tmp_path: Path) -> None:
    async with maker_for(sandbox, tmp_path) as maker:
        first = [await maker.make(row) for row in ROWS]
    async with maker_for(sandbox, tmp_path) as maker:
        second = [await maker.make(row) for row in ROWS]
    assert [{**one, "made": False} for one in first] == second
    assert sandbox.charges().requests == len(ROWS)


async def test_seeds_come_from_ids(sandbox: Sandbox, tmp_path: Path) -> None:
    """So that a row has the same seed on any machine, and another row has another seed."""
    async with maker_for(sandbox, tmp_path / "one") as maker:
        first = [await maker.make(row) for row in ROWS]
    async with maker_for(sandbox, tmp_path / "two") as maker:
        second = [await maker.make(row) for row in reversed(ROWS)]
    seeds = [one["seed"] for one in first]
    assert seeds == [one["seed"] for one in reversed(second)]
    assert len(set(seeds)) == len(ROWS)


async def test_what_was_in_flight_when_it_was_killed_is_in_doubt(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """Claims are in the store before requests leave. Nothing is sent again unasked."""
    async with maker_for(sandbox, tmp_path) as maker:
        sandbox.delay(3600.0)
        making = [asyncio.ensure_future(maker.make(row)) for row in ROWS]
        while sandbox.statistics.in_flight < len(ROWS):
            await asyncio.sleep(0.01)
        assert len(facts_of(tmp_path)) == len(ROWS)
        for task in making:
            task.cancel()
        await asyncio.gather(*making, return_exceptions=True)
    sandbox.reset()
    async with maker_for(sandbox, tmp_path) as maker:
        doubtful = [await maker.make(row) for row in ROWS]
    assert {(one["state"], one["made"]) for one in doubtful} == {("in doubt", False)}
    assert all(one["credits"] == 3.0 for one in doubtful)
    assert sandbox.charges().requests == 0
    async with maker_for(sandbox, tmp_path, resend_doubtful=True) as maker:
        again = [await maker.make(row) for row in ROWS]
    assert {one["state"] for one in again} == {"done"}
    assert all(len(facts["charges"]) == 2 for facts in facts_of(tmp_path))  # type: ignore[arg-type]


async def test_a_refusal_is_an_answer_and_stays_one(sandbox: Sandbox, tmp_path: Path) -> None:
    row = {"id": "x", "prompt": "a sandbox:moderated thing"}
    async with maker_for(sandbox, tmp_path) as maker:
        first = await maker.make(row)
        second = await maker.make(row)
    assert (first["state"], first["made"]) == ("failed", True)
    assert (second["state"], second["made"]) == ("failed", False)
    assert first["credits"] is None


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"prompt": "x"}, "id: missing"),
        ({"id": ["1"], "prompt": "x"}, "id: given"),
        ({"id": "1"}, "prompt"),
        ({"id": "1", "prompt": " \u200b"}, "given blank text"),
        ({"id": "1", "prompt": "x", "aspect_ratio": "7:1"}, "aspect_ratio"),
        ({"id": "1", "prompt": "x", "service": "video"}, "video"),
    ],
)
async def test_a_row_that_makes_no_sense_is_told_and_costs_nothing(
    sandbox: Sandbox, tmp_path: Path, row: dict[str, object], word: str
) -> None:
    async with maker_for(sandbox, tmp_path) as maker:
        made = await maker.make(row)
    assert made["state"] == "failed"
    assert word in str(made["error"])
    assert sandbox.charges().requests == 0


async def test_a_key_that_is_refused_ends_the_pipeline(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.fail_next(401)
    async with maker_for(sandbox, tmp_path) as maker:
        with pytest.raises(AuthenticationError):
            await maker.make(ROWS[0])
        # Nothing was billed, so that the row is not in doubt.
        assert (await maker.make(ROWS[0]))["state"] == "done"


async def test_a_budget_is_kept(sandbox: Sandbox, tmp_path: Path) -> None:
    async with maker_for(sandbox, tmp_path, budget=10.0) as maker:
        made = await asyncio.gather(*map(maker.make, ROWS))
    states = [one["state"] for one in made]
    assert (states.count("done"), states.count("waiting")) == (3, 5)
    assert {one["reason"] for one in made} == {None, "budget"}


async def test_two_makers_of_one_row_send_it_once(sandbox: Sandbox, tmp_path: Path) -> None:
    """As when an engine repeats a task whose first run is still alive."""
    async with maker_for(sandbox, tmp_path) as one, maker_for(sandbox, tmp_path) as other:
        await asyncio.gather(one.make(ROWS[0]), other.make(ROWS[0]))
    assert sandbox.charges().requests == 1


async def test_asynchronous_services_are_fetched_by_their_ids(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """A generation that was accepted is paid for: another maker fetches it and pays nothing."""
    image = tmp_path / "in.png"
    Image.new("RGB", (512, 512)).save(image)
    row = {"id": "up", "service": "upscale-creative", "prompt": "x", "image": str(image)}
    sandbox.keep_running(30)
    async with maker_for(sandbox, tmp_path / "images") as maker:
        making = asyncio.ensure_future(maker.make(row))
        while not any(entry["charges"][-1]["generation_id"] for entry in ups(tmp_path)):  # type: ignore[index]
            await asyncio.sleep(0.02)
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
    async with maker_for(sandbox, tmp_path / "images") as maker:
        assert (await maker.make(row))["state"] == "done"


def ups(folder: Path) -> list[dict[str, object]]:
    return [facts for facts in facts_of(folder / "images") if facts["id"] == "up"]


async def test_a_place_that_takes_no_images_is_told_before_anything_is_sent(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        async with maker_for(sandbox, tmp_path / "file"):
            pass


async def test_an_image_that_came_while_the_store_was_away_is_spooled(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, spool = tmp_path / "images", tmp_path / "spool"
    create = Objects.create

    async def away(self: Objects, path: str, data: bytes, *more: str) -> dict[str, str]:
        if path.endswith(".png"):
            raise OSError(5, "the store is away")
        return await create(self, path, data, *more)

    with monkeypatch.context() as patched:
        patched.setattr(Objects, "create", away)
        async with maker_for(sandbox, images, spool=spool) as maker:
            with pytest.raises(StorageError, match="it is spooled"):
                await maker.make(ROWS[0])
    assert not [*images.rglob("*.png")]
    async with maker_for(sandbox, images, spool=spool) as maker:
        again = await maker.make(ROWS[0])
    assert (again["state"], again["made"]) == ("done", False)
    assert len([*images.rglob("*.png")]) == 1
    assert not [*spool.rglob("*.png")]
    assert sandbox.charges().requests == 1


async def test_makers_may_share_a_spool(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, spool = tmp_path / "images", tmp_path / "spool"
    for number in range(2):
        (spool / f"{number}").mkdir(parents=True)
        (spool / f"{number}/a.png").write_bytes(sample_image())
    create = Objects.create_now

    def slowly(self: Objects, path: str, data: bytes, *more: str) -> None:
        create(self, path, data, *more)
        for file in spool.glob("*/*"):  # another maker moves all of them meanwhile
            create(self, file.relative_to(spool).as_posix(), file.read_bytes(), *more)
            file.unlink()

    monkeypatch.setattr(Objects, "create_now", slowly)
    async with maker_for(sandbox, images, spool=spool):
        assert len([*images.glob("*/a.png")]) == 2


def test_ray_offers_all_that_a_maker_has() -> None:
    source = Path(inspect.getfile(ImageMaker)).parents[1] / "integrations/ray.py"
    calls = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Call)]
    [call] = [one for one in calls if getattr(one.func, "id", "") == "ImageMaker"]
    passed = {word.arg for word in call.keywords}
    parameters = inspect.signature(ImageMaker).parameters.values()
    assert passed == {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}
