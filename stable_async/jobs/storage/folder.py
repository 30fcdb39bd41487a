"""Stores images in the folder of the job."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from contextlib import asynccontextmanager
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING

from stable_async.files import AtomicFile, in_thread, sync_folder, write_atomically
from stable_async.jobs.batch_thread import BatchThread
from stable_async.jobs.kinds import IMAGE, MediaKind
from stable_async.jobs.storage.base import (
    FILE_SUFFIXES,
    HEAD_SIZE,
    SpooledError,
    dimensions,
    facts_of_file,
    file_stem,
    file_suffix,
    find_missing,
    parse_stems,
)
from stable_async.jobs.storage.owner import owner, remove_left_over
from stable_async.jobs.storage.spool import Spool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    from stable_async.jobs.row import ImageFacts, Row
    from stable_async.jobs.shard import Shard
    from stable_async.jobs.storage.claims import Claims
    from stable_async.jobs.storage.facts import RowFacts

__all__ = ["FolderStore"]

PROBE = ".probe"
# The token of the last run. It stays with the images where they and the ledger are restored from
# backups of different times.
LAST_RUN = ".last-run"


class FolderStore:
    """Images in `images/` of the job's folder, or media of another kind in their folder."""

    keeps_facts = False

    def __init__(self, folder: Path, kind: MediaKind = IMAGE) -> None:
        """Store images below `folder`, the job's."""
        self._job = folder
        self._kind = kind
        self._images = folder / kind.folder
        self._spool = Spool(folder)
        self.names_in_job: tuple[str, ...] = (kind.folder,)

    def probe(self) -> None:
        self._images.mkdir(exist_ok=True)
        write_atomically(self._images / PROBE, [b"probe"]).unlink()
        sync_folder(self._images)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[_FolderWriter]:
        self._images.mkdir(parents=True, exist_ok=True)
        with owner(self._images) as token:
            async with _FolderWriter(self._job, self._kind.folder, self._spool, token) as writer:
                yield writer

    def tidy(self) -> None:
        folders = [entry for entry in self._images.glob("*") if entry.is_dir()]
        remove_left_over(self._images, [self._images, *folders])

    def missing(self, file_names: Iterable[str]) -> list[str]:
        def paths_in(folder: str) -> list[str]:
            try:
                return [f"{folder}/{name}" for name in os.listdir(folder)]  # noqa: PTH208 - quicker
            except (FileNotFoundError, NotADirectoryError):
                return []

        return find_missing(file_names, lambda name: f"{self._job}/{name}", paths_in)

    def find(self, position: int, identity: str) -> ImageFacts | None:
        # Files with other suffixes, such as captions, may have been put beside it.
        names = [file_stem(position, identity) + suffix for suffix in FILE_SUFFIXES]
        for name in names:
            if spooled := self._spool.find(name):
                self._bring_over(spooled, name)
        found = next((path for name in names if (path := self._images / name).is_file()), None)
        if found is None:
            return None
        with found.open("rb") as file:
            head = file.read(HEAD_SIZE)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        return facts_of_file(position, found.relative_to(self._job).as_posix(), size, digest, head)

    def _bring_over(self, spooled: Path, name: str) -> None:
        """Move a spooled image to its place."""
        target = self._images / name
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, [spooled.read_bytes()])
        sync_folder(target.parent)
        spooled.unlink()

    def owns(self, file_name: str) -> bool:
        return "://" not in file_name

    def size_of(self, file_name: str) -> int | None:
        try:
            status = (self._job / file_name).stat()
        except (OSError, ValueError):
            return None
        return status.st_size if S_ISREG(status.st_mode) else None

    def images(self) -> Iterator[tuple[int, str]]:
        yield from parse_stems(self._spool.names())
        yield from parse_stems(path.name for path in self._images.glob("*/*"))

    def retire(self, file_name: str) -> str:
        old = self._job / file_name
        new = self._job / "replaced" / Path(file_name).name
        if old.exists():
            new.parent.mkdir(exist_ok=True)
            old.replace(new)
        return new.relative_to(self._job).as_posix()

    def facts(self, stems: Iterable[str]) -> Iterator[RowFacts | None]:
        return (None for _ in stems)

    def all_facts(self, has: Callable[[int], bool]) -> Iterator[tuple[RowFacts, bool]]:
        return iter(())

    def last_run(self, shard: Shard) -> str | None:
        try:
            return (self._images / LAST_RUN).read_text("ascii")
        except (FileNotFoundError, NotADirectoryError, UnicodeError):
            return None

    def begin_run(self, shard: Shard) -> str:
        token = secrets.token_hex(16)
        write_atomically(self._images / LAST_RUN, [token.encode()])
        sync_folder(self._images)
        return token

    def complete(self, stem: str, row: Row, image: ImageFacts) -> None:
        """Do nothing: the ledger has the facts."""

    def free_space(self) -> int | None:
        folders = [self._job, self._images] if self._images.is_dir() else [self._job]
        return min(shutil.disk_usage(folder).free for folder in folders)


