"""A read-only job: one folder, the folders of all its parts, or only the bucket of its images."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from stable_async.jobs.errors import JobError, LedgerError, storage_errors
from stable_async.jobs.job_options import SANDBOX, JobOptions
from stable_async.jobs.kinds import AUDIO, IMAGE, MODEL
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.lock import is_locked
from stable_async.jobs.recovery import LEDGER_NAME
from stable_async.jobs.shard import WHOLE, Shard
from stable_async.jobs.storage.bucket import BucketStore
from stable_async.jobs.storage.objects import Objects
from stable_async.jobs.storage.record import read_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["JobView", "path_inside", "reading_job"]

MEDIA = frozenset(kind.folder for kind in (IMAGE, AUDIO, MODEL))


class JobView:
    """A read-only job.

    Attributes:
        ledger: All that is known of its rows in one ledger, wherever they were made.
        sources: The folders or URL that it was read from, as given.
        folders: The folders of its parts; none if only the bucket is read.
        name: Its name, for titles.
        is_partial: Whether the last run of a part read only some rows of the prompt file, so that
            it is not known which are still there.
    """

    def __init__(
        self,
        ledger: Ledger,
        sources: Sequence[str],
        folders: Sequence[tuple[Shard, Path]],
        stores: Sequence[Objects],
        *,
        is_partial: bool,
    ) -> None:
        """Show `ledger`, whose images are in `folders` and `stores` only."""
        self.ledger = ledger
        self.sources: tuple[str, ...] = tuple(sources)
        self.folders: tuple[Path, ...] = tuple(folder for _, folder in folders)
        self.name: str = self.folders[0].resolve().name if folders else _last_part(stores[0].url)
        self.is_partial: bool = is_partial
        self._parts = tuple(folders)
        self._stores = tuple(stores)

    @property
    def is_of_sandbox(self) -> bool:
        """Whether the job used a sandbox: its results are not the API's, and nothing was paid."""
        options = JobOptions.load(self.ledger)
        return options is not None and options.server == SANDBOX

    def path(self, position: int, name: str) -> Path | None:
        """Return the path of the file of a row; `None` if it is in a bucket.

        Args:
            position: Position of the row.
            name: Name of the file in the ledger, which is not trusted: it may come from anywhere.
        """
        for shard, folder in self._parts:
            if shard.has(position):
                return path_inside(folder, name)
        return None

    def fetch(self, position: int, name: str) -> bytes:
        """Return a file of the job. This blocks.

        Raises:
            FileNotFoundError: It does not exist, or its name is not one of this job.
            OSError: It cannot be read.
            StorageError: The bucket cannot be read at all.
        """
        path = self.path(position, name)
        if path is not None:
            return path.read_bytes()
        for store in self._stores:
            inside = store.path(name)
            if inside is not None:
                with storage_errors(name):
                    data = store.read_now(inside)
                if data is not None:
                    return data
        raise FileNotFoundError(name)


@contextmanager
def reading_job(sources: Sequence[str | Path]) -> Iterator[JobView]:
    """Open a job for reading, as it is at this moment.

    Args:
        sources: Folders of the job, and URLs of its images. A bucket alone knows only the rows that
            were claimed.

    Raises:
        JobError: A source is not a job, or they are not parts of one job.
        LedgerError: A ledger cannot be read.
        StorageError: A bucket cannot be read.
    """
    with ExitStack() as stack:
        stores: dict[str, Objects] = {}
        for source in sources:
            if "://" in str(source):
                store = Objects(str(source), probe=False)
                stores[store.url] = store
        folders = [Path(source) for source in sources if "://" not in str(source)]
        ledgers = [stack.enter_context(_reading(folder)) for folder in folders]
        given = list(stores.values())
        for ledger in ledgers:
            for store in _own_stores(ledger):
                stores.setdefault(store.url, store)
        shards = _shards(folders, ledgers)
        if len(ledgers) == 1 and not given:
            whole = ledgers[0]
            shards = [WHOLE]
        else:
            whole = Ledger.temporary()
            stack.callback(whole.close)
            _merge(whole, folders, ledgers, given)
        yield JobView(
            whole,
            [str(source) for source in sources],
            list(zip(shards, folders, strict=True)),
            list(stores.values()),
            is_partial=any(ledger.get("partial") for ledger in ledgers),
        )


