"""Images in a bucket, with the facts of their rows: the bucket alone is enough to continue from."""

from __future__ import annotations

import hashlib
import re
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from stable_async.api.media_types import sniff
from stable_async.files import in_thread, write_atomically
from stable_async.jobs.errors import StorageError
from stable_async.jobs.storage.base import (
    FILE_SUFFIXES,
    FILTERED,
    HEAD_SIZE,
    SpooledError,
    content_type_of,
    dimensions,
    facts_of_file,
    file_stem,
    file_suffix,
    find_missing,
    parse_stems,
)
from stable_async.jobs.storage.claims import Claims
from stable_async.jobs.storage.facts import FACTS_SUFFIX, RowFacts, read_facts
from stable_async.jobs.storage.record import begin_run, last_run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from stable_async.files import Sink
    from stable_async.jobs.row import ImageFacts, Row
    from stable_async.jobs.shard import Shard
    from stable_async.jobs.storage.objects import Objects

__all__ = ["BucketStore"]

REPLACED = "replaced/"
FACTS_NAME = re.compile(r"(?:^|/)(\d{6,})-[^/]+\.json$")


class BucketStore:
    """A store below a URL such as `s3://bucket/prefix`.

    An image that the bucket does not accept has been paid for, so it is spooled to a folder and
    moved to the bucket when the next run begins.

    Attributes:
        objects: The objects of the bucket.
    """

    names_in_job: tuple[str, ...] = ()
    keeps_facts = True

    def __init__(self, objects: Objects, spool: Path | None = None) -> None:
        """Use a bucket.

        Args:
            objects: Checked to be writable, unless they are only read.
            spool: The folder for images that the bucket does not accept; created when needed.
        """
        self.objects = objects
        self._spool = spool

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[_BucketWriter]:
        writer = _BucketWriter(self)
        try:
            yield writer
        finally:
            await writer.claims.aclose()

    def find(self, position: int, identity: str) -> ImageFacts | None:
        for suffix in FILE_SUFFIXES:
            path = file_stem(position, identity) + suffix
            data = self.objects.read_now(path)
            if data is not None:
                digest = hashlib.sha256(data).hexdigest()
                name = self.objects.name(path)
                return facts_of_file(position, name, len(data), digest, data[:HEAD_SIZE])
        return None

    def facts(self, stems: Iterable[str]) -> Iterator[RowFacts | None]:
        paths = [stem + FACTS_SUFFIX for stem in stems]
        for path, data in self.objects.read_many(paths):
            yield None if data is None else self._resolved(read_facts(data, path), self._has)

    def all_facts(self, has: Callable[[int], bool]) -> Iterator[tuple[RowFacts, bool]]:
        sizes = dict(self.objects.entries())
        names = sorted(
            path
            for path in sizes
            if (match := FACTS_NAME.search(path)) is not None and has(int(match[1]))
        )

        def is_there(path: str, size: int) -> bool:
            return sizes.get(path) == size

        for path, data in self.objects.read_many(names):
            if data is not None:
                facts = read_facts(data, self.objects.name(path))
                yield self._resolved(facts, is_there), path.startswith(REPLACED)

    def _resolved(self, facts: RowFacts, has: Callable[[str, int], bool]) -> RowFacts:
        image = facts.image
        path = None if image is None else self.objects.path(image.file_name)
        has_image = image is not None and path is not None and has(path, image.bytes)
        return facts.resolved(has_image=has_image)

    def _has(self, path: str, size: int) -> bool:
        return self.objects.size_now(path) == size

    def owns(self, file_name: str) -> bool:
        return self.objects.path(file_name) is not None

    def size_of(self, file_name: str) -> int | None:
        path = self.objects.path(file_name)
        return None if path is None else self.objects.size_now(path)

    def images(self) -> Iterator[tuple[int, str]]:
        names = (path for path, _ in self.objects.entries() if not path.startswith(REPLACED))
        yield from parse_stems(names)

    def retire(self, file_name: str) -> str:
        path = self.objects.path(file_name)
        if path is None or path.startswith(REPLACED):
            return file_name
        name = path.rpartition("/")[2]
        moved = self.objects.move(path, REPLACED + name, content_type_of(name))
        self._retire_facts(path, moved)
        return self.objects.name(moved)

    def _retire_facts(self, path: str, moved: str) -> None:
        """Move the facts of an image that was moved, unless they already belong to its
        successor.
        """
        old = _stem(path) + FACTS_SUFFIX
        data = self.objects.read_now(old)
        if data is None:
            return
        facts = read_facts(data, self.objects.name(old))
        if facts.image is None or facts.image.file_name != self.objects.name(path):
            return
        facts = facts.moved(self.objects.name(moved))
        self.objects.write_now(_stem(moved) + FACTS_SUFFIX, facts.to_json())
        self.objects.delete(old)

    def last_run(self, shard: Shard) -> str | None:
        return last_run(self.objects, shard)

    def begin_run(self, shard: Shard) -> str:
        return begin_run(self.objects, shard)

    def complete(self, stem: str, row: Row, image: ImageFacts) -> None:
        """Write the facts of an image that was found without them."""
        path = stem + FACTS_SUFFIX
        data = self.objects.read_now(path)
        facts = RowFacts.claim(row, "") if data is None else read_facts(data, path)
        self.objects.write_now(path, facts.made(image).to_json())

    def free_space(self) -> int | None:
        return None

    def spool(self, path: str, data: bytes) -> None:
        """Store an object on the disk until `upload_spooled`.

        Raises:
            OSError: It could not be stored there either.
        """
        if self._spool is None:
            raise OSError("there is no folder to spool to")
        file = self._spool / path
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, [data])

    def probe(self) -> None:
        pass  # `Objects` has done it

    def tidy(self) -> None:
        pass

    def missing(self, file_names: Iterable[str]) -> list[str]:
        def paths_in(folder: str) -> Iterator[str]:
            return (path for path, _ in self.objects.entries(folder))

        return find_missing(file_names, lambda name: self.objects.path(name) or "", paths_in)

    def upload_spooled(self) -> int:
        """Move what was spooled into the bucket, facts before images; count the images.

        Several processes may do so with one folder: what another one has moved is skipped.

        Raises:
            OSError: The bucket does not accept it.
        """
        if self._spool is None or not self._spool.is_dir():
            return 0
        files = [file for file in self._spool.glob("*/*") if not file.name.startswith(".")]
        count = 0
        for file in sorted(files, key=lambda file: (_stem(file.name), file.suffix != FACTS_SUFFIX)):
            path = file.relative_to(self._spool).as_posix()
            try:
                data = file.read_bytes()
            except FileNotFoundError:
                continue
            if file.suffix == FACTS_SUFFIX:
                self.objects.write_now(path, data)
            else:
                self.put_image(path, data)
                count += 1
            file.unlink(missing_ok=True)
        return count

    def put_image(self, path: str, data: bytes) -> None:
        """Store an image; another one with the same name is moved to `replaced/`.

        Raises:
            OSError: The bucket does not accept it, or what is there cannot be moved.
        """
        try:
            self.objects.create_now(path, data, sniff(data))
        except FileExistsError:
            self.objects.move(path, REPLACED + path.rpartition("/")[2], content_type_of(path))
            try:
                self.objects.create_now(path, data, sniff(data))
            except FileExistsError as error:
                what = f"{self.objects.name(path)} is in the way: move it away, and run again"
                raise FileExistsError(error.errno, what) from error