class _FolderWriter(BatchThread["_Image", None]):
    """Stores images durably, many at a time: one thread is enough to saturate a disk."""

    claims: Claims | None = None

    def __init__(self, job: Path, name: str, spool: Spool, token: str) -> None:
        super().__init__(self._keep, name="images")
        self.job = job
        self.name = name
        self.spool = spool
        self.token = token
        self.folders: set[str] = set()

    def sink(self, row: Row, image: ImageFacts) -> _Image:
        return _Image(self, row, image)

    def make_folder(self, folder: str) -> None:
        """Create a folder for images, durably."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        sync_folder(path.parent)
        sync_folder(self.job)
        self.folders.add(folder)

    def _keep(self, images: Sequence[_Image]) -> list[Exception | None]:
        """Store images, unless they were discarded.

        Each step is done for all of them before the next: a file system that changes between two
        syncs must commit its journal at the second one as well, which takes most of the time.
        """
        results: list[Exception | None] = [None] * len(images)
        for step in (_Image.finish_writing, _Image.sync, _Image.keep):
            for index, image in enumerate(images):
                if results[index] is None:
                    try:
                        step(image)
                    except Exception as error:  # noqa: BLE001 - passed on to its caller
                        results[index] = error
        for folder in {image.folder for image in images if image.is_kept}:
            sync_folder(folder)
        for index, result in enumerate(results):
            if isinstance(result, OSError):
                results[index] = images[index].divert(result)
        return results


class _Image:
    """An image that is being written; the facts in its bytes are gathered on the way.

    Attributes:
        folder: Where it belongs.
        is_kept: Whether it is there.
    """

    def __init__(self, writer: _FolderWriter, row: Row, image: ImageFacts) -> None:
        suffix = file_suffix(image.content_type, filtered=image.filtered)
        self._spool_name = file_stem(row.position, row.id) + suffix
        image.file_name = f"{writer.name}/{self._spool_name}"
        path = f"{writer.job}/{image.file_name}"
        self.folder = path.rpartition("/")[0]
        self.is_kept = False
        self._writer = writer
        self._image = image
        self._file = AtomicFile(path, owner=writer.token)
        self._failure: OSError | None = None
        self._digest = hashlib.sha256()
        self._head = b""
        self._last: Sequence[bytes] = ()
        self._discarded = False

    async def write(self, chunks: Sequence[bytes]) -> None:
        await in_thread(self._write, chunks)

    async def commit(self, last: Sequence[bytes]) -> None:
        self._last = last
        await self._writer.do(self)

    async def discard(self) -> None:
        # In the same thread, so as not to interfere with storing the image of a cancelled caller.
        self._discarded = True
        await self._writer.do(self)

    # The steps, which block.

    def finish_writing(self) -> None:
        """Write the last bytes."""
        if not self._discarded:
            self._write(self._last)
            self._last = ()
            self._file.begin_sync()

    def sync(self) -> None:
        """Sync it to the disk."""
        if not self._discarded:
            self._file.sync()

    def keep(self) -> None:
        """Rename it to its final name, or remove it if it was discarded."""
        if self._discarded:
            self._file.discard()
            return
        self._file.commit()
        if self._failure is not None:
            raise SpooledError(self._failure.errno, self._failure.strerror) from self._failure
        self.is_kept = True
        image = self._image
        image.sha256 = self._digest.hexdigest()
        image.width, image.height = dimensions(self._head)
        image.finished_at = time.time()

    def divert(self, error: OSError) -> OSError:
        """Spool an image that could not be stored, and return the error to raise."""
        if isinstance(error, SpooledError) or self._discarded:
            return error
        try:
            self._spool(self._last, error)
            self._file.commit()
        except OSError:
            return error
        return SpooledError(error.errno, error.strerror)

    def _write(self, chunks: Sequence[bytes]) -> None:
        try:
            if self._failure is None and self.folder not in self._writer.folders:
                self._writer.make_folder(self.folder)
            self._file.write(chunks)
        except OSError as error:
            self._spool(chunks, error)
        for chunk in chunks:
            self._digest.update(chunk)
            self._image.bytes += len(chunk)
            if len(self._head) < HEAD_SIZE:
                self._head += chunk[: HEAD_SIZE - len(self._head)]

    def _spool(self, chunks: Sequence[bytes], error: OSError) -> None:
        """Continue in the spool, or elsewhere in it, with what was written so far."""
        data = b"".join([self._file.written(self._image.bytes), *chunks])
        file = self._writer.spool.open(self._spool_name, data)
        self._file.discard()
        self._file, self._failure = file, self._failure or error
