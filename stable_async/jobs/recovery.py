"""Repair after a crash, and recovery of a lost ledger. Calls block."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from stable_async.api.services import SERVICES
from stable_async.jobs.clean_mark import leave_clean_mark, remove_clean_mark
from stable_async.jobs.errors import JobError, LedgerError, storage_errors
from stable_async.jobs.failure_file import FAILURES_NAME, is_as_written, read_failures
from stable_async.jobs.formats.embedded import INPUTS
from stable_async.jobs.job_options import JobOptions
from stable_async.jobs.ledger import Ledger
from stable_async.jobs.lock import LOCK_NAME
from stable_async.jobs.metadata import Mark, find_mark
from stable_async.jobs.row import FACTS, ImageFacts, Result
from stable_async.jobs.shard import WHOLE
from stable_async.jobs.storage.base import content_type_of, file_stem, parse_stem
from stable_async.jobs.storage.objects import Objects, folder_of
from stable_async.jobs.storage.record import read_record
from stable_async.jobs.storage.spool import SPOOLED
from stable_async.wording import count

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stable_async.jobs.row import ChargeState, Row
    from stable_async.jobs.shard import Shard
    from stable_async.jobs.storage.base import Store
    from stable_async.jobs.storage.facts import RowFacts

__all__ = [
    "METADATA_NAME",
    "RUN",
    "Repair",
    "Restored",
    "close_ledger",
    "is_outdated",
    "open_ledger",
    "read_options",
    "read_options_of_bucket",
    "remove_unused",
    "repair",
    "restore",
    "retire_replaced",
]

LEDGER_NAME = "job.sqlite"
METADATA_NAME = "metadata.jsonl"
# The key in the ledger for the token of its last run.
RUN = "run"
SQLITE_FILES = ("", "-wal", "-shm")
CORRUPT = ".corrupt-"


def open_ledger(folder: Path, store: Store, shard: Shard = WHOLE) -> tuple[Ledger, str | None]:
    """Open the ledger of the job in `folder` for a run, and return whether it had to be rebuilt.

    If the images are in a bucket, losing the folder loses nothing: their facts are in the bucket as
    well. Until `close_ledger` the ledger counts as not closed.

    Raises:
        JobError: The folder contains other things.
        LedgerError: The ledger was written by a newer version, or cannot be written.
    """
    ledger, rebuilt = _open_ledger(folder, store, shard)
    try:
        remove_clean_mark(folder / LEDGER_NAME)
    except OSError:
        ledger.close()
        raise
    return ledger, rebuilt


def close_ledger(ledger: Ledger, folder: Path) -> None:
    """Close the ledger of a run in which nothing went wrong with it."""
    ledger.close()
    with suppress(OSError):  # then the next run checks the whole file
        leave_clean_mark(folder / LEDGER_NAME)


def _open_ledger(folder: Path, store: Store, shard: Shard = WHOLE) -> tuple[Ledger, str | None]:
    path = folder / LEDGER_NAME
    if path.exists() and not path.stat().st_size:
        _remove(path)  # a full disk or a power cut can leave it empty
    what = f"{LEDGER_NAME} was missing"
    if path.exists():
        try:
            return Ledger.open(path), None
        except sqlite3.OperationalError as error:
            raise LedgerError(f"{path}: {error}") from None
        except sqlite3.DatabaseError as error:
            what = f"{LEDGER_NAME} was corrupt ({error}) and is kept as {_keep_corrupt(path)}"
    ours = {SPOOLED, *(LEDGER_NAME + suffix for suffix in SQLITE_FILES)}
    others = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")} - ours
    if (
        others
        and not {METADATA_NAME, *store.names_in_job} <= others
        and not any(map(_is_corrupt_copy, others))
        and (store.keeps_facts or store.last_run(shard) is None)
    ):
        raise JobError(
            f"{folder} is not a job: it has other files and no {LEDGER_NAME}; "
            "choose a new folder, or an empty one"
        )
    # Under another name until it is complete: the next run would take a partial one for complete.
    unfinished = folder / f".{LEDGER_NAME}.rebuilt"
    _remove(unfinished)
    ledger = Ledger.open(unfinished)
    try:
        with ledger.transaction():
            restored = restore(ledger, folder, store, shard)
    finally:
        ledger.close()
    _remove(path)  # files that a lost ledger left beside it do not belong to the new one
    unfinished.replace(path)
    if not others and not restored:
        return Ledger.open(path), None
    if store.keeps_facts:
        return Ledger.open(path), f"{what}; rebuilt from the bucket: {restored}"
    return Ledger.open(path), (
        f"{what}; rebuilt from {METADATA_NAME}, {FAILURES_NAME} and files: {restored}. What else "
        "a killed run left in doubt is not known any more"
    )


def remove_unused(folder: Path, store: str, *, itself: bool) -> None:
    """Remove what a run wrote into an empty folder before it was refused.

    Args:
        folder: The folder of the job, locked.
        store: Name of the folder of images.
        itself: Remove the folder as well.
    """
    ours = {LOCK_NAME, store, INPUTS, *(LEDGER_NAME + suffix for suffix in SQLITE_FILES)}
    with suppress(OSError):
        if {entry.name for entry in folder.iterdir()} <= ours:
            rmtree(folder / INPUTS, ignore_errors=True)
            rmtree(folder / store, ignore_errors=True)
            _remove(folder / LEDGER_NAME)
            (folder / LOCK_NAME).unlink()
            if itself:
                folder.rmdir()


def read_options(folder: Path) -> tuple[JobOptions, str | None] | None:
    """Return the options of the job in a folder, and the URL of its images if it has one.

    `None` if there is no job, or its options are not known.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    path = folder / LEDGER_NAME
    if not path.is_file() or not path.stat().st_size:
        return None
    try:
        with closing(Ledger.open(path)) as ledger:
            options = JobOptions.load(ledger)
            return None if options is None else (options, str(ledger.get("images") or "") or None)
    except sqlite3.OperationalError as error:
        raise LedgerError(f"{path}: {error}") from None
    except sqlite3.DatabaseError as error:
        raise LedgerError(f"{path}: {error}; name PROMPTS, and the run repairs it") from None


