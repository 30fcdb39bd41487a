"""Objects in a store behind a URL, created only if none of the same name exists.

Uses obstore: Amazon S3 and compatible stores, Google Cloud Storage, Azure, `file:///`. Credentials
and addresses come from the environment, under the names that each vendor's tools use
(`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_APPLICATION_CREDENTIALS`, ...).
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from stable_async.extras import install_command
from stable_async.files import in_thread
from stable_async.jobs.errors import ImagesURLError, StorageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from obstore import ObjectMeta, PutMode, PutResult
    from obstore.store import ObjectStore

__all__ = ["Objects", "Version", "folder_of"]

URL = re.compile(r"file:///.*|(?:s3a?|gs|az|azure|adl|abfss?|https?)://[^/\s]+(?:/.*)?")
PROBE = ".stable-async-probe-"
LONGEST_MESSAGE = 300
READERS = 32
# A store that is unreachable for longer ends the job; images that arrived by then are spooled.
RETRYING: Any = {"retry_config": {"max_retries": 10, "retry_timeout": timedelta(seconds=60)}}
BRIEFLY: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}
# A command that only looks has nothing to lose by giving up, seconds.
LONGEST_LOOK = 5.0
# A run that begins has sent nothing yet, and a slower store is of no use, seconds.
LONGEST_PROBE = 20.0
JSON = "application/json"

Version = dict[str, str]
"""What a conditional write compares: `e_tag`, `version`. Empty if the store has neither."""


class Objects:
    """The objects below a URL such as `s3://bucket/prefix`.

    Paths are relative to the URL. Methods with `_now` block; the others are for an event loop.

    Attributes:
        url: The URL without a trailing slash.
        conditional: Whether the store itself refuses to create an existing object. If not, each
            creation looks first, which leaves a race with another process.
    """

    def __init__(self, url: str, *, probe: bool = True) -> None:
        """Connect.

        Args:
            url: URL of the store; the folder of a `file:///` URL is created if missing.
            probe: Write, create again and remove a small object, within `LONGEST_PROBE`; otherwise
                only ask the store for an answer, which must come within `LONGEST_LOOK`.

        Raises:
            ImagesURLError: The URL is invalid.
            StorageError: obstore is not installed, nothing can be written, or the store does not
                answer.
        """
        self._root = folder_of(url)
        try:
            import obstore
            from obstore.store import from_url
        except ImportError:
            raise StorageError(f"{url} needs obstore: {install_command('storage')}") from None
        self.url: str = url.rstrip("/")
        self.conditional: bool = True
        self._obstore = obstore
        self._replaces_conditionally = self._root is None
        try:
            if self._root is not None and probe:
                self._root.mkdir(parents=True, exist_ok=True)
            with _translated():
                # A server without conditional writes may answer with an error of its own.
                brief = {"retry_config": BRIEFLY} if self._root is None else {}
                self._store: ObjectStore = from_url(self.url, **brief)
                if probe or self._root is None:
                    first = self._probe() if probe else self._reach()
                    # In a thread, because this one may have an event loop.
                    with ThreadPoolExecutor(1, thread_name_prefix="bucket") as pool:
                        pool.submit(asyncio.run, first).result()
                if self._root is None:
                    self._store = from_url(self.url, **RETRYING)
        except (OSError, ValueError) as error:
            what = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            raise StorageError(f"{url}: {what}") from error

    async def _reach(self) -> None:
        """Raise if the store does not answer; what it answers is left to later requests."""
        from obstore.exceptions import BaseError, GenericError

        try:
            async with _answered_within(LONGEST_LOOK):
                await self._obstore.head_async(self._store, PROBE + "none")
        except GenericError as error:
            raise OSError(errno.EIO, f"the store does not answer: {_short(error)}") from error
        except (BaseError, FileNotFoundError):
            pass

    async def _probe(self) -> None:
        """Find out whether objects can be stored and removed, and conditions are kept."""
        name = PROBE + secrets.token_hex(8)
        async with _answered_within(LONGEST_PROBE):
            try:
                await self._put(name, b"", JSON, "create")
            except _NotSupportedError:
                self.conditional = False
                await self._put(name, b"", JSON, "overwrite")
            try:
                if self.conditional:
                    with suppress(FileExistsError):
                        await self._put(name, b"1", JSON, "create")
                        self.conditional = False
            finally:
                with suppress(FileNotFoundError), _translated():
                    await self._obstore.delete_async(self._store, name)

    def name(self, path: str) -> str:
        """Return the URL of an object."""
        return f"{self.url}/{path}"

    def path(self, name: str) -> str | None:
        """Return the path of an object by its URL; `None` if it is not below this one."""
        path = name.removeprefix(f"{self.url}/")
        if path == name or {"", ".", ".."} & set(path.split("/")):
            return None
        return path

    # For an event loop.

    async def create(self, path: str, data: bytes, content_type: str = JSON) -> Version:
        """Store an object where there is none; storing the same object twice is not an error.

        A store may have accepted an object whose answer was lost: the second try is then refused.

        Raises:
            FileExistsError: There is a different one.
            OSError: It could not be stored.
        """
        if not self.conditional and await self._has(path):
            return await self._same(path, data)
        try:
            return await self._put(path, data, content_type, self._creation)
        except FileExistsError:
            return await self._same(path, data)

    async def replace(self, path: str, data: bytes, version: Version) -> Version:
        """Replace a JSON object that was read or written before.

        Raises:
            FileExistsError: Another process has changed it since.
            OSError: It could not be stored.
        """
        mode: Any = "overwrite"
        if version and self.conditional and self._replaces_conditionally:
            mode = version
        try:
            return await self._put(path, data, JSON, mode)
        except _NotSupportedError:
            self._replaces_conditionally = False
            return await self._put(path, data, JSON, "overwrite")
        except FileExistsError:
            return await self._same(path, data)

    async def read(self, path: str) -> tuple[bytes, Version]:
        """Return an object and its version.

        Raises:
            FileNotFoundError: There is none.
            OSError: It could not be read.
        """
        with _translated():
            found = await self._obstore.get_async(self._store, path)
            return bytes(await found.bytes_async()), _version(found.meta)

    async def size(self, path: str) -> int | None:
        """Return the length of an object; `None` if there is none."""
        try:
            with _translated():
                return (await self._obstore.head_async(self._store, path))["size"]
        except FileNotFoundError:
            return None

    async def _has(self, path: str) -> bool:
        return await self.size(path) is not None

    async def _same(self, path: str, data: bytes) -> Version:
        there, version = await self.read(path)
        if there != data:
            raise FileExistsError(errno.EEXIST, f"{self.name(path)} already exists")
        return version

    async def _put(self, path: str, data: bytes, content_type: str, mode: PutMode) -> Version:
        options = self._options(content_type, mode)
        with _translated():
            result = await self._obstore.put_async(self._store, path, data, **options)
        if self._root is not None:
            await in_thread(self._sync, path)
        return _version(result)

    # Blocking.

    def create_now(self, path: str, data: bytes, content_type: str = JSON) -> None:
        """Do what `create` does."""
        if not self.conditional and self.size_now(path) is not None:
            self._check_same(path, data)
            return
        try:
            self._put_now(path, data, content_type, self._creation)
        except FileExistsError:
            self._check_same(path, data)

    def write_now(self, path: str, data: bytes) -> None:
        """Store a JSON object, replacing any."""
        self._put_now(path, data, JSON, "overwrite")

    def read_now(self, path: str) -> bytes | None:
        """Return an object; `None` if there is none."""
        try:
            with _translated():
                return bytes(self._obstore.get(self._store, path).bytes())
        except FileNotFoundError:
            return None

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Return many objects in order, reading several at a time."""
        with ThreadPoolExecutor(READERS, thread_name_prefix="bucket") as pool:
            paths = list(paths)
            yield from zip(paths, pool.map(self.read_now, paths), strict=True)

    def size_now(self, path: str) -> int | None:
        """Do what `size` does."""
        try:
            with _translated():
                return self._obstore.head(self._store, path)["size"]
        except FileNotFoundError:
            return None

    def entries(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """Return path and length of every object, or of those in a folder."""
        with _translated():
            for some in self._obstore.list(self._store, folder or None):
                yield from ((entry["path"], entry["size"]) for entry in some)

    def move(self, old: str, new: str, content_type: str) -> str:
        """Move an object, if it exists, to a free name, and return that name.

        Raises:
            OSError: It could not be moved.
        """
        data = self.read_now(old)
        if data is None:
            return new
        stem, dot, suffix = new.rpartition(".")
        number = 1
        while True:
            name = new if number == 1 else f"{stem}~{number}{dot}{suffix}"
            try:
                self.create_now(name, data, content_type)
                break
            except FileExistsError:
                number += 1
        self.delete(old)
        return name

    def delete(self, path: str) -> None:
        """Remove an object, if it exists."""
        with suppress(FileNotFoundError), _translated():
            self._obstore.delete(self._store, path)

    def _check_same(self, path: str, data: bytes) -> None:
        if self.read_now(path) != data:
            raise FileExistsError(errno.EEXIST, f"{self.name(path)} already exists")

    def _put_now(self, path: str, data: bytes, content_type: str, mode: PutMode) -> PutResult:
        with _translated():
            options = self._options(content_type, mode)
            result = self._obstore.put(self._store, path, data, **options)
        if self._root is not None:
            self._sync(path)
        return result

    @property
    def _creation(self) -> PutMode:
        return "create" if self.conditional else "overwrite"

    def _options(self, content_type: str, mode: PutMode) -> dict[str, Any]:
        if self._root is not None:
            return {"mode": mode}
        # In one part, because a condition applies to a single request.
        return {
            "mode": mode,
            "attributes": {"Content-Type": content_type},
            "use_multipart": False,
        }

    def _sync(self, path: str) -> None:
        """Sync a file and its folder to the disk."""
        if self._root is None:
            return
        file = self._root / path
        for place in (file, *file.relative_to(self._root).parents):
            descriptor = os.open(self._root / place, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@asynccontextmanager
async def _answered_within(seconds: float) -> AsyncIterator[None]:
    """Raise `OSError` if a store does not answer within some seconds.

    Not by obstore's own limits: to set them would discard those of the environment.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        what = f"the store does not answer within {seconds:g} s"
        raise OSError(errno.ETIMEDOUT, what) from error


class _NotSupportedError(OSError):
    pass


def _check(url: str) -> None:
    if not URL.fullmatch(url):
        raise ImagesURLError(
            f"images is {url!r}; allowed: s3://bucket/prefix, gs://bucket/prefix, "
            "az://account/container or file:///folder"
        )


def folder_of(url: str) -> Path | None:
    """Return the folder of a `file:///` URL; `None` for others.

    Raises:
        ImagesURLError: The URL is invalid.
    """
    _check(url)
    parts = urlsplit(url)
    if parts.scheme != "file":
        return None
    return Path(unquote(parts.path))


def _version(facts: ObjectMeta | PutResult) -> Version:
    found = {"e_tag": facts.get("e_tag"), "version": facts.get("version")}
    return {name: value for name, value in found.items() if value is not None}


@contextmanager
def _translated() -> Iterator[None]:
    """Turn errors of obstore, which has many classes for them, into `OSError`."""
    from obstore.exceptions import (
        AlreadyExistsError,
        BaseError,
        NotFoundError,
        NotSupportedError,
        PreconditionError,
    )

    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        raise FileNotFoundError(errno.ENOENT, _short(error)) from error
    except (AlreadyExistsError, PreconditionError) as error:
        raise FileExistsError(errno.EEXIST, _short(error)) from error
    except (NotSupportedError, NotImplementedError) as error:
        raise _NotSupportedError(errno.ENOTSUP, _short(error)) from error
    except BaseError as error:
        text = str(error)
        if "501 Not Implemented" in text or "NotImplemented</Code>" in text:
            raise _NotSupportedError(errno.ENOTSUP, _short(error)) from error
        raise OSError(errno.EIO, _short(error)) from error


def _short(error: Exception) -> str:
    """Leave out the XML page, and details for debugging obstore."""
    return re.split(r"\n|<\?xml", str(error).strip())[0].rstrip(": ")[:LONGEST_MESSAGE]
