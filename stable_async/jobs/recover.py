"""What a crash left half done, brought in order; and a lost journal, made anew. Calls block."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stable_async.jobs.errors import JobError, JournalError
from stable_async.jobs.journal import FACTS, ImageFacts, Journal
from stable_async.jobs.services import SERVICES
from stable_async.jobs.store import content_type_of, file_stem, parse_stem
from stable_async.media import CONTENT_FILTERED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stable_async.jobs.store import Store, StoredImage

__all__ = ["METADATA_NAME", "Repair", "open_journal", "repair", "retire_replaced"]

JOURNAL_NAME = "job.sqlite"
METADATA_NAME = "metadata.jsonl"
SUCCESS = "SUCCESS"
SQLITE_FILES = ("", "-wal", "-shm")


def open_journal(folder: Path, store: Store) -> tuple[Journal, str | None]:
    """Open the journal of the job in `folder`, and tell if it had to be made anew.

    Raises:
        JobError: The folder has other things in it.
        JournalError: The journal is of a newer version, or cannot be written.
    """
    path = folder / JOURNAL_NAME
    known = path.exists()
    if not known:
        others = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
        if others and not {METADATA_NAME, *store.names_in_job} <= others:
            raise JobError(
                f"{folder} is no job: it has other files and no {JOURNAL_NAME}; "
                "choose a new folder, or an empty one"
            )
        if not others:
            return Journal.open(path), None
    try:
        if known:
            return Journal.open(path), None
        what = f"{JOURNAL_NAME} was missing"
    except sqlite3.OperationalError as error:
        raise JournalError(f"{path}: {error}") from None
    except sqlite3.DatabaseError as error:
        what = f"{JOURNAL_NAME} was corrupt ({error}) and is kept as {_set_aside(path)}"
    journal = Journal.open(path)
    try:
        with journal.transaction():
            count = _rebuild(journal, folder, store)
    except BaseException:
        journal.close()
        path.unlink()  # else the next run would take it for the whole truth
        raise
    return journal, f"{what}; rebuilt from {METADATA_NAME} and files: {count:,} pictures"


def _set_aside(path: Path) -> str:
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    for suffix in SQLITE_FILES:
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.replace(aside.with_name(aside.name + suffix))
    return aside.name


def _rebuild(journal: Journal, folder: Path, store: Store) -> int:
    """Lay down every picture that there is; what its row was, the prompt file will tell."""
    count = 0
    for line in _lines(folder / METADATA_NAME):
        name = str(line.get("file_name"))
        if not store.owns(name):
            raise JobError(f"{folder}: pictures of this job are elsewhere, such as {name}")
        place = parse_stem(name)
        size = None if place is None else store.size_of(name)
        if place is None or size is None:
            continue
        service = str(line.get("service"))
        fields = SERVICES[service].model_fields if service in SERVICES else {}
        parameters = {key: line[key] for key in line if key in fields and key not in FACTS}
        if line.get("text") is not None:
            parameters["prompt"] = line["text"]
        own = {key: line[key] for key in line if key not in fields and key not in FACTS}
        image = ImageFacts(
            position=place[0],
            content_type=content_type_of(name),
            bytes=size,
            sent_at=None,
            finished_at=None,
            file_name=name,
            sha256=str(line.get("sha256")),
            width=line.get("width"),
            height=line.get("height"),
            seed=line.get("seed"),
            finish_reason=line.get("finish_reason"),
            request_id=line.get("request_id"),
            credits=line.get("credits"),
        )
        count += journal.restore(str(line.get("id")), service, parameters, own, image)
    for position, identity in store.pictures():
        if not journal.has_image(position):
            stored = store.find(file_stem(position, identity))
            if stored is not None:
                image = _facts(stored, position=position, seed=None, price=None)
                count += journal.restore(identity, "", {}, {}, image)
    return count


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if isinstance(content, dict):
                yield content


@dataclass(frozen=True, slots=True)
class Repair:
    """What a run found half done.

    Attributes:
        adopted: Pictures that were on the disk and not in the journal yet.
        maybe_billed: Prompts that were in flight, which may have been billed and are sent again.
    """

    adopted: int
    maybe_billed: int


def repair(journal: Journal, store: Store) -> Repair:
    """Settle what was in flight when the last run ended. Inside a transaction."""
    adopted = maybe_billed = 0
    for prompt in journal.prompts("in flight", gone=True):
        stored = store.find(file_stem(prompt.position, prompt.id))
        if stored is not None:
            image = _facts(stored, position=prompt.position, seed=prompt.seed, price=prompt.price)
            journal.finish(prompt, image, filtered=stored.filtered)
            adopted += 1
        else:
            doubtful = prompt.generation_id is None
            journal.put_back(prompt.position, maybe_billed=doubtful)
            maybe_billed += doubtful
    journal.take_fresh()  # metadata.jsonl is brought up to date as a whole, later
    return Repair(adopted, maybe_billed)


def retire_replaced(journal: Journal, store: Store) -> None:
    """Put the pictures of prompts that were replaced out of the way. Inside a transaction."""
    for position, file_name in journal.replaced_images():
        journal.rename_image(position, store.retire(file_name))


def _facts(
    stored: StoredImage, *, position: int, seed: int | None, price: float | None
) -> ImageFacts:
    return ImageFacts(
        position=position,
        file_name=stored.file_name,
        content_type=stored.content_type,
        bytes=stored.bytes,
        sha256=stored.sha256,
        width=stored.width,
        height=stored.height,
        seed=seed,
        finish_reason=CONTENT_FILTERED if stored.filtered else SUCCESS,
        request_id=None,
        credits=price,
        sent_at=None,
        finished_at=None,
    )