def read_options_of_bucket(url: str) -> tuple[JobOptions, int] | None:
    """Return the options of the job whose images are at a URL, and the number of its parts.

    `None` if there is none.

    Raises:
        StorageError: The bucket cannot be read.
    """
    folder = folder_of(url)
    if folder is not None and not folder.exists():
        return None  # a run makes it
    with storage_errors(url):
        record = read_record(Objects(url, probe=False))
    return (JobOptions.parse(record.options), record.shards) if record and record.options else None


def _remove(path: Path) -> None:
    for suffix in SQLITE_FILES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _keep_corrupt(path: Path) -> str:
    number = 1
    while (copy := path.with_name(f"{path.name}{CORRUPT}{number}")).exists():
        number += 1
    for suffix in SQLITE_FILES:
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.replace(copy.with_name(copy.name + suffix))
    return copy.name


def _is_corrupt_copy(name: str) -> bool:
    return name.startswith(f"{LEDGER_NAME}{CORRUPT}")


def is_outdated(ledger: Ledger, folder: Path, store: Store, shard: Shard = WHOLE) -> bool:
    """Return whether the ledger is an older copy, for example from a backup.

    Each line of `metadata.jsonl` is written after its image is in the ledger. If the file matches
    the ledger's mark, only what follows the mark is checked. The last run has left its token beside
    the images.
    """
    if store.last_run(shard) != ledger.get(RUN):
        return True
    path = folder / METADATA_NAME
    mark = find_mark(path, ledger) or Mark()
    if not is_as_written(folder, ledger) and any(
        shard.has(facts.position) and _is_news(ledger, facts) for facts in _failures(folder, store)
    ):
        return True
    return any(
        place is not None and not ledger.has_image(place[0])
        for line in _lines(path, after=mark.size)
        for place in [parse_stem(str(line.get("file_name")))]
    )


@dataclass(slots=True)
class Restored:
    """What was found that the ledger did not know.

    Attributes:
        images: Images.
        in_doubt: Rows that may have been billed, and have no image.
        others: Rows that were refused, or whose generation can be fetched.
    """

    images: int = 0
    in_doubt: int = 0
    others: int = 0

    def __bool__(self) -> bool:
        """Return whether anything was found."""
        return bool(self.images or self.in_doubt or self.others)

    def __str__(self) -> str:
        """Return the counts in words."""
        doubts = f", {count(self.in_doubt, 'row')} in doubt" if self.in_doubt else ""
        return count(self.images, "image") + doubts