class _BucketWriter:
    """Writes images, and the claims and facts of their rows."""

    def __init__(self, store: BucketStore) -> None:
        self.claims = Claims(store.objects)
        self._store = store

    def sink(self, row: Row, image: ImageFacts) -> Sink[None]:
        return _ObjectSink(self._store, self.claims, row, image)


class _ObjectSink:
    """Collects an image in memory, for a single put."""

    def __init__(self, store: BucketStore, claims: Claims, row: Row, image: ImageFacts) -> None:
        self._store = store
        self._claims = claims
        self._row = row
        self._image = image
        self._stem = file_stem(row.position, row.id)
        self._chunks: list[bytes] = []

    async def write(self, chunks: Sequence[bytes]) -> None:
        self._chunks += chunks

    async def commit(self, last: Sequence[bytes]) -> None:
        data = b"".join([*self._chunks, *last])
        self._chunks, last = [], []  # or each image would be held twice while it is stored
        image = self._image
        path = self._stem + file_suffix(image.content_type, filtered=image.filtered)
        image.file_name = self._store.objects.name(path)
        image.bytes = len(data)
        image.sha256 = (await in_thread(hashlib.sha256, data)).hexdigest()
        image.width, image.height = dimensions(data[:HEAD_SIZE])
        image.finished_at = time.time()
        facts: RowFacts | None = None
        try:
            facts = await self._claims.made(self._stem, self._row, image)
            await self._claims.complete(self._stem, facts)
            await self._put(path, data)
        except (OSError, StorageError) as error:
            # A file there that does not hold facts is no reason to lose the image either.
            if facts is not None:
                await in_thread(self._store.spool, self._stem + FACTS_SUFFIX, facts.to_json())
            await in_thread(self._store.spool, path, data)
            what = error.strerror if isinstance(error, OSError) else str(error)
            raise SpooledError(getattr(error, "errno", None), what) from error

    async def _put(self, path: str, data: bytes) -> None:
        try:
            await self._store.objects.create(path, data, self._image.content_type)
        except FileExistsError:
            await in_thread(self._store.put_image, path, data)

    async def discard(self) -> None:
        self._chunks.clear()


def _stem(path: str) -> str:
    return path.rpartition(".")[0].removesuffix(FILTERED)