def path_inside(folder: Path, name: str) -> Path | None:
    """Return the path of a file by its name; `None` for a URL, and for a file outside `folder`.

    The folder of images in it may be a link, as to a larger disk.
    """
    place = PurePosixPath(name)
    if "://" in name or "\0" in name or "\\" in name or place.is_absolute() or ".." in place.parts:
        return None
    path = folder / place
    roots = [folder, *(folder / part for part in place.parts[:-1][:1] if part in MEDIA)]
    real = path.resolve()
    return path if any(real.is_relative_to(root.resolve()) for root in roots) else None


@contextmanager
def _reading(folder: Path) -> Iterator[Ledger]:
    """Open the ledger of the job in `folder` for reading, as it is at this moment.

    What was in flight when the last run was killed is shown as the next run will find it: in doubt.

    Raises:
        JobError: The folder is not a job.
        LedgerError: The ledger cannot be read.
    """
    path = folder / LEDGER_NAME
    if not path.exists():
        raise JobError(f"{folder} is not a job: it has no {LEDGER_NAME}")
    try:
        with _opened(path) as ledger, ledger.snapshot():
            if not is_locked(folder):
                ledger.show_as_ended()
            yield ledger
    except sqlite3.OperationalError as error:
        raise LedgerError(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise LedgerError(f"{path}: {error}; the next run of the job repairs it") from error


@contextmanager
def _opened(path: Path) -> Iterator[Ledger]:
    """Open a ledger, or a copy of it if its folder is read-only, since SQLite must write to
    read.
    """
    with ExitStack() as stack:
        try:
            ledger = Ledger.open(path)
        except sqlite3.OperationalError:
            if os.access(path.parent, os.W_OK):
                raise
            folder = stack.enter_context(TemporaryDirectory(prefix="stable-async-"))
            copy = Path(folder, path.name)
            for suffix in ("", "-wal"):
                with suppress(FileNotFoundError):
                    shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
            ledger = Ledger.open(copy)
        stack.callback(ledger.close)
        yield ledger


def _own_stores(ledger: Ledger) -> Iterator[Objects]:
    """Return the stores that a ledger names for its images, if the record there agrees.

    A folder may come from anybody, so a URL in it is not trusted by itself.
    """
    url, job_id = ledger.get("images"), ledger.get("job_id")
    if url and job_id:
        store = Objects(str(url), probe=False)
        with storage_errors(store.url):
            record = read_record(store)
        if record is not None and record.id == job_id:
            yield store


def _shards(folders: Sequence[Path], ledgers: Sequence[Ledger]) -> list[Shard]:
    """Return the part of one job that each folder is.

    Raises:
        JobError: They are parts of several jobs.
    """
    shards = [Shard.parse(str(ledger.get("shard") or WHOLE)) for ledger in ledgers]
    if len(shards) > 1:
        for folder, shard in zip(folders, shards, strict=True):
            if shard.count != shards[0].count or shard.count == 1 or shards.count(shard) > 1:
                names = ", ".join(map(str, folders))
                raise JobError(f"{names} are not parts of one job: {folder} is part {shard}")
    ids = {ledger.get("job_id") for ledger in ledgers} - {None}
    if len(ids) > 1:
        raise JobError(f"{', '.join(map(str, folders))} are parts of several jobs")
    return shards


def _merge(
    whole: Ledger, folders: Sequence[Path], ledgers: Sequence[Ledger], stores: Sequence[Objects]
) -> None:
    with whole.transaction():
        for folder, ledger in zip(folders, ledgers, strict=True):
            try:
                whole.take_in(ledger)
            except sqlite3.IntegrityError as error:
                raise JobError(f"{folder} is not a part of the same job: {error}") from error
        for store in stores:
            _take_in_store(whole, store)
        if not folders:
            whole.list_all()


def _take_in_store(whole: Ledger, store: Objects) -> None:
    found = 0
    with storage_errors(store.url):
        for facts, replaced in BucketStore(store).all_facts(lambda position: position > 0):
            whole.adopt(facts, replaced=replaced)
            found += 1
        record = read_record(store)
    if not found and record is None:
        raise JobError(f"{store.url} has no images of a job with their facts")
    if record is not None and record.options and JobOptions.load(whole) is None:
        JobOptions.parse(record.options).store(whole)


def _last_part(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2] or url