def restore(ledger: Ledger, folder: Path, store: Store, shard: Shard = WHOLE) -> Restored:
    """Add to the ledger what only the store and `metadata.jsonl` have. Call it inside a
    transaction.

    For rows that are known only by their images, the prompt file will supply the rest.

    Raises:
        JobError: The images of this job are elsewhere.
        StorageError: The store cannot be read.
    """
    restored = Restored()
    for facts, replaced in store.all_facts(shard.has):
        if ledger.adopt(facts, replaced=replaced):
            restored.images += facts.image is not None
            restored.in_doubt += facts.state == "in doubt"
            restored.others += facts.image is None and facts.state != "in doubt"
    for line in _lines(folder / METADATA_NAME):
        name = str(line.get("file_name"))
        if not store.owns(name):
            raise JobError(f"{folder}: images of this job are elsewhere, such as {name}")
        place = parse_stem(name)
        if place is None or ledger.has_image(place[0]):
            continue
        size = store.size_of(name)
        if size is not None:
            restored.images += _restore_line(ledger, line, place[0], size)
    for facts in _failures(folder, store):
        if shard.has(facts.position) and _is_news(ledger, facts) and ledger.adopt(facts):
            restored.in_doubt += facts.state == "in doubt"
            restored.others += facts.state != "in doubt"
    for position, identity in store.images():
        if shard.has(position) and not ledger.has_image(position):
            image = store.find(position, identity)
            if image is not None:
                restored.images += ledger.restore(identity, "", {}, {}, image)
    return restored


def _failures(folder: Path, store: Store) -> Iterator[RowFacts]:
    """Yield what the last run knew about rows without an image, unless the store knows it."""
    if not store.keeps_facts:
        yield from read_failures(folder)


def _is_news(ledger: Ledger, facts: RowFacts) -> bool:
    """Return whether facts include an attempt that the ledger does not know."""
    return facts.charges[-1].attempt > ledger.attempts(facts.position)


def _restore_line(ledger: Ledger, line: dict[str, Any], position: int, size: int) -> bool:
    service = str(line.get("service"))
    fields = SERVICES[service].model.model_fields if service in SERVICES else {}
    parameters = {key: line[key] for key in line if key in fields and key not in FACTS}
    if line.get("text") is not None and "text_prompts" not in parameters:
        parameters["prompt"] = line["text"]
    own = {key: line[key] for key in line if key not in fields and key not in FACTS}
    image = ImageFacts(
        position=position,
        content_type=content_type_of(str(line.get("file_name"))),
        bytes=size,
        file_name=str(line.get("file_name")),
        sha256=str(line.get("sha256")),
        width=line.get("width"),
        height=line.get("height"),
        seed=line.get("seed"),
        finish_reason=line.get("finish_reason"),
        request_id=line.get("request_id"),
        credits=line.get("credits"),
    )
    return ledger.restore(str(line.get("id")), service, parameters, own, image)


def _lines(path: Path, after: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the readable lines after an offset in the file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(after)
        for line in file:
            try:
                content = json.loads(line)
            except ValueError:  # half a line, or not UTF-8
                continue
            if isinstance(content, dict):
                yield content


@dataclass(frozen=True, slots=True)
class Repair:
    """What a run found unfinished.

    Attributes:
        adopted: Images that were on the disk but not yet in the ledger.
        in_doubt: Rows that were in flight, and may have been billed.
    """

    adopted: int
    in_doubt: int


def repair(ledger: Ledger, store: Store) -> Repair:
    """Settle what was in flight when the last run ended. Call it inside a transaction."""
    adopted = in_doubt = 0
    rows = ledger.rows("in flight", gone=True)
    stems = [file_stem(row.position, row.id) for row in rows]
    for row, stem, facts in zip(rows, stems, store.facts(stems), strict=True):
        if facts is not None and facts.image is not None:
            ledger.adopt(facts)
            adopted += 1
        elif (image := store.find(row.position, row.id)) is not None:
            image.seed, image.credits = row.seed, row.price
            ledger.settle(row, Result("filtered" if image.filtered else "done", "spent", image))
            store.complete(stem, row, image)
            adopted += 1
        elif row.generation_id is not None:
            ledger.settle(row, Result("waiting", "spent"))
        elif facts is not None and _answers(facts, row):
            ledger.adopt(facts)
        else:
            charge: ChargeState = "in doubt"
            error = "the last run ended while the request was on its way"
            if facts is not None and facts.state == "in doubt":
                error, charge = facts.error or error, facts.charges[-1].state
            result = Result("in doubt", charge, reason="in flight at the end", error=error)
            ledger.settle(row, result)
            in_doubt += 1
    return Repair(adopted, in_doubt)


def _answers(facts: RowFacts, row: Row) -> bool:
    """Return whether facts record the refusal of the last attempt of a row."""
    last = facts.charges[-1] if facts.charges else None
    return last is not None and last.attempt == row.attempts and facts.state != "in doubt"


def retire_replaced(ledger: Ledger, store: Store) -> None:
    """Move the images of replaced rows out of the way. Call it inside a transaction."""
    for position, file_name in ledger.replaced_images():
        ledger.rename_image(position, store.retire(file_name))
