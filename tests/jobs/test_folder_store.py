"""Images in the folder of a job: stored in steps, found by name, spooled when they must be."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stable_async.api.media_types import sniff
from stable_async.files import AtomicFile
from stable_async.jobs.kinds import AUDIO
from stable_async.jobs.row import ImageFacts
from stable_async.jobs.shard import WHOLE
from stable_async.jobs.storage.base import (
    FILE_SUFFIXES,
    HEAD_SIZE,
    SpooledError,
    content_type_of,
    file_suffix,
)
from stable_async.jobs.storage.folder import FolderStore
from stable_async.media import CONTENT_FILTERED
from tests.jobs.shop import shop_image
from tests.jobs.test_ledger import new_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stable_async.jobs.row import Row
    from stable_async.jobs.storage.folder import _FolderWriter

IMAGE = shop_image("a", "1")
ROWS = [new_row(n, identity) for n, identity in enumerate("abc", 1)]
NAMES = [f"images/0000/00000{n}-{identity}.png" for n, identity in enumerate("abc", 1)]


@pytest.mark.parametrize(
    ("head", "suffix"),
    [
        (b"\x89PNG\r\n\x1a\n", ".png"),
        (b"\xff\xd8\xff", ".jpg"),
        (b"RIFF    WEBP", ".webp"),
        (b"GIF89a", ".gif"),
        (b"    ftypavif", ".avif"),
        (b"ID3", ".mp3"),
        (b"RIFF    WAVE", ".wav"),
        (b"OggS", ".ogg"),
        (b"fLaC", ".flac"),
        (b"    ftypM4A ", ".m4a"),
        (b"glTF", ".glb"),
    ],
)
def test_a_file_of_any_kind_that_is_recognised_is_named_after_it(head: bytes, suffix: str) -> None:
    """A CDN that optimises images makes AVIF of them."""
    kind = sniff(head)
    assert file_suffix(kind) == suffix
    assert file_suffix(kind, filtered=True) == f".filtered{suffix}"
    assert content_type_of(f"0000/000001-a{suffix}") == kind
    assert suffix in FILE_SUFFIXES


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path)


def facts(row: Row, content_type: str = "image/png", *, filtered: bool = False) -> ImageFacts:
    """Return what is known of an image before it is stored."""
    reason = CONTENT_FILTERED if filtered else "SUCCESS"
    return ImageFacts(row.position, content_type=content_type, finish_reason=reason)


async def keep(
    images: _FolderWriter,
    row: Row,
    *chunks: bytes,
    last: Sequence[bytes] = (),
    content_type: str = "image/png",
    filtered: bool = False,
) -> ImageFacts:
    stored = facts(row, content_type, filtered=filtered)
    sink = images.sink(row, stored)
    for chunk in chunks:
        await sink.write([chunk])
    await sink.commit(last)
    return stored


@pytest.mark.parametrize(
    ("content_type", "filtered", "end"),
    [("image/png", False, ".png"), ("image/png", True, ".filtered.png"),
     ("image/jpeg", True, ".filtered.jpg"), ("image/webp", False, ".webp")],
)  # fmt: skip
async def test_an_image_is_found_as_it_was_stored(
    store: FolderStore, tmp_path: Path, content_type: str, filtered: bool, end: str
) -> None:
    async with store.writing() as images:
        stored = await keep(
            images,
            ROWS[0],
            IMAGE[:10],
            IMAGE[10:40],
            last=[IMAGE[40:50], IMAGE[50:]],
            content_type=content_type,
            filtered=filtered,
        )
    assert stored.file_name == f"images/0000/000001-a{end}"
    assert (tmp_path / stored.file_name).read_bytes() == IMAGE
    assert (stored.bytes, stored.sha256) == (len(IMAGE), sha256(IMAGE).hexdigest())
    assert (stored.width, stored.height, stored.filtered) == (65, 64, filtered)
    assert stored.content_type == content_type
    found = store.find(1, "a")
    assert found is not None
    assert (found.file_name, found.bytes, found.sha256) == (
        stored.file_name, stored.bytes, stored.sha256,
    )  # fmt: skip
    assert (found.width, found.height, found.filtered) == (65, 64, filtered)
    assert found.content_type == "image/png", "by its bytes"
    assert store.size_of(stored.file_name) == len(IMAGE)
    assert [*store.images()] == [(1, "a")]
    assert store.find(1, "b") is None
    assert store.find(1000, "a") is None


async def test_the_head_of_a_large_image_is_enough(store: FolderStore) -> None:
    data = IMAGE + b"x" * (2 * HEAD_SIZE)
    async with store.writing() as images:
        pieces = [data[at : at + 1000] for at in range(0, len(data), 1000)]
        stored = await keep(images, ROWS[0], *pieces)
    assert (stored.width, stored.bytes) == (65, len(data))
    assert stored.sha256 == sha256(data).hexdigest()
    found = store.find(1, "a")
    assert found is not None
    assert (found.sha256, found.bytes) == (stored.sha256, stored.bytes)


async def test_images_of_another_kind_have_their_own_folder(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, AUDIO)
    assert store.names_in_job == ("audio",)
    async with store.writing() as images:
        stored = await keep(images, ROWS[0], b"ID3", content_type="audio/mpeg")
    assert stored.file_name == "audio/0000/000001-a.mp3"


class Steps:
    """What is done to the disk, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        fsync, replace, advise = os.fsync, os.replace, os.posix_fadvise

        def name(descriptor: int) -> str:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            return path.name.lstrip(".").split(".")[0]

        def noting_fsync(descriptor: int) -> None:
            self.done.append(f"sync {name(descriptor)}")
            fsync(descriptor)

        def noting_replace(source: str, target: str) -> None:
            self.done.append(f"rename {Path(target).name.lstrip('.').split('.')[0]}")
            replace(source, target)

        def noting_advise(descriptor: int, *rest: int) -> None:
            self.done.append(f"begin {name(descriptor)}")
            advise(descriptor, *rest)

        monkeypatch.setattr(os, "fsync", noting_fsync)
        monkeypatch.setattr(os, "replace", noting_replace)
        monkeypatch.setattr(os, "posix_fadvise", noting_advise)


