"""Images in a bucket: Amazon S3 and what speaks its language, Google Cloud Storage, Azure.

Credentials and addresses come from the environment, by the names that each vendor's own tools use
(`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, ...).
"""

from __future__ import annotations

import errno
import hashlib
import re
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from stable_async.api.answers import sniff
from stable_async.extras import install_command
from stable_async.files import in_thread, write_atomically
from stable_async.jobs.errors import StorageError
from stable_async.jobs.storage.base import (
    FILTERED,
    HEAD_SIZE,
    SpooledError,
    StoredImage,
    describe,
    file_suffixes,
    parse_stems,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from obstore import Attributes
    from obstore.store import ObjectStore as Bucket

    from stable_async.files import Sink

__all__ = ["BucketStore"]

PROBE = ".stable-async-probe"
LONGEST_MESSAGE = 300


class BucketStore:
    """A store below a URL such as `s3://bucket/prefix`.

    An image that the bucket does not take is paid for all the same: it is spooled to a folder,
    and goes to the bucket when it is looked for.
    """

    names_in_job = ()

    def __init__(self, url: str, spool: Path) -> None:
        """Connect, and write and remove a small object: better now than after the first image.

        Args:
            url: Where images go.
            spool: The folder for those that the bucket does not take; made when there is one.

        Raises:
            StorageError: obstore is not installed, the URL is none, or the bucket is not writable.
        """
        try:
            import obstore
            from obstore.store import from_url
        except ImportError:
            raise StorageError(f"{url} needs obstore: {install_command('storage')}") from None
        self._url = url.rstrip("/")
        self._spool = spool
        self._obstore = obstore
        try:
            with _translated():
                self._bucket: Bucket = from_url(self._url)
                obstore.put(self._bucket, PROBE, b"", attributes=_attributes("image/png"))
                obstore.delete(self._bucket, PROBE)
        except (OSError, ValueError) as error:
            what = error.strerror if isinstance(error, OSError) else str(error)
            raise StorageError(f"{url}: {what}") from error

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[BucketStore]:
        yield self

    def sink(self, stem: str, content_type: str, *, filtered: bool) -> Sink[StoredImage]:
        (suffix,) = file_suffixes(content_type, filtered=filtered)
        return _ObjectSink(self, stem + suffix, content_type, filtered=filtered)

    async def put(self, path: str, data: bytes, content_type: str) -> str:
        """Keep an object, whole or not at all, and give its URL.

        Raises:
            OSError: It could not be kept.
        """
        with _translated():
            attributes = _attributes(content_type)
            await self._obstore.put_async(self._bucket, path, data, attributes=attributes)
        return f"{self._url}/{path}"

    def spool(self, path: str, data: bytes) -> None:
        """Keep an image on the disk until `find` asks for it.

        Raises:
            OSError: It could not be kept there either.
        """
        file = self._spool / path
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, [data])

    def find(self, stem: str) -> StoredImage | None:
        for suffix in file_suffixes():
            path = stem + suffix
            self._bring_over(path)
            if self._size(path) is None:
                continue
            with _translated():
                data = bytes(self._obstore.get(self._bucket, path).bytes())
            return describe(
                f"{self._url}/{path}",
                sniff(data),
                len(data),
                hashlib.sha256(data).hexdigest(),
                data[:HEAD_SIZE],
                filtered=suffix.startswith(FILTERED),
            )
        return None

    def _bring_over(self, path: str) -> None:
        """Put an image into the bucket that was spooled."""
        file = self._spool / path
        if not file.is_file():
            return
        data = file.read_bytes()
        with _translated():
            self._obstore.put(self._bucket, path, data, attributes=_attributes(sniff(data)))
        file.unlink()

    def owns(self, file_name: str) -> bool:
        return file_name.startswith(f"{self._url}/")

    def size_of(self, file_name: str) -> int | None:
        return self._size(file_name.removeprefix(f"{self._url}/"))

    def _size(self, path: str) -> int | None:
        try:
            with _translated():
                return self._obstore.head(self._bucket, path)["size"]
        except FileNotFoundError:
            return None

    def images(self) -> Iterator[tuple[int, str]]:
        yield from parse_stems(file.name for file in self._spool.glob("*/*"))
        with _translated():
            for some in self._obstore.list(self._bucket):
                yield from parse_stems(entry["path"] for entry in some)

    def retire(self, file_name: str) -> str:
        old = file_name.removeprefix(f"{self._url}/")
        new = f"replaced/{old.rpartition('/')[2]}"
        try:
            with _translated():
                self._obstore.rename(self._bucket, old, new)
        except FileNotFoundError:
            pass  # it was done before, and not recorded
        return f"{self._url}/{new}"

    def free_space(self) -> int | None:
        return None


class _ObjectSink:
    """Gathers an image in memory, for a single put."""

    def __init__(self, store: BucketStore, path: str, content_type: str, *, filtered: bool) -> None:
        self._store = store
        self._path = path
        self._content_type = content_type
        self._filtered = filtered
        self._chunks: list[bytes] = []

    async def write(self, chunks: Sequence[bytes]) -> None:
        self._chunks += chunks

    async def commit(self, last: Sequence[bytes]) -> StoredImage:
        data = b"".join([*self._chunks, *last])
        try:
            url = await self._store.put(self._path, data, self._content_type)
        except OSError as error:
            await in_thread(self._store.spool, self._path, data)
            raise SpooledError(error.errno, error.strerror) from error
        digest = await in_thread(hashlib.sha256, data)
        return describe(
            url,
            self._content_type,
            len(data),
            digest.hexdigest(),
            data[:HEAD_SIZE],
            filtered=self._filtered,
        )

    async def discard(self) -> None:
        self._chunks.clear()


def _attributes(content_type: str) -> Attributes:
    return {"Content-Type": content_type}


@contextmanager
def _translated() -> Iterator[None]:
    """Turn errors of obstore, which has a class of its own for each, into `OSError`."""
    from obstore.exceptions import BaseError, NotFoundError

    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        raise FileNotFoundError(errno.ENOENT, _short(error)) from error
    except (BaseError, NotImplementedError) as error:
        raise OSError(errno.EIO, _short(error)) from error


def _short(error: Exception) -> str:
    """Leave out the page of XML, and what is for those who debug obstore."""
    return re.split(r"\n|<\?xml", str(error).strip())[0].rstrip(": ")[:LONGEST_MESSAGE]