async def test_images_that_come_together_take_each_step_together(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new folder is on the disk before its first image, which syncs no folder twice."""
    async with store.writing() as images:
        await keep(images, ROWS[0], IMAGE)
        steps = Steps(monkeypatch)
        sinks = [images.sink(row, facts(row)) for row in (*ROWS[1:], new_row(1000, "d"))]
        for sink in sinks:
            await sink.write([IMAGE])
        assert steps.done == ["sync images", f"sync {tmp_path.name}"]
        steps.done.clear()
        assert images._keep(sinks) == [None] * 3
    names = ["000002-b", "000003-c", "001000-d"]
    expected = [f"{step} {name}" for step in ("begin", "sync", "rename") for name in names]
    assert steps.done[:9] == expected
    assert sorted(steps.done[9:]) == ["sync 0000", "sync 0001"]


async def test_an_image_that_is_discarded_leaves_no_trace(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store.writing() as images:
        for chunks in ([], [IMAGE]):
            sink = images.sink(ROWS[0], facts(ROWS[0]))
            for chunk in chunks:
                await sink.write([chunk])
            steps = Steps(monkeypatch)
            await sink.discard()
            assert steps.done == []
            assert not [*tmp_path.glob("images/*/*")]
            monkeypatch.undo()
        sink = images.sink(ROWS[0], facts(ROWS[0]))
        await sink.commit([IMAGE])
        await sink.discard()
    assert [path.name for path in tmp_path.glob("images/*/*")] == ["000001-a.png"]


async def test_an_image_whose_caller_was_cancelled_is_discarded_after_it_was_stored(
    store: FolderStore, tmp_path: Path
) -> None:
    async with store.writing() as images:
        sink = images.sink(ROWS[0], facts(ROWS[0]))
        committing = asyncio.ensure_future(sink.commit([IMAGE]))
        await asyncio.sleep(0)
        committing.cancel()
        await sink.discard()
        with pytest.raises(asyncio.CancelledError):
            await committing
    assert not [*tmp_path.glob("images/*/.*")]


def refuse(monkeypatch: pytest.MonkeyPatch, step: str, *stems: str) -> None:
    """Let a step of some images fail, in the folder where they belong."""
    whole = getattr(AtomicFile, step)

    def failing(self: AtomicFile, *rest: object) -> None:
        if "/images/" in self.path and any(stem in self.path for stem in stems):
            raise OSError(errno.EROFS, "Read-only file system", self.path)
        whole(self, *rest)

    monkeypatch.setattr(AtomicFile, step, failing)


@pytest.mark.parametrize("step", ["write", "begin_sync", "sync", "commit"])
async def test_one_image_that_cannot_be_stored_is_spooled_and_spoils_no_other(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async with store.writing() as images:
        sinks = [images.sink(row, facts(row)) for row in ROWS]
        for sink in sinks:
            await sink.write([IMAGE[:50]])
        with monkeypatch.context() as patch:
            refuse(patch, step, "000002-b")
            results = await asyncio.gather(
                *(sink.commit([IMAGE[50:]]) for sink in sinks), return_exceptions=True
            )
        error = results[1]
        assert isinstance(error, SpooledError)
        assert (error.errno, error.strerror) == (errno.EROFS, "Read-only file system")
        assert not any(isinstance(results[at], Exception) for at in (0, 2))
    assert (tmp_path / "spooled" / "0000" / "000002-b.png").read_bytes() == IMAGE
    stored = sorted(path.name for path in tmp_path.glob("images/0000/*"))
    assert stored == ["000001-a.png", "000003-c.png"]
    assert sorted(store.images()) == [(1, "a"), (2, "b"), (3, "c")]
    steps = Steps(monkeypatch)
    found = store.find(2, "b")
    assert found is not None
    assert found.file_name == NAMES[1]
    assert (tmp_path / NAMES[1]).read_bytes() == IMAGE
    assert steps.done == ["sync 000002-b", "rename 000002-b", "sync 0000"]
    assert not [*tmp_path.glob("spooled/*/*")]


async def test_an_image_that_no_folder_takes_is_lost_with_its_first_error(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store.writing() as images:
        sink = images.sink(ROWS[0], facts(ROWS[0]))
        await sink.write([IMAGE])
        refuse(monkeypatch, "sync", "")

        def full(*_: object) -> AtomicFile:
            raise OSError(errno.ENOSPC, "No space left")

        monkeypatch.setattr(images.spool, "open", full)
        with pytest.raises(OSError, match="Read-only") as caught:
            await sink.commit([])
        assert not isinstance(caught.value, SpooledError)
        await sink.discard()


async def test_a_spool_that_fails_as_well_is_continued_elsewhere(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up takes the beginning of an image, and not its end."""
    elsewhere = tmp_path / "elsewhere"
    async with store.writing() as images:
        monkeypatch.setattr(images.spool, "folders", (tmp_path / "spooled", elsewhere))
        write, full = AtomicFile.write, ["/images/"]

        def fail(self: AtomicFile, chunks: Sequence[bytes]) -> None:
            if any(place in self.path for place in full):
                raise OSError(errno.ENOSPC, "No space left", self.path)
            write(self, chunks)

        monkeypatch.setattr(AtomicFile, "write", fail)
        sink = images.sink(ROWS[0], facts(ROWS[0]))
        await sink.write([IMAGE[:50]])
        full.append("/spooled/")
        await sink.write([IMAGE[50:90]])
        with pytest.raises(SpooledError, match="No space left"):
            await sink.commit([IMAGE[90:]])
        assert (elsewhere / "0000" / "000001-a.png").read_bytes() == IMAGE
        assert not [path for path in (tmp_path / "spooled").rglob("*") if path.is_file()]
        full.append("/elsewhere/")
        sink = images.sink(ROWS[1], facts(ROWS[1]))
        with pytest.raises(OSError, match="No space left") as caught:
            await sink.write([IMAGE])
        assert not isinstance(caught.value, SpooledError)
        await sink.discard()


@pytest.mark.parametrize("first", [0, 50])
async def test_an_image_is_spooled_whole_or_not_at_all(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """A full disk would take it without its last bytes."""
    async with store.writing() as images:
        monkeypatch.setattr(images.spool, "folders", (tmp_path / "spooled", tmp_path / "elsewhere"))
        write = AtomicFile.write

        def take_little(self: AtomicFile, chunks: Sequence[bytes]) -> None:
            if sum(map(len, chunks)) > 50:
                raise OSError(errno.ENOSPC, "No space left", self.path)
            write(self, chunks)

        monkeypatch.setattr(AtomicFile, "write", take_little)
        sink = images.sink(ROWS[0], facts(ROWS[0]))
        if first:
            await sink.write([IMAGE[:first]])
        with pytest.raises(OSError, match="No space left") as caught:
            await sink.commit([IMAGE[first:]])
        assert not isinstance(caught.value, SpooledError)
        await sink.discard()
    assert not [path for path in tmp_path.rglob("000001-a*") if path.is_file()]


async def test_folders_are_made_as_they_are_needed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "new" / "job")
    for _ in range(2):
        async with store.writing() as images:
            await keep(images, ROWS[0], IMAGE)
    async with store.writing() as images:
        shutil.rmtree(tmp_path / "new" / "job" / "images")
        await keep(images, ROWS[0], IMAGE)
    shutil.rmtree(tmp_path / "new" / "job" / "images")
    put(tmp_path / "new" / "job" / "spooled", "0007/007000-x.png")
    found = store.find(7000, "x")
    assert found is not None
    assert found.file_name == "images/0007/007000-x.png"


async def test_a_folder_that_cannot_be_made_spools(store: FolderStore, tmp_path: Path) -> None:
    async with store.writing() as images:
        (tmp_path / "images" / "0000").write_text("a file")
        with pytest.raises(SpooledError):
            await keep(images, ROWS[0], IMAGE)
    assert (tmp_path / "spooled" / "0000" / "000001-a.png").read_bytes() == IMAGE


def put(folder: Path, *names: str, data: bytes = IMAGE) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def test_missing_images_are_named(store: FolderStore, tmp_path: Path) -> None:
    put(tmp_path, *NAMES[:2])
    (tmp_path / "images" / "0002").write_text("a file")
    names = [*NAMES, "images/0001/001000-d.png", "images/0002/002000-e.png"]
    assert store.missing(names) == names[2:]
    assert store.missing([]) == []


def test_images_are_listed_with_position_and_id(store: FolderStore, tmp_path: Path) -> None:
    put(tmp_path, *NAMES, "images/0000/notes.txt", "images/000009-x.png")
    assert sorted(store.images()) == [(1, "a"), (2, "b"), (3, "c")]


def test_only_files_of_this_folder_are_owned(store: FolderStore, tmp_path: Path) -> None:
    assert store.owns("images/0000/000001-a.png")
    assert not store.owns("s3://bucket/000001-a.png")
    put(tmp_path, NAMES[0])
    sizes = [store.size_of(name) for name in (NAMES[0], NAMES[1], "a\0b", f"{NAMES[0]}/x")]
    assert sizes == [len(IMAGE), None, None, None]


def test_replaced_images_move_aside(store: FolderStore, tmp_path: Path) -> None:
    put(tmp_path, *NAMES[:2])
    for name in (NAMES[0], NAMES[1], NAMES[2]):
        assert store.retire(name) == f"replaced/{Path(name).name}"
    assert sorted(path.name for path in (tmp_path / "replaced").iterdir()) == [
        "000001-a.png", "000002-b.png",
    ]  # fmt: skip


def test_each_run_leaves_its_token(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.last_run(WHOLE) is None
    store.probe()
    steps = Steps(monkeypatch)
    token = store.begin_run(WHOLE)
    assert steps.done == ["sync last-run", "rename last-run", "sync images"]
    assert (store.last_run(WHOLE), len(token)) == (token, 32)
    assert store.begin_run(WHOLE) != token
    (tmp_path / "images" / ".last-run").write_bytes(b"\xff")
    assert store.last_run(WHOLE) is None
    shutil.rmtree(tmp_path / "images")
    (tmp_path / "images").write_text("a file")
    assert store.last_run(WHOLE) is None


def test_a_folder_is_proved_as_an_image_is_stored(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch)
    store.probe()
    assert steps.done == ["sync probe", "rename probe", "sync images"]
    assert [*(tmp_path / "images").iterdir()] == []
    for step in ("write", "sync"):
        store.probe()
        with monkeypatch.context() as patch:
            refuse(patch, step, "")
            with pytest.raises(OSError, match="Read-only"):
                store.probe()
    assert [*(tmp_path / "images").iterdir()] == []


def test_half_written_files_of_the_dead_are_removed(store: FolderStore, tmp_path: Path) -> None:
    left = [f"{folder}/.x.png.{'0' * 16}-{'1' * 16}.part" for folder in ("images", "images/0001")]
    put(tmp_path, *left, NAMES[0], "images/note")
    store.tidy()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "000001-a.png", "note",
    ]  # fmt: skip


def test_the_fullest_disk_counts(
    store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {tmp_path: 7, tmp_path / "images": 5}

    class Usage:
        def __init__(self, folder: Path) -> None:
            self.free = free[folder]

    monkeypatch.setattr(shutil, "disk_usage", Usage)
    assert store.free_space() == 7
    (tmp_path / "images").mkdir()
    assert store.free_space() == 5
    free[tmp_path] = 3
    assert store.free_space() == 3


def test_a_folder_keeps_no_facts(store: FolderStore) -> None:
    assert not store.keeps_facts
    assert [*store.facts(["a", "b"])] == [None, None]
    assert [*store.all_facts(lambda _: True)] == []
